//! The gRPC face: the same service as REST, and the door for dispatchers' reports.
//!
//! Callers show the same tokens, need the same scopes and share the same rate limits. Reports take
//! the internal token instead; they carry no customer's rights and are not limited here (a
//! dispatcher that is refused spools them).

mod access;
mod convert;
mod deliveries;
mod health;
mod methods;
mod once;
mod operations;
mod operator;
mod reports;
mod status;
mod trace;
mod webhooks;

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use subtle::ConstantTimeEq as _;
use tokio::{net::TcpListener, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, metadata::MetadataMap, transport::Server};
use tonic_health::ServingStatus;
use webhooks_domain::clock::Clock;
use webhooks_proto::{
    FILE_DESCRIPTOR_SET,
    internal::v1::report_service_server::{self, ReportServiceServer},
    v1::{
        delivery_service_server::{self, DeliveryServiceServer},
        event_history_service_server::{self, EventHistoryServiceServer},
        job_service_server::{self, JobServiceServer},
        metrics_service_server::{self, MetricsServiceServer},
        operator_service_server::{self, OperatorServiceServer},
        webhook_service_server::{self, WebhookServiceServer},
        workspace_service_server::{self, WorkspaceServiceServer},
        workspace_token_service_server::{self, WorkspaceTokenServiceServer},
    },
};
use webhooks_runtime::{
    Readiness, Secret,
    connections::incoming,
    rate::{Payer, RateLimiter},
    request_id::REQUEST_ID,
    tls::{GrpcServerTls, Peers},
};
use webhooks_store::{Actor, Store};

use crate::{
    auth::{Authenticator, Caller, bearer},
    background::ReportBatcher,
    connections::LIMITS,
    error::{ManagementError, parse_id},
    service::Management,
    source_ips::SourceIps,
};

use self::{
    methods::Access,
    status::Refused,
    trace::{Called, Trace},
};

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
    pub(crate) peers: Peers,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) source_ips: Arc<SourceIps>,
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
        let visit = self.authenticator.visit(peer, metadata.as_ref());
        let caller = self.authenticator.caller(header, &visit).await;
        let payer = match &caller {
            Ok(caller) => Payer::Token(caller.token_id.clone()),
            Err(_) => visit.payer(),
        };
        self.limiter.spend(payer, Instant::now()).admit()?;
        let caller = caller?;
        caller.require(scope)?;
        Ok(caller)
    }

    /// Answers a call: admission, the call itself, one line in the log.
    async fn call<I, O, F>(
        &self,
        request: Request<I>,
        run: impl FnOnce(Caller, I) -> F,
    ) -> Result<Response<O>, Status>
    where
        F: Future<Output = Result<Response<O>, Refused>>,
    {
        let call = Call::of(&request);
        let caller = match call.access() {
            Some(Access::Scope(scope)) => {
                let admitted = self.admit(request.metadata(), request.remote_addr(), scope);
                call.in_time(admitted).await
            }
            other => Err(not_of_this_kind(other)),
        };
        let (workspace, token) = match &caller {
            Ok(caller) => (Some(caller.workspace), Some(caller.token_id.clone())),
            Err(_) => (None, None),
        };
        let result = match caller {
            Ok(caller) => {
                call.in_time(Box::pin(run(caller, request.into_inner())))
                    .await
            }
            Err(error) => Err(error.into()),
        };
        call.finish((workspace, token), result)
    }

    /// Answers a call that needs no credentials.
    async fn call_public<I, O, F>(
        &self,
        request: Request<I>,
        run: impl FnOnce(I) -> F,
    ) -> Result<Response<O>, Status>
    where
        F: Future<Output = Result<Response<O>, Refused>>,
    {
        let call = Call::of(&request);
        let visit = self
            .authenticator
            .visit(request.remote_addr(), request.metadata().as_ref());
        let admitted = match call.access() {
            Some(Access::Anyone) => {
                let standing = self.limiter.spend(visit.payer(), call.started);
                standing.admit().map_err(ManagementError::from)
            }
            other => Err(not_of_this_kind(other)),
        };
        let result = match admitted {
            Ok(()) => call.in_time(Box::pin(run(request.into_inner()))).await,
            Err(error) => Err(error.into()),
        };
        call.finish((None, None), result)
    }

    /// Answers a call of the operator.
    async fn call_operator<I, O, F>(
        &self,
        request: Request<I>,
        run: impl FnOnce(Actor, I) -> F,
    ) -> Result<Response<O>, Status>
    where
        F: Future<Output = Result<Response<O>, Refused>>,
    {
        let call = Call::of(&request);
        let metadata = request.metadata();
        let header = metadata
            .get("authorization")
            .and_then(|value| value.to_str().ok());
        let visit = self
            .authenticator
            .visit(request.remote_addr(), metadata.as_ref());
        let operator = match call.access() {
            Some(Access::Operator) => self.authenticator.operator(header, &visit),
            other => Err(not_of_this_kind(other)),
        };
        let payer = match operator {
            Ok(_) => Payer::Token("operator".to_owned()),
            Err(_) => visit.payer(),
        };
        let standing = self.limiter.spend(payer, call.started);
        let admitted = standing.admit().map_err(ManagementError::from);
        let result = match admitted.and(operator) {
            Ok(actor) => {
                call.in_time(Box::pin(run(actor, request.into_inner())))
                    .await
            }
            Err(error) => Err(error.into()),
        };
        call.finish((None, None), result)
    }

    /// Refuses whoever is not one of our own dispatchers: by its certificate, where those are asked
    /// for, and by the internal token.
    fn require_internal<T>(&self, request: &Request<T>) -> Result<(), Status> {
        self.peers.admit(request).map_err(|refused| *refused)?;
        let header = request
            .metadata()
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

/// A call, as the layer around all of them has seen it come in.
struct Call {
    known: Option<Called>,
    started: Instant,
    /// The request's id.
    id: String,
}

impl Call {
    fn of<T>(request: &Request<T>) -> Self {
        let id = request.metadata().get(REQUEST_ID.as_str());
        Self {
            known: request.extensions().get::<Called>().copied(),
            started: Instant::now(),
            id: id
                .and_then(|id| id.to_str().ok())
                .unwrap_or_default()
                .to_owned(),
        }
    }

    fn access(&self) -> Option<Access> {
        self.known.map(|known| known.method.access)
    }

    /// Works until the caller's deadline. What only looks ends there; a change that has begun runs to
    /// its end on its own task, and the caller learns of it with its idempotency key.
    async fn in_time<T, E: From<ManagementError>>(
        &self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        match self.known.and_then(|known| known.deadline) {
            None => work.await,
            // Nothing is begun that nobody waits for.
            Some(deadline) if deadline <= Instant::now() => {
                Err(ManagementError::DeadlineExceeded.into())
            }
            Some(deadline) => tokio::time::timeout_at(deadline, work)
                .await
                .unwrap_or_else(|_| Err(ManagementError::DeadlineExceeded.into())),
        }
    }

    /// Counts and logs a call, and puts its refusal.
    fn finish<O>(
        &self,
        (workspace, token): (Option<uuid::Uuid>, Option<String>),
        result: Result<Response<O>, Refused>,
    ) -> Result<Response<O>, Status> {
        let method = self.known.map_or("unknown", |known| known.method.name());
        let code = result
            .as_ref()
            .map_or_else(Refused::code, |_| tonic::Code::Ok);
        let elapsed = self.started.elapsed();
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
            request.id = self.id,
            "grpc.request"
        );
        result.map_err(Refused::into_status)
    }
}

