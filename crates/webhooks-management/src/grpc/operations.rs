//! `EventHistoryService`, `JobService` and `MetricsService`.

use tonic::{Request, Response, Status, async_trait};
use webhooks_bus::words::wire_class;
use webhooks_proto::v1::{
    self, event_history_service_server::EventHistoryService, job_service_server::JobService,
    metrics_service_server::MetricsService,
};
use webhooks_store::{
    Counts, ErrorExample, ErrorGroup, EventRow, JobRow, JobState, JobType, Latency,
};

use super::{
    Grpc,
    access::time,
    convert,
    deliveries::{FACE, class_word},
    once::{answered, once_of},
    status::Refused,
    webhook_id,
};
use crate::{
    auth::Caller,
    error::{ManagementError, Problems, parse_id},
    model::{delivery_state, wire_state},
    page::page_size_of,
    refusal::Refusal,
    rest::{status_word, success_rate},
    service::{EventVerdict, JobDraft, Metrics, MetricsQuery, Once, Usage, UsageQuery},
    violations::Violations,
};

#[async_trait]
impl EventHistoryService for Grpc {
    async fn get_event(
        &self,
        request: Request<v1::GetEventRequest>,
    ) -> Result<Response<v1::GetEventResponse>, Status> {
        self.call(request, |caller, request| async move {
            let judged = self.management.get_event(&caller, &request.id).await?;
            Ok(Response::new(v1::GetEventResponse {
                event: Some(event_message(&judged.event)),
                verdicts: judged.verdicts.iter().map(verdict_message).collect(),
                verdicts_truncated: judged.truncated,
            }))
        })
        .await
    }

    async fn list_events(
        &self,
        request: Request<v1::ListEventsRequest>,
    ) -> Result<Response<v1::ListEventsResponse>, Status> {
        self.call(request, |caller, request| async move {
            let (after, mut wrong) = time("acceptedAfter", request.accepted_after);
            let (before, more) = time("acceptedBefore", request.accepted_before);
            wrong.extend(more);
            let (range, mut problems) = ((after, before), Problems::from(wrong));
            let size = problems.take(page_size_of(request.page_size));
            problems.verdict()?;
            let found = self
                .management
                .list_events(&caller, range, size, &request.page_token)
                .await?;
            Ok(Response::new(v1::ListEventsResponse {
                events: found.page.rows.iter().map(event_message).collect(),
                next_page_token: found.page.next.unwrap_or_default(),
                total_count: i64::try_from(found.page.total).unwrap_or(i64::MAX),
                total_count_is_lower_bound: found.total_is_lower_bound,
            }))
        })
        .await
    }
}

#[async_trait]
impl JobService for Grpc {
    async fn create_job(
        &self,
        request: Request<v1::CreateJobRequest>,
    ) -> Result<Response<v1::CreateJobResponse>, Status> {
        self.call(request, |caller, request| async move {
            let once = once_of("CreateJob", &request.idempotency_key, &request)?;
            let webhook = webhook_id(&request.webhook_id)?;
            let draft = Ok(draft_of(request));
            let answer = self
                .management
                .create_job(caller, Some(webhook), draft, once, FACE)
                .await?;
            answered(&answer)
        })
        .await
    }

    async fn get_job(
        &self,
        request: Request<v1::GetJobRequest>,
    ) -> Result<Response<v1::GetJobResponse>, Status> {
        self.call(request, |caller, request| async move {
            let id = job_id(&request.id)?;
            let job = self.management.get_job(&caller, id).await?;
            Ok(job_response(&job))
        })
        .await
    }

    async fn list_jobs(
        &self,
        request: Request<v1::ListJobsRequest>,
    ) -> Result<Response<v1::ListJobsResponse>, Status> {
        self.call(request, |caller, request| async move {
            let webhook = webhook_id(&request.webhook_id)?;
            let size = page_size_of(request.page_size)?;
            let page = self
                .management
                .list_jobs(&caller, webhook, size, &request.page_token)
                .await?;
            Ok(Response::new(v1::ListJobsResponse {
                jobs: page.rows.iter().map(job_message).collect(),
                next_page_token: page.next.unwrap_or_default(),
                total_count: i64::try_from(page.total).unwrap_or(i64::MAX),
            }))
        })
        .await
    }

    async fn pause_job(
        &self,
        request: Request<v1::PauseJobRequest>,
    ) -> Result<Response<v1::GetJobResponse>, Status> {
        self.call(request, |caller, request| async move {
            let once = once_of("PauseJob", &request.idempotency_key, &request)?;
            self.set_job(caller, &request.id, JobState::Paused, once)
                .await
        })
        .await
    }

    async fn resume_job(
        &self,
        request: Request<v1::ResumeJobRequest>,
    ) -> Result<Response<v1::GetJobResponse>, Status> {
        self.call(request, |caller, request| async move {
            let once = once_of("ResumeJob", &request.idempotency_key, &request)?;
            self.set_job(caller, &request.id, JobState::Running, once)
                .await
        })
        .await
    }

