//! What a webhook has beside its name, endpoint and scope: it reads back, changes alone, and what is
//! secret of it comes and goes in one numbering.

use std::collections::BTreeMap;

use uuid::Uuid;
use webhooks_domain::webhook::{DeliveryOrder, HeldChoice, StatusReason, WebhookStatus};
use webhooks_store::{
    AsymmetricSecret, Extras, MAX_OLD_SECRETS, RateChoice, RetryChoice, RetryNumbers, Rotation,
    SealedSecret, Store, StoreError, WebhookOptions, WebhookPatch, WebhookRow,
};

use crate::support::{Database, NOON, SECOND, actor, new_webhook};

fn sealed(version: u32) -> SealedSecret {
    SealedSecret {
        key_id: "k1".into(),
        version,
        nonce: vec![u8::try_from(version).unwrap(); 24],
        ciphertext: vec![9; 48],
        created_at: NOON,
        expires_at: None,
    }
}

fn numbers() -> RetryNumbers {
    RetryNumbers {
        max_attempts: 5,
        base_ms: 1_500,
        factor_milli: 2_500,
        cap_ms: 60_000,
        jitter_milli: 100,
        max_age_ms: 0,
    }
}

fn options() -> WebhookOptions {
    WebhookOptions {
        description: "what it is for\n".into(),
        labels: BTreeMap::from([("team".into(), "blue".into())]),
        event_actions: vec!["CLIENT_REDIRECT".into()],
        retry: RetryChoice::Custom(numbers()),
        rate: Some(RateChoice {
            count: 600,
            period_seconds: 60,
            burst: 10,
        }),
        max_in_flight: Some(64),
        ordering: DeliveryOrder::Visitor,
    }
}

fn extras(version: u32) -> Extras {
    Extras {
        shown: serde_json::json!({ "headers": [{ "name": "X-A", "value": "••••" }] }),
        sealed: Some(sealed(version)),
    }
}

async fn make(store: &Store, workspace: Uuid) -> WebhookRow {
    let new = new_webhook(workspace);
    store
        .create_webhook(&new, None, None, &actor())
        .await
        .unwrap()
}

async fn update(store: &Store, row: &WebhookRow, patch: WebhookPatch) -> WebhookRow {
    let now = NOON + SECOND;
    store
        .update_webhook(row.workspace_id, row.id, &patch, &actor(), now)
        .await
        .unwrap()
        .unwrap()
}

#[tokio::test]
async fn options_read_back_and_change_one_by_one() {
    let database = Database::fresh().await;
    let store = &database.store;
    let workspace = database.workspace().await;
    let mut new = new_webhook(workspace);
    (new.status, new.status_reason) = (WebhookStatus::Disabled, Some(StatusReason::User));
    new.options = options();
    new.extras = extras(2);
    let asymmetric = AsymmetricSecret {
        public_key: "whpk_x".into(),
        sealed: sealed(3),
    };
    new.asymmetric = Some(asymmetric.clone());
    let made = store
        .create_webhook(&new, None, None, &actor())
        .await
        .unwrap();
    assert_eq!(made.status, WebhookStatus::Disabled);
    assert_eq!(made.options, options());
    assert_eq!(
        (&made.extras, made.asymmetric.as_ref()),
        (&extras(2), Some(&asymmetric))
    );
    assert_eq!(made.secret_version, 3);
    assert_eq!(made.secrets, [new.secret.clone()], "signing keys only");
    assert_eq!((made.health_epoch, made.held_choice_at), (0, None));

    let patch = WebhookPatch {
        rate: Some(None),
        retry: Some(RetryChoice::Resilient),
        ..WebhookPatch::default()
    };
    let changed = update(store, &made, patch).await;
    let expected = WebhookOptions {
        rate: None,
        retry: RetryChoice::Resilient,
        ..options()
    };
    assert_eq!((changed.options, changed.revision), (expected, 2));
    assert_eq!(changed.extras, extras(2));

    let patch = WebhookPatch {
        description: Some(String::new()),
        labels: Some(BTreeMap::new()),
        event_actions: Some(vec![]),
        retry: Some(RetryChoice::Standard),
        max_in_flight: Some(None),
        ordering: Some(DeliveryOrder::None),
        extras: Some(extras(4)),
        asymmetric: Some(None),
        ..WebhookPatch::default()
    };
    let cleared = update(store, &made, patch).await;
    assert_eq!(cleared.options, WebhookOptions::default());
    assert_eq!((&cleared.extras, &cleared.asymmetric), (&extras(4), &None));
    let patch = WebhookPatch {
        extras: Some(Extras::default()),
        ..WebhookPatch::default()
    };
    let bare = update(store, &made, patch).await;
    assert_eq!(bare.extras, Extras::default());
    assert_eq!(bare.secret_version, 4, "no number comes twice");
    let left = "SELECT count(*) FROM webhook_secrets";
    assert_eq!(database.count(left).await, 1);
    let told = "SELECT count(*) FROM audit_log WHERE concat(before, after) ~* 'nonce|cipher'";
    assert_eq!(database.count(told).await, 0);
}

