//! One step of a job: what it looks at, and the deliveries that it makes.

use std::collections::HashSet;

use sqlx::{PgConnection, Row as _, postgres::PgRow};
use uuid::Uuid;
use webhooks_domain::{delivery::DeliveryState, endpoint::outcome::FailureClass, ids::Trigger};

use super::{JobFilter, JobRow, JobType, Missing, NewJob};
use crate::{
    error::StoreError,
    history::{
        DeliveryFacts, EventRow,
        events::{columns, content},
        owed,
        tally::Tally,
    },
    pg::{self, Day, Micros},
};

/// Rows that one step looks at.
const WINDOW: i64 = 1_000;

/// Oldest first, so that a receiver gets events in their order.
const DELIVERIES: &str = "
SELECT d.id, d.created_at, d.event_id, d.link_id, d.state, d.trigger, d.last_error_class,
  d.last_status_code, coalesce(d.event_day, d.day) AS event_day
FROM deliveries d WHERE d.workspace_id = $1 AND d.webhook_id = $2 AND d.day BETWEEN $3 AND $4
  AND d.created_at >= $5 AND d.created_at < $6 AND (d.day, d.created_at, d.id) > ($7, $8, $9)
ORDER BY d.day, d.created_at, d.id LIMIT $10";

/// Which of these events have arrived at the webhook or are on their way. What an event made was
/// made when the event was accepted, and has its place in the webhook's order of time; a replay is
/// found by the index that replays and tests have.
const SETTLED: &str = "
SELECT DISTINCT u.event_id FROM unnest($2::text[], $4::date[]) u(event_id, day)
CROSS JOIN LATERAL (
  (SELECT 1 FROM events e JOIN deliveries d ON d.day = e.day AND d.workspace_id = e.workspace_id
     AND d.created_at = e.accepted_at AND d.event_id = e.event_id
   WHERE e.day = u.day AND e.workspace_id = $1 AND e.event_id = u.event_id AND d.webhook_id = $3
     AND d.trigger = 'EVENT' AND d.state IN ('DELIVERED', 'PENDING', 'RETRYING', 'HELD') LIMIT 1)
  UNION ALL
  (SELECT 1 FROM deliveries d WHERE d.workspace_id = $1 AND d.event_id = u.event_id
     AND d.webhook_id = $3 AND d.trigger <> 'EVENT' AND d.trigger <> 'TEST'
     AND d.state IN ('DELIVERED', 'PENDING', 'RETRYING', 'HELD') LIMIT 1)
  LIMIT 1) found";

const EVENTS: &str = concat!(
    "SELECT ",
    columns!(),
    ", e.renditions IS NOT NULL AS kept
FROM events e WHERE e.workspace_id = $1 AND e.day BETWEEN $2 AND $3
  AND e.accepted_at >= $4 AND e.accepted_at < $5 AND e.event_seq > 0
  AND (e.day, e.accepted_at, e.event_seq) > ($6, $7, $8)
ORDER BY e.day, e.accepted_at, e.event_seq LIMIT $9"
);

/// Which of these events have a delivery to the webhook; see [`SETTLED`].
const DELIVERED_AT_ALL: &str = "
SELECT DISTINCT u.event_id FROM unnest($2::text[], $4::date[]) u(event_id, day)
CROSS JOIN LATERAL (
  (SELECT 1 FROM events e JOIN deliveries d ON d.day = e.day AND d.workspace_id = e.workspace_id
     AND d.created_at = e.accepted_at AND d.event_id = e.event_id
   WHERE e.day = u.day AND e.workspace_id = $1 AND e.event_id = u.event_id AND d.webhook_id = $3
     AND d.trigger = 'EVENT' LIMIT 1)
  UNION ALL
  (SELECT 1 FROM deliveries d WHERE d.workspace_id = $1 AND d.event_id = u.event_id
     AND d.webhook_id = $3 AND d.trigger <> 'EVENT' AND d.trigger <> 'TEST' LIMIT 1)
  LIMIT 1) found";

