//! Publishers: events over HTTP, gRPC or NATS, paced or as fast as it goes, each with a noted outcome.
//!
//! A publisher gives every event an id of its own and notes one of three outcomes. An error that
//! leaves it open whether the event was taken (no answer, a 503, a lost connection) is `unknown` and
//! nothing else; with [`Plan::retry`] it is tried again with the same id and the same bytes until the
//! answer is clear, as a careful publisher would.

mod grpc;
mod http;
mod job;
mod nats;

use std::{
    str::FromStr,
    sync::{Arc, atomic::AtomicU64},
};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::job::Job;
use crate::{
    ledger::{Ledger, Outcome},
    sample::{EventSpec, EventTemplate},
};

/// Most events of one call: what the batch doors take.
pub const MAX_BATCH: usize = 1_000;

/// Most workers of one publisher.
pub const MAX_WORKERS: usize = 256;

/// Which way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Door {
    /// `POST /v1/events`.
    Http,
    /// `EventService`.
    Grpc,
    /// JetStream, `workflow.events.v1.<workspace>.step.completed`.
    Nats,
}

impl Door {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Http, Self::Grpc, Self::Nats];

    /// The word in ledgers and options.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Nats => "nats",
        }
    }
}

impl FromStr for Door {
    type Err = anyhow::Error;

    fn from_str(word: &str) -> anyhow::Result<Self> {
        Self::ALL
            .into_iter()
            .find(|door| door.as_str() == word)
            .with_context(|| format!("{word:?} is not http, grpc or nats"))
    }
}

/// Where a publisher hands its events over.
#[derive(Debug, Clone)]
pub struct Target {
    /// Which way in.
    pub door: Door,
    /// `http://host:port` (HTTP and gRPC) or `nats://host:port`.
    pub url: String,
    /// The workspace's token, for HTTP and gRPC.
    pub token: Option<String>,
}

/// What the events are about.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Their workspace.
    pub workspace: Uuid,
    /// Their links, taken in turn. Never empty.
    pub links: Vec<Uuid>,
    /// Kinds of their steps, taken in turn. Never empty.
    pub kinds: Vec<String>,
}

/// How much, and how fast.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Events per second; `None` = as fast as it goes.
    pub rate: Option<f64>,
    /// How many events; `None` = until it is stopped.
    pub count: Option<u64>,
    /// Connections that publish at the same time.
    pub workers: usize,
    /// Events of one call (for NATS: acknowledgements awaited together).
    pub batch: usize,
    /// Try again with the same id while the outcome is unknown.
    pub retry: bool,
    /// Holds the publisher back.
    pub gate: Option<Gate>,
    /// The trace that the events are part of, as W3C `traceparent`.
    pub traceparent: Option<String>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            rate: None,
            count: None,
            workers: 4,
            batch: 1,
            retry: false,
            gate: None,
            traceparent: None,
        }
    }
}

/// Says whether event number `n` (from 0) may go out now; asked again a millisecond later. It keeps a
/// publisher at full speed a bounded distance ahead of what it feeds.
#[derive(Clone)]
pub struct Gate(Arc<dyn Fn(u64) -> bool + Send + Sync>);

impl Gate {
    /// A gate that opens as `opens` says.
    pub fn new(opens: impl Fn(u64) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(opens))
    }
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gate")
    }
}

/// What became of a publisher's events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Acknowledged.
    pub ok: u64,
    /// Surely not taken.
    pub refused: u64,
    /// Open.
    pub unknown: u64,
}

impl Tally {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.ok + self.refused + self.unknown
    }

    fn add(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Ok => self.ok += 1,
            Outcome::Refused => self.refused += 1,
            Outcome::Unknown => self.unknown += 1,
        }
    }
}

/// One event on its way.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) spec: EventSpec,
    pub(crate) bytes: Bytes,
}

/// What a door said of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) outcome: Outcome,
    pub(crate) accepted: Option<i64>,
    pub(crate) detail: String,
}

impl Verdict {
    pub(crate) fn ok(accepted: Option<i64>) -> Self {
        Self {
            outcome: Outcome::Ok,
            accepted,
            detail: String::new(),
        }
    }