#[tokio::test]
async fn the_tables_refuse_what_means_nothing() {
    let database = Database::fresh().await;
    let store = &database.store;
    let workspace = database.workspace().await;
    let made = make(store, workspace).await;
    let refused = async |patch: WebhookPatch| {
        let now = NOON + SECOND;
        let done = store
            .update_webhook(workspace, made.id, &patch, &actor(), now)
            .await;
        matches!(done, Err(StoreError::Database(_)))
    };
    let retry = |numbers| WebhookPatch {
        retry: Some(RetryChoice::Custom(numbers)),
        ..WebhookPatch::default()
    };
    let none = RetryNumbers {
        max_attempts: 0,
        ..numbers()
    };
    let shrinking = RetryNumbers {
        factor_milli: 999,
        ..numbers()
    };
    let rate = RateChoice {
        count: 1,
        period_seconds: 30,
        burst: 1,
    };
    for patch in [
        retry(none),
        retry(shrinking),
        WebhookPatch {
            rate: Some(Some(rate)),
            ..WebhookPatch::default()
        },
        WebhookPatch {
            max_in_flight: Some(Some(65)),
            ..WebhookPatch::default()
        },
        WebhookPatch {
            description: Some("x".repeat(1_001)),
            ..WebhookPatch::default()
        },
    ] {
        assert!(refused(patch.clone()).await, "{patch:?}");
    }
    let same = store.get_webhook(workspace, made.id).await.unwrap();
    assert_eq!(same, Some(made));
}

#[tokio::test]
async fn a_persons_status_voids_what_was_known_of_health() {
    let database = Database::fresh().await;
    let store = &database.store;
    let workspace = database.workspace().await;
    let made = make(store, workspace).await;
    let patch = WebhookPatch {
        status: Some((WebhookStatus::Paused, Some(StatusReason::User))),
        new_health_epoch: true,
        ..WebhookPatch::default()
    };
    assert_eq!(update(store, &made, patch).await.health_epoch, 1);
    let patch = WebhookPatch {
        status: Some((WebhookStatus::Active, None)),
        new_health_epoch: true,
        held_choice: Some(HeldChoice::Deliver),
        ..WebhookPatch::default()
    };
    let active = update(store, &made, patch).await;
    assert_eq!(active.health_epoch, 2);
    assert_eq!(
        (active.held_choice, active.held_choice_at),
        (HeldChoice::Deliver, Some(NOON + SECOND))
    );
}

/// Rotates the secret once; the ones before sign until `old_until`.
async fn rotate(store: &Store, row: &WebhookRow, now: i64, old_until: i64) -> WebhookRow {
    rotate_one(store, row, (now, old_until), None).await
}

/// The same with the key pair, whose public half is called after its version.
async fn rotate_pair(store: &Store, row: &WebhookRow, now: i64, old_until: i64) -> WebhookRow {
    let public_key = pair(row.secret_version + 1).public_key;
    rotate_one(store, row, (now, old_until), Some(public_key)).await
}

async fn rotate_one(
    store: &Store,
    row: &WebhookRow,
    (now, old_until): (i64, i64),
    public_key: Option<String>,
) -> WebhookRow {
    let rotation = Rotation {
        secret: SealedSecret {
            created_at: now,
            ..sealed(row.secret_version + 1)
        },
        public_key,
        old_until,
        expected_revision: row.revision,
    };
    store
        .rotate_secret(row.workspace_id, row.id, &rotation, None, &actor(), now)
        .await
        .unwrap()
        .unwrap()
}

fn pair(version: u32) -> AsymmetricSecret {
    AsymmetricSecret {
        public_key: format!("whpk_{version}"),
        sealed: sealed(version),
    }
}

/// A webhook that signs twice: its secret has version 1, its key pair version 2.
async fn make_with_pair(store: &Store, workspace: Uuid) -> WebhookRow {
    let mut new = new_webhook(workspace);
    new.asymmetric = Some(pair(2));
    store
        .create_webhook(&new, None, None, &actor())
        .await
        .unwrap()
}

