//! The status in force, from what a person chose and what deliveries have made of it.

use super::HealthStatus;
use crate::webhook::{StatusReason, WebhookStatus};

/// A webhook's status as configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Configured {
    /// The status.
    pub status: WebhookStatus,
    /// Its reason, if it says one.
    pub reason: Option<StatusReason>,
    /// Grows each time a person sets the status.
    pub epoch: u64,
}

/// The status in force: a person's choice, else what deliveries have made of it.
///
/// `health` is epoch and status of what is kept of the endpoint's health; of another epoch than the
/// configuration's it is void. A configuration that says "paused for failures" or "disabled
/// automatically" only repeats what management was told. Without a record to bear it out the first
/// means nothing (nobody would ever probe), and the second stands (only a person ends it).
#[must_use]
pub fn effective_status(
    configured: Configured,
    health: Option<(u64, HealthStatus)>,
) -> (WebhookStatus, Option<StatusReason>) {
    let health = health.filter(|(epoch, _)| *epoch == configured.epoch);
    match (configured.status, configured.reason, health) {
        (WebhookStatus::Disabled, reason, _) => {
            (WebhookStatus::Disabled, reason.or(Some(StatusReason::User)))
        }
        (WebhookStatus::Paused, reason, _) if reason != Some(StatusReason::DeliveryFailures) => {
            (WebhookStatus::Paused, reason.or(Some(StatusReason::User)))
        }
        (_, _, Some((_, status))) => status.words(),
        (WebhookStatus::AutoDisabled, reason, None) => (
            WebhookStatus::AutoDisabled,
            reason.or(Some(StatusReason::ConsecutiveFailures)),
        ),
        (WebhookStatus::Active | WebhookStatus::Paused, _, None) => (WebhookStatus::Active, None),
    }
}
