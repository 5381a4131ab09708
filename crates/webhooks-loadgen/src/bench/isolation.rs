//! What healthy endpoints notice of a sick neighbour: nothing, if we do our work.
//!
//! 99 endpoints get a steady rate of events, first alone, then beside each kind of neighbour, which
//! belongs to another workspace. A figure is the p99 from acceptance to arrival over a whole run, of
//! all healthy endpoints and of those that share the neighbour's partition, as a multiple of the p99
//! of the run alone. The neighbour's own work is done on the same cores, so 1.0 is out of reach here.
//! A p99 of a few milliseconds is made by a hundred requests, and two runs differ by half: so all is done
//! several times, one round after the other, and a multiple is the middle one of its rounds.
//!
//! So each kind has a control: the same events, in the same way, to a neighbour who is well. What the
//! healthy endpoints wait longer beside the sick one than beside the well one is its sickness; the
//! rest is its load.

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
    numbers::{median, millis, percentile},
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

/// Healthy endpoints that a neighbour must share a partition with, and how often it is made anew
/// until it does: on average six are on each partition.
const NEAR: usize = 4;
const SETTLE_TRIES: u32 = 10;

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

/// What is the matter with a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    /// What its kind says.
    Sick,
    /// Nothing: the control.
    Well,
}

impl Neighbour {
    const ALL: [Self; 4] = [Self::Hanging, Self::Burst, Self::Recovering, Self::Dead];

    fn figure(self, health: Health) -> String {
        let who = match (self, health) {
            (Self::Hanging, Health::Sick) => "one that hangs 30 s at 100 events/s",
            (Self::Hanging, Health::Well) => "a well one at 100 events/s",
            (Self::Burst, Health::Sick) => "one with a burst of 1,000 answered after 10 s",
            (Self::Burst, Health::Well) => "a well one with a burst of 1,000",
            (Self::Recovering, Health::Sick) => "one that recovers with a backlog queued",
            (Self::Recovering, Health::Well) => "a well one with as large a backlog at once",
            (Self::Dead, Health::Sick) => "50 dead ones",
            (Self::Dead, Health::Well) => "50 well ones with as many events",
        };
        let against = match health {
            Health::Sick => "× alone, × the control",
            Health::Well => "× alone; control",
        };
        format!("{FIGURE} {who}: p99, {against} (all / same partition)")
    }

    /// The path of its endpoints.
    fn path(self, health: Health) -> &'static str {
        match (self, health) {
            (Self::Hanging, Health::Sick) => "/hang/30",
            (Self::Burst, Health::Sick) => "/hang/10",
            _ => "/ok",
        }
    }

    fn endpoints(self) -> usize {
        if self == Self::Dead { DEAD } else { 1 }
    }

    /// What it gets.
    fn plan(self, seconds: u64, backlog: u64) -> Plan {
        match self {
            Self::Hanging => steady(100, seconds),
            Self::Burst => burst(1_000),
            Self::Recovering => burst(backlog),
            Self::Dead => steady(50, seconds),
        }
    }
}

/// Whether any of its figures is asked for.
pub(super) fn is_wanted(bench: &Bench<'_>) -> bool {
    Neighbour::ALL
        .iter()
        .any(|neighbour| wants(bench, *neighbour))
}

/// A sick neighbour cannot be had without its control, nor the control for itself.
fn wants(bench: &Bench<'_>, neighbour: Neighbour) -> bool {
    [Health::Sick, Health::Well]
        .iter()
        .any(|health| bench.wants(&neighbour.figure(*health)))
}

