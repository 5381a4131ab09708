//! `DeliveryService`.

use futures::{StreamExt as _, stream, stream::BoxStream};
use prost::Message as _;
use tonic::{Request, Response, Status, async_trait};
use webhooks_bus::words::{class_of, trigger_of};
use webhooks_domain::{endpoint::FailureClass, ids::Trigger};
use webhooks_proto::v1::{self, delivery_service_server::DeliveryService};
use webhooks_store::{DeliveryRow, JobRow};

use super::{
    Grpc,
    access::time,
    convert,
    once::{answered, once_of},
    operations::job_message,
    status::refuse,
    webhook_id,
};
use crate::{
    error::{ManagementError, Problems, parse_id},
    model::delivery_state,
    page::page_size_of,
    service::{DeliveryQuery, HistoryFace, Prepared, Tailed},
    violations::Violations,
};

/// How this face puts the answers that are kept.
pub(super) const FACE: HistoryFace = HistoryFace {
    delivery: encode_delivery,
    job: encode_job,
    prepared: encode_prepared,
    refuse: Some(refuse),
};

#[async_trait]
impl DeliveryService for Grpc {
    async fn list_deliveries(
        &self,
        request: Request<v1::ListDeliveriesRequest>,
    ) -> Result<Response<v1::ListDeliveriesResponse>, Status> {
        self.call(request, |caller, request| async move {
            let (asked, token) = (request.page_size, request.page_token.clone());
            let mut query = query_of(request);
            let mut problems = Problems::from(std::mem::take(&mut query.problems));
            let size = problems.take(page_size_of(asked));
            query.problems = problems.violations();
            let found = self
                .management
                .search_deliveries(&caller, None, query, size, &token)
                .await?;
            Ok(Response::new(v1::ListDeliveriesResponse {
                deliveries: found.page.rows.iter().map(convert::delivery).collect(),
                next_page_token: found.page.next.unwrap_or_default(),
                total_count: i64::try_from(found.page.total).unwrap_or(i64::MAX),
                total_count_is_lower_bound: found.total_is_lower_bound,
            }))
        })
        .await
    }

    async fn get_delivery(
        &self,
        request: Request<v1::GetDeliveryRequest>,
    ) -> Result<Response<v1::GetDeliveryResponse>, Status> {
        self.call(request, |caller, request| async move {
            let id = delivery_id(&request.id)?;
            let (row, attempts) = self.management.get_delivery(&caller, id).await?;
            Ok(Response::new(v1::GetDeliveryResponse {
                delivery: Some(convert::delivery(&row)),
                attempts: attempts.iter().map(convert::attempt).collect(),
            }))
        })
        .await
    }

    async fn get_delivery_request_content(
        &self,
        request: Request<v1::GetDeliveryRequestContentRequest>,
    ) -> Result<Response<v1::PreparedRequest>, Status> {
        self.call(request, |caller, request| async move {
            let id = delivery_id(&request.id)?;
            let prepared = self.management.delivery_request(&caller, id).await?;
            Ok(Response::new(prepared_message(&prepared)))
        })
        .await
    }

    async fn retry_delivery(
        &self,
        request: Request<v1::RetryDeliveryRequest>,
    ) -> Result<Response<v1::RetryDeliveryResponse>, Status> {
        self.call(request, |caller, request| async move {
            let once = once_of("RetryDelivery", &request.idempotency_key, &request)?;
            let id = delivery_id(&request.id)?;
            let answer = self
                .management
                .retry_delivery(caller, Some(id), once, FACE)
                .await?;
            answered(&answer)
        })
        .await
    }

    async fn cancel_delivery(
        &self,
        request: Request<v1::CancelDeliveryRequest>,
    ) -> Result<Response<v1::CancelDeliveryResponse>, Status> {
        self.call(request, |caller, request| async move {
            let once = once_of("CancelDelivery", &request.idempotency_key, &request)?;
            let id = delivery_id(&request.id)?;
            let answer = self
                .management
                .cancel_delivery(caller, Some(id), once, FACE)
                .await?;
            answered(&answer)
        })
        .await
    }

    type TailDeliveriesStream = BoxStream<'static, Result<v1::TailDeliveriesResponse, Status>>;

