//! The connection underneath the HTTP client, with the limits that the client has not.
//!
//! * **Bytes.** A receiver may send only so much for its handshake, for the head of an answer and for
//!   its body, whatever that is made of: informational answers by the million, chunk headers around
//!   single bytes, chatter on an idle connection. The attempt, not the receiver, says when the next
//!   part begins.
//! * **Stalled writes.** A receiver that takes nothing holds an attempt only until its deadline, but a
//!   connection could wait for it for ever, to say good-bye for example. After a while it does not.
//! * **Leaving.** A connection that an attempt gave up is reset, not closed: nothing it still owed is
//!   kept for a receiver that may never take it.
//! * **Small reads.** The client doubles its read buffer for whoever fills it, and a body in pieces
//!   keeps several such buffers. It gets at most [`READ_AT_ONCE`] bytes at a time, so a connection's
//!   buffers stay as small as for an ordinary answer, whatever the receiver sends.
//! * **Irregular heads.** Lines that end in a bare line feed are understood, but whoever sends them may
//!   disagree with others about where an answer ends; the connection is not used again.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper_util::client::legacy::connect::{Connected, Connection};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_rustls::client::TlsStream;

use crate::config::{MAX_BODY_WIRE_BYTES, MAX_HEAD_WIRE_BYTES};
use crate::sockets::Socket;

/// Most bytes handed to the client by one read; less than half of its smallest read buffer (8 KiB),
/// which therefore never grows.
const READ_AT_ONCE: usize = 4 * 1024;

/// The receiver sent more than it may for one part of an answer.
#[derive(Debug, Error)]
#[error("too many bytes for one part of an answer")]
pub(crate) struct TooManyBytes;

/// What an attempt may know and say about the connection it is on.
#[derive(Clone, Debug)]
pub(crate) struct Tap(Arc<State>);

#[derive(Debug)]
struct State {
    remote: SocketAddr,
    room: AtomicUsize,
    abandoned: AtomicBool,
    irregular: AtomicBool,
}

impl Tap {
    pub(crate) fn new(remote: SocketAddr) -> Self {
        Self(Arc::new(State {
            remote,
            room: AtomicUsize::new(MAX_HEAD_WIRE_BYTES),
            abandoned: AtomicBool::new(false),
            irregular: AtomicBool::new(false),
        }))
    }

    /// The other side.
    pub(crate) fn remote(&self) -> SocketAddr {
        self.0.remote
    }

    /// What comes next is the head of an answer.
    pub(crate) fn head_begins(&self) {
        self.0.room.store(MAX_HEAD_WIRE_BYTES, Ordering::Relaxed);
    }

    /// What comes next is a body; some of it may have come with the head.
    pub(crate) fn body_begins(&self) {
        self.0.room.store(MAX_BODY_WIRE_BYTES, Ordering::Relaxed);
    }

    /// Whether a head came in a form that one should not build upon.
    pub(crate) fn is_irregular(&self) -> bool {
        self.0.irregular.load(Ordering::Relaxed)
    }

    /// Nobody waits for this connection any more: reads and writes end, and it is reset.
    pub(crate) fn abandon(&self) {
        self.0.abandoned.store(true, Ordering::Relaxed);
    }

    fn is_abandoned(&self) -> bool {
        self.0.abandoned.load(Ordering::Relaxed)
    }

    fn receive(&self, bytes: usize) -> io::Result<()> {
        let take = |room: usize| room.checked_sub(bytes);
        match self
            .0
            .room
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
        {
            Ok(_) => Ok(()),
            Err(_) => Err(io::Error::other(TooManyBytes)),
        }
    }
}

/// The socket, below TLS.
pub(crate) struct Metered {
    stream: TcpStream,
    tap: Tap,
    patience: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    _socket: Socket,
}

impl Metered {
    pub(crate) fn new(stream: TcpStream, tap: Tap, patience: Duration, socket: Socket) -> Self {
        Self {
            _socket: socket,
            stream,
            tap,
            patience,
            stalled: None,
        }
    }

    fn check(&self) -> io::Result<()> {
        if self.tap.is_abandoned() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }

