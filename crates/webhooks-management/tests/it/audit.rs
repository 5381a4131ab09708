//! The audit log: who, what, when, from where, before and after, and no secret.

use reqwest::Method;
use serde_json::json;
use webhooks_domain::webhook::Plan;
use webhooks_proto::v1::{self, workspace_service_client::WorkspaceServiceClient};

use crate::support::{World, id_of, webhook_body, with_token};

#[tokio::test]
async fn a_change_tells_who_made_it_and_from_where() {
    let world = World::with(&[("WEBHOOKS_TRUSTED_PROXIES", "127.0.0.0/8")]).await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let from = [
        ("x-request-id", "req-1"),
        ("user-agent", "tests/1.0"),
        ("x-forwarded-for", "198.51.100.7, 203.0.113.9"),
    ];
    let body = webhook_body("CRM");
    let made = world
        .write(Method::POST, "/v1/webhooks", token, &from, &body)
        .await;
    let id = id_of(&made);
    let secret = made.body["webhook"]["secret"].as_str().unwrap().to_owned();
    world
        .patch(&id.to_string(), token, &json!({ "name": "ERP" }))
        .await;
    world.delete(&format!("/v1/webhooks/{id}"), token).await;

    let log = world
        .get(&format!("/v1/audit-log?subject={id}"), token)
        .await;
    assert_eq!(log.body["totalCount"], 3, "{log:?}");
    let entries = log.body["entries"].as_array().unwrap();
    let actions: Vec<_> = entries
        .iter()
        .map(|entry| entry["action"].as_str().unwrap())
        .collect();
    assert_eq!(
        actions,
        ["webhook.delete", "webhook.update", "webhook.create"],
        "newest first"
    );
    let created = &entries[2];
    assert_eq!(
        created["actor"],
        format!("token:{}", &token["lbk_test_".len()..][..12])
    );
    assert_eq!(created["remoteIp"], "203.0.113.9");
    assert_eq!(created["userAgent"], "tests/1.0");
    assert_eq!(created["requestId"], "req-1");
    assert!(created.get("before").is_none());
    assert_eq!(created["after"]["name"], "CRM");
    assert_eq!(
        (&entries[1]["before"]["name"], &entries[1]["after"]["name"]),
        (&json!("CRM"), &json!("ERP"))
    );
    assert!(entries[0].get("after").is_none());
    for secret in [&secret, token] {
        assert!(
            !log.body.to_string().contains(&secret[10..]),
            "no secret in the log"
        );
    }
}

#[tokio::test]
async fn the_log_is_filtered_paged_and_a_workspaces_own() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let stranger = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(world.webhook(token).await);
        world.webhook(&stranger.token).await;
    }
    let total = async |query: &str| {
        let reply = world.get(&format!("/v1/audit-log?{query}"), token).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.body["totalCount"].as_i64().unwrap()
    };
    assert_eq!(total("action=webhook.create").await, 5);
    assert_eq!(total(&format!("subject={}", ids[2])).await, 1);
    assert_eq!(
        total("actor=operator").await,
        2,
        "the workspace and its token"
    );
    assert_eq!(total("from=2999-01-01T00:00:00Z").await, 0);
    assert_eq!(total("to=2999-01-01T00:00:00Z").await, 7);
    let bad = world.get("/v1/audit-log?from=yesterday", token).await;
    assert_eq!(
        (bad.status.as_u16(), &bad.body["details"][0]["field"]),
        (400, &json!("from"))
    );
    let mut seen = Vec::new();
    let mut page = String::new();
    loop {
        let path = format!("/v1/audit-log?pageSize=3&action=webhook.create&pageToken={page}");
        let reply = world.get(&path, token).await;
        let entries = reply.body["entries"].as_array().unwrap();
        seen.extend(
            entries
                .iter()
                .map(|entry| entry["subject"].as_str().unwrap().to_owned()),
        );
        match reply.body["nextPageToken"].as_str() {
            Some(next) => page = next.to_owned(),
            None => break,
        }
    }
    let newest_first: Vec<_> = ids.iter().rev().map(ToString::to_string).collect();
    assert_eq!(seen, newest_first);
    let other_filter = format!("/v1/audit-log?pageSize=3&pageToken={page}");
    let reply = world.get(&other_filter, token).await;
    assert_eq!(reply.body["codeType"], "INVALID_PAGE_TOKEN");
}

