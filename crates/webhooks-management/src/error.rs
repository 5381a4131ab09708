//! Everything a call can be refused for, and the one table that says how each face puts it.
//!
//! The table ([`ManagementError::row`]) is the only place where HTTP statuses, gRPC codes and code
//! types meet, so the two faces cannot drift apart. Messages are for customers; what only an
//! operator should see travels as the source and ends in the log.

use std::time::Duration;

use http::StatusCode;
use serde_json::{Map, Value, json};
use tonic::Code;
use uuid::Uuid;
use webhooks_bus::BusError;
use webhooks_domain::webhook::Plan;
use webhooks_runtime::rate::{TooMany, whole_seconds};

use crate::{refusal::Refusal, violations::Violations};

/// How soon a client may come back after a failure that passes by itself. Small on purpose: the
/// vendor's client sleeps this long inside a call, up to three times.
const SOON: Duration = Duration::from_secs(1);

/// One thing that is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The member, as it is spelled in the API; empty when the whole body is meant.
    pub field: String,
    /// A stable machine word.
    pub reason: &'static str,
    /// What to do about it.
    pub message: String,
}

impl Violation {
    /// A violation of one field.
    pub fn new(field: impl Into<String>, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason,
            message: message.into(),
        }
    }
}

/// What several readings of one request found wrong, to be told at once.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    violations: Violations,
    other: Option<ManagementError>,
}

impl From<Violations> for Problems {
    fn from(violations: Violations) -> Self {
        Self {
            violations,
            other: None,
        }
    }
}

impl From<Vec<Violation>> for Problems {
    fn from(violations: Vec<Violation>) -> Self {
        Violations::from(violations).into()
    }
}

impl Problems {
    /// What was read; where nothing could be, some value that nobody will use.
    pub(crate) fn take<T: Default>(&mut self, read: Result<T, ManagementError>) -> T {
        read.unwrap_or_else(|error| {
            match error {
                ManagementError::Invalid(violations) => self.violations.extend(violations),
                other => self.other = Some(other),
            }
            T::default()
        })
    }

    /// The violations, for whoever judges on.
    pub(crate) fn violations(self) -> Violations {
        self.violations
    }

    /// Whether all went well.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub(crate) fn verdict(self) -> Result<(), ManagementError> {
        match self.other {
            Some(other) if self.violations.is_empty() => Err(other),
            _ => self.violations.verdict(()),
        }
    }
}

