//! Events, jobs, requests and figures as JSON. Keys that are not set are left out.

use serde_json::{Map, Value, json};
use webhooks_domain::{endpoint::outcome::FailureClass, event::format_micros};
use webhooks_store::{Counts, ErrorExample, ErrorGroup, EventRow, JobRow, Latency, Measures};

use crate::service::{EventVerdict, JudgedEvent, Metrics, Prepared, Usage, WebhookHealth};

/// An object without the members that are null.
fn object(value: Value) -> Value {
    match value {
        Value::Object(members) => members
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .collect::<Map<_, _>>()
            .into(),
        other => other,
    }
}

fn filled(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

/// A request, whole. The body is text: what is sent is JSON in UTF-8.
pub(super) fn prepared_view(prepared: &Prepared) -> Value {
    let headers: Vec<_> = prepared
        .headers
        .iter()
        .map(|(name, value)| json!({ "name": name, "value": value }))
        .collect();
    json!({
        "method": Prepared::METHOD,
        "url": prepared.url,
        "headers": headers,
        "body": String::from_utf8_lossy(&prepared.body),
        "curl": prepared.curl(),
    })
}

/// An event.
pub(super) fn event_view(event: &EventRow) -> Value {
    object(json!({
        "id": event.id,
        "eventType": event.event_type,
        "linkId": event.link_id,
        "lbid": filled(&event.lbid),
        "stepKind": event.step_kind,
        "eventAction": filled(&event.event_action),
        "timestamp": format_micros(event.timestamp),
        "acceptedAt": format_micros(event.accepted_at),
    }))
}

/// An event and its verdicts.
pub(super) fn judged_view(judged: &JudgedEvent) -> Value {
    let verdicts: Vec<_> = judged.verdicts.iter().map(verdict_view).collect();
    json!({
        "event": event_view(&judged.event),
        "verdicts": verdicts,
        "verdictsTruncated": judged.truncated,
    })
}

fn verdict_view(verdict: &EventVerdict) -> Value {
    object(json!({
        "webhookId": verdict.webhook_id,
        "webhookName": verdict.webhook_name,
        "fired": verdict.fired,
        "reason": verdict.reason,
        "deliveryIds": verdict.delivery_ids,
        "judgedBy": verdict.judged_by.as_str(),
        "revision": verdict.revision,
        "changedSince": verdict.changed_since,
    }))
}

/// A job.
pub(super) fn job_view(row: &JobRow) -> Value {
    let job = &row.job;
    let states: Vec<_> = job
        .filter
        .states
        .iter()
        .map(|state| state.as_str())
        .collect();
    let filter = object(json!({
        "state": Some(states).filter(|states| !states.is_empty()),
        "class": job.filter.class.map(FailureClass::as_str),
        "statusCode": job.filter.status.map(status_word),
        "linkId": job.filter.link_id,
    }));
    object(json!({
        "id": job.id,
        "webhookId": job.webhook_id,
        "type": job.kind.as_str(),
        "state": row.state.as_str(),
        "since": format_micros(job.since),
        "until": format_micros(job.until),
        "filter": filter,
        "dryRun": job.dry_run,
        "ratePerSecond": job.rate_per_second,
        "examined": row.examined,
        "matched": row.matched,
        "replayed": row.replayed,
        "skipped": row.skipped,
        "error": row.error,
        "createdAt": format_micros(row.created_at),
        "startedAt": row.started_at.map(format_micros),
        "finishedAt": row.finished_at.map(format_micros),
    }))
}

/// `503`, or `5xx` for a hundred of them.
pub(crate) fn status_word((from, to): (u16, u16)) -> String {
    if from == to {
        from.to_string()
    } else {
        format!("{}xx", from / 100)
    }
}

/// Figures.
pub(super) fn metrics_view(metrics: &Metrics) -> Value {
    let Measures {
        totals,
        buckets,
        latency,
        errors,
        backlog: (pending, retrying, held),
        partial,
    } = &metrics.measures;
    let buckets: Vec<_> = buckets
        .iter()
        .map(|bucket| {
            let mut view = counts_view(&bucket.counts);
            view["latency"] = latency_view(&bucket.latency);
            view["start"] = format_micros(bucket.start).into();
            view
        })
        .collect();
    json!({
        "interval": metrics.interval.as_str(),
        "from": format_micros(metrics.from),
        "to": format_micros(metrics.to),
        "totals": counts_view(totals),
        "latency": latency_view(latency),
        "backlog": { "pending": pending, "retrying": retrying, "held": held },
        "buckets": buckets,
        "errors": errors.iter().map(error_view).collect::<Vec<_>>(),
        "partial": partial,
    })
}

/// Days of use.
pub(super) fn usage_view(usage: &Usage) -> Value {
    let days = usage.days.iter().map(|day| {
        json!({
            "day": format_micros(day.start).get(..10),
            "events": day.events,
            "deliveries": day.deliveries,
            "delivered": day.delivered,
            "failed": day.failed,
            "cancelled": day.cancelled,
            "open": day.open,
        })
    });
    json!({
        "from": format_micros(usage.from),
        "to": format_micros(usage.to),
        "days": days.collect::<Vec<_>>(),
    })
}

/// How a webhook's deliveries fare.
pub(super) fn health_view(health: &WebhookHealth) -> Value {
    let pulse = &health.pulse;
    let (pending, retrying, held) = pulse.backlog;
    let last_failure = health.last_failure.as_ref().map(|last| {
        object(json!({
            "at": format_micros(last.at_micros),
            "deliveryId": last.delivery,
            "outcome": last.outcome.as_str(),
            "statusCode": last.status_code,
            "reason": filled(&last.reason),
        }))
    });
    object(json!({
        "webhookId": health.webhook,
        "statusLabel": health.status.as_str(),
        "statusReason": health.reason.map(|reason| reason.as_str()),
        "consecutiveFailures": health.run,
        "nextProbeAt": health.next_probe_at.map(format_micros),
        "lastFailure": last_failure,
        "backlog": { "pending": pending, "retrying": retrying, "held": held },
        "from": format_micros(health.from),
        "to": format_micros(health.to),
        "delivered": pulse.delivered,
        "failed": pulse.failed,
        "successRate": success_rate(&health.ended()),
        "latency": latency_view(&pulse.latency),
        "partial": pulse.partial,
    }))
}

fn latency_view(latency: &Latency) -> Value {
    let ms = |micros: Option<f64>| micros.map(|micros| micros / 1_000.0);
    object(json!({
        "p50Ms": ms(latency.p50_us),
        "p95Ms": ms(latency.p95_us),
        "p99Ms": ms(latency.p99_us),
        "sample": latency.sample,
    }))
}

/// Delivered among those that ended delivered or failed.
pub(crate) fn success_rate(counts: &Counts) -> Option<f64> {
    let ended = counts.delivered + counts.failed;
    // Counts of a range are far below what a double holds exactly.
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
    let rate = |part: i64, whole: i64| part as f64 / whole as f64;
    (ended > 0).then(|| rate(counts.delivered, ended))
}

fn counts_view(counts: &Counts) -> Value {
    object(json!({
        "deliveries": counts.deliveries,
        "delivered": counts.delivered,
        "failed": counts.failed,
        "cancelled": counts.cancelled,
        "open": counts.pending + counts.retrying + counts.held,
        "attempts": counts.attempts,
        "successRate": success_rate(counts),
    }))
}

fn error_view(group: &ErrorGroup) -> Value {
    let example = |example: &ErrorExample| json!({ "deliveryId": example.delivery, "at": format_micros(example.at) });
    object(json!({
        "class": group.class.as_str(),
        "statusCode": group.status,
        "reason": group.reason,
        "count": group.count,
        "first": example(&group.first),
        "last": example(&group.last),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_needs_something_that_ended() {
        let mut counts = Counts::default();
        assert_eq!(success_rate(&counts), None);
        (counts.delivered, counts.failed, counts.pending) = (3, 1, 9);
        assert_eq!(success_rate(&counts), Some(0.75));
    }

    #[test]
    fn statuses_are_put_as_they_are_asked_for() {
        assert_eq!(status_word((503, 503)), "503");
        assert_eq!(status_word((500, 599)), "5xx");
    }
}
