//! Verdicts: events, once, and the deliveries they owe.

use std::collections::{BTreeMap, HashSet};

use sqlx::{PgConnection, Row as _, postgres::PgRow};
use uuid::Uuid;
use webhooks_domain::{delivery::DeliveryState, ids::Trigger};

use super::{
    MAX_VERDICT_DELIVERIES, MAX_VERDICTS, VerdictDelivery, VerdictRecord, codec,
    standing::Standing,
    tally::{Counted, Tally},
};
use crate::{
    Store,
    error::StoreError,
    pg::{self, Day, Micros, bigint, int, storable},
};

/// Most rows of one statement: keeps one statement's parameters to a few megabytes.
const ROWS_A_STATEMENT: usize = 2_000;

/// Everything of events, row by row.
macro_rules! put_events {
    ($conflict:literal) => {
        concat!(
            "
INSERT INTO events AS e (day, workspace_id, event_id, link_id, accepted_at, event_timestamp,
  event_seq, renderer_version, lbid, event_type, step_kind, event_action, body_codec, renditions)
SELECT * FROM unnest($1::date[], $2::uuid[], $3::text[], $4::uuid[], $5::timestamptz[],
  $6::timestamptz[], $7::bigint[], $8::int[], $9::text[], $10::text[], $11::text[], $12::text[],
  $13::smallint[], $14::bytea[])
ON CONFLICT (day, workspace_id, event_id) ",
            $conflict
        )
    };
}

/// An event comes once: what is returned is new, and counts.
const PUT_EVENTS: &str = put_events!("DO NOTHING RETURNING day, workspace_id, event_id");

/// The part of an event's verdict that carries the renditions may come after another one.
const FILL_EVENTS: &str = put_events!(
    "DO UPDATE SET body_codec = EXCLUDED.body_codec, renditions = EXCLUDED.renditions
  WHERE e.renditions IS NULL AND EXCLUDED.renditions IS NOT NULL"
);

/// A delivery that a report made already keeps its state and gets what only the verdict knows. A
/// row that a report has touched has a `state_at` after its `created_at`; so the two being equal
/// means that this statement made the row.
const PUT_DELIVERIES: &str = "
INSERT INTO deliveries AS d (day, id, workspace_id, webhook_id, event_id, event_type, link_id, lbid,
  trigger, created_at, event_seq, state, state_at, snapshot, rendition)
SELECT day, id, workspace_id, webhook_id, event_id, event_type, link_id, lbid,
  $11, created_at, event_seq, state, created_at, snapshot, rendition
FROM unnest($1::date[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::text[], $7::uuid[],
  $8::text[], $9::timestamptz[], $10::bigint[], $12::text[], $13::bytea[], $14::int[])
  u(day, id, workspace_id, webhook_id, event_id, event_type, link_id,
    lbid, created_at, event_seq, state, snapshot, rendition)
ON CONFLICT (day, id) DO UPDATE SET snapshot = EXCLUDED.snapshot, rendition = EXCLUDED.rendition
  WHERE d.snapshot IS NULL
RETURNING workspace_id, webhook_id, day, state, state_at = created_at AS made";

/// Rows that a report has made whole already.
const WHOLE: &str = "
SELECT id FROM deliveries WHERE day = $1 AND id = ANY($2) AND snapshot IS NOT NULL";

type EventKey<'a> = (Day, Uuid, &'a str);
type Owed<'a> = (&'a VerdictRecord, &'a VerdictDelivery);

impl Store {
    /// Stores verdicts, in one transaction. Idempotent: what is there already stays, except that
    /// what was missing is filled in.
    ///
    /// # Errors
    /// [`StoreError::BatchTooLarge`] beyond [`MAX_VERDICTS`] or [`MAX_VERDICT_DELIVERIES`].
    pub async fn record_verdicts(&self, verdicts: &[VerdictRecord]) -> Result<(), StoreError> {
        let owed = verdicts
            .iter()
            .map(|verdict| verdict.deliveries.len())
            .sum();
        for (given, limit) in [
            (verdicts.len(), MAX_VERDICTS),
            (owed, MAX_VERDICT_DELIVERIES),
        ] {
            if given > limit {
                return Err(StoreError::BatchTooLarge { given, limit });
            }
        }
        if verdicts.is_empty() {
            return Ok(());
        }
        let mut tx = self.pool.begin().await?;
        let mut tally = Tally::default();
        let events: Vec<_> = events(verdicts).into_iter().collect();
        put_events(&mut tx, &events, &mut tally).await?;
        let mut deliveries = deliveries(verdicts);
        leave_out_whole(&mut tx, &mut deliveries).await?;
        let deliveries: Vec<_> = deliveries.into_iter().collect();
        for rows in deliveries.chunks(ROWS_A_STATEMENT) {
            put_deliveries(&mut tx, rows, &mut tally).await?;
        }
        tally.write(&mut tx).await?;
        tx.commit().await?;
        Ok(())
    }
}

