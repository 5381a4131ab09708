//! Counters per webhook, and which of them changed.
//!
//! The cursor is a transaction id, not a time: a row carries the id of the transaction that wrote
//! it last, and a reader continues from the oldest transaction that was still open when it read.
//! So a change that commits late is never missed, and a row may come twice.

use futures::TryStreamExt as _;
use sqlx::Row as _;
use uuid::Uuid;

use crate::{Store, error::StoreError, pg};

/// Where a reader of changed counters stands. The default reads everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StatsCursor(i64);

/// A webhook's counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatsRow {
    /// The webhook.
    pub webhook_id: Uuid,
    /// Deliveries that succeeded.
    pub success_count: i64,
    /// Deliveries that finally failed.
    pub failure_count: i64,
    /// When the newest attempt began, in microseconds.
    pub last_sent_at: Option<i64>,
    /// When the newest successful attempt began, in microseconds.
    pub last_delivered_at: Option<i64>,
}

/// The table is small (a row per webhook) and read every few seconds: a scan costs less than an
/// index on `changed_by`, which would cost every batch of reports its in-place updates.
const CHANGED: &str = "
SELECT s.webhook_id, s.success_count, s.failure_count, s.last_sent_at, s.last_delivered_at
FROM webhook_stats s JOIN webhooks w ON w.id = s.webhook_id
WHERE s.changed_by >= $1::bigint::text::xid8";

impl Store {
    /// The counters of living webhooks that changed since `cursor`, and where to go on.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn stats_changed_since(
        &self,
        cursor: StatsCursor,
    ) -> Result<(Vec<StatsRow>, StatsCursor), StoreError> {
        // Read before the rows: what is still open here and commits before the rows are read comes
        // twice rather than never.
        let oldest_open = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint";
        let next: i64 = sqlx::query_scalar(oldest_open)
            .fetch_one(&self.pool)
            .await?;
        // One by one: a hundred thousand rows as they come take several times what they become.
        let mut found = sqlx::query(CHANGED).bind(cursor.0).fetch(&self.pool);
        let mut rows = Vec::new();
        while let Some(row) = found.try_next().await? {
            rows.push(StatsRow {
                webhook_id: row.try_get("webhook_id")?,
                success_count: row.try_get("success_count")?,
                failure_count: row.try_get("failure_count")?,
                last_sent_at: pg::optional_micros(&row, "last_sent_at")?,
                last_delivered_at: pg::optional_micros(&row, "last_delivered_at")?,
            });
        }
        Ok((rows, StatsCursor(next)))
    }
}
