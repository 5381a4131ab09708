//! Nothing one face can do that the other cannot: what only REST did, or did otherwise.

use prost_types::Timestamp;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use reqwest::Method;
use serde_json::json;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use uuid::Uuid;
use webhooks_domain::{event::parse_rfc3339_micros, webhook::Plan};
use webhooks_proto::v1::{
    self, delivery_service_client::DeliveryServiceClient,
    event_history_service_client::EventHistoryServiceClient, job_service_client::JobServiceClient,
    metrics_service_client::MetricsServiceClient, operator_service_client::OperatorServiceClient,
    webhook_service_client::WebhookServiceClient, workspace_service_client::WorkspaceServiceClient,
    workspace_token_service_client::WorkspaceTokenServiceClient,
};

use crate::{
    document::Stage,
    support::{OPERATOR_TOKEN, World, id_of, webhook_body, with_token},
};

fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    details
        .error_info()
        .map_or_else(String::new, |info| info.reason.clone())
}

fn fields(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    let violations = details.bad_request().into_iter();
    violations
        .flat_map(|bad| bad.field_violations.iter().map(|one| one.field.clone()))
        .collect()
}

fn authority() -> String {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    params.self_signed(&key).unwrap().pem()
}

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
async fn authorities_and_what_anybody_may_look_up_over_grpc() {
    let world = World::with(&[("WEBHOOKS_SOURCE_IPS", "203.0.113.16/28")]).await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let mut webhooks = WebhookServiceClient::new(world.channel().await);
    let (pem, other) = (authority(), authority());
    let set = |certificates: &str, key: &str| v1::SetCertificateAuthoritiesRequest {
        certificates: certificates.into(),
        idempotency_key: key.into(),
    };
    let first = webhooks.set_certificate_authorities(with_token(token, set(&pem, "1")));
    let first = first.await.unwrap().into_inner();
    assert_eq!(first.authorities.len(), 1);
    let second = webhooks.set_certificate_authorities(with_token(token, set(&other, "2")));
    second.await.unwrap();
    // Repeated, it is not done again.
    let again = webhooks.set_certificate_authorities(with_token(token, set(&pem, "1")));
    let again = again.await.unwrap();
    assert_eq!(again.metadata().get("idempotent-replayed").unwrap(), "true");
    assert_eq!(again.into_inner(), first);
    let get = v1::GetCertificateAuthoritiesRequest {};
    let found = webhooks.get_certificate_authorities(with_token(token, get));
    assert_eq!(found.await.unwrap().into_inner().certificates, other);
    // The same over REST.
    let key = [("idempotency-key", "1")];
    let wish = json!({ "certificates": pem });
    let path = "/v1/certificate-authorities";
    let put = world.write(Method::PUT, path, token, &key, &wish).await;
    assert_eq!(put.status, 422, "the key was used over gRPC: {put:?}");
    let key = [("idempotency-key", "3")];
    let put = world.write(Method::PUT, path, token, &key, &wish).await;
    let repeated = world.write(Method::PUT, path, token, &key, &wish).await;
    assert_eq!(repeated.headers["idempotent-replayed"], "true");
    assert_eq!((repeated.status, repeated.body), (put.status, put.body));
    let delete = v1::DeleteCertificateAuthoritiesRequest {};
    let deleted = webhooks.delete_certificate_authorities(with_token(token, delete));
    deleted.await.unwrap();
    let found = webhooks
        .get_certificate_authorities(with_token(token, get))
        .await;
    assert_eq!(found.unwrap().into_inner().certificates, "");

    let mut anybody = WorkspaceServiceClient::new(world.channel().await);
    let ips = anybody.get_source_ips(v1::GetSourceIpsRequest {}).await;
    let ips = ips.unwrap().into_inner();
    let rest = world.get("/.well-known/webhook-source-ips.json", "").await;
    assert_eq!(rest.body["version"], ips.version);
    assert_eq!(
        (ips.fixed, ips.ranges),
        (true, vec!["203.0.113.16/28".to_owned()])
    );
    let mut wish = webhook_body("signed");
    wish["signatures"] = json!(["v1", "v1a"]);
    let made = world.post(token, &wish).await;
    let keys = |webhook_id: String| v1::GetWebhookPublicKeysRequest { webhook_id };
    let found = anybody.get_webhook_public_keys(keys(id_of(&made).to_string()));
    let found = found.await.unwrap().into_inner();
    assert_eq!(made.body["webhook"]["publicKey"], found.keys[0].key);
    let rotate = |key: v1::RotatedKey, webhook_id: String| v1::RotateWebhookSecretRequest {
        webhook_id,
        key: key.into(),
        ..v1::RotateWebhookSecretRequest::default()
    };
    let pair = rotate(v1::RotatedKey::PublicKey, id_of(&made).to_string());
    let rotated = webhooks.rotate_webhook_secret(with_token(token, pair));
    let rotated = rotated.await.unwrap().into_inner();
    assert_eq!(rotated.secret, "");
    assert_eq!(rotated.webhook.unwrap().public_key, rotated.public_key);
    let asked = anybody.get_webhook_public_keys(keys(id_of(&made).to_string()));
    let both = asked.await.unwrap().into_inner().keys;
    let path = format!("/.well-known/webhook-public-keys/{}", id_of(&made));
    let rest = world.get(&path, "").await.body["keys"].clone();
    let names: Vec<_> = both.iter().map(|key| key.key.as_str()).collect();
    assert_eq!(names, [&rotated.public_key, &found.keys[0].key]);
    assert_eq!(json!(names), json!([rest[0]["key"], rest[1]["key"]]));
    assert!(both[0].expires_at.is_none() && rest[0].get("expiresAt").is_none());
    let (created, end) = (both[1].created_at.unwrap(), both[1].expires_at.unwrap());
    assert_eq!(Some(created), found.keys[0].created_at);
    let shown = parse_rfc3339_micros(rest[1]["expiresAt"].as_str().unwrap());
    let end = end.seconds * 1_000_000 + i64::from(end.nanos / 1_000);
    assert_eq!(shown.unwrap(), end);
    let secret = rotate(v1::RotatedKey::Secret, id_of(&made).to_string());
    let answer = webhooks.rotate_webhook_secret(with_token(token, secret));
    let answer = answer.await.unwrap().into_inner();
    assert!(answer.secret.starts_with("whsec_") && answer.public_key.is_empty());
    let bare = world.webhook(token).await.to_string();
    let mut odd = rotate(v1::RotatedKey::Secret, bare.clone());
    odd.key = 9;
    for wish in [rotate(v1::RotatedKey::PublicKey, bare), odd] {
        let refused = webhooks.rotate_webhook_secret(with_token(token, wish));
        let refused = refused.await.unwrap_err();
        assert_eq!(
            (refused.code(), fields(&refused)),
            (Code::InvalidArgument, vec!["key".to_owned()])
        );
    }
    let nobody = anybody.get_webhook_public_keys(keys(Uuid::new_v4().to_string()));
    assert_eq!(nobody.await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn an_operators_call_with_a_key_is_done_once_over_grpc() {
    let world = World::start().await;
    let mut client = OperatorServiceClient::new(world.channel().await);
    let wish = v1::CreateWorkspaceRequest {
        name: "new".into(),
        idempotency_key: "make".into(),
        ..v1::CreateWorkspaceRequest::default()
    };
    let made = client.create_workspace(with_token(OPERATOR_TOKEN, wish.clone()));
    let made = made.await.unwrap().into_inner();
    let again = client
        .create_workspace(with_token(OPERATOR_TOKEN, wish))
        .await
        .unwrap();
    assert_eq!(again.metadata().get("idempotent-replayed").unwrap(), "true");
    assert_eq!(again.into_inner(), made);
    let id = made.workspace.unwrap().id;
    let change = v1::UpdateWorkspaceRequest {
        id: id.clone(),
        plan: Some("PRO".into()),
        idempotency_key: "change".into(),
        ..v1::UpdateWorkspaceRequest::default()
    };
    let changed = client.update_workspace(with_token(OPERATOR_TOKEN, change.clone()));
    assert_eq!(
        changed.await.unwrap().into_inner().workspace.unwrap().plan,
        "PRO"
    );
    let other = v1::UpdateWorkspaceRequest {
        plan: Some("FREE".into()),
        ..change
    };
    let reused = client
        .update_workspace(with_token(OPERATOR_TOKEN, other))
        .await;
    assert_eq!(reason(&reused.unwrap_err()), "IDEMPOTENCY_KEY_REUSED");

    let issue = v1::IssueWorkspaceTokenRequest {
        workspace_id: id.clone(),
        name: "first".into(),
        idempotency_key: "issue".into(),
        ..v1::IssueWorkspaceTokenRequest::default()
    };
    let issued = client.issue_workspace_token(with_token(OPERATOR_TOKEN, issue.clone()));
    let issued = issued.await.unwrap().into_inner();
    webhooks_devstack::note_answer(issued.access_token.as_bytes());
    let again = client
        .issue_workspace_token(with_token(OPERATOR_TOKEN, issue))
        .await;
    assert_eq!(again.unwrap().into_inner(), issued);
    let token = issued.access_token.as_str();
    let listed = world.get("/v1/workspace-tokens", token).await;
    assert_eq!(listed.body["totalCount"], 1, "one token, shown twice");
    // Who had it shown again is written down.
    let log = world.get("/v1/audit-log?action=token.shown", token).await;
    assert_eq!(log.body["totalCount"], 1);
    assert_eq!(log.body["entries"][0]["actor"], "operator");
    assert_eq!(log.body["entries"][0]["subject"], issued.token_id);
}

#[tokio::test]
async fn a_secret_that_is_shown_again_is_written_down() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let twice = async |path: &str, body: &serde_json::Value| {
        let key = [("idempotency-key", path)];
        let first = world.write(Method::POST, path, token, &key, body).await;
        let again = world.write(Method::POST, path, token, &key, body).await;
        assert_eq!(again.headers["idempotent-replayed"], "true", "{again:?}");
        assert_eq!(first.body, again.body);
        first
    };
    let shown = async |action: &str| {
        let log = world
            .get(&format!("/v1/audit-log?action={action}"), token)
            .await;
        let entries = log.body["entries"].as_array().unwrap().clone();
        let subjects = entries
            .iter()
            .map(|entry| entry["subject"].as_str().unwrap().to_owned());
        subjects.collect::<Vec<_>>()
    };
    let webhook = id_of(&twice("/v1/webhooks", &webhook_body("a")).await).to_string();
    assert_eq!(
        shown("webhook.secret_shown").await,
        std::slice::from_ref(&webhook)
    );
    twice(&format!("/v1/webhooks/{webhook}/secret/rotate"), &json!({})).await;
    assert_eq!(
        shown("webhook.secret_shown").await,
        [webhook.clone(), webhook]
    );
    let wish = json!({ "keyType": "WORKSPACE_TOKEN_KEY_TYPE_SECRET", "name": "CI" });
    let made = twice("/v1/workspace-tokens", &wish).await;
    let id = made.body["token"]["id"].as_str().unwrap().to_owned();
    assert_eq!(shown("token.shown").await, [id]);
    // A public key is no secret.
    let mut wish = webhook_body("b");
    wish["signatures"] = json!(["v1", "v1a"]);
    let made = world.post(token, &wish).await;
    let path = format!("/v1/webhooks/{}/secret/rotate", id_of(&made));
    let rotated = twice(&path, &json!({ "key": "PUBLIC_KEY" })).await;
    assert!(rotated.body["publicKey"].is_string(), "{rotated:?}");
    assert_eq!(shown("webhook.secret_shown").await.len(), 2);
    // A refusal shows nothing.
    let nowhere = "/v1/webhooks/00000000-0000-4000-8000-000000000000/secret/rotate";
    let bad = twice(nowhere, &json!({})).await;
    assert_eq!(bad.status, 404);
    assert_eq!(shown("webhook.secret_shown").await.len(), 2);
}

#[tokio::test]
async fn refusals_are_kept_under_a_key_and_an_expiry_is_taken_away() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let mut webhooks = WebhookServiceClient::new(world.channel().await);
    let bad = v1::CreateWebhookRequest {
        name: "CRM".into(),
        endpoint_url: "ftp://example.com".into(),
        idempotency_key: "bad".into(),
        ..v1::CreateWebhookRequest::default()
    };
    let first = webhooks
        .create_webhook(with_token(token, bad.clone()))
        .await
        .unwrap_err();
    assert!(first.metadata().get("idempotent-replayed").is_none());
    let again = webhooks
        .create_webhook(with_token(token, bad.clone()))
        .await
        .unwrap_err();
    assert_eq!(again.metadata().get("idempotent-replayed").unwrap(), "true");
    assert_eq!(
        (again.code(), again.message(), again.details()),
        (first.code(), first.message(), first.details())
    );
    let other = v1::CreateWebhookRequest {
        endpoint_url: "https://example.com".into(),
        ..bad
    };
    let reused = webhooks
        .create_webhook(with_token(token, other))
        .await
        .unwrap_err();
    assert_eq!(reason(&reused), "IDEMPOTENCY_KEY_REUSED");

    let mut tokens = WorkspaceTokenServiceClient::new(world.channel().await);
    let end = Timestamp {
        seconds: 4_000_000_000,
        nanos: 0,
    };
    let wish = v1::CreateWorkspaceTokenRequest {
        key_type: v1::WorkspaceTokenKeyType::Secret.into(),
        expires_at: Some(end),
        ..v1::CreateWorkspaceTokenRequest::default()
    };
    let made = tokens
        .create_workspace_token(with_token(token, wish))
        .await
        .unwrap();
    webhooks_devstack::note_answer(made.get_ref().access_token.as_bytes());
    let made = made.into_inner().token.unwrap();
    assert_eq!(made.expires_at, Some(end));
    let clear = v1::UpdateWorkspaceTokenRequest {
        id: made.id,
        clear_expires_at: true,
        ..v1::UpdateWorkspaceTokenRequest::default()
    };
    let both = v1::UpdateWorkspaceTokenRequest {
        expires_at: Some(end),
        ..clear.clone()
    };
    let both = tokens
        .update_workspace_token(with_token(token, both))
        .await
        .unwrap_err();
    assert_eq!(fields(&both), ["expiresAt"]);
    let cleared = tokens
        .update_workspace_token(with_token(token, clear))
        .await
        .unwrap();
    assert_eq!(cleared.into_inner().token.unwrap().expires_at, None);
}

