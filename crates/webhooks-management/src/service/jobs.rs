//! Bulk jobs: what may be asked for. What a job does stands in the store and in the worker.

use uuid::Uuid;
use webhooks_store::{
    JobCursor, JobFilter, JobRow, JobState, JobType, MAX_JOBS_OPEN, NewJob, StoreError, Wish,
};

use super::{
    Answer, HistoryFace, Management, Once, Page, actor,
    deliveries::claim_lost,
    once::{Claim, store_key},
    query::Judge,
};
use crate::{
    auth::Caller, error::ManagementError, page::ListScope, refusal::Refusal, secrets,
    violations::Violations,
};

/// Deliveries a second when the caller does not say.
pub const DEFAULT_RATE: u32 = 50;

/// Most deliveries a second.
pub const MAX_RATE: u32 = 1_000;

/// A job as asked for, unchecked. Empty = not asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobDraft {
    /// Word of the type.
    pub kind: String,
    /// From this moment on, in microseconds.
    pub since: Option<i64>,
    /// Before this moment, in microseconds; `None` = now.
    pub until: Option<i64>,
    /// Words of states.
    pub states: Vec<String>,
    /// Word of a class.
    pub class: String,
    /// A status, or a hundred of them.
    pub status_code: String,
    /// A link's id.
    pub link_id: String,
    /// It only counts.
    pub dry_run: bool,
    /// Deliveries a second; `None` = [`DEFAULT_RATE`].
    pub rate_per_second: Option<i64>,
    /// What the face itself found wrong.
    pub problems: Violations,
}

impl JobDraft {
    fn judge(
        self,
        workspace_id: Uuid,
        webhook_id: Uuid,
        id: Uuid,
        now: i64,
    ) -> Result<NewJob, ManagementError> {
        let mut judge = Judge(self.problems);
        let kind = JobType::ALL
            .into_iter()
            .find(|kind| kind.as_str() == self.kind);
        if kind.is_none() {
            let all = JobType::ALL.map(JobType::as_str).join(", ");
            judge.broken("type", "unknown_value", format!("is one of {all}"));
        }
        let kind = kind.unwrap_or(JobType::Replay);
        if self.since.is_none() {
            judge.broken("since", "missing", "is required");
        }
        let since = self.since.unwrap_or(0);
        let until = self.until.unwrap_or(now).min(now);
        if self.since.is_some() && since >= until {
            judge.broken("since", "not_before", "lies before until, and in the past");
        }
        let filter = JobFilter {
            states: judge.states("filter.state", &self.states),
            class: judge.class("filter.class", &self.class),
            status: judge.status("filter.statusCode", &self.status_code),
            link_id: judge.id("filter.linkId", &self.link_id),
        };
        let by_delivery =
            !filter.states.is_empty() || filter.class.is_some() || filter.status.is_some();
        if kind == JobType::ReplayMissing && by_delivery {
            let message = "takes linkId alone: an event without a delivery has no state";
            judge.broken("filter", "not_for_type", message);
        }
        let rate = self.rate_per_second.unwrap_or(i64::from(DEFAULT_RATE));
        if !(1..=i64::from(MAX_RATE)).contains(&rate) {
            judge.broken(
                "ratePerSecond",
                "out_of_range",
                format!("is a number from 1 to {MAX_RATE}"),
            );
        }
        judge.verdict(NewJob {
            id,
            workspace_id,
            webhook_id,
            kind,
            since,
            until,
            filter,
            dry_run: self.dry_run,
            rate_per_second: u32::try_from(rate).unwrap_or(DEFAULT_RATE),
        })
    }
}

impl Management {
    /// Makes a job for a webhook. A worker begins it within a second.
    ///
    /// # Errors
    /// There is no such webhook, the draft breaks rules, or too many jobs are open.
    pub async fn create_job(
        &self,
        caller: Caller,
        webhook: Option<Uuid>,
        draft: Result<JobDraft, ManagementError>,
        once: Option<Once>,
        face: HistoryFace,
    ) -> Result<Answer, ManagementError> {
        let this = self.clone();
        self.to_the_end(async move {
            let result = match this.claim(&caller, once.as_ref()).await? {
                Claim::Answered(answer) => return Ok(answer),
                Claim::Made(id, _) => match this.get_job(&caller, id).await {
                    Ok(job) => (face.job)(&job),
                    Err(error) => Err(error),
                },
                Claim::Do => {
                    this.make_job(&caller, webhook, draft, once.as_ref(), face)
                        .await
                }
            };
            this.conclude_with(&caller, once.as_ref(), face.refuse, result)
                .await
        })
        .await
    }

    /// One job of the caller's workspace.
    ///
    /// # Errors
    /// There is none of this id.
    pub async fn get_job(&self, caller: &Caller, id: Uuid) -> Result<JobRow, ManagementError> {
        let row = self.inner.store.get_job(caller.workspace, id).await?;
        row.ok_or_else(|| Refusal::JobNotFound.into())
    }

    /// The jobs of a webhook, newest first.
    ///
    /// # Errors
    /// There is no such webhook, or the page token is not for this list.
    pub async fn list_jobs(
        &self,
        caller: &Caller,
        webhook: Uuid,
        page_size: u32,
        page_token: &str,
    ) -> Result<Page<JobRow>, ManagementError> {
        self.get_webhook(caller, webhook).await?;
        let id = webhook.to_string();
        let bound = [id.as_str()];
        let scope = ListScope {
            list: "jobs",
            workspace: caller.workspace,
            filters: &bound,
        };
        let after = self.inner.pages.read(scope, page_token)?;
        let after = after.map(|at| JobCursor {
            created_at: at.created_at,
            id: at.id,
        });
        let found = self
            .inner
            .store
            .list_jobs(caller.workspace, webhook, page_size, after)
            .await?;
        let last = found.rows.last().filter(|_| found.more);
        Ok(Page {
            next: last.map(|row| self.token_after(scope, row.created_at, row.job.id)),
            total: u64::try_from(found.total).unwrap_or(0),
            rows: found.rows,
        })
    }

