use prost::Message as _;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_types::StatusExt as _;
use uuid::Uuid;
use webhooks_devstack::{Postgres, wait_until};
use webhooks_domain::webhook::Plan;
use webhooks_proto::{
    internal::v1::{RecordedRequest, ReportRequest, report_service_client::ReportServiceClient},
    v1::{
        self, delivery_service_client::DeliveryServiceClient,
        webhook_service_client::WebhookServiceClient,
    },
};

use crate::support::{INTERNAL_TOKEN, LIMIT, World, delivered, delivery, uuid, with_token};

#[tokio::test]
async fn the_life_of_a_webhook_over_grpc() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let mut client = WebhookServiceClient::new(world.channel().await);
    let wish = v1::CreateWebhookRequest {
        name: "CRM".into(),
        endpoint_url: "https://example.com/a".into(),
        link_ids: vec![
            Uuid::from_u128(1).to_string(),
            Uuid::from_u128(2).to_string(),
        ],
        idempotency_key: "once".into(),
        ..v1::CreateWebhookRequest::default()
    };
    let made = client
        .create_webhook(with_token(token, wish.clone()))
        .await
        .unwrap();
    assert!(!made.metadata().contains_key("idempotent-replayed"));
    let made = made.into_inner();
    assert!(made.secret.starts_with("whsec_"));
    let again = client
        .create_webhook(with_token(token, wish))
        .await
        .unwrap();
    assert_eq!(again.metadata().get("idempotent-replayed").unwrap(), "true");
    assert_eq!(again.into_inner(), made);
    let webhook = made.webhook.unwrap();
    assert_eq!(webhook.triggers, ["KIND_EXIT"]);
    assert_eq!(webhook.link_ids.len(), 2);

    let update = v1::UpdateWebhookRequest {
        id: webhook.id.clone(),
        links: Some(v1::LinkList::default()),
        status: Some(v1::WebhookStatus::Disabled.into()),
        ..v1::UpdateWebhookRequest::default()
    };
    let changed = client
        .update_webhook(with_token(token, update))
        .await
        .unwrap();
    let changed = changed.into_inner().webhook.unwrap();
    assert_eq!((changed.revision, changed.name.as_str()), (2, "CRM"));
    assert_eq!(
        (
            changed.status_label.as_str(),
            changed.status_reason.as_str()
        ),
        ("DISABLED", "USER")
    );
    assert!(changed.link_ids.is_empty());

    // The other face shows the same.
    let shown = world
        .get(&format!("/v1/webhooks/{}", webhook.id), token)
        .await;
    assert_eq!(shown.body["webhook"]["status"], "WEBHOOK_STATUS_DISABLED");

    let listed = client
        .list_webhooks(with_token(token, v1::ListWebhooksRequest::default()))
        .await
        .unwrap();
    assert_eq!(listed.get_ref().webhooks, [changed]);
    assert_eq!(listed.get_ref().total_count, 1);
    let delete = v1::DeleteWebhookRequest {
        id: webhook.id.clone(),
        ..v1::DeleteWebhookRequest::default()
    };
    client
        .delete_webhook(with_token(token, delete))
        .await
        .unwrap();
    let get = v1::GetWebhookRequest { id: webhook.id };
    let gone = client
        .get_webhook(with_token(token, get))
        .await
        .unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
}

