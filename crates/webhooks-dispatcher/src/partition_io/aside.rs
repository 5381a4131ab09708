//! Deliveries that go no further for now, or ever: held, cancelled, buried.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt as _;
use uuid::Uuid;
use webhooks_bus::{Outgoing, PublishError, Pulled, Stored, StoredMessage, names, subjects};
use webhooks_proto::{internal::v1::DeadLetter, v1};

use super::{
    Settled, Settling,
    consumers::stream_of,
    schedule::{PUBLISH_PAUSE, PUBLISH_WITHIN, now_in, schedule},
};
use crate::{
    finished::ENDED,
    held::reason,
    job::{Job, MessageKey},
    panics, report,
    shared::Shared,
    tenure::Tenure,
};

/// When a delivery is tried again to be held that found HELD full.
pub(super) const HOLD_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// Writes a delivery to HELD.
pub(super) async fn write_held(
    shared: &Shared,
    partition: u16,
    job: &Job,
) -> Result<Stored, PublishError> {
    let id = format!("{}:{}:{}", job.delivery.simple(), job.attempt, job.park);
    // That it is held is told instead of that it is blocked.
    let held = Job {
        waits_for: None,
        // Whether the next one is a probe is seen when it leaves.
        probe: false,
        held_at: match job.held_at {
            0 => shared.clock.now_micros(),
            first => first,
        },
        ..job.clone()
    };
    let bytes = held.encode(job.attempt, job.park + 1, 0);
    let message = Outgoing::new(subjects::held(partition, job.webhook), &id, bytes);
    shared.bus.publish(message, PUBLISH_WITHIN).await
}

/// Whether it is the webhook's own place that is full, and not the stream.
fn is_of_webhook(detail: &str) -> bool {
    detail.contains("per subject")
}

/// Moves a delivery to HELD. Where a webhook holds as many as it may, the delivery ends, which is
/// recorded; where the stream is full, it is parked and tried again. Whose partition it no longer is
/// leaves it to the next owner.
pub(crate) fn hold(shared: Arc<Shared>, partition: u16, tenure: Arc<Tenure>, job: Job) -> Settling {
    async move {
        let written = tenure.hold(write_held(&shared, partition, &job)).await;
        let Some(written) = written else {
            return Settled::let_go(job.key);
        };
        match written {
            Ok(held) => {
                let now = shared.clock.now_micros();
                if shared.cancelled.contains(job.delivery)
                    && let Err(error) = shared.bus.remove(names::HELD, held.seq).await
                {
                    // It was taken back meanwhile; a sweep or its release finds it.
                    tracing::debug!(%error, delivery.id = %job.delivery, "cancelled delivery still held");
                }
                shared
                    .reporter
                    .record(report::without_attempt(&job, v1::DeliveryState::Held, now))
                    .await;
                Settled::Done {
                    key: job.key,
                    finished: None,
                }
            }
            Err(PublishError::Full(detail)) if is_of_webhook(&detail) => {
                metrics::counter!("webhooks_held_ended_total", "reason" => reason::OVERFLOW)
                    .increment(1);
                cancel(shared, job, reason::OVERFLOW).await
            }
            Err(error @ PublishError::Full(_)) => {
                tracing::warn!(%error, delivery.id = %job.delivery, "delivery not held yet");
                let due = now_in(&shared, HOLD_AGAIN_AFTER);
                let parked = schedule(&shared, partition, &job, job.attempt, job.park + 1, due);
                match tenure.hold(parked).await {
                    Some(()) => Settled::Done {
                        key: job.key,
                        finished: None,
                    },
                    None => Settled::let_go(job.key),
                }
            }
            // Perhaps it is held already: a repeat has the same id.
            Err(error) => {
                tracing::warn!(%error, delivery.id = %job.delivery, "delivery not held yet");
                Settled::Again {
                    job: Box::new(job),
                    delay: PUBLISH_PAUSE,
                }
            }
        }
    }
    .boxed()
}

/// Ends a delivery whose webhook is off or gone.
pub(crate) fn cancel(shared: Arc<Shared>, job: Job, reason: &'static str) -> Settling {
    async move {
        let now = shared.clock.now_micros();
        let mut report = report::without_attempt(&job, v1::DeliveryState::Cancelled, now);
        report.reason = reason.to_owned();
        shared.reporter.record(report).await;
        Settled::Done {
            key: job.key,
            finished: Some((job.delivery, ENDED)),
        }
    }
    .boxed()
}

/// Keeps a message that cannot be decoded.
pub(crate) fn bury(
    shared: Arc<Shared>,
    stream: String,
    key: MessageKey,
    pulled: Pulled,
    reason: String,
) -> Settling {
    async move {
        let now = shared.clock.now_micros();
        while let Err(error) = shared
            .bus
            .bury_pulled("dispatcher", &stream, &pulled, "undecodable", &reason, now)
            .await
        {
            tracing::warn!(%error, "dead letter not kept yet");
            tokio::time::sleep(PUBLISH_PAUSE).await;
        }
        Settled::Done {
            key,
            finished: None,
        }
    }
    .boxed()
}

/// Keeps a delivery as a dead letter whose handling panics each time, and records that it has ended.
pub(crate) fn give_up(
    shared: Arc<Shared>,
    partition: u16,
    key: MessageKey,
    delivery: Uuid,
) -> Settling {
    async move {
        let stored = bury_stored(&shared, partition, key).await;
        shared.panics.forget(delivery);
        let job = stored.map(|stored| Job::decode_stored(key.0, &stored));
        if let Some(Ok(job)) = job
            && job.ended.is_none()
        {
            let now = shared.clock.now_micros();
            let mut report = report::without_attempt(&job, v1::DeliveryState::Failed, now);
            report.reason = reason::DEAD_LETTER.to_owned();
            // The letter is kept: should this panic too, it is all there is.
            let recorded = AssertUnwindSafe(shared.reporter.record(report)).catch_unwind();
            if recorded.await.is_err() {
                tracing::error!(delivery.id = %delivery, "a dead letter is not recorded");
            }
        }
        Settled::Done {
            key,
            finished: None,
        }
    }
    .boxed()
}

/// Keeps a message as a dead letter as it stands in its stream, if it still does.
pub(super) async fn bury_stored(
    shared: &Shared,
    partition: u16,
    key: MessageKey,
) -> Option<StoredMessage> {
    let stream = stream_of(partition, key.0);
    loop {
        let stored = match shared.bus.get(&stream, key.1).await {
            Ok(stored) => stored?,
            Err(error) => {
                tracing::warn!(%error, stream, "message of a dead letter not read yet");
                tokio::time::sleep(PUBLISH_PAUSE).await;
                continue;
            }
        };
        let letter = DeadLetter {
            source: "dispatcher".to_owned(),
            reason: "panicked".to_owned(),
            detail: format!("handling it panicked {} times", panics::TRIES),
            stream: stream.clone(),
            subject: stored.subject.clone(),
            stream_seq: key.1,
            payload: stored.payload.clone(),
            headers: Vec::new(),
            at: shared.clock.now_micros(),
        };
        match shared.bus.bury(letter).await {
            Ok(()) => return Some(stored),
            Err(error) => {
                tracing::warn!(%error, "dead letter not kept yet");
                tokio::time::sleep(PUBLISH_PAUSE).await;
            }
        }
    }
}
