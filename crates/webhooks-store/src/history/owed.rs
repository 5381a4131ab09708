//! Deliveries that a person asked for: replays and tests.
//!
//! The row and its outbox row commit together, so a wish that was answered is never lost; a pump
//! tells JetStream and removes the outbox row after the acknowledgement. The ids are computed from
//! what was asked, so asking again (or a job's step that ran twice) makes nothing twice.

use bytes::Bytes;
use serde_json::json;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;
use webhooks_domain::{
    delivery::DeliveryState,
    ids::{self, Trigger},
};

use super::{
    DeliveryFacts, DeliveryRow, RenditionRecord, VerdictRecord, events,
    rows::trigger,
    tally::{Counted, Tally},
    verdicts,
};
use crate::{
    Actor, IdempotencyKey, Store,
    audit::{self, Entry},
    error::StoreError,
    idempotency,
    pg::{self, Day, Micros, bigint, storable},
};

/// Who asks, when, and under which key.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// Who.
    pub actor: &'a Actor,
    /// Now, in microseconds.
    pub now: i64,
    /// The idempotency key that the caller holds; it is tied to what is made.
    pub claim: Option<IdempotencyKey<'a>>,
}

/// What came of the wish to replay a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replay {
    /// A new delivery.
    Made(Box<DeliveryRow>),
    /// The workspace has no such delivery.
    Unknown,
    /// Its verdict has not come yet, and with it its body.
    NotYet,
    /// Its payload is past its retention.
    Expired,
}

/// A test to be sent.
#[derive(Debug, Clone)]
pub struct NewTest {
    /// The delivery.
    pub delivery: DeliveryFacts,
    /// The event, when it is made for the test.
    pub event: Option<VerdictRecord>,
    /// The day that holds the event.
    pub event_day: Day,
    /// The event in the webhook's profile.
    pub rendition: RenditionRecord,
    /// The rendered `webhook` object.
    pub snapshot: Vec<u8>,
    /// What the audit log calls it.
    pub action: &'static str,
    /// Tests of the workspace within `window`, at most.
    pub limit: u32,
    /// Microseconds.
    pub window: i64,
}

/// What came of the wish to send a test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TestSend {
    /// A new delivery.
    Made(Box<DeliveryRow>),
    /// The workspace has sent as many as it may, until this moment (microseconds).
    TooMany(i64),
    /// The event's payload is past its retention.
    Expired,
}

/// A delivery that JetStream has yet to hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwedRow {
    /// Its outbox row.
    pub outbox_id: i64,
    /// When it was asked for, in microseconds.
    pub since: i64,
    /// The delivery's facts.
    pub delivery: DeliveryFacts,
    /// The frozen body; `None` when the payload has gone meanwhile.
    pub body: Option<Bytes>,
    /// Where it stands.
    pub state: DeliveryState,
    /// Number of the highest attempt recorded; 0 = none was made.
    pub attempts: u32,
}

/// How long the verdict of an event may be on its way to the tables after a delivery of it was made
/// (microseconds): an hour. After that an event that is not there has gone.
pub(super) const VERDICT_PATIENCE: i64 = 3_600_000_000;

const ORIGIN: &str = "
SELECT d.event_id, d.webhook_id, d.created_at, d.snapshot IS NOT NULL AS told,
  e.event_id IS NOT NULL AS known, coalesce(e.renditions IS NOT NULL, false) AS kept
FROM deliveries d
LEFT JOIN events e ON e.day = coalesce(d.event_day, d.day) AND e.workspace_id = d.workspace_id
  AND e.event_id = d.event_id
WHERE d.day = $1 AND d.id = $2 AND d.workspace_id = $3";

/// The same bytes again: snapshot, rendition and event of the original.
const REPLAY: &str = "
INSERT INTO deliveries (day, id, workspace_id, webhook_id, event_id, event_type, link_id, lbid,
  trigger, created_at, event_seq, state, state_at, snapshot, rendition, event_day, replay_of)