/// Public keys and their ends, as the row and as the document for everybody has them.
async fn pairs(store: &Store, row: &WebhookRow) -> Vec<(String, Option<i64>)> {
    let shown = store.public_keys(row.id).await.unwrap();
    let shown: Vec<_> = shown
        .into_iter()
        .map(|key| (key.key, key.expires_at))
        .collect();
    let kept: Vec<_> = row
        .asymmetric_keys()
        .map(|key| (key.public_key.clone(), key.sealed.expires_at))
        .collect();
    assert_eq!(shown, kept);
    kept
}

fn ended(keys: &[(u32, Option<i64>)]) -> Vec<(String, Option<i64>)> {
    let keys = keys.iter();
    keys.map(|(version, end)| (pair(*version).public_key, *end))
        .collect()
}

fn ends(row: &WebhookRow) -> Vec<(u32, Option<i64>)> {
    row.secrets
        .iter()
        .map(|one| (one.version, one.expires_at))
        .collect()
}

#[tokio::test]
async fn a_rotation_puts_a_new_key_in_front_and_never_lengthens_an_old_ones_life() {
    let database = Database::fresh().await;
    let store = &database.store;
    let workspace = database.workspace().await;
    let first = make(store, workspace).await;
    let second = rotate(store, &first, NOON, NOON + 10 * SECOND).await;
    assert_eq!(ends(&second), [(2, None), (1, Some(NOON + 10 * SECOND))]);
    assert_eq!((second.revision, second.secret_version), (2, 2));
    let third = rotate(store, &second, NOON, NOON + 20 * SECOND).await;
    let expected = [
        (3, None),
        (2, Some(NOON + 20 * SECOND)),
        (1, Some(NOON + 10 * SECOND)),
    ];
    assert_eq!(ends(&third), expected);

    let stale = Rotation {
        secret: sealed(4),
        public_key: None,
        old_until: NOON,
        expected_revision: 2,
    };
    let again = async |workspace| {
        store
            .rotate_secret(workspace, first.id, &stale, None, &actor(), NOON)
            .await
    };
    let late = again(workspace).await.unwrap_err();
    assert!(matches!(late, StoreError::Conflict("webhook revision")));
    assert_eq!(again(Uuid::nil()).await.unwrap(), None);

    // The oldest has ended; nobody has to rotate for it to go.
    assert_eq!(store.drop_expired_secrets(NOON, 10).await.unwrap(), 0);
    let later = NOON + 15 * SECOND;
    assert_eq!(store.drop_expired_secrets(later, 10).await.unwrap(), 1);
    assert_eq!(store.drop_expired_secrets(later, 10).await.unwrap(), 0);
    let swept = store
        .get_webhook(workspace, first.id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(ends(&swept), [(3, None), (2, Some(NOON + 20 * SECOND))]);
    assert_eq!((swept.revision, swept.updated_at), (4, third.updated_at));

    let revoked = rotate(store, &swept, later, later).await;
    assert_eq!(ends(&revoked), [(4, None)], "at once");
    let log = database
        .texts("SELECT concat_ws(' ', action, actor) FROM audit_log WHERE action LIKE 'webhook.secret%' ORDER BY id")
        .await;
    let by = "webhook.secret_rotate token:Ab3dEf6hIj9l";
    assert_eq!(log, [by, by, "webhook.secret_expire system", by]);
    let told = store.next_outbox(10, 100).await.unwrap().rows;
    assert_eq!(
        told.iter().map(|row| row.revision).collect::<Vec<_>>(),
        [1, 2, 3, 4, 5]
    );
}

#[tokio::test]
async fn at_most_ten_old_keys_sign_beside_the_newest() {
    let database = Database::fresh().await;
    let store = &database.store;
    let workspace = database.workspace().await;
    let mut row = make(store, workspace).await;
    for _ in 0..15 {
        row = rotate(store, &row, NOON, NOON + 100 * SECOND).await;
    }
    let versions: Vec<_> = row.secrets.iter().map(|one| one.version).collect();
    assert_eq!(versions.len(), MAX_OLD_SECRETS + 1);
    assert_eq!((versions[0], versions[10]), (16, 6));

    let mut row = make_with_pair(store, workspace).await;
    for _ in 0..15 {
        row = rotate_pair(store, &row, NOON, NOON + 100 * SECOND).await;
    }
    let versions: Vec<_> = row
        .asymmetric_keys()
        .map(|one| one.sealed.version)
        .collect();
    assert_eq!(versions.len(), MAX_OLD_SECRETS + 1);
    assert_eq!((versions[0], versions[10]), (17, 7));
    assert_eq!(ends(&row), [(1, None)], "of the other kind");
}

#[tokio::test]
async fn a_new_key_pair_follows_the_one_before_and_leaves_the_secrets_as_they_are() {
    let database = Database::fresh().await;
    let store = &database.store;
    let workspace = database.workspace().await;
    let (soon, later, last) = (
        NOON + 10 * SECOND,
        NOON + 15 * SECOND,
        Some(NOON + 20 * SECOND),
    );
    let made = make_with_pair(store, workspace).await;
    assert_eq!(pairs(store, &made).await, ended(&[(2, None)]));
    let second = rotate_pair(store, &made, NOON, soon).await;
    let expected = ended(&[(3, None), (2, Some(soon))]);
    assert_eq!(pairs(store, &second).await, expected);
    assert_eq!(ends(&second), [(1, None)]);
    assert_eq!((second.revision, second.secret_version), (2, 3));
    let kept = SealedSecret {
        expires_at: None,
        ..second.old_asymmetric[0].sealed.clone()
    };
    assert_eq!(kept, sealed(2), "as it was sealed");

    // Rotations of the two kinds do not concern each other, but for the numbering.
    let third = rotate(store, &second, NOON, NOON + 20 * SECOND).await;
    assert_eq!(pairs(store, &third).await, expected);
    let fourth = rotate_pair(store, &third, NOON, NOON + 20 * SECOND).await;
    assert_eq!(ends(&fourth), [(4, None), (1, last)]);
    let expected = ended(&[(5, None), (3, last), (2, Some(soon))]);
    assert_eq!(pairs(store, &fourth).await, expected);

    // The oldest has ended; nobody has to rotate for it to go.
    assert_eq!(store.drop_expired_secrets(NOON, 10).await.unwrap(), 0);
    assert_eq!(store.drop_expired_secrets(later, 10).await.unwrap(), 1);
    let swept = store.get_webhook(workspace, made.id).await;
    let swept = swept.unwrap().unwrap();
    assert_eq!(
        pairs(store, &swept).await,
        ended(&[(5, None), (3, last)]),
        "its neighbours stay"
    );
    assert_eq!(ends(&swept), ends(&fourth));
    let revoked = rotate_pair(store, &swept, later, later).await;
    assert_eq!(pairs(store, &revoked).await, ended(&[(6, None)]), "at once");
    let log = database
        .texts("SELECT action FROM audit_log WHERE action LIKE 'webhook.%' ORDER BY id")
        .await;
    let (by, of_secret) = ("webhook.public_key_rotate", "webhook.secret_rotate");
    let swept = "webhook.secret_expire";
    assert_eq!(log, ["webhook.create", by, of_secret, by, swept, by]);
    let told = "SELECT after->>'publicKey' || ' ' || (after->'oldPublicKeys')::text FROM audit_log
        WHERE action = 'webhook.public_key_rotate' ORDER BY id LIMIT 1";
    let told = database.texts(told).await.remove(0);
    assert!(
        told.starts_with("whpk_3 ") && told.contains("\"whpk_2\""),
        "{told}"
    );
}

#[tokio::test]
async fn a_key_pair_is_rotated_only_where_there_is_one_and_switching_it_off_ends_them_all() {
    let database = Database::fresh().await;
    let store = &database.store;
    let workspace = database.workspace().await;
    let bare = make(store, workspace).await;
    let rotation = Rotation {
        secret: sealed(2),
        public_key: Some("whpk_2".into()),
        old_until: NOON,
        expected_revision: 1,
    };
    let refused = store
        .rotate_secret(workspace, bare.id, &rotation, None, &actor(), NOON)
        .await
        .unwrap_err();
    assert!(matches!(
        refused,
        StoreError::Conflict("webhook public key")
    ));
    let unchanged = store.get_webhook(workspace, bare.id).await.unwrap();
    assert_eq!(unchanged, Some(bare));

    let made = make_with_pair(store, workspace).await;
    let rotated = rotate_pair(store, &made, NOON, NOON + 10 * SECOND).await;
    assert_eq!(rotated.old_asymmetric.len(), 1);
    let switch = |asymmetric| WebhookPatch {
        asymmetric: Some(asymmetric),
        ..WebhookPatch::default()
    };
    let off = update(store, &rotated, switch(None)).await;
    assert_eq!(pairs(store, &off).await, []);
    let left = "SELECT count(*) FROM webhook_secrets WHERE kind LIKE 'ED25519%'";
    assert_eq!(database.count(left).await, 0);
    let on = update(store, &off, switch(Some(pair(4)))).await;
    assert_eq!(pairs(store, &on).await, ended(&[(4, None)]));

    // As the release before leaves them, which does not know of old ones.
    rotate_pair(store, &on, NOON, NOON + 10 * SECOND).await;
    let without = "DELETE FROM webhook_secrets WHERE kind = 'ED25519';
        UPDATE webhooks SET public_key = NULL";
    sqlx::raw_sql(without).execute(&database.sql).await.unwrap();
    let found = store.get_webhook(workspace, made.id).await;
    let found = found.unwrap().unwrap();
    assert_eq!(pairs(store, &found).await, [], "none without the newest");
    let on = update(store, &found, switch(Some(pair(6)))).await;
    assert_eq!(pairs(store, &on).await, ended(&[(6, None)]));
}

#[tokio::test]
async fn a_deletion_may_ask_for_the_revision_that_was_seen() {
    let database = Database::fresh().await;
    let store = &database.store;
    let workspace = database.workspace().await;
    let made = make(store, workspace).await;
    let delete = async |seen| {
        store
            .delete_webhook(workspace, made.id, seen, &actor(), NOON)
            .await
    };
    let refused = delete(Some(2)).await.unwrap_err();
    assert!(matches!(refused, StoreError::Conflict("webhook revision")));
    assert!(delete(Some(1)).await.unwrap());
    assert!(!delete(Some(1)).await.unwrap());
}

#[tokio::test]
async fn the_audit_log_keeps_no_query() {
    let database = Database::fresh().await;
    let workspace = database.workspace().await;
    let mut new = new_webhook(workspace);
    new.endpoint_url = "https://example.com/hook?token=in-the-query-1".into();
    new.extras = Extras {
        shown: serde_json::json!({
            "auth": { "type": "oauth2ClientCredentials", "tokenUrl": "https://id.example/t?k=in-the-query-2" }
        }),
        ..extras(2)
    };
    let made = database
        .store
        .create_webhook(&new, None, None, &actor())
        .await
        .unwrap();
    let patch = WebhookPatch {
        endpoint_url: Some("https://example.com/hook?token=in-the-query-3".into()),
        ..WebhookPatch::default()
    };
    let changed = update(&database.store, &made, patch).await;
    assert!(
        changed.endpoint_url.ends_with("in-the-query-3"),
        "it is in force"
    );
    let rows: Vec<String> = sqlx::query_scalar(
        "SELECT coalesce(before::text, '') || coalesce(after::text, '') FROM audit_log",
    )
    .fetch_all(&database.sql)
    .await
    .unwrap();
    let all = rows.join("\n");
    assert!(all.contains("https://example.com/hook?sha256:"), "{all}");
    assert!(all.contains("https://id.example/t?sha256:"), "{all}");
    assert!(!all.contains("in-the-query"), "{all}");
    let changes = "SELECT count(*) FROM audit_log
        WHERE before->>'endpointUrl' <> after->>'endpointUrl'";
    assert_eq!(database.count(changes).await, 1, "the change shows");
}

/// Masks of earlier releases, which showed the end of what is shorter, and of passwords.
#[tokio::test]
async fn the_migration_of_masks_leaves_nothing_of_a_value() {
    let database = Database::fresh().await;
    let workspace = database.workspace().await;
    let made = make(&database.store, workspace).await;
    let shown = serde_json::json!({
        "headers": [
            { "name": "X-A", "value": "••••abcd" },
            { "name": "X-B", "value": "••••a\"\\b" },
            { "name": "value", "value": "••••" },
        ],
        "auth": { "type": "basic", "username": "••••ann \"value\": \"••••x\"", "password": "••••1234" },
    });
    sqlx::query("UPDATE webhooks SET extras_shown = $1")
        .bind(&shown)
        .execute(&database.sql)
        .await
        .unwrap();
    let migration = include_str!("../../../../migrations/0014_masks.sql");
    for _ in 0..2 {
        sqlx::raw_sql(migration)
            .execute(&database.sql)
            .await
            .unwrap();
    }
    let row = database
        .store
        .get_webhook(workspace, made.id)
        .await
        .unwrap();
    let expected = serde_json::json!({
        "headers": [
            { "name": "X-A", "value": "••••" },
            { "name": "X-B", "value": "••••" },
            { "name": "value", "value": "••••" },
        ],
        "auth": { "type": "basic", "username": "••••ann \"value\": \"••••x\"", "password": "••••" },
    });
    assert_eq!(row.unwrap().extras.shown, expected);
}