#[tokio::test]
async fn options_and_secrets_are_the_same_over_grpc() {
    use v1::endpoint_auth::{Bearer, Kind};

    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let mut client = WebhookServiceClient::new(world.channel().await);
    let header = |name: &str, value: &str| v1::Header {
        name: name.into(),
        value: value.into(),
    };
    let bearer = |token: &str| v1::EndpointAuth {
        kind: Some(Kind::Bearer(Bearer {
            token: token.into(),
        })),
    };
    let wish = v1::CreateWebhookRequest {
        name: "CRM".into(),
        endpoint_url: "https://example.com/a".into(),
        description: "what for".into(),
        labels: [("team".to_owned(), "blue".to_owned())].into(),
        event_actions: vec!["EVENT_ACTION_FORM_SUBMIT".into()],
        status: v1::WebhookStatus::Disabled.into(),
        retry_policy: Some(v1::RetryPolicy {
            preset: "resilient".into(),
            ..v1::RetryPolicy::default()
        }),
        rate_limit: Some(v1::RateLimit {
            count: 5,
            period_seconds: 1,
            burst: 0,
        }),
        max_in_flight: 3,
        ordering: v1::Ordering::Visitor.into(),
        headers: vec![header("X-Team", "a long enough value")],
        auth: Some(bearer("0123456789abcdef")),
        secret: "whsec_llO//GAFkYaZqXnBO/YM78G0NjgbWVzX".into(),
        signatures: vec!["v1".into(), "v1a".into()],
        idempotency_key: "once".into(),
        ..v1::CreateWebhookRequest::default()
    };
    let made = client
        .create_webhook(with_token(token, wish.clone()))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(made.secret, wish.secret);
    let webhook = made.webhook.unwrap();
    assert_eq!(webhook.status(), v1::WebhookStatus::Disabled);
    assert_eq!(webhook.event_actions, ["FORM_SUBMIT"]);
    assert_eq!(webhook.labels, wish.labels);
    assert_eq!(webhook.retry_policy, wish.retry_policy);
    assert_eq!(webhook.rate_limit.unwrap().burst, 5);
    assert_eq!(webhook.max_in_flight, 3);
    assert_eq!(webhook.ordering(), v1::Ordering::Visitor);
    assert_eq!(webhook.headers, [header("X-Team", "••••")]);
    assert_eq!(webhook.auth, Some(bearer("••••")));
    assert!(webhook.public_key.starts_with("whpk_"));
    // Sorted maps make the same request the same bytes.
    let again = client
        .create_webhook(with_token(token, wish))
        .await
        .unwrap();
    assert_eq!(again.metadata().get("idempotent-replayed").unwrap(), "true");

    let update = v1::UpdateWebhookRequest {
        id: webhook.id.clone(),
        labels: Some(v1::LabelMap::default()),
        event_actions: Some(v1::EventActionList::default()),
        retry_policy: Some(v1::RetryPolicy::default()),
        rate_limit: Some(v1::RateLimit::default()),
        max_in_flight: Some(0),
        auth: Some(v1::EndpointAuth::default()),
        headers: Some(v1::HeaderList {
            headers: vec![header("X-Team", "")],
        }),
        status: Some(v1::WebhookStatus::Active.into()),
        held_deliveries: v1::HeldDeliveries::Deliver.into(),
        expected_revision: 1,
        idempotency_key: "change".into(),
        ..v1::UpdateWebhookRequest::default()
    };
    let changed = client
        .update_webhook(with_token(token, update.clone()))
        .await
        .unwrap()
        .into_inner()
        .webhook
        .unwrap();
    assert!(changed.labels.is_empty() && changed.event_actions.is_empty());
    assert_eq!(changed.retry_policy.unwrap().preset, "standard");
    assert_eq!((changed.rate_limit, changed.max_in_flight), (None, 0));
    assert_eq!(changed.auth, None);
    assert_eq!(changed.headers, [header("X-Team", "••••")]);
    let replayed = client
        .update_webhook(with_token(token, update.clone()))
        .await
        .unwrap();
    assert!(replayed.metadata().contains_key("idempotent-replayed"));
    let late = v1::UpdateWebhookRequest {
        idempotency_key: String::new(),
        ..update
    };
    let late = client.update_webhook(with_token(token, late)).await;
    assert_eq!(late.unwrap_err().code(), Code::Aborted);

    let rotate = v1::RotateWebhookSecretRequest {
        webhook_id: webhook.id.clone(),
        overlap_seconds: Some(60),
        idempotency_key: "rotate".into(),
        ..v1::RotateWebhookSecretRequest::default()
    };
    let rotated = client
        .rotate_webhook_secret(with_token(token, rotate.clone()))
        .await
        .unwrap()
        .into_inner();
    assert!(rotated.secret.starts_with("whsec_"));
    assert_eq!(rotated.webhook.as_ref().unwrap().revision, 3);
    let again = client
        .rotate_webhook_secret(with_token(token, rotate))
        .await;
    assert_eq!(again.unwrap().into_inner(), rotated);
    let list = v1::ListWebhookSecretsRequest {
        webhook_id: webhook.id.clone(),
    };
    let listed = client.list_webhook_secrets(with_token(token, list)).await;
    let listed = listed.unwrap().into_inner().secrets;
    assert_eq!(listed.len(), 2);
    assert!(listed[0].active && listed[0].expires_at.is_none());
    assert!(listed[1].active && listed[1].expires_at.is_some());

    let delete = |expected_revision| v1::DeleteWebhookRequest {
        id: webhook.id.clone(),
        expected_revision,
    };
    let late = client.delete_webhook(with_token(token, delete(1))).await;
    let late = late.unwrap_err();
    let facts = late.get_error_details();
    assert_eq!(facts.error_info().unwrap().reason, "PRECONDITION_FAILED");
    let deleted = client.delete_webhook(with_token(token, delete(3))).await;
    deleted.unwrap();
}

