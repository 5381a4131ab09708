use std::time::Duration;

use uuid::Uuid;
use webhooks_devstack::wait_until;
use webhooks_domain::{delivery::DeliveryState, endpoint::outcome::Outcome};
use webhooks_store::{DeliveryRow, Store, StoreSettings};

use crate::support::{Database, NOON, SECOND, attempt, day, facts, report, verdict};

#[tokio::test]
async fn deliveries_page_exactly_newest_first_over_days_and_states() {
    let database = Database::fresh().await;
    let store = &database.store;
    let (workspace, webhook) = (Uuid::new_v4(), Uuid::new_v4());
    let today = day(NOON);
    store.ensure_partitions(today.plus(-2), 2).await.unwrap();
    let (mut verdicts, mut reports) = (Vec::new(), Vec::new());
    // Four days (one without a partition), several deliveries in the same microsecond.
    for n in 0..40 {
        let created_at = NOON - (n % 4) * 86_400 * SECOND - n / 8;
        let delivery = facts(workspace, webhook, &format!("e{n}"), created_at);
        verdicts.push(verdict(&delivery));
        if n % 5 == 0 {
            reports.push(report(
                &delivery,
                DeliveryState::Failed,
                attempt(1, created_at, Outcome::Timeout),
            ));
        }
    }
    store.record_verdicts(&verdicts).await.unwrap();
    store.record_reports(&reports).await.unwrap();
    for (state, expected) in [
        (None, 40),
        (Some(DeliveryState::Failed), 8),
        (Some(DeliveryState::Pending), 32),
        (Some(DeliveryState::Held), 0),
    ] {
        for size in [1, 7, 40, 41] {
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let page = store
                    .list_deliveries(workspace, webhook, state, size, after)
                    .await
                    .unwrap();
                assert_eq!(page.total, expected);
                after = page.rows.last().map(DeliveryRow::cursor);
                seen.extend(page.rows);
                if !page.more {
                    break;
                }
            }
            assert_eq!(
                i64::try_from(seen.len()).unwrap(),
                expected,
                "{state:?} {size}"
            );
            assert!(
                seen.iter()
                    .all(|row| state.is_none_or(|state| row.state == state))
            );
            assert!(
                seen.is_sorted_by(|a, b| (a.created_at, a.id) > (b.created_at, b.id)),
                "{state:?} {size}"
            );
        }
    }
}

/// The server's connections tell their statistics when they close.
async fn all_told(database: &Database, store: &Store) {
    store.close().await;
    let others = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
    wait_until(
        "the store's connections to close",
        Duration::from_secs(10),
        async || {
            let left = database.count(others).await;
            if left == 0 { Ok(()) } else { Err(left) }
        },
    )
    .await
    .unwrap();
}

#[tokio::test]
async fn pages_deliveries_and_reports_read_by_index_and_never_a_whole_partition() {
    let database = Database::fresh().await;
    let (workspace, webhook) = (Uuid::new_v4(), Uuid::new_v4());
    let store = &database.store;
    store.ensure_partitions(day(NOON), 7).await.unwrap();
    let deliveries: Vec<_> = (0..1_000)
        .map(|n| facts(workspace, webhook, &format!("e{n}"), NOON + n))
        .collect();
    let verdicts: Vec<_> = deliveries.iter().map(verdict).collect();
    store.record_verdicts(&verdicts).await.unwrap();
    let tried = |delivery| {
        report(
            delivery,
            DeliveryState::Retrying,
            attempt(1, NOON, Outcome::Timeout),
        )
    };
    let reports: Vec<_> = deliveries.iter().map(tried).collect();
    store.record_reports(&reports).await.unwrap();
    all_told(&database, store).await;
    sqlx::raw_sql("ANALYZE; SELECT pg_stat_reset()")
        .execute(&database.sql)
        .await
        .unwrap();
    let store = Store::connect(&StoreSettings::new(&database.url)).unwrap();
    // Often enough that the server would go over to plans made for any parameter.
    for delivery in &deliveries[..10] {
        let page = store
            .list_deliveries(workspace, webhook, Some(DeliveryState::Retrying), 100, None)
            .await
            .unwrap();
        store
            .list_deliveries(
                workspace,
                webhook,
                None,
                100,
                page.rows.last().map(DeliveryRow::cursor),
            )
            .await
            .unwrap();
        store
            .get_delivery(workspace, delivery.delivery_id)
            .await
            .unwrap()
            .unwrap();
        store
            .delivery_body(workspace, delivery.delivery_id)
            .await
            .unwrap()
            .unwrap();
        let reports = [report(
            delivery,
            DeliveryState::Delivered,
            attempt(2, NOON, Outcome::Success),
        )];
        store.record_reports(&reports).await.unwrap();
    }
    all_told(&database, &store).await;
    let used = "SELECT idx_scan FROM pg_stat_user_tables WHERE relname = 'deliveries_20260115'";
    assert!(database.count(used).await >= 50);
    let whole = database
        .texts(
            "SELECT relname::text FROM pg_stat_user_tables
        WHERE relname ~ '^(deliveries|attempts|events)_' AND seq_scan > 0",
        )
        .await;
    assert_eq!(whole, Vec::<String>::new());
}
