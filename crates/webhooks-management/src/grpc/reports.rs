//! `ReportService`: dispatchers say what became of deliveries (the answer comes after the commit),
//! and ask what is recorded of those they meet again.

use tonic::{Request, Response, Status, async_trait};
use uuid::Uuid;
use webhooks_proto::internal::v1::{
    RecordedDelivery, RecordedRequest, RecordedResponse, ReportRequest, ReportResponse,
    report_service_server::ReportService,
};
use webhooks_runtime::error_chain;
use webhooks_store::MAX_REPORTS;

use super::Grpc;
use crate::{
    background::ReportError,
    model::{report_record, wire_state},
};

#[async_trait]
impl ReportService for Grpc {
    async fn report(
        &self,
        request: Request<ReportRequest>,
    ) -> Result<Response<ReportResponse>, Status> {
        self.require_internal(&request)?;
        let reports = request.into_inner().reports;
        if reports.len() > MAX_REPORTS {
            return Err(Status::invalid_argument(format!(
                "a batch holds at most {MAX_REPORTS} reports"
            )));
        }
        metrics::counter!("webhooks_reports_total")
            .increment(u64::try_from(reports.len()).unwrap_or(0));
        let mut records = Vec::with_capacity(reports.len());
        for (at, report) in reports.into_iter().enumerate() {
            let record = report_record(report).map_err(|nonsense| {
                Status::invalid_argument(format!("reports[{at}].{nonsense}"))
            })?;
            records.push(record);
        }
        match self.batcher.store(records).await {
            Ok(()) => Ok(Response::new(ReportResponse {})),
            Err(error @ ReportError::Unavailable) => Err(Status::unavailable(error.to_string())),
            Err(error @ ReportError::Refused(_)) => {
                Err(Status::invalid_argument(error.to_string()))
            }
        }
    }

    async fn recorded(
        &self,
        request: Request<RecordedRequest>,
    ) -> Result<Response<RecordedResponse>, Status> {
        self.require_internal(&request)?;
        let asked = request.into_inner().delivery_ids;
        if asked.len() > MAX_REPORTS {
            return Err(Status::invalid_argument(format!(
                "at most {MAX_REPORTS} deliveries are asked for at once"
            )));
        }
        let ids: Result<Vec<Uuid>, _> = asked.iter().map(|id| Uuid::from_slice(id)).collect();
        let ids = ids.map_err(|_| Status::invalid_argument("a delivery id is not 16 bytes"))?;
        let found = self.store.recorded(&ids).await.map_err(|error| {
            tracing::warn!(error = error_chain(&error), "reports.not_looked_up");
            Status::unavailable("the store is not available")
        })?;
        let deliveries = found.into_iter().map(|one| RecordedDelivery {
            delivery_id: one.id.into_bytes().to_vec().into(),
            state: wire_state(one.state).into(),
            attempts: one.attempts,
            next_attempt_at: one.next_attempt_at.unwrap_or(0),
        });
        Ok(Response::new(RecordedResponse {
            deliveries: deliveries.collect(),
        }))
    }
}
