//! What is held: a person's choice about it, its limits.

use anyhow::ensure;
use uuid::Uuid;
use webhooks_bus::{names, topology};
use webhooks_devstack::wait_until;
use webhooks_domain::clock::Clock as _;
use webhooks_proto::{
    internal::v1::{HeldChoice, Status},
    v1::DeliveryState,
};
use webhooks_runtime::SystemClock;

use crate::support::{LIMIT, World, check, ensure_eq};

impl World {
    /// A webhook that was disabled for a 410, with five deliveries held.
    async fn disabled_with_five(&self) -> anyhow::Result<(Uuid, Vec<Uuid>)> {
        let webhook = Uuid::new_v4();
        self.webhook(webhook, "/status/410", Status::Active).await?;
        let gone = self.owe(webhook, "gone").await?;
        self.until_state(gone, DeliveryState::Failed).await?;
        self.until_status(webhook, Status::AutoDisabled).await?;
        let held = self.owe_many(webhook, 5).await?;
        for delivery in &held {
            self.until_state(*delivery, DeliveryState::Held).await?;
        }
        Ok((webhook, held))
    }

    /// A person enables it again; returns when.
    async fn enable(&self, webhook: Uuid, epoch: u64, choice: HeldChoice) -> anyhow::Result<i64> {
        let now = SystemClock.now_micros();
        self.webhook_with(webhook, "/ok", Status::Active, |config| {
            config.health_epoch = epoch;
            config.held_choice = choice.into();
            config.held_choice_at = now;
        })
        .await?;
        Ok(now)
    }

