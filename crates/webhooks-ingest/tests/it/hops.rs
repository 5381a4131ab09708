//! Events that a receiver of ours passes on.

use bytes::Bytes;
use tonic::{Code, Request, Status};
use webhooks_bus::{Outgoing, headers, names, subjects};
use webhooks_proto::v1::{PublishEventRequest, PublishEventsRequest};

use crate::support::{LIMIT, Stack, WORKSPACE, event, event_id, header};

const HOP: &str = "x-linkbreakers-hop";

/// With the hop in its metadata.
fn with_hop<T>(mut request: Request<T>, hop: &str) -> Request<T> {
    request.metadata_mut().insert(HOP, hop.parse().unwrap());
    request
}

impl Stack {
    async fn grpc_passes_on(&self, hop: &str, payload: &str) -> Result<(), Status> {
        let message = PublishEventRequest {
            event: Bytes::copy_from_slice(payload.as_bytes()),
            id: String::new(),
        };
        let request = with_hop(self.authorised(message), hop);
        self.grpc().await.publish_event(request).await.map(drop)
    }

    async fn nats_passes_on(&self, name: &'static str, hop: &str, id: &str) {
        let payload = Bytes::from(event(id, ""));
        let message = Outgoing::new(subjects::intake(WORKSPACE), id, payload).header(name, hop);
        self.bus.publish(message, LIMIT).await.unwrap();
    }
}

#[tokio::test]
async fn an_event_that_was_passed_on_once_is_taken_with_its_hop_at_every_door() {
    let stack = Stack::start().await;
    let answer = stack.post_with(&[(HOP, "1")], event("http", "")).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    stack.grpc_passes_on("1", &event("grpc", "")).await.unwrap();
    stack.nats_passes_on(HOP, "1", "nats").await;
    stack.events(3).await;
    // As a publisher has it who copies headers of HTTP.
    stack.nats_passes_on("X-Linkbreakers-Hop", "1", "any").await;
    stack.events(4).await;
    // An event that says that it is nobody's is as good as one that says nothing.
    for (id, hop) in [("own", &[][..]), ("zero", &[(HOP, "0")][..])] {
        let answer = stack.post_with(hop, event(id, "")).await;
        assert_eq!(answer.status, 202, "{answer:?}");
    }
    let events = stack.events(6).await;
    let found: Vec<_> = events
        .iter()
        .map(|stored| (event_id(stored), header(stored, headers::HOP)))
        .collect();
    assert_eq!(
        found,
        [
            ("http", "1"),
            ("grpc", "1"),
            ("nats", "1"),
            ("any", "1"),
            ("own", ""),
            ("zero", "")
        ]
    );

    // It says nothing of which event it is.
    let again = stack.post_with(&[(HOP, "1")], event("own", "")).await;
    assert_eq!(
        (again.status, again.member("duplicate")),
        (202, "true"),
        "{again:?}"
    );
    stack.stop().await;
}

#[tokio::test]
async fn an_event_that_was_passed_on_twice_goes_in_a_circle_and_is_refused_at_every_door() {
    let stack = Stack::start().await;
    for hop in ["2", "255"] {
        let answer = stack.post_with(&[(HOP, hop)], event("e1", "")).await;
        assert_eq!(
            (answer.status, answer.member("codeType")),
            (409, "EVENT_LOOP"),
            "{answer:?}"
        );
        let field = format!(r#""details":[{{"field":"{HOP}","reason":"loop","#);
        assert!(answer.body.contains(&field), "{answer:?}");
    }
    let array = stack
        .post_with(&[(HOP, "2")], format!("[{}]", event("e1", "")))
        .await;
    assert_eq!(array.status, 200, "{array:?}");
    let refused = r#"{"id":"e1","status":"refused","error":{"code":409,"codeType":"EVENT_LOOP","#;
    assert!(array.body.contains(refused), "{array:?}");

    let status = stack.grpc_passes_on("2", &event("e1", "")).await;
    let status = status.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    assert!(!status.details().is_empty(), "{status:?}");
    let batch = PublishEventsRequest {
        events: vec![PublishEventRequest {
            event: Bytes::from(event("e1", "")),
            id: String::new(),
        }],
    };
    let batch = with_hop(stack.authorised(batch), "2");
    let batch = stack.grpc().await.publish_events(batch).await.unwrap();
    let results = batch.into_inner().results;
    let error = results[0].error.as_ref().unwrap();
    assert_eq!(
        (&*results[0].id, error.code, &*error.code_type),
        ("e1", 409, "EVENT_LOOP")
    );

    stack.nats_passes_on(HOP, "2", "e1").await;
    let letters = stack.dead_letters(1).await;
    assert_eq!(
        (&*letters[0].source, &*letters[0].reason),
        ("ingest", "loop")
    );
    let kept = letters[0].headers.iter().find(|kept| kept.name == HOP);
    assert_eq!(kept.unwrap().value, "2");
    stack.empty(names::INTAKE).await;

    // The id is still free.
    assert!(stack.events(0).await.is_empty());
    assert_eq!(stack.post(event("e1", "")).await.status, 202);
    stack.stop().await;
}

#[tokio::test]
async fn a_hop_that_is_none_is_refused_by_its_name_at_every_door() {
    let stack = Stack::start().await;
    let check = async |headers: &[(&str, &str)], reason: &str| {
        let answer = stack.post_with(headers, event("e1", "")).await;
        assert_eq!(
            (answer.status, answer.member("codeType")),
            (400, "INVALID_ARGUMENT"),
            "{answer:?}"
        );
        let field = format!(r#""details":[{{"field":"{HOP}","reason":"{reason}","#);
        assert!(answer.body.contains(&field), "{answer:?}");
    };
    for bad in ["", "x", "-1", "+1", "1.0", "256", "1, 1"] {
        check(&[(HOP, bad)], "not_a_hop").await;
    }
    check(&[(HOP, "1"), (HOP, "1")], "duplicate_key").await;

    let status = stack.grpc_passes_on("x", &event("e1", "")).await;
    let status = status.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert!(status.message().contains(HOP), "{status:?}");

    stack.nats_passes_on(HOP, "x", "e1").await;
    let letters = stack.dead_letters(1).await;
    assert_eq!(letters[0].reason, "not_a_hop");
    assert!(letters[0].detail.contains(HOP), "{}", letters[0].detail);
    assert!(stack.events(0).await.is_empty());
    stack.stop().await;
}
