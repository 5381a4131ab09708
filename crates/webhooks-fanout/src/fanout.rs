//! One event: match, record the verdict, publish the deliveries, acknowledge.
//!
//! The order is what makes a crash harmless. The verdict is recorded before the first delivery,
//! under an id that the event fixes. Its part 0 goes last: a verdict whose part 0 is there is
//! whole. Whoever handles the event again publishes part 0 again, is told that it is a duplicate,
//! and from then on uses the recorded verdict and throws its own away. Deliveries have ids that
//! the event and the webhook fix, so publishing them again adds nothing. The event is acknowledged
//! when all of it is on the streams, and not before.

mod search;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{
    FutureExt as _, StreamExt as _, TryStreamExt as _, stream, stream::FuturesUnordered,
};
use prost::Message as _;
use tracing::Instrument as _;
use uuid::Uuid;
use webhooks_bus::{
    Bus, Outgoing, Pulled, StatsMirror, Stored, StoredMessage, headers, names, subjects, survive,
};
use webhooks_domain::matching::EventFacts;
use webhooks_proto::internal::v1::{Match, Verdict};
use webhooks_runtime::{
    Clock,
    telemetry::{DONE, current_traceparent, set_parent},
};

use crate::{
    event::{AcceptedEvent, Poison},
    index::SharedIndex,
    job::{BadVerdict, JobMaker},
    publisher::{NotPublished, Publisher},
    verdict::draw_up,
};

/// The `source` of our dead letters.
const SOURCE: &str = "fanout";

/// How often an event is tried whose handling panics.
const TRIES: u32 = 3;

/// Pause before an event is handed over again that could not be finished.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// An event that takes longer is logged at `info`.
const SLOW: Duration = Duration::from_secs(1);

/// What the tasks of fan-out share.
#[derive(Clone)]
pub(crate) struct Fanout {
    pub(crate) bus: Bus,
    pub(crate) index: Arc<SharedIndex>,
    pub(crate) stats: StatsMirror,
    pub(crate) publisher: Publisher,
    pub(crate) clock: Arc<dyn Clock>,
    /// Publishes of one event at a time.
    pub(crate) share: usize,
}

/// What became of an event.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Tally {
    delivered: u64,
    held: u64,
    overflowed: u64,
    /// An earlier run had recorded the verdict.
    resumed: bool,
}

impl Tally {
    fn add(&mut self, one: Self) {
        self.delivered += one.delivered;
        self.held += one.held;
        self.overflowed += one.overflowed;
    }
}

/// Why an event could not be finished.
#[derive(Debug)]
enum Trouble {
    /// It can never be.
    Poison(Poison),
    /// Not now: the service stops.
    Stopped,
}

impl From<Poison> for Trouble {
    fn from(poison: Poison) -> Self {
        Self::Poison(poison)
    }
}

impl From<BadVerdict> for Trouble {
    fn from(bad: BadVerdict) -> Self {
        Self::Poison(Poison::new("bad_verdict", bad.to_string()))
    }
}

impl From<NotPublished> for Trouble {
    fn from(error: NotPublished) -> Self {
        match error {
            NotPublished::Stopped => Self::Stopped,
            NotPublished::TooLarge(detail) => Self::Poison(Poison::new("too_large", detail)),
            NotPublished::SubjectFull => {
                Self::Poison(Poison::new("subject_full", "no room on a subject"))
            }
            NotPublished::StreamFull => {
                Self::Poison(Poison::new("stream_full", "no room on a stream"))
            }
        }
    }
}

impl Fanout {
    /// Handles a message to its end: acknowledged, buried and acknowledged, or given back.
    pub(crate) async fn handle(&self, pulled: &Pulled) {
        let acker = pulled.acker();
        let done = acker.while_working(Box::pin(self.process(pulled))).await;
        let answered = if done {
            acker.ack().await
        } else {
            acker.nak(Some(AGAIN_AFTER)).await
        };
        if let Err(error) = answered {
            // It comes again, and its ids make that harmless.
            tracing::debug!(event.seq = pulled.stream_seq, %error, "an event could not be answered");
        }
    }

