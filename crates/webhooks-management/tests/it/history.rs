//! Deliveries, tests, events, jobs, figures and the tail, over both faces.

use bytes::Bytes;
use futures::StreamExt as _;
use prost::Message as _;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tonic::Code;
use uuid::Uuid;
use webhooks_bus::{names, subjects};
use webhooks_devstack::wait_until;
use webhooks_domain::{
    ids,
    signing::{SigningKey, verify},
    webhook::{Plan, StatusReason, WebhookStatus},
};
use webhooks_proto::{
    internal::v1::{
        DeliveryJob, DeliveryRef, ReportRequest, report_service_client::ReportServiceClient,
    },
    v1::{
        self, delivery_service_client::DeliveryServiceClient,
        event_history_service_client::EventHistoryServiceClient,
        job_service_client::JobServiceClient, metrics_service_client::MetricsServiceClient,
    },
};
use webhooks_store::{Actor, HealthNews, RenditionRecord, VerdictDelivery, VerdictRecord};

use crate::support::{
    INTERNAL_TOKEN, LIMIT, Reply, Workspace, World, delivered, delivery, id_of, now, uuid,
    webhook_body, with_token,
};

/// An event as fan-out's verdict tells of it, with a delivery for each of `references`.
async fn record(world: &World, references: &[&DeliveryRef], held: bool) {
    let verdicts: Vec<_> = references
        .iter()
        .map(|reference| VerdictRecord {
            workspace_id: uuid(&reference.workspace_id),
            event_id: reference.event_id.clone(),
            event_seq: 1,
            link_id: Some(uuid(&reference.link_id)),
            lbid: reference.lbid.clone(),
            event_type: reference.event_type.clone(),
            step_kind: "KIND_EXIT".into(),
            event_action: "CLIENT_REDIRECT".into(),
            accepted_at: reference.created_at,
            event_timestamp: reference.created_at,
            renderer_version: 1,
            renditions: vec![RenditionRecord {
                profile: "standard".into(),
                head: Bytes::from_static(b"{\"event\":{},\"webhook\":"),
                tail: Bytes::from_static(b",\"lbid\":\"2VqK\"}"),
            }],
            deliveries: vec![VerdictDelivery {
                delivery_id: uuid(&reference.delivery_id),
                webhook_id: uuid(&reference.webhook_id),
                snapshot: Bytes::from_static(b"{\"name\":\"then\"}"),
                rendition: 0,
                held,
            }],
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

/// Tells the service what became of deliveries, as a dispatcher does.
async fn tell(world: &World, reports: Vec<webhooks_proto::internal::v1::DeliveryReport>) {
    let mut client = ReportServiceClient::new(world.channel().await);
    let request = with_token(INTERNAL_TOKEN, ReportRequest { reports });
    client.report(request).await.unwrap();
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

/// The message by which a delivery is owed, as the dispatcher gets it.
async fn owed(world: &World, webhook: Uuid, delivery: Uuid) -> DeliveryJob {
    let partition = ids::partition_of(webhook, world.bus.settings().partitions);
    let (stream, subject) = (
        names::deliveries(partition),
        subjects::delivery(partition, webhook, delivery),
    );
    let message = wait_until("the message", LIMIT, async || {
        world
            .bus
            .get_last(&stream, &subject)
            .await
            .unwrap()
            .ok_or("none yet")
    })
    .await
    .unwrap();
    DeliveryJob::decode(message.payload).unwrap()
}

async fn stage() -> (World, Workspace, Uuid, String) {
    let world = World::start().await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let reply = world.post(&workspace.token, &webhook_body("CRM")).await;
    let secret = reply.body["webhook"]["secret"].as_str().unwrap().to_owned();
    (world, workspace, id_of(&reply), secret)
}

#[tokio::test]
async fn a_retry_owes_the_same_bytes_under_the_same_message_id() {
    let (world, workspace, webhook, secret) = stage().await;
    let token = workspace.token.as_str();
    let original = delivery(workspace.id, webhook, "e1");
    let path = format!("/v1/deliveries/{}", id_in(&original));
    let retry = format!("{path}/retry");
    let missing = post(&world, &retry, token, &[]).await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
    record(&world, &[&original], false).await;
    tell(&world, vec![failed(&original)]).await;

    let key = [("idempotency-key", "once")];
    let made = post(&world, &retry, token, &key).await;
    let replay = delivery_in(&made);
    assert_ne!(replay, id_in(&original));
    let shown = &made.body["delivery"];
    assert_eq!(
        (&shown["trigger"], &shown["state"]),
        (&json!("REPLAY"), &json!("PENDING"))
    );
    assert_eq!(shown["replayOf"], id_in(&original).to_string());
    let again = post(&world, &retry, token, &key).await;
    assert_eq!(again.headers["idempotent-replayed"], "true");
    assert_eq!(again.body, made.body);

    let job = owed(&world, webhook, replay).await;
    let body = b"{\"event\":{},\"webhook\":{\"name\":\"then\"},\"lbid\":\"2VqK\"}";
    assert_eq!(job.body.as_ref(), body);
    assert_eq!(job.message_id, ids::message_id(workspace.id, "e1", webhook));
    let reference = job.delivery.unwrap();
    assert_eq!(reference.trigger(), v1::Trigger::Replay);
    assert_eq!((job.attempt, uuid(&reference.delivery_id)), (1, replay));

    // Its request can be looked at, and verifies.
    let request = world.get(&format!("{path}/request"), token).await.body;
    let request = &request["request"];
    assert_eq!(request["body"], String::from_utf8_lossy(body).as_ref());
    let header = |name: &str| {
        let headers = request["headers"].as_array().unwrap();
        let found = headers
            .iter()
            .find(|header| header["name"] == name)
            .unwrap();
        found["value"].as_str().unwrap().to_owned()
    };
    assert_eq!(header("webhook-id"), job.message_id);
    let signed = verify(
        &SigningKey::parse(&secret).unwrap(),
        &header("webhook-id"),
        header("webhook-timestamp").parse().unwrap(),
        body,
        &header("webhook-signature"),
    );
    assert!(signed);

    world.sql("UPDATE events SET renditions = NULL").await;
    let gone = post(&world, &retry, token, &[]).await;
    assert_eq!(
        (gone.status, &gone.body["codeType"]),
        (StatusCode::GONE, &json!("PAYLOAD_EXPIRED"))
    );
    let gone = world.get(&format!("{path}/request"), token).await;
    assert_eq!(gone.status, StatusCode::GONE);
    let stranger = world.workspace(Plan::Enterprise).await;
    for path in [&retry, &format!("{path}/cancel")] {
        let foreign = post(&world, path, &stranger.token, &[]).await;
        assert_eq!(foreign.status, StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn deliveries_are_searched_over_both_faces_and_tokens_stay_with_their_search() {
    let (world, workspace, webhook, _) = stage().await;
    let token = workspace.token.as_str();
    let all: Vec<_> = (0..5)
        .map(|n| delivery(workspace.id, webhook, &format!("e{n}")))
        .collect();
    record(&world, &all.iter().collect::<Vec<_>>(), false).await;
    tell(
        &world,
        vec![failed(&all[0]), failed(&all[1]), delivered(&all[2])],
    )
    .await;
    let total = async |query: &str| {
        let list = world.get(&format!("/v1/deliveries?{query}"), token).await;
        assert_eq!(list.status, StatusCode::OK, "{list:?}");
        list.body["totalCount"].as_u64().unwrap()
    };
    for (query, expected) in [
        ("", 5),
        ("state=FAILED&state=DELIVERED", 3),
        ("state=FAILED,DELIVERED", 3),
        ("statusCode=5xx", 2),
        ("statusCode=200", 1),
        ("class=TEMPORARY", 2),
        ("class=PERMANENT", 0),
        ("eventId=e3", 1),
        ("lbid=2VqKhjxtKwC7pBbg", 5),
        ("linkId=00000000-0000-0000-0000-00000000004d", 5),
        ("trigger=REPLAY", 0),
        ("createdBefore=2020-01-01T00:00:00Z", 0),
        ("createdAfter=2020-01-01T00:00:00Z", 5),
        ("webhookId=00000000-0000-0000-0000-00000000004d", 0),
    ] {
        assert_eq!(total(query).await, expected, "{query}");
    }
    let first = world
        .get("/v1/deliveries?pageSize=2&state=FAILED,PENDING", token)
        .await;
    let next = first.body["nextPageToken"].as_str().unwrap();
    let second = format!("/v1/deliveries?pageSize=2&state=PENDING,FAILED&pageToken={next}");
    let second = world.get(&second, token).await;
    assert_eq!(second.body["deliveries"].as_array().unwrap().len(), 2);
    assert!(second.body.get("nextPageToken").is_none());
    let other = world
        .get(
            &format!("/v1/deliveries?pageSize=2&state=FAILED&pageToken={next}"),
            token,
        )
        .await;
    assert_eq!(other.body["codeType"], "INVALID_PAGE_TOKEN");
    let wrong = world
        .get(
            "/v1/deliveries?state=GONE&statusCode=7&createdAfter=soon&linkId=x",
            token,
        )
        .await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
    assert_eq!(
        wrong.body["details"].as_array().unwrap().len(),
        4,
        "{wrong:?}"
    );
    let unknown = world
        .get(
            &format!("/v1/webhooks/{}/deliveries", Uuid::new_v4()),
            token,
        )
        .await;
    assert_eq!(unknown.body["codeType"], "WEBHOOK_NOT_FOUND");

    let mut client = DeliveryServiceClient::new(world.channel().await);
    let request = v1::ListDeliveriesRequest {
        status_code: "5xx".into(),
        ..v1::ListDeliveriesRequest::default()
    };
    let listed = client
        .list_deliveries(with_token(token, request))
        .await
        .unwrap();
    assert_eq!(listed.get_ref().total_count, 2);
    let request = v1::ListDeliveriesRequest {
        link_id: "x".into(),
        ..v1::ListDeliveriesRequest::default()
    };
    let wrong = client
        .list_deliveries(with_token(token, request))
        .await
        .unwrap_err();
    assert_eq!(wrong.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn what_was_not_sent_is_taken_back() {
    let (world, workspace, webhook, _) = stage().await;
    let token = workspace.token.as_str();
    let (waiting, over) = (
        delivery(workspace.id, webhook, "e1"),
        delivery(workspace.id, webhook, "e2"),
    );
    record(&world, &[&waiting, &over], true).await;
    tell(&world, vec![delivered(&over)]).await;
    let cancel = |reference: &DeliveryRef| format!("/v1/deliveries/{}/cancel", id_in(reference));
    for _ in 0..2 {
        let cancelled = post(&world, &cancel(&waiting), token, &[]).await;
        assert_eq!(delivery_in(&cancelled), id_in(&waiting));
        assert_eq!(cancelled.body["delivery"]["state"], "CANCELLED");
    }
    let subject = format!("$KV.CANCELLED.{}", id_in(&waiting));
    let mark = world.bus.get_last("KV_CANCELLED", &subject).await.unwrap();
    assert!(mark.is_some(), "dispatchers are told");
    let ended = post(&world, &cancel(&over), token, &[]).await;
    assert_eq!(ended.status, StatusCode::CONFLICT);
    assert_eq!(ended.body["codeType"], "DELIVERY_ENDED");
}

#[tokio::test]
async fn a_test_goes_the_way_of_every_delivery_and_a_preview_goes_nowhere() {
    let (world, workspace, webhook, _) = stage().await;
    let token = workspace.token.as_str();
    let path = format!("/v1/webhooks/{webhook}");
    let preview = post(&world, &format!("{path}/preview"), token, &[]).await;
    assert_eq!(preview.status, StatusCode::OK, "{preview:?}");
    let request = &preview.body["request"];
    let body: Value = serde_json::from_str(request["body"].as_str().unwrap()).unwrap();
    assert_eq!(body["webhook"]["id"], webhook.to_string());
    assert_eq!(body["event"]["workspaceId"], workspace.id.to_string());
    assert!(
        request["curl"]
            .as_str()
            .unwrap()
            .starts_with("curl -X POST 'https://example.com/hook'")
    );
    let listed = world.get("/v1/deliveries", token).await;
    assert_eq!(listed.body["totalCount"], 0, "nothing was made");

    let sent = post(&world, &format!("{path}/test"), token, &[]).await;
    let id = delivery_in(&sent);
    assert_eq!(sent.body["delivery"]["trigger"], "TEST");
    let job = owed(&world, webhook, id).await;
    let reference = job.delivery.clone().unwrap();
    assert_eq!(reference.trigger(), v1::Trigger::Test);
    let body: Value = serde_json::from_slice(&job.body).unwrap();
    assert_eq!(body["webhook"]["name"], "CRM");
    tell(&world, vec![delivered(&reference)]).await;
    let shown = world.get(&path, token).await;
    assert_eq!(
        shown.body["webhook"]["successCount"], 0,
        "a test counts for nothing"
    );

    // A past event, with the webhook as it is now.
    let past = delivery(workspace.id, webhook, "past one");
    record(&world, &[&past], false).await;
    let wish = json!({ "eventId": "past one" });
    let sent = world
        .write(Method::POST, &format!("{path}/test"), token, &[], &wish)
        .await;
    let job = owed(&world, webhook, delivery_in(&sent)).await;
    assert_ne!(
        job.message_id,
        ids::message_id(workspace.id, "past one", webhook)
    );
    let text = String::from_utf8(job.body.to_vec()).unwrap();
    assert!(
        text.starts_with("{\"event\":{},\"webhook\":{\"id\":"),
        "{text}"
    );
    let wish = json!({ "eventId": "never was" });
    let unknown = world
        .write(Method::POST, &format!("{path}/preview"), token, &[], &wish)
        .await;
    assert_eq!(unknown.body["codeType"], "EVENT_NOT_FOUND");

    for _ in 2..10 {
        delivery_in(&post(&world, &format!("{path}/test"), token, &[]).await);
    }
    let limited = post(&world, &format!("{path}/test"), token, &[]).await;
    assert_eq!(limited.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(limited.headers.contains_key("retry-after"));

    let off = json!({ "status": "WEBHOOK_STATUS_DISABLED" });
    world.patch(&webhook.to_string(), token, &off).await;
    let off = post(&world, &format!("{path}/test"), token, &[]).await;
    assert_eq!(off.body["codeType"], "WEBHOOK_DISABLED");
    let retry = format!("/v1/deliveries/{}/retry", id_in(&past));
    let off = post(&world, &retry, token, &[]).await;
    assert_eq!(off.body["codeType"], "WEBHOOK_DISABLED");
}

#[tokio::test]
async fn an_event_tells_of_every_webhook_why() {
    let (world, workspace, webhook, _) = stage().await;
    let token = workspace.token.as_str();
    let make = async |name: &str, change: Value| {
        let mut body = webhook_body(name);
        for (key, value) in change.as_object().unwrap() {
            body[key] = value.clone();
        }
        id_of(&world.post(token, &body).await)
    };
    let link = Uuid::from_u128(5).to_string();
    let elsewhere = make("link", json!({ "linkId": link })).await;
    let entries = make("kind", json!({ "triggers": ["KIND_ENTRY"] })).await;
    let off = make("off", json!({})).await;
    let status = json!({ "status": "WEBHOOK_STATUS_DISABLED" });
    world.patch(&off.to_string(), token, &status).await;
    let paused = make("paused", json!({})).await;
    let fired = delivery(workspace.id, webhook, "e/1 with spaces");
    record(&world, &[&fired], false).await;
    let mut held = delivery(workspace.id, paused, "e/1 with spaces");
    // An event is accepted once, and that is when all its deliveries are made.
    held.created_at = fired.created_at;
    let id = ids::delivery_id(workspace.id, &held.event_id, paused, held.created_at);
    held.delivery_id = id.into_bytes().to_vec().into();
    record(&world, &[&held], true).await;
    let silent = make("silent", json!({})).await;
    let later = make("later", json!({})).await;
    let statement =
        format!("UPDATE webhooks SET created_at = now() + interval '1 hour' WHERE id = '{later}'");
    world.sql(&statement).await;

    let event = world.get("/v1/events/e%2F1%20with%20spaces", token).await;
    assert_eq!(event.status, StatusCode::OK, "{event:?}");
    assert_eq!(event.body["event"]["stepKind"], "KIND_EXIT");
    let verdicts = event.body["verdicts"].as_array().unwrap();
    let of = |id: Uuid| {
        let verdict = verdicts
            .iter()
            .find(|one| one["webhookId"] == id.to_string())
            .unwrap();
        let word = |key: &str| verdict[key].as_str().unwrap().to_owned();
        (
            word("reason"),
            word("judgedBy"),
            verdict["fired"].as_bool().unwrap(),
        )
    };
    let told = |reason: &str, by: &str, fired| (reason.to_owned(), by.to_owned(), fired);
    assert_eq!(of(webhook), told("MATCHED", "RECORDED", true));
    assert_eq!(of(paused), told("HELD", "RECORDED", true));
    assert_eq!(of(elsewhere), told("LINK_SCOPE", "AT_ACCEPTANCE", false));
    assert_eq!(of(entries), told("TRIGGER", "AT_ACCEPTANCE", false));
    assert_eq!(of(off), told("DISABLED", "AT_ACCEPTANCE", false));
    assert_eq!(of(silent), told("NOT_RECORDED", "AT_ACCEPTANCE", false));
    assert_eq!(of(later), told("CREATED_LATER", "AT_ACCEPTANCE", false));

    let listed = world.get("/v1/events", token).await;
    assert_eq!(listed.body["totalCount"], 1);
    let stranger = world.workspace(Plan::Enterprise).await;
    let foreign = world
        .get("/v1/events/e%2F1%20with%20spaces", &stranger.token)
        .await;
    assert_eq!(foreign.body["codeType"], "EVENT_NOT_FOUND");
    let mut client = EventHistoryServiceClient::new(world.channel().await);
    let request = v1::GetEventRequest {
        id: "e/1 with spaces".into(),
    };
    let same = client.get_event(with_token(token, request)).await.unwrap();
    assert_eq!(same.get_ref().verdicts.len(), verdicts.len());
}

#[tokio::test]
async fn a_verdict_rests_on_the_configuration_that_was_there_when_the_event_was_accepted() {
    let (world, workspace, webhook, _) = stage().await;
    let token = workspace.token.as_str();
    let make = async |change: Value| {
        let mut body = webhook_body("one");
        for (key, value) in change.as_object().unwrap() {
            body[key] = value.clone();
        }
        id_of(&world.post(token, &body).await)
    };
    let change = async |id: Uuid, change: Value| {
        let reply = world.patch(&id.to_string(), token, &change).await;
        assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
    };
    let delete = async |id: Uuid| {
        let reply = world.delete(&format!("/v1/webhooks/{id}"), token).await;
        assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
    };
    let (on, off) = (
        json!({ "status": "WEBHOOK_STATUS_ACTIVE" }),
        json!({ "status": "WEBHOOK_STATUS_DISABLED" }),
    );
    let elsewhere = json!({ "linkIds": [Uuid::from_u128(5)] });
    let entries = json!({ "triggers": ["KIND_ENTRY"] });

    let bound = make(elsewhere.clone()).await;
    let other_kind = make(entries.clone()).await;
    let other_action = make(json!({ "eventActions": ["FORM_SUBMIT"] })).await;
    let disabled = make(off.clone()).await;
    let open = make(json!({})).await;
    let untouched = make(entries.clone()).await;
    let (gone, gone_elsewhere) = (make(json!({})).await, make(elsewhere.clone()).await);
    let gone_before = make(json!({})).await;
    delete(gone_before).await;
    // What deliveries make of a status is no person's doing, and counts as well.
    let struck = make(json!({})).await;
    let news = HealthNews {
        episode_id: format!("{struck}-1"),
        kind: "auto_disabled".into(),
        workspace_id: workspace.id,
        webhook_id: struck,
        epoch: 0,
        status: WebhookStatus::AutoDisabled,
        reason: Some(StatusReason::ConsecutiveFailures),
        at: now(),
    };
    let acted = world
        .store
        .record_health(&news, |_, _| Vec::new(), now())
        .await;
    assert!(acted.unwrap());

    let fired = delivery(workspace.id, webhook, "then");
    record(&world, &[&fired], false).await;

    change(bound, json!({ "linkIds": [] })).await;
    change(other_kind, json!({ "triggers": [] })).await;
    // The first change after the event tells, not the last one.
    change(other_kind, off.clone()).await;
    change(other_action, json!({ "eventActions": [] })).await;
    change(disabled, on.clone()).await;
    change(open, off.clone()).await;
    change(struck, on).await;
    change(struck, off).await;
    delete(gone).await;
    delete(gone_elsewhere).await;
    // A look at a secret, a test and the like say nothing of a configuration.
    let looked = world
        .store
        .record_access(
            workspace.id,
            &Actor::System,
            "webhook.secret_shown",
            &untouched.to_string(),
            now(),
        )
        .await;
    looked.unwrap();

    let event = world.get("/v1/events/then", token).await;
    assert_eq!(event.status, StatusCode::OK, "{event:?}");
    let verdicts = event.body["verdicts"].as_array().unwrap();
    let of = |id: Uuid| {
        let id = json!(id);
        verdicts.iter().find(|one| one["webhookId"] == id)
    };
    for (id, reason, revision, changed) in [
        (bound, "LINK_SCOPE", 1, true),
        (other_kind, "TRIGGER", 1, true),
        (other_action, "EVENT_ACTION", 1, true),
        (disabled, "DISABLED", 1, true),
        (open, "NOT_RECORDED", 1, true),
        (struck, "NOT_RECORDED", 1, true),
        (untouched, "TRIGGER", 1, false),
        (gone, "WEBHOOK_DELETED", 1, true),
    ] {
        let verdict = of(id).unwrap_or_else(|| panic!("{reason}: {verdicts:?}"));
        let told = (
            &verdict["reason"],
            &verdict["judgedBy"],
            &verdict["revision"],
            &verdict["changedSince"],
            &verdict["fired"],
        );
        let expected = (
            &json!(reason),
            &json!("AT_ACCEPTANCE"),
            &json!(revision),
            &json!(changed),
            &json!(false),
        );
        assert_eq!(told, expected, "{id}");
    }
    assert_eq!(of(webhook).unwrap()["judgedBy"], "RECORDED");
    assert_eq!(of(gone_elsewhere), None, "it would not have fired");
    assert_eq!(of(gone_before), None, "it was not there any more");

    let mut client = EventHistoryServiceClient::new(world.channel().await);
    let request = v1::GetEventRequest { id: "then".into() };
    let same = client.get_event(with_token(token, request)).await.unwrap();
    let same = same.into_inner().verdicts;
    assert_eq!(same.len(), verdicts.len());
    let same = same
        .iter()
        .find(|one| one.webhook_id == bound.to_string())
        .unwrap();
    assert_eq!(
        (same.reason.as_str(), same.judged_by.as_str(), same.revision),
        ("LINK_SCOPE", "AT_ACCEPTANCE", 1)
    );
}

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

#[tokio::test]
async fn figures_are_the_same_over_both_faces() {
    let (world, workspace, webhook, _) = stage().await;
    let token = workspace.token.as_str();
    let all: Vec<_> = (0..4)
        .map(|n| delivery(workspace.id, webhook, &format!("e{n}")))
        .collect();
    record(&world, &all.iter().collect::<Vec<_>>(), false).await;
    tell(&world, vec![delivered(&all[0]), failed(&all[1])]).await;
    for path in [
        "/v1/metrics".to_owned(),
        format!("/v1/webhooks/{webhook}/metrics"),
    ] {
        let metrics = world.get(&format!("{path}?interval=minute"), token).await;
        assert_eq!(metrics.status, StatusCode::OK, "{metrics:?}");
        assert_eq!(metrics.body["totals"]["deliveries"], 4);
        assert_eq!(metrics.body["totals"]["successRate"], 0.5);
        assert_eq!(metrics.body["latency"]["p50Ms"], 1.5);
        assert_eq!(metrics.body["backlog"]["pending"], 2);
        assert_eq!(metrics.body["errors"][0]["statusCode"], 503);
        assert_eq!(
            metrics.body["errors"][0]["first"]["deliveryId"],
            id_in(&all[1]).to_string()
        );
    }
    let wrong = world.get("/v1/metrics?interval=week", token).await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
    let long = "/v1/metrics?interval=minute&from=2020-01-01T00:00:00Z";
    assert_eq!(world.get(long, token).await.status, StatusCode::BAD_REQUEST);
    let mut client = MetricsServiceClient::new(world.channel().await);
    let request = v1::GetMetricsRequest {
        webhook_id: webhook.to_string(),
        ..v1::GetMetricsRequest::default()
    };
    let metrics = client
        .get_metrics(with_token(token, request))
        .await
        .unwrap();
    let totals = metrics.get_ref().totals.unwrap();
    assert_eq!((totals.delivered, totals.failed, totals.open), (1, 1, 2));
}

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
    while !text.contains("event: delivery") {
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

#[tokio::test]
async fn whoever_may_only_read_does_not_see_a_signature_that_verifies() {
    let (world, workspace, webhook, _) = stage().await;
    let original = delivery(workspace.id, webhook, "e1");
    record(&world, &[&original], false).await;
    tell(&world, vec![failed(&original)]).await;
    let reader = world.token(workspace.id, &["webhooks:read"]).await;
    let writer = world.token(workspace.id, &["webhooks:write"]).await;
    let path = format!("/v1/deliveries/{}/request", id_in(&original));
    let rest = async |token: &str| {
        let reply = world.get(&path, token).await;
        assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
        let request = reply.body["request"].clone();
        let headers = request["headers"].as_array().unwrap();
        let named = |header: &&Value| header["name"] == "webhook-signature";
        let signature = headers.iter().find(named).unwrap()["value"].clone();
        (request["curl"].as_str().unwrap().to_owned(), signature)
    };
    let (curl, signature) = rest(&reader).await;
    assert_eq!(signature, "••••");
    assert!(curl.contains("webhook-signature: ••••"), "{curl}");
    assert!(!curl.contains("v1,"), "{curl}");
    let (curl, signature) = rest(&writer).await;
    assert!(signature.as_str().unwrap().starts_with("v1,"));
    assert!(curl.contains("webhook-signature: v1,"), "{curl}");

    let mut client = DeliveryServiceClient::new(world.channel().await);
    for (token, shown) in [(&reader, false), (&writer, true)] {
        let request = v1::GetDeliveryRequestContentRequest {
            id: id_in(&original).to_string(),
        };
        let content = client
            .get_delivery_request_content(with_token(token, request))
            .await
            .unwrap()
            .into_inner();
        let signature = content
            .headers
            .iter()
            .find(|header| header.name == "webhook-signature")
            .unwrap();
        assert_eq!(signature.value.starts_with("v1,"), shown, "{signature:?}");
        assert_eq!(content.curl.contains("v1,"), shown);
    }
}

#[tokio::test]
async fn samples_are_payloads_of_the_kinds_asked_for() {
    let (world, workspace, ..) = stage().await;
    let token = workspace.token.as_str();
    let samples = world
        .get(
            "/v1/webhooks/sample?triggers=KIND_EXIT&triggers=KIND_INTERACTION",
            token,
        )
        .await;
    let samples = samples.body.as_array().unwrap();
    let kinds: Vec<_> = samples
        .iter()
        .map(|sample| sample["workflowStep"]["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["KIND_EXIT", "KIND_INTERACTION"]);
    let keys: Vec<_> = samples[0].as_object().unwrap().keys().collect();
    assert_eq!(keys.len(), 6, "{keys:?}");
    let wrong = world
        .get("/v1/webhooks/sample?triggers=KIND_OTHER", token)
        .await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
}
