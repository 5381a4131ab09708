//! What goes in and what comes out.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use webhooks_domain::endpoint::{EndpointUrl, FailureClass, Outcome};

use crate::config::{MAX_KEPT_HEADER_BYTES, MAX_KEPT_HEADERS};
use crate::failure::Failure;

/// One POST to make.
#[derive(Clone, Debug)]
pub struct OutboundRequest {
    /// Where to; handed over parsed and dialled as it is.
    pub url: EndpointUrl,
    /// All headers but `Host`, `Content-Length` and connection management.
    pub headers: HeaderMap,
    /// The body, sent byte for byte.
    pub body: Bytes,
}

/// What an attempt met.
#[derive(Clone, Debug)]
pub struct AttemptResult {
    /// What happened.
    pub outcome: Outcome,
    /// What it means for the next attempt; none for a success.
    pub class: Option<FailureClass>,
    /// What exactly went wrong; none for a success.
    pub failure: Option<Failure>,
    /// The status, if the head of an answer arrived.
    pub status: Option<u16>,
    /// How long the parts took.
    pub timings: Timings,
    /// The answer's headers.
    pub response_headers: ResponseHeaders,
    /// The beginning of the answer's body, as received: any bytes, maybe not UTF-8.
    pub response_body: Bytes,
    /// Whether there was, or might have been, more body than is kept.
    pub response_body_truncated: bool,
    /// The address that answered. For operators only.
    pub remote_ip: Option<IpAddr>,
}

impl AttemptResult {
    /// The customer-safe error text, from a fixed list.
    #[must_use]
    pub fn error(&self) -> Option<&'static str> {
        self.failure.map(Failure::message)
    }

    /// The stable machine-readable reason, from a fixed list.
    #[must_use]
    pub fn reason(&self) -> Option<&'static str> {
        self.failure.map(Failure::reason)
    }

    pub(crate) fn succeeded() -> Self {
        Self::new(Outcome::Success, None, None)
    }

    /// A failure before an answer, or without regard to it; its class is the same for every host.
    #[must_use]
    pub fn failed(failure: Failure) -> Self {
        Self::new(failure.outcome(), Some(failure.class("")), Some(failure))
    }

    pub(crate) fn failed_with_status(status: u16, host: &str) -> Self {
        let failure = Failure::Status(status);
        Self::new(failure.outcome(), Some(failure.class(host)), Some(failure))
    }

    /// Its failure is another one than what was met says.
    pub fn fail_as(&mut self, failure: Failure) {
        self.outcome = failure.outcome();
        self.class = Some(failure.class(""));
        self.failure = Some(failure);
    }

    fn new(outcome: Outcome, class: Option<FailureClass>, failure: Option<Failure>) -> Self {
        Self {
            outcome,
            class,
            failure,
            status: None,
            timings: Timings::default(),
            response_headers: ResponseHeaders::default(),
            response_body: Bytes::new(),
            response_body_truncated: false,
            remote_ip: None,
        }
    }
}

/// How long the parts of an attempt took; absent when a part did not happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Resolving the name; absent for literals, next to nothing when cached.
    pub dns: Option<Duration>,
    /// Until the TCP connection stood; absent on a reused connection.
    pub connect: Option<Duration>,
    /// The TLS handshake after it; absent on a reused connection and without TLS.
    pub tls: Option<Duration>,
    /// From the start of the attempt to the end of the answer's head.
    pub first_byte: Option<Duration>,
    /// The whole attempt.
    pub total: Duration,
}

/// The headers of an answer, kept as they were parsed and capped when they are read out.
#[derive(Clone, Debug, Default)]
pub struct ResponseHeaders(HeaderMap);

impl ResponseHeaders {
    pub(crate) fn new(headers: HeaderMap) -> Self {
        Self(headers)
    }

    /// The first value of a header, if it is visible ASCII.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.to_str().ok()
    }

    /// The headers to keep: at most 64, at most 32 KiB of names and values, in order. Bytes that
    /// are not UTF-8 show as U+FFFD; control characters cannot occur.
    pub fn kept(&self) -> impl Iterator<Item = (&str, Cow<'_, str>)> {
        self.0
            .iter()
            .take(MAX_KEPT_HEADERS)
            .scan(0, |bytes, (name, value)| {
                *bytes += name.as_str().len() + value.len();
                (*bytes <= MAX_KEPT_HEADER_BYTES)
                    .then(|| (name.as_str(), String::from_utf8_lossy(value.as_bytes())))
            })
    }

    /// [`kept`](Self::kept), owned.
    #[must_use]
    pub fn to_vec(&self) -> Vec<(String, String)> {
        self.kept()
            .map(|(name, value)| (name.to_owned(), value.into_owned()))
            .collect()
    }

    /// Whether there was more than is kept.
    #[must_use]
    pub fn is_truncated(&self) -> bool {
        self.kept().count() < self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(count: usize, value: &[u8]) -> ResponseHeaders {
        let value = HeaderValue::from_bytes(value).expect("a header value");
        let name = |n| HeaderName::try_from(format!("x-{n}")).expect("a header name");
        ResponseHeaders::new((0..count).map(|n| (name(n), value.clone())).collect())
    }

    #[test]
    fn at_most_64_headers_and_32_kib_are_kept() {
        assert_eq!(headers(64, b"v").to_vec().len(), 64);
        assert!(!headers(64, b"v").is_truncated());
        assert_eq!(headers(65, b"v").to_vec().len(), 64);
        assert!(headers(65, b"v").is_truncated());

        let large = headers(10, &[b'v'; 8 * 1024]);
        assert_eq!(large.to_vec().len(), 3);
        assert!(large.is_truncated());
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_marked() {
        let kept = headers(1, b"caf\xe9").to_vec();
        assert_eq!(kept, [("x-0".to_owned(), "caf\u{fffd}".to_owned())]);
        assert_eq!(headers(1, b"caf\xe9").get("x-0"), None);
        assert_eq!(headers(1, b"120").get("X-0"), Some("120"));
    }
}