#[tokio::test]
async fn refusals_carry_the_tables_code_and_the_fields() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Free).await;
    let mut client = WebhookServiceClient::new(world.channel().await);
    let empty = v1::CreateWebhookRequest::default();
    let nobody = client.create_webhook(empty.clone()).await.unwrap_err();
    assert_eq!(nobody.code(), Code::Unauthenticated);
    let reader = world.token(workspace.id, &["webhooks:read"]).await;
    let lacking = client
        .create_webhook(with_token(&reader, empty.clone()))
        .await
        .unwrap_err();
    assert_eq!(lacking.code(), Code::PermissionDenied);
    let invalid = client
        .create_webhook(with_token(&workspace.token, empty))
        .await
        .unwrap_err();
    assert_eq!(invalid.code(), Code::InvalidArgument);
    let details = invalid.get_error_details();
    let violations = &details.bad_request().unwrap().field_violations;
    assert_eq!(
        violations
            .iter()
            .map(|v| v.field.as_str())
            .collect::<Vec<_>>(),
        ["name", "endpointUrl"]
    );
    world.webhook(&workspace.token).await;
    let wish = v1::CreateWebhookRequest {
        name: "second".into(),
        endpoint_url: "https://example.com/".into(),
        ..v1::CreateWebhookRequest::default()
    };
    let over = client
        .create_webhook(with_token(&workspace.token, wish))
        .await
        .unwrap_err();
    assert_eq!(over.code(), Code::ResourceExhausted);
    assert_eq!(
        over.get_error_details().error_info().unwrap().reason,
        "MAX_WEBHOOKS_REACHED"
    );
}

