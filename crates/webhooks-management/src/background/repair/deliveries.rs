//! Deliveries that are open in the tables and have no message that owes them.
//!
//! A delivery is looked at half a minute after it was made, and while it stays open again and again,
//! at growing intervals. Its message may be on DELIVERIES, wait on RETRIES as a schedule or as one
//! that has fired, or lie on HELD. What a webhook has in these places is read once in a round, by direct
//! gets, which do not stand in the server's one queue of requests. Not finding it anywhere is not yet proof: it may have moved
//! meanwhile. Only when it is missing twice, ten seconds apart, and the row has said the same all the
//! time, a message is published anew; the dispatcher looks at what is recorded before it sends.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    time::Duration,
};

use prost::Message as _;
use uuid::Uuid;
use webhooks_bus::{Bus, BusError, ReadFrom, StoredMessage, names, subjects};
use webhooks_domain::{delivery::DeliveryState, ids};
use webhooks_proto::internal::v1::DeliveryJob;
use webhooks_store::{MAX_WATCHED, WatchedDelivery};

use super::{Surroundings, history_has_come_so_far};

/// The age at which a delivery is looked at for the first time.
const FIRST_LOOK: Duration = Duration::from_secs(30);

/// Longest stretch of time whose deliveries one look takes.
const STRETCH_MILLIS: i64 = 10 * 60 * 1_000;

/// Deliveries looked at in one round.
const PER_ROUND: i64 = 500;

/// After a message was missing, when it is looked for again.
const ONCE_MORE: Duration = Duration::from_secs(10);

/// Pauses between looks at a delivery whose message is there: as long as it has been open, within
/// these.
const SHORTEST: Duration = Duration::from_secs(30);
const LONGEST: Duration = Duration::from_secs(3_600);

/// Messages of a webhook in one place that are searched in a round; a delivery behind more of them counts
/// as there.
const MOST_SEARCHED: usize = 500;

/// The name of this check's place.
const WHAT: &str = "deliveries";

/// Watches what has come of age, and looks at what is due.
pub(super) async fn look(around: &Surroundings) -> anyhow::Result<()> {
    let store = &around.store;
    let now = around.clock.now_micros();
    let of_age = (now - micros(FIRST_LOOK)) / 1_000;
    let Some(done) = store.repair_position(WHAT).await? else {
        store.set_repair_position(WHAT, place(of_age)).await?;
        return Ok(());
    };
    let fanout = around
        .bus
        .consumer_state(names::EVENTS, names::EVENTS_CONSUMER)
        .await?;
    let spool = around.bus.message_count(names::REPORTS).await?;
    if fanout.pending > 0 || spool > 0 || !history_has_come_so_far(around).await? {
        return Ok(());
    }
    let from = i64::try_from(done).unwrap_or(i64::MAX);
    let to = of_age.min(from + STRETCH_MILLIS);
    if to > from {
        // With no room left the place stays, so that nobody is passed over.
        if store.watch_open(from, to, now).await?.is_some() {
            store.set_repair_position(WHAT, place(to)).await?;
        } else {
            tracing::warn!(watched = MAX_WATCHED, "repair.no_room_to_watch");
        }
    }
    let behind = Duration::from_millis(u64::try_from(of_age - from).unwrap_or(0));
    metrics::gauge!("webhooks_repair_behind_seconds").set(behind.as_secs_f64());
    let mut places = Places::of(&around.bus);
    let mut ended = Vec::new();
    for delivery in store.due_watched(now, PER_ROUND).await? {
        if delivery.state.is_terminal() {
            ended.push(delivery.id);
        } else {
            examine(around, &mut places, &delivery, now).await?;
        }
    }
    store.unwatch(&ended, now).await?;
    Ok(())
}

async fn examine(
    around: &Surroundings,
    places: &mut Places<'_>,
    delivery: &WatchedDelivery,
    now: i64,
) -> anyhow::Result<()> {
    let store = &around.store;
    if let Some(due) = delivery.next_attempt_at.filter(|due| *due > now) {
        store
            .watch_again(delivery.id, due + micros(FIRST_LOOK), None)
            .await?;
        return Ok(());
    }
    if places.owe(delivery).await? {
        let pause = pause_after(now - delivery.state_at);
        store
            .watch_again(delivery.id, now + micros(pause), None)
            .await?;
    } else if delivery.missing_at == Some(delivery.state_at) {
        let owed = store.owe_again(delivery.id, delivery.state_at).await?;
        if owed {
            metrics::counter!("webhooks_deliveries_repaired_total").increment(1);
            tracing::warn!(delivery.id = %delivery.id, state = delivery.state.as_str(), "delivery.owed_again");
        }
        store
            .watch_again(delivery.id, now + micros(FIRST_LOOK), None)
            .await?;
    } else {
        let missing = Some(delivery.state_at);
        store
            .watch_again(delivery.id, now + micros(ONCE_MORE), missing)
            .await?;
    }
    Ok(())
}