    async fn cancel_job(
        &self,
        request: Request<v1::CancelJobRequest>,
    ) -> Result<Response<v1::GetJobResponse>, Status> {
        self.call(request, |caller, request| async move {
            let once = once_of("CancelJob", &request.idempotency_key, &request)?;
            self.set_job(caller, &request.id, JobState::Cancelled, once)
                .await
        })
        .await
    }
}

#[async_trait]
impl MetricsService for Grpc {
    async fn get_metrics(
        &self,
        request: Request<v1::GetMetricsRequest>,
    ) -> Result<Response<v1::GetMetricsResponse>, Status> {
        self.call(request, |caller, request| async move {
            let webhook = match request.webhook_id.as_str() {
                "" => None,
                id => Some(webhook_id(id)?),
            };
            let (from, mut problems) = time("from", request.from);
            let (to, wrong) = time("to", request.to);
            problems.extend(wrong);
            let query = MetricsQuery {
                interval: request.interval,
                from,
                to,
                problems: problems.into(),
            };
            let metrics = self.management.metrics(&caller, webhook, query).await?;
            Ok(Response::new(metrics_message(&metrics)))
        })
        .await
    }

    async fn get_usage(
        &self,
        request: Request<v1::GetUsageRequest>,
    ) -> Result<Response<v1::GetUsageResponse>, Status> {
        self.call(request, |caller, request| async move {
            let (from, mut problems) = time("from", request.from);
            let (to, wrong) = time("to", request.to);
            problems.extend(wrong);
            let query = UsageQuery {
                from,
                to,
                problems: problems.into(),
            };
            let usage = self.management.usage(&caller, query).await?;
            Ok(Response::new(usage_message(&usage)))
        })
        .await
    }
}

impl Grpc {
    async fn set_job(
        &self,
        caller: Caller,
        id: &str,
        state: JobState,
        once: Option<Once>,
    ) -> Result<Response<v1::GetJobResponse>, Refused> {
        let id = Some(job_id(id)?);
        let set = self.management.set_job_state(caller, id, state, once, FACE);
        answered(&set.await?)
    }
}

fn job_id(text: &str) -> Result<uuid::Uuid, ManagementError> {
    parse_id(text).ok_or_else(|| Refusal::JobNotFound.into())
}

fn job_response(job: &JobRow) -> Response<v1::GetJobResponse> {
    Response::new(v1::GetJobResponse {
        job: Some(job_message(job)),
    })
}

fn event_message(event: &EventRow) -> v1::Event {
    v1::Event {
        id: event.id.clone(),
        event_type: event.event_type.clone(),
        link_id: event.link_id.map_or_else(String::new, |id| id.to_string()),
        lbid: event.lbid.clone(),
        step_kind: event.step_kind.clone(),
        event_action: event.event_action.clone(),
        timestamp: Some(convert::timestamp(event.timestamp)),
        accepted_at: Some(convert::timestamp(event.accepted_at)),
    }
}

fn verdict_message(verdict: &EventVerdict) -> v1::EventVerdict {
    v1::EventVerdict {
        webhook_id: verdict.webhook_id.to_string(),
        webhook_name: verdict.webhook_name.clone().unwrap_or_default(),
        fired: verdict.fired,
        reason: verdict.reason.to_owned(),
        delivery_ids: verdict
            .delivery_ids
            .iter()
            .map(ToString::to_string)
            .collect(),
        judged_by: verdict.judged_by.as_str().to_owned(),
        revision: verdict.revision.unwrap_or(0),
        changed_since: verdict.changed_since,
    }
}

fn draft_of(request: v1::CreateJobRequest) -> JobDraft {
    let mut problems = Violations::default();
    let filter = request.filter.unwrap_or_default();
    let mut states = Vec::new();
    for (index, number) in filter.states.into_iter().enumerate() {
        match v1::DeliveryState::try_from(number)
            .ok()
            .and_then(delivery_state)
        {
            Some(state) => states.push(state.as_str().to_owned()),
            None => {
                problems.refuse_entry("filter.state", index, "unknown_value", "is no state");
            }
        }
    }
    let class = class_word(filter.class).unwrap_or_else(|| {
        problems.refuse("filter.class", "unknown_value", "is no class");
        ""
    });
    let kind = match v1::JobType::try_from(request.r#type) {
        Ok(v1::JobType::RecoverFailed) => JobType::RecoverFailed.as_str(),
        Ok(v1::JobType::ReplayMissing) => JobType::ReplayMissing.as_str(),
        Ok(v1::JobType::Replay) => JobType::Replay.as_str(),
        Ok(v1::JobType::Unspecified) | Err(_) => "",
    };
    let (since, wrong) = time("since", request.since);
    problems.extend(wrong);
    let (until, wrong) = time("until", request.until);
    problems.extend(wrong);
    JobDraft {
        kind: kind.to_owned(),
        since,
        until,
        states,
        class: class.to_owned(),
        status_code: filter.status_code,
        link_id: filter.link_id,
        dry_run: request.dry_run,
        rate_per_second: Some(i64::from(request.rate_per_second)).filter(|rate| *rate != 0),
        problems,
    }
}

