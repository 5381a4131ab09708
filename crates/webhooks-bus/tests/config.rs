//! The read model at a real nats-server: what a writer that is late may not undo.

mod server;

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::ensure;
use prost::Message as _;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;
use webhooks_bus::{Bus, ConfigMirror, ConfigSink, ConfigWriter};
use webhooks_devstack::wait_until;
use webhooks_proto::internal::v1::{TokenConfig, WebhookConfig};

const LIMIT: Duration = Duration::from_secs(10);

const ID: &str = "Ab3dEf6hIj9l";

fn token(revision: i64, scope: &str) -> TokenConfig {
    TokenConfig {
        id: ID.to_owned(),
        workspace_id: Uuid::from_u128(7).as_bytes().to_vec().into(),
        hash: vec![1; 32].into(),
        scopes: vec![scope.to_owned()],
        expires_at: 0,
        events_per_second: 0,
        revision,
    }
}

async fn value(bus: &Bus, key: &str) -> anyhow::Result<Option<bytes::Bytes>> {
    let bucket = bus.jetstream().get_key_value("CONFIG").await?;
    Ok(bucket.get(key.to_owned()).await?)
}

async fn stored(bus: &Bus) -> anyhow::Result<Option<TokenConfig>> {
    let found = value(bus, &format!("t.{ID}")).await?;
    Ok(found.map(TokenConfig::decode).transpose()?)
}

#[tokio::test]
async fn a_revoked_token_does_not_come_back_by_a_late_write() -> anyhow::Result<()> {
    let (_nats, bus, _dir) = server::start().await?;
    let writer = ConfigWriter::new(&bus);
    let old = token(1, "events:write");
    writer.put_token(&old).await?;
    ensure!(stored(&bus).await? == Some(old.clone()), "it is known");
    writer.delete_token(ID).await?;
    for late in [old, token(9, "events:write")] {
        writer.put_token(&late).await?;
        ensure!(stored(&bus).await?.is_none(), "{late:?} came back");
    }
    Ok(())
}

#[tokio::test]
async fn what_is_revoked_before_it_was_ever_written_is_never_written() -> anyhow::Result<()> {
    let (_nats, bus, _dir) = server::start().await?;
    let writer = ConfigWriter::new(&bus);
    writer.delete_token(ID).await?;
    writer.put_token(&token(1, "events:write")).await?;
    ensure!(stored(&bus).await?.is_none(), "the revocation was first");
    let (workspace, webhook) = (Uuid::from_u128(7), Uuid::from_u128(8));
    writer.delete_webhook(workspace, webhook).await?;
    let late = WebhookConfig {
        id: webhook.as_bytes().to_vec().into(),
        workspace_id: workspace.as_bytes().to_vec().into(),
        revision: 1,
        ..WebhookConfig::default()
    };
    writer.put_webhook(&late).await?;
    let key = format!("w.{workspace}.{webhook}");
    ensure!(value(&bus, &key).await?.is_none(), "the deletion was first");
    Ok(())
}

#[tokio::test]
async fn an_older_revision_of_a_token_does_not_undo_a_newer_one() -> anyhow::Result<()> {
    let (_nats, bus, _dir) = server::start().await?;
    let writer = ConfigWriter::new(&bus);
    writer.put_token(&token(2, "webhooks:read")).await?;
    // The scope that was taken away, and one of a release that wrote no revision.
    for late in [token(1, "events:write"), token(0, "events:write")] {
        writer.put_token(&late).await?;
        ensure!(
            stored(&bus).await? == Some(token(2, "webhooks:read")),
            "{late:?} won"
        );
    }
    writer.put_token(&token(3, "events:write")).await?;
    ensure!(
        stored(&bus).await? == Some(token(3, "events:write")),
        "a newer one is taken"
    );
    Ok(())
}

/// Takes its time for each webhook.
#[derive(Default)]
struct Slow {
    seen: AtomicUsize,
}

impl ConfigSink for Slow {
    fn webhook(&self, _id: Uuid, _config: Option<WebhookConfig>) {
        std::thread::sleep(Duration::from_millis(10));
        self.seen.fetch_add(1, Ordering::Relaxed);
    }

