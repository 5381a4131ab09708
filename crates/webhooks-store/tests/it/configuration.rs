use uuid::Uuid;
use webhooks_domain::webhook::Plan;
use webhooks_store::{Actor, NewToken, NewWorkspace, OutboxKind, StoreError, TokenKeyType};

use crate::support::{Database, NOON, actor};

fn token(workspace_id: Uuid, id: &str) -> NewToken {
    NewToken {
        id: id.into(),
        hash: [7; 32],
        workspace_id,
        name: "ci\0".into(),
        key_type: TokenKeyType::Secret,
        scopes: vec!["webhooks:read".into()],
        created_by: Uuid::from_u128(5),
        member_email: Some("member@a.example".into()),
        expires_at: Some(NOON + 9),
        now: NOON,
    }
}

#[tokio::test]
async fn a_workspace_is_made_once_and_its_plan_changes() {
    let database = Database::fresh().await;
    let store = &database.store;
    let new = NewWorkspace {
        id: Uuid::new_v4(),
        name: "first".into(),
        plan: Plan::Free,
        owner_member: Uuid::new_v4(),
        now: NOON,
    };
    let made = store
        .create_workspace(&new, &Actor::Operator)
        .await
        .unwrap();
    let again = NewWorkspace {
        name: "second".into(),
        plan: Plan::Pro,
        now: NOON + 1,
        ..new.clone()
    };
    assert_eq!(
        store
            .create_workspace(&again, &Actor::Operator)
            .await
            .unwrap(),
        made
    );
    assert_eq!(made.name, "first");
    let changed = store
        .set_plan(new.id, Plan::Pro, &Actor::Operator, NOON + 2)
        .await
        .unwrap();
    assert_eq!(store.get_workspace(new.id).await.unwrap(), changed);
    assert_eq!(changed.unwrap().plan, Plan::Pro);
    let stranger = store
        .set_plan(Uuid::nil(), Plan::Pro, &Actor::Operator, NOON)
        .await
        .unwrap();
    assert_eq!(stranger, None);
    let log = database.texts("SELECT action || ' ' || actor || ' ' || coalesce(before->>'plan', '-') || ' ' || (after->>'plan') FROM audit_log ORDER BY id").await;
    assert_eq!(
        log,
        [
            "workspace.create operator - FREE",
            "workspace.set_plan operator FREE PRO"
        ]
    );
}

#[tokio::test]
async fn a_token_is_found_listed_and_revoked_once() {
    let database = Database::fresh().await;
    let store = &database.store;
    let workspace = database.workspace().await;
    let other = database.workspace().await;
    let made = store
        .create_token(&token(workspace, "AAAA"), None, &actor())
        .await
        .unwrap();
    assert_eq!(store.token_by_id("AAAA").await.unwrap(), Some(made.clone()));
    assert_eq!(
        (made.name.as_str(), made.hash, made.expires_at),
        ("ci␀", [7; 32], Some(NOON + 9))
    );
    assert_eq!(made.member_email.as_deref(), Some("member@a.example"));
    assert_eq!(store.token_by_id("AA\0").await.unwrap(), None);
    let taken = store
        .create_token(&token(workspace, "AAAA"), None, &actor())
        .await
        .unwrap_err();
    assert!(matches!(taken, StoreError::Conflict("token id")), "{taken}");
    let nowhere = store
        .create_token(&token(Uuid::nil(), "BBBB"), None, &actor())
        .await
        .unwrap_err();
    assert!(
        matches!(nowhere, StoreError::NotFound("workspace")),
        "{nowhere}"
    );
    assert!(
        !store
            .revoke_token(other, "AAAA", &actor(), NOON + 1)
            .await
            .unwrap()
    );
    assert!(
        store
            .revoke_token(workspace, "AAAA", &actor(), NOON + 1)
            .await
            .unwrap()
    );
    assert!(
        !store
            .revoke_token(workspace, "AAAA", &actor(), NOON + 2)
            .await
            .unwrap()
    );
    let listed = store.list_tokens(workspace).await.unwrap();
    assert_eq!(
        listed
            .iter()
            .map(|t| (t.revoked_at, t.revision))
            .collect::<Vec<_>>(),
        [(Some(NOON + 1), 2)]
    );
    assert_eq!(store.token_config_rows(None, 10).await.unwrap(), listed);
    assert_eq!(store.token_config_rows(Some("AAAA"), 10).await.unwrap(), []);
    let outbox = store.next_outbox(10, 10).await.unwrap().rows;
    assert!(
        outbox
            .iter()
            .all(|row| row.kind == OutboxKind::Token && row.key == "AAAA")
    );
    assert_eq!(
        outbox.iter().map(|row| row.revision).collect::<Vec<_>>(),
        [1, 2]
    );
    let secrets = database
        .count("SELECT count(*) FROM audit_log WHERE after::text LIKE '%hash%'")
        .await;
    assert_eq!(secrets, 0);
}
