//! A webhook's health as a message.

use webhooks_bus::words::wire_outcome;
use webhooks_proto::v1;

use super::convert;
use crate::{rest::success_rate, service::WebhookHealth};

/// How a webhook's deliveries fare.
pub(super) fn health(health: &WebhookHealth) -> v1::WebhookHealth {
    let pulse = &health.pulse;
    let ms = |micros: Option<f64>| micros.map(|micros| micros / 1_000.0);
    let (pending, retrying, held) = pulse.backlog;
    v1::WebhookHealth {
        webhook_id: health.webhook.to_string(),
        status_label: health.status.to_string(),
        status_reason: health
            .reason
            .map_or_else(String::new, |reason| reason.to_string()),
        consecutive_failures: health.run,
        next_probe_at: health.next_probe_at.map(convert::timestamp),
        last_failure: health.last_failure.as_ref().map(|last| v1::WebhookFailure {
            at: Some(convert::timestamp(last.at_micros)),
            delivery_id: last.delivery.to_string(),
            outcome: wire_outcome(last.outcome).into(),
            status_code: last.status_code.map_or(0, i32::from),
            reason: last.reason.clone(),
        }),
        backlog: Some(v1::Backlog {
            pending,
            retrying,
            held,
        }),
        from: Some(convert::timestamp(health.from)),
        to: Some(convert::timestamp(health.to)),
        delivered: pulse.delivered,
        failed: pulse.failed,
        success_rate: success_rate(&health.ended()),
        latency: Some(v1::Latency {
            p50_ms: ms(pulse.latency.p50_us),
            p95_ms: ms(pulse.latency.p95_us),
            p99_ms: ms(pulse.latency.p99_us),
            sample: pulse.latency.sample,
        }),
        partial: pulse.partial,
    }
}
