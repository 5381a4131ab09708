//! Endpoints that have to show whose they are, as customers and their receivers see it: nothing but
//! the challenge arrives before the answer, and whoever only repeats what it gets does not answer.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use http::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    process::Command,
    task::JoinSet,
};
use webhooks_devstack::{Signal, wait_until};
use webhooks_domain::{
    challenge::{EVENT_TYPE, answer},
    signing::SigningKey,
};
use webhooks_loadgen::stack::{Api, Part, Stack, StackOptions, Workspace};

use crate::{documents::code, publisher::Publisher};

const LIMIT: Duration = Duration::from_secs(60);

/// A request that came.
#[derive(Debug, Clone)]
struct Arrived {
    path: String,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

impl Arrived {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    fn is_challenge(&self) -> bool {
        self.json()["type"] == EVENT_TYPE
    }
}

/// A server whose answers depend on the path, until it is dropped: `/answer` knows the secret, the
/// others repeat, each in its way.
#[derive(Debug)]
struct Server {
    address: SocketAddr,
    seen: Arc<Seen>,
    _tasks: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Seen {
    arrived: Mutex<Vec<Arrived>>,
    keys: Mutex<HashMap<String, SigningKey>>,
}

impl Server {
    async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let seen = Arc::new(Seen::default());
        let of_tasks = Arc::clone(&seen);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let seen = Arc::clone(&of_tasks);
                // A sender may hang up as it likes.
                connections.spawn(async move { serve(stream, &seen).await.ok() });
            }
        });
        Ok(Self {
            address,
            seen,
            _tasks: tasks,
        })
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Requests to paths that begin so, oldest first.
    fn at(&self, path: &str) -> Vec<Arrived> {
        let arrived = self.seen.arrived.lock();
        let arrived = arrived.unwrap_or_else(PoisonError::into_inner);
        let of_path = arrived.iter().filter(|one| one.path.starts_with(path));
        of_path.cloned().collect()
    }

    /// From now on this path knows the secret.
    fn learn(&self, path: &str, key: &SigningKey) {
        let mut keys = self.seen.keys.lock();
        let keys = keys.as_deref_mut().expect("no test has panicked here");
        keys.insert(path.to_owned(), key.clone());
    }
}

async fn serve(stream: TcpStream, seen: &Seen) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut headers = HashMap::new();
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await?;
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let length = headers.get("content-length");
        let length = length.and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        let arrived = Arrived {
            path,
            headers,
            body,
        };
        let said = say(&arrived, seen);
        seen.arrived
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(arrived);
        let head = format!("HTTP/1.1 200 -\r\ncontent-length: {}\r\n\r\n", said.len());
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&said).await?;
        stream.flush().await?;
    }
}

fn say(arrived: &Arrived, seen: &Seen) -> Vec<u8> {
    let path = arrived.path.split('?').next().unwrap_or_default();
    let said = match path {
        "/echo" => return arrived.body.clone(),
        "/headers" => json!(arrived.headers),
        "/own-header" => json!({ "challenge": arrived.headers.get("challenge") }),
        "/query" => {
            let query = arrived.path.split_once("challenge=");
            json!({ "challenge": query.map(|(_, value)| value) })
        }
        _ => {
            let keys = seen.keys.lock().unwrap_or_else(PoisonError::into_inner);
            let nonce = arrived.json()["challenge"].as_str().map(str::to_owned);
            match keys.get(path).zip(nonce) {
                Some((key, nonce)) => json!({ "challenge": answer(key, &nonce) }),
                None => json!({}),
            }
        }
    };
    said.to_string().into_bytes()
}

/// A webhook with its secret.
struct Made {
    id: String,
    key: SigningKey,
}

async fn make(api: &mut Api, url: &str) -> anyhow::Result<Made> {
    let body = json!({ "name": url, "endpointUrl": url });
    let made = api.call(Method::POST, "/v1/webhooks", Some(&body)).await?;
    let text = |name: &str| made["webhook"][name].as_str().context("a webhook");
    Ok(Made {
        id: text("id")?.to_owned(),
        key: SigningKey::parse(text("secret")?)?,
    })
}

async fn patch(api: &mut Api, id: &str, change: &Value) -> anyhow::Result<Value> {
    let path = format!("/v1/webhooks/{id}");
    let changed = api.call(Method::PATCH, &path, Some(change)).await?;
    Ok(changed["webhook"].clone())
}

async fn shown(api: &mut Api, id: &str) -> anyhow::Result<Value> {
    Ok(api.get(&format!("/v1/webhooks/{id}")).await?["webhook"].clone())
}

/// Asks an endpoint, and waits for the end of that.
async fn challenge(api: &mut Api, id: &str) -> anyhow::Result<Value> {
    let delivery = ask(api, id).await?;
    ended(api, &delivery).await
}

