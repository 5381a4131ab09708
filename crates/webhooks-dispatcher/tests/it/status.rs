//! What a webhook's status does to what it is owed.

use uuid::Uuid;
use webhooks_proto::{internal::v1::Status, v1::DeliveryState};

use crate::support::{World, check, ensure_eq};

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
        let _dispatcher = world.dispatcher(&[]).await?;
        let webhook = Uuid::new_v4();
        world
            .webhook(webhook, "/status/500", Status::Active)
            .await?;
        let delivery = world.owe(webhook, "e").await?;
        // The third attempt waits 2 s; meanwhile the webhook is paused.
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
