//! Calls with a key: done once, answered the same again, and recovered as themselves.

use prost_types::Timestamp;
use reqwest::Method;
use serde_json::json;
use tonic::Code;
use webhooks_domain::webhook::Plan;
use webhooks_proto::v1::{
    self, operator_service_client::OperatorServiceClient,
    webhook_service_client::WebhookServiceClient,
    workspace_token_service_client::WorkspaceTokenServiceClient,
};

use crate::support::{
    OPERATOR_TOKEN, World, fields, id_of, reason, signed_body, webhook_body, with_token,
};

#[tokio::test]
async fn an_operators_call_with_a_key_is_done_once_over_grpc() {
    let world = World::start().await;
    let mut client = OperatorServiceClient::new(world.channel().await);
    let wish = v1::CreateWorkspaceRequest {
        name: "new".into(),
        idempotency_key: "make".into(),
        ..v1::CreateWorkspaceRequest::default()
    };
    let made = client.create_workspace(with_token(OPERATOR_TOKEN, wish.clone()));
    let made = made.await.unwrap().into_inner();
    let again = client
        .create_workspace(with_token(OPERATOR_TOKEN, wish))
        .await
        .unwrap();
    assert_eq!(again.metadata().get("idempotent-replayed").unwrap(), "true");
    assert_eq!(again.into_inner(), made);
    let id = made.workspace.unwrap().id;
    let change = v1::UpdateWorkspaceRequest {
        id: id.clone(),
        plan: Some("PRO".into()),
        idempotency_key: "change".into(),
        ..v1::UpdateWorkspaceRequest::default()
    };
    let changed = client.update_workspace(with_token(OPERATOR_TOKEN, change.clone()));
    assert_eq!(
        changed.await.unwrap().into_inner().workspace.unwrap().plan,
        "PRO"
    );
    let other = v1::UpdateWorkspaceRequest {
        plan: Some("FREE".into()),
        ..change
    };
    let reused = client
        .update_workspace(with_token(OPERATOR_TOKEN, other))
        .await;
    assert_eq!(reason(&reused.unwrap_err()), "IDEMPOTENCY_KEY_REUSED");

    let issue = v1::IssueWorkspaceTokenRequest {
        workspace_id: id.clone(),
        name: "first".into(),
        idempotency_key: "issue".into(),
        ..v1::IssueWorkspaceTokenRequest::default()
    };
    let issued = client.issue_workspace_token(with_token(OPERATOR_TOKEN, issue.clone()));
    let issued = issued.await.unwrap().into_inner();
    webhooks_devstack::note_answer(issued.access_token.as_bytes());
    let again = client
        .issue_workspace_token(with_token(OPERATOR_TOKEN, issue))
        .await;
    assert_eq!(again.unwrap().into_inner(), issued);
    let token = issued.access_token.as_str();
    let listed = world.get("/v1/workspace-tokens", token).await;
    assert_eq!(listed.body["totalCount"], 1, "one token, shown twice");
    // Who had it shown again is written down.
    let log = world.get("/v1/audit-log?action=token.shown", token).await;
    assert_eq!(log.body["totalCount"], 1);
    assert_eq!(log.body["entries"][0]["actor"], "operator");
    assert_eq!(log.body["entries"][0]["subject"], issued.token_id);
}

