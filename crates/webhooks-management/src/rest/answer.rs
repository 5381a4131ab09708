//! How an answer is put: JSON, always typed, never sniffed.

use axum::{body::Body, response::Response};
use http::{
    HeaderValue, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS},
};
use serde::Serialize;
use webhooks_runtime::rate::whole_seconds;

use crate::error::ManagementError;

/// An answer with this JSON.
pub(super) fn json(status: StatusCode, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Answers are a workspace's own, and one of them holds a secret.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// An answer without a body.
pub(super) fn nothing() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Serialises something of ours.
///
/// # Errors
/// Never in practice: our views have text keys only.
pub(super) fn encode<T: Serialize>(view: &T) -> Result<Vec<u8>, ManagementError> {
    serde_json::to_vec(view).map_err(ManagementError::internal)
}

/// The flat body of a refusal.
pub(super) fn refusal_body(error: &ManagementError) -> Vec<u8> {
    error.body().to_string().into_bytes()
}

/// A refusal.
pub(super) fn refusal(error: &ManagementError) -> Response {
    let mut response = json(error.row().0, refusal_body(error));
    let headers = response.headers_mut();
    if let Some(wait) = error.retry_after() {
        headers.insert(RETRY_AFTER, HeaderValue::from(whole_seconds(wait).max(1)));
    }
    if matches!(error, ManagementError::Unauthenticated) {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_refusal_is_the_flat_body() {
        let error = ManagementError::MissingScope("webhooks:write");
        let body: serde_json::Value = serde_json::from_slice(&refusal_body(&error)).unwrap();
        assert_eq!(
            body,
            serde_json::json!({
                "code": 403,
                "codeType": "MISSING_SCOPE",
                "details": [{ "scope": "webhooks:write" }],
                "message": "the access token lacks the scope webhooks:write",
            })
        );
        let response = refusal(&error);
        assert_eq!(response.status(), 403);
        assert_eq!(response.headers()["content-type"], "application/json");
        assert_eq!(response.headers()["x-content-type-options"], "nosniff");
        assert!(response.headers().get("retry-after").is_none());
    }

    #[test]
    fn only_what_passes_by_itself_says_when_to_come_back() {
        let limited = refusal(&ManagementError::RateLimited(Duration::from_millis(1_500)));
        assert_eq!(limited.headers()["retry-after"], "2");
        let plan = ManagementError::PlanLimit {
            limit: 1,
            used: 1,
            plan: webhooks_domain::webhook::Plan::Free,
        };
        let plan = refusal(&plan);
        assert_eq!(plan.status(), 429);
        assert!(plan.headers().get("retry-after").is_none());
        assert_eq!(
            refusal(&ManagementError::Unavailable(None)).headers()["retry-after"],
            "1"
        );
        assert_eq!(
            refusal(&ManagementError::Unauthenticated).headers()["www-authenticate"],
            "Bearer"
        );
    }
}
