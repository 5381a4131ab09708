//! What healthy endpoints notice of a sick neighbour: nothing, if we do our work.
//!
//! 99 endpoints get a steady rate of events, first alone, then beside each kind of neighbour, which
//! belongs to another workspace. A figure is the p99 from acceptance to arrival over the whole run, of
//! all healthy endpoints and of those that share the neighbour's partition, as a multiple of the p99
//! of the run alone. The neighbour's own work is done on the same cores, so 1.0 is out of reach here.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use webhooks_domain::ids::partition_of;

use super::{
    Bench,
    numbers::{millis, percentile},
    rig::{Load, Rig},
    table::Row,
};
use crate::{
    ledger::{self, Ledger, Published, Received},
    publish::{self, Door, Plan, Subject},
    receiver::{Receiver, ReceiverOptions},
};

/// The figures' common name.
const FIGURE: &str = "healthy endpoints beside";

/// Healthy endpoints, and events a second for all of them together.
const HEALTHY: usize = 99;
const RATE: u64 = 198;

/// Partitions of the stack.
const PARTITIONS: u16 = 16;

/// Endpoints that refuse every connection.
const DEAD: usize = 50;

/// How long the last healthy delivery may take, and a recovered endpoint's backlog.
const LIMIT: Duration = Duration::from_secs(180);

/// Pause between two looks at a webhook's status.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// A kind of neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Neighbour {
    /// Answers after 30 s, and gets 100 events a second.
    Hanging,
    /// Gets a burst and answers each after 10 s.
    Burst,
    /// Was dead while events queued, and comes back.
    Recovering,
    /// Fifty endpoints that refuse connections, one event a second each.
    Dead,
}

impl Neighbour {
    const ALL: [Self; 4] = [Self::Hanging, Self::Burst, Self::Recovering, Self::Dead];

    fn figure(self) -> String {
        let who = match self {
            Self::Hanging => "one that hangs 30 s at 100 events/s",
            Self::Burst => "one with a burst of 1,000 answered after 10 s",
            Self::Recovering => "one that recovers with a backlog queued",
            Self::Dead => "50 dead ones",
        };
        format!("{FIGURE} {who}: p99, × alone (all / same partition)")
    }

    /// The path of its endpoints.
    fn path(self) -> &'static str {
        match self {
            Self::Hanging => "/hang/30",
            Self::Burst => "/hang/10",
            Self::Recovering | Self::Dead => "/ok",
        }
    }
}

/// Whether any of its figures is asked for.
pub(super) fn is_wanted(bench: &Bench<'_>) -> bool {
    Neighbour::ALL
        .iter()
        .any(|neighbour| bench.wants(&neighbour.figure()))
}

pub(super) async fn measure(bench: &mut Bench<'_>, rig: &mut Rig) -> anyhow::Result<()> {
    let wanted: Vec<Neighbour> = Neighbour::ALL
        .into_iter()
        .filter(|neighbour| bench.wants(&neighbour.figure()))
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let (seconds, backlog) = (bench.scale.isolation_seconds, bench.scale.backlog);
    let healthy = rig.load("healthy", &rig.witness, HEALTHY, 1).await?;
    // Once for nothing: connections, caches and partitions are then as in the runs that count.
    run(rig, &healthy, 5).await?;
    let alone = run(rig, &healthy, seconds).await?;
    for neighbour in wanted {
        bench.note(neighbour.figure());
        let row = beside(rig, &healthy, &alone, neighbour, seconds, backlog).await?;
        bench.add(row);
    }
    Ok(())
}

/// One healthy delivery: its webhook and how long it took, in microseconds.
type Lag = (Uuid, i64);

