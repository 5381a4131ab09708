//! Whether an endpoint belongs to who holds the secret: what is asked, what counts as an answer, and
//! what the data plane is told meanwhile.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use prost::Message as _;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;
use webhooks_bus::{Outgoing, subjects};
use webhooks_devstack::wait_until;
use webhooks_domain::{
    challenge::{self, EVENT_TYPE},
    ids,
    signing::SigningKey,
    webhook::Plan,
};
use webhooks_proto::{
    internal::v1::{DeliveryJob, DeliveryReport, Status, WebhookConfig},
    v1::{
        ChallengeWebhookRequest, DeliveryState, GetWebhookRequest, Trigger, UpdateWorkspaceRequest,
        delivery_service_client::DeliveryServiceClient,
        operator_service_client::OperatorServiceClient,
        webhook_service_client::WebhookServiceClient,
    },
};

use crate::support::{
    LIMIT, OPERATOR_TOKEN, Reply, Workspace, World, delivered, owed, tell, webhook_body, with_token,
};

const URL: &str = "https://example.com/hook";

impl World {
    /// Whether a workspace's endpoints have to answer.
    async fn require(&self, workspace: Uuid, settings: &Value) -> Reply {
        let path = format!("/v1/operator/workspaces/{workspace}");
        let reply = self
            .write(Method::PATCH, &path, OPERATOR_TOKEN, &[], settings)
            .await;
        assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
        reply
    }

    /// A webhook as the data plane is told of it.
    async fn told(&self, webhook: Uuid) -> WebhookConfig {
        let found = wait_until("what is told of a webhook", LIMIT, async || {
            let last = self.bus.last_seq("KV_CONFIG").await;
            for seq in (1..=last.map_err(|error| error.to_string())?).rev() {
                let Ok(Some(message)) = self.bus.get("KV_CONFIG", seq).await else {
                    continue;
                };
                if let Ok(config) = WebhookConfig::decode(message.payload)
                    && config.id.as_ref() == webhook.as_bytes()
                {
                    return Ok(config);
                }
            }
            // What was told may just be replaced by something newer, behind the place where this began.
            Err(format!("nothing of {webhook}"))
        });
        found.await.unwrap()
    }

    async fn is_held(&self, webhook: Uuid) -> bool {
        let config = self.told(webhook).await;
        let held = config.status_reason == "UNVERIFIED";
        assert_eq!(
            config.status(),
            if held { Status::Paused } else { Status::Active }
        );
        held
    }
}

/// A webhook with its secret.
struct Made {
    id: Uuid,
    key: SigningKey,
}

async fn make(world: &World, workspace: &Workspace, url: &str) -> Made {
    let mut body = webhook_body("a webhook");
    body["endpointUrl"] = url.into();
    let reply = world.post(&workspace.token, &body).await;
    assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
    let webhook = &reply.body["webhook"];
    Made {
        id: webhook["id"].as_str().unwrap().parse().unwrap(),
        key: SigningKey::parse(webhook["secret"].as_str().unwrap()).unwrap(),
    }
}

async fn webhook(world: &World, workspace: &Workspace, id: Uuid) -> Value {
    let reply = world
        .get(&format!("/v1/webhooks/{id}"), &workspace.token)
        .await;
    reply.body["webhook"].clone()
}

/// Asks; gives the delivery's id and the message of it.
async fn ask(world: &World, workspace: &Workspace, id: Uuid) -> (Uuid, DeliveryJob) {
    let path = format!("/v1/webhooks/{id}/challenge");
    let reply = world
        .send(Method::POST, &path, &workspace.token, &[], None)
        .await;
    assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
    let delivery = &reply.body["delivery"];
    assert_eq!(delivery["eventType"], EVENT_TYPE);
    assert_eq!(delivery["trigger"], "TEST");
    let delivery: Uuid = delivery["id"].as_str().unwrap().parse().unwrap();
    let job = owed(world, id, delivery).await;
    (delivery, job)
}

fn nonce(job: &DeliveryJob) -> String {
    let body: Value = serde_json::from_slice(&job.body).unwrap();
    body["challenge"].as_str().unwrap().to_owned()
}

fn answer(key: &SigningKey, job: &DeliveryJob) -> String {
    json!({ "challenge": challenge::answer(key, &nonce(job)) }).to_string()
}

/// What the dispatcher says after the endpoint has answered so.
fn report(job: &DeliveryJob, response: &str) -> DeliveryReport {
    let mut report = delivered(job.delivery.as_ref().unwrap());
    report.attempt.as_mut().unwrap().response_body = response.to_owned().into();
    report
}

