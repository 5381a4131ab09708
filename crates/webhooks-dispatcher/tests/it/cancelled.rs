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
        world.bus.mark_cancelled(taken_back).await?;
        let _dispatcher = world.dispatcher(&[]).await?;
        world.until_state(other, DeliveryState::Delivered).await?;
        world
            .until_state(taken_back, DeliveryState::Cancelled)
            .await?;
        world.until_settled().await?;
        ensure_eq(world.receiver.count(), 1)
    });
}
