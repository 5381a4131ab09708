//! Everything that can be wrong with an attempt, as one fixed list.
//!
//! Customers see these texts. They name what the endpoint did and nothing about us: no addresses, no
//! resolver's words, no library's error messages. What those said goes to the operators' log.

use webhooks_domain::endpoint::{EndpointRefusal, FailureClass, Outcome, classify_response};

/// Why an attempt did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Failure {
    /// The address guard said no; nothing was sent.
    Refused(EndpointRefusal),
    /// An answer came whose status is not 2xx.
    Status(u16),
    /// The name does not exist, or has no addresses.
    NameNotFound,
    /// The name's servers did not answer, or not usefully.
    NameLookupFailed,
    /// No name resolves at the moment: our resolvers are down.
    ResolverDown,
    /// Connecting, with the TLS handshake, took too long.
    ConnectTimeout,
    /// Nothing listens there.
    ConnectionRefused,
    /// No way to the host.
    HostUnreachable,
    /// The connection broke before an answer was complete.
    ConnectionClosed,
    /// The certificate has expired.
    CertificateExpired,
    /// The certificate is not valid yet.
    CertificateNotYetValid,
    /// The certificate is for another host.
    CertificateWrongHost,
    /// The certificate's issuer is not trusted, or the chain is incomplete.
    CertificateUntrusted,
    /// The certificate is broken in another way.
    CertificateInvalid,
    /// The server speaks no version of TLS that we do.
    TlsVersion,
    /// The handshake failed in another way: no common cipher, or no TLS at all.
    TlsHandshake,
    /// No answer within the deadline.
    Timeout,
    /// The answer is not HTTP.
    InvalidResponse,
    /// The answer's head is too large.
    HeadTooLarge,
    /// Something on our side.
    Internal,
    /// Our process did not run for a while: the endpoint may have answered to nobody.
    StoodStill,
    /// The endpoint does not take our client certificate, or wants one.
    ClientCertificateRefused,
    /// There was no access token to be had; the endpoint was not called.
    Token(TokenFailure),
    /// The endpoint refused (401) an access token that had been in use; the next attempt gets a new
    /// one.
    TokenStale,
}

/// Why there was no access token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenFailure {
    /// The address guard said no to the token endpoint; nothing was sent.
    Blocked,
    /// The token endpoint refused: a 4xx or a redirect.
    Refused,
    /// It could not be reached, did not answer in time, or is in trouble: 5xx, 429 and the like.
    Unavailable,
    /// Its certificate is not to be trusted, or its versions of TLS are too old.
    Untrusted,
    /// Its answer holds no token that we could use.
    Invalid,
}

impl Failure {
    /// What the attempt met.
    #[must_use]
    pub const fn outcome(self) -> Outcome {
        match self {
            Self::Refused(_) => Outcome::Blocked,
            Self::Status(_) | Self::TokenStale => Outcome::HttpError,
            Self::NameNotFound
            | Self::NameLookupFailed
            | Self::ConnectionRefused
            | Self::HostUnreachable
            | Self::ConnectionClosed => Outcome::Unreachable,
            Self::ConnectTimeout | Self::Timeout => Outcome::Timeout,
            Self::CertificateExpired
            | Self::CertificateNotYetValid
            | Self::CertificateWrongHost
            | Self::CertificateUntrusted
            | Self::CertificateInvalid
            | Self::TlsVersion
            | Self::TlsHandshake
            | Self::ClientCertificateRefused => Outcome::TlsError,
            Self::Token(_) => Outcome::TokenError,
            Self::InvalidResponse | Self::HeadTooLarge => Outcome::InvalidResponse,
            Self::ResolverDown | Self::Internal | Self::StoodStill => Outcome::Internal,
        }
    }

    /// What it means for the next attempt at this host.
    ///
    /// A failed handshake is the one case that its outcome alone does not decide: a bad certificate
    /// stays bad, and so does a server that knows old versions only; another handshake may just have
    /// met a server that was starting.
    #[must_use]
    pub fn class(self, host: &str) -> FailureClass {
        match self {
            Self::TlsHandshake | Self::TokenStale => return FailureClass::Temporary,
            Self::Token(
                TokenFailure::Blocked | TokenFailure::Refused | TokenFailure::Untrusted,
            ) => {
                return FailureClass::Permanent;
            }
            _ => {}
        }
        let status = match self {
            Self::Status(status) => Some(status),
            _ => None,
        };
        // Only a success has no class, and no failure is one.
        classify_response(self.outcome(), status, host).unwrap_or(FailureClass::Ours)
    }