async fn until_verified(world: &World, workspace: &Workspace, id: Uuid) {
    wait_until("the endpoint to be verified", LIMIT, async || {
        let shown = webhook(world, workspace, id).await;
        match (&shown["verified"], world.is_held(id).await) {
            (Value::Bool(true), false) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn an_endpoint_that_answers_is_verified_until_its_url_changes() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Pro).await;
    world
        .require(workspace.id, &json!({ "endpointVerification": true }))
        .await;
    let made = make(&world, &workspace, URL).await;
    assert_eq!(
        webhook(&world, &workspace, made.id).await["verified"],
        false
    );
    assert!(world.is_held(made.id).await);
    let path = format!("/v1/webhooks/{}/health", made.id);
    let health = world.get(&path, &workspace.token).await.body;
    assert_eq!(health["health"]["statusReason"], "UNVERIFIED", "{health}");

    let (_, job) = ask(&world, &workspace, made.id).await;
    let body: Value = serde_json::from_slice(&job.body).unwrap();
    assert_eq!(
        body,
        json!({ "type": EVENT_TYPE, "challenge": nonce(&job), "endpoint": URL })
    );
    assert_eq!(job.endpoint.as_ref(), Sha256::digest(URL).as_slice());
    let before = webhook(&world, &workspace, made.id).await["revision"].clone();
    tell(&world, vec![report(&job, &answer(&made.key, &job))]).await;
    until_verified(&world, &workspace, made.id).await;
    let after = webhook(&world, &workspace, made.id).await;
    assert_eq!(after["revision"], json!(before.as_i64().unwrap() + 1));
    // Told again, it is done once.
    tell(&world, vec![report(&job, &answer(&made.key, &job))]).await;
    let again = webhook(&world, &workspace, made.id).await;
    assert_eq!(again["revision"], after["revision"]);
    let log = world.get("/v1/audit-log", &workspace.token).await.body;
    let actions: Vec<_> = log["entries"]
        .as_array()
        .unwrap_or_else(|| panic!("{log}"))
        .iter()
        .filter(|entry| entry["action"].as_str().unwrap().starts_with("webhook."))
        .map(|entry| (entry["action"].clone(), entry["actor"].clone()))
        .collect();
    let verified = actions
        .iter()
        .filter(|(action, _)| action == "webhook.verify");
    assert_eq!(verified.count(), 1, "{actions:?}");
    assert!(
        actions
            .iter()
            .any(|(action, _)| action == "webhook.challenge"),
        "{actions:?}"
    );

    // Nobody says so of himself.
    let claim = world
        .patch(
            &made.id.to_string(),
            &workspace.token,
            &json!({ "verified": true }),
        )
        .await;
    assert_eq!(claim.body["details"][0]["reason"], "read_only", "{claim:?}");

    // Another URL has shown nothing, and an answer about the one before says nothing of it.
    let (_, old) = ask(&world, &workspace, made.id).await;
    let change = json!({ "endpointUrl": "https://example.com/other" });
    let changed = world
        .patch(&made.id.to_string(), &workspace.token, &change)
        .await;
    assert_eq!(changed.body["webhook"]["verified"], false, "{changed:?}");
    assert!(world.is_held(made.id).await);
    tell(&world, vec![report(&old, &answer(&made.key, &old))]).await;
    let shown = webhook(&world, &workspace, made.id).await;
    assert_eq!(shown["verified"], false);
    assert!(world.is_held(made.id).await);
    assert_eq!(
        shown["status"], "WEBHOOK_STATUS_ACTIVE",
        "what was chosen stays"
    );
    let (_, new) = ask(&world, &workspace, made.id).await;
    assert_ne!(nonce(&new), nonce(&old));
    tell(&world, vec![report(&new, &answer(&made.key, &new))]).await;
    until_verified(&world, &workspace, made.id).await;
}

#[tokio::test]
async fn an_answer_counts_however_it_comes_and_whichever_secret_gives_it() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Pro).await;
    world
        .require(workspace.id, &json!({ "endpointVerification": true }))
        .await;
    let made = make(&world, &workspace, URL).await;
    let (_, job) = ask(&world, &workspace, made.id).await;
    // The endpoint still has the secret of before.
    let rotate = format!("/v1/webhooks/{}/secret/rotate", made.id);
    let rotated = world
        .write(Method::POST, &rotate, &workspace.token, &[], &json!({}))
        .await;
    assert_eq!(rotated.status, StatusCode::OK, "{rotated:?}");
    // While management was away, it was spooled.
    let spooled = report(&job, &answer(&made.key, &job));
    let partition = ids::partition_of(made.id, world.bus.settings().partitions);
    let message = Outgoing::new(
        subjects::report(partition),
        "spooled-answer",
        spooled.encode_to_vec().into(),
    );
    world.bus.publish(message, LIMIT).await.unwrap();
    until_verified(&world, &workspace, made.id).await;
}