#[tokio::test]
async fn a_members_address_is_given_inherited_and_kept_over_grpc_too() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let mut operator = OperatorServiceClient::new(world.channel().await);
    let issue = |email: &str| v1::IssueWorkspaceTokenRequest {
        workspace_id: workspace.id.to_string(),
        member_email: email.into(),
        ..v1::IssueWorkspaceTokenRequest::default()
    };
    let bad = operator
        .issue_workspace_token(with_token(OPERATOR_TOKEN, issue("nobody")))
        .await
        .unwrap_err();
    assert_eq!(fields(&bad), ["memberEmail"]);
    let issued = operator
        .issue_workspace_token(with_token(OPERATOR_TOKEN, issue("member@a.example")))
        .await
        .unwrap();
    let token = issued.into_inner().access_token;
    webhooks_devstack::note_answer(token.as_bytes());

    let mut tokens = WorkspaceTokenServiceClient::new(world.channel().await);
    let wish = |email: &str| v1::CreateWorkspaceTokenRequest {
        key_type: v1::WorkspaceTokenKeyType::Secret.into(),
        member_email: email.into(),
        ..v1::CreateWorkspaceTokenRequest::default()
    };
    let strange = tokens
        .create_workspace_token(with_token(&token, wish("victim@b.example")))
        .await
        .unwrap_err();
    assert_eq!(fields(&strange), ["memberEmail"]);
    for email in ["", "member@a.example"] {
        let made = tokens
            .create_workspace_token(with_token(&token, wish(email)))
            .await
            .unwrap()
            .into_inner();
        webhooks_devstack::note_answer(made.access_token.as_bytes());
        assert_eq!(made.token.unwrap().member_email, "member@a.example");
    }

    let mut webhooks = WebhookServiceClient::new(world.channel().await);
    let id = world.webhook(&token).await.to_string();
    let get = v1::GetWebhookRequest { id };
    let got = webhooks.get_webhook(with_token(&token, get)).await.unwrap();
    let webhook = got.into_inner().webhook.unwrap();
    assert_eq!(webhook.created_by_email, "member@a.example");
}

