//! Searching deliveries, page by page.

use sqlx::AssertSqlSafe;
use uuid::Uuid;
use webhooks_domain::{
    delivery::DeliveryState,
    endpoint::outcome::{FailureClass, Outcome},
    ids::Trigger,
};
use webhooks_store::{DeliveryFilter, DeliveryRow, MAX_EXAMINED};

use super::{DAY, named, search};
use crate::support::{Database, NOON, SECOND, attempt, day, facts, report, verdict};

#[tokio::test]
async fn deliveries_are_found_by_whatever_is_known_of_them() {
    let database = Database::fresh().await;
    let store = &database.store;
    store
        .ensure_partitions(day(NOON).plus(-2), 3)
        .await
        .unwrap();
    let (workspace, a, b) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
    let delivery = |webhook, event: &str, at| facts(workspace, webhook, event, at);
    let old = delivery(a, "old", NOON - 2 * DAY);
    let mut other_link = delivery(a, "link", NOON - 1);
    other_link.link_id = Some(Uuid::from_u128(5));
    let mut other_journey = delivery(b, "journey", NOON);
    other_journey.lbid = "another".into();
    let failed = delivery(b, "failed", NOON + 1);
    let stranger = facts(Uuid::new_v4(), Uuid::new_v4(), "stranger", NOON);
    let all = [&old, &other_link, &other_journey, &failed, &stranger];
    store.record_verdicts(&all.map(verdict)).await.unwrap();
    let mut broken = attempt(1, NOON, Outcome::HttpError);
    broken.class = Some(FailureClass::Temporary);
    store
        .record_reports(&[
            report(&failed, DeliveryState::Failed, broken),
            report(
                &old,
                DeliveryState::Delivered,
                attempt(1, NOON, Outcome::Success),
            ),
        ])
        .await
        .unwrap();
    let none = DeliveryFilter::default;
    let cases: Vec<(DeliveryFilter, &[&str])> = vec![
        (none(), &["failed", "journey", "link", "old"]),
        (named(none(), a), &["link", "old"]),
        (
            DeliveryFilter {
                states: vec![DeliveryState::Failed, DeliveryState::Delivered],
                ..none()
            },
            &["failed", "old"],
        ),
        (
            DeliveryFilter {
                class: Some(FailureClass::Temporary),
                ..none()
            },
            &["failed"],
        ),
        (
            DeliveryFilter {
                status: Some((500, 599)),
                ..none()
            },
            &["failed"],
        ),
        (
            DeliveryFilter {
                status: Some((200, 200)),
                ..none()
            },
            &["old"],
        ),
        (
            DeliveryFilter {
                event_id: Some("old".into()),
                ..none()
            },
            &["old"],
        ),
        (
            DeliveryFilter {
                event_id: Some("old".into()),
                ..named(none(), b)
            },
            &[],
        ),
        (
            DeliveryFilter {
                link_id: Some(Uuid::from_u128(5)),
                ..none()
            },
            &["link"],
        ),
        (
            DeliveryFilter {
                lbid: Some("another".into()),
                ..none()
            },
            &["journey"],
        ),
        (
            DeliveryFilter {
                trigger: Some(Trigger::Test),
                ..none()
            },
            &[],
        ),
        (
            DeliveryFilter {
                created_from: Some(NOON - 1),
                created_before: Some(NOON + 1),
                ..none()
            },
            &["journey", "link"],
        ),
        (
            DeliveryFilter {
                created_before: Some(NOON - DAY),
                states: vec![DeliveryState::Delivered],
                ..none()
            },
            &["old"],
        ),
    ];
    for (filter, expected) in cases {
        let found = search(&database, workspace, filter.clone()).await;
        assert_eq!(found, expected, "{filter:?}");
    }
}

