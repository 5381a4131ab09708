//! What the tables miss of what the streams hold.

use sqlx::Row as _;

use crate::{
    Store,
    error::StoreError,
    pg::{Day, bigint},
};

/// Most places on the EVENTS stream that one look compares.
pub const MAX_COMPARED: u64 = 20_000;

/// Most missing places that one look names.
pub const MAX_NAMED: usize = 1_000;

const UNRECORDED: &str = "
SELECT seq FROM generate_series($1::bigint, $2::bigint) AS all_of_them(seq)
EXCEPT SELECT event_seq FROM events WHERE day >= $3 AND event_seq BETWEEN $1 AND $2
ORDER BY seq LIMIT $4";

impl Store {
    /// The places on EVENTS, from `first` to `last`, of which no event is recorded since the day
    /// `since`; the first [`MAX_NAMED`] of them.
    ///
    /// # Errors
    /// [`StoreError::BatchTooLarge`] beyond [`MAX_COMPARED`].
    pub async fn unrecorded_events(
        &self,
        first: u64,
        last: u64,
        since: Day,
    ) -> Result<Vec<u64>, StoreError> {
        let given = last.saturating_sub(first).saturating_add(1);
        if given > MAX_COMPARED {
            return Err(StoreError::BatchTooLarge {
                given: usize::try_from(given).unwrap_or(usize::MAX),
                limit: usize::try_from(MAX_COMPARED).unwrap_or(usize::MAX),
            });
        }
        let rows = sqlx::query(UNRECORDED)
            .bind(bigint(first))
            .bind(bigint(last))
            .bind(since)
            .bind(i64::try_from(MAX_NAMED).unwrap_or(i64::MAX))
            .fetch_all(&self.pool)
            .await?;
        rows.iter()
            .map(|row| {
                let seq: i64 = row.try_get("seq")?;
                Ok(u64::try_from(seq).unwrap_or(0))
            })
            .collect()
    }

    /// How far a check has come; `None` = it has never run.
    ///
    /// # Errors
    /// Postgres cannot be asked.
    pub async fn repair_position(&self, what: &str) -> Result<Option<u64>, StoreError> {
        let row = sqlx::query("SELECT position FROM repair_progress WHERE what = $1")
            .bind(what)
            .fetch_optional(&self.pool)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let position: i64 = row.try_get("position")?;
        Ok(u64::try_from(position).ok())
    }

    /// Notes how far a check has come. It never goes back, whichever of several checkers is slower.
    ///
    /// # Errors
    /// Postgres cannot be asked.
    pub async fn set_repair_position(&self, what: &str, position: u64) -> Result<(), StoreError> {
        let note = "INSERT INTO repair_progress AS p (what, position) VALUES ($1, $2)
ON CONFLICT (what) DO UPDATE SET position = EXCLUDED.position WHERE p.position < EXCLUDED.position";
        sqlx::query(note)
            .bind(what)
            .bind(bigint(position))
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}
