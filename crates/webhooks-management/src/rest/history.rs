//! The routes about what was and will be delivered: deliveries, tests, events, jobs and metrics.

mod read;
mod tail;
mod view;

use axum::{
    extract::{RawPathParams, Request, rejection::RawPathParamsRejection},
    response::Response,
};
use http::{StatusCode, Uri};
use serde_json::json;
use webhooks_store::{DeliveryRow, JobRow, JobState};

use super::{
    Rest,
    answer::{encode, json as json_answer, refusal_body},
    json_body,
    query::ListQuery,
    request::{path_text, read_nothing, read_optional},
    routes::{History, Route},
    webhooks::answered,
};
use crate::{
    auth::Caller,
    error::{ManagementError, Problems, parse_id},
    refusal::Refusal,
    service::{Found, HistoryFace, Prepared},
    view::DeliveryView,
};

use self::{
    read::{metrics_query, read_event_id, read_job, search, usage_query},
    view::{
        event_view, health_view, job_view, judged_view, metrics_view, prepared_view, usage_view,
    },
};

pub(crate) use self::view::{status_word, success_rate};

/// How this face puts the answers that are kept.
const FACE: HistoryFace = HistoryFace {
    delivery: encode_delivery,
    job: encode_job,
    prepared: encode_prepared,
    refuse: Some(refusal_body),
};

impl Rest {
    /// Answers a workspace.
    pub(super) async fn history(
        &self,
        what: History,
        route: &Route,
        caller: Caller,
        params: Result<RawPathParams, RawPathParamsRejection>,
        request: Request,
    ) -> Result<Response, ManagementError> {
        let text = path_text(params);
        let id = text.as_deref().and_then(parse_id);
        match what {
            History::TestWebhook | History::CreateJob => {
                let (body, once) = read_optional(route, request).await?;
                let answer = match what {
                    History::TestWebhook => {
                        let event = read_event_id(&body)?;
                        self.management
                            .test_webhook(caller, id, event, once, FACE)
                            .await
                    }
                    _ => {
                        let draft = read_job(&body);
                        self.management
                            .create_job(caller, id, draft, once, FACE)
                            .await
                    }
                };
                Ok(answered(answer?))
            }
            History::RetryDelivery
            | History::ChallengeWebhook
            | History::CancelDelivery
            | History::PauseJob
            | History::ResumeJob
            | History::CancelJob => {
                let once = read_nothing(route, request).await?;
                let management = &self.management;
                let state = match what {
                    History::RetryDelivery => {
                        let made = management.retry_delivery(caller, id, once, FACE);
                        return Ok(answered(made.await?));
                    }
                    History::ChallengeWebhook => {
                        let asked = management.challenge_webhook(caller, id, once, FACE);
                        return Ok(answered(asked.await?));
                    }
                    History::CancelDelivery => {
                        let cancelled = management.cancel_delivery(caller, id, once, FACE);
                        return Ok(answered(cancelled.await?));
                    }
                    History::PauseJob => JobState::Paused,
                    History::ResumeJob => JobState::Running,
                    _ => JobState::Cancelled,
                };
                let set = management.set_job_state(caller, id, state, once, FACE);
                Ok(answered(set.await?))
            }
            History::PreviewWebhook => {
                let (body, once) = read_optional(route, request).await?;
                let event = read_event_id(&body);
                let prepared = self.management.preview_once(caller, id, event, once, FACE);
                Ok(answered(prepared.await?))
            }
            History::GetEvent => {
                let id = text.ok_or(Refusal::EventNotFound)?;
                let judged = self.management.get_event(&caller, &id).await?;
                json_body(&judged_view(&judged))
            }
            _ => self.look(what, &caller, id, request.uri()).await,
        }
    }

