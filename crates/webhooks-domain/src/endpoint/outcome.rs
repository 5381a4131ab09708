//! What an attempt met, and what that means for the next one.
//!
//! Two questions are kept apart. The [`Outcome`] is what happened, as customers read it; the
//! [`FailureClass`] is what it means: try again, do not try again, or our own fault, which costs
//! the customer nothing.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// What one attempt met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The head of a 2xx answer arrived.
    Success,
    /// Another status arrived.
    HttpError,
    /// Connection, handshake or answer took too long.
    Timeout,
    /// No connection, or it broke before an answer; or the name has no address.
    Unreachable,
    /// The certificate or the handshake was refused.
    TlsError,
    /// Something came back that is not HTTP, or beyond our limits.
    InvalidResponse,
    /// The address guard refused the endpoint; nothing was sent.
    Blocked,
    /// Something on our side failed; nothing can be said about the endpoint.
    Internal,
    /// There was no access token to be had, so the endpoint was not called.
    TokenError,
}

/// What a failed attempt means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureClass {
    /// May pass: try again as the policy says.
    Temporary,
    /// Will not pass by itself: no retry.
    Permanent,
    /// Our fault: no attempt is consumed, nothing counts against the endpoint.
    Ours,
}

/// A word that names no [`Outcome`] or [`FailureClass`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("unknown word `{0}`")]
pub struct UnknownWord(String);

impl Outcome {
    /// All outcomes.
    pub const ALL: [Self; 9] = [
        Self::Success,
        Self::HttpError,
        Self::Timeout,
        Self::Unreachable,
        Self::TlsError,
        Self::InvalidResponse,
        Self::Blocked,
        Self::Internal,
        Self::TokenError,
    ];

    /// The outcome of an answer whose head arrived: only 200 to 299 is success.
    #[must_use]
    pub const fn of_status(status: u16) -> Self {
        match status {
            200..=299 => Self::Success,
            _ => Self::HttpError,
        }
    }

    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "SUCCESS",
            Self::HttpError => "HTTP_ERROR",
            Self::Timeout => "TIMEOUT",
            Self::Unreachable => "UNREACHABLE",
            Self::TlsError => "TLS_ERROR",
            Self::InvalidResponse => "INVALID_RESPONSE",
            Self::Blocked => "BLOCKED",
            Self::Internal => "INTERNAL",
            Self::TokenError => "TOKEN_ERROR",
        }
    }
}

impl FailureClass {
    /// All classes.
    pub const ALL: [Self; 3] = [Self::Temporary, Self::Permanent, Self::Ours];

    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Temporary => "TEMPORARY",
            Self::Permanent => "PERMANENT",
            Self::Ours => "OURS",
        }
    }
}

/// The class of an attempt, from what it met; none for a success.
///
/// `host` is the endpoint's host name: Make answers 400 when a scenario's queue is full, so there
/// it is as temporary as anyone else's 429. Outcomes without a status have one class each; an
/// `InvalidResponse` is temporary because it is mostly a proxy's bad moment, and a
/// `TlsError` permanent because it is mostly a certificate's.
#[must_use]
pub fn classify_response(
    outcome: Outcome,
    status: Option<u16>,
    host: &str,
) -> Option<FailureClass> {
    match outcome {
        Outcome::Success => None,
        Outcome::HttpError => Some(status.map_or(FailureClass::Temporary, |status| {
            classify_status(status, host)
        })),
        Outcome::Timeout
        | Outcome::Unreachable
        | Outcome::InvalidResponse
        | Outcome::TokenError => Some(FailureClass::Temporary),
        Outcome::TlsError | Outcome::Blocked => Some(FailureClass::Permanent),
        Outcome::Internal => Some(FailureClass::Ours),
    }
}

/// The class of a status outside 200–299.
fn classify_status(status: u16, host: &str) -> FailureClass {
    match status {
        400 if answers_400_when_busy(host) => FailureClass::Temporary,
        404 | 408 | 409 | 423 | 425 | 429 => FailureClass::Temporary,
        501 | 505 => FailureClass::Permanent,
        500..=599 => FailureClass::Temporary,
        _ => FailureClass::Permanent,
    }
}

