//! What people and operators see of a webhook's health, of a delivery's end and of an attempt.

use serde_json::{Value, json};
use tonic::Code;
use uuid::Uuid;
use webhooks_bus::HealthStore;
use webhooks_devstack::wait_until;
use webhooks_domain::webhook::Plan;
use webhooks_proto::{
    internal::v1::{self as wire, ReportRequest, report_service_client::ReportServiceClient},
    v1::{
        self, delivery_service_client::DeliveryServiceClient,
        operator_service_client::OperatorServiceClient,
        webhook_service_client::WebhookServiceClient,
    },
};

use crate::support::{
    INTERNAL_TOKEN, LIMIT, OPERATOR_TOKEN, World, delivered, delivery, now, uuid, with_token,
};

/// What became of a delivery.
fn report(
    delivery: &wire::DeliveryRef,
    state: v1::DeliveryState,
    reason: &str,
) -> wire::DeliveryReport {
    wire::DeliveryReport {
        delivery: Some(delivery.clone()),
        state: state.into(),
        at: now(),
        reason: reason.to_owned(),
        ..wire::DeliveryReport::default()
    }
}

/// A failed attempt with nothing to follow.
fn failed(delivery: &wire::DeliveryRef) -> wire::DeliveryReport {
    let mut failed = delivered(delivery);
    failed.state = v1::DeliveryState::Failed.into();
    let attempt = failed.attempt.as_mut().unwrap();
    attempt.outcome = v1::Outcome::HttpError.into();
    attempt.class = v1::FailureClass::Permanent.into();
    attempt.status_code = 404;
    attempt.error = "http_404".to_owned();
    failed
}

