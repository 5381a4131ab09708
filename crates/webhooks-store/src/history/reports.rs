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
use sqlx::PgConnection;
use uuid::Uuid;
use webhooks_domain::{
    delivery::DeliveryState,
    endpoint::outcome::{FailureClass, Outcome},
    ids::Trigger,
};

use super::{
    AttemptRecord, DeliveryFacts, MAX_REPORTS, ReportRecord,
    standing::Standing,
    tally::{Counted, Tally},
};
use crate::{
    Actor, Store,
    audit::{self, Entry},
    error::StoreError,
    pg::{self, Day, Micros},
};

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
        let mut tx = self.pool.begin().await?;
        store(&mut tx, reports).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Stores the report of a cancellation, and who cancelled, together. Answers whether the delivery
    /// is cancelled now: what was delivered meanwhile stays so, and then there is nothing to write
    /// down.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn cancel_delivery(
        &self,
        report: &ReportRecord,
        actor: &Actor,
    ) -> Result<bool, StoreError> {
        let facts = &report.delivery;
        let mut tx = self.pool.begin().await?;
        let before = state_held(&mut tx, facts).await?;
        store(&mut tx, std::slice::from_ref(report)).await?;
        let after = state_held(&mut tx, facts).await?;
        let cancelled = after == Some(DeliveryState::Cancelled);
        // A dispatcher that has seen the mark may have reported it before: still it was this actor.
        if cancelled && (before != after || !is_written_down(&mut tx, facts).await?) {
            let word = |state: Option<DeliveryState>| {
                state.map(|state| serde_json::json!({ "state": state.as_str() }))
            };
            let entry = Entry {
                workspace: facts.workspace_id,
                actor,
                action: "delivery.cancel",
                subject: &facts.delivery_id.to_string(),
                at: report.at,
                before: word(before),
                after: word(after),
            };
            audit::write(&mut tx, entry).await?;
        }
        tx.commit().await?;
        Ok(cancelled)
    }
}

/// Whether the audit log knows of a cancellation of this delivery.
async fn is_written_down(
    connection: &mut PgConnection,
    facts: &DeliveryFacts,
) -> Result<bool, StoreError> {
    let select = "SELECT EXISTS (SELECT 1 FROM audit_log
        WHERE workspace_id = $1 AND at >= $3 AND subject = $2 AND action = 'delivery.cancel')";
    let known = sqlx::query_scalar(select)
        .bind(facts.workspace_id)
        .bind(facts.delivery_id.to_string())
        .bind(Micros(facts.created_at))
        .fetch_one(connection)
        .await?;
    Ok(known)
}

/// Locks a delivery's row and reads its state; `None` = there is no row.
async fn state_held(
    connection: &mut PgConnection,
    facts: &DeliveryFacts,
) -> Result<Option<DeliveryState>, StoreError> {
    let select =
        "SELECT state FROM deliveries WHERE day = $1 AND id = $2 AND workspace_id = $3 FOR UPDATE";
    let row = sqlx::query(select)
        .bind(Day::of_delivery(facts.delivery_id))
        .bind(facts.delivery_id)
        .bind(facts.workspace_id)
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(|row| pg::word(row, "state")).transpose()
}

/// Stores reports within a transaction.
async fn store(tx: &mut PgConnection, reports: &[ReportRecord]) -> Result<(), StoreError> {
    let (deliveries, attempts) = sorted(reports);
    let mut tally = Tally::default();
    let new_attempts = steps::put_attempts(tx, &attempts).await?;
    let made = steps::make_or_lock(tx, &deliveries).await?;
    let mut changed: BTreeMap<Day, Vec<(Uuid, Standing)>> = BTreeMap::new();
    let mut known = steps::read(tx, deliveries.keys().filter(|(_, id)| !made.contains(id))).await?;
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
        steps::update(tx, *day, rows).await?;
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
    tally.write(tx).await
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
