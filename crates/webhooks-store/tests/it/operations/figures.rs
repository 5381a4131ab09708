//! Lists of events, and figures.

use sqlx::AssertSqlSafe;
use uuid::Uuid;
use webhooks_domain::{delivery::DeliveryState, endpoint::outcome::Outcome};
use webhooks_store::{EventRow, Interval};

use super::DAY;
use crate::support::{Database, NOON, SECOND, attempt, day, facts, report, verdict};

#[tokio::test]
async fn events_page_newest_first() {
    let database = Database::fresh().await;
    let store = &database.store;
    let workspace = Uuid::new_v4();
    let verdicts: Vec<_> = (0..7)
        .map(|n| {
            let at = NOON - n / 2 * DAY;
            let mut verdict = verdict(&facts(workspace, Uuid::nil(), &format!("e{n}"), at));
            verdict.event_seq = u64::try_from(100 - n).unwrap();
            verdict
        })
        .collect();
    store.record_verdicts(&verdicts).await.unwrap();
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = store
            .list_events(workspace, (0, i64::MAX), 3, after)
            .await
            .unwrap();
        assert_eq!((page.total, page.total_is_lower_bound), (7, false));
        after = page.rows.last().map(EventRow::cursor);
        seen.extend(page.rows.into_iter().map(|row| row.id));
        if !page.more {
            break;
        }
    }
    assert_eq!(seen, ["e0", "e1", "e2", "e3", "e4", "e5", "e6"]);
    let range = (NOON - DAY, NOON);
    let page = store.list_events(workspace, range, 10, None).await.unwrap();
    assert_eq!(page.total, 2, "from the first moment to before the last");
    let event = store
        .get_event(workspace, "e6", NOON, 30)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(event.event.accepted_at, NOON - 3 * DAY);
    assert!(!event.renditions.is_empty());
    let foreign = store.get_event(Uuid::new_v4(), "e6", NOON, 30).await;
    assert_eq!(foreign.unwrap(), None);
}

#[tokio::test]
async fn an_event_is_found_by_its_id_for_as_long_as_history_is_kept() {
    let database = Database::fresh().await;
    let store = &database.store;
    let workspace = Uuid::new_v4();
    let at = |days: i64| {
        facts(
            workspace,
            Uuid::nil(),
            &format!("e{days}"),
            NOON - days * DAY,
        )
    };
    let verdicts = [30, 401, 3_650].map(|days| verdict(&at(days)));
    store.record_verdicts(&verdicts).await.unwrap();
    let found = async |id: &str, kept_days| {
        let event = store.get_event(workspace, id, NOON, kept_days).await;
        event.unwrap().is_some()
    };
    assert!(found("e30", 30).await && !found("e401", 30).await);
    for id in ["e30", "e401", "e3650"] {
        assert!(found(id, 3_650).await, "{id}");
        assert!(found(id, u32::MAX).await, "{id}");
    }
}

#[tokio::test]
async fn figures_are_what_the_rows_say() {
    let database = Database::fresh().await;
    let store = &database.store;
    let (workspace, webhook) = (Uuid::new_v4(), Uuid::new_v4());
    store.ensure_partitions(day(NOON), 1).await.unwrap();
    let at = |n: i64| facts(workspace, webhook, &format!("e{n}"), NOON + n * 60 * SECOND);
    let all: Vec<_> = (0..6).map(at).collect();
    store
        .record_verdicts(&all.iter().map(verdict).collect::<Vec<_>>())
        .await
        .unwrap();
    let mut reports = Vec::new();
    for (n, delivery) in all.iter().enumerate() {
        let (state, outcome) = match n {
            0..3 => (DeliveryState::Delivered, Outcome::Success),
            3..5 => (DeliveryState::Failed, Outcome::HttpError),
            _ => continue,
        };
        let mut one = attempt(1, delivery.created_at, outcome);
        one.timings.total_us = Some(u32::try_from(n + 1).unwrap() * 1_000);
        reports.push(report(delivery, state, one));
    }
    store.record_reports(&reports).await.unwrap();
    let range = (NOON, NOON + 3_600 * SECOND);
    for of in [None, Some(webhook)] {
        let measured = store
            .measure(workspace, of, Interval::Minute, range, NOON)
            .await
            .unwrap();
        let totals = measured.totals;
        assert_eq!(
            (totals.deliveries, totals.delivered, totals.failed),
            (6, 3, 2)
        );
        assert_eq!((totals.pending, totals.attempts), (1, 5));
        assert_eq!(measured.buckets.len(), 6);
        assert_eq!(measured.buckets[0].start, NOON);
        assert_eq!(measured.latency.sample, 5);
        assert_eq!(measured.latency.p50_us, Some(3_000.0));
        assert_eq!(measured.backlog, (1, 0, 0));
        assert!(!measured.partial);
        let [group] = measured.errors.as_slice() else {
            panic!("{:?}", measured.errors)
        };
        assert_eq!((group.status, group.count), (Some(503), 2));
        assert_eq!(group.first.delivery, all[3].delivery_id);
        assert_eq!(group.last.delivery, all[4].delivery_id);
    }
    let day = store
        .measure(workspace, None, Interval::Day, range, NOON)
        .await
        .unwrap();
    assert_eq!(day.buckets.len(), 1);
    let nothing = store
        .measure(Uuid::new_v4(), None, Interval::Hour, range, NOON)
        .await
        .unwrap();
    assert!(nothing.buckets.is_empty() && nothing.latency.p50_us.is_none());
}

