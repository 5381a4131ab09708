//! Bulk jobs: replays of many deliveries, as durable rows.
//!
//! A worker claims a job that is due, and advances it by one step. A step is one transaction: it
//! reads on from the cursor, makes deliveries with their outbox rows, and moves cursor and counters.
//! So a crash between two steps loses nothing and a crash inside one undoes it. The id of a replay
//! is computed from job, event and webhook: one job never makes two deliveries of one event.
//!
//! The rate is kept by the time of the next step, which the step writes; whoever works then.

use serde_json::{Value, json};
mod step;

use sqlx::{PgConnection, Row as _, postgres::PgRow};
use uuid::Uuid;
use webhooks_domain::{delivery::DeliveryState, endpoint::outcome::FailureClass, ids};

use super::{EventRow, MAX_PAGE, RenditionRecord, owed::Wish, tally::Tally};
use crate::{
    Store,
    audit::{self, Entry},
    error::StoreError,
    idempotency,
    pg::{self, Micros},
};

/// Most jobs of a workspace that have not ended.
pub const MAX_JOBS_OPEN: u32 = 10;

/// Most deliveries that one step makes.
const MOST_A_STEP: u32 = 200;

/// How long a job waits for a delivery whose event is not recorded yet, before it looks again.
const WAIT: i64 = 1_000_000;

/// How long a claimed job keeps other workers out. A step takes no longer than its statements may.
const LEASE: i64 = 30_000_000;

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobType {
    /// Replays events whose deliveries failed and that have not arrived since, nor are on their way.
    RecoverFailed,
    /// Delivers events that the webhook would fire for as it is now, and has no delivery of.
    ReplayMissing,
    /// Replays deliveries by filter.
    Replay,
}

impl JobType {
    /// Every type.
    pub const ALL: [Self; 3] = [Self::RecoverFailed, Self::ReplayMissing, Self::Replay];

    /// The word in the API and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RecoverFailed => "RECOVER_FAILED",
            Self::ReplayMissing => "REPLAY_MISSING",
            Self::Replay => "REPLAY",
        }
    }
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobState {
    /// Nobody has begun it.
    Pending,
    /// It goes on by itself.
    Running,
    /// It waits for a person.
    Paused,
    /// It came to its end.
    Succeeded,
    /// It cannot go on.
    Failed,
    /// A person ended it.
    Cancelled,
}

impl JobState {
    /// Every state.
    pub const ALL: [Self; 6] = [
        Self::Pending,
        Self::Running,
        Self::Paused,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
    ];

    /// The word in the API and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Running => "RUNNING",
            Self::Paused => "PAUSED",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
        }
    }

    /// It will not go on.
    #[must_use]
    pub fn is_over(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// Which deliveries a [`JobType::Replay`] is about; empty = all but tests.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JobFilter {
    /// In one of these states; empty = in any.
    pub states: Vec<DeliveryState>,
    /// Whose last error is of this class.
    pub class: Option<FailureClass>,
    /// Whose last answer had a status from the first to the second of these.
    pub status: Option<(u16, u16)>,
    /// Of this link's events (for every type of job).
    pub link_id: Option<Uuid>,
}

/// A job to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewJob {
    /// Its id.
    pub id: Uuid,
    /// Whose it is.
    pub workspace_id: Uuid,
    /// Which webhook it delivers to.
    pub webhook_id: Uuid,
    /// What it does.
    pub kind: JobType,
    /// Deliveries made (or events accepted) at this moment or later, in microseconds.
    pub since: i64,
    /// And before this one; not after now, so that a job never meets its own deliveries.
    pub until: i64,
    /// Which of them.
    pub filter: JobFilter,
    /// It only counts.
    pub dry_run: bool,
    /// Deliveries a second, 1 to 1,000.
    pub rate_per_second: u32,
}

