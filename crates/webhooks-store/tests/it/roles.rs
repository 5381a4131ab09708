//! The role the service runs as, and what it may not do.

use sqlx::{PgPool, postgres::PgPoolOptions};
use webhooks_domain::{delivery::DeliveryState, endpoint::outcome::Outcome};
use webhooks_store::{Store, StoreError, StoreSettings};

use crate::support::{Database, NOON, actor, attempt, day, facts, new_webhook, report, verdict};

/// Roles belong to the server, which tests share.
async fn as_the_service(database: &Database, role: &str) -> (Store, PgPool) {
    let make = format!("CREATE ROLE {role} LOGIN");
    sqlx::raw_sql(sqlx::AssertSqlSafe(make))
        .execute(&database.sql)
        .await
        .unwrap();
    database.store.grant_to(role).await.unwrap();
    // Granting again changes nothing.
    database.store.grant_to(role).await.unwrap();
    let url = database
        .url
        .replacen("postgres://postgres@", &format!("postgres://{role}@"), 1);
    assert_ne!(url, database.url);
    let store = Store::connect(&StoreSettings::new(&url)).unwrap();
    let sql = PgPoolOptions::new()
        .max_connections(1)
        .connect(&url)
        .await
        .unwrap();
    (store, sql)
}

#[tokio::test]
async fn the_services_role_can_do_its_work() {
    let database = Database::fresh().await;
    let (store, _sql) = as_the_service(&database, "app_works").await;
    store.check_schema().await.unwrap();
    let workspace = database.workspace().await;
    let made = store
        .create_webhook(&new_webhook(workspace), None, None, &actor())
        .await
        .unwrap();
    assert_eq!(made.workspace_id, workspace);
    let outbox = store.next_outbox(10, 10).await.unwrap().rows;
    store.done_outbox(&[outbox[0].id]).await.unwrap();
    // History: its partitions are made, written, closed and dropped.
    assert_eq!(store.ensure_partitions(day(NOON), 1).await.unwrap(), 2);
    let delivery = facts(workspace, made.id, "e", NOON);
    store.record_verdicts(&[verdict(&delivery)]).await.unwrap();
    let done = report(
        &delivery,
        DeliveryState::Delivered,
        attempt(1, NOON, Outcome::Success),
    );
    store.record_reports(&[done]).await.unwrap();
    assert_eq!(
        store
            .close_partitions_older_than(day(NOON).plus(1))
            .await
            .unwrap(),
        3
    );
    assert_eq!(
        store
            .drop_partitions_older_than(day(NOON).plus(1))
            .await
            .unwrap(),
        1
    );
}

#[tokio::test]
async fn the_services_role_cannot_change_or_delete_audit_rows_nor_the_schema() {
    let database = Database::fresh().await;
    let (store, sql) = as_the_service(&database, "app_audit").await;
    let workspace = database.workspace().await;
    store
        .create_webhook(&new_webhook(workspace), None, None, &actor())
        .await
        .unwrap();
    let before = database.count("SELECT count(*) FROM audit_log").await;
    assert!(before > 0);
    for statement in [
        "UPDATE audit_log SET actor = 'system'",
        "DELETE FROM audit_log",
        "TRUNCATE audit_log",
        "ALTER TABLE audit_log DISABLE TRIGGER ALL",
        "DROP TRIGGER audit_log_is_never_changed ON audit_log",
        "DROP TABLE audit_log",
        "ALTER TABLE webhooks DROP COLUMN name",
        "UPDATE _sqlx_migrations SET version = version + 100",
        "CREATE ROLE another SUPERUSER",
        "COPY audit_log TO PROGRAM 'true'",
    ] {
        let refused = sqlx::raw_sql(statement).execute(&sql).await.unwrap_err();
        let code = refused.as_database_error().and_then(|error| error.code());
        // insufficient_privilege
        assert_eq!(code.as_deref(), Some("42501"), "{statement}: {refused}");
    }
    assert_eq!(
        database.count("SELECT count(*) FROM audit_log").await,
        before
    );
}

#[tokio::test]
async fn a_role_that_could_change_the_audit_log_is_seen() {
    let database = Database::fresh().await;
    let (store, _sql) = as_the_service(&database, "app_seen").await;
    assert_eq!(store.role_may_too_much().await.unwrap(), [""; 0]);
    let owner = database.store.role_may_too_much().await.unwrap();
    assert_eq!(owner.len(), 6, "{owner:?}");
    for (grant, revoke, expected) in [
        (
            "GRANT UPDATE (actor) ON audit_log TO app_seen",
            "REVOKE ALL ON audit_log FROM app_seen",
            "may change the audit log",
        ),
        (
            "GRANT DELETE ON audit_log TO app_seen",
            "REVOKE ALL ON audit_log FROM app_seen",
            "may delete from the audit log",
        ),
        (
            "GRANT TRUNCATE ON audit_log TO PUBLIC",
            "REVOKE ALL ON audit_log FROM PUBLIC",
            "may empty the audit log",
        ),
    ] {
        for (statement, seen) in [(grant, vec![expected]), (revoke, vec![])] {
            sqlx::raw_sql(statement)
                .execute(&database.sql)
                .await
                .unwrap();
            assert_eq!(
                store.role_may_too_much().await.unwrap(),
                seen,
                "{statement}"
            );
        }
    }
    // Whoever may take the place of the owner may do what he may.
    let owner = "CREATE ROLE app_owner; ALTER TABLE audit_log OWNER TO app_owner;
        GRANT app_owner TO app_seen WITH INHERIT FALSE";
    sqlx::raw_sql(owner).execute(&database.sql).await.unwrap();
    assert_eq!(
        store.role_may_too_much().await.unwrap(),
        ["owns the audit log"]
    );
}

#[tokio::test]
async fn even_who_owns_everything_does_not_change_audit_rows_by_mistake() {
    let database = Database::fresh().await;
    database.workspace().await;
    for statement in [
        "UPDATE audit_log SET actor = 'system'",
        "DELETE FROM audit_log",
        "TRUNCATE audit_log",
    ] {
        let refused = sqlx::raw_sql(statement)
            .execute(&database.sql)
            .await
            .unwrap_err();
        assert!(
            refused.to_string().contains("append-only"),
            "{statement}: {refused}"
        );
    }
}

#[tokio::test]
async fn a_role_that_is_none_is_refused() {
    let database = Database::fresh().await;
    let error = database
        .store
        .grant_to("a\"; DROP TABLE webhooks; --")
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Role(_)), "{error:?}");
    let error = database.store.grant_to("nobody_made_it").await.unwrap_err();
    assert!(matches!(error, StoreError::Database(_)), "{error:?}");
}
