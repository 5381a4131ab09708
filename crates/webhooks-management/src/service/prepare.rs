//! A request as the dispatcher would send it, for people to look at: the same body, the same
//! headers, a signature that verifies. Credentials that the customer gave are shown as masks, and so
//! is the signature to whoever may only read: with it he could send the request himself, and the
//! receiver would take it for ours.

use bytes::Bytes;
use webhooks_domain::{
    hop::{self, Hop},
    ids::Trigger,
    sealing::Purpose,
    signing::{self, AsymmetricKey, SEED_BYTES, SigningKey},
};
use webhooks_runtime::telemetry::{TRACE_RANDOM_BYTES, next_traceparent};
use webhooks_store::{SealedSecret, WebhookRow};

use super::{Management, secrets::binding};
use crate::{error::ManagementError, extras::MASK, secrets};

/// Whether a request is shown with its signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signature {
    /// As it would be sent.
    Shown,
    /// As a mask.
    Masked,
}

/// A request, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// Where to.
    pub url: String,
    /// The headers, in order.
    pub headers: Vec<(String, String)>,
    /// The body's bytes.
    pub body: Bytes,
}

impl Prepared {
    /// The method of every delivery.
    pub const METHOD: &'static str = "POST";

    /// A command line that sends it, for a POSIX shell.
    #[must_use]
    pub fn curl(&self) -> String {
        let mut line = format!("curl -X {} {}", Self::METHOD, quoted(&self.url));
        for (name, value) in &self.headers {
            line.push_str(" -H ");
            line.push_str(&quoted(&format!("{name}: {value}")));
        }
        line.push_str(" --data-binary ");
        line.push_str(&quoted(&String::from_utf8_lossy(&self.body)));
        line
    }
}

/// One word for a POSIX shell: nothing in single quotes means anything.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

