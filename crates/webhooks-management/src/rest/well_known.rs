//! What receivers' machines look up without credentials: the addresses that our requests come from,
//! and the public keys that they are signed with.
//!
//! Both are for caches: they carry an entity tag and a lifetime, and a caller that has the current
//! version gets 304 without a body. They are the same for everybody, so shared caches may keep them.

use axum::{
    body::Body,
    extract::{RawPathParams, rejection::RawPathParamsRejection},
    response::Response,
};
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{CACHE_CONTROL, ETAG, IF_NONE_MATCH, X_CONTENT_TYPE_OPTIONS},
};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{
    Rest,
    answer::{encode, json as json_answer},
    request::path_id,
    routes::WellKnown,
};
use crate::{error::ManagementError, view::PublicKeyView};

/// How long a receiver may believe a webhook's public keys, in seconds. Short: a key that is taken
/// away is to be forgotten soon.
pub(crate) const KEYS_MAX_AGE_SECONDS: i64 = 300;

impl Rest {
    /// Answers anybody.
    pub(super) async fn well_known(
        &self,
        what: WellKnown,
        params: Result<RawPathParams, RawPathParamsRejection>,
        headers: &HeaderMap,
    ) -> Result<Response, ManagementError> {
        match what {
            WellKnown::SourceIps => {
                let published = self.source_ips.published(self.clock.now_micros());
                let tag = format!("\"{}\"", published.version);
                Ok(cached(headers, &tag, published.max_age, published.body))
            }
            WellKnown::PublicKeys => {
                let id = path_id(params).ok_or(ManagementError::WebhookNotFound)?;
                // A webhook that signs with its secret only is answered like none at all.
                let keys = self.management.public_keys(id).await?;
                let keys: Vec<_> = keys.iter().map(PublicKeyView::of).collect();
                let body = encode(&json!({ "webhookId": id, "keys": keys }))?;
                let digest = Sha256::digest(&body);
                let version = digest.iter().take(8).map(|byte| format!("{byte:02x}"));
                let tag = format!("\"{}\"", version.collect::<String>());
                Ok(cached(headers, &tag, KEYS_MAX_AGE_SECONDS, body))
            }
        }
    }
}

/// The document, or word that the caller has it already.
fn cached(headers: &HeaderMap, tag: &str, max_age: i64, body: Vec<u8>) -> Response {
    let mut response = match has(headers, tag) {
        false => json_answer(StatusCode::OK, body),
        true => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        }
    };
    let visible = |text: String| HeaderValue::try_from(text).expect("digits, hex and quotes");
    let out = response.headers_mut();
    out.insert(ETAG, visible(tag.to_owned()));
    out.insert(CACHE_CONTROL, visible(format!("public, max-age={max_age}")));
    out.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Whether `If-None-Match` names the tag. Comparison is weak (RFC 9110, section 13.1.2): proxies
/// that compress weaken tags.
fn has(headers: &HeaderMap, tag: &str) -> bool {
    let values = headers.get_all(IF_NONE_MATCH).iter();
    let mut named = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim);
    named.any(|named| named == "*" || named.strip_prefix("W/").unwrap_or(named) == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_it_gets_no_body() {
        let asked = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(IF_NONE_MATCH, HeaderValue::from_static(value));
            cached(&headers, "\"ab\"", 60, b"{}".to_vec())
        };
        for (value, status) in [
            ("\"ab\"", 304),
            ("W/\"ab\"", 304),
            ("\"x\", \"ab\"", 304),
            ("*", 304),
            ("ab", 200),
            ("\"a\"", 200),
            ("", 200),
        ] {
            let response = asked(value);
            assert_eq!(response.status(), status, "{value}");
            assert_eq!(response.headers()["etag"], "\"ab\"");
            assert_eq!(response.headers()["cache-control"], "public, max-age=60");
            let typed = response.headers().contains_key("content-type");
            assert_eq!(typed, status == 200, "{value}");
        }
        let fresh = cached(&HeaderMap::new(), "\"ab\"", 60, b"{}".to_vec());
        assert_eq!(fresh.status(), 200);
    }
}