pub(super) async fn measure(bench: &mut Bench<'_>, rig: &mut Rig) -> anyhow::Result<()> {
    let wanted: Vec<Neighbour> = Neighbour::ALL
        .into_iter()
        .filter(|neighbour| wants(bench, *neighbour))
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let (seconds, backlog) = (bench.scale.isolation_seconds, bench.scale.backlog);
    let healthy = rig.load("healthy", &rig.witness, HEALTHY, 1).await?;
    // Once for nothing: connections, caches and partitions are then as in the runs that count.
    run(rig, &healthy, 5).await?;
    let mut rounds: Vec<Vec<Round>> = wanted.iter().map(|_| Vec::new()).collect();
    for number in 1..=bench.scale.isolation_rounds {
        bench.note(format!("{FIGURE} nobody, round {number}"));
        let alone = run(rig, &healthy, seconds).await?;
        for (neighbour, rounds) in wanted.iter().zip(&mut rounds) {
            let mut sides = Vec::new();
            for health in [Health::Well, Health::Sick] {
                bench.note(format!("{}, round {number}", neighbour.figure(health)));
                let name = format!("{neighbour:?}{health:?}{number}");
                let kind = (*neighbour, health);
                sides.push(beside(rig, &healthy, kind, &name, seconds, backlog).await?);
            }
            let sick = sides.pop().context("two sides")?;
            let well = sides.pop().context("two sides")?;
            rounds.push(Round {
                alone: alone.clone(),
                well,
                sick,
            });
        }
    }
    for (neighbour, rounds) in wanted.iter().zip(&rounds) {
        for health in [Health::Well, Health::Sick] {
            bench.add(row(*neighbour, health, rounds, seconds));
        }
    }
    Ok(())
}

/// One healthy delivery: its webhook and how long it took, in microseconds.
type Lag = (Uuid, i64);

/// A run alone, and one beside each of a kind of neighbour.
struct Round {
    alone: Vec<Lag>,
    well: Side,
    sick: Side,
}

/// A run beside a neighbour.
struct Side {
    lags: Vec<Lag>,
    /// The neighbour's partitions.
    shared: HashSet<u16>,
    /// What became of the neighbour's own deliveries.
    after: String,
}

impl Side {
    fn is_near(&self, lag: &Lag) -> bool {
        self.shared.contains(&partition_of(lag.0, PARTITIONS))
    }
}

impl Round {
    fn beside(&self, health: Health) -> &Side {
        match health {
            Health::Sick => &self.sick,
            Health::Well => &self.well,
        }
    }

    /// The p99 alone, beside a neighbour of this health, and beside its control: of all, or of those
    /// who share a partition with the neighbour.
    fn p99s(&self, health: Health, only_near: bool) -> [i64; 3] {
        let side = self.beside(health);
        let of = |lags: &[Lag], whose: &Side| {
            p99(lags.iter().filter(|lag| !only_near || whose.is_near(lag)))
        };
        [
            of(&self.alone, side),
            of(&side.lags, side),
            of(&self.well.lags, &self.well),
        ]
    }
}

/// What the rounds say: every p99, and the middle, least and most of what it was a multiple of.
fn text(health: Health, rounds: &[Round], only_near: bool) -> String {
    let p99s: Vec<[i64; 3]> = rounds
        .iter()
        .map(|round| round.p99s(health, only_near))
        .collect();
    let list = |which: usize| {
        let each: Vec<String> = p99s.iter().map(|one| millis(one[which])).collect();
        each.join(", ")
    };
    let times = |of: usize| {
        let ratios: Vec<f64> = p99s.iter().map(|one| ratio((one[of], one[1]))).collect();
        let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let most = ratios.iter().copied().fold(0.0, f64::max);
        format!("× {:.2} ({least:.2}–{most:.2})", median(&ratios))
    };
    let against = match health {
        Health::Sick => format!(", {} of {}", times(2), list(2)),
        Health::Well => String::new(),
    };
    format!("{} → {} ms, {}{against}", list(0), list(1), times(0))
}

