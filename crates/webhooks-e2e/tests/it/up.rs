//! `make run`: everything as its user and scripts see it, from the first line to the last process.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use http::{HeaderMap, Method, header};
use serde_json::Value;
use tokio::process::{Child, Command};
use webhooks_devstack::{Tools, http_get, is_running, note_answer, wait_until};
use webhooks_loadgen::{
    client::HttpClient,
    sample::{EventSpec, EventTemplate},
};

/// From the start until everything is ready: databases are made, four services start.
const START_LIMIT: Duration = Duration::from_secs(180);

/// Until a killed process is back. A second is what is claimed and what it takes; a machine that is
/// busy with other tests may be late.
const BACK_LIMIT: Duration = Duration::from_secs(10);

/// Everything is drained one after the other.
const STOP_LIMIT: Duration = Duration::from_secs(120);

const LIMIT: Duration = Duration::from_secs(60);

/// What scripts rely on to be in `.run/env`.
const VARIABLES: [&str; 19] = [
    "WEBHOOKS_API_URL",
    "WEBHOOKS_INGEST_URL",
    "WEBHOOKS_GRPC_URL",
    "WEBHOOKS_INGEST_GRPC_URL",
    "WEBHOOKS_NATS_URL",
    "WEBHOOKS_DATABASE_URL",
    "WEBHOOKS_DASHBOARD_URL",
    "WEBHOOKS_WORKSPACE_ID",
    "WEBHOOKS_TOKEN",
    "WEBHOOKS_OPERATOR_TOKEN",
    "WEBHOOKS_OTHER_WORKSPACE_ID",
    "WEBHOOKS_OTHER_TOKEN",
    "WEBHOOKS_RECEIVER_URL",
    "WEBHOOKS_INGEST_ADMIN_URL",
    "WEBHOOKS_FANOUT_ADMIN_URL",
    "WEBHOOKS_MANAGEMENT_ADMIN_URL",
    "WEBHOOKS_DISPATCHER_ADMIN_URL",
    "WEBHOOKS_DISPATCHER_1_ADMIN_URL",
    "WEBHOOKS_DISPATCHER_2_ADMIN_URL",
];

const PROCESSES: [&str; 8] = [
    "ingest",
    "fanout",
    "dispatcher-1",
    "dispatcher-2",
    "management",
    "receiver",
    "nats",
    "postgres",
];

/// A run in a folder of its own. Dropping it kills it, and its children go with it.
struct Run {
    folder: PathBuf,
    child: Child,
}

impl Run {
    /// As the Makefile does it: the program in the folder, options as variables.
    fn start(folder: &Path, options: &[(&str, &str)]) -> anyhow::Result<Self> {
        let folder = folder.canonicalize()?;
        let tools = Tools::locate()?;
        // Not where other logs go: the demo shows the event, and that is no log.
        let output = File::create(folder.join("output"))?;
        let child = Command::new(super::bin_dir().join("webhooks"))
            .arg("up")
            .current_dir(&folder)
            .env("WEBHOOKS_NATS_SERVER_BIN", tools.nats_server)
            .env("WEBHOOKS_POSTGRES_BIN_DIR", tools.postgres_bin)
            .envs(options.iter().copied())
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .context("`make build` makes the programs")?;
        Ok(Self { folder, child })
    }

    fn output(&self) -> String {
        let text = std::fs::read(self.folder.join("output")).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Waits for `.run/env` and reads it as a shell does.
    async fn env(&mut self) -> anyhow::Result<BTreeMap<String, String>> {
        let file = self.folder.join(".run/env");
        let child = &mut self.child;
        let there = wait_until(".run/env", START_LIMIT, async || {
            if file.exists() {
                return Ok(Ok(()));
            }
            match child.try_wait() {
                Ok(None) => Err("not yet"),
                ended => Ok(Err(ended)),
            }
        });
        let there = there.await.with_context(|| self.output())?;
        if let Err(ended) = there {
            anyhow::bail!("it ended: {ended:?}\n{}", self.output());
        }
        note_answer(&std::fs::read(&file)?);
        let script = "set -a; . \"$0\"; env";
        let shell = Command::new("sh").args(["-c", script]).arg(&file).output();
        let shell = shell.await?;
        ensure!(shell.status.success(), "{:?}", shell.stderr);
        let text = String::from_utf8(shell.stdout)?;
        let line = |line: &str| {
            let (name, value) = line.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        };
        Ok(text.lines().filter_map(line).collect())
    }

    fn pid(&self, process: &str) -> anyhow::Result<u32> {
        let file = self.folder.join(format!(".run/{process}.pid"));
        let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        text.trim()
            .parse()
            .with_context(|| format!("{process}: {text:?}"))
    }

    /// Everything that works in its folder, by process id: all that it started.
    fn processes(&self) -> Vec<u32> {
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| {
            let place = std::fs::read_link(format!("/proc/{pid}/cwd"));
            place.is_ok_and(|place| place.starts_with(&self.folder))
        })
        .collect()
    }

