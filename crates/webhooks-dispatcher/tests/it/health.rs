//! Breaker, probes, automatic disabling, and what takes over when their judge goes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use uuid::Uuid;
use webhooks_bus::{HealthStore, OpsEvent, names};
use webhooks_devstack::wait_until;
use webhooks_proto::{
    internal::v1::{DeliveryReport, EndpointHealth, Status},
    v1::{DeliveryState, FailureClass},
};

use crate::{
    scripted::{Answer, Scripted},
    support::{LIMIT, World, check, ensure_eq, go_on, numbers, stand_still},
};

/// One attempt a delivery, quick probes.
pub(crate) const QUICK: &[(&str, &str)] = &[
    ("WEBHOOKS_RETRY_MAX_ATTEMPTS", "1"),
    ("WEBHOOKS_PROBE_PAUSE", "300ms"),
    ("WEBHOOKS_PROBE_PAUSE_CAP", "1s"),
];

/// Probes only after the test is over.
const NO_PROBES: &[(&str, &str)] = &[
    ("WEBHOOKS_RETRY_MAX_ATTEMPTS", "1"),
    ("WEBHOOKS_PROBE_PAUSE", "5m"),
];

/// An endpoint that answers what was stored last, after a while.
pub(crate) async fn switchable(
    first: u16,
    after: Duration,
) -> anyhow::Result<(Scripted, Arc<AtomicU16>)> {
    let status = Arc::new(AtomicU16::new(first));
    let shown = status.clone();
    let endpoint = Scripted::start(move |_, _| Answer {
        status: shown.load(Ordering::Relaxed),
        after,
    })
    .await?;
    Ok((endpoint, status))
}

impl World {
    pub(crate) async fn health(&self, webhook: Uuid) -> anyhow::Result<Option<EndpointHealth>> {
        Ok(HealthStore::new(&self.bus).get(webhook).await?.0)
    }

    pub(crate) async fn until_health(
        &self,
        webhook: Uuid,
        what: &str,
        holds: impl Fn(&EndpointHealth) -> bool,
    ) -> anyhow::Result<EndpointHealth> {
        wait_until(what, LIMIT, async || match self.health(webhook).await {
            Ok(Some(health)) if holds(&health) => Ok(health),
            other => Err(format!("{other:?}")),
        })
        .await
    }

    pub(crate) async fn until_status(
        &self,
        webhook: Uuid,
        status: Status,
    ) -> anyhow::Result<EndpointHealth> {
        self.until_health(webhook, status.as_str_name(), |health| {
            health.status() == status
        })
        .await
    }

    /// Every operational event of a webhook, oldest first.
    pub(crate) async fn told(&self, webhook: Uuid) -> anyhow::Result<Vec<OpsEvent>> {
        let last = self.bus.last_seq(names::OPS).await?;
        let mut told = Vec::new();
        for seq in 1..=last {
            if let Some(message) = self.bus.get(names::OPS, seq).await? {
                let event = OpsEvent::decode(&message.payload)?;
                if event.webhook_id == webhook {
                    ensure_eq(event.subject(), message.subject)?;
                    told.push(event);
                }
            }
        }
        Ok(told)
    }

    pub(crate) async fn until_told(&self, webhook: Uuid, kinds: &[&str]) -> anyhow::Result<()> {
        wait_until("operational events", LIMIT, async || {
            let told = self
                .told(webhook)
                .await
                .map_err(|error| error.to_string())?;
            let told: Vec<&str> = told.iter().map(|event| event.kind.as_str()).collect();
            if told == kinds {
                Ok(())
            } else {
                Err(format!("{told:?}"))
            }
        })
        .await
    }

    pub(crate) async fn owe_many(&self, webhook: Uuid, count: usize) -> anyhow::Result<Vec<Uuid>> {
        let mut owed = Vec::new();
        for _ in 0..count {
            owed.push(self.owe(webhook, &Uuid::new_v4().to_string()).await?);
        }
        Ok(owed)
    }
}

