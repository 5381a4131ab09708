//! The corpus of forbidden endpoints through the real doors: refused when they are saved, and, written
//! around the API, blocked at the attempt. A listener on all addresses of this machine counts what
//! reaches it.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use http::Method;
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use webhooks_devstack::wait_until;
use webhooks_domain::endpoint::{AddressPolicy, EndpointUrl};
use webhooks_loadgen::stack::{Api, Part, Stack, StackOptions};

use crate::dns_server::{DnsServer, Reply};

const LIMIT: Duration = Duration::from_secs(60);

/// Tests that a workspace may send in a minute.
const TESTS: usize = 10;

#[derive(Clone)]
struct Case {
    id: String,
    class: String,
    url: String,
    verdict: String,
    stage: String,
    /// What its name turns into in the end.
    addresses: Vec<IpAddr>,
}

impl Case {
    fn read(case: &Value) -> anyhow::Result<Self> {
        let text = |name: &str| {
            let text = case[name].as_str().with_context(|| case.to_string())?;
            anyhow::Ok(text.to_owned())
        };
        let list = |name: &str| case[name].as_array().cloned().unwrap_or_default();
        let last = Some(list("dns_second")).filter(|second| !second.is_empty());
        let addresses = last.unwrap_or_else(|| list("dns"));
        let parse = |address: &Value| Ok(address.as_str().context("an address")?.parse()?);
        Ok(Self {
            id: text("id")?,
            class: text("class")?,
            url: text("url")?,
            verdict: text("verdict")?,
            stage: text("stage")?,
            addresses: addresses.iter().map(parse).collect::<anyhow::Result<_>>()?,
        })
    }

    /// Whether no request may ever go where it points.
    fn is_never_called(&self) -> bool {
        self.verdict == "block" && self.class != "redirect"
    }

    /// What is written into its row: with the listener's port, where it is a URL without one. Where the
    /// URL itself is what is wrong, it is left alone: taking it apart would put it right.
    fn row(&self, port: u16) -> String {
        if self.class != "syntax"
            && let Ok(mut url) = self.url.parse::<url::Url>()
            && url.port().is_none()
            && url.set_port(Some(port)).is_ok()
        {
            return url.into();
        }
        self.url.clone()
    }
}

fn corpus() -> anyhow::Result<(Vec<Case>, AddressPolicy)> {
    let file = super::root().join("crates/webhooks-domain/tests/data/ssrf_cases.json");
    let corpus: Value = serde_json::from_slice(&std::fs::read(file)?)?;
    let texts = |name: &str| -> Vec<String> {
        let list = corpus["policy"][name].as_array().into_iter().flatten();
        list.filter_map(|one| one.as_str().map(str::to_owned))
            .collect()
    };
    let policy = AddressPolicy {
        own_hosts: texts("own_hosts"),
        own_ips: texts("own_ips")
            .iter()
            .map(|ip| ip.parse())
            .collect::<Result<_, _>>()?,
        ..AddressPolicy::default()
    };
    let cases = corpus["cases"].as_array().context("cases")?;
    let cases = cases
        .iter()
        .map(Case::read)
        .collect::<anyhow::Result<Vec<_>>>()?;
    ensure!(cases.len() > 60, "the corpus has shrunk: {}", cases.len());
    Ok((cases, policy))
}

/// Counts connections to any address of this machine; ends with its test.
struct Victim {
    port: u16,
    connections: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Victim {
    async fn start() -> anyhow::Result<Self> {
        let listener = match TcpListener::bind("[::]:0").await {
            Ok(listener) => listener,
            // A machine without IPv6 has fewer addresses.
            Err(_) => TcpListener::bind("0.0.0.0:0").await?,
        };
        let port = listener.local_addr()?.port();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                drop(stream);
            }
        });
        Ok(Self {
            port,
            connections,
            _tasks: tasks,
        })
    }

    /// It would notice.
    async fn notices(&self) -> anyhow::Result<()> {
        let addresses = [[127, 0, 0, 1], [127, 255, 255, 254]];
        for address in addresses {
            TcpStream::connect(SocketAddr::from((address, self.port))).await?;
        }
        wait_until("the listener to count", LIMIT, async || {
            match self.connections.load(Ordering::SeqCst) {
                2 => Ok(()),
                count => Err(count),
            }
        })
        .await?;
        self.connections.store(0, Ordering::SeqCst);
        Ok(())
    }
}

/// A webhook to an endpoint that nothing is wrong with; gives its id.
async fn harmless(api: &mut Api, name: &str) -> anyhow::Result<String> {
    let body = json!({ "name": name, "endpointUrl": "https://hooks.example.com/harmless" });
    let made = api.call(Method::POST, "/v1/webhooks", Some(&body)).await?;
    let id = made["webhook"]["id"].as_str().context("an id")?;
    Ok(id.to_owned())
}

/// Refused with its reason, at both doors through which it might be saved.
async fn is_not_saved(
    api: &mut Api,
    webhook: &str,
    case: &Case,
    policy: &AddressPolicy,
) -> anyhow::Result<()> {
    let id = &case.id;
    let refusal = EndpointUrl::parse(&case.url, policy).err();
    let reason = refusal.with_context(|| format!("{id} is no case of a save"))?;
    let create = json!({ "name": id, "endpointUrl": case.url });
    let change = json!({ "endpointUrl": case.url });
    let path = format!("/v1/webhooks/{webhook}");
    let doors = [
        (Method::POST, "/v1/webhooks", create),
        (Method::PATCH, &*path, change),
    ];
    for (method, path, body) in doors {
        let answer = api.ask(method.clone(), path, Some(&body)).await?;
        let told: Value = serde_json::from_slice(&answer.body)?;
        let detail = &told["details"][0];
        ensure!(
            answer.status == 400
                && detail["field"] == "endpointUrl"
                && detail["reason"] == reason.reason(),
            "{id} by {method}: {} {told}, expected {}",
            answer.status,
            reason.reason()
        );
    }
    Ok(())
}

