//! What paused webhooks are owed, and its release.
//!
//! HELD keeps a subject for each webhook. The partition's owner looks through its part when a
//! webhook changes and every [`SWEEP_EVERY`]: what belongs to an active webhook goes back to
//! DELIVERIES and then leaves HELD, what belongs to a disabled or deleted one is cancelled. A crash
//! between the two steps repeats the first, and the message id makes that one message.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture, stream::FuturesUnordered};
use prost::Message as _;
use tokio::time::Instant;
use uuid::Uuid;
use webhooks_bus::{BusError, Outgoing, StoredMessage, names, subjects};
use webhooks_proto::{
    internal::v1::{DeadLetter, DeliveryJob, DeliveryReport, Status},
    v1,
};

use crate::{
    partition_io::{Settled, publish_for_ever},
    shared::Shared,
};

/// How often a partition looks for held deliveries that may go: what was written just as its
/// webhook was resumed is found then.
pub(crate) const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// Deliveries released in one look; the next look follows at once.
const PER_SWEEP: usize = 1_000;

/// The looks of one partition: one at a time.
pub(crate) struct Sweep {
    shared: Arc<Shared>,
    partition: u16,
    next: Instant,
    running: Arc<AtomicBool>,
    more: Arc<AtomicBool>,
}

impl Sweep {
    pub(crate) fn new(shared: Arc<Shared>, partition: u16) -> Self {
        Self {
            shared,
            partition,
            next: Instant::now(),
            running: Arc::default(),
            more: Arc::default(),
        }
    }

    /// A webhook has changed (`None` = some were missed): look soon, if it is one of ours.
    pub(crate) fn webhook_changed(&mut self, webhook: Option<Uuid>) {
        let partitions = self.shared.bus.settings().partitions;
        if webhook
            .is_none_or(|id| webhooks_domain::ids::partition_of(id, partitions) == self.partition)
        {
            self.next = Instant::now();
        }
    }

    /// Looks, when it is time.
    pub(crate) fn tick(&mut self, settling: &mut FuturesUnordered<BoxFuture<'static, Settled>>) {
        let due = Instant::now() >= self.next || self.more.load(Ordering::Relaxed);
        if !due || self.running.swap(true, Ordering::Relaxed) {
            return;
        }
        self.next = Instant::now() + SWEEP_EVERY;
        let (shared, partition) = (self.shared.clone(), self.partition);
        let (running, more) = (self.running.clone(), self.more.clone());
        settling.push(
            async move {
                match look(&shared, partition).await {
                    Ok(left) => more.store(left, Ordering::Relaxed),
                    Err(error) => {
                        tracing::debug!(%error, partition, "held deliveries not looked through")
                    }
                }
                running.store(false, Ordering::Relaxed);
                Settled::Nothing
            }
            .boxed(),
        );
    }
}

/// Releases and cancels what may go; whether more is left.
async fn look(shared: &Shared, partition: u16) -> Result<bool, BusError> {
    let counts = shared
        .bus
        .subject_counts(names::HELD, &format!("wh.held.{partition}.>"))
        .await?;
    let mut left = PER_SWEEP;
    for subject in counts.keys() {
        let Some(webhook) = subject
            .rsplit('.')
            .next()
            .and_then(|id| Uuid::try_parse(id).ok())
        else {
            continue;
        };
        let mut seq = 1;
        while may_go(shared, webhook).is_some() {
            let Some(message) = shared.bus.get_next(names::HELD, subject, seq).await? else {
                break;
            };
            if left == 0 {
                return Ok(true);
            }
            left -= 1;
            seq = message.seq + 1;
            if may_go(shared, webhook) == Some(false) {
                // Cancelling is final: only by a view as new as what fan-out saw.
                shared.mirror.catch_up().await?;
            }
            let Some(release) = may_go(shared, webhook) else {
                break;
            };
            go(shared, partition, webhook, message, release).await?;
        }
    }
    Ok(false)
}

/// Whether what is held goes out (`true`) or is cancelled (`false`); `None` = it stays.
fn may_go(shared: &Shared, webhook: Uuid) -> Option<bool> {
    match shared.registry.get(webhook).map(|target| target.status) {
        None | Some(Status::Disabled) => Some(false),
        Some(Status::Active) => Some(true),
        Some(Status::Paused | Status::AutoDisabled | Status::Unspecified) => None,
    }
}

async fn go(
    shared: &Shared,
    partition: u16,
    webhook: Uuid,
    message: StoredMessage,
    release: bool,
) -> Result<(), BusError> {
    let decoded = DeliveryJob::decode(message.payload.clone()).map_err(|error| error.to_string());
    let decoded = decoded.and_then(|job| {
        let delivery = job
            .delivery
            .as_ref()
            .and_then(|d| Uuid::from_slice(&d.delivery_id).ok());
        Ok((delivery.ok_or("it names no delivery")?, job))
    });
    let (delivery, job) = match decoded {
        Ok(decoded) => decoded,
        Err(reason) => return bury(shared, message, reason).await,
    };
    if release {
        let id = format!(
            "{}:{}:{}:released",
            delivery.simple(),
            job.attempt,
            job.park
        );
        let out = Outgoing::new(
            subjects::delivery(partition, webhook, delivery),
            &id,
            message.payload,
        );
        publish_for_ever(&shared.bus, out).await;
    } else {
        let report = DeliveryReport {
            delivery: job.delivery,
            state: v1::DeliveryState::Cancelled.into(),
            next_attempt_at: 0,
            at: shared.clock.now_micros(),
            attempt: None,
        };
        shared.reporter.record(report).await;
    }
    shared
        .bus
        .remove(names::HELD, message.seq)
        .await
        .map(|_| ())
}

/// Keeps a held message that nobody can read, so that it does not stop those behind it.
async fn bury(shared: &Shared, message: StoredMessage, reason: String) -> Result<(), BusError> {
    let letter = DeadLetter {
        source: "dispatcher".to_owned(),
        reason: "undecodable".to_owned(),
        detail: reason,
        stream: names::HELD.to_owned(),
        subject: message.subject,
        stream_seq: message.seq,
        payload: message.payload,
        headers: Vec::new(),
        at: shared.clock.now_micros(),
    };
    let buried = shared.bus.bury(letter).await;
    buried.map_err(|error| BusError::Unavailable(error.to_string()))?;
    shared
        .bus
        .remove(names::HELD, message.seq)
        .await
        .map(|_| ())
}
