//! Canaries: values that must not turn up anywhere but where they belong. The system runs at TRACE,
//! and afterwards everything it wrote is searched: the logs of every process, every row of the
//! database, every file of JetStream.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, Method, header};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use webhooks_devstack::wait_until;
use webhooks_loadgen::{
    client::HttpClient,
    ledger::Ledger,
    publish::{self, Door, Plan, Subject},
    receiver::{Receiver, ReceiverOptions},
    sample::{EventSpec, EventTemplate},
    stack::{MadeWebhook, NewWebhook, Part, Stack, StackOptions, Workspace},
};

use crate::receiver_authentication::{Authority, serve};

const LIMIT: Duration = Duration::from_secs(30);

const HEADER: &str = "canary-header-7f3b9c1d5e";
const BEARER: &str = "canary-bearer-2a8e6d4c0b";
const CLIENT_SECRET: &str = "canary-client-secret-8e1a3c5d7f";
const ACCESS_TOKEN: &str = "canary-access-token-6b4d2f0a9c";
const QUERY: &str = "sentinel-query-9d1f7b5a3c";
const FORM: &str = "sentinel-form-answer-4c2e8a6f0d";
const BROKEN: &str = "sentinel-broken-body-1b3d5f7a9c";

/// Of the sample itself: what a visitor is known by.
const SAMPLES: [&str; 2] = ["Macintosh; Intel Mac OS X", "/zqVNfSC9M"];

/// What must not be found, and where.
struct Canary {
    what: &'static str,
    /// As it is, in base64, in hex: whatever form it might take.
    forms: Vec<Vec<u8>>,
    /// Payloads belong into the database and the streams.
    logs_only: bool,
}

impl Canary {
    fn new(what: &'static str, value: &[u8], logs_only: bool) -> Self {
        let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut forms = vec![
            value.to_vec(),
            STANDARD.encode(value).into_bytes(),
            hex.into_bytes(),
        ];
        // A key in PEM is one however its lines are put together; the last one may be public.
        let lines: Vec<&str> = std::str::from_utf8(value)
            .unwrap_or_default()
            .lines()
            .filter(|line| line.len() >= 32 && !line.starts_with("-----"))
            .collect();
        if value.starts_with(b"-----BEGIN ") {
            forms.extend(
                lines[..lines.len() - 1]
                    .iter()
                    .map(|line| line.as_bytes().to_vec()),
            );
        }
        Self {
            what,
            forms,
            logs_only,
        }
    }

    fn is_in(&self, bytes: &[u8]) -> bool {
        self.forms
            .iter()
            .any(|form| memchr::memmem::find(bytes, form).is_some())
    }
}

/// Every file below a folder.
fn files(folder: &Path, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        // Through links too: where a run is kept, its files lie elsewhere.
        if std::fs::metadata(entry.path()).is_ok_and(|found| found.is_dir()) {
            files(&entry.path(), found)?;
        } else {
            found.push(entry.path());
        }
    }
    Ok(())
}

/// Where something was found.
fn search(place: &str, bytes: &[u8], logs: bool, canaries: &[Canary], found: &mut Vec<String>) {
    for canary in canaries.iter().filter(|canary| logs || !canary.logs_only) {
        if canary.is_in(bytes) {
            let line = bytes
                .split(|byte| *byte == b'\n')
                .find(|line| canary.is_in(line))
                .unwrap_or_default();
            let line = String::from_utf8_lossy(&line[..line.len().min(400)]).into_owned();
            found.push(format!("{} in {place}: {line}", canary.what));
        }
    }
}

/// Every row of every table, as text; bytes are in hex there.
async fn dump(stack: &Stack) -> anyhow::Result<BTreeMap<String, String>> {
    let list =
        "SELECT c.relname FROM pg_class c WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
        AND c.relnamespace = 'public'::regnamespace ORDER BY 1";
    let mut tables = BTreeMap::new();
    for table in stack.sql(list).await?.lines() {
        let rows = stack
            .sql(&format!("SELECT t::text FROM \"{table}\" t"))
            .await?;
        tables.insert(table.to_owned(), rows);
    }
    Ok(tables)
}

