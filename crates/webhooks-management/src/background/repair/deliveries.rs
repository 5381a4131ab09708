//! Deliveries that are open in the tables and have no message that owes them.
//!
//! A delivery is looked at half a minute after it was made, and while it stays open again and again,
//! at growing intervals. Its message may be on DELIVERIES, wait on RETRIES as a schedule or as one
//! that has fired, or lie on HELD. Not finding it anywhere is not yet proof: it may have moved
//! meanwhile. Only when it is missing twice, ten seconds apart, and the row has said the same all the
//! time, a message is published anew; the dispatcher looks at what is recorded before it sends.

use std::time::Duration;

use prost::Message as _;
use uuid::Uuid;
use webhooks_bus::{Bus, BusError, names, subjects};
use webhooks_domain::{delivery::DeliveryState, ids};
use webhooks_proto::internal::v1::DeliveryJob;
use webhooks_store::WatchedDelivery;

use super::{Surroundings, history_has_come_so_far};

/// The age at which a delivery is looked at for the first time.
const FIRST_LOOK: Duration = Duration::from_secs(30);

/// Longest stretch of time whose deliveries one look takes.
const STRETCH_MILLIS: i64 = 10 * 60 * 1_000;

/// Deliveries looked at in one round.
const PER_ROUND: i64 = 200;

/// After a message was missing, when it is looked for again.
const ONCE_MORE: Duration = Duration::from_secs(10);

/// Pauses between looks at a delivery whose message is there: as long as it has been open, within
/// these.
const SHORTEST: Duration = Duration::from_secs(30);
const LONGEST: Duration = Duration::from_secs(3_600);

/// Messages of one subject that are searched; a delivery behind more of them counts as there.
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
        store.watch_open(from, to, now).await?;
        store.set_repair_position(WHAT, place(to)).await?;
    }
    let mut ended = Vec::new();
    for delivery in store.due_watched(now, PER_ROUND).await? {
        if delivery.state.is_terminal() {
            ended.push(delivery.id);
        } else {
            examine(around, &delivery, now).await?;
        }
    }
    store.unwatch(&ended, now).await?;
    Ok(())
}

async fn examine(
    around: &Surroundings,
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
    if is_owed(&around.bus, delivery).await? {
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

/// Whether a message that owes the delivery is on a stream.
async fn is_owed(bus: &Bus, delivery: &WatchedDelivery) -> Result<bool, BusError> {
    let (id, webhook) = (delivery.id, delivery.webhook_id);
    let partition = ids::partition_of(webhook, bus.settings().partitions);
    let (deliveries, retries) = (names::deliveries(partition), names::retries(partition));
    let held = subjects::held(partition, webhook);
    if delivery.state == DeliveryState::Held && among(bus, names::HELD, &held, id).await? {
        return Ok(true);
    }
    let fresh = subjects::delivery(partition, webhook, id);
    if bus.get_last(&deliveries, &fresh).await?.is_some() {
        return Ok(true);
    }
    for scheduled in subjects::later_of(partition, webhook, id) {
        if bus.get_next(&retries, &scheduled, 1).await?.is_some() {
            return Ok(true);
        }
    }
    if among(bus, &retries, &subjects::due(partition, webhook), id).await? {
        return Ok(true);
    }
    among(bus, names::HELD, &held, id).await
}

/// Whether one of a subject's messages is about the delivery. More messages than are searched count
/// as yes: what waits behind so many is not missing, it waits.
async fn among(bus: &Bus, stream: &str, subject: &str, id: Uuid) -> Result<bool, BusError> {
    let mut seq = 1;
    for _ in 0..MOST_SEARCHED {
        let Some(message) = bus.get_next(stream, subject, seq).await? else {
            return Ok(false);
        };
        let job = DeliveryJob::decode(message.payload).unwrap_or_default();
        if job
            .delivery
            .is_some_and(|reference| reference.delivery_id == id.as_bytes().as_slice())
        {
            return Ok(true);
        }
        seq = message.seq + 1;
    }
    Ok(true)
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
