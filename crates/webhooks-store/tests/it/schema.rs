use futures::future::join_all;
use webhooks_devstack::wait_until;
use webhooks_store::{Store, StoreError, StoreSettings};

use crate::support::Database;

#[tokio::test]
async fn migrations_run_twice_and_at_the_same_time() {
    let database = Database::empty().await;
    let store = &database.store;
    let before = store.check_schema().await.unwrap_err();
    assert!(
        matches!(
            before,
            StoreError::Schema {
                found: None,
                expected: 2..
            }
        ),
        "{before}"
    );
    for result in join_all((0..4).map(|_| store.migrate())).await {
        result.unwrap();
    }
    store.migrate().await.unwrap();
    store.check_schema().await.unwrap();
}

#[tokio::test]
async fn a_schema_of_another_release_is_told_from_ours() {
    let database = Database::fresh().await;
    database.store.check_schema().await.unwrap();
    let newer =
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
        VALUES (9999, 'later', true, '', 0)";
    sqlx::query(newer).execute(&database.sql).await.unwrap();
    let error = database.store.check_schema().await.unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::Schema {
                found: Some(9_999),
                expected: 2..
            }
        ),
        "{error}"
    );
    assert!(!error.is_retryable());
}

#[tokio::test]
async fn a_database_that_is_away_is_unavailable_and_comes_back() {
    let settings = StoreSettings {
        acquire_timeout: std::time::Duration::from_millis(200),
        ..StoreSettings::new("postgres://postgres:hidden@127.0.0.1:1/none")
    };
    let store = Store::connect(&settings).unwrap();
    let error = store.ping().await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    assert!(!format!("{settings:?} {store:?}").contains("hidden"));
    let refused = Store::connect(&StoreSettings::new("no url")).unwrap_err();
    assert!(matches!(refused, StoreError::Url(_)), "{refused}");
    let database = Database::fresh().await;
    database.store.ping().await.unwrap();
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    sqlx::query(kill).execute(&database.sql).await.unwrap();
    database.store.ping().await.unwrap();
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_given_up_and_may_be_repeated() {
    let database = Database::fresh().await;
    let settings = StoreSettings {
        statement_timeout: std::time::Duration::from_millis(100),
        ..StoreSettings::new(&database.url)
    };
    let store = Store::connect(&settings).unwrap();
    let mut blocker = database.sql.begin().await.unwrap();
    sqlx::query("LOCK TABLE outbox")
        .execute(&mut *blocker)
        .await
        .unwrap();
    let error = store.next_outbox(10, 1).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    blocker.rollback().await.unwrap();
    // It may be repeated; on a slow machine more than once.
    let again = wait_until(
        "the outbox",
        std::time::Duration::from_secs(20),
        async || store.next_outbox(10, 1).await,
    );
    assert_eq!(again.await.unwrap().rows, []);
}
