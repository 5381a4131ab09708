//! What is refused alike over both faces, and all at once.

use prost_types::Timestamp;
use reqwest::Method;
use serde_json::json;
use webhooks_domain::webhook::Plan;
use webhooks_proto::v1::{
    self, delivery_service_client::DeliveryServiceClient,
    event_history_service_client::EventHistoryServiceClient, job_service_client::JobServiceClient,
    metrics_service_client::MetricsServiceClient, workspace_service_client::WorkspaceServiceClient,
};

use crate::support::{OPERATOR_TOKEN, World, fields, with_token};

#[tokio::test]
async fn times_beyond_time_are_refused_all_at_once() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let webhook = world.webhook(token).await.to_string();
    let (early, late) = (
        Some(Timestamp {
            seconds: -1,
            nanos: 0,
        }),
        Some(Timestamp {
            seconds: i64::MAX,
            nanos: 0,
        }),
    );
    let channel = world.channel().await;
    let list = v1::ListDeliveriesRequest {
        created_after: early,
        created_before: late,
        page_size: -1,
        ..v1::ListDeliveriesRequest::default()
    };
    let refused = DeliveryServiceClient::new(channel.clone())
        .list_deliveries(with_token(token, list))
        .await;
    assert_eq!(
        fields(&refused.unwrap_err()),
        ["createdAfter", "createdBefore", "pageSize"]
    );
    let events = v1::ListEventsRequest {
        accepted_after: early,
        accepted_before: late,
        page_size: -1,
        ..v1::ListEventsRequest::default()
    };
    let refused = EventHistoryServiceClient::new(channel.clone())
        .list_events(with_token(token, events))
        .await;
    assert_eq!(
        fields(&refused.unwrap_err()),
        ["acceptedAfter", "acceptedBefore", "pageSize"]
    );
    let job = v1::CreateJobRequest {
        webhook_id: webhook,
        r#type: v1::JobType::Replay.into(),
        since: early,
        until: late,
        ..v1::CreateJobRequest::default()
    };
    let refused = JobServiceClient::new(channel.clone())
        .create_job(with_token(token, job))
        .await;
    assert_eq!(fields(&refused.unwrap_err()), ["since", "until"]);
    let mut metrics = MetricsServiceClient::new(channel.clone());
    let figures = v1::GetMetricsRequest {
        from: early,
        to: late,
        ..v1::GetMetricsRequest::default()
    };
    let refused = metrics
        .get_metrics(with_token(token, figures))
        .await
        .unwrap_err();
    assert_eq!(fields(&refused)[..2], ["from", "to"]);
    let usage = v1::GetUsageRequest {
        from: early,
        to: late,
    };
    let refused = metrics
        .get_usage(with_token(token, usage))
        .await
        .unwrap_err();
    assert_eq!(fields(&refused)[..2], ["from", "to"]);
    let log = v1::ListAuditLogRequest {
        from: early,
        to: late,
        page_size: -1,
        ..v1::ListAuditLogRequest::default()
    };
    let refused = WorkspaceServiceClient::new(channel)
        .list_audit_log(with_token(token, log))
        .await;
    assert_eq!(fields(&refused.unwrap_err()), ["from", "to", "pageSize"]);
    // The same over REST.
    for (path, expected) in [
        (
            "/v1/audit-log?from=x&to=y&pageSize=z",
            vec!["from", "to", "pageSize"],
        ),
        (
            "/v1/events?acceptedAfter=x&acceptedBefore=y&pageSize=z",
            vec!["acceptedAfter", "acceptedBefore", "pageSize"],
        ),
        (
            "/v1/webhooks?status=x&pageSize=z",
            vec!["status", "pageSize"],
        ),
        (
            "/v1/deliveries?createdAfter=x&pageSize=z",
            vec!["createdAfter", "pageSize"],
        ),
        ("/v1/usage?from=x&to=y", vec!["from", "to"]),
    ] {
        let refused = world.get(path, token).await;
        assert_eq!(refused.status, 400, "{path}");
        let details = refused.body["details"].as_array().unwrap().iter();
        let fields: Vec<_> = details.map(|one| one["field"].as_str().unwrap()).collect();
        assert_eq!(fields, expected, "{path}");
    }
}

#[tokio::test]
async fn names_show_something_and_nesting_has_an_end() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let refusal = |body: &serde_json::Value| {
        let detail = &body["details"][0];
        (
            detail["field"].as_str().unwrap().to_owned(),
            detail["reason"].as_str().unwrap().to_owned(),
        )
    };
    for (name, expected) in [
        ("  ", "blank"),
        ("a\u{0}b", "control_character"),
        ("a\nb", "control_character"),
    ] {
        let wish = json!({ "keyType": "WORKSPACE_TOKEN_KEY_TYPE_SECRET", "name": name });
        let made = world
            .write(Method::POST, "/v1/workspace-tokens", token, &[], &wish)
            .await;
        assert_eq!(
            (made.status.as_u16(), refusal(&made.body)),
            (400, ("name".into(), expected.into()))
        );
        let wish = json!({ "name": name });
        let made = world
            .write(
                Method::POST,
                "/v1/operator/workspaces",
                OPERATOR_TOKEN,
                &[],
                &wish,
            )
            .await;
        assert_eq!(
            (made.status.as_u16(), refusal(&made.body)),
            (400, ("name".into(), expected.into()))
        );
    }
    for levels in [65, 129, 10_000] {
        let deep = format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
        let json = [("content-type", "application/json")];
        let refused = world
            .send(Method::POST, "/v1/webhooks", token, &json, Some(deep))
            .await;
        assert_eq!(
            (refused.status.as_u16(), refusal(&refused.body)),
            (400, (String::new(), "too_deep".into()))
        );
    }
    assert_eq!(world.get("/v1/webhooks", token).await.status, 200, "alive");
}
