//! Waiting until nothing is under way any more.
//!
//! What counts is what a consumer still owes (pending or unacknowledged), what is scheduled, and what
//! Postgres holds as open. A work queue's message count is *not* it: when nats-server is killed, its
//! file of messages can come back older than a consumer's state, and then a message stands in the
//! stream that its consumer has long acknowledged. Nobody is ever given it again unless the consumer
//! is made anew (then it is found recorded and removed). Such leftovers are counted and told.
//!
//! What is still owed is told while it lasts, so that a run that takes long says what it waits for.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context as _;
use async_nats::jetstream::consumer::PullConsumer;
use tokio::time::Instant;
use webhooks_bus::{Bus, names};
use webhooks_devstack::wait_until;

use crate::stack::Stack;

/// How often it is told what is owed when that stays the same.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// Waits until no consumer owes anything, nothing is scheduled, and no delivery is open in Postgres.
/// Gives how many messages stand in work queues although they were acknowledged.
///
/// # Errors
/// It is not so within `limit`; the message names what is left.
pub async fn quiet(
    stack: &Stack,
    limit: Duration,
    note: &mut dyn FnMut(String),
) -> anyhow::Result<u64> {
    let bus = stack.bus().await?;
    let began = Instant::now();
    let mut told: Option<(Vec<String>, Instant)> = None;
    wait_until("everything to be quiet", limit, async || {
        let left = match under_way(stack, &bus).await {
            Ok(left) if left.is_empty() => return Ok(()),
            Ok(left) => left,
            Err(error) => return Err(format!("{error:#}")),
        };
        let places: Vec<String> = left.keys().cloned().collect();
        let same = told
            .as_ref()
            .is_some_and(|(before, at)| *before == places && at.elapsed() < TELL_EVERY);
        if !same {
            note(format!(
                "owed after {:.1} s: {left:?}",
                began.elapsed().as_secs_f64()
            ));
            told = Some((places, Instant::now()));
        }
        Err(format!("{left:?}"))
    })
    .await?;
    let mut leftovers = 0;
    for stream in work_queues(&bus) {
        leftovers += bus.message_count(&stream).await?;
    }
    Ok(leftovers)
}

/// What is under way, by where it stands.
async fn under_way(stack: &Stack, bus: &Bus) -> anyhow::Result<BTreeMap<String, u64>> {
    let shared = [
        (names::INTAKE, names::INTAKE_CONSUMER),
        (names::EVENTS, names::EVENTS_CONSUMER),
        (names::VERDICTS, names::VERDICTS_CONSUMER),
        (names::REPORTS, names::REPORTS_CONSUMER),
        (names::OPS, names::OPS_CONSUMER),
    ];
    let shared = shared.map(|(stream, consumer)| (stream.to_owned(), consumer.to_owned()));
    let partitions = (0..bus.settings().partitions).flat_map(|partition| {
        [names::deliveries(partition), names::retries(partition)]
            .map(|stream| (stream, names::partition_consumer(partition)))
    });
    let mut left = BTreeMap::new();
    for (stream, consumer) in shared.into_iter().chain(partitions) {
        let found: PullConsumer = bus
            .jetstream()
            .get_consumer_from_stream(&consumer, &stream)
            .await
            .with_context(|| format!("consumer {consumer} of {stream}"))?;
        let info = found.cached_info();
        let owed = info.num_pending + u64::try_from(info.num_ack_pending).unwrap_or(u64::MAX);
        *left.entry(stream).or_default() += owed;
    }
    for shard in 0..bus.settings().shards() {
        let stream = names::retries(shard * names::PARTITIONS_PER_STREAM);
        let scheduled: u64 = bus
            .subject_counts(&stream, "wh.sched.>")
            .await?
            .values()
            .sum();
        left.insert(format!("{stream} (scheduled)"), scheduled);
    }
    let open = stack
        .sql("SELECT count(*) FROM deliveries WHERE completed_at IS NULL")
        .await?;
    left.insert(
        "Postgres".to_owned(),
        open.trim().parse().context("a count")?,
    );
    left.retain(|_, count| *count > 0);
    Ok(left)
}

fn work_queues(bus: &Bus) -> Vec<String> {
    let shards = (0..bus.settings().shards()).map(|shard| shard * names::PARTITIONS_PER_STREAM);
    let of_shards = shards.flat_map(|first| [names::deliveries(first), names::retries(first)]);
    [names::INTAKE, names::REPORTS]
        .map(str::to_owned)
        .into_iter()
        .chain(of_shards)
        .collect()
}
