//! Killed, run again, refused, cut off: the same deliveries, once, with the same bodies.

use uuid::Uuid;
use webhooks_bus::{BusSettings, names};
use webhooks_proto::internal::v1::{Status, WebhookConfig};

use crate::support::{LINK, OTHER, Stack, WORKSPACE, webhook};

/// Enough for three parts of a verdict.
const WEBHOOKS: u128 = 600;

#[tokio::test]
async fn a_second_run_over_an_event_uses_the_recorded_verdict() {
    let mut stack = Stack::start().await;
    for id in 1..=WEBHOOKS {
        stack
            .config
            .put_webhook(&webhook(id, WORKSPACE))
            .await
            .unwrap();
    }
    let running = stack.fanout().await;
    stack.publish(WORKSPACE, LINK, "e1").await;
    let count = u64::try_from(WEBHOOKS).unwrap();
    let first = stack.bodies(count).await;
    stack.all_acknowledged().await;
    running.stop().await;

    // The world changes: renamed, paused, deleted, new.
    for id in 1..=WEBHOOKS {
        let config = WebhookConfig {
            name: "renamed".to_owned(),
            revision: 2,
            ..webhook(id, WORKSPACE)
        };
        match id % 3 {
            0 => stack.config.put_webhook(&config).await.unwrap(),
            1 => {
                let paused = WebhookConfig {
                    status: Status::Paused.into(),
                    ..config
                };
                stack.config.put_webhook(&paused).await.unwrap();
            }
            _ => stack
                .config
                .delete_webhook(WORKSPACE, Uuid::from_u128(id))
                .await
                .unwrap(),
        }
    }
    stack
        .config
        .put_webhook(&webhook(WEBHOOKS + 1, WORKSPACE))
        .await
        .unwrap();

    // Nobody remembers that the event was handled, nor which deliveries were published.
    let jetstream = stack.bus.jetstream();
    let deliveries = jetstream.get_stream("DELIVERIES-0").await.unwrap();
    deliveries.purge().await.unwrap();
    let events = jetstream.get_stream(names::EVENTS).await.unwrap();
    events
        .delete_consumer(names::EVENTS_CONSUMER)
        .await
        .unwrap();
    stack.nats.restart().await.unwrap();
    stack.apply_topology().await;

    let running = stack.fanout().await;
    let second = stack.bodies(count).await;
    assert_eq!(first, second);
    assert!(
        stack
            .jobs("DELIVERIES-0", count)
            .await
            .iter()
            .all(|job| job.recheck)
    );
    stack.all_acknowledged().await;
    assert_eq!(stack.bus.message_count(names::HELD).await.unwrap(), 0);
    running.stop().await;
}

#[tokio::test]
async fn a_run_that_was_cut_off_is_finished_by_the_next_one() {
    // The deliveries do not fit: the first run cannot finish, whatever it does.
    let settings = BusSettings {
        deliveries_max_bytes: 128 * 1024,
        ..BusSettings::default()
    };
    let stack = Stack::with(settings.clone()).await;
    for id in 1..=WEBHOOKS {
        stack
            .config
            .put_webhook(&webhook(id, WORKSPACE))
            .await
            .unwrap();
    }
    let running = stack.fanout().await;
    stack.publish(WORKSPACE, LINK, "e1").await;
    stack.publish(WORKSPACE, LINK, "e2").await;
    webhooks_devstack::wait_until("the stream to be full", crate::support::LIMIT, async || {
        // Both events are drawn up: for each there are three verdicts of two hundred at least.
        let verdicts = stack.bus.message_count("VERDICTS").await;
        match (stack.bus.message_count("DELIVERIES-0").await, verdicts) {
            (Ok(count), Ok(verdicts)) if count > 50 && verdicts >= 6 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    running.stop().await;
    let before = stack.bus.message_count("DELIVERIES-0").await.unwrap();
    assert!(before < 1_200, "{before}");

    let mut wider = stack
        .bus
        .jetstream()
        .get_stream("DELIVERIES-0")
        .await
        .unwrap();
    let mut config = wider.info().await.unwrap().config.clone();
    config.max_bytes = 64 * 1024 * 1024;
    stack.bus.jetstream().update_stream(config).await.unwrap();
    stack
        .config
        .delete_webhook(WORKSPACE, Uuid::from_u128(1))
        .await
        .unwrap();
    let running = stack.fanout().await;
    stack.bodies(1_200).await;
    stack.all_acknowledged().await;
    running.stop().await;
}

#[tokio::test]
async fn nats_killed_in_the_middle_loses_nothing_and_doubles_nothing() {
    let mut stack = Stack::start().await;
    for id in 1..=20 {
        stack
            .config
            .put_webhook(&webhook(id, WORKSPACE))
            .await
            .unwrap();
    }
    let running = stack.fanout().await;
    for round in 0..3 {
        for number in 0..100 {
            stack
                .publish(WORKSPACE, LINK, &format!("r{round}-{number}"))
                .await;
        }
        stack.nats.restart().await.unwrap();
    }
    running.ready().await;
    stack.all_acknowledged().await;
    let bodies = stack.bodies(6_000).await;
    assert_eq!(bodies.len(), 6_000);
    let verdicts = stack.verdicts(300).await;
    assert!(verdicts.iter().all(|verdict| verdict.matches.len() == 20));
    running.stop().await;
}

#[tokio::test]
async fn a_full_place_of_held_deliveries_stops_nobody_elses_events() {
    let settings = BusSettings {
        held_max_bytes: 16 * 1024,
        ..BusSettings::default()
    };
    let stack = Stack::with(settings).await;
    let paused = WebhookConfig {
        status: Status::Paused.into(),
        ..webhook(1, WORKSPACE)
    };
    stack.config.put_webhook(&paused).await.unwrap();
    stack.config.put_webhook(&webhook(2, OTHER)).await.unwrap();
    let running = stack.fanout().await;
    for number in 0..100 {
        stack
            .publish(WORKSPACE, LINK, &format!("held-{number}"))
            .await;
    }
    for number in 0..10 {
        stack.publish(OTHER, LINK, &format!("other-{number}")).await;
    }
    stack.all_acknowledged().await;
    let held = stack.bus.message_count(names::HELD).await.unwrap();
    assert!((1..100).contains(&held), "{held}");
    // What did not fit is owed all the same: its partition's owner holds it later.
    stack.bodies(110 - held).await;
    assert_eq!(stack.bus.message_count(names::REPORTS).await.unwrap(), 0);
    running.stop().await;
}
