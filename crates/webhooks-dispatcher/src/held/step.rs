//! What is done with held deliveries, a step at a time.

use std::sync::Arc;

use futures::{StreamExt as _, stream};
use prost::Message as _;
use uuid::Uuid;
use webhooks_bus::{BusError, Outgoing, ReadFrom, StoredMessage, names, subjects};
use webhooks_proto::{
    internal::v1::{DeadLetter, DeliveryJob, DeliveryReport},
    v1,
};

use super::{HeldSettled, PER_STEP, View, Work, reason, work_for};
use crate::{
    panics::surviving,
    partition_io::{Settled, Settling, publish_for_ever},
    shared::Shared,
};

/// Deliveries that are written and removed at the same time.
const AT_A_TIME: usize = 16;

/// Finds the webhooks of a partition that have something held.
pub(super) fn count(shared: Arc<Shared>, partition: u16) -> Settling {
    let counting = async move {
        let filter = format!("wh.held.{partition}.>");
        let counted = shared.bus.subject_counts(names::HELD, &filter).await;
        let found = match counted {
            Ok(counts) => Some(
                counts
                    .iter()
                    .filter_map(|(subject, held)| Some((webhook_of(subject)?, *held)))
                    .collect(),
            ),
            Err(error) => {
                tracing::debug!(%error, partition, "held deliveries not counted");
                None
            }
        };
        Settled::Held(HeldSettled::Counted(found))
    };
    surviving(counting, || Settled::Held(HeldSettled::Counted(None)))
}

fn webhook_of(subject: &str) -> Option<Uuid> {
    subject
        .rsplit('.')
        .next()
        .and_then(|id| Uuid::try_parse(id).ok())
}

/// One step: how many went, and whether nothing is left to do.
pub(super) async fn step(
    shared: &Shared,
    partition: u16,
    webhook: Uuid,
    work: Work,
    most: usize,
) -> Result<(usize, bool), BusError> {
    let (from, most) = match work {
        Work::Stay => return Ok((0, true)),
        Work::Cancel(_) | Work::Discard { .. } => (ReadFrom::Seq(1), PER_STEP),
        Work::Release(from) => (from, most.clamp(1, PER_STEP)),
        Work::Probe(from) => (from, 1),
        Work::Trim { keep } => return trim(shared, partition, webhook, keep).await,
    };
    let subject = subjects::held(partition, webhook);
    let mut found = shared
        .bus
        .get_batch(names::HELD, &subject, from, most)
        .await?;
    let mut done = found.is_empty();
    if let Work::Discard { before_micros } = work {
        // Up to the first that is not: what comes after it stays, whatever its time says, because all
        // up to the last of these is removed in one go.
        let older = found.iter();
        let older = older.take_while(|message| message.published_micros < before_micros);
        let older = older.count();
        done |= older < found.len();
        found.truncate(older);
    }
    if found.is_empty() {
        return Ok((0, true));
    }
    if matches!(work, Work::Cancel(_) | Work::Discard { .. }) {
        // Final: only by a view as new as what fan-out saw.
        shared.mirror.catch_up().await?;
        let view = shared.registry.get(webhook).map(|target| View {
            status: (target.configured.status, target.configured.reason),
            choice: target.held_choice,
            chosen_at: target.held_choice_at,
        });
        if work_for(view, 0) != work {
            return Ok((0, true));
        }
    }
    let count = found.len();
    let last = found.last().map_or(0, |message| message.seq);
    // In their order: each write is begun before the next.
    let mut steps = stream::iter(found)
        .map(|message| go(shared, partition, webhook, message, work))
        .buffered(AT_A_TIME);
    while let Some(gone) = steps.next().await {
        gone?;
    }
    if matches!(work, Work::Cancel(_) | Work::Discard { .. }) {
        // They are the oldest. One by one, the removals of many webhooks would fill the server's
        // queue of requests, in which others wait too.
        shared.bus.remove_to(names::HELD, &subject, last).await?;
    }
    Ok((count, done || matches!(work, Work::Probe(_))))
}

async fn go(
    shared: &Shared,
    partition: u16,
    webhook: Uuid,
    message: StoredMessage,
    work: Work,
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
    match work {
        Work::Release(_) | Work::Probe(_)
            if is_expired(
                job.held_at,
                message.published_micros,
                expired_before(shared),
            ) =>
        {
            // Its probes failed; each wrote it anew, behind those that came later.
            record_end(shared, job, reason::EXPIRED).await;
        }
        Work::Release(_) | Work::Probe(_) => {
            let id = format!(
                "{}:{}:{}:released",
                delivery.simple(),
                job.attempt,
                job.park
            );
            let payload = if let Work::Probe(_) = work {
                DeliveryJob { probe: true, ..job }.encode_to_vec().into()
            } else {
                message.payload
            };
            let out = Outgoing::new(
                subjects::delivery(partition, webhook, delivery),
                &id,
                payload,
            );
            publish_for_ever(&shared.bus, out).await;
        }
        Work::Cancel(reason) => {
            record_end(shared, job, reason).await;
            return Ok(());
        }
        Work::Discard { .. } => {
            record_end(shared, job, reason::DISCARDED).await;
            return Ok(());
        }
        Work::Stay | Work::Trim { .. } => return Ok(()),
    }
    shared
        .bus
        .remove(names::HELD, message.seq)
        .await
        .map(|_| ())
}

