//! Searching deliveries, page by page.

use sqlx::AssertSqlSafe;
use uuid::Uuid;
use webhooks_domain::{
    delivery::DeliveryState,
    endpoint::outcome::{FailureClass, Outcome},
    ids::Trigger,
};
use webhooks_store::{DeliveryCursor, DeliveryFilter, DeliveryRow, MAX_COUNTED, MAX_EXAMINED};

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

/// Every row that the pages of a search lead to, of which each tells that there are more than are counted.
async fn read_on(
    database: &Database,
    workspace: Uuid,
    filter: &DeliveryFilter,
) -> Vec<DeliveryCursor> {
    let (mut found, mut after, mut pages) = (Vec::new(), None, 0);
    loop {
        let page = database
            .store
            .search_deliveries(workspace, filter, 1_000, after)
            .await
            .unwrap();
        assert!(page.total_is_lower_bound && page.total <= MAX_COUNTED);
        assert_eq!(page.more, page.next.is_some());
        found.extend(page.rows.iter().map(DeliveryRow::cursor));
        after = page.next;
        pages += 1;
        assert!(pages < 50, "it does not end");
        if after.is_none() {
            break;
        }
    }
    assert!(
        found.is_sorted_by(|a, b| (a.created_at, a.id) > (b.created_at, b.id)),
        "newest first, each once"
    );
    found
}

#[tokio::test]
async fn of_one_event_every_delivery_is_reached_however_many() {
    let database = Database::fresh().await;
    let workspace = Uuid::new_v4();
    database
        .store
        .ensure_partitions(day(NOON), 1)
        .await
        .unwrap();
    // One event that 10,500 webhooks got at its moment, and of which 700 replays were asked for later.
    let insert = format!(
        "INSERT INTO events (day, workspace_id, event_id, accepted_at, event_timestamp, event_seq,
           renderer_version, lbid, event_type, step_kind, event_action, body_codec)
         VALUES ('2026-01-15', '{workspace}', 'big', to_timestamp({at}), now(), 1, 1, 'l',
           'step.completed', 'KIND_EXIT', 'CLIENT_REDIRECT', 0);
         INSERT INTO deliveries (day, id, workspace_id, webhook_id, event_id, event_type, lbid,
           trigger, created_at, event_seq, state, state_at, completed_at)
         SELECT '2026-01-15', gen_random_uuid(), '{workspace}', gen_random_uuid(), 'big',
           'step.completed', 'l', CASE WHEN n < 10500 THEN 'EVENT' ELSE 'REPLAY' END,
           to_timestamp({at}) + greatest(n - 10499, 0) / 2 * interval '1 s', 1, 'DELIVERED', now(), now()
         FROM generate_series(0, 11199) n;
         INSERT INTO delivery_counts VALUES
           (gen_random_uuid(), '2026-01-15', '{workspace}', 0, 0, 0, 11200, 0, 0);
         ANALYZE;",
        at = NOON / SECOND,
    );
    sqlx::raw_sql(AssertSqlSafe(insert))
        .execute(&database.sql)
        .await
        .unwrap();
    let all = DeliveryFilter {
        event_id: Some("big".into()),
        ..DeliveryFilter::default()
    };
    let found = read_on(&database, workspace, &all).await;
    assert_eq!(found.len(), 11_200);
    let first = database
        .store
        .search_deliveries(workspace, &all, 1, None)
        .await
        .unwrap();
    assert_eq!(first.total, MAX_COUNTED);
    let made = DeliveryFilter {
        trigger: Some(Trigger::Event),
        created_before: Some(NOON + 1),
        ..all.clone()
    };
    assert_eq!(read_on(&database, workspace, &made).await.len(), 10_500);
    // What is little enough is counted to the last one.
    let replays = DeliveryFilter {
        trigger: Some(Trigger::Replay),
        ..all
    };
    assert_eq!(search(&database, workspace, replays).await.len(), 700);
}

#[tokio::test]
async fn of_one_journey_every_delivery_is_reached_however_many_events_it_has() {
    let database = Database::fresh().await;
    let (workspace, webhook) = (Uuid::new_v4(), Uuid::new_v4());
    database
        .store
        .ensure_partitions(day(NOON), 1)
        .await
        .unwrap();
    // 10,500 events, three at each moment; one of seven was delivered, and replayed a second and a half
    // later.
    let insert = format!(
        "INSERT INTO events (day, workspace_id, event_id, accepted_at, event_timestamp, event_seq,
           renderer_version, lbid, event_type, step_kind, event_action, body_codec)
         SELECT '2026-01-15', '{workspace}', 'e' || n, to_timestamp({at}) + n / 3 * interval '1 s',
           now(), n + 1, 1, 'long', 'step.completed', 'KIND_EXIT', 'CLIENT_REDIRECT', 0
         FROM generate_series(0, 10499) n;
         INSERT INTO deliveries (day, id, workspace_id, webhook_id, event_id, event_type, lbid,
           trigger, created_at, event_seq, state, state_at, completed_at)
         SELECT '2026-01-15', gen_random_uuid(), '{workspace}', '{webhook}', 'e' || n,
           'step.completed', 'long', made.trigger,
           to_timestamp({at}) + n / 3 * interval '1 s' + made.later, n + 1, 'DELIVERED', now(), now()
         FROM generate_series(0, 10499, 7) n
         CROSS JOIN (VALUES ('EVENT', interval '0'), ('REPLAY', interval '1500 ms'))
           made(trigger, later);
         INSERT INTO delivery_counts VALUES
           ('{webhook}', '2026-01-15', '{workspace}', 0, 0, 0, 3000, 0, 0);
         ANALYZE;",
        at = NOON / SECOND,
    );
    sqlx::raw_sql(AssertSqlSafe(insert))
        .execute(&database.sql)
        .await
        .unwrap();
    let all = DeliveryFilter {
        lbid: Some("long".into()),
        ..DeliveryFilter::default()
    };
    assert_eq!(read_on(&database, workspace, &all).await.len(), 3_000);
    let part = DeliveryFilter {
        created_from: Some(NOON + 1_000 * SECOND),
        created_before: Some(NOON + 3_000 * SECOND),
        trigger: Some(Trigger::Event),
        ..named(all.clone(), webhook)
    };
    // Every seventh of the 6,000 events that begin with number 3,000.
    let found = read_on(&database, workspace, &part).await;
    assert_eq!(found.len(), (3_000..9_000).filter(|n| n % 7 == 0).count());
    let nothing = named(all, Uuid::new_v4());
    assert!(read_on(&database, workspace, &nothing).await.is_empty());
}
