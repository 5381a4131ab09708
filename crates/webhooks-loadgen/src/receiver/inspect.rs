//! What a request is about, and whether its signature holds.

use std::{
    collections::HashMap,
    sync::{PoisonError, RwLock},
};

use http::HeaderMap;
use memchr::memmem;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;
use webhooks_domain::signing::{SigningKey, verify};

/// How far the sender's clock may be from ours, in seconds: what Standard Webhooks' libraries allow.
const TOLERANCE_SECONDS: i64 = 300;

/// The secrets that are known.
#[derive(Debug, Default)]
pub(super) struct Secrets {
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    any: Vec<SigningKey>,
    by_webhook: HashMap<Uuid, Vec<SigningKey>>,
}

impl Secrets {
    pub(super) fn new(any: Vec<SigningKey>) -> Self {
        Self {
            known: RwLock::new(Known {
                any,
                by_webhook: HashMap::new(),
            }),
        }
    }

    pub(super) fn add(&self, webhook: Option<Uuid>, key: SigningKey) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        match webhook {
            Some(webhook) => known.by_webhook.entry(webhook).or_default().push(key),
            None => known.any.push(key),
        }
    }

    /// Whether the signature holds and is fresh. `None` when no secret is known for this webhook.
    pub(super) fn verdict(
        &self,
        webhook: Option<Uuid>,
        headers: &HeaderMap,
        body: &[u8],
        now_seconds: i64,
    ) -> Option<bool> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let keys = webhook
            .and_then(|webhook| known.by_webhook.get(&webhook))
            .unwrap_or(&known.any);
        if keys.is_empty() {
            return None;
        }
        let (id, signature) = (
            text(headers, "webhook-id"),
            text(headers, "webhook-signature"),
        );
        let timestamp: Option<i64> = text(headers, "webhook-timestamp").parse().ok();
        Some(timestamp.is_some_and(|timestamp| {
            (now_seconds - timestamp).abs() <= TOLERANCE_SECONDS
                && keys
                    .iter()
                    .any(|key| verify(key, id, timestamp, body, signature))
        }))
    }
}

/// A header's value; empty when it is missing or no text.
pub(super) fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

/// `event.id` of a delivered body, found by the contract's key order instead of by parsing.
pub(super) fn event_id(body: &[u8]) -> Option<Uuid> {
    id_after(body, br#""event":{"id":""#)
}

/// `webhook.id` of a delivered body.
pub(super) fn webhook_id(body: &[u8]) -> Option<Uuid> {
    id_after(body, br#""webhook":{"id":""#)
}

fn id_after(body: &[u8], mark: &[u8]) -> Option<Uuid> {
    let start = memmem::find(body, mark)? + mark.len();
    Uuid::try_parse_ascii(body.get(start..start + 36)?).ok()
}

/// The first eight bytes of the body's SHA-256.
pub(super) fn body_hash(body: &[u8]) -> u64 {
    let digest = Sha256::digest(body);
    u64::from_be_bytes(*digest.first_chunk().expect("a SHA-256 has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use webhooks_domain::signing::sign;

    const NOW: i64 = 1_700_000_000;

    fn headers(key: &SigningKey, timestamp: i64, body: &[u8]) -> HeaderMap {
        let signature = sign(std::slice::from_ref(key), "msg_1", timestamp, body);
        [
            ("webhook-id", "msg_1".to_owned()),
            ("webhook-timestamp", timestamp.to_string()),
            ("webhook-signature", signature),
        ]
        .into_iter()
        .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()))
        .collect()
    }

    #[test]
    fn a_signature_is_judged_by_the_webhooks_own_secret() {
        let (own, other) = (
            SigningKey::from_random([1; 32]),
            SigningKey::from_random([2; 32]),
        );
        let webhook = Some(Uuid::from_u128(7));
        let secrets = Secrets::new(Vec::new());
        let signed = headers(&own, NOW, b"body");
        assert_eq!(secrets.verdict(webhook, &signed, b"body", NOW), None);
        secrets.add(None, other);
        assert_eq!(secrets.verdict(webhook, &signed, b"body", NOW), Some(false));
        secrets.add(webhook, own);
        assert_eq!(secrets.verdict(webhook, &signed, b"body", NOW), Some(true));
        assert_eq!(
            secrets.verdict(webhook, &signed, b"body!", NOW),
            Some(false)
        );
        assert_eq!(
            secrets.verdict(webhook, &signed, b"body", NOW + 301),
            Some(false)
        );
        assert_eq!(
            secrets.verdict(webhook, &HeaderMap::new(), b"body", NOW),
            Some(false)
        );
    }

    #[test]
    fn ids_are_found_without_parsing() {
        let (event, webhook) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let body =
            format!(r#"{{"event":{{"id":"{event}","x":1}},"webhook":{{"id":"{webhook}"}}}}"#);
        assert_eq!(event_id(body.as_bytes()), Some(event));
        assert_eq!(webhook_id(body.as_bytes()), Some(webhook));
        assert_eq!(event_id(br#"{"event":{"id":"short"#), None);
        assert_eq!(webhook_id(b"{}"), None);
    }
}
