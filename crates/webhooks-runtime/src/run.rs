//! From `main` to an exit code, the same way for every service.
//!
//! Start: settings (all problems at once, exit 64) → telemetry → admin port → the service builds
//! itself and says [`Context::started`]. Stop: the shutdown token is cancelled, readiness says
//! `draining`, the service and its tasks have one deadline to finish what they hold, telemetry is
//! flushed last. Exit 0 after a complete drain, 1 after an error or an incomplete one, 130 at once
//! on a second signal.

use std::{
    fmt::Display,
    future::Future,
    io::Write as _,
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use tokio::task::JoinSet;

use crate::{
    admin::AdminServer,
    announce::{Announcer, write_whole},
    clock::SystemClock,
    context::Context,
    errors::error_chain,
    metrics::Metrics,
    panics,
    settings::{Env, Settings},
    shutdown::Signals,
    tasks::OnError,
    telemetry::{self, TelemetrySettings},
};

/// The exit code for settings that cannot be used (`EX_USAGE`).
pub const EXIT_SETTINGS: u8 = 64;

/// What is wrong before there is a log, on standard error. Not with `eprintln!`: where nobody reads
/// (`2>&1 | head`), a panic would take the place of the exit code.
fn complain(service: &str, text: impl Display) {
    drop(writeln!(
        std::io::stderr().lock(),
        "webhooks-{service}: {text}"
    ));
}

/// Longest wait for leftover blocking work when the process ends.
const RUNTIME_SHUTDOWN: Duration = Duration::from_secs(1);

/// What every service is told by the environment.
#[derive(Debug, Clone)]
pub struct CommonSettings {
    /// Whether what is for development is refused.
    pub production: bool,
    /// Where `/livez`, `/readyz` and `/metrics` are served.
    pub admin_address: SocketAddr,
    /// A file to write the bound admin address to.
    pub admin_address_file: Option<PathBuf>,
    /// A file to write `name=address` lines to, one per listener.
    pub address_file: Option<PathBuf>,
    /// How long a drain may take.
    pub drain_timeout: Duration,
    /// Threads that run tasks.
    pub worker_threads: usize,
    /// Logs and traces.
    pub telemetry: TelemetrySettings,
}

impl Settings for CommonSettings {
    fn read(env: &mut Env) -> Self {
        let production = env.is_production();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads: Option<usize> = env.parse_optional(
            "WEBHOOKS_WORKER_THREADS",
            "threads that run tasks (1 to 1024); default: one per core",
        );
        if threads.is_some_and(|threads| !(1..=1024).contains(&threads)) {
            env.problem("WEBHOOKS_WORKER_THREADS", "is outside 1 to 1024");
        }
        Self {
            production,
            admin_address: env.socket_addr(
                "WEBHOOKS_ADMIN_ADDR",
                "127.0.0.1:0",
                "address of `/livez`, `/readyz` and `/metrics`; port 0 takes a free one",
            ),
            admin_address_file: env
                .optional(
                    "WEBHOOKS_ADMIN_ADDR_FILE",
                    "file to write the bound admin address to",
                )
                .map(PathBuf::from),
            address_file: env
                .optional(
                    "WEBHOOKS_ADDR_FILE",
                    "file to write the bound addresses to, `name=ip:port` a line",
                )
                .map(PathBuf::from),
            drain_timeout: drain_timeout(env),
            worker_threads: threads.unwrap_or(cores),
            telemetry: TelemetrySettings::read(env),
        }
    }
}

/// Longest time from SIGTERM to exit, for whoever has to finish its work within it.
pub fn drain_timeout(env: &mut Env) -> Duration {
    env.duration_ranged(
        "WEBHOOKS_DRAIN_TIMEOUT",
        "40s",
        Duration::from_millis(100)..=Duration::from_secs(3600),
        "longest time from SIGTERM to exit; keep it below the orchestrator's kill grace",
    )
}

/// Runs a service from the environment of this process to its end. `serve` returns when it has
/// drained after [`Context::shutdown`] was cancelled, or with the error that stopped it.
pub fn run<C, S, F>(service: &'static str, serve: S) -> ExitCode
where
    C: Settings,
    S: FnOnce(C, Context) -> F,
    F: Future<Output = anyhow::Result<()>>,
{
    run_with(service, Env::from_process(), serve)
}

/// [`run`] with an environment made by the caller.
pub fn run_with<C, S, F>(service: &'static str, mut env: Env, serve: S) -> ExitCode
where
    C: Settings,
    S: FnOnce(C, Context) -> F,
    F: Future<Output = anyhow::Result<()>>,
{
    let common = CommonSettings::read(&mut env);
    let settings = C::read(&mut env);
    env.require_production();
    if let Err(error) = env.finish() {
        complain(service, &error);
        return ExitCode::from(EXIT_SETTINGS);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(common.worker_threads)
        .thread_name(service)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(service, format_args!("cannot start threads: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let telemetry = {
        let _inside = runtime.enter();
        telemetry::init(service, &common.telemetry)
    };
    let telemetry = match telemetry {
        Ok(telemetry) => telemetry,
        Err(error) => {
            complain(service, error_chain(&error));
            return ExitCode::FAILURE;
        }
    };
    panics::install_hook();
    install_tls_provider();
    let metrics = Metrics::install(telemetry.meter());
    let result = runtime.block_on(Box::pin(async {
        supervise(service, &common, &env, metrics?, settings, serve).await
    }));
    let code = match result {
        Ok(()) => {
            tracing::info!(service, "service.stopped");
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!(service, error = %format_args!("{error:#}"), "service.failed");
            ExitCode::FAILURE
        }
    };
    telemetry.shutdown();
    runtime.shutdown_timeout(RUNTIME_SHUTDOWN);
    code
}

/// Makes aws-lc-rs the TLS provider of this process, for libraries that ask for a default. Whoever
/// was first stays; calling it again is harmless.
pub fn install_tls_provider() {
    // An error only says that there is one already, which is all that is wanted.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
}

async fn supervise<C, S, F>(
    service: &'static str,
    common: &CommonSettings,
    env: &Env,
    metrics: Metrics,
    settings: C,
    serve: S,
) -> anyhow::Result<()>
where
    S: FnOnce(C, Context) -> F,
    F: Future<Output = anyhow::Result<()>>,
{
    log_start(service, env);
    let ctx = Context::new(
        Arc::new(SystemClock),
        Announcer::new(common.address_file.clone()),
    );
    let signals = Signals::catch().context("cannot catch signals")?;
    // These three live through the drain, which the service's tasks do not; dropping the set ends them.
    let mut helpers = JoinSet::new();
    helpers.spawn(signals.obey(ctx.shutdown.clone()));
    helpers.spawn(metrics.clone().upkeep());
    let admin = AdminServer::bind(common.admin_address)
        .await
        .with_context(|| format!("cannot bind the admin port {}", common.admin_address))?;
    let address = admin.address();
    ctx.announce("admin", address)
        .context("cannot write the address file")?;
    if let Some(file) = &common.admin_address_file {
        write_whole(file, &format!("{address}\n"))
            .with_context(|| format!("cannot write the admin address to {}", file.display()))?;
    }
    let (readiness, shutdown) = (ctx.readiness.clone(), ctx.shutdown.clone());
    helpers.spawn(async move {
        if let Err(error) = admin.serve(readiness, metrics).await {
            tracing::error!(error = %error, "the admin port failed");
            shutdown.cancel();
        }
    });
    until_drained(&ctx, common.drain_timeout, serve(settings, ctx.clone())).await
}

/// Runs the service, then its tasks, to their end. The deadline counts from the cancellation.
async fn until_drained(
    ctx: &Context,
    drain_timeout: Duration,
    service: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let deadline = async {
        ctx.shutdown.cancelled().await;
        ctx.readiness.fail("shutdown", "draining");
        let since = Instant::now();
        tokio::time::sleep(drain_timeout).await;
        since
    };
    let work = async {
        let result = service.await;
        // A service that returned by itself, well or not, still has tasks to stop.
        ctx.shutdown.cancel();
        ctx.tasks.wait().await;
        result
    };
    let result = tokio::select! {
        result = work => result,
        since = deadline => Err(anyhow!(
            "the drain was not complete after {:?}; still running: {:?}", since.elapsed(), ctx.tasks.running()
        )),
    };
    // The task that died is the cause; what the service says about it is the consequence.
    ctx.tasks.take_fatal().map_or(result, Err)
}

fn log_start(service: &'static str, env: &Env) {
    let version = option_env!("WEBHOOKS_VERSION").unwrap_or(env!("CARGO_PKG_VERSION"));
    let set: Vec<String> = env
        .settings()
        .iter()
        .filter(|setting| setting.from_environment)
        .map(|setting| {
            format!(
                "{}={}",
                setting.name,
                setting.effective.as_deref().unwrap_or("")
            )
        })
        .collect();
    tracing::info!(
        service,
        version,
        pid = std::process::id(),
        settings = set.join(" "),
        "service.starting"
    );
    let unknown = env.unknown();
    if !unknown.is_empty() {
        tracing::warn!(
            service,
            unknown = unknown.join(" "),
            "variables that this service does not know"
        );
    }
}

/// A task that ends the service when the future fails; a shorthand for services' main loops.
pub fn spawn_essential<F, E>(ctx: &Context, name: &str, future: F)
where
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: Into<anyhow::Error>,
{
    ctx.tasks.spawn(name, OnError::StopService, future);
}

#[cfg(test)]
mod tests {
    use super::{Context, Duration, OnError, anyhow, until_drained};

    const LIMIT: Duration = Duration::from_secs(40);
    const SHORT: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn a_service_that_returns_after_the_signal_has_drained() {
        let ctx = Context::for_tests();
        let shutdown = ctx.shutdown.clone();
        let service = async {
            ctx.tasks.spawn("pump", OnError::Log, {
                let shutdown = shutdown.clone();
                async move {
                    shutdown.cancelled().await;
                    tokio::task::yield_now().await;
                    Ok::<(), anyhow::Error>(())
                }
            });
            shutdown.cancel();
            Ok(())
        };
        until_drained(&ctx, LIMIT, service).await.unwrap();
        assert!(ctx.tasks.running().is_empty(), "tasks were waited for");
        assert!(
            ctx.readiness
                .state()
                .missing()
                .contains(&"shutdown: draining".to_owned())
        );
    }

    #[tokio::test]
    async fn a_drain_has_a_deadline() {
        let ctx = Context::for_tests();
        ctx.tasks.spawn(
            "stuck",
            OnError::Log,
            std::future::pending::<anyhow::Result<()>>(),
        );
        tokio::task::yield_now().await;
        ctx.shutdown.cancel();
        let error = until_drained(&ctx, SHORT, std::future::pending())
            .await
            .unwrap_err();
        assert!(error.to_string().contains("stuck"), "{error}");
        let error = until_drained(&ctx, SHORT, std::future::ready(Ok(())))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("stuck"), "{error}");
    }

    #[tokio::test]
    async fn the_death_of_an_essential_task_is_the_services_error() {
        let ctx = Context::for_tests();
        ctx.tasks
            .spawn("loop", OnError::StopService, async { Err(anyhow!("lost")) });
        let shutdown = ctx.shutdown.clone();
        let service = async move {
            shutdown.cancelled().await;
            Err(anyhow!("cannot go on"))
        };
        let error = until_drained(&ctx, LIMIT, service).await.unwrap_err();
        assert_eq!(format!("{error:#}"), "task loop failed: lost");
    }
}
