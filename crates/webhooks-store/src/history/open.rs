//! Deliveries that are still open, for whoever looks whether something is owed for them.
//!
//! No index knows what is open: it would be written with every delivery twice. So each delivery is
//! looked at once, at a certain age and in the order of the key; the few that are open by then are
//! watched in a table of their own until they end.

use sqlx::{Row as _, postgres::PgRow};
use uuid::Uuid;
use webhooks_domain::delivery::DeliveryState;

use crate::{
    Store,
    error::StoreError,
    pg::{self, Day, Micros},
};

/// When so many deliveries are watched, no more are taken; further ones are looked at when there is room.
pub const MAX_WATCHED: i64 = 100_000;

/// A delivery that is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchedDelivery {
    /// Its id.
    pub id: Uuid,
    /// To which webhook.
    pub webhook_id: Uuid,
    /// Where it stands.
    pub state: DeliveryState,
    /// Since when, in microseconds.
    pub state_at: i64,
    /// When its next attempt is due, in microseconds.
    pub next_attempt_at: Option<i64>,
    /// Its message was missing while the row said this (`state_at`).
    pub missing_at: Option<i64>,
}

const WATCH: &str = "
INSERT INTO repair_watch (day, delivery_id, check_at)
SELECT day, id, greatest(coalesce(next_attempt_at, $4), $4) FROM deliveries
WHERE day BETWEEN $1 AND $2 AND id >= $3 AND id < $5
  AND state IN ('PENDING', 'RETRYING', 'HELD')
ON CONFLICT DO NOTHING";

const DUE: &str = "
SELECT w.delivery_id AS id, w.missing_at, d.webhook_id, d.state, d.state_at, d.next_attempt_at
FROM (SELECT * FROM repair_watch WHERE check_at <= $1 ORDER BY check_at LIMIT $2) w
JOIN deliveries d ON d.day = w.day AND d.id = w.delivery_id";

impl Store {
    /// Watches the open ones among the deliveries made between two moments (milliseconds since the
    /// epoch): looked at from `check_at` (microseconds), or when their next attempt is due. `None` =
    /// [`MAX_WATCHED`] are watched already, and of these none is: ask again for the same ones.
    ///
    /// # Errors
    /// Postgres cannot be asked.
    pub async fn watch_open(
        &self,
        from_millis: i64,
        to_millis: i64,
        check_at: i64,
    ) -> Result<Option<u64>, StoreError> {
        let watched: i64 = sqlx::query_scalar("SELECT count(*) FROM repair_watch")
            .fetch_one(&self.pool)
            .await?;
        if watched >= MAX_WATCHED {
            return Ok(None);
        }
        let done = sqlx::query(WATCH)
            .bind(Day::of_micros(from_millis.saturating_mul(1_000)))
            .bind(Day::of_micros(to_millis.saturating_mul(1_000)))
            .bind(first_id(from_millis))
            .bind(Micros(check_at))
            .bind(first_id(to_millis))
            .execute(&self.pool)
            .await?;
        Ok(Some(done.rows_affected()))
    }

    /// Deliveries that are to be looked at, at most `limit`.
    ///
    /// # Errors
    /// Postgres cannot be asked.
    pub async fn due_watched(
        &self,
        now: i64,
        limit: i64,
    ) -> Result<Vec<WatchedDelivery>, StoreError> {
        let rows = sqlx::query(DUE)
            .bind(Micros(now))
            .bind(limit)
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(watched).collect()
    }

    /// Looks at a delivery again at `check_at`; `missing_at` = its message was missing in this state.
    ///
    /// # Errors
    /// Postgres cannot be asked.
    pub async fn watch_again(
        &self,
        id: Uuid,
        check_at: i64,
        missing_at: Option<i64>,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE repair_watch SET check_at = $3, missing_at = $4 WHERE day = $1 AND delivery_id = $2",
        )
        .bind(Day::of_delivery(id))
        .bind(id)
        .bind(Micros(check_at))
        .bind(missing_at.map(Micros))
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// A delivery has ended, or its row has gone: it is watched no more. Also drops what retention
    /// took.
    ///
    /// # Errors
    /// Postgres cannot be asked.
    pub async fn unwatch(&self, ids: &[Uuid], now: i64) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM repair_watch WHERE delivery_id = ANY($1) OR day < $2")
            .bind(ids)
            .bind(Day::of_micros(now).plus(-60))
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Owes a delivery anew: the pump publishes a message for it, and the dispatcher looks at what is
    /// recorded before it sends (the outbox row is dated back, which asks for that). Only while the row still says `state_at`.
    ///
    /// # Errors
    /// Postgres cannot be asked.
    pub async fn owe_again(&self, id: Uuid, state_at: i64) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "INSERT INTO delivery_outbox (day, delivery_id, created_at)
SELECT day, id, created_at - interval '1 day' FROM deliveries WHERE day = $1 AND id = $2 AND state_at = $3
  AND state IN ('PENDING', 'RETRYING', 'HELD') AND snapshot IS NOT NULL",
        )
        .bind(Day::of_delivery(id))
        .bind(id)
        .bind(Micros(state_at))
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected() > 0)
    }
}

/// The least id of a delivery made in that millisecond.
fn first_id(millis: i64) -> Uuid {
    let millis = u64::try_from(millis).unwrap_or(0).min((1 << 48) - 1);
    Uuid::from_u128(u128::from(millis) << 80)
}

fn watched(row: &PgRow) -> Result<WatchedDelivery, StoreError> {
    let time =
        |column| Ok::<_, StoreError>(row.try_get::<Option<Micros>, _>(column)?.map(|at| at.0));
    Ok(WatchedDelivery {
        id: row.try_get("id")?,
        webhook_id: row.try_get("webhook_id")?,
        state: pg::word(row, "state")?,
        state_at: pg::micros(row, "state_at")?,
        next_attempt_at: time("next_attempt_at")?,
        missing_at: time("missing_at")?,
    })
}

#[cfg(test)]
mod tests {
    use super::first_id;

    #[test]
    fn ids_of_later_milliseconds_are_greater() {
        let id = first_id(1_763_935_200_123);
        assert_eq!(webhooks_domain::ids::millis_of(id), 1_763_935_200_123);
        assert!(first_id(1_763_935_200_124) > id);
        assert_eq!(first_id(-1).as_u128(), 0);
    }
}
