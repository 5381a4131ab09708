//! Receivers that misbehave on purpose: a list of steps, byte for byte, on raw sockets or over TLS.
//!
//! A receiver plays its steps on every connection and writes down what it got and when the other side
//! left, so that a test can count requests on the wire and see that sockets are closed.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::within;

/// The most bytes written down of one connection.
const MAX_LOG: usize = 2 * 1024 * 1024;

/// Makes an answer from a request's head.
pub(crate) type Answering = Arc<dyn Fn(&str) -> Vec<u8> + Send + Sync>;

/// One thing that a receiver does.
#[derive(Clone)]
pub(crate) enum Step {
    /// Reads a request, head and body.
    Request,
    /// Reads a request's head and leaves the body where it is.
    Head,
    /// Sends these bytes.
    Send(Vec<u8>),
    /// Sends what the function makes of the last head that was read.
    Answer(Answering),
    /// Sends these bytes again and again, as fast as they are taken.
    Flood(Vec<u8>),
    /// Sends these bytes again and again, with a pause before each time.
    Drip(Vec<u8>, Duration),
    /// Does nothing for a while, not even read.
    Pause(Duration),
    /// Does nothing, not even read, until the test says so.
    UntilReleased,
    /// Reads until the other side leaves.
    Hold,
    /// Starts over with the first step.
    Again,
    /// Says that nothing more comes, and reads until the other side leaves.
    Fin,
    /// Resets the connection.
    Reset,
}

pub(crate) fn send(bytes: impl AsRef<[u8]>) -> Step {
    Step::Send(bytes.as_ref().to_vec())
}

/// Reads a request and answers with these bytes; the connection stays open.
pub(crate) fn answering(bytes: impl AsRef<[u8]>) -> Vec<Step> {
    vec![Step::Request, send(bytes), Step::Again]
}

/// What happened on one connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    pub(crate) received: Vec<u8>,
    pub(crate) closed: Option<Instant>,
}

#[derive(Default)]
struct Book {
    connections: Vec<Log>,
}

pub(crate) struct Hostile {
    pub(crate) address: SocketAddr,
    book: Arc<Mutex<Book>>,
    changes: watch::Receiver<u64>,
    release: watch::Sender<bool>,
}

impl Hostile {
    /// A receiver on plain TCP.
    pub(crate) async fn start(steps: Vec<Step>) -> Self {
        Self::start_with(listen([127, 0, 0, 1], 0), None, steps)
    }

    /// A receiver over TLS.
    pub(crate) async fn tls(config: Arc<ServerConfig>, steps: Vec<Step>) -> Self {
        Self::start_with(listen([127, 0, 0, 1], 0), Some(config.into()), steps)
    }

    pub(crate) fn start_with(
        listener: TcpListener,
        tls: Option<TlsAcceptor>,
        steps: Vec<Step>,
    ) -> Self {
        let address = listener.local_addr().expect("an address");
        let book = Arc::new(Mutex::new(Book::default()));
        let (changed, changes) = watch::channel(0);
        let (release, released) = watch::channel(false);
        let shelf = Arc::clone(&book);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let index = {
                    let mut book = shelf.lock().expect("not poisoned");
                    book.connections.push(Log::default());
                    book.connections.len() - 1
                };
                changed.send_modify(|n| *n += 1);
                let player = Player {
                    book: Arc::clone(&shelf),
                    index,
                    changed: changed.clone(),
                    released: released.clone(),
                    unread: Vec::new(),
                    head: String::new(),
                };
                tokio::spawn(player.run(stream, tls.clone(), steps.clone()));
            }
        });
        Self {
            address,
            book,
            changes,
            release,
        }
    }

    pub(crate) fn http_url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    pub(crate) fn https_url(&self, host: &str) -> String {
        format!("https://{host}:{}/hook", self.address.port())
    }

    /// Lets steps go on that wait for it.
    pub(crate) fn release(&self) {
        self.release.send_replace(true);
    }

    pub(crate) fn connections(&self) -> usize {
        self.book.lock().expect("not poisoned").connections.len()
    }

    /// Everything each connection received, as far as it was written down.
    pub(crate) fn logs(&self) -> Vec<Log> {
        self.book.lock().expect("not poisoned").connections.clone()
    }

    /// Requests on the wire, over all connections.
    pub(crate) fn requests(&self) -> usize {
        let book = self.book.lock().expect("not poisoned");
        book.connections
            .iter()
            .map(|log| count(&log.received, b"POST /hook"))
            .sum()
    }

    /// Waits until that many connections are closed by the other side, and at most so long.
    pub(crate) async fn wait_closed(&self, count: usize, at_most: Duration) {
        let all = async {
            let mut changes = self.changes.clone();
            loop {
                let closed = self
                    .logs()
                    .iter()
                    .filter(|log| log.closed.is_some())
                    .count();
                if closed >= count {
                    return;
                }
                changes.changed().await.expect("the receiver runs");
            }
        };
        if tokio::time::timeout(at_most, all).await.is_err() {
            panic!("the connection is still open after {at_most:?}");
        }
    }
}

