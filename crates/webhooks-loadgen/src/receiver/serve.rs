//! Connections and requests.

use std::{
    net::TcpStream as StdTcpStream,
    os::fd::AsFd as _,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rand::Rng as _;
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;
use webhooks_domain::signing::SigningKey;

use super::{
    Shared,
    behaviour::Behaviour,
    inspect::{body_hash, event_id, text, webhook_id},
    journal::{Captured, DEFAULT_KEEP},
};
use crate::{ledger::Received, now_micros};

/// Longest body that is read.
const BODY_MAX_BYTES: usize = 4 * 1024 * 1024;

/// After a failed accept (no file descriptors left, for example).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

type Answer = Response<Full<Bytes>>;

/// The connection is cut instead of answered.
#[derive(Debug, thiserror::Error)]
#[error("the connection is cut on purpose")]
struct Cut;

pub(super) async fn accept(
    listener: TcpListener,
    shared: Arc<Shared>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, _)) => {
                let (shared, stop) = (Arc::clone(&shared), stop.clone());
                tasks.spawn(async move {
                    stop.run_until_cancelled(connection(stream, shared)).await;
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn connection(stream: TcpStream, shared: Arc<Shared>) {
    // Without these two the connection works too, only slower and without resets.
    stream.set_nodelay(true).ok();
    let second: Option<StdTcpStream> = stream.as_fd().try_clone_to_owned().ok().map(Into::into);
    let second = Arc::new(second);
    let service =
        service_fn(move |request| handle(request, Arc::clone(&shared), Arc::clone(&second)));
    // Clients go away as they like.
    http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .await
        .ok();
}

async fn handle(
    request: Request<Incoming>,
    shared: Arc<Shared>,
    socket: Arc<Option<StdTcpStream>>,
) -> Result<Answer, Cut> {
    let (head, body) = request.into_parts();
    let body = match Limited::new(body, BODY_MAX_BYTES).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            return Ok(plain(StatusCode::PAYLOAD_TOO_LARGE));
        }
        Err(_) => return Err(Cut),
    };
    match (&head.method, head.uri.path()) {
        (&Method::POST, "/secrets") => Ok(add_secret(&shared, &body)),
        (&Method::POST, _) => deliver(&head, body, &shared, socket.as_ref().as_ref()).await,
        (&Method::GET, "/requests") => Ok(requests(&shared, head.uri.query().unwrap_or_default())),
        (&Method::GET, "/count") => Ok(json(format!(
            "{{\"count\":{}}}",
            shared.count.load(Ordering::Relaxed)
        ))),
        (&Method::DELETE, "/requests") => {
            shared.clear();
            Ok(json("{}".to_owned()))
        }
        (&Method::GET, "/livez") => Ok(plain(StatusCode::OK)),
        _ => Ok(plain(StatusCode::NOT_FOUND)),
    }
}

async fn deliver(
    head: &http::request::Parts,
    body: Bytes,
    shared: &Shared,
    socket: Option<&StdTcpStream>,
) -> Result<Answer, Cut> {
    let received_at = now_micros();
    let behaviour = match Behaviour::of(head.uri.path()) {
        Behaviour::Flaky(permille) => {
            let draw = shared
                .dice
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .random_range(0..1_000);
            Behaviour::Answer(if draw < permille {
                StatusCode::INTERNAL_SERVER_ERROR
            } else {
                StatusCode::OK
            })
        }
        other => other,
    };
    let status = match behaviour {
        Behaviour::Answer(status) => status.as_u16(),
        Behaviour::Hang(_) | Behaviour::Flaky(_) => 200,
        Behaviour::Reset => 0,
        Behaviour::RetryAfter(_) => 429,
    };
    note(head, body, shared, received_at, status);
    match behaviour {
        Behaviour::Answer(status) => Ok(plain(status)),
        Behaviour::Flaky(_) => Ok(plain(StatusCode::OK)),
        Behaviour::RetryAfter(seconds) => {
            let mut answer = plain(StatusCode::TOO_MANY_REQUESTS);
            answer
                .headers_mut()
                .insert(header::RETRY_AFTER, seconds.into());
            Ok(answer)
        }
        Behaviour::Hang(time) => {
            tokio::time::sleep(time).await;
            Ok(plain(StatusCode::OK))
        }
        Behaviour::Reset => {
            // Where the option cannot be set the connection is closed instead of reset.
            if let Some(twin) = socket
                .and_then(|socket| socket.try_clone().ok())
                .and_then(|twin| TcpStream::from_std(twin).ok())
            {
                twin.set_zero_linger().ok();
            }
            Err(Cut)
        }
    }
}

/// Keeps the request, in memory and in the ledger.
fn note(head: &http::request::Parts, body: Bytes, shared: &Shared, received_at: i64, status: u16) {
    shared.count.fetch_add(1, Ordering::Relaxed);
    let webhook = webhook_id(&body);
    let verified = shared.secrets.verdict(
        webhook,
        &head.headers,
        &body,
        received_at.div_euclid(1_000_000),
    );
    let path = || {
        head.uri
            .path_and_query()
            .map_or_else(String::new, ToString::to_string)
    };
    shared.ledger.append_with(|| Received {
        at: received_at,
        monotonic: u64::try_from(shared.started.elapsed().as_micros()).unwrap_or(u64::MAX),
        path: path(),
        message_id: text(&head.headers, "webhook-id").to_owned(),
        attempt: text(&head.headers, "webhook-attempt").parse().unwrap_or(0),
        event: event_id(&body),
        webhook,
        body_hash: body_hash(&body),
        status,
        verified,
    });
    if shared.journal.keeps() {
        let headers = head.headers.clone();
        shared.journal.push(Captured {
            received_at,
            path: path(),
            headers,
            body,
            verified,
            status,
            webhook,
        });
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NewSecret {
    secret: String,
    webhook_id: Option<Uuid>,
}

fn add_secret(shared: &Shared, body: &[u8]) -> Answer {
    let parsed = serde_json::from_slice::<NewSecret>(body).map_err(|error| error.to_string());
    let key = parsed.and_then(|new| {
        Ok((
            new.webhook_id,
            SigningKey::parse(&new.secret).map_err(|error| error.to_string())?,
        ))
    });
    match key {
        Ok((webhook, key)) => {
            shared.secrets.add(webhook, key);
            json("{}".to_owned())
        }
        Err(problem) => {
            let mut answer = json(serde_json::json!({ "message": problem }).to_string());
            *answer.status_mut() = StatusCode::BAD_REQUEST;
            answer
        }
    }
}

fn requests(shared: &Shared, query: &str) -> Answer {
    let value = |name: &str| {
        query
            .split('&')
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    };
    let limit = value("limit")
        .and_then(|limit| limit.parse().ok())
        .unwrap_or(100)
        .min(DEFAULT_KEEP);
    let found = shared.journal.newest(limit, |request| {
        value("webhookId").is_none_or(|id| request.is_of(id))
    });
    let views: Vec<_> = found.iter().map(|request| request.view()).collect();
    json(serde_json::to_string(&views).expect("strings and numbers always become JSON"))
}

fn json(text: String) -> Answer {
    let mut answer = Response::new(Full::new(text.into()));
    answer.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    answer
}

fn plain(status: StatusCode) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = status;
    answer
}
