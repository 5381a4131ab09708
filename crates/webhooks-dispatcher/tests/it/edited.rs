//! A webhook that is edited between two attempts of a delivery.

use uuid::Uuid;
use webhooks_proto::{internal::v1::Status, v1::DeliveryState};

use crate::support::{World, check, ensure_eq, numbers};

#[test]
fn f_23_the_next_attempt_goes_to_the_new_url_with_the_same_bytes() {
    check(async {
        let world = World::start().await?;
        let _dispatcher = world.dispatcher(&[("WEBHOOKS_RETRY_BASE", "8s")]).await?;
        let webhook = Uuid::new_v4();
        world
            .webhook(webhook, "/status/500/before", Status::Active)
            .await?;
        let delivery = world.owe(webhook, "e1").await?;
        // The first attempt and the immediate retry; the third is eight seconds away.
        world.until_count(2).await?;
        world.webhook(webhook, "/ok/after", Status::Active).await?;
        let reports = world
            .until_state(delivery, DeliveryState::Delivered)
            .await?;
        ensure_eq(numbers(&reports), vec![1, 2, 3])?;
        let mut requests = world.receiver.requests();
        requests.sort_by_key(|request| request.received_at);
        let paths: Vec<&str> = requests
            .iter()
            .map(|request| request.path.as_str())
            .collect();
        ensure_eq(
            paths,
            vec!["/status/500/before", "/status/500/before", "/ok/after"],
        )?;
        ensure_eq(
            requests.iter().all(|request| {
                request.body == requests[0].body
                    && request.header("webhook-id") == requests[0].header("webhook-id")
            }),
            true,
        )?;
        world.until_settled().await
    });
}
