//! What a workspace has: members, limits, a plan.

use reqwest::Method;
use serde_json::json;
use webhooks_devstack::wait_until;
use webhooks_domain::webhook::Plan;
use webhooks_proto::v1::{
    self, operator_service_client::OperatorServiceClient,
    webhook_service_client::WebhookServiceClient,
    workspace_token_service_client::WorkspaceTokenServiceClient,
};

use crate::support::{LIMIT, OPERATOR_TOKEN, World, fields, webhook_body, with_token};

#[tokio::test]
async fn a_members_address_is_given_inherited_and_kept_over_grpc_too() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let mut operator = OperatorServiceClient::new(world.channel().await);
    let issue = |email: &str| v1::IssueWorkspaceTokenRequest {
        workspace_id: workspace.id.to_string(),
        member_email: email.into(),
        ..v1::IssueWorkspaceTokenRequest::default()
    };
    let bad = operator
        .issue_workspace_token(with_token(OPERATOR_TOKEN, issue("nobody")))
        .await
        .unwrap_err();
    assert_eq!(fields(&bad), ["memberEmail"]);
    let issued = operator
        .issue_workspace_token(with_token(OPERATOR_TOKEN, issue("member@a.example")))
        .await
        .unwrap();
    let token = issued.into_inner().access_token;
    webhooks_devstack::note_answer(token.as_bytes());

    let mut tokens = WorkspaceTokenServiceClient::new(world.channel().await);
    let wish = |email: &str| v1::CreateWorkspaceTokenRequest {
        key_type: v1::WorkspaceTokenKeyType::Secret.into(),
        member_email: email.into(),
        ..v1::CreateWorkspaceTokenRequest::default()
    };
    let strange = tokens
        .create_workspace_token(with_token(&token, wish("victim@b.example")))
        .await
        .unwrap_err();
    assert_eq!(fields(&strange), ["memberEmail"]);
    for email in ["", "member@a.example"] {
        let made = tokens
            .create_workspace_token(with_token(&token, wish(email)))
            .await
            .unwrap()
            .into_inner();
        webhooks_devstack::note_answer(made.access_token.as_bytes());
        assert_eq!(made.token.unwrap().member_email, "member@a.example");
    }

    let mut webhooks = WebhookServiceClient::new(world.channel().await);
    let id = world.webhook(&token).await.to_string();
    let get = v1::GetWebhookRequest { id };
    let got = webhooks.get_webhook(with_token(&token, get)).await.unwrap();
    let webhook = got.into_inner().webhook.unwrap();
    assert_eq!(webhook.created_by_email, "member@a.example");
}

#[tokio::test]
async fn an_operators_limit_moves_no_entity_tag_and_still_reaches_the_read_model() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let webhook = world.webhook(token).await;
    let path = format!("/v1/operator/workspaces/{}", workspace.id);
    let wish = json!({ "limits": { "heldPerWebhook": 7 } });
    let changed = world
        .write(Method::PATCH, &path, OPERATOR_TOKEN, &[], &wish)
        .await;
    assert_eq!(changed.status, 200, "{changed:?}");
    let shown = world.get(&format!("/v1/webhooks/{webhook}"), token).await;
    assert_eq!(
        (&shown.body["webhook"]["revision"], &shown.headers["etag"]),
        (&json!(1), &"\"1\"".parse().unwrap())
    );
    assert_eq!(
        world.configured(webhook).await,
        Some(2),
        "newer, so it is taken"
    );
    // The next change of the customer's is newer still, and so is the deletion.
    let tag = [("if-match", "\"1\"")];
    let path = format!("/v1/webhooks/{webhook}");
    let renamed = world
        .write(Method::PATCH, &path, token, &tag, &json!({ "name": "new" }))
        .await;
    assert_eq!(renamed.body["webhook"]["revision"], 2);
    assert_eq!(world.configured(webhook).await, Some(3));
    assert_eq!(world.delete(&path, token).await.status, 200);
    assert_eq!(world.configured(webhook).await, None);
}

#[tokio::test]
async fn a_creation_that_began_before_a_downgrade_does_not_outlive_it() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Pro).await;
    let token = workspace.token.as_str();
    world.webhook(token).await;
    let id = workspace.id;
    // The downgrade is under way, and ends when a creation waits for it.
    let downgrade = format!(
        "DO $$ BEGIN
          UPDATE workspaces SET plan = 'FREE' WHERE id = '{id}';
          FOR turn IN 1..2000 LOOP
            PERFORM pg_stat_clear_snapshot();
            EXIT WHEN EXISTS (SELECT 1 FROM pg_stat_activity WHERE datname = current_database()
              AND wait_event_type = 'Lock' AND query LIKE '%workspaces%');
            PERFORM pg_sleep(0.01);
          END LOOP;
        END $$"
    );
    let body = webhook_body("second");
    let (_, late) = tokio::join!(world.sql(&downgrade), async {
        wait_until("the downgrade", LIMIT, async || {
            let locks = "SELECT count(*) FROM pg_locks WHERE relation = 'workspaces'::regclass
                AND mode = 'RowExclusiveLock' AND granted";
            match world.sql(locks).await.trim() {
                "0" => Err("not yet"),
                _ => Ok(()),
            }
        })
        .await
        .unwrap();
        world.post(token, &body).await
    });
    assert_eq!(
        (late.status.as_u16(), &late.body["codeType"]),
        (429, &json!("MAX_WEBHOOKS_REACHED")),
        "{late:?}"
    );
    assert_eq!(late.body["details"][0]["plan"], "FREE");
    assert_eq!(world.get("/v1/webhooks", token).await.body["totalCount"], 1);
}
