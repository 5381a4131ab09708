//! Between the tables' rows and the messages on the bus.
//!
//! A message that makes no sense is refused with the reason; whoever holds it buries it. Nothing is
//! guessed: a delivery stored under a wrong webhook would be worse than one not stored.

use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;
use webhooks_bus::words::{
    class_of, outcome_of, trigger_of, wire_class, wire_outcome, wire_trigger,
};
use webhooks_domain::{
    delivery::DeliveryState,
    retry::RetryPolicy,
    webhook::{DeliveryOrder, HeldChoice, StatusReason, WebhookStatus},
};
use webhooks_proto::{internal::v1 as wire, v1 as api};
use webhooks_store::{
    AttemptRecord, AuthoritiesRow, DeliveryFacts, RenditionRecord, ReportRecord, ResponseHeader,
    RetryChoice, SealedSecret, StatsRow, Timings, TokenRow, VerdictDelivery, VerdictRecord,
    WebhookRow,
};

/// Most bytes of a response body that are kept of one attempt; the dispatcher keeps less.
const MAX_RESPONSE_BODY: usize = 64 * 1024;

/// A message that makes no sense.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{field}: {problem}")]
pub(crate) struct Nonsense {
    /// Which field.
    pub(crate) field: &'static str,
    /// What is wrong with it.
    pub(crate) problem: &'static str,
}

fn nonsense(field: &'static str, problem: &'static str) -> Nonsense {
    Nonsense { field, problem }
}

/// The status that the data plane is told. While an endpoint has to answer a challenge first, that
/// goes before what a person or deliveries made of the status, except that what is off stays off.
///
/// It is one value with the URL it is about: who still sees the URL of before sees its verdict too.
pub(crate) fn told_status(row: &WebhookRow) -> (WebhookStatus, Option<StatusReason>) {
    if row.verified() == Some(false) && row.status != WebhookStatus::Disabled {
        (WebhookStatus::Paused, Some(StatusReason::Unverified))
    } else {
        (row.status, row.status_reason)
    }
}

/// The read model's version of a webhook.
pub(crate) fn webhook_config(row: &WebhookRow) -> wire::WebhookConfig {
    let (status, reason) = told_status(row);
    wire::WebhookConfig {
        id: raw(row.id),
        workspace_id: raw(row.workspace_id),
        name: row.name.clone(),
        endpoint_url: row.endpoint_url.clone(),
        status: wire_status(status).into(),
        status_reason: reason.map_or_else(String::new, |reason| reason.to_string()),
        link_ids: row.link_ids.iter().copied().map(raw).collect(),
        triggers: row.triggers.clone(),
        source: row.source.as_str().to_owned(),
        created_by: raw(row.created_by),
        created_at: row.created_at,
        updated_at: row.updated_at,
        revision: row.config_revision(),
        secrets: row.secrets.iter().map(sealed_secret).collect(),
        profile: row.profile.clone(),
        event_actions: row.options.event_actions.clone(),
        retry: retry_policy(row.options.retry),
        rate: row.options.rate.map(|rate| wire::RateLimit {
            count: rate.count,
            period_seconds: rate.period_seconds,
            burst: rate.burst,
        }),
        max_in_flight: row.options.max_in_flight.unwrap_or(0),
        ordering: match row.options.ordering {
            DeliveryOrder::None => wire::Ordering::None,
            DeliveryOrder::Link => wire::Ordering::Link,
            DeliveryOrder::Visitor => wire::Ordering::Visitor,
        }
        .into(),
        health_epoch: u64::try_from(row.health_epoch).unwrap_or(0),
        held_choice: match row.held_choice {
            HeldChoice::Keep => wire::HeldChoice::Keep,
            HeldChoice::Deliver => wire::HeldChoice::Deliver,
            HeldChoice::Discard => wire::HeldChoice::Discard,
        }
        .into(),
        held_choice_at: row.held_choice_at.unwrap_or(0),
        held_max: row.held_max,
        extras: row.extras.sealed.as_ref().map(sealed_secret),
        ed25519: row
            .asymmetric
            .as_ref()
            .map(|key| sealed_secret(&key.sealed)),
        old_ed25519: row
            .old_asymmetric
            .iter()
            .map(|key| sealed_secret(&key.sealed))
            .collect(),
    }
}

