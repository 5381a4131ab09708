//! Fan-out killed again and again while it publishes the deliveries of one event.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use uuid::Uuid;
use webhooks_bus::{Bus, ConfigWriter, names, topology};
use webhooks_devstack::wait_until;
use webhooks_loadgen::stack::{Part, Stack, StackOptions, Workspace};
use webhooks_proto::internal::v1::{Status, WebhookConfig};

use crate::publisher::Publisher;

const WEBHOOKS: u64 = 10_000;

/// How far a run gets before it is killed: each time further, with a part published each time.
const KILLED_AT: [u64; 4] = [1, 1_500, 4_000, 7_000];

/// Until an event that a dead fan-out had in hand is handed out anew; longer than fan-out leaves
/// between two signs of life, shorter than production's ten seconds.
const ACK_WAIT: Duration = Duration::from_secs(4);

const LIMIT: Duration = Duration::from_secs(60);

/// Webhooks as management writes them, but without a row: nobody but fan-out is asked about them.
async fn webhooks(bus: &Bus, workspace: &Workspace) -> anyhow::Result<BTreeSet<Uuid>> {
    let writer = ConfigWriter::new(bus);
    let ids: BTreeSet<Uuid> = (0..WEBHOOKS).map(|_| Uuid::new_v4()).collect();
    let bytes = |id: &Uuid| id.as_bytes().to_vec().into();
    let all = stream::iter(&ids).map(Ok).try_for_each_concurrent(64, {
        async |id: &Uuid| {
            let config = WebhookConfig {
                id: bytes(id),
                workspace_id: bytes(&workspace.id),
                name: "one of many".to_owned(),
                endpoint_url: "https://example.com/one-of-many".to_owned(),
                status: Status::Active.into(),
                source: "LINKBREAKERS".to_owned(),
                created_at: 1_000_000,
                updated_at: 1_000_000,
                revision: 1,
                profile: "standard".to_owned(),
                ..WebhookConfig::default()
            };
            writer.put_webhook(&config).await
        }
    });
    all.await?;
    Ok(ids)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_deliveries_of_one_event_are_made_once_each_however_often_fan_out_is_killed()
-> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    // Nobody takes deliveries away: the stream shows all that were ever made.
    let mut stack = Stack::start(StackOptions {
        dispatchers: 0,
        ..StackOptions::new(super::bin_dir(), folder.path())
    })
    .await?;
    let workspace = stack.workspace("Many").await?;
    stack.kill(Part::Management).await?;
    let bus = stack.bus().await?;
    let ids = webhooks(&bus, &workspace).await?;
    for (stream, mut config) in topology::consumers() {
        if stream == names::EVENTS {
            config.ack_wait = ACK_WAIT;
            let made = bus.jetstream().create_consumer_on_stream(config, stream);
            made.await.context("the consumer of events")?;
        }
    }

    let event = Publisher::new(&stack, &workspace)?.publish().await?;
    let stream = names::deliveries(0);
    let mut killed_at = Vec::new();
    for at in KILLED_AT {
        let what = format!("{at} deliveries");
        let begun = wait_until(&what, LIMIT, async || {
            match bus.message_count(&stream).await {
                Ok(count) if count >= at => Ok(count),
                other => Err(format!("{other:?}")),
            }
        });
        begun.await?;
        stack.kill(Part::Fanout).await?;
        killed_at.push(bus.message_count(&stream).await?);
        stack.revive(Part::Fanout).await?;
    }
    wait_until("the event to be done with", LIMIT, async || {
        let state = bus.consumer_state(names::EVENTS, names::EVENTS_CONSUMER);
        match state.await {
            Ok(state) if state.pending == 0 && state.unacknowledged == 0 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    println!("event {event}: killed with {killed_at:?} of {WEBHOOKS} deliveries published");
    // Killed in the middle once at least, or nothing was shown: ten thousand take a second.
    let in_the_middle = killed_at.iter().filter(|count| **count < WEBHOOKS).count();
    ensure!(in_the_middle >= 1, "{killed_at:?}");

    // Each delivery has a subject of its own.
    let owed = bus.subject_counts(&stream, "wh.dlv.>").await?;
    let twice: Vec<_> = owed.iter().filter(|(_, count)| **count != 1).collect();
    ensure!(twice.is_empty(), "more than once: {twice:?}");
    // wh.dlv.<partition>.<endpoint>.<delivery>
    let part = |subject: &str, index: usize| subject.split('.').nth(index).map(str::to_owned);
    let webhooks: BTreeSet<Uuid> = owed
        .keys()
        .filter_map(|subject| part(subject, 3)?.parse().ok())
        .collect();
    let deliveries: BTreeSet<_> = owed.keys().map(|subject| part(subject, 4)).collect();
    ensure!(
        webhooks == ids && deliveries.len() == ids.len() && owed.len() == ids.len(),
        "{} messages, {} deliveries, for {} of {WEBHOOKS} webhooks",
        owed.len(),
        deliveries.len(),
        webhooks.intersection(&ids).count()
    );
    ensure!(
        bus.message_count(&stream).await? == WEBHOOKS,
        "no other message"
    );
    stack.stop_all().await
}