impl Management {
    /// The request that carries `body` to the webhook now. Its hop is that of a delivery which is made
    /// anew: history keeps none.
    pub(super) fn prepare(
        &self,
        webhook: &WebhookRow,
        message_id: &str,
        (trigger, attempt): (Trigger, u32),
        body: Bytes,
        signature: Signature,
    ) -> Result<Prepared, ManagementError> {
        let now = self.now();
        let seconds = now.div_euclid(1_000_000);
        let signature = match signature {
            Signature::Shown => self.signature(webhook, message_id, now, &body)?,
            Signature::Masked => MASK.to_owned(),
        };
        let traceparent = next_traceparent(None, rand::random::<[u8; TRACE_RANDOM_BYTES]>());
        let mut headers: Vec<(String, String)> = [
            ("content-type", "application/json".to_owned()),
            (
                "user-agent",
                webhooks_egress::EgressConfig::default().user_agent,
            ),
            ("webhook-id", message_id.to_owned()),
            ("webhook-timestamp", seconds.to_string()),
            ("webhook-signature", signature),
            ("webhook-attempt", attempt.to_string()),
            ("webhook-trigger", trigger.header_word().to_owned()),
            (hop::HEADER, Hop::default().next().get().to_string()),
            ("traceparent", traceparent),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec();
        headers.extend(masked(&webhook.extras.shown));
        Ok(Prepared {
            url: masked_url(&webhook.endpoint_url, &webhook.extras.shown),
            headers,
            body,
        })
    }

    fn signature(
        &self,
        webhook: &WebhookRow,
        message_id: &str,
        now: i64,
        body: &[u8],
    ) -> Result<String, ManagementError> {
        let seconds = now.div_euclid(1_000_000);
        let (keys, asymmetric) = (
            self.keys(webhook, now)?,
            self.asymmetric_keys(webhook, now)?,
        );
        let signature = signing::sign_with(&keys, &asymmetric, message_id, seconds, body);
        Ok(signature)
    }

    /// The keys that sign at this moment, newest first.
    fn keys(&self, webhook: &WebhookRow, now: i64) -> Result<Vec<SigningKey>, ManagementError> {
        webhook
            .secrets
            .iter()
            .filter(|secret| secret.signs_at(now))
            .map(|secret| {
                let bytes = self.unseal(webhook, Purpose::SigningKey, secret)?;
                SigningKey::from_bytes(bytes).map_err(ManagementError::internal)
            })
            .collect()
    }

    /// The same of ed25519 keys.
    fn asymmetric_keys(
        &self,
        webhook: &WebhookRow,
        now: i64,
    ) -> Result<Vec<AsymmetricKey>, ManagementError> {
        webhook
            .asymmetric_keys()
            .filter(|key| key.sealed.signs_at(now))
            .map(|key| {
                let seed = self.unseal(webhook, Purpose::Ed25519, &key.sealed)?;
                let seed = <[u8; SEED_BYTES]>::try_from(seed.as_slice());
                seed.map(AsymmetricKey::from_seed)
                    .map_err(ManagementError::internal)
            })
            .collect()
    }

    fn unseal(
        &self,
        webhook: &WebhookRow,
        purpose: Purpose,
        secret: &SealedSecret,
    ) -> Result<Vec<u8>, ManagementError> {
        let binding = binding(webhook, secret.version);
        let opened = secrets::open(&self.inner.keyring, purpose, binding, secret);
        opened.map_err(ManagementError::internal)
    }
}

/// The URL with the API key that is appended to its query, as it may be shown.
fn masked_url(url: &str, shown: &serde_json::Value) -> String {
    let auth = &shown["auth"];
    let (Some(name), Some(value)) = (auth["name"].as_str(), auth["value"].as_str()) else {
        return url.to_owned();
    };
    if auth["type"] != "apiKey" || auth["in"] != "query" {
        return url.to_owned();
    }
    let joint = match url.split_once('?') {
        None => "?",
        Some((_, "")) => "",
        Some(_) => "&",
    };
    format!("{url}{joint}{name}={value}")
}

/// The customer's own headers, as they may be shown.
fn masked(shown: &serde_json::Value) -> Vec<(String, String)> {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let own = shown["headers"].as_array().map_or(&[][..], Vec::as_slice);
    let mut headers: Vec<_> = own
        .iter()
        .map(|header| (text(&header["name"]).to_lowercase(), text(&header["value"])))
        .collect();
    let auth = &shown["auth"];
    match auth["type"].as_str() {
        Some("bearer") => headers.push((
            "authorization".to_owned(),
            format!("Bearer {}", text(&auth["token"])),
        )),
        Some("basic") => headers.push((
            "authorization".to_owned(),
            format!("Basic {}", text(&auth["password"])),
        )),
        Some("oauth2ClientCredentials") => {
            // Fetched when it is needed, so there is none to show.
            headers.push(("authorization".to_owned(), "Bearer ••••".to_owned()));
        }
        Some("apiKey") if auth["in"] == "header" => {
            headers.push((text(&auth["name"]).to_lowercase(), text(&auth["value"])));
        }
        _ => {}
    }
    headers
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_command_line_survives_quotes() {
        let request = Prepared {
            url: "https://example.com/a?b='c'".into(),
            headers: vec![("x".into(), "it's".into())],
            body: Bytes::from_static(b"{\"a\":\"'$(rm)\"}"),
        };
        assert_eq!(
            request.curl(),
            r#"curl -X POST 'https://example.com/a?b='\''c'\''' -H 'x: it'\''s' --data-binary '{"a":"'\''$(rm)"}'"#
        );
    }

    #[test]
    fn a_key_in_the_query_is_shown_where_it_goes() {
        let shown = |place: &str| json!({ "auth": { "type": "apiKey", "in": place, "name": "key", "value": "••••" } });
        for (url, expected) in [
            ("https://a.example/x", "https://a.example/x?key=••••"),
            ("https://a.example/x?", "https://a.example/x?key=••••"),
            (
                "https://a.example/x?b=1",
                "https://a.example/x?b=1&key=••••",
            ),
        ] {
            assert_eq!(masked_url(url, &shown("query")), expected);
            assert_eq!(masked_url(url, &shown("header")), url);
            assert_eq!(masked_url(url, &json!({})), url);
        }
    }

    #[test]
    fn credentials_are_masks() {
        let shown = json!({
            "headers": [{ "name": "X-Shop", "value": "••••4711" }],
            "auth": { "type": "bearer", "token": "••••" },
        });
        assert_eq!(
            masked(&shown),
            [
                ("x-shop".to_owned(), "••••4711".to_owned()),
                ("authorization".to_owned(), "Bearer ••••".to_owned()),
            ]
        );
        assert!(masked(&json!({})).is_empty());
    }
}
