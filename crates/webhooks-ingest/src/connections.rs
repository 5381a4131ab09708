//! Ingest's connections: how an HTTP one is served, and how they end.

use std::{io, net::SocketAddr, time::Duration};

use axum::Router;
use futures::StreamExt as _;
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;
use webhooks_runtime::connections::{Connection, Limits, incoming};

/// Longest time a request's head may take to arrive, and a connection until it is clear what it
/// speaks; an idle HTTP connection is closed after it too.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Most bytes of a request's head.
pub const HEAD_MAX_BYTES: usize = 64 * 1024;

/// Who is at the other end of an HTTP request's connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// Connections at a door: `most` at once.
pub(crate) fn at_most(most: usize) -> Limits {
    Limits {
        connections: most,
        speaks_within: Some(HEAD_TIMEOUT),
    }
}

/// How long requests and calls in hand may take after shutdown was asked for, or as long as a publish may
/// take and [`DRAIN_SLACK`] where that is longer: shorter than the drain of the process, so that what NATS
/// has not been sent is sent afterwards.
pub const DRAIN: Duration = Duration::from_secs(10);

/// What a request takes beside its publish.
const DRAIN_SLACK: Duration = Duration::from_secs(2);

/// How long open requests have after shutdown was asked for.
pub(crate) fn drain(publish_timeout: Duration) -> Duration {
    DRAIN.max(publish_timeout + DRAIN_SLACK)
}

/// Serves HTTP/1.1 until `shutdown`, then lets every request in hand finish, within `drain`: one whose
/// head or body still drips then is cut off.
pub(crate) async fn serve_http(
    listener: TcpListener,
    most: usize,
    router: Router,
    drain: Duration,
    shutdown: CancellationToken,
) {
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    let mut incoming = Box::pin(incoming(listener, at_most(most)));
    while let Some(Some(Ok(connection))) = shutdown.run_until_cancelled(incoming.next()).await {
        let served = serve_connection(connection, router.clone(), shutdown.clone());
        let cut = cut.clone();
        connections.spawn(async move { cut.run_until_cancelled(served).await });
    }
    // New connections are refused from here on; the kept ones are told to go.
    drop(incoming);
    connections.close();
    if tokio::time::timeout(drain, connections.wait())
        .await
        .is_err()
    {
        tracing::info!(open = connections.len(), "http.open_requests_cut");
        cut.cancel();
        connections.wait().await;
    }
}

async fn serve_connection(connection: Connection, router: Router, shutdown: CancellationToken) {
    let peer = Peer(connection.peer());
    let service = router.map_request(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        request
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_MAX_BYTES)
        .serve_connection(TokioIo::new(connection), TowerToHyperService::new(service));
    let mut served = std::pin::pin!(served);
    let result = tokio::select! {
        result = served.as_mut() => result,
        () = shutdown.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended badly");
    }
}

/// Binds a listener.
pub(crate) async fn bind(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}
