//! Key pairs: published, rotated with an overlap of their own, left alone by other rotations.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use webhooks_domain::{
    sealing::Purpose,
    signing::{AsymmetricKey, MAX_HEADER_BYTES, keys_at, sign, sign_with, verify_v1a},
    webhook::Plan,
};
use webhooks_proto::internal::v1 as wire;

use super::{OWN_SECRET, configured, open, path, rotation, signing_keys};
use crate::support::{LIMIT, World, id_of, now, refused, signed_body};

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
    let created = world.post(token, &signed_body("signed twice")).await;
    let id = id_of(&created);
    let first = created.body["webhook"]["publicKey"].clone();
    let rotate_path = rotation(id);
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
    let rotate_path = rotation(id);
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
    for (body, expected) in [
        (
            json!({ "key": "PUBLIC_KEY", "secret": OWN_SECRET }),
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
    let created = world.post(token, &signed_body("signed twice")).await;
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
    let rotate = rotation(id);
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