    pub(crate) async fn until_held(&self, webhook: Uuid, count: u64) -> anyhow::Result<()> {
        wait_until("held deliveries", LIMIT, async || {
            match self.held_count(webhook).await {
                Ok(held) if held == count => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await
    }

    pub(crate) async fn held_count(&self, webhook: Uuid) -> anyhow::Result<u64> {
        let counts = self.bus.subject_counts(names::HELD, "wh.held.>").await?;
        let mine = webhook.simple().to_string();
        Ok(counts
            .iter()
            .filter(|(subject, _)| subject.ends_with(&mine))
            .map(|(_, count)| *count)
            .sum())
    }
}

#[test]
fn a_disabled_webhook_stays_so_until_a_person_sets_its_status() {
    check(async {
        let world = World::start().await?;
        let _dispatcher = world.dispatcher(&[]).await?;
        let (webhook, held) = world.disabled_with_five().await?;
        // Another name, another URL: no person set the status.
        world.webhook(webhook, "/ok", Status::Active).await?;
        let more = world.owe(webhook, "more").await?;
        world.until_state(more, DeliveryState::Held).await?;
        ensure_eq(world.held_count(webhook).await?, 6)?;
        world.enable(webhook, 1, HeldChoice::Deliver).await?;
        for delivery in held.into_iter().chain([more]) {
            world
                .until_state(delivery, DeliveryState::Delivered)
                .await?;
        }
        let health = world.until_status(webhook, Status::Active).await?;
        ensure_eq((health.epoch, health.run), (1, 0))?;
        world.until_settled().await
    });
}

#[test]
fn what_was_held_stays_while_new_events_flow_until_somebody_chooses() {
    check(async {
        let world = World::start().await?;
        let _dispatcher = world.dispatcher(&[]).await?;
        let (webhook, held) = world.disabled_with_five().await?;
        let kept_at = world.enable(webhook, 1, HeldChoice::Keep).await?;
        let fresh = world.owe(webhook, "fresh").await?;
        world.until_state(fresh, DeliveryState::Delivered).await?;
        // A later pause by the user: what it holds goes on resume, what was kept stays.
        world
            .webhook_with(webhook, "/ok", Status::Paused, |config| {
                config.health_epoch = 2;
                config.held_choice_at = kept_at;
            })
            .await?;
        // In force within 2 s: until then one may still go out.
        let mut number = 0;
        let paused = loop {
            let paused = world.owe(webhook, &format!("paused-{number}")).await?;
            if world.first_state(paused).await? == DeliveryState::Held {
                break paused;
            }
            number += 1;
            ensure!(number < 200, "it is not in force");
        };
        world
            .webhook_with(webhook, "/ok", Status::Active, |config| {
                config.health_epoch = 3;
                config.held_choice_at = kept_at;
            })
            .await?;
        world.until_state(paused, DeliveryState::Delivered).await?;
        world.until_held(webhook, 5).await?;
        world.enable(webhook, 4, HeldChoice::Discard).await?;
        for delivery in held {
            let reports = world
                .until_state(delivery, DeliveryState::Cancelled)
                .await?;
            ensure_eq(
                reports.last().map(|report| report.reason.as_str()),
                Some("held_discarded"),
            )?;
        }
        let fresh = world.owe(webhook, "fresh again").await?;
        world.until_state(fresh, DeliveryState::Delivered).await?;
        world.until_settled().await
    });
}

#[test]
fn what_is_held_for_too_long_ends_and_is_recorded() {
    check(async {
        let world = World::start().await?;
        let _dispatcher = world.dispatcher(&[("WEBHOOKS_HOLD_MAX_AGE", "2s")]).await?;
        let webhook = Uuid::new_v4();
        world.webhook(webhook, "/ok", Status::Paused).await?;
        let began = std::time::Instant::now();
        for delivery in world.owe_many(webhook, 3).await? {
            let reports = world
                .until_state(delivery, DeliveryState::Cancelled)
                .await?;
            let states: Vec<_> = reports.iter().map(|report| report.state()).collect();
            ensure_eq(states, vec![DeliveryState::Held, DeliveryState::Cancelled])?;
            ensure_eq(reports[1].reason.as_str(), "hold_expired")?;
        }
        ensure!(began.elapsed().as_secs() >= 2, "too soon");
        world.until_settled().await?;
        ensure_eq(world.receiver.count(), 0)
    });
}

#[test]
fn beyond_its_workspaces_plan_the_newest_that_are_held_end_and_are_recorded() {
    check(async {
        let world = World::start().await?;
        let _dispatcher = world.dispatcher(&[]).await?;
        let webhook = Uuid::new_v4();
        let pause = |most| {
            world.webhook_with(webhook, "/ok", Status::Paused, move |config| {
                config.held_max = most;
            })
        };
        pause(None).await?;
        let mut owed = world.owe_many(webhook, 5).await?;
        for delivery in &owed {
            world.until_state(*delivery, DeliveryState::Held).await?;
        }
        // The plan shrinks: what is there beyond it ends too.
        pause(Some(2)).await?;
        wait_until("two left", LIMIT, async || {
            match world.held_count(webhook).await {
                Ok(2) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await?;
        let newest = world.owe(webhook, "newest").await?;
        world.until_state(newest, DeliveryState::Cancelled).await?;
        owed.push(newest);
        let mut ends = Vec::new();
        for delivery in owed {
            let last = world.reports(delivery).await?.pop();
            ends.extend(last.map(|last| (last.state(), last.reason)));
        }
        ends.sort();
        let held = (DeliveryState::Held, String::new());
        let ended = (DeliveryState::Cancelled, "hold_overflow".to_owned());
        ensure_eq(ends, [vec![held; 2], vec![ended; 4]].concat())?;
        world.webhook(webhook, "/ok", Status::Active).await?;
        world.until_settled().await?;
        ensure_eq(world.receiver.count(), 2)
    });
}

#[test]
fn what_does_not_fit_into_a_webhooks_place_ends_and_is_recorded() {
    check(async {
        let world = World::start().await?;
        let mut held = topology::streams(world.bus.settings())
            .into_iter()
            .find(|stream| stream.name == names::HELD)
            .expect("it is in the topology");
        held.max_messages_per_subject = 2;
        // After it has started: it would not with a stream that is not as it must be.
        let _dispatcher = world.dispatcher(&[]).await?;
        world.bus.jetstream().update_stream(held).await?;
        let webhook = Uuid::new_v4();
        world.webhook(webhook, "/ok", Status::Paused).await?;
        let owed = world.owe_many(webhook, 4).await?;
        wait_until("two held and two ended", LIMIT, async || {
            let mut ends = Vec::new();
            for delivery in &owed {
                let reports = world.reports(*delivery).await;
                let last = reports.ok().and_then(|mut reports| reports.pop());
                ends.extend(last.map(|last| (last.state(), last.reason)));
            }
            let count = |state, reason: &str| {
                let wanted = (state, reason.to_owned());
                ends.iter().filter(|end| **end == wanted).count()
            };
            let held = count(DeliveryState::Held, "");
            let ended = count(DeliveryState::Cancelled, "hold_overflow");
            if (held, ended) == (2, 2) {
                Ok(())
            } else {
                Err(format!("{ends:?}"))
            }
        })
        .await?;
        world.webhook(webhook, "/ok", Status::Active).await?;
        world.until_settled().await?;
        ensure_eq(world.receiver.count(), 2)
    });
}