#[tokio::test]
async fn counters_stand_for_whole_days_only() {
    let database = Database::fresh().await;
    let store = &database.store;
    let (workspace, webhook) = (Uuid::new_v4(), Uuid::new_v4());
    store
        .ensure_partitions(day(NOON).plus(-2), 2)
        .await
        .unwrap();
    // More than are looked at, on the 13th and the 14th, one every two seconds; ten in the morning of
    // the 15th and five in its afternoon. The counters know of two tests on the 13th besides.
    let insert = format!(
        "INSERT INTO deliveries (day, id, workspace_id, webhook_id, event_id, event_type, lbid,
           trigger, created_at, event_seq, state, state_at, completed_at)
         SELECT at::date, gen_random_uuid(), '{workspace}', '{webhook}', 'e', 'step.completed', 'l',
           'EVENT', at AT TIME ZONE 'UTC', 1, 'DELIVERED', now(), now()
         FROM (
           SELECT timestamp '2026-01-13' + n * interval '2 s' FROM generate_series(0, 29999) n
           UNION ALL
           SELECT timestamp '2026-01-14' + n * interval '2 s' FROM generate_series(0, 29999) n
           UNION ALL
           SELECT timestamp '2026-01-15 11:00' + n * interval '1 s' FROM generate_series(0, 9) n
           UNION ALL
           SELECT timestamp '2026-01-15 13:00' + n * interval '1 s' FROM generate_series(0, 4) n
         ) made(at);
         INSERT INTO delivery_counts VALUES
           ('{webhook}', '2026-01-13', '{workspace}', 0, 0, 0, 30002, 0, 0),
           ('{webhook}', '2026-01-14', '{workspace}', 0, 0, 0, 30000, 0, 0),
           ('{webhook}', '2026-01-15', '{workspace}', 0, 0, 0, 15, 0, 0);
         ANALYZE deliveries;"
    );
    sqlx::raw_sql(AssertSqlSafe(insert))
        .execute(&database.sql)
        .await
        .unwrap();
    let hour = 3_600 * SECOND;
    let midnight = NOON - 12 * hour;
    let first = midnight - 2 * DAY;
    let later = NOON + 10 * DAY;
    for (from, to, now, expected) in [
        // The last day is asked for in part, long after it was over.
        (first, NOON, later, [30_002, 30_000, 10]),
        // It is noon: what there is of the day is asked for whole.
        (first, NOON, NOON, [30_002, 30_000, 15]),
        (first, midnight + DAY, later, [30_002, 30_000, 15]),
        // Of the first day an hour is missing, and of the rest the newest are looked at.
        (first + hour, NOON, later, [19_990, 30_000, 10]),
    ] {
        for of in [None, Some(webhook)] {
            let measured = store
                .measure(workspace, of, Interval::Day, (from, to), now)
                .await
                .unwrap();
            assert!(measured.partial);
            let days: Vec<_> = measured
                .buckets
                .iter()
                .map(|bucket| (bucket.start, bucket.counts.deliveries))
                .collect();
            let [one, two, three] = expected;
            assert_eq!(
                days,
                [(first, one), (first + DAY, two), (midnight, three)],
                "{from} to {to} at {now}"
            );
            assert_eq!(measured.totals.deliveries, one + two + three);
        }
    }
}
