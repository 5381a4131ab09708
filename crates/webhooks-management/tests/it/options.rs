//! The options of a webhook over REST: set, shown, in the read model, and never a secret of them
//! where it does not belong.

use prost::Message as _;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;
use webhooks_domain::{
    sealing::{Binding, Keyring, Purpose, Sealed},
    signing::{
        AsymmetricKey, MAX_HEADER_BYTES, SigningKey, keys_at, sign, sign_with, verify, verify_v1a,
    },
    webhook::{Plan, StatusReason, WebhookStatus},
};
use webhooks_proto::internal::v1 as wire;
use webhooks_store::{Actor, WebhookPatch};

use crate::support::{ENCRYPTION_KEYS, LIMIT, Reply, World, id_of, now, webhook_body};

/// The fields of a refusal, with their reasons.
fn refused(reply: &Reply, status: u16, code_type: &str) -> Vec<(String, String)> {
    assert_eq!(reply.status.as_u16(), status, "{reply:?}");
    assert_eq!(reply.body["codeType"], code_type, "{reply:?}");
    let details = reply.body["details"].as_array().unwrap();
    details
        .iter()
        .map(|one| {
            let text = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
            (text("field"), text("reason"))
        })
        .collect()
}

fn path(id: Uuid) -> String {
    format!("/v1/webhooks/{id}")
}

/// A webhook as the data plane reads it.
async fn configured(world: &World, workspace: Uuid, id: Uuid) -> wire::WebhookConfig {
    let bucket = world.bus.jetstream().get_key_value("CONFIG").await.unwrap();
    let entry = bucket.get(format!("w.{workspace}.{id}")).await.unwrap();
    wire::WebhookConfig::decode(entry.unwrap()).unwrap()
}

fn open(config: &wire::WebhookConfig, purpose: Purpose, secret: &wire::SealedSecret) -> Vec<u8> {
    let binding = Binding {
        workspace: Uuid::from_slice(&config.workspace_id).unwrap(),
        webhook: Uuid::from_slice(&config.id).unwrap(),
        version: secret.version,
    };
    let sealed = Sealed {
        key_id: secret.key_id.clone(),
        nonce: secret.nonce.as_ref().try_into().unwrap(),
        ciphertext: secret.ciphertext.to_vec(),
    };
    let keyring = Keyring::parse(ENCRYPTION_KEYS).unwrap();
    keyring.open_for(purpose, binding, &sealed).unwrap()
}

/// The keys that sign at `at`, as a dispatcher takes them from the read model.
fn signing_keys(config: &wire::WebhookConfig, at: i64) -> Vec<SigningKey> {
    config
        .secrets
        .iter()
        .filter(|secret| secret.expires_at == 0 || at < secret.expires_at)
        .map(|secret| SigningKey::from_bytes(open(config, Purpose::SigningKey, secret)).unwrap())
        .collect()
}

fn full_body() -> Value {
    json!({
        "name": "CRM",
        "endpointUrl": "https://example.com/hook",
        "description": "orders\nof the north",
        "labels": { "team": "blue", "cost-centre": "7" },
        "eventActions": ["EVENT_ACTION_FORM_SUBMIT", "CLIENT_REDIRECT", "FORM_SUBMIT"],
        "status": "WEBHOOK_STATUS_PAUSED",
        "retryPolicy": { "maxAttempts": 5, "baseSeconds": 1.5, "factor": 3 },
        "rateLimit": { "count": 600, "periodSeconds": 60 },
        "maxInFlight": 2,
        "ordering": "LINK",
        "headers": [{ "name": "X-Team", "value": "canary-header-value" }],
        "auth": { "type": "apiKey", "in": "query", "name": "key", "value": "canary-key" },
        "signatures": ["v1", "v1a"],
    })
}

