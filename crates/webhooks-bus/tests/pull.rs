//! Pull loops at a real nats-server that is killed.

#![cfg(test)]

mod server;

use std::time::Duration;

use tokio::sync::mpsc;
use uuid::Uuid;
use webhooks_bus::{Bus, Outgoing, PullSettings, names, subjects, topology::partition_consumer};
use webhooks_devstack::NatsServer;

const LIMIT: Duration = Duration::from_secs(20);
const PARTITION: u16 = 3;

/// Two heartbeats, one more when the server came back between two looks, and room for a machine that is
/// busy. The client by itself takes 15 s.
const BACK_WITHIN: Duration = Duration::from_secs(10);

struct World {
    nats: NatsServer,
    bus: Bus,
    _folder: tempfile::TempDir,
}

impl World {
    async fn start() -> Self {
        let (nats, bus, folder) = server::start().await.unwrap();
        Self {
            nats,
            bus,
            _folder: folder,
        }
    }

    async fn owe(&self, text: &'static str) {
        let subject = subjects::delivery(PARTITION, Uuid::new_v4(), Uuid::new_v4());
        let message = Outgoing::new(subject, text, text.into());
        self.bus.publish(message, LIMIT).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_went_with_its_server_is_made_again_within_seconds() {
    let mut world = World::start().await;
    let config = partition_consumer(PARTITION, subjects::deliveries_of(PARTITION));
    let stream = names::deliveries(PARTITION);
    let mut pull = world
        .bus
        .pull_making(&stream, config, PullSettings::default());
    let (told, mut arrived) = mpsc::unbounded_channel();
    // Somebody listens all the time, as a partition's owner does.
    let listening = async {
        loop {
            let pulled = pull.next().await;
            pulled.acker().ack_sure().await.unwrap();
            told.send(pulled.payload).unwrap();
        }
    };
    let killing = async {
        world.owe("one").await;
        assert_eq!(arrived.recv().await.unwrap(), "one");
        for text in ["two", "three"] {
            world.nats.restart().await.unwrap();
            world.owe(text).await;
            let next = tokio::time::timeout(BACK_WITHIN, arrived.recv()).await;
            assert_eq!(next.expect("in time").unwrap(), text);
        }
    };
    tokio::select! {
        () = listening => {}
        () = killing => {}
    }
}