#[tokio::test]
async fn what_is_no_answer_changes_nothing() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Pro).await;
    world
        .require(workspace.id, &json!({ "endpointVerification": true }))
        .await;
    let made = make(&world, &workspace, URL).await;
    let (_, earlier) = ask(&world, &workspace, made.id).await;
    let (id, job) = ask(&world, &workspace, made.id).await;
    let right = answer(&made.key, &job);
    let echo = String::from_utf8(job.body.to_vec()).unwrap();
    let stranger = SigningKey::from_random([7; 32]);
    let mut wrong: Vec<DeliveryReport> = [
        echo.as_str(),
        &json!({ "challenge": nonce(&job) }).to_string(),
        &answer(&stranger, &job),
        &answer(&made.key, &earlier),
        "",
        "ok",
    ]
    .into_iter()
    .map(|response| report(&job, response))
    .collect();
    // The right words, in a report of something else.
    let mut failed = report(&job, &right);
    failed.state = DeliveryState::Failed.into();
    failed.attempt.as_mut().unwrap().status_code = 500;
    let mut event = report(&job, &right);
    event.delivery.as_mut().unwrap().event_type = "step.completed".to_owned();
    let mut replay = report(&job, &right);
    replay.delivery.as_mut().unwrap().trigger = Trigger::Replay.into();
    let mut other = report(&job, &right);
    other.delivery.as_mut().unwrap().delivery_id =
        earlier.delivery.as_ref().unwrap().delivery_id.clone();
    wrong.extend([failed, event, replay, other]);
    for report in wrong {
        tell(&world, vec![report.clone()]).await;
        let shown = webhook(&world, &workspace, made.id).await;
        assert_eq!(shown["verified"], false, "{report:?}");
        assert!(world.is_held(made.id).await, "{report:?}");
    }

    // Nobody but the endpoint learns what was asked, and it is asked once.
    for (method, path) in [
        (Method::GET, format!("/v1/deliveries/{id}/request")),
        (Method::POST, format!("/v1/deliveries/{id}/retry")),
    ] {
        let reply = world.send(method, &path, &workspace.token, &[], None).await;
        assert_eq!(reply.status, StatusCode::CONFLICT, "{path}: {reply:?}");
        assert_eq!(reply.body["codeType"], "ENDPOINT_CHALLENGE");
        assert!(!reply.body.to_string().contains(&nonce(&job)));
    }
    let event = &job.delivery.as_ref().unwrap().event_id;
    for face in ["test", "preview"] {
        let path = format!("/v1/webhooks/{}/{face}", made.id);
        let body = json!({ "eventId": event });
        let reply = world
            .write(Method::POST, &path, &workspace.token, &[], &body)
            .await;
        assert_eq!(reply.status, StatusCode::NOT_FOUND, "{face}: {reply:?}");
    }
}

#[tokio::test]
async fn challenges_are_tests_to_the_limit_and_none_goes_to_what_is_off() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Pro).await;
    let made = make(&world, &workspace, URL).await;
    let path = format!("/v1/webhooks/{}/challenge", made.id);
    let mut last = None;
    for _ in 0..11 {
        let reply = world
            .send(Method::POST, &path, &workspace.token, &[], None)
            .await;
        last = Some(reply.status);
    }
    assert_eq!(last, Some(StatusCode::TOO_MANY_REQUESTS));
    let off = json!({ "status": "WEBHOOK_STATUS_DISABLED" });
    world
        .patch(&made.id.to_string(), &workspace.token, &off)
        .await;
    let reply = world
        .send(Method::POST, &path, &workspace.token, &[], None)
        .await;
    assert_eq!(reply.body["codeType"], "WEBHOOK_DISABLED", "{reply:?}");
}