#[test]
fn five_failures_pause_and_failed_probes_with_growing_pauses_disable_once() {
    check(async {
        let world = World::start().await?;
        let _dispatcher = world.dispatcher(QUICK).await?;
        let (endpoint, _) = switchable(500, Duration::ZERO).await?;
        let webhook = Uuid::new_v4();
        world
            .webhook(webhook, &endpoint.url(), Status::Active)
            .await?;
        for delivery in world.owe_many(webhook, 5).await? {
            world.until_state(delivery, DeliveryState::Failed).await?;
        }
        let paused = world.until_status(webhook, Status::Paused).await?;
        ensure_eq(paused.reason.as_str(), "DELIVERY_FAILURES")?;
        ensure_eq(paused.run, 5)?;
        let held = world.owe_many(webhook, 6).await?;
        let disabled = world.until_status(webhook, Status::AutoDisabled).await?;
        ensure_eq(disabled.reason.as_str(), "CONSECUTIVE_FAILURES")?;
        ensure_eq(disabled.run, 10)?;
        for delivery in &held[..5] {
            world.until_state(*delivery, DeliveryState::Failed).await?;
        }
        world.until_state(held[5], DeliveryState::Held).await?;
        let seen = endpoint.seen();
        ensure_eq(seen.len(), 10)?;
        let gaps: Vec<u128> = seen[4..]
            .windows(2)
            .map(|pair| (pair[1].at - pair[0].at).as_millis())
            .collect();
        for (gap, least) in gaps.iter().zip([300, 600, 1_000, 1_000, 1_000]) {
            ensure!(*gap >= least, "{gaps:?}");
        }
        // Without the cap the last one would be 4.8 s.
        ensure!(gaps[4] < 4_800, "{gaps:?}");
        world
            .until_told(webhook, &["failing", "paused", "auto_disabled"])
            .await?;
        let told = world.told(webhook).await?;
        ensure!(
            told.iter()
                .all(|event| event.episode_id == told[0].episode_id),
            "{told:?}"
        );
        ensure_eq(told[2].status.as_str(), "AUTO_DISABLED")?;
        ensure_eq((told[0].run, told[2].run), (5, 10))?;
        let last = told[2].last_failure.as_ref().context("the last failure")?;
        ensure_eq(last.status_code, Some(500))
    });
}

#[test]
fn a_probe_is_the_next_attempt_of_a_held_delivery_which_is_held_again_when_it_fails() {
    check(async {
        let world = World::start().await?;
        let _dispatcher = world
            .dispatcher(&[
                ("WEBHOOKS_RETRY_MAX_ATTEMPTS", "2"),
                ("WEBHOOKS_PROBE_PAUSE", "500ms"),
            ])
            .await?;
        let endpoint = Scripted::start(|event, times| Answer {
            status: if event == "held" && times == 2 {
                200
            } else {
                500
            },
            after: Duration::ZERO,
        })
        .await?;
        let webhook = Uuid::new_v4();
        world
            .webhook(webhook, &endpoint.url(), Status::Active)
            .await?;
        world.owe_many(webhook, 5).await?;
        world.until_status(webhook, Status::Paused).await?;
        let before = endpoint.seen().len();
        let held = world.owe(webhook, "held").await?;
        let reports = world.until_state(held, DeliveryState::Delivered).await?;
        ensure_eq(reports[0].state(), DeliveryState::Held)?;
        ensure_eq(numbers(&reports), vec![1, 2])?;
        let probed = reports
            .iter()
            .find(|report| report.attempt.is_some())
            .context("the probe's report")?;
        ensure_eq(probed.state(), DeliveryState::Held)?;
        ensure_eq(endpoint.seen().len(), before + 2)?;
        let well = world.until_status(webhook, Status::Active).await?;
        ensure_eq(well.run, 0)?;
        world
            .until_told(webhook, &["failing", "paused", "resumed"])
            .await?;
        world.until_settled().await
    });
}