/// Where a webhook's messages may lie, several for each delivery or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Held,
    Scheduled,
    Due,
}

/// What a webhook has in one place.
#[derive(Debug, Default)]
struct Found {
    deliveries: HashSet<Uuid>,
    /// There is more than was read.
    more: bool,
}

/// What was found in this round.
struct Places<'b> {
    bus: &'b Bus,
    found: HashMap<(Kind, Uuid), Found>,
}

impl<'b> Places<'b> {
    fn of(bus: &'b Bus) -> Self {
        Self {
            bus,
            found: HashMap::new(),
        }
    }

    /// Whether a message that owes the delivery is on a stream. What waits behind more than is searched
    /// is not missing, it waits.
    async fn owe(&mut self, delivery: &WatchedDelivery) -> Result<bool, BusError> {
        let (id, webhook) = (delivery.id, delivery.webhook_id);
        let partition = ids::partition_of(webhook, self.bus.settings().partitions);
        if delivery.state == DeliveryState::Held && self.has(Kind::Held, webhook, id).await? {
            return Ok(true);
        }
        let fresh = subjects::delivery(partition, webhook, id);
        if self.any(&names::deliveries(partition), &fresh).await? {
            return Ok(true);
        }
        if self.has(Kind::Scheduled, webhook, id).await? {
            // Schedules name their delivery, so those behind many are asked for.
            let scheduled = self.look(Kind::Scheduled, webhook).await?;
            if scheduled.deliveries.contains(&id) {
                return Ok(true);
            }
            for filter in subjects::later_of(partition, webhook, id) {
                if self.any(&names::retries(partition), &filter).await? {
                    return Ok(true);
                }
            }
        }
        Ok(self.has(Kind::Due, webhook, id).await? || self.has(Kind::Held, webhook, id).await?)
    }

    async fn any(&self, stream: &str, filter: &str) -> Result<bool, BusError> {
        let found = self.bus.get_batch(stream, filter, ReadFrom::Seq(1), 1);
        Ok(!found.await?.is_empty())
    }

    async fn has(&mut self, kind: Kind, webhook: Uuid, id: Uuid) -> Result<bool, BusError> {
        let found = self.look(kind, webhook).await?;
        Ok(found.more || found.deliveries.contains(&id))
    }

    async fn look(&mut self, kind: Kind, webhook: Uuid) -> Result<&Found, BusError> {
        match self.found.entry((kind, webhook)) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(unknown) => Ok(unknown.insert(read(self.bus, kind, webhook).await?)),
        }
    }
}

async fn read(bus: &Bus, kind: Kind, webhook: Uuid) -> Result<Found, BusError> {
    let partition = ids::partition_of(webhook, bus.settings().partitions);
    let (stream, filter) = match kind {
        Kind::Held => (names::HELD.to_owned(), subjects::held(partition, webhook)),
        Kind::Scheduled => (
            names::retries(partition),
            subjects::schedules_of(partition, webhook),
        ),
        Kind::Due => (names::retries(partition), subjects::due(partition, webhook)),
    };
    let mut found = Found::default();
    let (mut from, mut left) = (1, MOST_SEARCHED);
    while left > 0 {
        let batch = bus
            .get_batch(&stream, &filter, ReadFrom::Seq(from), left)
            .await?;
        let Some(last) = batch.last() else {
            return Ok(found);
        };
        from = last.seq + 1;
        left = left.saturating_sub(batch.len());
        found
            .deliveries
            .extend(batch.iter().filter_map(delivery_of));
    }
    found.more = true;
    Ok(found)
}

/// Which delivery a message is about.
fn delivery_of(message: &StoredMessage) -> Option<Uuid> {
    let job = DeliveryJob::decode(message.payload.clone()).ok()?;
    Uuid::from_slice(&job.delivery?.delivery_id).ok()
}

/// When to look again at a delivery that has been in its state for so many microseconds.
fn pause_after(open_for: i64) -> Duration {
    let open_for = Duration::from_micros(u64::try_from(open_for).unwrap_or(0));
    open_for.clamp(SHORTEST, LONGEST)
}

fn place(millis: i64) -> u64 {
    u64::try_from(millis).unwrap_or(0)
}

fn micros(length: Duration) -> i64 {
    i64::try_from(length.as_micros()).unwrap_or(i64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_open_is_looked_at_ever_more_seldom() {
        assert_eq!(pause_after(-5), SHORTEST);
        assert_eq!(pause_after(60_000_000), Duration::from_secs(60));
        assert_eq!(pause_after(i64::MAX), LONGEST);
    }
}
