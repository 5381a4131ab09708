//! A partition's streams: its consumers, and messages by their sequence.

use std::sync::Arc;

use futures::FutureExt as _;
use webhooks_bus::{Bus, BusError, Pull, PullSettings, names, subjects, topology};

use super::{Settled, Settling};
use crate::{
    job::{Lane, MessageKey},
    shared::Shared,
};

/// A partition's two pulls, and up to where messages may have been sent before.
pub(crate) struct Opened {
    pub(crate) fresh: Pull,
    pub(crate) due: Pull,
    pub(crate) recheck_fresh: u64,
    pub(crate) recheck_due: u64,
}

/// Opens a partition: what the owner before wrote of its endpoints' health is known, its consumers
/// are ready.
pub(crate) async fn open(shared: &Shared, partition: u16) -> Result<Opened, BusError> {
    shared.health.catch_up().await?;
    open_consumers(&shared.bus, partition).await
}

/// Makes a partition's consumers anew: whatever an owner before had pulled (also what was still on
/// its way to it) comes again at once and not after `ack_wait`. What an owner that left is still
/// finishing is told apart by the sequences it has named.
async fn open_consumers(bus: &Bus, partition: u16) -> Result<Opened, BusError> {
    let fresh = anew(
        bus,
        &names::deliveries(partition),
        partition,
        subjects::deliveries_of(partition),
    )
    .await?;
    let due = anew(
        bus,
        &names::retries(partition),
        partition,
        subjects::due_of(partition),
    )
    .await?;
    let pull = |stream: String, filter: String| {
        let config = topology::partition_consumer(partition, filter);
        bus.pull_making(&stream, config, PullSettings::default())
    };
    Ok(Opened {
        recheck_fresh: fresh,
        recheck_due: due,
        fresh: pull(
            names::deliveries(partition),
            subjects::deliveries_of(partition),
        ),
        due: pull(names::retries(partition), subjects::due_of(partition)),
    })
}

/// Returns the stream's last sequence.
async fn anew(bus: &Bus, stream: &str, partition: u16, filter: String) -> Result<u64, BusError> {
    let last = bus.last_seq(stream).await?;
    let name = names::partition_consumer(partition);
    if let Err(error) = bus
        .jetstream()
        .delete_consumer_from_stream(&name, stream)
        .await
    {
        // Not there is as good; a server that is away shows in the next call.
        tracing::trace!(%error, stream, partition, "consumer not deleted");
    }
    bus.jetstream()
        .create_consumer_on_stream(topology::partition_consumer(partition, filter), stream)
        .await
        .map_err(|error| BusError::Unavailable(error.to_string()))?;
    Ok(last)
}

/// Which of these messages are no longer in their stream: their holder has finished them.
pub(crate) fn look_for(
    shared: Arc<Shared>,
    partition: u16,
    keys: Vec<MessageKey>,
    ended: bool,
) -> Settling {
    async move {
        let (mut gone, mut last) = (Vec::new(), ended);
        for key in keys {
            match shared.bus.get(&stream_of(partition, key.0), key.1).await {
                Ok(None) => gone.push(key),
                Ok(Some(_)) => {}
                Err(error) => {
                    tracing::debug!(%error, partition, "messages not looked for");
                    last = false;
                    break;
                }
            }
        }
        Settled::Gone { keys: gone, last }
    }
    .boxed()
}

/// The stream of a lane.
pub(crate) fn stream_of(partition: u16, lane: Lane) -> String {
    match lane {
        Lane::Fresh => names::deliveries(partition),
        Lane::Due => names::retries(partition),
    }
}

/// Removes a message by its sequence, whoever's consumer it belongs to.
pub(crate) async fn remove(bus: &Bus, partition: u16, (lane, seq): MessageKey) {
    let stream = stream_of(partition, lane);
    if let Err(error) = bus.remove(&stream, seq).await {
        tracing::debug!(%error, stream, seq, "message not removed; its next owner meets it again");
    }
}
