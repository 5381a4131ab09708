//! The steps of a batch, a statement each.

use std::collections::{BTreeMap, HashSet};

use sqlx::{PgConnection, Row as _};
use uuid::Uuid;
use webhooks_domain::{delivery::Progress, endpoint::outcome::FailureClass};

use super::{Attempts, Deliveries, sql};
use crate::{
    error::StoreError,
    history::{
        Timings, codec, headers,
        standing::{Shown, Standing},
    },
    pg::{self, Day, Micros, bigint, int, storable},
};

type PgQuery<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

/// Step 1; answers how many were new.
pub(super) async fn put_attempts(
    connection: &mut PgConnection,
    attempts: &Attempts<'_>,
) -> Result<u64, StoreError> {
    if attempts.is_empty() {
        return Ok(0);
    }
    let records = || attempts.values().map(|(_, attempt)| *attempt);
    let durations = |part: fn(&Timings) -> Option<u32>| -> Vec<Option<i32>> {
        records()
            .map(|attempt| part(&attempt.timings).map(int))
            .collect()
    };
    let bodies: Vec<_> = records()
        .map(|attempt| codec::pack(&attempt.response_body))
        .collect();
    let done = sqlx::query(sql::PUT_ATTEMPTS)
        .bind(attempts.keys().map(|(day, ..)| *day).collect::<Vec<_>>())
        .bind(attempts.keys().map(|(_, id, ..)| *id).collect::<Vec<_>>())
        .bind(
            attempts
                .keys()
                .map(|(_, _, number, _)| int(*number))
                .collect::<Vec<_>>(),
        )
        .bind(
            attempts
                .keys()
                .map(|(.., execution)| *execution)
                .collect::<Vec<_>>(),
        )
        .bind(
            attempts
                .values()
                .map(|(facts, _)| facts.workspace_id)
                .collect::<Vec<_>>(),
        )
        .bind(records().map(|a| Micros(a.started_at)).collect::<Vec<_>>())
        .bind(records().map(|a| a.outcome.as_str()).collect::<Vec<_>>())
        .bind(
            records()
                .map(|a| a.class.map(FailureClass::as_str))
                .collect::<Vec<_>>(),
        )
        .bind(
            records()
                .map(|a| a.status_code.map(i32::from))
                .collect::<Vec<_>>(),
        )
        .bind(durations(|t| t.dns_us))
        .bind(durations(|t| t.connect_us))
        .bind(durations(|t| t.tls_us))
        .bind(durations(|t| t.first_byte_us))
        .bind(durations(|t| t.total_us))
        .bind(
            records()
                .map(|a| headers::write(&a.response_headers))
                .collect::<Vec<_>>(),
        )
        .bind(bodies.iter().map(|(codec, _)| *codec).collect::<Vec<_>>())
        .bind(
            bodies
                .iter()
                .map(|(_, bytes)| bytes.as_ref())
                .collect::<Vec<&[u8]>>(),
        )
        .bind(
            records()
                .map(|a| a.response_body_truncated)
                .collect::<Vec<_>>(),
        )
        .bind(records().map(|a| storable(&a.error)).collect::<Vec<_>>())
        .bind(
            records()
                .map(|a| storable(&a.remote_ip))
                .collect::<Vec<_>>(),
        )
        .bind(
            records()
                .map(|a| storable(&a.dispatcher))
                .collect::<Vec<_>>(),
        )
        .execute(connection)
        .await?;
    Ok(done.rows_affected())
}

/// Step 2; answers which were new. All others exist and are locked.
pub(super) async fn make_or_lock(
    connection: &mut PgConnection,
    deliveries: &Deliveries<'_>,
) -> Result<HashSet<Uuid>, StoreError> {
    let facts = || deliveries.values().map(|told| told.facts);
    let standings: Vec<_> = deliveries.values().map(|told| &told.standing).collect();
    let made = sqlx::query(sql::MAKE_OR_LOCK)
        .bind(deliveries.keys().map(|(day, _)| *day).collect::<Vec<_>>())
        .bind(deliveries.keys().map(|(_, id)| *id).collect::<Vec<_>>())
        .bind(facts().map(|f| f.workspace_id).collect::<Vec<_>>())
        .bind(facts().map(|f| f.webhook_id).collect::<Vec<_>>())
        .bind(facts().map(|f| storable(&f.event_id)).collect::<Vec<_>>())
        .bind(facts().map(|f| storable(&f.event_type)).collect::<Vec<_>>())
        .bind(facts().map(|f| f.link_id).collect::<Vec<_>>())
        .bind(facts().map(|f| storable(&f.lbid)).collect::<Vec<_>>())
        .bind(facts().map(|f| f.trigger.api_word()).collect::<Vec<_>>())
        .bind(facts().map(|f| Micros(f.created_at)).collect::<Vec<_>>())
        .bind(facts().map(|f| bigint(f.event_seq)).collect::<Vec<_>>());
    let snapshots = || deliveries.values().map(|told| told.snapshot);
    let made = bind_standings(made, &standings)
        .bind(
            snapshots()
                .map(|s| s.map(|(bytes, _)| bytes.as_ref()))
                .collect::<Vec<Option<&[u8]>>>(),
        )
        .bind(
            snapshots()
                .map(|s| s.map(|(_, rendition)| int(*rendition)))
                .collect::<Vec<_>>(),
        )
        .fetch_all(connection)
        .await?;
    made.iter().map(|row| Ok(row.try_get("id")?)).collect()
}

