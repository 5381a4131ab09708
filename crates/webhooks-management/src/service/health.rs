//! How a webhook's deliveries fare: what history counts, and what the dispatchers keep of the
//! endpoint.
//!
//! The dispatchers' record is asked for at the leader of bucket HEALTH. When NATS does not answer,
//! the rest is answered without it: the status is then the one that history mirrors.

use std::time::Duration;

use uuid::Uuid;
use webhooks_bus::{HealthStore, effective_status, health_of};
use webhooks_domain::{
    health::LastFailure,
    webhook::{StatusReason, WebhookStatus},
};
use webhooks_proto::internal::v1::EndpointHealth;
use webhooks_runtime::error_chain;
use webhooks_store::{Counts, Pulse, WebhookRow};

use super::Management;
use crate::{
    auth::Caller,
    error::ManagementError,
    model::{told_status, webhook_config},
};

/// The figures are of deliveries made within this time, in microseconds.
const LATELY: i64 = 24 * 3_600 * 1_000_000;

/// How long the dispatchers' record may take.
const RECORD_WITHIN: Duration = Duration::from_secs(1);

/// How a webhook's deliveries fare.
#[derive(Debug, Clone, PartialEq)]
pub struct WebhookHealth {
    /// The webhook.
    pub webhook: Uuid,
    /// The status in force.
    pub status: WebhookStatus,
    /// Why; `None` while active.
    pub reason: Option<StatusReason>,
    /// Failed deliveries since the last success; `None` = not known at the moment.
    pub run: Option<u32>,
    /// While deliveries have paused it: no probe goes out before this, in microseconds.
    pub next_probe_at: Option<i64>,
    /// The failure counted last.
    pub last_failure: Option<LastFailure>,
    /// The figures are of deliveries made from this moment on, in microseconds.
    pub from: i64,
    /// And before this one.
    pub to: i64,
    /// The figures.
    pub pulse: Pulse,
}

impl WebhookHealth {
    /// Deliveries that ended, as counts.
    pub(crate) fn ended(&self) -> Counts {
        Counts {
            delivered: self.pulse.delivered,
            failed: self.pulse.failed,
            ..Counts::default()
        }
    }
}

impl Management {
    /// How a webhook's deliveries fare.
    ///
    /// # Errors
    /// There is no such webhook.
    pub async fn webhook_health(
        &self,
        caller: &Caller,
        id: Uuid,
    ) -> Result<WebhookHealth, ManagementError> {
        let row = self.get_webhook(caller, id).await?;
        let to = self.now();
        let from = to.saturating_sub(LATELY);
        let (record, pulse) = tokio::join!(
            self.health_record(id),
            self.inner.store.pulse(caller.workspace, id, (from, to))
        );
        Ok(of(&row, record.as_ref(), (from, to), pulse?))
    }

    /// The dispatchers' record (inner `None`: there is none); outer `None` = not known.
    async fn health_record(&self, id: Uuid) -> Option<Option<EndpointHealth>> {
        if !self.inner.bus.is_connected() {
            return None;
        }
        let records = HealthStore::new(&self.inner.bus);
        match tokio::time::timeout(RECORD_WITHIN, records.get(id)).await {
            Ok(Ok((record, _))) => Some(record),
            Ok(Err(error)) => {
                tracing::debug!(webhook.id = %id, error = error_chain(&error), "health.unknown");
                None
            }
            Err(_) => None,
        }
    }
}

fn of(
    row: &WebhookRow,
    record: Option<&Option<EndpointHealth>>,
    (from, to): (i64, i64),
    pulse: Pulse,
) -> WebhookHealth {
    let kept = record.and_then(Option::as_ref);
    let (status, reason) = match record {
        Some(_) => effective_status(&webhook_config(row), kept),
        None => told_status(row),
    };
    // A record of before a person's last word on the status says nothing of now.
    let present = kept
        .filter(|record| i64::try_from(record.epoch).is_ok_and(|epoch| epoch == row.health_epoch))
        .and_then(|record| health_of(record).ok());
    let probes = status == WebhookStatus::Paused && reason == Some(StatusReason::DeliveryFailures);
    WebhookHealth {
        webhook: row.id,
        status,
        reason,
        run: record.map(|_| present.as_ref().map_or(0, |health| health.run)),
        next_probe_at: present
            .as_ref()
            .filter(|_| probes)
            .and_then(|health| health.probing)
            .map(|probing| probing.next_at_micros),
        last_failure: present.and_then(|health| health.last_failure),
        from,
        to,
        pulse,
    }
}
