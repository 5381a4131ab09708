//! Stored deliveries and attempts, as they are shown.

use sqlx::{Row as _, postgres::PgRow};
use uuid::Uuid;
use webhooks_domain::{delivery::DeliveryState, endpoint::outcome::FailureClass, ids::Trigger};

use super::{AttemptRecord, Timings, codec, headers};
use crate::{error::StoreError, pg};

/// A stored delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryRow {
    /// Its id.
    pub id: Uuid,
    /// Whose it is.
    pub workspace_id: Uuid,
    /// To which webhook.
    pub webhook_id: Uuid,
    /// Of which event.
    pub event_id: String,
    /// `step.completed`.
    pub event_type: String,
    /// The link the event is about.
    pub link_id: Option<Uuid>,
    /// The journey's key.
    pub lbid: String,
    /// What made it.
    pub trigger: Trigger,
    /// Where it stands.
    pub state: DeliveryState,
    /// Attempts made.
    pub attempt_count: u32,
    /// When the next attempt is due, in microseconds.
    pub next_attempt_at: Option<i64>,
    /// When its event was accepted, in microseconds.
    pub created_at: i64,
    /// When it ended, in microseconds.
    pub completed_at: Option<i64>,
    /// Status of the newest answer (the successful one, once delivered).
    pub last_status_code: Option<u16>,
    /// What went wrong last; `None` once delivered.
    pub last_error_class: Option<FailureClass>,
    /// Why; `None` once delivered.
    pub last_error_reason: Option<String>,
    /// The event's place on the EVENTS stream.
    pub event_seq: u64,
    /// The delivery that this one repeats.
    pub replay_of: Option<Uuid>,
    /// Why it is in its state where no attempt tells, a machine word such as `hold_expired`.
    pub state_reason: Option<String>,
    /// The failing delivery of its key that it was found to wait for, while it waits.
    pub blocked_by: Option<Uuid>,
}

impl DeliveryRow {
    pub(super) fn of(row: &PgRow) -> Result<Self, StoreError> {
        let state: DeliveryState = pg::word(row, "state")?;
        let failed = state != DeliveryState::Delivered;
        let class: Option<FailureClass> = pg::optional_word(row, "last_error_class")?;
        let reason: Option<String> = row.try_get("last_error_reason")?;
        Ok(Self {
            id: row.try_get("id")?,
            workspace_id: row.try_get("workspace_id")?,
            webhook_id: row.try_get("webhook_id")?,
            event_id: row.try_get("event_id")?,
            event_type: row.try_get("event_type")?,
            link_id: row.try_get("link_id")?,
            lbid: row.try_get("lbid")?,
            trigger: trigger(row.try_get("trigger")?)?,
            state,
            attempt_count: pg::unsigned(row, "attempt_count")?,
            next_attempt_at: pg::optional_micros(row, "next_attempt_at")?,
            created_at: pg::micros(row, "created_at")?,
            completed_at: pg::optional_micros(row, "completed_at")?,
            last_status_code: status(row, "last_status_code")?,
            last_error_class: class.filter(|_| failed),
            last_error_reason: reason.filter(|_| failed),
            event_seq: u64::try_from(row.try_get::<i64, _>("event_seq")?)
                .map_err(|error| StoreError::corrupt("event sequence", error))?,
            replay_of: row.try_get("replay_of")?,
            state_reason: row.try_get("state_reason")?,
            blocked_by: row
                .try_get::<Option<Uuid>, _>("waits_for")?
                .filter(|_| !state.is_terminal()),
        })
    }
}

impl AttemptRecord {
    pub(super) fn of(row: &PgRow) -> Result<Self, StoreError> {
        let text: &str = row.try_get("response_headers")?;
        let body: &[u8] = row.try_get("response_body")?;
        Ok(Self {
            number: pg::unsigned(row, "number")?,
            execution_id: row.try_get("execution_id")?,
            started_at: pg::micros(row, "started_at")?,
            outcome: pg::word(row, "outcome")?,
            class: pg::optional_word(row, "class")?,
            status_code: status(row, "status_code")?,
            timings: Timings {
                dns_us: duration(row, "dns_us")?,
                connect_us: duration(row, "connect_us")?,
                tls_us: duration(row, "tls_us")?,
                first_byte_us: duration(row, "first_byte_us")?,
                total_us: duration(row, "total_us")?,
            },
            response_headers: headers::read(text),
            response_body: codec::unpack(row.try_get("body_codec")?, body)?,
            response_body_truncated: row.try_get("response_body_truncated")?,
            error: row.try_get("error")?,
            remote_ip: row.try_get("remote_ip")?,
            dispatcher: row.try_get("dispatcher")?,
        })
    }
}

pub(super) fn trigger(word: &str) -> Result<Trigger, StoreError> {
    [Trigger::Event, Trigger::Replay, Trigger::Test]
        .into_iter()
        .find(|trigger| trigger.api_word() == word)
        .ok_or_else(|| StoreError::corrupt("trigger", format!("unknown word {word:?}")))
}

fn status(row: &PgRow, column: &'static str) -> Result<Option<u16>, StoreError> {
    let status: Option<i32> = row.try_get(column)?;
    status
        .map(u16::try_from)
        .transpose()
        .map_err(|error| StoreError::corrupt(column, error))
}

fn duration(row: &PgRow, column: &'static str) -> Result<Option<u32>, StoreError> {
    let micros: Option<i32> = row.try_get(column)?;
    micros
        .map(u32::try_from)
        .transpose()
        .map_err(|error| StoreError::corrupt(column, error))
}
