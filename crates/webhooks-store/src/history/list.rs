//! One delivery: its attempts and its body.

use bytes::Bytes;
use sqlx::Row as _;
use uuid::Uuid;

use super::{AttemptRecord, DeliveryRow, MAX_ATTEMPTS_SHOWN, codec};
use crate::{Store, error::StoreError, pg::Day};

const ONE: &str = "
SELECT id, workspace_id, webhook_id, event_id, event_type, link_id, lbid, trigger, state,
  attempt_count, next_attempt_at, created_at, completed_at, last_status_code, last_error_class,
  last_error_reason, event_seq, replay_of, state_reason, waits_for
FROM deliveries WHERE day = $1 AND id = $2 AND workspace_id = $3";

const ATTEMPTS: &str = "
SELECT number, execution_id, started_at, outcome, class, status_code, dns_us, connect_us, tls_us,
  first_byte_us, total_us, response_headers, body_codec, response_body, response_body_truncated,
  error, remote_ip, dispatcher
FROM attempts WHERE day = $1 AND delivery_id = $2 AND workspace_id = $3
ORDER BY number, started_at, execution_id LIMIT $4";

const BODY: &str = "
SELECT d.snapshot, d.rendition, e.body_codec, e.renditions FROM deliveries d
JOIN events e ON e.day = coalesce(d.event_day, d.day) AND e.workspace_id = d.workspace_id
  AND e.event_id = d.event_id
WHERE d.day = $1 AND d.id = $2 AND d.workspace_id = $3
  AND d.snapshot IS NOT NULL AND e.renditions IS NOT NULL";

const WHOSE: &str = "SELECT workspace_id FROM deliveries WHERE day = $1 AND id = $2";

impl Store {
    /// The workspace that a delivery belongs to: for operators, who ask by its id alone.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn workspace_of_delivery(&self, id: Uuid) -> Result<Option<Uuid>, StoreError> {
        let workspace = sqlx::query_scalar(WHOSE)
            .bind(Day::of_delivery(id))
            .bind(id)
            .fetch_optional(&self.pool)
            .await?;
        Ok(workspace)
    }

    /// The workspace's delivery of this id with its attempts in order (at most
    /// [`MAX_ATTEMPTS_SHOWN`]); another workspace's is not found.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn get_delivery(
        &self,
        workspace: Uuid,
        id: Uuid,
    ) -> Result<Option<(DeliveryRow, Vec<AttemptRecord>)>, StoreError> {
        let day = Day::of_delivery(id);
        let mut tx = self.begin_reading().await?;
        let delivery = sqlx::query(ONE)
            .bind(day)
            .bind(id)
            .bind(workspace)
            .fetch_optional(&mut *tx)
            .await?;
        let Some(delivery) = delivery else {
            return Ok(None);
        };
        let attempts = sqlx::query(ATTEMPTS)
            .bind(day)
            .bind(id)
            .bind(workspace)
            .bind(i64::from(MAX_ATTEMPTS_SHOWN))
            .fetch_all(&mut *tx)
            .await?;
        tx.commit().await?;
        let attempts: Result<_, _> = attempts.iter().map(AttemptRecord::of).collect();
        Ok(Some((DeliveryRow::of(&delivery)?, attempts?)))
    }

    /// The body of a delivery, byte for byte as it was sent; `None` when the workspace has no such
    /// delivery or its verdict has not come.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the parts do not fit together.
    pub async fn delivery_body(
        &self,
        workspace: Uuid,
        id: Uuid,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let row = sqlx::query(BODY)
            .bind(Day::of_delivery(id))
            .bind(id)
            .bind(workspace)
            .fetch_optional(&self.pool)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let renditions = codec::unpack(row.try_get("body_codec")?, row.try_get("renditions")?)?;
        let renditions = codec::unframe(renditions)?;
        let rendition = usize::try_from(row.try_get::<i32, _>("rendition")?)
            .ok()
            .and_then(|index| renditions.get(index))
            .ok_or_else(|| StoreError::corrupt("rendition", "the event has none of this number"))?;
        let snapshot: &[u8] = row.try_get("snapshot")?;
        let parts: [&Bytes; 2] = [&rendition.head, &rendition.tail];
        Ok(Some(
            [parts[0].as_ref(), snapshot, parts[1].as_ref()].concat(),
        ))
    }
}
