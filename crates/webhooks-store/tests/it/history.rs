use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;
use webhooks_devstack::wait_until;
use webhooks_domain::{
    delivery::DeliveryState,
    endpoint::outcome::{FailureClass, Outcome},
};
use webhooks_store::{
    MAX_VERDICT_DELIVERIES, ReportRecord, ResponseHeader, StatsCursor, StoreError, VerdictDelivery,
};

use crate::support::{Database, NOON, SECOND, actor, attempt, facts, new_webhook, report, verdict};

#[tokio::test]
async fn a_verdict_makes_pending_deliveries_whose_bodies_can_be_rebuilt() {
    let database = Database::fresh().await;
    let store = &database.store;
    let (workspace, webhook) = (Uuid::new_v4(), Uuid::new_v4());
    let delivery = facts(workspace, webhook, "e-1", NOON);
    let mut verdict = verdict(&delivery);
    let held = facts(workspace, Uuid::new_v4(), "e-1", NOON);
    verdict.deliveries.push(VerdictDelivery {
        delivery_id: held.delivery_id,
        webhook_id: held.webhook_id,
        snapshot: Bytes::from_static(b"\xff\0"),
        rendition: 1,
        held: true,
    });
    for _ in 0..2 {
        store
            .record_verdicts(&[verdict.clone(), verdict.clone()])
            .await
            .unwrap();
    }
    let (row, attempts) = store
        .get_delivery(workspace, delivery.delivery_id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (row.state, row.attempt_count, row.created_at),
        (DeliveryState::Pending, 0, NOON)
    );
    assert_eq!(
        (row.event_id.as_str(), row.lbid.as_str(), row.event_seq),
        ("e-1", "2VqKhjxtKwC7pBbg", 7)
    );
    assert_eq!(attempts, []);
    let (row, _) = store
        .get_delivery(workspace, held.delivery_id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(row.state, DeliveryState::Held);
    let body = store
        .delivery_body(workspace, delivery.delivery_id)
        .await
        .unwrap()
        .unwrap();
    let rendition = &verdict.renditions[0];
    assert_eq!(
        body,
        [&rendition.head[..], b"{\"id\":1}", &rendition.tail].concat()
    );
    assert_eq!(
        store
            .delivery_body(workspace, held.delivery_id)
            .await
            .unwrap()
            .unwrap(),
        b"[\xff\0]"
    );
    let page = store
        .list_deliveries(workspace, webhook, None, 10, None)
        .await
        .unwrap();
    assert_eq!((page.total, page.rows.len(), page.more), (1, 1, false));
    assert_eq!(database.count("SELECT count(*) FROM events").await, 1);
}

#[tokio::test]
async fn the_part_with_the_renditions_may_come_last_or_after_the_report() {
    let database = Database::fresh().await;
    let store = &database.store;
    let (workspace, webhook) = (Uuid::new_v4(), Uuid::new_v4());
    let delivery = facts(workspace, webhook, "e", NOON);
    let done = report(
        &delivery,
        DeliveryState::Delivered,
        attempt(1, NOON, Outcome::Success),
    );
    store.record_reports(&[done]).await.unwrap();
    assert_eq!(
        store
            .delivery_body(workspace, delivery.delivery_id)
            .await
            .unwrap(),
        None
    );
    let first = verdict(&delivery);
    let mut second = first.clone();
    second.renditions.clear();
    store.record_verdicts(&[second]).await.unwrap();
    assert_eq!(
        store
            .delivery_body(workspace, delivery.delivery_id)
            .await
            .unwrap(),
        None
    );
    let mut without = first.clone();
    without.deliveries.clear();
    store.record_verdicts(&[without]).await.unwrap();
    assert!(
        store
            .delivery_body(workspace, delivery.delivery_id)
            .await
            .unwrap()
            .is_some()
    );
    let (row, _) = store
        .get_delivery(workspace, delivery.delivery_id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(row.state, DeliveryState::Delivered);
    let delivered = Some(DeliveryState::Delivered);
    let page = store
        .list_deliveries(workspace, webhook, delivered, 10, None)
        .await
        .unwrap();
    assert_eq!((page.total, page.rows), (1, vec![row]));
}

#[tokio::test]
async fn another_workspaces_delivery_is_not_found() {
    let database = Database::fresh().await;
    let store = &database.store;
    let delivery = facts(Uuid::new_v4(), Uuid::new_v4(), "e", NOON);
    store.record_verdicts(&[verdict(&delivery)]).await.unwrap();
    let other = Uuid::new_v4();
    assert!(
        store
            .get_delivery(other, delivery.delivery_id)
            .await
            .unwrap()
            .is_none()
    );
    assert!(
        store
            .delivery_body(other, delivery.delivery_id)
            .await
            .unwrap()
            .is_none()
    );
    let page = store
        .list_deliveries(other, delivery.webhook_id, None, 10, None)
        .await
        .unwrap();
    assert_eq!((page.total, page.rows), (0, vec![]));
    assert!(
        store
            .get_delivery(delivery.workspace_id, Uuid::max())
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn what_text_cannot_hold_breaks_no_insert() {
    let database = Database::fresh().await;
    let store = &database.store;
    let mut delivery = facts(Uuid::new_v4(), Uuid::new_v4(), "e\0v", NOON);
    delivery.lbid = "\0".into();
    delivery.event_type = "\0t".into();
    let mut failed = attempt(0, i64::MAX, Outcome::InvalidResponse);
    failed.response_headers = vec![
        ResponseHeader {
            name: "x\0".into(),
            value: "a\r\nb\0\u{1}é".into(),
        },
        ResponseHeader {
            name: String::new(),
            value: String::new(),
        },
    ];
    failed.response_body = Bytes::from([0u8, 255, 0, 10].repeat(4_096));
    failed.error = "bad\0byte".into();
    failed.remote_ip = "\0".into();
    failed.dispatcher = "\0".into();
    failed.status_code = Some(u16::MAX);
    failed.timings.total_us = Some(u32::MAX);
    let mut report = report(
        &delivery,
        DeliveryState::Failed,
        attempt(1, NOON, Outcome::Timeout),
    );
    report.attempt = Some(failed.clone());
    report.at = i64::MIN;
    report.next_attempt_at = Some(i64::MAX);
    report.attempts_made = u32::MAX;
    report.delivery.event_seq = u64::MAX;
    let mut verdict = verdict(&delivery);
    verdict.step_kind = "\0".into();
    verdict.event_action = "\0".into();
    verdict.event_timestamp = i64::MIN;
    verdict.renderer_version = u32::MAX;
    store
        .record_reports(std::slice::from_ref(&report))
        .await
        .unwrap();
    store.record_verdicts(&[verdict]).await.unwrap();
    store.record_reports(&[report]).await.unwrap();
    let (row, attempts) = store
        .get_delivery(delivery.workspace_id, delivery.delivery_id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((row.event_id.as_str(), row.lbid.as_str()), ("e␀v", "␀"));
    assert_eq!(row.last_error_reason.as_deref(), Some("bad␀byte"));
    assert_eq!(
        (row.next_attempt_at, row.completed_at),
        (None, Some(NOON + 1))
    );
    let [shown] = &attempts[..] else {
        panic!("one attempt, not {attempts:?}")
    };
    assert_eq!((shown.number, shown.status_code), (1, Some(u16::MAX)));
    assert_eq!(shown.response_body, failed.response_body);
    assert_eq!(shown.error, "bad␀byte");
    let [first, second] = &shown.response_headers[..] else {
        panic!("{shown:?}")
    };
    assert_eq!(
        (first.name.as_str(), first.value.as_str()),
        ("x␀", "a␍␊b␀\u{1}é")
    );
    assert_eq!((second.name.as_str(), second.value.as_str()), ("", ""));
    assert!(
        store
            .delivery_body(delivery.workspace_id, delivery.delivery_id)
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn counters_join_their_webhook_and_changes_are_told_once_or_more_never_less() {
    let database = Database::fresh().await;
    let store = &database.store;
    let workspace = database.workspace().await;
    let webhook = store
        .create_webhook(&new_webhook(workspace), None, None, &actor())
        .await
        .unwrap();
    let delivery = |n: i64| facts(workspace, webhook.id, &format!("e{n}"), NOON + n);
    let failing = attempt(3, NOON + 5, Outcome::HttpError);
    let failed = report(&delivery(1), DeliveryState::Failed, failing);
    let mut ours = attempt(1, NOON + 99 * SECOND, Outcome::Internal);
    ours.class = Some(FailureClass::Ours);
    let again = report(&delivery(2), DeliveryState::Retrying, ours);
    store.record_reports(&[failed, again]).await.unwrap();
    let (rows, cursor) = store
        .stats_changed_since(StatsCursor::default())
        .await
        .unwrap();
    let [stats] = &rows[..] else {
        panic!("{rows:?}")
    };
    assert_eq!((stats.success_count, stats.failure_count), (0, 1));
    assert_eq!(
        (stats.last_sent_at, stats.last_delivered_at),
        (Some(NOON + 5), None),
        "our own fault sent nothing"
    );
    // Until every transaction that was open then, in whatever database, has ended.
    let mut cursor = cursor;
    wait_until("nothing to be new", Duration::from_secs(20), async || {
        let (rows, next) = store.stats_changed_since(cursor).await.unwrap();
        cursor = next;
        if rows.is_empty() { Ok(()) } else { Err(rows) }
    })
    .await
    .unwrap();
    // A transaction that is open while the cursor is read and commits later must not be missed.
    let mut open = database.sql.begin().await.unwrap();
    let touch = "UPDATE webhook_stats SET success_count = 5, changed_by = pg_current_xact_id()";
    sqlx::query(touch).execute(&mut *open).await.unwrap();
    let (_, cursor) = store.stats_changed_since(cursor).await.unwrap();
    open.commit().await.unwrap();
    let (rows, _) = store.stats_changed_since(cursor).await.unwrap();
    assert_eq!(
        rows.iter().map(|row| row.success_count).collect::<Vec<_>>(),
        [5]
    );
    let shown = store
        .get_webhook(workspace, webhook.id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (shown.success_count, shown.failure_count, shown.last_sent_at),
        (5, 1, Some(NOON + 5))
    );
    assert_eq!(shown.revision, 1, "counters are no configuration");
}

#[tokio::test]
async fn what_is_recorded_is_told_by_ids_alone() {
    let database = Database::fresh().await;
    let store = &database.store;
    let one = facts(Uuid::new_v4(), Uuid::new_v4(), "e", NOON);
    let two = facts(Uuid::new_v4(), Uuid::new_v4(), "e", NOON - 86_400 * SECOND);
    let done = report(
        &one,
        DeliveryState::Delivered,
        attempt(2, NOON, Outcome::Success),
    );
    store
        .record_verdicts(&[verdict(&one), verdict(&two)])
        .await
        .unwrap();
    let three = facts(Uuid::new_v4(), Uuid::new_v4(), "e", NOON + 86_400 * SECOND);
    let later = report(
        &three,
        DeliveryState::Retrying,
        attempt(1, NOON, Outcome::HttpError),
    );
    store.record_reports(&[done, later]).await.unwrap();
    let asked = [
        two.delivery_id,
        Uuid::new_v4(),
        one.delivery_id,
        three.delivery_id,
        Uuid::max(),
    ];
    let told = store.recorded(&asked).await.unwrap();
    let told: Vec<_> = told
        .iter()
        .map(|one| (one.id, one.state, one.attempts, one.next_attempt_at))
        .collect();
    let due = Some(NOON + 30 * SECOND);
    let expected = [
        (two.delivery_id, DeliveryState::Pending, 0, None),
        (one.delivery_id, DeliveryState::Delivered, 2, None),
        (three.delivery_id, DeliveryState::Retrying, 1, due),
    ];
    assert_eq!(told, expected);
    assert_eq!(store.recorded(&[]).await.unwrap(), []);
    let error = store.recorded(&[Uuid::nil(); 1_001]).await.unwrap_err();
    assert!(matches!(error, StoreError::BatchTooLarge { .. }), "{error}");
}

#[tokio::test]
async fn a_batch_beyond_its_limit_is_refused_whole() {
    let database = Database::fresh().await;
    let delivery = facts(Uuid::new_v4(), Uuid::new_v4(), "e", NOON);
    let reports = vec![
        report(
            &delivery,
            DeliveryState::Delivered,
            attempt(1, NOON, Outcome::Success)
        );
        1_001
    ];
    let error = database.store.record_reports(&reports).await.unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::BatchTooLarge {
                given: 1_001,
                limit: 1_000
            }
        ),
        "{error}"
    );
    let mut wide = verdict(&delivery);
    wide.deliveries = vec![wide.deliveries[0].clone(); MAX_VERDICT_DELIVERIES + 1];
    let error = database.store.record_verdicts(&[wide]).await.unwrap_err();
    assert!(matches!(error, StoreError::BatchTooLarge { .. }), "{error}");
    database.store.record_reports(&[]).await.unwrap();
    database.store.record_verdicts(&[]).await.unwrap();
    assert_eq!(database.count("SELECT count(*) FROM deliveries").await, 0);
}

#[tokio::test]
async fn a_cancellation_and_who_made_it_are_one_and_a_success_outranks_both() {
    let database = Database::fresh().await;
    let store = &database.store;
    let (workspace, webhook) = (database.workspace().await, Uuid::new_v4());
    let cancelled = |facts: &webhooks_store::DeliveryFacts| ReportRecord {
        attempt: None,
        attempts_made: 0,
        reason: "cancelled".to_owned(),
        ..report(
            facts,
            DeliveryState::Cancelled,
            attempt(1, NOON, Outcome::Success),
        )
    };
    let waiting = facts(workspace, webhook, "waiting", NOON);
    store.record_verdicts(&[verdict(&waiting)]).await.unwrap();
    for _ in 0..2 {
        let done = store.cancel_delivery(&cancelled(&waiting), &actor()).await;
        assert!(done.unwrap());
    }
    // The dispatcher saw the mark and reported first.
    let overtaken = facts(workspace, webhook, "overtaken", NOON);
    store
        .record_reports(&[cancelled(&overtaken)])
        .await
        .unwrap();
    let done = store
        .cancel_delivery(&cancelled(&overtaken), &actor())
        .await;
    assert!(done.unwrap());
    let arrived = facts(workspace, webhook, "arrived", NOON);
    let success = report(
        &arrived,
        DeliveryState::Delivered,
        attempt(1, NOON, Outcome::Success),
    );
    store.record_reports(&[success]).await.unwrap();
    let done = store.cancel_delivery(&cancelled(&arrived), &actor()).await;
    assert!(!done.unwrap(), "it was delivered meanwhile");
    let told = database
        .texts(
            "SELECT concat_ws(' ', subject, before->>'state', after->>'state') FROM audit_log
            WHERE action = 'delivery.cancel' ORDER BY id",
        )
        .await;
    assert_eq!(
        told,
        [
            format!("{} PENDING CANCELLED", waiting.delivery_id),
            format!("{} CANCELLED CANCELLED", overtaken.delivery_id)
        ],
        "once, and not for what was not cancelled"
    );
    let counted = database
        .count("SELECT sum(cancelled)::bigint FROM delivery_counts")
        .await;
    assert_eq!(counted, 2);
}

#[tokio::test]
async fn an_event_counts_once_however_often_and_in_whatever_parts_it_comes() {
    let database = Database::fresh().await;
    let store = &database.store;
    let (workspace, webhook) = (Uuid::new_v4(), Uuid::new_v4());
    let whole = |event: &str| verdict(&facts(workspace, webhook, event, NOON));
    let mut part = whole("parts");
    part.renditions.clear();
    let mut sample = whole("sample");
    sample.event_seq = 0;
    // Two batches with the same events at once, and all of it again.
    for _ in 0..2 {
        let batch = [whole("a"), part.clone(), sample.clone()];
        let (one, other) =
            tokio::join!(store.record_verdicts(&batch), store.record_verdicts(&batch));
        one.and(other).unwrap();
        store.record_verdicts(&[whole("parts")]).await.unwrap();
    }
    let today = webhooks_store::Day::of_micros(NOON);
    let days = store.usage(workspace, today.plus(-1), today).await.unwrap();
    let events: Vec<_> = days.iter().map(|day| day.events).collect();
    assert_eq!(events, [0, 2], "samples are no events");
    assert_eq!(days[1].start, today.start());
    assert_eq!((days[1].deliveries, days[1].open), (3, 3));
    let filled = database
        .count("SELECT count(*) FROM events WHERE renditions IS NOT NULL")
        .await;
    assert_eq!(filled, 3, "the part that came later is there too");
    // They go with the day.
    store.ensure_partitions(today, 0).await.unwrap();
    store
        .drop_partitions_older_than(today.plus(1))
        .await
        .unwrap();
    assert_eq!(database.count("SELECT count(*) FROM event_counts").await, 0);
}
