//! Putting secrets back under another key.

use uuid::Uuid;
use webhooks_store::{Resealed, SealedRow};

use crate::support::{Database, actor, new_webhook};

fn renewed(old: SealedRow) -> Resealed {
    Resealed {
        key_id: "k2".into(),
        nonce: vec![9; 24],
        ciphertext: vec![8; 48],
        old,
    }
}

#[tokio::test]
async fn secrets_are_found_put_back_and_told_to_the_read_model() {
    let database = Database::fresh().await;
    let store = &database.store;
    let workspace = database.workspace().await;
    for _ in 0..3 {
        store
            .create_webhook(&new_webhook(workspace), None, None, &actor())
            .await
            .unwrap();
    }
    assert!(
        store
            .sealed_with_others("k1", (Uuid::nil(), 0), 10)
            .await
            .unwrap()
            .is_empty()
    );
    let first = store
        .sealed_with_others("k2", (Uuid::nil(), 0), 2)
        .await
        .unwrap();
    assert_eq!(first.len(), 2);
    let last = &first[1];
    let rest = store
        .sealed_with_others("k2", (last.webhook_id, last.version), 10)
        .await
        .unwrap();
    assert_eq!((rest.len(), rest[0].kind.as_str()), (1, "SIGNING"));

    let told = store.next_outbox(10, 100).await.unwrap().rows.len();
    let rows: Vec<_> = first.iter().cloned().map(renewed).collect();
    assert_eq!(store.reseal(&rows).await.unwrap(), 2);
    // Again: they are no longer as they were read.
    assert_eq!(store.reseal(&rows).await.unwrap(), 0);
    let by_key = store.sealed_by_key().await.unwrap();
    assert_eq!(
        by_key.into_iter().collect::<Vec<_>>(),
        [("k1".to_owned(), 1), ("k2".to_owned(), 2)]
    );
    let outbox = store.next_outbox(10, 100).await.unwrap().rows;
    assert_eq!(outbox.len(), told + 2);
    for row in &outbox[told..] {
        let id = row.key.parse().unwrap();
        let webhook = store.get_webhook(workspace, id).await.unwrap().unwrap();
        assert_eq!((webhook.revision, row.revision), (2, 2));
        assert_eq!(webhook.secrets[0].key_id, "k2");
        assert_eq!(webhook.secrets[0].nonce, vec![9; 24]);
    }
}

#[tokio::test]
async fn a_secret_that_was_rotated_meanwhile_is_left_alone() {
    let database = Database::fresh().await;
    let store = &database.store;
    let workspace = database.workspace().await;
    store
        .create_webhook(&new_webhook(workspace), None, None, &actor())
        .await
        .unwrap();
    let read = store
        .sealed_with_others("k2", (Uuid::nil(), 0), 10)
        .await
        .unwrap();
    sqlx::raw_sql("UPDATE webhook_secrets SET nonce = '\\x07'")
        .execute(&database.sql)
        .await
        .unwrap();
    let rows: Vec<_> = read.into_iter().map(renewed).collect();
    assert_eq!(store.reseal(&rows).await.unwrap(), 0);
    assert_eq!(
        database.count("SELECT max(revision) FROM webhooks").await,
        1
    );
}
