//! Partitions that move between dispatcher processes: within five seconds of a SIGKILL, at once
//! after a SIGTERM, whatever hangs meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use uuid::Uuid;
use webhooks_devstack::{Signal, wait_until};
use webhooks_domain::{clock::Clock as _, ids::partition_of};
use webhooks_loadgen::{
    receiver::{Captured, Receiver, ReceiverOptions},
    stack::{NewWebhook, Part, Stack, StackOptions, Workspace},
};

use crate::publisher::Publisher;

/// How long an owner may be missed.
const MOVE_LIMIT: Duration = Duration::from_secs(5);

/// What measuring may add: publishing over HTTP, and a machine that does other things too. Who waits for
/// what hangs needs half a minute. The figures are printed.
const SLACK: Duration = Duration::from_secs(10);

const LIMIT: Duration = Duration::from_secs(30);

const PARTITIONS: u16 = 16;

/// A webhook on each partition, each with a link of its own.
type Spread = BTreeMap<u16, Uuid>;

/// Makes webhooks until there is one on each partition; gives their links.
async fn spread(
    stack: &Stack,
    workspace: &Workspace,
    receiver: &Receiver,
    path: &str,
) -> anyhow::Result<Spread> {
    let mut found = Spread::new();
    let mut api = stack.api(workspace)?;
    while found.len() < usize::from(PARTITIONS) {
        let link = Uuid::new_v4();
        let new = NewWebhook {
            name: path.to_owned(),
            endpoint_url: receiver.url(path),
            links: vec![link],
            ..NewWebhook::default()
        };
        let made = api.create_webhook(&new).await?;
        found
            .entry(partition_of(made.id, PARTITIONS))
            .or_insert(link);
    }
    Ok(found)
}

/// One event for each of them, together; gives the events' ids by partition.
async fn publish(
    stack: &Stack,
    workspace: &Workspace,
    spread: &Spread,
) -> anyhow::Result<BTreeMap<u16, Uuid>> {
    let each = stream::iter(spread).map(async |(partition, link)| {
        let mut publisher = Publisher::new(stack, workspace)?;
        anyhow::Ok((*partition, publisher.publish_on(*link).await?))
    });
    each.buffer_unordered(16).try_collect().await
}

/// Requests to a path, oldest first.
fn to(receiver: &Receiver, path: &str) -> Vec<Arc<Captured>> {
    let mut all = receiver.requests();
    all.retain(|request| request.path == path);
    all.reverse();
    all
}

fn message_ids(requests: &[Arc<Captured>]) -> Vec<String> {
    let id = |request: &Arc<Captured>| request.header("webhook-id").unwrap_or("none").to_owned();
    requests.iter().map(id).collect()
}

/// Waits until the partitions are shared evenly.
async fn balanced(stack: &Stack) -> anyhow::Result<()> {
    wait_until("eight partitions each", LIMIT, async || {
        let mut owned = Vec::new();
        for number in [1, 2] {
            let text = stack.metrics(Part::Dispatcher(number)).await;
            let text = text.map_err(|error| format!("{error:#}"))?;
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix("webhooks_partitions_owned "));
            owned.push(line.unwrap_or_default().to_owned());
        }
        if owned == ["8", "8"] {
            Ok(())
        } else {
            Err(format!("{owned:?}"))
        }
    })
    .await
}

/// Waits until all of these have arrived; gives when the last did, from `since` on.
async fn arrived(
    receiver: &Receiver,
    events: &BTreeMap<u16, Uuid>,
    since: i64,
) -> anyhow::Result<Duration> {
    let last = wait_until("an event on each partition", LIMIT, async || {
        let requests = to(receiver, "/ok/moving");
        let mut last = since;
        for (partition, event) in events {
            let mark = event.to_string();
            let request = requests
                .iter()
                .find(|request| String::from_utf8_lossy(&request.body).contains(&mark));
            let request = request.ok_or(format!("nothing on partition {partition}"))?;
            last = last.max(request.received_at);
        }
        Ok::<_, String>(last)
    })
    .await?;
    Ok(Duration::from_micros(u64::try_from(last - since)?))
}

