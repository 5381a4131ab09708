use std::{collections::HashSet, time::Duration};

use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;
use webhooks_devstack::wait_until;
use webhooks_domain::{signing::SigningKey, webhook::Plan};

use crate::support::{LIMIT, Reply, World, id_of, webhook_body};

fn refused(reply: &Reply, status: u16, code_type: &str) {
    assert_eq!(reply.status.as_u16(), status, "{reply:?}");
    assert_eq!(reply.body["code"], status, "{reply:?}");
    assert_eq!(reply.body["codeType"], code_type, "{reply:?}");
    assert!(
        reply.body["details"].is_array() && reply.body["message"].is_string(),
        "{reply:?}"
    );
    assert_eq!(reply.body.as_object().unwrap().len(), 4);
    assert_eq!(reply.headers["x-content-type-options"], "nosniff");
    assert!(reply.headers.contains_key("ratelimit-limit"));
}

fn fields(reply: &Reply) -> Vec<String> {
    let details = reply.body["details"].as_array().unwrap();
    details
        .iter()
        .map(|detail| detail["field"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn the_life_of_a_webhook() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let link = Uuid::new_v4();
    let body = json!({ "name": "CRM", "endpointUrl": "https://example.com/a", "linkId": link });
    let created = world.post(token, &body).await;
    assert_eq!(created.status, StatusCode::OK, "{created:?}");
    let webhook = &created.body["webhook"];
    SigningKey::parse(webhook["secret"].as_str().unwrap()).unwrap();
    assert_eq!(webhook["status"], "WEBHOOK_STATUS_ACTIVE");
    assert_eq!(webhook["statusLabel"], "ACTIVE");
    assert_eq!(webhook["source"], "WEBHOOK_SOURCE_LINKBREAKERS");
    assert_eq!(webhook["triggers"], json!(["KIND_EXIT"]));
    assert_eq!(webhook["linkId"], json!(link));
    assert_eq!(webhook["linkIds"], json!([link]));
    assert_eq!(webhook["workspaceId"], json!(workspace.id));
    assert_eq!(webhook["successCount"], 0);
    for absent in ["statusReason", "lastSentAt", "lastDeliveredAt"] {
        assert!(webhook.get(absent).is_none(), "{absent}");
    }
    let id = id_of(&created).to_string();
    let path = format!("/v1/webhooks/{id}");

    let got = world.get(&path, token).await;
    assert!(got.body["webhook"].get("secret").is_none(), "shown once");
    let nothing = world.patch(&id, token, &json!({})).await;
    assert_eq!(nothing.body, got.body, "an empty update changes nothing");

    let changed = world
        .patch(
            &id,
            token,
            &json!({ "name": "ERP", "linkId": "", "triggers": [] }),
        )
        .await;
    let webhook = &changed.body["webhook"];
    assert_eq!(
        (&webhook["name"], &webhook["revision"]),
        (&json!("ERP"), &json!(2))
    );
    assert_eq!(
        (&webhook["linkIds"], &webhook["triggers"]),
        (&json!([]), &json!([]))
    );
    assert!(webhook.get("linkId").is_none());
    assert_eq!(
        webhook["endpointUrl"], "https://example.com/a",
        "absent is untouched"
    );

    let paused = world
        .patch(&id, token, &json!({ "status": "WEBHOOK_STATUS_PAUSED" }))
        .await;
    assert_eq!(paused.body["webhook"]["statusReason"], "USER");
    let again = world
        .patch(&id, token, &json!({ "status": "WEBHOOK_STATUS_PAUSED" }))
        .await;
    assert_eq!(
        again.body, paused.body,
        "writing back what is shown changes nothing"
    );
    let active = world
        .patch(&id, token, &json!({ "status": "WEBHOOK_STATUS_ACTIVE" }))
        .await;
    assert!(active.body["webhook"].get("statusReason").is_none());

    let deleted = world.delete(&path, token).await;
    assert_eq!(
        (deleted.status, &deleted.body),
        (StatusCode::OK, &json!({}))
    );
    refused(&world.get(&path, token).await, 404, "WEBHOOK_NOT_FOUND");
    refused(&world.delete(&path, token).await, 404, "WEBHOOK_NOT_FOUND");
    let list = world.get("/v1/webhooks", token).await;
    assert_eq!(list.body, json!({ "webhooks": [], "totalCount": 0 }));
}

#[tokio::test]
async fn every_refusal_is_flat_and_names_what_is_wrong() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let id = world.webhook(token).await.to_string();
    let path = format!("/v1/webhooks/{id}");

    refused(&world.get("/nowhere", token).await, 404, "NOT_FOUND");
    refused(&world.get("/v1/webhooks/", token).await, 404, "NOT_FOUND");
    let method = world.send(Method::PUT, &path, token, &[], None).await;
    refused(&method, 405, "METHOD_NOT_ALLOWED");
    assert!(method.headers["allow"].to_str().unwrap().contains("PATCH"));
    for bad in ["", "nonsense", &format!("{}x", &token[..token.len() - 1])] {
        let reply = world.get("/v1/webhooks", bad).await;
        refused(&reply, 401, "UNAUTHENTICATED");
        assert_eq!(reply.headers["www-authenticate"], "Bearer");
    }
    let reader = world.token(workspace.id, &["webhooks:read"]).await;
    assert_eq!(world.get(&path, &reader).await.status, StatusCode::OK);
    let reply = world.delete(&path, &reader).await;
    refused(&reply, 403, "MISSING_SCOPE");
    assert_eq!(
        reply.body["details"],
        json!([{ "scope": "webhooks:write" }])
    );
    let publisher = world.token(workspace.id, &["events:write"]).await;
    refused(&world.get(&path, &publisher).await, 403, "MISSING_SCOPE");

    let reply = world
        .post(
            token,
            &json!({ "name": "", "triggers": ["KIND_X"], "plan": 1 }),
        )
        .await;
    refused(&reply, 400, "INVALID_ARGUMENT");
    assert_eq!(
        fields(&reply),
        ["plan", "endpointUrl", "name", "triggers[0]"]
    );
    for key in [
        "workspaceId",
        "successCount",
        "createdBy",
        "createdByEmail",
        "secret",
        "status",
        "consecutiveFailures",
    ] {
        let mut body = webhook_body("x");
        body[key] = json!("x");
        let reply = world.post(token, &body).await;
        refused(&reply, 400, "INVALID_ARGUMENT");
        assert_eq!(fields(&reply), [key]);
    }
    let reply = world
        .post(
            token,
            &json!({ "name": "x", "endpointUrl": "https://10.0.0.1/" }),
        )
        .await;
    refused(&reply, 400, "INVALID_ENDPOINT_URL");
    assert_eq!(reply.body["details"][0]["field"], "endpointUrl");
    assert_eq!(reply.body["details"][0]["reason"], "blocked_address");

    let json_type = [("content-type", "application/json")];
    let deep = format!("{{\"name\":{}", "[".repeat(50_000));
    for body in ["{", "[]", "{\"name\":\"a\",\"name\":\"b\"}", &deep] {
        let reply = world
            .send(
                Method::POST,
                "/v1/webhooks",
                token,
                &json_type,
                Some(body.to_owned()),
            )
            .await;
        refused(&reply, 400, "INVALID_ARGUMENT");
    }
    let large = format!("{{\"name\":\"{}\"}}", "x".repeat(70_000));
    let reply = world
        .send(Method::POST, "/v1/webhooks", token, &json_type, Some(large))
        .await;
    refused(&reply, 413, "PAYLOAD_TOO_LARGE");
    let form = [("content-type", "text/plain")];
    let reply = world
        .send(
            Method::POST,
            "/v1/webhooks",
            token,
            &form,
            Some("{}".to_owned()),
        )
        .await;
    refused(&reply, 415, "UNSUPPORTED_MEDIA_TYPE");
    for query in ["pageSize=-1", "pageSize=x", "status=ACTIVE"] {
        refused(
            &world.get(&format!("/v1/webhooks?{query}"), token).await,
            400,
            "INVALID_ARGUMENT",
        );
    }
    let entry = world.get("/v1", "").await;
    assert_eq!(
        (entry.status, &entry.body["version"]),
        (StatusCode::OK, &json!("v1"))
    );
}

#[tokio::test]
async fn a_refused_change_of_what_only_we_set_leaves_the_webhook_as_it_was() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let id = world.webhook(token).await.to_string();
    let path = format!("/v1/webhooks/{id}");
    let before = world.get(&path, token).await;
    for (key, reason) in [
        ("id", "read_only"),
        ("workspaceId", "read_only"),
        ("createdBy", "read_only"),
        ("createdByEmail", "read_only"),
        ("createdAt", "read_only"),
        ("updatedAt", "read_only"),
        ("lastSentAt", "read_only"),
        ("lastDeliveredAt", "read_only"),
        ("successCount", "read_only"),
        ("failureCount", "read_only"),
        ("statusReason", "read_only"),
        ("statusLabel", "read_only"),
        ("publicKey", "read_only"),
        ("revision", "read_only"),
        ("verified", "read_only"),
        ("secret", "read_only"),
        ("consecutiveFailures", "unknown_field"),
        ("plan", "unknown_field"),
    ] {
        // Beside something that may be changed, as it was shown and as something else.
        for value in [before.body["webhook"][key].clone(), json!(7)] {
            let mut body = json!({ "name": "other" });
            body[key] = value;
            let reply = world.patch(&id, token, &body).await;
            refused(&reply, 400, "INVALID_ARGUMENT");
            assert_eq!(fields(&reply), [key]);
            assert_eq!(reply.body["details"][0]["reason"], reason, "{key}");
        }
        assert_eq!(world.get(&path, token).await.body, before.body, "{key}");
    }
}