/// A stored job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRow {
    /// What it was made as.
    pub job: NewJob,
    /// Where it stands.
    pub state: JobState,
    /// Rows looked at.
    pub examined: i64,
    /// Rows that it is about; of a dry run, the deliveries that the job would make.
    pub matched: i64,
    /// Deliveries made.
    pub replayed: i64,
    /// Matched, and not made: the payload is past its retention, or this job made it already.
    pub skipped: i64,
    /// Why it failed.
    pub error: Option<String>,
    /// When it was made, in microseconds.
    pub created_at: i64,
    /// When it was begun, in microseconds.
    pub started_at: Option<i64>,
    /// When it ended, in microseconds.
    pub finished_at: Option<i64>,
    cursor: Option<(i64, String)>,
}

/// The last row of a page; the next page begins after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobCursor {
    /// When that job was made, in microseconds.
    pub created_at: i64,
    /// Its id.
    pub id: Uuid,
}

/// A page of jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobPage {
    /// The rows, newest first.
    pub rows: Vec<JobRow>,
    /// How many there are in all.
    pub total: i64,
    /// Whether another page follows.
    pub more: bool,
}

/// What the store does not know of a webhook: for which events it would fire, and what a delivery
/// of one is made of.
pub trait Missing: Send + Sync {
    /// Whether it fires for the event as it is configured now, whatever its status.
    fn fires(&self, event: &EventRow) -> bool;
    /// The event in the webhook's profile, and the webhook's snapshot; `None` = it cannot be made.
    fn body(
        &self,
        event: &EventRow,
        renditions: &[RenditionRecord],
    ) -> Option<(RenditionRecord, Vec<u8>)>;
}

impl JobRow {
    /// Where the page after this row begins.
    #[must_use]
    pub fn cursor(&self) -> JobCursor {
        JobCursor {
            created_at: self.created_at,
            id: self.job.id,
        }
    }

    fn of(row: &PgRow) -> Result<Self, StoreError> {
        let cursor_at = pg::optional_micros(row, "cursor_at")?;
        let cursor_id: Option<String> = row.try_get("cursor_id")?;
        let (kind, state): (&str, &str) = (row.try_get("type")?, row.try_get("state")?);
        let unknown =
            |what, word: &str| StoreError::corrupt(what, format!("unknown word {word:?}"));
        Ok(Self {
            job: NewJob {
                id: row.try_get("id")?,
                workspace_id: row.try_get("workspace_id")?,
                webhook_id: row.try_get("webhook_id")?,
                kind: JobType::ALL
                    .into_iter()
                    .find(|known| known.as_str() == kind)
                    .ok_or_else(|| unknown("job type", kind))?,
                since: pg::micros(row, "since")?,
                until: pg::micros(row, "until")?,
                filter: JobFilter::of(&row.try_get::<Value, _>("filter")?)?,
                dry_run: row.try_get("dry_run")?,
                rate_per_second: pg::unsigned(row, "rate_per_second")?,
            },
            state: JobState::ALL
                .into_iter()
                .find(|known| known.as_str() == state)
                .ok_or_else(|| unknown("job state", state))?,
            examined: row.try_get("examined")?,
            matched: row.try_get("matched")?,
            replayed: row.try_get("replayed")?,
            skipped: row.try_get("skipped")?,
            error: row.try_get("error")?,
            created_at: pg::micros(row, "created_at")?,
            started_at: pg::optional_micros(row, "started_at")?,
            finished_at: pg::optional_micros(row, "finished_at")?,
            cursor: cursor_at.zip(cursor_id),
        })
    }

    fn audited(&self) -> Value {
        json!({
            "webhookId": self.job.webhook_id,
            "type": self.job.kind.as_str(),
            "state": self.state.as_str(),
            "since": self.job.since,
            "until": self.job.until,
            "filter": self.job.filter.stored(),
            "dryRun": self.job.dry_run,
            "ratePerSecond": self.job.rate_per_second,
        })
    }
}

impl JobFilter {
    fn stored(&self) -> Value {
        let states: Vec<_> = self.states.iter().map(|state| state.as_str()).collect();
        json!({
            "states": states,
            "class": self.class.map(FailureClass::as_str),
            "statusFrom": self.status.map(|(from, _)| from),
            "statusTo": self.status.map(|(_, to)| to),
            "linkId": self.link_id,
        })
    }

