//! The demo path: one event through each door, and everything a customer can see of it; the
//! publisher's trace among it.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use webhooks_devstack::wait_until;
use webhooks_domain::ids::message_id;
use webhooks_loadgen::{
    ledger::{self, Ledger, Outcome, Published},
    publish::{self, Door, Plan, Subject},
    receiver::{Captured, Receiver, ReceiverOptions},
    sample::{EventSpec, EventTemplate, expected_body},
    stack::{Api, MadeWebhook, NewWebhook, Stack, StackOptions, Workspace},
};

const LIMIT: Duration = Duration::from_secs(20);

/// One event of a trace through a door; gives what the publisher noted.
async fn publish(
    stack: &Stack,
    workspace: &Workspace,
    door: Door,
    link: Uuid,
    traceparent: &str,
) -> anyhow::Result<Published> {
    let file = stack.folder().join(format!("published-{}", door.as_str()));
    let ledger = Ledger::open(&file)?;
    let subject = Subject {
        workspace: workspace.id,
        links: vec![link],
        kinds: vec!["KIND_EXIT".to_owned()],
    };
    let plan = Plan {
        count: Some(1),
        workers: 1,
        traceparent: Some(traceparent.to_owned()),
        ..Plan::default()
    };
    publish::run(
        &stack.door(door, workspace),
        &subject,
        &plan,
        &ledger,
        &CancellationToken::new(),
    )
    .await?;
    ledger.flush()?;
    let mut lines: Vec<Published> = ledger::read(&file)?;
    let line = lines.pop().expect("one event makes one line");
    assert_eq!(
        (line.outcome, lines.len()),
        (Outcome::Ok, 0),
        "{}: {}",
        line.door,
        line.detail
    );
    Ok(line)
}