#[tokio::test]
async fn a_rare_match_is_found_page_by_page_within_the_limit_of_rows() {
    let database = Database::fresh().await;
    let (workspace, webhook) = (Uuid::new_v4(), Uuid::new_v4());
    database
        .store
        .ensure_partitions(day(NOON), 1)
        .await
        .unwrap();
    // 25,000 delivered, three of them failed: one every 10,000.
    let rows = 25_000;
    let insert = format!(
        "INSERT INTO deliveries (day, id, workspace_id, webhook_id, event_id, event_type, lbid,
           trigger, created_at, event_seq, state, state_at, completed_at, last_error_class,
           last_error_reason, last_status_code)
         SELECT '2026-01-15', ('019bc1fa' || '-4000-8000-8000-' || lpad(to_hex(n), 12, '0'))::uuid,
           '{workspace}', '{webhook}', 'e' || n, 'step.completed', 'l',
           CASE WHEN n % 10000 = 1 THEN 'REPLAY' ELSE 'EVENT' END,
           to_timestamp({at}) + n * interval '1 ms', n,
           CASE WHEN n % 10000 = 1 THEN 'FAILED' ELSE 'DELIVERED' END, now(), now(),
           CASE WHEN n % 10000 = 1 THEN 'TEMPORARY' END, CASE WHEN n % 10000 = 1 THEN 'x' END,
           CASE WHEN n % 10000 = 1 THEN 503 ELSE 200 END
         FROM generate_series(0, {rows} - 1) n;
         INSERT INTO delivery_counts VALUES
           ('{webhook}', '2026-01-15', '{workspace}', 0, 0, 0, {rows} - 3, 3, 0);
         ANALYZE deliveries;",
        at = NOON / SECOND,
    );
    sqlx::raw_sql(AssertSqlSafe(insert))
        .execute(&database.sql)
        .await
        .unwrap();
    for filter in [
        DeliveryFilter {
            trigger: Some(Trigger::Replay),
            ..DeliveryFilter::default()
        },
        DeliveryFilter {
            trigger: Some(Trigger::Replay),
            ..named(DeliveryFilter::default(), webhook)
        },
    ] {
        let (mut found, mut after, mut pages) = (0, None, 0);
        loop {
            let page = database
                .store
                .search_deliveries(workspace, &filter, 10, after)
                .await
                .unwrap();
            assert!(
                page.total_is_lower_bound && page.total <= 3,
                "{}",
                page.total
            );
            assert_eq!(page.more, page.next.is_some());
            found += page.rows.len();
            pages += 1;
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(found, 3);
        assert_eq!(pages, rows / MAX_EXAMINED);
    }
    // What cannot have been delivered is found without looking at what was.
    for filter in [
        DeliveryFilter {
            status: Some((503, 503)),
            ..DeliveryFilter::default()
        },
        DeliveryFilter {
            class: Some(FailureClass::Temporary),
            ..named(DeliveryFilter::default(), webhook)
        },
    ] {
        let page = database
            .store
            .search_deliveries(workspace, &filter, 10, None)
            .await
            .unwrap();
        assert_eq!((page.rows.len(), page.next), (3, None));
        assert_eq!((page.total, page.total_is_lower_bound), (3, false));
    }
    // What the counters know is exact at any size, and so is a search by state.
    let states = DeliveryFilter {
        states: vec![DeliveryState::Failed],
        ..DeliveryFilter::default()
    };
    let page = database
        .store
        .search_deliveries(workspace, &states, 10, None)
        .await
        .unwrap();
    assert_eq!((page.total, page.total_is_lower_bound), (3, false));
    let newest = DeliveryFilter {
        created_from: Some(NOON + 20_000 * SECOND / 1_000),
        ..states
    };
    let page = database
        .store
        .search_deliveries(workspace, &newest, 10, None)
        .await
        .unwrap();
    assert_eq!((page.rows.len(), page.next), (1, None));
    assert_eq!((page.total, page.total_is_lower_bound), (1, false));
}

#[tokio::test]
async fn pages_of_a_workspace_hold_each_delivery_once() {
    let database = Database::fresh().await;
    let store = &database.store;
    let workspace = Uuid::new_v4();
    let all: Vec<_> = (0..25)
        .map(|n| {
            let webhook = Uuid::from_u128(n % 3);
            let at = NOON - i64::try_from(n / 10).unwrap() * DAY;
            facts(workspace, webhook, &format!("e{n}"), at)
        })
        .collect();
    store
        .record_verdicts(&all.iter().map(verdict).collect::<Vec<_>>())
        .await
        .unwrap();
    let filter = DeliveryFilter::default();
    for size in [1, 4, 25, 26] {
        let (mut seen, mut after): (Vec<DeliveryRow>, _) = (Vec::new(), None);
        loop {
            let page = store
                .search_deliveries(workspace, &filter, size, after)
                .await
                .unwrap();
            assert_eq!(page.total, 25);
            after = page.next;
            seen.extend(page.rows);
            if after.is_none() {
                break;
            }
        }
        assert_eq!(seen.len(), 25);
        assert!(seen.is_sorted_by(|a, b| (a.created_at, a.id) > (b.created_at, b.id)));
    }
}
