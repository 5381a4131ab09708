//! One delivery made anew, or made for a test.

use uuid::Uuid;
use webhooks_domain::{delivery::DeliveryState, endpoint::outcome::Outcome, ids::Trigger};
use webhooks_store::{
    DeliveryFacts, NewTest, RenditionRecord, Replay, TestSend, VerdictRecord, Wish,
};

use super::{DAY, wish};
use crate::support::{Database, NOON, SECOND, actor, attempt, day, facts, report, verdict};

#[tokio::test]
async fn a_replay_has_the_same_bytes_and_is_owed_once() {
    let database = Database::fresh().await;
    let store = &database.store;
    let workspace = database.workspace().await;
    let original = facts(workspace, Uuid::new_v4(), "e", NOON - 3 * DAY);
    let actor = actor();
    let wish = wish(&actor, NOON);
    let key = Uuid::from_u128(1);
    let unknown = store.replay_delivery(workspace, original.delivery_id, key, wish);
    assert_eq!(unknown.await.unwrap(), Replay::Unknown);
    store
        .record_reports(&[report(
            &original,
            DeliveryState::Failed,
            attempt(1, NOON, Outcome::Timeout),
        )])
        .await
        .unwrap();
    let early = store.replay_delivery(workspace, original.delivery_id, key, wish);
    assert_eq!(early.await.unwrap(), Replay::NotYet);
    store.record_verdicts(&[verdict(&original)]).await.unwrap();
    let stranger = store.replay_delivery(Uuid::new_v4(), original.delivery_id, key, wish);
    assert_eq!(stranger.await.unwrap(), Replay::Unknown);

    let made = store
        .replay_delivery(workspace, original.delivery_id, key, wish)
        .await
        .unwrap();
    let Replay::Made(replay) = made else {
        panic!("{made:?}")
    };
    assert_eq!(replay.replay_of, Some(original.delivery_id));
    assert_eq!(
        (replay.trigger, replay.state),
        (Trigger::Replay, DeliveryState::Pending)
    );
    assert_eq!(replay.created_at, NOON);
    let again = store
        .replay_delivery(workspace, original.delivery_id, key, wish)
        .await
        .unwrap();
    assert_eq!(
        again,
        Replay::Made(replay.clone()),
        "the same wish makes nothing twice"
    );

    let body = store
        .delivery_body(workspace, original.delivery_id)
        .await
        .unwrap();
    assert!(body.is_some());
    assert_eq!(
        store.delivery_body(workspace, replay.id).await.unwrap(),
        body
    );
    let owed = store.next_owed(10).await.unwrap();
    assert_eq!(owed.len(), 1);
    assert_eq!(owed[0].delivery.delivery_id, replay.id);
    assert_eq!(owed[0].body.as_deref(), body.as_deref());
    store.done_owed(&[owed[0].outbox_id]).await.unwrap();
    assert!(store.next_owed(10).await.unwrap().is_empty());

    // A replay of the replay goes back to the same event.
    let wish = Wish {
        now: NOON + DAY,
        ..wish
    };
    let second = store
        .replay_delivery(workspace, replay.id, key, wish)
        .await
        .unwrap();
    let Replay::Made(second) = second else {
        panic!("{second:?}")
    };
    assert_eq!(
        store.delivery_body(workspace, second.id).await.unwrap(),
        body
    );

    sqlx::query("UPDATE events SET renditions = NULL")
        .execute(&database.sql)
        .await
        .unwrap();
    let expired = store.replay_delivery(workspace, original.delivery_id, key, wish);
    assert_eq!(expired.await.unwrap(), Replay::Expired);
    let audited = "SELECT count(*) FROM audit_log WHERE action = 'delivery.retry'";
    assert_eq!(database.count(audited).await, 3);
}

fn rendition(profile: &str) -> RenditionRecord {
    RenditionRecord {
        profile: profile.into(),
        head: "{\"event\":{},\"webhook\":".into(),
        tail: ",\"lbid\":\"x\"}".into(),
    }
}

fn test_of(workspace: Uuid, n: i64) -> NewTest {
    let event = format!("test-{n}");
    let delivery = DeliveryFacts {
        trigger: Trigger::Test,
        event_seq: 0,
        ..facts(workspace, Uuid::from_u128(9), &event, NOON + n)
    };
    let event = VerdictRecord {
        renditions: vec![rendition("strict")],
        deliveries: Vec::new(),
        ..verdict(&delivery)
    };
    NewTest {
        event_day: day(NOON),
        event: Some(event),
        rendition: rendition("strict"),
        snapshot: b"{}".to_vec(),
        action: "webhook.test",
        limit: 2,
        window: 60 * SECOND,
        delivery,
    }
}

#[tokio::test]
async fn a_test_is_owed_is_capped_and_counts_for_nothing() {
    let database = Database::fresh().await;
    let (store, workspace) = (&database.store, database.workspace().await);
    let actor = actor();
    let at = |now| wish(&actor, now);
    for n in 0..2 {
        let sent = store
            .send_test(&test_of(workspace, n), at(NOON + n))
            .await
            .unwrap();
        assert!(matches!(sent, TestSend::Made(_)), "{sent:?}");
    }
    let third = store
        .send_test(&test_of(workspace, 2), at(NOON + 2))
        .await
        .unwrap();
    assert_eq!(third, TestSend::TooMany(NOON + 60 * SECOND));
    let later = NOON + 60 * SECOND;
    let later = store
        .send_test(&test_of(workspace, 3), at(later))
        .await
        .unwrap();
    assert!(matches!(later, TestSend::Made(_)), "{later:?}");
    assert_eq!(store.next_owed(10).await.unwrap().len(), 3);

    let sent = test_of(workspace, 0).delivery;
    let delivered = report(
        &sent,
        DeliveryState::Delivered,
        attempt(1, NOON, Outcome::Success),
    );
    store.record_reports(&[delivered]).await.unwrap();
    let listed = store
        .list_deliveries(
            workspace,
            sent.webhook_id,
            Some(DeliveryState::Delivered),
            10,
            None,
        )
        .await
        .unwrap();
    assert_eq!(listed.total, 1);
    let counted =
        "SELECT coalesce(sum(success_count + failure_count), 0)::bigint FROM webhook_stats";
    assert_eq!(database.count(counted).await, 0);
    let events = store
        .list_events(workspace, (0, i64::MAX), 10, None)
        .await
        .unwrap();
    assert!(events.rows.is_empty(), "tests are no events");
}
