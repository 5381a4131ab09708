//! Signing secrets: given, rotated with an overlap, revoked.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use webhooks_domain::{
    signing::{SigningKey, sign, verify},
    webhook::Plan,
};

use super::{OWN_SECRET, configured, path, rotation, signing_keys};
use crate::support::{LIMIT, World, id_of, now, refused, webhook_body};

#[tokio::test]
async fn during_an_overlap_both_secrets_verify_and_after_a_revocation_only_the_new_one() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let created = world.post(token, &webhook_body("x")).await;
    let id = id_of(&created);
    let first = SigningKey::parse(created.body["webhook"]["secret"].as_str().unwrap()).unwrap();
    let rotate_path = rotation(id);
    let rotate = async |key: &str, body: Value| {
        let headers = [("idempotency-key", key)];
        world
            .write(Method::POST, &rotate_path, token, &headers, &body)
            .await
    };
    let rotated = rotate("r1", json!({})).await;
    assert_eq!(rotated.status, StatusCode::OK, "{rotated:?}");
    assert_eq!(rotated.headers["etag"], "\"2\"");
    assert!(rotated.body["webhook"].get("secret").is_none());
    let second = SigningKey::parse(rotated.body["secret"].as_str().unwrap()).unwrap();
    assert_ne!(first, second);
    let again = rotate("r1", json!({})).await;
    assert_eq!(again.body, rotated.body, "once");
    assert_eq!(again.headers["idempotent-replayed"], "true");

    let config = configured(&world, workspace.id, id).await;
    let keys = signing_keys(&config, now());
    assert_eq!(
        keys,
        [second.clone(), first.clone()],
        "the newest signs first"
    );
    let header = sign(&keys, "msg_1", 7, b"{}");
    assert!(verify(&first, "msg_1", 7, b"{}", &header));
    assert!(verify(&second, "msg_1", 7, b"{}", &header));
    let day = 24 * 3_600 * 1_000_000;
    assert_eq!(
        signing_keys(&config, now() + day).as_slice(),
        std::slice::from_ref(&second),
        "a day later"
    );

    let third = rotate(
        "r2",
        json!({ "secret": OWN_SECRET, "overlapSeconds": 3600 }),
    )
    .await;
    assert_eq!(third.body["secret"], OWN_SECRET);
    let secrets = format!("{}/secrets", path(id));
    let reader = world.token(workspace.id, &["webhooks:read"]).await;
    let listed = world.get(&secrets, &reader).await;
    let rows = listed.body["secrets"].as_array().unwrap();
    let versions: Vec<_> = rows
        .iter()
        .map(|row| row["version"].as_u64().unwrap())
        .collect();
    assert_eq!(versions, [3, 2, 1]);
    assert!(
        rows.iter()
            .all(|row| row["active"] == true && row["createdAt"].is_string())
    );
    assert!(rows[0].get("expiresAt").is_none() && rows[1]["expiresAt"].is_string());
    assert_eq!(rows[0]["masked"], "whsec_••••WVzX");

    let revoked = rotate("r3", json!({ "overlapSeconds": 0 })).await;
    let fourth = SigningKey::parse(revoked.body["secret"].as_str().unwrap()).unwrap();
    let config = configured(&world, workspace.id, id).await;
    assert_eq!(signing_keys(&config, now()), [fourth]);
    assert_eq!(config.secrets.len(), 1, "the others are gone");
    // A repeated call shows what it made, unless that signs nothing any more.
    let own_again = json!({ "secret": OWN_SECRET, "overlapSeconds": 3600 });
    for (key, body) in [("r1", json!({})), ("r2", own_again)] {
        let gone = rotate(key, body).await;
        refused(&gone, 410, "SECRET_GONE");
        assert!(!gone.body.to_string().contains("whsec_"), "{gone:?}");
    }
    let again = rotate("r3", json!({ "overlapSeconds": 0 })).await;
    assert_eq!(again.body, revoked.body);

    let written = json!({});
    let denied = world
        .write(Method::POST, &rotate_path, &reader, &[], &written)
        .await;
    refused(&denied, 403, "MISSING_SCOPE");
    for (body, field) in [
        (json!({ "overlapSeconds": 604_801 }), "overlapSeconds"),
        (json!({ "overlapSeconds": "1" }), "overlapSeconds"),
        (json!({ "secret": "whsec_AAAA" }), "secret"),
        (json!({ "secret": "hunter2" }), "secret"),
        (
            json!({ "secret": "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD" }),
            "secret",
        ),
        (json!({ "name": "x" }), "name"),
    ] {
        let reply = world
            .write(Method::POST, &rotate_path, token, &[], &body)
            .await;
        assert_eq!(refused(&reply, 400, "INVALID_ARGUMENT")[0].0, field);
        assert!(!reply.body.to_string().contains("hunter2"));
    }
    let stranger = world.workspace(Plan::Enterprise).await;
    refused(
        &world.get(&secrets, &stranger.token).await,
        404,
        "WEBHOOK_NOT_FOUND",
    );
    let foreign = world.write(Method::POST, &rotate_path, &stranger.token, &[], &written);
    refused(&foreign.await, 404, "WEBHOOK_NOT_FOUND");
    assert_eq!(
        world.get(&path(id), token).await.body["webhook"]["revision"],
        4
    );
}

#[tokio::test]
async fn a_callers_own_secret_is_taken_at_creation_and_ended_ones_leave_the_read_model() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let mut body = webhook_body("x");
    body["secret"] = json!(OWN_SECRET);
    let created = world.post(token, &body).await;
    assert_eq!(created.body["webhook"]["secret"], OWN_SECRET);
    let id = id_of(&created);
    let config = configured(&world, workspace.id, id).await;
    assert_eq!(
        signing_keys(&config, now()),
        [SigningKey::parse(OWN_SECRET).unwrap()]
    );

    let rotate = rotation(id);
    let body = json!({ "overlapSeconds": 1 });
    world.write(Method::POST, &rotate, token, &[], &body).await;
    assert_eq!(configured(&world, workspace.id, id).await.secrets.len(), 2);
    let swept = world
        .store
        .drop_expired_secrets(now() + 2_000_000, 10)
        .await;
    assert_eq!(swept.unwrap(), 1);
    webhooks_devstack::wait_until("the read model", LIMIT, async || {
        match configured(&world, workspace.id, id).await.secrets.len() {
            1 => Ok(()),
            more => Err(more),
        }
    })
    .await
    .unwrap();
}