const CONTENT: &str = concat!(
    "SELECT ",
    columns!(),
    ", e.body_codec, e.renditions FROM events e
WHERE e.day = $1 AND e.workspace_id = $2 AND e.event_id = $3"
);

/// What a step found and did.
#[derive(Debug, Default)]
pub(super) struct Step {
    pub(super) cursor: Option<(i64, String)>,
    pub(super) examined: i64,
    pub(super) matched: i64,
    pub(super) made: i64,
    pub(super) skipped: i64,
    pub(super) at_the_end: bool,
    /// The next one's event is not recorded yet.
    pub(super) waits: bool,
}

/// Which of these deliveries cannot be replayed yet: their event, or what their body says of the
/// webhook, is still on its way to the tables.
const UNREADY: &str = "
SELECT d.id FROM unnest($1::date[], $2::uuid[]) u(day, id)
JOIN deliveries d ON d.day = u.day AND d.id = u.id AND d.workspace_id = $3
LEFT JOIN events e ON e.day = coalesce(d.event_day, d.day) AND e.workspace_id = d.workspace_id
  AND e.event_id = d.event_id
WHERE d.snapshot IS NULL OR e.event_id IS NULL";

/// Which of these deliveries can be replayed: their payload is there.
const KEPT: &str = "
SELECT d.id FROM unnest($1::date[], $2::uuid[]) u(day, id)
JOIN deliveries d ON d.day = u.day AND d.id = u.id AND d.workspace_id = $3
JOIN events e ON e.day = coalesce(d.event_day, d.day) AND e.workspace_id = d.workspace_id
  AND e.event_id = d.event_id
WHERE d.snapshot IS NOT NULL AND e.renditions IS NOT NULL";

/// The deliveries of these events that come before these deliveries of them, in the job's range, and that
/// can be replayed or waited for; see [`SETTLED`]. The offset keeps the planner from walking the webhook's
/// log instead.
const EARLIER: &str = "
SELECT found.* FROM unnest($2::text[], $4::date[], $5::timestamptz[], $6::uuid[])
  u(event_id, day, created_at, id)
CROSS JOIN LATERAL (
  (SELECT d.id, d.created_at, d.event_id, d.link_id, d.state, d.trigger, d.last_error_class,
     d.last_status_code, coalesce(d.event_day, d.day) AS event_day, d.snapshot IS NOT NULL AS told
   FROM events e JOIN deliveries d ON d.day = e.day AND d.workspace_id = e.workspace_id
     AND d.created_at = e.accepted_at AND d.event_id = e.event_id
   WHERE e.day = u.day AND e.workspace_id = $1 AND e.event_id = u.event_id AND d.webhook_id = $3
     AND d.trigger = 'EVENT' OFFSET 0)
  UNION ALL
  (SELECT d.id, d.created_at, d.event_id, d.link_id, d.state, d.trigger, d.last_error_class,
     d.last_status_code, coalesce(d.event_day, d.day) AS event_day, d.snapshot IS NOT NULL AS told
   FROM deliveries d WHERE d.workspace_id = $1 AND d.event_id = u.event_id
     AND d.webhook_id = $3 AND d.trigger <> 'EVENT' AND d.trigger <> 'TEST' OFFSET 0)
) found
WHERE found.created_at >= $7 AND (found.created_at, found.id) < (u.created_at, u.id)
  AND (found.told OR found.created_at > $8)";

/// A delivery that a job looks at.
struct Candidate {
    id: Uuid,
    created_at: i64,
    event_id: String,
    /// The day that holds the event.
    event_day: Day,
    link_id: Option<Uuid>,
    state: DeliveryState,
    test: bool,
    class: Option<FailureClass>,
    status: Option<i32>,
}

