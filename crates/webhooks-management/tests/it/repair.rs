//! What fell between the streams is found.

use bytes::Bytes;
use prost::Message as _;
use uuid::Uuid;
use webhooks_bus::{Outgoing, PullSettings, headers, names, subjects};
use webhooks_devstack::wait_until;
use webhooks_domain::{ids, webhook::Plan};
use webhooks_proto::{
    internal::v1::{DeliveryJob, DeliveryRef, Match, Rendition, Verdict},
    v1::{DeliveryState, FailureClass, Outcome},
};

use crate::support::{LIMIT, World, delivered, delivery, now};

async fn event(world: &World, workspace: Uuid, id: &str) -> u64 {
    let link = Uuid::from_u128(9);
    let event = Outgoing::new(
        subjects::event(workspace, link),
        id,
        Bytes::from_static(b"{}"),
    )
    .header(headers::EVENT_ID, id)
    .header(headers::WORKSPACE, &workspace.to_string())
    .header(headers::ACCEPTED_AT, &now().to_string())
    .header(headers::HOP, "1");
    world.bus.publish(event, LIMIT).await.unwrap().seq
}

/// As fan-out does when it has dealt with an event.
async fn acknowledge(world: &World, count: usize) {
    let mut pull = world.bus.pull(
        names::EVENTS,
        names::EVENTS_CONSUMER,
        PullSettings::default(),
    );
    for _ in 0..count {
        pull.next().await.acker().ack_sure().await.unwrap();
    }
}

async fn record(world: &World, workspace: Uuid, id: &str, seq: u64) {
    record_with(world, workspace, id, seq, Vec::new()).await;
}

async fn record_with(world: &World, workspace: Uuid, id: &str, seq: u64, matches: Vec<Match>) {
    let verdict = Verdict {
        event_seq: seq,
        event_id: id.to_owned(),
        workspace_id: Bytes::copy_from_slice(workspace.as_bytes()),
        lbid: "l".to_owned(),
        event_type: "step.completed".to_owned(),
        accepted_at: if matches.is_empty() {
            now()
        } else {
            now() - AGE_SECONDS * 1_000_000
        },
        event_timestamp: now(),
        parts: 1,
        renditions: vec![Rendition {
            profile: "standard".to_owned(),
            head: Bytes::from_static(b"{\"webhook\":"),
            tail: Bytes::from_static(b"}"),
        }],
        matches,
        ..Verdict::default()
    };
    let message = Outgoing::new(
        subjects::verdict(workspace),
        id,
        verdict.encode_to_vec().into(),
    );
    world.bus.publish(message, LIMIT).await.unwrap();
}

/// The first look is half a minute after a delivery was made; this one was made a while ago.
const AGE_SECONDS: i64 = 40;

#[tokio::test]
async fn a_delivery_that_nothing_owes_is_owed_again_and_no_other() {
    let mut world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let webhook = world.webhook(&workspace.token).await;
    world.stop_service().await;
    let made = now() - AGE_SECONDS * 1_000_000;
    let place = made / 1_000 - 1_000;
    world
        .sql(&format!(
            "INSERT INTO repair_progress VALUES ('deliveries', {place})
             ON CONFLICT (what) DO UPDATE SET position = {place}"
        ))
        .await;
    let delivery = |event: &str| ids::delivery_id(workspace.id, event, webhook, made);
    for (seq, event) in [(1, "owed"), (2, "lost")] {
        let found = Match {
            webhook_id: Bytes::copy_from_slice(webhook.as_bytes()),
            delivery_id: Bytes::copy_from_slice(delivery(event).as_bytes()),
            snapshot: Bytes::from_static(b"{}"),
            ..Match::default()
        };
        record_with(&world, workspace.id, event, seq, vec![found]).await;
    }
    let partition = ids::partition_of(webhook, world.bus.settings().partitions);
    let subject = |event: &str| subjects::delivery(partition, webhook, delivery(event));
    let owed = Outgoing::new(subject("owed"), "owed", Bytes::new());
    world.bus.publish(owed, LIMIT).await.unwrap();
    assert_eq!(world.bus.message_count("DELIVERIES-0").await.unwrap(), 1);

    world.start_service().await;
    let found = wait_until("the delivery to be owed again", 2 * LIMIT, async || {
        let last = world.bus.get_last("DELIVERIES-0", &subject("lost")).await;
        last.ok().flatten().ok_or("not yet")
    })
    .await
    .unwrap();
    let job = DeliveryJob::decode(found.payload).unwrap();
    assert_eq!(job.body, Bytes::from_static(b"{\"webhook\":{}}"));
    assert!(job.recheck, "it may have been sent");
    assert_eq!(world.bus.message_count("DELIVERIES-0").await.unwrap(), 2);
}

