//! What anybody may look up: where requests come from, and the keys they are signed with.

use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;
use webhooks_domain::webhook::Plan;

use crate::support::{World, id_of, signed_body};

const SOURCE_IPS: &str = "/.well-known/webhook-source-ips.json";

async fn ask(world: &World, path: &str, known: Option<&str>) -> Response {
    let client = Client::builder().build().unwrap();
    let mut request = client.get(world.url(path));
    if let Some(tag) = known {
        request = request.header("if-none-match", tag);
    }
    request.send().await.unwrap()
}

fn header(response: &Response, name: &str) -> String {
    let value = response.headers().get(name);
    let value = value.unwrap_or_else(|| panic!("no {name}: {response:?}"));
    value.to_str().unwrap().to_owned()
}

async fn json_of(response: Response) -> Value {
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
}

#[tokio::test]
async fn source_addresses_are_published_with_what_is_announced() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ips.json");
    let far = "2999-01-01T00:00:00Z";
    let text = json!({
        "ranges": ["203.0.113.16/28", "2001:db8:5::/48"],
        "planned": [
            { "at": "2020-01-01T00:00:00Z", "add": ["198.51.100.7"] },
            { "at": far, "remove": ["203.0.113.16/28"] },
        ],
    });
    std::fs::write(&file, text.to_string()).unwrap();
    let file = file.to_str().unwrap();
    let mut world = World::with(&[("WEBHOOKS_SOURCE_IPS_FILE", file)]).await;
    let first = ask(&world, SOURCE_IPS, None).await;
    assert_eq!(first.status(), StatusCode::OK);
    assert_eq!(header(&first, "content-type"), "application/json");
    assert_eq!(header(&first, "cache-control"), "public, max-age=3600");
    let tag = header(&first, "etag");
    let body = json_of(first).await;
    assert_eq!(tag, format!("\"{}\"", body["version"].as_str().unwrap()));
    assert_eq!(body["fixed"], true);
    // What was announced for a time that has come is so.
    let ranges = json!(["203.0.113.16/28", "2001:db8:5::/48", "198.51.100.7/32"]);
    assert_eq!(body["ranges"], ranges);
    let planned = json!([{ "at": far, "add": [], "remove": ["203.0.113.16/28"] }]);
    assert_eq!(body["planned"], planned);

    let same = ask(&world, SOURCE_IPS, Some(&tag)).await;
    assert_eq!(same.status(), StatusCode::NOT_MODIFIED);
    assert_eq!(header(&same, "etag"), tag);
    assert!(same.bytes().await.unwrap().is_empty());

    // Another list is another version.
    world.stop_service().await;
    world.set("WEBHOOKS_SOURCE_IPS_FILE", "");
    world.set("WEBHOOKS_SOURCE_IPS", "203.0.113.99");
    world.start_service().await;
    let changed = ask(&world, SOURCE_IPS, Some(&tag)).await;
    assert_eq!(changed.status(), StatusCode::OK);
    assert_eq!(json_of(changed).await["ranges"], json!(["203.0.113.99/32"]));
}

#[tokio::test]
async fn a_public_key_is_shown_to_anybody_and_nothing_else_of_the_webhook() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let made = world
        .post(&workspace.token, &signed_body("signed twice"))
        .await;
    let path = format!("/.well-known/webhook-public-keys/{}", id_of(&made));
    let shown = ask(&world, &path, None).await;
    assert_eq!(shown.status(), StatusCode::OK);
    assert_eq!(header(&shown, "cache-control"), "public, max-age=300");
    let tag = header(&shown, "etag");
    let key = made.body["webhook"]["publicKey"].as_str().unwrap();
    let created = &made.body["webhook"]["createdAt"];
    let expected = json!({
        "webhookId": id_of(&made),
        "keys": [{ "algorithm": "ed25519", "key": key, "createdAt": created }],
    });
    assert_eq!(json_of(shown).await, expected);
    let same = ask(&world, &path, Some(&tag)).await;
    assert_eq!(same.status(), StatusCode::NOT_MODIFIED);

    // Without such a key, unknown, no id: all the same.
    let secret_only = world.webhook(&workspace.token).await.to_string();
    let mut answers = Vec::new();
    for id in [secret_only, Uuid::new_v4().to_string(), "none".to_owned()] {
        let path = format!("/.well-known/webhook-public-keys/{id}");
        let answer = ask(&world, &path, None).await;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND);
        answers.push(json_of(answer).await);
    }
    assert!(
        answers.windows(2).all(|pair| pair[0] == pair[1]),
        "{answers:?}"
    );

    // Switched off, it is forgotten.
    let off = json!({ "signatures": ["v1"] });
    let id = id_of(&made).to_string();
    assert_eq!(world.patch(&id, &workspace.token, &off).await.status, 200);
    assert_eq!(
        ask(&world, &path, None).await.status(),
        StatusCode::NOT_FOUND
    );
}