/// Ends the newest of what a webhook is owed until `keep` are left. Counted anew: some may have gone.
async fn trim(
    shared: &Shared,
    partition: u16,
    webhook: Uuid,
    keep: u64,
) -> Result<(usize, bool), BusError> {
    let subject = subjects::held(partition, webhook);
    let counts = shared.bus.subject_counts(names::HELD, &subject).await?;
    let held = counts.get(&subject).copied().unwrap_or(0);
    let surplus = usize::try_from(held.saturating_sub(keep)).unwrap_or(usize::MAX);
    let now = surplus.min(PER_STEP);
    for _ in 0..now {
        let Some(message) = shared.bus.get_last(names::HELD, &subject).await? else {
            return Ok((now, true));
        };
        match DeliveryJob::decode(message.payload.clone()) {
            Ok(job) if job.delivery.is_some() => {
                record_end(shared, job, reason::OVERFLOW).await;
                shared.bus.remove(names::HELD, message.seq).await?;
            }
            Ok(_) => bury(shared, message, "it names no delivery".to_owned()).await?,
            Err(error) => bury(shared, message, error.to_string()).await?,
        }
    }
    Ok((now, now == surplus))
}

/// Records that a delivery ended without having been sent.
async fn record_end(shared: &Shared, job: DeliveryJob, reason: &str) {
    metrics::counter!("webhooks_held_ended_total", "reason" => reason.to_owned()).increment(1);
    let report = DeliveryReport {
        delivery: job.delivery,
        state: v1::DeliveryState::Cancelled.into(),
        at: shared.clock.now_micros(),
        reason: reason.to_owned(),
        ..DeliveryReport::default()
    };
    shared.reporter.record(report).await;
}

/// Ends what was held for too long. The oldest of the partition stand first, whosever they are.
pub(super) fn expire(shared: Arc<Shared>, partition: u16) -> Settling {
    let expiring = async move {
        let more = match expire_some(&shared, partition).await {
            Ok(more) => more,
            Err(error) => {
                tracing::debug!(%error, partition, "held deliveries not looked through for old ones");
                false
            }
        };
        Settled::Held(HeldSettled::Expired { more })
    };
    surviving(expiring, || {
        Settled::Held(HeldSettled::Expired { more: false })
    })
}

async fn expire_some(shared: &Shared, partition: u16) -> Result<bool, BusError> {
    let filter = format!("wh.held.{partition}.>");
    let first = ReadFrom::Seq(1);
    let before = expired_before(shared);
    // One first: mostly there is nothing.
    for most in [1, PER_STEP] {
        let mut found = shared
            .bus
            .get_batch(names::HELD, &filter, first, most)
            .await?;
        let all = found.len();
        found.retain(|message| message.published_micros < before);
        if found.is_empty() {
            return Ok(false);
        }
        if most == 1 {
            continue;
        }
        let complete = found.len() == all;
        tracing::warn!(partition, deliveries = found.len(), "held.expired");
        for message in found {
            match DeliveryJob::decode(message.payload.clone()) {
                Ok(job) if job.delivery.is_some() => {
                    record_end(shared, job, reason::EXPIRED).await;
                    shared.bus.remove(names::HELD, message.seq).await?;
                }
                Ok(_) => bury(shared, message, "it names no delivery".to_owned()).await?,
                Err(error) => bury(shared, message, error.to_string()).await?,
            }
        }
        return Ok(complete);
    }
    Ok(false)
}

/// What has been held since before this time was held for too long.
fn expired_before(shared: &Shared) -> i64 {
    let limit = i64::try_from(shared.settings.hold_max_age.as_micros()).unwrap_or(i64::MAX);
    shared.clock.now_micros().saturating_sub(limit)
}

/// Whether a delivery has been held for too long, since it was held for the first time.
fn is_expired(held_at: i64, published_micros: i64, before: i64) -> bool {
    let since = match held_at {
        0 => published_micros,
        first => first.min(published_micros),
    };
    since < before
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

#[cfg(test)]
mod tests {
    use super::is_expired;

    #[test]
    fn a_delivery_is_held_since_it_was_held_first() {
        for (held_at, published, before, expected) in [
            (0, 10, 10, false),
            (0, 9, 10, true),
            // Written anew after each failed probe.
            (9, 50, 10, true),
            (10, 50, 10, false),
            // By two clocks that disagree.
            (50, 9, 10, true),
        ] {
            assert_eq!(
                is_expired(held_at, published, before),
                expected,
                "{held_at} {published}"
            );
        }
    }
}
