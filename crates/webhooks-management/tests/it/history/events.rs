//! What an event tells of every webhook.

use reqwest::StatusCode;
use serde_json::{Value, json};
use uuid::Uuid;
use webhooks_domain::{
    ids,
    webhook::{Plan, StatusReason, WebhookStatus},
};
use webhooks_proto::v1::{self, event_history_service_client::EventHistoryServiceClient};
use webhooks_store::{Actor, HealthNews};

use super::{record, stage};
use crate::support::{World, delivery, id_of, now, webhook_body, with_token};

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
async fn an_event_of_more_webhooks_than_an_answer_judges_says_so() {
    let (world, workspace, webhook, _) = stage().await;
    let token = workspace.token.as_str();
    let fired = delivery(workspace.id, webhook, "e");
    record(&world, &[&fired], false).await;
    let add = async |count: u32| {
        let statement = format!(
            "INSERT INTO webhooks
             SELECT (jsonb_populate_record(w, jsonb_build_object('id', gen_random_uuid()))).*
             FROM webhooks w, generate_series(1, {count}) WHERE w.id = '{webhook}'"
        );
        world.sql(&statement).await;
    };
    // The youngest, which is not judged: that it has a delivery does not make it a deleted one.
    let youngest = id_of(&world.post(token, &webhook_body("youngest")).await);
    let of_it = delivery(workspace.id, youngest, "e");
    record(&world, &[&of_it], false).await;
    let mut client = EventHistoryServiceClient::new(world.channel().await);
    for (more, truncated) in [(9_998, false), (1, true)] {
        add(more).await;
        let event = world.get("/v1/events/e", token).await;
        let verdicts = event.body["verdicts"].as_array().unwrap();
        assert_eq!(verdicts.len(), 10_000);
        let named = verdicts.iter().filter(|one| one["webhookName"].is_string());
        assert_eq!(named.count(), 10_000, "deleted ones have no name");
        assert_eq!(event.body["verdictsTruncated"], truncated);
        let request = v1::GetEventRequest { id: "e".into() };
        let same = client.get_event(with_token(token, request)).await.unwrap();
        assert_eq!(same.get_ref().verdicts.len(), 10_000);
        assert_eq!(same.get_ref().verdicts_truncated, truncated);
    }
}

#[tokio::test]
async fn an_event_that_is_listed_is_found_by_its_id_however_old() {
    let world = World::with(&[("WEBHOOKS_HISTORY_RETENTION_DAYS", "3650")]).await;
    let workspace = world.workspace(Plan::Enterprise).await;
    let token = workspace.token.as_str();
    let webhook = world.webhook(token).await;
    let mut old = delivery(workspace.id, webhook, "old");
    old.created_at -= 1_000 * 86_400 * 1_000_000;
    let id = ids::delivery_id(workspace.id, &old.event_id, webhook, old.created_at);
    old.delivery_id = id.into_bytes().to_vec().into();
    record(&world, &[&old], false).await;
    let listed = world.get("/v1/events", token).await;
    assert_eq!(listed.body["events"][0]["id"], "old", "{listed:?}");
    let event = world.get("/v1/events/old", token).await;
    assert_eq!(event.status, StatusCode::OK, "{event:?}");
    assert_eq!(event.body["verdicts"][0]["fired"], true);
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