#[tokio::test]
async fn times_beyond_time_are_refused_all_at_once() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let webhook = world.webhook(token).await.to_string();
    let (early, late) = (
        Some(Timestamp {
            seconds: -1,
            nanos: 0,
        }),
        Some(Timestamp {
            seconds: i64::MAX,
            nanos: 0,
        }),
    );
    let channel = world.channel().await;
    let list = v1::ListDeliveriesRequest {
        created_after: early,
        created_before: late,
        page_size: -1,
        ..v1::ListDeliveriesRequest::default()
    };
    let refused = DeliveryServiceClient::new(channel.clone())
        .list_deliveries(with_token(token, list))
        .await;
    assert_eq!(
        fields(&refused.unwrap_err()),
        ["createdAfter", "createdBefore", "pageSize"]
    );
    let events = v1::ListEventsRequest {
        accepted_after: early,
        accepted_before: late,
        page_size: -1,
        ..v1::ListEventsRequest::default()
    };
    let refused = EventHistoryServiceClient::new(channel.clone())
        .list_events(with_token(token, events))
        .await;
    assert_eq!(
        fields(&refused.unwrap_err()),
        ["acceptedAfter", "acceptedBefore", "pageSize"]
    );
    let job = v1::CreateJobRequest {
        webhook_id: webhook,
        r#type: v1::JobType::Replay.into(),
        since: early,
        until: late,
        ..v1::CreateJobRequest::default()
    };
    let refused = JobServiceClient::new(channel.clone())
        .create_job(with_token(token, job))
        .await;
    assert_eq!(fields(&refused.unwrap_err()), ["since", "until"]);
    let mut metrics = MetricsServiceClient::new(channel.clone());
    let figures = v1::GetMetricsRequest {
        from: early,
        to: late,
        ..v1::GetMetricsRequest::default()
    };
    let refused = metrics
        .get_metrics(with_token(token, figures))
        .await
        .unwrap_err();
    assert_eq!(fields(&refused)[..2], ["from", "to"]);
    let usage = v1::GetUsageRequest {
        from: early,
        to: late,
    };
    let refused = metrics
        .get_usage(with_token(token, usage))
        .await
        .unwrap_err();
    assert_eq!(fields(&refused)[..2], ["from", "to"]);
    let log = v1::ListAuditLogRequest {
        from: early,
        to: late,
        page_size: -1,
        ..v1::ListAuditLogRequest::default()
    };
    let refused = WorkspaceServiceClient::new(channel)
        .list_audit_log(with_token(token, log))
        .await;
    assert_eq!(fields(&refused.unwrap_err()), ["from", "to", "pageSize"]);
    // The same over REST.
    for (path, expected) in [
        (
            "/v1/audit-log?from=x&to=y&pageSize=z",
            vec!["from", "to", "pageSize"],
        ),
        (
            "/v1/events?acceptedAfter=x&acceptedBefore=y&pageSize=z",
            vec!["acceptedAfter", "acceptedBefore", "pageSize"],
        ),
        (
            "/v1/webhooks?status=x&pageSize=z",
            vec!["status", "pageSize"],
        ),
        (
            "/v1/deliveries?createdAfter=x&pageSize=z",
            vec!["createdAfter", "pageSize"],
        ),
        ("/v1/usage?from=x&to=y", vec!["from", "to"]),
    ] {
        let refused = world.get(path, token).await;
        assert_eq!(refused.status, 400, "{path}");
        let details = refused.body["details"].as_array().unwrap().iter();
        let fields: Vec<_> = details.map(|one| one["field"].as_str().unwrap()).collect();
        assert_eq!(fields, expected, "{path}");
    }
}