    fn of(stored: &Value) -> Result<Self, StoreError> {
        let corrupt = |error: String| StoreError::corrupt("job filter", error);
        let number = |name: &str| {
            stored[name]
                .as_u64()
                .and_then(|number| u16::try_from(number).ok())
        };
        let states = stored["states"].as_array().map_or(&[][..], Vec::as_slice);
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(Self {
            states: states
                .iter()
                .map(|state| {
                    word(state)
                        .parse()
                        .map_err(|e: webhooks_domain::delivery::UnknownState| {
                            corrupt(e.to_string())
                        })
                })
                .collect::<Result<_, _>>()?,
            class: match &stored["class"] {
                Value::String(class) => Some(
                    FailureClass::ALL
                        .into_iter()
                        .find(|known| known.as_str() == class)
                        .ok_or_else(|| corrupt(format!("unknown class {class:?}")))?,
                ),
                _ => None,
            },
            status: number("statusFrom").zip(number("statusTo")),
            link_id: stored["linkId"]
                .as_str()
                .map(Uuid::try_parse)
                .transpose()
                .map_err(|error| corrupt(error.to_string()))?,
        })
    }
}

const OPEN: &str = "
SELECT count(*) FROM jobs WHERE workspace_id = $1 AND state IN ('PENDING', 'RUNNING', 'PAUSED')";

const INSERT: &str = "
INSERT INTO jobs (id, workspace_id, webhook_id, type, state, since, until, filter, dry_run,
  rate_per_second, created_by, created_at, next_step_at)
VALUES ($1, $2, $3, $4, 'PENDING', $5, $6, $7, $8, $9, $10, $11, $11)
RETURNING *";

/// `$4` is the state, `$3` the moment.
const SET: &str = "
UPDATE jobs SET state = $4, next_step_at = $3,
  finished_at = CASE WHEN $4 = 'CANCELLED' THEN $3 END
WHERE workspace_id = $1 AND id = $2 RETURNING *";

