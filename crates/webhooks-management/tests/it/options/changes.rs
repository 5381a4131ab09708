//! Changes: who saw an older state is told so, and a change of the status decides about what is held.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use webhooks_domain::webhook::{Plan, StatusReason, WebhookStatus};
use webhooks_proto::internal::v1 as wire;
use webhooks_store::{Actor, WebhookPatch};

use super::{configured, path};
use crate::support::{World, id_of, now, refused, webhook_body};

#[tokio::test]
async fn a_tag_protects_from_lost_updates() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let created = world.post(token, &webhook_body("x")).await;
    let id = id_of(&created);
    assert_eq!(created.headers["etag"], "\"1\"");
    let got = world.get(&path(id), token).await;
    assert_eq!(got.headers["etag"], "\"1\"");
    assert_eq!(got.body["webhook"]["revision"], 1);
    let patch = async |tag: &str, name: &str| {
        let headers = [("if-match", tag), ("idempotency-key", name)];
        let body = json!({ "name": name });
        world
            .write(Method::PATCH, &path(id), token, &headers, &body)
            .await
    };
    let first = patch("\"1\"", "a").await;
    assert_eq!(
        (first.status, &first.headers["etag"]),
        (StatusCode::OK, &"\"2\"".parse().unwrap())
    );
    let replayed = patch("\"1\"", "a").await;
    assert_eq!(replayed.headers["idempotent-replayed"], "true");
    assert_eq!(replayed.headers["etag"], "\"2\"");
    let late = patch("\"1\"", "b").await;
    refused(&late, 412, "PRECONDITION_FAILED");
    assert_eq!(late.body["details"][0]["revision"], 2);
    refused(&patch("W/\"2\"", "c").await, 412, "PRECONDITION_FAILED");
    refused(&patch("2", "d").await, 400, "INVALID_ARGUMENT");
    assert_eq!(patch("\"9\", \"2\"", "e").await.status, StatusCode::OK);
    assert_eq!(patch("*", "f").await.status, StatusCode::OK);

    let delete = async |tag: &str| {
        let headers = [("if-match", tag)];
        world
            .send(Method::DELETE, &path(id), token, &headers, None)
            .await
    };
    refused(&delete("\"1\"").await, 412, "PRECONDITION_FAILED");
    let deleted = delete("\"4\"").await;
    assert_eq!(
        (deleted.status, &deleted.body),
        (StatusCode::OK, &json!({}))
    );
    refused(&delete("\"4\"").await, 404, "WEBHOOK_NOT_FOUND");

    // Of many who saw the same, one wins.
    let id = world.webhook(token).await;
    let headers = [("if-match", "\"1\"")];
    let bodies: Vec<_> = (0..10)
        .map(|n| json!({ "name": format!("n{n}") }))
        .collect();
    let at = path(id);
    let calls = bodies
        .iter()
        .map(|body| world.write(Method::PATCH, &at, token, &headers, body));
    let replies = futures::future::join_all(calls).await;
    let won = replies
        .iter()
        .filter(|reply| reply.status == StatusCode::OK);
    assert_eq!(won.count(), 1);
}

#[tokio::test]
async fn a_person_who_sets_the_status_decides_about_what_is_held() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let id = world.webhook(token).await;
    let patch = async |body: Value| world.patch(&id.to_string(), token, &body).await;
    let state = async || {
        let config = configured(&world, workspace.id, id).await;
        (
            config.health_epoch,
            config.held_choice(),
            config.held_choice_at,
        )
    };
    let (active, paused) = ("WEBHOOK_STATUS_ACTIVE", "WEBHOOK_STATUS_PAUSED");
    assert_eq!(state().await, (0, wire::HeldChoice::Keep, 0));
    patch(json!({ "status": active })).await;
    assert_eq!(
        state().await.0,
        0,
        "what is shown, written back, changes nothing"
    );
    let early = patch(json!({ "status": paused, "heldDeliveries": "DISCARD" })).await;
    let said = refused(&early, 400, "INVALID_ARGUMENT");
    assert_eq!(
        said,
        [("heldDeliveries".to_owned(), "not_active".to_owned())]
    );
    patch(json!({ "status": paused })).await;
    assert_eq!(state().await, (1, wire::HeldChoice::Keep, 0));
    patch(json!({ "status": paused })).await;
    assert_eq!(state().await.0, 1);
    patch(json!({ "status": active })).await;
    let (epoch, choice, at) = state().await;
    assert_eq!(
        (epoch, choice),
        (2, wire::HeldChoice::Deliver),
        "a pause releases"
    );
    assert!(at > 0);
    patch(json!({ "status": "WEBHOOK_STATUS_DISABLED" })).await;
    patch(json!({ "status": active, "heldDeliveries": "DISCARD" })).await;
    let (epoch, choice, later) = state().await;
    assert_eq!((epoch, choice), (4, wire::HeldChoice::Discard));
    assert!(later > at);
    // Who said nothing at first may decide afterwards.
    patch(json!({ "heldDeliveries": "DELIVER" })).await;
    assert_eq!(
        (state().await.0, state().await.1),
        (4, wire::HeldChoice::Deliver)
    );
    let odd = patch(json!({ "heldDeliveries": "SELL" })).await;
    refused(&odd, 400, "INVALID_ARGUMENT");

    // Automatically disabled: kept, unless somebody says otherwise.
    let gone = WebhookPatch {
        status: Some((
            WebhookStatus::AutoDisabled,
            Some(StatusReason::EndpointGone),
        )),
        ..WebhookPatch::default()
    };
    let stored = world
        .store
        .update_webhook(workspace.id, id, &gone, &Actor::System, now());
    stored.await.unwrap().unwrap();
    let back = patch(json!({ "status": "WEBHOOK_STATUS_DISABLED" })).await;
    assert_eq!(back.body["webhook"]["statusLabel"], "AUTO_DISABLED");
    patch(json!({ "status": active })).await;
    assert_eq!(
        (state().await.0, state().await.1),
        (5, wire::HeldChoice::Keep)
    );
}

#[tokio::test]
async fn a_webhook_may_be_created_switched_off() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    for (word, label, status) in [
        (
            "WEBHOOK_STATUS_DISABLED",
            "DISABLED",
            wire::Status::Disabled,
        ),
        ("WEBHOOK_STATUS_PAUSED", "PAUSED", wire::Status::Paused),
        ("WEBHOOK_STATUS_ACTIVE", "ACTIVE", wire::Status::Active),
    ] {
        let mut body = webhook_body("x");
        body["status"] = json!(word);
        let created = world.post(&workspace.token, &body).await;
        assert_eq!(created.body["webhook"]["statusLabel"], label);
        let config = configured(&world, workspace.id, id_of(&created)).await;
        assert_eq!(config.status(), status);
    }
}