#[tokio::test]
async fn options_are_shown_masked_and_reach_the_read_model() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let created = world.post(token, &full_body()).await;
    assert_eq!(created.status, StatusCode::OK, "{created:?}");
    let id = id_of(&created);
    let shown = world.get(&path(id), token).await.body["webhook"].clone();
    let expected = json!({
        "description": "orders\nof the north",
        "labels": { "team": "blue", "cost-centre": "7" },
        "eventActions": ["FORM_SUBMIT", "CLIENT_REDIRECT"],
        "status": "WEBHOOK_STATUS_PAUSED",
        "statusReason": "USER",
        "retryPolicy": {
            "maxAttempts": 5, "baseSeconds": 1.5, "factor": 3.0, "capSeconds": 3600.0,
            "jitter": 0.2, "maxAgeSeconds": 0.0,
        },
        "rateLimit": { "count": 600, "periodSeconds": 60, "burst": 10 },
        "maxInFlight": 2,
        "ordering": "LINK",
        "headers": [{ "name": "X-Team", "value": "••••" }],
        "auth": { "type": "apiKey", "in": "query", "name": "key", "value": "••••" },
        "signatures": ["v1", "v1a"],
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&shown[key], value, "{key}");
    }

    let config = configured(&world, workspace.id, id).await;
    assert_eq!(config.event_actions, ["FORM_SUBMIT", "CLIENT_REDIRECT"]);
    let retry = config.retry.unwrap();
    assert_eq!(
        (retry.max_attempts, retry.base_ms, retry.factor_milli),
        (5, 1_500, 3_000)
    );
    assert_eq!(config.rate.unwrap().burst, 10);
    assert_eq!(
        (config.max_in_flight, config.ordering()),
        (2, wire::Ordering::Link)
    );
    let extras = open(&config, Purpose::Extras, config.extras.as_ref().unwrap());
    let extras = wire::EndpointExtras::decode(extras.as_slice()).unwrap();
    assert_eq!(extras.headers[0].value, "canary-header-value");
    assert_eq!(
        (&*extras.query[0].name, &*extras.query[0].value),
        ("key", "canary-key")
    );
    let seed = open(&config, Purpose::Ed25519, config.ed25519.as_ref().unwrap());
    let signature = AsymmetricKey::from_seed(seed.try_into().unwrap()).sign("m", 1, b"{}");
    let public = shown["publicKey"].as_str().unwrap();
    assert!(verify_v1a(public, "m", 1, b"{}", &signature));

    let cleared = json!({
        "description": "", "labels": {}, "eventActions": [], "retryPolicy": null,
        "rateLimit": null, "maxInFlight": null, "ordering": "NONE", "headers": [], "auth": null,
        "signatures": ["v1"],
    });
    let bare = world.patch(&id.to_string(), token, &cleared).await;
    let bare = &bare.body["webhook"];
    assert_eq!(bare["retryPolicy"], json!({ "preset": "standard" }));
    for absent in [
        "description",
        "rateLimit",
        "maxInFlight",
        "auth",
        "publicKey",
    ] {
        assert!(bare.get(absent).is_none(), "{absent}");
    }
    let config = configured(&world, workspace.id, id).await;
    assert_eq!(
        (config.retry, config.rate, config.extras),
        (None, None, None)
    );
    assert_eq!((config.max_in_flight, config.ed25519), (0, None));
}

#[tokio::test]
async fn stored_credentials_do_not_follow_a_webhook_to_another_host() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let id = id_of(&world.post(token, &full_body()).await);
    let to = |url: &str| json!({ "endpointUrl": url });
    let thief = to("https://thief.example.com/hook");
    let reply = world.patch(&id.to_string(), token, &thief).await;
    let other_host = |field: &str| (field.to_owned(), "other_host".to_owned());
    assert_eq!(
        refused(&reply, 400, "INVALID_ARGUMENT"),
        [other_host("auth"), other_host("headers")]
    );
    assert!(
        reply
            .body
            .to_string()
            .contains("has to be given again for another host"),
        "{reply:?}"
    );
    let mut client = webhooks_proto::v1::webhook_service_client::WebhookServiceClient::new(
        world.channel().await,
    );
    let request = webhooks_proto::v1::UpdateWebhookRequest {
        id: id.to_string(),
        endpoint_url: Some("https://thief.example.com/hook".into()),
        ..webhooks_proto::v1::UpdateWebhookRequest::default()
    };
    let request = crate::support::with_token(token, request);
    let status = client.update_webhook(request).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    let details = tonic_types::StatusExt::get_error_details(&status);
    let violations = &details.bad_request().unwrap().field_violations;
    let fields: Vec<_> = violations.iter().map(|one| one.field.as_str()).collect();
    assert_eq!(fields, ["auth", "headers"]);
    let config = configured(&world, workspace.id, id).await;
    assert_eq!(config.endpoint_url, "https://example.com/hook");

    // Another path of the same host, or the same values again, or none: all of that goes.
    let path = world
        .patch(&id.to_string(), token, &to("https://example.com/other"))
        .await;
    assert_eq!(path.status, StatusCode::OK, "{path:?}");
    let mut again = thief.clone();
    for member in ["headers", "auth"] {
        again[member] = full_body()[member].clone();
    }
    let again = world.patch(&id.to_string(), token, &again).await;
    assert_eq!(again.status, StatusCode::OK, "{again:?}");
    let none = json!({ "endpointUrl": "https://example.com/", "headers": [], "auth": null });
    let none = world.patch(&id.to_string(), token, &none).await;
    assert_eq!(none.status, StatusCode::OK, "{none:?}");
    // A webhook that has a signing secret only goes wherever its owner wants it to go.
    let free = world.patch(&id.to_string(), token, &thief).await;
    assert_eq!(free.status, StatusCode::OK, "{free:?}");
}

