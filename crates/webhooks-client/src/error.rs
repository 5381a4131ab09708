//! What can go wrong: the options, or the call.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address or a certificate cannot be used.
    #[error("the address or its certificates cannot be used")]
    Address(#[source] tonic::transport::Error),
    /// The token has characters that no token has.
    #[error("the token cannot be sent")]
    Token,
    /// The system knows no certificate authority, and none was given.
    #[error("the system has no certificate authorities")]
    NoAuthorities,
    /// The server refused the call, or could not be reached.
    #[error(transparent)]
    Refused(#[from] Box<Refusal>),
}

impl Error {
    /// The refusal, if it is one.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// The status code; of options that cannot be used, `INVALID_ARGUMENT`.
    #[must_use]
    pub fn code(&self) -> Code {
        self.refusal()
            .map_or(Code::InvalidArgument, |refusal| refusal.code)
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

/// A call that was not answered with what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({code:?})")]
pub struct Refusal {
    /// The status.
    pub code: Code,
    /// The stable word of the API (`WEBHOOK_NOT_FOUND`, `RATE_LIMITED`, …); empty when the refusal
    /// is not the API's own.
    pub reason: String,
    /// For people.
    pub message: String,
    /// Every field that breaks rules.
    pub violations: Vec<Violation>,
    /// When to try again, where waiting helps.
    pub retry_after: Option<Duration>,
    /// The request's id in the server's log; empty when no server answered.
    pub request_id: String,
    /// How often it was tried.
    pub tries: u32,
}

/// One field that breaks rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The member, as it is spelled in the API.
    pub field: String,
    /// What is wrong.
    pub description: String,
}

impl Refusal {
    pub(crate) fn of(status: Status, tries: u32) -> Self {
        let details = status.get_error_details();
        let violations = details.bad_request().into_iter();
        let id = status.metadata().get("x-request-id");
        Self {
            code: status.code(),
            reason: details
                .error_info()
                .map_or_else(String::new, |info| info.reason.clone()),
            message: status.message().to_owned(),
            violations: violations
                .flat_map(|bad| &bad.field_violations)
                .map(|one| Violation {
                    field: one.field.clone(),
                    description: one.description.clone(),
                })
                .collect(),
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
            request_id: id
                .and_then(|id| id.to_str().ok())
                .unwrap_or_default()
                .to_owned(),
            tries,
        }
    }

    pub(crate) fn too_late(tries: u32) -> Self {
        let status = Status::deadline_exceeded("there was no answer within the deadline");
        Self::of(status, tries)
    }
}