impl Candidate {
    fn of(row: &PgRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.try_get("id")?,
            created_at: pg::micros(row, "created_at")?,
            event_id: row.try_get("event_id")?,
            event_day: row.try_get("event_day")?,
            link_id: row.try_get("link_id")?,
            state: pg::word(row, "state")?,
            test: row.try_get::<&str, _>("trigger")? == Trigger::Test.api_word(),
            class: pg::optional_word(row, "last_error_class")?,
            status: row.try_get("last_status_code")?,
        })
    }

    fn matches(&self, kind: JobType, filter: &JobFilter) -> bool {
        let delivered = self.state == DeliveryState::Delivered;
        let state = match kind {
            JobType::RecoverFailed => self.state == DeliveryState::Failed,
            _ => filter.states.is_empty() || filter.states.contains(&self.state),
        };
        let class = filter
            .class
            .is_none_or(|class| !delivered && self.class == Some(class));
        let status = filter.status.is_none_or(|(from, to)| {
            self.status
                .is_some_and(|status| (i32::from(from)..=i32::from(to)).contains(&status))
        });
        let link = filter.link_id.is_none_or(|link| self.link_id == Some(link));
        !self.test && state && class && status && link
    }
}

pub(super) async fn replay(
    connection: &mut PgConnection,
    row: &JobRow,
    now: i64,
    tally: &mut Tally,
) -> Result<Step, StoreError> {
    let job = &row.job;
    let (at, id) = match &row.cursor {
        Some((at, id)) => (
            *at,
            Uuid::try_parse(id).map_err(|error| StoreError::corrupt("job cursor", error))?,
        ),
        None => (i64::MIN, Uuid::nil()),
    };
    let found = sqlx::query(DELIVERIES)
        .bind(job.workspace_id)
        .bind(job.webhook_id)
        .bind(Day::of_micros(job.since))
        .bind(Day::of_micros(job.until))
        .bind(Micros(job.since))
        .bind(Micros(job.until))
        .bind(Day::of_micros(at))
        .bind(Micros(at))
        .bind(id)
        .bind(WINDOW)
        .fetch_all(&mut *connection)
        .await?;
    let candidates = found
        .iter()
        .map(Candidate::of)
        .collect::<Result<Vec<_>, _>>()?;
    let settled = if job.kind == JobType::RecoverFailed {
        let failed = candidates
            .iter()
            .filter(|one| one.matches(job.kind, &job.filter));
        let events = failed
            .map(|one| (one.event_id.clone(), one.event_day))
            .unzip();
        having(&mut *connection, SETTLED, job, events).await?
    } else {
        Vec::new()
    };
    let wanted =
        |one: &Candidate| one.matches(job.kind, &job.filter) && !settled.contains(&one.event_id);
    let wanted_ones: Vec<&Candidate> = candidates.iter().filter(|one| wanted(one)).collect();
    let fresh_from = now.saturating_sub(owed::VERDICT_PATIENCE);
    let (mut unready, mut would_make) = (Vec::new(), HashSet::new());
    if job.dry_run {
        would_make = first_ones(&mut *connection, job, &wanted_ones, fresh_from).await?;
    } else {
        let fresh = wanted_ones.iter().filter(|one| one.created_at > fresh_from);
        let fresh: Vec<Uuid> = fresh.map(|one| one.id).collect();
        unready = among(&mut *connection, UNREADY, job, &fresh).await?;
    }
    let full = i64::try_from(candidates.len()).unwrap_or(i64::MAX) >= WINDOW;
    let mut step = Step {
        at_the_end: !full,
        ..Step::default()
    };
    let mut pairs: Vec<(Uuid, Uuid)> = Vec::new();
    for one in &candidates {
        if pairs.len() >= row.most() {
            step.at_the_end = false;
            break;
        }
        if unready.contains(&one.id) {
            (step.at_the_end, step.waits) = (false, true);
            break;
        }
        step.examined += 1;
        step.cursor = Some((one.created_at, one.id.to_string()));
        if job.dry_run {
            step.matched += i64::from(would_make.contains(&one.id));
        } else if wanted(one) {
            step.matched += 1;
            pairs.push((one.id, row.replay_id(&one.event_id)));
        }
    }
    if !pairs.is_empty() {
        let made =
            owed::replay(connection, job.workspace_id, &pairs, row.created_at, tally).await?;
        step.made = i64::try_from(made).unwrap_or(i64::MAX);
        step.skipped = step.matched - step.made;
    }
    Ok(step)
}