fn row(neighbour: Neighbour, health: Health, rounds: &[Round], seconds: u64) -> Row {
    let near: Vec<String> = rounds
        .iter()
        .map(|round| near_count(round.beside(health)).to_string())
        .collect();
    let after: Vec<&str> = rounds
        .iter()
        .map(|round| round.beside(health).after.as_str())
        .collect();
    Row {
        figure: neighbour.figure(health),
        ours: format!(
            "{} / {}",
            text(health, rounds, false),
            text(health, rounds, true)
        ),
        limit: "× 1".to_owned(),
        aim: match health {
            Health::Sick => "≤ × 1.2",
            Health::Well => "–",
        }
        .to_owned(),
        how: format!(
            "{} rounds of {seconds} s, {RATE} events/s to {HEALTHY} healthy endpoints, {} of them on the \
             same partition{}",
            rounds.len(),
            near.join(", "),
            after.concat()
        ),
    }
}

/// Healthy endpoints that share a partition with the neighbour.
fn near_count(side: &Side) -> usize {
    let near = side.lags.iter().filter(|lag| side.is_near(lag));
    near.map(|lag| lag.0).collect::<HashSet<Uuid>>().len()
}

/// The neighbour's webhooks, where some healthy ones are: whoever shares a partition with them would
/// notice first.
async fn settle(
    rig: &Rig,
    healthy: &Load,
    (neighbour, health): (Neighbour, Health),
    name: &str,
    receiver: &Receiver,
) -> anyhow::Result<Load> {
    let partitions = |load: &Load| -> Vec<u16> {
        let of = |id: &Uuid| partition_of(*id, PARTITIONS);
        load.webhooks.iter().map(of).collect()
    };
    let theirs = partitions(healthy);
    for time in 1..=SETTLE_TRIES {
        let name = format!("{name}x{time}");
        let path = neighbour.path(health);
        let load = rig
            .load_at(&name, receiver, neighbour.endpoints(), 1, path)
            .await?;
        let own: HashSet<u16> = partitions(&load).into_iter().collect();
        if theirs.iter().filter(|one| own.contains(one)).count() >= NEAR {
            return Ok(load);
        }
        remove(rig, &load).await?;
    }
    anyhow::bail!("no webhook of {SETTLE_TRIES} is on a partition with {NEAR} healthy ones")
}

async fn remove(rig: &Rig, load: &Load) -> anyhow::Result<()> {
    let mut api = rig.stack.api(&load.workspace)?;
    for id in &load.webhooks {
        let path = format!("/v1/webhooks/{id}");
        api.call(http::Method::DELETE, &path, None).await?;
    }
    Ok(())
}