#[tokio::test]
async fn a_report_becomes_history_before_it_is_answered() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let stranger = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let webhook = world.webhook(token).await;
    let one = delivery(workspace.id, webhook, "e1");
    let id = uuid(&one.delivery_id);
    let mut reports = ReportServiceClient::new(world.channel().await);
    let batch = ReportRequest {
        reports: vec![delivered(&one)],
    };
    for wrong in [token, "", "internal-token-for-testx"] {
        let refused = reports
            .report(with_token(wrong, batch.clone()))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
    }
    reports
        .report(with_token(INTERNAL_TOKEN, batch.clone()))
        .await
        .unwrap();
    reports
        .report(with_token(INTERNAL_TOKEN, batch))
        .await
        .unwrap();

    let list = world
        .get(&format!("/v1/webhooks/{webhook}/deliveries"), token)
        .await;
    assert_eq!(list.body["totalCount"], 1, "{list:?}");
    let shown = &list.body["deliveries"][0];
    assert_eq!(shown["id"], id.to_string());
    assert_eq!(
        (&shown["state"], &shown["trigger"]),
        (&"DELIVERED".into(), &"EVENT".into())
    );
    assert_eq!(
        (&shown["attemptCount"], &shown["lastStatusCode"]),
        (&1.into(), &200.into())
    );
    assert!(shown.get("lastError").is_none() && shown.get("nextAttemptAt").is_none());
    let detail = world.get(&format!("/v1/deliveries/{id}"), token).await;
    let attempt = &detail.body["delivery"]["attempts"][0];
    assert_eq!(
        (&attempt["outcome"], &attempt["responseBody"]),
        (&"SUCCESS".into(), &"thanks".into())
    );
    assert_eq!(attempt["timings"]["totalMs"], 1.5);
    let counters = world.get(&format!("/v1/webhooks/{webhook}"), token).await;
    assert_eq!(counters.body["webhook"]["successCount"], 1);
    assert_eq!(
        counters.body["webhook"]["updatedAt"],
        counters.body["webhook"]["lastSentAt"]
    );

    let foreign = world
        .get(&format!("/v1/deliveries/{id}"), &stranger.token)
        .await;
    assert_eq!(
        (foreign.status.as_u16(), &foreign.body["codeType"]),
        (404, &"DELIVERY_NOT_FOUND".into())
    );
    let failed = world
        .get(
            &format!("/v1/webhooks/{webhook}/deliveries?state=FAILED"),
            token,
        )
        .await;
    assert_eq!(failed.body["totalCount"], 0);

    let mut deliveries = DeliveryServiceClient::new(world.channel().await);
    let get = v1::GetDeliveryRequest { id: id.to_string() };
    let got = deliveries
        .get_delivery(with_token(token, get.clone()))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(got.delivery.unwrap().state(), v1::DeliveryState::Delivered);
    assert_eq!(got.attempts[0].response_body.as_ref(), b"thanks");
    let denied = deliveries
        .get_delivery(with_token(&stranger.token, get))
        .await
        .unwrap_err();
    assert_eq!(denied.code(), Code::NotFound);

    let asked = RecordedRequest {
        delivery_ids: vec![
            one.delivery_id.clone(),
            Uuid::new_v4().into_bytes().to_vec().into(),
        ],
    };
    let recorded = reports
        .recorded(with_token(INTERNAL_TOKEN, asked))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(recorded.deliveries.len(), 1);
    assert_eq!(recorded.deliveries[0].delivery_id, one.delivery_id);
    assert_eq!(recorded.deliveries[0].attempts, 1);
    assert_eq!(recorded.deliveries[0].state(), v1::DeliveryState::Delivered);
}

#[tokio::test]
async fn many_reports_at_once_are_all_there() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let webhook = world.webhook(&workspace.token).await;
    let client = ReportServiceClient::new(world.channel().await);
    let calls = (0..40).map(|call| {
        let mut client = client.clone();
        let reports = (0..25)
            .map(|n| delivered(&delivery(workspace.id, webhook, &format!("e{call}-{n}"))))
            .collect();
        async move {
            client
                .report(with_token(INTERNAL_TOKEN, ReportRequest { reports }))
                .await
        }
    });
    futures::future::try_join_all(calls).await.unwrap();
    let shown = world
        .get(&format!("/v1/webhooks/{webhook}"), &workspace.token)
        .await;
    assert_eq!(shown.body["webhook"]["successCount"], 1_000);
    // What makes no sense is refused as a whole, by its place.
    let mut broken = delivered(&delivery(workspace.id, webhook, "e"));
    broken.state = 0;
    let batch = ReportRequest {
        reports: vec![broken],
    };
    let refused = client
        .clone()
        .report(with_token(INTERNAL_TOKEN, batch))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("reports[0].state"), "{refused}");
}