    /// Whether the event may be acknowledged.
    async fn process(&self, pulled: &Pulled) -> bool {
        let result = survive(TRIES, || Box::pin(self.fan_out(pulled))).await;
        let poison = match result {
            Ok(Ok(())) => return true,
            Ok(Err(Trouble::Stopped)) => return false,
            Ok(Err(Trouble::Poison(poison))) => poison,
            Err(panic) => Poison::new("panic", panic),
        };
        count_event("poison");
        let now = self.clock.now_micros();
        let kept = self
            .bus
            .bury_pulled(
                SOURCE,
                names::EVENTS,
                pulled,
                poison.reason,
                &poison.detail,
                now,
            )
            .await;
        if let Err(error) = &kept {
            tracing::warn!(event.seq = pulled.stream_seq, %error, "a dead letter could not be kept yet");
        }
        kept.is_ok()
    }

    async fn fan_out(&self, pulled: &Pulled) -> Result<(), Trouble> {
        let begun = Instant::now();
        let event = AcceptedEvent::read(pulled)?;
        let span = tracing::info_span!("event.fan_out");
        set_parent(&span, &event.traceparent);
        let tally = Box::pin(self.fan_out_event(&event, pulled.delivered))
            .instrument(span)
            .await?;
        self.record(&event, pulled.delivered, tally, begun.elapsed());
        Ok(())
    }

    async fn fan_out_event(
        &self,
        event: &AcceptedEvent,
        handed_over: u64,
    ) -> Result<Tally, Trouble> {
        let old = search::is_old(event, self.clock.now_micros());
        if old && let Some(parts) = self.find_recorded(event, handed_over).await? {
            let tally = self.deliver_all(event, &parts, true).await?;
            return Ok(Tally {
                resumed: true,
                ..tally
            });
        }
        let matches = self
            .index
            .matches(&EventFacts::of(&event.parsed, event.accepted_at));
        // An event that matched nothing gets a verdict too: one without is one that fell through, and
        // management offers it again.
        let drawn = draw_up(event, &matches, |webhook| self.stats.get(webhook.id))
            .map_err(|error| Poison::new("unrenderable", error.to_string()))?;
        if drawn.dropped > 0 {
            metrics::counter!("webhooks_fanout_dropped_values_total")
                .increment(u64::from(drawn.dropped));
        }
        let (parts, resumed) = self.settle(event, drawn.parts).await?;
        // What is old may have been delivered by a run whose verdict is not found any more.
        let tally = self.deliver_all(event, &parts, resumed || old).await?;
        Ok(Tally { resumed, ..tally })
    }

    /// Makes `drawn` the event's verdict, unless it has one: then that one is returned.
    async fn settle(
        &self,
        event: &AcceptedEvent,
        mut drawn: Vec<Verdict>,
    ) -> Result<(Vec<Verdict>, bool), Trouble> {
        let run = Uuid::from_bytes(rand::random());
        // Collected first: the futures then own what they send.
        let later: Vec<Outgoing> = drawn
            .iter()
            .skip(1)
            .map(|part| verdict_message(event, part, &format!("{}.{}", part.part, run.simple())))
            .collect();
        let publisher = self.publisher.clone();
        let part_seqs = stream::iter(later)
            .map(move |message| {
                let publisher = publisher.clone();
                async move { publisher.publish(message).await }.boxed()
            })
            .buffered(self.share)
            .map_ok(|stored| stored.seq)
            .try_collect()
            .await?;
        let Some(first) = drawn.first_mut() else {
            return Err(Trouble::Poison(Poison::new("bad_verdict", "no parts")));
        };
        first.part_seqs = part_seqs;
        let message = verdict_message(event, first, "0");
        let Stored { seq, duplicate } = self.publisher.publish(message).await?;
        if !duplicate {
            return Ok((drawn, false));
        }
        match self.recorded(event, seq).await? {
            Some(recorded) => {
                self.tell_again(event, &recorded).await?;
                Ok((recorded, true))
            }
            None => {
                // Its id outlived it, which no retention of ours does; an operator removed it.
                tracing::warn!(
                    event.seq = event.seq,
                    "a recorded verdict is gone, the new one is used"
                );
                Ok((drawn, false))
            }
        }
    }