/// What every service tells a collector.
async fn metrics(stack: &Stack) -> anyhow::Result<BTreeMap<Part, String>> {
    let mut all = BTreeMap::new();
    for part in stack.parts() {
        if !matches!(part, Part::Nats | Part::Postgres) {
            all.insert(part, stack.metrics(part).await?);
        }
    }
    Ok(all)
}

async fn post(stack: &Stack, workspace: &Workspace, body: String) -> anyhow::Result<u16> {
    let target = stack.door(Door::Http, workspace);
    let mut client = HttpClient::new(&target.url)?;
    let mut headers = HeaderMap::new();
    headers.insert(
        header::AUTHORIZATION,
        format!("Bearer {}", workspace.token).parse()?,
    );
    headers.insert(header::CONTENT_TYPE, "application/json".parse()?);
    let answer = client
        .send(Method::POST, "/v1/events", &headers, body.into())
        .await?;
    Ok(answer.status.as_u16())
}

/// One event by each door, with the sample's own values.
async fn publish_everywhere(stack: &Stack, workspace: &Workspace) -> anyhow::Result<()> {
    for door in Door::ALL {
        let file = stack.folder().join(format!("published-{}", door.as_str()));
        let ledger = Ledger::open(&file)?;
        let subject = Subject {
            workspace: workspace.id,
            links: vec![Uuid::new_v4()],
            kinds: vec!["KIND_EXIT".to_owned()],
        };
        let plan = Plan {
            count: Some(1),
            workers: 1,
            ..Plan::default()
        };
        let target = stack.door(door, workspace);
        publish::run(&target, &subject, &plan, &ledger, &CancellationToken::new()).await?;
    }
    Ok(())
}