    /// Waits for a write only so long.
    fn written(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let patience = self.patience;
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        if self.tap.is_abandoned() {
            // It fails only on a socket that is gone already.
            self.stream.set_zero_linger().ok();
        }
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        Poll::Ready(self.tap.receive(buffer.filled().len() - before))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.written(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.tap.is_abandoned() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

enum Stream {
    Plain(Metered),
    Tls(Box<TlsStream<Metered>>),
}

/// What the HTTP client reads from and writes to.
pub(crate) struct Wire {
    stream: Stream,
    tap: Tap,
    head: HeadWatch,
}

impl Wire {
    pub(crate) fn plain(stream: Metered, tap: Tap) -> Self {
        Self::new(Stream::Plain(stream), tap)
    }

    pub(crate) fn tls(stream: TlsStream<Metered>, tap: Tap) -> Self {
        Self::new(Stream::Tls(Box::new(stream)), tap)
    }

    fn new(stream: Stream, tap: Tap) -> Self {
        Self {
            stream,
            tap,
            head: HeadWatch::default(),
        }
    }

    /// A request goes out, so that what comes next is a head.
    fn written(&mut self, written: &Poll<io::Result<usize>>) {
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.head = HeadWatch::started();
        }
    }
}

macro_rules! stream {
    ($wire:ident.$method:ident($($argument:expr),*)) => {
        match &mut $wire.stream {
            Stream::Plain(stream) => Pin::new(stream).$method($($argument),*),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).$method($($argument),*),
        }
    };
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let wire = &mut *self;
        let most = buffer.remaining().min(READ_AT_ONCE);
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(most));
        ready!(stream!(wire.poll_read(context, &mut part)))?;
        if wire.head.is_irregular_after(part.filled()) {
            wire.tap.0.irregular.store(true, Ordering::Relaxed);
        }
        let read = part.filled().len();
        buffer.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wire = &mut *self;
        let written = stream!(wire.poll_write(context, bytes));
        wire.written(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wire = &mut *self;
        let written = stream!(wire.poll_write_vectored(context, slices));
        wire.written(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = &mut *self;
        stream!(wire.poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.tap.is_abandoned() {
            return Poll::Ready(Ok(()));
        }
        let wire = &mut *self;
        stream!(wire.poll_shutdown(context))
    }
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new().extra(self.tap.clone())
    }
}

/// Looks for bare line feeds, from the first byte after a request to the first empty line.
#[derive(Debug, Default)]
struct HeadWatch {
    watching: bool,
    line_is_empty: bool,
    last: u8,
}

impl HeadWatch {
    fn started() -> Self {
        Self {
            watching: true,
            line_is_empty: true,
            last: 0,
        }
    }

    fn is_irregular_after(&mut self, bytes: &[u8]) -> bool {
        if !self.watching {
            return false;
        }
        let mut irregular = false;
        for byte in bytes {
            match byte {
                b'\n' => {
                    irregular |= self.last != b'\r';
                    if self.line_is_empty {
                        self.watching = false;
                        break;
                    }
                    self.line_is_empty = true;
                }
                b'\r' => {}
                _ => self.line_is_empty = false,
            }
            self.last = *byte;
        }
        irregular
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_line_feed_is_seen_in_a_head_and_not_after_it() {
        let check = |pieces: &[&str], expected: bool| {
            let mut watch = HeadWatch::started();
            let irregular = pieces
                .iter()
                .any(|piece| watch.is_irregular_after(piece.as_bytes()));
            assert_eq!(irregular, expected, "{pieces:?}");
        };
        check(&["HTTP/1.1 200 OK\r\nx: y\r\n\r\nbody\nbody"], false);
        check(
            &["HTTP/1.1 200 OK\r", "\nx: y\r\n", "\r", "\n", "a\nb"],
            false,
        );
        check(&["HTTP/1.1 200 OK\nx: y\n\n"], true);
        check(&["HTTP/1.1 200 OK\r\nx: y\n\r\n"], true);
        check(&["HTTP/1.1 200 OK\r\n\n"], true);
        assert!(!HeadWatch::default().is_irregular_after(b"\n\n"));
    }

    #[test]
    fn each_part_has_its_room() {
        let tap = Tap::new(([127, 0, 0, 1], 1).into());
        assert!(tap.receive(MAX_HEAD_WIRE_BYTES).is_ok());
        assert!(tap.receive(1).is_err());
        tap.body_begins();
        assert!(tap.receive(MAX_BODY_WIRE_BYTES).is_ok());
        assert!(tap.receive(1).is_err());
        tap.head_begins();
        assert!(tap.receive(1).is_ok());
    }
}
