//! Counters, added up in memory over a batch and written once per webhook and day.
//!
//! They count transitions that the batch's own transaction made, so they always equal what a count
//! over the rows would give. They are the last thing a transaction locks, in the order of their
//! keys.

use std::collections::BTreeMap;

use sqlx::PgConnection;
use uuid::Uuid;
use webhooks_domain::delivery::DeliveryState;

use crate::{
    error::StoreError,
    pg::{Day, Micros},
};

/// Deliveries per state, in the order of [`DeliveryState::ALL`].
type PerState = [i64; DeliveryState::ALL.len()];

/// What a batch changed.
#[derive(Debug, Default)]
pub(super) struct Tally {
    days: BTreeMap<(Uuid, Day), (Uuid, PerState)>,
    webhooks: BTreeMap<Uuid, Totals>,
    events: BTreeMap<(Uuid, Day), i64>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Totals {
    success: i64,
    failure: i64,
    sent_at: Option<i64>,
    delivered_at: Option<i64>,
}

/// A delivery whose state a batch changes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counted {
    pub(super) workspace: Uuid,
    pub(super) webhook: Uuid,
    pub(super) day: Day,
    /// A test: lists show it, the webhook's totals do not.
    pub(super) test: bool,
}

impl Tally {
    /// The delivery went from one state (`None` = it did not exist) to another.
    pub(super) fn moved(&mut self, of: Counted, from: Option<DeliveryState>, to: DeliveryState) {
        if from == Some(to) {
            return;
        }
        let (_, counts) = self
            .days
            .entry((of.webhook, of.day))
            .or_insert((of.workspace, PerState::default()));
        for (state, step) in from.map(|from| (from, -1)).into_iter().chain([(to, 1)]) {
            counts[position(state)] += step;
            let final_ = matches!(state, DeliveryState::Delivered | DeliveryState::Failed);
            if final_ && !of.test {
                let totals = self.webhooks.entry(of.webhook).or_default();
                match state {
                    DeliveryState::Delivered => totals.success += step,
                    _ => totals.failure += step,
                }
            }
        }
    }

    /// An attempt began; `delivered` when it succeeded.
    pub(super) fn sent(&mut self, webhook: Uuid, started_at: i64, delivered: bool) {
        let totals = self.webhooks.entry(webhook).or_default();
        totals.sent_at = totals.sent_at.max(Some(started_at));
        if delivered {
            totals.delivered_at = totals.delivered_at.max(Some(started_at));
        }
    }

    /// A workspace's event was stored for the first time.
    pub(super) fn accepted(&mut self, workspace: Uuid, day: Day) {
        *self.events.entry((workspace, day)).or_default() += 1;
    }

    /// Adds everything to the tables.
    pub(super) async fn write(&self, connection: &mut PgConnection) -> Result<(), StoreError> {
        self.write_events(&mut *connection).await?;
        self.write_days(&mut *connection).await?;
        self.write_webhooks(connection).await
    }

    async fn write_days(&self, connection: &mut PgConnection) -> Result<(), StoreError> {
        if self.days.is_empty() {
            return Ok(());
        }
        let column = |position: usize| -> Vec<i64> {
            self.days
                .values()
                .map(|(_, counts)| counts[position])
                .collect()
        };
        sqlx::query(ADD_DAYS)
            .bind(
                self.days
                    .keys()
                    .map(|(webhook, _)| *webhook)
                    .collect::<Vec<_>>(),
            )
            .bind(self.days.keys().map(|(_, day)| *day).collect::<Vec<_>>())
            .bind(
                self.days
                    .values()
                    .map(|(workspace, _)| *workspace)
                    .collect::<Vec<_>>(),
            )
            .bind(column(0))
            .bind(column(1))
            .bind(column(2))
            .bind(column(3))
            .bind(column(4))
            .bind(column(5))
            .execute(connection)
            .await?;
        Ok(())
    }

    async fn write_events(&self, connection: &mut PgConnection) -> Result<(), StoreError> {
        if self.events.is_empty() {
            return Ok(());
        }
        let keys = || self.events.keys();
        sqlx::query(ADD_EVENTS)
            .bind(keys().map(|(workspace, _)| *workspace).collect::<Vec<_>>())
            .bind(keys().map(|(_, day)| *day).collect::<Vec<_>>())
            .bind(self.events.values().copied().collect::<Vec<_>>())
            .execute(connection)
            .await?;
        Ok(())
    }

