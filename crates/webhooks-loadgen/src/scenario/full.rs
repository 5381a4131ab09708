//! Streams at their limits.

use std::time::Duration;

use tokio::time::Instant;
use webhooks_bus::{NEARLY_FULL, names};

use super::{
    Outcome, Scene,
    rig::{BACK_LIMIT, CALM, QUIET_LIMIT, Rig},
};
use crate::{
    publish::{Door, Plan},
    stack::{Part, StackOptions},
};

/// Small limits: a few hundred events.
const EVENTS_MAX_BYTES: &str = "2097152";
const DELIVERIES_MAX_BYTES: &str = "1048576";

/// What the operator raises EVENTS to.
const EVENTS_RAISED: &str = "67108864";

/// How long the gauge may lag.
const GAUGE: Duration = Duration::from_secs(20);

pub(super) async fn run(scene: Scene<'_>) -> anyhow::Result<Outcome> {
    let small = |options: StackOptions| {
        options
            .setting("WEBHOOKS_EVENTS_MAX_BYTES", EVENTS_MAX_BYTES)
            .setting("WEBHOOKS_DELIVERIES_MAX_BYTES", DELIVERIES_MAX_BYTES)
    };
    let mut rig = Rig::start(scene, small).await?;
    // DELIVERIES first: nobody sends, so what is owed piles up to its limit and then waits on EVENTS.
    for part in [Part::Dispatcher(1), Part::Dispatcher(2)] {
        rig.stack.stop(part).await?;
    }
    let plan = Plan {
        rate: Some(150.0),
        retry: true,
        ..Plan::default()
    };
    rig.publish(Door::Http, plan)?;
    let busy = rig
        .offer_until("a 503", QUIET_LIMIT, |offered| offered.status == 503)
        .await?;
    rig.expect(
        "a full EVENTS is a 503 with Retry-After that says so",
        busy.is_busy() && busy.body.contains("STREAM_FULL"),
        format!(
            "{} Retry-After {:?}: {}",
            busy.status, busy.retry_after, busy.body
        ),
    );
    let bus = rig.bus().await?;
    let deliveries = bus.fill(&names::deliveries(0)).await?;
    rig.expect(
        "DELIVERIES was filled too, and fan-out waits",
        deliveries.ratio() > NEARLY_FULL,
        format!("{:.0} %", deliveries.ratio() * 100.0),
    );
    let gauge = webhooks_devstack::wait_until("the alarm", GAUGE, async || {
        let shown = rig
            .metric(Part::Ingest, "webhooks_stream_fill_ratio", "EVENTS")
            .await;
        match shown {
            Ok(ratio) if ratio >= NEARLY_FULL => Ok(ratio),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let logged = rig.logged(Part::Ingest, "stream.nearly_full")?;
    rig.expect(
        "the alarm rings: gauge and log",
        gauge.is_ok() && logged,
        format!("{gauge:?}, logged: {logged}"),
    );
    // What is owed drains by itself when somebody sends again.
    for part in [Part::Dispatcher(1), Part::Dispatcher(2)] {
        rig.revive(part).await?;
    }
    let began = Instant::now();
    let drained = webhooks_devstack::wait_until("DELIVERIES to drain", QUIET_LIMIT, async || {
        match bus
            .consumer_state(names::EVENTS, names::EVENTS_CONSUMER)
            .await
        {
            Ok(state) if state.pending + state.unacknowledged == 0 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    rig.expect(
        "DELIVERIES drains by itself, and fan-out goes on",
        drained.is_ok(),
        drained.map_or_else(
            |error| format!("{error:#}"),
            |()| format!("{:.1} s", began.elapsed().as_secs_f64()),
        ),
    );
    // EVENTS keeps a week by design, so there the operator makes room.
    rig.stack.set("WEBHOOKS_EVENTS_MAX_BYTES", EVENTS_RAISED);
    rig.stack.operate(&["migrate", "--bus-only"]).await?;
    let began = Instant::now();
    let accepted = rig
        .offer_until("an event to be accepted", BACK_LIMIT, |offered| {
            offered.status == 202
        })
        .await;
    rig.expect(
        "after EVENTS was raised events are accepted, without any restart",
        accepted.is_ok(),
        accepted.map_or_else(
            |error| format!("{error:#}"),
            |_| format!("{:.1} s", began.elapsed().as_secs_f64()),
        ),
    );
    rig.go_on(CALM).await;
    rig.nobody_died();
    let mut outcome = rig.finish().await?;
    outcome.expect_no_repeats();
    Ok(outcome)
}
