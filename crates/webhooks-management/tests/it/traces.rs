//! A caller's trace goes on in both faces, and every answer tells its request's id.

use std::sync::{Arc, Mutex};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{SdkTracerProvider, SpanData, SpanExporter},
};
use reqwest::Method;
use tonic::{Code, Request, Status, metadata::MetadataMap};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tracing_subscriber::{Layer as _, filter::filter_fn, layer::SubscriberExt as _};
use uuid::Uuid;
use webhooks_domain::webhook::Plan;
use webhooks_proto::{
    internal::v1::{ReportRequest, report_service_client::ReportServiceClient},
    v1::{
        self, delivery_service_client::DeliveryServiceClient,
        event_service_client::EventServiceClient, operator_service_client::OperatorServiceClient,
        webhook_service_client::WebhookServiceClient,
    },
};

use crate::support::{INTERNAL_TOKEN, OPERATOR_TOKEN, World, with_token};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

#[derive(Clone, Debug, Default)]
struct Collected(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Collected {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().unwrap().extend(batch);
        Ok(())
    }
}

impl Collected {
    /// Spans of this name that are the incoming one's children, as their attributes.
    fn children(&self, name: &str) -> Vec<String> {
        let spans = self.0.lock().unwrap();
        let ours = spans.iter().filter(|span| {
            span.name == name
                && span.span_context.trace_id().to_string() == TRACE
                && span.parent_span_id.to_string() == CALLER
        });
        ours.map(|span| {
            let mut told: Vec<_> = span
                .attributes
                .iter()
                .map(|one| format!("{}={}", one.key, one.value))
                .collect();
            told.sort();
            told.join(" ")
        })
        .collect()
    }
}

/// One thread: the service's tasks are traced by this test's own subscriber and by no other's.
#[tokio::test]
async fn a_callers_trace_goes_on_in_both_faces() {
    let collected = Collected::default();
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(collected.clone())
        .build();
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("test"))
        .with_filter(filter_fn(|metadata| {
            metadata.target().starts_with("webhooks") && *metadata.level() <= tracing::Level::INFO
        }));
    let subscriber = tracing_subscriber::registry().with(layer);
    let guard = tracing::subscriber::set_default(subscriber);
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let incoming = format!("00-{TRACE}-{CALLER}-01");
    let mut client = WebhookServiceClient::new(world.channel().await);
    // A place in the code that another test's thread comes to first is remembered as one that nobody
    // traces: so come to both once, and have that looked at again.
    world.get("/v1/webhooks", token).await;
    client
        .list_webhooks(with_token(token, v1::ListWebhooksRequest::default()))
        .await
        .unwrap();
    tracing::callsite::rebuild_interest_cache();

    let headers = [("traceparent", incoming.as_str()), ("x-request-id", "r-1")];
    let path = "/v1/webhooks?pageSize=1";
    let listed = world.send(Method::GET, path, token, &headers, None).await;
    assert_eq!(listed.headers["x-request-id"], "r-1");
    let spans = collected.children("api.request");
    let [span] = spans.as_slice() else {
        panic!("{spans:?}")
    };
    for part in [
        "http.request.method=GET",
        "http.route=/v1/webhooks",
        "http.response.status_code=200",
        "request.id=r-1",
    ] {
        assert!(span.contains(part), "no {part} in {span}");
    }
    // A request without a trace has one of its own, and so has one whose header is broken.
    for headers in [&[][..], &[("traceparent", "00-zz-01")]] {
        world.send(Method::GET, path, token, headers, None).await;
    }
    assert_eq!(collected.children("api.request").len(), 1);

    let mut request = with_token(
        token,
        v1::GetWebhookRequest {
            id: Uuid::new_v4().to_string(),
        },
    );
    let metadata = request.metadata_mut();
    metadata.insert("traceparent", incoming.parse().unwrap());
    metadata.insert("x-request-id", "g-1".parse().unwrap());
    let unknown = client.get_webhook(request).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    let spans = collected.children("grpc.request");
    let [span] = spans.as_slice() else {
        panic!("{spans:?}")
    };
    for part in [
        "rpc.method=/linkbreakers.webhooks.v1.WebhookService/GetWebhook",
        "rpc.grpc.status_code=5",
        "request.id=g-1",
    ] {
        assert!(span.contains(part), "no {part} in {span}");
    }
    drop(guard);
}

fn id_in(metadata: &MetadataMap) -> String {
    let id = metadata.get("x-request-id").expect("every answer has one");
    id.to_str().unwrap().to_owned()
}

fn refused<T>(answer: Result<T, Status>, code: Code) -> String {
    let Err(status) = answer else {
        panic!("it was answered")
    };
    assert_eq!(status.code(), code, "{status:?}");
    id_in(status.metadata())
}

#[tokio::test]
async fn every_grpc_answer_tells_its_requests_id() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let channel = world.channel().await;
    let mut webhooks = WebhookServiceClient::new(channel.clone());
    let list = v1::ListWebhooksRequest::default;
    let named = |id: &str| {
        let mut request = with_token(token, list());
        request
            .metadata_mut()
            .insert("x-request-id", id.parse().unwrap());
        request
    };
    let kept = webhooks.list_webhooks(named("mine-1")).await.unwrap();
    assert_eq!(id_in(kept.metadata()), "mine-1");
    let replaced = webhooks.list_webhooks(named("not sane")).await.unwrap();
    id_in(replaced.metadata()).parse::<Uuid>().unwrap();

    let mut ids = vec![
        refused(webhooks.list_webhooks(list()).await, Code::Unauthenticated),
        refused(
            webhooks
                .get_webhook(with_token(token, v1::GetWebhookRequest::default()))
                .await,
            Code::NotFound,
        ),
        refused(
            OperatorServiceClient::new(channel.clone())
                .get_workspace(with_token(
                    OPERATOR_TOKEN,
                    v1::GetWorkspaceRequest::default(),
                ))
                .await,
            Code::NotFound,
        ),
        // A service that is not served here.
        refused(
            EventServiceClient::new(channel.clone())
                .publish_event(v1::PublishEventRequest::default())
                .await,
            Code::Unimplemented,
        ),
        refused(
            ReportServiceClient::new(channel.clone())
                .report(with_token(token, ReportRequest::default()))
                .await,
            Code::Unauthenticated,
        ),
    ];
    let reported = ReportServiceClient::new(channel.clone())
        .report(with_token(INTERNAL_TOKEN, ReportRequest::default()))
        .await;
    ids.push(id_in(reported.unwrap().metadata()));
    let health = HealthClient::new(channel.clone())
        .check(Request::new(HealthCheckRequest::default()))
        .await;
    ids.push(id_in(health.unwrap().metadata()));
    let tail = DeliveryServiceClient::new(channel)
        .tail_deliveries(with_token(token, v1::TailDeliveriesRequest::default()))
        .await;
    ids.push(id_in(tail.unwrap().metadata()));
    let count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), count, "each has its own");
}