async fn beside(
    rig: &mut Rig,
    healthy: &Load,
    alone: &[Lag],
    neighbour: Neighbour,
    seconds: u64,
    backlog: u64,
) -> anyhow::Result<Row> {
    let mut receiver = Some(Receiver::start(sink(([127, 0, 0, 1], 0).into())).await?);
    let address = receiver.as_ref().context("just started")?.addr;
    let endpoints = if neighbour == Neighbour::Dead {
        DEAD
    } else {
        1
    };
    let name = format!("{neighbour:?}");
    let sick = {
        let receiver = receiver.as_ref().context("just started")?;
        rig.load_at(&name, receiver, endpoints, 1, neighbour.path())
            .await?
    };
    if matches!(neighbour, Neighbour::Recovering | Neighbour::Dead)
        && let Some(receiver) = receiver.take()
    {
        receiver.stop().await?;
    }
    let plan = match neighbour {
        Neighbour::Hanging => Plan {
            rate: Some(100.0),
            count: Some(100 * seconds),
            ..Plan::default()
        },
        Neighbour::Burst => burst(1_000),
        Neighbour::Recovering => burst(backlog),
        Neighbour::Dead => Plan {
            rate: Some(50.0),
            count: Some(50 * seconds),
            ..Plan::default()
        },
    };
    let load = (rig.stack.door(Door::Http, &sick.workspace), subject(&sick));
    let mut begun = Instant::now();
    let lags = if neighbour == Neighbour::Recovering {
        publish_all(&load, &plan).await?;
        wait_for_halt(rig, &sick).await?;
        receiver = Some(Receiver::start(sink(address)).await?);
        begun = Instant::now();
        enable(rig, &sick).await?;
        run(rig, healthy, seconds).await?
    } else {
        let (published, lags) = tokio::join!(publish_all(&load, &plan), run(rig, healthy, seconds));
        published?;
        lags?
    };
    let after = match &receiver {
        Some(receiver) if neighbour == Neighbour::Recovering => {
            // Those whose failures halted it have failed for good meanwhile.
            let failed = failed_for(rig, &sick).await?;
            let arrived = webhooks_devstack::wait_until("the backlog", LIMIT, async || {
                match receiver.count() + failed {
                    count if count >= backlog => Ok(()),
                    count => Err(count),
                }
            })
            .await;
            match arrived {
                Ok(()) => format!(
                    "; {backlog} less {failed} that had failed drained within {:.0} s of the recovery",
                    begun.elapsed().as_secs_f64()
                ),
                Err(_) => format!("; {} of {backlog} drained", receiver.count()),
            }
        }
        _ => String::new(),
    };
    let mut api = rig.stack.api(&sick.workspace)?;
    for id in &sick.webhooks {
        let path = format!("/v1/webhooks/{id}");
        api.call(http::Method::DELETE, &path, None).await?;
    }
    if let Some(receiver) = receiver {
        receiver.stop().await?;
    }
    let shared: HashSet<u16> = sick
        .webhooks
        .iter()
        .map(|id| partition_of(*id, PARTITIONS))
        .collect();
    let near = |lag: &&Lag| shared.contains(&partition_of(lag.0, PARTITIONS));
    let all = (p99(alone.iter()), p99(lags.iter()));
    let same = (
        p99(alone.iter().filter(near)),
        p99(lags.iter().filter(near)),
    );
    Ok(Row {
        figure: neighbour.figure(),
        ours: format!(
            "{} → {} ms, × {:.2} / {} → {} ms, × {:.2}",
            millis(all.0),
            millis(all.1),
            ratio(all),
            millis(same.0),
            millis(same.1),
            ratio(same)
        ),
        limit: "× 1".to_owned(),
        aim: "≤ × 1.2".to_owned(),
        how: format!("1 run of {seconds} s, {RATE} events/s to {HEALTHY} healthy endpoints{after}"),
    })
}

/// Waits until the dead endpoint is paused or disabled: then its backlog is held. Which of the two it
/// is depends on how many of its deliveries came to their end before the breaker opened.
/// Deliveries of a load that have failed for good.
async fn failed_for(rig: &Rig, load: &Load) -> anyhow::Result<u64> {
    let mut api = rig.stack.api(&load.workspace)?;
    let answer = api.get("/v1/deliveries?state=FAILED").await?;
    answer["totalCount"].as_u64().context("no totalCount")
}

