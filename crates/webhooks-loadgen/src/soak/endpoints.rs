//! One delivery each to very many endpoints: whatever a process keeps for an endpoint that is well, it
//! must give back.
//!
//! Every endpoint is a webhook of its own, on a link of its own, at an address of its own. Each gets
//! one delivery, and then one more. What the second round takes beyond the first is what endpoints
//! leave behind.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::ensure;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use webhooks_devstack::wait_until;

use super::{
    Report, make_webhooks, on_link,
    sink::{Behaviour, OK, Sink},
    watch::{self, Watch},
};
use crate::{
    ledger::Ledger,
    publish::{self, Door, Plan, Subject},
    stack::{Part, Stack},
};

/// How long a round may take.
const LIMIT: Duration = Duration::from_secs(3_600);

/// What the second round may take beyond the first, in MiB: pages that an allocator keeps.
const SLACK_MIB: u64 = 24;

/// Processes that are ours.
const OURS: [Part; 4] = [
    Part::Ingest,
    Part::Fanout,
    Part::Dispatcher(1),
    Part::Management,
];

pub(super) async fn run(
    stack: &Stack,
    count: u32,
    note: &mut (dyn FnMut(String) + Send),
) -> anyhow::Result<Report> {
    let mut report = Report::default();
    report.add(
        "memory without webhooks",
        watch::shown(&watch::at_rest(stack).await),
    );
    let sink = Sink::start(Behaviour::Answer(Arc::new(|| Bytes::from_static(OK)))).await?;
    let workspace = stack.workspace("endpoints").await?;
    let links: Vec<Uuid> = (0..count).map(|_| Uuid::new_v4()).collect();
    let wishes = links
        .iter()
        .zip(0..)
        .map(|(link, n)| on_link(format!("endpoint {n}"), sink.url(n), *link));
    note(format!("making {count} webhooks"));
    let begun = Instant::now();
    make_webhooks(stack, &workspace, wishes.collect()).await?;
    report.add(
        format!("{count} webhooks made"),
        format!("{:.0} s", begun.elapsed().as_secs_f64()),
    );
    let with = watch::at_rest(stack).await;
    report.add(format!("memory with {count} webhooks"), watch::shown(&with));
    let subject = Subject {
        workspace: workspace.id,
        links,
        kinds: vec!["KIND_EXIT".to_owned()],
    };
    let mut rounds = Vec::new();
    for round in 1..=2_u64 {
        note(format!("round {round}"));
        let begun = Instant::now();
        let mut watch = Watch::default();
        let expected = u64::from(count) * round;
        let target = stack.door(Door::Http, &workspace);
        let plan = Plan {
            count: Some(u64::from(count)),
            batch: 50,
            ..Plan::default()
        };
        let (ledger, stop) = (Ledger::none(), CancellationToken::new());
        let work = async {
            let tally = publish::run(&target, &subject, &plan, &ledger, &stop).await?;
            ensure!(tally.ok == u64::from(count), "{tally:?}");
            wait_until("every endpoint's request", LIMIT, async || {
                match sink.requests() {
                    seen if seen >= expected => Ok(()),
                    seen => Err(format!("{seen} of {expected}")),
                }
            })
            .await
        };
        watch.during(stack, work).await?;
        ensure!(
            sink.requests() == expected,
            "{} requests instead of {expected}",
            sink.requests()
        );
        let seconds = begun.elapsed().as_secs_f64();
        report.add(
            format!("round {round}: each endpoint its delivery"),
            format!(
                "{seconds:.0} s, {:.0} a second; most memory: {}; most open files of the dispatcher: {}",
                f64::from(count) / seconds,
                watch.shown(),
                watch.most_files()
            ),
        );
        rounds.push(watch);
    }
    report.add(
        "memory at the end",
        watch::shown(&watch::at_rest(stack).await),
    );
    if let [first, second] = rounds.as_slice() {
        for part in OURS {
            let (before, after) = (first.most(part), second.most(part));
            ensure!(
                after <= before + SLACK_MIB,
                "{part} grew from {before} to {after} MiB in the second round\n{report}"
            );
        }
    }
    Ok(report)
}