/// A listener that takes little at a time, so that a sender notices when nobody reads.
pub(crate) fn listen(ip: [u8; 4], port: u16) -> TcpListener {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("an option");
    socket.set_recv_buffer_size(16 * 1024).expect("an option");
    let address = SocketAddr::new(IpAddr::from(ip), port);
    socket.bind(address).expect("a free port");
    socket.listen(1024).expect("a listener")
}

pub(crate) fn count(text: &[u8], word: &[u8]) -> usize {
    text.windows(word.len())
        .filter(|part| *part == word)
        .count()
}

struct Player {
    book: Arc<Mutex<Book>>,
    index: usize,
    changed: watch::Sender<u64>,
    released: watch::Receiver<bool>,
    unread: Vec<u8>,
    head: String,
}

/// A stream that can be reset.
trait Line: AsyncRead + AsyncWrite + Unpin + Send {
    fn reset(&self);
}

impl Line for TcpStream {
    fn reset(&self) {
        self.set_zero_linger().expect("an open socket");
    }
}

impl Line for TlsStream<TcpStream> {
    fn reset(&self) {
        self.get_ref().0.reset();
    }
}

impl Player {
    async fn run(mut self, stream: TcpStream, tls: Option<TlsAcceptor>, steps: Vec<Step>) {
        // An error means that the other side has left, which is what is noted.
        match tls {
            None => self.play(stream, &steps).await.ok(),
            Some(tls) => match tls.accept(stream).await {
                Ok(stream) => self.play(stream, &steps).await.ok(),
                Err(_) => None,
            },
        };
        let mut book = self.book.lock().expect("not poisoned");
        book.connections[self.index].closed = Some(Instant::now());
        drop(book);
        self.changed.send_modify(|n| *n += 1);
    }

    async fn play(&mut self, mut stream: impl Line, steps: &[Step]) -> std::io::Result<()> {
        let mut at = 0;
        while let Some(step) = steps.get(at) {
            at += 1;
            match step {
                Step::Request => self.read_request(&mut stream).await?,
                Step::Head => self.read_head(&mut stream).await?,
                Step::Send(bytes) => write(&mut stream, bytes).await?,
                Step::Answer(answer) => {
                    let bytes = answer(&self.head);
                    write(&mut stream, &bytes).await?;
                }
                Step::Flood(bytes) => loop {
                    write(&mut stream, bytes).await?;
                },
                Step::Drip(bytes, pause) => loop {
                    tokio::time::sleep(*pause).await;
                    write(&mut stream, bytes).await?;
                },
                Step::Pause(pause) => tokio::time::sleep(*pause).await,
                Step::UntilReleased => {
                    let released = self.released.wait_for(|released| *released).await;
                    released.expect("the test runs");
                }
                Step::Hold => while self.read(&mut stream).await? {},
                Step::Again => at = 0,
                Step::Fin => {
                    stream.shutdown().await?;
                    while self.read(&mut stream).await? {}
                }
                Step::Reset => {
                    stream.reset();
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Reads something; false when the other side has left.
    async fn read(&mut self, stream: &mut impl Line) -> std::io::Result<bool> {
        let mut buffer = vec![0; 16 * 1024];
        let length = stream.read(&mut buffer).await?;
        let bytes = &buffer[..length];
        self.unread.extend_from_slice(bytes);
        {
            let mut book = self.book.lock().expect("not poisoned");
            let log = &mut book.connections[self.index].received;
            let room = MAX_LOG.saturating_sub(log.len()).min(length);
            log.extend_from_slice(&bytes[..room]);
        }
        self.changed.send_modify(|n| *n += 1);
        Ok(length > 0)
    }

    async fn read_head(&mut self, stream: &mut impl Line) -> std::io::Result<()> {
        let end = loop {
            let found = self.unread.windows(4).position(|end| end == b"\r\n\r\n");
            if let Some(end) = found {
                break end + 4;
            }
            if !self.read(stream).await? {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        };
        let head: Vec<u8> = self.unread.drain(..end).collect();
        self.head = String::from_utf8_lossy(&head).into_owned();
        Ok(())
    }

    async fn read_request(&mut self, stream: &mut impl Line) -> std::io::Result<()> {
        self.read_head(stream).await?;
        let length = self
            .head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .and_then(|value| value.parse().ok())
            .unwrap_or(0);
        while self.unread.len() < length {
            if !self.read(stream).await? {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        self.unread.drain(..length);
        Ok(())
    }
}

async fn write(stream: &mut impl Line, bytes: &[u8]) -> std::io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

/// The head of a chunked 200.
pub(crate) const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";

/// A whole answer.
pub(crate) fn answer(status: &str, headers: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let head = format!(
        "HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

pub(crate) async fn closed_soon(receiver: &Hostile) {
    within(receiver.wait_closed(receiver.connections(), Duration::from_secs(5))).await;
}
