//! Deliveries a second, and what each costs.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use anyhow::ensure;
use tokio_util::sync::CancellationToken;

use super::{
    Bench, Sync,
    limits::Limits,
    numbers::{median, millis_each, rate},
    rig::{Load, Rig},
    table::Row,
};
use crate::{
    ledger::Ledger,
    publish::{self, Door, Gate, Plan, Subject},
    stack::{Part, processor_time},
};

/// How far the publisher may be ahead of the receiver, in deliveries: enough that nobody waits for it.
pub const LEAD: u64 = 8_000;

/// Events of one call.
const BATCH: usize = 50;

/// Webhooks of a throughput run; each has an endpoint and a cap of its own.
const ENDPOINTS: usize = 160;

/// How long a run may take.
const LIMIT: Duration = Duration::from_secs(300);

/// Deliveries of an event in the curve.
const CURVE_FAN_OUT: usize = 2;

/// Figures beside the two throughputs.
pub(super) const CURVE: &str = "webhooks in the workspace";
pub(super) const DISPATCHERS: &str = "dispatchers 1 / 2 / 4";

/// The name of a throughput.
pub(super) fn figure(fan_out: u64, sync: Sync) -> String {
    format!("deliveries/s, fan-out {fan_out}{}", sync.label())
}

/// What one run came to.
#[derive(Debug, Clone)]
struct Run {
    deliveries: u64,
    /// Until all were in the history.
    elapsed: Duration,
    /// Until all had arrived at the receiver.
    arrived: Duration,
    /// Processor time of all parts of the stack.
    spent: Duration,
    by_part: Vec<(Part, Duration)>,
    /// Processor time of the generator and the receiver.
    generator: Duration,
}

impl Run {
    #[expect(
        clippy::cast_precision_loss,
        reason = "counts of a benchmark are far below 2^53"
    )]
    fn per_second(&self) -> f64 {
        self.deliveries as f64 / self.elapsed.as_secs_f64()
    }

    fn millis_each(&self) -> f64 {
        millis_each(self.spent, self.deliveries)
    }

    fn parts(&self) -> String {
        let part = |(part, spent): &(Part, Duration)| {
            format!("{part} {:.3}", millis_each(*spent, self.deliveries))
        };
        self.by_part.iter().map(part).collect::<Vec<_>>().join(", ")
    }
}

/// Both throughputs of a stack, each with its cost.
pub(super) async fn measure(
    bench: &mut Bench<'_>,
    rig: &mut Rig,
    limits: &Limits,
) -> anyhow::Result<()> {
    let sync = rig.sync;
    for (fan_out, aims) in [
        (1, [("≥ 6,000", "≤ 0.28"), ("≥ 2,500", "–")]),
        (10, [("≥ 10,000", "≤ 0.16"), ("≥ 4,000", "–")]),
    ] {
        let figure = figure(fan_out, sync);
        if !bench.wants(&figure) {
            continue;
        }
        let load = rig
            .load(
                &format!("fan-out-{fan_out}"),
                &rig.receiver,
                ENDPOINTS / usize::try_from(fan_out)?,
                usize::try_from(fan_out)?,
            )
            .await?;
        run_once(rig, &load, bench.scale.deliveries / 10).await?;
        let mut runs = Vec::new();
        for _ in 0..bench.scale.runs {
            let run = run_once(rig, &load, bench.scale.deliveries).await?;
            bench.note(format!(
                "{figure}: {}/s ({:.1} s, all arrived after {:.1} s), ms each: {}",
                rate(run.per_second()),
                run.elapsed.as_secs_f64(),
                run.arrived.as_secs_f64(),
                run.parts()
            ));
            runs.push(run);
        }
        let (speed_aim, cost_aim) = aims[usize::from(sync == Sync::Always)];
        let how = format!(
            "{} of {} deliveries, median, history complete",
            runs_word(runs.len()),
            rate(as_f64(bench.scale.deliveries))
        );
        bench.add(Row {
            figure,
            ours: rate(middle(&runs, Run::per_second)),
            limit: limits.beside(fan_out),
            aim: speed_aim.to_owned(),
            how: how.clone(),
        });
        let generator = median(
            &runs
                .iter()
                .map(|run| millis_each(run.generator, run.deliveries))
                .collect::<Vec<_>>(),
        );
        bench.add(Row {
            figure: format!("CPU per delivery at saturation, fan-out {fan_out}{}", sync.label()),
            ours: format!("{:.2} ms", middle(&runs, Run::millis_each)),
            limit: "–".to_owned(),
            aim: if cost_aim == "–" { cost_aim.to_owned() } else { format!("{cost_aim} ms") },
            how: format!("same runs; services, NATS, Postgres; generator and receiver {generator:.2} ms not counted"),
        });
    }
    Ok(())
}

