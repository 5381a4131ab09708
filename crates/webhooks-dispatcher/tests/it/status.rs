//! What a webhook's status does to what it is owed.

use anyhow::ensure;
use uuid::Uuid;
use webhooks_domain::clock::Clock as _;
use webhooks_proto::{
    internal::v1::{HeldChoice, RetryPolicy, Status, WebhookConfig},
    v1::DeliveryState,
};
use webhooks_runtime::SystemClock;

use crate::support::{World, check, ensure_eq, numbers};

/// After the second attempt, an hour passes.
fn patient(config: &mut WebhookConfig) {
    config.retry = Some(RetryPolicy {
        max_attempts: 5,
        base_ms: 3_600_000,
        factor_milli: 1_000,
        cap_ms: 3_600_000,
        jitter_milli: 0,
        max_age_ms: 0,
    });
}

impl World {
    /// Owes a webhook that answers 500 so many deliveries; returns when each has been tried twice
    /// and waits for an hour.
    async fn retrying(&self, webhook: Uuid, count: usize) -> anyhow::Result<Vec<Uuid>> {
        self.webhook_with(webhook, "/status/500", Status::Active, patient)
            .await?;
        let owed = self.owe_many(webhook, count).await?;
        for delivery in &owed {
            self.until_attempts(*delivery, 2).await?;
        }
        Ok(owed)
    }

    async fn until_attempts(&self, delivery: Uuid, count: usize) -> anyhow::Result<()> {
        webhooks_devstack::wait_until("attempts", crate::support::LIMIT, async || {
            let reports = self.reports(delivery).await;
            let made = numbers(&reports.map_err(|error| error.to_string())?);
            if made.len() >= count {
                Ok(())
            } else {
                Err(format!("{made:?}"))
            }
        })
        .await
    }
}

#[test]
fn retries_that_are_due_in_an_hour_are_cancelled_at_once_when_their_webhook_is_disabled() {
    check(async {
        let world = World::start().await?;
        let _dispatcher = world.dispatcher(NEVER_PAUSED).await?;
        let webhook = Uuid::new_v4();
        let owed = world.retrying(webhook, 3).await?;
        world
            .webhook_with(webhook, "/ok", Status::Disabled, patient)
            .await?;
        for delivery in owed {
            let reports = world
                .until_state(delivery, DeliveryState::Cancelled)
                .await?;
            ensure_eq(
                reports.last().map(|report| report.reason.as_str()),
                Some("webhook_disabled"),
            )?;
        }
        world.until_settled().await?;
        ensure_eq(world.receiver.count(), 6)
    });
}

#[test]
fn retries_of_a_paused_webhook_are_held_at_once_and_go_out_on_resume() {
    check(async {
        let world = World::start().await?;
        let _dispatcher = world.dispatcher(NEVER_PAUSED).await?;
        let webhook = Uuid::new_v4();
        let owed = world.retrying(webhook, 3).await?;
        world
            .webhook_with(webhook, "/ok", Status::Paused, patient)
            .await?;
        for delivery in &owed {
            world.until_state(*delivery, DeliveryState::Held).await?;
        }
        ensure_eq(world.held_count(webhook).await?, 3)?;
        world
            .webhook_with(webhook, "/ok", Status::Active, patient)
            .await?;
        for delivery in owed {
            let reports = world
                .until_state(delivery, DeliveryState::Delivered)
                .await?;
            ensure_eq(numbers(&reports), vec![1, 2, 3])?;
        }
        world.until_settled().await
    });
}

#[test]
fn a_new_owner_looks_through_the_retries_of_what_was_disabled_before_it_came() {
    check(async {
        let world = World::start().await?;
        let dispatcher = world.dispatcher(NEVER_PAUSED).await?;
        let (webhook, other) = (Uuid::new_v4(), Uuid::new_v4());
        let owed = world.retrying(webhook, 2).await?;
        let others = world.retrying(other, 1).await?;
        dispatcher.stop().await?;
        world
            .webhook_with(webhook, "/ok", Status::Disabled, patient)
            .await?;
        let _dispatcher = world.dispatcher(NEVER_PAUSED).await?;
        for delivery in owed {
            world
                .until_state(delivery, DeliveryState::Cancelled)
                .await?;
        }
        // Nobody has touched what is wanted.
        let reports = world.reports(others[0]).await?;
        ensure_eq(
            reports.last().map(|report| report.state()),
            Some(DeliveryState::Retrying),
        )
    });
}