pub(super) async fn missing(
    connection: &mut PgConnection,
    row: &JobRow,
    missing: &dyn Missing,
    tally: &mut Tally,
) -> Result<Step, StoreError> {
    let job = &row.job;
    let (at, seq) = match &row.cursor {
        Some((at, seq)) => (
            *at,
            seq.parse::<i64>()
                .map_err(|error| StoreError::corrupt("job cursor", error))?,
        ),
        None => (i64::MIN, 0),
    };
    let found = sqlx::query(EVENTS)
        .bind(job.workspace_id)
        .bind(Day::of_micros(job.since))
        .bind(Day::of_micros(job.until))
        .bind(Micros(job.since))
        .bind(Micros(job.until))
        .bind(Day::of_micros(at))
        .bind(Micros(at))
        .bind(seq)
        .bind(WINDOW)
        .fetch_all(&mut *connection)
        .await?;
    let events = found
        .iter()
        .map(|row| Ok((EventRow::of(row)?, row.try_get("kept")?)))
        .collect::<Result<Vec<(EventRow, bool)>, StoreError>>()?;
    let wanted = |event: &EventRow| {
        let link = job
            .filter
            .link_id
            .is_none_or(|link| event.link_id == Some(link));
        link && missing.fires(event)
    };
    let ids = events
        .iter()
        .filter(|(event, _)| wanted(event))
        .map(|(event, _)| (event.id.clone(), Day::of_micros(event.accepted_at)))
        .unzip();
    let had = having(&mut *connection, DELIVERED_AT_ALL, job, ids).await?;
    let full = i64::try_from(events.len()).unwrap_or(i64::MAX) >= WINDOW;
    let mut step = Step {
        at_the_end: !full,
        ..Step::default()
    };
    let most = i64::try_from(row.most()).unwrap_or(i64::MAX);
    for (event, kept) in events {
        if step.matched >= most {
            step.at_the_end = false;
            break;
        }
        step.examined += 1;
        step.cursor = Some((event.accepted_at, event.event_seq.to_string()));
        if !wanted(&event) || had.contains(&event.id) {
            continue;
        }
        if job.dry_run {
            // What is past its retention would not be made.
            step.matched += i64::from(kept);
            continue;
        }
        step.matched += 1;
        if make_missing(&mut *connection, row, &event, missing, tally).await? {
            step.made += 1;
        } else {
            step.skipped += 1;
        }
    }
    Ok(step)
}

async fn make_missing(
    connection: &mut PgConnection,
    row: &JobRow,
    event: &EventRow,
    missing: &dyn Missing,
    tally: &mut Tally,
) -> Result<bool, StoreError> {
    let day = Day::of_micros(event.accepted_at);
    let stored = sqlx::query(CONTENT)
        .bind(day)
        .bind(event.workspace_id)
        .bind(&event.id)
        .fetch_optional(&mut *connection)
        .await?;
    let Some(stored) = stored.as_ref().map(content).transpose()? else {
        return Ok(false);
    };
    let Some((rendition, snapshot)) = missing.body(event, &stored.renditions) else {
        return Ok(false);
    };
    let facts = DeliveryFacts {
        delivery_id: row.replay_id(&event.id),
        webhook_id: row.job.webhook_id,
        workspace_id: event.workspace_id,
        event_id: event.id.clone(),
        event_type: event.event_type.clone(),
        link_id: event.link_id,
        lbid: event.lbid.clone(),
        trigger: Trigger::Replay,
        created_at: row.created_at,
        event_seq: event.event_seq,
    };
    let made = owed::owe(connection, &facts, day, &rendition, &snapshot, tally).await?;
    Ok(made == Some(true))
}

