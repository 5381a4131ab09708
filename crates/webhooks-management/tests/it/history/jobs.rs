//! Replays of many at once.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use webhooks_devstack::wait_until;
use webhooks_domain::webhook::Plan;
use webhooks_proto::v1::{self, job_service_client::JobServiceClient};

use super::{failed, post, record, stage};
use crate::support::{LIMIT, Reply, delivery, owed, tell, with_token};

#[tokio::test]
async fn a_job_runs_to_its_end_and_a_second_one_finds_nothing() {
    let (world, workspace, webhook, _) = stage().await;
    let token = workspace.token.as_str();
    let all: Vec<_> = (0..3)
        .map(|n| delivery(workspace.id, webhook, &format!("e{n}")))
        .collect();
    record(&world, &all.iter().collect::<Vec<_>>(), false).await;
    tell(&world, all.iter().map(failed).collect()).await;
    let path = format!("/v1/webhooks/{webhook}/jobs");
    let create = async |wish: Value| world.write(Method::POST, &path, token, &[], &wish).await;
    let ended = async |reply: &Reply| {
        assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
        let path = format!("/v1/jobs/{}", reply.body["job"]["id"].as_str().unwrap());
        wait_until("the job's end", LIMIT, async || {
            let job = world.get(&path, token).await.body["job"].clone();
            if job["state"] == "SUCCEEDED" {
                Ok(job)
            } else {
                Err(job)
            }
        })
        .await
        .unwrap()
    };
    let since = "2020-01-01T00:00:00Z";
    let dry = create(json!({ "type": "RECOVER_FAILED", "since": since, "dryRun": true })).await;
    let dry = ended(&dry).await;
    assert_eq!((&dry["matched"], &dry["replayed"]), (&json!(3), &json!(0)));
    let recovery = create(json!({ "type": "RECOVER_FAILED", "since": since })).await;
    let recovery = ended(&recovery).await;
    assert_eq!(
        (&recovery["matched"], &recovery["replayed"]),
        (&json!(3), &json!(3))
    );
    let replays = world.get("/v1/deliveries?trigger=REPLAY", token).await;
    let first = replays.body["deliveries"][0]["id"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    owed(&world, webhook, first).await;
    let again = create(json!({ "type": "RECOVER_FAILED", "since": since })).await;
    assert_eq!(ended(&again).await["matched"], 0);
    let missing = create(json!({ "type": "REPLAY_MISSING", "since": since })).await;
    assert_eq!(ended(&missing).await["matched"], 0);
    let filter = json!({ "state": ["FAILED"], "statusCode": "503" });
    let replay = create(json!({ "type": "REPLAY", "since": since, "filter": filter })).await;
    assert_eq!(ended(&replay).await["replayed"], 3);

    let listed = world.get(&path, token).await;
    assert_eq!(listed.body["totalCount"], 5);
    let over = recovery["id"].as_str().unwrap();
    let over = post(&world, &format!("/v1/jobs/{over}/pause"), token, &[]).await;
    assert_eq!(over.body["codeType"], "JOB_ENDED");
    let wrong = create(json!({ "type": "REPLAY", "filter": { "stat": 1 } })).await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
    assert_eq!(
        wrong.body["details"].as_array().unwrap().len(),
        2,
        "{wrong:?}"
    );
    let stranger = world.workspace(Plan::Enterprise).await;
    let foreign = format!("/v1/jobs/{}", recovery["id"].as_str().unwrap());
    let foreign = world.get(&foreign, &stranger.token).await;
    assert_eq!(foreign.body["codeType"], "JOB_NOT_FOUND");

    let mut client = JobServiceClient::new(world.channel().await);
    let request = v1::CreateJobRequest {
        webhook_id: webhook.to_string(),
        r#type: v1::JobType::Replay.into(),
        since: Some(prost_types::Timestamp::default()),
        dry_run: true,
        idempotency_key: "once".into(),
        ..v1::CreateJobRequest::default()
    };
    let made = client
        .create_job(with_token(token, request.clone()))
        .await
        .unwrap();
    let again = client.create_job(with_token(token, request)).await.unwrap();
    assert_eq!(again.get_ref(), made.get_ref());
}
