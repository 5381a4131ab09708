//! The gRPC face: the same service as REST, and the door for dispatchers' reports.
//!
//! Callers show the same tokens, need the same scopes and share the same rate limits. Reports take
//! the internal token instead; they carry no customer's rights and are not limited here (a
//! dispatcher that is refused spools them).

mod convert;
mod deliveries;
mod reports;
mod status;
mod webhooks;

use std::{sync::Arc, time::Duration};

use subtle::ConstantTimeEq as _;
use tokio::{net::TcpListener, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Response, Status,
    metadata::MetadataMap,
    transport::{Server, server::TcpIncoming},
};
use tonic_health::ServingStatus;
use webhooks_proto::{
    FILE_DESCRIPTOR_SET,
    internal::v1::report_service_server::{self, ReportServiceServer},
    v1::{
        delivery_service_server::{self, DeliveryServiceServer},
        webhook_service_server::{self, WebhookServiceServer},
    },
};
use webhooks_runtime::{Readiness, Secret};
use webhooks_store::Store;

use crate::{
    auth::{Authenticator, Caller, bearer},
    background::ReportBatcher,
    error::{ManagementError, parse_id},
    rate::{Payer, RateLimiter},
    service::Management,
};

use self::status::status_of;

/// Largest message of a customer, in bytes.
const MAX_REQUEST_BYTES: usize = 256 * 1024;

/// Largest batch of reports, in bytes.
const MAX_REPORT_BYTES: usize = 8 * 1024 * 1024;

/// Most requests at once on a connection.
const MAX_STREAMS: u32 = 256;

/// How often an idle connection is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// How long open requests may take after shutdown was asked for.
const DRAIN: Duration = Duration::from_secs(10);

/// What the face needs.
#[derive(Clone)]
pub(crate) struct Grpc {
    pub(crate) management: Management,
    pub(crate) store: Store,
    pub(crate) authenticator: Authenticator,
    pub(crate) limiter: Arc<RateLimiter>,
    pub(crate) batcher: ReportBatcher,
    pub(crate) internal_token: Secret,
}

impl Grpc {
    /// The caller, if it may call so often and has the scope.
    async fn admit(
        &self,
        metadata: &MetadataMap,
        peer: Option<std::net::SocketAddr>,
        scope: &'static str,
    ) -> Result<Caller, ManagementError> {
        let header = metadata
            .get("authorization")
            .and_then(|value| value.to_str().ok());
        let caller = self.authenticator.caller(header).await;
        let payer = match (&caller, peer) {
            (Ok(caller), _) => Payer::Token(caller.token_id.clone()),
            (Err(_), Some(peer)) => Payer::Address(peer.ip()),
            (Err(_), None) => Payer::Rest,
        };
        self.limiter.spend(payer, Instant::now()).admit()?;
        let caller = caller?;
        caller.require(scope)?;
        Ok(caller)
    }

    /// Answers a call: admission, the call itself, one line in the log.
    async fn call<I, O, F>(
        &self,
        method: &'static str,
        scope: &'static str,
        request: Request<I>,
        run: impl FnOnce(Caller, I) -> F,
    ) -> Result<Response<O>, Status>
    where
        F: Future<Output = Result<Response<O>, ManagementError>>,
    {
        let started = Instant::now();
        let caller = self
            .admit(request.metadata(), request.remote_addr(), scope)
            .await;
        let (workspace, token) = match &caller {
            Ok(caller) => (Some(caller.workspace), Some(caller.token_id.clone())),
            Err(_) => (None, None),
        };
        let result = match caller {
            Ok(caller) => run(caller, request.into_inner()).await,
            Err(error) => Err(error),
        };
        let code = result
            .as_ref()
            .map_or_else(|error| error.row().1, |_| tonic::Code::Ok);
        let elapsed = started.elapsed();
        metrics::counter!("webhooks_grpc_requests_total", "method" => method, "code" => format!("{code:?}"))
            .increment(1);
        metrics::histogram!("webhooks_grpc_request_seconds", "method" => method)
            .record(elapsed.as_secs_f64());
        tracing::info!(
            rpc.method = method,
            rpc.code = ?code,
            duration_ms = elapsed.as_secs_f64() * 1_000.0,
            workspace.id = workspace.map(tracing::field::display),
            token.id = token,
            "grpc.request"
        );
        result.map_err(|error| {
            crate::rest::report(&error);
            status_of(&error)
        })
    }

    /// Refuses whoever is not one of our own dispatchers.
    fn require_internal(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let header = metadata
            .get("authorization")
            .and_then(|value| value.to_str().ok());
        let shown = header.and_then(bearer).unwrap_or_default();
        let expected = self.internal_token.expose();
        if !expected.is_empty() && bool::from(shown.as_bytes().ct_eq(expected.as_bytes())) {
            Ok(())
        } else {
            Err(Status::unauthenticated("the internal token is required"))
        }
    }
}

/// An id of a webhook in a request.
fn webhook_id(text: &str) -> Result<uuid::Uuid, ManagementError> {
    parse_id(text).ok_or(ManagementError::WebhookNotFound)
}

/// Serves until `shutdown`, then lets open requests finish.
///
/// # Errors
/// The listener fails, or the descriptors are broken.
pub(crate) async fn serve(
    listener: TcpListener,
    grpc: Grpc,
    readiness: Readiness,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let (health, health_service) = tonic_health::server::health_reporter();
    let follower = follow_readiness(health, readiness);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name(webhook_service_server::SERVICE_NAME)
            .with_service_name(delivery_service_server::SERVICE_NAME)
            .with_service_name(report_service_server::SERVICE_NAME)
            .with_service_name("grpc.health.v1.Health")
    };
    let server = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .add_service(
            WebhookServiceServer::new(grpc.clone()).max_decoding_message_size(MAX_REQUEST_BYTES),
        )
        .add_service(
            DeliveryServiceServer::new(grpc.clone()).max_decoding_message_size(MAX_REQUEST_BYTES),
        )
        .add_service(ReportServiceServer::new(grpc).max_decoding_message_size(MAX_REPORT_BYTES))
        .serve_with_incoming_shutdown(
            TcpIncoming::from(listener).with_nodelay(Some(true)),
            shutdown.cancelled(),
        );
    // A health watch never ends by itself, and would hold the drain for ever.
    let deadline = async {
        shutdown.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        served = server => Ok(served?),
        () = follower => Ok(()),
        () = deadline => Ok(()),
    }
}

/// gRPC health says what `/readyz` says. Never ends.
async fn follow_readiness(health: tonic_health::server::HealthReporter, readiness: Readiness) {
    let mut changes = readiness.subscribe();
    loop {
        let ready = changes.borrow_and_update().is_ready();
        let status = if ready {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        for name in [
            "",
            webhook_service_server::SERVICE_NAME,
            delivery_service_server::SERVICE_NAME,
            report_service_server::SERVICE_NAME,
        ] {
            health.set_service_status(name, status).await;
        }
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
