//! From the record of an endpoint's health to the domain's state, and back.

use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;
use webhooks_domain::{
    endpoint::outcome::Outcome,
    health::{Configured, Health, HealthStatus, LastFailure, Notice, NoticeKind, Probing},
    webhook::{StatusReason, WebhookStatus},
};
use webhooks_proto::internal::v1::{self as wire, EndpointHealth, Status, WebhookConfig};

use crate::{
    error::BusError,
    words::{outcome_of, wire_outcome},
};

/// The status in force, from the read model's configuration and the record of its health. A status
/// of a later version counts as paused: nothing is sent, nothing is lost.
#[must_use]
pub fn effective_status(
    config: &WebhookConfig,
    health: Option<&EndpointHealth>,
) -> (WebhookStatus, Option<StatusReason>) {
    let health = health.and_then(|record| Some((record.epoch, status_of(record).ok()?)));
    webhooks_domain::health::effective_status(configured(config), health)
}

/// What the read model says of a webhook's status.
#[must_use]
pub fn configured(config: &WebhookConfig) -> Configured {
    Configured {
        status: match config.status() {
            Status::Active => WebhookStatus::Active,
            Status::Disabled => WebhookStatus::Disabled,
            Status::AutoDisabled => WebhookStatus::AutoDisabled,
            Status::Paused | Status::Unspecified => WebhookStatus::Paused,
        },
        reason: config.status_reason.parse().ok(),
        epoch: config.health_epoch,
    }
}

/// A record's status.
///
/// # Errors
/// [`BusError::Decode`] when it is none that deliveries lead to.
pub fn status_of(record: &EndpointHealth) -> Result<HealthStatus, BusError> {
    health_status(record.status(), &record.reason)
}

fn health_status(status: Status, reason: &str) -> Result<HealthStatus, BusError> {
    match (status, reason.parse()) {
        (Status::Active, _) => Ok(HealthStatus::Active),
        (Status::Paused, _) => Ok(HealthStatus::Paused),
        (
            Status::AutoDisabled,
            Ok(reason @ (StatusReason::ConsecutiveFailures | StatusReason::EndpointGone)),
        ) => Ok(HealthStatus::AutoDisabled(reason)),
        _ => Err(BusError::Decode(format!(
            "health cannot be {} for {reason:?}",
            status.as_str_name()
        ))),
    }
}

fn wire_status(status: HealthStatus) -> (Status, String) {
    let word = status
        .words()
        .1
        .map_or_else(String::new, |reason| reason.as_str().to_owned());
    match status {
        HealthStatus::Active => (Status::Active, word),
        HealthStatus::Paused => (Status::Paused, word),
        HealthStatus::AutoDisabled(_) => (Status::AutoDisabled, word),
    }
}

/// A record as the domain's state.
///
/// # Errors
/// [`BusError::Decode`] when it cannot be one.
pub fn health_of(record: &EndpointHealth) -> Result<Health, BusError> {
    let mut health = Health::new(record.epoch, record.since);
    health.status = status_of(record)?;
    health.run = record.run;
    health.episode = record.episode;
    health.probing = (health.status == HealthStatus::Paused).then(|| Probing {
        next_at_micros: record.next_probe_at,
        pause: Duration::from_millis(record.probe_pause_ms),
    });
    health.transitions = record.transitions;
    health.last_failure = record.last_failure.as_ref().map(|last| LastFailure {
        at_micros: last.at,
        delivery: Uuid::from_slice(&last.delivery_id).unwrap_or_default(),
        attempt: last.attempt,
        outcome: outcome_of(last.outcome()).unwrap_or(Outcome::Internal),
        status_code: u16::try_from(last.status_code)
            .ok()
            .filter(|code| *code > 0),
        reason: last.reason.clone(),
    });
    health.counted = record
        .counted
        .iter()
        .filter_map(|one| Some((Uuid::from_slice(&one.delivery_id).ok()?, one.attempt)))
        .collect();
    for notice in &record.unannounced {
        // A kind of a later version is for a later version to tell.
        if let Some(kind) = NoticeKind::parse(&notice.kind) {
            health.unannounced.push(Notice {
                kind,
                episode: notice.episode,
                at_micros: notice.at,
                run: notice.run,
                status: health_status(notice.status(), &notice.reason)?,
                epoch: notice.epoch,
            });
        }
    }
    Ok(health)
}