#[test]
fn a_success_closes_the_breaker_and_the_backlog_drains_with_a_ramp() {
    check(async {
        let world = World::start().await?;
        let _dispatcher = world.dispatcher(QUICK).await?;
        let (endpoint, status) = switchable(500, Duration::from_millis(100)).await?;
        let webhook = Uuid::new_v4();
        world
            .webhook(webhook, &endpoint.url(), Status::Active)
            .await?;
        world.owe_many(webhook, 5).await?;
        world.until_status(webhook, Status::Paused).await?;
        // Before there is anything to probe with: the first probe may come while these are published.
        status.store(200, Ordering::Relaxed);
        let held = world.owe_many(webhook, 100).await?;
        world.until_status(webhook, Status::Active).await?;
        endpoint.most_open();
        for delivery in held {
            world
                .until_state(delivery, DeliveryState::Delivered)
                .await?;
        }
        world.until_settled().await?;
        let well: Vec<Instant> = endpoint
            .seen()
            .iter()
            .filter(|seen| seen.status == 200)
            .map(|seen| seen.at)
            .collect();
        ensure_eq(well.len(), 100)?;
        let within = |seconds: f64| {
            let until = well[0] + Duration::from_secs_f64(seconds);
            well.iter().filter(|at| **at <= until).count()
        };
        // One at a time for a second, then two: at most 10, then 20 a second.
        ensure!(within(0.9) <= 11, "{} at once", within(0.9));
        ensure!(within(1.9) <= 33, "{} too soon", within(1.9));
        ensure!(endpoint.most_open() <= 8, "more than the cap");
        Ok(())
    });
}

#[test]
fn a_410_disables_at_once_and_holds_what_comes_after() {
    check(async {
        let world = World::start().await?;
        let _dispatcher = world.dispatcher(&[]).await?;
        let webhook = Uuid::new_v4();
        world
            .webhook(webhook, "/status/410", Status::Active)
            .await?;
        let gone = world.owe(webhook, "e1").await?;
        world.until_state(gone, DeliveryState::Failed).await?;
        let disabled = world.until_status(webhook, Status::AutoDisabled).await?;
        ensure_eq(disabled.reason.as_str(), "ENDPOINT_GONE")?;
        let held = world.owe(webhook, "e2").await?;
        world.until_state(held, DeliveryState::Held).await?;
        world.until_told(webhook, &["auto_disabled"]).await?;
        ensure_eq(world.receiver.count(), 1)
    });
}

#[test]
fn what_is_our_own_fault_counts_for_nothing() {
    check(async {
        let world = World::start().await?;
        let few = [
            ("WEBHOOKS_BREAKER_FAILURES", "2"),
            ("WEBHOOKS_AUTO_DISABLE_FAILURES", "3"),
        ];
        let _dispatcher = world.dispatcher(&[QUICK, &few].concat()).await?;
        let webhook = Uuid::new_v4();
        // No key to sign with.
        world
            .webhook_with(webhook, "/ok", Status::Active, |config| {
                config.secrets.clear();
            })
            .await?;
        let owed = world.owe_many(webhook, 12).await?;
        // More than would disable it; the endpoint rests between them, and the others wait.
        wait_until("four failures of our own", LIMIT, async || {
            let mut failed = 0;
            for delivery in &owed {
                let reports = world.reports(*delivery).await;
                let reports = reports.map_err(|error| error.to_string())?;
                let ours = |report: &DeliveryReport| {
                    let attempt = report.attempt.as_ref();
                    attempt.is_some_and(|attempt| attempt.class() == FailureClass::Ours)
                };
                if reports.iter().any(|report| !ours(report)) {
                    return Err(format!("{reports:?}"));
                }
                failed += reports.len();
            }
            (failed >= 4).then_some(()).ok_or(format!("{failed}"))
        })
        .await?;
        ensure_eq(world.health(webhook).await?, None)?;
        world.webhook(webhook, "/ok", Status::Active).await?;
        for delivery in owed {
            world
                .until_state(delivery, DeliveryState::Delivered)
                .await?;
        }
        ensure_eq(world.health(webhook).await?, None)?;
        ensure_eq(world.told(webhook).await?, Vec::new())
    });
}

#[test]
fn a_success_between_ends_the_run() {
    check(async {
        let world = World::start().await?;
        let _dispatcher = world.dispatcher(NO_PROBES).await?;
        let (endpoint, status) = switchable(500, Duration::ZERO).await?;
        let webhook = Uuid::new_v4();
        world
            .webhook(webhook, &endpoint.url(), Status::Active)
            .await?;
        for (answer, count, run) in [(500, 4, 4), (200, 1, 0), (500, 4, 4)] {
            status.store(answer, Ordering::Relaxed);
            world.owe_many(webhook, count).await?;
            world
                .until_health(webhook, "the run", |health| health.run == run)
                .await?;
        }
        let health = world.health(webhook).await?.context("a record")?;
        ensure_eq(health.status(), Status::Active)?;
        ensure_eq(world.told(webhook).await?, Vec::new())
    });
}

