//! JetStream alone: two hops as the pipeline makes them (publish, consume, publish into one of 16
//! partitions, consume and acknowledge for sure), and nothing else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use async_nats::jetstream::{
    consumer::{AckPolicy, pull},
    stream::{Config, DiscardPolicy, RetentionPolicy, StorageType},
};
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use webhooks_bus::{Bus, BusSettings, Outgoing, PullSettings};

use super::Reached;
use crate::{
    now_micros,
    sample::{EventSpec, EventTemplate},
};

/// Unacknowledged publishes of one hop.
const WINDOW: usize = 1_024;

/// How far the publisher may be ahead of the last consumers, in deliveries.
const LEAD: u64 = 8_000;

/// How often a publisher that is too far ahead looks again.
const PAUSE: Duration = Duration::from_millis(1);

/// Partitions of the second hop.
const PARTITIONS: u64 = 16;

const EVENTS: &str = "PEER-EVENTS";
const DELIVERIES: &str = "PEER-DELIVERIES";
const WITHIN: Duration = Duration::from_secs(30);

/// What to do.
#[derive(Debug, Clone)]
pub struct BusPeer {
    /// `nats://host:port`.
    pub url: String,
    /// Deliveries of one event.
    pub fan_out: u64,
    /// Adaptive atomic batches, for a server that syncs every write.
    pub batching: bool,
    /// How long to publish; what is on its way is then still awaited.
    pub duration: Duration,
}

/// Runs both hops and counts deliveries that were acknowledged for sure. Makes two streams and
/// removes them.
///
/// # Errors
/// NATS is away or refuses.
pub async fn bare_bus(peer: &BusPeer) -> anyhow::Result<Reached> {
    let settings = BusSettings {
        url: peer.url.clone(),
        batching: peer.batching,
        ..BusSettings::default()
    };
    let bus = Bus::connect(settings, "webhooks-loadgen-peer").await?;
    make_streams(&bus).await?;
    let result = measure(&bus, peer).await;
    for stream in [EVENTS, DELIVERIES] {
        bus.jetstream()
            .delete_stream(stream)
            .await
            .with_context(|| format!("cannot remove {stream}"))?;
    }
    result
}

async fn make_streams(bus: &Bus) -> anyhow::Result<()> {
    let base = |name: &str, subject: &str, retention| Config {
        name: name.to_owned(),
        subjects: vec![subject.to_owned()],
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        allow_atomic_publish: true,
        retention,
        duplicate_window: Duration::from_secs(120),
        ..Config::default()
    };
    let context = bus.jetstream();
    context
        .create_stream(base(EVENTS, "peer.evt.>", RetentionPolicy::Limits))
        .await?;
    context
        .create_stream(base(DELIVERIES, "peer.dlv.*.>", RetentionPolicy::WorkQueue))
        .await?;
    let consumer = |name: String, filter: String| pull::Config {
        durable_name: Some(name),
        filter_subject: filter,
        ack_policy: AckPolicy::Explicit,
        max_ack_pending: 10_000,
        ..pull::Config::default()
    };
    context
        .create_consumer_on_stream(
            consumer("fanout".to_owned(), "peer.evt.>".to_owned()),
            EVENTS,
        )
        .await?;
    for partition in 0..PARTITIONS {
        let config = consumer(format!("p{partition}"), format!("peer.dlv.{partition}.>"));
        context
            .create_consumer_on_stream(config, DELIVERIES)
            .await?;
    }
    Ok(())
}

async fn measure(bus: &Bus, peer: &BusPeer) -> anyhow::Result<Reached> {
    let (done, stop) = (Arc::new(AtomicU64::new(0)), CancellationToken::new());
    let mut tasks = JoinSet::new();
    for partition in 0..PARTITIONS {
        tasks.spawn(stop.clone().run_until_cancelled_owned(consume(
            bus.clone(),
            partition,
            Arc::clone(&done),
        )));
    }
    tasks.spawn(
        stop.clone()
            .run_until_cancelled_owned(fan_out(bus.clone(), peer.fan_out)),
    );
    let started = Instant::now();
    let owed = publish(bus, peer.fan_out, &done, started + peer.duration).await?;
    let all_done = webhooks_devstack::wait_until(
        "the deliveries of the bus alone",
        WITHIN,
        async || match done.load(Ordering::Relaxed) {
            count if count >= owed => Ok(count),
            count => Err(count),
        },
    );
    let count = tokio::select! {
        count = all_done => count?,
        Some(failed) = tasks.join_next() => return Err(ended(failed)),
    };
    let elapsed = started.elapsed();
    stop.cancel();
    Ok(Reached { count, elapsed })
}

