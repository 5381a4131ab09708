//! From an event's acceptance to its arrival, at a low rate.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context as _, ensure};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Sync,
    numbers::{millis, percentile},
    rig::Rig,
    table::Row,
};
use crate::{
    ledger::{self, Ledger, Published, Received},
    publish::{self, Door, Plan, Subject},
};

/// Events a second.
const RATE: u64 = 200;

/// Endpoints they go to.
const ENDPOINTS: usize = 20;

/// Events before those that count.
const WARM_UP: usize = 200;

/// How long the last event may take to arrive.
const LIMIT: Duration = Duration::from_secs(30);

/// The figure's name.
pub(super) fn figure(sync: Sync) -> String {
    format!(
        "accepted → received at {RATE} events/s, p50 / p99{}",
        sync.label()
    )
}

/// Publishes one by one over HTTP and compares the two ledgers.
pub(super) async fn measure(rig: &mut Rig, seconds: u64) -> anyhow::Result<Row> {
    let load = rig.load("latency", &rig.witness, ENDPOINTS, 1).await?;
    rig.witness.clear();
    let events = RATE * seconds + u64::try_from(WARM_UP)?;
    #[expect(clippy::cast_precision_loss, reason = "a small constant")]
    let plan = Plan {
        rate: Some(RATE as f64),
        count: Some(events),
        workers: 8,
        ..Plan::default()
    };
    let subject = Subject {
        workspace: load.workspace.id,
        links: load.links.clone(),
        kinds: vec!["KIND_EXIT".to_owned()],
    };
    let file = rig.stack.folder().join("published-latency");
    let ledger = Ledger::open(&file)?;
    let target = rig.stack.door(Door::Http, &load.workspace);
    let tally = publish::run(&target, &subject, &plan, &ledger, &CancellationToken::new()).await?;
    ensure!(
        tally.ok == events,
        "{events} events were published and {} accepted",
        tally.ok
    );
    webhooks_devstack::wait_until("the last event to arrive", LIMIT, async || {
        match rig.witness.count() {
            count if count >= events => Ok(()),
            count => Err(count),
        }
    })
    .await?;
    ledger.flush()?;
    let published: Vec<Published> = ledger::read(&file)?;
    let lags = lags(&published, &rig.noted()?)?;
    let aim = match rig.sync {
        Sync::Default => "≤ 4 / ≤ 20 ms",
        Sync::Always => "≤ 8 / ≤ 40 ms",
    };
    Ok(Row {
        figure: figure(rig.sync),
        ours: format!(
            "{} / {} ms",
            millis(percentile(&lags, 0.5)),
            millis(percentile(&lags, 0.99))
        ),
        limit: "–".to_owned(),
        aim: aim.to_owned(),
        how: format!(
            "1 run of {} events over HTTP, one a call; slowest {} ms",
            lags.len(),
            millis(percentile(&lags, 1.0))
        ),
    })
}

/// Sorted times from acceptance to first arrival, in microseconds, without the first events.
fn lags(published: &[Published], received: &[Received]) -> anyhow::Result<Vec<i64>> {
    let mut arrivals: HashMap<Uuid, i64> = HashMap::with_capacity(received.len());
    for request in received {
        if let Some(event) = request.event {
            let first = arrivals.entry(event).or_insert(request.at);
            *first = request.at.min(*first);
        }
    }
    let mut lags = Vec::with_capacity(published.len());
    for event in published.iter().skip(WARM_UP) {
        let accepted = event
            .accepted
            .context("ingest does not say when it accepted an event")?;
        let arrived = arrivals
            .get(&event.event)
            .with_context(|| format!("event {} did not arrive", event.event))?;
        lags.push(arrived - accepted);
    }
    lags.sort_unstable();
    Ok(lags)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Outcome;

    #[test]
    fn a_lag_is_from_acceptance_to_the_first_arrival() {
        let ids: Vec<Uuid> = (0..=WARM_UP).map(|_| Uuid::new_v4()).collect();
        let published = |(event, accepted): (&Uuid, i64)| Published {
            event: *event,
            workspace: Uuid::nil(),
            link: Uuid::nil(),
            kind: String::new(),
            door: String::new(),
            outcome: Outcome::Ok,
            started: 0,
            ended: 0,
            accepted: Some(accepted),
            detail: String::new(),
        };
        let received = |event: Uuid, at: i64| Received {
            at,
            monotonic: 0,
            path: String::new(),
            message_id: String::new(),
            attempt: 1,
            event: Some(event),
            webhook: None,
            body_hash: 0,
            status: 200,
            verified: None,
        };
        let events: Vec<Published> = ids.iter().zip(100..).map(published).collect();
        let last = *ids.last().unwrap();
        let requests = [received(last, 900), received(last, 450)];
        assert_eq!(lags(&events, &requests).unwrap(), [450 - 300]);
        assert!(lags(&events, &[]).is_err());
    }
}
