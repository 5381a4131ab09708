//! The gRPC door: `EventService`, with the rich error model (`google.rpc.Status` details).
//!
//! The credential is judged before a message is read, so strangers cannot make this process hold
//! their megabytes.

use std::panic::AssertUnwindSafe;

use futures::{FutureExt as _, StreamExt as _, stream};
use prost::Message as _;
use tonic::{Code, Request, Response, Status, Streaming, body::Body, service::Interceptor};
use webhooks_domain::{
    event::{FieldProblem, ROOT_FIELD, format_micros, reason},
    hop::Hop,
};
use webhooks_proto::v1::{
    AcceptedEvent, EventError, EventResult, FieldViolation, PublishEventRequest,
    PublishEventResponse, PublishEventsRequest, PublishEventsResponse,
    event_service_server::{EventService, EventServiceServer},
};

use crate::{
    accept::{Accepted, Acceptor, Door, Submission},
    auth::{Gate, Permit},
    budget::CallShare,
    http::{
        CALL_WINDOW, MANY_MAX_BYTES, MANY_MAX_EVENTS, hop_of, is_event_id, own_id, status_word,
    },
    refusal::{Refusal, RefusalKind},
    rich_status,
};

/// Most bytes of one message, a batch included: what an array of events has over HTTP.
pub const MESSAGE_MAX_BYTES: usize = MANY_MAX_BYTES;

/// Bytes before each message on the wire.
const FRAME_BYTES: usize = 5;

/// Most events in one stream.
pub const STREAM_MAX_EVENTS: usize = 10_000;

/// Who calls, and what the call says of its events, found out before a message is read.
#[derive(Debug, Clone)]
struct Caller {
    permit: Permit,
    traceparent: Option<String>,
    hop: Hop,
}

