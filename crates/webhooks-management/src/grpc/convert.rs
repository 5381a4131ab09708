//! Rows as gRPC's messages, and its requests as drafts.

mod options;

use prost_types::Timestamp;
use webhooks_bus::words::{wire_class, wire_outcome, wire_trigger};
use webhooks_domain::webhook::WebhookSource;
use webhooks_proto::v1;
use webhooks_runtime::Secret;
use webhooks_store::{AttemptRecord, DeliveryRow, PublicKey, WebhookRow};

use crate::{
    draft::Draft,
    extras::Shown,
    model::wire_state,
    service::{PUBLIC_KEY, RotationDraft, SECRET, SecretSummary},
    view::{PUBLIC_KEY_ALGORITHM, signatures, updated_at},
    violations::Violations,
    words::{ShownStatus, source_word},
};

/// A webhook.
pub(super) fn webhook(row: &WebhookRow) -> v1::Webhook {
    let extras = Shown::read(&row.extras.shown);
    v1::Webhook {
        id: row.id.to_string(),
        workspace_id: row.workspace_id.to_string(),
        name: row.name.clone(),
        endpoint_url: row.endpoint_url.clone(),
        status: shown(ShownStatus::of(row.status)).into(),
        status_reason: row
            .status_reason
            .map_or_else(String::new, |reason| reason.to_string()),
        status_label: row.status.to_string(),
        source: source(row.source).into(),
        link_ids: row.link_ids.iter().map(ToString::to_string).collect(),
        triggers: row.triggers.clone(),
        created_by: row.created_by.to_string(),
        created_at: Some(timestamp(row.created_at)),
        updated_at: Some(timestamp(updated_at(row))),
        last_sent_at: row.last_sent_at.map(timestamp),
        last_delivered_at: row.last_delivered_at.map(timestamp),
        success_count: row.success_count,
        failure_count: row.failure_count,
        revision: row.revision,
        profile: row.profile.clone(),
        description: row.options.description.clone(),
        labels: row.options.labels.clone(),
        event_actions: row.options.event_actions.clone(),
        retry_policy: Some(options::retry(row.options.retry)),
        rate_limit: row.options.rate.map(options::rate),
        max_in_flight: row.options.max_in_flight.unwrap_or(0),
        ordering: options::ordering(row.options.ordering).into(),
        headers: options::headers(&extras),
        auth: extras.auth.as_ref().map(options::auth),
        client_certificate: extras.client_certificate.as_ref().map(options::certificate),
        signatures: owned(signatures(row)),
        public_key: row
            .asymmetric
            .as_ref()
            .map_or_else(String::new, |key| key.public_key.clone()),
        verified: row.verified(),
        created_by_email: row.created_by_email.clone().unwrap_or_default(),
    }
}

/// A signing secret, without the secret.
pub(super) fn secret(secret: &SecretSummary) -> v1::WebhookSecret {
    v1::WebhookSecret {
        version: i32::try_from(secret.version).unwrap_or(i32::MAX),
        created_at: Some(timestamp(secret.created_at)),
        expires_at: secret.expires_at.map(timestamp),
        active: secret.active,
        masked: secret.masked.clone(),
    }
}

