//! What is recorded of deliveries by their ids alone: a dispatcher that meets a delivery for the
//! second time asks before it sends.

use std::collections::BTreeMap;

use sqlx::Row as _;
use uuid::Uuid;
use webhooks_domain::delivery::DeliveryState;

use super::MAX_REPORTS;
use crate::{
    Store,
    error::StoreError,
    pg::{self, Day},
};

/// How far a delivery has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordedDelivery {
    /// Which.
    pub id: Uuid,
    /// Where it stands.
    pub state: DeliveryState,
    /// Number of the highest attempt recorded.
    pub attempts: u32,
    /// When the next one is due, in microseconds.
    pub next_attempt_at: Option<i64>,
}

/// The ids tell the days, so a statement per day looks into one partition.
const RECORDED: &str = "SELECT id, state, attempt_count, next_attempt_at FROM deliveries WHERE day = $1 AND id = ANY($2)";

impl Store {
    /// What is recorded of these deliveries (at most [`MAX_REPORTS`]), of every workspace; unknown
    /// ones are left out. For our own services only.
    ///
    /// # Errors
    /// [`StoreError::BatchTooLarge`], or the database fails.
    pub async fn recorded(&self, ids: &[Uuid]) -> Result<Vec<RecordedDelivery>, StoreError> {
        if ids.len() > MAX_REPORTS {
            return Err(StoreError::BatchTooLarge {
                given: ids.len(),
                limit: MAX_REPORTS,
            });
        }
        let mut days: BTreeMap<Day, Vec<Uuid>> = BTreeMap::new();
        for id in ids {
            days.entry(Day::of_delivery(*id)).or_default().push(*id);
        }
        let mut found = Vec::with_capacity(ids.len());
        for (day, ids) in days {
            let rows = sqlx::query(RECORDED)
                .bind(day)
                .bind(ids)
                .fetch_all(&self.pool)
                .await?;
            for row in rows {
                found.push(RecordedDelivery {
                    id: row.try_get("id")?,
                    state: pg::word(&row, "state")?,
                    attempts: pg::unsigned(&row, "attempt_count")?,
                    next_attempt_at: pg::optional_micros(&row, "next_attempt_at")?,
                });
            }
        }
        Ok(found)
    }
}