/// Stores one event, without deliveries: a sample, which counts for nothing.
pub(super) async fn put_event(
    connection: &mut PgConnection,
    event: &VerdictRecord,
) -> Result<(), StoreError> {
    let key = (
        Day::of_micros(event.accepted_at),
        event.workspace_id,
        event.event_id.as_str(),
    );
    put_events(connection, &[(key, event)], &mut Tally::default()).await
}

/// Each event once, in the order of the key; of several parts, the one with the renditions.
fn events(verdicts: &[VerdictRecord]) -> BTreeMap<EventKey<'_>, &VerdictRecord> {
    let mut events: BTreeMap<_, &VerdictRecord> = BTreeMap::new();
    for verdict in verdicts {
        let key = (
            Day::of_micros(verdict.accepted_at),
            verdict.workspace_id,
            verdict.event_id.as_str(),
        );
        let chosen = events.entry(key).or_insert(verdict);
        if chosen.renditions.is_empty() {
            *chosen = verdict;
        }
    }
    events
}

/// Each delivery once, in the order of the key.
fn deliveries(verdicts: &[VerdictRecord]) -> BTreeMap<(Day, Uuid), Owed<'_>> {
    let mut deliveries = BTreeMap::new();
    for verdict in verdicts {
        for delivery in &verdict.deliveries {
            let id = delivery.delivery_id;
            deliveries
                .entry((Day::of_delivery(id), id))
                .or_insert((verdict, delivery));
        }
    }
    deliveries
}

/// Leaves out what is stored whole: most of it, as a first attempt's report makes the whole row.
/// Asking costs a look into the index; writing the row would cost a lock in it and its log.
async fn leave_out_whole(
    connection: &mut PgConnection,
    deliveries: &mut BTreeMap<(Day, Uuid), Owed<'_>>,
) -> Result<(), StoreError> {
    let mut days: BTreeMap<Day, Vec<Uuid>> = BTreeMap::new();
    for (day, id) in deliveries.keys() {
        days.entry(*day).or_default().push(*id);
    }
    for (day, ids) in days {
        let whole = sqlx::query(WHOLE)
            .bind(day)
            .bind(ids)
            .fetch_all(&mut *connection)
            .await?;
        for row in whole {
            deliveries.remove(&(day, row.try_get("id")?));
        }
    }
    Ok(())
}

