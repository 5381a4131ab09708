//! Deliveries of one key go one after another; keys go beside each other.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use uuid::Uuid;
use webhooks_bus::{Outgoing, PullSettings, names, subjects};
use webhooks_devstack::wait_until;
use webhooks_proto::{
    internal::v1::{Ordering, RetryPolicy, Status},
    v1::DeliveryState,
};

use crate::{
    scripted::{Answer, Scripted, Seen},
    support::{LIMIT, World, check, ensure_eq},
};

const RETRY: RetryPolicy = RetryPolicy {
    max_attempts: 4,
    base_ms: 2_000,
    factor_milli: 1_000,
    cap_ms: 2_000,
    jitter_milli: 0,
    max_age_ms: 0,
};

/// An endpoint that refuses the first event of key `bad` `failures` times.
async fn endpoint(failures: usize) -> anyhow::Result<Scripted> {
    Scripted::start(move |event, times| Answer {
        status: if event == "bad-000" && times <= failures {
            500
        } else {
            200
        },
        after: Duration::from_millis(2),
    })
    .await
}

/// Does what fan-out does: `count` events are accepted, and acknowledged when their deliveries are
/// on their streams.
async fn fan_out(world: &World, count: usize) -> anyhow::Result<()> {
    let mut pull = world.bus.pull(
        names::EVENTS,
        names::EVENTS_CONSUMER,
        PullSettings::default(),
    );
    for _ in 0..count {
        let subject = subjects::event(world.workspace, Uuid::nil());
        let id = Uuid::new_v4().to_string();
        let event = Outgoing::new(subject, &id, "event".into());
        world.bus.publish(event, LIMIT).await?;
        pull.next().await.acker().ack_sure().await?;
    }
    Ok(())
}

fn of<'a>(seen: &'a [Seen], key: &str) -> Vec<&'a Seen> {
    seen.iter()
        .filter(|seen| seen.event.starts_with(key))
        .collect()
}

async fn owe(world: &World, webhook: Uuid, key: &str, n: u64) -> anyhow::Result<Uuid> {
    let visitor = key.to_owned();
    world
        .owe_with(webhook, &format!("{key}-{n:03}"), |reference| {
            reference.event_seq = n + 1;
            reference.lbid = visitor;
        })
        .await
}

#[test]
fn a_failing_key_blocks_itself_alone_and_its_order_holds() {
    check(async {
        const EACH: u64 = 40;
        let world = World::start().await?;
        let _dispatcher = world
            .dispatcher(&[("WEBHOOKS_ENDPOINT_QUEUE", "16")])
            .await?;
        let endpoint = endpoint(3).await?;
        let webhook = Uuid::new_v4();
        world
            .webhook_with(webhook, &endpoint.url(), Status::Active, |config| {
                config.ordering = Ordering::Visitor.into();
                // Long enough for all of the other key's.
                config.retry = Some(RetryPolicy {
                    base_ms: 5_000,
                    cap_ms: 5_000,
                    ..RETRY
                });
            })
            .await?;
        fan_out(&world, 40).await?;
        for n in 0..EACH {
            owe(&world, webhook, "bad", n).await?;
            owe(&world, webhook, "good", n).await?;
        }
        wait_until("everything", Duration::from_secs(40), async || {
            let done = endpoint.seen().iter().filter(|s| s.status == 200).count();
            if done >= 80 { Ok(()) } else { Err(done) }
        })
        .await?;
        world.until_settled().await?;
        let seen = endpoint.seen();
        for (key, failures) in [("bad", 3), ("good", 0)] {
            let mut expected: Vec<String> = (0..EACH).map(|n| format!("{key}-{n:03}")).collect();
            for _ in 0..failures {
                expected.insert(0, format!("{key}-000"));
            }
            let came: Vec<String> = of(&seen, key).iter().map(|s| s.event.clone()).collect();
            ensure_eq(came, expected)?;
        }
        let last_good = of(&seen, "good").last().map(|seen| seen.at);
        let first_good_of_bad = of(&seen, "bad")
            .iter()
            .find(|seen| seen.status == 200)
            .map(|seen| seen.at);
        ensure!(
            last_good < first_good_of_bad,
            "the other key has waited for it"
        );
        Ok(())
    });
}