#[tokio::test]
async fn the_same_key_does_the_same_thing_once() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let create = async |key: &str, name: &str| {
        let body = webhook_body(name);
        world
            .write(
                Method::POST,
                "/v1/webhooks",
                token,
                &[("idempotency-key", key)],
                &body,
            )
            .await
    };
    let first = create("k1", "once").await;
    assert_eq!(first.status, StatusCode::OK, "{first:?}");
    let second = create("k1", "once").await;
    assert_eq!(second.body, first.body, "secret included");
    assert_eq!(second.headers["idempotent-replayed"], "true");
    assert!(!first.headers.contains_key("idempotent-replayed"));
    refused(&create("k1", "other").await, 422, "IDEMPOTENCY_KEY_REUSED");
    // A refusal is an answer too.
    refused(&create("k2", " ").await, 400, "INVALID_ARGUMENT");
    let again = create("k2", " ").await;
    refused(&again, 400, "INVALID_ARGUMENT");
    assert_eq!(again.headers["idempotent-replayed"], "true");

    let many = join_all((0..50).map(|_| create("k3", "parallel"))).await;
    let made: HashSet<_> = many
        .iter()
        .filter(|reply| reply.status == StatusCode::OK)
        .map(id_of)
        .collect();
    assert_eq!(made.len(), 1);
    for reply in many.iter().filter(|reply| reply.status != StatusCode::OK) {
        refused(reply, 409, "IDEMPOTENCY_IN_PROGRESS");
        assert_eq!(reply.headers["retry-after"], "1");
    }
    assert_eq!(world.get("/v1/webhooks", token).await.body["totalCount"], 2);

    let path = format!("/v1/webhooks/{}", id_of(&first));
    let update = async |name: &str| {
        let body = json!({ "name": name });
        world
            .write(
                Method::PATCH,
                &path,
                token,
                &[("idempotency-key", "k4")],
                &body,
            )
            .await
    };
    let renamed = update("two").await;
    assert_eq!(renamed.body["webhook"]["revision"], 2);
    assert_eq!(update("two").await.body, renamed.body);
    refused(&update("three").await, 422, "IDEMPOTENCY_KEY_REUSED");
    let too_long = "k".repeat(256);
    refused(&create(&too_long, "x").await, 400, "INVALID_ARGUMENT");
}