    async fn tail_deliveries(
        &self,
        request: Request<v1::TailDeliveriesRequest>,
    ) -> Result<Response<Self::TailDeliveriesStream>, Status> {
        self.call(request, |caller, request| async move {
            let webhook = match request.webhook_id.as_str() {
                "" => None,
                id => Some(webhook_id(id)?),
            };
            let tail = self.management.tail(&caller, webhook).await?;
            let reports = stream::unfold(tail, |mut tail| async move {
                let tailed = tail.next().await?;
                let message = tailed.map(|tailed| tailed_message(&tailed));
                Some((
                    message.map_err(|error| super::status::status_of(&error)),
                    tail,
                ))
            });
            Ok(Response::new(reports.boxed()))
        })
        .await
    }

    async fn test_webhook(
        &self,
        request: Request<v1::TestWebhookRequest>,
    ) -> Result<Response<v1::TestWebhookResponse>, Status> {
        self.call(request, |caller, request| async move {
            let once = once_of("TestWebhook", &request.idempotency_key, &request)?;
            let id = webhook_id(&request.webhook_id)?;
            let answer = self
                .management
                .test_webhook(caller, Some(id), Some(request.event_id), once, FACE)
                .await?;
            answered(&answer)
        })
        .await
    }

    async fn challenge_webhook(
        &self,
        request: Request<v1::ChallengeWebhookRequest>,
    ) -> Result<Response<v1::ChallengeWebhookResponse>, Status> {
        self.call(request, |caller, request| async move {
            let once = once_of("ChallengeWebhook", &request.idempotency_key, &request)?;
            let id = webhook_id(&request.webhook_id)?;
            let answer = self
                .management
                .challenge_webhook(caller, Some(id), once, FACE)
                .await?;
            answered(&answer)
        })
        .await
    }

    async fn preview_webhook(
        &self,
        request: Request<v1::PreviewWebhookRequest>,
    ) -> Result<Response<v1::PreparedRequest>, Status> {
        self.call(request, |caller, request| async move {
            let once = once_of("PreviewWebhook", &request.idempotency_key, &request)?;
            let id = webhook_id(&request.webhook_id)?;
            let event = Ok(Some(request.event_id));
            let answer = self
                .management
                .preview_once(caller, Some(id), event, once, FACE)
                .await?;
            answered(&answer)
        })
        .await
    }

    async fn list_samples(
        &self,
        request: Request<v1::ListSamplesRequest>,
    ) -> Result<Response<v1::ListSamplesResponse>, Status> {
        self.call(request, |caller, request| async move {
            let payloads = self.management.samples(&caller, &request.triggers)?;
            Ok(Response::new(v1::ListSamplesResponse { payloads }))
        })
        .await
    }
}

fn delivery_id(text: &str) -> Result<uuid::Uuid, ManagementError> {
    parse_id(text).ok_or(ManagementError::DeliveryNotFound)
}

/// The filters as words, so that both faces are judged alike.
fn query_of(request: v1::ListDeliveriesRequest) -> DeliveryQuery {
    let mut problems = Violations::default();
    let mut unknown = |field: &str| {
        problems.refuse(field, "unknown_value", "is no value of it");
    };
    let mut states = Vec::new();
    match v1::DeliveryState::try_from(request.state) {
        Ok(state) => states.extend(delivery_state(state)),
        Err(_) => unknown("state"),
    }
    for (index, number) in request.states.iter().enumerate() {
        match v1::DeliveryState::try_from(*number) {
            Ok(state) => states.extend(delivery_state(state)),
            Err(_) => unknown(&format!("state[{index}]")),
        }
    }
    let class = class_word(request.class).unwrap_or_else(|| {
        unknown("class");
        ""
    });
    let trigger = match v1::Trigger::try_from(request.trigger) {
        Ok(trigger) => trigger_of(trigger).map_or("", Trigger::api_word),
        Err(_) => {
            unknown("trigger");
            ""
        }
    };
    let (created_after, wrong) = time("createdAfter", request.created_after);
    problems.extend(wrong);
    let (created_before, wrong) = time("createdBefore", request.created_before);
    problems.extend(wrong);
    DeliveryQuery {
        webhook_id: request.webhook_id,
        states: states
            .into_iter()
            .map(|state| state.as_str().to_owned())
            .collect(),
        class: class.to_owned(),
        status_code: request.status_code,
        event_id: request.event_id,
        link_id: request.link_id,
        lbid: request.lbid,
        trigger: trigger.to_owned(),
        blocked: request.blocked,
        created_after,
        created_before,
        problems,
    }
}

