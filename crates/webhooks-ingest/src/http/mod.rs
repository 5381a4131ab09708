//! The HTTP door: `POST /v1/events`, one event or an array.
//!
//! Order of judgement: credential, media type, size, then the events themselves. One event is
//! answered by its own status. An array is answered 200 with a result for each, because its
//! events are accepted or refused each for itself and there is no one status for both. Every answer,
//! whatever it is, has the request's id.

mod answer;
mod body;
mod split;

use std::{net::IpAddr, panic::AssertUnwindSafe, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, StatusCode, header},
    middleware::{self, Next},
    response::Response,
    routing::{get, post},
};
use futures::{FutureExt as _, StreamExt as _, stream};
use serde::Serialize;
use tokio::sync::Semaphore;
use webhooks_domain::{
    content_type::is_json,
    event::{EVENT_ID_MAX_BYTES, reason},
    hop::{self, Hop},
};
use webhooks_runtime::request_id::{REQUEST_ID, request_id, request_id_header};

pub(crate) use self::answer::status_word;
use self::body::Announced;
pub(crate) use self::split::own_id;
pub use self::{
    body::{BODY_TIMEOUT, MANY_MAX_BYTES},
    split::MANY_MAX_EVENTS,
};
use crate::{
    accept::{Acceptor, Door, Submission},
    auth::{Gate, Permit},
    connections::Peer,
    hops,
    refusal::{Refusal, RefusalKind},
};

/// Events of one call that are being stored at the same time.
pub(crate) const CALL_WINDOW: usize = 256;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The header's name as error bodies tell it.
const KEY_FIELD: &str = "Idempotency-Key";

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

const HOP: HeaderName = HeaderName::from_static(hop::HEADER);

/// What can be judged of a request by its headers.
struct Admitted {
    permit: Permit,
    /// The event's id, if it stands there.
    key: Option<String>,
    hop: Hop,
}

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct HttpDoor {
    gate: Gate,
    acceptor: Acceptor,
    budget: Arc<Semaphore>,
}

impl HttpDoor {
    pub(crate) fn new(gate: Gate, acceptor: Acceptor, budget: Arc<Semaphore>) -> Self {
        Self {
            gate,
            acceptor,
            budget,
        }
    }

    /// The paths of this door.
    pub(crate) fn router(self) -> Router {
        Router::new()
            .route("/", get(about))
            .route("/v1", get(about))
            .route("/v1/events", post(events))
            .method_not_allowed_fallback(async || {
                refuse(&Refusal::new(
                    RefusalKind::Method,
                    "this path does not take this method",
                ))
            })
            .fallback(async || {
                refuse(&Refusal::new(
                    RefusalKind::NotFound,
                    "there is nothing at this path",
                ))
            })
            // Last, so that it is around the fallbacks too.
            .layer(middleware::from_fn(identified))
            .with_state(self)
    }

    async fn publish(&self, request: Request) -> Result<Response, Refusal> {
        let (parts, body) = request.into_parts();
        let headers = parts.headers;
        let peer = parts.extensions.get::<Peer>().map(|peer| peer.0.ip());
        let Admitted { permit, key, hop } = match self.admit(&headers, peer) {
            Ok(admitted) => admitted,
            Err(refusal) => {
                // A client that asked first (`Expect: 100-continue`) has sent nothing yet.
                if !headers.contains_key(header::EXPECT) {
                    body::discard(body).await;
                }
                return Err(refusal);
            }
        };
        // One that cannot be read is as good as none: a new trace begins.
        let traceparent = text(&headers, &TRACEPARENT)
            .ok()
            .flatten()
            .map(str::to_owned);
        let taken = self.read(&headers, body).await?;
        let submission = Submission {
            payload: taken.bytes.clone(),
            explicit_id: key,
            workspace: permit.workspace,
            events_per_second: permit.events_per_second,
            traceparent,
            hop,
            request_id: Some(request_id(&headers)),
            door: Door::Http,
            received_at: None,
        };
        if taken.many {
            return self.publish_many(&submission).await;
        }
        let accepted = Box::pin(self.acceptor.accept(submission)).await?;
        Ok(answer::one(&accepted))
    }

    /// Everything that can be judged by the headers: whose it is, the event's id if it is there, and its
    /// hop. A hop that may not enter is refused later, with the event, as at the other doors.
    fn admit(&self, headers: &HeaderMap, peer: Option<IpAddr>) -> Result<Admitted, Refusal> {
        let authorization = text(headers, &header::AUTHORIZATION)?;
        let permit = self.gate.authorise(authorization, peer, headers)?;
        if !is_json(text(headers, &header::CONTENT_TYPE)?) {
            return Err(Refusal::new(
                RefusalKind::MediaType,
                "send `Content-Type: application/json`",
            ));
        }
        let encoding = text(headers, &header::CONTENT_ENCODING)?;
        if encoding.is_some_and(|encoding| !encoding.eq_ignore_ascii_case("identity")) {
            return Err(Refusal::new(
                RefusalKind::MediaType,
                "compressed bodies are not taken",
            ));
        }
        let key = text(headers, &IDEMPOTENCY_KEY)?;
        key.map_or(Ok(()), check_key)?;
        Ok(Admitted {
            permit,
            key: key.map(str::to_owned),
            hop: hop_of(headers)?,
        })
    }

    async fn read(&self, headers: &HeaderMap, body: Body) -> Result<body::Taken, Refusal> {
        let announced = Announced {
            length: text(headers, &header::CONTENT_LENGTH)?.and_then(|length| length.parse().ok()),
            waits: headers.contains_key(header::EXPECT),
        };
        let one_max = self.acceptor.limits().max_bytes;
        body::read(body, announced, one_max, &self.budget).await
    }

