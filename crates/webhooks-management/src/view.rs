//! Webhooks, deliveries and attempts as JSON. Keys that are not set are left out, never null or
//! empty: the vendor's client reads an empty time as an error of the whole object.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Serialize;
use uuid::Uuid;
use webhooks_domain::event::format_micros;
use webhooks_store::{AttemptRow, DeliveryRow, WebhookRow};

use crate::words::{ShownStatus, source_word};

/// One webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct WebhookView {
    id: Uuid,
    workspace_id: Uuid,
    created_by: Uuid,
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
    state: &'static str,
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
            state: row.state.as_str(),
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
    pub(crate) fn with_attempts(row: &DeliveryRow, attempts: &[AttemptRow]) -> Self {
        Self {
            attempts: Some(attempts.iter().map(AttemptView::of).collect()),
            ..Self::of(row)
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct AttemptView {
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
    fn of(row: &AttemptRow) -> Self {
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