#[tokio::test]
async fn use_and_latencies_are_told_day_by_day_and_bucket_by_bucket() {
    let world = World::start().await;
    let stage = Stage::set(&world).await;
    let token = stage.workspace.token.as_str();
    // The event's second verdict and the attempt's second report change nothing.
    let report = crate::support::delivered(&crate::support::delivery(
        stage.workspace.id,
        stage.webhook,
        "another",
    ));
    let mut reports = webhooks_proto::internal::v1::report_service_client::ReportServiceClient::new(
        world.channel().await,
    );
    for _ in 0..2 {
        let batch = webhooks_proto::internal::v1::ReportRequest {
            reports: vec![report.clone()],
        };
        let sent = reports.report(with_token(crate::support::INTERNAL_TOKEN, batch));
        sent.await.unwrap();
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
    let last = figures.buckets.last().unwrap();
    assert_eq!(last.latency.unwrap().p99_ms, Some(1.5));
    // How much of the plan is used.
    let allowed = world.get("/v1/allowances", token).await;
    assert_eq!(allowed.body["limits"][0]["used"], 1);
    let mut workspaces = WorkspaceServiceClient::new(world.channel().await);
    let allowed = workspaces.list_allowances(with_token(token, v1::ListAllowancesRequest {}));
    assert_eq!(allowed.await.unwrap().into_inner().limits[0].used, Some(1));
}

#[tokio::test]
async fn a_rotation_takes_a_revision_and_is_recovered_as_itself() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let webhook = world.webhook(token).await;
    let path = format!("/v1/webhooks/{webhook}/secret/rotate");
    let rotate = async |headers: &[(&str, &str)]| {
        world
            .write(Method::POST, &path, token, headers, &json!({}))
            .await
    };
    let stale = rotate(&[("if-match", "\"7\""), ("idempotency-key", "stale")]).await;
    assert_eq!(
        (stale.status.as_u16(), &stale.body["codeType"]),
        (412, &json!("PRECONDITION_FAILED"))
    );
    // Kept, and bound to the revision that was asked for.
    let again = rotate(&[("if-match", "\"7\""), ("idempotency-key", "stale")]).await;
    assert_eq!(
        (
            again.status.as_u16(),
            again.headers.contains_key("idempotent-replayed")
        ),
        (412, true)
    );
    assert_eq!(
        rotate(&[("if-match", "\"1\""), ("idempotency-key", "stale")])
            .await
            .status,
        422
    );
    let first = rotate(&[("if-match", "\"1\""), ("idempotency-key", "first")]).await;
    assert_eq!(
        (first.status.as_u16(), &first.body["webhook"]["revision"]),
        (200, &json!(2))
    );
    let mut webhooks = WebhookServiceClient::new(world.channel().await);
    let late = v1::RotateWebhookSecretRequest {
        webhook_id: webhook.to_string(),
        expected_revision: 1,
        ..v1::RotateWebhookSecretRequest::default()
    };
    let late = webhooks
        .rotate_webhook_secret(with_token(token, late))
        .await;
    assert_eq!(late.unwrap_err().code(), Code::Aborted);
    // The first call was cut off before its answer was kept, and another rotation came after it.
    let second = rotate(&[]).await;
    assert_ne!(second.body["secret"], first.body["secret"]);
    world
        .sql(
            "UPDATE idempotency_keys SET status = NULL, body = NULL,
            started_at = started_at - interval '2 minutes' WHERE key = 'first'",
        )
        .await;
    let recovered = rotate(&[("if-match", "\"1\""), ("idempotency-key", "first")]).await;
    assert_eq!(recovered.status, 200, "{recovered:?}");
    assert_eq!(recovered.body["secret"], first.body["secret"]);

    // So it is with a key pair, while it signs.
    let both = json!({ "signatures": ["v1", "v1a"] });
    world.patch(&webhook.to_string(), token, &both).await;
    let pair = async |key: &str, overlap: u32| {
        let wish = json!({ "key": "PUBLIC_KEY", "overlapSeconds": overlap });
        let headers = [("idempotency-key", key)];
        world
            .write(Method::POST, &path, token, &headers, &wish)
            .await
    };
    let cut_off = async || {
        world
            .sql(
                "UPDATE idempotency_keys SET status = NULL, body = NULL,
                started_at = started_at - interval '2 minutes' WHERE key = 'pair'",
            )
            .await
    };
    let first = pair("pair", 60).await;
    assert_eq!(first.status, 200, "{first:?}");
    let second = pair("another", 60).await;
    assert_ne!(second.body["publicKey"], first.body["publicKey"]);
    cut_off().await;
    let recovered = pair("pair", 60).await;
    assert_eq!(recovered.status, 200, "{recovered:?}");
    assert_eq!(recovered.body["publicKey"], first.body["publicKey"]);
    assert!(recovered.body.get("secret").is_none());
    pair("last", 0).await;
    assert_eq!(pair("pair", 60).await.body["codeType"], "SECRET_GONE");
    cut_off().await;
    assert_eq!(pair("pair", 60).await.body["codeType"], "SECRET_GONE");
}

