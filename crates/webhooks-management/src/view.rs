//! Webhooks, deliveries and attempts as JSON. Keys that are not set are left out, never null or
//! empty: the vendor's client reads an empty time as an error of the whole object.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Serialize;
use uuid::Uuid;
use webhooks_domain::event::format_micros;
use webhooks_store::{AttemptRecord, DeliveryRow, PublicKey, RateChoice, RetryChoice, WebhookRow};

use crate::{
    extras::Shown,
    service::SecretSummary,
    words::{ShownStatus, source_word},
};

/// One webhook.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WebhookView {
    id: Uuid,
    workspace_id: Uuid,
    created_by: Uuid,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_by_email: Option<String>,
    name: String,
    endpoint_url: String,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_reason: Option<&'static str>,
    status_label: &'static str,
    source: &'static str,
    // The vendor's client knows one link. With several of them none is shown, since a client that
    // writes back what it read would cut the others off.
    #[serde(skip_serializing_if = "Option::is_none")]
    link_id: Option<Uuid>,
    link_ids: Vec<Uuid>,
    triggers: Vec<String>,
    profile: String,
    success_count: i64,
    failure_count: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_sent_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_delivered_at: Option<String>,
    created_at: String,
    updated_at: String,
    revision: i64,
    // Only where the workspace requires it.
    #[serde(skip_serializing_if = "Option::is_none")]
    verified: Option<bool>,
    #[serde(skip_serializing_if = "String::is_empty")]
    description: String,
    labels: BTreeMap<String, String>,
    event_actions: Vec<String>,
    retry_policy: RetryView,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_limit: Option<RateView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_in_flight: Option<u32>,
    ordering: &'static str,
    // `headers` and `auth`, masked.
    #[serde(flatten)]
    extras: Shown,
    signatures: &'static [&'static str],
    #[serde(skip_serializing_if = "Option::is_none")]
    public_key: Option<String>,
    // At creation only.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

impl WebhookView {
    /// A webhook as everyone may see it.
    pub(crate) fn of(row: &WebhookRow) -> Self {
        Self {
            id: row.id,
            workspace_id: row.workspace_id,
            created_by: row.created_by,
            created_by_email: row.created_by_email.clone(),
            name: row.name.clone(),
            endpoint_url: row.endpoint_url.clone(),
            status: ShownStatus::of(row.status).as_str(),
            status_reason: row.status_reason.map(|reason| reason.as_str()),
            status_label: row.status.as_str(),
            source: source_word(row.source),
            link_id: match row.link_ids.as_slice() {
                [one] => Some(*one),
                _ => None,
            },
            link_ids: row.link_ids.clone(),
            triggers: row.triggers.clone(),
            profile: row.profile.clone(),
            success_count: row.success_count,
            failure_count: row.failure_count,
            last_sent_at: row.last_sent_at.map(format_micros),
            last_delivered_at: row.last_delivered_at.map(format_micros),
            created_at: format_micros(row.created_at),
            updated_at: format_micros(updated_at(row)),
            revision: row.revision,
            verified: row.verified(),
            description: row.options.description.clone(),
            labels: row.options.labels.clone(),
            event_actions: row.options.event_actions.clone(),
            retry_policy: RetryView::of(row.options.retry),
            rate_limit: row.options.rate.map(RateView::of),
            max_in_flight: row.options.max_in_flight,
            ordering: row.options.ordering.as_str(),
            extras: Shown::read(&row.extras.shown),
            signatures: signatures(row),
            public_key: row.asymmetric.as_ref().map(|key| key.public_key.clone()),
            secret: None,
        }
    }

    /// The same with its signing secret: the answer to its creation.
    pub(crate) fn with_secret(row: &WebhookRow, secret: String) -> Self {
        Self {
            secret: Some(secret),
            ..Self::of(row)
        }
    }
}

/// The kinds of signature a webhook's requests carry.
pub(crate) fn signatures(row: &WebhookRow) -> &'static [&'static str] {
    match row.asymmetric {
        Some(_) => &["v1", "v1a"],
        None => &["v1"],
    }
}

