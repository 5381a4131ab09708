//! Streams, buckets and consumers that are not as they must be are named, and set right by applying.

#![cfg(test)]

mod server;

use std::time::Duration;

use async_nats::jetstream::stream::Config;
use webhooks_bus::{Bus, BusError, names, topology};
use webhooks_devstack::NatsServer;

struct World {
    bus: Bus,
    _nats: NatsServer,
    _folder: tempfile::TempDir,
}

impl World {
    async fn start() -> Self {
        let (nats, bus, folder) = server::start().await.unwrap();
        bus.verify_topology().await.unwrap();
        Self {
            bus,
            _nats: nats,
            _folder: folder,
        }
    }

    async fn change(&self, stream: &str, change: impl FnOnce(&mut Config)) {
        let jetstream = self.bus.jetstream();
        let mut found = jetstream.get_stream(stream).await.unwrap();
        let mut config = found.info().await.unwrap().config.clone();
        change(&mut config);
        jetstream.update_stream(config).await.unwrap();
    }

    async fn drift(&self) -> String {
        match self.bus.verify_topology().await {
            Err(BusError::Drift(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    async fn heal(&self) {
        self.bus.apply_topology().await.unwrap();
        self.bus.verify_topology().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn less_room_than_is_asked_for_is_drift_and_more_is_not() {
    let world = World::start().await;
    world
        .change(names::EVENTS, |config| config.max_bytes = 1_048_576)
        .await;
    world
        .change(names::HELD, |config| config.max_messages_per_subject = 5)
        .await;
    world
        .change(names::REPORTS, |config| config.max_message_size = 1_000)
        .await;
    world
        .change("KV_CONFIG", |config| config.max_bytes = 1_048_576)
        .await;
    let drift = world.drift().await;
    for told in [
        "stream EVENTS: max_bytes is 1048576, must be 8589934592",
        "stream HELD: max_messages_per_subject is 5, must be 100000",
        "stream REPORTS: max_message_size is 1000, must be 1000000",
        "bucket CONFIG: max_bytes is 1048576, must be 1073741824",
        "run `webhooks migrate`",
    ] {
        assert!(drift.contains(told), "{told}: {drift}");
    }
    world.heal().await;
    for stream in [names::EVENTS, names::HELD, "KV_CONFIG"] {
        world
            .change(stream, |config| config.max_bytes += 1_048_576)
            .await;
    }
    world.bus.verify_topology().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ages_flags_buckets_and_consumers_are_read_back() {
    let world = World::start().await;
    world
        .change(names::DEAD, |config| {
            config.max_age = Duration::from_secs(3_600);
        })
        .await;
    world
        .change("KV_CANCELLED", |config| {
            config.max_age = Duration::from_secs(3_600);
        })
        .await;
    world
        .change("KV_HEALTH", |config| config.max_messages_per_subject = 9)
        .await;
    let jetstream = world.bus.jetstream();
    for (stream, mut consumer) in topology::consumers() {
        if stream == names::VERDICTS {
            consumer.ack_wait = Duration::from_secs(99);
            consumer.max_ack_pending = 7;
            jetstream
                .create_consumer_on_stream(consumer, stream)
                .await
                .unwrap();
        }
    }
    let reports = jetstream.get_stream(names::REPORTS).await.unwrap();
    reports
        .delete_consumer(names::REPORTS_CONSUMER)
        .await
        .unwrap();
    let drift = world.drift().await;
    for told in [
        "stream DEAD: max_age is 3600s",
        "bucket CANCELLED: max_age is 3600s",
        "bucket HEALTH: history is 9, must be 1",
        "consumer history on VERDICTS: ack_wait is 99s, must be 15s",
        "consumer history on VERDICTS: max_ack_pending is 7, must be 20000",
        "consumer history on REPORTS is missing",
    ] {
        assert!(drift.contains(told), "{told}: {drift}");
    }
    world.heal().await;
}
