//! Refusals as gRPC puts them: the code of the table, and the details in Google's error model
//! (`ErrorInfo`, `BadRequest`, `RetryInfo`).

use std::collections::HashMap;

use prost::Message as _;
use serde_json::Value;
use tonic::{
    Code, Status,
    metadata::{MetadataMap, MetadataValue},
};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::once::REPLAYED;
use crate::{error::ManagementError, refusal::Refusal};

/// The domain of our reasons.
const DOMAIN: &str = "webhooks.linkbreakers.com";

/// Why a call is not answered with what it asked for.
#[derive(Debug)]
pub(super) enum Refused {
    /// For a reason of now.
    Now(ManagementError),
    /// The first call with its idempotency key was refused, and so is this one.
    Before(Box<Status>),
}

impl Refused {
    pub(super) fn code(&self) -> Code {
        match self {
            Self::Now(error) => error.row().1,
            Self::Before(status) => status.code(),
        }
    }

    pub(super) fn into_status(self) -> Status {
        match self {
            Self::Now(error) => {
                crate::rest::report(&error);
                status_of(&error)
            }
            Self::Before(status) => *status,
        }
    }
}

impl From<ManagementError> for Refused {
    fn from(error: ManagementError) -> Self {
        Self::Now(error)
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self::Now(refusal.into())
    }
}

/// A refusal as it is kept for an idempotency key: its status, in Google's form.
pub(super) fn refuse(error: &ManagementError) -> Vec<u8> {
    status_of(error).details().to_vec()
}

/// A refusal that was kept.
///
/// # Errors
/// What was kept is no status.
pub(super) fn kept(body: &[u8]) -> Result<Refused, ManagementError> {
    let told = tonic_types::Status::decode(body).map_err(ManagementError::internal)?;
    let mut metadata = MetadataMap::new();
    metadata.insert(REPLAYED, MetadataValue::from_static("true"));
    let status = Status::with_details_and_metadata(
        Code::from_i32(told.code),
        told.message,
        bytes::Bytes::copy_from_slice(body),
        metadata,
    );
    Ok(Refused::Before(Box::new(status)))
}

/// The status of a refusal.
pub(crate) fn status_of(error: &ManagementError) -> Status {
    let (_, code, code_type) = error.row();
    let mut details = ErrorDetails::new();
    let violations = error.violations();
    let facts = if violations.is_empty() {
        facts(error)
    } else {
        HashMap::new()
    };
    details.set_error_info(code_type, DOMAIN, facts);
    for violation in violations {
        details.add_bad_request_violation(
            &violation.field,
            format!("{} ({})", violation.message, violation.reason),
        );
    }
    if let Some(wait) = error.retry_after() {
        details.set_retry_info(Some(wait));
    }
    Status::with_error_details(code, error.to_string(), details)
}

fn facts(error: &ManagementError) -> HashMap<String, String> {
    error
        .details()
        .into_iter()
        .flatten()
        .map(|(key, value)| match value {
            Value::String(text) => (key, text),
            other => (key, other.to_string()),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        error::Violation,
        violations::{MAX_NAMED_BYTES, Violations},
    };

    #[test]
    fn the_reason_and_every_field_travel_along() {
        let error =
            ManagementError::Invalid(vec![Violation::new("name", "blank", "must not be blank")]);
        let status = status_of(&error);
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        let details = status.get_error_details();
        assert_eq!(details.error_info().unwrap().reason, "INVALID_ARGUMENT");
        let violation = &details.bad_request().unwrap().field_violations[0];
        assert_eq!(
            (violation.field.as_str(), violation.description.as_str()),
            ("name", "must not be blank (blank)")
        );
        let limit = ManagementError::PlanLimit {
            limit: 1,
            used: 1,
            plan: webhooks_domain::webhook::Plan::Free,
        };
        let details = status_of(&limit).get_error_details();
        assert_eq!(details.error_info().unwrap().metadata["plan"], "FREE");
        assert!(details.retry_info().is_none());
    }

    #[test]
    fn the_most_that_is_named_fits_into_headers_of_8_kib() {
        for length in [1, 40, 70, 80, 400, 2_000, MAX_NAMED_BYTES - 100] {
            let mut all = Violations::default();
            for index in 0..1_000 {
                let message = "m".repeat(length);
                all.push(Violation::new(format!("f[{index}]"), "reason", message));
            }
            let status = status_of(&ManagementError::Invalid(all.told()));
            // In base64, and with room for the code, the message, the id and the type.
            let bytes = status.details().len().div_ceil(3) * 4;
            assert!(bytes < 8 * 1_024 - 512, "{length}: {bytes}");
        }
    }

    #[test]
    fn a_kept_refusal_is_the_same_again() {
        let error =
            ManagementError::Invalid(vec![Violation::new("name", "blank", "must not be blank")]);
        let first = status_of(&error);
        let again = kept(&refuse(&error)).unwrap().into_status();
        assert_eq!(
            (again.code(), again.message(), again.details()),
            (first.code(), first.message(), first.details())
        );
        assert_eq!(again.metadata().get(REPLAYED).unwrap(), "true");
        assert!(kept(b"\xff").is_err());
    }
}