SELECT $4, u.new_id, d.workspace_id, d.webhook_id, d.event_id, d.event_type, d.link_id, d.lbid,
  'REPLAY', $5, d.event_seq, 'PENDING', $5, d.snapshot, d.rendition,
  coalesce(d.event_day, d.day), d.id
FROM unnest($1::date[], $2::uuid[], $3::uuid[]) u(day, id, new_id)
JOIN deliveries d ON d.day = u.day AND d.id = u.id AND d.workspace_id = $6
JOIN events e ON e.day = coalesce(d.event_day, d.day) AND e.workspace_id = d.workspace_id
  AND e.event_id = d.event_id
WHERE d.snapshot IS NOT NULL AND e.renditions IS NOT NULL
ON CONFLICT (day, id) DO NOTHING
RETURNING id, webhook_id";

const MAKE: &str = "
INSERT INTO deliveries (day, id, workspace_id, webhook_id, event_id, event_type, link_id, lbid,
  trigger, created_at, event_seq, state, state_at, snapshot, rendition, event_day)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 'PENDING', $10, $12, $13, $14)
ON CONFLICT (day, id) DO NOTHING
RETURNING id";

const PUSH: &str = "
INSERT INTO delivery_outbox (day, delivery_id, created_at)
SELECT $1, u.id, $3 FROM unnest($2::uuid[]) u(id)";

const NEXT: &str = "
SELECT o.id AS outbox_id, o.created_at AS since, d.id, d.workspace_id, d.webhook_id, d.event_id,
  d.event_type, d.link_id, d.lbid, d.trigger, d.created_at, d.event_seq, d.state, d.snapshot,
  d.attempt_count, d.rendition, e.body_codec, e.renditions
FROM (SELECT * FROM delivery_outbox ORDER BY id LIMIT $1) o
JOIN deliveries d ON d.day = o.day AND d.id = o.delivery_id
LEFT JOIN events e ON e.day = coalesce(d.event_day, d.day) AND e.workspace_id = d.workspace_id
  AND e.event_id = d.event_id
ORDER BY o.id";

/// Takes one of the tests that may be sent, and begins a new window when the last one is over.
const TAKE_TEST: &str = "
INSERT INTO test_sends AS t (workspace_id, window_start, used) VALUES ($1, $2, 1)
ON CONFLICT (workspace_id) DO UPDATE SET
  window_start = CASE WHEN t.window_start <= $3 THEN $2 ELSE t.window_start END,
  used = CASE WHEN t.window_start <= $3 THEN 1 ELSE t.used + 1 END
RETURNING window_start, used";

impl Store {
    /// Makes a new delivery of the same bytes as delivery `id`, which the wish's `replay_key` tells
    /// from others.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the claim is no longer the caller's.
    pub async fn replay_delivery(
        &self,
        workspace: Uuid,
        id: Uuid,
        replay_key: Uuid,
        wish: Wish<'_>,
    ) -> Result<Replay, StoreError> {
        let mut tx = self.pool.begin().await?;
        let origin = sqlx::query(ORIGIN)
            .bind(Day::of_delivery(id))
            .bind(id)
            .bind(workspace)
            .fetch_optional(&mut *tx)
            .await?;
        let Some(origin) = origin else {
            return Ok(Replay::Unknown);
        };
        let known: bool = origin.try_get("known")?;
        let age = wish.now.saturating_sub(pg::micros(&origin, "created_at")?);
        if !origin.try_get::<bool, _>("told")? || (!known && age < VERDICT_PATIENCE) {
            return Ok(Replay::NotYet);
        }
        if !origin.try_get::<bool, _>("kept")? {
            return Ok(Replay::Expired);
        }
        let event: String = origin.try_get("event_id")?;
        let new = ids::replay_delivery_id(
            workspace,
            &event,
            origin.try_get("webhook_id")?,
            replay_key,
            wish.now,
        );
        if let Some(claim) = wish.claim {
            idempotency::bind_subject(&mut tx, claim, new).await?;
        }
        let mut tally = Tally::default();
        replay(&mut tx, workspace, &[(id, new)], wish.now, &mut tally).await?;
        log(&mut tx, workspace, "delivery.retry", id, new, wish).await?;
        tally.write(&mut tx).await?;
        tx.commit().await?;
        self.made(workspace, new).await.map(Replay::Made)
    }