async fn ask(api: &mut Api, id: &str) -> anyhow::Result<String> {
    let path = format!("/v1/webhooks/{id}/challenge");
    let asked = api.call(Method::POST, &path, Some(&json!({}))).await?;
    let delivery = asked["delivery"]["id"].as_str().context("a delivery")?;
    Ok(delivery.to_owned())
}

async fn ended(api: &mut Api, delivery: &str) -> anyhow::Result<Value> {
    let path = format!("/v1/deliveries/{delivery}");
    wait_until("the challenge's end", LIMIT, async || {
        let found = api.get(&path).await.map_err(|error| format!("{error:#}"))?;
        let found = found["delivery"].clone();
        match found["state"].as_str() {
            Some("DELIVERED" | "FAILED" | "CANCELLED") => Ok(found),
            _ => Err(found.to_string()),
        }
    })
    .await
}

async fn until_verified(api: &mut Api, id: &str) -> anyhow::Result<()> {
    wait_until("the endpoint to be verified", LIMIT, async || {
        let shown = shown(api, id).await.map_err(|error| format!("{error:#}"))?;
        match &shown["verified"] {
            Value::Bool(true) => Ok(()),
            _ => Err(shown.to_string()),
        }
    })
    .await
}

/// How many deliveries of a webhook stand so.
async fn count(api: &mut Api, id: &str, state: &str) -> anyhow::Result<u64> {
    let path = format!("/v1/webhooks/{id}/deliveries?state={state}");
    let found = api.get(&path).await?;
    found["totalCount"].as_u64().context("a count")
}

async fn until_count(api: &mut Api, id: &str, state: &str, wanted: u64) -> anyhow::Result<()> {
    wait_until("deliveries to stand so", LIMIT, async || {
        match count(api, id, state).await {
            Ok(found) if found == wanted => Ok(()),
            other => Err(format!("{state}: {other:?}")),
        }
    })
    .await
}

/// A stack with a workspace whose endpoints have to answer.
async fn stage(folder: &Path) -> anyhow::Result<(Stack, Workspace)> {
    let stack = Stack::start(StackOptions::new(super::bin_dir(), folder)).await?;
    let workspace = stack.workspace("Owners").await?;
    let id = workspace.id.to_string();
    let required = [
        "workspace",
        "update",
        &id,
        "--endpoint-verification",
        "true",
    ];
    stack.operate(&required).await?;
    let told = stack.operate(&["workspace", "show", &id]).await?;
    ensure!(told.contains("endpoint verification true"), "{told}");
    Ok((stack, workspace))
}