#[tokio::test]
async fn an_event_that_nobody_knows_of_is_offered_again_and_no_other() {
    let mut world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await.id;
    wait_until("the first look", LIMIT, async || {
        match world.store.repair_position("events").await {
            Ok(Some(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    world.stop_service().await;
    let known = event(&world, workspace, "known").await;
    let lost = event(&world, workspace, "lost").await;
    let last = event(&world, workspace, "last").await;
    acknowledge(&world, 3).await;
    record(&world, workspace, "known", known).await;
    record(&world, workspace, "last", last).await;

    world.start_service().await;
    wait_until("the second copy", LIMIT, async || {
        match world.bus.last_seq(names::EVENTS).await {
            Ok(seq) if seq > last => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    let copy = world
        .bus
        .get(names::EVENTS, last + 1)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(copy.header(headers::AGAIN), Some(&*lost.to_string()));
    assert_eq!(copy.header(headers::EVENT_ID), Some("lost"));
    assert_eq!(copy.header(headers::HOP), Some("1"));
    wait_until("the check to have passed", LIMIT, async || {
        match world.store.repair_position("events").await {
            Ok(Some(position)) if position == last => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    assert_eq!(world.bus.last_seq(names::EVENTS).await.unwrap(), last + 1);
}

#[tokio::test]
async fn a_held_delivery_that_was_tried_before_is_owed_again_with_its_next_attempt() {
    let mut world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let webhook = world.webhook(&workspace.token).await;
    world.stop_service().await;
    let made = now() - AGE_SECONDS * 1_000_000;
    let place = made / 1_000 - 1_000;
    world
        .sql(&format!(
            "INSERT INTO repair_progress VALUES ('deliveries', {place})
             ON CONFLICT (what) DO UPDATE SET position = {place}"
        ))
        .await;
    let partition = ids::partition_of(webhook, world.bus.settings().partitions);
    let mut ids_of = Vec::new();
    for (seq, event) in [(1, "lost"), (2, "held")] {
        let id = ids::delivery_id(workspace.id, event, webhook, made);
        let found = Match {
            webhook_id: Bytes::copy_from_slice(webhook.as_bytes()),
            delivery_id: Bytes::copy_from_slice(id.as_bytes()),
            snapshot: Bytes::from_static(b"{}"),
            ..Match::default()
        };
        record_with(&world, workspace.id, event, seq, vec![found]).await;
        let reference = DeliveryRef {
            delivery_id: Bytes::copy_from_slice(id.as_bytes()),
            created_at: made,
            ..delivery(workspace.id, webhook, event)
        };
        // An attempt failed, and then the webhook was paused.
        let mut report = delivered(&reference);
        report.state = DeliveryState::Held.into();
        report.at = made + 1_000_000;
        let attempt = report.attempt.as_mut().unwrap();
        attempt.outcome = Outcome::Timeout.into();
        attempt.class = FailureClass::Temporary.into();
        attempt.status_code = 0;
        let message = Outgoing::new(
            subjects::report(partition),
            event,
            report.encode_to_vec().into(),
        );
        world.bus.publish(message, LIMIT).await.unwrap();
        let held = DeliveryJob {
            delivery: Some(reference),
            attempt: 2,
            ..DeliveryJob::default()
        };
        if event == "held" {
            let message = Outgoing::new(
                subjects::held(partition, webhook),
                event,
                held.encode_to_vec().into(),
            );
            world.bus.publish(message, LIMIT).await.unwrap();
        }
        ids_of.push(id);
    }
    world.start_service().await;
    let subject = subjects::delivery(partition, webhook, ids_of[0]);
    let found = wait_until("the delivery to be owed again", 2 * LIMIT, async || {
        let last = world.bus.get_last("DELIVERIES-0", &subject).await;
        last.ok().flatten().ok_or("not yet")
    })
    .await
    .unwrap();
    let job = DeliveryJob::decode(found.payload).unwrap();
    assert_eq!((job.attempt, job.recheck), (2, true));
    assert_eq!(world.bus.message_count("DELIVERIES-0").await.unwrap(), 1);
}

#[tokio::test]
async fn with_no_room_to_watch_more_the_check_waits_and_passes_nobody_over() {
    let mut world = World::start().await;
    world.stop_service().await;
    let place = now() / 1_000 - 120_000;
    world
        .sql(&format!(
            "INSERT INTO repair_progress VALUES ('deliveries', {place})
             ON CONFLICT (what) DO UPDATE SET position = {place};
             INSERT INTO repair_watch SELECT current_date, gen_random_uuid(), now() + interval '1 hour'
             FROM generate_series(1, {})",
            webhooks_store::MAX_WATCHED
        ))
        .await;
    let from = i64::try_from(place_of(&world).await).unwrap();
    let watched = world.store.watch_open(from, from + 60_000, now()).await;
    assert_eq!(watched.unwrap(), None);
    world.start_service().await;
    // The same round that finds no room also drops what ended: here, one whose day has gone.
    world
        .sql("INSERT INTO repair_watch VALUES ('2020-01-01', gen_random_uuid(), now())")
        .await;
    wait_until("a round", LIMIT, async || {
        match &*world
            .sql("SELECT count(*) FROM repair_watch WHERE day < '2021-01-01'")
            .await
        {
            "0" => Ok(()),
            left => Err(left.to_owned()),
        }
    })
    .await
    .unwrap();
    assert_eq!(place_of(&world).await, u64::try_from(place).unwrap());
    world
        .sql("DELETE FROM repair_watch WHERE day = current_date")
        .await;
    wait_until("the check to go on", LIMIT, async || {
        match place_of(&world).await {
            position if position > u64::try_from(place).unwrap() => Ok(()),
            position => Err(position),
        }
    })
    .await
    .unwrap();
}

async fn place_of(world: &World) -> u64 {
    let position = world.store.repair_position("deliveries").await.unwrap();
    position.unwrap()
}
