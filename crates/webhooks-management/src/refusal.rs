//! What calls about deliveries, events and jobs can be refused for beyond what every call can.

use std::time::Duration;

use http::StatusCode;
use serde_json::{Map, Value, json};
use tonic::Code;

/// How soon to come back for what is nearly there.
const SOON: Duration = Duration::from_secs(1);

/// Why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such event in this workspace, or it is past its retention.
    #[error("no such event")]
    EventNotFound,
    /// No such job in this workspace.
    #[error("no such job")]
    JobNotFound,
    /// The payload is past its retention.
    #[error("the payload of this delivery is past its retention")]
    PayloadExpired,
    /// What the delivery is made of has not been recorded yet.
    #[error("the delivery is not recorded in full yet")]
    NotYet,
    /// The key that a rotation made has stopped signing since.
    #[error("the key that this call made does not sign any more")]
    SecretGone,
    /// The webhook is disabled: nothing is sent to it.
    #[error("the webhook is disabled")]
    WebhookDisabled,
    /// A challenge: it goes out once, and what it asks is for its endpoint alone.
    #[error("a challenge is sent once, and its request is not shown")]
    Challenge,
    /// The delivery has ended: there is nothing to cancel.
    #[error("the delivery has ended")]
    DeliveryEnded,
    /// The job has ended.
    #[error("the job has ended")]
    JobEnded,
    /// The workspace has as many open jobs as it may.
    #[error("the workspace has {0} open jobs, and no more are possible")]
    TooManyJobs(u32),
    /// Too many look on at once.
    #[error("too many clients follow deliveries at the moment")]
    TooManyTails,
    /// The workspace looks on as often as it may.
    #[error(
        "the workspace follows its deliveries {0} times at once already, and no more are possible"
    )]
    TooManyTailsOfWorkspace(u32),
}

impl Refusal {
    /// HTTP status, gRPC code, code type.
    pub(crate) fn row(self) -> (StatusCode, Code, &'static str) {
        use StatusCode as S;
        match self {
            Self::EventNotFound => (S::NOT_FOUND, Code::NotFound, "EVENT_NOT_FOUND"),
            Self::JobNotFound => (S::NOT_FOUND, Code::NotFound, "JOB_NOT_FOUND"),
            Self::PayloadExpired => (S::GONE, Code::FailedPrecondition, "PAYLOAD_EXPIRED"),
            Self::SecretGone => (S::GONE, Code::FailedPrecondition, "SECRET_GONE"),
            Self::NotYet => (S::CONFLICT, Code::FailedPrecondition, "DELIVERY_NOT_READY"),
            Self::WebhookDisabled => (S::CONFLICT, Code::FailedPrecondition, "WEBHOOK_DISABLED"),
            Self::Challenge => (S::CONFLICT, Code::FailedPrecondition, "ENDPOINT_CHALLENGE"),
            Self::DeliveryEnded => (S::CONFLICT, Code::FailedPrecondition, "DELIVERY_ENDED"),
            Self::JobEnded => (S::CONFLICT, Code::FailedPrecondition, "JOB_ENDED"),
            Self::TooManyJobs(_) => (
                S::TOO_MANY_REQUESTS,
                Code::ResourceExhausted,
                "MAX_JOBS_REACHED",
            ),
            Self::TooManyTails | Self::TooManyTailsOfWorkspace(_) => (
                S::TOO_MANY_REQUESTS,
                Code::ResourceExhausted,
                "MAX_TAILS_REACHED",
            ),
        }
    }

    /// When to try again; absent where waiting does not help.
    pub(crate) fn retry_after(self) -> Option<Duration> {
        matches!(self, Self::NotYet).then_some(SOON)
    }

    /// The `details` of the flat body.
    pub(crate) fn details(self) -> Option<Map<String, Value>> {
        let (Self::TooManyJobs(limit) | Self::TooManyTailsOfWorkspace(limit)) = self else {
            return None;
        };
        match json!({ "limit": limit }) {
            Value::Object(members) => Some(members),
            _ => None,
        }
    }
}