    /// Ctrl-C, and what is left: the exit code 0 and nobody.
    async fn interrupt(mut self) -> anyhow::Result<()> {
        let pid = self.child.id().context("it has ended by itself")?;
        let before = self.processes();
        // Where there is no /proc nobody is seen; where there is, seeing nobody would be blindness.
        let sees = Path::new("/proc/self/cwd").exists();
        ensure!(
            !sees || before.len() >= PROCESSES.len(),
            "{before:?} is not all of it"
        );
        kill("-INT", pid).await?;
        let status = tokio::time::timeout(STOP_LIMIT, self.child.wait()).await;
        let status = status.with_context(|| self.output())??;
        ensure!(status.code() == Some(0), "{status}\n{}", self.output());
        let mut left: Vec<u32> = before.into_iter().filter(|pid| is_running(*pid)).collect();
        left.extend(self.processes());
        ensure!(left.is_empty(), "{left:?} still run\n{}", self.output());
        ensure!(!self.folder.join(".run/env").exists(), "env is still there");
        Ok(())
    }
}

/// `kill`, as a person types it.
async fn kill(signal: &str, pid: u32) -> anyhow::Result<()> {
    let pid = pid.to_string();
    let status = Command::new("kill").args([signal, &pid]).status().await?;
    ensure!(status.success(), "kill {signal} {pid}: {status}");
    Ok(())
}

/// A caller with a token.
struct Caller {
    client: HttpClient,
    headers: HeaderMap,
}

impl Caller {
    fn new(url: &str, token: &str) -> anyhow::Result<Self> {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse()?);
        headers.insert(header::CONTENT_TYPE, "application/json".parse()?);
        let client = HttpClient::new(url)?;
        Ok(Self { client, headers })
    }

    async fn get(&mut self, path: &str) -> anyhow::Result<Value> {
        let answer = self
            .client
            .send(Method::GET, path, &self.headers, Default::default())
            .await?;
        ensure!(answer.status == 200, "{path}: {}", answer.status);
        Ok(serde_json::from_slice(&answer.body)?)
    }

    /// Every delivery of the demo webhook with its attempts.
    async fn deliveries(&mut self) -> anyhow::Result<Vec<Value>> {
        let list = self.get("/v1/webhooks").await?;
        let webhooks = list["webhooks"].as_array().cloned().unwrap_or_default();
        let demo = webhooks.iter().find(|one| one["name"] == "Demo receiver");
        let demo = demo.with_context(|| format!("no demo webhook in {list}"))?;
        let id = demo["id"].as_str().context("an id")?;
        let page = self.get(&format!("/v1/webhooks/{id}/deliveries")).await?;
        let mut whole = Vec::new();
        for delivery in page["deliveries"].as_array().into_iter().flatten() {
            let id = delivery["id"].as_str().context("an id")?;
            let answer = self.get(&format!("/v1/deliveries/{id}")).await?;
            whole.push(answer["delivery"].clone());
        }
        Ok(whole)
    }
}

/// Waits until every service says that it is ready.
async fn ready(env: &BTreeMap<String, String>) -> anyhow::Result<()> {
    let admins = env.iter().filter(|(name, _)| name.ends_with("_ADMIN_URL"));
    for (name, url) in admins {
        let url = format!("{url}/readyz");
        wait_until(name, LIMIT, async || match http_get(&url).await {
            Ok((200, _)) => Ok(()),
            Ok(other) => Err(format!("{other:?}")),
            Err(error) => Err(format!("{error:#}")),
        })
        .await?;
    }
    Ok(())
}

