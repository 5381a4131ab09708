//! The HTTP listener: bounded in connections and in the time a head may take, drained at shutdown.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::ConnectInfo};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

/// Most connections at once; more wait in the listener's queue.
const MAX_CONNECTIONS: usize = 4_096;

/// How long a request's head may take, which is also how long a connection may idle between two.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// Most bytes of a request's head.
const MAX_HEAD_BYTES: usize = 32 * 1024;

/// Most requests at once on an HTTP/2 connection.
const MAX_STREAMS: u32 = 128;

/// How long open requests may take after shutdown was asked for.
const DRAIN: Duration = Duration::from_secs(10);

/// Pause after a failed accept: the likely cause is that file handles ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until `shutdown`, then lets open requests finish.
pub(crate) async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) {
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
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let permit = Arc::clone(&permits).acquire_owned();
        let accept = async { (permit.await, listener.accept().await) };
        let Some((permit, accepted)) = shutdown.run_until_cancelled(accept).await else {
            break;
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Answers are small and complete: waiting to fill a packet only delays them.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "nodelay was refused");
        }
        let service = hyper::service::service_fn(per_request(router.clone(), peer));
        let connection = builder
            .serve_connection(TokioIo::new(stream), service)
            .into_owned();
        let connection = open.watch(connection);
        connections.spawn(async move {
            if let Err(error) = connection.await {
                // The peer went away or sent no HTTP: its business.
                tracing::debug!(error = %error, "connection ended");
            }
            drop(permit);
        });
    }
    drop(listener);
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
