//! `webhooks-dispatcher`: takes deliveries, calls their endpoints, records every attempt.
//!
//! Replicas share the work by *partitions*: each endpoint belongs to one (by hash of the webhook's
//! id), each partition to one dispatcher at a time ([`webhooks_bus::Leases`]). So an endpoint's cap
//! and queue are plain objects in memory at its owner, and hold across replicas without a central
//! limiter. One task owns one partition ([`partition`]); nothing in it is locked.
//!
//! The order of send, record and acknowledge is the promise:
//!
//! 1. send (at most one request on the wire for an attempt),
//! 2. record: the report is durable in Postgres or on the REPORTS stream, and a retry, if one is
//!    due, is durable on RETRIES,
//! 3. acknowledge the delivery's message.
//!
//! A crash between 1 and 2 may repeat an attempt, never skip one; a crash between 2 and 3 makes
//! the next owner find the recorded outcome before it sends again. What is *not* guaranteed: that
//! an endpoint sees each attempt once. It sees the same `webhook-id` each time.

mod attempt;
mod blocked;
mod budget;
mod endpoint;
mod fair;
mod finished;
mod floor;
mod health;
mod held;
mod job;
mod kin;
mod line;
mod owner;
mod pace;
mod panics;
mod parked;
mod partition;
mod partition_io;
mod registry;
mod report;
mod reporter;
mod settings;
mod shared;
mod stall;
mod tenure;

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use webhooks_bus::{
    Bus, CancelledMirror, ConfigMirror, HealthMirror, Leases, LeasesSettings, Pulse, SteadyClock,
};
use webhooks_egress::Egress;
use webhooks_runtime::{Context, OnError};

pub use settings::{Config, Limits};

use crate::{
    registry::{Defaults, Registry},
    reporter::Reporter,
    shared::{PartitionSettings, Shared},
};

/// How long a member of the group lives without renewal.
const MEMBER_TTL: Duration = Duration::from_secs(3);

/// How often it renews.
const MEMBER_RENEW: Duration = Duration::from_millis(500);

/// Runs the dispatcher until [`Context::shutdown`], then drains it.
///
/// # Errors
/// When settings contradict each other or the outbound client cannot be built.
pub async fn run(config: Config, ctx: Context) -> anyhow::Result<()> {
    let keyring = config
        .keyring
        .context("WEBHOOKS_ENCRYPTION_KEYS is missing")?;
    let egress = config
        .egress
        .load()
        .context("reading extra certificate authorities")?;
    let policy = egress.policy.clone();
    let egress = Egress::new(egress)?;
    let name = format!("d-{}", Uuid::new_v4().simple());
    let partitions = config.bus.partitions;
    let bus = Bus::connect(config.bus, &name).await?;
    ctx.readiness.fail("nats", "connecting");
    // Ends after everything else: leases and the read model serve until the last request is done.
    let ended = CancellationToken::new();
    let pulse = keep_pulse(&ctx, &bus, ended.clone());
    let readiness = ctx.readiness.clone();
    if bus
        .wait_ready(ctx.shutdown.cancelled(), |reason| {
            readiness.fail("nats", reason)
        })
        .await
        .is_err()
    {
        ended.cancel();
        return Ok(());
    }
    ctx.readiness.ok("nats");

    let registry = Arc::new(Registry::new(
        policy,
        keyring,
        Defaults::of(&config.retry, &config.limits),
        partitions,
    ));
    let mirror = ConfigMirror::start(&bus, registry.clone(), ended.clone());
    let steady = Arc::new(SteadyClock::new(ctx.clock.clone()));
    let (reporter, reporting) = Reporter::new(
        &bus,
        &config.management,
        &config.management_tls,
        &config.internal_token,
        steady.clone(),
    )?;
    ctx.tasks
        .spawn("reports", OnError::StopService, async move {
            reporting.await;
            anyhow::Ok(())
        });
    wait_loaded(&mirror, &ctx).await;
    let settings = LeasesSettings {
        member: name.clone(),
        partitions,
        ttl: MEMBER_TTL,
        renew: MEMBER_RENEW,
    };
    let (leases, events) = Leases::start(&bus, settings, ended.clone());
    let shared = Shared::new(
        name,
        bus.clone(),
        egress,
        registry,
        mirror,
        reporter,
        leases.clone(),
        HealthMirror::start(&bus, ended.clone()),
        steady,
        PartitionSettings {
            limits: config.limits,
            health: config.health,
            hold_max_age: config.hold_max_age,
        },
    );
    let cancelled = CancelledMirror::start(&bus, ended.clone());
    while !cancelled.loaded() && !ctx.shutdown.is_cancelled() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let shared = Arc::new(shared.with_cancelled(cancelled));
    fit_places(&shared);
    ctx.readiness.fail("partitions", "joining");
    watch_stalls(&ctx, &shared, ended.clone());
    watch_clock(&ctx, &shared);
    watch_readiness(&ctx, &shared, pulse);
    ctx.started();
    let drained = owner::own_partitions(&ctx, &shared, events).await;
    if !drained {
        tracing::warn!("requests were still on the wire at the end; their deliveries go out again");
    }
    leases.gone().await;
    bus.flush().await;
    ended.cancel();
    Ok(())
}

