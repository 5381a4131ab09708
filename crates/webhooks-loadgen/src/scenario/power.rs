//! The power goes, again and again, and everything comes back in another order.

use std::time::Duration;

use rand::{SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use tokio::time::Instant;

use super::{
    Outcome, Scene,
    rig::{CALM, Rig},
};

/// How often. There are 5,040 orders of seven parts.
const CYCLES: u32 = 8;

/// Between two starts: long enough that an early part meets the absence of a late one.
const BETWEEN: Duration = Duration::from_millis(700);

/// How long everything may take to be ready after the last start.
const READY: Duration = Duration::from_secs(30);

pub(super) async fn run(scene: Scene<'_>) -> anyhow::Result<Outcome> {
    let mut dice = StdRng::seed_from_u64(scene.options.seed);
    let mut rig = Rig::start(scene, |options| options).await?;
    rig.load()?;
    rig.go_on(CALM).await;
    let mut slowest = Duration::ZERO;
    for cycle in 1..=CYCLES {
        let mut order = rig.stack.parts();
        order.shuffle(&mut dice);
        let names: Vec<String> = order.iter().map(ToString::to_string).collect();
        rig.note(format!("cycle {cycle}: {}", names.join(", ")));
        for part in &order {
            if part.is_dispatcher() {
                rig.cut();
            }
            rig.stack.kill(*part).await?;
        }
        for part in &order {
            rig.stack.revive(*part).await?;
            tokio::time::sleep(BETWEEN).await;
        }
        let began = Instant::now();
        for part in &order {
            rig.stack.wait_ready(*part).await?;
        }
        slowest = slowest.max(began.elapsed());
        rig.go_on(CALM).await;
    }
    rig.nobody_died();
    rig.expect(
        "everything is ready soon after the last start",
        slowest < READY,
        format!("{:.1} s at most", slowest.as_secs_f64()),
    );
    rig.finish().await
}
