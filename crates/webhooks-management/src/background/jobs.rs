//! The worker of bulk jobs: claims what is due, advances it by a step, and again.
//!
//! Everything that must survive is in the job's row; a worker that dies leaves a claim that ends by
//! itself. Several replicas share the work, a job at a time each.

use std::time::Duration;

use webhooks_domain::{matching::VerdictReason, webhook::WebhookStatus};
use webhooks_runtime::error_chain;
use webhooks_store::{EventRow, JobState, JobType, Missing, RenditionRecord, WebhookRow};

use super::{Surroundings, pause};
use crate::service::{Judged, profile_of, rendition_in, snapshot, verdict_on};

/// When a step that failed is tried again: after this, in microseconds.
const AGAIN_AFTER: i64 = 1_000_000;

/// How often the worker looks when nothing is due.
const EVERY: Duration = Duration::from_millis(500);

/// Advances jobs until shutdown.
pub(super) async fn run(around: Surroundings) -> anyhow::Result<()> {
    loop {
        if !step(&around).await? && pause(&around, EVERY).await {
            return Ok(());
        }
        if around.shutdown.is_cancelled() {
            return Ok(());
        }
    }
}

/// One step of one job; whether there was any.
async fn step(around: &Surroundings) -> anyhow::Result<bool> {
    let now = around.clock.now_micros();
    let Some(job) = around.store.claim_job(now).await? else {
        return Ok(false);
    };
    let (id, wanted) = (job.job.id, &job.job);
    let webhook = around
        .store
        .get_webhook(wanted.workspace_id, wanted.webhook_id)
        .await?;
    let Some(webhook) = webhook else {
        around
            .store
            .fail_job(id, "the webhook was deleted", now)
            .await?;
        return Ok(true);
    };
    let sends = !wanted.dry_run;
    if sends && webhook.status == WebhookStatus::Disabled {
        around
            .store
            .fail_job(id, "the webhook is disabled", now)
            .await?;
        return Ok(true);
    }
    let done = match around.store.advance_job(&job, &Subject(webhook), now).await {
        Ok(done) => done,
        Err(error) if error.is_retryable() => {
            // The step begins anew soon. If not even this can be written, the claim ends by itself.
            around.store.release_job(id, now + AGAIN_AFTER).await?;
            return Err(error.into());
        }
        Err(error) => {
            tracing::error!(job.id = %id, error = error_chain(&error), "job.failed");
            around
                .store
                .fail_job(id, "something went wrong on our side", now)
                .await?;
            return Ok(true);
        }
    };
    metrics::counter!("webhooks_job_deliveries_total", "type" => job.job.kind.as_str())
        .increment(u64::try_from(done.replayed - job.replayed).unwrap_or(0));
    if done.state == JobState::Succeeded {
        tracing::info!(
            job.id = %id,
            job.kind = JobType::as_str(done.job.kind),
            examined = done.examined,
            matched = done.matched,
            replayed = done.replayed,
            skipped = done.skipped,
            "job.done"
        );
    }
    Ok(true)
}

/// The webhook that a job delivers to.
struct Subject(WebhookRow);

impl Missing for Subject {
    fn fires(&self, event: &EventRow) -> bool {
        let judged = Judged {
            webhook: &self.0,
            as_if_active: true,
        };
        verdict_on(&judged, event) == VerdictReason::Fires
    }

    fn body(
        &self,
        event: &EventRow,
        renditions: &[RenditionRecord],
    ) -> Option<(RenditionRecord, Vec<u8>)> {
        let profile = profile_of(&self.0);
        let rendition = match rendition_in(profile, renditions) {
            Ok(rendition) => rendition?,
            Err(error) => {
                tracing::error!(event.id = event.id, webhook.id = %self.0.id, %error, "a stored event cannot be rendered");
                return None;
            }
        };
        Some((rendition, snapshot(&self.0, event.link_id, profile)))
    }
}
