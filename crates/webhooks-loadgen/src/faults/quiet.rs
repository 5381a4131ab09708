//! Waiting until nothing is under way any more.

use std::{fmt, time::Duration};

use anyhow::Context as _;
use async_nats::jetstream::consumer::PullConsumer;
use webhooks_bus::{Bus, names};
use webhooks_devstack::wait_until;

use crate::stack::Stack;

/// What is still under way, by where it stands. Nothing = quiet.
#[derive(Clone, Default, PartialEq, Eq)]
struct UnderWay(Vec<(String, u64)>);

impl fmt::Debug for UnderWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.0.iter().map(|(place, count)| format!("{count} in {place}")).collect();
        f.write_str(&parts.join(", "))
    }
}

/// Waits until every stream of obligations is empty, every consumer has acknowledged all it was
/// given, and no delivery is open in Postgres.
///
/// # Errors
/// It is not so within `limit`; the message names what is left.
pub async fn quiet(stack: &Stack, limit: Duration) -> anyhow::Result<()> {
    let bus = stack.bus().await?;
    wait_until("everything to be quiet", limit, async || match under_way(stack, &bus).await {
        Ok(left) if left == UnderWay::default() => Ok(()),
        Ok(left) => Err(format!("{left:?}")),
        Err(error) => Err(format!("{error:#}")),
    })
    .await
}

async fn under_way(stack: &Stack, bus: &Bus) -> anyhow::Result<UnderWay> {
    let mut left = UnderWay::default();
    let shards = bus.settings().shards();
    let shard_streams = (0..shards).flat_map(|shard| {
        let first = shard * names::PARTITIONS_PER_STREAM;
        [names::deliveries(first), names::retries(first)]
    });
    let streams = [names::INTAKE, names::REPORTS].map(str::to_owned).into_iter().chain(shard_streams);
    for stream in streams {
        let info = bus.jetstream().get_stream(&stream).await.with_context(|| format!("stream {stream}"))?;
        left.note(&stream, info.cached_info().state.messages);
    }
    for (stream, consumer) in [(names::EVENTS, names::EVENTS_CONSUMER), (names::VERDICTS, names::VERDICTS_CONSUMER)] {
        let found: PullConsumer = bus.jetstream().get_consumer_from_stream(consumer, stream).await?;
        let info = found.cached_info();
        left.note(stream, info.num_pending + u64::try_from(info.num_ack_pending).unwrap_or(u64::MAX));
    }
    let open = stack.sql("SELECT count(*) FROM deliveries WHERE completed_at IS NULL").await?;
    left.note("Postgres", open.trim().parse().context("a count")?);
    Ok(left)
}

impl UnderWay {
    fn note(&mut self, place: &str, count: u64) {
        if count > 0 {
            self.0.push((place.to_owned(), count));
        }
    }
}
