use futures::future::join_all;
use uuid::Uuid;
use webhooks_store::{Begun, IdempotencyKey, MAX_PURGED, StoreError};

use crate::support::{Database, NOON, SECOND, actor, new_webhook};

const KEY: IdempotencyKey<'static> = IdempotencyKey {
    token_id: "AAAA",
    key: "k\0",
};
const HASH: [u8; 32] = [1; 32];
const DAY: i64 = 24 * 3_600 * SECOND;

#[tokio::test]
async fn of_parallel_callers_one_works_and_the_others_get_its_answer() {
    let database = Database::fresh().await;
    let store = &database.store;
    let begin = async |_| store.begin_idempotent(KEY, HASH, NOON).await.unwrap();
    let begun = join_all((0..20).map(begin)).await;
    assert_eq!(
        begun.iter().filter(|begun| **begun == Begun::Fresh).count(),
        1
    );
    assert_eq!(
        begun
            .iter()
            .filter(|begun| **begun == Begun::InProgress)
            .count(),
        19
    );
    store
        .finish_idempotent(KEY, 200, b"first", None)
        .await
        .unwrap();
    store
        .finish_idempotent(KEY, 500, b"second", None)
        .await
        .unwrap();
    store.forget_idempotent(KEY).await.unwrap();
    let replay = Begun::Replay {
        status: 200,
        body: b"first".to_vec(),
        subject: None,
        version: None,
    };
    assert_eq!(
        store.begin_idempotent(KEY, HASH, NOON + 1).await.unwrap(),
        replay
    );
    assert_eq!(
        store
            .begin_idempotent(KEY, [2; 32], NOON + 1)
            .await
            .unwrap(),
        Begun::Mismatch
    );
    let other = IdempotencyKey {
        token_id: "BBBB",
        ..KEY
    };
    assert_eq!(
        store
            .begin_idempotent(other, [2; 32], NOON + 1)
            .await
            .unwrap(),
        Begun::Fresh
    );
}

#[tokio::test]
async fn answers_are_kept_for_a_day_and_then_purged() {
    let database = Database::fresh().await;
    let store = &database.store;
    store.begin_idempotent(KEY, HASH, NOON).await.unwrap();
    store.finish_idempotent(KEY, 200, b"x", None).await.unwrap();
    let late = store
        .begin_idempotent(KEY, HASH, NOON + DAY - 1)
        .await
        .unwrap();
    assert!(matches!(late, Begun::Replay { .. }));
    assert_eq!(store.purge_idempotent(NOON + DAY - 1).await.unwrap(), 0);
    assert_eq!(
        store
            .begin_idempotent(KEY, [2; 32], NOON + DAY)
            .await
            .unwrap(),
        Begun::Fresh
    );
    assert_eq!(store.purge_idempotent(NOON + 2 * DAY).await.unwrap(), 1);
}

#[tokio::test]
async fn a_purge_removes_a_bounded_number_of_the_oldest_keys() {
    let database = Database::fresh().await;
    let store = &database.store;
    sqlx::raw_sql(
        "INSERT INTO idempotency_keys (token_id, key, request_hash, started_at)
         SELECT 'AAAA', n::text, 'x', to_timestamp(n) FROM generate_series(1, 10001) n",
    )
    .execute(&database.sql)
    .await
    .unwrap();
    assert_eq!(store.purge_idempotent(NOON).await.unwrap(), MAX_PURGED);
    let left = database.texts("SELECT key FROM idempotency_keys").await;
    assert_eq!(left, ["10001"]);
    assert_eq!(store.purge_idempotent(NOON).await.unwrap(), 1);
}

#[tokio::test]
async fn a_forgotten_claim_is_free_again() {
    let database = Database::fresh().await;
    let store = &database.store;
    for _ in 0..2 {
        assert_eq!(
            store.begin_idempotent(KEY, HASH, NOON).await.unwrap(),
            Begun::Fresh
        );
        store.forget_idempotent(KEY).await.unwrap();
    }
}

#[tokio::test]
async fn whoever_takes_over_a_dead_holders_claim_is_told_what_it_made() {
    let database = Database::fresh().await;
    let store = &database.store;
    let workspace = database.workspace().await;
    let begin = async |hash, seconds: i64| {
        store
            .begin_idempotent(KEY, hash, NOON + seconds * SECOND)
            .await
            .unwrap()
    };
    assert_eq!(begin(HASH, 0).await, Begun::Fresh);
    assert_eq!(begin(HASH, 59).await, Begun::InProgress);
    assert_eq!(
        begin([2; 32], 61).await,
        Begun::Mismatch,
        "only the same request takes over"
    );
    assert_eq!(begin(HASH, 60).await, Begun::Fresh, "nothing was made yet");
    let new = new_webhook(workspace);
    store
        .create_webhook(&new, None, Some(KEY), &actor())
        .await
        .unwrap();
    store.forget_idempotent(KEY).await.unwrap();
    assert_eq!(begin(HASH, 61).await, Begun::InProgress);
    assert_eq!(
        begin(HASH, 120).await,
        Begun::Recovered {
            subject: new.id,
            version: None
        }
    );
    // The one that was thought dead comes too late to make a second.
    let second = store
        .create_webhook(&new_webhook(workspace), None, Some(KEY), &actor())
        .await;
    assert!(matches!(
        second.unwrap_err(),
        StoreError::Conflict("idempotency key")
    ));
    assert_eq!(store.count_webhooks(workspace).await.unwrap(), 1);
    let unclaimed = IdempotencyKey {
        key: "other",
        ..KEY
    };
    let third = store
        .create_webhook(&new_webhook(workspace), None, Some(unclaimed), &actor())
        .await;
    assert!(matches!(
        third.unwrap_err(),
        StoreError::Conflict("idempotency key")
    ));
    assert!(
        store
            .get_webhook(workspace, Uuid::nil())
            .await
            .unwrap()
            .is_none()
    );
}