async fn beside(
    rig: &mut Rig,
    healthy: &Load,
    (neighbour, health): (Neighbour, Health),
    name: &str,
    seconds: u64,
    backlog: u64,
) -> anyhow::Result<Side> {
    let mut receiver = Some(Receiver::start(sink(([127, 0, 0, 1], 0).into())).await?);
    let address = receiver.as_ref().context("just started")?.addr;
    let load = {
        let receiver = receiver.as_ref().context("just started")?;
        settle(rig, healthy, (neighbour, health), name, receiver).await?
    };
    let recovers = (neighbour, health) == (Neighbour::Recovering, Health::Sick);
    if (recovers || (neighbour, health) == (Neighbour::Dead, Health::Sick))
        && let Some(receiver) = receiver.take()
    {
        receiver.stop().await?;
    }
    let plan = neighbour.plan(seconds, backlog);
    let door = (rig.stack.door(Door::Http, &load.workspace), subject(&load));
    let mut begun = Instant::now();
    let lags = if recovers {
        publish_all(&door, &plan).await?;
        wait_for_halt(rig, &load).await?;
        receiver = Some(Receiver::start(sink(address)).await?);
        begun = Instant::now();
        enable(rig, &load).await?;
        run(rig, healthy, seconds).await?
    } else {
        let (published, lags) = tokio::join!(publish_all(&door, &plan), run(rig, healthy, seconds));
        published?;
        lags?
    };
    let after = match &receiver {
        Some(receiver) if recovers => {
            // Those whose failures halted it have failed for good meanwhile.
            let failed = failed_for(rig, &load).await?;
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
        Some(receiver) if health == Health::Well => {
            // All of it has arrived, or the load was not the same.
            let wanted = plan.count.unwrap_or(0);
            webhooks_devstack::wait_until("the neighbour's deliveries", LIMIT, async || {
                match receiver.count() {
                    count if count >= wanted => Ok(()),
                    count => Err(count),
                }
            })
            .await?;
            format!("; {wanted} delivered to the neighbour")
        }
        _ => String::new(),
    };
    remove(rig, &load).await?;
    wait_for_end(rig, &load).await?;
    if let Some(receiver) = receiver {
        receiver.stop().await?;
    }
    let of = |id: &Uuid| partition_of(*id, PARTITIONS);
    Ok(Side {
        lags,
        shared: load.webhooks.iter().map(of).collect(),
        after,
    })
}

/// Deliveries of a load that have failed for good.
async fn failed_for(rig: &Rig, load: &Load) -> anyhow::Result<u64> {
    let mut api = rig.stack.api(&load.workspace)?;
    let answer = api.get("/v1/deliveries?state=FAILED").await?;
    answer["totalCount"].as_u64().context("no totalCount")
}

/// Waits until nothing of a removed load is open: what is still being ended would be felt in the next
/// run.
async fn wait_for_end(rig: &Rig, load: &Load) -> anyhow::Result<()> {
    let mut api = rig.stack.api(&load.workspace)?;
    let begun = Instant::now();
    for state in ["PENDING", "RETRYING", "HELD"] {
        let path = format!("/v1/deliveries?state={state}");
        while api.get(&path).await?["totalCount"].as_u64() != Some(0) {
            ensure!(
                begun.elapsed() < LIMIT,
                "deliveries of a removed webhook are still {state}"
            );
            tokio::time::sleep(ASK_EVERY).await;
        }
    }
    Ok(())
}

/// Waits until the dead endpoint is paused or disabled: then its backlog is held. Which of the two it
/// is depends on how many of its deliveries came to their end before the breaker opened.
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

fn steady(rate: u32, seconds: u64) -> Plan {
    Plan {
        rate: Some(f64::from(rate)),
        count: Some(u64::from(rate) * seconds),
        ..Plan::default()
    }
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
    fn a_sick_neighbour_is_held_against_no_neighbour_and_against_a_well_one() {
        let id = Uuid::from_u128(1);
        let side = |lag: i64| Side {
            lags: vec![(id, lag), (Uuid::from_u128(2), lag * 2)],
            shared: [partition_of(id, PARTITIONS)].into(),
            after: String::new(),
        };
        let round = |alone: i64, well: i64, sick: i64| Round {
            alone: side(alone).lags,
            well: side(well),
            sick: side(sick),
        };
        let rounds = [
            round(1_000, 2_000, 3_000),
            round(1_000, 1_000, 2_000),
            round(1_000, 8_000, 8_000),
        ];
        let shown = row(Neighbour::Hanging, Health::Sick, &rounds, 1);
        let (all, same) = shown.ours.split_once(" / ").expect("two parts");
        assert_eq!(
            same,
            "1.0, 1.0, 1.0 → 3.0, 2.0, 8.0 ms, × 3.00 (2.00–8.00), × 1.50 (1.00–2.00) of 2.0, 1.0, 8.0"
        );
        assert!(all.contains("× 3.00 (2.00–8.00), × 1.50"), "{all}");
        let control = row(Neighbour::Hanging, Health::Well, &rounds, 1);
        assert!(!control.ours.contains(" of "), "{}", control.ours);
        assert!(
            control.ours.contains("× 2.00 (1.00–8.00)"),
            "{}",
            control.ours
        );
        assert_eq!(near_count(&rounds[0].sick), 1);
    }

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