fn sealed_secret(secret: &SealedSecret) -> wire::SealedSecret {
    wire::SealedSecret {
        key_id: secret.key_id.clone(),
        version: secret.version,
        nonce: secret.nonce.clone().into(),
        ciphertext: secret.ciphertext.clone().into(),
        expires_at: secret.expires_at.unwrap_or(0),
    }
}

/// Absent = the installation's standard, which an operator may have set.
fn retry_policy(choice: RetryChoice) -> Option<wire::RetryPolicy> {
    match choice {
        RetryChoice::Standard => None,
        RetryChoice::Resilient => {
            let policy = RetryPolicy::RESILIENT;
            let millis = |length: Duration| u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
            let share = |number: f64| {
                u32::try_from(millis(Duration::from_secs_f64(number))).unwrap_or(u32::MAX)
            };
            Some(wire::RetryPolicy {
                max_attempts: policy.max_attempts,
                base_ms: millis(policy.base),
                factor_milli: share(policy.factor),
                cap_ms: millis(policy.cap),
                jitter_milli: share(policy.jitter),
                max_age_ms: policy.max_age.map_or(0, millis),
            })
        }
        RetryChoice::Custom(numbers) => Some(wire::RetryPolicy {
            max_attempts: numbers.max_attempts,
            base_ms: numbers.base_ms,
            factor_milli: numbers.factor_milli,
            cap_ms: numbers.cap_ms,
            jitter_milli: numbers.jitter_milli,
            max_age_ms: numbers.max_age_ms,
        }),
    }
}

fn wire_status(status: WebhookStatus) -> wire::Status {
    match status {
        WebhookStatus::Active => wire::Status::Active,
        WebhookStatus::Paused => wire::Status::Paused,
        WebhookStatus::Disabled => wire::Status::Disabled,
        WebhookStatus::AutoDisabled => wire::Status::AutoDisabled,
    }
}

/// What ingest needs to know of a token.
pub(crate) fn token_config(row: &TokenRow) -> wire::TokenConfig {
    wire::TokenConfig {
        id: row.id.clone(),
        workspace_id: raw(row.workspace_id),
        hash: Bytes::copy_from_slice(&row.hash),
        scopes: row.scopes.clone(),
        expires_at: row.expires_at.unwrap_or(0),
        events_per_second: row.events_per_second.unwrap_or(0),
        revision: row.revision,
    }
}

/// What dispatchers need to know of a workspace's authorities.
pub(crate) fn workspace_trust(row: &AuthoritiesRow) -> wire::WorkspaceTrust {
    wire::WorkspaceTrust {
        workspace_id: raw(row.workspace_id),
        authorities: Bytes::copy_from_slice(row.pem.as_bytes()),
        revision: row.revision,
    }
}

/// The counters that payloads show.
pub(crate) fn webhook_stats(row: &StatsRow) -> wire::WebhookStats {
    wire::WebhookStats {
        success_count: row.success_count,
        failure_count: row.failure_count,
        last_sent_at: row.last_sent_at.unwrap_or(0),
        last_delivered_at: row.last_delivered_at.unwrap_or(0),
    }
}

