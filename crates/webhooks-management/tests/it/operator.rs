//! The operators' API.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;
use webhooks_domain::{token::TokenEnvironment, webhook::Plan};
use webhooks_management::{ManagementError, operator::TokenWish};
use webhooks_proto::v1::{self, operator_service_client::OperatorServiceClient};

use crate::support::{OPERATOR_TOKEN, Reply, World, id_of, refused, webhook_body, with_token};

async fn create(world: &World, body: &Value) -> Reply {
    world
        .write(
            Method::POST,
            "/v1/operator/workspaces",
            OPERATOR_TOKEN,
            &[],
            body,
        )
        .await
}

async fn change(world: &World, id: Uuid, body: &Value) -> Reply {
    let path = format!("/v1/operator/workspaces/{id}");
    world
        .write(Method::PATCH, &path, OPERATOR_TOKEN, &[], body)
        .await
}

fn workspace_id(reply: &Reply) -> Uuid {
    assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
    reply.body["workspace"]["id"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap()
}

#[tokio::test]
async fn the_life_of_a_workspace() {
    let world = World::start().await;
    let body = json!({ "name": "Acme", "plan": "PRO", "sandbox": true, "notificationEmails": ["ops@acme.example"], "limits": { "webhooks": 2 } });
    let made = create(&world, &body).await;
    let id = workspace_id(&made);
    let shown = &made.body["workspace"];
    assert_eq!(
        (&shown["plan"], &shown["sandbox"]),
        (&json!("PRO"), &json!(true))
    );
    assert_eq!(shown["limits"], json!({ "webhooks": 2 }));
    let again = create(&world, &json!({ "name": "Other", "id": id })).await;
    assert_eq!(again.body, made.body, "what is there stays");

    let path = format!("/v1/operator/workspaces/{id}");
    let issue = format!("{path}/tokens");
    let issued = world
        .write(Method::POST, &issue, OPERATOR_TOKEN, &[], &json!({}))
        .await;
    let token = issued.body["accessToken"].as_str().unwrap().to_owned();
    assert!(token.starts_with("lbk_test_"), "a sandbox has test tokens");
    // So it has by the command, which also knows which scopes there are.
    let wish = |scope: &str| TokenWish {
        workspace: id,
        name: "by command".to_owned(),
        scopes: vec![scope.to_owned()],
        member: None,
        member_email: None,
        environment: TokenEnvironment::Live,
        expires_at: None,
    };
    let made = world.operator.create_token(wish("webhooks:read")).await;
    assert!(made.unwrap().reveal().starts_with("lbk_test_"));
    let typo = world.operator.create_token(wish("webhooks:raed")).await;
    assert!(
        matches!(&typo, Err(ManagementError::Invalid(all)) if all[0].field == "scopes[0]"),
        "{typo:?}"
    );
    // The own limit goes before the plan's.
    let first = id_of(&world.post(&token, &webhook_body("1")).await);
    let second = id_of(&world.post(&token, &webhook_body("2")).await);
    let over = world.post(&token, &webhook_body("3")).await;
    refused(&over, 429, "MAX_WEBHOOKS_REACHED");
    assert_eq!(over.body["details"][0]["limit"], 2);
    assert_eq!(
        world.get("/v1/allowances", &token).await.body["limits"][0]["value"],
        2
    );

    // A downgrade keeps what exists and creates nothing new.
    let down = change(&world, id, &json!({ "plan": "FREE", "limits": {} })).await;
    assert_eq!(down.body["workspace"]["webhookCount"], 2);
    assert_eq!(
        world.get("/v1/webhooks", &token).await.body["totalCount"],
        2
    );
    refused(
        &world.post(&token, &webhook_body("3")).await,
        429,
        "MAX_WEBHOOKS_REACHED",
    );
    let enabled = json!({ "status": "WEBHOOK_STATUS_ACTIVE", "name": "still mine" });
    assert_eq!(
        world
            .patch(&first.to_string(), &token, &enabled)
            .await
            .status,
        200
    );

    assert_eq!(world.get("/v1/webhooks", &token).await.status, 200);
    let deleted = world.delete(&path, OPERATOR_TOKEN).await;
    assert_eq!(
        (deleted.status, &deleted.body),
        (StatusCode::OK, &json!({}))
    );
    // Before the answer: out of the read model, and no token opens anything.
    assert_eq!(world.configured(first).await, None);
    assert_eq!(world.configured(second).await, None);
    refused(
        &world.get("/v1/webhooks", &token).await,
        401,
        "UNAUTHENTICATED",
    );
    refused(
        &world.get(&path, OPERATOR_TOKEN).await,
        404,
        "WORKSPACE_NOT_FOUND",
    );
    refused(
        &world.delete(&path, OPERATOR_TOKEN).await,
        404,
        "WORKSPACE_NOT_FOUND",
    );
    refused(
        &create(&world, &json!({ "name": "Acme", "id": id })).await,
        409,
        "WORKSPACE_DELETED",
    );
}

#[tokio::test]
async fn only_the_operator_gets_in() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let path = "/v1/operator/workspaces";
    for token in ["", "x", workspace.token.as_str(), &OPERATOR_TOKEN[1..]] {
        refused(&world.get(path, token).await, 401, "UNAUTHENTICATED");
        let reply = world
            .write(Method::POST, path, token, &[], &json!({ "name": "x" }))
            .await;
        refused(&reply, 401, "UNAUTHENTICATED");
    }
    // And the operator's token is no workspace's.
    refused(
        &world.get("/v1/webhooks", OPERATOR_TOKEN).await,
        401,
        "UNAUTHENTICATED",
    );
    let closed = World::with(&[("WEBHOOKS_OPERATOR_TOKEN", "")]).await;
    refused(
        &closed.get(path, OPERATOR_TOKEN).await,
        401,
        "UNAUTHENTICATED",
    );
    refused(&closed.get(path, "").await, 401, "UNAUTHENTICATED");
}

