//! Why an event (or a call) was refused, and the one table that says how each door tells it.

use std::fmt;

use webhooks_domain::event::{EventRejection, FieldProblem, reason};

/// The kinds of refusal. Each has one HTTP status, one gRPC code and one stable word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalKind {
    /// The event, or the call around it, is not what the contract wants.
    Invalid,
    /// More bytes or events than a call takes.
    TooLarge,
    /// No credential, or none that we know.
    Unauthenticated,
    /// The credential lacks the scope.
    MissingScope,
    /// The event names another workspace than the caller's, in whichever field.
    WorkspaceMismatch,
    /// The id was used for another body; the first one won.
    Conflict,
    /// It was passed on from deliveries more often than an event may be.
    Loop,
    /// The workspace's quota is used up for the moment.
    Quota,
    /// Too many wrong credentials came from the caller's address.
    Guessing,
    /// The stream of events is at its limit.
    Full,
    /// JetStream did not acknowledge in time: whether it is stored is unknown.
    Unavailable,
    /// This process has all it can hold.
    Overloaded,
    /// The body did not arrive in time.
    SlowBody,
    /// The connection broke while the body was being read.
    BrokenBody,
    /// Not `application/json`.
    MediaType,
    /// No such path.
    NotFound,
    /// The path does not take this method.
    Method,
    /// Our own fault.
    Internal,
}

impl RefusalKind {
    /// The HTTP status, which is also the `code` of the error body.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Invalid | Self::BrokenBody => 400,
            Self::Unauthenticated => 401,
            Self::MissingScope | Self::WorkspaceMismatch => 403,
            Self::NotFound => 404,
            Self::Method => 405,
            Self::SlowBody => 408,
            Self::Conflict | Self::Loop => 409,
            Self::TooLarge => 413,
            Self::MediaType => 415,
            Self::Quota | Self::Guessing => 429,
            Self::Internal => 500,
            Self::Full | Self::Unavailable | Self::Overloaded => 503,
        }
    }

    /// The stable word of the error body (`codeType`).
    #[must_use]
    pub const fn code_type(self) -> &'static str {
        match self {
            Self::Invalid => "INVALID_ARGUMENT",
            Self::TooLarge => "PAYLOAD_TOO_LARGE",
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::MissingScope => "MISSING_SCOPE",
            Self::WorkspaceMismatch => "WORKSPACE_MISMATCH",
            Self::Conflict => "EVENT_ID_CONFLICT",
            Self::Loop => "EVENT_LOOP",
            Self::Quota | Self::Guessing => "RATE_LIMITED",
            Self::Full => "STREAM_FULL",
            Self::Unavailable => "UNAVAILABLE",
            Self::Overloaded => "OVERLOADED",
            Self::SlowBody => "REQUEST_TIMEOUT",
            Self::BrokenBody => "INCOMPLETE_BODY",
            Self::MediaType => "UNSUPPORTED_MEDIA_TYPE",
            Self::NotFound => "NOT_FOUND",
            Self::Method => "METHOD_NOT_ALLOWED",
            Self::Internal => "INTERNAL",
        }
    }

    /// The gRPC code.
    #[must_use]
    pub const fn grpc(self) -> tonic::Code {
        match self {
            Self::Invalid | Self::BrokenBody | Self::MediaType | Self::TooLarge => {
                tonic::Code::InvalidArgument
            }
            Self::Unauthenticated => tonic::Code::Unauthenticated,
            Self::MissingScope | Self::WorkspaceMismatch => tonic::Code::PermissionDenied,
            Self::Conflict => tonic::Code::AlreadyExists,
            Self::Loop => tonic::Code::FailedPrecondition,
            Self::Quota | Self::Guessing => tonic::Code::ResourceExhausted,
            Self::Full | Self::Unavailable | Self::Overloaded => tonic::Code::Unavailable,
            Self::SlowBody => tonic::Code::DeadlineExceeded,
            Self::NotFound | Self::Method => tonic::Code::Unimplemented,
            Self::Internal => tonic::Code::Internal,
        }
    }

    /// The `result` label of `webhooks_ingest_events_total`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Invalid | Self::BrokenBody | Self::MediaType | Self::NotFound | Self::Method => {
                "invalid"
            }
            Self::TooLarge => "too_large",
            Self::Unauthenticated | Self::MissingScope | Self::Guessing => "unauthorised",
            Self::WorkspaceMismatch => "tenant_mismatch",
            Self::Conflict => "conflict",
            Self::Loop => "loop",
            Self::Quota => "quota",
            Self::Full => "full",
            Self::Unavailable => "unavailable",
            Self::Overloaded => "overloaded",
            Self::SlowBody => "slow",
            Self::Internal => "internal",
        }
    }

    /// Whole seconds after which trying again may help; `None` where waiting does not, and where only
    /// the single refusal knows ([`Refusal::retry_after`]).
    #[must_use]
    pub const fn retry_after(self) -> Option<u32> {
        match self {
            Self::Full => Some(5),
            Self::Unavailable | Self::Overloaded | Self::Quota => Some(1),
            _ => None,
        }
    }

    /// Whether the same bytes may be accepted later: nothing is wrong with the event.
    #[must_use]
    pub const fn is_passing(self) -> bool {
        matches!(
            self,
            Self::Full | Self::Unavailable | Self::Overloaded | Self::Quota
        )
    }
}