async fn arrival(receiver: &Receiver, event: Uuid) -> anyhow::Result<Arc<Captured>> {
    let mark = format!(r#""event":{{"id":"{event}""#);
    wait_until("the delivery to arrive", LIMIT, async || {
        let requests = receiver.requests();
        let found = requests
            .iter()
            .find(|request| String::from_utf8_lossy(&request.body).contains(&mark));
        found.cloned().ok_or(requests.len())
    })
    .await
}

/// The body is the event as published, to the byte, around a snapshot of the webhook.
fn check_body(body: &str, event: &Published, webhook: &MadeWebhook, url: &str) {
    let timestamp = body
        .rsplit_once(r#""timestamp":""#)
        .and_then(|(_, tail)| tail.split_once('"'))
        .expect("a timestamp")
        .0;
    let spec = EventSpec {
        id: event.event,
        workspace: event.workspace,
        link: event.link,
        kind: event.kind.clone(),
        timestamp_micros: webhooks_domain::event::parse_rfc3339_micros(timestamp)
            .expect("RFC 3339"),
    };
    let (head, tail) =
        expected_body(&EventTemplate::new().render(&spec)).expect("the sample's structure");
    let snapshot = body
        .strip_prefix(&head)
        .and_then(|rest| rest.strip_suffix(&tail));
    let snapshot = snapshot
        .unwrap_or_else(|| panic!("not the sample's structure:\n{body}\nexpected\n{head}…{tail}"));
    let object: Value = serde_json::from_str(snapshot).expect("the snapshot is JSON");
    let keys: Vec<&str> = snapshot_keys(snapshot);
    let expected = [
        "id",
        "name",
        "endpointUrl",
        "status",
        "workspaceId",
        "createdBy",
        "createdAt",
        "updatedAt",
    ];
    assert_eq!(&keys[..8], expected, "{snapshot}");
    let later = ["lastSentAt", "lastDeliveredAt", "successCount"];
    assert!(keys[8..].is_empty() || keys[8..] == later, "{snapshot}");
    assert_eq!(object["id"], webhook.id.to_string());
    assert_eq!(object["endpointUrl"], url);
    assert_eq!(object["status"], "ACTIVE");
}

/// Member names of a flat object whose values hold no quotes, in the order of the text.
fn snapshot_keys(object: &str) -> Vec<&str> {
    let parts: Vec<&str> = object.split("\":").collect();
    let before_colons = parts.split_last().map_or(&[][..], |(_, others)| others);
    before_colons
        .iter()
        .filter_map(|part| part.rsplit_once('"'))
        .map(|(_, key)| key)
        .collect()
}

async fn check_history(
    api: &mut Api,
    event: &Published,
    webhook: &MadeWebhook,
) -> anyhow::Result<()> {
    let path = format!("/v1/webhooks/{}/deliveries", webhook.id);
    let delivery = wait_until("the delivery in the history", LIMIT, async || {
        let list = api.get(&path).await.map_err(|error| format!("{error:#}"))?;
        let deliveries = list["deliveries"].as_array().cloned().unwrap_or_default();
        let found = deliveries
            .into_iter()
            .find(|delivery| delivery["eventId"] == event.event.to_string());
        found
            .filter(|delivery| delivery["state"] == "DELIVERED")
            .ok_or_else(|| list.to_string())
    })
    .await?;
    assert_eq!(delivery["attemptCount"], 1);
    assert_eq!(delivery["trigger"], "EVENT");
    assert_eq!(delivery["linkId"], event.link.to_string());
    assert_eq!(delivery["lastStatusCode"], 200);
    let id = delivery["id"].as_str().expect("a delivery has an id");
    let whole = api.get(&format!("/v1/deliveries/{id}")).await?;
    let attempts = whole["delivery"]["attempts"]
        .as_array()
        .expect("a delivery shows its attempts");
    assert_eq!(attempts.len(), 1, "{whole}");
    assert_eq!(attempts[0]["number"], 1);
    assert_eq!(attempts[0]["outcome"], "SUCCESS");
    assert_eq!(attempts[0]["statusCode"], 200);
    assert!(attempts[0]["timings"]["totalMs"].is_number(), "{whole}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_through_each_door_arrives_signed_in_the_samples_structure_and_is_shown_by_the_api()
-> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let stack = Stack::start(StackOptions::new(super::bin_dir(), folder.path())).await?;
    let receiver = Receiver::start(ReceiverOptions::default()).await?;
    let workspace = stack.workspace("Demo").await?;
    let mut api = stack.api(&workspace)?;
    let url = receiver.url("/ok/demo");
    let new = NewWebhook {
        name: "Demo".to_owned(),
        endpoint_url: url.clone(),
        ..NewWebhook::default()
    };
    let webhook = api.create_webhook(&new).await?;
    receiver.add_secret(Some(webhook.id), webhook.key.clone());
    for door in Door::ALL {
        // Published right after the call that made the webhook was answered, or after the last event.
        let trace = Uuid::new_v4().simple().to_string();
        let parent = format!("00-{trace}-00f067aa0ba902b7-01");
        let event = publish(&stack, &workspace, door, Uuid::new_v4(), &parent).await?;
        let request = arrival(&receiver, event.event).await?;
        check_body(std::str::from_utf8(&request.body)?, &event, &webhook, &url);
        assert_eq!(request.verified, Some(true), "{:?}", request.headers);
        assert_eq!(request.path, "/ok/demo");
        let header = |name| request.header(name).unwrap_or_default();
        assert_eq!(
            header("webhook-id"),
            message_id(workspace.id, &event.event.to_string(), webhook.id)
        );
        assert_eq!(
            (header("webhook-attempt"), header("webhook-trigger")),
            ("1", "event")
        );
        assert!(
            header("user-agent").starts_with("Linkbreakers-Webhooks/"),
            "{:?}",
            request.headers
        );
        assert!(
            header("content-type").starts_with("application/json"),
            "{:?}",
            request.headers
        );
        // The same trace, and a step of our own in it.
        let [version, same, span, flags] = header("traceparent").split('-').collect::<Vec<_>>()[..]
        else {
            panic!("{:?}", request.headers);
        };
        assert_eq!(
            (version, same, span.len(), flags),
            ("00", &*trace, 16, "01"),
            "{}",
            door.as_str()
        );
        assert_ne!(span, "00f067aa0ba902b7", "{}", door.as_str());
        check_history(&mut api, &event, &webhook).await?;
    }
    assert_eq!(receiver.count(), 3, "one request for each event");
    stack.stop_all().await
}
