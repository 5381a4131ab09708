use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use webhooks_bus::{Bus, BusSettings};
use webhooks_devstack::NatsServer;
use webhooks_loadgen::{
    ledger::{self, Ledger, Outcome, Published},
    peers::{BusPeer, HttpPeer, bare_bus, bare_http},
    publish::{self, Door, Plan, Subject, Target},
    receiver::{Receiver, ReceiverOptions},
};

#[tokio::test]
async fn the_bare_client_reaches_the_receiver_with_every_request_it_counts() {
    let receiver = Receiver::start(ReceiverOptions::default()).await.unwrap();
    let peer = HttpPeer {
        url: receiver.url(""),
        path: "/ok".to_owned(),
        connections: 3,
        duration: Duration::from_secs(1),
    };
    let reached = bare_http(&peer).await.unwrap();
    assert!(reached.count > 0);
    assert_eq!(receiver.count(), reached.count);
    let failing = HttpPeer {
        path: "/status/500".to_owned(),
        ..peer
    };
    assert!(
        bare_http(&failing)
            .await
            .unwrap_err()
            .to_string()
            .contains("500")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bare_bus_delivers_what_was_published_times_the_fan_out() {
    let folder = tempfile::tempdir().unwrap();
    let nats = NatsServer::builder(folder.path()).start().await.unwrap();
    for batching in [false, true] {
        let peer = BusPeer {
            url: nats.url(),
            fan_out: 3,
            batching,
            duration: Duration::from_secs(1),
        };
        let reached = bare_bus(&peer).await.unwrap();
        assert!(
            reached.count > 0 && reached.count.is_multiple_of(3),
            "{reached:?}"
        );
    }
}

#[tokio::test]
async fn a_nats_publisher_notes_every_event_with_what_the_stream_said() {
    let folder = tempfile::tempdir().unwrap();
    let nats = NatsServer::builder(folder.path()).start().await.unwrap();
    let settings = BusSettings {
        url: nats.url(),
        ..BusSettings::default()
    };
    let bus = Bus::connect(settings, "test").await.unwrap();
    webhooks_devstack::wait_until("the topology", Duration::from_secs(10), async || {
        bus.apply_topology().await.map_err(|e| e.to_string())
    })
    .await
    .unwrap();
    let file = folder.path().join("published");
    let ledger = Ledger::open(&file).unwrap();
    let target = Target {
        door: Door::Nats,
        url: nats.url(),
        token: None,
    };
    let links = vec![Uuid::new_v4(), Uuid::new_v4()];
    let subject = Subject {
        workspace: Uuid::new_v4(),
        links: links.clone(),
        kinds: vec!["KIND_EXIT".to_owned()],
    };
    let plan = Plan {
        count: Some(100),
        batch: 7,
        workers: 2,
        rate: Some(5_000.0),
        retry: true,
        gate: None,
        traceparent: None,
    };
    let tally = publish::run(&target, &subject, &plan, &ledger, &CancellationToken::new())
        .await
        .unwrap();
    assert_eq!((tally.ok, tally.total()), (100, 100));
    ledger.flush().unwrap();
    let lines: Vec<Published> = ledger::read(&file).unwrap();
    assert_eq!(lines.len(), 100);
    assert!(
        lines
            .iter()
            .all(|line| line.outcome == Outcome::Ok && line.door == "nats")
    );
    let first = lines.iter().filter(|line| line.link == links[0]).count();
    assert_eq!(first, 50);
    assert_eq!(bus.last_seq("INTAKE").await.unwrap(), 100);
}
