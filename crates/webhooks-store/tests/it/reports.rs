use futures::future::try_join_all;
use uuid::Uuid;
use webhooks_domain::{delivery::DeliveryState, endpoint::outcome::Outcome};
use webhooks_store::{DeliveryFilter, DeliveryRow, ReportRecord};

use crate::support::{Database, Draw, NOON, SECOND, attempt, facts, report, verdict};

async fn after(reports: &[ReportRecord]) -> (DeliveryRow, usize) {
    let database = Database::fresh().await;
    for report in reports {
        database
            .store
            .record_reports(std::slice::from_ref(report))
            .await
            .unwrap();
    }
    let delivery = &reports[0].delivery;
    let found = database
        .store
        .get_delivery(delivery.workspace_id, delivery.delivery_id)
        .await;
    let (row, attempts) = found.unwrap().unwrap();
    (row, attempts.len())
}

#[tokio::test]
async fn the_row_shows_the_newest_attempt_and_the_highest_number() {
    let delivery = facts(Uuid::new_v4(), Uuid::new_v4(), "e", NOON);
    let first = report(
        &delivery,
        DeliveryState::Retrying,
        attempt(1, NOON, Outcome::HttpError),
    );
    let second = report(
        &delivery,
        DeliveryState::Retrying,
        attempt(2, NOON + SECOND, Outcome::Timeout),
    );
    for reports in [[first.clone(), second.clone()], [second, first]] {
        let (row, attempts) = after(&reports).await;
        assert_eq!(
            (row.state, row.attempt_count, attempts),
            (DeliveryState::Retrying, 2, 2)
        );
        assert_eq!(
            (row.last_status_code, row.last_error_reason.as_deref()),
            (None, Some("no luck"))
        );
        assert_eq!(row.next_attempt_at, Some(NOON + 31 * SECOND));
    }
}

#[tokio::test]
async fn a_success_outranks_a_failure_and_clears_the_error_whichever_comes_first() {
    let delivery = facts(Uuid::new_v4(), Uuid::new_v4(), "e", NOON);
    let success = report(
        &delivery,
        DeliveryState::Delivered,
        attempt(3, NOON, Outcome::Success),
    );
    let mut twice = attempt(3, NOON + SECOND, Outcome::Timeout);
    twice.execution_id = Uuid::new_v4();
    let failure = report(&delivery, DeliveryState::Failed, twice);
    for reports in [[success.clone(), failure.clone()], [failure, success]] {
        let (row, attempts) = after(&reports).await;
        assert_eq!(
            (row.state, row.attempt_count, attempts),
            (DeliveryState::Delivered, 3, 2)
        );
        assert_eq!(
            (
                row.last_status_code,
                row.last_error_class,
                row.last_error_reason
            ),
            (Some(200), None, None)
        );
        assert_eq!(
            (row.next_attempt_at, row.completed_at),
            (None, Some(NOON + SECOND))
        );
    }
}

#[tokio::test]
async fn a_hold_after_an_attempt_is_shown_and_forgets_no_attempt() {
    let delivery = facts(Uuid::new_v4(), Uuid::new_v4(), "e", NOON);
    let tried = report(
        &delivery,
        DeliveryState::Retrying,
        attempt(1, NOON, Outcome::Timeout),
    );
    let held = ReportRecord {
        state: DeliveryState::Held,
        attempt: None,
        attempts_made: 0,
        next_attempt_at: None,
        at: NOON + 5 * SECOND,
        ..tried.clone()
    };
    for reports in [[tried.clone(), held.clone()], [held, tried]] {
        let (row, _) = after(&reports).await;
        assert_eq!(
            (row.state, row.attempt_count, row.next_attempt_at),
            (DeliveryState::Held, 1, None)
        );
    }
}

#[tokio::test]
async fn who_waits_for_whom_is_kept_until_the_next_account_and_can_be_searched() {
    let delivery = facts(Uuid::new_v4(), Uuid::new_v4(), "e", NOON);
    let first = Uuid::from_u128(7);
    let tried = report(
        &delivery,
        DeliveryState::Retrying,
        attempt(1, NOON + 9 * SECOND, Outcome::Timeout),
    );
    let blocked = ReportRecord {
        state: DeliveryState::Pending,
        attempt: None,
        next_attempt_at: Some(NOON + 30 * SECOND),
        at: NOON + 5 * SECOND,
        waits_for: Some(first),
        ..tried.clone()
    };
    let (row, _) = after(std::slice::from_ref(&blocked)).await;
    assert_eq!(
        (row.state, row.blocked_by),
        (DeliveryState::Pending, Some(first))
    );
    for reports in [[blocked.clone(), tried.clone()], [tried, blocked.clone()]] {
        let (row, _) = after(&reports).await;
        assert_eq!((row.state, row.blocked_by), (DeliveryState::Retrying, None));
    }
    let database = Database::fresh().await;
    let other = facts(delivery.workspace_id, delivery.webhook_id, "f", NOON);
    let free = ReportRecord {
        delivery: other.clone(),
        waits_for: None,
        ..blocked.clone()
    };
    database
        .store
        .record_reports(&[blocked, free])
        .await
        .unwrap();
    for (wanted, expected) in [(true, delivery.delivery_id), (false, other.delivery_id)] {
        let filter = DeliveryFilter {
            blocked: Some(wanted),
            ..DeliveryFilter::default()
        };
        let found = database
            .store
            .search_deliveries(delivery.workspace_id, &filter, 10, None)
            .await
            .unwrap();
        let found: Vec<_> = found.rows.iter().map(|row| row.id).collect();
        assert_eq!(found, [expected], "blocked: {wanted}");
    }
}