/// A method's code and its row in the table do not go together.
fn not_of_this_kind(access: Option<Access>) -> ManagementError {
    ManagementError::internal(anyhow::anyhow!("the method's row says {access:?}"))
}

/// An id of a webhook in a request.
fn webhook_id(text: &str) -> Result<uuid::Uuid, ManagementError> {
    parse_id(text).ok_or(ManagementError::WebhookNotFound)
}

/// What reflection shows: the public API. How our own services talk is nobody else's business.
fn public_descriptors() -> Result<FileDescriptorSet, prost::DecodeError> {
    let mut files = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET)?;
    files
        .file
        .retain(|file| !file.package().starts_with("linkbreakers.webhooks.internal"));
    Ok(files)
}

/// Serves until `shutdown`, then lets open requests finish.
///
/// # Errors
/// The listener fails, or the descriptors are broken.
pub(crate) async fn serve(
    listener: TcpListener,
    grpc: Grpc,
    tls: &GrpcServerTls,
    readiness: Readiness,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let (health, health_service) = tonic_health::server::health_reporter();
    let follower = follow_readiness(health, readiness);
    let public = public_descriptors().context("cannot read the descriptors")?;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_file_descriptor_set(public.clone())
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name(webhook_service_server::SERVICE_NAME)
            .with_service_name(delivery_service_server::SERVICE_NAME)
            .with_service_name(event_history_service_server::SERVICE_NAME)
            .with_service_name(job_service_server::SERVICE_NAME)
            .with_service_name(metrics_service_server::SERVICE_NAME)
            .with_service_name(workspace_token_service_server::SERVICE_NAME)
            .with_service_name(workspace_service_server::SERVICE_NAME)
            .with_service_name(operator_service_server::SERVICE_NAME)
            .with_service_name("grpc.health.v1.Health")
    };
    let server = tls
        .apply(Server::builder())
        .context("cannot use WEBHOOKS_GRPC_TLS_CERT")?
        .max_concurrent_streams(MAX_STREAMS)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .layer(Trace)
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .add_service(
            WebhookServiceServer::new(grpc.clone()).max_decoding_message_size(MAX_REQUEST_BYTES),
        )
        .add_service(
            DeliveryServiceServer::new(grpc.clone()).max_decoding_message_size(MAX_REQUEST_BYTES),
        )
        .add_service(
            EventHistoryServiceServer::new(grpc.clone())
                .max_decoding_message_size(MAX_REQUEST_BYTES),
        )
        .add_service(
            JobServiceServer::new(grpc.clone()).max_decoding_message_size(MAX_REQUEST_BYTES),
        )
        .add_service(
            MetricsServiceServer::new(grpc.clone()).max_decoding_message_size(MAX_REQUEST_BYTES),
        )
        .add_service(
            WorkspaceTokenServiceServer::new(grpc.clone())
                .max_decoding_message_size(MAX_REQUEST_BYTES),
        )
        .add_service(
            WorkspaceServiceServer::new(grpc.clone()).max_decoding_message_size(MAX_REQUEST_BYTES),
        )
        .add_service(
            OperatorServiceServer::new(grpc.clone()).max_decoding_message_size(MAX_REQUEST_BYTES),
        )
        .add_service(ReportServiceServer::new(grpc).max_decoding_message_size(MAX_REPORT_BYTES))
        .serve_with_incoming_shutdown(incoming(listener, LIMITS), shutdown.cancelled());
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
            event_history_service_server::SERVICE_NAME,
            job_service_server::SERVICE_NAME,
            metrics_service_server::SERVICE_NAME,
            workspace_token_service_server::SERVICE_NAME,
            workspace_service_server::SERVICE_NAME,
            operator_service_server::SERVICE_NAME,
            report_service_server::SERVICE_NAME,
        ] {
            health.set_service_status(name, status).await;
        }
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
