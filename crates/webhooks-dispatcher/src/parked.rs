//! What the owner of a partition does with the parked deliveries of an endpoint: lets them go before
//! their time, and reads what is unfinished of an ordered one.
//!
//! Letting go is one write that makes the due message and takes the schedule away in the same step
//! ([`webhooks_bus::Bus::fire_now`]), so a delivery is never in both places, whoever crashes in
//! between; it then comes through the partition's consumer like any other, with the same rules for
//! handover, recheck and acknowledgement. In all, parking costs a delivery two writes and a read,
//! however long it lies.

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use prost::Message as _;
use uuid::Uuid;
use webhooks_bus::{BusError, FIRE_MARGIN, ReadFrom, StoredMessage, names, subjects};
use webhooks_domain::ids::Trigger;
use webhooks_proto::internal::v1::DeliveryJob;

use crate::{
    endpoint::{Flush, Wake, Woken},
    job::{Job, Lane},
    line::{Found, MAX_KNOWN},
    panics::surviving,
    partition_io::{Settled, Settling},
    shared::Shared,
};

/// Deliveries of an endpoint that are being let go at a time; see the same limit of parking.
const AT_A_TIME: usize = 8;

/// Messages of an ordered endpoint that are read at a time.
const READ_AT_ONCE: usize = 256;

/// Lets parked deliveries of an endpoint go.
pub(crate) fn wake(shared: Arc<Shared>, partition: u16, webhook: Uuid, wake: Wake) -> Settling {
    let waking = async move {
        let woken = match wake {
            Wake::Oldest { from, count } => oldest(&shared, partition, webhook, from, count).await,
            Wake::These(schedules) => these(&shared, partition, schedules).await,
            Wake::Scheduled { from, count, flush } => {
                scheduled(&shared, partition, webhook, from, count, flush).await
            }
        };
        let woken = woken.unwrap_or_else(|error| {
            tracing::debug!(%error, partition, webhook.id = %webhook, "parked deliveries not let go yet");
            Woken::Failed
        });
        Settled::Woken { webhook, woken }
    };
    surviving(waking, move || Settled::Woken {
        webhook,
        woken: Woken::Failed,
    })
}

/// Lets go what is scheduled of a webhook that is not to be called, or of which it was discarded.
async fn scheduled(
    shared: &Shared,
    partition: u16,
    webhook: Uuid,
    from: u64,
    count: usize,
    flush: Flush,
) -> Result<Woken, BusError> {
    let stream = names::retries(partition);
    let filter = subjects::schedules_of(partition, webhook);
    let (mut next, mut left) = (from, count);
    while left > 0 {
        let mut found = read_on(shared, &stream, &filter, next, left).await?;
        if found.is_empty() {
            return Ok(Woken::Flushed(flush));
        }
        let mut newer = false;
        if let Flush::Before(at) = flush {
            let older = found.iter().take_while(|one| one.published_micros < at);
            let older = older.count();
            newer = older < found.len();
            found.truncate(older);
        }
        if let Some(last) = found.last() {
            next = last.seq + 1;
        }
        found.retain(|one| may_go(shared, one) && !is_own_try(partition, webhook, one));
        if let Flush::Before(_) = flush {
            found = found.into_iter().map(discarded).collect();
        }
        left = left.saturating_sub(found.len());
        fire(shared, found).await?;
        if newer {
            return Ok(Woken::Flushed(flush));
        }
    }
    Ok(Woken::FlushMore(next))
}

/// Whether it is the retry of a test, which a person makes whatever has become of the webhook: it comes
/// when it is due.
fn is_own_try(partition: u16, webhook: Uuid, schedule: &StoredMessage) -> bool {
    let parked = subjects::parked_of(partition, webhook).replace('>', "");
    !schedule.subject.starts_with(&parked)
        && Job::decode_stored(Lane::Due, schedule).is_ok_and(|job| job.trigger == Trigger::Test)
}

/// The same schedule, marked as discarded.
fn discarded(schedule: StoredMessage) -> StoredMessage {
    match DeliveryJob::decode(schedule.payload.clone()) {
        Ok(job) => {
            let job = DeliveryJob {
                discarded: true,
                ..job
            };
            StoredMessage {
                payload: job.encode_to_vec().into(),
                ..schedule
            }
        }
        // It is buried when it comes.
        Err(_) => schedule,
    }
}

