//! A DNS server of a few lines that says whatever a test wants.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

/// What to say about a name.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// These addresses; each query gets those of its kind.
    Addresses(Vec<IpAddr>),
    /// That many names, each an alias of the next, and these addresses for the last; without
    /// addresses, the last is an alias of the first.
    Chain(usize, Vec<IpAddr>),
    NoSuchName,
    ServerFailure,
    Silence,
}

impl Reply {
    pub(crate) fn addresses(texts: &[&str]) -> Self {
        let parse = |text: &&str| text.parse().expect("an address");
        Self::Addresses(texts.iter().map(parse).collect())
    }

    pub(crate) fn chain(length: usize, texts: &[&str]) -> Self {
        let parse = |text: &&str| text.parse().expect("an address");
        Self::Chain(length, texts.iter().map(parse).collect())
    }
}

pub(crate) struct DnsServer {
    pub(crate) address: SocketAddr,
    queries: Arc<AtomicUsize>,
}

impl DnsServer {
    /// Answers queries with what the function says about the name, lower case and without its
    /// trailing dot. What does not fit into a datagram is told over TCP, on the same port.
    pub(crate) async fn start(reply: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        let (socket, listener) = both_kinds_of_socket().await;
        let address = socket.local_addr().expect("an address");
        let queries = Arc::new(AtomicUsize::new(0));
        let reply = Arc::new(reply);
        let (counter, say) = (Arc::clone(&queries), Arc::clone(&reply));
        tokio::spawn(async move {
            let mut buffer = [0; 1500];
            while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
                counter.fetch_add(1, Ordering::Relaxed);
                let query = &buffer[..length];
                let (name, kind, end) = question(query);
                if let Some(mut bytes) = response(query, &name, end, kind, &say(&name)) {
                    if bytes.len() > MAX_DATAGRAM {
                        bytes.truncate(end);
                        bytes[2] |= TRUNCATED;
                        bytes[6..8].fill(0);
                    }
                    socket.send_to(&bytes, client).await.expect("sent");
                }
            }
        });
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let say = Arc::clone(&reply);
                tokio::spawn(async move {
                    while let Ok(length) = stream.read_u16().await {
                        let mut query = vec![0; usize::from(length)];
                        stream.read_exact(&mut query).await.expect("a query");
                        let (name, kind, end) = question(&query);
                        if let Some(bytes) = response(&query, &name, end, kind, &say(&name)) {
                            let length = u16::try_from(bytes.len()).expect("a short answer");
                            stream.write_u16(length).await.expect("sent");
                            stream.write_all(&bytes).await.expect("sent");
                        }
                    }
                });
            }
        });
        Self { address, queries }
    }

    /// Queries so far; a lookup makes two, for A and AAAA.
    pub(crate) fn queries(&self) -> usize {
        self.queries.load(Ordering::Relaxed)
    }
}

/// A port that is free for datagrams and for connections.
async fn both_kinds_of_socket() -> (UdpSocket, TcpListener) {
    loop {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        let address = socket.local_addr().expect("an address");
        if let Ok(listener) = TcpListener::bind(address).await {
            return (socket, listener);
        }
    }
}

const MAX_DATAGRAM: usize = 1200;
const TRUNCATED: u8 = 2;
const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;

/// Name, type and end of the one question of a query.
fn question(query: &[u8]) -> (String, u16, usize) {
    let mut labels = Vec::new();
    let mut at = 12;
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..end]).to_lowercase());
        at = end;
    }
    let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
    (labels.join("."), kind, at + 5)
}

fn response(query: &[u8], name: &str, end: usize, kind: u16, reply: &Reply) -> Option<Vec<u8>> {
    let owner = vec![0xc0, 12];
    let (code, records) = match reply {
        Reply::Addresses(addresses) => (0, records(&owner, kind, addresses)),
        Reply::Chain(length, addresses) => (0, chain(name, *length, kind, addresses)),
        Reply::ServerFailure => (2, Vec::new()),
        Reply::NoSuchName => (3, Vec::new()),
        Reply::Silence => return None,
    };
    let count = u16::try_from(records.len()).expect("few records");
    let mut bytes = query[..2].to_vec();
    bytes.extend([0x81, 0x80 | code, 0, 1]);
    bytes.extend(count.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(&query[12..end]);
    bytes.extend(records.concat());
    Some(bytes)
}

fn chain(name: &str, length: usize, kind: u16, addresses: &[IpAddr]) -> Vec<Vec<u8>> {
    let link = |n: usize| match n {
        0 => encoded(name),
        n => encoded(&format!("n{n}.{name}")),
    };
    let mut found: Vec<_> = (0..length)
        .map(|n| record(&link(n), CNAME, &link(n + 1)))
        .collect();
    if addresses.is_empty() {
        found.push(record(&link(length), CNAME, &link(0)));
    }
    found.extend(records(&link(length), kind, addresses));
    found
}

fn records(owner: &[u8], kind: u16, addresses: &[IpAddr]) -> Vec<Vec<u8>> {
    addresses
        .iter()
        .filter_map(|ip| match (ip, kind) {
            (IpAddr::V4(ip), A) => Some(record(owner, A, &ip.octets())),
            (IpAddr::V6(ip), AAAA) => Some(record(owner, AAAA, &ip.octets())),
            _ => None,
        })
        .collect()
}

/// A name as it is written in a message.
fn encoded(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).expect("a short label"));
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

/// A record with a time to live of 0.
fn record(owner: &[u8], kind: u16, data: &[u8]) -> Vec<u8> {
    let mut bytes = owner.to_vec();
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1, 0, 0, 0, 0]);
    bytes.extend(u16::try_from(data.len()).expect("short data").to_be_bytes());
    bytes.extend(data);
    bytes
}
