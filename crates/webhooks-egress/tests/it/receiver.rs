//! A receiver that does as it is told, byte for byte, and remembers what it got.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::within;

/// What the receiver does with each connection.
#[derive(Clone)]
pub(crate) enum Script {
    /// Answers each request with these bytes and waits for the next.
    Answer(Vec<u8>),
    /// Says this as soon as someone connects, whatever they want.
    Banner(Vec<u8>),
    /// Accepts and says nothing.
    Silence,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) connections: usize,
    pub(crate) requests: usize,
    pub(crate) closed: usize,
}

pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    counts: watch::Receiver<Counts>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Receiver {
    pub(crate) async fn start(script: Script) -> Self {
        Self::start_on(SocketAddr::from(([127, 0, 0, 1], 0)), script).await
    }

    /// A receiver on another address with the port of this one.
    pub(crate) async fn neighbour(&self, ip: [u8; 4]) -> Self {
        let address = SocketAddr::new(IpAddr::from(ip), self.address.port());
        Self::start_on(address, Script::Answer(ok())).await
    }

    /// A receiver on every address that leads to this machine.
    pub(crate) async fn everywhere(script: Script) -> Self {
        let listener = match TcpListener::bind("[::]:0").await {
            Ok(listener) => listener,
            // A machine without IPv6 has fewer addresses.
            Err(_) => TcpListener::bind("0.0.0.0:0").await.expect("a free port"),
        };
        Self::listening(listener, script)
    }

    async fn start_on(address: SocketAddr, script: Script) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free port");
        Self::listening(listener, script)
    }

    fn listening(listener: TcpListener, script: Script) -> Self {
        let address = listener.local_addr().expect("an address");
        let (counter, counts) = watch::channel(Counts::default());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counter.send_modify(|counts| counts.connections += 1);
                let connection = Connection {
                    counter: counter.clone(),
                    log: Arc::clone(&log),
                };
                tokio::spawn(connection.run(stream, script.clone()));
            }
        });
        Self {
            address,
            counts,
            requests,
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        *self.counts.borrow()
    }

    /// The requests so far, head and body as one text.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("not poisoned").clone()
    }

    /// Waits until the other side has closed that many connections.
    pub(crate) async fn wait_closed(&self, count: usize) {
        let mut counts = self.counts.clone();
        within(counts.wait_for(|counts| counts.closed >= count))
            .await
            .expect("the receiver runs");
    }
}

struct Connection {
    counter: watch::Sender<Counts>,
    log: Arc<Mutex<Vec<String>>>,
}

impl Connection {
    async fn run(self, mut stream: TcpStream, script: Script) {
        // An error means that the other side has closed: that is counted below.
        self.play(&mut stream, script).await.ok();
        self.counter.send_modify(|counts| counts.closed += 1);
    }

    async fn play(&self, stream: &mut TcpStream, script: Script) -> std::io::Result<()> {
        if let Script::Banner(bytes) = &script {
            stream.write_all(bytes).await?;
            return wait_for_end(stream).await;
        }
        if let Script::Silence = script {
            return wait_for_end(stream).await;
        }
        loop {
            let request = read_request(stream).await?;
            self.log.lock().expect("not poisoned").push(request);
            self.counter.send_modify(|counts| counts.requests += 1);
            match &script {
                Script::Answer(bytes) => stream.write_all(bytes).await?,
                Script::Banner(_) | Script::Silence => return Ok(()),
            }
        }
    }
}

async fn wait_for_end(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut sink = [0; 1024];
    while stream.read(&mut sink).await? > 0 {}
    Ok(())
}

/// Reads one request with a `Content-Length` body.
pub(crate) async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    loop {
        let byte = stream.read_u8().await?;
        bytes.push(byte);
        if bytes.ends_with(b"\r\n\r\n") {
            break;
        }
    }
    let head = String::from_utf8_lossy(&bytes).into_owned();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .and_then(|value| value.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(head + &String::from_utf8_lossy(&body))
}

/// Answers one request with 200, on any kind of stream.
pub(crate) async fn answer_one(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> std::io::Result<String> {
    let request = read_request(stream).await?;
    stream.write_all(&ok()).await?;
    stream.flush().await?;
    Ok(request)
}

/// A whole 200 answer.
pub(crate) fn ok() -> Vec<u8> {
    answer("200 OK", "ok")
}

/// A whole answer.
pub(crate) fn answer(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nx-kind: test\r\n\r\n{body}")
        .into_bytes()
}