/// Judges the credential, and reads the rest of the metadata.
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
            .authorise(
                text("authorization"),
                request.remote_addr().map(|peer| peer.ip()),
                request.metadata().as_ref(),
            )
            .map_err(|refusal| refused(&refusal))?;
        let traceparent = text("traceparent").map(str::to_owned);
        let hop = hop_of(request.metadata().as_ref()).map_err(|refusal| refused(&refusal))?;
        request.extensions_mut().insert(Caller {
            permit,
            traceparent,
            hop,
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

    pub(crate) fn server(self) -> EventServiceServer<Self> {
        EventServiceServer::new(self).max_decoding_message_size(MESSAGE_MAX_BYTES)
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
            hop: caller.hop,
            request_id: None,
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

    /// One of several: its verdict names the event as the request did, also when the event was
    /// refused before anyone read it.
    async fn accept_one_of_many(self, caller: Caller, request: PublishEventRequest) -> EventResult {
        let named = request.clone();
        let result = self.accept(caller, request).await;
        result_of(result.map_err(|refusal| refusal.or_about(|| requested_id(named))))
    }
}

/// The id that a request gives its event, beside it or inside; `None` where there is none, or none
/// that could be an id.
fn requested_id(request: PublishEventRequest) -> Option<String> {
    if request.id.is_empty() {
        own_id(&request.event)
    } else {
        is_event_id(&request.id).then_some(request.id)
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
                    .accept_one_of_many(caller.clone(), event)
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
        let share = request.extensions().get::<CallShare>().cloned();
        let door = self.clone();
        let results = request
            .into_inner()
            .enumerate()
            .map(|(number, event)| match event {
                Ok(_) if number >= STREAM_MAX_EVENTS => Err(more_than(STREAM_MAX_EVENTS)),
                Ok(event) => Ok(event),
                Err(status) => Err(broken_off(&status)),
            })
            // What was judged is answered, whatever comes after it.
            .scan(false, |ended, event| {
                let next = (!*ended).then_some(event);
                *ended |= next.as_ref().is_some_and(Result::is_err);
                std::future::ready(next)
            })
            .map(|event| match event {
                Ok(event) => {
                    let bytes = event.encoded_len() + FRAME_BYTES;
                    let share = share.clone();
                    door.clone()
                        .accept_one_of_many(caller.clone(), event)
                        .map(move |result| {
                            if let Some(share) = &share {
                                share.give_back(bytes);
                            }
                            result
                        })
                        .boxed()
                }
                Err(refusal) => std::future::ready(result_of(Err(refusal))).boxed(),
            })
            .buffered(CALL_WINDOW)
            .collect()
            .await;
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
    refused(&more_than(most))
}

fn more_than(most: usize) -> Refusal {
    Refusal::of_field(
        RefusalKind::TooLarge,
        "events",
        "too_many_events",
        format!("one call takes at most {most} events"),
    )
}

/// A message that is larger than [`MESSAGE_MAX_BYTES`].
fn message_too_large() -> Refusal {
    Refusal::of_field(
        RefusalKind::TooLarge,
        ROOT_FIELD,
        reason::TOO_LARGE,
        format!("one message has at most {MESSAGE_MAX_BYTES} bytes"),
    )
}

/// A message that is none of the method's: not protobuf, cut off, or not there.
fn message_unreadable() -> Refusal {
    Refusal::of_field(
        RefusalKind::BrokenBody,
        ROOT_FIELD,
        "malformed_message",
        "is not readable as the method's message",
    )
}

/// The answer to a call whose one message was not read. It never reaches a handler, and the library says
/// so with a code and words of its own, without details: that it is too large (`OUT_OF_RANGE`), or that
/// it is no such message (`INTERNAL`, as if the fault were ours). Callers get refusals with details; of
/// what is too large the one that the same bytes have over HTTP.
pub(crate) fn in_our_words(answer: axum::http::Response<Body>) -> axum::http::Response<Body> {
    let status = Status::from_header_map(answer.headers());
    match status.filter(|status| status.details().is_empty()) {
        Some(status) if status.code() == Code::OutOfRange => {
            refused(&message_too_large()).into_http()
        }
        Some(status) if status.code() == Code::Internal => {
            refused(&message_unreadable()).into_http()
        }
        _ => answer,
    }
}

/// Why nothing more of a stream could be read.
fn broken_off(status: &Status) -> Refusal {
    let kind = match status.code() {
        Code::Unavailable => RefusalKind::Overloaded,
        Code::OutOfRange => return message_too_large(),
        Code::ResourceExhausted => RefusalKind::TooLarge,
        _ => RefusalKind::BrokenBody,
    };
    Refusal::new(
        kind,
        format!("the stream was read up to here: {}", status.message()),
    )
}

/// The refusal as a status with details, counted by its code.
fn refused(refusal: &Refusal) -> Status {
    let code = refusal.kind.grpc();
    metrics::counter!("webhooks_ingest_grpc_errors_total", "code" => format!("{code:?}"))
        .increment(1);
    Status::with_details(code, refusal.message.clone(), rich_status::details(refusal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_library_says_of_a_message_is_answered_anew() {
        let library = Status::out_of_range("decoded message length too large");
        let answer = in_our_words(library.into_http());
        let status = Status::from_header_map(answer.headers()).unwrap();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "one message has at most 4194304 bytes");
        assert!(!status.details().is_empty());
        let library = Status::internal("failed to decode Protobuf message");
        let answer = in_our_words(library.into_http());
        let status = Status::from_header_map(answer.headers()).unwrap();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "is not readable as the method's message");
        assert!(!status.details().is_empty());
        let other = in_our_words(Status::unavailable("busy").into_http());
        let status = Status::from_header_map(other.headers()).unwrap();
        assert_eq!(status.message(), "busy");
        let answered = in_our_words(axum::http::Response::new(Body::empty()));
        assert!(Status::from_header_map(answered.headers()).is_none());
    }

    #[test]
    fn an_event_is_named_by_its_request_and_else_by_itself() {
        let named = |id: &str, event: &'static str| {
            requested_id(PublishEventRequest {
                event: event.as_bytes().into(),
                id: id.to_owned(),
            })
        };
        assert_eq!(named("e1", "{").as_deref(), Some("e1"));
        assert_eq!(named("e1", r#"{"id":"e2"}"#).as_deref(), Some("e1"));
        assert_eq!(named("", r#"{"id":"e2"}"#).as_deref(), Some("e2"));
        assert_eq!(named("two words", r#"{"id":"e2"}"#), None);
        assert_eq!(named("", "{"), None);
    }
}