#[tokio::test]
async fn a_secret_that_is_shown_again_is_written_down() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let twice = async |path: &str, body: &serde_json::Value| {
        let key = [("idempotency-key", path)];
        let first = world.write(Method::POST, path, token, &key, body).await;
        let again = world.write(Method::POST, path, token, &key, body).await;
        assert_eq!(again.headers["idempotent-replayed"], "true", "{again:?}");
        assert_eq!(first.body, again.body);
        first
    };
    let shown = async |action: &str| {
        let log = world
            .get(&format!("/v1/audit-log?action={action}"), token)
            .await;
        let entries = log.body["entries"].as_array().unwrap().clone();
        let subjects = entries
            .iter()
            .map(|entry| entry["subject"].as_str().unwrap().to_owned());
        subjects.collect::<Vec<_>>()
    };
    let webhook = id_of(&twice("/v1/webhooks", &webhook_body("a")).await).to_string();
    assert_eq!(
        shown("webhook.secret_shown").await,
        std::slice::from_ref(&webhook)
    );
    twice(&format!("/v1/webhooks/{webhook}/secret/rotate"), &json!({})).await;
    assert_eq!(
        shown("webhook.secret_shown").await,
        [webhook.clone(), webhook]
    );
    let wish = json!({ "keyType": "WORKSPACE_TOKEN_KEY_TYPE_SECRET", "name": "CI" });
    let made = twice("/v1/workspace-tokens", &wish).await;
    let id = made.body["token"]["id"].as_str().unwrap().to_owned();
    assert_eq!(shown("token.shown").await, [id]);
    // A public key is no secret.
    let made = world.post(token, &signed_body("b")).await;
    let path = format!("/v1/webhooks/{}/secret/rotate", id_of(&made));
    let rotated = twice(&path, &json!({ "key": "PUBLIC_KEY" })).await;
    assert!(rotated.body["publicKey"].is_string(), "{rotated:?}");
    assert_eq!(shown("webhook.secret_shown").await.len(), 2);
    // A refusal shows nothing.
    let nowhere = "/v1/webhooks/00000000-0000-4000-8000-000000000000/secret/rotate";
    let bad = twice(nowhere, &json!({})).await;
    assert_eq!(bad.status, 404);
    assert_eq!(shown("webhook.secret_shown").await.len(), 2);
}

#[tokio::test]
async fn refusals_are_kept_under_a_key_and_an_expiry_is_taken_away() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let mut webhooks = WebhookServiceClient::new(world.channel().await);
    let bad = v1::CreateWebhookRequest {
        name: "CRM".into(),
        endpoint_url: "ftp://example.com".into(),
        idempotency_key: "bad".into(),
        ..v1::CreateWebhookRequest::default()
    };
    let first = webhooks
        .create_webhook(with_token(token, bad.clone()))
        .await
        .unwrap_err();
    assert!(first.metadata().get("idempotent-replayed").is_none());
    let again = webhooks
        .create_webhook(with_token(token, bad.clone()))
        .await
        .unwrap_err();
    assert_eq!(again.metadata().get("idempotent-replayed").unwrap(), "true");
    assert_eq!(
        (again.code(), again.message(), again.details()),
        (first.code(), first.message(), first.details())
    );
    let other = v1::CreateWebhookRequest {
        endpoint_url: "https://example.com".into(),
        ..bad
    };
    let reused = webhooks
        .create_webhook(with_token(token, other))
        .await
        .unwrap_err();
    assert_eq!(reason(&reused), "IDEMPOTENCY_KEY_REUSED");

    let mut tokens = WorkspaceTokenServiceClient::new(world.channel().await);
    let end = Timestamp {
        seconds: 4_000_000_000,
        nanos: 0,
    };
    let wish = v1::CreateWorkspaceTokenRequest {
        key_type: v1::WorkspaceTokenKeyType::Secret.into(),
        expires_at: Some(end),
        ..v1::CreateWorkspaceTokenRequest::default()
    };
    let made = tokens
        .create_workspace_token(with_token(token, wish))
        .await
        .unwrap();
    webhooks_devstack::note_answer(made.get_ref().access_token.as_bytes());
    let made = made.into_inner().token.unwrap();
    assert_eq!(made.expires_at, Some(end));
    let clear = v1::UpdateWorkspaceTokenRequest {
        id: made.id,
        clear_expires_at: true,
        ..v1::UpdateWorkspaceTokenRequest::default()
    };
    let both = v1::UpdateWorkspaceTokenRequest {
        expires_at: Some(end),
        ..clear.clone()
    };
    let both = tokens
        .update_workspace_token(with_token(token, both))
        .await
        .unwrap_err();
    assert_eq!(fields(&both), ["expiresAt"]);
    let cleared = tokens
        .update_workspace_token(with_token(token, clear))
        .await
        .unwrap();
    assert_eq!(cleared.into_inner().token.unwrap().expires_at, None);
}

