//! Thousands of messages in hand come again and again.

use std::time::Duration;

use super::{
    Outcome, Scene,
    rig::{CALM, Rig},
};
use crate::{
    publish::{Door, Plan},
    stack::Part,
};

/// Events that are published at once.
const EVENTS: u64 = 1_500;

/// Most memory of a dispatcher: what a small container has.
const MEMORY_MAX: u64 = 256 * 1024 * 1024;

/// Restarts of NATS: each makes every message in hand come again.
const RESTARTS: u32 = 5;

/// Kills of both dispatchers.
const KILLS: u32 = 10;

/// NATS restarts while everything waits at slow endpoints: the consumers of the partitions begin
/// anew each time, and what is held is handed over again.
pub(super) async fn run(scene: Scene<'_>) -> anyhow::Result<Outcome> {
    let mut rig = Rig::bare(scene, |options| options).await?;
    for number in 0..4 {
        rig.hook(&format!("/hang/0.3/{number}"), &[]).await?;
    }
    burst(&mut rig).await?;
    for _ in 0..RESTARTS {
        rig.kill(Part::Nats).await?;
        rig.revive(Part::Nats).await?;
        rig.go_on(Duration::from_secs(4)).await;
    }
    let usage = rig.stack.usage();
    for part in [Part::Dispatcher(1), Part::Dispatcher(2)] {
        let bytes = usage.resident_bytes(part).unwrap_or(0);
        rig.expect(
            format!("{part} stays below {} MiB", MEMORY_MAX >> 20),
            bytes < MEMORY_MAX,
            format!("{} MiB", bytes >> 20),
        );
    }
    rig.nobody_died();
    let mut outcome = rig.finish().await?;
    outcome.expect_no_repeats();
    Ok(outcome)
}

/// Both dispatchers die over and over.
pub(super) async fn dispatchers(scene: Scene<'_>) -> anyhow::Result<Outcome> {
    let mut rig = Rig::start(scene, |options| options).await?;
    for number in 0..4 {
        let link = rig.links[1];
        rig.hook(&format!("/hang/0.3/{number}"), &[link]).await?;
    }
    rig.load()?;
    rig.go_on(CALM).await;
    for _ in 0..KILLS {
        for part in [Part::Dispatcher(1), Part::Dispatcher(2)] {
            rig.kill(part).await?;
        }
        for part in [Part::Dispatcher(1), Part::Dispatcher(2)] {
            rig.stack.revive(part).await?;
        }
        rig.go_on(Duration::from_secs(2)).await;
    }
    rig.finish().await
}

async fn burst(rig: &mut Rig<'_>) -> anyhow::Result<()> {
    let plan = Plan {
        count: Some(EVENTS),
        workers: 4,
        batch: 50,
        retry: true,
        ..Plan::default()
    };
    rig.publish(Door::Http, plan)?;
    rig.published().await?;
    rig.note(format!("{EVENTS} events are accepted"));
    Ok(())
}
