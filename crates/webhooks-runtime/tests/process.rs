//! `run` as operators see it: exit codes, signals, the admin port, the address files.
//!
//! The test program runs itself again as a small service (`WEBHOOKS_PROBE` says which behaviour), so
//! that signals and exit codes are real.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use axum::{Router, body::Bytes, extract::State, response::IntoResponse, routing::post};
use webhooks_runtime::{Context, Env, OnError, Settings, telemetry::set_parent};

const INCOMING: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const INCOMING_TRACE_ID: [u8; 16] = [
    0x0a, 0xf7, 0x65, 0x19, 0x16, 0xcd, 0x43, 0xdd, 0x84, 0x48, 0xeb, 0x21, 0x1c, 0x80, 0x31, 0x9c,
];

const LIMIT: Duration = Duration::from_secs(30);

type Check = fn(&Path) -> anyhow::Result<()>;

struct Probe {
    behaviour: String,
}

impl Settings for Probe {
    fn read(env: &mut Env) -> Self {
        env.ranged("WEBHOOKS_PROBE_BATCH", 10_u32, 1..=100, "messages per pull");
        Self {
            behaviour: env.required("WEBHOOKS_PROBE", "what to do"),
        }
    }
}

async fn serve(probe: Probe, ctx: Context) -> anyhow::Result<()> {
    match probe.behaviour.as_str() {
        "fail" => Err(anyhow::anyhow!("connection refused").context("cannot reach the broker")),
        "die" => {
            ctx.tasks.spawn("pump", OnError::StopService, async {
                Err(anyhow::anyhow!("lost"))
            });
            ctx.shutdown.cancelled().await;
            Ok(())
        }
        "panic" => {
            ctx.tasks.spawn("pump", OnError::Log, async {
                let secret = "canary-4711";
                let number = secret
                    .parse::<u32>()
                    .map_err(|error| format!("{secret}: {error}"));
                number.map(drop).expect("canary-4711 is a number");
                anyhow::Ok(())
            });
            ctx.tasks.spawn("essential", OnError::StopService, async {
                if ctx_is_here() {
                    panic!("canary-{}", 4711);
                }
                anyhow::Ok(())
            });
            ctx.shutdown.cancelled().await;
            Ok(())
        }
        "trace" => {
            let span = tracing::info_span!(target: "webhooks_probe", "deliver one");
            ensure!(
                set_parent(&span, INCOMING),
                "the span does not take its parent"
            );
            Ok(())
        }
        behaviour => {
            ctx.started();
            ctx.announce("api", "127.0.0.1:1".parse()?)?;
            ctx.shutdown.cancelled().await;
            if behaviour == "hang" {
                std::future::pending::<()>().await;
            }
            Ok(())
        }
    }
}

/// So that what comes after the panic is not known to be unreachable.
fn ctx_is_here() -> bool {
    std::env::var_os("WEBHOOKS_PROBE").is_some()
}

fn main() -> ExitCode {
    if std::env::var_os("WEBHOOKS_PROBE_CHILD").is_some() {
        return webhooks_runtime::run("probe", serve);
    }
    let checks: [(&str, Check); 8] = [
        ("bad settings are all reported with exit 64", bad_settings),
        (
            "a failing service exits 1 and logs the chain once",
            failing_service,
        ),
        ("a dead essential task is the exit reason", dead_task),
        ("a panic is told by its place, never by its text", panicking),
        ("SIGTERM drains and exits 0", drain),
        ("a drain that takes too long exits 1", drain_deadline),
        ("a second signal exits 130 at once", second_signal),
        (
            "spans and metrics reach the collector before the process ends",
            exported_spans,
        ),
    ];
    for (name, check) in checks {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        if let Err(error) = check(folder.path()) {
            eprintln!("{name}: FAILED: {error:?}");
            return ExitCode::FAILURE;
        }
        eprintln!("{name}: ok");
    }
    ExitCode::SUCCESS
}

fn bad_settings(folder: &Path) -> anyhow::Result<()> {
    let mut command = service(folder, "");
    let output = command
        .env("WEBHOOKS_PROBE_BATCH", "0")
        .env("WEBHOOKS_LOG", "==")
        .output()?;
    let errors = String::from_utf8(output.stderr)?;
    ensure!(
        output.status.code() == Some(64),
        "{}: {errors}",
        output.status
    );
    for name in [
        "WEBHOOKS_PROBE: ",
        "WEBHOOKS_PROBE_BATCH: ",
        "WEBHOOKS_LOG: ",
    ] {
        ensure!(errors.contains(name), "no {name} in {errors}");
    }
    Ok(())
}

fn failing_service(folder: &Path) -> anyhow::Result<()> {
    let output = service(folder, "fail").output()?;
    let log = String::from_utf8(output.stdout)?;
    ensure!(output.status.code() == Some(1), "{}: {log}", output.status);
    ensure!(
        log.matches("cannot reach the broker: connection refused")
            .count()
            == 1,
        "{log}"
    );
    Ok(())
}

fn dead_task(folder: &Path) -> anyhow::Result<()> {
    let output = service(folder, "die").output()?;
    let log = String::from_utf8(output.stdout)?;
    ensure!(
        output.status.code() == Some(1) && log.contains("task pump failed: lost"),
        "{}: {log}",
        output.status
    );
    Ok(())
}

