//! What is set is shown, with defaults for the rest, and what is wrong is named.

use prost::Message as _;
use reqwest::{Method, StatusCode};
use serde_json::json;
use webhooks_domain::{
    sealing::Purpose,
    signing::{AsymmetricKey, verify_v1a},
    webhook::Plan,
};
use webhooks_proto::internal::v1 as wire;

use super::{configured, full_body, open, path};
use crate::support::{World, id_of, refused, webhook_body};

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
    // A downgrade keeps what exists, and changes that leave it as it is.
    let pro = world.workspace(Plan::Pro).await;
    let eleven = world.post(&pro.token, &patient(11)).await;
    refused(&eleven, 400, "INVALID_ARGUMENT");
    let ten = world.post(&pro.token, &patient(10)).await;
    let id = id_of(&ten).to_string();
    world.operator.set_plan(pro.id, Plan::Free).await.unwrap();
    let renamed = world.patch(&id, &pro.token, &json!({ "name": "y" })).await;
    assert_eq!(renamed.body["webhook"]["retryPolicy"]["maxAttempts"], 10);
    let shown = json!({ "retryPolicy": renamed.body["webhook"]["retryPolicy"] });
    for same in [shown, json!({ "retryPolicy": { "maxAttempts": 10 } })] {
        let again = world.patch(&id, &pro.token, &same).await;
        assert_eq!(again.status, StatusCode::OK, "{again:?}");
        assert_eq!(again.body["webhook"]["retryPolicy"]["maxAttempts"], 10);
    }
    for attempts in [9, 11] {
        let other = json!({ "retryPolicy": { "maxAttempts": attempts } });
        let other = world.patch(&id, &pro.token, &other).await;
        assert_eq!(
            refused(&other, 400, "INVALID_ARGUMENT"),
            [owned(("retryPolicy.maxAttempts", "plan_limit"))]
        );
    }
}