/// Tells it as a dispatcher does: again, while the store is away for a moment.
async fn tell(world: &World, reports: Vec<wire::DeliveryReport>) {
    let client = ReportServiceClient::new(world.channel().await);
    wait_until("the reports to be taken", LIMIT, async || {
        let reports = reports.clone();
        client
            .clone()
            .report(with_token(INTERNAL_TOKEN, ReportRequest { reports }))
            .await
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_webhooks_health_tells_what_history_counts_and_what_the_dispatchers_keep() {
    let mut world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let webhook = world.webhook(token).await;
    let path = format!("/v1/webhooks/{webhook}/health");
    let fresh = world.get(&path, token).await;
    let fresh = &fresh.body["health"];
    assert_eq!(fresh["statusLabel"], "ACTIVE");
    assert_eq!(fresh["consecutiveFailures"], 0);
    assert_eq!(
        (&fresh["delivered"], fresh.get("successRate")),
        (&json!(0), None)
    );

    let one = |event: &str| delivery(workspace.id, webhook, event);
    let mut test = one("test");
    test.trigger = v1::Trigger::Test.into();
    let mut old = one("old");
    old.created_at -= 25 * 3_600 * 1_000_000;
    let id = webhooks_domain::ids::delivery_id(workspace.id, "old", webhook, old.created_at);
    old.delivery_id = id.into_bytes().to_vec().into();
    let broken = one("broken");
    tell(
        &world,
        vec![
            delivered(&one("a")),
            delivered(&one("b")),
            delivered(&one("c")),
            failed(&broken),
            failed(&test),
            failed(&old),
            report(&one("held"), v1::DeliveryState::Held, ""),
            report(&one("pending"), v1::DeliveryState::Pending, ""),
        ],
    )
    .await;
    let probe_at = now() + 60_000_000;
    let record = wire::EndpointHealth {
        webhook_id: webhook.into_bytes().to_vec().into(),
        workspace_id: workspace.id.into_bytes().to_vec().into(),
        status: wire::Status::Paused.into(),
        reason: "DELIVERY_FAILURES".to_owned(),
        since: now(),
        run: 6,
        episode: now(),
        next_probe_at: probe_at,
        probe_pause_ms: 60_000,
        last_failure: Some(wire::LastFailure {
            at: now(),
            delivery_id: broken.delivery_id.clone(),
            attempt: 3,
            outcome: v1::Outcome::HttpError.into(),
            status_code: 503,
            reason: "http_503".to_owned(),
        }),
        version: 1,
        ..wire::EndpointHealth::default()
    };
    let records = HealthStore::new(&world.bus);
    records.put(webhook, &record, 0).await.unwrap();

    let told = world.get(&path, token).await;
    let health = &told.body["health"];
    // The row says ACTIVE still: what the dispatchers act by is told.
    assert_eq!(health["statusLabel"], "PAUSED", "{told:?}");
    assert_eq!(health["statusReason"], "DELIVERY_FAILURES");
    assert_eq!(health["consecutiveFailures"], 6);
    assert_eq!(
        health["nextProbeAt"],
        webhooks_domain::event::format_micros(probe_at)
    );
    assert_eq!(
        health["lastFailure"]["deliveryId"],
        uuid(&broken.delivery_id).to_string()
    );
    assert_eq!(health["lastFailure"]["statusCode"], 503);
    assert_eq!(
        health["backlog"],
        json!({ "pending": 1, "retrying": 0, "held": 1 })
    );
    assert_eq!(
        (&health["delivered"], &health["failed"]),
        (&json!(3), &json!(1))
    );
    assert_eq!(health["successRate"], 0.75);
    assert_eq!(health["latency"]["p50Ms"], 1.5);
    assert_eq!(
        (&health["latency"]["sample"], &health["partial"]),
        (&json!(4), &json!(false))
    );

    let mut client = WebhookServiceClient::new(world.channel().await);
    let ask = |id: Uuid| v1::GetWebhookHealthRequest {
        webhook_id: id.to_string(),
    };
    let same = client.get_webhook_health(with_token(token, ask(webhook)));
    let same = same.await.unwrap().into_inner().health.unwrap();
    assert_eq!(same.consecutive_failures, Some(6));
    assert_eq!((same.delivered, same.failed), (3, 1));
    assert_eq!(same.next_probe_at.unwrap().seconds, probe_at / 1_000_000);
    assert_eq!(same.latency.unwrap().p50_ms, Some(1.5));
    let backlog = same.backlog.unwrap();
    assert_eq!((backlog.pending, backlog.held), (1, 1));
    let unknown = client.get_webhook_health(with_token(token, ask(Uuid::new_v4())));
    assert_eq!(unknown.await.unwrap_err().code(), Code::NotFound);

    // A person's word begins anew.
    for status in ["WEBHOOK_STATUS_PAUSED", "WEBHOOK_STATUS_ACTIVE"] {
        let body = json!({ "status": status });
        let changed = world.patch(&webhook.to_string(), token, &body).await;
        assert_eq!(changed.status, 200, "{changed:?}");
    }
    let told = world.get(&path, token).await;
    let health = &told.body["health"];
    assert_eq!(health["statusLabel"], "ACTIVE");
    assert_eq!(health["consecutiveFailures"], 0);
    assert!(health.get("nextProbeAt").is_none() && health.get("lastFailure").is_none());

    // Without NATS the figures are there, and what the dispatchers keep is not made up.
    world.nats.kill().await.unwrap();
    wait_until("the connection to be lost", LIMIT, async || {
        let told = world.get(&path, token).await;
        let health = told.body["health"].clone();
        if told.status == 200 && health.get("consecutiveFailures").is_none() {
            assert_eq!(health["delivered"], 3);
            Ok(())
        } else {
            Err(told.body)
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_delivery_that_ended_unsent_tells_why_in_both_faces() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let webhook = world.webhook(token).await;
    let one = delivery(workspace.id, webhook, "e");
    let id = uuid(&one.delivery_id);
    let other = delivery(workspace.id, webhook, "f");
    tell(
        &world,
        vec![
            report(&one, v1::DeliveryState::Cancelled, "hold_expired"),
            report(&other, v1::DeliveryState::Held, ""),
        ],
    )
    .await;
    let shown = world.get(&format!("/v1/deliveries/{id}"), token).await;
    assert_eq!(shown.body["delivery"]["state"], "CANCELLED");
    assert_eq!(shown.body["delivery"]["stateReason"], "hold_expired");
    let path = format!("/v1/webhooks/{webhook}/deliveries?state=CANCELLED");
    let listed = world.get(&path, token).await;
    assert_eq!(listed.body["deliveries"][0]["stateReason"], "hold_expired");
    let mut client = DeliveryServiceClient::new(world.channel().await);
    let got = client.get_delivery(with_token(
        token,
        v1::GetDeliveryRequest { id: id.to_string() },
    ));
    let got = got.await.unwrap().into_inner().delivery.unwrap();
    assert_eq!(got.state_reason, "hold_expired");
    // What a person takes back says so.
    let path = format!("/v1/deliveries/{}/cancel", uuid(&other.delivery_id));
    let taken = world
        .send(reqwest::Method::POST, &path, token, &[], None)
        .await;
    assert_eq!(
        taken.body["delivery"]["stateReason"], "cancelled",
        "{taken:?}"
    );
}

#[tokio::test]
async fn only_operators_see_where_a_request_went() {
    const ADDRESS: &str = "203.0.113.9";
    const DISPATCHER: &str = "dispatcher-of-the-test";
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let webhook = world.webhook(token).await;
    let one = delivery(workspace.id, webhook, "e");
    let id = uuid(&one.delivery_id);
    let mut told = delivered(&one);
    let attempt = told.attempt.as_mut().unwrap();
    attempt.remote_ip = ADDRESS.to_owned();
    attempt.dispatcher = DISPATCHER.to_owned();
    tell(&world, vec![told]).await;

    let hidden = |body: &Value| {
        let text = body.to_string();
        !text.contains(ADDRESS) && !text.contains(DISPATCHER) && !text.contains("remoteIp")
    };
    let theirs = world.get(&format!("/v1/deliveries/{id}"), token).await;
    assert_eq!(theirs.status, 200);
    assert!(hidden(&theirs.body), "{theirs:?}");
    let path = format!("/v1/operator/deliveries/{id}");
    let refused = world.get(&path, token).await;
    assert_eq!(refused.status, 401);
    assert!(hidden(&refused.body));
    let ours = world.get(&path, OPERATOR_TOKEN).await;
    assert_eq!(ours.status, 200, "{ours:?}");
    assert_eq!(ours.body["workspaceId"], workspace.id.to_string());
    let shown = &ours.body["delivery"]["attempts"][0];
    assert_eq!(
        (&shown["remoteIp"], &shown["dispatcher"]),
        (&ADDRESS.into(), &DISPATCHER.into())
    );
    // All the rest is what the workspace sees.
    let mut same = ours.body["delivery"].clone();
    let members = same["attempts"][0].as_object_mut().unwrap();
    members.remove("remoteIp");
    members.remove("dispatcher");
    assert_eq!(same, theirs.body["delivery"]);
    for unknown in [Uuid::new_v4().to_string(), "no-id".to_owned()] {
        let path = format!("/v1/operator/deliveries/{unknown}");
        let reply = world.get(&path, OPERATOR_TOKEN).await;
        assert_eq!(
            (reply.status.as_u16(), &reply.body["codeType"]),
            (404, &"DELIVERY_NOT_FOUND".into())
        );
    }

    let mut client = OperatorServiceClient::new(world.channel().await);
    let ask = || v1::InspectDeliveryRequest { id: id.to_string() };
    let found = client.inspect_delivery(with_token(OPERATOR_TOKEN, ask()));
    let found = found.await.unwrap().into_inner();
    assert_eq!(found.workspace_id, workspace.id.to_string());
    assert_eq!(found.attempts[0].remote_ip, ADDRESS);
    assert_eq!(found.attempts[0].dispatcher, DISPATCHER);
    assert_eq!(found.attempts[0].attempt.as_ref().unwrap().number, 1);
    let refused = client.inspect_delivery(with_token(token, ask()));
    assert_eq!(refused.await.unwrap_err().code(), Code::Unauthenticated);
}