#[tokio::test]
async fn the_plans_limit_holds_under_parallel_creations() {
    let world = World::start().await;
    let free = world.workspace(Plan::Free).await;
    let body = webhook_body("x");
    let replies = join_all((0..20).map(|_| world.post(&free.token, &body))).await;
    let (made, over): (Vec<_>, Vec<_>) = replies
        .iter()
        .partition(|reply| reply.status == StatusCode::OK);
    assert_eq!(made.len(), 1);
    for reply in over {
        refused(reply, 429, "MAX_WEBHOOKS_REACHED");
        assert!(!reply.headers.contains_key("retry-after"));
        let details =
            json!([{ "limit": 1, "used": 1, "plan": "FREE", "key": "PLAN_LIMIT_KEY_WEBHOOKS" }]);
        assert_eq!(reply.body["details"], details);
    }
    world.operator.set_plan(free.id, Plan::Pro).await.unwrap();
    assert_eq!(world.post(&free.token, &body).await.status, StatusCode::OK);
}

#[tokio::test]
async fn pages_are_complete_and_their_tokens_bound() {
    let world = World::start().await;
    let here = world.workspace(Plan::Enterprise).await;
    let there = world.workspace(Plan::Enterprise).await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(world.webhook(&here.token).await.to_string());
        world.webhook(&there.token).await;
    }
    let mut seen: Vec<String> = Vec::new();
    let mut token = String::new();
    loop {
        let page = world
            .get(
                &format!("/v1/webhooks?pageSize=2&pageToken={token}"),
                &here.token,
            )
            .await;
        assert_eq!(page.body["totalCount"], 5);
        let rows = page.body["webhooks"].as_array().unwrap();
        assert!(!rows.is_empty(), "no token leads to an empty page");
        seen.extend(
            rows.iter()
                .map(|row| row["id"].as_str().unwrap().to_owned()),
        );
        match page.body.get("nextPageToken").and_then(Value::as_str) {
            Some(next) => token = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(seen, made, "in the order of creation, each once");

    let elsewhere = world
        .get(&format!("/v1/webhooks?pageToken={token}"), &there.token)
        .await;
    refused(&elsewhere, 400, "INVALID_PAGE_TOKEN");
    let filtered = format!("/v1/webhooks?status=WEBHOOK_STATUS_ACTIVE&pageToken={token}");
    refused(
        &world.get(&filtered, &here.token).await,
        400,
        "INVALID_PAGE_TOKEN",
    );
    let alias = world
        .get(&format!("/v1/webhooks?cursor={token}"), &here.token)
        .await;
    assert_eq!(alias.body["webhooks"].as_array().unwrap().len(), 1);

    world
        .patch(
            &made[1],
            &here.token,
            &json!({ "status": "WEBHOOK_STATUS_DISABLED" }),
        )
        .await;
    let off = world
        .get("/v1/webhooks?status=WEBHOOK_STATUS_DISABLED", &here.token)
        .await;
    assert_eq!(
        (&off.body["totalCount"], &off.body["webhooks"][0]["id"]),
        (&json!(1), &json!(made[1]))
    );
}

#[tokio::test]
async fn another_workspaces_ids_do_not_exist() {
    let world = World::start().await;
    let owner = world.workspace(Plan::Enterprise).await;
    let stranger = world.workspace(Plan::Enterprise).await;
    let id = world.webhook(&owner.token).await;
    for id in [
        id.to_string(),
        Uuid::new_v4().to_string(),
        "no-id".to_owned(),
        id.simple().to_string(),
    ] {
        let path = format!("/v1/webhooks/{id}");
        let replies = [
            world.get(&path, &stranger.token).await,
            world.delete(&path, &stranger.token).await,
            world
                .patch(&id, &stranger.token, &json!({ "name": "mine" }))
                .await,
            world
                .get(&format!("{path}/deliveries"), &stranger.token)
                .await,
        ];
        for reply in &replies {
            refused(reply, 404, "WEBHOOK_NOT_FOUND");
            assert_eq!(reply.body, replies[0].body);
        }
    }
    let untouched = world.get(&format!("/v1/webhooks/{id}"), &owner.token).await;
    assert_eq!(untouched.body["webhook"]["revision"], 1);
}

#[tokio::test]
async fn a_token_that_calls_too_often_waits() {
    let world = World::with(&[("WEBHOOKS_RATE_LIMIT", "3"), ("WEBHOOKS_RATE_WINDOW", "1h")]).await;
    let workspace = world.workspace(Plan::Enterprise).await;
    for left in ["2", "1", "0"] {
        let reply = world.get("/v1/webhooks", &workspace.token).await;
        assert_eq!(reply.status, StatusCode::OK);
        assert_eq!(reply.headers["ratelimit-remaining"], left);
        assert_eq!(reply.headers["ratelimit-policy"], "\"default\";q=3;w=3600");
    }
    let reply = world.get("/v1/webhooks", &workspace.token).await;
    refused(&reply, 429, "RATE_LIMITED");
    assert!(reply.headers.contains_key("retry-after"));
    let other = world.token(workspace.id, &[]).await;
    assert_eq!(
        world.get("/v1/webhooks", &other).await.status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn a_revoked_token_ends() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let id = workspace.token["lbk_test_".len()..][..12].to_owned();
    // Called before, so the process remembers it.
    let before = world.get("/v1/webhooks", &workspace.token).await;
    assert_eq!(before.status, 200);
    let revoked = Instant::now();
    assert!(
        world
            .operator
            .revoke_token(workspace.id, &id)
            .await
            .unwrap()
    );
    // Revoked past the API, as another process would: remembered for five seconds, and gone for good.
    let ended = wait_until("the token's end", LIMIT, async || {
        let reply = world.get("/v1/webhooks", &workspace.token).await;
        match reply.status.as_u16() {
            200 => Err(reply),
            _ => Ok(reply),
        }
    });
    refused(&ended.await.unwrap(), 401, "UNAUTHENTICATED");
    let took = revoked.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
    // Revoked through the API: at once.
    let other = world.token(workspace.id, &[]).await;
    assert_eq!(world.get("/v1/webhooks", &other).await.status, 200);
    let path = format!("/v1/workspace-tokens/{}", &other["lbk_test_".len()..][..12]);
    assert_eq!(world.delete(&path, &other).await.status, 200);
    refused(
        &world.get("/v1/webhooks", &other).await,
        401,
        "UNAUTHENTICATED",
    );
}
