//! What is secret of the options: kept, never seen, and never sent to another host.

use prost::Message as _;
use reqwest::StatusCode;
use serde_json::json;
use webhooks_domain::{sealing::Purpose, webhook::Plan};
use webhooks_proto::internal::v1 as wire;

use super::{configured, full_body, open, path};
use crate::support::{World, fields, id_of, refused, webhook_body};

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
    assert_eq!(fields(&status), ["auth", "headers"]);
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