#[tokio::test]
async fn a_reason_is_kept_for_as_long_as_the_state_it_explains() {
    let delivery = facts(Uuid::new_v4(), Uuid::new_v4(), "e", NOON);
    let tried = report(
        &delivery,
        DeliveryState::Retrying,
        attempt(1, NOON, Outcome::Timeout),
    );
    let expired = ReportRecord {
        state: DeliveryState::Cancelled,
        attempt: None,
        next_attempt_at: None,
        at: NOON + 5 * SECOND,
        reason: "hold_expired".to_owned(),
        ..tried.clone()
    };
    let shown = |row: &DeliveryRow| (row.state, row.state_reason.clone());
    let cancelled = (DeliveryState::Cancelled, Some("hold_expired".to_owned()));
    for reports in [
        vec![tried.clone(), expired.clone()],
        vec![expired.clone(), tried.clone()],
        vec![expired.clone(), expired.clone()],
    ] {
        let (row, _) = after(&reports).await;
        assert_eq!(shown(&row), cancelled);
    }
    // What was on the wire at that moment arrived after all.
    let arrived = report(
        &delivery,
        DeliveryState::Delivered,
        attempt(2, NOON + 6 * SECOND, Outcome::Success),
    );
    for reports in [[expired.clone(), arrived.clone()], [arrived, expired]] {
        let (row, _) = after(&reports).await;
        assert_eq!(shown(&row), (DeliveryState::Delivered, None));
    }
}

/// Many batches at once over the same few hundred deliveries, each in an order of its own, verdicts
/// among them: nothing deadlocks (a deadlock is an error of the call), and nothing is lost or
/// counted twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_batches_over_the_same_deliveries_neither_deadlock_nor_miscount() {
    const DELIVERIES: i64 = 300;
    let database = Database::fresh().await;
    let workspace = Uuid::new_v4();
    let webhooks = [Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4()];
    let all: Vec<_> = (0..DELIVERIES)
        .map(|n| {
            facts(
                workspace,
                webhooks[usize::try_from(n % 3).unwrap()],
                &format!("e{n}"),
                NOON + n,
            )
        })
        .collect();
    let worker = async |seed: u64| {
        let mut draw = Draw(seed);
        let mut mine = all.clone();
        draw.shuffle(&mut mine);
        for batch in mine.chunks(40 + draw.below(60)) {
            if draw.below(3) == 0 {
                let verdicts: Vec<_> = batch.iter().map(verdict).collect();
                database.store.record_verdicts(&verdicts).await?;
            }
            let reports: Vec<_> = batch
                .iter()
                .map(|delivery| match draw.below(3) {
                    0 => report(
                        delivery,
                        DeliveryState::Failed,
                        attempt(3, NOON + 9, Outcome::Timeout),
                    ),
                    1 => report(
                        delivery,
                        DeliveryState::Retrying,
                        attempt(1, NOON + 3, Outcome::Timeout),
                    ),
                    _ => report(
                        delivery,
                        DeliveryState::Delivered,
                        attempt(2, NOON + 6, Outcome::Success),
                    ),
                })
                .collect();
            database.store.record_reports(&reports).await?;
        }
        Ok::<_, webhooks_store::StoreError>(())
    };
    try_join_all((1..=16).map(worker)).await.unwrap();
    let rows = database.count("SELECT count(*) FROM deliveries").await;
    assert_eq!(rows, DELIVERIES);
    crate::converge::assert_counters_equal_the_log(&database).await;
}

#[tokio::test]
async fn a_first_report_that_brings_the_snapshot_leaves_nothing_for_the_verdict_to_write() {
    let database = Database::fresh().await;
    let delivery = facts(Uuid::new_v4(), Uuid::new_v4(), "e", NOON);
    let first = ReportRecord {
        snapshot: Some((bytes::Bytes::from_static(b"{\"id\":1}"), 0)),
        ..report(
            &delivery,
            DeliveryState::Delivered,
            attempt(1, NOON, Outcome::Success),
        )
    };
    database.store.record_reports(&[first]).await.unwrap();
    let row =
        "SELECT concat_ws(' ', xmin, convert_from(snapshot, 'UTF8'), rendition) FROM deliveries";
    let written = database.texts(row).await;
    assert!(written[0].ends_with("{\"id\":1} 0"), "{written:?}");
    database
        .store
        .record_verdicts(&[verdict(&delivery)])
        .await
        .unwrap();
    assert_eq!(database.texts(row).await, written, "written again");
}