    pub(crate) fn refused(detail: impl Into<String>) -> Self {
        Self {
            outcome: Outcome::Refused,
            accepted: None,
            detail: detail.into(),
        }
    }

    pub(crate) fn unknown(detail: impl Into<String>) -> Self {
        Self {
            outcome: Outcome::Unknown,
            accepted: None,
            detail: detail.into(),
        }
    }
}

/// One connection through one door.
enum Connection {
    Http(http::HttpDoor),
    Grpc(grpc::GrpcDoor),
    Nats(nats::NatsDoor),
}

impl Connection {
    async fn open(target: &Target, traceparent: Option<&str>) -> anyhow::Result<Self> {
        let (url, token) = (&target.url, target.token.as_deref());
        let token = || token.context("this door needs a token");
        Ok(match target.door {
            Door::Http => Self::Http(http::HttpDoor::new(url, token()?, traceparent)?),
            Door::Grpc => Self::Grpc(grpc::GrpcDoor::new(url, token()?, traceparent)?),
            Door::Nats => Self::Nats(nats::NatsDoor::connect(url, traceparent).await?),
        })
    }

    /// One verdict per event, in order.
    async fn publish(&mut self, events: &[Event]) -> Vec<Verdict> {
        match self {
            Self::Http(door) => door.publish(events).await,
            Self::Grpc(door) => door.publish(events).await,
            Self::Nats(door) => door.publish(events).await,
        }
    }
}

/// Publishes until the plan's count is reached or `stop` is cancelled.
///
/// # Errors
/// The target or the plan cannot be used. What happens to single events is no error but an outcome.
pub async fn run(
    target: &Target,
    subject: &Subject,
    plan: &Plan,
    ledger: &Ledger,
    stop: &CancellationToken,
) -> anyhow::Result<Tally> {
    if !(1..=MAX_BATCH).contains(&plan.batch) || !(1..=MAX_WORKERS).contains(&plan.workers) {
        bail!("1 to {MAX_BATCH} events a call and 1 to {MAX_WORKERS} workers");
    }
    if subject.links.is_empty() || subject.kinds.is_empty() {
        bail!("events need at least one link and one kind of step");
    }
    let job = Arc::new(Job {
        target: target.clone(),
        subject: subject.clone(),
        plan: plan.clone(),
        ledger: ledger.clone(),
        stop: stop.clone(),
        template: EventTemplate::new(),
        next: AtomicU64::new(0),
        started: Instant::now(),
    });
    let mut workers = JoinSet::new();
    for _ in 0..plan.workers {
        let connection = Connection::open(target, plan.traceparent.as_deref()).await?;
        workers.spawn(Arc::clone(&job).work(connection));
    }
    let mut tally = Tally::default();
    while let Some(part) = workers.join_next().await {
        let part = part.context("a publisher's worker failed")?;
        tally.ok += part.ok;
        tally.refused += part.refused;
        tally.unknown += part.unknown;
    }
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doors_are_named_as_in_ledgers() {
        for door in Door::ALL {
            assert_eq!(door.as_str().parse::<Door>().unwrap(), door);
        }
        assert!("smtp".parse::<Door>().is_err());
    }

    #[tokio::test]
    async fn a_plan_that_makes_no_sense_is_refused() {
        let target = Target {
            door: Door::Http,
            url: "http://127.0.0.1:1".to_owned(),
            token: Some("t".to_owned()),
        };
        let subject = Subject {
            workspace: Uuid::nil(),
            links: vec![Uuid::nil()],
            kinds: vec!["KIND_EXIT".to_owned()],
        };
        let stop = CancellationToken::new();
        let none = Plan {
            batch: 0,
            ..Plan::default()
        };
        run(&target, &subject, &none, &Ledger::none(), &stop)
            .await
            .unwrap_err();
        let nowhere = Subject {
            links: Vec::new(),
            ..subject.clone()
        };
        run(&target, &nowhere, &Plan::default(), &Ledger::none(), &stop)
            .await
            .unwrap_err();
        let one = Plan {
            count: Some(3),
            ..Plan::default()
        };
        let tally = run(&target, &subject, &one, &Ledger::none(), &stop)
            .await
            .unwrap();
        assert_eq!(
            tally,
            Tally {
                unknown: 3,
                ..Tally::default()
            }
        );
    }
}
