//! Which address a call counts for, and what is told of it by the environment: the same at every door.
//!
//! Behind a proxy the peer is the proxy. Addresses in `X-Forwarded-For` are believed from the right,
//! and only as far as trusted proxies wrote them; everything before that is the client's own text.

use std::net::{IpAddr, SocketAddr};

use webhooks_domain::endpoint::Cidr;

use crate::settings::{Env, Settings};

/// The header that proxies write the client's address to.
pub const FORWARDED_FOR: &str = "x-forwarded-for";

/// Most hops of `X-Forwarded-For` that are looked at.
const MAX_HOPS: usize = 16;

/// What a door knows about those who call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallerSettings {
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Cidr>,
    /// Wrong credentials that an address may show in a minute.
    pub failures_per_minute: u32,
}

/// Wrong credentials in a minute, unless set otherwise.
const FAILURES_PER_MINUTE: u32 = 20;

impl Default for CallerSettings {
    fn default() -> Self {
        Self {
            trusted_proxies: Vec::new(),
            failures_per_minute: FAILURES_PER_MINUTE,
        }
    }
}

impl Settings for CallerSettings {
    fn read(env: &mut Env) -> Self {
        Self {
            trusted_proxies: env.parsed_list(
                "WEBHOOKS_TRUSTED_PROXIES",
                "",
                "proxies before ingest and the API, as addresses or CIDR ranges, comma separated; their X-Forwarded-For is believed",
            ),
            failures_per_minute: env.ranged(
                "WEBHOOKS_AUTH_FAILURES",
                FAILURES_PER_MINUTE,
                1..=10_000_000,
                "wrong tokens that an address may show in a minute, at each process of ingest and of management, before it is told to wait",
            ),
        }
    }
}

/// The client's address behind `peer`, by the lines of its `X-Forwarded-For`. Several lines count as
/// one, in their order.
pub fn client_address<'h>(
    peer: IpAddr,
    forwarded_for: impl DoubleEndedIterator<Item = &'h str>,
    trusted_proxies: &[Cidr],
) -> IpAddr {
    let trusted = |ip: IpAddr| trusted_proxies.iter().any(|range| range.contains(ip));
    let mut client = peer.to_canonical();
    let hops = forwarded_for.rev().flat_map(|line| line.rsplit(','));
    for hop in hops.take(MAX_HOPS) {
        if !trusted(client) {
            break;
        }
        let Some(ip) = address_of(hop.trim()) else {
            break;
        };
        client = ip.to_canonical();
    }
    client
}

/// The address of a hop, which some proxies write with a port, and IPv6 in brackets.
fn address_of(hop: &str) -> Option<IpAddr> {
    let bracketed = || hop.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let with_port = || hop.parse().ok().map(|socket: SocketAddr| socket.ip());
    hop.parse().ok().or_else(with_port).or_else(bracketed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_whom_the_last_trusted_proxy_names() {
        let check = |peer: &str, lines: &[&str], trusted: &[&str], client: &str| {
            let trusted: Vec<Cidr> = trusted.iter().map(|range| range.parse().unwrap()).collect();
            let found = client_address(peer.parse().unwrap(), lines.iter().copied(), &trusted);
            assert_eq!(found, client.parse::<IpAddr>().unwrap(), "{lines:?}");
        };
        let forged = ["1.1.1.1, 2.2.2.2, 10.0.0.9"];
        check("10.0.0.1", &forged, &[], "10.0.0.1");
        check("10.0.0.1", &forged, &["10.0.0.0/8"], "2.2.2.2");
        check(
            "10.0.0.1",
            &["1.1.1.1", "3.3.3.3"],
            &["10.0.0.0/8"],
            "3.3.3.3",
        );
        check("10.0.0.1", &["unknown"], &["10.0.0.0/8"], "10.0.0.1");
        check(
            "::ffff:10.0.0.1",
            &["::ffff:9.9.9.9"],
            &["10.0.0.0/8"],
            "9.9.9.9",
        );
        for hop in ["6.6.6.6:1000", "[2606:4700::1]:99", "[2606:4700::1]"] {
            let ip = if hop.starts_with('6') {
                "6.6.6.6"
            } else {
                "2606:4700::1"
            };
            check("10.0.0.1", &[hop], &["10.0.0.0/8"], ip);
        }
        let many = vec!["10.0.0.2"; MAX_HOPS];
        let far = [["1.1.1.1"].as_slice(), &many].concat();
        check("10.0.0.1", &far, &["10.0.0.0/8"], "10.0.0.2");
    }
}
