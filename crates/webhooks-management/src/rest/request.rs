//! Reading a request: its id, its key, its body, each within limits.

use std::time::Duration;

use axum::{
    body::{Body, HttpBody as _, to_bytes},
    extract::{RawPathParams, Request, rejection::RawPathParamsRejection},
};
use bytes::Bytes;
use http::{HeaderMap, header::CONTENT_TYPE, request::Parts};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;
use webhooks_domain::content_type;

use super::{body::MAX_BODY_BYTES, object::ObjectReader, routes::Route};
use crate::{
    error::{ManagementError, Violation, parse_id},
    service::{IfMatch, Once},
};

/// How long a body may take to arrive.
const BODY_WITHIN: Duration = Duration::from_secs(10);

/// Longest `Idempotency-Key`, in characters.
const MAX_KEY_CHARS: usize = 255;

/// The id in the path. What is no id names nothing, so it is answered as an unknown one.
pub(super) fn path_id(params: Result<RawPathParams, RawPathParamsRejection>) -> Option<Uuid> {
    let params = params.ok()?;
    let (_, value) = params.iter().find(|(name, _)| *name == "id")?;
    parse_id(value)
}

/// The id in the path, whatever it looks like; `None` = it is no text.
pub(super) fn path_text(params: Result<RawPathParams, RawPathParamsRejection>) -> Option<String> {
    let params = params.ok()?;
    let (_, value) = params.iter().find(|(name, _)| *name == "id")?;
    Some(value.to_owned())
}

/// The body of a call that writes, and what makes the call repeatable.
pub(super) async fn read_once(
    route: &Route,
    request: Request,
) -> Result<(Bytes, Option<Once>), ManagementError> {
    let (parts, body) = request.into_parts();
    if !is_json(&parts.headers) {
        return Err(ManagementError::MediaType);
    }
    let key = idempotency_key(&parts.headers)?;
    let body = read_body(body).await?;
    let once = key.map(|key| Once {
        key,
        hash: request_hash(route.verb, &parts, &body),
    });
    Ok((body, once))
}

/// The same for a call whose body may be left out, and its type with it.
pub(super) async fn read_optional(
    route: &Route,
    request: Request,
) -> Result<(Bytes, Option<Once>), ManagementError> {
    let (parts, body) = request.into_parts();
    let key = idempotency_key(&parts.headers)?;
    let body = read_body(body).await?;
    if !body.is_empty() && !is_json(&parts.headers) {
        return Err(ManagementError::MediaType);
    }
    let once = key.map(|key| Once {
        key,
        hash: request_hash(route.verb, &parts, &body),
    });
    Ok((body, once))
}

/// The same for a call that has nothing to say beside its key: no body, an empty one, or `{}`.
pub(super) async fn read_nothing(
    route: &Route,
    request: Request,
) -> Result<Option<Once>, ManagementError> {
    let (body, once) = read_optional(route, request).await?;
    says_nothing(&body)?;
    Ok(once)
}

fn says_nothing(body: &[u8]) -> Result<(), ManagementError> {
    if body.is_empty() {
        return Ok(());
    }
    ObjectReader::of(body)?.finish(&[]).verdict(())
}

pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let given = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    content_type::is_json(given)
}

pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ManagementError> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let key = value
        .to_str()
        .ok()
        .filter(|key| (1..=MAX_KEY_CHARS).contains(&key.len()));
    let key = key.ok_or_else(|| {
        let message = format!("has 1 to {MAX_KEY_CHARS} visible ASCII characters");
        ManagementError::Invalid(vec![Violation::new(
            "Idempotency-Key",
            "not_a_key",
            message,
        )])
    })?;
    Ok(Some(key.to_owned()))
}

/// The revisions in `If-Match`; `*` asks for nothing that a path does not ask for. Comparison is
/// strong, so a weak tag matches nothing, and neither does a tag that we never gave out.
pub(super) fn if_match(headers: &HeaderMap) -> Result<Option<IfMatch>, ManagementError> {
    let mut revisions = Vec::new();
    let mut given = false;
    for value in headers.get_all(http::header::IF_MATCH) {
        given = true;
        let tags = value.to_str().map_err(|_| not_a_tag())?;
        if tags.trim() == "*" {
            return Ok(None);
        }
        for tag in tags.split(',').map(str::trim) {
            let quoted = tag.strip_prefix("W/").unwrap_or(tag);
            let inner = quoted
                .strip_prefix('"')
                .and_then(|rest| rest.strip_suffix('"'))
                .ok_or_else(not_a_tag)?;
            if quoted.len() == tag.len() {
                revisions.extend(inner.parse::<i64>().ok());
            }
        }
    }
    Ok(given.then_some(IfMatch(revisions)))
}

