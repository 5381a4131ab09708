use futures::future::join_all;
use uuid::Uuid;
use webhooks_domain::{delivery::DeliveryState, endpoint::outcome::Outcome};
use webhooks_store::StoreError;

use crate::support::{Database, NOON, SECOND, attempt, day, facts, report, verdict};

const PARTITIONS: &str =
    "SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    JOIN pg_class p ON p.oid = i.inhparent WHERE p.relkind = 'p' ORDER BY 1";

#[tokio::test]
async fn partitions_are_made_ahead_once_by_whoever_comes_first() {
    let database = Database::fresh().await;
    let store = &database.store;
    let made = join_all((0..4).map(|_| store.ensure_partitions(day(NOON), 7))).await;
    assert_eq!(made.into_iter().map(Result::unwrap).sum::<u32>(), 8);
    assert_eq!(store.ensure_partitions(day(NOON), 7).await.unwrap(), 0);
    assert_eq!(
        store.ensure_partitions(day(NOON).plus(1), 7).await.unwrap(),
        1
    );
    let names = database.texts(PARTITIONS).await;
    assert_eq!(names.len(), 3 * (9 + 1));
    for name in [
        "events_20260115",
        "deliveries_20260123",
        "attempts_20260118",
        "attempts_default",
    ] {
        assert!(
            names.iter().any(|other| other == name),
            "{name} is missing in {names:?}"
        );
    }
    let options = database.count("SELECT count(*) FROM pg_class WHERE relname = 'deliveries_20260115' AND 'fillfactor=45' = ANY(reloptions)").await;
    assert_eq!(options, 1);
}