/// What the documented receiver answers to a challenge.
async fn documented(key: &SigningKey, body: &[u8]) -> anyhow::Result<Vec<u8>> {
    let program = code("webhooks-api.md", "python-challenge")?;
    let harness = format!(
        "{program}\nimport sys\nsys.stdout.buffer.write(answer(sys.argv[1], sys.stdin.buffer.read()))\n"
    );
    let mut child = Command::new("python3")
        .args(["-c", &harness, &key.reveal()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut stdin = child.stdin.take().context("an input")?;
    stdin.write_all(body).await?;
    drop(stdin);
    let output = child.wait_with_output().await?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output.stdout)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_gets_nothing_but_the_challenge_before_it_answers_and_then_what_was_held()
-> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (stack, workspace) = stage(folder.path()).await?;
    let mut api = stack.api(&workspace)?;
    let mut publisher = Publisher::new(&stack, &workspace)?;
    let server = Server::start().await?;

    // Its receiver does not know the secret yet.
    let made = make(&mut api, &server.url("/answer")).await?;
    let own = json!({ "headers": [{ "name": "X-Own", "value": "chosen" }], "auth": { "type": "apiKey", "in": "query", "name": "key", "value": "hidden" } });
    patch(&mut api, &made.id, &own).await?;
    for _ in 0..3 {
        publisher.publish().await?;
    }
    let test = format!("/v1/webhooks/{}/test", made.id);
    api.call(Method::POST, &test, Some(&json!({}))).await?;
    until_count(&mut api, &made.id, "HELD", 4).await?;
    let ended = challenge(&mut api, &made.id).await?;
    assert_eq!(ended["state"], "DELIVERED", "{ended}");
    let arrived = server.at("/answer");
    assert_eq!(arrived.len(), 1, "{arrived:?}");
    assert!(arrived[0].is_challenge());
    assert_eq!(arrived[0].path, "/answer", "no key of the customer's");
    assert_eq!(arrived[0].headers.get("x-own"), None);
    assert_eq!(shown(&mut api, &made.id).await?["verified"], false);

    // What the documentation tells receivers is right.
    let right: Value = serde_json::from_slice(&documented(&made.key, &arrived[0].body).await?)?;
    let nonce = arrived[0].json()["challenge"].clone();
    let nonce = nonce.as_str().context("a challenge")?;
    assert_eq!(right, json!({ "challenge": answer(&made.key, nonce) }));

    server.learn("/answer", &made.key);
    challenge(&mut api, &made.id).await?;
    until_verified(&mut api, &made.id).await?;
    until_count(&mut api, &made.id, "HELD", 0).await?;
    wait_until("what was held", LIMIT, async || {
        let arrived = server.at("/answer");
        match arrived.iter().filter(|one| !one.is_challenge()).count() {
            4 => Ok(()),
            other => Err(other),
        }
    })
    .await?;
    publisher.publish().await?;
    until_count(&mut api, &made.id, "DELIVERED", 7).await?;
    stack.stop_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_only_repeats_what_it_gets_does_not_answer() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (stack, workspace) = stage(folder.path()).await?;
    let mut api = stack.api(&workspace)?;
    let server = Server::start().await?;

    for path in ["/echo", "/headers"] {
        let made = make(&mut api, &server.url(path)).await?;
        let ended = challenge(&mut api, &made.id).await?;
        assert_eq!(ended["state"], "DELIVERED", "{ended}");
        assert_eq!(
            shown(&mut api, &made.id).await?["verified"],
            false,
            "{path}"
        );
    }

    // What an earlier challenge asked, its owner can answer. It lays that answer into everything that
    // it may choose of the next request.
    for path in ["/own-header", "/query"] {
        let made = make(&mut api, &server.url(path)).await?;
        challenge(&mut api, &made.id).await?;
        let asked = server.at(path).last().context("a challenge")?.json();
        let known = answer(&made.key, asked["challenge"].as_str().context("a nonce")?);
        let change = match path {
            "/query" => json!({ "endpointUrl": server.url(&format!("{path}?challenge={known}")) }),
            _ => json!({ "headers": [{ "name": "Challenge", "value": known }] }),
        };
        patch(&mut api, &made.id, &change).await?;
        let ended = challenge(&mut api, &made.id).await?;
        assert_eq!(ended["state"], "DELIVERED", "{ended}");
        let second = server.at(path).last().context("a challenge")?.clone();
        assert!(second.is_challenge());
        assert_eq!(
            second.headers.get("challenge"),
            None,
            "no header of its own"
        );
        assert_ne!(second.json()["challenge"], asked["challenge"]);
        assert_eq!(
            shown(&mut api, &made.id).await?["verified"],
            false,
            "{path}"
        );
    }
    stack.stop_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_endpoint_of_before_cannot_answer_for_the_next_one_through_a_dispatcher_that_slept()
-> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (stack, workspace) = stage(folder.path()).await?;
    let mut api = stack.api(&workspace)?;
    let mut publisher = Publisher::new(&stack, &workspace)?;
    let server = Server::start().await?;
    let made = make(&mut api, &server.url("/a")).await?;
    // It knows the secret, and answers whatever it is asked.
    server.learn("/a", &made.key);
    challenge(&mut api, &made.id).await?;
    until_verified(&mut api, &made.id).await?;

    for round in 0..5 {
        let asked_of_a = server
            .at("/a")
            .iter()
            .filter(|one| one.is_challenge())
            .count();
        let next = format!("/b/{round}");
        stack.signal(Part::Dispatcher(1), Signal::STOP)?;
        let change = json!({ "endpointUrl": server.url(&next) });
        let changed = patch(&mut api, &made.id, &change).await?;
        let delivery = ask(&mut api, &made.id).await?;
        publisher.publish().await?;
        stack.signal(Part::Dispatcher(1), Signal::CONT)?;
        assert_eq!(changed["verified"], false);
        let ended = ended(&mut api, &delivery).await?;
        assert_eq!(ended["state"], "DELIVERED", "{ended}");
        // The new one was asked and did not know; the one before was not asked.
        let of_b = server.at(&next);
        assert!(!of_b.is_empty(), "nobody asked {next}");
        assert!(of_b.iter().all(Arrived::is_challenge), "{of_b:?}");
        let again = server
            .at("/a")
            .iter()
            .filter(|one| one.is_challenge())
            .count();
        assert_eq!(again, asked_of_a);
        until_count(&mut api, &made.id, "HELD", 1).await?;
        assert_eq!(shown(&mut api, &made.id).await?["verified"], false);
        // What was verified is verified still, and gets what was held.
        let back = json!({ "endpointUrl": server.url("/a") });
        assert_eq!(patch(&mut api, &made.id, &back).await?["verified"], true);
        until_count(&mut api, &made.id, "HELD", 0).await?;
    }
    let events = server.at("/b").len();
    assert_eq!(events, 5, "challenges alone");
    stack.stop_all().await
}
