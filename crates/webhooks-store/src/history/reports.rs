//! Reports: the hot path, thousands a second in batches.
//!
//! A batch is one transaction. When its deliveries are of one day, as they mostly are, it has six
//! statements; each further day adds two.
//!
//! 1. the attempts, which never change;
//! 2. the deliveries: those that are new are made as the batch tells of them; those that exist are
//!    locked, not written. One statement takes every lock, in the order of the key, so batches wait
//!    for each other in a line and never in a circle;
//! 3. what is stored of those that existed, which nobody else can change any more;
//! 4. the merged rows of those for which the batch had news;
//! 5. the counters, by the transitions that steps 2 and 4 made.

use std::collections::BTreeMap;

use bytes::Bytes;
use uuid::Uuid;
use webhooks_domain::{
    endpoint::outcome::{FailureClass, Outcome},
    ids::Trigger,
};

use super::{
    AttemptRecord, DeliveryFacts, MAX_REPORTS, ReportRecord,
    standing::Standing,
    tally::{Counted, Tally},
};
use crate::{Store, error::StoreError, pg::Day};

mod sql;
mod steps;

/// What a batch says of one delivery.
struct Told<'a> {
    facts: &'a DeliveryFacts,
    standing: Standing,
    snapshot: Option<&'a (Bytes, u32)>,
}

type Deliveries<'a> = BTreeMap<(Day, Uuid), Told<'a>>;
type AttemptKey = (Day, Uuid, u32, Uuid);
type Attempts<'a> = BTreeMap<AttemptKey, (&'a DeliveryFacts, &'a AttemptRecord)>;

impl Store {
    /// Stores reports, in one transaction. Idempotent and indifferent to order: after the same
    /// reports, in whatever order, batches and number of repetitions, rows and counters are the
    /// same.
    ///
    /// # Errors
    /// [`StoreError::BatchTooLarge`] beyond [`MAX_REPORTS`].
    pub async fn record_reports(&self, reports: &[ReportRecord]) -> Result<(), StoreError> {
        if reports.len() > MAX_REPORTS {
            return Err(StoreError::BatchTooLarge {
                given: reports.len(),
                limit: MAX_REPORTS,
            });
        }
        if reports.is_empty() {
            return Ok(());
        }
        let (deliveries, attempts) = sorted(reports);
        let mut tally = Tally::default();
        let mut tx = self.pool.begin().await?;
        let new_attempts = steps::put_attempts(&mut tx, &attempts).await?;
        let made = steps::make_or_lock(&mut tx, &deliveries).await?;
        let mut changed: BTreeMap<Day, Vec<(Uuid, Standing)>> = BTreeMap::new();
        let mut known = steps::read(
            &mut tx,
            deliveries.keys().filter(|(_, id)| !made.contains(id)),
        )
        .await?;
        for ((day, id), told) in &deliveries {
            let of = Counted {
                workspace: told.facts.workspace_id,
                webhook: told.facts.webhook_id,
                day: *day,
                test: told.facts.trigger == Trigger::Test,
            };
            let Some(before) = known.remove(id) else {
                tally.moved(of, None, told.standing.progress.state);
                continue;
            };
            let after = before.clone().merged(told.standing.clone());
            if after != before {
                tally.moved(of, Some(before.progress.state), after.progress.state);
                changed.entry(*day).or_default().push((*id, after));
            }
        }
        for (day, rows) in &changed {
            steps::update(&mut tx, *day, rows).await?;
        }
        if new_attempts > 0 {
            for (facts, attempt) in attempts.values() {
                if attempt.class != Some(FailureClass::Ours) && facts.trigger != Trigger::Test {
                    tally.sent(
                        facts.webhook_id,
                        attempt.started_at,
                        attempt.outcome == Outcome::Success,
                    );
                }
            }
        }
        tally.write(&mut tx).await?;
        tx.commit().await?;
        Ok(())
    }
}

/// Each delivery and each execution once, in the order of their keys.
fn sorted(reports: &[ReportRecord]) -> (Deliveries<'_>, Attempts<'_>) {
    let mut deliveries = Deliveries::new();
    let mut attempts = Attempts::new();
    for report in reports {
        let facts = &report.delivery;
        let day = Day::of_delivery(facts.delivery_id);
        let standing = Standing::of(report);
        deliveries
            .entry((day, facts.delivery_id))
            .and_modify(|told| {
                told.standing = told.standing.clone().merged(standing.clone());
                told.snapshot = told.snapshot.or(report.snapshot.as_ref());
            })
            .or_insert(Told {
                facts,
                standing,
                snapshot: report.snapshot.as_ref(),
            });
        if let Some(attempt) = &report.attempt {
            let key = (
                day,
                facts.delivery_id,
                attempt.number.max(1),
                attempt.execution_id,
            );
            attempts.entry(key).or_insert((facts, attempt));
        }
    }
    (deliveries, attempts)
}