#[tokio::test]
async fn an_operators_limit_moves_no_entity_tag_and_still_reaches_the_read_model() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let webhook = world.webhook(token).await;
    let path = format!("/v1/operator/workspaces/{}", workspace.id);
    let wish = json!({ "limits": { "heldPerWebhook": 7 } });
    let changed = world
        .write(Method::PATCH, &path, OPERATOR_TOKEN, &[], &wish)
        .await;
    assert_eq!(changed.status, 200, "{changed:?}");
    let shown = world.get(&format!("/v1/webhooks/{webhook}"), token).await;
    assert_eq!(
        (&shown.body["webhook"]["revision"], &shown.headers["etag"]),
        (&json!(1), &"\"1\"".parse().unwrap())
    );
    assert_eq!(
        world.configured(webhook).await,
        Some(2),
        "newer, so it is taken"
    );
    // The next change of the customer's is newer still, and so is the deletion.
    let tag = [("if-match", "\"1\"")];
    let path = format!("/v1/webhooks/{webhook}");
    let renamed = world
        .write(Method::PATCH, &path, token, &tag, &json!({ "name": "new" }))
        .await;
    assert_eq!(renamed.body["webhook"]["revision"], 2);
    assert_eq!(world.configured(webhook).await, Some(3));
    assert_eq!(world.delete(&path, token).await.status, 200);
    assert_eq!(world.configured(webhook).await, None);
}