#[tokio::test]
async fn nothing_is_different_where_nobody_asks() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Pro).await;
    let exempt = "https://hooks.zapier.com/hooks/catch/1/a";
    let (plain, zap) = (
        make(&world, &workspace, URL).await,
        make(&world, &workspace, exempt).await,
    );
    let shapes = async || {
        let mut shapes = Vec::new();
        for id in [plain.id, zap.id] {
            let shown = webhook(&world, &workspace, id).await;
            shapes.push(shown.get("verified").cloned());
        }
        shapes
    };
    assert_eq!(shapes().await, [None, None]);
    assert!(!world.is_held(plain.id).await);
    // Who answers before it is required needs not answer after.
    let early = make(&world, &workspace, URL).await;
    let (_, job) = ask(&world, &workspace, early.id).await;
    tell(&world, vec![report(&job, &answer(&early.key, &job))]).await;

    let hosts = json!({ "endpointVerification": true, "verificationExemptHosts": ["Hooks.Zapier.com", "*.make.com"] });
    let required = world.require(workspace.id, &hosts).await;
    let shown = &required.body["workspace"];
    assert_eq!(
        shown["verificationExemptHosts"],
        json!(["hooks.zapier.com", "*.make.com"])
    );
    assert_eq!(shapes().await, [Some(json!(false)), None]);
    assert!(world.is_held(plain.id).await);
    assert!(!world.is_held(zap.id).await);
    assert!(!world.is_held(early.id).await);
    assert_eq!(
        webhook(&world, &workspace, early.id).await["verified"],
        true
    );

    world
        .require(workspace.id, &json!({ "verificationExemptHosts": [] }))
        .await;
    assert!(world.is_held(zap.id).await);
    // What is off is not held: nothing is made for it.
    let off = json!({ "status": "WEBHOOK_STATUS_DISABLED" });
    world
        .patch(&zap.id.to_string(), &workspace.token, &off)
        .await;
    assert_eq!(world.told(zap.id).await.status(), Status::Disabled);
    world
        .require(workspace.id, &json!({ "endpointVerification": false }))
        .await;
    assert!(!world.is_held(plain.id).await);
    assert_eq!(shapes().await, [None, None]);
}

#[tokio::test]
async fn grpc_says_the_same() {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Pro).await;
    let mut operator = OperatorServiceClient::new(world.channel().await);
    let update = UpdateWorkspaceRequest {
        id: workspace.id.to_string(),
        endpoint_verification: Some(true),
        ..UpdateWorkspaceRequest::default()
    };
    let updated = operator
        .update_workspace(with_token(OPERATOR_TOKEN, update))
        .await
        .unwrap();
    assert!(
        updated
            .into_inner()
            .workspace
            .unwrap()
            .endpoint_verification
    );
    let made = make(&world, &workspace, URL).await;
    let mut webhooks = WebhookServiceClient::new(world.channel().await);
    let mut verified = async || {
        let request = GetWebhookRequest {
            id: made.id.to_string(),
        };
        let found = webhooks.get_webhook(with_token(&workspace.token, request));
        found.await.unwrap().into_inner().webhook.unwrap().verified
    };
    assert_eq!(verified().await, Some(false));
    let mut deliveries = DeliveryServiceClient::new(world.channel().await);
    let request = ChallengeWebhookRequest {
        webhook_id: made.id.to_string(),
        ..ChallengeWebhookRequest::default()
    };
    let asked = deliveries
        .challenge_webhook(with_token(&workspace.token, request))
        .await
        .unwrap();
    let delivery = asked.into_inner().delivery.unwrap();
    assert_eq!(delivery.event_type, EVENT_TYPE);
    let job = owed(&world, made.id, delivery.id.parse().unwrap()).await;
    tell(&world, vec![report(&job, &answer(&made.key, &job))]).await;
    assert_eq!(verified().await, Some(true));
}

#[tokio::test]
async fn a_challenge_asked_for_before_the_installations_key_changed_can_still_be_answered() {
    let mut world = World::start().await;
    let workspace = world.workspace(Plan::Pro).await;
    world
        .require(workspace.id, &json!({ "endpointVerification": true }))
        .await;
    let made = make(&world, &workspace, URL).await;
    let (_, job) = ask(&world, &workspace, made.id).await;
    world.stop_service().await;
    let new = STANDARD.encode([9; 32]);
    let old = crate::support::ENCRYPTION_KEYS;
    world.set("WEBHOOKS_ENCRYPTION_KEYS", &format!("new:{new},{old}"));
    world.start_service().await;
    tell(&world, vec![report(&job, &answer(&made.key, &job))]).await;
    until_verified(&world, &workspace, made.id).await;
}