    /// Pauses, resumes ([`JobState::Running`]) or cancels a job.
    ///
    /// # Errors
    /// There is none of this id, or it has ended.
    pub async fn set_job_state(
        &self,
        caller: Caller,
        id: Option<Uuid>,
        state: JobState,
        once: Option<Once>,
        face: HistoryFace,
    ) -> Result<Answer, ManagementError> {
        let this = self.clone();
        self.to_the_end(async move {
            let result = match this.claim(&caller, once.as_ref()).await? {
                Claim::Answered(answer) => return Ok(answer),
                // Doing it twice is doing it once.
                Claim::Do | Claim::Made(..) => this.set_job(&caller, id, state, face).await,
            };
            this.conclude_with(&caller, once.as_ref(), face.refuse, result)
                .await
        })
        .await
    }

    async fn set_job(
        &self,
        caller: &Caller,
        id: Option<Uuid>,
        state: JobState,
        face: HistoryFace,
    ) -> Result<Vec<u8>, ManagementError> {
        let id = id.ok_or(Refusal::JobNotFound)?;
        let actor = actor(caller);
        let wish = Wish {
            actor: &actor,
            now: self.now(),
            claim: None,
        };
        let set = self
            .inner
            .store
            .set_job_state(caller.workspace, id, state, wish);
        match set.await {
            Ok(row) => (face.job)(&row.ok_or(Refusal::JobNotFound)?),
            Err(StoreError::Conflict(_)) => Err(Refusal::JobEnded.into()),
            Err(error) => Err(error.into()),
        }
    }

    async fn make_job(
        &self,
        caller: &Caller,
        webhook: Option<Uuid>,
        draft: Result<JobDraft, ManagementError>,
        once: Option<&Once>,
        face: HistoryFace,
    ) -> Result<Vec<u8>, ManagementError> {
        let webhook = webhook.ok_or(ManagementError::WebhookNotFound)?;
        self.get_webhook(caller, webhook).await?;
        let now = self.now();
        let random = secrets::random().map_err(ManagementError::internal)?;
        let new = draft?.judge(caller.workspace, webhook, job_id(now, random), now)?;
        let actor = actor(caller);
        let wish = Wish {
            actor: &actor,
            now,
            claim: once.map(|once| store_key(caller, once)),
        };
        let job = self.inner.store.create_job(&new, wish).await;
        let job = job.map_err(|error| match error {
            StoreError::BatchTooLarge { .. } => Refusal::TooManyJobs(MAX_JOBS_OPEN).into(),
            other => claim_lost(other),
        })?;
        tracing::info!(job.id = %new.id, job.kind = new.kind.as_str(), webhook.id = %webhook, workspace.id = %caller.workspace, "job.created");
        (face.job)(&job)
    }
}

/// A time-ordered id (UUIDv7).
fn job_id(now_micros: i64, random: [u8; 10]) -> Uuid {
    let millis = u64::try_from(now_micros / 1_000).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(draft: JobDraft) -> Vec<String> {
        let judged = draft.judge(Uuid::nil(), Uuid::nil(), Uuid::nil(), 1_000);
        judged
            .map_or_else(|error| error.violations().to_vec(), |_| Vec::new())
            .into_iter()
            .map(|violation| violation.field)
            .collect()
    }

    fn draft(kind: &str) -> JobDraft {
        JobDraft {
            kind: kind.to_owned(),
            since: Some(1),
            ..JobDraft::default()
        }
    }

    #[test]
    fn all_that_is_wrong_with_a_job_is_told() {
        assert_eq!(fields(draft("REPLAY")), Vec::<String>::new());
        let wrong = JobDraft {
            rate_per_second: Some(0),
            class: "X".into(),
            ..JobDraft::default()
        };
        assert_eq!(
            fields(wrong),
            ["type", "since", "filter.class", "ratePerSecond"]
        );
        let future = JobDraft {
            since: Some(1_000),
            until: Some(9_000),
            ..draft("REPLAY")
        };
        assert_eq!(fields(future), ["since"]);
        let states = JobDraft {
            states: vec!["GONE".into(), "FAILED".into(), "LOST".into()],
            status_code: "6xx".into(),
            link_id: "x".into(),
            ..draft("REPLAY")
        };
        let expected = [
            "filter.state[0]",
            "filter.state[2]",
            "filter.statusCode",
            "filter.linkId",
        ];
        assert_eq!(fields(states), expected);
        let missing = JobDraft {
            states: vec!["FAILED".into()],
            ..draft("REPLAY_MISSING")
        };
        assert_eq!(fields(missing), ["filter"]);
    }

    #[test]
    fn a_job_ends_before_it_was_asked_for() {
        let until = JobDraft {
            until: Some(9_000),
            ..draft("REPLAY")
        };
        let job = until
            .judge(Uuid::nil(), Uuid::nil(), Uuid::nil(), 1_000)
            .unwrap();
        assert_eq!((job.until, job.rate_per_second), (1_000, DEFAULT_RATE));
    }
}
