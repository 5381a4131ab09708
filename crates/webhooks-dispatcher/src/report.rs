//! From what happened to a delivery to the report of it.

use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;
use webhooks_bus::words::{wire_class, wire_outcome};
use webhooks_egress::AttemptResult;
use webhooks_proto::{
    internal::v1::{AttemptRecord, DeliveryReport},
    v1,
};

use crate::job::Job;

/// Longest snapshot that a report carries; the verdict tells of a longer one. Keeps a batch of reports
/// below the size of a message.
const MAX_SNAPSHOT: usize = 4 * 1024;

/// A report without an attempt: held, cancelled.
pub(crate) fn without_attempt(
    job: &Job,
    state: v1::DeliveryState,
    now_micros: i64,
) -> DeliveryReport {
    DeliveryReport {
        delivery: Some(job.reference.clone()),
        state: state.into(),
        at: now_micros,
        ..DeliveryReport::default()
    }
}

/// A report of a delivery that waits behind `head`, a failing one of its key.
pub(crate) fn blocked(job: &Job, head: Uuid, due_micros: i64, now_micros: i64) -> DeliveryReport {
    let state = if job.attempt > 1 {
        v1::DeliveryState::Retrying
    } else {
        v1::DeliveryState::Pending
    };
    DeliveryReport {
        next_attempt_at: due_micros,
        waits_for: Bytes::copy_from_slice(head.as_bytes()),
        ..without_attempt(job, state, now_micros)
    }
}

/// When an attempt was made, and by whom.
pub(crate) struct Execution<'a> {
    pub(crate) id: Uuid,
    pub(crate) started_micros: i64,
    pub(crate) dispatcher: &'a str,
}

/// A report of an attempt, and of what comes next.
pub(crate) fn of_attempt(
    job: &Job,
    execution: &Execution<'_>,
    result: &AttemptResult,
    state: v1::DeliveryState,
    next_attempt_at: i64,
    now_micros: i64,
) -> DeliveryReport {
    let micros = |duration: Duration| u32::try_from(duration.as_micros()).unwrap_or(u32::MAX);
    let record = AttemptRecord {
        number: job.attempt,
        execution_id: Bytes::copy_from_slice(execution.id.as_bytes()),
        started_at: execution.started_micros,
        outcome: wire_outcome(result.outcome).into(),
        class: wire_class(result.class).into(),
        status_code: u32::from(result.status.unwrap_or(0)),
        timings: Some(v1::Timings {
            dns_us: result.timings.dns.map(micros),
            connect_us: result.timings.connect.map(micros),
            tls_us: result.timings.tls.map(micros),
            first_byte_us: result.timings.first_byte.map(micros),
            total_us: Some(micros(result.timings.total)),
        }),
        response_headers: result
            .response_headers
            .kept()
            .map(|(name, value)| v1::Header {
                name: name.to_owned(),
                value: value.into_owned(),
            })
            .collect(),
        response_body: result.response_body.clone(),
        response_body_truncated: result.response_body_truncated,
        error: result.reason().unwrap_or_default().to_owned(),
        remote_ip: result
            .remote_ip
            .map(|ip| ip.to_string())
            .unwrap_or_default(),
        dispatcher: execution.dispatcher.to_owned(),
    };
    let (snapshot, rendition) = snapshot(job).unwrap_or_default();
    DeliveryReport {
        delivery: Some(job.reference.clone()),
        state: state.into(),
        next_attempt_at,
        at: now_micros,
        attempt: Some(record),
        snapshot,
        rendition,
        ..DeliveryReport::default()
    }
}

/// What makes the delivery's row whole: of its first attempt only, as later ones find the row there.
fn snapshot(job: &Job) -> Option<(Bytes, u32)> {
    let place = job.snapshot.filter(|_| job.attempt == 1)?;
    let start = usize::try_from(place.start).ok()?;
    let length = usize::try_from(place.length).ok()?;
    let end = start.checked_add(length)?;
    (length <= MAX_SNAPSHOT && end <= job.body.len())
        .then(|| (job.body.slice(start..end), place.rendition))
}