/// A verdict as history keeps it.
///
/// # Errors
/// The message makes no sense.
pub(crate) fn verdict_record(verdict: wire::Verdict) -> Result<VerdictRecord, Nonsense> {
    let deliveries = verdict
        .matches
        .into_iter()
        .map(|one| {
            Ok(VerdictDelivery {
                delivery_id: id(&one.delivery_id, "matches.delivery_id")?,
                webhook_id: id(&one.webhook_id, "matches.webhook_id")?,
                snapshot: one.snapshot,
                rendition: one.rendition,
                held: one.held,
            })
        })
        .collect::<Result<_, _>>()?;
    Ok(VerdictRecord {
        workspace_id: id(&verdict.workspace_id, "workspace_id")?,
        event_id: given(verdict.event_id, "event_id")?,
        event_seq: verdict.event_seq,
        link_id: optional_id(&verdict.link_id, "link_id")?,
        lbid: verdict.lbid,
        event_type: verdict.event_type,
        step_kind: verdict.step_kind,
        event_action: verdict.event_action,
        accepted_at: time(verdict.accepted_at, "accepted_at")?,
        event_timestamp: verdict.event_timestamp,
        renderer_version: verdict.renderer_version,
        renditions: verdict
            .renditions
            .into_iter()
            .map(|one| RenditionRecord {
                profile: one.profile,
                head: one.head,
                tail: one.tail,
            })
            .collect(),
        deliveries,
    })
}

/// A report as history keeps it.
///
/// # Errors
/// The message makes no sense.
pub(crate) fn report_record(report: wire::DeliveryReport) -> Result<ReportRecord, Nonsense> {
    let state = report.state();
    let delivery = report
        .delivery
        .ok_or_else(|| nonsense("delivery", "missing"))?;
    let attempt = report.attempt.map(attempt_record).transpose()?;
    Ok(ReportRecord {
        delivery: facts(delivery)?,
        state: delivery_state(state).ok_or_else(|| nonsense("state", "unknown"))?,
        attempts_made: 0,
        next_attempt_at: (report.next_attempt_at > 0).then_some(report.next_attempt_at),
        at: time(report.at, "at")?,
        attempt,
        reason: report.reason,
        waits_for: optional_id(&report.waits_for, "waits_for")?,
        snapshot: (!report.snapshot.is_empty()).then_some((report.snapshot, report.rendition)),
    })
}

/// A report as it was, for those who look on: without headers and body of the answer.
pub(crate) fn report_message(record: &ReportRecord) -> wire::DeliveryReport {
    let attempt = record.attempt.as_ref().map(|attempt| wire::AttemptRecord {
        number: attempt.number,
        execution_id: raw(attempt.execution_id),
        started_at: attempt.started_at,
        outcome: wire_outcome(attempt.outcome).into(),
        class: wire_class(attempt.class).into(),
        status_code: attempt.status_code.map_or(0, u32::from),
        timings: Some(api::Timings {
            dns_us: attempt.timings.dns_us,
            connect_us: attempt.timings.connect_us,
            tls_us: attempt.timings.tls_us,
            first_byte_us: attempt.timings.first_byte_us,
            total_us: attempt.timings.total_us,
        }),
        error: attempt.error.clone(),
        ..wire::AttemptRecord::default()
    });
    wire::DeliveryReport {
        delivery: Some(delivery_ref(&record.delivery)),
        state: wire_state(record.state).into(),
        next_attempt_at: record.next_attempt_at.unwrap_or(0),
        at: record.at,
        attempt,
        reason: record.reason.clone(),
        waits_for: record.waits_for.map(raw).unwrap_or_default(),
        ..wire::DeliveryReport::default()
    }
}

/// A delivery's facts as messages carry them.
pub(crate) fn delivery_ref(facts: &DeliveryFacts) -> wire::DeliveryRef {
    wire::DeliveryRef {
        delivery_id: raw(facts.delivery_id),
        webhook_id: raw(facts.webhook_id),
        workspace_id: raw(facts.workspace_id),
        event_id: facts.event_id.clone(),
        event_type: facts.event_type.clone(),
        link_id: facts.link_id.map(raw).unwrap_or_default(),
        lbid: facts.lbid.clone(),
        trigger: wire_trigger(facts.trigger).into(),
        created_at: facts.created_at,
        event_seq: facts.event_seq,
    }
}