#[tokio::test]
async fn a_preview_shows_the_key_where_it_goes_and_a_url_is_judged_with_it() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let mut body = full_body();
    body["endpointUrl"] = json!("https://example.com/hook?a=1");
    let id = id_of(&world.post(token, &body).await);
    let preview = format!("{}/preview", path(id));
    let shown = world.send(Method::POST, &preview, token, &[], None).await;
    let request = &shown.body["request"];
    assert_eq!(request["url"], "https://example.com/hook?a=1&key=••••");
    let curl = request["curl"].as_str().unwrap();
    assert!(
        curl.contains("'https://example.com/hook?a=1&key=••••'"),
        "{curl}"
    );
    assert!(!curl.contains("canary"), "{curl}");

    body["endpointUrl"] = json!(format!("https://example.com/{}", "x".repeat(2_020)));
    let long = world.post(token, &body).await;
    assert_eq!(
        refused(&long, 400, "INVALID_ENDPOINT_URL"),
        [("endpointUrl".to_owned(), "too_long".to_owned())]
    );
}

#[tokio::test]
async fn a_webhook_without_options_has_the_defaults() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Free).await;
    let created = world.post(&workspace.token, &webhook_body("plain")).await;
    let shown = &created.body["webhook"];
    assert_eq!(shown["retryPolicy"], json!({ "preset": "standard" }));
    assert_eq!(
        (&shown["ordering"], &shown["signatures"]),
        (&json!("NONE"), &json!(["v1"]))
    );
    assert_eq!(
        (&shown["labels"], &shown["eventActions"]),
        (&json!({}), &json!([]))
    );
    assert_eq!(shown["headers"], json!([]));
    let config = configured(&world, workspace.id, id_of(&created)).await;
    assert_eq!(
        (config.retry, config.rate, config.extras),
        (None, None, None)
    );
}

