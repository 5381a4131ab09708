//! Looking for the verdict of an event that is old.
//!
//! VERDICTS remembers ids for six hours (longer would cost the server some 200 bytes for each event), and
//! EVENTS keeps events for a week. An event that is handled again after more than six hours would
//! draw a second verdict: under the same delivery ids, but with the bodies of today. So the first one is
//! looked for by its id, where it must lie: soon after the event was accepted. That is one short read
//! also when fan-out works off the backlog of a long outage, in which nothing lies there. What was handed
//! over before, or is offered again, is looked for in all that came later.

use webhooks_bus::{CLOCK_TOLERANCE, ReadFrom, headers, names, subjects, topology::VERDICT_WINDOW};

use super::{Fanout, verdict_id};
use crate::{event::AcceptedEvent, publisher::NotPublished};

/// How long after its acceptance an event's verdict is drawn up, unless fan-out was away.
const SOON_MICROS: i64 = 10 * 60 * 1_000_000;

/// Verdicts read at a time.
const BATCH: usize = 64;

/// Verdicts of a workspace that are read for one event at most; beyond, its dispatcher finds out what was
/// delivered.
const MOST_READ: usize = 100_000;

/// Whether the event's verdict, if it has one, may have an id that is not remembered any more.
pub(super) fn is_old(event: &AcceptedEvent, now: i64) -> bool {
    let window = micros(VERDICT_WINDOW) - SOON_MICROS;
    now.saturating_sub(event.accepted_at) > window
}

/// When the last verdict was stored that is looked at; `None` = all are.
fn until(event: &AcceptedEvent, handed_over: u64) -> Option<i64> {
    (handed_over <= 1 && !event.again).then_some(event.accepted_at + SOON_MICROS)
}

fn micros(length: std::time::Duration) -> i64 {
    i64::try_from(length.as_micros()).unwrap_or(i64::MAX / 2)
}

impl Fanout {
    /// The place of part 0 of the event's verdict.
    pub(super) async fn search(
        &self,
        event: &AcceptedEvent,
        handed_over: u64,
    ) -> Result<Option<u64>, NotPublished> {
        let id = verdict_id(event, "0");
        let until = until(event, handed_over);
        let subject = subjects::verdict(event.workspace);
        let mut from = ReadFrom::Micros(event.accepted_at - micros(CLOCK_TOLERANCE));
        let (mut read, mut failures) = (0, 0_u32);
        while read < MOST_READ {
            let batch = match self
                .bus
                .get_batch(names::VERDICTS, &subject, from, BATCH)
                .await
            {
                Ok(batch) => batch,
                Err(error) => {
                    failures = failures.saturating_add(1);
                    tracing::debug!(event.seq = event.seq, %error, failures, "verdicts are read again");
                    self.publisher.pause(failures).await?;
                    continue;
                }
            };
            let Some(last) = batch.last() else {
                return Ok(None);
            };
            from = ReadFrom::Seq(last.seq + 1);
            read += batch.len();
            for verdict in &batch {
                if until.is_some_and(|until| verdict.published_micros > until) {
                    return Ok(None);
                }
                if verdict.header(headers::MSG_ID) == Some(&*id) {
                    return Ok(Some(verdict.seq));
                }
            }
        }
        tracing::warn!(
            event.seq = event.seq,
            read,
            "the verdict of an old event is not found"
        );
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::tests::event;

    fn accepted(accepted_at: i64, again: bool) -> AcceptedEvent {
        AcceptedEvent {
            accepted_at,
            again,
            ..event()
        }
    }

    #[test]
    fn only_what_its_id_may_have_outlived_is_looked_for() {
        let now = 1_800_000_000_000_000;
        let hours = |hours: i64| now - hours * 3_600_000_000;
        for (accepted_at, old) in [(now, false), (hours(5), false), (hours(6), true)] {
            assert_eq!(is_old(&accepted(accepted_at, false), now), old);
        }
    }

    #[test]
    fn a_first_run_is_looked_for_at_one_place_and_a_second_one_everywhere() {
        assert_eq!(until(&accepted(5, false), 1), Some(5 + SOON_MICROS));
        assert_eq!(until(&accepted(5, false), 2), None);
        assert_eq!(until(&accepted(5, true), 1), None);
    }
}
