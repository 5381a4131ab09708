//! What a publisher's workers share, and what each of them does.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Connection, Event, Gate, Plan, Subject, Tally, Target, Verdict};
use crate::{
    ledger::{Ledger, Outcome, Published},
    now_micros,
    sample::{EventSpec, EventTemplate},
};

/// How often a closed gate is asked again.
const GATE_PAUSE: Duration = Duration::from_millis(1);

/// Between two tries of the same events.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// One call of [`run`](super::run).
pub(super) struct Job {
    pub(super) target: Target,
    pub(super) subject: Subject,
    pub(super) plan: Plan,
    pub(super) ledger: Ledger,
    pub(super) stop: CancellationToken,
    pub(super) template: EventTemplate,
    pub(super) next: AtomicU64,
    pub(super) started: Instant,
}

impl Job {
    /// Takes the next events until there are no more.
    pub(super) async fn work(self: Arc<Self>, mut connection: Connection) -> Tally {
        let mut tally = Tally::default();
        while !self.stop.is_cancelled() {
            let batch = u64::try_from(self.plan.batch).unwrap_or(u64::MAX);
            let first = self.next.fetch_add(batch, Ordering::Relaxed);
            let last = first
                .saturating_add(batch)
                .min(self.plan.count.unwrap_or(u64::MAX));
            if first >= last {
                break;
            }
            if let Some(rate) = self.plan.rate {
                let due = self.started + due_after(first, rate);
                if self
                    .stop
                    .run_until_cancelled(tokio::time::sleep_until(due))
                    .await
                    .is_none()
                {
                    break;
                }
            }
            if let Some(Gate(opens)) = &self.plan.gate {
                while !opens(first) && !self.stop.is_cancelled() {
                    tokio::time::sleep(GATE_PAUSE).await;
                }
            }
            let events: Vec<Event> = (first..last).map(|number| self.event(number)).collect();
            for line in self.hand_over(&mut connection, &events).await {
                tally.add(line.outcome);
            }
        }
        tally
    }

    fn event(&self, number: u64) -> Event {
        let turn = |count: usize| usize::try_from(number).unwrap_or(usize::MAX) % count;
        let (links, kinds) = (&self.subject.links, &self.subject.kinds);
        let spec = EventSpec {
            id: Uuid::new_v4(),
            workspace: self.subject.workspace,
            link: links[turn(links.len())],
            kind: kinds[turn(kinds.len())].clone(),
            timestamp_micros: now_micros(),
        };
        Event {
            bytes: self.template.render(&spec),
            spec,
        }
    }

    async fn hand_over(&self, connection: &mut Connection, events: &[Event]) -> Vec<Published> {
        let started = now_micros();
        let mut verdicts = connection.publish(events).await;
        while self.plan.retry && !self.stop.is_cancelled() {
            let open: Vec<usize> = (0..verdicts.len())
                .filter(|index| verdicts[*index].outcome == Outcome::Unknown)
                .collect();
            if open.is_empty() {
                break;
            }
            self.stop
                .run_until_cancelled(tokio::time::sleep(RETRY_PAUSE))
                .await;
            let again: Vec<Event> = open.iter().map(|index| events[*index].clone()).collect();
            for (index, verdict) in open.into_iter().zip(connection.publish(&again).await) {
                verdicts[index] = verdict;
            }
        }
        let ended = now_micros();
        let note = |(event, verdict): (&Event, Verdict)| Published {
            event: event.spec.id,
            workspace: event.spec.workspace,
            link: event.spec.link,
            kind: event.spec.kind.clone(),
            door: self.target.door.as_str().to_owned(),
            outcome: verdict.outcome,
            started,
            ended,
            accepted: verdict.accepted,
            detail: verdict.detail,
        };
        let lines: Vec<Published> = events.iter().zip(verdicts).map(note).collect();
        self.ledger.append(&lines);
        lines
    }
}

/// When event number `number` of a paced publisher is due.
fn due_after(number: u64, rate: f64) -> Duration {
    // Precise to the microsecond for the first centuries.
    #[expect(clippy::cast_precision_loss, reason = "2^53 events are enough")]
    let seconds = number as f64 / rate.max(f64::MIN_POSITIVE);
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_due_at_even_distances() {
        assert_eq!(due_after(0, 200.0), Duration::ZERO);
        assert_eq!(due_after(200, 200.0), Duration::from_secs(1));
        assert_eq!(due_after(1, 0.5), Duration::from_secs(2));
        assert_eq!(due_after(1, 0.0), Duration::MAX);
    }
}
