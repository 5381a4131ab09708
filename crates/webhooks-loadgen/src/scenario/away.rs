//! Management and PostgreSQL away for a while.

use std::time::Duration;

use tokio::time::Instant;
use webhooks_bus::names;
use webhooks_devstack::wait_until;

use super::{
    Outcome, Scene,
    rig::{BACK_LIMIT, CALM, RATE, Rig},
};
use crate::stack::Part;

/// How long the spool may take to be empty again, for each minute of the outage, and at least.
const DRAIN_PER_MINUTE: Duration = Duration::from_secs(60);
const DRAIN_MIN: Duration = Duration::from_secs(60);

/// Parts of the outage that are looked at one by one.
const LOOKS: u32 = 10;

/// Requests that an event of the load makes at least, in thousandths: one workspace-wide webhook, one
/// of a third of the events, one that is tried again now and then.
const REQUESTS_PER_THOUSAND: f64 = 2_333.0;

pub(super) async fn both(scene: Scene<'_>) -> anyhow::Result<Outcome> {
    away(scene, &[Part::Management, Part::Postgres]).await
}

pub(super) async fn postgres(scene: Scene<'_>) -> anyhow::Result<Outcome> {
    away(scene, &[Part::Postgres]).await
}

async fn away(scene: Scene<'_>, parts: &[Part]) -> anyhow::Result<Outcome> {
    let lasting = scene.options.lasting;
    let mut rig = Rig::start(scene, |options| options).await?;
    rig.load()?;
    rig.go_on(CALM).await;
    for part in parts {
        rig.kill(*part).await?;
    }
    let began = Instant::now();
    let mut counts = vec![rig.receiver.count()];
    for look in 1..=LOOKS {
        tokio::time::sleep_until(began + lasting * look / LOOKS).await;
        counts.push(rig.receiver.count());
    }
    let fewest = counts
        .windows(2)
        .map(|two| two[1] - two[0])
        .min()
        .unwrap_or(0);
    let all = counts[counts.len() - 1] - counts[0];
    let doors = 3.0;
    let wanted = doors * RATE * lasting.as_secs_f64() * REQUESTS_PER_THOUSAND / 1_000.0;
    #[expect(clippy::cast_precision_loss, reason = "a share needs no more")]
    let share = all as f64 / wanted;
    rig.expect(
        "deliveries go on, in every tenth of the outage",
        fewest > 0 && share > 0.9,
        format!(
            "{all} requests in {lasting:?}, at least {fewest} in a tenth, {:.0} % of the load",
            share * 100.0
        ),
    );
    let bus = rig.bus().await?;
    let spooled = bus.message_count(names::REPORTS).await?;
    rig.expect(
        "reports are spooled",
        spooled > 0,
        format!("{spooled} on REPORTS"),
    );
    for part in parts.iter().rev() {
        rig.revive(*part).await?;
    }
    let back = Instant::now();
    let limit = (DRAIN_PER_MINUTE.mul_f64(lasting.as_secs_f64() / 60.0)).max(DRAIN_MIN);
    let drained = wait_until("the spool to be empty", limit, async || {
        match bus.message_count(names::REPORTS).await {
            Ok(0) => Ok(()),
            Ok(left) => Err(format!("{left} left")),
            Err(error) => Err(error.to_string()),
        }
    })
    .await;
    rig.expect(
        "the spool is drained while the load goes on",
        drained.is_ok(),
        drained.map_or_else(
            |error| format!("{error:#}"),
            |()| {
                format!(
                    "{:.1} s after the parts were back",
                    back.elapsed().as_secs_f64()
                )
            },
        ),
    );
    rig.nobody_died();
    rig.go_on(CALM.min(BACK_LIMIT)).await;
    let mut outcome = rig.finish().await?;
    outcome.expect_no_repeats();
    Ok(outcome)
}