/// The word of a class; empty = none, `None` = it is no class.
pub(super) fn class_word(number: i32) -> Option<&'static str> {
    let class = v1::FailureClass::try_from(number).ok()?;
    Some(class_of(class).map_or("", FailureClass::as_str))
}

/// Every answer with a delivery has it in the same place.
fn encode_delivery(row: &DeliveryRow) -> Result<Vec<u8>, ManagementError> {
    let delivery = Some(convert::delivery(row));
    Ok(v1::RetryDeliveryResponse { delivery }.encode_to_vec())
}

fn encode_job(row: &JobRow) -> Result<Vec<u8>, ManagementError> {
    let job = Some(job_message(row));
    Ok(v1::CreateJobResponse { job }.encode_to_vec())
}

fn encode_prepared(prepared: &Prepared) -> Result<Vec<u8>, ManagementError> {
    Ok(prepared_message(prepared).encode_to_vec())
}

fn prepared_message(prepared: &Prepared) -> v1::PreparedRequest {
    let headers = prepared.headers.iter();
    v1::PreparedRequest {
        method: Prepared::METHOD.to_owned(),
        curl: prepared.curl(),
        url: prepared.url.clone(),
        headers: headers
            .map(|(name, value)| v1::Header {
                name: name.clone(),
                value: value.clone(),
            })
            .collect(),
        body: prepared.body.clone(),
    }
}

fn tailed_message(tailed: &Tailed) -> v1::TailDeliveriesResponse {
    v1::TailDeliveriesResponse {
        at: Some(convert::timestamp(tailed.at)),
        delivery: Some(convert::delivery(&tailed.delivery)),
        attempt: tailed.attempt.as_ref().map(convert::attempt),
        skipped: i64::try_from(tailed.skipped).unwrap_or(i64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use prost_types::Timestamp;

    use super::*;

    #[test]
    fn every_answer_with_a_delivery_reads_alike() {
        let delivery = Some(v1::Delivery {
            id: "x".to_owned(),
            ..v1::Delivery::default()
        });
        let kept = v1::RetryDeliveryResponse {
            delivery: delivery.clone(),
        };
        let read = v1::TestWebhookResponse::decode(kept.encode_to_vec().as_slice()).unwrap();
        assert_eq!(read.delivery, delivery);
        let read = v1::ChallengeWebhookResponse::decode(kept.encode_to_vec().as_slice()).unwrap();
        assert_eq!(read.delivery, delivery);
        let read = v1::CancelDeliveryResponse::decode(kept.encode_to_vec().as_slice()).unwrap();
        assert_eq!(read.delivery, delivery);
    }

    #[test]
    fn filters_become_words_and_nonsense_is_told() {
        let request = v1::ListDeliveriesRequest {
            state: v1::DeliveryState::Failed.into(),
            states: vec![v1::DeliveryState::Held.into(), 99],
            class: 77,
            trigger: v1::Trigger::Test.into(),
            created_after: Some(Timestamp {
                seconds: 5,
                nanos: 7_000,
            }),
            created_before: Some(Timestamp {
                seconds: i64::MAX,
                nanos: 0,
            }),
            ..v1::ListDeliveriesRequest::default()
        };
        let query = query_of(request);
        assert_eq!(query.states, ["FAILED", "HELD"]);
        assert_eq!(query.trigger, "TEST");
        assert_eq!(query.created_after, Some(5_000_007));
        let told = query.problems.told();
        let fields: Vec<_> = told.iter().map(|p| p.field.as_str()).collect();
        assert_eq!(fields, ["state[1]", "class", "createdBefore"]);
        assert_eq!(query.created_before, None, "not cut to an edge");
    }
}