    /// Whoever keeps the history has missed a recorded verdict: it comes once more.
    async fn tell_again(
        &self,
        event: &AcceptedEvent,
        recorded: &[Verdict],
    ) -> Result<(), NotPublished> {
        if event.again
            && let Some(first) = recorded.first()
        {
            let message = verdict_message(event, first, "again");
            self.publisher.publish(message).await?;
        }
        Ok(())
    }

    /// The verdict of an event that is too old for its id to be remembered, if it can be found.
    async fn find_recorded(
        &self,
        event: &AcceptedEvent,
        handed_over: u64,
    ) -> Result<Option<Vec<Verdict>>, Trouble> {
        let Some(seq) = self.search(event, handed_over).await? else {
            return Ok(None);
        };
        let recorded = self.recorded(event, seq).await?;
        if let Some(recorded) = &recorded {
            self.tell_again(event, recorded).await?;
        }
        Ok(recorded)
    }

    /// The verdict whose part 0 is at `seq`.
    async fn recorded(
        &self,
        event: &AcceptedEvent,
        seq: u64,
    ) -> Result<Option<Vec<Verdict>>, Trouble> {
        let Some(first) = self.verdict_at(seq).await? else {
            return Ok(None);
        };
        if first.event_id != event.id || first.event_seq != event.seq {
            return Err(BadVerdict::Incomplete(
                "the recorded verdict is of another event".to_owned(),
            )
            .into());
        }
        let mut parts = Vec::with_capacity(first.part_seqs.len() + 1);
        let later = first.part_seqs.clone();
        parts.push(first);
        for seq in later {
            let part = self.verdict_at(seq).await?;
            parts.push(
                part.ok_or_else(|| BadVerdict::Incomplete(format!("part at {seq} is gone")))?,
            );
        }
        Ok(Some(parts))
    }

    async fn verdict_at(&self, seq: u64) -> Result<Option<Verdict>, Trouble> {
        let Some(message) = self.read(seq).await? else {
            return Ok(None);
        };
        let verdict = Verdict::decode(message.payload)
            .map_err(|error| BadVerdict::Incomplete(format!("verdict at {seq}: {error}")))?;
        Ok(Some(verdict))
    }

    /// Reads a message of VERDICTS, for as long as it takes.
    async fn read(&self, seq: u64) -> Result<Option<StoredMessage>, NotPublished> {
        let mut failures = 0_u32;
        loop {
            match self.bus.get(names::VERDICTS, seq).await {
                Ok(found) => return Ok(found),
                Err(error) => {
                    failures = failures.saturating_add(1);
                    tracing::debug!(verdict.seq = seq, %error, failures, "a verdict is read again");
                    self.publisher.pause(failures).await?;
                }
            }
        }
    }

    /// Publishes the deliveries of a verdict, a share of them at a time.
    async fn deliver_all(
        &self,
        event: &AcceptedEvent,
        parts: &[Verdict],
        resumed: bool,
    ) -> Result<Tally, Trouble> {
        let Some(first) = parts.first() else {
            return Ok(Tally::default());
        };
        let traceparent = current_traceparent().unwrap_or_else(|| event.traceparent.clone());
        let partitions = self.bus.settings().partitions;
        let maker = JobMaker::new(first, traceparent, event.hop, partitions, resumed)?;
        let mut tally = Tally::default();
        let mut under_way = FuturesUnordered::new();
        for found in parts.iter().flat_map(|part| &part.matches) {
            if under_way.len() >= self.share
                && let Some(one) = under_way.try_next().await?
            {
                tally.add(one);
            }
            under_way.push(self.deliver(event, &maker, found));
        }
        while let Some(one) = under_way.try_next().await? {
            tally.add(one);
        }
        Ok(tally)
    }