#[test]
fn fifty_that_fail_at_once_disable_once_while_the_partitions_move() {
    check(async {
        let world = World::start().await?;
        let settings = [
            ("WEBHOOKS_RETRY_MAX_ATTEMPTS", "1"),
            ("WEBHOOKS_PROBE_PAUSE", "5m"),
            ("WEBHOOKS_ENDPOINT_IN_FLIGHT", "50"),
        ];
        let mut owner = world.dispatcher(&settings).await?;
        for round in 0..3 {
            let (endpoint, _) = switchable(500, Duration::from_millis(700)).await?;
            endpoint.hold();
            let webhook = Uuid::new_v4();
            world
                .webhook(webhook, &endpoint.url(), Status::Active)
                .await?;
            world.owe_many(webhook, 50).await?;
            wait_until("requests in flight", LIMIT, async || {
                match endpoint.open() {
                    50 => Ok(()),
                    open => Err(open),
                }
            })
            .await?;
            // They end while their partition goes to another.
            endpoint.let_go();
            let next = world.dispatcher(&settings).await?;
            owner.stop().await?;
            owner = next;
            let health = world.until_status(webhook, Status::AutoDisabled).await?;
            world
                .until_told(webhook, &["failing", "paused", "auto_disabled"])
                .await
                .with_context(|| format!("round {round}"))?;
            ensure_eq((health.run, health.transitions), (10, 2))?;
            ensure_eq(endpoint.seen().len(), 50)?;
            world.until_settled().await?;
        }
        owner.stop().await
    });
}

#[test]
fn many_webhooks_are_disabled_once_each_through_an_owners_kill() {
    check(async {
        let world = World::start().await?;
        let settings = [
            ("WEBHOOKS_RETRY_MAX_ATTEMPTS", "1"),
            ("WEBHOOKS_PROBE_PAUSE", "200ms"),
            ("WEBHOOKS_PROBE_PAUSE_CAP", "500ms"),
            ("WEBHOOKS_ENDPOINT_IN_FLIGHT", "50"),
        ];
        let mut killed = world.process(&settings)?;
        let _other = world.dispatcher(&settings).await?;
        let (endpoint, _) = switchable(500, Duration::from_millis(400)).await?;
        let mut webhooks = Vec::new();
        for _ in 0..24 {
            let webhook = Uuid::new_v4();
            world
                .webhook(webhook, &endpoint.url(), Status::Active)
                .await?;
            webhooks.push(webhook);
        }
        for webhook in &webhooks {
            world.owe_many(*webhook, 12).await?;
        }
        // Some have ended, some are in flight, some have not started.
        wait_until("answers", LIMIT, async || match endpoint.seen().len() {
            some if some >= 60 => Ok(()),
            some => Err(some),
        })
        .await?;
        killed.kill().await?;
        for webhook in &webhooks {
            let health = world.until_status(*webhook, Status::AutoDisabled).await?;
            ensure_eq((health.run, health.transitions), (10, 2))?;
            world
                .until_told(*webhook, &["failing", "paused", "auto_disabled"])
                .await?;
        }
        Ok(())
    });
}

#[test]
fn failures_that_end_at_an_owner_that_left_are_counted_by_the_next() {
    check(async {
        let world = World::start().await?;
        let first = world.dispatcher(NO_PROBES).await?;
        let (endpoint, _) = switchable(500, Duration::from_secs(3)).await?;
        endpoint.hold();
        let webhook = Uuid::new_v4();
        world
            .webhook(webhook, &endpoint.url(), Status::Active)
            .await?;
        let owed = world.owe_many(webhook, 5).await?;
        wait_until("requests in flight", LIMIT, async || {
            match endpoint.open() {
                5 => Ok(()),
                open => Err(open),
            }
        })
        .await?;
        let second = world.dispatcher(NO_PROBES).await?;
        endpoint.let_go();
        let began = Instant::now();
        let (stopped, paused) =
            tokio::join!(first.stop(), world.until_status(webhook, Status::Paused));
        stopped?;
        ensure_eq(paused?.run, 5)?;
        ensure!(
            began.elapsed() < Duration::from_secs(20),
            "{:?}",
            began.elapsed()
        );
        for delivery in owed {
            let reports = world.until_state(delivery, DeliveryState::Failed).await?;
            ensure_eq(numbers(&reports), vec![1])?;
        }
        world.until_settled().await?;
        ensure_eq(endpoint.seen().len(), 5)?;
        second.stop().await
    });
}

