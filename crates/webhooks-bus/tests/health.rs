//! Records of health and reading in batches, at a real nats-server.

use std::time::Duration;

use anyhow::ensure;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use webhooks_bus::{
    Bus, BusError, BusSettings, HealthMirror, HealthStore, OpsEvent, Outgoing, ReadFrom, names,
    subjects,
};
use webhooks_devstack::{NatsServer, wait_until};
use webhooks_domain::health::{Ended, Health, HealthPolicy, Verdict};
use webhooks_proto::internal::v1::{EndpointHealth, Status};

const LIMIT: Duration = Duration::from_secs(10);

async fn start() -> anyhow::Result<(NatsServer, Bus, tempfile::TempDir)> {
    let dir = tempfile::tempdir()?;
    let nats = NatsServer::builder(dir.path().join("nats")).start().await?;
    let settings = BusSettings {
        url: nats.url(),
        ..BusSettings::default()
    };
    let bus = Bus::connect(settings, "test").await?;
    wait_until("the streams", LIMIT, async || {
        let applied = bus.apply_topology().await;
        applied.map_err(|error| error.to_string())
    })
    .await?;
    Ok((nats, bus, dir))
}

fn record(run: u32) -> EndpointHealth {
    EndpointHealth {
        status: Status::Active.into(),
        run,
        ..EndpointHealth::default()
    }
}

#[tokio::test]
async fn a_record_is_written_by_compare_and_set_and_mirrored() -> anyhow::Result<()> {
    let (_nats, bus, _dir) = start().await?;
    let stop = CancellationToken::new();
    let early = HealthMirror::start(&bus, stop.clone());
    wait_until("an empty mirror", LIMIT, async || early.catch_up().await).await?;
    ensure!(early.loaded() && early.all().is_empty(), "nothing yet");
    let (store, webhook) = (HealthStore::new(&bus), Uuid::from_u128(7));
    let first = store.put(webhook, &record(1), 0).await?;
    let second = store.put(webhook, &record(2), first).await?;
    for stale in [0, first] {
        let refused = store.put(webhook, &record(9), stale).await;
        ensure!(matches!(refused, Err(BusError::Conflict(_))), "{refused:?}");
    }
    ensure!(
        store.get(webhook).await? == (Some(record(2)), second),
        "the second"
    );
    let late = HealthMirror::start(&bus, stop.clone());
    for mirror in [&early, &late] {
        wait_until("the mirror", LIMIT, async || mirror.catch_up().await).await?;
        ensure!(mirror.get(webhook) == Some(record(2)), "the mirror has it");
    }
    let mut changes = early.changes();
    store.delete(webhook).await?;
    store.delete(webhook).await?;
    ensure!(changes.recv().await? == webhook, "the deletion is told");
    ensure!(early.get(webhook).is_none(), "it is gone");
    let (gone, revision) = store.get(webhook).await?;
    ensure!(gone.is_none(), "it is gone");
    store.put(webhook, &record(1), revision).await?;
    stop.cancel();
    Ok(())
}

#[tokio::test]
async fn a_batch_begins_at_a_sequence_or_a_time_and_says_when_there_is_no_more()
-> anyhow::Result<()> {
    let (_nats, bus, _dir) = start().await?;
    let webhook = Uuid::from_u128(9);
    let (mine, other) = (
        subjects::held(3, webhook),
        subjects::held(3, Uuid::from_u128(1)),
    );
    let empty = bus
        .get_batch(names::HELD, &mine, ReadFrom::Seq(1), 10)
        .await?;
    ensure!(empty.is_empty(), "an empty stream");
    for n in 0..30 {
        let subject = if n % 3 == 0 { &other } else { &mine };
        let message = Outgoing::new(subject.clone(), &n.to_string(), n.to_string().into())
            .header("x-test", "kept");
        bus.publish(message, LIMIT).await?;
    }
    let first = bus
        .get_batch(names::HELD, &mine, ReadFrom::Seq(1), 15)
        .await?;
    let bodies = |found: &[webhooks_bus::StoredMessage]| -> Vec<String> {
        let text =
            |m: &webhooks_bus::StoredMessage| String::from_utf8_lossy(&m.payload).into_owned();
        found.iter().map(text).collect()
    };
    ensure!(first.len() == 15, "{}", first.len());
    ensure!(
        bodies(&first)[..3] == ["1", "2", "4"],
        "{:?}",
        bodies(&first)
    );
    ensure!(
        first
            .iter()
            .all(|m| m.subject == mine && m.header("x-test") == Some("kept")),
        "{first:?}"
    );
    ensure!(
        first[0].header("Nats-Sequence").is_none(),
        "only its own headers"
    );
    let next = ReadFrom::Seq(first[14].seq + 1);
    let rest = bus.get_batch(names::HELD, &mine, next, 15).await?;
    ensure!(rest.len() == 5, "{}", rest.len());
    let end = ReadFrom::Seq(rest[4].seq + 1);
    ensure!(
        bus.get_batch(names::HELD, &mine, end, 15).await?.is_empty(),
        "the end"
    );
    let at = rest[0].published_micros;
    let from = bus
        .get_batch(names::HELD, &mine, ReadFrom::Micros(at), 100)
        .await?;
    ensure!(
        from.iter().all(|m| m.published_micros >= at),
        "not before its time"
    );
    ensure!(
        from.last().map(|m| m.seq) == rest.last().map(|m| m.seq),
        "to the end"
    );
    let later = ReadFrom::Micros(at + 3_600_000_000);
    ensure!(
        bus.get_batch(names::HELD, &mine, later, 10)
            .await?
            .is_empty(),
        "nothing so late"
    );
    Ok(())
}

#[tokio::test]
async fn an_operational_event_told_twice_is_stored_once() -> anyhow::Result<()> {
    let (_nats, bus, _dir) = start().await?;
    let mut health = Health::new(1, 0);
    health.ended(
        &Ended {
            epoch: 1,
            delivery: Uuid::from_u128(3),
            attempt: 1,
            probe: false,
            verdict: Verdict::Gone,
            at_micros: 1_000_000,
            outcome: webhooks_domain::endpoint::Outcome::HttpError,
            status_code: Some(410),
            reason: "http_410".to_owned(),
        },
        &HealthPolicy::STANDARD,
    );
    let (workspace, webhook) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let event = OpsEvent::of(workspace, webhook, &health.unannounced[0], &health);
    ensure!(!bus.tell(&event, LIMIT).await?.duplicate, "the first");
    ensure!(bus.tell(&event, LIMIT).await?.duplicate, "the second");
    ensure!(bus.message_count(names::OPS).await? == 1, "one");
    let kept = bus.get(names::OPS, 1).await?.expect("it is there");
    ensure!(OpsEvent::decode(&kept.payload)? == event, "as it was");
    let expected = format!("webhooks.ops.v1.{workspace}.{webhook}.auto_disabled");
    ensure!(kept.subject == expected, "{}", kept.subject);
    ensure!(
        kept.payload
            .starts_with(br#"{"kind":"auto_disabled","episodeId":"#),
        "{:?}",
        kept.payload
    );
    Ok(())
}
