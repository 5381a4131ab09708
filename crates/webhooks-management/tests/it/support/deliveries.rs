//! Deliveries as the data plane tells of them: what fan-out recorded, what a dispatcher met, and what
//! is owed to it.

use bytes::Bytes;
use prost::Message as _;
use uuid::Uuid;
use webhooks_bus::{names, subjects};
use webhooks_devstack::wait_until;
use webhooks_domain::ids;
use webhooks_proto::{
    internal::v1::{
        self as wire, DeliveryJob, ReportRequest, report_service_client::ReportServiceClient,
    },
    v1,
};
use webhooks_store::{RenditionRecord, VerdictDelivery, VerdictRecord};

use super::{INTERNAL_TOKEN, LIMIT, World, now, uuid, with_token};

/// A delivery of an event accepted now.
pub(crate) fn delivery(workspace: Uuid, webhook: Uuid, event: &str) -> wire::DeliveryRef {
    let accepted_at = now();
    let id = ids::delivery_id(workspace, event, webhook, accepted_at);
    wire::DeliveryRef {
        delivery_id: id.into_bytes().to_vec().into(),
        webhook_id: webhook.into_bytes().to_vec().into(),
        workspace_id: workspace.into_bytes().to_vec().into(),
        event_id: event.to_owned(),
        event_type: "step.completed".to_owned(),
        link_id: Uuid::from_u128(77).into_bytes().to_vec().into(),
        lbid: "2VqKhjxtKwC7pBbg".to_owned(),
        trigger: v1::Trigger::Event.into(),
        created_at: accepted_at,
        event_seq: 1,
    }
}

/// A report of one successful attempt.
pub(crate) fn delivered(delivery: &wire::DeliveryRef) -> wire::DeliveryReport {
    wire::DeliveryReport {
        delivery: Some(delivery.clone()),
        state: v1::DeliveryState::Delivered.into(),
        next_attempt_at: 0,
        at: now(),
        attempt: Some(wire::AttemptRecord {
            number: 1,
            execution_id: Uuid::new_v4().into_bytes().to_vec().into(),
            started_at: now(),
            outcome: v1::Outcome::Success.into(),
            class: v1::FailureClass::Unspecified.into(),
            status_code: 200,
            timings: Some(v1::Timings {
                total_us: Some(1_500),
                ..v1::Timings::default()
            }),
            response_headers: vec![v1::Header {
                name: "x-a".into(),
                value: "1".into(),
            }],
            response_body: Bytes::from_static(b"thanks"),
            response_body_truncated: false,
            error: String::new(),
            remote_ip: "127.0.0.1".to_owned(),
            dispatcher: "test".to_owned(),
        }),
        ..wire::DeliveryReport::default()
    }
}

/// An event as fan-out's verdict tells of it, with this delivery of it.
pub(crate) fn verdict(delivery: &wire::DeliveryRef) -> VerdictRecord {
    VerdictRecord {
        workspace_id: uuid(&delivery.workspace_id),
        event_id: delivery.event_id.clone(),
        event_seq: 1,
        link_id: Some(uuid(&delivery.link_id)),
        lbid: delivery.lbid.clone(),
        event_type: delivery.event_type.clone(),
        step_kind: "KIND_EXIT".to_owned(),
        event_action: "CLIENT_REDIRECT".to_owned(),
        accepted_at: delivery.created_at,
        event_timestamp: delivery.created_at,
        renderer_version: 1,
        renditions: vec![RenditionRecord {
            profile: "standard".to_owned(),
            head: Bytes::from_static(br#"{"event":{},"webhook":"#),
            tail: Bytes::from_static(b"}"),
        }],
        deliveries: vec![VerdictDelivery {
            delivery_id: uuid(&delivery.delivery_id),
            webhook_id: uuid(&delivery.webhook_id),
            snapshot: Bytes::from_static(b"{}"),
            rendition: 0,
            held: false,
        }],
    }
}

/// Tells the service what became of deliveries, as a dispatcher does.
pub(crate) async fn tell(world: &World, reports: Vec<wire::DeliveryReport>) {
    let mut client = ReportServiceClient::new(world.channel().await);
    let request = with_token(INTERNAL_TOKEN, ReportRequest { reports });
    client.report(request).await.unwrap();
}

/// The message by which a delivery is owed, as the dispatcher gets it.
pub(crate) async fn owed(world: &World, webhook: Uuid, delivery: Uuid) -> DeliveryJob {
    let partition = ids::partition_of(webhook, world.bus.settings().partitions);
    let stream = names::deliveries(partition);
    let subject = subjects::delivery(partition, webhook, delivery);
    let message = wait_until("the message", LIMIT, async || {
        let found = world.bus.get_last(&stream, &subject).await.unwrap();
        found.ok_or("none yet")
    })
    .await
    .unwrap();
    DeliveryJob::decode(message.payload).unwrap()
}