/// Why a call was not answered with what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ManagementError {
    /// The request breaks rules; all of them are named, as far as [`Violations`] names them.
    #[error("the request is not valid")]
    Invalid(Vec<Violation>),
    /// The endpoint's URL is one that is never called.
    #[error("the endpoint URL is not allowed")]
    EndpointRefused(Vec<Violation>),
    /// A page token that was not made for this list.
    #[error("the page token is not valid for this list")]
    PageToken,
    /// No credential, or one that is not (or no longer) valid.
    #[error("a valid access token is required")]
    Unauthenticated,
    /// The token does not have the scope.
    #[error("the access token lacks the scope {0}")]
    MissingScope(&'static str),
    /// No such webhook in this workspace.
    #[error("no such webhook")]
    WebhookNotFound,
    /// No such delivery in this workspace.
    #[error("no such delivery")]
    DeliveryNotFound,
    /// No such token in this workspace.
    #[error("no such token")]
    TokenNotFound,
    /// No such workspace; only operators ask.
    #[error("no such workspace")]
    WorkspaceNotFound,
    /// A workspace of this id was deleted, and ids are not used again.
    #[error("a workspace of this id was deleted")]
    WorkspaceGone,
    /// The workspace has as many tokens as one may have.
    #[error("the workspace has {0} access tokens, and no more are possible")]
    TokenLimit(u32),
    /// Something about deliveries, events or jobs.
    #[error(transparent)]
    History(#[from] Refusal),
    /// No such path.
    #[error("there is nothing at this path")]
    RouteNotFound,
    /// The path exists, the method does not.
    #[error("this path does not know the method")]
    MethodNotAllowed,
    /// The body is larger than the limit, in bytes.
    #[error("the body is larger than {0} bytes")]
    BodyTooLarge(usize),
    /// The body did not arrive in time.
    #[error("the request did not arrive in time")]
    BodyTooSlow,
    /// The caller's deadline is over.
    #[error("the call took longer than its deadline")]
    DeadlineExceeded,
    /// Something else than JSON.
    #[error("the body has to be application/json")]
    MediaType,
    /// The first call with this idempotency key still runs.
    #[error("the first request with this Idempotency-Key is still running")]
    IdempotencyInProgress,
    /// The idempotency key was used for another request.
    #[error("this Idempotency-Key was used for another request")]
    IdempotencyReused,
    /// The workspace has as many webhooks as its plan allows.
    #[error("the workspace has {used} of {limit} webhooks that its plan allows")]
    PlanLimit {
        /// What the plan allows.
        limit: u32,
        /// What there is, in any status.
        used: u64,
        /// The plan.
        plan: Plan,
    },
    /// The webhook is not at the revision that the caller has seen (`If-Match`).
    #[error("the webhook has changed: it is at revision {current}")]
    Precondition {
        /// The revision it is at.
        current: i64,
    },
    /// Too many requests.
    #[error("too many requests")]
    RateLimited(Duration),
    /// Stored, and not yet in force: the read model could not be written in time. It will be, by
    /// itself. Repeating with the same idempotency key gives the finished answer.
    #[error("the change is stored and takes effect as soon as the message bus is back")]
    Pending,
    /// NATS or Postgres is away; nothing was changed.
    #[error("the service is not available at the moment")]
    Unavailable(#[source] Option<anyhow::Error>),
    /// Ours to repair.
    #[error("something went wrong on our side")]
    Internal(#[source] anyhow::Error),
}

impl ManagementError {
    /// The table: HTTP status, gRPC code, code type.
    #[must_use]
    pub fn row(&self) -> (StatusCode, Code, &'static str) {
        use StatusCode as S;
        match self {
            Self::Invalid(_) => (S::BAD_REQUEST, Code::InvalidArgument, "INVALID_ARGUMENT"),
            Self::EndpointRefused(_) => (
                S::BAD_REQUEST,
                Code::InvalidArgument,
                "INVALID_ENDPOINT_URL",
            ),
            Self::PageToken => (S::BAD_REQUEST, Code::InvalidArgument, "INVALID_PAGE_TOKEN"),
            Self::Unauthenticated => (S::UNAUTHORIZED, Code::Unauthenticated, "UNAUTHENTICATED"),
            Self::MissingScope(_) => (S::FORBIDDEN, Code::PermissionDenied, "MISSING_SCOPE"),
            Self::WebhookNotFound => (S::NOT_FOUND, Code::NotFound, "WEBHOOK_NOT_FOUND"),
            Self::DeliveryNotFound => (S::NOT_FOUND, Code::NotFound, "DELIVERY_NOT_FOUND"),
            Self::TokenNotFound => (S::NOT_FOUND, Code::NotFound, "TOKEN_NOT_FOUND"),
            Self::WorkspaceNotFound => (S::NOT_FOUND, Code::NotFound, "WORKSPACE_NOT_FOUND"),
            Self::WorkspaceGone => (S::CONFLICT, Code::AlreadyExists, "WORKSPACE_DELETED"),
            Self::TokenLimit(_) => (
                S::TOO_MANY_REQUESTS,
                Code::ResourceExhausted,
                "MAX_TOKENS_REACHED",
            ),
            Self::History(refusal) => refusal.row(),
            Self::RouteNotFound => (S::NOT_FOUND, Code::Unimplemented, "NOT_FOUND"),
            Self::MethodNotAllowed => (
                S::METHOD_NOT_ALLOWED,
                Code::Unimplemented,
                "METHOD_NOT_ALLOWED",
            ),
            Self::BodyTooLarge(_) => (
                S::PAYLOAD_TOO_LARGE,
                Code::ResourceExhausted,
                "PAYLOAD_TOO_LARGE",
            ),
            Self::BodyTooSlow => (
                S::REQUEST_TIMEOUT,
                Code::DeadlineExceeded,
                "REQUEST_TIMEOUT",
            ),
            Self::DeadlineExceeded => (
                S::GATEWAY_TIMEOUT,
                Code::DeadlineExceeded,
                "DEADLINE_EXCEEDED",
            ),
            Self::MediaType => (
                S::UNSUPPORTED_MEDIA_TYPE,
                Code::InvalidArgument,
                "UNSUPPORTED_MEDIA_TYPE",
            ),
            Self::IdempotencyInProgress => (S::CONFLICT, Code::Aborted, "IDEMPOTENCY_IN_PROGRESS"),
            Self::IdempotencyReused => (
                S::UNPROCESSABLE_ENTITY,
                Code::FailedPrecondition,
                "IDEMPOTENCY_KEY_REUSED",
            ),
            Self::PlanLimit { .. } => (
                S::TOO_MANY_REQUESTS,
                Code::ResourceExhausted,
                "MAX_WEBHOOKS_REACHED",
            ),
            Self::Precondition { .. } => {
                (S::PRECONDITION_FAILED, Code::Aborted, "PRECONDITION_FAILED")
            }
            Self::RateLimited(_) => (
                S::TOO_MANY_REQUESTS,
                Code::ResourceExhausted,
                "RATE_LIMITED",
            ),
            Self::Pending => (S::SERVICE_UNAVAILABLE, Code::Unavailable, "CHANGE_PENDING"),
            Self::Unavailable(_) => (S::SERVICE_UNAVAILABLE, Code::Unavailable, "UNAVAILABLE"),
            Self::Internal(_) => (S::INTERNAL_SERVER_ERROR, Code::Internal, "INTERNAL"),
        }
    }

    /// When to try again; absent where waiting does not help.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited(wait) => Some(*wait),
            Self::History(refusal) => refusal.retry_after(),
            Self::IdempotencyInProgress | Self::Pending | Self::Unavailable(_) => Some(SOON),
            _ => None,
        }
    }

    /// The `details` of the flat body.
    #[must_use]
    pub fn details(&self) -> Vec<Map<String, Value>> {
        if let Self::History(refusal) = self {
            return refusal.details().into_iter().collect();
        }
        let objects = match self {
            Self::Invalid(violations) | Self::EndpointRefused(violations) => violations
                .iter()
                .map(|v| json!({ "field": v.field, "reason": v.reason, "message": v.message }))
                .collect(),
            Self::PageToken => vec![json!({
                "field": "pageToken",
                "reason": "invalid",
                "message": "leave it out to begin with the first page",
            })],
            Self::MissingScope(scope) => vec![json!({ "scope": scope })],
            Self::PlanLimit { limit, used, plan } => vec![json!({
                "limit": limit,
                "used": used,
                "plan": plan.as_str(),
                "key": "PLAN_LIMIT_KEY_WEBHOOKS",
            })],
            Self::TokenLimit(limit) => vec![json!({ "limit": limit })],
            Self::Precondition { current } => vec![json!({
                "field": "If-Match",
                "reason": "revision_mismatch",
                "revision": current,
            })],
            Self::RateLimited(wait) => vec![json!({ "retryAfterSeconds": whole_seconds(*wait) })],
            _ => Vec::new(),
        };
        objects
            .into_iter()
            .filter_map(|object| match object {
                Value::Object(members) => Some(members),
                _ => None,
            })
            .collect()
    }

    /// The flat body that every error answer has.
    #[must_use]
    pub fn body(&self) -> Value {
        let (status, _, code_type) = self.row();
        json!({
            "code": status.as_u16(),
            "codeType": code_type,
            "details": self.details(),
            "message": self.to_string(),
        })
    }

    /// The violations, where there are any.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        match self {
            Self::Invalid(violations) | Self::EndpointRefused(violations) => violations,
            _ => &[],
        }
    }

    /// A refusal for these violations: of its own kind when the endpoint alone is to blame.
    #[must_use]
    pub fn refused(violations: Vec<Violation>, endpoint_refused: bool) -> Self {
        if endpoint_refused && violations.iter().all(|v| v.field == "endpointUrl") {
            Self::EndpointRefused(violations)
        } else {
            Self::Invalid(violations)
        }
    }

    /// Something that should not be possible.
    pub fn internal(error: impl Into<anyhow::Error>) -> Self {
        Self::Internal(error.into())
    }
}

impl From<TooMany> for ManagementError {
    fn from(TooMany(wait): TooMany) -> Self {
        Self::RateLimited(wait)
    }
}

impl From<BusError> for ManagementError {
    fn from(error: BusError) -> Self {
        match error {
            BusError::Unavailable(_) | BusError::Conflict(_) => {
                Self::Unavailable(Some(error.into()))
            }
            other => Self::Internal(other.into()),
        }
    }
}

/// An id from outside. Anything that is no UUID cannot name anything, which is all that `None` says.
pub(crate) fn parse_id(text: &str) -> Option<Uuid> {
    // Hyphenated only: a second spelling of one id would be a second idempotency key and log entry.
    (text.len() == 36)
        .then(|| Uuid::try_parse(text).ok())
        .flatten()
}
