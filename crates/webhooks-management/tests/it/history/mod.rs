//! Deliveries, tests, events, jobs, figures and the tail, over both faces.

mod again;
mod events;
mod jobs;
mod search;
mod tails;

use bytes::Bytes;
use reqwest::{Method, StatusCode};
use uuid::Uuid;
use webhooks_devstack::wait_until;
use webhooks_domain::webhook::Plan;
use webhooks_proto::{internal::v1::DeliveryRef, v1};

use crate::support::{
    LIMIT, Reply, Workspace, World, delivered, id_of, uuid, verdict, webhook_body,
};

/// Records these deliveries and their events, as fan-out's verdicts tell of them. What is frozen in
/// them is not what would be rendered now, so the two can be told apart.
async fn record(world: &World, references: &[&DeliveryRef], held: bool) {
    let verdicts: Vec<_> = references
        .iter()
        .map(|reference| {
            let mut told = verdict(reference);
            told.renditions[0].tail = Bytes::from_static(b",\"lbid\":\"2VqK\"}");
            told.deliveries[0].snapshot = Bytes::from_static(b"{\"name\":\"then\"}");
            told.deliveries[0].held = held;
            told
        })
        .collect();
    // The day's partitions may be made at this moment; then the store asks for another try.
    wait_until("the verdicts", LIMIT, async || {
        world.store.record_verdicts(&verdicts).await
    })
    .await
    .unwrap();
}

fn failed(reference: &DeliveryRef) -> webhooks_proto::internal::v1::DeliveryReport {
    let mut report = delivered(reference);
    report.state = v1::DeliveryState::Failed.into();
    if let Some(attempt) = &mut report.attempt {
        attempt.outcome = v1::Outcome::HttpError.into();
        attempt.class = v1::FailureClass::Temporary.into();
        attempt.status_code = 503;
        attempt.error = "http_503".into();
    }
    report
}

fn id_in(reference: &DeliveryRef) -> Uuid {
    uuid(&reference.delivery_id)
}

async fn post(world: &World, path: &str, token: &str, headers: &[(&str, &str)]) -> Reply {
    world.send(Method::POST, path, token, headers, None).await
}

fn delivery_in(reply: &Reply) -> Uuid {
    assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
    let id = reply.body["delivery"]["id"].as_str();
    id.unwrap().parse().unwrap()
}

async fn stage() -> (World, Workspace, Uuid, String) {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let reply = world.post(&workspace.token, &webhook_body("CRM")).await;
    let secret = reply.body["webhook"]["secret"].as_str().unwrap().to_owned();
    (world, workspace, id_of(&reply), secret)
}