    /// Makes the delivery of a test, and its event when there was none.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the claim is no longer the caller's.
    pub async fn send_test(&self, test: &NewTest, wish: Wish<'_>) -> Result<TestSend, StoreError> {
        let facts = &test.delivery;
        let mut tx = self.pool.begin().await?;
        let taken = sqlx::query(TAKE_TEST)
            .bind(facts.workspace_id)
            .bind(Micros(wish.now))
            .bind(Micros(wish.now.saturating_sub(test.window)))
            .fetch_one(&mut *tx)
            .await?;
        if pg::unsigned(&taken, "used")? > test.limit {
            // Not committed: a refusal takes nothing.
            let from = pg::micros(&taken, "window_start")?;
            return Ok(TestSend::TooMany(from.saturating_add(test.window)));
        }
        if let Some(claim) = wish.claim {
            idempotency::bind_subject(&mut tx, claim, facts.delivery_id).await?;
        }
        if let Some(event) = &test.event {
            verdicts::put_event(&mut tx, event).await?;
        }
        let mut tally = Tally::default();
        let made = owe(
            &mut tx,
            facts,
            test.event_day,
            &test.rendition,
            &test.snapshot,
            &mut tally,
        )
        .await?;
        if made.is_none() {
            return Ok(TestSend::Expired);
        }
        let id = facts.delivery_id;
        log(
            &mut tx,
            facts.workspace_id,
            test.action,
            facts.webhook_id,
            id,
            wish,
        )
        .await?;
        tally.write(&mut tx).await?;
        tx.commit().await?;
        self.made(facts.workspace_id, id).await.map(TestSend::Made)
    }

    async fn made(&self, workspace: Uuid, id: Uuid) -> Result<Box<DeliveryRow>, StoreError> {
        let row = self.get_delivery(workspace, id).await?;
        row.map(|(row, _)| Box::new(row))
            .ok_or(StoreError::NotFound("delivery"))
    }

    /// The oldest deliveries that JetStream has yet to hear of.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn next_owed(&self, limit: u32) -> Result<Vec<OwedRow>, StoreError> {
        let rows = sqlx::query(NEXT)
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(owed_row).collect()
    }

    /// Removes outbox rows whose messages JetStream has. Rows that are gone already are no error.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn done_owed(&self, outbox_ids: &[i64]) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM delivery_outbox WHERE id = ANY($1)")
            .bind(outbox_ids)
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}

/// Makes replays `(original, new id)`; answers how many are new. What has lost its payload is left
/// out, what exists stays.
pub(super) async fn replay(
    connection: &mut PgConnection,
    workspace: Uuid,
    pairs: &[(Uuid, Uuid)],
    now: i64,
    tally: &mut Tally,
) -> Result<u64, StoreError> {
    let day = Day::of_micros(now);
    let made = sqlx::query(REPLAY)
        .bind(
            pairs
                .iter()
                .map(|(id, _)| Day::of_delivery(*id))
                .collect::<Vec<_>>(),
        )
        .bind(pairs.iter().map(|(id, _)| *id).collect::<Vec<_>>())
        .bind(pairs.iter().map(|(_, new)| *new).collect::<Vec<_>>())
        .bind(day)
        .bind(Micros(now))
        .bind(workspace)
        .fetch_all(&mut *connection)
        .await?;
    let mut ids: Vec<Uuid> = Vec::with_capacity(made.len());
    for row in &made {
        ids.push(row.try_get("id")?);
        let counted = Counted {
            workspace,
            webhook: row.try_get("webhook_id")?,
            day,
            test: false,
        };
        tally.moved(counted, None, DeliveryState::Pending);
    }
    push(connection, day, &ids, now).await?;
    Ok(u64::try_from(ids.len()).unwrap_or(0))
}

