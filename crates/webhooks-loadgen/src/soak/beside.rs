//! Healthy endpoints beside others that hang, flood or are slow: what their deliveries take alone,
//! and what they take beside them. The others belong to another workspace.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use webhooks_devstack::wait_until;

use super::{
    Report, make_webhooks, on_link,
    sink::{Behaviour, Sink},
    watch::{self, Watch},
};
use crate::{
    ledger::{self, Ledger, Published, Received},
    publish::{self, Door, Plan, Subject, Target},
    receiver::{Receiver, ReceiverOptions},
    stack::{Part, Stack},
};

/// Healthy endpoints, and events a second for all of them together.
const HEALTHY: u32 = 50;
const RATE: u32 = 100;

/// How long an endpoint hangs or floods: as long as an attempt may take, and more.
const HANG: Duration = Duration::from_secs(30);

/// How long a slow endpoint takes.
const SLOW: Duration = Duration::from_secs(28);

/// How much longer the 99th percentile of the healthy may be beside the others.
const AT_MOST: f64 = 2.0;

/// Below this, in microseconds, a 99th percentile is as good as any.
const FLOOR: i64 = 20_000;

/// How long what is left of a run may take to arrive.
const LIMIT: Duration = Duration::from_secs(180);

/// Memory that a dispatcher may have beside any of them, in MiB.
const MEMORY_MIB: u64 = 256;

/// Who stands beside the healthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Neighbour {
    /// So many endpoints that hang for 30 s, one delivery each.
    Hanging {
        /// How many.
        endpoints: u32,
    },
    /// Twenty endpoints that answer with informational answers without end, half of them as fast as
    /// they can, half of them slowly.
    Floods,
    /// One endpoint that answers after 28 s, with 5,000 deliveries at once.
    Tenant,
}

/// Endpoints with their sink, deliveries at once, and events a second after that.
struct Cast {
    sinks: Vec<(Sink, u32)>,
    at_once: u64,
    rate: Option<u32>,
    /// Most requests in the hands of all of them.
    cap: usize,
}

impl Neighbour {
    async fn cast(self) -> anyhow::Result<Cast> {
        Ok(match self {
            Self::Hanging { endpoints } => Cast {
                sinks: vec![(Sink::start(Behaviour::Hang(HANG)).await?, endpoints)],
                at_once: endpoints.into(),
                rate: None,
                cap: usize::MAX,
            },
            Self::Floods => Cast {
                sinks: vec![
                    (Sink::start(Behaviour::Flood(Duration::ZERO)).await?, 10),
                    (
                        Sink::start(Behaviour::Flood(Duration::from_millis(10))).await?,
                        10,
                    ),
                ],
                at_once: 20,
                rate: Some(20),
                cap: usize::MAX,
            },
            Self::Tenant => Cast {
                // Within an attempt's deadline: whoever is cut off by that is in our hands still
                // when the next one comes.
                sinks: vec![(Sink::start(Behaviour::Hang(SLOW)).await?, 1)],
                at_once: 5_000,
                rate: None,
                // The cap in flight of an endpoint.
                cap: 8,
            },
        })
    }
}

pub(super) async fn run(
    stack: &Stack,
    neighbour: Neighbour,
    seconds: u64,
    note: &mut (dyn FnMut(String) + Send),
) -> anyhow::Result<Report> {
    let mut report = Report::default();
    let healthy = Healthy::make(stack).await?;
    note("healthy endpoints alone".to_owned());
    // Once for nothing: connections and caches are then as in the runs that count.
    healthy.run(stack, 5).await?;
    let alone = healthy.run(stack, seconds).await?;
    report.add("memory at rest", watch::shown(&watch::at_rest(stack).await));

    let cast = neighbour.cast().await?;
    let workspace = stack.workspace("others").await?;
    let wishes: Vec<_> = cast
        .sinks
        .iter()
        .flat_map(|(sink, endpoints)| (0..*endpoints).map(move |n| sink.url(n)))
        .enumerate()
        .map(|(n, url)| on_link(format!("other {n}"), url, Uuid::new_v4()))
        .collect();
    let links = wishes.iter().flat_map(|wish| wish.links.clone()).collect();
    note(format!("making {} others", wishes.len()));
    make_webhooks(stack, &workspace, wishes).await?;
    let subject = Subject {
        workspace: workspace.id,
        links,
        kinds: vec!["KIND_EXIT".to_owned()],
    };
    let target = stack.door(Door::Http, &workspace);
    let mut watch = Watch::default();
    let begun = Instant::now();
    let stop = CancellationToken::new();
    // Whoever publishes so much at once goes before those that come after: that is the order of
    // events, and not what is measured here. What is sent behind it shows that it is through.
    publish_all(&target, &subject, cast.at_once, None, &stop).await?;
    healthy.run(stack, 5).await?;
    note("healthy endpoints beside the others".to_owned());
    let others = async {
        match cast.rate {
            Some(rate) => publish_all(&target, &subject, u64::MAX, Some(rate), &stop).await,
            None => Ok(()),
        }
    };
    let measured = async {
        let lags = healthy.run(stack, seconds).await;
        stop.cancel();
        lags
    };
    let (others, beside) = watch
        .during(stack, Box::pin(async { tokio::join!(others, measured) }))
        .await;
    others?;
    let beside = beside?;
    let in_hand: usize = cast.sinks.iter().map(|(sink, _)| sink.most_in_hand()).sum();
    let requests: u64 = cast.sinks.iter().map(|(sink, _)| sink.requests()).sum();
    let (before, after) = (p99(&alone), p99(&beside));
    #[expect(clippy::cast_precision_loss, reason = "times far below 2^53")]
    let times = after as f64 / before.max(1) as f64;
    report.add(
        format!("99th percentile of {HEALTHY} healthy endpoints, {RATE} events/s, {seconds} s"),
        format!(
            "alone {} ms, beside {} ms, × {times:.2}",
            shown(before),
            shown(after)
        ),
    );
    report.add(
        format!(
            "requests at the others within {:.0} s",
            begun.elapsed().as_secs_f64()
        ),
        format!("{requests}, at most {in_hand} at a time"),
    );
    report.add("most memory", watch.shown());
    report.add(
        "most open files of the dispatcher",
        watch.most_files().to_string(),
    );
    ensure!(requests > 0, "the others were not called\n{report}");
    ensure!(
        in_hand <= cast.cap,
        "{in_hand} requests at a time instead of {}\n{report}",
        cast.cap
    );
    ensure!(
        times < AT_MOST || after < FLOOR,
        "the healthy take {times:.2} times as long\n{report}"
    );
    let memory = watch.most(Part::Dispatcher(1));
    ensure!(
        memory < MEMORY_MIB,
        "the dispatcher took {memory} MiB\n{report}"
    );
    Ok(report)
}