/// Workspaces of growing size, the same two matches for each event.
pub(super) async fn curve(bench: &mut Bench<'_>, rig: &mut Rig) -> anyhow::Result<()> {
    if !bench.wants(CURVE) {
        return Ok(());
    }
    for webhooks in [10, 1_000, bench.scale.most_webhooks] {
        bench.note(format!("making {webhooks} webhooks"));
        let load = rig
            .load(
                &format!("curve-{webhooks}"),
                &rig.receiver,
                webhooks / CURVE_FAN_OUT,
                CURVE_FAN_OUT,
            )
            .await?;
        // All sizes publish to the same number of links, so that endpoints do not differ.
        let load = Load {
            links: load.links.into_iter().take(5).collect(),
            ..load
        };
        let mut runs = Vec::new();
        for _ in 0..bench.scale.runs {
            runs.push(run_once(rig, &load, bench.scale.deliveries / 3).await?);
        }
        let (speed, cost) = (
            middle(&runs, Run::per_second),
            middle(&runs, Run::millis_each),
        );
        bench.add(Row {
            figure: format!("{} {CURVE}, fan-out 2", rate(as_f64(webhooks as u64))),
            ours: format!("{}/s, {cost:.2} ms CPU per delivery", rate(speed)),
            limit: "the first line of the three".to_owned(),
            aim: "flat".to_owned(),
            how: format!(
                "{} of {} deliveries to 10 endpoints, median",
                runs_word(runs.len()),
                rate(as_f64(bench.scale.deliveries / 3))
            ),
        });
    }
    Ok(())
}

/// More and more dispatchers on one machine.
pub(super) async fn dispatchers(bench: &mut Bench<'_>, rig: &mut Rig) -> anyhow::Result<()> {
    if !bench.wants(DISPATCHERS) {
        return Ok(());
    }
    let load = rig.load("dispatchers", &rig.receiver, ENDPOINTS, 1).await?;
    let mut speeds = Vec::new();
    let mut running = 1;
    for wanted in [1, 2, 4] {
        while running < wanted {
            running += 1;
            rig.stack.add(Part::Dispatcher(running))?;
            rig.stack.wait_ready(Part::Dispatcher(running)).await?;
        }
        // Also lets the partitions find their new owners.
        run_once(rig, &load, bench.scale.deliveries / 10).await?;
        let mut runs = Vec::new();
        for _ in 0..bench.scale.runs {
            runs.push(run_once(rig, &load, bench.scale.deliveries / 2).await?);
        }
        speeds.push(rate(middle(&runs, Run::per_second)));
    }
    bench.add(Row {
        figure: format!("deliveries/s with {DISPATCHERS}"),
        ours: speeds.join(" / "),
        limit: "the cores".to_owned(),
        aim: "grows until the cores are full".to_owned(),
        how: format!(
            "{} each, fan-out 1, median; all on this machine",
            runs_word(bench.scale.runs)
        ),
    });
    Ok(())
}

/// Publishes at full speed until `deliveries` are owed, and waits until all are in the history.
async fn run_once(rig: &Rig, load: &Load, deliveries: u64) -> anyhow::Result<Run> {
    let events = deliveries / load.fan_out;
    let deliveries = events * load.fan_out;
    let (recorded, failed) = rig.recorded().await?;
    ensure!(failed == 0, "{failed} deliveries have failed before");
    rig.receiver.clear();
    let (counter, fan_out) = (rig.receiver.counter(), load.fan_out);
    let gate = Gate::new(move |event| event * fan_out <= counter.load(Ordering::Relaxed) + LEAD);
    let plan = Plan {
        count: Some(events),
        batch: BATCH,
        gate: Some(gate),
        ..Plan::default()
    };
    let subject = Subject {
        workspace: load.workspace.id,
        links: load.links.clone(),
        kinds: vec!["KIND_EXIT".to_owned()],
    };
    let target = rig.stack.door(Door::Http, &load.workspace);
    let (usage, own, started) = (rig.stack.usage(), processor_time(), Instant::now());
    let stop = CancellationToken::new();
    let ledger = Ledger::none();
    let publishing = publish::run(&target, &subject, &plan, &ledger, &stop);
    let (tally, arrived) = tokio::join!(publishing, arrived(rig, deliveries, started));
    let tally = tally?;
    ensure!(
        tally.ok == events,
        "{events} events were published and {} accepted",
        tally.ok
    );
    let arrived = arrived?;
    rig.wait_recorded(recorded + deliveries).await?;
    let (elapsed, now) = (started.elapsed(), rig.stack.usage());
    Ok(Run {
        deliveries,
        elapsed,
        arrived,
        spent: now.since(&usage),
        by_part: now.since_by_part(&usage),
        generator: processor_time().saturating_sub(own),
    })
}

/// Waits until so many requests have come, and looks at the memory meanwhile. How long after `started`.
async fn arrived(rig: &Rig, expected: u64, started: Instant) -> anyhow::Result<Duration> {
    let mut last_look = Instant::now();
    webhooks_devstack::wait_until("the deliveries to arrive", LIMIT, async || {
        if last_look.elapsed() > Duration::from_secs(1) {
            last_look = Instant::now();
            rig.look_at_memory();
        }
        let count = rig.receiver.count();
        if count >= expected {
            Ok(started.elapsed())
        } else {
            Err(format!("{count} of {expected}"))
        }
    })
    .await
}

fn middle(runs: &[Run], of: impl Fn(&Run) -> f64) -> f64 {
    median(&runs.iter().map(of).collect::<Vec<_>>())
}

pub(super) fn runs_word(runs: usize) -> String {
    if runs == 1 {
        "1 run".to_owned()
    } else {
        format!("{runs} runs")
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of a benchmark are far below 2^53"
)]
fn as_f64(count: u64) -> f64 {
    count as f64
}