/// Who writes a record, when, and as which version of it.
#[derive(Debug, Clone, Copy)]
pub struct Signature<'a> {
    /// The dispatcher.
    pub writer: &'a str,
    /// Microseconds since the epoch.
    pub at_micros: i64,
    /// Grows with each write.
    pub version: u64,
}

/// The domain's state as a record.
#[must_use]
pub fn record_of(
    workspace: Uuid,
    webhook: Uuid,
    health: &Health,
    signature: Signature<'_>,
) -> EndpointHealth {
    let raw = |id: Uuid| Bytes::copy_from_slice(id.as_bytes());
    let (status, reason) = wire_status(health.status);
    EndpointHealth {
        webhook_id: raw(webhook),
        workspace_id: raw(workspace),
        epoch: health.epoch,
        status: status.into(),
        reason,
        since: health.since_micros,
        run: health.run,
        episode: health.episode,
        next_probe_at: health.probing.map_or(0, |probing| probing.next_at_micros),
        probe_pause_ms: health.probing.map_or(0, |probing| {
            u64::try_from(probing.pause.as_millis()).unwrap_or(u64::MAX)
        }),
        last_failure: health.last_failure.as_ref().map(|last| wire::LastFailure {
            at: last.at_micros,
            delivery_id: raw(last.delivery),
            attempt: last.attempt,
            outcome: wire_outcome(last.outcome).into(),
            status_code: last.status_code.map_or(0, u32::from),
            reason: last.reason.clone(),
        }),
        counted: health
            .counted
            .iter()
            .map(|(delivery, attempt)| wire::CountedFailure {
                delivery_id: raw(*delivery),
                attempt: *attempt,
            })
            .collect(),
        unannounced: health
            .unannounced
            .iter()
            .map(|notice| {
                let (status, reason) = wire_status(notice.status);
                wire::HealthNotice {
                    kind: notice.kind.as_str().to_owned(),
                    episode: notice.episode,
                    at: notice.at_micros,
                    run: notice.run,
                    status: status.into(),
                    reason,
                    epoch: notice.epoch,
                }
            })
            .collect(),
        transitions: health.transitions,
        version: signature.version,
        writer: signature.writer.to_owned(),
        written_at: signature.at_micros,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;
    use webhooks_domain::health::{Ended, HealthPolicy, Verdict};

    fn failed(delivery: u128, verdict: Verdict) -> Ended {
        Ended {
            epoch: 3,
            delivery: Uuid::from_u128(delivery),
            attempt: 3,
            probe: false,
            verdict,
            at_micros: 1_000 + i64::try_from(delivery).unwrap(),
            outcome: Outcome::Timeout,
            status_code: None,
            reason: "timeout".to_owned(),
        }
    }

    #[test]
    fn a_state_comes_back_from_its_record_as_it_was() {
        let mut health = Health::new(3, 0);
        let signature = Signature {
            writer: "d-1",
            at_micros: 9,
            version: 1,
        };
        for n in 0..12 {
            let verdict = if n == 11 {
                Verdict::Gone
            } else {
                Verdict::Failed
            };
            health.ended(&failed(n, verdict), &HealthPolicy::STANDARD);
            let record = record_of(Uuid::from_u128(1), Uuid::from_u128(2), &health, signature);
            let read = EndpointHealth::decode(Bytes::from(record.encode_to_vec())).unwrap();
            assert_eq!(health_of(&read).unwrap(), health, "after {n}");
        }
    }

    #[test]
    fn a_record_that_deliveries_cannot_lead_to_is_refused() {
        let record = EndpointHealth {
            status: Status::Disabled.into(),
            ..EndpointHealth::default()
        };
        assert!(health_of(&record).is_err());
        let config = WebhookConfig {
            status: Status::Active.into(),
            ..WebhookConfig::default()
        };
        assert_eq!(
            effective_status(&config, Some(&record)),
            (WebhookStatus::Active, None)
        );
    }
}
