//! What is refused alike over both faces, and all at once.

use prost_types::Timestamp;
use reqwest::Method;
use serde_json::json;
use tonic::Status;
use tonic_types::StatusExt as _;
use webhooks_domain::webhook::{MAX_NAME_CHARS, Plan};
use webhooks_proto::v1::{
    self, delivery_service_client::DeliveryServiceClient,
    event_history_service_client::EventHistoryServiceClient, job_service_client::JobServiceClient,
    metrics_service_client::MetricsServiceClient, webhook_service_client::WebhookServiceClient,
    workspace_service_client::WorkspaceServiceClient,
};

use crate::support::{OPERATOR_TOKEN, World, fields, id_of, refused, webhook_body, with_token};

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
        ("\u{200b}\u{2060}\u{feff}", "blank"),
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

#[tokio::test]
async fn a_name_comes_back_as_it_was_given_whatever_its_letters() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let mut webhooks = WebhookServiceClient::new(world.channel().await);
    // What turns the direction, what is not seen, what looks like other letters, and the longest.
    let longest = "😀".repeat(MAX_NAME_CHARS);
    for name in [
        "exe.\u{202e}gnp",
        "a\u{200b}b",
        "Заказы",
        "\u{430}dmin",
        &longest,
    ] {
        let made = world.post(token, &webhook_body(name)).await;
        assert_eq!(made.status, 200, "{made:?}");
        assert_eq!(made.body["webhook"]["name"], name);
        let id = id_of(&made).to_string();
        let shown = world.get(&format!("/v1/webhooks/{id}"), token).await;
        assert_eq!(shown.body["webhook"]["name"], name);
        let request = with_token(token, v1::GetWebhookRequest { id });
        let shown = webhooks.get_webhook(request).await.unwrap().into_inner();
        assert_eq!(shown.webhook.unwrap().name, name);
    }
    let too_long = "x".repeat(10_000);
    for (name, reason) in [
        (too_long.as_str(), "too_long"),
        ("\u{200b}\u{202e}\u{2060}\u{feff}", "blank"),
    ] {
        let reply = world.post(token, &webhook_body(name)).await;
        assert_eq!(
            refused(&reply, 400, "INVALID_ARGUMENT"),
            [("name".to_owned(), reason.to_owned())]
        );
    }
    assert_eq!(world.get("/v1/webhooks", token).await.body["totalCount"], 5);
}

/// What a refusal says over REST, as gRPC puts it.
fn told(body: &serde_json::Value) -> Vec<(String, String)> {
    let details = body["details"].as_array().unwrap().iter();
    details
        .map(|one| {
            let text = |key: &str| one[key].as_str().unwrap();
            let description = format!("{} ({})", text("message"), text("reason"));
            (text("field").to_owned(), description)
        })
        .collect()
}

/// What a refusal says over gRPC.
fn described(status: &Status) -> Vec<(String, String)> {
    let details = status.get_error_details();
    let violations = details.bad_request().into_iter();
    violations
        .flat_map(|bad| &bad.field_violations)
        .map(|one| (one.field.clone(), one.description.clone()))
        .collect()
}

#[tokio::test]
async fn every_problem_of_every_object_and_entry_is_told_in_the_same_words() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let links = ["x", "0190e0a0-0000-7000-8000-000000000001", "y"];
    let bad = json!({
        "name": "x",
        "endpointUrl": "https://example.com/",
        "linkIds": links,
        "triggers": ["KIND_EXIT", "KIND_X"],
        "eventActions": ["a b"],
        "retryPolicy": { "maxAttempts": 21, "factor": 0.5, "jitter": -1.0 },
        "rateLimit": { "count": 20_000, "periodSeconds": 7, "burst": 20_000 },
        "headers": [{ "name": "Host", "value": "a\nb" }, { "name": "X-A" }],
        "auth": { "type": "apiKey", "name": "key" },
        "clientCertificate": { "certificate": "x", "privateKey": "y" },
        "signatures": ["v2", "v1"],
    });
    let owned =
        |texts: &[&str]| -> Vec<String> { texts.iter().map(|&text| text.to_owned()).collect() };
    let key = v1::endpoint_auth::ApiKey {
        name: "key".into(),
        ..v1::endpoint_auth::ApiKey::default()
    };
    let header = |name: &str, value: &str| v1::Header {
        name: name.into(),
        value: value.into(),
    };
    let message = v1::CreateWebhookRequest {
        name: "x".into(),
        endpoint_url: "https://example.com/".into(),
        link_ids: owned(&links),
        triggers: Some(v1::TriggerList {
            kinds: owned(&["KIND_EXIT", "KIND_X"]),
        }),
        event_actions: owned(&["a b"]),
        retry_policy: Some(v1::RetryPolicy {
            max_attempts: Some(21),
            factor: Some(0.5),
            jitter: Some(-1.0),
            ..v1::RetryPolicy::default()
        }),
        rate_limit: Some(v1::RateLimit {
            count: 20_000,
            period_seconds: 7,
            burst: 20_000,
        }),
        headers: vec![header("Host", "a\nb"), header("X-A", "")],
        auth: Some(v1::EndpointAuth {
            kind: Some(v1::endpoint_auth::Kind::ApiKey(key)),
        }),
        client_certificate: Some(v1::ClientCertificate {
            certificate: "x".into(),
            private_key: "y".into(),
            ..v1::ClientCertificate::default()
        }),
        signatures: owned(&["v2", "v1"]),
        ..v1::CreateWebhookRequest::default()
    };
    let over_rest = world.post(token, &bad).await;
    assert_eq!(over_rest.status, 400, "{over_rest:?}");
    let said = told(&over_rest.body);
    let fields: Vec<_> = said.iter().map(|(field, _)| field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "linkIds[0]",
            "linkIds[2]",
            "triggers[1]",
            "eventActions[0]",
            "retryPolicy.maxAttempts",
            "retryPolicy.factor",
            "retryPolicy.jitter",
            "rateLimit.count",
            "rateLimit.periodSeconds",
            "rateLimit.burst",
            "auth.in",
            "auth.value",
            "clientCertificate.certificate",
            "clientCertificate.privateKey",
            "headers[0].name",
            "headers[0].value",
            "headers[1].value",
            "signatures[0]",
        ]
    );
    let mut webhooks = WebhookServiceClient::new(world.channel().await);
    let over_grpc = webhooks.create_webhook(with_token(token, message)).await;
    assert_eq!(described(&over_grpc.unwrap_err()), said);

    // Two thousand are counted, and fit into gRPC's headers.
    let flood = vec!["x"; 2_000];
    let mut body = webhook_body("flood");
    body["linkIds"] = json!(flood);
    let over_rest = world.post(token, &body).await;
    assert_eq!(over_rest.status, 400, "{over_rest:?}");
    let said = told(&over_rest.body);
    assert_eq!((said.len(), &*said[49].0), (51, "linkIds[49]"));
    let rest = "and 1950 more problems (more_problems)";
    assert_eq!((&*said[50].0, &*said[50].1), ("", rest));
    let message = v1::CreateWebhookRequest {
        name: "flood".into(),
        endpoint_url: "https://example.com/".into(),
        link_ids: owned(&flood),
        ..v1::CreateWebhookRequest::default()
    };
    let over_grpc = webhooks.create_webhook(with_token(token, message)).await;
    assert_eq!(described(&over_grpc.unwrap_err()), said);
    assert_eq!(world.get("/v1/webhooks", token).await.body["totalCount"], 0);
}
