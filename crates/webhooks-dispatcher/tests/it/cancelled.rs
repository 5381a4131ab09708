//! What a person took back is not sent.

use uuid::Uuid;
use webhooks_proto::{internal::v1::Status, v1::DeliveryState};

use crate::support::{World, check, ensure_eq};

#[test]
fn what_was_taken_back_before_the_dispatcher_came_is_not_sent() {
    check(async {
        let world = World::start().await?;
        let webhook = Uuid::new_v4();
        world.webhook(webhook, "/ok", Status::Active).await?;
        let taken_back = world.owe(webhook, "e1").await?;
        let other = world.owe(webhook, "e2").await?;
        world.bus.mark_cancelled(taken_back, webhook).await?;
        let _dispatcher = world.dispatcher(&[]).await?;
        world.until_state(other, DeliveryState::Delivered).await?;
        world
            .until_state(taken_back, DeliveryState::Cancelled)
            .await?;
        world.until_settled().await?;
        ensure_eq(world.receiver.count(), 1)
    });
}

#[test]
fn what_is_taken_back_while_it_is_held_leaves_at_once() {
    check(async {
        let world = World::start().await?;
        let webhook = Uuid::new_v4();
        world.webhook(webhook, "/ok", Status::Paused).await?;
        let first = world.dispatcher(&[]).await?;
        let (taken_back, later, stays) = (
            world.owe(webhook, "e1").await?,
            world.owe(webhook, "e2").await?,
            world.owe(webhook, "e3").await?,
        );
        for delivery in [taken_back, later, stays] {
            world.until_state(delivery, DeliveryState::Held).await?;
        }
        world.bus.mark_cancelled(taken_back, webhook).await?;
        world.until_held(webhook, 2).await?;
        // And what was taken back while there was no dispatcher, when there is one.
        first.stop().await?;
        world.bus.mark_cancelled(later, webhook).await?;
        let _second = world.dispatcher(&[]).await?;
        world.until_held(webhook, 1).await?;
        world.webhook(webhook, "/ok", Status::Active).await?;
        world.until_state(stays, DeliveryState::Delivered).await?;
        world.until_settled().await?;
        ensure_eq(world.receiver.count(), 1)
    });
}