#[tokio::test]
async fn health_follows_readiness() {
    let folder = tempfile::tempdir().unwrap();
    let mut postgres = Postgres::builder(folder.path()).start().await.unwrap();
    let url = postgres.create_database("test").await.unwrap();
    let world = World::on(url, &[]).await;
    let client = HealthClient::new(world.channel().await);
    let services = ["", v1::webhook_service_server::SERVICE_NAME];
    let all_say = async |expected: &str| {
        wait_until(expected, LIMIT, async || {
            for service in services {
                let check = HealthCheckRequest {
                    service: service.to_owned(),
                };
                let status = client.clone().check(check).await.unwrap();
                let status = status.into_inner().status();
                if status.as_str_name() != expected {
                    return Err(status);
                }
            }
            Ok(())
        })
        .await
        .unwrap();
    };
    all_say("SERVING").await;
    postgres.kill().await.unwrap();
    all_say("NOT_SERVING").await;
    postgres.start().await.unwrap();
    all_say("SERVING").await;
}

/// What both versions of reflection answer to the same questions.
macro_rules! reflected {
    ($world:expr, $version:ident) => {{
        use tonic_reflection::pb::$version::{
            ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
            server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
        };
        let mut client = ServerReflectionClient::new($world.channel().await);
        let ask = |message| ServerReflectionRequest {
            host: String::new(),
            message_request: Some(message),
        };
        let questions = [
            ask(MessageRequest::ListServices(String::new())),
            ask(MessageRequest::FileContainingSymbol(
                "linkbreakers.webhooks.v1.WebhookService.CreateWebhook".to_owned(),
            )),
        ];
        let answers = client
            .server_reflection_info(futures::stream::iter(questions))
            .await
            .unwrap();
        let answers: Vec<_> = futures::TryStreamExt::try_collect(answers.into_inner())
            .await
            .unwrap();
        let mut services = Vec::new();
        let mut files = Vec::new();
        for answer in answers {
            match answer.message_response.unwrap() {
                MessageResponse::ListServicesResponse(list) => {
                    services.extend(list.service.into_iter().map(|one| one.name));
                }
                MessageResponse::FileDescriptorResponse(found) => {
                    files.extend(found.file_descriptor_proto);
                }
                other => panic!("{other:?}"),
            }
        }
        services.sort();
        let ours = ask(MessageRequest::FileContainingSymbol(
            "linkbreakers.webhooks.internal.v1.ReportService".to_owned(),
        ));
        let mut refused = client
            .server_reflection_info(futures::stream::iter([ours]))
            .await
            .unwrap()
            .into_inner();
        let refused = refused.message().await.unwrap_err().code();
        (services, files, refused)
    }};
}

#[tokio::test]
async fn reflection_shows_the_public_api_in_both_versions_and_nothing_of_ours() {
    let world = World::start().await;
    for (services, files, refused) in [reflected!(world, v1), reflected!(world, v1alpha)] {
        let public = [
            "DeliveryService",
            "EventHistoryService",
            "JobService",
            "MetricsService",
            "OperatorService",
            "WebhookService",
            "WorkspaceService",
            "WorkspaceTokenService",
        ];
        let mut expected: Vec<_> = public
            .iter()
            .map(|name| format!("linkbreakers.webhooks.v1.{name}"))
            .collect();
        expected.insert(0, "grpc.health.v1.Health".to_owned());
        let reflection = services
            .iter()
            .filter(|name| name.starts_with("grpc.reflection."));
        assert_eq!(
            services.len() - reflection.count(),
            expected.len(),
            "{services:?}"
        );
        for name in &expected {
            assert!(services.contains(name), "{name} of {services:?}");
        }
        let file = prost_types::FileDescriptorProto::decode(files[0].as_slice()).unwrap();
        assert_eq!(file.package(), "linkbreakers.webhooks.v1");
        let service = file
            .service
            .iter()
            .find(|one| one.name() == "WebhookService");
        assert!(
            service
                .unwrap()
                .method
                .iter()
                .any(|one| one.name() == "CreateWebhook")
        );
        assert_eq!(files.len(), 1);
        assert_eq!(
            refused,
            Code::NotFound,
            "how our services talk is not shown"
        );
    }
}