fn panicking(folder: &Path) -> anyhow::Result<()> {
    let output = service(folder, "panic").output()?;
    let said = String::from_utf8(output.stdout)? + &String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(1), "{}: {said}", output.status);
    ensure!(said.matches("process.rs:").count() >= 2, "{said}");
    ensure!(
        said.contains("task essential failed: panicked at "),
        "{said}"
    );
    for part in ["canary", "invalid digit"] {
        ensure!(!said.contains(part), "{part} in {said}");
    }
    Ok(())
}

fn drain(folder: &Path) -> anyhow::Result<()> {
    let service = Running::start(folder, "serve", "40s")?;
    let answer = get(&service.admin, "/readyz")?;
    ensure!(
        answer.contains("200 OK") && answer.contains("\"ready\":true"),
        "{answer}"
    );
    let announced = fs::read_to_string(folder.join("addresses"))?;
    ensure!(
        announced == format!("admin={}\napi=127.0.0.1:1\n", service.admin),
        "{announced}"
    );
    service.signal("TERM")?;
    ensure!(service.exit_code()? == Some(0));
    Ok(())
}

fn drain_deadline(folder: &Path) -> anyhow::Result<()> {
    let service = Running::start(folder, "hang", "5s")?;
    service.signal("INT")?;
    wait_for("readiness to say so", || {
        get(&service.admin, "/readyz").is_ok_and(|text| text.contains("draining"))
    })?;
    ensure!(service.exit_code()? == Some(1));
    Ok(())
}

fn second_signal(folder: &Path) -> anyhow::Result<()> {
    let service = Running::start(folder, "hang", "1h")?;
    service.signal("TERM")?;
    wait_for("the drain", || {
        get(&service.admin, "/readyz").is_ok_and(|text| text.contains("draining"))
    })?;
    service.signal("TERM")?;
    ensure!(service.exit_code()? == Some(130));
    Ok(())
}

fn exported_spans(folder: &Path) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let received = Arc::new(Mutex::new(Vec::new()));
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    let collector = Router::new()
        .route(
            "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            post(export),
        )
        .route(
            "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
            post(export),
        )
        .with_state(Arc::clone(&received));
    runtime.spawn(async move { axum::serve(listener, collector).await });

    let output = service(folder, "trace")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        .output()?;
    let log = String::from_utf8(output.stdout)?;
    ensure!(
        output.status.success() && !log.contains("lost"),
        "{}: {log}",
        output.status
    );
    let received = received.lock().unwrap_or_else(PoisonError::into_inner);
    for expected in [
        "deliver one".as_bytes(),
        b"webhooks-probe",
        &INCOMING_TRACE_ID,
        b"process_resident_memory_bytes",
    ] {
        ensure!(
            received
                .windows(expected.len())
                .any(|part| part == expected),
            "no {expected:?} in {received:?}"
        );
    }
    Ok(())
}

/// Keeps the bytes of the request; answers with an empty message and gRPC's *OK*.
async fn export(State(received): State<Arc<Mutex<Vec<u8>>>>, body: Bytes) -> impl IntoResponse {
    received
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .extend_from_slice(&body);
    (
        [("content-type", "application/grpc"), ("grpc-status", "0")],
        Bytes::from_static(&[0; 5]),
    )
}

struct Running {
    child: Child,
    admin: String,
}

impl Running {
    /// Starts a service and waits until it is ready.
    fn start(folder: &Path, behaviour: &str, drain: &str) -> anyhow::Result<Self> {
        let child = service(folder, behaviour)
            .env("WEBHOOKS_DRAIN_TIMEOUT", drain)
            .spawn()?;
        let mut running = Self {
            child,
            admin: String::new(),
        };
        let file = folder.join("admin");
        wait_for("the admin address", || file.exists())?;
        running.admin = fs::read_to_string(file)?.trim().to_owned();
        wait_for("readiness", || {
            get(&running.admin, "/readyz").is_ok_and(|text| text.contains("200 OK"))
        })?;
        wait_for("the announcement", || {
            fs::read_to_string(folder.join("addresses")).is_ok_and(|text| text.contains("api"))
        })?;
        Ok(running)
    }

    fn signal(&self, name: &str) -> anyhow::Result<()> {
        let status = Command::new("kill")
            .args([&format!("-{name}"), &self.child.id().to_string()])
            .status()?;
        ensure!(status.success(), "kill: {status}");
        Ok(())
    }

    fn exit_code(mut self) -> anyhow::Result<Option<i32>> {
        wait_for("the end", || {
            self.child.try_wait().is_ok_and(|status| status.is_some())
        })?;
        Ok(self.child.wait()?.code())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has usually ended; then there is nothing to kill.
        drop((self.child.kill(), self.child.wait()));
    }
}

fn service(folder: &Path, behaviour: &str) -> Command {
    let program = std::env::current_exe().expect("this program has a path");
    let mut command = Command::new(program);
    command
        .env("WEBHOOKS_PROBE_CHILD", "1")
        .env("WEBHOOKS_PROBE", behaviour)
        .env("WEBHOOKS_ADMIN_ADDR_FILE", folder.join("admin"))
        .env("WEBHOOKS_ADDR_FILE", folder.join("addresses"))
        .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT")
        .stdout(Stdio::piped());
    command
}

fn get(address: &str, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LIMIT))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: probe\r\nconnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("no answer")?;
    Ok(answer)
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) -> anyhow::Result<()> {
    let since = Instant::now();
    while !holds() {
        if since.elapsed() > LIMIT {
            bail!("waited {LIMIT:?} for {what}");
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