/// Due jobs are claimed in turn; one that another worker holds is passed over.
const CLAIM: &str = "
UPDATE jobs SET state = 'RUNNING', started_at = coalesce(started_at, $1), next_step_at = $2
WHERE id = (SELECT id FROM jobs WHERE state IN ('PENDING', 'RUNNING') AND next_step_at <= $1
  ORDER BY next_step_at LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING *";

const ADVANCE: &str = "
UPDATE jobs SET cursor_at = $2, cursor_id = $3, examined = examined + $4, matched = matched + $5,
  replayed = replayed + $6, skipped = skipped + $7, next_step_at = $8,
  state = CASE WHEN $9 THEN 'SUCCEEDED' ELSE state END, finished_at = CASE WHEN $9 THEN $10 END
WHERE id = $1 RETURNING *";

const FAIL: &str = "
UPDATE jobs SET state = 'FAILED', error = $2, finished_at = $3
WHERE id = $1 AND state IN ('PENDING', 'RUNNING')";

impl Store {
    /// Makes a job.
    ///
    /// # Errors
    /// [`StoreError::BatchTooLarge`] when the workspace has [`MAX_JOBS_OPEN`] open ones;
    /// [`StoreError::Conflict`] when the claim is no longer the caller's.
    pub async fn create_job(&self, new: &NewJob, wish: Wish<'_>) -> Result<JobRow, StoreError> {
        let mut tx = self.pool.begin().await?;
        // Creations in one workspace wait for each other, so that the limit holds.
        sqlx::query("SELECT 1 FROM workspaces WHERE id = $1 FOR NO KEY UPDATE")
            .bind(new.workspace_id)
            .execute(&mut *tx)
            .await?;
        let open: i64 = sqlx::query_scalar(OPEN)
            .bind(new.workspace_id)
            .fetch_one(&mut *tx)
            .await?;
        if open >= i64::from(MAX_JOBS_OPEN) {
            let limit = usize::try_from(MAX_JOBS_OPEN).unwrap_or(usize::MAX);
            return Err(StoreError::BatchTooLarge {
                given: limit + 1,
                limit,
            });
        }
        if let Some(claim) = wish.claim {
            idempotency::bind_subject(&mut tx, claim, new.id).await?;
        }
        let row = sqlx::query(INSERT)
            .bind(new.id)
            .bind(new.workspace_id)
            .bind(new.webhook_id)
            .bind(new.kind.as_str())
            .bind(Micros(new.since))
            .bind(Micros(new.until))
            .bind(new.filter.stored())
            .bind(new.dry_run)
            .bind(pg::int(new.rate_per_second))
            .bind(wish.actor.text())
            .bind(Micros(wish.now))
            .fetch_one(&mut *tx)
            .await?;
        let job = JobRow::of(&row)?;
        log(&mut tx, "job.create", None, &job, wish).await?;
        tx.commit().await?;
        Ok(job)
    }

    /// The workspace's job of this id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn get_job(&self, workspace: Uuid, id: Uuid) -> Result<Option<JobRow>, StoreError> {
        let row = sqlx::query("SELECT * FROM jobs WHERE workspace_id = $1 AND id = $2")
            .bind(workspace)
            .bind(id)
            .fetch_optional(&self.pool)
            .await?;
        row.as_ref().map(JobRow::of).transpose()
    }

    /// A page of a webhook's jobs, newest first, beginning after `after`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list_jobs(
        &self,
        workspace: Uuid,
        webhook: Uuid,
        page_size: u32,
        after: Option<JobCursor>,
    ) -> Result<JobPage, StoreError> {
        let size = usize::try_from(page_size.min(MAX_PAGE)).unwrap_or(usize::MAX);
        let (at, id) = after.map_or((i64::MAX, Uuid::max()), |after| {
            (after.created_at, after.id)
        });
        let select = "SELECT * FROM jobs WHERE workspace_id = $1 AND webhook_id = $2
            AND (created_at, id) < ($3, $4) ORDER BY created_at DESC, id DESC LIMIT $5";
        let found = sqlx::query(select)
            .bind(workspace)
            .bind(webhook)
            .bind(Micros(at))
            .bind(id)
            .bind(i64::try_from(size + 1).unwrap_or(i64::MAX))
            .fetch_all(&self.pool)
            .await?;
        let count = "SELECT count(*) FROM jobs WHERE workspace_id = $1 AND webhook_id = $2";
        let total = sqlx::query_scalar(count)
            .bind(workspace)
            .bind(webhook)
            .fetch_one(&self.pool)
            .await?;
        let mut rows = found
            .iter()
            .map(JobRow::of)
            .collect::<Result<Vec<_>, _>>()?;
        let more = rows.len() > size;
        rows.truncate(size);
        Ok(JobPage { rows, total, more })
    }

    /// Pauses, resumes ([`JobState::Running`]) or cancels a job, and returns it as it is now.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when it is over already.
    pub async fn set_job_state(
        &self,
        workspace: Uuid,
        id: Uuid,
        state: JobState,
        wish: Wish<'_>,
    ) -> Result<Option<JobRow>, StoreError> {
        let mut tx = self.pool.begin().await?;
        let hold = "SELECT * FROM jobs WHERE workspace_id = $1 AND id = $2 FOR UPDATE";
        let before = sqlx::query(hold)
            .bind(workspace)
            .bind(id)
            .fetch_optional(&mut *tx)
            .await?;
        let Some(before) = before.as_ref().map(JobRow::of).transpose()? else {
            return Ok(None);
        };
        let same = before.state == state
            || (state == JobState::Running && before.state == JobState::Pending);
        if same {
            return Ok(Some(before));
        }
        if before.state.is_over() {
            return Err(StoreError::Conflict("job"));
        }
        let after = sqlx::query(SET)
            .bind(workspace)
            .bind(id)
            .bind(Micros(wish.now))
            .bind(state.as_str())
            .fetch_one(&mut *tx)
            .await?;
        let after = JobRow::of(&after)?;
        log(&mut tx, "job.update", Some(&before), &after, wish).await?;
        tx.commit().await?;
        Ok(Some(after))
    }

    /// A job that is due, for this worker alone for a while.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn claim_job(&self, now: i64) -> Result<Option<JobRow>, StoreError> {
        let row = sqlx::query(CLAIM)
            .bind(Micros(now))
            .bind(Micros(now.saturating_add(LEASE)))
            .fetch_optional(&self.pool)
            .await?;
        row.as_ref().map(JobRow::of).transpose()
    }

    /// Gives a claimed job back after a step that did not happen: it is due again at `at`.
    ///
    /// # Errors
    /// When the database fails; then the claim ends by itself.
    pub async fn release_job(&self, id: Uuid, at: i64) -> Result<(), StoreError> {
        sqlx::query("UPDATE jobs SET next_step_at = $2 WHERE id = $1 AND state = 'RUNNING'")
            .bind(id)
            .bind(Micros(at))
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Ends a job that cannot go on.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn fail_job(&self, id: Uuid, reason: &str, now: i64) -> Result<(), StoreError> {
        sqlx::query(FAIL)
            .bind(id)
            .bind(pg::storable(reason))
            .bind(Micros(now))
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Advances a claimed job by one step, and returns it as it is now. A job that was paused, ended
    /// or advanced by somebody else meanwhile stays as it is. `missing` is asked by
    /// [`JobType::ReplayMissing`] only.
    ///
    /// # Errors
    /// When the database fails: then the step has not happened.
    pub async fn advance_job(
        &self,
        claimed: &JobRow,
        missing: &dyn Missing,
        now: i64,
    ) -> Result<JobRow, StoreError> {
        let mut tx = self.pool.begin().await?;
        let hold = sqlx::query("SELECT * FROM jobs WHERE id = $1 FOR UPDATE")
            .bind(claimed.job.id)
            .fetch_one(&mut *tx)
            .await?;
        let current = JobRow::of(&hold)?;
        if current.state != JobState::Running || current.cursor != claimed.cursor {
            return Ok(current);
        }
        let mut tally = Tally::default();
        let step = match current.job.kind {
            JobType::ReplayMissing => step::missing(&mut tx, &current, missing, &mut tally).await?,
            _ => step::replay(&mut tx, &current, now, &mut tally).await?,
        };
        tally.write(&mut tx).await?;
        let pace =
            step.made.saturating_mul(1_000_000) / i64::from(current.job.rate_per_second.max(1));
        let pause = if step.waits { pace.max(WAIT) } else { pace };
        let (at, id) = step.cursor.or(current.cursor).unzip();
        let row = sqlx::query(ADVANCE)
            .bind(current.job.id)
            .bind(at.map(Micros))
            .bind(id)
            .bind(step.examined)
            .bind(step.matched)
            .bind(step.made)
            .bind(step.skipped)
            .bind(Micros(now.saturating_add(pause)))
            .bind(step.at_the_end)
            .bind(Micros(now))
            .fetch_one(&mut *tx)
            .await?;
        tx.commit().await?;
        JobRow::of(&row)
    }
}

impl JobRow {
    /// How many deliveries a step may make.
    fn most(&self) -> usize {
        let most = self.job.rate_per_second.clamp(1, MOST_A_STEP);
        if self.job.dry_run {
            usize::MAX
        } else {
            usize::try_from(most).unwrap_or(usize::MAX)
        }
    }

    fn replay_id(&self, event: &str) -> Uuid {
        ids::replay_delivery_id(
            self.job.workspace_id,
            event,
            self.job.webhook_id,
            self.job.id,
            self.created_at,
        )
    }
}

async fn log(
    connection: &mut PgConnection,
    action: &'static str,
    before: Option<&JobRow>,
    after: &JobRow,
    wish: Wish<'_>,
) -> Result<(), StoreError> {
    let subject = after.job.id.to_string();
    let entry = Entry {
        workspace: after.job.workspace_id,
        actor: wish.actor,
        action,
        subject: &subject,
        at: wish.now,
        before: before.map(JobRow::audited),
        after: Some(after.audited()),
    };
    audit::write(connection, entry).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_reads_back() {
        let filter = JobFilter {
            states: vec![DeliveryState::Failed, DeliveryState::Cancelled],
            class: Some(FailureClass::Permanent),
            status: Some((500, 599)),
            link_id: Some(Uuid::from_u128(7)),
        };
        for filter in [filter, JobFilter::default()] {
            assert_eq!(JobFilter::of(&filter.stored()).unwrap(), filter);
        }
        assert!(JobFilter::of(&json!({ "states": ["GONE"] })).is_err());
    }
}