fn facts(delivery: wire::DeliveryRef) -> Result<DeliveryFacts, Nonsense> {
    let trigger = trigger_of(delivery.trigger());
    let trigger = trigger.ok_or_else(|| nonsense("delivery.trigger", "unknown"))?;
    Ok(DeliveryFacts {
        delivery_id: id(&delivery.delivery_id, "delivery.delivery_id")?,
        webhook_id: id(&delivery.webhook_id, "delivery.webhook_id")?,
        workspace_id: id(&delivery.workspace_id, "delivery.workspace_id")?,
        event_id: given(delivery.event_id, "delivery.event_id")?,
        event_type: delivery.event_type,
        link_id: optional_id(&delivery.link_id, "delivery.link_id")?,
        lbid: delivery.lbid,
        trigger,
        created_at: time(delivery.created_at, "delivery.created_at")?,
        event_seq: delivery.event_seq,
    })
}

fn attempt_record(attempt: wire::AttemptRecord) -> Result<AttemptRecord, Nonsense> {
    let outcome = outcome_of(attempt.outcome());
    let outcome = outcome.ok_or_else(|| nonsense("attempt.outcome", "unknown"))?;
    let class = class_of(attempt.class());
    if attempt.number == 0 {
        return Err(nonsense("attempt.number", "counts from 1"));
    }
    let timings = attempt.timings.unwrap_or_default();
    let mut response_body = attempt.response_body;
    let too_long = response_body.len() > MAX_RESPONSE_BODY;
    response_body.truncate(MAX_RESPONSE_BODY);
    Ok(AttemptRecord {
        number: attempt.number,
        execution_id: id(&attempt.execution_id, "attempt.execution_id")?,
        started_at: time(attempt.started_at, "attempt.started_at")?,
        outcome,
        class,
        status_code: u16::try_from(attempt.status_code)
            .ok()
            .filter(|status| *status > 0),
        timings: Timings {
            dns_us: timings.dns_us,
            connect_us: timings.connect_us,
            tls_us: timings.tls_us,
            first_byte_us: timings.first_byte_us,
            total_us: timings.total_us,
        },
        response_headers: attempt
            .response_headers
            .into_iter()
            .map(|header| ResponseHeader {
                name: header.name,
                value: header.value,
            })
            .collect(),
        response_body,
        response_body_truncated: attempt.response_body_truncated || too_long,
        error: attempt.error,
        remote_ip: attempt.remote_ip,
        dispatcher: attempt.dispatcher,
    })
}

/// A state of the wire; `None` when it is none.
pub(crate) fn delivery_state(state: api::DeliveryState) -> Option<DeliveryState> {
    Some(match state {
        api::DeliveryState::Pending => DeliveryState::Pending,
        api::DeliveryState::Retrying => DeliveryState::Retrying,
        api::DeliveryState::Held => DeliveryState::Held,
        api::DeliveryState::Delivered => DeliveryState::Delivered,
        api::DeliveryState::Failed => DeliveryState::Failed,
        api::DeliveryState::Cancelled => DeliveryState::Cancelled,
        api::DeliveryState::Unspecified => return None,
    })
}

/// A state on the wire.
pub(crate) fn wire_state(state: DeliveryState) -> api::DeliveryState {
    match state {
        DeliveryState::Pending => api::DeliveryState::Pending,
        DeliveryState::Retrying => api::DeliveryState::Retrying,
        DeliveryState::Held => api::DeliveryState::Held,
        DeliveryState::Delivered => api::DeliveryState::Delivered,
        DeliveryState::Failed => api::DeliveryState::Failed,
        DeliveryState::Cancelled => api::DeliveryState::Cancelled,
    }
}

fn raw(id: Uuid) -> Bytes {
    Bytes::copy_from_slice(id.as_bytes())
}

fn id(bytes: &[u8], field: &'static str) -> Result<Uuid, Nonsense> {
    Uuid::from_slice(bytes).map_err(|_| nonsense(field, "is not 16 bytes"))
}

fn optional_id(bytes: &[u8], field: &'static str) -> Result<Option<Uuid>, Nonsense> {
    if bytes.is_empty() {
        Ok(None)
    } else {
        id(bytes, field).map(Some)
    }
}