#[test]
fn what_waits_behind_a_failing_delivery_is_told_as_blocked_by_it_once() {
    check(async {
        let world = World::start().await?;
        let _dispatcher = world.dispatcher(&[]).await?;
        let endpoint = endpoint(2).await?;
        let webhook = Uuid::new_v4();
        world
            .webhook_with(webhook, &endpoint.url(), Status::Active, |config| {
                config.ordering = Ordering::Visitor.into();
                config.retry = Some(RetryPolicy {
                    base_ms: 8_000,
                    cap_ms: 8_000,
                    ..RETRY
                });
            })
            .await?;
        fan_out(&world, 3).await?;
        let head = owe(&world, webhook, "bad", 0).await?;
        let behind = [
            owe(&world, webhook, "bad", 1).await?,
            owe(&world, webhook, "bad", 2).await?,
        ];
        let beside = owe(&world, webhook, "good", 0).await?;
        for delivery in behind {
            let reports = world.until_state(delivery, DeliveryState::Pending).await?;
            ensure_eq(reports.len(), 1)?;
            ensure_eq(&reports[0].waits_for[..], &head.as_bytes()[..])?;
            ensure!(
                reports[0].next_attempt_at > reports[0].at,
                "it says no time"
            );
        }
        for delivery in [head, behind[0], behind[1], beside] {
            let reports = world
                .until_state(delivery, DeliveryState::Delivered)
                .await?;
            let told = reports.iter().filter(|one| !one.waits_for.is_empty());
            ensure_eq(told.count(), usize::from(behind.contains(&delivery)))?;
            let last = reports.last().context("a report")?;
            ensure!(last.waits_for.is_empty(), "{last:?}");
        }
        world.until_settled().await
    });
}

#[test]
fn deliveries_that_fan_out_finished_in_another_order_go_in_the_events_order() {
    check(async {
        const COUNT: u64 = 20;
        let world = World::start().await?;
        let _dispatcher = world.dispatcher(&[]).await?;
        let endpoint = endpoint(0).await?;
        let webhook = Uuid::new_v4();
        world
            .webhook_with(webhook, &endpoint.url(), Status::Active, |config| {
                config.ordering = Ordering::Visitor.into();
            })
            .await?;
        for n in (0..COUNT).rev() {
            owe(&world, webhook, "key", n).await?;
        }
        fan_out(&world, 20).await?;
        wait_until("everything", LIMIT, async || {
            let seen = endpoint.seen().len();
            if seen >= 20 { Ok(()) } else { Err(seen) }
        })
        .await?;
        world.until_settled().await?;
        let came: Vec<String> = endpoint.seen().into_iter().map(|s| s.event).collect();
        let expected: Vec<String> = (0..COUNT).map(|n| format!("key-{n:03}")).collect();
        ensure_eq(came, expected)
    });
}

#[test]
fn an_order_survives_a_move_while_its_first_waits_for_a_retry() {
    check(async {
        let world = World::start().await?;
        let first = world.dispatcher(&[]).await?;
        let endpoint = endpoint(2).await?;
        let webhook = Uuid::new_v4();
        world
            .webhook_with(webhook, &endpoint.url(), Status::Active, |config| {
                config.ordering = Ordering::Visitor.into();
                config.retry = Some(RetryPolicy {
                    base_ms: 8_000,
                    cap_ms: 8_000,
                    ..RETRY
                });
            })
            .await?;
        fan_out(&world, 10).await?;
        for n in 0..5 {
            owe(&world, webhook, "bad", n).await?;
        }
        wait_until("two failures", LIMIT, async || {
            let seen = endpoint.seen().len();
            if seen == 2 { Ok(()) } else { Err(seen) }
        })
        .await?;
        // The first waits for its third attempt; a new owner comes, and more events.
        let second = world.dispatcher(&[]).await?;
        first.stop().await?;
        for n in 5..10 {
            owe(&world, webhook, "bad", n).await?;
        }
        wait_until("everything", Duration::from_secs(40), async || {
            let done = endpoint.seen().iter().filter(|s| s.status == 200).count();
            if done >= 10 { Ok(()) } else { Err(done) }
        })
        .await?;
        world.until_settled().await?;
        let came: Vec<String> = endpoint.seen().into_iter().map(|s| s.event).collect();
        let mut expected: Vec<String> = (0..10).map(|n| format!("bad-{n:03}")).collect();
        expected.insert(0, "bad-000".to_owned());
        expected.insert(0, "bad-000".to_owned());
        ensure_eq(came, expected)?;
        second.stop().await
    });
}