/// A retry policy: its preset or its numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
enum RetryView {
    Preset {
        preset: &'static str,
    },
    #[serde(rename_all = "camelCase")]
    Numbers {
        max_attempts: u32,
        base_seconds: f64,
        factor: f64,
        cap_seconds: f64,
        jitter: f64,
        max_age_seconds: f64,
    },
}

impl RetryView {
    fn of(choice: RetryChoice) -> Self {
        match choice {
            RetryChoice::Standard => Self::Preset { preset: "standard" },
            RetryChoice::Resilient => Self::Preset {
                preset: "resilient",
            },
            RetryChoice::Custom(numbers) => Self::Numbers {
                max_attempts: numbers.max_attempts,
                base_seconds: units(numbers.base_ms),
                factor: units(numbers.factor_milli.into()),
                cap_seconds: units(numbers.cap_ms),
                jitter: units(numbers.jitter_milli.into()),
                max_age_seconds: units(numbers.max_age_ms),
            },
        }
    }
}

/// Thousandths as a number.
pub(crate) fn units(thousandths: u64) -> f64 {
    Duration::from_millis(thousandths).as_secs_f64()
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct RateView {
    count: u32,
    period_seconds: u32,
    burst: u32,
}

impl RateView {
    fn of(rate: RateChoice) -> Self {
        Self {
            count: rate.count,
            period_seconds: rate.period_seconds,
            burst: rate.burst,
        }
    }
}

/// One signing secret, without the secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SecretView {
    version: u32,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    active: bool,
    masked: String,
}

impl SecretView {
    pub(crate) fn of(secret: &SecretSummary) -> Self {
        Self {
            version: secret.version,
            created_at: format_micros(secret.created_at),
            expires_at: secret.expires_at.map(format_micros),
            active: secret.active,
            masked: secret.masked.clone(),
        }
    }
}

/// What kind of public keys there are.
pub(crate) const PUBLIC_KEY_ALGORITHM: &str = "ed25519";

/// A public key that signatures are verified with, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PublicKeyView {
    algorithm: &'static str,
    key: String,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
}

impl PublicKeyView {
    pub(crate) fn of(key: &PublicKey) -> Self {
        Self {
            algorithm: PUBLIC_KEY_ALGORITHM,
            key: key.key.clone(),
            created_at: format_micros(key.created_at),
            expires_at: key.expires_at.map(format_micros),
        }
    }
}

/// Delivering moves `updatedAt` too, as in the product's sample (where it equals `lastSentAt`).
pub(crate) fn updated_at(row: &WebhookRow) -> i64 {
    row.last_sent_at
        .map_or(row.updated_at, |sent| sent.max(row.updated_at))
}