    async fn write_webhooks(&self, connection: &mut PgConnection) -> Result<(), StoreError> {
        if self.webhooks.is_empty() {
            return Ok(());
        }
        let totals = || self.webhooks.values();
        sqlx::query(ADD_WEBHOOKS)
            .bind(self.webhooks.keys().copied().collect::<Vec<_>>())
            .bind(totals().map(|t| t.success).collect::<Vec<_>>())
            .bind(totals().map(|t| t.failure).collect::<Vec<_>>())
            .bind(totals().map(|t| t.sent_at.map(Micros)).collect::<Vec<_>>())
            .bind(
                totals()
                    .map(|t| t.delivered_at.map(Micros))
                    .collect::<Vec<_>>(),
            )
            .execute(connection)
            .await?;
        Ok(())
    }
}

/// The place of a state's counter, here and in [`COLUMNS`].
fn position(state: DeliveryState) -> usize {
    DeliveryState::ALL
        .iter()
        .position(|other| *other == state)
        .expect("ALL holds every state")
}

/// The column of `delivery_counts` that counts a state.
pub(super) fn column(state: DeliveryState) -> &'static str {
    COLUMNS[position(state)]
}

/// In the order of [`DeliveryState::ALL`].
const COLUMNS: [&str; DeliveryState::ALL.len()] = [
    "pending",
    "retrying",
    "held",
    "delivered",
    "failed",
    "cancelled",
];

const ADD_DAYS: &str = "
INSERT INTO delivery_counts AS c
  (webhook_id, day, workspace_id, pending, retrying, held, delivered, failed, cancelled)
SELECT * FROM unnest($1::uuid[], $2::date[], $3::uuid[], $4::bigint[], $5::bigint[], $6::bigint[],
  $7::bigint[], $8::bigint[], $9::bigint[])
ON CONFLICT (webhook_id, day) DO UPDATE SET
  pending = c.pending + EXCLUDED.pending,
  retrying = c.retrying + EXCLUDED.retrying,
  held = c.held + EXCLUDED.held,
  delivered = c.delivered + EXCLUDED.delivered,
  failed = c.failed + EXCLUDED.failed,
  cancelled = c.cancelled + EXCLUDED.cancelled";

const ADD_EVENTS: &str = "
INSERT INTO event_counts AS c (workspace_id, day, events)
SELECT * FROM unnest($1::uuid[], $2::date[], $3::bigint[])
ON CONFLICT (workspace_id, day) DO UPDATE SET events = c.events + EXCLUDED.events";

const ADD_WEBHOOKS: &str = "
INSERT INTO webhook_stats AS s
  (webhook_id, success_count, failure_count, last_sent_at, last_delivered_at, changed_by)
SELECT u.*, pg_current_xact_id()
FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::timestamptz[], $5::timestamptz[]) u
ON CONFLICT (webhook_id) DO UPDATE SET
  success_count = s.success_count + EXCLUDED.success_count,
  failure_count = s.failure_count + EXCLUDED.failure_count,
  last_sent_at = greatest(s.last_sent_at, EXCLUDED.last_sent_at),
  last_delivered_at = greatest(s.last_delivered_at, EXCLUDED.last_delivered_at),
  changed_by = EXCLUDED.changed_by";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_counter_has_the_name_of_its_state() {
        for state in DeliveryState::ALL {
            assert_eq!(column(state).to_uppercase(), state.as_str());
        }
    }

    #[test]
    fn a_late_success_moves_one_from_failure_to_success() {
        let mut tally = Tally::default();
        let of = Counted {
            workspace: Uuid::nil(),
            webhook: Uuid::nil(),
            day: Day::FIRST,
            test: false,
        };
        tally.moved(of, Some(DeliveryState::Failed), DeliveryState::Delivered);
        tally.moved(of, Some(DeliveryState::Held), DeliveryState::Held);
        let totals = tally.webhooks[&Uuid::nil()];
        assert_eq!((totals.success, totals.failure), (1, -1));
        assert_eq!(
            tally.days[&(Uuid::nil(), Day::FIRST)].1,
            [0, 0, 0, 1, -1, 0]
        );
    }

    #[test]
    fn a_test_is_listed_and_counts_for_nothing() {
        let mut tally = Tally::default();
        let of = Counted {
            workspace: Uuid::nil(),
            webhook: Uuid::nil(),
            day: Day::FIRST,
            test: true,
        };
        tally.moved(of, Some(DeliveryState::Pending), DeliveryState::Failed);
        assert!(tally.webhooks.is_empty());
        assert_eq!(
            tally.days[&(Uuid::nil(), Day::FIRST)].1,
            [-1, 0, 0, 0, 1, 0]
        );
    }
}
