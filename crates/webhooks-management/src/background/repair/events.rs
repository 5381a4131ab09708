//! Events that were acknowledged by fan-out, and nobody knows of them. An event is acknowledged only when its verdict and its deliveries are on
//! the streams, and a verdict only when it is recorded. But a stream can be restored from an old
//! copy, and programs have faults; so every event's place on the EVENTS stream is compared with the
//! recorded ones, and of what is missing a second copy is offered to fan-out. Its ids are those of
//! the first, so what had been made is not made again.
//!
//! It looks before it acts: only what fan-out has acknowledged counts, and only after every verdict
//! published by then is recorded. While history lags, it stands still. It relies on fan-out recording
//! also events that match nothing.

use std::time::Duration;

use anyhow::Context as _;
use webhooks_bus::{Outgoing, headers, names};
use webhooks_store::{Day, MAX_COMPARED, MAX_NAMED};

use super::{Surroundings, history_has_come_so_far};

/// How long one second copy may take to be stored.
const PUBLISH_WITHIN: Duration = Duration::from_secs(5);

/// The EVENTS stream keeps a week; no row of an event that can still be copied is older.
const DAYS: i32 = 8;

/// The name of this check's place.
const WHAT: &str = "events";

/// Compares the next places; whether more are to be compared at once.
pub(super) async fn look(around: &Surroundings) -> anyhow::Result<bool> {
    let (bus, store) = (&around.bus, &around.store);
    let fanout = bus
        .consumer_state(names::EVENTS, names::EVENTS_CONSUMER)
        .await?;
    let Some(done) = store.repair_position(WHAT).await? else {
        // What came before the first look is nobody's to judge.
        store
            .set_repair_position(WHAT, fanout.acknowledged_to)
            .await?;
        return Ok(false);
    };
    let last = fanout.acknowledged_to.min(done + MAX_COMPARED);
    if last <= done || !history_has_come_so_far(around).await? {
        return Ok(false);
    }
    let since = Day::of_micros(around.clock.now_micros()).plus(-DAYS);
    let missing = store.unrecorded_events(done + 1, last, since).await?;
    let mut offered = 0_u64;
    for seq in &missing {
        offered += u64::from(offer(around, *seq).await?);
    }
    if offered > 0 {
        metrics::counter!("webhooks_events_repaired_total").increment(offered);
        tracing::warn!(offered, first = missing.first(), "events.offered_again");
    }
    // A full answer may not be the whole one.
    let compared = match missing.last() {
        Some(seq) if missing.len() >= MAX_NAMED => *seq,
        _ => last,
    };
    store.set_repair_position(WHAT, compared).await?;
    Ok(compared < fanout.acknowledged_to)
}

/// Offers the event at `seq` to fan-out once more. False when there is none any more, or it is such
/// a copy itself.
async fn offer(around: &Surroundings, seq: u64) -> anyhow::Result<bool> {
    let Some(event) = around.bus.get(names::EVENTS, seq).await? else {
        return Ok(false);
    };
    if event.header(headers::AGAIN).is_some() {
        return Ok(false);
    }
    let mut copy = Outgoing::new(
        event.subject.clone(),
        &format!("again:{seq}"),
        event.payload.clone(),
    )
    .header(headers::AGAIN, &seq.to_string());
    for name in [
        headers::EVENT_ID,
        headers::WORKSPACE,
        headers::ACCEPTED_AT,
        headers::TRACEPARENT,
        headers::HOP,
    ] {
        if let Some(value) = event.header(name) {
            copy = copy.header(name, value);
        }
    }
    let stored = around.bus.publish(copy, PUBLISH_WITHIN).await;
    Ok(!stored
        .context("an event cannot be offered again")?
        .duplicate)
}
