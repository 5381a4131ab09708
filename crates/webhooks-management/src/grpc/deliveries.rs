//! `DeliveryService`.

use tonic::{Request, Response, Status, async_trait};
use webhooks_proto::v1::{self, delivery_service_server::DeliveryService};

use super::{Grpc, convert, webhook_id};
use crate::{
    error::{ManagementError, Violation, parse_id},
    model::delivery_state,
    page::page_size_of,
    rest::READ,
};

#[async_trait]
impl DeliveryService for Grpc {
    async fn list_deliveries(
        &self,
        request: Request<v1::ListDeliveriesRequest>,
    ) -> Result<Response<v1::ListDeliveriesResponse>, Status> {
        self.call(
            "ListDeliveries",
            READ,
            request,
            |caller, request| async move {
                let webhook = webhook_id(&request.webhook_id)?;
                let state = v1::DeliveryState::try_from(request.state).map_err(|_| {
                    ManagementError::Invalid(vec![Violation::new(
                        "state",
                        "unknown_value",
                        "is no state",
                    )])
                })?;
                let size = page_size_of(request.page_size)?;
                let page = self
                    .management
                    .list_deliveries(
                        &caller,
                        webhook,
                        delivery_state(state),
                        size,
                        &request.page_token,
                    )
                    .await?;
                Ok(Response::new(v1::ListDeliveriesResponse {
                    deliveries: page.rows.iter().map(convert::delivery).collect(),
                    next_page_token: page.next.unwrap_or_default(),
                    total_count: i64::try_from(page.total).unwrap_or(i64::MAX),
                }))
            },
        )
        .await
    }

    async fn get_delivery(
        &self,
        request: Request<v1::GetDeliveryRequest>,
    ) -> Result<Response<v1::GetDeliveryResponse>, Status> {
        self.call("GetDelivery", READ, request, |caller, request| async move {
            let id = parse_id(&request.id).ok_or(ManagementError::DeliveryNotFound)?;
            let (row, attempts) = self.management.get_delivery(&caller, id).await?;
            Ok(Response::new(v1::GetDeliveryResponse {
                delivery: Some(convert::delivery(&row)),
                attempts: attempts.iter().map(convert::attempt).collect(),
            }))
        })
        .await
    }
}
