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

/// Serves HTTP/1.1 until `shutdown`, then lets every request in hand finish.
pub(crate) async fn serve_http(
    listener: TcpListener,
    most: usize,
    router: Router,
    shutdown: CancellationToken,
) {
    let connections = TaskTracker::new();
    let mut incoming = Box::pin(incoming(listener, at_most(most)));
    while let Some(Some(Ok(connection))) = shutdown.run_until_cancelled(incoming.next()).await {
        connections.spawn(serve_connection(
            connection,
            router.clone(),
            shutdown.clone(),
        ));
    }
    // New connections are refused from here on; the kept ones are told to go.
    drop(incoming);
    connections.close();
    connections.wait().await;
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