fn answers_400_when_busy(host: &str) -> bool {
    [".make.com", ".integromat.com"].iter().any(|domain| {
        host.len() > domain.len()
            && host
                .get(host.len() - domain.len()..)
                .is_some_and(|tail| tail.eq_ignore_ascii_case(domain))
    })
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for FailureClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Outcome {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|outcome| outcome.as_str() == word)
            .ok_or_else(|| UnknownWord(word.to_owned()))
    }
}

impl FromStr for FailureClass {
    type Err = UnknownWord;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|class| class.as_str() == word)
            .ok_or_else(|| UnknownWord(word.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class_of(status: u16, host: &str) -> Option<FailureClass> {
        classify_response(Outcome::of_status(status), Some(status), host)
    }

    #[test]
    fn every_status_from_100_to_999_has_its_class() {
        const TEMPORARY_4XX: [u16; 6] = [404, 408, 409, 423, 425, 429];
        for status in 100..=999 {
            let expected = match status {
                200..=299 => None,
                501 | 505 => Some(FailureClass::Permanent),
                500..=599 => Some(FailureClass::Temporary),
                _ if TEMPORARY_4XX.contains(&status) => Some(FailureClass::Temporary),
                _ => Some(FailureClass::Permanent),
            };
            assert_eq!(class_of(status, "hooks.example.com"), expected, "{status}");
        }
    }

    #[test]
    fn the_documents_list_the_temporary_4xx_as_they_are() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/semantics.md");
        let text = std::fs::read_to_string(file).unwrap();
        let row = text.lines().find(|line| line.starts_with("| `404`"));
        let listed: Vec<u16> = row
            .unwrap()
            .split('`')
            .filter_map(|word| word.parse().ok())
            .filter(|status| (400..500).contains(status))
            .collect();
        let temporary: Vec<u16> = (400..500)
            .filter(|status| class_of(*status, "h.example") == Some(FailureClass::Temporary))
            .collect();
        assert_eq!(listed, temporary);
    }

    #[test]
    fn a_400_is_temporary_only_from_makes_hosts() {
        for host in [
            "hook.eu1.make.com",
            "hook.integromat.com",
            "HOOK.US1.MAKE.COM",
        ] {
            assert_eq!(class_of(400, host), Some(FailureClass::Temporary), "{host}");
            assert_eq!(class_of(403, host), Some(FailureClass::Permanent), "{host}");
        }
        for host in ["notmake.com", "make.com.example.org", ".make.com", ""] {
            assert_eq!(class_of(400, host), Some(FailureClass::Permanent), "{host}");
        }
    }

    #[test]
    fn outcomes_without_a_status_have_one_class_each() {
        let expected = [
            (Outcome::Success, None),
            (Outcome::Timeout, Some(FailureClass::Temporary)),
            (Outcome::Unreachable, Some(FailureClass::Temporary)),
            (Outcome::InvalidResponse, Some(FailureClass::Temporary)),
            (Outcome::TlsError, Some(FailureClass::Permanent)),
            (Outcome::Blocked, Some(FailureClass::Permanent)),
            (Outcome::Internal, Some(FailureClass::Ours)),
            (Outcome::TokenError, Some(FailureClass::Temporary)),
        ];
        for (outcome, class) in expected {
            assert_eq!(
                classify_response(outcome, None, "h.example"),
                class,
                "{outcome}"
            );
        }
    }

    #[test]
    fn words_come_back_as_what_they_were() {
        for outcome in Outcome::ALL {
            assert_eq!(outcome.as_str().parse(), Ok(outcome));
        }
        for class in FailureClass::ALL {
            assert_eq!(class.as_str().parse(), Ok(class));
        }
        assert!("success".parse::<Outcome>().is_err());
        assert!("".parse::<FailureClass>().is_err());
    }
}