    async fn deliver(
        &self,
        event: &AcceptedEvent,
        maker: &JobMaker<'_>,
        found: &Match,
    ) -> Result<Tally, Trouble> {
        let job = maker.job(found)?;
        let published = if job.held {
            self.publisher.publish_or_full(job.message.clone()).await
        } else {
            self.publisher.publish(job.message.clone()).await
        };
        match published {
            Ok(_) if job.held => Ok(Tally {
                held: 1,
                ..Tally::default()
            }),
            Ok(_) => Ok(Tally {
                delivered: 1,
                ..Tally::default()
            }),
            // HELD is one stream for all: that it is full must not stop the events of others. The
            // partition's owner holds it when there is room, and parks it until then.
            Err(NotPublished::StreamFull) => {
                metrics::counter!("webhooks_fanout_held_full_total").increment(1);
                self.publisher.publish(job.unheld()).await?;
                Ok(Tally {
                    delivered: 1,
                    ..Tally::default()
                })
            }
            Err(NotPublished::SubjectFull) if job.held => {
                let report = job.overflow_report(self.clock.now_micros());
                self.publisher.publish(report).await?;
                tracing::info!(
                    event.seq = event.seq,
                    "a held delivery overflowed its webhook's place"
                );
                Ok(Tally {
                    overflowed: 1,
                    ..Tally::default()
                })
            }
            Err(error) => Err(error.into()),
        }
    }

    fn record(&self, event: &AcceptedEvent, handed_over: u64, tally: Tally, took: Duration) {
        let made = tally.delivered + tally.held + tally.overflowed;
        count_event(if made > 0 { "matched" } else { "unmatched" });
        for (kind, number) in [
            ("now", tally.delivered),
            ("held", tally.held),
            ("overflowed", tally.overflowed),
        ] {
            if number > 0 {
                metrics::counter!("webhooks_fanout_deliveries_total", "kind" => kind)
                    .increment(number);
            }
        }
        let made_small = u32::try_from(made).unwrap_or(u32::MAX);
        metrics::histogram!("webhooks_fanout_matches").record(f64::from(made_small));
        let age_micros = self
            .clock
            .now_micros()
            .saturating_sub(event.accepted_at)
            .max(0);
        let age = Duration::from_micros(u64::try_from(age_micros).unwrap_or(0));
        metrics::histogram!("webhooks_fanout_accepted_to_published_seconds")
            .record(age.as_secs_f64());
        metrics::histogram!("webhooks_fanout_event_seconds").record(took.as_secs_f64());
        macro_rules! line {
            ($text:literal $($target:tt)*) => {
                tracing::event!(
                    $($target)*
                    tracing::Level::INFO,
                    workspace.id = %event.workspace,
                    event.id = event.id,
                    event.seq = event.seq,
                    handed_over,
                    delivered = tally.delivered,
                    held = tally.held,
                    overflowed = tally.overflowed,
                    resumed = tally.resumed,
                    age_ms = age.as_secs_f64() * 1_000.0,
                    duration_ms = took.as_secs_f64() * 1_000.0,
                    $text
                )
            };
        }
        if took > SLOW {
            line!("fanout.slow");
        } else {
            line!("event.fanned_out" target: DONE,);
        }
    }
}

fn count_event(result: &'static str) {
    metrics::counter!("webhooks_fanout_events_total", "result" => result).increment(1);
}

fn verdict_id(event: &AcceptedEvent, part_id: &str) -> String {
    format!("{}.{}.{part_id}", event.seq, event.accepted_at)
}

/// A part as VERDICTS keeps it. The sequence alone would name an event only as long as EVENTS is
/// never made anew, so the time of acceptance stands beside it.
fn verdict_message(event: &AcceptedEvent, part: &Verdict, part_id: &str) -> Outgoing {
    let id = verdict_id(event, part_id);
    Outgoing::new(
        subjects::verdict(event.workspace),
        &id,
        part.encode_to_vec().into(),
    )
    .header(headers::EVENT_ID, &event.id)
}
