//! What management does without being asked. Each task has one purpose, survives the absence of
//! Postgres and NATS by waiting, and ends with the service.
//!
//! Consumers follow one rule: acknowledge after the commit. A crash in between brings the message
//! again, and every batch call of the store is idempotent. What cannot be decoded, or what the
//! store refuses for good, is buried (kept as a dead letter) and acknowledged, so that it never
//! blocks what comes after it.

mod consume;
mod expiry;
mod health;
mod jobs;
mod maintenance;
mod reconcile;
mod repair;
mod reports;
mod stats;
mod verdicts;

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use webhooks_bus::{Bus, ConfigWriter, Pulse};
use webhooks_domain::clock::Clock;
use webhooks_runtime::{Backoff, Context, Readiness, error_chain};
use webhooks_store::Store;

use crate::service::{Challenges, TailHub};

use crate::mail::Mailer;

pub(crate) use reports::{ReportBatcher, ReportError};

/// What the tasks work with.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) store: Store,
    pub(crate) tail: TailHub,
    pub(crate) challenges: Challenges,
    pub(crate) bus: Bus,
    pub(crate) writer: ConfigWriter,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) readiness: Readiness,
    pub(crate) shutdown: CancellationToken,
    pub(crate) mailer: Mailer,
    /// Whether the database's role must not be able to change the audit log.
    pub(crate) production: bool,
    /// Where customers see their webhooks.
    pub(crate) dashboard: Option<String>,
}

/// How often readiness looks at Postgres and NATS.
const HEALTH_EVERY: Duration = Duration::from_secs(1);

/// Starts all of them.
pub(crate) fn start(ctx: &Context, around: &Surroundings, retention_days: u32) {
    let spawn = |name: &'static str,
                 make: fn(
        Surroundings,
    ) -> futures::future::BoxFuture<'static, anyhow::Result<()>>| {
        let around = around.clone();
        ctx.tasks
            .spawn_restarting(name, Backoff::CONNECT, move || make(around.clone()));
    };
    spawn("health", |around| Box::pin(health(around)));
    spawn("verdicts", |around| Box::pin(verdicts::run(around)));
    spawn("spool", |around| Box::pin(reports::drain_spool(around)));
    spawn("stats", |around| Box::pin(stats::run(around)));
    spawn("reconcile", |around| Box::pin(reconcile::run(around)));
    spawn("expiry", |around| Box::pin(expiry::run(around)));
    spawn("jobs", |around| Box::pin(jobs::run(around)));
    spawn("health_mirror", |around| Box::pin(health::mirror(around)));
    spawn("mails", |around| Box::pin(health::mails(around)));
    spawn("repair", |around| Box::pin(repair::run(around)));
    let around = around.clone();
    ctx.tasks
        .spawn_restarting("maintenance", Backoff::CONNECT, move || {
            maintenance::run(around.clone(), retention_days)
        });
}

/// Keeps readiness telling the truth about what the service needs.
async fn health(around: Surroundings) -> anyhow::Result<()> {
    let pulse = Pulse::new(&around.bus);
    let looking = async {
        loop {
            around.readiness.set("nats", pulse.check());
            let postgres = around
                .store
                .ping()
                .await
                .map_err(|error| error_chain(&error));
            around.readiness.set("postgres", postgres);
            if pause(&around, HEALTH_EVERY).await {
                break;
            }
        }
    };
    tokio::select! {
        () = looking => {}
        () = pulse.keep() => {}
    }
    Ok(())
}

/// Waits; true = the service is to end.
async fn pause(around: &Surroundings, length: Duration) -> bool {
    around
        .shutdown
        .run_until_cancelled(tokio::time::sleep(length))
        .await
        .is_none()
}
