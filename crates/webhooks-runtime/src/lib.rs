//! `webhooks-runtime`: what every service binary shares.
//!
//! ```no_run
//! use webhooks_runtime::{Context, Env, Settings};
//!
//! struct Config { batch: u32 }
//!
//! impl Settings for Config {
//!     fn read(env: &mut Env) -> Self {
//!         Self { batch: env.ranged("WEBHOOKS_EXAMPLE_BATCH", 100, 1..=1000, "messages per pull") }
//!     }
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     webhooks_runtime::run("example", |config: Config, ctx: Context| async move {
//!         // build: connect, check, bind; then
//!         ctx.started();
//!         ctx.shutdown.cancelled().await; // serve
//!         Ok(())
//!     })
//! }
//! ```
//!
//! Settings, shutdown, readiness, tasks and the clock arrive as arguments, so several services fit
//! into one process ([`Context::scoped`]) and a test builds a [`Context`] by hand. Only two things
//! are per process, because their ecosystems have it so: the log subscriber and the metrics recorder.

pub mod admin;
mod announce;
mod backoff;
pub mod callers;
mod clock;
pub mod connections;
mod context;
mod errors;
mod metrics;
pub mod panics;
pub mod rate;
mod readiness;
pub mod request_id;
mod run;
pub mod settings;
mod shutdown;
mod tasks;
pub mod telemetry;
pub mod tls;

pub use self::{
    announce::{Announcer, write_whole},
    backoff::{Backoff, retry},
    clock::{Clock, ManualClock, SystemClock},
    context::Context,
    errors::error_chain,
    metrics::{Metrics, MetricsError, UPKEEP_PERIOD},
    readiness::{Readiness, ReadinessState},
    run::{
        CommonSettings, EXIT_SETTINGS, drain_timeout, install_tls_provider, run, run_with,
        spawn_essential,
    },
    settings::{Env, Secret, Settings, SettingsError},
    shutdown::{EXIT_INTERRUPTED, Signals},
    tasks::{OnError, Tasks},
};

/// The allocator of every service. A fifth of a dispatcher's time under load was spent in the
/// system's (profiled with `perf`, 2,200 deliveries a second on two cores).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