#[test]
fn the_state_survives_the_owners_kill() {
    check(async {
        let world = World::start().await?;
        let (endpoint, status) = switchable(500, Duration::ZERO).await?;
        let webhook = Uuid::new_v4();
        world
            .webhook(webhook, &endpoint.url(), Status::Active)
            .await?;
        let slow = [
            ("WEBHOOKS_RETRY_MAX_ATTEMPTS", "1"),
            ("WEBHOOKS_PROBE_PAUSE", "6s"),
        ];
        let mut killed = world.process(&slow)?;
        world.owe_many(webhook, 3).await?;
        let before = world
            .until_health(webhook, "three failures", |health| health.run == 3)
            .await?;
        // What is counted may not yet be acknowledged, and would be sent again.
        world.until_settled().await?;
        // SIGKILL.
        killed.kill().await?;
        let mut killed = world.process(&slow)?;
        world.owe_many(webhook, 2).await?;
        let paused = world.until_status(webhook, Status::Paused).await?;
        ensure_eq((paused.run, paused.episode), (5, before.episode))?;
        let held = world.owe_many(webhook, 3).await?;
        for delivery in &held {
            world.until_state(*delivery, DeliveryState::Held).await?;
        }
        world.until_taken().await?;
        killed.kill().await?;
        status.store(200, Ordering::Relaxed);
        let sent = endpoint.seen().len();
        let _dispatcher = world.dispatcher(QUICK).await?;
        for delivery in held {
            world
                .until_state(delivery, DeliveryState::Delivered)
                .await?;
        }
        ensure_eq(sent, 5)?;
        world
            .until_told(webhook, &["failing", "paused", "resumed"])
            .await?;
        let health = world.until_status(webhook, Status::Active).await?;
        ensure!(
            health.since >= paused.next_probe_at,
            "not before its time, also at the next owner"
        );
        Ok(())
    });
}

#[test]
fn an_owner_that_slept_through_the_loss_of_its_partition_writes_nothing() {
    check(async {
        let world = World::start().await?;
        let (endpoint, _) = switchable(500, Duration::from_secs(1)).await?;
        endpoint.hold();
        let webhook = Uuid::new_v4();
        world
            .webhook(webhook, &endpoint.url(), Status::Active)
            .await?;
        let mut sleeper = world.process(NO_PROBES)?;
        let owed = world.owe_many(webhook, 3).await?;
        wait_until("requests in flight", LIMIT, async || {
            match endpoint.open() {
                3 => Ok(()),
                open => Err(open),
            }
        })
        .await?;
        stand_still(&sleeper).await?;
        endpoint.let_go();
        let _owner = world.dispatcher(NO_PROBES).await?;
        let counted = world
            .until_health(webhook, "three failures", |health| health.run == 3)
            .await?;
        go_on(&sleeper).await?;
        // It ends what it had on the wire, and says so to the owner, who has counted these already.
        for delivery in owed {
            wait_until("both executions", LIMIT, async || {
                let reports = world.reports(delivery).await.unwrap_or_default();
                match numbers(&reports).as_slice() {
                    [1, 1] => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            })
            .await?;
        }
        world.until_settled().await?;
        ensure_eq(world.health(webhook).await?, Some(counted))?;
        sleeper.kill().await?;
        Ok(())
    });
}

#[test]
fn a_deleted_webhooks_record_goes() {
    check(async {
        let world = World::start().await?;
        let _dispatcher = world.dispatcher(NO_PROBES).await?;
        let webhook = Uuid::new_v4();
        world
            .webhook(webhook, "/status/500", Status::Active)
            .await?;
        world.owe_many(webhook, 5).await?;
        world.until_status(webhook, Status::Paused).await?;
        world.delete(webhook).await?;
        wait_until("no record", LIMIT, async || {
            match world.health(webhook).await {
                Ok(None) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await
    });
}
