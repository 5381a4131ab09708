//! How a webhook's deliveries fare lately, in few and bounded looks: what a page about one webhook
//! asks for again and again.

use sqlx::Row as _;
use uuid::Uuid;

use super::{Latency, Range, backlog, latency_of};
use crate::{Store, error::StoreError};

/// Most deliveries that are counted: the newest.
pub const MAX_PULSE: i64 = 2_000;

/// Deliveries whose attempts make the percentiles: the newest.
const TIMED: i64 = 500;

/// The figures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pulse {
    /// Answered 2xx.
    pub delivered: i64,
    /// Given up.
    pub failed: i64,
    /// How long attempts took.
    pub latency: Latency,
    /// What is owed now, whenever it was made: pending, retrying, held.
    pub backlog: (i64, i64, i64),
    /// There are more deliveries than [`MAX_PULSE`].
    pub partial: bool,
}

impl Store {
    /// Measures a webhook's deliveries made from `from` to before `to` (microseconds), tests left
    /// out.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn pulse(
        &self,
        workspace: Uuid,
        webhook: Uuid,
        (from, to): (i64, i64),
    ) -> Result<Pulse, StoreError> {
        let range = Range {
            workspace,
            webhook: Some(webhook),
            from,
            to,
        };
        let mut tx = self.begin_reading().await?;
        // One more than is counted tells that there are more.
        let mut sql = range.window(MAX_PULSE + 1);
        sql.push("SELECT count(*), count(*) FILTER (WHERE state = 'DELIVERED'), count(*) FILTER (WHERE state = 'FAILED') FROM w");
        let counts = sql.build().fetch_one(&mut *tx).await?;
        let pulse = Pulse {
            delivered: counts.try_get(1)?,
            failed: counts.try_get(2)?,
            latency: latency_of(&mut tx, range, TIMED).await?,
            backlog: backlog(&mut tx, range).await?,
            partial: counts.try_get::<i64, _>(0)? > MAX_PULSE,
        };
        tx.commit().await?;
        Ok(pulse)
    }
}
