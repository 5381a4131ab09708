//! Deliveries as they happen, for whoever looks on.

use futures::StreamExt as _;
use reqwest::StatusCode;
use serde_json::Value;
use tonic::Code;
use webhooks_devstack::wait_until;
use webhooks_domain::webhook::Plan;
use webhooks_proto::v1::{self, delivery_service_client::DeliveryServiceClient};

use super::{delivery_in, failed, id_in, post, record, stage};
use crate::support::{LIMIT, delivered, delivery, tell, with_token};

#[tokio::test]
async fn who_looks_on_is_told_over_both_faces() {
    let (world, workspace, webhook, _) = stage().await;
    let token = workspace.token.as_str();
    let client = reqwest::Client::builder().build().unwrap();
    let mut events = client
        .get(world.url("/v1/deliveries/tail"))
        .bearer_auth(token)
        .send()
        .await
        .unwrap();
    assert_eq!(events.headers()["content-type"], "text/event-stream");
    let mut grpc = DeliveryServiceClient::new(world.channel().await);
    let request = v1::TailDeliveriesRequest {
        webhook_id: webhook.to_string(),
    };
    let mut stream = grpc
        .tail_deliveries(with_token(token, request))
        .await
        .unwrap()
        .into_inner();
    let stranger = world.workspace(Plan::Enterprise).await;
    let theirs = world.webhook(&stranger.token).await;
    let foreign = delivery(stranger.id, theirs, "foreign");
    let ours = delivery(workspace.id, webhook, "ours");
    tell(&world, vec![delivered(&foreign), failed(&ours)]).await;
    let mut text = String::new();
    // A chunk may end anywhere: an event is whole when an empty line follows.
    let is_whole = |text: &str| {
        let told = text.split_once("event: delivery");
        told.is_some_and(|(_, rest)| rest.contains("\n\n"))
    };
    while !is_whole(&text) {
        let chunk = tokio::time::timeout(LIMIT, events.chunk()).await.unwrap();
        text.push_str(&String::from_utf8_lossy(&chunk.unwrap().unwrap()));
    }
    let data = text
        .lines()
        .find_map(|line| line.strip_prefix("data: "))
        .unwrap();
    let data: Value = serde_json::from_str(data).unwrap();
    assert_eq!(data["delivery"]["id"], id_in(&ours).to_string());
    assert_eq!(data["delivery"]["state"], "FAILED");
    assert_eq!(data["attempt"]["statusCode"], 503);
    let told = tokio::time::timeout(LIMIT, stream.next()).await.unwrap();
    let told = told.unwrap().unwrap();
    assert_eq!(told.delivery.unwrap().id, id_in(&ours).to_string());
    // What a person takes back is told, too.
    let taken = delivery(workspace.id, webhook, "taken");
    record(&world, &[&taken], true).await;
    let path = format!("/v1/deliveries/{}/cancel", id_in(&taken));
    delivery_in(&post(&world, &path, token, &[]).await);
    while !text.contains(r#""state":"CANCELLED""#) {
        let chunk = tokio::time::timeout(LIMIT, events.chunk()).await.unwrap();
        text.push_str(&String::from_utf8_lossy(&chunk.unwrap().unwrap()));
    }
    let told = tokio::time::timeout(LIMIT, stream.next()).await.unwrap();
    let told = told.unwrap().unwrap().delivery.unwrap();
    assert_eq!(told.id, id_in(&taken).to_string());
    assert_eq!(told.state(), v1::DeliveryState::Cancelled);
    // An open tail does not keep the service from stopping.
    world.stop_service().await;
    assert!(stream.next().await.is_none_or(|last| last.is_err()));
}

#[tokio::test]
async fn a_tail_ends_with_the_token_that_opened_it() {
    let (world, workspace, ..) = stage().await;
    let channel = world.channel().await;
    let open = async |token: &str| {
        let request = with_token(token, v1::TailDeliveriesRequest::default());
        let opened = DeliveryServiceClient::new(channel.clone())
            .tail_deliveries(request)
            .await;
        opened.unwrap().into_inner()
    };
    let (revoked, narrowed, expired) = (
        world.token(workspace.id, &["webhooks:read"]).await,
        world.token(workspace.id, &["webhooks:read"]).await,
        world.token(workspace.id, &["webhooks:read"]).await,
    );
    let client = reqwest::Client::builder().build().unwrap();
    let mut events = client
        .get(world.url("/v1/deliveries/tail"))
        .bearer_auth(&revoked)
        .send()
        .await
        .unwrap();
    assert_eq!(events.status(), StatusCode::OK);
    let mut goes_on = open(&workspace.token).await;
    let mut ending = [
        open(&revoked).await,
        open(&narrowed).await,
        open(&expired).await,
    ];
    let id = |token: &str| token["lbk_test_".len()..][..12].to_owned();
    let path = format!("/v1/workspace-tokens/{}", id(&revoked));
    let reply = world.delete(&path, &workspace.token).await;
    assert_eq!(reply.status, StatusCode::OK);
    // The others by another hand than this process's.
    for (change, token) in [
        ("scopes = '{events:write}'", &narrowed),
        ("expires_at = now()", &expired),
    ] {
        let id = id(token);
        let update = format!("UPDATE tokens SET {change} WHERE id = '{id}' RETURNING id");
        assert!(world.sql(&update).await.contains(&id));
    }
    for stream in &mut ending {
        let last = tokio::time::timeout(LIMIT, stream.next()).await.unwrap();
        let refused = last.unwrap().unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
        assert!(stream.next().await.is_none());
    }
    let mut text = String::new();
    while let Some(chunk) = tokio::time::timeout(LIMIT, events.chunk())
        .await
        .unwrap()
        .unwrap()
    {
        text.push_str(&String::from_utf8_lossy(&chunk));
    }
    assert!(
        text.ends_with(": the token no longer opens this\n\n"),
        "{text}"
    );
    let still = tokio::time::timeout(std::time::Duration::ZERO, goes_on.next()).await;
    assert!(still.is_err(), "who still may is not cut off: {still:?}");
}

#[tokio::test]
async fn a_workspace_has_so_many_tails_and_takes_no_others_place() {
    let (world, workspace, ..) = stage().await;
    let channel = world.channel().await;
    let open = async |token: &str| {
        let request = with_token(token, v1::TailDeliveriesRequest::default());
        DeliveryServiceClient::new(channel.clone())
            .tail_deliveries(request)
            .await
    };
    let mut tails = Vec::new();
    for _ in 0..10 {
        tails.push(open(&workspace.token).await.unwrap());
    }
    let refused = open(&workspace.token).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("10 times"), "{refused:?}");
    let over = world.get("/v1/deliveries/tail", &workspace.token).await;
    assert_eq!(over.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(over.body["codeType"], "MAX_TAILS_REACHED");
    let stranger = world.workspace(Plan::Enterprise).await;
    open(&stranger.token).await.unwrap();
    tails.pop();
    wait_until("a free place", LIMIT, async || {
        open(&workspace.token).await.map(drop)
    })
    .await
    .unwrap();
}