fn given(text: String, field: &'static str) -> Result<String, Nonsense> {
    if text.is_empty() {
        Err(nonsense(field, "missing"))
    } else {
        Ok(text)
    }
}

/// The last moment that is stored: 9999-12-31.
const LAST_MICROS: i64 = 253_402_300_799_999_999;

fn time(micros: i64, field: &'static str) -> Result<i64, Nonsense> {
    if (1..=LAST_MICROS).contains(&micros) {
        Ok(micros)
    } else {
        Err(nonsense(field, "is no time"))
    }
}

#[cfg(test)]
mod tests {
    use webhooks_domain::endpoint::FailureClass;

    use super::*;

    fn report() -> wire::DeliveryReport {
        wire::DeliveryReport {
            delivery: Some(wire::DeliveryRef {
                delivery_id: raw(Uuid::from_u128(1)),
                webhook_id: raw(Uuid::from_u128(2)),
                workspace_id: raw(Uuid::from_u128(3)),
                event_id: "e".into(),
                event_type: "step.completed".into(),
                link_id: Bytes::new(),
                lbid: "l".into(),
                trigger: api::Trigger::Event.into(),
                created_at: 1,
                event_seq: 7,
            }),
            state: api::DeliveryState::Retrying.into(),
            next_attempt_at: 9,
            at: 5,
            attempt: Some(wire::AttemptRecord {
                number: 1,
                execution_id: raw(Uuid::from_u128(4)),
                started_at: 4,
                outcome: api::Outcome::HttpError.into(),
                class: api::FailureClass::Temporary.into(),
                status_code: 503,
                response_body: vec![b'x'; MAX_RESPONSE_BODY + 1].into(),
                ..wire::AttemptRecord::default()
            }),
            ..wire::DeliveryReport::default()
        }
    }

    #[test]
    fn a_preset_reaches_the_dispatcher_as_its_numbers() {
        assert_eq!(retry_policy(RetryChoice::Standard), None);
        let sent = retry_policy(RetryChoice::Resilient).unwrap();
        let read = RetryPolicy::from_numbers(
            sent.max_attempts,
            sent.base_ms,
            sent.factor_milli,
            sent.cap_ms,
            sent.jitter_milli,
            sent.max_age_ms,
        );
        assert_eq!(read, RetryPolicy::RESILIENT);
    }

    #[test]
    fn a_report_is_kept_as_it_is() {
        let record = report_record(report()).unwrap();
        assert_eq!(record.state, DeliveryState::Retrying);
        assert_eq!(record.next_attempt_at, Some(9));
        assert_eq!(record.delivery.link_id, None);
        let attempt = record.attempt.unwrap();
        assert_eq!(
            (attempt.status_code, attempt.class),
            (Some(503), Some(FailureClass::Temporary))
        );
        assert_eq!(attempt.response_body.len(), MAX_RESPONSE_BODY);
        assert!(attempt.response_body_truncated);
    }

    #[test]
    fn nonsense_is_named() {
        let fails = |change: &dyn Fn(&mut wire::DeliveryReport)| {
            let mut report = report();
            change(&mut report);
            report_record(report).unwrap_err().field
        };
        assert_eq!(fails(&|r| r.delivery = None), "delivery");
        assert_eq!(fails(&|r| r.state = 99), "state");
        assert_eq!(fails(&|r| r.at = 0), "at");
        assert_eq!(
            fails(&|r| r.delivery.as_mut().unwrap().webhook_id = Bytes::from_static(b"x")),
            "delivery.webhook_id"
        );
        assert_eq!(
            fails(&|r| r.attempt.as_mut().unwrap().number = 0),
            "attempt.number"
        );
        assert_eq!(
            fails(&|r| r.attempt.as_mut().unwrap().outcome = 0),
            "attempt.outcome"
        );
        let verdict = wire::Verdict::default();
        assert!(verdict_record(verdict).is_err());
    }
}