/// Sends a test; gives the delivery when it has ended.
async fn tested(api: &mut Api, webhook: &str) -> anyhow::Result<Value> {
    let path = format!("/v1/webhooks/{webhook}/test");
    let made = api.call(Method::POST, &path, Some(&json!({}))).await?;
    let id = made["delivery"]["id"].as_str().context("an id")?.to_owned();
    let api = tokio::sync::Mutex::new(api);
    wait_until("the end of a test", LIMIT, async || {
        let found = api.lock().await.get(&format!("/v1/deliveries/{id}")).await;
        let delivery = found.map_err(|error| format!("{error:#}"))?["delivery"].clone();
        match delivery["state"].as_str() {
            Some("DELIVERED" | "FAILED" | "CANCELLED") => Ok(delivery),
            _ => Err(delivery.to_string()),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_forbidden_endpoint_is_saved_and_none_that_stands_in_a_row_is_called()
-> anyhow::Result<()> {
    let (cases, policy) = corpus()?;
    let answers = cases.clone();
    let dns = DnsServer::start(move |name| {
        let about = |case: &&Case| case.url.contains(&format!("//{name}/"));
        answers
            .iter()
            .find(about)
            .map_or(Reply::NoSuchName, |case| {
                Reply::Addresses(case.addresses.clone())
            })
    })
    .await;
    let victim = Victim::start().await?;
    victim.notices().await?;
    let folder = tempfile::tempdir()?;
    // As strict as in production.
    let options = StackOptions::new(super::bin_dir(), folder.path())
        .setting("WEBHOOKS_EGRESS_ALLOW_HTTP", "false")
        .setting("WEBHOOKS_EGRESS_ALLOW_CIDRS", "")
        .setting("WEBHOOKS_OWN_HOSTS", "api.linkbreakers.com")
        .setting("WEBHOOKS_OWN_IPS", "198.41.0.4")
        .setting("WEBHOOKS_EGRESS_DNS_SERVERS", &dns.address.to_string());
    let mut stack = Stack::start(options).await?;

    let workspace = stack.workspace("Save").await?;
    let mut api = stack.api(&workspace)?;
    let kept = harmless(&mut api, "kept").await?;
    let rows = "SELECT count(*), sum(revision), min(endpoint_url) FROM webhooks";
    let before = stack.sql(rows).await?;
    let mut saved = 0;
    for case in cases.iter().filter(|case| case.stage == "url") {
        is_not_saved(&mut api, &kept, case, &policy).await?;
        saved += 1;
    }
    let after = stack.sql(rows).await?;
    ensure!(before == after, "{before} became {after}");

    // Written around the API: a row of its own for each case.
    let forbidden: Vec<&Case> = cases.iter().filter(|case| case.is_never_called()).collect();
    let mut written = Vec::new();
    for (number, share) in forbidden.chunks(TESTS).enumerate() {
        let workspace = stack.workspace(&format!("Send {number}")).await?;
        let mut api = stack.api(&workspace)?;
        for case in share {
            let webhook = harmless(&mut api, &case.id).await?;
            let url = case.row(victim.port).replace('\'', "''");
            stack
                .sql(&format!(
                    "WITH changed AS (UPDATE webhooks SET endpoint_url = '{url}', revision = revision + 1 \
                     WHERE id = '{webhook}' RETURNING workspace_id, id, revision) \
                     INSERT INTO outbox (kind, workspace_id, key, revision) \
                     SELECT 'webhook', workspace_id, id::text, revision FROM changed"
                ))
                .await
                .with_context(|| case.id.clone())?;
            written.push((workspace.clone(), webhook, *case));
        }
    }
    wait_until("the read model to hear of it", LIMIT, async || match stack
        .sql("SELECT count(*) FROM outbox")
        .await
        .as_deref()
    {
        Ok("0") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await?;
    // A dispatcher that begins reads all of it before it sends anything.
    stack.kill(Part::Dispatcher(1)).await?;
    stack.revive(Part::Dispatcher(1)).await?;
    stack.wait_ready(Part::Dispatcher(1)).await?;
    let tests = stream::iter(&written).map(async |(workspace, webhook, case)| {
        let mut api = stack.api(workspace)?;
        let delivery = tested(&mut api, webhook).await;
        anyhow::Ok((*case, delivery.with_context(|| case.id.clone())?))
    });
    let tests: Vec<_> = tests.buffer_unordered(8).try_collect().await?;
    for (case, delivery) in &tests {
        let attempts = delivery["attempts"].as_array().context("attempts")?;
        ensure!(
            attempts.len() == 1 && attempts[0]["outcome"] == "BLOCKED",
            "{} ({}): {delivery}",
            case.id,
            case.class
        );
        // What the customer is told names no address.
        let told = delivery["lastError"].to_string();
        for address in &case.addresses {
            ensure!(!told.contains(&address.to_string()), "{}: {told}", case.id);
        }
    }
    let reached = victim.connections.load(Ordering::SeqCst);
    println!(
        "{saved} cases refused at POST and PATCH, {} blocked at the attempt, {reached} connections",
        tests.len()
    );
    ensure!(
        tests.len() == forbidden.len() && reached == 0,
        "{reached} connections"
    );
    stack.stop_all().await
}