fn not_a_tag() -> ManagementError {
    ManagementError::Invalid(vec![Violation::new(
        "If-Match",
        "not_an_entity_tag",
        "is a list of entity tags in quotes, as ETag shows them",
    )])
}

pub(super) async fn read_body(body: Body) -> Result<Bytes, ManagementError> {
    // What says itself that it is too large need not be waited for.
    if body.size_hint().lower() > MAX_BODY_BYTES as u64 {
        return Err(ManagementError::BodyTooLarge(MAX_BODY_BYTES));
    }
    let read = tokio::time::timeout(BODY_WITHIN, to_bytes(body, MAX_BODY_BYTES)).await;
    let read = read.map_err(|_| ManagementError::BodyTooSlow)?;
    // Cut off by the peer, or too large: the peer that went away reads no answer.
    read.map_err(|_| ManagementError::BodyTooLarge(MAX_BODY_BYTES))
}

/// What makes two requests the same: method, path, the revision that they ask for, and the body's
/// bytes.
fn request_hash(verb: &str, parts: &Parts, body: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut part = |part: &[u8]| {
        hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(part);
    };
    part(verb.as_bytes());
    part(parts.uri.path().as_bytes());
    for tags in parts.headers.get_all(http::header::IF_MATCH) {
        part(tags.as_bytes());
    }
    hash.update(body);
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_key_is_short_and_visible() {
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(
                "idempotency-key",
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
            idempotency_key(&headers)
        };
        assert_eq!(with("abc").unwrap().as_deref(), Some("abc"));
        assert!(with("").is_err());
        assert!(with(&"k".repeat(256)).is_err());
        assert!(with("schl\u{fc}ssel").is_err());
        assert_eq!(idempotency_key(&HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn if_match_compares_strongly() {
        let with = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(http::header::IF_MATCH, HeaderValue::from_static(value));
            if_match(&headers)
        };
        assert_eq!(if_match(&HeaderMap::new()).unwrap(), None);
        assert_eq!(with("*").unwrap(), None);
        assert_eq!(with("\"7\"").unwrap(), Some(IfMatch(vec![7])));
        assert_eq!(with("\"7\", \"8\"").unwrap(), Some(IfMatch(vec![7, 8])));
        for never in ["W/\"7\"", "\"x\"", "\"\""] {
            assert_eq!(with(never).unwrap(), Some(IfMatch(vec![])), "{never}");
        }
        for bad in ["7", "", "\"7", "\"7\",,"] {
            assert!(with(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_same_request_is_method_path_and_body() {
        let hash = |verb: &str, path: &str, if_match: Option<&str>, body: &[u8]| {
            let mut request = http::Request::builder().uri(path);
            if let Some(tag) = if_match {
                request = request.header("if-match", tag);
            }
            request_hash(verb, &request.body(()).unwrap().into_parts().0, body)
        };
        let base = hash("POST", "/v1/webhooks", None, b"{}");
        assert_eq!(base, hash("POST", "/v1/webhooks", None, b"{}"));
        for other in [
            hash("PATCH", "/v1/webhooks", None, b"{}"),
            hash("POST", "/v1/webhook", None, b"s{}"),
            hash("POST", "/v1/webhooks", None, b"{ }"),
            hash("POST", "/v1/webhooks", Some("\"1\""), b"{}"),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn nothing_is_said_by_no_body_or_by_an_object_without_members() {
        for nothing in ["", "{}", " {\n} "] {
            says_nothing(nothing.as_bytes()).unwrap();
        }
        for (something, field, reason) in [
            (r#"{"x":1}"#, "x", "unknown_field"),
            ("{{{", "", "malformed_json"),
            (" ", "", "malformed_json"),
            ("{}{}", "", "malformed_json"),
            ("null", "", "not_an_object"),
            ("[]", "", "not_an_object"),
        ] {
            let refused = says_nothing(something.as_bytes()).unwrap_err();
            let [problem] = refused.violations() else {
                panic!("{something}: {refused:?}")
            };
            assert_eq!(
                (problem.field.as_str(), problem.reason),
                (field, reason),
                "{something}"
            );
        }
    }

    #[test]
    fn only_json_is_read() {
        let with = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(value));
            is_json(&headers)
        };
        assert!(with("application/json") && with("Application/JSON; charset=utf-8"));
        assert!(!with("text/plain") && !with("application/jsonp") && !is_json(&HeaderMap::new()));
    }
}