/// Makes a delivery of an event in `rendition`: whether it is new; `None` when the event is past
/// its retention.
pub(super) async fn owe(
    connection: &mut PgConnection,
    facts: &DeliveryFacts,
    event_day: Day,
    rendition: &RenditionRecord,
    snapshot: &[u8],
    tally: &mut Tally,
) -> Result<Option<bool>, StoreError> {
    let event = (event_day, facts.workspace_id, facts.event_id.as_str());
    let Some(rendition) = events::rendition_of(&mut *connection, event, rendition).await? else {
        return Ok(None);
    };
    let day = Day::of_delivery(facts.delivery_id);
    let made = sqlx::query(MAKE)
        .bind(day)
        .bind(facts.delivery_id)
        .bind(facts.workspace_id)
        .bind(facts.webhook_id)
        .bind(storable(&facts.event_id))
        .bind(storable(&facts.event_type))
        .bind(facts.link_id)
        .bind(storable(&facts.lbid))
        .bind(facts.trigger.api_word())
        .bind(Micros(facts.created_at))
        .bind(bigint(facts.event_seq))
        .bind(snapshot)
        .bind(rendition)
        .bind(event_day)
        .fetch_optional(&mut *connection)
        .await?;
    if made.is_none() {
        return Ok(Some(false));
    }
    let counted = Counted {
        workspace: facts.workspace_id,
        webhook: facts.webhook_id,
        day,
        test: facts.trigger == Trigger::Test,
    };
    tally.moved(counted, None, DeliveryState::Pending);
    push(connection, day, &[facts.delivery_id], facts.created_at).await?;
    Ok(Some(true))
}

async fn push(
    connection: &mut PgConnection,
    day: Day,
    ids: &[Uuid],
    now: i64,
) -> Result<(), StoreError> {
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query(PUSH)
        .bind(day)
        .bind(ids)
        .bind(Micros(now))
        .execute(connection)
        .await?;
    Ok(())
}

async fn log(
    connection: &mut PgConnection,
    workspace: Uuid,
    action: &'static str,
    subject: Uuid,
    delivery: Uuid,
    wish: Wish<'_>,
) -> Result<(), StoreError> {
    let subject = subject.to_string();
    let entry = Entry {
        workspace,
        actor: wish.actor,
        action,
        subject: &subject,
        at: wish.now,
        before: None,
        after: Some(json!({ "deliveryId": delivery })),
    };
    audit::write(connection, entry).await
}

fn owed_row(row: &sqlx::postgres::PgRow) -> Result<OwedRow, StoreError> {
    let snapshot: Option<&[u8]> = row.try_get("snapshot")?;
    let rendition: Option<i32> = row.try_get("rendition")?;
    let renditions = events::renditions(row)?;
    let chosen = rendition
        .and_then(|index| usize::try_from(index).ok())
        .and_then(|index| renditions.get(index));
    let body = chosen
        .zip(snapshot)
        .map(|(one, snapshot)| Bytes::from([one.head.as_ref(), snapshot, &one.tail].concat()));
    Ok(OwedRow {
        outbox_id: row.try_get("outbox_id")?,
        since: pg::micros(row, "since")?,
        delivery: DeliveryFacts {
            delivery_id: row.try_get("id")?,
            workspace_id: row.try_get("workspace_id")?,
            webhook_id: row.try_get("webhook_id")?,
            event_id: row.try_get("event_id")?,
            event_type: row.try_get("event_type")?,
            link_id: row.try_get("link_id")?,
            lbid: row.try_get("lbid")?,
            trigger: trigger(row.try_get("trigger")?)?,
            created_at: pg::micros(row, "created_at")?,
            event_seq: u64::try_from(row.try_get::<i64, _>("event_seq")?)
                .map_err(|error| StoreError::corrupt("event sequence", error))?,
        },
        body,
        state: pg::word(row, "state")?,
        attempts: pg::unsigned(row, "attempt_count")?,
    })
}
