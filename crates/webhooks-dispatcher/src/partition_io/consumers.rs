//! A partition's streams: its consumers, and messages by their sequence.

use std::sync::Arc;

use futures::{FutureExt as _, StreamExt as _, stream};
use webhooks_bus::{Bus, BusError, Pull, PullSettings, ReadFrom, names, subjects, topology};

use super::{Settled, Settling};
use crate::{
    job::{Lane, MessageKey},
    shared::Shared,
};

/// Most bytes that a pull asks for: a little more than the largest message of a stream. Each partition
/// has two pulls, and the client keeps at most one and a half times as much for each.
const PULL_MAX_BYTES: usize = 1024 * 1024;

/// Requests to a stream, of one task, that are under way at a time: the server's queue of them is
/// everybody's.
const AT_A_TIME: usize = 8;

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
        let settings = PullSettings {
            max_bytes: PULL_MAX_BYTES,
            ..PullSettings::default()
        };
        bus.pull_making(&stream, config, settings)
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

/// Which of these messages are no longer in their stream: their holder has finished them. What is
/// there is seen by whichever server is asked; that a message is gone is only believed of the leader.
pub(crate) fn look_for(
    shared: Arc<Shared>,
    partition: u16,
    leaver: String,
    keys: Vec<MessageKey>,
    ended: bool,
) -> Settling {
    async move {
        let looks = stream::iter(keys)
            .map(|key| is_gone(&shared, partition, key))
            .buffer_unordered(AT_A_TIME)
            .collect::<Vec<_>>()
            .await;
        let (mut gone, mut last) = (Vec::new(), ended);
        for look in looks {
            match look {
                Ok((key, true)) => gone.push(key),
                Ok((_, false)) => {}
                Err(error) => {
                    tracing::debug!(%error, partition, "messages not looked for");
                    last = false;
                }
            }
        }
        Settled::Gone {
            leaver,
            keys: gone,
            last,
        }
    }
    .boxed()
}

async fn is_gone(
    shared: &Shared,
    partition: u16,
    key: MessageKey,
) -> Result<(MessageKey, bool), BusError> {
    let (lane, seq) = key;
    let (stream, filter) = match lane {
        Lane::Fresh => (
            names::deliveries(partition),
            subjects::deliveries_of(partition),
        ),
        Lane::Due => (names::retries(partition), subjects::due_of(partition)),
    };
    // A direct read: no request in the server's queue for what is there, second after second.
    let next = shared
        .bus
        .get_batch(&stream, &filter, ReadFrom::Seq(seq), 1)
        .await?;
    if next.first().is_some_and(|next| next.seq == seq) {
        return Ok((key, false));
    }
    let gone = shared.bus.get(&stream, seq).await?.is_none();
    Ok((key, gone))
}

/// The stream of a lane.
pub(crate) fn stream_of(partition: u16, lane: Lane) -> String {
    match lane {
        Lane::Fresh => names::deliveries(partition),
        Lane::Due => names::retries(partition),
    }
}

/// Removes messages by their sequences, whoever's consumer they belong to.
pub(crate) fn remove(shared: Arc<Shared>, partition: u16, keys: Vec<MessageKey>) -> Settling {
    async move {
        let shared = &shared;
        stream::iter(keys)
            .for_each_concurrent(AT_A_TIME, |(lane, seq)| async move {
                let stream = stream_of(partition, lane);
                if let Err(error) = shared.bus.remove(&stream, seq).await {
                    tracing::debug!(%error, stream, seq, "message not removed; its next owner meets it again");
                }
            })
            .await;
        Settled::Removed
    }
    .boxed()
}