#[tokio::test]
async fn what_is_wrong_is_told_whole_and_lists_page() {
    let world = World::start().await;
    let body = json!({ "name": "", "plan": "GOLD", "notificationEmails": ["nobody"], "limits": { "webhooks": -1, "x": 1 }, "webhookCount": 3 });
    let reply = create(&world, &body).await;
    refused(&reply, 400, "INVALID_ARGUMENT");
    let details = reply.body["details"].as_array().unwrap();
    let mut fields: Vec<_> = details
        .iter()
        .map(|d| d["field"].as_str().unwrap())
        .collect();
    fields.sort_unstable();
    assert_eq!(
        fields,
        [
            "limits.webhooks",
            "limits.x",
            "name",
            "notificationEmails[0]",
            "plan",
            "webhookCount"
        ]
    );
    let many: Vec<_> = (0..11).map(|n| format!("a{n}@b.example")).collect();
    let reply = create(&world, &json!({ "name": "x", "notificationEmails": many })).await;
    assert_eq!(reply.body["details"][0]["reason"], "too_many");
    for n in 0..5 {
        workspace_id(&create(&world, &json!({ "name": format!("w{n}") })).await);
    }
    let first = world
        .get("/v1/operator/workspaces?pageSize=3", OPERATOR_TOKEN)
        .await;
    assert_eq!(first.body["totalCount"], 5);
    let next = first.body["nextPageToken"].as_str().unwrap();
    let path = format!("/v1/operator/workspaces?pageSize=3&pageToken={next}");
    let second = world.get(&path, OPERATOR_TOKEN).await;
    assert_eq!(second.body["workspaces"].as_array().unwrap().len(), 2);
    assert!(second.body.get("nextPageToken").is_none());
}

#[tokio::test]
async fn a_rate_of_events_reaches_ingest_with_the_tokens() {
    use prost::Message as _;
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let id = workspace.token["lbk_test_".len()..][..12].to_owned();
    let rate = async || {
        let bucket = world.bus.jetstream().get_key_value("CONFIG").await.unwrap();
        let bytes = bucket.get(format!("t.{id}")).await.unwrap().unwrap();
        let config = webhooks_proto::internal::v1::TokenConfig::decode(bytes).unwrap();
        config.events_per_second
    };
    assert_eq!(rate().await, 0);
    let limits = json!({ "limits": { "eventsPerSecond": 7 } });
    assert_eq!(change(&world, workspace.id, &limits).await.status, 200);
    assert_eq!(rate().await, 7, "in force when the answer comes");
    assert_eq!(
        change(&world, workspace.id, &json!({ "limits": {} }))
            .await
            .status,
        200
    );
    assert_eq!(rate().await, 0);
}

#[tokio::test]
async fn grpc_can_do_the_same() {
    let world = World::start().await;
    let mut client = OperatorServiceClient::new(world.channel().await);
    let wish = v1::CreateWorkspaceRequest {
        name: "Acme".into(),
        plan: "LIGHT".into(),
        limits: Some(v1::WorkspaceLimits {
            retry_max_attempts: Some(5),
            ..v1::WorkspaceLimits::default()
        }),
        ..v1::CreateWorkspaceRequest::default()
    };
    let nobody = client.create_workspace(wish.clone()).await.unwrap_err();
    assert_eq!(nobody.code(), tonic::Code::Unauthenticated);
    let made = client
        .create_workspace(with_token(OPERATOR_TOKEN, wish))
        .await
        .unwrap();
    let made = made.into_inner().workspace.unwrap();
    assert_eq!(made.limits.unwrap().retry_max_attempts, Some(5));
    let issue = v1::IssueWorkspaceTokenRequest {
        workspace_id: made.id.clone(),
        ..v1::IssueWorkspaceTokenRequest::default()
    };
    let issued = client
        .issue_workspace_token(with_token(OPERATOR_TOKEN, issue))
        .await
        .unwrap();
    let token = issued.into_inner().access_token;
    world.webhook(&token).await;
    let update = v1::UpdateWorkspaceRequest {
        id: made.id.clone(),
        plan: Some("PRO".into()),
        ..v1::UpdateWorkspaceRequest::default()
    };
    let changed = client
        .update_workspace(with_token(OPERATOR_TOKEN, update))
        .await
        .unwrap();
    let changed = changed.into_inner().workspace.unwrap();
    assert_eq!((changed.plan.as_str(), changed.webhook_count), ("PRO", 1));
    let get = v1::GetWorkspaceRequest {
        id: made.id.clone(),
    };
    let got = client
        .get_workspace(with_token(OPERATOR_TOKEN, get))
        .await
        .unwrap();
    assert_eq!(got.into_inner().workspace.unwrap(), changed);
    let list = v1::ListWorkspacesRequest::default();
    let listed = client
        .list_workspaces(with_token(OPERATOR_TOKEN, list))
        .await
        .unwrap();
    assert_eq!(listed.get_ref().workspaces, [changed]);
    let delete = v1::DeleteWorkspaceRequest { id: made.id };
    client
        .delete_workspace(with_token(OPERATOR_TOKEN, delete))
        .await
        .unwrap();
    assert_eq!(world.get("/v1/webhooks", &token).await.status, 401);
}
