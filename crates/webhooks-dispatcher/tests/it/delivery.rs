//! What goes over the wire, and what is recorded of it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use uuid::Uuid;
use webhooks_proto::{
    internal::v1::{DeliveryJob, Status},
    v1::{DeliveryState, FailureClass, Outcome},
};

use crate::support::{World, check, ensure_eq, neighbours, numbers};

#[test]
fn a_delivery_arrives_signed_and_is_recorded_and_its_message_goes() {
    check(async {
        let world = World::start().await?;
        let _dispatcher = world.dispatcher(&[]).await?;
        let webhook = Uuid::new_v4();
        world.webhook(webhook, "/ok", Status::Active).await?;
        let delivery = world.owe(webhook, "e1").await?;
        let reports = world
            .until_state(delivery, DeliveryState::Delivered)
            .await?;
        world.until_settled().await?;
        let requests = world.receiver.requests();
        ensure_eq(requests.len(), 1)?;
        let request = &requests[0];
        ensure_eq(request.verified, Some(true))?;
        ensure_eq(request.header("webhook-attempt"), Some("1"))?;
        ensure_eq(request.header("webhook-trigger"), Some("event"))?;
        ensure_eq(request.header("x-linkbreakers-hop"), Some("1"))?;
        ensure_eq(request.header("content-type"), Some("application/json"))?;
        ensure!(
            request
                .header("user-agent")
                .is_some_and(|agent| agent.starts_with("Linkbreakers-Webhooks/"))
        );
        ensure!(
            request
                .header("traceparent")
                .is_some_and(|trace| trace.len() == 55),
            "{:?}",
            request.header("traceparent")
        );
        ensure!(!request.header("webhook-id").context("an id")?.contains('.'));
        let attempt = reports[0].attempt.as_ref().context("an attempt")?;
        ensure_eq(attempt.outcome(), Outcome::Success)?;
        ensure_eq(attempt.status_code, 200)
    });
}

#[test]
fn three_attempts_with_the_same_id_and_bytes_and_then_it_failed() {
    check(async {
        let world = World::start().await?;
        let _dispatcher = world.dispatcher(&[]).await?;
        let webhook = Uuid::new_v4();
        world
            .webhook(webhook, "/status/500", Status::Active)
            .await?;
        let began = Instant::now();
        let delivery = world.owe(webhook, "e1").await?;
        let reports = world.until_state(delivery, DeliveryState::Failed).await?;
        world.until_settled().await?;
        ensure!(
            began.elapsed() > Duration::from_millis(1_500),
            "the third attempt came after its delay of 2 s ± 20 %"
        );
        ensure_eq(numbers(&reports), vec![1, 2, 3])?;
        let requests = world.receiver.requests();
        ensure_eq(requests.len(), 3)?;
        for request in &requests {
            ensure_eq(
                request.header("webhook-id"),
                requests[0].header("webhook-id"),
            )?;
            ensure_eq(&request.body, &requests[0].body)?;
            ensure_eq(request.verified, Some(true))?;
        }
        Ok(())
    });
}

#[test]
fn the_delivery_of_an_event_that_was_passed_on_says_so_in_every_attempt() {
    check(async {
        let world = World::start().await?;
        let _dispatcher = world.dispatcher(&[]).await?;
        let webhook = Uuid::new_v4();
        world
            .webhook(webhook, "/status/500", Status::Active)
            .await?;
        let job = DeliveryJob {
            hop: 1,
            ..world.job(webhook, "e1")
        };
        let delivery = world.owe_job(&job).await?;
        world.until_state(delivery, DeliveryState::Failed).await?;
        let requests = world.receiver.requests();
        ensure_eq(requests.len(), 3)?;
        for request in &requests {
            ensure_eq(request.header("x-linkbreakers-hop"), Some("2"))?;
        }
        Ok(())
    });
}

#[test]
fn a_permanent_failure_is_not_tried_again() {
    check(async {
        let world = World::start().await?;
        let _dispatcher = world.dispatcher(&[]).await?;
        for path in ["/status/410", "/status/401", "/status/302", "/status/501"] {
            let webhook = Uuid::new_v4();
            world.webhook(webhook, path, Status::Active).await?;
            let delivery = world.owe(webhook, "e1").await?;
            let reports = world.until_state(delivery, DeliveryState::Failed).await?;
            ensure_eq(numbers(&reports), vec![1])?;
            ensure_eq(
                reports[0].attempt.as_ref().context("an attempt")?.class(),
                FailureClass::Permanent,
            )?;
        }
        ensure_eq(world.receiver.count(), 4)
    });
}

#[test]
fn a_429_with_retry_after_waits_at_least_that_long() {
    check(async {
        let world = World::start().await?;
        let _dispatcher = world.dispatcher(&[]).await?;
        let webhook = Uuid::new_v4();
        world
            .webhook(webhook, "/retry-after/3", Status::Active)
            .await?;
        world.owe(webhook, "e1").await?;
        world.until_count(2).await?;
        let mut times: Vec<i64> = world
            .receiver
            .requests()
            .iter()
            .map(|request| request.received_at)
            .collect();
        times.sort_unstable();
        ensure!(times[1] - times[0] >= 3_000_000, "{times:?}");
        Ok(())
    });
}

#[test]
fn a_forbidden_address_meets_no_request_and_ends_the_delivery() {
    check(async {
        let world = World::start().await?;
        let _dispatcher = world
            .dispatcher(&[("WEBHOOKS_EGRESS_ALLOW_CIDRS", "")])
            .await?;
        let webhook = Uuid::new_v4();
        world.webhook(webhook, "/ok", Status::Active).await?;
        let delivery = world.owe(webhook, "e1").await?;
        let reports = world.until_state(delivery, DeliveryState::Failed).await?;
        let attempt = reports[0].attempt.as_ref().context("an attempt")?;
        ensure_eq(attempt.outcome(), Outcome::Blocked)?;
        ensure!(!attempt.error.contains("127.0.0.1"), "{}", attempt.error);
        ensure_eq(world.receiver.count(), 0)
    });
}

#[test]
fn a_hanging_endpoint_does_not_hold_its_partition() {
    check(async {
        let world = World::start().await?;
        let _dispatcher = world
            .dispatcher(&[("WEBHOOKS_ENDPOINT_QUEUE", "16")])
            .await?;
        let (sick, healthy) = neighbours();
        world.webhook(sick, "/hang/30", Status::Active).await?;
        world
            .webhook(healthy, "/ok/healthy", Status::Active)
            .await?;
        for n in 0..100 {
            world.owe(sick, &format!("sick-{n}")).await?;
        }
        world.until_count(8).await?;
        let began = Instant::now();
        let delivery = world.owe(healthy, "e1").await?;
        world
            .until_state(delivery, DeliveryState::Delivered)
            .await?;
        ensure!(
            began.elapsed() < Duration::from_secs(15),
            "{:?}",
            began.elapsed()
        );
        let hanging = world
            .receiver
            .requests()
            .iter()
            .filter(|request| request.path == "/hang/30")
            .count();
        ensure!(hanging <= 8, "{hanging} requests in flight to one endpoint");
        Ok(())
    });
}
