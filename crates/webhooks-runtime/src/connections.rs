//! Connections of a listener: how many, and how long one may take to say what it speaks.
//!
//! A place is taken before a connection is accepted, so what is too many waits in the kernel's queue
//! and costs this process nothing. The places would be worth little if whoever says nothing could
//! keep one: servers have a time limit for a request's head, but one that speaks HTTP/1 and HTTP/2
//! waits without any for the first bytes, which tell the two apart. [`Limits::speaks_within`] ends a
//! connection that has not sent them in time; from then on the server's own limits hold.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{Stream, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Sleep,
};
use tonic::transport::server::{Connected, TcpConnectInfo};

/// What an HTTP/2 connection begins with (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Pause after a failed accept: the likely cause is that file handles ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a listener allows.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once; more wait in the listener's queue.
    pub connections: usize,
    /// How long a connection may take until it is clear what it speaks; `None` = as long as its
    /// server waits.
    pub speaks_within: Option<Duration>,
}

/// A connection with its place, which it gives back when it is dropped.
pub struct Connection<S = TcpStream> {
    stream: S,
    peer: SocketAddr,
    /// Until it has said what it speaks, where it has to in time: the limit, and how many bytes it
    /// has sent as HTTP/2 would.
    undecided: Option<(Pin<Box<Sleep>>, usize)>,
    _place: OwnedSemaphorePermit,
}

impl<S> Connection<S> {
    fn new(
        stream: S,
        peer: SocketAddr,
        speaks_within: Option<Duration>,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            stream,
            peer,
            undecided: speaks_within.map(|within| (Box::pin(tokio::time::sleep(within)), 0)),
            _place: place,
        }
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Looks at bytes that have arrived. What differs from HTTP/2's first bytes is something else.
    fn heard(&mut self, bytes: &[u8]) {
        if let Some((_, matched)) = &mut self.undecided {
            let expected = &PREFACE[*matched..];
            let count = bytes.len().min(expected.len());
            *matched += count;
            if bytes[..count] != expected[..count] || *matched == PREFACE.len() {
                self.undecided = None;
            }
        }
    }
}

/// The connections of a listener, within its limits. Dropping it closes the listener.
pub fn incoming(
    listener: TcpListener,
    limits: Limits,
) -> impl Stream<Item = io::Result<Connection>> + Send + 'static {
    let places = Arc::new(Semaphore::new(limits.connections));
    stream::unfold((listener, places), move |(listener, places)| async move {
        let place = Arc::clone(&places).acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    // Answers are small and complete: waiting to fill a packet only delays them.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "nodelay was refused");
                    }
                    let connection = Connection::new(stream, peer, limits.speaks_within, place);
                    return Some((Ok(connection), (listener, places)));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(context, buffer) {
            self.heard(&buffer.filled()[before..]);
            return Poll::Ready(read);
        }
        let Some((limit, _)) = &mut self.undecided else {
            return Poll::Pending;
        };
        ready!(limit.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
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

impl Connected for Connection<TcpStream> {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, StreamExt as _};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const WITHIN: Duration = Duration::from_secs(30);

    /// What a server reads that waits for ever, after a client has sent `first` and then no more.
    async fn read_after(first: &[u8]) -> Result<io::Result<usize>, tokio::time::error::Elapsed> {
        let (mut client, server) = tokio::io::duplex(1_024);
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        let mut server = Connection::new(server, peer, Some(WITHIN), place);
        client.write_all(first).await.unwrap();
        let mut buffer = vec![0; first.len()];
        server.read_exact(&mut buffer).await.unwrap();
        let read = tokio::time::timeout(WITHIN * 10, server.read(&mut [0; 16])).await;
        drop(client);
        read
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_say_what_he_speaks_is_cut_off_and_nobody_else() {
        for silent in [&b""[..], b"P", b"PRI * HTTP/2.0\r\n", &PREFACE[..23]] {
            let error = read_after(silent).await.unwrap().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{silent:?}");
        }
        for speaks in [&b"G"[..], b"POST / HTTP/1.1\r\n", PREFACE, b"\x16"] {
            assert!(read_after(speaks).await.is_err(), "{speaks:?}");
        }
    }

    #[tokio::test]
    async fn a_place_is_taken_before_a_connection_and_given_back_after_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limits = Limits {
            connections: 1,
            speaks_within: Some(WITHIN),
        };
        let mut connections = std::pin::pin!(incoming(listener, limits));
        let client = TcpStream::connect(address).await.unwrap();
        let _second = TcpStream::connect(address).await.unwrap();
        let first = connections.next().await.unwrap().unwrap();
        assert_eq!(first.peer(), client.local_addr().unwrap());
        assert!(connections.next().now_or_never().is_none(), "no place");
        drop(first);
        connections.next().await.unwrap().unwrap();
    }
}