fn now() -> i64 {
    webhooks_runtime::SystemClock.now_micros()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_owner_is_replaced_within_five_seconds_and_a_leaving_one_at_once()
-> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut stack = Stack::start(StackOptions {
        dispatchers: 2,
        ..StackOptions::new(super::bin_dir(), folder.path())
    })
    .await?;
    let receiver = Receiver::start(ReceiverOptions::default()).await?;
    let workspace = stack.workspace("Moving").await?;
    // Longer than an attempt may take: who waits for it waits the whole 30 s.
    let hanging = spread(&stack, &workspace, &receiver, "/hang/60").await?;
    let quick = spread(&stack, &workspace, &receiver, "/ok/moving").await?;
    balanced(&stack).await?;

    // Each dispatcher has eight requests on the wire when one of them is killed.
    publish(&stack, &workspace, &hanging).await?;
    let on_the_wire = async |wanted: usize| {
        wait_until("requests that hang", LIMIT, async || {
            match to(&receiver, "/hang/60").len() {
                count if count >= wanted => Ok(()),
                count => Err(count),
            }
        })
        .await
    };
    on_the_wire(16).await?;
    let killed = now();
    stack.kill(Part::Dispatcher(1)).await?;
    let events = publish(&stack, &workspace, &quick).await?;
    let fresh = arrived(&receiver, &events, killed).await?;
    on_the_wire(24).await?;
    let hung = to(&receiver, "/hang/60");
    let again = hung[hung.len() - 1].received_at - killed;
    let again = Duration::from_micros(u64::try_from(again)?);
    println!("after SIGKILL: fresh deliveries within {fresh:?}, what was pulled within {again:?}");
    ensure!(
        fresh <= MOVE_LIMIT + SLACK && again <= MOVE_LIMIT + SLACK,
        "after a SIGKILL the last fresh delivery came after {fresh:?}, what was in flight after {again:?}"
    );
    // What the dead one had in flight, once each, and nothing of the other's.
    let ids = message_ids(&hung);
    let (before, after) = ids.split_at(16);
    let (before, after): (BTreeSet<_>, BTreeSet<_>) =
        (before.iter().collect(), after.iter().collect());
    ensure!(
        (before.len(), after.len(), hung.len()) == (16, 8, 24) && after.is_subset(&before),
        "{ids:?}"
    );

    // It comes back and is given half of the partitions; then the other one leaves, with requests
    // on the wire that hang.
    stack.revive(Part::Dispatcher(1)).await?;
    stack.wait_ready(Part::Dispatcher(1)).await?;
    balanced(&stack).await?;
    let told = now();
    stack.signal(Part::Dispatcher(2), Signal::TERM)?;
    let events = publish(&stack, &workspace, &quick).await?;
    let fresh = arrived(&receiver, &events, told).await?;
    println!("after SIGTERM: fresh deliveries within {fresh:?}");
    ensure!(
        fresh <= MOVE_LIMIT + SLACK,
        "after a SIGTERM the last fresh delivery came after {fresh:?}"
    );
    ensure!(
        stack.pid(Part::Dispatcher(2)).is_some(),
        "it waits for the answers to what it has sent"
    );
    let hung = to(&receiver, "/hang/60");
    let first = hung.first().context("requests that hang")?.received_at;
    // On a slow machine it may be over by now.
    ensure!(
        now() - first >= 30_000_000 || hung.len() == 24,
        "what hangs is neither over nor sent again: {} requests",
        hung.len()
    );
    // Nobody waits for what hangs.
    for part in [Part::Dispatcher(1), Part::Dispatcher(2)] {
        stack.kill(part).await?;
    }
    stack.stop_all().await
}
