//! A tail as server-sent events: `event: delivery` for each report, a comment now and then so that
//! nothing in between takes the connection for dead.

use std::{convert::Infallible, time::Duration};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures::stream;
use http::{
    HeaderValue,
    header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS},
};
use serde_json::json;
use webhooks_domain::event::format_micros;

use crate::{
    service::{Tail, Tailed},
    view::{AttemptView, DeliveryView},
};

/// How often something is sent when nothing happens.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// The endless answer.
pub(super) fn response(tail: Tail) -> Response {
    // The first bytes at once: they tell the client that it follows.
    let greeting = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b": following\n\n"))]);
    let reports = stream::unfold(tail, |mut tail| async move {
        let part = match tokio::time::timeout(HEARTBEAT, tail.next()).await {
            Ok(Some(Ok(tailed))) => event(&tailed),
            // Who connects again is told why by the answer.
            Ok(Some(Err(_))) => Bytes::from_static(b": the token no longer opens this\n\n"),
            Ok(None) => return None,
            Err(_) => Bytes::from_static(b": still here\n\n"),
        };
        Some((Ok(part), tail))
    });
    let body = futures::StreamExt::chain(greeting, reports);
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

fn event(tailed: &Tailed) -> Bytes {
    let mut data = json!({
        "at": format_micros(tailed.at),
        "delivery": DeliveryView::of(&tailed.delivery),
    });
    if let Some(attempt) = &tailed.attempt {
        data["attempt"] = json!(AttemptView::of(attempt));
    }
    if tailed.skipped > 0 {
        data["skipped"] = tailed.skipped.into();
    }
    // JSON on one line: it has no line break of its own.
    format!("event: delivery\ndata: {data}\n\n")
        .into_bytes()
        .into()
}