    /// What changes nothing.
    async fn look(
        &self,
        what: History,
        caller: &Caller,
        id: Option<uuid::Uuid>,
        uri: &Uri,
    ) -> Result<Response, ManagementError> {
        let query = ListQuery::of(uri)?;
        let webhook = || id.ok_or(ManagementError::WebhookNotFound);
        match what {
            History::ListDeliveries | History::ListDeliveriesOfWebhook => {
                let of = match what {
                    History::ListDeliveries => None,
                    _ => Some(webhook()?),
                };
                let mut wanted = search(&query);
                let mut problems = Problems::from(std::mem::take(&mut wanted.problems));
                let size = problems.take(query.page_size());
                wanted.problems = problems.violations();
                let found = self
                    .management
                    .search_deliveries(caller, of, wanted, size, query.page_token())
                    .await?;
                found_body("deliveries", &found, DeliveryView::of)
            }
            History::GetRequest => {
                let id = id.ok_or(ManagementError::DeliveryNotFound)?;
                let prepared = self.management.delivery_request(caller, id).await?;
                json_body(&json!({ "request": prepared_view(&prepared) }))
            }
            History::TailDeliveries => {
                let of = query.text("webhookId").map(|id| parse_id(&id));
                let of = match of {
                    None => None,
                    Some(id) => Some(id.ok_or(ManagementError::WebhookNotFound)?),
                };
                Ok(tail::response(self.management.tail(caller, of).await?))
            }
            History::ListSamples => {
                let samples = self.management.samples(caller, &query.all("triggers"))?;
                // An array as bytes: the payloads stay what they are.
                let mut body = vec![b'['];
                for (at, sample) in samples.iter().enumerate() {
                    if at > 0 {
                        body.push(b',');
                    }
                    body.extend_from_slice(sample);
                }
                body.push(b']');
                Ok(json_answer(StatusCode::OK, body))
            }
            History::ListEvents => {
                let mut problems = Problems::default();
                let mut time = |name| problems.take(query.time(name));
                let range = (time("acceptedAfter"), time("acceptedBefore"));
                let size = problems.take(query.page_size());
                problems.verdict()?;
                let found = self
                    .management
                    .list_events(caller, range, size, query.page_token())
                    .await?;
                found_body("events", &found, event_view)
            }
            History::ListJobs => {
                let (size, token) = (query.page_size()?, query.page_token());
                let page = self
                    .management
                    .list_jobs(caller, webhook()?, size, token)
                    .await?;
                let views: Vec<_> = page.rows.iter().map(job_view).collect();
                super::list_body("jobs", &views, page.next, page.total)
            }
            History::GetJob => {
                let id = id.ok_or(Refusal::JobNotFound)?;
                let job = self.management.get_job(caller, id).await?;
                json_body(&json!({ "job": job_view(&job) }))
            }
            History::GetHealthOfWebhook => {
                let health = self.management.webhook_health(caller, webhook()?).await?;
                json_body(&json!({ "health": health_view(&health) }))
            }
            History::GetUsage => {
                let usage = self.management.usage(caller, usage_query(&query)).await?;
                json_body(&usage_view(&usage))
            }
            History::GetMetrics | History::GetMetricsOfWebhook => {
                let of = match what {
                    History::GetMetrics => None,
                    _ => Some(webhook()?),
                };
                let metrics = self
                    .management
                    .metrics(caller, of, metrics_query(&query))
                    .await?;
                json_body(&metrics_view(&metrics))
            }
            _ => Err(ManagementError::RouteNotFound),
        }
    }
}

fn encode_delivery(row: &DeliveryRow) -> Result<Vec<u8>, ManagementError> {
    encode(&json!({ "delivery": DeliveryView::of(row) }))
}

fn encode_prepared(prepared: &Prepared) -> Result<Vec<u8>, ManagementError> {
    encode(&json!({ "request": prepared_view(prepared) }))
}

fn encode_job(row: &JobRow) -> Result<Vec<u8>, ManagementError> {
    encode(&json!({ "job": job_view(row) }))
}

/// A list whose total may be a lower bound, which is said only then.
pub(super) fn found_body<T, V: serde::Serialize>(
    name: &str,
    found: &Found<T>,
    view: impl Fn(&T) -> V,
) -> Result<Response, ManagementError> {
    let views: Vec<_> = found.page.rows.iter().map(view).collect();
    let mut body = json!({ name: views, "totalCount": found.page.total });
    if found.total_is_lower_bound {
        body["totalCountIsLowerBound"] = true.into();
    }
    if let Some(next) = &found.page.next {
        body["nextPageToken"] = next.as_str().into();
    }
    json_body(&body)
}