#[tokio::test]
async fn every_bad_option_is_named_at_once() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Free).await;
    let token = workspace.token.as_str();
    let bad = json!({
        "name": "x",
        "endpointUrl": "https://example.com/",
        "description": "x".repeat(1_001),
        "labels": { "-": "x" },
        "eventActions": ["nope"],
        "retryPolicy": { "preset": "resilient" },
        "rateLimit": { "count": 1, "periodSeconds": 5 },
        "maxInFlight": 65,
        "ordering": "RANDOM",
        "headers": [{ "name": "Host", "value": "x" }, { "name": "X-A" }],
        "auth": { "type": "bearer", "token": "a b" },
        "signatures": ["v9"],
        "secret": "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    });
    let said = refused(&world.post(token, &bad).await, 400, "INVALID_ARGUMENT");
    let expected = [
        ("description", "too_long"),
        ("labels.-", "label_name_invalid"),
        ("eventActions[0]", "not_an_action"),
        ("retryPolicy.maxAttempts", "plan_limit"),
        ("rateLimit.periodSeconds", "out_of_bounds"),
        ("maxInFlight", "out_of_bounds"),
        ("ordering", "unknown_ordering"),
        ("auth.token", "not_allowed"),
        ("headers[0].name", "header_name_reserved"),
        ("headers[1].value", "missing"),
        ("secret", "weak_or_malformed"),
        ("signatures[0]", "unknown_signature"),
        ("signatures", "unknown_signature"),
    ];
    let owned = |(field, reason): (&str, &str)| (field.to_owned(), reason.to_owned());
    assert_eq!(said, expected.map(owned));
    assert_eq!(world.get("/v1/webhooks", token).await.body["totalCount"], 0);

    let patient = |attempts: u32| {
        let mut body = webhook_body("x");
        body["retryPolicy"] = json!({ "maxAttempts": attempts });
        body
    };
    let three = world.post(token, &patient(3)).await;
    assert_eq!(three.status, StatusCode::OK, "{three:?}");
    // A downgrade keeps what exists, and changes that do not touch it.
    let pro = world.workspace(Plan::Pro).await;
    let eleven = world.post(&pro.token, &patient(11)).await;
    refused(&eleven, 400, "INVALID_ARGUMENT");
    let ten = world.post(&pro.token, &patient(10)).await;
    let id = id_of(&ten).to_string();
    world.operator.set_plan(pro.id, Plan::Free).await.unwrap();
    let renamed = world.patch(&id, &pro.token, &json!({ "name": "y" })).await;
    assert_eq!(renamed.body["webhook"]["retryPolicy"]["maxAttempts"], 10);
    let again = json!({ "retryPolicy": { "maxAttempts": 10 } });
    refused(
        &world.patch(&id, &pro.token, &again).await,
        400,
        "INVALID_ARGUMENT",
    );
}

#[tokio::test]
async fn a_secret_value_stays_until_it_is_replaced_and_is_never_seen() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let mut body = webhook_body("x");
    body["headers"] = json!([{ "name": "X-Team", "value": "canary-header-value" }]);
    body["auth"] = json!({ "type": "basic", "username": "ann", "password": "canary-password" });
    let created = world.post(token, &body).await;
    let id = id_of(&created);
    let sent = async || {
        let config = configured(&world, workspace.id, id).await;
        let extras = open(&config, Purpose::Extras, config.extras.as_ref().unwrap());
        let extras = wire::EndpointExtras::decode(extras.as_slice()).unwrap();
        let pairs = extras.headers.into_iter().map(|one| (one.name, one.value));
        pairs.collect::<Vec<_>>()
    };
    let before = sent().await;

    // Written back as read, nothing changes, not even the revision.
    let shown = &created.body["webhook"];
    let echo = json!({ "headers": shown["headers"], "auth": shown["auth"] });
    let same = world.patch(&id.to_string(), token, &echo).await;
    assert_eq!(same.body["webhook"]["revision"], 1, "{same:?}");

    let more = json!({ "headers": [{ "name": "X-Team" }, { "name": "X-New", "value": "v" }] });
    let changed = world.patch(&id.to_string(), token, &more).await;
    assert_eq!(changed.status, StatusCode::OK, "{changed:?}");
    let after = sent().await;
    assert_eq!((&after[0], &after[2]), (&before[0], &before[1]));
    assert_eq!(after[1], ("X-New".to_owned(), "v".to_owned()));

    let mut seen = vec![
        changed.body.to_string(),
        created.body["webhook"]["auth"].to_string(),
    ];
    for url in ["/v1/webhooks", "/v1/audit-log", &path(id)] {
        seen.push(world.get(url, token).await.body.to_string());
    }
    let tables = "SELECT concat_ws(' ', w::text, s::text, a::text) FROM webhooks w, webhook_secrets s, audit_log a";
    let dump = world.sql(tables).await;
    assert!(dump.contains("X-Team"), "{dump}");
    seen.push(dump);
    let config = configured(&world, workspace.id, id).await.encode_to_vec();
    seen.push(String::from_utf8_lossy(&config).into_owned());
    for text in seen {
        assert!(!text.contains("canary"), "{text}");
    }
}

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
async fn during_an_overlap_both_secrets_verify_and_after_a_revocation_only_the_new_one() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let created = world.post(token, &webhook_body("x")).await;
    let id = id_of(&created);
    let first = SigningKey::parse(created.body["webhook"]["secret"].as_str().unwrap()).unwrap();
    let rotate_path = format!("{}/secret/rotate", path(id));
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

    let own = "whsec_llO//GAFkYaZqXnBO/YM78G0NjgbWVzX";
    let third = rotate("r2", json!({ "secret": own, "overlapSeconds": 3600 })).await;
    assert_eq!(third.body["secret"], own);
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
    let own_again = json!({ "secret": own, "overlapSeconds": 3600 });
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