/// A job.
pub(super) fn job_message(row: &JobRow) -> v1::Job {
    let job = &row.job;
    let kind = match job.kind {
        JobType::RecoverFailed => v1::JobType::RecoverFailed,
        JobType::ReplayMissing => v1::JobType::ReplayMissing,
        JobType::Replay => v1::JobType::Replay,
    };
    let state = match row.state {
        JobState::Pending => v1::JobState::Pending,
        JobState::Running => v1::JobState::Running,
        JobState::Paused => v1::JobState::Paused,
        JobState::Succeeded => v1::JobState::Succeeded,
        JobState::Failed => v1::JobState::Failed,
        JobState::Cancelled => v1::JobState::Cancelled,
    };
    v1::Job {
        id: job.id.to_string(),
        webhook_id: job.webhook_id.to_string(),
        r#type: kind.into(),
        state: state.into(),
        since: Some(convert::timestamp(job.since)),
        until: Some(convert::timestamp(job.until)),
        filter: Some(v1::JobFilter {
            states: job
                .filter
                .states
                .iter()
                .map(|state| wire_state(*state).into())
                .collect(),
            class: wire_class(job.filter.class).into(),
            status_code: job.filter.status.map(status_word).unwrap_or_default(),
            link_id: job
                .filter
                .link_id
                .map_or_else(String::new, |id| id.to_string()),
        }),
        dry_run: job.dry_run,
        rate_per_second: i32::try_from(job.rate_per_second).unwrap_or(i32::MAX),
        examined: row.examined,
        matched: row.matched,
        replayed: row.replayed,
        skipped: row.skipped,
        error: row.error.clone().unwrap_or_default(),
        created_at: Some(convert::timestamp(row.created_at)),
        started_at: row.started_at.map(convert::timestamp),
        finished_at: row.finished_at.map(convert::timestamp),
    }
}

fn usage_message(usage: &Usage) -> v1::GetUsageResponse {
    let days = usage.days.iter();
    v1::GetUsageResponse {
        from: Some(convert::timestamp(usage.from)),
        to: Some(convert::timestamp(usage.to)),
        days: days
            .map(|day| v1::UsageDay {
                start: Some(convert::timestamp(day.start)),
                events: day.events,
                deliveries: day.deliveries,
                delivered: day.delivered,
                failed: day.failed,
                cancelled: day.cancelled,
                open: day.open,
            })
            .collect(),
    }
}

fn latency_message(latency: &Latency) -> v1::Latency {
    let ms = |micros: Option<f64>| micros.map(|micros| micros / 1_000.0);
    v1::Latency {
        p50_ms: ms(latency.p50_us),
        p95_ms: ms(latency.p95_us),
        p99_ms: ms(latency.p99_us),
        sample: latency.sample,
    }
}

fn metrics_message(metrics: &Metrics) -> v1::GetMetricsResponse {
    let measures = &metrics.measures;
    let (pending, retrying, held) = measures.backlog;
    v1::GetMetricsResponse {
        from: Some(convert::timestamp(metrics.from)),
        to: Some(convert::timestamp(metrics.to)),
        interval: metrics.interval.as_str().to_owned(),
        totals: Some(counts_message(&measures.totals)),
        latency: Some(latency_message(&measures.latency)),
        backlog: Some(v1::Backlog {
            pending,
            retrying,
            held,
        }),
        buckets: measures
            .buckets
            .iter()
            .map(|bucket| v1::MetricBucket {
                start: Some(convert::timestamp(bucket.start)),
                counts: Some(counts_message(&bucket.counts)),
                latency: Some(latency_message(&bucket.latency)),
            })
            .collect(),
        errors: measures.errors.iter().map(error_message).collect(),
        partial: measures.partial,
    }
}

fn counts_message(counts: &Counts) -> v1::MetricCounts {
    v1::MetricCounts {
        deliveries: counts.deliveries,
        delivered: counts.delivered,
        failed: counts.failed,
        cancelled: counts.cancelled,
        open: counts.pending + counts.retrying + counts.held,
        attempts: counts.attempts,
        success_rate: success_rate(counts),
    }
}

fn error_message(group: &ErrorGroup) -> v1::ErrorGroup {
    let example = |example: &ErrorExample| v1::ErrorExample {
        delivery_id: example.delivery.to_string(),
        at: Some(convert::timestamp(example.at)),
    };
    v1::ErrorGroup {
        class: wire_class(Some(group.class)).into(),
        status_code: group.status.map_or(0, i32::from),
        reason: group.reason.clone(),
        count: group.count,
        first: Some(example(&group.first)),
        last: Some(example(&group.last)),
    }
}
