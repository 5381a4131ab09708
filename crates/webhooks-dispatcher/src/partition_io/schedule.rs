//! Schedules on RETRIES: attempts that are due later, and deliveries that are parked.

use std::{sync::Arc, time::Duration};

use futures::FutureExt as _;
use webhooks_bus::{Bus, Outgoing, Stored, headers, subjects};
use webhooks_domain::event::format_micros;

use super::{Settled, Settling};
use crate::{
    blocked::{self, Behind},
    job::Job,
    report,
    shared::Shared,
    tenure::Tenure,
};

/// How long one try at a durable publish may take; it is repeated for ever.
pub(super) const PUBLISH_WITHIN: Duration = Duration::from_secs(10);

/// Pause between such tries.
pub(super) const PUBLISH_PAUSE: Duration = Duration::from_millis(500);

/// Puts a delivery aside for `wait`, or until there is room before that, without consuming its
/// attempt.
pub(crate) fn park(
    shared: Arc<Shared>,
    partition: u16,
    tenure: Arc<Tenure>,
    job: Job,
    wait: Duration,
) -> Settling {
    async move {
        let due = now_in(&shared, wait);
        let stored = tenure.hold(park_until(&shared, partition, &job, due)).await;
        match stored {
            Some(stored) => Settled::Parked {
                key: job.key,
                webhook: job.webhook,
                rank: job.rank(),
                schedule: stored.seq,
            },
            None => Settled::LetGo {
                key: job.key,
                parking: true,
            },
        }
    }
    .boxed()
}

/// Writes a delivery to RETRIES until `due_micros`; it may go before, and its attempt is not consumed.
pub(super) async fn park_until(
    shared: &Shared,
    partition: u16,
    job: &Job,
    due_micros: i64,
) -> Stored {
    let park = job.park + 1;
    let subject = subjects::parked(partition, job.webhook, job.delivery, job.attempt, park);
    publish_at(
        shared,
        partition,
        job,
        subject,
        job.attempt,
        park,
        due_micros,
    )
    .await
}

/// Parks a delivery that waits behind a failing one of its key, and tells of it when that is news.
pub(crate) fn block(
    shared: Arc<Shared>,
    partition: u16,
    tenure: Arc<Tenure>,
    job: Job,
    behind: Behind,
) -> Settling {
    async move {
        let mut job = job;
        if let Some(head) = blocked::news(job.waits_for, behind) {
            let due = now_in(&shared, behind.wait);
            let now = shared.clock.now_micros();
            // First: the message that says what was told must not outlive an untold one.
            shared
                .reporter
                .record(report::blocked(&job, head, due, now))
                .await;
            job.waits_for = Some(head);
        }
        park(shared, partition, tenure, job, behind.wait).await
    }
    .boxed()
}

pub(super) fn now_in(shared: &Shared, wait: Duration) -> i64 {
    shared.clock.now_micros() + i64::try_from(wait.as_micros()).unwrap_or(i64::MAX / 2)
}

/// Publishes a schedule, for as long as it takes. Its subject is never used twice.
pub(super) async fn schedule(
    shared: &Shared,
    partition: u16,
    job: &Job,
    attempt: u32,
    park: u32,
    due_micros: i64,
) {
    let subject = subjects::schedule(partition, job.webhook, job.delivery, attempt, park);
    publish_at(shared, partition, job, subject, attempt, park, due_micros).await;
}

async fn publish_at(
    shared: &Shared,
    partition: u16,
    job: &Job,
    subject: String,
    attempt: u32,
    park: u32,
    due_micros: i64,
) -> Stored {
    let id = format!("{}:{attempt}:{park}", job.delivery.simple());
    let message = Outgoing::new(subject, &id, job.encode(attempt, park, due_micros))
        .header(
            headers::SCHEDULE,
            &format!("@at {}", format_micros(due_micros)),
        )
        .header(
            headers::SCHEDULE_TARGET,
            &subjects::due(partition, job.webhook),
        )
        .header(headers::TRACEPARENT, &job.traceparent);
    publish_for_ever(&shared.bus, message).await
}

/// Publishes until the stream has it. The message that owes the work stays unacknowledged
/// meanwhile, so a crash loses nothing.
pub(crate) async fn publish_for_ever(bus: &Bus, message: Outgoing) -> Stored {
    loop {
        match bus.publish(message.clone(), PUBLISH_WITHIN).await {
            Ok(stored) => return stored,
            Err(error) => {
                tracing::warn!(%error, subject = message.subject, "publish not durable yet");
                tokio::time::sleep(PUBLISH_PAUSE).await;
            }
        }
    }
}