/// A refusal: what kind, and what the caller is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What kind.
    pub kind: RefusalKind,
    /// For people. Never contains a value from the event.
    pub message: String,
    /// Problems of single fields, as many as were found (a limited number).
    pub problems: Vec<FieldProblem>,
    /// The event's id, where it was known by then.
    pub event_id: Option<String>,
    /// For operators only, never shown to the caller.
    pub detail: Option<String>,
    /// Seconds after which coming again helps, where this refusal knows it better than its kind.
    pub wait: Option<u32>,
}

impl Refusal {
    /// A refusal without field problems.
    #[must_use]
    pub fn new(kind: RefusalKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            problems: Vec::new(),
            event_id: None,
            detail: None,
            wait: None,
        }
    }

    /// A refusal because of one field.
    #[must_use]
    pub fn of_field(
        kind: RefusalKind,
        field: &str,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        let message = message.into();
        Self {
            problems: vec![FieldProblem {
                field: field.to_owned(),
                reason,
                message: message.clone(),
            }],
            ..Self::new(kind, message)
        }
    }

    /// One wrong credential too many; the next is judged after so many seconds.
    #[must_use]
    pub fn guessing(seconds: u32) -> Self {
        Self {
            // Who comes at once would be refused again.
            wait: Some(seconds.max(1)),
            ..Self::new(
                RefusalKind::Guessing,
                "too many wrong tokens from this address",
            )
        }
    }

    /// Whole seconds after which trying again may help; `None` where waiting does not.
    #[must_use]
    pub fn retry_after(&self) -> Option<u32> {
        self.wait.or(self.kind.retry_after())
    }

    /// Not acknowledged in time; `detail` is for operators.
    #[must_use]
    pub fn unavailable(detail: impl fmt::Display) -> Self {
        Self {
            detail: Some(detail.to_string()),
            ..Self::new(
                RefusalKind::Unavailable,
                "the event could not be made durable in time; repeat it with the same id",
            )
        }
    }

    /// The same, told of an event with this id.
    #[must_use]
    pub fn about(mut self, event_id: &str) -> Self {
        self.event_id = Some(event_id.to_owned());
        self
    }

    /// The same, told of the event with the id that can still be found, unless one is known.
    #[must_use]
    pub(crate) fn or_about(mut self, event_id: impl FnOnce() -> Option<String>) -> Self {
        self.event_id = self.event_id.or_else(event_id);
        self
    }

    /// The stable machine word under which a dead letter files it: the first field's, else the kind's.
    #[must_use]
    pub fn reason_word(&self) -> &'static str {
        match self.kind {
            RefusalKind::WorkspaceMismatch => reason::TENANT_MISMATCH,
            RefusalKind::Conflict => "conflict",
            kind => self
                .problems
                .first()
                .map_or(kind.label(), |problem| problem.reason),
        }
    }
}

impl From<EventRejection> for Refusal {
    fn from(rejection: EventRejection) -> Self {
        let too_large = rejection
            .problems
            .iter()
            .any(|problem| problem.reason == reason::TOO_LARGE && problem.field == "$");
        let kind = if rejection.has(reason::TENANT_MISMATCH) {
            // Whatever else is wrong with it: it is not the caller's to repair.
            RefusalKind::WorkspaceMismatch
        } else if too_large {
            RefusalKind::TooLarge
        } else {
            RefusalKind::Invalid
        };
        Self {
            problems: rejection.problems.clone(),
            ..Self::new(kind, rejection.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_that_is_too_large_is_a_413_and_any_other_problem_a_400() {
        let check = |field: &str, reason: &'static str, status: u16| {
            let refusal = Refusal::from(EventRejection::one(field, reason, "no"));
            assert_eq!(refusal.kind.status(), status);
            assert_eq!(refusal.reason_word(), reason);
        };
        check("$", reason::TOO_LARGE, 413);
        check("customAttributes", reason::TOO_LARGE, 400);
        check("event.id", reason::MISSING, 400);
        check("event.link.workspaceId", reason::TENANT_MISMATCH, 403);
    }

    #[test]
    fn another_workspace_is_a_403_whatever_else_is_wrong() {
        let mut rejection = EventRejection::one("event.device", reason::WRONG_TYPE, "no");
        let foreign = EventRejection::one("event.workspace.id", reason::TENANT_MISMATCH, "no");
        rejection.problems.extend(foreign.problems);
        let refusal = Refusal::from(rejection);
        assert_eq!(refusal.kind, RefusalKind::WorkspaceMismatch);
        assert_eq!(refusal.reason_word(), reason::TENANT_MISMATCH);
        assert_eq!(
            refusal.message,
            "event refused: event.device wrong_type, event.workspace.id tenant_mismatch"
        );
    }

    #[test]
    fn only_what_passes_by_itself_asks_to_come_again() {
        for kind in [
            RefusalKind::Full,
            RefusalKind::Unavailable,
            RefusalKind::Overloaded,
            RefusalKind::Quota,
        ] {
            assert!(
                kind.is_passing() && kind.retry_after().is_some(),
                "{kind:?}"
            );
        }
        for kind in [
            RefusalKind::Invalid,
            RefusalKind::Conflict,
            RefusalKind::Loop,
            RefusalKind::WorkspaceMismatch,
            RefusalKind::TooLarge,
            RefusalKind::Internal,
        ] {
            assert!(
                !kind.is_passing() && kind.retry_after().is_none(),
                "{kind:?}"
            );
        }
    }
}