fn ended(result: Result<Option<anyhow::Result<()>>, tokio::task::JoinError>) -> anyhow::Error {
    match result {
        Ok(Some(Err(error))) => error,
        Ok(_) => anyhow!("a loop ended by itself"),
        Err(error) => error.into(),
    }
}

/// Publishes events; gives how many deliveries they owe.
async fn publish(bus: &Bus, fan_out: u64, done: &AtomicU64, until: Instant) -> anyhow::Result<u64> {
    let template = EventTemplate::new();
    let window = Arc::new(Semaphore::new(WINDOW));
    let mut publishes = JoinSet::new();
    let mut owed = 0;
    while Instant::now() < until {
        if owed > done.load(Ordering::Relaxed) + LEAD {
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        let id = Uuid::new_v4();
        let bytes = template.render(&EventSpec {
            id,
            workspace: Uuid::nil(),
            link: Uuid::nil(),
            kind: "KIND_EXIT".to_owned(),
            timestamp_micros: now_micros(),
        });
        let message = Outgoing::new("peer.evt.0".to_owned(), &id.to_string(), bytes);
        spawn_publish(bus, &window, &mut publishes, message, None).await?;
        owed += fan_out;
        while let Some(result) = publishes.try_join_next() {
            result??;
        }
    }
    while let Some(result) = publishes.join_next().await {
        result??;
    }
    Ok(owed)
}

async fn spawn_publish(
    bus: &Bus,
    window: &Arc<Semaphore>,
    publishes: &mut JoinSet<anyhow::Result<()>>,
    message: Outgoing,
    acker: Option<webhooks_bus::Acker>,
) -> anyhow::Result<()> {
    let place = Arc::clone(window).acquire_owned().await?;
    let bus = bus.clone();
    publishes.spawn(async move {
        bus.publish(message, WITHIN).await?;
        if let Some(acker) = acker {
            acker.ack().await?;
        }
        drop(place);
        Ok(())
    });
    Ok(())
}

async fn fan_out(bus: Bus, fan_out: u64) -> anyhow::Result<()> {
    let window = Arc::new(Semaphore::new(WINDOW));
    let mut publishes = JoinSet::new();
    let mut events = bus.pull(EVENTS, "fanout", PullSettings::default());
    let mut next = 0_u64;
    loop {
        let event = events.next().await;
        for copy in 0..fan_out {
            let (partition, id) = (next % PARTITIONS, Uuid::new_v4());
            next += 1;
            let subject = format!("peer.dlv.{partition}.{}", id.simple());
            let message = Outgoing::new(subject, &id.to_string(), Bytes::clone(&event.payload));
            // The event is done when its last copy is on its way for sure.
            let acker = (copy + 1 == fan_out).then(|| event.acker());
            spawn_publish(&bus, &window, &mut publishes, message, acker).await?;
        }
        while let Some(result) = publishes.try_join_next() {
            result??;
        }
    }
}

async fn consume(bus: Bus, partition: u64, done: Arc<AtomicU64>) -> anyhow::Result<()> {
    let mut deliveries = bus.pull(
        DELIVERIES,
        &format!("p{partition}"),
        PullSettings::default(),
    );
    loop {
        let batch = deliveries.next_batch(256).await;
        let acks = futures::stream::iter(batch)
            .map(|pulled| async move { pulled.acker().ack_sure().await });
        let acks: Vec<_> = acks.buffer_unordered(256).collect().await;
        for ack in acks {
            ack?;
            done.fetch_add(1, Ordering::Relaxed);
        }
    }
}