/// Stores what is new, then fills in what is not. Two batches with the same events wait for each
/// other in the order of the keys, in the first part as in the second.
async fn put_events(
    connection: &mut PgConnection,
    rows: &[(EventKey<'_>, &VerdictRecord)],
    tally: &mut Tally,
) -> Result<(), StoreError> {
    let mut made: HashSet<(Day, Uuid, String)> = HashSet::new();
    for chunk in rows.chunks(ROWS_A_STATEMENT) {
        for row in write_events(&mut *connection, PUT_EVENTS, chunk).await? {
            let (day, workspace) = (row.try_get("day")?, row.try_get("workspace_id")?);
            made.insert((day, workspace, row.try_get("event_id")?));
        }
    }
    let mut known = Vec::new();
    for row in rows {
        let ((day, workspace, id), event) = row;
        if !made.contains(&(*day, *workspace, storable(id).into_owned())) {
            known.push(*row);
        } else if event.event_seq > 0 {
            tally.accepted(*workspace, *day);
        }
    }
    known.retain(|(_, event)| !event.renditions.is_empty());
    for chunk in known.chunks(ROWS_A_STATEMENT) {
        write_events(&mut *connection, FILL_EVENTS, chunk).await?;
    }
    Ok(())
}

async fn write_events(
    connection: &mut PgConnection,
    statement: &'static str,
    rows: &[(EventKey<'_>, &VerdictRecord)],
) -> Result<Vec<PgRow>, StoreError> {
    let framed: Vec<_> = rows
        .iter()
        .map(|(_, event)| codec::frame(&event.renditions))
        .collect();
    let packed: Vec<_> = framed.iter().map(|framed| codec::pack(framed)).collect();
    let events = || rows.iter().map(|(_, event)| *event);
    let written = sqlx::query(statement)
        .bind(rows.iter().map(|((day, ..), _)| *day).collect::<Vec<_>>())
        .bind(events().map(|e| e.workspace_id).collect::<Vec<_>>())
        .bind(events().map(|e| storable(&e.event_id)).collect::<Vec<_>>())
        .bind(events().map(|e| e.link_id).collect::<Vec<_>>())
        .bind(events().map(|e| Micros(e.accepted_at)).collect::<Vec<_>>())
        .bind(
            events()
                .map(|e| Micros(e.event_timestamp))
                .collect::<Vec<_>>(),
        )
        .bind(events().map(|e| bigint(e.event_seq)).collect::<Vec<_>>())
        .bind(
            events()
                .map(|e| int(e.renderer_version))
                .collect::<Vec<_>>(),
        )
        .bind(events().map(|e| storable(&e.lbid)).collect::<Vec<_>>())
        .bind(
            events()
                .map(|e| storable(&e.event_type))
                .collect::<Vec<_>>(),
        )
        .bind(events().map(|e| storable(&e.step_kind)).collect::<Vec<_>>())
        .bind(
            events()
                .map(|e| storable(&e.event_action))
                .collect::<Vec<_>>(),
        )
        .bind(packed.iter().map(|(codec, _)| *codec).collect::<Vec<_>>())
        .bind(
            packed
                .iter()
                .map(|(_, bytes)| Some(bytes.as_ref()).filter(|b| !b.is_empty()))
                .collect::<Vec<_>>(),
        )
        .fetch_all(connection)
        .await?;
    Ok(written)
}

async fn put_deliveries(
    connection: &mut PgConnection,
    rows: &[((Day, Uuid), Owed<'_>)],
    tally: &mut Tally,
) -> Result<(), StoreError> {
    let events = || rows.iter().map(|(_, (event, _))| *event);
    let owed = || rows.iter().map(|(_, (_, delivery))| *delivery);
    let state = |delivery: &VerdictDelivery, event: &VerdictRecord| {
        Standing::owed(delivery.held, event.accepted_at)
            .progress
            .state
            .as_str()
    };
    let put = sqlx::query(PUT_DELIVERIES)
        .bind(rows.iter().map(|((day, _), _)| *day).collect::<Vec<_>>())
        .bind(rows.iter().map(|((_, id), _)| *id).collect::<Vec<_>>())
        .bind(events().map(|e| e.workspace_id).collect::<Vec<_>>())
        .bind(owed().map(|d| d.webhook_id).collect::<Vec<_>>())
        .bind(events().map(|e| storable(&e.event_id)).collect::<Vec<_>>())
        .bind(
            events()
                .map(|e| storable(&e.event_type))
                .collect::<Vec<_>>(),
        )
        .bind(events().map(|e| e.link_id).collect::<Vec<_>>())
        .bind(events().map(|e| storable(&e.lbid)).collect::<Vec<_>>())
        .bind(events().map(|e| Micros(e.accepted_at)).collect::<Vec<_>>())
        .bind(events().map(|e| bigint(e.event_seq)).collect::<Vec<_>>())
        .bind(Trigger::Event.api_word())
        .bind(
            rows.iter()
                .map(|(_, (e, d))| state(d, e))
                .collect::<Vec<_>>(),
        )
        .bind(owed().map(|d| d.snapshot.as_ref()).collect::<Vec<&[u8]>>())
        .bind(owed().map(|d| int(d.rendition)).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
    for row in put {
        if row.try_get("made")? {
            let counted = Counted {
                workspace: row.try_get("workspace_id")?,
                webhook: row.try_get("webhook_id")?,
                day: row.try_get("day")?,
                test: false,
            };
            tally.moved(counted, None, pg::word::<DeliveryState>(&row, "state")?);
        }
    }
    Ok(())
}
