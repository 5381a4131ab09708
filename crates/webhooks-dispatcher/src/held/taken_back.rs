//! Takes from HELD what a person took back: it would lie there until its webhook is active again.
//!
//! A mark names the webhook, and the delivery's id tells when its event was accepted, so one
//! delivery is looked for from that moment on, in at most [`PAGES`] reads. What a dispatcher did not
//! hear of (nobody owned the partition, or marks came faster than it looked) is found by a sweep of
//! all that the partition holds, [`PER_STEP`] of them every [`SWEEP_EVERY`]. Neither changes what
//! is recorded: the history says that it is cancelled since the person said so.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use prost::Message as _;
use tokio::{sync::broadcast, time::Instant};
use uuid::Uuid;
use webhooks_bus::{BusError, Mark, ReadFrom, StoredMessage, names, subjects};
use webhooks_domain::ids;
use webhooks_proto::internal::v1::DeliveryJob;

use super::{HeldSettled, PER_STEP};
use crate::{
    panics::surviving,
    partition_io::{Settled, Settling},
    shared::Shared,
};

/// Reads in search of one delivery; one that was held much later than accepted waits for a sweep.
const PAGES: usize = 8;

/// Marks that wait to be looked for; beyond that a sweep finds them.
const WAITING: usize = 1_024;

/// Pause between the steps of a sweep.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// What is to be looked for.
pub(super) struct TakenBack {
    marks: broadcast::Receiver<Mark>,
    waiting: VecDeque<Mark>,
    /// Where a sweep goes on; `None` = none is under way.
    sweep: Option<u64>,
    sweep_at: Instant,
    working: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    For(Mark),
    Through(u64),
}

impl TakenBack {
    pub(super) fn new(shared: &Shared, now: Instant) -> Self {
        Self {
            marks: shared.cancelled.marks(),
            waiting: VecDeque::new(),
            // Whoever was the owner before may not have come to it.
            sweep: Some(1),
            sweep_at: now,
            working: false,
        }
    }

    /// The next look, if there is one to take. `is_ours` says which webhooks are the
    /// partition's.
    pub(super) fn next(
        &mut self,
        shared: &Arc<Shared>,
        partition: u16,
        is_ours: impl Fn(Uuid) -> bool,
        now: Instant,
    ) -> Option<Settling> {
        loop {
            match self.marks.try_recv() {
                Ok(mark) if !is_ours(mark.webhook) => {}
                Ok(mark) if self.waiting.len() < WAITING => self.waiting.push_back(mark),
                Ok(_) | Err(broadcast::error::TryRecvError::Lagged(_)) => self.sweep = Some(1),
                Err(_) => break,
            }
        }
        if self.working {
            return None;
        }
        let look = match (self.waiting.pop_front(), self.sweep) {
            (Some(mark), _) => Look::For(mark),
            (None, Some(from)) if now >= self.sweep_at => Look::Through(from),
            _ => return None,
        };
        if look == Look::Through(1) && shared.cancelled.is_empty() {
            self.sweep = None;
            return None;
        }
        self.working = true;
        let shared = shared.clone();
        let failed = || Settled::Held(HeldSettled::TakenBack(Some(Some(1))));
        Some(surviving(
            async move {
                let swept = match look {
                    Look::For(mark) => find(&shared, partition, mark).await.map(|()| None),
                    Look::Through(from) => sweep(&shared, partition, from).await.map(Some),
                };
                Settled::Held(HeldSettled::TakenBack(swept.unwrap_or_else(|error| {
                    tracing::debug!(%error, partition, "held deliveries not looked through for cancelled ones");
                    Some(Some(1))
                })))
            },
            failed,
        ))
    }

    /// A look has ended; `Some` = it was a sweep's step, or failed, and the sweep goes on from there.
    pub(super) fn looked(&mut self, swept: Option<Option<u64>>, now: Instant) {
        self.working = false;
        if let Some(next) = swept {
            self.sweep = next;
            self.sweep_at = now + SWEEP_EVERY;
        }
    }
}

async fn find(shared: &Shared, partition: u16, mark: Mark) -> Result<(), BusError> {
    let subject = subjects::held(partition, mark.webhook);
    let mut from = ReadFrom::Micros(ids::millis_of(mark.delivery).saturating_mul(1_000));
    for _ in 0..PAGES {
        let found = shared
            .bus
            .get_batch(names::HELD, &subject, from, PER_STEP)
            .await?;
        let Some(last) = found.last() else {
            return Ok(());
        };
        from = ReadFrom::Seq(last.seq + 1);
        for message in &found {
            if delivery_of(message) == Some(mark.delivery) {
                return remove(shared, message).await;
            }
        }
    }
    Ok(())
}

/// One step; says where the next one begins, `None` = nothing is left.
async fn sweep(shared: &Shared, partition: u16, from: u64) -> Result<Option<u64>, BusError> {
    let filter = format!("wh.held.{partition}.>");
    let found = shared
        .bus
        .get_batch(names::HELD, &filter, ReadFrom::Seq(from), PER_STEP)
        .await?;
    for message in &found {
        if delivery_of(message).is_some_and(|id| shared.cancelled.contains(id)) {
            remove(shared, message).await?;
        }
    }
    Ok(found.last().map(|last| last.seq + 1))
}

async fn remove(shared: &Shared, message: &StoredMessage) -> Result<(), BusError> {
    metrics::counter!("webhooks_held_ended_total", "reason" => super::reason::CANCELLED)
        .increment(1);
    shared
        .bus
        .remove(names::HELD, message.seq)
        .await
        .map(|_| ())
}

fn delivery_of(message: &StoredMessage) -> Option<Uuid> {
    let job = DeliveryJob::decode(message.payload.clone()).ok()?;
    Uuid::from_slice(&job.delivery?.delivery_id).ok()
}