fn with_form(workspace: &Workspace, now: i64) -> String {
    let spec = EventSpec {
        id: Uuid::new_v4(),
        workspace: workspace.id,
        link: Uuid::new_v4(),
        kind: "KIND_FORM".to_owned(),
        timestamp_micros: now,
    };
    let text = String::from_utf8_lossy(&EventTemplate::new().render(&spec)).into_owned();
    let form = format!("\"formAnswer\":\"{FORM}\",\"conversion_tracking\":");
    text.replacen("\"conversion_tracking\":", &form, 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_written_anywhere_and_no_payload_into_a_log() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let options = StackOptions::new(super::bin_dir(), folder.path())
        .setting("WEBHOOKS_LOG", "trace")
        .setting("WEBHOOKS_RETRY_BASE", "100ms")
        .setting("WEBHOOKS_RETRY_IMMEDIATE", "10ms");
    let stack = Stack::start(options).await?;
    let receiver = Receiver::start(ReceiverOptions::default()).await?;
    let workspace = stack.workspace("Canary").await?;
    let mut api = stack.api(&workspace)?;
    let body = |name: &str, path: &str| {
        let new = NewWebhook {
            name: name.to_owned(),
            endpoint_url: format!("{}?token={QUERY}", receiver.url(path)),
            triggers: Some(Vec::new()),
            ..NewWebhook::default()
        };
        let mut body = new.body();
        body["headers"] = json!([{ "name": "X-Api-Key", "value": HEADER }]);
        body["auth"] = json!({ "type": "bearer", "token": BEARER });
        body
    };
    let (mut keys, mut webhooks) = (Vec::new(), Vec::new());
    for (name, path) in [
        ("Well", "/ok/canary"),
        ("Failing", "/status/500/canary"),
        ("Resetting", "/reset"),
    ] {
        let asked = body(name, path);
        let answer = api.ask(Method::POST, "/v1/webhooks", Some(&asked)).await?;
        anyhow::ensure!(answer.status == 200, "{} {:?}", answer.status, answer.body);
        let answer: Value = serde_json::from_slice(&answer.body)?;
        let made = MadeWebhook::read(&answer)?;
        webhooks.push(made.id);
        keys.push(made.key);
    }
    // One more knows us by a token that is fetched and by a certificate, and verifies with a public key.
    let authority = Authority::new()?;
    let given = json!({ "access_token": ACCESS_TOKEN, "token_type": "Bearer", "expires_in": 3600 });
    let (tokens, asked) =
        serve(authority.server(false)?, move |_| (200, given.to_string())).await?;
    let (endpoint, heads) = serve(authority.server(true)?, |_| (200, String::new())).await?;
    let set = json!({ "certificates": authority.pem });
    api.call(Method::PUT, "/v1/certificate-authorities", Some(&set))
        .await?;
    let (certificate, client_key) = authority.leaf("client.example")?;
    let asks = json!({
        "name": "Careful",
        "endpointUrl": format!("https://{endpoint}/hook"),
        "triggers": [],
        "signatures": ["v1", "v1a"],
        "auth": {
            "type": "oauth2ClientCredentials", "tokenUrl": format!("https://{tokens}/token"),
            "clientId": "us", "clientSecret": CLIENT_SECRET,
        },
        "clientCertificate": {
            "certificate": certificate.pem(), "privateKey": client_key.serialize_pem(),
        },
    });
    let made = api.call(Method::POST, "/v1/webhooks", Some(&asks)).await?;
    let made = MadeWebhook::read(&made)?;
    webhooks.push(made.id);
    keys.push(made.key);
    publish_everywhere(&stack, &workspace).await?;
    let now = stack.sql("SELECT (extract(epoch FROM now()) * 1000000)::bigint");
    let form = with_form(&workspace, now.await?.parse()?);
    assert_eq!(post(&stack, &workspace, form).await?, 202);
    // What is refused is not repeated either.
    assert_eq!(
        post(&stack, &workspace, format!("{{\"a\": \"{BROKEN}\"")).await?,
        400
    );
    let path = "/v1/webhooks";
    let refused =
        json!({ "name": "x", "endpointUrl": format!("https://{QUERY}:{BEARER}@example.com/") });
    api.ask(Method::POST, path, Some(&refused)).await?;

    // Four events for each of four endpoints, retries to their end.
    let open = "SELECT count(*) FROM deliveries WHERE state NOT IN ('DELIVERED', 'FAILED', 'HELD')";
    let all = "SELECT count(*) FROM deliveries";
    wait_until("every delivery to end", LIMIT, async || {
        let (all, open) = (stack.sql(all).await, stack.sql(open).await);
        match (all.as_deref(), open.as_deref()) {
            (Ok("16"), Ok("0")) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    let sent = receiver.requests();
    let with_both = sent.iter().filter(|request| {
        request.header("x-api-key") == Some(HEADER)
            && request.header("authorization") == Some(&format!("Bearer {BEARER}"))
    });
    assert_eq!(
        with_both.count(),
        sent.len(),
        "they reach whom they are for"
    );
    // The careful one was given what it asked for.
    let heads = heads.lock().expect("not poisoned").clone();
    assert_eq!(heads.len(), 4, "{heads:?}");
    for head in &heads {
        let bearer = format!("authorization: bearer {ACCESS_TOKEN}\r\n");
        assert!(head.contains(&bearer), "{head}");
        let signatures = head
            .lines()
            .find_map(|line| line.strip_prefix("webhook-signature: "))
            .unwrap_or_default();
        let mut kinds: Vec<_> = signatures
            .split(' ')
            .filter_map(|one| one.split_once(','))
            .map(|(kind, _)| kind)
            .collect();
        kinds.sort_unstable();
        assert_eq!(kinds, ["v1", "v1a"], "{head}");
    }
    assert_eq!(
        asked.lock().expect("not poisoned").len(),
        1,
        "the token is kept"
    );
    let seeds: Vec<Vec<u8>> = stack.signing_keys().await?;
    assert_eq!(seeds.len(), 5, "four keys for v1, a seed for v1a");
    let tables = dump(&stack).await?;
    let ids: Vec<String> = [workspace.id]
        .iter()
        .chain(&webhooks)
        .map(Uuid::to_string)
        .collect();
    let metrics = metrics(&stack).await?;
    let data = stack.folder().join("nats");
    let root = stack.folder().to_owned();
    let identities = std::fs::read_dir(root.join("identities"))?
        .map(|entry| Ok(std::fs::read(entry?.path())?))
        .collect::<anyhow::Result<Vec<_>>>()?;
    stack.stop_all().await?;

    let token = workspace.token.as_bytes();
    let mut canaries = vec![
        Canary::new("custom header", HEADER.as_bytes(), false),
        Canary::new("bearer token of an endpoint", BEARER.as_bytes(), false),
        Canary::new("client secret of OAuth2", CLIENT_SECRET.as_bytes(), false),
        Canary::new("access token of OAuth2", ACCESS_TOKEN.as_bytes(), false),
        Canary::new(
            "private key in PEM",
            client_key.serialize_pem().as_bytes(),
            false,
        ),
        Canary::new("private key", &client_key.serialize_der(), false),
        Canary::new("access token", &token[token.len() - 30..], false),
        Canary::new("internal token", b"canary-internal-token", false),
        // The address is configuration; its query may hold a key.
        Canary::new("query of an address", QUERY.as_bytes(), true),
        Canary::new("form answer", FORM.as_bytes(), true),
        Canary::new("refused body", BROKEN.as_bytes(), true),
    ];
    canaries.extend(SAMPLES.map(|value| Canary::new("visitor", value.as_bytes(), true)));
    canaries.extend(
        keys.iter()
            .map(|key| Canary::new("signing secret", key.as_bytes(), false)),
    );
    canaries.extend(
        seeds
            .iter()
            .map(|seed| Canary::new("signing key or seed", seed, false)),
    );
    canaries.extend(
        identities
            .iter()
            .map(|seed| Canary::new("login of NATS", seed, false)),
    );

    // No secret, but a sign that the table of permissions lacks something.
    canaries.push(Canary::new("refusal of NATS", b"nats.refused", true));

    let mut found = Vec::new();
    for (part, text) in &metrics {
        search(
            &format!("metrics of {part}"),
            text.as_bytes(),
            true,
            &canaries,
            &mut found,
        );
        // Labels are words of ours: what a customer names or makes would be a series each.
        found.extend(
            ids.iter()
                .filter(|id| text.contains(*id))
                .map(|id| format!("{id} in metrics of {part}")),
        );
    }
    let (mut logs, mut log_bytes, mut stored) = (0, 0, 0);
    let mut all = Vec::new();
    files(&root, &mut all)?;
    for file in &all {
        let place = file.strip_prefix(&root)?.display().to_string();
        let bytes = std::fs::read(file)?;
        if file.extension().is_some_and(|extension| extension == "log") {
            logs += 1;
            log_bytes += bytes.len();
            search(&place, &bytes, true, &canaries, &mut found);
        } else if file.starts_with(data.join("data")) {
            stored += 1;
            search(&place, &bytes, false, &canaries, &mut found);
        }
    }
    for (table, rows) in &tables {
        search(
            &format!("table {table}"),
            rows.as_bytes(),
            false,
            &canaries,
            &mut found,
        );
    }
    println!(
        "searched {} canaries in {logs} logs ({log_bytes} bytes), {stored} files of JetStream, {} tables",
        canaries.len(),
        tables.len()
    );
    assert!(
        found.is_empty(),
        "{} finds:\n{}",
        found.len(),
        found.join("\n")
    );
    // The search can find: what belongs there is there.
    let form = Canary::new("form answer", FORM.as_bytes(), false);
    let kept = all
        .iter()
        .filter(|file| file.starts_with(data.join("data")))
        .filter_map(|file| std::fs::read(file).ok())
        .any(|bytes| form.is_in(&bytes));
    assert!(kept, "the payload is in no stream: the search is blind");
    assert!(
        logs >= 6 && log_bytes > 100_000,
        "{logs} logs, {log_bytes} bytes: not at TRACE"
    );
    assert!(
        tables["webhooks"].contains("Resetting"),
        "the dump is blind"
    );
    Ok(())
}
