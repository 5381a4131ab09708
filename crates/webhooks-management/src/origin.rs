//! Where a request comes from: the client's address, what it calls itself, and the request's id.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderValue};
use webhooks_domain::endpoint::Cidr;
use webhooks_runtime::{
    callers::{FORWARDED_FOR, client_address},
    rate::Payer,
    request_id::{request_id, request_id_header},
};
use webhooks_store::Origin;

/// Most of a `User-Agent` that is kept, in characters.
const MAX_USER_AGENT: usize = 256;

/// A request's origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Visit {
    /// The client's address, if there is one.
    pub(crate) ip: Option<IpAddr>,
    /// The same for the audit log, with the rest.
    pub(crate) origin: Origin,
}

impl Visit {
    /// The origin of a request with these headers from this peer.
    pub(crate) fn of(
        peer: Option<SocketAddr>,
        headers: &HeaderMap,
        trusted_proxies: &[Cidr],
    ) -> Self {
        let lines = headers.get_all(FORWARDED_FOR).iter();
        let lines = lines.filter_map(|line| line.to_str().ok());
        let ip = peer.map(|peer| client_address(peer.ip(), lines, trusted_proxies));
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let user_agent = text("user-agent").unwrap_or_default();
        Self {
            ip,
            origin: Origin {
                remote_ip: ip.map_or_else(String::new, |ip| ip.to_string()),
                user_agent: user_agent.chars().take(MAX_USER_AGENT).collect(),
                request_id: request_id(headers),
            },
        }
    }

    /// Who pays for a call without valid credentials.
    pub(crate) fn payer(&self) -> Payer {
        self.ip.map_or(Payer::Rest, Payer::at)
    }

    /// The request's id as a header.
    pub(crate) fn request_id_header(&self) -> HeaderValue {
        request_id_header(&self.origin.request_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visit(peer: &str, headers: &[(&'static str, &str)], trusted: &[&str]) -> Visit {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let trusted: Vec<Cidr> = trusted.iter().map(|range| range.parse().unwrap()).collect();
        Visit::of(Some(peer.parse().unwrap()), &map, &trusted)
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let forged = [("x-forwarded-for", "1.1.1.1, 2.2.2.2, 10.0.0.9")];
        let address = |trusted: &[&str]| {
            let visit = visit("10.0.0.1:5", &forged, trusted);
            visit.origin.remote_ip
        };
        assert_eq!(address(&[]), "10.0.0.1");
        assert_eq!(address(&["10.0.0.0/8"]), "2.2.2.2");
        assert_eq!(address(&["10.0.0.0/8", "2.2.2.2"]), "1.1.1.1");
        let lines = [
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "3.3.3.3"),
        ];
        assert_eq!(
            visit("10.0.0.1:5", &lines, &["10.0.0.0/8"])
                .origin
                .remote_ip,
            "3.3.3.3"
        );
        let broken = [("x-forwarded-for", "1.1.1.1, unknown")];
        assert_eq!(
            visit("10.0.0.1:5", &broken, &["10.0.0.0/8"])
                .origin
                .remote_ip,
            "10.0.0.1"
        );
        let mapped = visit("[::ffff:9.9.9.9]:1", &[], &[]);
        assert_eq!(mapped.origin.remote_ip, "9.9.9.9");
    }

    #[test]
    fn a_request_is_told_by_its_id_and_what_it_calls_itself_is_bounded() {
        let named = visit("1.1.1.1:1", &[("x-request-id", "abc-1")], &[]);
        assert_eq!(named.origin.request_id, "abc-1");
        assert_eq!(named.request_id_header(), "abc-1");
        let long = "u".repeat(1_000);
        let visit = visit("1.1.1.1:1", &[("user-agent", &long)], &[]);
        assert_eq!(visit.origin.user_agent.len(), MAX_USER_AGENT);
        assert_eq!(visit.origin.request_id.len(), 36);
    }
}
