//! What fell between the streams is found.

use bytes::Bytes;
use prost::Message as _;
use uuid::Uuid;
use webhooks_bus::{Outgoing, PullSettings, headers, names, subjects};
use webhooks_devstack::wait_until;
use webhooks_domain::{ids, webhook::Plan};
use webhooks_proto::internal::v1::{DeliveryJob, Match, Rendition, Verdict};

use crate::support::{LIMIT, World, now};

async fn event(world: &World, workspace: Uuid, id: &str) -> u64 {
    let link = Uuid::from_u128(9);
    let event = Outgoing::new(
        subjects::event(workspace, link),
        id,
        Bytes::from_static(b"{}"),
    )
    .header(headers::EVENT_ID, id)
    .header(headers::WORKSPACE, &workspace.to_string())
    .header(headers::ACCEPTED_AT, &now().to_string());
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
