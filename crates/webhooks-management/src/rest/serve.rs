//! The HTTP listener: bounded in connections and in the time that first bytes and a head may take,
//! drained at shutdown.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use axum::{Router, extract::ConnectInfo};
use futures::StreamExt as _;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;
use webhooks_runtime::connections::{Limits, incoming};

use crate::connections::LIMITS;

/// How long a request's head may take, which is also how long a connection may idle between two.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// Most bytes of a request's head.
const MAX_HEAD_BYTES: usize = 32 * 1024;

/// Most requests at once on an HTTP/2 connection.
const MAX_STREAMS: u32 = 128;

/// How long open requests may take after shutdown was asked for.
const DRAIN: Duration = Duration::from_secs(10);

/// Serves until `shutdown`, then lets open requests finish.
pub(crate) async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) {
    serve_within(listener, router, LIMITS, shutdown).await;
}

async fn serve_within(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    shutdown: CancellationToken,
) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEAD_BYTES).unwrap_or(u32::MAX))
        .keep_alive_interval(Some(HEAD_TIMEOUT));
    let open = GracefulShutdown::new();
    let connections = TaskTracker::new();
    let mut incoming = Box::pin(incoming(listener, limits));
    while let Some(Some(Ok(connection))) = shutdown.run_until_cancelled(incoming.next()).await {
        let service = hyper::service::service_fn(per_request(router.clone(), connection.peer()));
        let connection = builder
            .serve_connection(TokioIo::new(connection), service)
            .into_owned();
        let connection = open.watch(connection);
        connections.spawn(async move {
            if let Err(error) = connection.await {
                // The peer went away or sent no HTTP: its business.
                tracing::debug!(error = %error, "connection ended");
            }
        });
    }
    drop(incoming);
    if tokio::time::timeout(DRAIN, open.shutdown()).await.is_err() {
        tracing::warn!("open requests were cut off at shutdown");
    }
}

fn per_request(
    router: Router,
    peer: SocketAddr,
) -> impl Fn(
    hyper::Request<Incoming>,
) -> futures::future::BoxFuture<'static, Result<axum::response::Response, Infallible>> {
    move |request| {
        let router = router.clone();
        Box::pin(async move {
            let mut request = request.map(axum::body::Body::new);
            request.extensions_mut().insert(ConnectInfo(peer));
            router.oneshot(request).await
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn whoever_says_nothing_keeps_nobody_out() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limits = Limits {
            connections: 4,
            speaks_within: Some(Duration::from_millis(100)),
        };
        let router = Router::new().route("/", axum::routing::get(async || "here"));
        let stop = CancellationToken::new();
        let served = serve_within(listener, router, limits, stop.clone());
        let asked = async {
            let mut silent = Vec::new();
            for first in ["", "", "P", "PRI * HTTP/2.0"] {
                let mut one = TcpStream::connect(address).await.unwrap();
                one.write_all(first.as_bytes()).await.unwrap();
                silent.push(one);
            }
            let mut client = TcpStream::connect(address).await.unwrap();
            let request = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
            client.write_all(request).await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            for mut one in silent {
                // The end, in order or not: what it had sent may lie unread.
                let mut rest = Vec::new();
                let ended = one.read_to_end(&mut rest).await;
                assert!(ended.is_err() || !rest.starts_with(b"HTTP/1.1 200"));
            }
            stop.cancel();
            answer
        };
        let both = async { tokio::join!(served, asked) };
        let ((), answer) = tokio::time::timeout(LIMIT, both).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.ends_with("here"), "{answer}");
    }
}