#[tokio::test]
async fn a_creation_that_began_before_a_downgrade_does_not_outlive_it() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Pro).await;
    let token = workspace.token.as_str();
    world.webhook(token).await;
    let id = workspace.id;
    // The downgrade is under way, and ends when a creation waits for it.
    let downgrade = format!(
        "DO $$ BEGIN
          UPDATE workspaces SET plan = 'FREE' WHERE id = '{id}';
          FOR turn IN 1..2000 LOOP
            PERFORM pg_stat_clear_snapshot();
            EXIT WHEN EXISTS (SELECT 1 FROM pg_stat_activity WHERE datname = current_database()
              AND wait_event_type = 'Lock' AND query LIKE '%workspaces%');
            PERFORM pg_sleep(0.01);
          END LOOP;
        END $$"
    );
    let body = webhook_body("second");
    let (_, late) = tokio::join!(world.sql(&downgrade), async {
        webhooks_devstack::wait_until("the downgrade", crate::support::LIMIT, async || {
            let locks = "SELECT count(*) FROM pg_locks WHERE relation = 'workspaces'::regclass
                AND mode = 'RowExclusiveLock' AND granted";
            match world.sql(locks).await.trim() {
                "0" => Err("not yet"),
                _ => Ok(()),
            }
        })
        .await
        .unwrap();
        world.post(token, &body).await
    });
    assert_eq!(
        (late.status.as_u16(), &late.body["codeType"]),
        (429, &json!("MAX_WEBHOOKS_REACHED")),
        "{late:?}"
    );
    assert_eq!(late.body["details"][0]["plan"], "FREE");
    assert_eq!(world.get("/v1/webhooks", token).await.body["totalCount"], 1);
}

