//! A DNS server of a few lines that says whatever a test wants.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::UdpSocket;

/// What to say about a name.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// These addresses; each query gets those of its kind.
    Addresses(Vec<IpAddr>),
    NoSuchName,
    ServerFailure,
    Silence,
}

impl Reply {
    pub(crate) fn addresses(texts: &[&str]) -> Self {
        let parse = |text: &&str| text.parse().expect("an address");
        Self::Addresses(texts.iter().map(parse).collect())
    }
}

pub(crate) struct DnsServer {
    pub(crate) address: SocketAddr,
    queries: Arc<AtomicUsize>,
}

impl DnsServer {
    /// Answers queries with what the function says about the name, lower case and without its
    /// trailing dot.
    pub(crate) async fn start(reply: impl Fn(&str) -> Reply + Send + 'static) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        let address = socket.local_addr().expect("an address");
        let queries = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&queries);
        tokio::spawn(async move {
            let mut buffer = [0; 1500];
            while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
                counter.fetch_add(1, Ordering::Relaxed);
                let query = &buffer[..length];
                let (name, kind, end) = question(query);
                if let Some(bytes) = response(query, end, kind, &reply(&name)) {
                    socket.send_to(&bytes, client).await.expect("sent");
                }
            }
        });
        Self { address, queries }
    }

    /// Queries so far; a lookup makes two, for A and AAAA.
    pub(crate) fn queries(&self) -> usize {
        self.queries.load(Ordering::Relaxed)
    }
}

const A: u16 = 1;
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

fn response(query: &[u8], end: usize, kind: u16, reply: &Reply) -> Option<Vec<u8>> {
    let (code, addresses) = match reply {
        Reply::Addresses(addresses) => (0, addresses.as_slice()),
        Reply::ServerFailure => (2, &[][..]),
        Reply::NoSuchName => (3, &[][..]),
        Reply::Silence => return None,
    };
    let records: Vec<u8> = addresses
        .iter()
        .filter_map(|ip| match (ip, kind) {
            (IpAddr::V4(ip), A) => Some(record(A, &ip.octets())),
            (IpAddr::V6(ip), AAAA) => Some(record(AAAA, &ip.octets())),
            _ => None,
        })
        .flatten()
        .collect();
    let count = addresses
        .iter()
        .filter(|ip| ip.is_ipv4() == (kind == A))
        .count() as u8;
    let mut bytes = query[..2].to_vec();
    bytes.extend([0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0]);
    bytes.extend(&query[12..end]);
    bytes.extend(records);
    Some(bytes)
}

/// A record for the name of the question, with a time to live of 0.
fn record(kind: u16, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xc0, 12];
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1, 0, 0, 0, 0, 0, data.len() as u8]);
    bytes.extend(data);
    bytes
}
