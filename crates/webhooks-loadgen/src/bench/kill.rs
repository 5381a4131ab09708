//! SIGKILL of a dispatcher with a queue before it: what is lost, what comes twice, how long nothing comes.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{
    Bench,
    rig::{Load, Rig},
    table::Row,
};
use crate::{
    ledger::{Ledger, Received},
    now_micros,
    publish::{self, Door, Plan, Subject},
    stack::Part,
};

/// The two figures.
pub(super) const RESTARTED: &str =
    "SIGKILL of the only dispatcher with 3,000 queued, restarted at once";
pub(super) const TAKEN_OVER: &str =
    "SIGKILL of one of two dispatchers with 3,000 queued, not restarted";

/// Endpoints that the queue is for.
const ENDPOINTS: usize = 64;

/// How long everything may take to arrive.
const LIMIT: Duration = Duration::from_secs(120);

/// After the last delivery has arrived, how long repeated ones are waited for.
const AFTERMATH: Duration = Duration::from_secs(3);

/// How long an orchestrator takes to start a dead process again.
const RESTART: Duration = Duration::from_millis(250);

pub(super) async fn measure(bench: &mut Bench<'_>, rig: &mut Rig) -> anyhow::Result<()> {
    if !bench.wants(RESTARTED) && !bench.wants(TAKEN_OVER) {
        return Ok(());
    }
    let load = rig.load("kill", &rig.witness, ENDPOINTS, 1).await?;
    if bench.wants(RESTARTED) {
        let row = kill(rig, &load, bench.scale.queued, &[Part::Dispatcher(1)]).await?;
        bench.add(row);
    }
    if bench.wants(TAKEN_OVER) {
        rig.stack.add(Part::Dispatcher(2))?;
        rig.stack.wait_ready(Part::Dispatcher(2)).await?;
        let row = kill(
            rig,
            &load,
            bench.scale.queued,
            &[Part::Dispatcher(1), Part::Dispatcher(2)],
        )
        .await?;
        bench.add(row);
        rig.stack.stop(Part::Dispatcher(2)).await?;
    }
    Ok(())
}

/// Queues while no dispatcher runs, starts them, kills the first in the middle.
async fn kill(
    rig: &mut Rig,
    load: &Load,
    queued: u64,
    dispatchers: &[Part],
) -> anyhow::Result<Row> {
    let (recorded, _) = rig.recorded().await?;
    for part in dispatchers {
        rig.stack.stop(*part).await?;
    }
    rig.witness.clear();
    let before = rig.noted()?.len();
    let subject = Subject {
        workspace: load.workspace.id,
        links: load.links.clone(),
        kinds: vec!["KIND_EXIT".to_owned()],
    };
    let plan = Plan {
        count: Some(queued),
        batch: 50,
        ..Plan::default()
    };
    let target = rig.stack.door(Door::Http, &load.workspace);
    publish::run(
        &target,
        &subject,
        &plan,
        &Ledger::none(),
        &CancellationToken::new(),
    )
    .await?;
    for part in dispatchers {
        rig.stack.revive(*part).await?;
    }
    came(rig, queued / 5).await?;
    let victim = dispatchers[0];
    rig.stack.kill(victim).await?;
    let killed = now_micros();
    if dispatchers.len() == 1 {
        tokio::time::sleep(RESTART).await;
        rig.stack.revive(victim).await?;
    }
    rig.wait_recorded(recorded + queued).await?;
    tokio::time::sleep(AFTERMATH).await;
    let aftermath = Aftermath::of(&rig.noted()?[before..], killed, queued);
    if dispatchers.len() > 1 {
        rig.stack.revive(victim).await?;
        rig.stack.wait_ready(victim).await?;
    }
    Ok(Row {
        figure: if dispatchers.len() == 1 { RESTARTED } else { TAKEN_OVER }.to_owned(),
        ours: format!(
            "{} lost, {} duplicates, stall {:.1} s",
            aftermath.lost,
            aftermath.duplicates,
            aftermath.stall.as_secs_f64()
        ),
        limit: "0 / in flight / 0".to_owned(),
        aim: "0 / ≤ in flight (512) / ≤ 5 s".to_owned(),
        how: "1 run; stall = the longest time after the kill in which an endpoint with work got nothing".to_owned(),
    })
}

async fn came(rig: &Rig, count: u64) -> anyhow::Result<()> {
    webhooks_devstack::wait_until("deliveries to arrive", LIMIT, async || {
        match rig.witness.count() {
            seen if seen >= count => Ok(()),
            seen => Err(seen),
        }
    })
    .await
}

/// What the receiver saw of a kill.
#[derive(Debug, PartialEq, Eq)]
struct Aftermath {
    lost: u64,
    duplicates: u64,
    stall: Duration,
}

impl Aftermath {
    fn of(received: &[Received], killed: i64, owed: u64) -> Self {
        let distinct: HashSet<&str> = received
            .iter()
            .map(|request| request.message_id.as_str())
            .collect();
        let distinct = u64::try_from(distinct.len()).unwrap_or(u64::MAX);
        let mut by_path: HashMap<&str, Vec<i64>> = HashMap::new();
        for request in received {
            by_path.entry(&request.path).or_default().push(request.at);
        }
        let longest = by_path
            .values()
            .filter_map(|times| stall(times, killed))
            .max()
            .unwrap_or(0);
        Self {
            lost: owed.saturating_sub(distinct),
            duplicates: u64::try_from(received.len()).unwrap_or(u64::MAX) - distinct,
            stall: Duration::from_micros(u64::try_from(longest).unwrap_or(0)),
        }
    }
}

/// The longest gap between arrivals at one endpoint that begins or ends after the kill. An endpoint
/// with nothing after the kill had its work done.
fn stall(times: &[i64], killed: i64) -> Option<i64> {
    let mut times = times.to_vec();
    times.sort_unstable();
    let after = times.iter().position(|at| *at > killed)?;
    let from = std::iter::once(if after > 0 {
        times[after - 1].max(killed)
    } else {
        killed
    });
    let points: Vec<i64> = from.chain(times[after..].iter().copied()).collect();
    points.windows(2).map(|pair| pair[1] - pair[0]).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_begins_with_the_kill_at_the_earliest() {
        assert_eq!(stall(&[10, 20, 90, 95], 50), Some(40));
        assert_eq!(stall(&[60, 200], 50), Some(140));
        assert_eq!(stall(&[10, 20], 50), None);
    }

    #[test]
    fn losses_and_duplicates_are_told_apart() {
        let request = |id: &str, at: i64| Received {
            at,
            monotonic: 0,
            path: "/ok".to_owned(),
            message_id: id.to_owned(),
            attempt: 1,
            event: None,
            webhook: None,
            body_hash: 0,
            status: 200,
            verified: None,
        };
        let received = [request("a", 1), request("b", 30), request("b", 40)];
        let expected = Aftermath {
            lost: 1,
            duplicates: 1,
            stall: Duration::from_micros(20),
        };
        assert_eq!(Aftermath::of(&received, 10, 3), expected);
    }
}