#[tokio::test]
async fn rows_of_a_day_without_a_partition_move_when_it_gets_one() {
    let database = Database::fresh().await;
    let store = &database.store;
    let delivery = facts(Uuid::new_v4(), Uuid::new_v4(), "e", NOON);
    let tomorrow = facts(Uuid::new_v4(), Uuid::new_v4(), "e", NOON + 86_400 * SECOND);
    let done = |facts| {
        report(
            facts,
            DeliveryState::Delivered,
            attempt(1, NOON, Outcome::Success),
        )
    };
    store
        .record_verdicts(&[verdict(&delivery), verdict(&tomorrow)])
        .await
        .unwrap();
    store
        .record_reports(&[done(&delivery), done(&tomorrow)])
        .await
        .unwrap();
    assert_eq!(
        database
            .count("SELECT count(*) FROM deliveries_default")
            .await,
        2
    );
    assert_eq!(store.ensure_partitions(day(NOON), 0).await.unwrap(), 1);
    for (table, count) in [
        ("SELECT count(*) FROM deliveries_default", 1),
        ("SELECT count(*) FROM deliveries_20260115", 1),
        ("SELECT count(*) FROM attempts_20260115", 1),
        ("SELECT count(*) FROM events_20260115", 1),
    ] {
        assert_eq!(database.count(table).await, count, "{table}");
    }
    store.record_reports(&[done(&delivery)]).await.unwrap();
    let (row, attempts) = store
        .get_delivery(delivery.workspace_id, delivery.delivery_id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((row.state, attempts.len()), (DeliveryState::Delivered, 1));
    assert!(
        store
            .delivery_body(delivery.workspace_id, delivery.delivery_id)
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn a_day_that_is_over_is_vacuumed_to_its_last_rows() {
    let database = Database::fresh().await;
    let store = &database.store;
    let today = day(NOON);
    store.ensure_partitions(today.plus(-3), 4).await.unwrap();
    let close = || store.close_partitions_older_than(today.plus(-1));
    let closed = join_all((0..3).map(|_| close())).await;
    let closed: Vec<_> = closed.into_iter().map(Result::unwrap).collect();
    // Two days of three tables. Who comes at the same time may set them once more.
    assert!(closed.iter().all(|tables| *tables <= 6), "{closed:?}");
    assert!(closed.iter().sum::<u32>() >= 6, "{closed:?}");
    assert_eq!(close().await.unwrap(), 0);
    let names = "SELECT c.relname::text FROM pg_class c
        WHERE 'autovacuum_vacuum_insert_scale_factor=0' = ANY(c.reloptions) ORDER BY 1";
    let expected = ["attempts", "deliveries", "events"];
    let expected = expected.map(|table| ["12", "13"].map(|day| format!("{table}_202601{day}")));
    assert_eq!(database.texts(names).await, expected.concat());
    // What they were made with stays.
    let kept = "SELECT c.relname::text FROM pg_class c WHERE 'fillfactor=45' = ANY(c.reloptions)
        AND c.relname = 'deliveries_20260112'";
    assert_eq!(database.texts(kept).await, ["deliveries_20260112"]);
    // A row of a closed day is written like any other.
    let facts = facts(
        Uuid::new_v4(),
        Uuid::new_v4(),
        "late",
        NOON - 3 * 86_400 * SECOND,
    );
    let attempt = attempt(1, NOON, Outcome::Success);
    let report = report(&facts, DeliveryState::Delivered, attempt);
    store.record_reports(&[report]).await.unwrap();
    let late = "SELECT count(*) FROM deliveries_20260112";
    assert_eq!(database.count(late).await, 1);
}

#[tokio::test]
async fn partitions_are_dropped_with_everything_of_their_days() {
    let database = Database::fresh().await;
    let store = &database.store;
    let today = day(NOON);
    store.ensure_partitions(today.plus(-3), 10).await.unwrap();
    let (workspace, webhook) = (Uuid::new_v4(), Uuid::new_v4());
    let all: Vec<_> = (0..6)
        .map(|n| {
            facts(
                workspace,
                webhook,
                &format!("e{n}"),
                NOON - n * 86_400 * SECOND,
            )
        })
        .collect();
    let verdicts: Vec<_> = all.iter().map(verdict).collect();
    let reports: Vec<_> = all
        .iter()
        .map(|facts| {
            report(
                facts,
                DeliveryState::Delivered,
                attempt(1, NOON, Outcome::Success),
            )
        })
        .collect();
    store.record_verdicts(&verdicts).await.unwrap();
    store.record_reports(&reports).await.unwrap();
    let drops = join_all((0..3).map(|_| store.drop_partitions_older_than(today.plus(-1)))).await;
    assert!(
        drops
            .into_iter()
            .map(Result::unwrap)
            .all(|dropped| dropped <= 2)
    );
    assert_eq!(
        store
            .drop_partitions_older_than(today.plus(-1))
            .await
            .unwrap(),
        0
    );
    for table in [
        "SELECT count(*) FROM deliveries",
        "SELECT count(*) FROM attempts",
        "SELECT count(*) FROM events",
    ] {
        assert_eq!(database.count(table).await, 2, "{table}");
    }
    let page = store
        .list_deliveries(workspace, webhook, None, 10, None)
        .await
        .unwrap();
    assert_eq!((page.total, page.rows.len()), (2, 2));
    assert_eq!(
        database
            .count("SELECT success_count FROM webhook_stats")
            .await,
        6,
        "totals outlive the log"
    );
    assert!(
        store
            .get_delivery(workspace, all[5].delivery_id)
            .await
            .unwrap()
            .is_none()
    );
}

/// Every call may be repeated when it says so, and then does what it was asked.
async fn insist<T>(call: impl AsyncFn() -> Result<T, StoreError>) -> T {
    for _ in 0..20 {
        match call().await {
            Ok(done) => return done,
            Err(error) => assert!(error.is_retryable(), "{error:?}"),
        }
    }
    panic!("twenty calls in a row were asked to be repeated");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_go_on_while_partitions_come_and_go() {
    let database = Database::fresh().await;
    let store = &database.store;
    let (workspace, webhook) = (Uuid::new_v4(), Uuid::new_v4());
    let write = async || {
        for n in 0..60 {
            let delivery = facts(
                workspace,
                webhook,
                &format!("e{n}"),
                NOON + (n % 5) * 86_400 * SECOND,
            );
            let verdicts = [verdict(&delivery)];
            let reports = [report(
                &delivery,
                DeliveryState::Delivered,
                attempt(1, NOON, Outcome::Success),
            )];
            insist(async || store.record_verdicts(&verdicts).await).await;
            insist(async || store.record_reports(&reports).await).await;
        }
    };
    let change = async || {
        for n in 0..5 {
            insist(async || store.drop_partitions_older_than(day(NOON).plus(-1)).await).await;
            insist(async || store.ensure_partitions(day(NOON).plus(n), 0).await).await;
        }
    };
    futures::join!(write(), change());
    assert_eq!(
        database
            .count("SELECT count(*) FROM deliveries WHERE state = 'DELIVERED'")
            .await,
        60
    );
    crate::converge::assert_counters_equal_the_log(&database).await;
}
