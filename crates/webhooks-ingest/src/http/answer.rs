//! What HTTP callers read: JSON in camelCase, and one flat body for every error.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use serde::Serialize;
use webhooks_domain::event::{FieldProblem, format_micros};

use crate::{
    accept::Accepted,
    auth::PUBLISH_SCOPE,
    refusal::{Refusal, RefusalKind},
};

#[derive(Serialize)]
struct One<'a> {
    event: AcceptedBody<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AcceptedBody<'a> {
    id: &'a str,
    accepted_at: String,
    duplicate: bool,
}

#[derive(Serialize)]
struct Many<'a> {
    results: Vec<ResultBody<'a>>,
}

#[derive(Serialize)]
struct ResultBody<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorBody<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ErrorBody<'a> {
    code: u16,
    code_type: &'static str,
    details: Vec<Detail<'a>>,
    message: &'a str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Detail<'a> {
    Field(&'a FieldProblem),
    /// The scope that the token lacks.
    Scope {
        scope: &'static str,
    },
}

impl<'a> From<&'a Refusal> for ErrorBody<'a> {
    fn from(refusal: &'a Refusal) -> Self {
        let scope = PUBLISH_SCOPE;
        let lacks = refusal.kind == RefusalKind::MissingScope;
        let fields = refusal.problems.iter().map(Detail::Field);
        Self {
            code: refusal.kind.status(),
            code_type: refusal.kind.code_type(),
            details: fields
                .chain(lacks.then_some(Detail::Scope { scope }))
                .collect(),
            message: &refusal.message,
        }
    }
}

/// `accepted`, `duplicate` or `refused`.
pub(crate) fn status_word(result: &Result<Accepted, Refusal>) -> &'static str {
    match result {
        Ok(accepted) if accepted.duplicate => "duplicate",
        Ok(_) => "accepted",
        Err(_) => "refused",
    }
}

/// 202 with the event's id.
pub(crate) fn one(accepted: &Accepted) -> Response {
    let event = AcceptedBody {
        id: &accepted.id,
        accepted_at: format_micros(accepted.accepted_at),
        duplicate: accepted.duplicate,
    };
    json(StatusCode::ACCEPTED, &One { event })
}

/// 200 with a result for each event, in order.
pub(crate) fn many(results: &[Result<Accepted, Refusal>]) -> Response {
    json(
        StatusCode::OK,
        &Many {
            results: results.iter().map(result_body).collect(),
        },
    )
}

fn result_body(result: &Result<Accepted, Refusal>) -> ResultBody<'_> {
    let status = status_word(result);
    match result {
        Ok(accepted) => ResultBody {
            id: Some(&accepted.id),
            status,
            error: None,
        },
        Err(refusal) => ResultBody {
            id: refusal.event_id.as_deref(),
            status,
            error: Some(refusal.into()),
        },
    }
}

/// The flat error body, with `Retry-After` where coming again helps.
pub(crate) fn refusal(refusal: &Refusal) -> Response {
    let status =
        StatusCode::from_u16(refusal.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(status, &ErrorBody::from(refusal));
    let headers = response.headers_mut();
    if let Some(seconds) = refusal.retry_after() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if refusal.kind == RefusalKind::Unauthenticated {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if matches!(
        refusal.kind,
        RefusalKind::SlowBody | RefusalKind::BrokenBody
    ) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// A JSON answer.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let bytes = serde_json::to_vec(body).expect("answers have string keys and finite numbers");
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    let value = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, value);
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    async fn text(response: Response) -> String {
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    fn accepted(duplicate: bool) -> Accepted {
        Accepted {
            id: "e1".to_owned(),
            accepted_at: 1_760_112_740_599_160,
            duplicate,
        }
    }

    #[tokio::test]
    async fn one_event_is_a_202() {
        let response = one(&accepted(false));
        assert_eq!(response.status(), 202);
        assert_eq!(response.headers()["content-type"], "application/json");
        assert_eq!(
            text(response).await,
            r#"{"event":{"id":"e1","acceptedAt":"2025-10-10T16:12:20.59916Z","duplicate":false}}"#
        );
    }

    #[tokio::test]
    async fn many_events_are_a_200_with_each_result_in_order() {
        let refused = Refusal::of_field(RefusalKind::Invalid, "lbid", "missing", "is required");
        let full = Refusal::new(RefusalKind::Full, "full").about("e2");
        let response = many(&[
            Ok(accepted(true)),
            Err(refused),
            Err(full),
            Ok(accepted(false)),
        ]);
        assert_eq!(response.status(), 200);
        assert_eq!(
            text(response).await,
            concat!(
                r#"{"results":[{"id":"e1","status":"duplicate"},"#,
                r#"{"status":"refused","error":{"code":400,"codeType":"INVALID_ARGUMENT","#,
                r#""details":[{"field":"lbid","reason":"missing","message":"is required"}],"message":"is required"}},"#,
                r#"{"id":"e2","status":"refused","error":{"code":503,"codeType":"STREAM_FULL","details":[],"message":"full"}},"#,
                r#"{"id":"e1","status":"accepted"}]}"#
            )
        );
    }

    #[tokio::test]
    async fn every_error_has_the_flat_body() {
        let response = refusal(&Refusal::unavailable("a secret of ours"));
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "1");
        let body = text(response).await;
        assert!(
            body.starts_with(r#"{"code":503,"codeType":"UNAVAILABLE","details":[],"message":""#)
        );
        assert!(!body.contains("secret"), "{body}");
        let full = refusal(&Refusal::new(RefusalKind::Full, "full"));
        assert_eq!(full.headers()["retry-after"], "5");
        let guessing = refusal(&Refusal::guessing(42));
        assert_eq!(guessing.status(), 429);
        assert_eq!(guessing.headers()["retry-after"], "42");
        assert!(
            text(guessing)
                .await
                .starts_with(r#"{"code":429,"codeType":"RATE_LIMITED","details":[],"message":""#)
        );
        let stranger = refusal(&Refusal::new(RefusalKind::Unauthenticated, "who?"));
        assert_eq!(stranger.headers()["www-authenticate"], "Bearer");
        assert!(!stranger.headers().contains_key("retry-after"));
    }
}