async fn wait_for_halt(rig: &Rig, sick: &Load) -> anyhow::Result<()> {
    let mut api = rig.stack.api(&sick.workspace)?;
    let path = path_of(sick)?;
    let begun = Instant::now();
    loop {
        let label = api.get(&path).await?["webhook"]["statusLabel"].clone();
        if label == "PAUSED" || label == "AUTO_DISABLED" {
            return Ok(());
        }
        ensure!(
            begun.elapsed() < LIMIT,
            "the dead endpoint is still {label}"
        );
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// What its customer does who has repaired it.
async fn enable(rig: &Rig, sick: &Load) -> anyhow::Result<()> {
    let body =
        serde_json::json!({ "status": "WEBHOOK_STATUS_ACTIVE", "heldDeliveries": "DELIVER" });
    let mut api = rig.stack.api(&sick.workspace)?;
    api.call(http::Method::PATCH, &path_of(sick)?, Some(&body))
        .await?;
    Ok(())
}

fn path_of(sick: &Load) -> anyhow::Result<String> {
    let id = sick.webhooks.first().context("a sick webhook")?;
    Ok(format!("/v1/webhooks/{id}"))
}

fn burst(count: u64) -> Plan {
    Plan {
        count: Some(count),
        batch: 50,
        ..Plan::default()
    }
}

fn sink(address: std::net::SocketAddr) -> ReceiverOptions {
    ReceiverOptions {
        address,
        keep: 0,
        ..ReceiverOptions::default()
    }
}

fn subject(load: &Load) -> Subject {
    Subject {
        workspace: load.workspace.id,
        links: load.links.clone(),
        kinds: vec!["KIND_EXIT".to_owned()],
    }
}

async fn publish_all(
    (target, subject): &(publish::Target, Subject),
    plan: &Plan,
) -> anyhow::Result<()> {
    let (ledger, stop) = (Ledger::none(), CancellationToken::new());
    let tally = publish::run(target, subject, plan, &ledger, &stop).await?;
    ensure!(
        Some(tally.ok) == plan.count,
        "{:?} events were published and {} accepted",
        plan.count,
        tally.ok
    );
    Ok(())
}

/// Sends to the healthy endpoints at a steady rate, and waits until all has arrived.
async fn run(rig: &Rig, load: &Load, seconds: u64) -> anyhow::Result<Vec<Lag>> {
    rig.witness.clear();
    let before = rig.noted()?.len();
    let events = RATE * seconds;
    #[expect(clippy::cast_precision_loss, reason = "a small constant")]
    let plan = Plan {
        rate: Some(RATE as f64),
        count: Some(events),
        workers: 8,
        ..Plan::default()
    };
    let folder = tempfile::tempdir_in(rig.stack.folder())?;
    let file = folder.path().join("published");
    let ledger = Ledger::open(&file)?;
    let target = rig.stack.door(Door::Http, &load.workspace);
    let stop = CancellationToken::new();
    let tally = publish::run(&target, &subject(load), &plan, &ledger, &stop).await?;
    ensure!(
        tally.ok == events,
        "{events} events were published and {} accepted",
        tally.ok
    );
    webhooks_devstack::wait_until("the healthy deliveries", LIMIT, async || {
        match rig.witness.count() {
            count if count >= events => Ok(()),
            count => Err(count),
        }
    })
    .await?;
    ledger.flush()?;
    let published: Vec<Published> = ledger::read(&file)?;
    lags(&published, &rig.noted()?[before..])
}

fn lags(published: &[Published], received: &[Received]) -> anyhow::Result<Vec<Lag>> {
    let mut arrivals: HashMap<Uuid, (i64, Option<Uuid>)> = HashMap::with_capacity(received.len());
    for request in received {
        if let Some(event) = request.event {
            let first = arrivals
                .entry(event)
                .or_insert((request.at, request.webhook));
            first.0 = request.at.min(first.0);
        }
    }
    published
        .iter()
        .map(|event| {
            let accepted = event
                .accepted
                .context("ingest does not say when it accepted an event")?;
            let (arrived, webhook) = arrivals
                .get(&event.event)
                .with_context(|| format!("event {} did not arrive", event.event))?;
            Ok((
                webhook.context("a body without a webhook")?,
                arrived - accepted,
            ))
        })
        .collect()
}

fn p99<'a>(lags: impl Iterator<Item = &'a Lag>) -> i64 {
    let mut sorted: Vec<i64> = lags.map(|(_, lag)| *lag).collect();
    sorted.sort_unstable();
    percentile(&sorted, 0.99)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "times of a benchmark are far below 2^53"
)]
fn ratio((alone, beside): (i64, i64)) -> f64 {
    beside as f64 / alone.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ninety_ninth_percentile_is_of_the_endpoints_asked_for() {
        let (near, far) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let lags: Vec<Lag> = (1..=100)
            .map(|lag| (if lag % 2 == 0 { near } else { far }, lag))
            .collect();
        assert_eq!(p99(lags.iter()), 99);
        assert_eq!(p99(lags.iter().filter(|lag| lag.0 == near)), 100);
        assert!((ratio((10, 12)) - 1.2).abs() < 1e-9);
        assert!((ratio((0, 3)) - 3.0).abs() < 1e-9);
    }
}
