//! Three nodes of NATS with every stream on all of them.

use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::time::Instant;
use webhooks_bus::names;
use webhooks_devstack::{Course, Signal};

use super::{
    Outcome, Scene,
    rig::{BACK_LIMIT, CALM, Rig},
};
use crate::stack::{Part, StackOptions};

const NODES: [Part; 3] = [Part::Nats, Part::NatsPeer(2), Part::NatsPeer(3)];

/// How long a killed node stays dead.
const DOWN: Duration = Duration::from_secs(5);

/// How long the leader stands still.
const FROZEN: Duration = Duration::from_secs(20);

/// How long a new leader may take until an event is accepted again.
const ELECTION: Duration = Duration::from_secs(20);

/// How long a node is cut off.
const PARTED: Duration = Duration::from_secs(60);

/// How long it may take until an event is accepted and every service is ready again beside a node that is
/// cut off: it answers as a leader for up to 20 s more, questions take 5 s, and patience lasts 8 s.
const AROUND: Duration = Duration::from_secs(45);

pub(super) async fn run(scene: Scene<'_>) -> anyhow::Result<Outcome> {
    let mut rig = Rig::start(scene, StackOptions::cluster).await?;
    rig.load()?;
    rig.go_on(CALM).await;
    for node in NODES {
        rig.note(format!("restart {node}"));
        rig.stack.stop(node).await?;
        rig.stack.revive(node).await?;
        rig.stack.wait_ready(node).await?;
        rig.go_on(CALM).await;
    }
    let mut slowest = Duration::ZERO;
    for _ in NODES {
        // The leader of the stream each time: the worst to lose.
        let leader = leader(&rig, names::EVENTS).await?;
        rig.kill(leader).await?;
        slowest = slowest.max(accepts_again(&mut rig).await?);
        rig.go_on(DOWN).await;
        rig.revive(leader).await?;
        rig.go_on(CALM).await;
    }
    rig.expect(
        "events are accepted again soon after the leader was killed",
        slowest < ELECTION,
        format!("{:.1} s at most of three", slowest.as_secs_f64()),
    );
    let leader = leader(&rig, names::EVENTS).await?;
    rig.note(format!("freeze {leader}, which leads EVENTS"));
    rig.stack.signal(leader, Signal::STOP)?;
    let frozen = Instant::now();
    let took = accepts_again(&mut rig).await?;
    rig.expect(
        "events are accepted again soon after the leader was frozen",
        took < ELECTION,
        format!("{:.1} s", took.as_secs_f64()),
    );
    tokio::time::sleep_until(frozen + FROZEN).await;
    rig.stack.signal(leader, Signal::CONT)?;
    rig.note(format!("{leader} goes on"));
    for node in NODES {
        rig.stack.wait_ready(node).await?;
    }
    rig.nobody_died();
    let mut outcome = rig.finish().await?;
    // Nobody of ours died, and a request that was answered 2xx was recorded.
    outcome.expect_no_repeats();
    Ok(outcome)
}

/// The network parts: a node, the leader of EVENTS each time, hears nothing of the others and they nothing
/// of it. Clients keep their connections to both sides.
pub(super) async fn run_parted(scene: Scene<'_>) -> anyhow::Result<Outcome> {
    let mut rig = Rig::start(scene, StackOptions::cluster).await?;
    rig.load()?;
    rig.go_on(CALM).await;
    let services = [
        Part::Ingest,
        Part::Fanout,
        Part::Dispatcher(1),
        Part::Dispatcher(2),
        Part::Management,
    ];
    for _ in NODES {
        let leader = leader(&rig, names::EVENTS).await?;
        rig.note(format!("cut off {leader}, which leads EVENTS"));
        // Who is on its side cannot renew what he has.
        rig.cut();
        rig.stack.set_line(leader, Course::Silent);
        let began = Instant::now();
        accepts_again(&mut rig).await?;
        for service in services {
            rig.stack.wait_ready(service).await?;
        }
        let took = began.elapsed();
        let moved = moves(&rig, &services).await?;
        rig.note(format!("{moved} connections have gone elsewhere so far"));
        rig.expect(
            format!(
                "events are accepted and every service is ready beside {leader}, which is cut off"
            ),
            took < AROUND,
            format!("{:.1} s", took.as_secs_f64()),
        );
        tokio::time::sleep_until(began + PARTED).await;
        rig.stack.set_line(leader, Course::Open);
        rig.cut();
        rig.note(format!("{leader} is back"));
        for node in NODES {
            rig.stack.wait_ready(node).await?;
        }
        rig.go_on(CALM).await;
    }
    let moved = moves(&rig, &services).await?;
    rig.expect(
        "whoever was connected to a node that was cut off went to another",
        moved > 0,
        format!("{moved} connections did"),
    );
    rig.nobody_died();
    let mut outcome = rig.finish().await?;
    // One request of who was cut off and one of whoever took over.
    outcome.expect_most(1);
    Ok(outcome)
}

/// How often services have left a node.
async fn moves(rig: &Rig<'_>, services: &[Part]) -> anyhow::Result<u64> {
    let mut moves = 0;
    for service in services {
        let text = rig.stack.metrics(*service).await?;
        let counted = text
            .lines()
            .find_map(|line| line.strip_prefix("webhooks_nats_moves_total "));
        moves += counted.map_or(Ok(0), str::parse)?;
    }
    Ok(moves)
}

/// Which node leads a stream.
async fn leader(rig: &Rig<'_>, stream: &str) -> anyhow::Result<Part> {
    let bus = rig.bus().await?;
    let began = Instant::now();
    loop {
        let found = bus.jetstream().get_stream(stream).await;
        let leader = found
            .ok()
            .and_then(|found| found.cached_info().cluster.clone()?.leader);
        match leader.as_deref() {
            Some("nats") => return Ok(Part::Nats),
            Some(other) => {
                let number = other.strip_prefix("nats-").context("a node of ours")?;
                return Ok(Part::NatsPeer(number.parse()?));
            }
            None if began.elapsed() > BACK_LIMIT => bail!("nobody leads {stream}"),
            None => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

/// How long it takes until an event is accepted.
async fn accepts_again(rig: &mut Rig<'_>) -> anyhow::Result<Duration> {
    let began = Instant::now();
    rig.offer_until("an event to be accepted", BACK_LIMIT, |offered| {
        offered.status == 202
    })
    .await?;
    Ok(began.elapsed())
}