#[tokio::test]
async fn a_remembered_token_of_a_deleted_workspace_is_no_fault_of_ours() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    assert_eq!(world.get("/v1/webhooks", token).await.status, 200);
    // By another process: this one remembers the token for some seconds.
    world.operator.delete_workspace(workspace.id).await.unwrap();
    let path = "/v1/certificate-authorities";
    let wish = json!({ "certificates": authority() });
    for reply in [
        world.write(Method::PUT, path, token, &[], &wish).await,
        world.delete(path, token).await,
        world.post(token, &webhook_body("late")).await,
    ] {
        assert_eq!(
            (reply.status.as_u16(), &reply.body["codeType"]),
            (401, &json!("UNAUTHENTICATED")),
            "{reply:?}"
        );
    }
}

#[tokio::test]
async fn names_show_something_and_nesting_has_an_end() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let refusal = |body: &serde_json::Value| {
        let detail = &body["details"][0];
        (
            detail["field"].as_str().unwrap().to_owned(),
            detail["reason"].as_str().unwrap().to_owned(),
        )
    };
    for (name, expected) in [
        ("  ", "blank"),
        ("a\u{0}b", "control_character"),
        ("a\nb", "control_character"),
    ] {
        let wish = json!({ "keyType": "WORKSPACE_TOKEN_KEY_TYPE_SECRET", "name": name });
        let made = world
            .write(Method::POST, "/v1/workspace-tokens", token, &[], &wish)
            .await;
        assert_eq!(
            (made.status.as_u16(), refusal(&made.body)),
            (400, ("name".into(), expected.into()))
        );
        let wish = json!({ "name": name });
        let made = world
            .write(
                Method::POST,
                "/v1/operator/workspaces",
                OPERATOR_TOKEN,
                &[],
                &wish,
            )
            .await;
        assert_eq!(
            (made.status.as_u16(), refusal(&made.body)),
            (400, ("name".into(), expected.into()))
        );
    }
    for levels in [65, 129, 10_000] {
        let deep = format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
        let json = [("content-type", "application/json")];
        let refused = world
            .send(Method::POST, "/v1/webhooks", token, &json, Some(deep))
            .await;
        assert_eq!(
            (refused.status.as_u16(), refusal(&refused.body)),
            (400, (String::new(), "too_deep".into()))
        );
    }
    assert_eq!(world.get("/v1/webhooks", token).await.status, 200, "alive");
}

/// What a refusal says over REST, as gRPC puts it.
fn told(body: &serde_json::Value) -> Vec<(String, String)> {
    let details = body["details"].as_array().unwrap().iter();
    details
        .map(|one| {
            let text = |key: &str| one[key].as_str().unwrap();
            let description = format!("{} ({})", text("message"), text("reason"));
            (text("field").to_owned(), description)
        })
        .collect()
}

/// What a refusal says over gRPC.
fn described(status: &Status) -> Vec<(String, String)> {
    let details = status.get_error_details();
    let violations = details.bad_request().into_iter();
    violations
        .flat_map(|bad| &bad.field_violations)
        .map(|one| (one.field.clone(), one.description.clone()))
        .collect()
}