/// Step 3, a statement per day so that each touches one partition.
pub(super) async fn read(
    connection: &mut PgConnection,
    keys: impl Iterator<Item = &(Day, Uuid)>,
) -> Result<BTreeMap<Uuid, Standing>, StoreError> {
    let mut days: BTreeMap<Day, Vec<Uuid>> = BTreeMap::new();
    for (day, id) in keys {
        days.entry(*day).or_default().push(*id);
    }
    let mut known = BTreeMap::new();
    for (day, ids) in days {
        let rows = sqlx::query(sql::READ)
            .bind(day)
            .bind(ids)
            .fetch_all(&mut *connection)
            .await?;
        for row in &rows {
            known.insert(row.try_get("id")?, stored(row)?);
        }
    }
    Ok(known)
}

fn stored(row: &sqlx::postgres::PgRow) -> Result<Standing, StoreError> {
    let class: Option<FailureClass> = pg::optional_word(row, "last_error_class")?;
    let reason: Option<String> = row.try_get("last_error_reason")?;
    let shown = pg::optional_micros(row, "last_attempt_at")?.map(|started_at| {
        Ok::<_, StoreError>(Shown {
            started_at,
            status_code: row.try_get("last_status_code")?,
            failure: class.zip(reason),
        })
    });
    Ok(Standing {
        progress: Progress {
            state: pg::word(row, "state")?,
            attempts: pg::unsigned(row, "state_attempts")?,
            at_micros: pg::micros(row, "state_at")?,
        },
        next_attempt_at: pg::optional_micros(row, "next_attempt_at")?,
        attempts: pg::unsigned(row, "attempt_count")?,
        shown: shown.transpose()?,
        reason: row.try_get("state_reason")?,
        waits_for: row.try_get("waits_for")?,
    })
}

/// Step 4.
pub(super) async fn update(
    connection: &mut PgConnection,
    day: Day,
    rows: &[(Uuid, Standing)],
) -> Result<(), StoreError> {
    let standings: Vec<_> = rows.iter().map(|(_, standing)| standing).collect();
    let query = sqlx::query(sql::UPDATE)
        .bind(day)
        .bind(rows.iter().map(|(id, _)| *id).collect::<Vec<_>>());
    bind_standings(query, &standings)
        .execute(connection)
        .await?;
    Ok(())
}

/// Binds the twelve columns that [`Standing`] fills, in the order of the statements in [`sql`].
fn bind_standings<'q>(query: PgQuery<'q>, standings: &[&Standing]) -> PgQuery<'q> {
    let each = || standings.iter();
    query
        .bind(
            each()
                .map(|s| s.progress.state.as_str())
                .collect::<Vec<_>>(),
        )
        .bind(each().map(|s| int(s.progress.attempts)).collect::<Vec<_>>())
        .bind(
            each()
                .map(|s| Micros(s.progress.at_micros))
                .collect::<Vec<_>>(),
        )
        .bind(
            each()
                .map(|s| s.next_attempt_at.map(Micros))
                .collect::<Vec<_>>(),
        )
        .bind(
            each()
                .map(|s| s.completed_at().map(Micros))
                .collect::<Vec<_>>(),
        )
        .bind(each().map(|s| int(s.attempts)).collect::<Vec<_>>())
        .bind(
            each()
                .map(|s| s.shown.as_ref().map(|a| Micros(a.started_at)))
                .collect::<Vec<_>>(),
        )
        .bind(
            each()
                .map(|s| s.shown.as_ref().and_then(|a| a.status_code))
                .collect::<Vec<_>>(),
        )
        .bind(
            each()
                .map(|s| s.failure().map(|(class, _)| class))
                .collect::<Vec<_>>(),
        )
        .bind(
            each()
                .map(|s| s.failure().map(|(_, reason)| reason))
                .collect::<Vec<_>>(),
        )
        .bind(each().map(|s| s.reason.as_deref()).collect::<Vec<_>>())
        .bind(each().map(|s| s.waits_for).collect::<Vec<_>>())
}