/// One delivery.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DeliveryView {
    id: Uuid,
    webhook_id: Uuid,
    event_id: String,
    event_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    link_id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lbid: Option<String>,
    trigger: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    replay_of: Option<Uuid>,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    blocked_by: Option<Uuid>,
    attempt_count: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_attempt_at: Option<String>,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_status_code: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<LastError>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<Vec<AttemptView>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct LastError {
    class: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl DeliveryView {
    /// A delivery without its attempts, as in lists.
    pub(crate) fn of(row: &DeliveryRow) -> Self {
        Self {
            id: row.id,
            webhook_id: row.webhook_id,
            event_id: row.event_id.clone(),
            event_type: row.event_type.clone(),
            link_id: row.link_id,
            lbid: filled(&row.lbid),
            trigger: row.trigger.api_word(),
            replay_of: row.replay_of,
            state: row.state.as_str(),
            state_reason: row.state_reason.clone(),
            blocked_by: row.blocked_by,
            attempt_count: row.attempt_count,
            next_attempt_at: row.next_attempt_at.map(format_micros),
            created_at: format_micros(row.created_at),
            completed_at: row.completed_at.map(format_micros),
            last_status_code: row.last_status_code,
            last_error: row.last_error_class.map(|class| LastError {
                class: class.as_str(),
                reason: row.last_error_reason.clone(),
            }),
            attempts: None,
        }
    }

    /// A delivery with its attempts.
    pub(crate) fn with_attempts(row: &DeliveryRow, attempts: &[AttemptRecord]) -> Self {
        Self {
            attempts: Some(attempts.iter().map(AttemptView::of).collect()),
            ..Self::of(row)
        }
    }

    /// The same with what only operators see of attempts.
    pub(crate) fn inspected(row: &DeliveryRow, attempts: &[AttemptRecord]) -> Self {
        Self {
            attempts: Some(attempts.iter().map(AttemptView::inspected).collect()),
            ..Self::of(row)
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AttemptView {
    number: u32,
    execution_id: Uuid,
    started_at: String,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_code: Option<u16>,
    timings: TimingsView,
    response_headers: Vec<HeaderView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_body: Option<String>,
    // Only beside a body that is no UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    response_body_encoding: Option<&'static str>,
    response_body_truncated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    // For operators: a customer must not learn where our names lead or how we are built.
    #[serde(skip_serializing_if = "Option::is_none")]
    remote_ip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dispatcher: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct TimingsView {
    #[serde(skip_serializing_if = "Option::is_none")]
    dns_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_byte_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_ms: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct HeaderView {
    name: String,
    value: String,
}

impl AttemptView {
    /// An attempt.
    pub(crate) fn of(row: &AttemptRecord) -> Self {
        let (body, encoding) = body_text(&row.response_body);
        let ms = |micros: Option<u32>| micros.map(|micros| f64::from(micros) / 1_000.0);
        Self {
            number: row.number,
            execution_id: row.execution_id,
            started_at: format_micros(row.started_at),
            outcome: row.outcome.as_str(),
            class: row.class.map(|class| class.as_str()),
            status_code: row.status_code,
            timings: TimingsView {
                dns_ms: ms(row.timings.dns_us),
                connect_ms: ms(row.timings.connect_us),
                tls_ms: ms(row.timings.tls_us),
                first_byte_ms: ms(row.timings.first_byte_us),
                total_ms: ms(row.timings.total_us),
            },
            response_headers: row
                .response_headers
                .iter()
                .map(|header| HeaderView {
                    name: header.name.clone(),
                    value: header.value.clone(),
                })
                .collect(),
            response_body: body,
            response_body_encoding: encoding,
            response_body_truncated: row.response_body_truncated,
            error: filled(&row.error),
            remote_ip: None,
            dispatcher: None,
        }
    }

    /// The same with what only operators see.
    fn inspected(row: &AttemptRecord) -> Self {
        Self {
            remote_ip: filled(&row.remote_ip),
            dispatcher: filled(&row.dispatcher),
            ..Self::of(row)
        }
    }
}

/// Text that is there.
fn filled(text: &str) -> Option<String> {
    Some(text.to_owned()).filter(|text| !text.is_empty())
}

/// A response body as JSON can carry it: as text where it is text, else in base64, marked so.
fn body_text(body: &[u8]) -> (Option<String>, Option<&'static str>) {
    if body.is_empty() {
        return (None, None);
    }
    match text_of(body) {
        Some(text) => (Some(text.to_owned()), None),
        None => (Some(STANDARD.encode(body)), Some("base64")),
    }
}

/// A body that was cut off at our limit may end inside a character; that one is left out.
fn text_of(body: &[u8]) -> Option<&str> {
    match std::str::from_utf8(body) {
        Ok(text) => Some(text),
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&body[..error.valid_up_to()])
                .ok()
                .filter(|text| !text.is_empty())
        }
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_text_where_it_is_text() {
        assert_eq!(body_text(b""), (None, None));
        assert_eq!(
            body_text("gr\u{fc}n".as_bytes()),
            (Some("gr\u{fc}n".to_owned()), None)
        );
        assert_eq!(
            body_text(b"gr\xc3"),
            (Some("gr".to_owned()), None),
            "cut inside a character"
        );
        assert_eq!(
            body_text(&[0xff, 0x00]),
            (Some("/wA=".to_owned()), Some("base64"))
        );
    }
}