/// Of the deliveries that a dry run is about, those by which the job would make one: of each event the
/// first that can be replayed, unless the event had one before these. What is younger than `fresh_from`
/// the job would wait for.
async fn first_ones(
    connection: &mut PgConnection,
    job: &NewJob,
    wanted: &[&Candidate],
    fresh_from: i64,
) -> Result<HashSet<Uuid>, StoreError> {
    let ids: Vec<Uuid> = wanted.iter().map(|one| one.id).collect();
    let kept = among(&mut *connection, KEPT, job, &ids).await?;
    let kept: HashSet<Uuid> = kept.into_iter().collect();
    let mut seen = HashSet::new();
    let first: Vec<&Candidate> = wanted
        .iter()
        .copied()
        .filter(|one| one.created_at > fresh_from || kept.contains(&one.id))
        .filter(|one| seen.insert(one.event_id.as_str()))
        .collect();
    if first.is_empty() {
        return Ok(HashSet::new());
    }
    let ids: Vec<Uuid> = first.iter().map(|one| one.id).collect();
    let events: Vec<&str> = first.iter().map(|one| one.event_id.as_str()).collect();
    let days: Vec<Day> = first.iter().map(|one| one.event_day).collect();
    let times: Vec<Micros> = first.iter().map(|one| Micros(one.created_at)).collect();
    let rows = sqlx::query(EARLIER)
        .bind(job.workspace_id)
        .bind(events)
        .bind(job.webhook_id)
        .bind(days)
        .bind(times)
        .bind(ids)
        .bind(Micros(job.since))
        .bind(Micros(fresh_from))
        .fetch_all(connection)
        .await?;
    let mut counted = HashSet::new();
    for row in &rows {
        let earlier = Candidate::of(row)?;
        if earlier.matches(job.kind, &job.filter) {
            counted.insert(earlier.event_id);
        }
    }
    let first = first.into_iter();
    let new = first.filter(|one| !counted.contains(&one.event_id));
    Ok(new.map(|one| one.id).collect())
}

/// Which of these deliveries the query finds.
async fn among(
    connection: &mut PgConnection,
    query: &'static str,
    job: &NewJob,
    ids: &[Uuid],
) -> Result<Vec<Uuid>, StoreError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let days: Vec<Day> = ids.iter().map(|id| Day::of_delivery(*id)).collect();
    Ok(sqlx::query_scalar(query)
        .bind(days)
        .bind(ids)
        .bind(job.workspace_id)
        .fetch_all(connection)
        .await?)
}

/// Which of these events, each with the day that holds it, the query finds for the job's webhook.
async fn having(
    connection: &mut PgConnection,
    query: &'static str,
    job: &NewJob,
    (events, days): (Vec<String>, Vec<Day>),
) -> Result<Vec<String>, StoreError> {
    if events.is_empty() {
        return Ok(Vec::new());
    }
    Ok(sqlx::query_scalar(query)
        .bind(job.workspace_id)
        .bind(events)
        .bind(job.webhook_id)
        .bind(days)
        .fetch_all(connection)
        .await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recovery_is_about_failures_only_and_never_about_tests() {
        let failed = Candidate {
            id: Uuid::nil(),
            created_at: 0,
            event_id: "e".into(),
            event_day: Day::FIRST,
            link_id: None,
            state: DeliveryState::Failed,
            test: false,
            class: Some(FailureClass::Temporary),
            status: Some(503),
        };
        let any = JobFilter::default();
        assert!(failed.matches(JobType::RecoverFailed, &any));
        assert!(failed.matches(
            JobType::Replay,
            &JobFilter {
                status: Some((500, 599)),
                ..any.clone()
            }
        ));
        let test = Candidate {
            test: true,
            ..failed
        };
        assert!(
            !test.matches(JobType::RecoverFailed, &any) && !test.matches(JobType::Replay, &any)
        );
        let delivered = Candidate {
            state: DeliveryState::Delivered,
            test: false,
            ..test
        };
        assert!(!delivered.matches(JobType::RecoverFailed, &any));
        assert!(delivered.matches(JobType::Replay, &any));
    }
}