/// The `v1a` keys that sign at `at`, as a dispatcher takes them from the read model.
fn key_pairs(config: &wire::WebhookConfig, at: i64) -> Vec<AsymmetricKey> {
    let all = config.ed25519.iter().chain(&config.old_ed25519);
    let open = |secret| {
        let seed = open(config, Purpose::Ed25519, secret);
        AsymmetricKey::from_seed(seed.try_into().unwrap())
    };
    let all: Vec<_> = all
        .map(|secret| (open(secret), secret.expires_at))
        .collect();
    keys_at(&all, at)
}

#[tokio::test]
async fn during_an_overlap_both_public_keys_verify_and_are_listed_and_afterwards_only_the_new_one()
{
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let mut wish = webhook_body("signed twice");
    wish["signatures"] = json!(["v1", "v1a"]);
    let created = world.post(token, &wish).await;
    let id = id_of(&created);
    let first = created.body["webhook"]["publicKey"].clone();
    let rotate_path = format!("{}/secret/rotate", path(id));
    let rotate = async |headers: &[(&str, &str)], mut body: Value| {
        body["key"] = json!("PUBLIC_KEY");
        world
            .write(Method::POST, &rotate_path, token, headers, &body)
            .await
    };
    let document = format!("/.well-known/webhook-public-keys/{id}");
    let published = async || {
        let shown = world.get(&document, "").await;
        assert_eq!(shown.status, StatusCode::OK, "{shown:?}");
        let keys = shown.body["keys"].as_array().unwrap().clone();
        let names: Vec<_> = keys.iter().map(|key| key["key"].clone()).collect();
        (names, keys)
    };
    let header = async |at: i64| {
        let config = configured(&world, workspace.id, id).await;
        let (keys, pairs) = (signing_keys(&config, at), key_pairs(&config, at));
        sign_with(&keys, &pairs, "msg_1", 7, b"{}")
    };
    let verifies = |public: &Value, header: &str| {
        verify_v1a(public.as_str().unwrap(), "msg_1", 7, b"{}", header)
    };

    let stale = rotate(&[("if-match", "\"7\"")], json!({})).await;
    refused(&stale, 412, "PRECONDITION_FAILED");
    let once = [("if-match", "\"1\""), ("idempotency-key", "p1")];
    let rotated = rotate(&once, json!({})).await;
    assert_eq!(rotated.status, StatusCode::OK, "{rotated:?}");
    assert_eq!(rotated.headers["etag"], "\"2\"");
    let second = rotated.body["publicKey"].clone();
    assert_ne!(first, second);
    assert_eq!(rotated.body["webhook"]["publicKey"], second);
    assert!(rotated.body.get("secret").is_none(), "{rotated:?}");
    let again = rotate(&once, json!({})).await;
    assert_eq!(again.body, rotated.body, "once");
    assert_eq!(again.headers["idempotent-replayed"], "true");

    // A day, unless somebody says otherwise; the secret is what it was.
    let (day, minute) = (24 * 3_600 * 1_000_000, 60 * 1_000_000);
    let during = header(now() + day - minute).await;
    let tokens: Vec<&str> = during.split(' ').collect();
    assert_eq!(tokens.len(), 3, "{during}");
    assert!(tokens[0].starts_with("v1,"), "{during}");
    assert!(verifies(&second, tokens[1]), "the newest first");
    assert!(verifies(&first, tokens[2]));
    let after = header(now() + day).await;
    assert!(verifies(&second, &after) && !verifies(&first, &after));
    let (names, keys) = published().await;
    assert_eq!(names, [second.clone(), first.clone()]);
    assert!(keys[0].get("expiresAt").is_none() && keys[1]["expiresAt"].is_string());
    assert!(keys.iter().all(|key| key["createdAt"].is_string()));
    let listed = world.get(&format!("{}/secrets", path(id)), token).await;
    let listed = listed.body["secrets"].as_array().unwrap().len();
    assert_eq!(listed, 1, "of secrets");

    // A preview is signed with both, too.
    let preview = format!("{}/preview", path(id));
    let shown = world.send(Method::POST, &preview, token, &[], None).await;
    let curl = shown.body["request"]["curl"].as_str().unwrap();
    assert_eq!(curl.matches(" v1a,").count(), 2, "{curl}");

    let third = rotate(
        &[("idempotency-key", "p2")],
        json!({ "overlapSeconds": 3_600 }),
    )
    .await;
    let third = third.body["publicKey"].clone();
    let three = [third.clone(), second.clone(), first.clone()];
    assert_eq!(published().await.0, three);
    let soon = header(now() + 3_600_000_000).await;
    assert_eq!(soon.matches("v1a,").count(), 1, "never lengthened: {soon}");
    let revoked = rotate(&[], json!({ "overlapSeconds": 0 })).await;
    let fourth = revoked.body["publicKey"].clone();
    assert_eq!(published().await.0, std::slice::from_ref(&fourth));
    let config = configured(&world, workspace.id, id).await;
    assert_eq!(config.old_ed25519.len(), 0, "the others are gone");
    let now_only = header(now()).await;
    assert!(verifies(&fourth, &now_only) && !verifies(&third, &now_only));
    refused(&rotate(&once, json!({})).await, 410, "SECRET_GONE");

    // The end of an overlap is a matter of time, and then of the sweep.
    rotate(&[], json!({ "overlapSeconds": 1 })).await;
    let config = configured(&world, workspace.id, id).await;
    assert_eq!(config.old_ed25519.len(), 1);
    let swept = world.store.drop_expired_secrets(now() + 2_000_000, 10);
    assert_eq!(swept.await.unwrap(), 1);
    webhooks_devstack::wait_until("the read model", LIMIT, async || {
        let config = configured(&world, workspace.id, id).await;
        match config.old_ed25519.len() {
            0 => Ok(()),
            more => Err(more),
        }
    })
    .await
    .unwrap();
    assert_eq!(published().await.0.len(), 1);
    let seeds = "SELECT count(*) FROM audit_log WHERE action = 'webhook.public_key_rotate'
        AND concat(before, after) !~* 'nonce|cipher|seed'";
    assert_eq!(world.sql(seeds).await.trim(), "4");
}

