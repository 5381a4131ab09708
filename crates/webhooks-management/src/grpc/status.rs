//! Refusals as gRPC puts them: the code of the table, and the details in Google's error model
//! (`ErrorInfo`, `BadRequest`, `RetryInfo`).

use std::collections::HashMap;

use serde_json::Value;
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::error::ManagementError;

/// The domain of our reasons.
const DOMAIN: &str = "webhooks.linkbreakers.com";

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
    use crate::error::Violation;

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
}
