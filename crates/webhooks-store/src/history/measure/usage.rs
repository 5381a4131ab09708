//! What a workspace uses, day by day: sums of the counters, exact at any size.

use sqlx::Row as _;
use uuid::Uuid;

use crate::{Store, error::StoreError, pg::Day};

/// A UTC day of a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsageDay {
    /// When it begins, in microseconds.
    pub start: i64,
    /// Events that were accepted.
    pub events: i64,
    /// Deliveries that were made, tests and replays among them.
    pub deliveries: i64,
    /// Those that arrived.
    pub delivered: i64,
    /// Those that were given up.
    pub failed: i64,
    /// Those that are never to be sent.
    pub cancelled: i64,
    /// Those that are pending, between two attempts or held.
    pub open: i64,
}

const DAYS: &str = "
WITH d AS (
  SELECT day, sum(pending + retrying + held)::bigint AS open, sum(delivered)::bigint AS delivered,
    sum(failed)::bigint AS failed, sum(cancelled)::bigint AS cancelled
  FROM delivery_counts WHERE workspace_id = $1 AND day BETWEEN $2 AND $3 GROUP BY day
)
SELECT days.day::date AS day, coalesce(e.events, 0) AS events, coalesce(d.open, 0) AS open,
  coalesce(d.delivered, 0) AS delivered, coalesce(d.failed, 0) AS failed,
  coalesce(d.cancelled, 0) AS cancelled
FROM generate_series($2::date, $3::date, '1 day'::interval) AS days(day)
LEFT JOIN event_counts e ON e.workspace_id = $1 AND e.day = days.day::date
LEFT JOIN d ON d.day = days.day::date
ORDER BY days.day";

impl Store {
    /// The days from `first` to `last`, both included, oldest first; those without anything too. How
    /// many there may be is the caller's to say.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn usage(
        &self,
        workspace: Uuid,
        first: Day,
        last: Day,
    ) -> Result<Vec<UsageDay>, StoreError> {
        let rows = sqlx::query(DAYS)
            .bind(workspace)
            .bind(first)
            .bind(last)
            .fetch_all(&self.pool)
            .await?;
        rows.iter()
            .map(|row| {
                let day: Day = row.try_get("day")?;
                let (open, delivered) = (row.try_get("open")?, row.try_get("delivered")?);
                let (failed, cancelled) = (row.try_get("failed")?, row.try_get("cancelled")?);
                Ok(UsageDay {
                    start: day.start(),
                    events: row.try_get("events")?,
                    deliveries: open + delivered + failed + cancelled,
                    delivered,
                    failed,
                    cancelled,
                    open,
                })
            })
            .collect()
    }
}
