//! Everything is restarted politely, one after another, under load: what a deployment does.

use std::time::Duration;

use super::{
    Outcome, Scene,
    rig::{CALM, Rig},
};
use crate::stack::Part;

const ROUNDS: u32 = 3;

/// How long the load goes on between two restarts.
const BETWEEN: Duration = Duration::from_secs(1);

pub(super) async fn run(scene: Scene<'_>) -> anyhow::Result<Outcome> {
    let mut rig = Rig::start(scene, |options| options).await?;
    // Requests that are still on the wire whenever a dispatcher is told to stop.
    rig.slow_hook(2).await?;
    rig.load()?;
    rig.go_on(CALM).await;
    let mut restarts = 0;
    for round in 1..=ROUNDS {
        rig.note(format!("round {round}"));
        for part in rig.stack.parts() {
            rig.stack.stop(part).await?;
            rig.stack.revive(part).await?;
            rig.stack.wait_ready(part).await?;
            restarts += 1;
            rig.go_on(BETWEEN).await;
        }
    }
    rig.nobody_died();
    let parts = rig.stack.parts();
    for part in parts
        .into_iter()
        .filter(|part| !matches!(part, Part::Nats | Part::NatsPeer(_) | Part::Postgres))
    {
        let panicked = rig.logged(part, "panicked")?;
        rig.expect(format!("{part} never panicked"), !panicked, panicked);
    }
    let mut outcome = rig.finish().await?;
    // A request that was on the wire may be repeated: once for each delivery.
    outcome.expect_most(1);
    outcome.expect("restarts", restarts > 0, restarts);
    Ok(outcome)
}
