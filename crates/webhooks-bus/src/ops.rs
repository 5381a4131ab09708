//! Stream OPS: what happens to webhooks themselves, for other systems to subscribe to.
//!
//! One message for each run of failures and kind, deduplicated by the stream, kept for seven days.
//! `docs/operational-events.md` is the contract; the body is JSON with camelCase keys.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use webhooks_domain::{
    event::format_micros,
    health::{Health, Notice},
};

use crate::{bus::Bus, error::PublishError, publish::Outgoing, publish::Stored, subjects};

/// A message of stream OPS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OpsEvent {
    /// `failing`, `paused`, `resumed` or `auto_disabled`.
    pub kind: String,
    /// The run of failures it belongs to: the same in all its events, never used again.
    pub episode_id: String,
    /// The workspace.
    pub workspace_id: Uuid,
    /// The webhook.
    pub webhook_id: Uuid,
    /// The status it led to: `ACTIVE`, `PAUSED` or `AUTO_DISABLED`.
    pub status: String,
    /// `DELIVERY_FAILURES`, `CONSECUTIVE_FAILURES` or `ENDPOINT_GONE`; absent when active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_reason: Option<String>,
    /// Failures in a row at that moment.
    pub run: u32,
    /// When: RFC 3339, UTC.
    pub at: String,
    /// The webhook's health epoch; it grows each time a person sets the status.
    pub epoch: u64,
    /// The failure counted last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<OpsFailure>,
}

/// What a failed delivery met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OpsFailure {
    /// The delivery.
    pub delivery_id: Uuid,
    /// When: RFC 3339, UTC.
    pub at: String,
    /// As in the delivery's log.
    pub outcome: String,
    /// The answer's status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_code: Option<u16>,
    /// Machine word.
    pub reason: String,
}

impl OpsEvent {
    /// The event that tells `notice`.
    #[must_use]
    pub fn of(workspace: Uuid, webhook: Uuid, notice: &Notice, health: &Health) -> Self {
        let (status, reason) = notice.status.words();
        Self {
            kind: notice.kind.as_str().to_owned(),
            episode_id: format!("{webhook}-{}", notice.episode),
            workspace_id: workspace,
            webhook_id: webhook,
            status: status.as_str().to_owned(),
            status_reason: reason.map(|reason| reason.as_str().to_owned()),
            run: notice.run,
            at: format_micros(notice.at_micros),
            epoch: notice.epoch,
            last_failure: health.last_failure.as_ref().map(|last| OpsFailure {
                delivery_id: last.delivery,
                at: format_micros(last.at_micros),
                outcome: last.outcome.as_str().to_owned(),
                status_code: last.status_code,
                reason: last.reason.clone(),
            }),
        }
    }

    /// Reads a message of the stream.
    ///
    /// # Errors
    /// When it is not one.
    pub fn decode(payload: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(payload)
    }

    /// Where it is published.
    #[must_use]
    pub fn subject(&self) -> String {
        subjects::ops(self.workspace_id, self.webhook_id, &self.kind)
    }
}

impl Bus {
    /// Tells an operational event, until the stream has it; told twice, it is stored once.
    ///
    /// # Errors
    /// As [`Bus::publish`].
    pub async fn tell(&self, event: &OpsEvent, within: Duration) -> Result<Stored, PublishError> {
        let body = serde_json::to_vec(event)
            .map_err(|error| PublishError::Unavailable(error.to_string()))?;
        let id = format!("{}:{}", event.episode_id, event.kind);
        self.publish(Outgoing::new(event.subject(), &id, body.into()), within)
            .await
    }
}
