//! A receiver that costs next to nothing and does one thing to every request. It takes connections
//! at every address of the machine's loopback network, so that each endpoint can have an address,
//! and so a pool of connections, of its own; whoever comes from elsewhere is turned away.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use memchr::memmem;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// What is read at a time.
const READ: usize = 16 * 1024;

/// Longest head of a request.
const MAX_HEAD: usize = 64 * 1024;

/// `200 OK`.
pub(super) const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// What it does to a request.
#[derive(Clone)]
pub(super) enum Behaviour {
    /// Answers with what this says.
    Answer(Arc<dyn Fn() -> Bytes + Send + Sync>),
    /// Answers 200 after so long.
    Hang(Duration),
    /// Sends informational answers until it is cut off, with such a pause between two.
    Flood(Duration),
}

#[derive(Debug, Default)]
struct Counts {
    requests: AtomicU64,
    in_hand: AtomicUsize,
    most_in_hand: AtomicUsize,
}

/// A running sink; dropping it cuts its connections.
pub(super) struct Sink {
    port: u16,
    counts: Arc<Counts>,
    _stop: DropGuard,
}

impl Sink {
    pub(super) async fn start(behaviour: Behaviour) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))
            .await
            .context("cannot listen")?;
        let port = listener.local_addr()?.port();
        let (counts, stop) = (Arc::<Counts>::default(), CancellationToken::new());
        let (counted, stopped) = (Arc::clone(&counts), stop.clone());
        let accept = async move {
            while let Ok((stream, peer)) = listener.accept().await {
                if !peer.ip().is_loopback() {
                    continue;
                }
                let (behaviour, counts) = (behaviour.clone(), Arc::clone(&counted));
                let stopped = stopped.clone();
                #[expect(clippy::disallowed_methods, reason = "ends with the sink's token")]
                tokio::spawn(async move {
                    let serving = serve(stream, behaviour, &counts);
                    // A caller that closes ends it.
                    stopped.run_until_cancelled(serving).await;
                });
            }
        };
        let ended = stop.clone();
        #[expect(clippy::disallowed_methods, reason = "ends with the sink's token")]
        tokio::spawn(async move { ended.run_until_cancelled(accept).await });
        Ok(Self {
            port,
            counts,
            _stop: stop.drop_guard(),
        })
    }

    /// The URL of endpoint number `n`, at an address that no other has. `n` is below 16 million.
    pub(super) fn url(&self, n: u32) -> String {
        let [_, a, b, c] = n.to_be_bytes();
        let address = Ipv4Addr::new(127, 1_u8.saturating_add(a), b, c);
        format!("http://{}/{n}", SocketAddr::from((address, self.port)))
    }

    /// Requests that came whole.
    pub(super) fn requests(&self) -> u64 {
        self.counts.requests.load(Ordering::Relaxed)
    }

    /// Most requests that were being answered at the same time.
    pub(super) fn most_in_hand(&self) -> usize {
        self.counts.most_in_hand.load(Ordering::Relaxed)
    }
}

/// Counts a request as in hand while it lives.
struct InHand<'a>(&'a Counts);

impl<'a> InHand<'a> {
    fn new(counts: &'a Counts) -> Self {
        counts.requests.fetch_add(1, Ordering::Relaxed);
        let now = counts.in_hand.fetch_add(1, Ordering::Relaxed) + 1;
        counts.most_in_hand.fetch_max(now, Ordering::Relaxed);
        Self(counts)
    }
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        self.0.in_hand.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn serve(
    mut stream: TcpStream,
    behaviour: Behaviour,
    counts: &Counts,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut bytes = Vec::new();
    loop {
        let Some(length) = request_length(&bytes) else {
            if bytes.len() > MAX_HEAD {
                return Ok(());
            }
            bytes.reserve(READ);
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
            continue;
        };
        // The body is of no interest; what is behind it is the next request.
        let mut missing = length.saturating_sub(bytes.len());
        bytes.drain(..length.min(bytes.len()));
        while missing > 0 {
            bytes.clear();
            bytes.reserve(READ);
            let read = stream.read_buf(&mut bytes).await?;
            if read == 0 {
                return Ok(());
            }
            bytes.drain(..missing.min(read));
            missing = missing.saturating_sub(read);
        }
        let _in_hand = InHand::new(counts);
        match &behaviour {
            Behaviour::Answer(answer) => stream.write_all(&answer()).await?,
            Behaviour::Hang(time) => {
                tokio::time::sleep(*time).await;
                stream.write_all(OK).await?;
            }
            Behaviour::Flood(pause) => loop {
                stream
                    .write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n")
                    .await?;
                if !pause.is_zero() {
                    tokio::time::sleep(*pause).await;
                }
            },
        }
    }
}

/// How long the request is that begins here, body included; `None` = its head is not whole.
fn request_length(bytes: &[u8]) -> Option<usize> {
    let head = memmem::find(bytes, b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let body = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok())
        .unwrap_or(0_usize);
    Some(head + body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_ends_with_its_body() {
        let request = b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcPOST";
        assert_eq!(request_length(request), Some(request.len() - 4));
        assert_eq!(request_length(b"GET / HTTP/1.1\r\n\r\n"), Some(18));
        assert_eq!(request_length(b"GET / HTTP/1.1\r\n"), None);
    }

    #[tokio::test]
    async fn requests_are_counted_and_endpoints_have_addresses_of_their_own() {
        let sink = Sink::start(Behaviour::Answer(Arc::new(|| Bytes::from_static(OK))))
            .await
            .unwrap();
        assert_ne!(sink.url(1), sink.url(257));
        for n in [0, 65_536] {
            let url = sink.url(n);
            let address = url.trim_start_matches("http://").split('/').next().unwrap();
            let mut stream = TcpStream::connect(address).await.unwrap();
            for _ in 0..2 {
                let request = b"POST / HTTP/1.1\r\ncontent-length: 2\r\n\r\nhi";
                stream.write_all(request).await.unwrap();
                let mut answer = [0; OK.len()];
                stream.read_exact(&mut answer).await.unwrap();
                assert_eq!(&answer, OK);
            }
        }
        assert_eq!((sink.requests(), sink.most_in_hand()), (4, 1));
    }
}