async fn fire(shared: &Shared, schedules: Vec<StoredMessage>) -> Result<(), BusError> {
    stream::iter(schedules)
        .map(Ok::<_, BusError>)
        .try_for_each_concurrent(AT_A_TIME, |one| async move {
            shared.bus.fire_now(&one).await.map(drop)
        })
        .await
}

async fn oldest(
    shared: &Shared,
    partition: u16,
    webhook: Uuid,
    from: u64,
    count: usize,
) -> Result<Woken, BusError> {
    let stream = names::retries(partition);
    let filter = subjects::parked_of(partition, webhook);
    let (mut next, mut left) = (from, count);
    while left > 0 {
        let mut found = read_on(shared, &stream, &filter, next, left).await?;
        if found.is_empty() {
            return Ok(Woken::All);
        }
        if let Some(last) = found.last() {
            next = last.seq + 1;
        }
        found.retain(|one| may_go(shared, one));
        left = left.saturating_sub(found.len());
        fire(shared, found).await?;
    }
    Ok(Woken::More(next))
}

/// Messages from a place of a stream on, at most so many; none at all means that there is none left.
async fn read_on(
    shared: &Shared,
    stream: &str,
    filter: &str,
    place: u64,
    most: usize,
) -> Result<Vec<StoredMessage>, BusError> {
    // Not by the server's queue of requests, which all of us share: there may be thousands.
    let bus = &shared.bus;
    let found = bus.get_batch(stream, filter, ReadFrom::Seq(place), most);
    let found = found.await?;
    if !found.is_empty() {
        return Ok(found);
    }
    // In a cluster that answer may be older than what was written last.
    Ok(bus
        .get_next(stream, filter, place)
        .await?
        .into_iter()
        .collect())
}

async fn these(shared: &Shared, partition: u16, schedules: Vec<u64>) -> Result<Woken, BusError> {
    let stream = names::retries(partition);
    // One after another: of one key the first comes first.
    for seq in schedules {
        if let Some(found) = shared.bus.get(&stream, seq).await?
            && may_go(shared, &found)
        {
            shared.bus.fire_now(&found).await?;
        }
    }
    Ok(Woken::More(0))
}

/// What is due in a moment comes by itself.
fn may_go(shared: &Shared, schedule: &StoredMessage) -> bool {
    let margin = i64::try_from(FIRE_MARGIN.as_micros()).unwrap_or(i64::MAX);
    DeliveryJob::decode(schedule.payload.clone())
        .is_ok_and(|job| job.due_at > shared.clock.now_micros() + margin)
}

/// Reads what of an ordered endpoint waits on RETRIES, oldest message first.
pub(crate) fn learn(shared: Arc<Shared>, partition: u16, webhook: Uuid) -> Settling {
    let learning = async move {
        let found = match unfinished(&shared, partition, webhook).await {
            Ok(found) => Some(found),
            Err(error) => {
                tracing::debug!(%error, partition, webhook.id = %webhook, "unfinished deliveries not read yet");
                None
            }
        };
        Settled::Learned { webhook, found }
    };
    surviving(learning, move || Settled::Learned {
        webhook,
        found: None,
    })
}

async fn unfinished(
    shared: &Shared,
    partition: u16,
    webhook: Uuid,
) -> Result<(Vec<Found>, bool), BusError> {
    let stream = names::retries(partition);
    let scheduled = subjects::schedules_of(partition, webhook);
    let due = subjects::due(partition, webhook);
    let parked = subjects::parked_of(partition, webhook).replace('>', "");
    let mut found = Vec::new();
    for filter in [scheduled, due] {
        let mut next = 1;
        loop {
            let batch = read_on(shared, &stream, &filter, next, READ_AT_ONCE).await?;
            if batch.is_empty() {
                break;
            }
            if let Some(last) = batch.last() {
                next = last.seq + 1;
            }
            for message in batch {
                if found.len() >= MAX_KNOWN {
                    return Ok((found, false));
                }
                let Ok(job) = Job::decode_stored(Lane::Due, &message) else {
                    // It is buried when it comes.
                    continue;
                };
                found.push(Found {
                    rank: job.rank(),
                    schedule: message.seq,
                    due_micros: job.due_micros.max(shared.clock.now_micros()),
                    parked: message.subject.starts_with(&parked),
                });
            }
        }
    }
    Ok((found, true))
}