#[tokio::test]
async fn a_long_log_is_counted_to_a_limit_and_read_beyond_it() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Free).await;
    let token = workspace.token.as_str();
    let fill = format!(
        "INSERT INTO audit_log (workspace_id, actor, action, subject, at)
         SELECT '{}', 'system', 'webhook.update', 's' || n, to_timestamp(n)
         FROM generate_series(1, 10001) n",
        workspace.id
    );
    world.sql(&fill).await;
    // The moment of the last of them.
    let before_last = "actor=system&to=1970-01-01T02:46:41Z";
    for (query, at_least) in [(before_last, false), ("actor=system", true), ("", true)] {
        let path = format!("/v1/audit-log?pageSize=1&{query}");
        let reply = world.get(&path, token).await;
        assert_eq!(reply.body["totalCount"], 10_000, "{query}");
        let marked = reply.body.get("totalCountIsLowerBound");
        assert_eq!(marked, at_least.then_some(&json!(true)), "{query}");
    }
    let (mut seen, mut page) = (0, String::new());
    loop {
        let path = format!("/v1/audit-log?actor=system&pageSize=1000&pageToken={page}");
        let reply = world.get(&path, token).await;
        seen += reply.body["entries"].as_array().unwrap().len();
        match reply.body["nextPageToken"].as_str() {
            Some(next) => page = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(seen, 10_001);

    let mut client = WorkspaceServiceClient::new(world.channel().await);
    for (actor, total, at_least) in [("system", 10_000, true), ("operator", 2, false)] {
        let request = v1::ListAuditLogRequest {
            actor: actor.into(),
            ..v1::ListAuditLogRequest::default()
        };
        let log = client.list_audit_log(with_token(token, request)).await;
        let log = log.unwrap().into_inner();
        assert_eq!(
            (log.total_count, log.total_count_is_lower_bound),
            (total, at_least),
            "{actor}"
        );
    }
}

#[tokio::test]
async fn an_operators_change_is_in_the_workspaces_log() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Free).await;
    let path = format!("/v1/operator/workspaces/{}", workspace.id);
    let operator = crate::support::OPERATOR_TOKEN;
    let plan = world
        .write(
            Method::PATCH,
            &path,
            operator,
            &[],
            &json!({ "plan": "PRO" }),
        )
        .await;
    assert_eq!(plan.status, 200);
    let both = json!({ "plan": "FREE", "name": "renamed" });
    world
        .write(Method::PATCH, &path, operator, &[], &both)
        .await;
    let log = world
        .get("/v1/audit-log?actor=operator", &workspace.token)
        .await;
    let entries = log.body["entries"].as_array().unwrap();
    assert_eq!(entries[0]["action"], "workspace.update");
    assert_eq!(entries[1]["action"], "workspace.set_plan");
    assert_eq!(entries[1]["before"]["plan"], "FREE");
    assert_eq!(entries[1]["after"]["plan"], "PRO");
    assert_eq!(entries[1]["remoteIp"], "127.0.0.1");
    assert!(
        entries[3].get("remoteIp").is_none(),
        "by hand, not over the network"
    );
}

#[tokio::test]
async fn in_production_management_does_not_run_as_a_role_that_could_change_the_audit_log() {
    let mut world = World::start().await;
    world.stop_service().await;
    world.set("WEBHOOKS_ENV", "production");
    let why = world.start_in_vain().await;
    for part in ["is a superuser", "owns the audit log", "--app-role"] {
        assert!(why.contains(part), "{why}");
    }
    world.sql("CREATE ROLE app_in_production LOGIN").await;
    world.store.grant_to("app_in_production").await.unwrap();
    let url = world.setting("WEBHOOKS_DATABASE_URL");
    let app = url.replacen("postgres://postgres@", "postgres://app_in_production@", 1);
    assert_ne!(app, url);
    world.set("WEBHOOKS_DATABASE_URL", &app);
    world.start_service().await;
}