/// Publishes an event over HTTP, again while the answer is not clear, and waits until it is DELIVERED.
async fn one_more(env: &BTreeMap<String, String>, api: &mut Caller) -> anyhow::Result<()> {
    let mut ingest = Caller::new(&env["WEBHOOKS_INGEST_URL"], &env["WEBHOOKS_TOKEN"])?;
    #[expect(
        clippy::disallowed_methods,
        reason = "a publisher goes by its own machine's clock"
    )]
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let spec = EventSpec {
        id: uuid::Uuid::new_v4(),
        workspace: env["WEBHOOKS_WORKSPACE_ID"].parse()?,
        link: uuid::Uuid::new_v4(),
        kind: "KIND_EXIT".to_owned(),
        timestamp_micros: i64::try_from(now.as_micros())?,
    };
    let body = EventTemplate::new().render(&spec);
    let headers = ingest.headers.clone();
    wait_until("an event to be taken", LIMIT, async || {
        let sent = ingest
            .client
            .send(Method::POST, "/v1/events", &headers, body.clone())
            .await;
        match sent {
            Ok(answer) if answer.status == 202 => Ok(()),
            Ok(answer) => Err(format!("{} {:?}", answer.status, answer.body)),
            Err(error) => Err(format!("{error:#}")),
        }
    })
    .await?;
    let event = spec.id.to_string();
    let api = tokio::sync::Mutex::new(api);
    wait_until("its delivery", LIMIT, async || {
        let all = api.lock().await.deliveries().await;
        let all = all.map_err(|error| format!("{error:#}"))?;
        let found = all.iter().find(|one| one["eventId"] == event.as_str());
        match found {
            Some(delivery) if delivery["state"] == "DELIVERED" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_shows_its_demo_restarts_whom_one_kills_and_leaves_nobody_behind()
-> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut run = Run::start(folder.path(), &[("DISPATCHERS", "2")])?;
    let env = run.env().await?;
    let missing: Vec<&str> = VARIABLES
        .into_iter()
        .filter(|name| env.get(*name).is_none_or(String::is_empty))
        .collect();
    ensure!(missing.is_empty(), ".run/env has no {missing:?}");
    let mut pids = BTreeMap::new();
    for process in PROCESSES {
        let pid = run.pid(process)?;
        ensure!(
            is_running(pid),
            "{process}.pid names {pid}, which does not run"
        );
        pids.insert(process, pid);
    }
    let output = run.output();
    ensure!(output.contains("signature verified"), "{output}");
    let mut api = Caller::new(&env["WEBHOOKS_API_URL"], &env["WEBHOOKS_TOKEN"])?;
    let [demo] = &api.deliveries().await?[..] else {
        anyhow::bail!("one demo makes one delivery");
    };
    ensure!(demo["state"] == "DELIVERED", "{demo}");
    ensure!(demo["attempts"][0]["outcome"] == "SUCCESS", "{demo}");

    for process in PROCESSES {
        let killed = pids[process];
        kill("-KILL", killed).await?;
        let began = Instant::now();
        let what = format!("{process} to be back");
        let back = wait_until(&what, BACK_LIMIT, async || match run.pid(process) {
            Ok(pid) if pid != killed && is_running(pid) => Ok(pid),
            other => Err(format!("{other:?}, {killed} was killed")),
        });
        let pid = back.await.with_context(|| run.output())?;
        println!(
            "{process}: back after {:.2} s",
            began.elapsed().as_secs_f64()
        );
        pids.insert(process, pid);
    }
    ready(&env).await?;
    one_more(&env, &mut api)
        .await
        .with_context(|| run.output())?;
    run.interrupt().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_without_private_endpoints_says_that_its_demo_is_refused() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut run = Run::start(folder.path(), &[("ALLOW_PRIVATE_ENDPOINTS", "0")])?;
    let env = run.env().await?;
    let output = run.output();
    ensure!(
        output.contains("the demo delivery was refused") && !output.contains("signature verified"),
        "{output}"
    );
    ensure!(
        !output.contains("WARNING: endpoints on loopback"),
        "{output}"
    );
    // Refused for everybody, not only for the demo.
    let mut api = Caller::new(&env["WEBHOOKS_API_URL"], &env["WEBHOOKS_TOKEN"])?;
    let list = api.get("/v1/webhooks").await?;
    ensure!(list["webhooks"] == serde_json::json!([]), "{list}");
    run.interrupt().await
}