/// A public key that signatures are verified with.
pub(super) fn public_key(key: PublicKey) -> v1::WebhookPublicKey {
    v1::WebhookPublicKey {
        algorithm: PUBLIC_KEY_ALGORITHM.to_owned(),
        key: key.key,
        created_at: Some(timestamp(key.created_at)),
        expires_at: key.expires_at.map(timestamp),
    }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// A webhook that is to be made.
pub(super) fn draft_of_creation(request: &v1::CreateWebhookRequest) -> Draft {
    let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    Draft {
        name: given(&request.name),
        endpoint_url: given(&request.endpoint_url),
        links: Some(request.link_ids.clone()),
        triggers: request
            .triggers
            .as_ref()
            .map(|triggers| triggers.kinds.clone()),
        source: Some(written_source(request.source)),
        profile: given(&request.profile),
        description: given(&request.description),
        labels: Some(options::labels(request.labels.clone())),
        event_actions: Some(request.event_actions.clone()),
        status: (request.status != 0).then(|| written_status(request.status)),
        retry: request.retry_policy.as_ref().map(options::retry_draft),
        rate: request.rate_limit.as_ref().map(options::rate_draft),
        max_in_flight: options::in_flight(Some(request.max_in_flight)),
        ordering: options::written_ordering(Some(request.ordering)),
        headers: Some(options::header_drafts(request.headers.clone())),
        auth: request.auth.clone().map(options::auth_draft),
        certificate: request
            .client_certificate
            .clone()
            .map(options::certificate_draft),
        secret: given(&request.secret).map(Secret::new),
        signatures: Some(request.signatures.clone()).filter(|words| !words.is_empty()),
        ..Draft::default()
    }
}

/// Changes to a webhook.
pub(super) fn draft_of_update(request: v1::UpdateWebhookRequest) -> Draft {
    Draft {
        name: request.name,
        endpoint_url: request.endpoint_url,
        links: request.links.map(|links| links.link_ids),
        as_link_id: false,
        triggers: request.triggers.map(|triggers| triggers.kinds),
        status: request.status.map(written_status),
        source: request.source.map(written_source),
        profile: request.profile,
        description: request.description,
        labels: request.labels.map(|map| options::labels(map.labels)),
        event_actions: request.event_actions.map(|list| list.event_actions),
        retry: request.retry_policy.as_ref().map(options::retry_draft),
        rate: request.rate_limit.as_ref().map(options::rate_draft),
        max_in_flight: options::in_flight(request.max_in_flight),
        ordering: options::written_ordering(request.ordering),
        headers: request
            .headers
            .map(|list| options::header_drafts(list.headers)),
        auth: request.auth.map(options::auth_draft),
        certificate: request.client_certificate.map(options::certificate_draft),
        secret: None,
        signatures: request.signatures.map(|list| list.signatures),
        held: options::written_held(request.held_deliveries),
        problems: Violations::default(),
    }
}

/// A rotation.
pub(super) fn rotation(request: &v1::RotateWebhookSecretRequest) -> RotationDraft {
    RotationDraft {
        key: written_key(request.key),
        overlap_seconds: request.overlap_seconds.map(i64::from),
        secret: Some(request.secret.clone())
            .filter(|text| !text.is_empty())
            .map(Secret::new),
        problems: Violations::default(),
    }
}

/// The long word of a status; a number that is none becomes a word that is none, and is refused as
/// such.
pub(super) fn written_status(number: i32) -> String {
    v1::WebhookStatus::try_from(number).map_or_else(
        |_| number.to_string(),
        |status| status.as_str_name().to_owned(),
    )
}

/// The word of a key; a number that is none becomes a word that is none, and is refused as such.
fn written_key(number: i32) -> Option<String> {
    match v1::RotatedKey::try_from(number) {
        Ok(v1::RotatedKey::Unspecified) => None,
        Ok(v1::RotatedKey::Secret) => Some(SECRET.to_owned()),
        Ok(v1::RotatedKey::PublicKey) => Some(PUBLIC_KEY.to_owned()),
        Err(_) => Some(number.to_string()),
    }
}

fn written_source(number: i32) -> String {
    v1::WebhookSource::try_from(number).map_or_else(
        |_| number.to_string(),
        |source| source.as_str_name().to_owned(),
    )
}

fn shown(status: ShownStatus) -> v1::WebhookStatus {
    match status {
        ShownStatus::Active => v1::WebhookStatus::Active,
        ShownStatus::Disabled => v1::WebhookStatus::Disabled,
        ShownStatus::Paused => v1::WebhookStatus::Paused,
    }
}

fn source(source: WebhookSource) -> v1::WebhookSource {
    // The long words are the enum's own names.
    v1::WebhookSource::from_str_name(source_word(source)).unwrap_or_default()
}

/// A delivery.
pub(super) fn delivery(row: &DeliveryRow) -> v1::Delivery {
    v1::Delivery {
        id: row.id.to_string(),
        webhook_id: row.webhook_id.to_string(),
        event_id: row.event_id.clone(),
        event_type: row.event_type.clone(),
        link_id: row.link_id.map_or_else(String::new, |id| id.to_string()),
        lbid: row.lbid.clone(),
        trigger: wire_trigger(row.trigger).into(),
        state: wire_state(row.state).into(),
        attempt_count: i32::try_from(row.attempt_count).unwrap_or(i32::MAX),
        next_attempt_at: row.next_attempt_at.map(timestamp),
        created_at: Some(timestamp(row.created_at)),
        completed_at: row.completed_at.map(timestamp),
        last_status_code: row.last_status_code.map_or(0, i32::from),
        last_error_class: wire_class(row.last_error_class).into(),
        last_error_reason: row.last_error_reason.clone().unwrap_or_default(),
        replay_of: row.replay_of.map_or_else(String::new, |id| id.to_string()),
        state_reason: row.state_reason.clone().unwrap_or_default(),
        blocked_by: row.blocked_by.map_or_else(String::new, |id| id.to_string()),
    }
}

/// An attempt.
pub(super) fn attempt(row: &AttemptRecord) -> v1::Attempt {
    v1::Attempt {
        number: i32::try_from(row.number).unwrap_or(i32::MAX),
        execution_id: row.execution_id.to_string(),
        started_at: Some(timestamp(row.started_at)),
        outcome: wire_outcome(row.outcome).into(),
        class: wire_class(row.class).into(),
        status_code: row.status_code.map_or(0, i32::from),
        timings: Some(v1::Timings {
            dns_us: row.timings.dns_us,
            connect_us: row.timings.connect_us,
            tls_us: row.timings.tls_us,
            first_byte_us: row.timings.first_byte_us,
            total_us: row.timings.total_us,
        }),
        response_headers: row
            .response_headers
            .iter()
            .map(|header| v1::Header {
                name: header.name.clone(),
                value: header.value.clone(),
            })
            .collect(),
        response_body: row.response_body.clone(),
        response_body_truncated: row.response_body_truncated,
        error: row.error.clone(),
    }
}

pub(super) fn timestamp(micros: i64) -> Timestamp {
    let nanos = micros.rem_euclid(1_000_000) * 1_000;
    Timestamp {
        seconds: micros.div_euclid(1_000_000),
        nanos: i32::try_from(nanos).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use webhooks_domain::delivery::DeliveryState;

    use super::*;

    #[test]
    fn our_words_are_the_protocols_words() {
        for known in WebhookSource::ALL {
            assert_ne!(source(*known), v1::WebhookSource::Unspecified);
        }
        for known in ShownStatus::ALL {
            assert_eq!(shown(known).as_str_name(), known.as_str());
            assert_eq!(written_status(shown(known).into()), known.as_str());
        }
        for known in DeliveryState::ALL {
            assert_eq!(
                wire_state(known).as_str_name(),
                format!("DELIVERY_STATE_{}", known.as_str())
            );
            assert_eq!(crate::model::delivery_state(wire_state(known)), Some(known));
        }
        assert_eq!(written_status(99), "99");
    }

    #[test]
    fn times_before_1970_have_positive_fractions() {
        assert_eq!(
            timestamp(-1),
            Timestamp {
                seconds: -1,
                nanos: 999_999_000
            }
        );
        assert_eq!(
            timestamp(1_500_000),
            Timestamp {
                seconds: 1,
                nanos: 500_000_000
            }
        );
    }
}