    /// The stable machine-readable reason, lower snake case.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.reason(),
            Self::Status(300..=399) => "redirect",
            Self::Status(410) => "gone",
            Self::Status(_) => "http_status",
            Self::NameNotFound => "name_not_found",
            Self::NameLookupFailed => "name_lookup_failed",
            Self::ResolverDown => "resolver_down",
            Self::ConnectTimeout => "connect_timeout",
            Self::ConnectionRefused => "connection_refused",
            Self::HostUnreachable => "host_unreachable",
            Self::ConnectionClosed => "connection_closed",
            Self::CertificateExpired => "certificate_expired",
            Self::CertificateNotYetValid => "certificate_not_yet_valid",
            Self::CertificateWrongHost => "certificate_wrong_host",
            Self::CertificateUntrusted => "certificate_untrusted",
            Self::CertificateInvalid => "certificate_invalid",
            Self::TlsVersion => "tls_version",
            Self::TlsHandshake => "tls_handshake",
            Self::Timeout => "timeout",
            Self::InvalidResponse => "invalid_response",
            Self::HeadTooLarge => "head_too_large",
            Self::Internal => "internal",
            Self::StoodStill => "stood_still",
            Self::ClientCertificateRefused => "client_certificate_refused",
            Self::Token(TokenFailure::Blocked) => "token_endpoint_blocked",
            Self::Token(TokenFailure::Refused) => "token_endpoint_refused",
            Self::Token(TokenFailure::Unavailable) => "token_endpoint_unavailable",
            Self::Token(TokenFailure::Untrusted) => "token_endpoint_untrusted",
            Self::Token(TokenFailure::Invalid) => "token_endpoint_invalid",
            Self::TokenStale => "token_stale",
        }
    }

    /// The text for customers.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::Refused(EndpointRefusal::OwnAddress | EndpointRefusal::OwnHost) => {
                "the endpoint belongs to this service"
            }
            Self::Refused(EndpointRefusal::BlockedAddress) => {
                "the endpoint's address is not allowed"
            }
            Self::Refused(_) => "the endpoint's URL is not allowed",
            Self::Status(300..=399) => "the endpoint redirected, and redirects are not followed",
            Self::Status(410) => "the endpoint says that it is gone for good",
            Self::Status(_) => "the endpoint did not answer with a 2xx status",
            Self::NameNotFound => "the endpoint's host name does not exist",
            Self::NameLookupFailed => "the endpoint's host name could not be resolved",
            Self::ResolverDown | Self::Internal | Self::StoodStill => {
                "a problem on our side; this attempt does not count"
            }
            Self::ConnectTimeout => "connecting to the endpoint took too long",
            Self::ConnectionRefused => "the endpoint refused the connection",
            Self::HostUnreachable => "the endpoint's host cannot be reached",
            Self::ConnectionClosed => "the connection was closed before the answer was complete",
            Self::CertificateExpired => "the endpoint's certificate has expired",
            Self::CertificateNotYetValid => "the endpoint's certificate is not valid yet",
            Self::CertificateWrongHost => "the endpoint's certificate is for another host",
            Self::CertificateUntrusted => {
                "the endpoint's certificate is not trusted, or its chain is incomplete"
            }
            Self::CertificateInvalid => "the endpoint's certificate is invalid",
            Self::TlsVersion => "the endpoint speaks neither TLS 1.2 nor TLS 1.3",
            Self::TlsHandshake => "the TLS handshake with the endpoint failed",
            Self::Timeout => "the endpoint did not answer in time",
            Self::InvalidResponse => "the endpoint's answer is not valid HTTP",
            Self::HeadTooLarge => "the endpoint's answer has too many or too large headers",
            Self::ClientCertificateRefused => {
                "the endpoint does not accept the client certificate, or requires one"
            }
            Self::Token(TokenFailure::Blocked) => {
                "the token endpoint's URL or address is not allowed"
            }
            Self::Token(TokenFailure::Refused) => "the token endpoint refused the request",
            Self::Token(TokenFailure::Unavailable) => {
                "the token endpoint could not be reached or did not answer in time"
            }
            Self::Token(TokenFailure::Untrusted) => {
                "the token endpoint's certificate or TLS version is not accepted"
            }
            Self::Token(TokenFailure::Invalid) => {
                "the token endpoint's answer holds no usable token"
            }
            Self::TokenStale => {
                "the endpoint refused the access token; the next attempt uses a new one"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn s_15_no_text_for_customers_names_an_address_or_anything_inside() {
        use EndpointRefusal as No;
        let refusals = [
            No::TooLong,
            No::Malformed,
            No::SchemeNotHttps,
            No::Userinfo,
            No::Fragment,
            No::BlockedPort,
            No::SingleLabel,
            No::BlockedHostName,
            No::OwnHost,
            No::BlockedAddress,
            No::OwnAddress,
            No::NoAddress,
        ];
        let others = [
            Failure::Status(302),
            Failure::Status(410),
            Failure::Status(500),
            Failure::NameNotFound,
            Failure::NameLookupFailed,
            Failure::ResolverDown,
            Failure::ConnectTimeout,
            Failure::ConnectionRefused,
            Failure::HostUnreachable,
            Failure::ConnectionClosed,
            Failure::CertificateExpired,
            Failure::CertificateNotYetValid,
            Failure::CertificateWrongHost,
            Failure::CertificateUntrusted,
            Failure::CertificateInvalid,
            Failure::TlsVersion,
            Failure::TlsHandshake,
            Failure::Timeout,
            Failure::InvalidResponse,
            Failure::HeadTooLarge,
            Failure::Internal,
            Failure::StoodStill,
            Failure::ClientCertificateRefused,
            Failure::TokenStale,
            Failure::Token(TokenFailure::Blocked),
            Failure::Token(TokenFailure::Refused),
            Failure::Token(TokenFailure::Unavailable),
            Failure::Token(TokenFailure::Untrusted),
            Failure::Token(TokenFailure::Invalid),
        ];
        for failure in refusals.map(Failure::Refused).into_iter().chain(others) {
            let refusal = match failure {
                Failure::Refused(refusal) => refusal.to_string(),
                _ => String::new(),
            };
            for text in [failure.message(), failure.reason(), &refusal] {
                let is_address = |word: &str| word.parse::<IpAddr>().is_ok();
                assert!(!text.split_whitespace().any(is_address), "{text}");
                for word in [
                    "private",
                    "internal network",
                    "loopback",
                    "resolver",
                    "127.",
                ] {
                    let names_us = text.contains(word) && failure.outcome() != Outcome::Internal;
                    assert!(!names_us, "{word}: {text}");
                }
            }
        }
    }
}
