//! Around every call: an id in its answer, whatever the answer is, and a span in the caller's trace.
//!
//! A layer and not each method does it, so that refusals of the transport, unknown methods, health
//! and reflection have an id too. Spans are made of customers' calls. Reports, health and reflection
//! come by the thousand and would bury them; they have a span when their caller has one.

use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request, Response};
use tower::{Layer, Service};
use tracing::{Instrument as _, Span, field::Empty};
use webhooks_runtime::telemetry::set_parent;

use crate::origin::{REQUEST_ID, request_id};

/// The path before the methods that customers and operators call.
const PUBLIC: &str = "/linkbreakers.webhooks.v1.";

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
        let id = HeaderValue::try_from(id).expect("ids are visible ASCII");
        // Whoever asks again, for the audit log, is to be told the same one.
        request.headers_mut().insert(REQUEST_ID, id.clone());
        let call = span.in_scope(|| self.inner.call(request));
        let answer = async move {
            let mut response = call.await?;
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
