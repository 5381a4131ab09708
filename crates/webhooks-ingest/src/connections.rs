//! Connections: how many, and how they end.
//!
//! A place is taken before a connection is accepted, so what is too many waits in the kernel's
//! queue and costs this process nothing.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::Router;
use futures::{Stream, stream};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::server::{Connected, TcpConnectInfo};
use tower::ServiceExt as _;

/// Longest time a request's head may take to arrive; an idle connection is closed after it too.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Most bytes of a request's head.
pub const HEAD_MAX_BYTES: usize = 64 * 1024;

/// Pause after the system refused to accept a connection (no file descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Who is at the other end of an HTTP request's connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// A connection with its place.
pub(crate) struct Guarded {
    stream: TcpStream,
    peer: SocketAddr,
    _place: OwnedSemaphorePermit,
}

/// Takes a place, then a connection.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> Option<Guarded> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Without it, answers wait for the client's delayed acknowledgements.
                if stream.set_nodelay(true).is_err() {
                    continue;
                }
                return Some(Guarded {
                    stream,
                    peer,
                    _place: place,
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The connections of a listener, at most `most` at once, for tonic.
pub(crate) fn incoming(
    listener: TcpListener,
    most: usize,
) -> impl Stream<Item = io::Result<Guarded>> + Send + 'static {
    let places = Arc::new(Semaphore::new(most));
    stream::unfold((listener, places), async |(listener, places)| {
        let connection = accept(&listener, &places).await?;
        Some((Ok(connection), (listener, places)))
    })
}

/// Serves HTTP/1.1 until `shutdown`, then lets every request in hand finish.
pub(crate) async fn serve_http(
    listener: TcpListener,
    most: usize,
    router: Router,
    shutdown: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(most));
    let connections = TaskTracker::new();
    while let Some(Some(connection)) = shutdown
        .run_until_cancelled(accept(&listener, &places))
        .await
    {
        connections.spawn(serve_connection(
            connection,
            router.clone(),
            shutdown.clone(),
        ));
    }
    // New connections are refused from here on; the kept ones are told to go.
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn serve_connection(connection: Guarded, router: Router, shutdown: CancellationToken) {
    let peer = Peer(connection.peer);
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

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Connected for Guarded {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

/// Binds a listener.
pub(crate) async fn bind(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}
