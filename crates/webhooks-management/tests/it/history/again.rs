//! Sent again, taken back, sent as a test, looked at: what a person does with a delivery.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;
use webhooks_domain::{
    ids,
    signing::{SigningKey, verify},
    webhook::Plan,
};
use webhooks_proto::{
    internal::v1::DeliveryRef,
    v1::{self, delivery_service_client::DeliveryServiceClient},
};

use super::{delivery_in, failed, id_in, post, record, stage};
use crate::{
    document::Stage,
    support::{World, delivered, delivery, owed, refused, tell, uuid, with_token},
};

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
    // History keeps no hop: what is made anew begins where an ordinary event does.
    assert_eq!((header("x-linkbreakers-hop").as_str(), job.hop), ("1", 0));
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
async fn a_call_that_has_nothing_to_say_takes_no_body_or_an_empty_object() {
    let world = World::start().await;
    let typed: &[(&str, &str)] = &[("content-type", "application/json")];
    let untyped: &[(&str, &str)] = &[];
    let calls = |stage: &Stage| {
        let (delivery, webhook, job) = (stage.delivery, stage.webhook, &stage.job);
        // A job that nobody has begun yet goes on anyway, so each of these can be done after the others.
        [
            format!("/v1/deliveries/{delivery}/retry"),
            format!("/v1/webhooks/{webhook}/challenge"),
            format!("/v1/deliveries/{delivery}/cancel"),
            format!("/v1/jobs/{job}/resume"),
            format!("/v1/jobs/{job}/pause"),
            format!("/v1/jobs/{job}/cancel"),
        ]
    };
    let stage = Stage::set(&world).await;
    let token = stage.workspace.token.as_str();
    let ask = async |path: &str, headers: &[(&str, &str)], body: &str| {
        let body = Some(body.to_owned());
        world.send(Method::POST, path, token, headers, body).await
    };
    for path in calls(&stage) {
        let member = ask(&path, typed, r#"{"x":1}"#).await;
        assert_eq!(
            refused(&member, 400, "INVALID_ARGUMENT"),
            [("x".to_owned(), "unknown_field".to_owned())],
            "{path}"
        );
        for (body, reason) in [
            ("{{{", "malformed_json"),
            ("[]", "not_an_object"),
            ("null", "not_an_object"),
        ] {
            let reply = ask(&path, typed, body).await;
            assert_eq!(
                refused(&reply, 400, "INVALID_ARGUMENT"),
                [(String::new(), reason.to_owned())],
                "{path} {body}"
            );
        }
        let reply = ask(&path, untyped, "{}").await;
        refused(&reply, 415, "UNSUPPORTED_MEDIA_TYPE");
    }
    let made = world.get("/v1/deliveries", token).await;
    assert_eq!(made.body["totalCount"], 1, "nothing was done");
    assert_eq!(made.body["deliveries"][0]["state"], "PENDING");
    let job = world.get(&format!("/v1/jobs/{}", stage.job), token).await;
    assert_eq!(job.body["job"]["state"], "PENDING");

    for (headers, body) in [
        (typed, Some("{}")),
        (typed, Some("")),
        (untyped, Some("")),
        (untyped, None),
    ] {
        let stage = Stage::set(&world).await;
        for path in calls(&stage) {
            let token = stage.workspace.token.as_str();
            let body = body.map(str::to_owned);
            let reply = world.send(Method::POST, &path, token, headers, body).await;
            assert_eq!(reply.status, StatusCode::OK, "{path}: {reply:?}");
        }
    }
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
async fn a_strangers_event_is_tested_and_previewed_like_one_that_never_was() {
    let (world, workspace, webhook, _) = stage().await;
    let stranger = world.workspace(Plan::Enterprise).await;
    let theirs = world.webhook(&stranger.token).await;
    let event = delivery(stranger.id, theirs, "a stranger's");
    record(&world, &[&event], false).await;
    for call in ["test", "preview"] {
        let ask = async |webhook: Uuid, token: &str, event: &str| {
            let path = format!("/v1/webhooks/{webhook}/{call}");
            let wish = json!({ "eventId": event });
            world.write(Method::POST, &path, token, &[], &wish).await
        };
        let unknown = ask(webhook, &workspace.token, "never was").await;
        assert!(
            refused(&unknown, 404, "EVENT_NOT_FOUND").is_empty(),
            "{call}"
        );
        let foreign = ask(webhook, &workspace.token, "a stranger's").await;
        assert_eq!(
            (foreign.status, &foreign.body),
            (unknown.status, &unknown.body),
            "{call}"
        );
        // It is there, for whose it is.
        let known = ask(theirs, &stranger.token, "a stranger's").await;
        assert_eq!(known.status, StatusCode::OK, "{call}: {known:?}");
    }
    let made = world.get("/v1/deliveries", &workspace.token).await;
    assert_eq!(made.body["totalCount"], 0, "nothing was made");
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
    // A kind that is named again is shown once.
    let named = "triggers=KIND_EXIT,KIND_ENTRY,KIND_EXIT&triggers=KIND_ENTRY";
    let named = format!("/v1/webhooks/sample?{named}");
    let samples = world.get(&named, token).await;
    let kinds: Vec<_> = samples
        .body
        .as_array()
        .unwrap()
        .iter()
        .map(|sample| sample["workflowStep"]["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["KIND_EXIT", "KIND_ENTRY"]);
    let wrong = world
        .get("/v1/webhooks/sample?triggers=KIND_OTHER", token)
        .await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
}
