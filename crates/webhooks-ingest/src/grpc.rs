//! The gRPC door: `EventService`, with the rich error model (`google.rpc.Status` details).
//!
//! The credential is judged before a message is read, so strangers cannot make this process hold
//! their megabytes.

use std::{panic::AssertUnwindSafe, sync::atomic::AtomicUsize, sync::atomic::Ordering};

use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use tonic::{Request, Response, Status, Streaming, service::Interceptor};
use webhooks_domain::event::{FieldProblem, format_micros};
use webhooks_proto::v1::{
    AcceptedEvent, EventError, EventResult, FieldViolation, PublishEventRequest,
    PublishEventResponse, PublishEventsRequest, PublishEventsResponse,
    event_service_server::EventService,
};

use crate::{
    accept::{Accepted, Acceptor, Door, Submission},
    auth::{Gate, Permit},
    http::{CALL_WINDOW, MANY_MAX_EVENTS, status_word},
    refusal::{Refusal, RefusalKind},
    rich_status,
};

/// Most bytes of one message.
pub const MESSAGE_MAX_BYTES: usize = 4 * 1024 * 1024;

/// Most events in one stream.
pub const STREAM_MAX_EVENTS: usize = 10_000;

/// Who calls, found out before the message is read.
#[derive(Debug, Clone)]
struct Caller {
    permit: Permit,
    traceparent: Option<String>,
}

/// Judges the credential.
#[derive(Clone)]
pub(crate) struct Doorkeeper(pub(crate) Gate);

impl Interceptor for Doorkeeper {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let text = |name: &str| {
            request
                .metadata()
                .get(name)
                .and_then(|value| value.to_str().ok())
        };
        let permit = self
            .0
            .authorise(text("authorization"))
            .map_err(|refusal| refused(&refusal))?;
        let traceparent = text("traceparent").map(str::to_owned);
        request.extensions_mut().insert(Caller {
            permit,
            traceparent,
        });
        Ok(request)
    }
}

/// The service.
#[derive(Clone)]
pub(crate) struct GrpcDoor {
    acceptor: Acceptor,
}

impl GrpcDoor {
    pub(crate) fn new(acceptor: Acceptor) -> Self {
        Self { acceptor }
    }

    async fn accept(
        self,
        caller: Caller,
        request: PublishEventRequest,
    ) -> Result<Accepted, Refusal> {
        let submission = Submission {
            payload: request.event,
            explicit_id: (!request.id.is_empty()).then_some(request.id),
            workspace: caller.permit.workspace,
            events_per_second: caller.permit.events_per_second,
            traceparent: caller.traceparent,
            door: Door::Grpc,
            received_at: None,
        };
        let accepting = AssertUnwindSafe(self.acceptor.accept(submission)).catch_unwind();
        Box::pin(accepting).await.unwrap_or_else(|_| {
            tracing::error!("a request panicked");
            Err(Refusal::new(
                RefusalKind::Internal,
                "an error of ours; nothing can be said of the event",
            ))
        })
    }
}

#[tonic::async_trait]
impl EventService for GrpcDoor {
    async fn publish_event(
        &self,
        request: Request<PublishEventRequest>,
    ) -> Result<Response<PublishEventResponse>, Status> {
        let caller = caller(&request)?;
        let result = self.clone().accept(caller, request.into_inner()).await;
        let accepted = result.map_err(|refusal| refused(&refusal))?;
        let event = AcceptedEvent {
            accepted_at: format_micros(accepted.accepted_at),
            duplicate: accepted.duplicate,
            id: accepted.id,
        };
        Ok(Response::new(PublishEventResponse { event: Some(event) }))
    }

    async fn publish_events(
        &self,
        request: Request<PublishEventsRequest>,
    ) -> Result<Response<PublishEventsResponse>, Status> {
        let caller = caller(&request)?;
        let events = request.into_inner().events;
        if events.len() > MANY_MAX_EVENTS {
            return Err(too_many(MANY_MAX_EVENTS));
        }
        let door = self.clone();
        let results = stream::iter(events)
            .map(move |event| {
                door.clone()
                    .accept(caller.clone(), event)
                    .map(result_of)
                    .boxed()
            })
            .buffered(CALL_WINDOW)
            .collect()
            .await;
        Ok(Response::new(PublishEventsResponse { results }))
    }

    async fn stream_events(
        &self,
        request: Request<Streaming<PublishEventRequest>>,
    ) -> Result<Response<PublishEventsResponse>, Status> {
        let caller = caller(&request)?;
        let door = self.clone();
        let seen = AtomicUsize::new(0);
        let results = request
            .into_inner()
            .map(|event| {
                if seen.fetch_add(1, Ordering::Relaxed) >= STREAM_MAX_EVENTS {
                    return Err(too_many(STREAM_MAX_EVENTS));
                }
                event
            })
            .map_ok(|event| {
                door.clone()
                    .accept(caller.clone(), event)
                    .map(|result| Ok(result_of(result)))
                    .boxed()
            })
            .try_buffered(CALL_WINDOW)
            .try_collect()
            .await?;
        Ok(Response::new(PublishEventsResponse { results }))
    }
}

fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    let caller = request.extensions().get::<Caller>().cloned();
    caller.ok_or_else(|| Status::unauthenticated("no credential was judged"))
}

fn result_of(result: Result<Accepted, Refusal>) -> EventResult {
    let status = status_word(&result).to_owned();
    match result {
        Ok(accepted) => EventResult {
            id: accepted.id,
            status,
            error: None,
        },
        Err(refusal) => EventResult {
            id: refusal.event_id.clone().unwrap_or_default(),
            status,
            error: Some(EventError {
                code: i32::from(refusal.kind.status()),
                code_type: refusal.kind.code_type().to_owned(),
                message: refusal.message,
                details: refusal.problems.into_iter().map(violation).collect(),
            }),
        },
    }
}

fn violation(problem: FieldProblem) -> FieldViolation {
    FieldViolation {
        field: problem.field,
        reason: problem.reason.to_owned(),
        message: problem.message,
    }
}

fn too_many(most: usize) -> Status {
    refused(&Refusal::of_field(
        RefusalKind::TooLarge,
        "events",
        "too_many_events",
        format!("one call takes at most {most} events"),
    ))
}

/// The refusal as a status with details, counted by its code.
fn refused(refusal: &Refusal) -> Status {
    let code = refusal.kind.grpc();
    metrics::counter!("webhooks_ingest_grpc_errors_total", "code" => format!("{code:?}"))
        .increment(1);
    Status::with_details(code, refusal.message.clone(), rich_status::details(refusal))
}