#[tokio::test]
async fn a_public_key_is_rotated_only_where_there_is_one_and_by_whom_it_belongs_to() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let id = world.webhook(token).await;
    let rotate_path = format!("{}/secret/rotate", path(id));
    let rotate = async |token: &str, body: Value| {
        world
            .write(Method::POST, &rotate_path, token, &[], &body)
            .await
    };
    let field = |field: &str, reason: &str| (field.to_owned(), reason.to_owned());
    let none = rotate(token, json!({ "key": "PUBLIC_KEY" })).await;
    let said = refused(&none, 400, "INVALID_ARGUMENT");
    assert_eq!(said, [field("key", "no_v1a")]);
    let both = json!({ "signatures": ["v1", "v1a"] });
    world.patch(&id.to_string(), token, &both).await;
    let own = "whsec_llO//GAFkYaZqXnBO/YM78G0NjgbWVzX";
    for (body, expected) in [
        (
            json!({ "key": "PUBLIC_KEY", "secret": own }),
            field("secret", "ambiguous"),
        ),
        (json!({ "key": "whpk" }), field("key", "unknown_value")),
        (json!({ "key": 1 }), field("key", "wrong_type")),
        (
            json!({ "key": "PUBLIC_KEY", "overlapSeconds": 604_801 }),
            field("overlapSeconds", "out_of_bounds"),
        ),
    ] {
        let reply = rotate(token, body).await;
        assert_eq!(refused(&reply, 400, "INVALID_ARGUMENT"), [expected]);
    }
    let wish = json!({ "key": "PUBLIC_KEY", "overlapSeconds": 604_800 });
    let reader = world.token(workspace.id, &["webhooks:read"]).await;
    let denied = rotate(&reader, wish.clone()).await;
    refused(&denied, 403, "MISSING_SCOPE");
    let stranger = world.workspace(Plan::Enterprise).await;
    let foreign = rotate(&stranger.token, wish.clone()).await;
    refused(&foreign, 404, "WEBHOOK_NOT_FOUND");
    let shown = world.get(&path(id), token).await;
    assert_eq!(shown.body["webhook"]["revision"], 2, "nothing was rotated");

    // Ten old ones at most, whoever rotates as often as he likes.
    for _ in 0..12 {
        let rotated = rotate(token, wish.clone()).await;
        assert_eq!(rotated.status, StatusCode::OK, "{rotated:?}");
    }
    let document = format!("/.well-known/webhook-public-keys/{id}");
    let keys = world.get(&document, "").await.body["keys"].clone();
    assert_eq!(keys.as_array().unwrap().len(), 11);
    let config = configured(&world, workspace.id, id).await;
    assert_eq!(config.old_ed25519.len(), 10);
    let pairs = key_pairs(&config, now());
    let header = sign_with(&signing_keys(&config, now()), &pairs, "msg_1", 7, b"{}");
    assert!(header.len() <= MAX_HEADER_BYTES, "{}", header.len());
}