async fn wait_loaded(mirror: &ConfigMirror, ctx: &Context) {
    ctx.readiness.fail("config", "the read model is loading");
    while !mirror.loaded() && !ctx.shutdown.is_cancelled() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ctx.readiness.ok("config");
}

/// Notices whether NATS answers, and goes to another node where JetStream does not.
fn keep_pulse(ctx: &Context, bus: &Bus, ended: CancellationToken) -> Pulse {
    let pulse = Pulse::new(bus);
    let kept = pulse.clone();
    ctx.tasks.spawn("pulse", OnError::Log, async move {
        ended.run_until_cancelled(kept.keep()).await;
        anyhow::Ok(())
    });
    pulse
}

/// Notices when this process stands still, until the last attempt has ended.
fn watch_stalls(ctx: &Context, shared: &Arc<Shared>, ended: CancellationToken) {
    let shared = shared.clone();
    ctx.tasks.spawn("stalls", OnError::Log, async move {
        ended.run_until_cancelled(shared.stalls.watch()).await;
        anyhow::Ok(())
    });
}

/// Watches over the clock while the dispatcher runs.
fn watch_clock(ctx: &Context, shared: &Arc<Shared>) {
    ctx.readiness.fail("clock", "not confirmed yet");
    let (readiness, shared, shutdown) =
        (ctx.readiness.clone(), shared.clone(), ctx.shutdown.clone());
    ctx.tasks.spawn("clock", OnError::Log, async move {
        let aside = |aside| {
            let leases = shared.leases.clone();
            async move { leases.stand_aside(aside).await }
        };
        let watch = shared.steady.watch(&shared.bus, &readiness, aside);
        shutdown.run_until_cancelled(watch).await;
        anyhow::Ok(())
    });
}

/// As many requests at a time as the descriptors of this process allow, and no more than it is told.
fn fit_places(shared: &Shared) {
    let told = shared.settings.limits.in_flight;
    let places = told.min(shared.egress.most_connections());
    let before = shared.places.limit_to(places);
    if places < before {
        tracing::warn!(
            places,
            told,
            "few file descriptors: fewer requests at a time than WEBHOOKS_DISPATCHER_IN_FLIGHT says"
        );
    }
}

/// Keeps `/readyz` true while the dispatcher runs.
fn watch_readiness(ctx: &Context, shared: &Arc<Shared>, pulse: Pulse) {
    let (readiness, shared, shutdown) =
        (ctx.readiness.clone(), shared.clone(), ctx.shutdown.clone());
    ctx.tasks.spawn("readiness", OnError::Log, async move {
        let watch = async {
            loop {
                readiness.set("nats", pulse.check());
                let stale = shared
                    .mirror
                    .fresh_as_of()
                    .is_none_or(|at| at.elapsed() > shared.settings.limits.stale_after);
                let config = if stale {
                    Err("the read model is stale".to_owned())
                } else {
                    Ok(())
                };
                readiness.set("config", config);
                let ownerless = shared.leases.ownerless();
                let partitions = match ownerless {
                    0 => Ok(()),
                    some => Err(format!("{some} without an owner")),
                };
                readiness.set("partitions", partitions);
                metrics::gauge!("webhooks_partitions_ownerless")
                    .set(f64::from(u32::try_from(ownerless).unwrap_or(u32::MAX)));
                fit_places(&shared);
                let owned = shared.leases.owned();
                metrics::gauge!("webhooks_partitions_owned")
                    .set(f64::from(u32::try_from(owned).unwrap_or(u32::MAX)));
                let on_wire = shared.places.in_use();
                metrics::gauge!("webhooks_requests_in_flight")
                    .set(f64::from(u32::try_from(on_wire).unwrap_or(u32::MAX)));
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        };
        shutdown.run_until_cancelled(watch).await;
        anyhow::Ok(())
    });
}