struct Healthy {
    receiver: Receiver,
    subject: Subject,
    target: Target,
    ledger: std::path::PathBuf,
}

impl Healthy {
    async fn make(stack: &Stack) -> anyhow::Result<Self> {
        let workspace = stack.workspace("healthy").await?;
        let ledger = stack.folder().join("received");
        let receiver = Receiver::start(ReceiverOptions {
            ledger: Some(ledger.clone()),
            keep: 0,
            ..ReceiverOptions::default()
        })
        .await?;
        let links: Vec<Uuid> = (0..HEALTHY).map(|_| Uuid::new_v4()).collect();
        let wishes = links.iter().enumerate().map(|(n, link)| {
            on_link(
                format!("healthy {n}"),
                receiver.url(&format!("/ok/{n}")),
                *link,
            )
        });
        make_webhooks(stack, &workspace, wishes.collect()).await?;
        Ok(Self {
            receiver,
            subject: Subject {
                workspace: workspace.id,
                links,
                kinds: vec!["KIND_EXIT".to_owned()],
            },
            target: stack.door(Door::Http, &workspace),
            ledger,
        })
    }

    /// Sends at a steady rate, and waits until all has arrived; how long each took, in microseconds.
    async fn run(&self, stack: &Stack, seconds: u64) -> anyhow::Result<Vec<i64>> {
        self.receiver.clear();
        let events = u64::from(RATE) * seconds;
        let folder = tempfile::tempdir_in(stack.folder())?;
        let file = folder.path().join("published");
        let ledger = Ledger::open(&file)?;
        let plan = Plan {
            rate: Some(f64::from(RATE)),
            count: Some(events),
            workers: 8,
            ..Plan::default()
        };
        let stop = CancellationToken::new();
        let tally = publish::run(&self.target, &self.subject, &plan, &ledger, &stop).await?;
        ensure!(tally.ok == events, "ingest took not all: {tally:?}");
        wait_until("the healthy deliveries", LIMIT, async || {
            match self.receiver.count() {
                count if count >= events => Ok(()),
                count => Err(count),
            }
        })
        .await?;
        ledger.flush()?;
        self.receiver.flush()?;
        lags(
            &ledger::read::<Published>(&file)?,
            &ledger::read::<Received>(&self.ledger)?,
        )
    }
}

/// Publishes so many events, or until it is stopped; all of them must be taken.
async fn publish_all(
    target: &Target,
    subject: &Subject,
    count: u64,
    rate: Option<u32>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let plan = Plan {
        rate: rate.map(f64::from),
        count: (count < u64::MAX).then_some(count),
        batch: if rate.is_some() { 1 } else { 20 },
        ..Plan::default()
    };
    let tally = publish::run(target, subject, &plan, &Ledger::none(), stop).await?;
    ensure!(tally.ok == tally.total(), "ingest took not all: {tally:?}");
    Ok(())
}

/// Sorted times from acceptance to first arrival.
fn lags(published: &[Published], received: &[Received]) -> anyhow::Result<Vec<i64>> {
    let mut arrivals: HashMap<Uuid, i64> = HashMap::with_capacity(received.len());
    for request in received {
        if let Some(event) = request.event {
            let first = arrivals.entry(event).or_insert(request.at);
            *first = request.at.min(*first);
        }
    }
    let mut lags = published
        .iter()
        .map(|event| {
            let accepted = event
                .accepted
                .context("ingest does not say when it accepted an event")?;
            let arrived = arrivals
                .get(&event.event)
                .with_context(|| format!("event {} did not arrive", event.event))?;
            Ok(arrived - accepted)
        })
        .collect::<anyhow::Result<Vec<i64>>>()?;
    lags.sort_unstable();
    Ok(lags)
}

/// The value that 99 of a hundred do not exceed. 0 of none.
fn p99(sorted: &[i64]) -> i64 {
    let rank = (sorted.len() * 99).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
}

#[expect(clippy::cast_precision_loss, reason = "times far below 2^53")]
fn shown(micros: i64) -> String {
    format!("{:.1}", micros as f64 / 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ninety_ninth_of_a_hundred_is_what_counts() {
        let lags: Vec<i64> = (1..=200).collect();
        assert_eq!((p99(&lags), p99(&lags[..1]), p99(&[])), (198, 1, 0));
        assert_eq!(shown(1_250), "1.2");
    }
}