    async fn publish_many(&self, array: &Submission) -> Result<Response, Refusal> {
        if array.explicit_id.is_some() {
            return Err(Refusal::of_field(
                RefusalKind::Invalid,
                KEY_FIELD,
                "not_for_arrays",
                "an Idempotency-Key names one event; give each event of an array its own `id`",
            ));
        }
        let submissions: Vec<Submission> = split::split(&array.payload)?
            .into_iter()
            .map(|payload| Submission {
                payload,
                ..array.clone()
            })
            .collect();
        let acceptor = self.acceptor.clone();
        let results: Vec<_> = stream::iter(submissions)
            .map(move |submission| {
                let acceptor = acceptor.clone();
                async move {
                    let payload = submission.payload.clone();
                    let result = acceptor.accept(submission).await;
                    result.map_err(|refusal| refusal.or_about(|| own_id(&payload)))
                }
                .boxed()
            })
            .buffered(CALL_WINDOW)
            .collect()
            .await;
        Ok(answer::many(&results))
    }
}

/// Gives a request its id, and its answer the same one.
async fn identified(mut request: Request, next: Next) -> Response {
    let id = request_id_header(&request_id(request.headers()));
    // Whoever asks again, for the log, is to be told the same one.
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let mut response = next.run(request).await;
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

async fn events(State(door): State<HttpDoor>, request: Request) -> Response {
    let result = AssertUnwindSafe(Box::pin(door.publish(request)))
        .catch_unwind()
        .await;
    let result = result.unwrap_or_else(|_| {
        tracing::error!("a request panicked");
        Err(Refusal::new(
            RefusalKind::Internal,
            "an error of ours; nothing can be said of the event",
        ))
    });
    result.unwrap_or_else(|refusal| refuse(&refusal))
}

/// Answers with the error body, counted by its status.
fn refuse(refusal: &Refusal) -> Response {
    metrics::counter!(
        "webhooks_ingest_http_errors_total",
        "code" => refusal.kind.status().to_string()
    )
    .increment(1);
    answer::refusal(refusal)
}

#[derive(Serialize)]
struct About {
    name: &'static str,
    version: &'static str,
}

async fn about() -> Response {
    let version = option_env!("WEBHOOKS_VERSION").unwrap_or(env!("CARGO_PKG_VERSION"));
    answer::json(
        StatusCode::OK,
        &About {
            name: "linkbreakers-webhooks-ingest",
            version,
        },
    )
}

/// The rules of an event's id, told of the header that holds it.
fn check_key(key: &str) -> Result<(), Refusal> {
    let (reason, message) = if key.is_empty() {
        (
            reason::EMPTY,
            "the header Idempotency-Key is empty: leave it out, or send the event's id",
        )
    } else if !is_event_id(key) {
        (
            reason::INVALID_CHARACTERS,
            "the header Idempotency-Key has at most 255 visible ASCII characters without spaces",
        )
    } else {
        return Ok(());
    };
    let kind = RefusalKind::Invalid;
    Err(Refusal::of_field(kind, KEY_FIELD, reason, message))
}

/// Whether a text may be an event's id.
pub(crate) fn is_event_id(text: &str) -> bool {
    (1..=EVENT_ID_MAX_BYTES).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The hop that HTTP headers, or the metadata of gRPC, say.
///
/// # Errors
/// [`RefusalKind::Invalid`] with the header's name: it is none, or stands there more than once.
pub(crate) fn hop_of(headers: &HeaderMap) -> Result<Hop, Refusal> {
    hops::read(text(headers, &HOP)?)
}

/// A header that may stand there once, as text.
fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>, Refusal> {
    let bad = |reason, message: &str| {
        Refusal::of_field(
            RefusalKind::Invalid,
            name.as_str(),
            reason,
            format!("the header {message}"),
        )
    };
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(bad("duplicate_key", "stands there more than once"));
    }
    let value = value
        .to_str()
        .map_err(|_| bad("invalid_characters", "is not visible ASCII"))?;
    Ok(Some(value.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_an_events_id_and_a_bad_one_names_the_header() {
        assert_eq!(check_key("e-1"), Ok(()));
        assert_eq!(check_key(&"x".repeat(EVENT_ID_MAX_BYTES)), Ok(()));
        for (bad, reason) in [
            ("", reason::EMPTY),
            ("a b", reason::INVALID_CHARACTERS),
            (
                &*"x".repeat(EVENT_ID_MAX_BYTES + 1),
                reason::INVALID_CHARACTERS,
            ),
        ] {
            let refusal = check_key(bad).unwrap_err();
            assert_eq!(
                (
                    refusal.kind,
                    &*refusal.problems[0].field,
                    refusal.problems[0].reason
                ),
                (RefusalKind::Invalid, "Idempotency-Key", reason),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_header_that_is_there_twice_or_not_ascii_is_refused() {
        let mut headers = HeaderMap::new();
        assert_eq!(text(&headers, &IDEMPOTENCY_KEY), Ok(None));
        headers.append(IDEMPOTENCY_KEY, "a".parse().unwrap());
        assert_eq!(text(&headers, &IDEMPOTENCY_KEY), Ok(Some("a")));
        headers.append(IDEMPOTENCY_KEY, "b".parse().unwrap());
        assert_eq!(
            text(&headers, &IDEMPOTENCY_KEY).unwrap_err().kind,
            RefusalKind::Invalid
        );
        headers.insert(IDEMPOTENCY_KEY, "ü".parse().unwrap());
        assert_eq!(
            text(&headers, &IDEMPOTENCY_KEY).unwrap_err().kind,
            RefusalKind::Invalid
        );
    }
}
