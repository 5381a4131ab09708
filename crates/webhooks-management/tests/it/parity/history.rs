//! Deliveries, jobs and figures over both faces.

use prost_types::Timestamp;
use reqwest::Method;
use serde_json::json;
use webhooks_proto::v1::{
    self, delivery_service_client::DeliveryServiceClient,
    event_history_service_client::EventHistoryServiceClient, job_service_client::JobServiceClient,
    metrics_service_client::MetricsServiceClient, workspace_service_client::WorkspaceServiceClient,
};

use crate::{
    document::Stage,
    support::{World, delivered, delivery, tell, with_token},
};

#[tokio::test]
async fn what_is_done_to_deliveries_is_done_over_grpc_too() {
    let world = World::start().await;
    let stage = Stage::set(&world).await;
    let token = stage.workspace.token.as_str();
    let (delivery, webhook) = (stage.delivery.to_string(), stage.webhook.to_string());
    let mut client = DeliveryServiceClient::new(world.channel().await);

    let content = v1::GetDeliveryRequestContentRequest {
        id: delivery.clone(),
    };
    let content = client.get_delivery_request_content(with_token(token, content));
    let content = content.await.unwrap().into_inner();
    assert_eq!(
        (content.method.as_str(), content.url.as_str()),
        ("POST", "https://example.com/hook")
    );
    assert!(
        content
            .headers
            .iter()
            .any(|header| header.name == "webhook-signature")
    );
    let rest = world
        .get(&format!("/v1/deliveries/{delivery}/request"), token)
        .await;
    assert_eq!(
        rest.body["request"]["body"].as_str().unwrap().as_bytes(),
        content.body.as_ref()
    );

    let retry = v1::RetryDeliveryRequest {
        id: delivery.clone(),
        idempotency_key: "again".into(),
    };
    let replay = client.retry_delivery(with_token(token, retry.clone()));
    let replay = replay.await.unwrap().into_inner().delivery.unwrap();
    assert_eq!(
        (replay.trigger(), &replay.replay_of),
        (v1::Trigger::Replay, &delivery)
    );
    let again = client
        .retry_delivery(with_token(token, retry))
        .await
        .unwrap();
    assert_eq!(again.metadata().get("idempotent-replayed").unwrap(), "true");
    assert_eq!(again.into_inner().delivery.unwrap().id, replay.id);

    let preview = v1::PreviewWebhookRequest {
        webhook_id: webhook.clone(),
        event_id: stage.event.clone(),
        idempotency_key: "look".into(),
    };
    let looked = client.preview_webhook(with_token(token, preview.clone()));
    let looked = looked.await.unwrap().into_inner();
    assert!(looked.body.starts_with(br#"{"event":{},"webhook":{"#));
    let again = client
        .preview_webhook(with_token(token, preview))
        .await
        .unwrap();
    assert_eq!(again.metadata().get("idempotent-replayed").unwrap(), "true");
    assert_eq!(again.into_inner(), looked, "the same headers too");

    let samples = v1::ListSamplesRequest {
        triggers: vec!["KIND_ENTRY".into(), "KIND_EXIT".into()],
    };
    let samples = client
        .list_samples(with_token(token, samples))
        .await
        .unwrap();
    assert_eq!(samples.into_inner().payloads.len(), 2);

    let cancel = v1::CancelDeliveryRequest {
        id: delivery.clone(),
        idempotency_key: "stop".into(),
    };
    let stopped = client.cancel_delivery(with_token(token, cancel.clone()));
    let stopped = stopped.await.unwrap().into_inner();
    assert_eq!(
        stopped.delivery.as_ref().unwrap().state(),
        v1::DeliveryState::Cancelled
    );
    let again = client
        .cancel_delivery(with_token(token, cancel))
        .await
        .unwrap();
    assert_eq!(again.metadata().get("idempotent-replayed").unwrap(), "true");
    assert_eq!(again.into_inner(), stopped);
    // Cancelled once, and told once: what was before, and what is.
    let path = format!("/v1/audit-log?action=delivery.cancel&subject={delivery}");
    let log = world.get(&path, token).await;
    assert_eq!(log.body["totalCount"], 1, "{log:?}");
    let entry = &log.body["entries"][0];
    assert_eq!(
        (&entry["before"]["state"], &entry["after"]["state"]),
        (&json!("PENDING"), &json!("CANCELLED"))
    );

    let mut events = EventHistoryServiceClient::new(world.channel().await);
    let listed = events.list_events(with_token(token, v1::ListEventsRequest::default()));
    let listed = listed.await.unwrap().into_inner();
    assert_eq!(
        (listed.total_count, &listed.events[0].id),
        (1, &stage.event)
    );
    let get = v1::GetEventRequest {
        id: stage.event.clone(),
    };
    let judged = events.get_event(with_token(token, get)).await.unwrap();
    assert!(judged.into_inner().verdicts[0].fired);
}

#[tokio::test]
async fn a_job_is_paused_resumed_and_ended_over_both_faces() {
    let world = World::start().await;
    let stage = Stage::set(&world).await;
    let token = stage.workspace.token.as_str();
    let mut client = JobServiceClient::new(world.channel().await);
    // A delivery a second, and enough of them for a minute: it does not end by itself here.
    let verdicts: Vec<_> = (0..60)
        .map(|n| stage.verdict(&format!("job-{n}")))
        .collect();
    world.store.record_verdicts(&verdicts).await.unwrap();
    let wish = v1::CreateJobRequest {
        webhook_id: stage.webhook.to_string(),
        r#type: v1::JobType::Replay.into(),
        since: Some(Timestamp {
            seconds: 1,
            nanos: 0,
        }),
        rate_per_second: 1,
        ..v1::CreateJobRequest::default()
    };
    let made = client.create_job(with_token(token, wish)).await.unwrap();
    let id = made.into_inner().job.unwrap().id;
    let get = v1::GetJobRequest { id: id.clone() };
    let job = client.get_job(with_token(token, get)).await.unwrap();
    assert_eq!(job.into_inner().job.unwrap().rate_per_second, 1);
    let list = v1::ListJobsRequest {
        webhook_id: stage.webhook.to_string(),
        ..v1::ListJobsRequest::default()
    };
    let listed = client.list_jobs(with_token(token, list)).await.unwrap();
    let listed = listed.into_inner().jobs;
    assert!(listed.iter().any(|job| job.id == id), "{listed:?}");

    let pause = v1::PauseJobRequest {
        id: id.clone(),
        idempotency_key: "pause".into(),
    };
    let paused = client
        .pause_job(with_token(token, pause.clone()))
        .await
        .unwrap();
    assert!(!paused.metadata().contains_key("idempotent-replayed"));
    let paused = paused.into_inner();
    assert_eq!(paused.job.as_ref().unwrap().state(), v1::JobState::Paused);
    let resume = v1::ResumeJobRequest {
        id: id.clone(),
        ..v1::ResumeJobRequest::default()
    };
    let resumed = client.resume_job(with_token(token, resume)).await.unwrap();
    assert_eq!(
        resumed.into_inner().job.unwrap().state(),
        v1::JobState::Running
    );
    // The first answer again, and nothing done.
    let again = client.pause_job(with_token(token, pause)).await.unwrap();
    assert_eq!(again.metadata().get("idempotent-replayed").unwrap(), "true");
    assert_eq!(again.into_inner(), paused);
    let act = async |act: &str, key: &str| {
        let path = format!("/v1/jobs/{id}/{act}");
        let key = [("idempotency-key", key)];
        world.send(Method::POST, &path, token, &key, None).await
    };
    let shown = world.get(&format!("/v1/jobs/{id}"), token).await;
    assert_eq!(shown.body["job"]["state"], "RUNNING");
    let paused = act("pause", "1").await;
    assert_eq!(
        (paused.status.as_u16(), &paused.body["job"]["state"]),
        (200, &json!("PAUSED"))
    );
    let resumed = act("resume", "2").await;
    assert_eq!(
        (resumed.status.as_u16(), &resumed.body["job"]["state"]),
        (200, &json!("RUNNING"))
    );
    let again = act("pause", "1").await;
    assert_eq!(again.headers["idempotent-replayed"], "true");
    assert_eq!(again.body, paused.body);
    // A key of one request is not another one's.
    assert_eq!(act("resume", "1").await.status, 422);

    let cancel = v1::CancelJobRequest {
        id: id.clone(),
        idempotency_key: "end".into(),
    };
    let ended = client.cancel_job(with_token(token, cancel)).await.unwrap();
    assert_eq!(
        ended.into_inner().job.unwrap().state(),
        v1::JobState::Cancelled
    );
    // A conflict is an answer too, and is kept.
    let late = act("pause", "3").await;
    assert_eq!(
        (late.status.as_u16(), &late.body["codeType"]),
        (409, &json!("JOB_ENDED"))
    );
    let again = act("pause", "3").await;
    assert_eq!(again.headers["idempotent-replayed"], "true");
    assert_eq!((again.status, again.body), (late.status, late.body));
}

#[tokio::test]
async fn use_and_latencies_are_told_day_by_day_and_bucket_by_bucket() {
    let world = World::start().await;
    let stage = Stage::set(&world).await;
    let token = stage.workspace.token.as_str();
    // The event's second verdict and the attempt's second report change nothing.
    let report = delivered(&delivery(stage.workspace.id, stage.webhook, "another"));
    for _ in 0..2 {
        tell(&world, vec![report.clone()]).await;
    }
    let usage = world.get("/v1/usage", token).await;
    let days = usage.body["days"].as_array().unwrap();
    assert_eq!(days.len(), 30);
    let today = &days[29];
    assert_eq!(
        [
            &today["events"],
            &today["deliveries"],
            &today["delivered"],
            &today["open"]
        ],
        [&json!(1), &json!(2), &json!(1), &json!(1)],
        "{today}"
    );
    assert_eq!(days[0]["events"], 0);
    let mut metrics = MetricsServiceClient::new(world.channel().await);
    let told = metrics.get_usage(with_token(token, v1::GetUsageRequest::default()));
    let told = told.await.unwrap().into_inner();
    assert_eq!(told.days.len(), 30);
    assert_eq!((told.days[29].events, told.days[29].deliveries), (1, 2));
    let figures = world.get("/v1/metrics?interval=minute", token).await;
    let buckets = figures.body["buckets"].as_array().unwrap();
    let sampled: Vec<_> = buckets
        .iter()
        .filter(|bucket| bucket["latency"]["sample"] != 0)
        .collect();
    assert_eq!(sampled.len(), 1, "{buckets:?}");
    assert_eq!(sampled[0]["latency"]["p50Ms"], 1.5);
    assert_eq!(sampled[0]["successRate"], 1.0);
    let figures = metrics.get_metrics(with_token(token, v1::GetMetricsRequest::default()));
    let figures = figures.await.unwrap().into_inner();
    let mut sampled = figures.buckets.iter().filter_map(|bucket| bucket.latency);
    let sampled = sampled.find(|latency| latency.sample != 0).unwrap();
    assert_eq!(sampled.p99_ms, Some(1.5));
    // How much of the plan is used.
    let allowed = world.get("/v1/allowances", token).await;
    assert_eq!(allowed.body["limits"][0]["used"], 1);
    let mut workspaces = WorkspaceServiceClient::new(world.channel().await);
    let allowed = workspaces.list_allowances(with_token(token, v1::ListAllowancesRequest {}));
    assert_eq!(allowed.await.unwrap().into_inner().limits[0].used, Some(1));
}