/// A rotation is about the secret, unless it says otherwise: `v1a` goes on with its key, which verifies
/// beside both secrets. Switching `v1a` off and on makes another key without an overlap.
#[tokio::test]
async fn a_rotation_of_the_secret_leaves_the_public_key_and_its_document_as_they_are() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let mut wish = webhook_body("signed twice");
    wish["signatures"] = json!(["v1", "v1a"]);
    let created = world.post(token, &wish).await;
    let id = id_of(&created);
    let document = format!("/.well-known/webhook-public-keys/{id}");
    let published = async || {
        let shown = world.get(&document, token).await;
        assert_eq!(shown.status, StatusCode::OK, "{shown:?}");
        let keys = shown.body["keys"].as_array().unwrap().clone();
        assert_eq!(keys.len(), 1, "{shown:?}");
        keys[0]["key"].as_str().unwrap().to_owned()
    };
    let signs = async || {
        let config = configured(&world, workspace.id, id).await;
        let seed = open(&config, Purpose::Ed25519, config.ed25519.as_ref().unwrap());
        let key = AsymmetricKey::from_seed(seed.try_into().unwrap());
        let mut header = sign(&signing_keys(&config, now()), "msg_1", 7, b"{}");
        header.push(' ');
        header.push_str(&key.sign("msg_1", 7, b"{}"));
        header
    };
    let before = published().await;
    assert_eq!(created.body["webhook"]["publicKey"], before);
    let rotate = format!("{}/secret/rotate", path(id));
    for overlap in [3_600, 0] {
        let body = json!({ "overlapSeconds": overlap });
        let rotated = world.write(Method::POST, &rotate, token, &[], &body).await;
        assert_eq!(rotated.status, StatusCode::OK, "{rotated:?}");
        assert_eq!(rotated.body["webhook"]["publicKey"], before);
        assert_eq!(published().await, before, "the document, {overlap}");
        let header = signs().await;
        let secrets = if overlap > 0 { 2 } else { 1 };
        assert_eq!(header.matches("v1,").count(), secrets, "{header}");
        assert_eq!(header.matches("v1a,").count(), 1, "{header}");
        assert!(verify_v1a(&before, "msg_1", 7, b"{}", &header), "{header}");
    }

    for signatures in [json!(["v1"]), json!(["v1", "v1a"])] {
        let wish = json!({ "signatures": signatures });
        let changed = world.patch(&id.to_string(), token, &wish).await;
        assert_eq!(changed.status, StatusCode::OK, "{changed:?}");
    }
    let after = published().await;
    assert_ne!(after, before);
    let header = signs().await;
    assert!(verify_v1a(&after, "msg_1", 7, b"{}", &header));
    assert!(!verify_v1a(&before, "msg_1", 7, b"{}", &header));
}

#[tokio::test]
async fn a_callers_own_secret_is_taken_at_creation_and_ended_ones_leave_the_read_model() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let own = "whsec_llO//GAFkYaZqXnBO/YM78G0NjgbWVzX";
    let mut body = webhook_body("x");
    body["secret"] = json!(own);
    let created = world.post(token, &body).await;
    assert_eq!(created.body["webhook"]["secret"], own);
    let id = id_of(&created);
    let config = configured(&world, workspace.id, id).await;
    assert_eq!(
        signing_keys(&config, now()),
        [SigningKey::parse(own).unwrap()]
    );

    let rotate = format!("{}/secret/rotate", path(id));
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