#[tokio::test]
async fn a_rotation_takes_a_revision_and_is_recovered_as_itself() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let webhook = world.webhook(token).await;
    let path = format!("/v1/webhooks/{webhook}/secret/rotate");
    let rotate = async |headers: &[(&str, &str)]| {
        world
            .write(Method::POST, &path, token, headers, &json!({}))
            .await
    };
    let stale = rotate(&[("if-match", "\"7\""), ("idempotency-key", "stale")]).await;
    assert_eq!(
        (stale.status.as_u16(), &stale.body["codeType"]),
        (412, &json!("PRECONDITION_FAILED"))
    );
    // Kept, and bound to the revision that was asked for.
    let again = rotate(&[("if-match", "\"7\""), ("idempotency-key", "stale")]).await;
    assert_eq!(
        (
            again.status.as_u16(),
            again.headers.contains_key("idempotent-replayed")
        ),
        (412, true)
    );
    assert_eq!(
        rotate(&[("if-match", "\"1\""), ("idempotency-key", "stale")])
            .await
            .status,
        422
    );
    let first = rotate(&[("if-match", "\"1\""), ("idempotency-key", "first")]).await;
    assert_eq!(
        (first.status.as_u16(), &first.body["webhook"]["revision"]),
        (200, &json!(2))
    );
    let mut webhooks = WebhookServiceClient::new(world.channel().await);
    let late = v1::RotateWebhookSecretRequest {
        webhook_id: webhook.to_string(),
        expected_revision: 1,
        ..v1::RotateWebhookSecretRequest::default()
    };
    let late = webhooks
        .rotate_webhook_secret(with_token(token, late))
        .await;
    assert_eq!(late.unwrap_err().code(), Code::Aborted);
    // The first call was cut off before its answer was kept, and another rotation came after it.
    let second = rotate(&[]).await;
    assert_ne!(second.body["secret"], first.body["secret"]);
    cut_off(&world, "first").await;
    let recovered = rotate(&[("if-match", "\"1\""), ("idempotency-key", "first")]).await;
    assert_eq!(recovered.status, 200, "{recovered:?}");
    assert_eq!(recovered.body["secret"], first.body["secret"]);

    // So it is with a key pair, while it signs.
    let both = json!({ "signatures": ["v1", "v1a"] });
    world.patch(&webhook.to_string(), token, &both).await;
    let pair = async |key: &str, overlap: u32| {
        let wish = json!({ "key": "PUBLIC_KEY", "overlapSeconds": overlap });
        let headers = [("idempotency-key", key)];
        world
            .write(Method::POST, &path, token, &headers, &wish)
            .await
    };
    let first = pair("pair", 60).await;
    assert_eq!(first.status, 200, "{first:?}");
    let second = pair("another", 60).await;
    assert_ne!(second.body["publicKey"], first.body["publicKey"]);
    cut_off(&world, "pair").await;
    let recovered = pair("pair", 60).await;
    assert_eq!(recovered.status, 200, "{recovered:?}");
    assert_eq!(recovered.body["publicKey"], first.body["publicKey"]);
    assert!(recovered.body.get("secret").is_none());
    pair("last", 0).await;
    assert_eq!(pair("pair", 60).await.body["codeType"], "SECRET_GONE");
    cut_off(&world, "pair").await;
    assert_eq!(pair("pair", 60).await.body["codeType"], "SECRET_GONE");
}

/// As if the call with this key had been cut off, a while ago, before its answer was kept.
async fn cut_off(world: &World, key: &str) {
    let statement = format!(
        "UPDATE idempotency_keys SET status = NULL, body = NULL,
        started_at = started_at - interval '2 minutes' WHERE key = '{key}'"
    );
    world.sql(&statement).await;
}
