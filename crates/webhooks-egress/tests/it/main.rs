//! The way out against real sockets: hostile receivers, a lying DNS server, TLS.

#![expect(
    clippy::disallowed_methods,
    reason = "the servers of a test end with its runtime"
)]

mod arbitrary;
mod dns;
mod dns_server;
mod hostile;
mod receiver;
mod ssrf;
mod tls;
mod token;
mod wire;

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use webhooks_domain::endpoint::{AddressPolicy, Cidr, EndpointUrl};
use webhooks_egress::{AttemptResult, Egress, EgressConfig, OutboundRequest};

/// How long a state may take to come about before a test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// Plain http is allowed, and of all private addresses `127.0.0.1` alone, so that its neighbour
/// `127.0.0.2` can play the victim.
fn config() -> EgressConfig {
    EgressConfig {
        policy: AddressPolicy {
            allow_http: true,
            allow_cidrs: vec![cidr("127.0.0.1/32")],
            ..AddressPolicy::default()
        },
        ..EgressConfig::default()
    }
}

fn egress(config: EgressConfig) -> Egress {
    webhooks_devstack::keep_own_log();
    Egress::new(config).expect("a way out")
}

fn cidr(text: &str) -> Cidr {
    text.parse().expect("a range")
}

/// A request for a URL that passes under a policy opened wide, as if a row had been written around
/// every check.
fn request(url: &str) -> OutboundRequest {
    let anything = AddressPolicy {
        allow_http: true,
        allow_cidrs: vec![cidr("0.0.0.0/0"), cidr("::/0")],
        ..AddressPolicy::default()
    };
    let mut headers = HeaderMap::new();
    headers.insert("webhook-id", HeaderValue::from_static("msg_1"));
    OutboundRequest {
        url: EndpointUrl::parse(url, &anything).expect("an endpoint"),
        headers,
        body: Bytes::from_static(b"{\"hello\":\"world\"}"),
    }
}

async fn post(egress: &Egress, url: &str) -> AttemptResult {
    within(egress.send(request(url))).await
}

/// The future's output, or a failed test.
async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("did not happen in time")
}

fn http_url(address: SocketAddr) -> String {
    format!("http://{address}/hook?token=canary-of-a-query")
}