#[tokio::test]
async fn every_problem_of_every_object_and_entry_is_told_in_the_same_words() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let links = ["x", "0190e0a0-0000-7000-8000-000000000001", "y"];
    let bad = json!({
        "name": "x",
        "endpointUrl": "https://example.com/",
        "linkIds": links,
        "triggers": ["KIND_EXIT", "KIND_X"],
        "eventActions": ["a b"],
        "retryPolicy": { "maxAttempts": 21, "factor": 0.5, "jitter": -1.0 },
        "rateLimit": { "count": 20_000, "periodSeconds": 7, "burst": 20_000 },
        "headers": [{ "name": "Host", "value": "a\nb" }, { "name": "X-A" }],
        "auth": { "type": "apiKey", "name": "key" },
        "clientCertificate": { "certificate": "x", "privateKey": "y" },
        "signatures": ["v2", "v1"],
    });
    let owned =
        |texts: &[&str]| -> Vec<String> { texts.iter().map(|&text| text.to_owned()).collect() };
    let key = v1::endpoint_auth::ApiKey {
        name: "key".into(),
        ..v1::endpoint_auth::ApiKey::default()
    };
    let header = |name: &str, value: &str| v1::Header {
        name: name.into(),
        value: value.into(),
    };
    let message = v1::CreateWebhookRequest {
        name: "x".into(),
        endpoint_url: "https://example.com/".into(),
        link_ids: owned(&links),
        triggers: Some(v1::TriggerList {
            kinds: owned(&["KIND_EXIT", "KIND_X"]),
        }),
        event_actions: owned(&["a b"]),
        retry_policy: Some(v1::RetryPolicy {
            max_attempts: Some(21),
            factor: Some(0.5),
            jitter: Some(-1.0),
            ..v1::RetryPolicy::default()
        }),
        rate_limit: Some(v1::RateLimit {
            count: 20_000,
            period_seconds: 7,
            burst: 20_000,
        }),
        headers: vec![header("Host", "a\nb"), header("X-A", "")],
        auth: Some(v1::EndpointAuth {
            kind: Some(v1::endpoint_auth::Kind::ApiKey(key)),
        }),
        client_certificate: Some(v1::ClientCertificate {
            certificate: "x".into(),
            private_key: "y".into(),
            ..v1::ClientCertificate::default()
        }),
        signatures: owned(&["v2", "v1"]),
        ..v1::CreateWebhookRequest::default()
    };
    let over_rest = world.post(token, &bad).await;
    assert_eq!(over_rest.status, 400, "{over_rest:?}");
    let said = told(&over_rest.body);
    let fields: Vec<_> = said.iter().map(|(field, _)| field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "linkIds[0]",
            "linkIds[2]",
            "triggers[1]",
            "eventActions[0]",
            "retryPolicy.maxAttempts",
            "retryPolicy.factor",
            "retryPolicy.jitter",
            "rateLimit.count",
            "rateLimit.periodSeconds",
            "rateLimit.burst",
            "auth.in",
            "auth.value",
            "clientCertificate.certificate",
            "clientCertificate.privateKey",
            "headers[0].name",
            "headers[0].value",
            "headers[1].value",
            "signatures[0]",
        ]
    );
    let mut webhooks = WebhookServiceClient::new(world.channel().await);
    let over_grpc = webhooks.create_webhook(with_token(token, message)).await;
    assert_eq!(described(&over_grpc.unwrap_err()), said);

    // Two thousand are counted, and fit into gRPC's headers.
    let flood = vec!["x"; 2_000];
    let mut body = webhook_body("flood");
    body["linkIds"] = json!(flood);
    let over_rest = world.post(token, &body).await;
    assert_eq!(over_rest.status, 400, "{over_rest:?}");
    let said = told(&over_rest.body);
    assert_eq!((said.len(), &*said[49].0), (51, "linkIds[49]"));
    let rest = "and 1950 more problems (more_problems)";
    assert_eq!((&*said[50].0, &*said[50].1), ("", rest));
    let message = v1::CreateWebhookRequest {
        name: "flood".into(),
        endpoint_url: "https://example.com/".into(),
        link_ids: owned(&flood),
        ..v1::CreateWebhookRequest::default()
    };
    let over_grpc = webhooks.create_webhook(with_token(token, message)).await;
    assert_eq!(described(&over_grpc.unwrap_err()), said);
    assert_eq!(world.get("/v1/webhooks", token).await.body["totalCount"], 0);
}
