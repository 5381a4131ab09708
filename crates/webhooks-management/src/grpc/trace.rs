//! Around every call: its row in the method table, its deadline, an id in its answer, whatever the
//! answer is, and a span in the caller's trace.
//!
//! A layer and not each method does it, so that refusals of the transport, unknown methods, health
//! and reflection have an id too, and so that no method is reached that has no row. What the
//! transport itself refuses, because it cannot read the message, is put as the API puts refusals.
//!
//! Spans are made of customers' calls. Reports, health and reflection come by the thousand and would bury
//! them; they have a span when their caller has one.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use tokio::time::Instant;
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::{Instrument as _, Span, field::Empty};
use webhooks_runtime::{
    request_id::{REQUEST_ID, request_id, request_id_header},
    telemetry::set_parent,
};

use super::{
    MAX_REQUEST_BYTES,
    methods::{Method, PUBLIC},
    status::status_of,
};
use crate::error::{ManagementError, Violation};

/// How long a call of the public API may take that names no deadline, until its answer begins: one whose
/// message never comes would hold its place for ever. No method works for a minute.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// What is known of a call when it comes in; an extension of its request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Called {
    /// Its row in the method table.
    pub(super) method: &'static Method,
    /// When the caller stops waiting. Counted from here, before the transport's own timer: that one
    /// would answer CANCELLED, without an id.
    pub(super) deadline: Option<Instant>,
}

/// Makes [`Traced`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Trace;

impl<S> Layer<S> for Trace {
    type Service = Traced<S>;

    fn layer(&self, inner: S) -> Traced<S> {
        Traced { inner }
    }
}

/// A service whose answers have an id.
#[derive(Debug, Clone)]
pub(super) struct Traced<S> {
    inner: S,
}

impl<S, I, O> Service<Request<I>> for Traced<S>
where
    S: Service<Request<I>, Response = Response<O>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    O: Default + Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<I>) -> Self::Future {
        let id = request_id(request.headers());
        let span = span_of(request.uri().path(), request.headers(), &id);
        let id = request_id_header(&id);
        // Whoever asks again, for the audit log, is to be told the same one.
        request.headers_mut().insert(REQUEST_ID, id.clone());
        let public = request.uri().path().starts_with(PUBLIC);
        let mut until = None;
        if public {
            let Some(method) = Method::at(request.uri().path()) else {
                let unknown = Status::unimplemented("there is no such method");
                span.record("rpc.grpc.status_code", i64::from(unknown.code() as i32));
                let mut response = unknown.into_http::<O>();
                response.headers_mut().insert(REQUEST_ID, id);
                return Box::pin(std::future::ready(Ok(response)));
            };
            let timeout = timeout(request.headers());
            let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
            request.extensions_mut().insert(Called { method, deadline });
            until = Some(deadline.unwrap_or_else(|| Instant::now() + CALL_TIMEOUT));
        }
        let call = span.in_scope(|| self.inner.call(request));
        let answer = async move {
            let mut response = match until {
                None => call.await?,
                // The method itself looks at its deadline; here it ends the wait for the message.
                Some(until) => match tokio::time::timeout_at(until, call).await {
                    Ok(answered) => answered?,
                    Err(_) => status_of(&ManagementError::DeadlineExceeded).into_http(),
                },
            };
            if public && let Some(refusal) = unread(response.headers()) {
                response = status_of(&refusal).into_http();
            }
            // An answer without a message has its status here; of others only the end tells.
            if let Some(status) = response.headers().get("grpc-status") {
                let status = status.to_str().ok().and_then(|code| code.parse().ok());
                Span::current().record("rpc.grpc.status_code", status.unwrap_or(2_i64));
            }
            response.headers_mut().insert(REQUEST_ID, id);
            Ok(response)
        };
        Box::pin(answer.instrument(span))
    }
}

/// The refusal for a message that the transport could not read. Its own statuses for it are told from
/// ours by having no details; they would blame us (INTERNAL) or the wrong thing (OUT_OF_RANGE).
fn unread(headers: &HeaderMap) -> Option<ManagementError> {
    if headers.contains_key("grpc-status-details-bin") {
        return None;
    }
    match Code::from_bytes(headers.get("grpc-status")?.as_bytes()) {
        Code::OutOfRange => Some(ManagementError::BodyTooLarge(MAX_REQUEST_BYTES)),
        Code::Internal => {
            let message = "is not readable as the method's message";
            let violation = Violation::new("", "malformed_message", message);
            Some(ManagementError::Invalid(vec![violation]))
        }
        _ => None,
    }
}

/// How long the caller waits: up to eight digits and a unit. What is not readable is no deadline.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3_600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

fn span_of(path: &str, headers: &HeaderMap, id: &str) -> Span {
    let parent = headers
        .get("traceparent")
        .and_then(|value| value.to_str().ok());
    if !path.starts_with(PUBLIC) && parent.is_none() {
        return Span::none();
    }
    let span = tracing::info_span!(
        "grpc.request",
        otel.kind = "server",
        rpc.system = "grpc",
        rpc.method = path,
        rpc.grpc.status_code = Empty,
        request.id = id,
    );
    if let Some(parent) = parent {
        set_parent(&span, parent);
    }
    span
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(name: &'static str, value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_static(value));
        headers
    }

    #[test]
    fn a_deadline_is_read_in_every_unit_and_nonsense_is_none() {
        let read = |value| timeout(&headers("grpc-timeout", value));
        for (text, nanos) in [
            ("1H", 3_600_000_000_000),
            ("2M", 120_000_000_000),
            ("3S", 3_000_000_000),
            ("4m", 4_000_000),
            ("5u", 5_000),
            ("6n", 6),
        ] {
            assert_eq!(read(text), Some(Duration::from_nanos(nanos)), "{text}");
        }
        assert!(read("99999999H").is_some());
        for nonsense in ["", "S", "1", "1s", "-1S", "123456789S", "1.5S"] {
            assert_eq!(read(nonsense), None, "{nonsense}");
        }
        assert_eq!(timeout(&HeaderMap::new()), None);
    }

    #[test]
    fn only_the_transports_own_refusals_are_put_anew() {
        let code = |headers: &HeaderMap| unread(headers).map(|error| error.row().1);
        let of = |status| code(&headers("grpc-status", status));
        assert_eq!(of("11"), Some(Code::ResourceExhausted));
        assert_eq!(of("13"), Some(Code::InvalidArgument));
        assert_eq!(of("5"), None);
        assert_eq!(code(&HeaderMap::new()), None);
        let ours = status_of(&ManagementError::internal(anyhow::anyhow!("x"))).into_http::<()>();
        assert_eq!(code(ours.headers()), None);
    }
}