    fn reset(&self) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_model_that_takes_long_to_load_is_not_begun_anew() -> anyhow::Result<()> {
    // Twice as long as a watch may be silent before it is thought stuck.
    const WEBHOOKS: u128 = 600;
    let (_nats, bus, _dir) = server::start().await?;
    let writer = ConfigWriter::new(&bus);
    let workspace = Uuid::from_u128(7);
    for id in 1..=WEBHOOKS {
        let config = WebhookConfig {
            id: Uuid::from_u128(id).as_bytes().to_vec().into(),
            workspace_id: workspace.as_bytes().to_vec().into(),
            revision: 1,
            ..WebhookConfig::default()
        };
        writer.put_webhook(&config).await?;
    }
    let (sink, ended) = (Arc::new(Slow::default()), CancellationToken::new());
    let _ended = ended.clone().drop_guard();
    let mirror = ConfigMirror::start(&bus, sink.clone(), ended);
    wait_until("the read model", 2 * LIMIT, async || {
        if mirror.loaded() {
            Ok(())
        } else {
            Err(sink.seen.load(Ordering::Relaxed))
        }
    })
    .await?;
    let seen = sink.seen.load(Ordering::Relaxed);
    // Once each; a machine that stood still for seconds may have begun anew.
    ensure!(seen < 1_200, "each is taken once, and {seen} were");
    Ok(())
}

/// Keeps nothing.
struct Nothing;

impl ConfigSink for Nothing {
    fn webhook(&self, _id: Uuid, _config: Option<WebhookConfig>) {}
    fn reset(&self) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_after_a_restart_of_the_server_is_seen_at_once() -> anyhow::Result<()> {
    let (mut nats, bus, _dir) = server::start().await?;
    let (writer, end) = (ConfigWriter::new(&bus), CancellationToken::new());
    let mirror = ConfigMirror::start(&bus, Arc::new(Nothing), end.clone());
    wait_until("the first load", LIMIT, async || mirror.catch_up().await).await?;
    for round in 1..=3 {
        nats.restart().await?;
        wait_until("a write", LIMIT, async || {
            writer.put_token(&token(round, "events:write")).await
        })
        .await?;
        // A watch that went with the server and is not missed brings nothing for 3 s: the first look would
        // fail.
        mirror.catch_up().await?;
    }
    end.cancel();
    Ok(())
}

/// Remembers the newest revision of the token.
#[derive(Default)]
struct Newest {
    revision: AtomicI64,
}

impl ConfigSink for Newest {
    fn webhook(&self, _id: Uuid, _config: Option<WebhookConfig>) {}

    fn token(&self, _id: &str, config: Option<TokenConfig>) {
        let revision = config.map_or(0, |config| config.revision);
        self.revision.store(revision, Ordering::SeqCst);
    }

    fn reset(&self) {}
}

/// Follows the bucket until the guard goes.
fn followed(bus: &Bus) -> (ConfigMirror, Arc<Newest>, DropGuard) {
    let (sink, stop) = (Arc::new(Newest::default()), CancellationToken::new());
    let mirror = ConfigMirror::start(bus, sink.clone(), stop.clone());
    (mirror, sink, stop.drop_guard())
}

async fn api_requests(bus: &Bus) -> anyhow::Result<u64> {
    Ok(bus.jetstream().query_account().await?.requests.total)
}

#[tokio::test]
async fn whoever_asks_after_a_write_has_it_and_asks_no_queue_when_there_is_nothing()
-> anyhow::Result<()> {
    let (_nats, bus, _dir) = server::start().await?;
    let writer = ConfigWriter::new(&bus);
    let (mirror, sink, _stop) = followed(&bus);
    for revision in 1..=300 {
        writer.put_token(&token(revision, "events:write")).await?;
        mirror.catch_up().await?;
        let seen = sink.revision.load(Ordering::SeqCst);
        ensure!(seen == revision, "{revision} was written, {seen} is seen");
    }
    writer.delete_token(ID).await?;
    mirror.catch_up().await?;
    ensure!(sink.revision.load(Ordering::SeqCst) == 0, "still there");

    const QUESTIONS: u64 = 1_000;
    let before = api_requests(&bus).await?;
    for _ in 0..QUESTIONS {
        mirror.catch_up().await?;
    }
    let asked = api_requests(&bus).await? - before;
    // The leader is asked twice a second, whoever else asks.
    ensure!(
        asked < QUESTIONS / 4,
        "{asked} of {QUESTIONS} went to the API"
    );
    Ok(())
}

#[tokio::test]
async fn a_bucket_that_was_made_anew_is_never_taken_for_the_old_one() -> anyhow::Result<()> {
    let (_nats, bus, _dir) = server::start().await?;
    let writer = ConfigWriter::new(&bus);
    let (mirror, sink, _stop) = followed(&bus);
    for revision in 1..=50 {
        writer.put_token(&token(revision, "events:write")).await?;
    }
    mirror.catch_up().await?;
    bus.jetstream().delete_stream("KV_CONFIG").await?;
    bus.apply_topology().await?;
    writer.put_token(&token(99, "events:write")).await?;
    // Whoever is told that all is seen has what stands there, however soon it asks.
    wait_until("the new bucket", 2 * LIMIT, async || {
        mirror.catch_up().await
    })
    .await?;
    let seen = sink.revision.load(Ordering::SeqCst);
    ensure!(seen == 99, "{seen} of the old bucket");
    Ok(())
}