#[test]
fn what_a_person_discards_ends_also_where_it_waits_for_its_next_attempt() {
    check(async {
        let world = World::start().await?;
        let _dispatcher = world.dispatcher(NEVER_PAUSED).await?;
        let webhook = Uuid::new_v4();
        let owed = world.retrying(webhook, 3).await?;
        let chosen_at = SystemClock.now_micros();
        let discarded = |config: &mut WebhookConfig| {
            patient(config);
            config.health_epoch = 1;
            config.held_choice = HeldChoice::Discard.into();
            config.held_choice_at = chosen_at;
        };
        world
            .webhook_with(webhook, "/status/500", Status::Active, discarded)
            .await?;
        for delivery in owed {
            let reports = world
                .until_state(delivery, DeliveryState::Cancelled)
                .await?;
            ensure_eq(
                reports.last().map(|report| report.reason.as_str()),
                Some("held_discarded"),
            )?;
        }
        // What came after the choice is retried as ever.
        let later = world.owe(webhook, "later").await?;
        world.until_attempts(later, 2).await?;
        world
            .webhook_with(webhook, "/ok", Status::Active, discarded)
            .await?;
        let after = world.owe(webhook, "after").await?;
        world.until_state(after, DeliveryState::Delivered).await?;
        let reports = world.reports(later).await?;
        ensure!(
            reports.last().map(|report| report.state()) == Some(DeliveryState::Retrying),
            "{reports:?}"
        );
        Ok(())
    });
}

/// However often they fail.
const NEVER_PAUSED: &[(&str, &str)] = &[
    ("WEBHOOKS_BREAKER_FAILURES", "100"),
    ("WEBHOOKS_AUTO_DISABLE_FAILURES", "1000"),
];

#[test]
fn what_a_paused_webhook_is_owed_is_held_and_goes_out_on_resume() {
    check(async {
        let world = World::start().await?;
        let _dispatcher = world.dispatcher(&[]).await?;
        let webhook = Uuid::new_v4();
        world.webhook(webhook, "/ok", Status::Paused).await?;
        let mut owed = Vec::new();
        for n in 0..20 {
            owed.push(world.owe(webhook, &format!("e{n}")).await?);
        }
        for delivery in &owed {
            world.until_state(*delivery, DeliveryState::Held).await?;
        }
        ensure_eq(world.receiver.count(), 0)?;
        world.webhook(webhook, "/ok", Status::Active).await?;
        for delivery in owed {
            world
                .until_state(delivery, DeliveryState::Delivered)
                .await?;
        }
        world.until_settled().await?;
        ensure_eq(world.receiver.count(), 20)
    });
}

#[test]
fn what_a_disabled_or_deleted_webhook_is_owed_is_cancelled() {
    check(async {
        let world = World::start().await?;
        let _dispatcher = world.dispatcher(&[]).await?;
        let (disabled, deleted, held) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
        world.webhook(disabled, "/ok", Status::Disabled).await?;
        world.webhook(deleted, "/ok", Status::Active).await?;
        world.delete(deleted).await?;
        world.webhook(held, "/ok", Status::Paused).await?;
        for webhook in [disabled, deleted] {
            let delivery = world.owe(webhook, "e").await?;
            world
                .until_state(delivery, DeliveryState::Cancelled)
                .await?;
        }
        let delivery = world.owe(held, "e").await?;
        world.until_state(delivery, DeliveryState::Held).await?;
        world.webhook(held, "/ok", Status::Disabled).await?;
        world
            .until_state(delivery, DeliveryState::Cancelled)
            .await?;
        world.until_settled().await?;
        ensure_eq(world.receiver.count(), 0)
    });
}

#[test]
fn a_webhook_that_comes_back_after_retries_began_keeps_its_attempt_number() {
    check(async {
        let world = World::start().await?;
        let _dispatcher = world.dispatcher(&[("WEBHOOKS_RETRY_BASE", "5s")]).await?;
        let webhook = Uuid::new_v4();
        world
            .webhook(webhook, "/status/500", Status::Active)
            .await?;
        let delivery = world.owe(webhook, "e").await?;
        // The third attempt waits 5 s; meanwhile the webhook is paused.
        world.until_count(2).await?;
        world.webhook(webhook, "/ok", Status::Paused).await?;
        world.until_state(delivery, DeliveryState::Held).await?;
        world.webhook(webhook, "/ok", Status::Active).await?;
        let reports = world
            .until_state(delivery, DeliveryState::Delivered)
            .await?;
        world.until_settled().await?;
        ensure_eq(crate::support::numbers(&reports), vec![1, 2, 3])
    });
}
