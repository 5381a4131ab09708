//! What an event says of itself in the fields it need not have: types and workspaces, at each door.

use bytes::Bytes;
use tokio_stream as stream;
use tonic::Code;
use webhooks_bus::names;
use webhooks_ingest::MESSAGE_MAX_BYTES;
use webhooks_proto::v1::{EventResult, PublishEventRequest, PublishEventsRequest};

use crate::support::{OTHER, Stack, WORKSPACE, event};

/// An event of the workspace with these members in front of its `event`'s own.
fn event_with(id: &str, members: &str) -> String {
    event(id, "").replacen(r#""event":{"#, &format!(r#""event":{{{members},"#), 1)
}

/// Members that cannot be, each with its field and reason.
fn bad() -> Vec<(String, &'static str, &'static str)> {
    let mistyped = |members: &str, field| (members.to_owned(), field, "wrong_type");
    let foreign = |path: &str, name: &str, field| {
        let members = format!(r#""{path}":{{"{name}":"{OTHER}"}}"#);
        (members, field, "tenant_mismatch")
    };
    vec![
        mistyped(r#""link":5"#, "event.link"),
        mistyped(r#""device":[]"#, "event.device"),
        mistyped(r#""createdAt":5"#, "event.createdAt"),
        mistyped(r#""link":{"tags":[5]}"#, "event.link.tags[]"),
        foreign("link", "workspaceId", "event.link.workspaceId"),
        foreign("device", "workspaceId", "event.device.workspaceId"),
        foreign("leadScore", "workspaceId", "event.leadScore.workspaceId"),
        foreign("workspace", "id", "event.workspace.id"),
    ]
}

/// Optional members that may be: null, the own workspace, what nobody knows.
fn good() -> String {
    format!(
        r#""device":null,"link":{{"workspaceId":"{WORKSPACE}","tags":["a",{{"id":1}},null]}},"workspace":{{"id":null}},"new":5"#
    )
}

#[tokio::test]
async fn over_http_a_bad_optional_field_is_refused_by_its_name_alone_and_in_an_array() {
    let stack = Stack::start().await;
    let mut parts = Vec::new();
    for (number, (members, field, reason)) in bad().into_iter().enumerate() {
        let body = event_with(&format!("b{number}"), &members);
        let answer = stack.post(body.clone()).await;
        let (status, code_type) = if reason == "tenant_mismatch" {
            (403, "WORKSPACE_MISMATCH")
        } else {
            (400, "INVALID_ARGUMENT")
        };
        assert_eq!(
            (answer.status, answer.member("codeType")),
            (status, code_type),
            "{answer:?}"
        );
        assert_eq!(
            (answer.member("field"), answer.member("reason")),
            (field, reason)
        );
        parts.push(body);
    }
    parts.push(event_with("good", &good()));
    let answer = stack.post(format!("[{}]", parts.join(","))).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let mut results = answer.body.split(r#"{"id":""#).skip(1);
    for (number, (_, field, reason)) in bad().into_iter().enumerate() {
        let verdict = results.next().unwrap();
        assert!(
            verdict.starts_with(&format!(r#"b{number}","status":"refused""#)),
            "{verdict}"
        );
        let detail = format!(r#""field":"{field}","reason":"{reason}""#);
        assert!(verdict.contains(&detail), "no {detail} in {verdict}");
    }
    let last = results.next().unwrap();
    assert!(last.starts_with(r#"good","status":"accepted""#), "{last}");
    assert_eq!(
        stack.events(1).await[0].payload,
        event_with("good", &good())
    );
}

#[tokio::test]
async fn over_grpc_a_bad_optional_field_is_refused_by_its_name_and_with_its_id() {
    let stack = Stack::start().await;
    let mut grpc = stack.grpc().await;
    let messages: Vec<_> = bad()
        .into_iter()
        .enumerate()
        .map(|(number, (members, ..))| {
            // Half of them are named beside the event, half inside.
            let inside = event_with(&format!("g{number}"), &members);
            let bare = inside.replacen(&format!(r#""id":"g{number}", "#), "", 1);
            let beside = number % 2 == 0;
            PublishEventRequest {
                event: Bytes::from(if beside { bare } else { inside }),
                id: if beside {
                    format!("g{number}")
                } else {
                    String::new()
                },
            }
        })
        .collect();
    for (message, (_, _, reason)) in messages.iter().zip(bad()) {
        let one = stack.authorised(message.clone());
        let status = grpc.publish_event(one).await.unwrap_err();
        let code = if reason == "tenant_mismatch" {
            Code::PermissionDenied
        } else {
            Code::InvalidArgument
        };
        assert_eq!(status.code(), code, "{status:?}");
        assert!(!status.details().is_empty());
    }
    let check = |results: Vec<EventResult>| {
        assert_eq!(results.len(), bad().len());
        for (number, (result, (_, field, reason))) in results.into_iter().zip(bad()).enumerate() {
            assert_eq!(
                (result.id, &*result.status),
                (format!("g{number}"), "refused")
            );
            let error = result.error.unwrap();
            let detail = &error.details[0];
            assert_eq!((&*detail.field, &*detail.reason), (field, reason));
        }
    };
    let batch = PublishEventsRequest {
        events: messages.clone(),
    };
    let answer = grpc.publish_events(stack.authorised(batch)).await.unwrap();
    check(answer.into_inner().results);
    let streamed = stack.authorised(stream::iter(messages));
    let answer = grpc.stream_events(streamed).await.unwrap();
    check(answer.into_inner().results);
    let message = PublishEventRequest {
        event: Bytes::from(event_with("good", &good())),
        id: String::new(),
    };
    grpc.publish_event(stack.authorised(message)).await.unwrap();
    assert_eq!(stack.events(1).await.len(), 1);
}

#[tokio::test]
async fn over_nats_a_bad_optional_field_makes_a_letter_that_names_it() {
    let stack = Stack::start().await;
    for (number, (members, ..)) in bad().into_iter().enumerate() {
        let id = format!("n{number}");
        stack
            .publish(&id, &event_with(&id, &members))
            .await
            .unwrap();
    }
    let body = event_with("good", &good());
    stack.publish("good", &body).await.unwrap();
    assert_eq!(stack.events(1).await[0].payload, body);
    let count = u64::try_from(bad().len()).unwrap();
    let mut letters = stack.dead_letters(count).await;
    letters.sort_by_key(|letter| letter.stream_seq);
    for (letter, (members, field, reason)) in letters.iter().zip(bad()) {
        assert_eq!(letter.reason, reason, "{}", letter.detail);
        assert_eq!(letter.detail, format!("event refused: {field} {reason}"));
        let payload = String::from_utf8(letter.payload.to_vec()).unwrap();
        assert!(payload.contains(&members), "{payload}");
    }
    stack.empty(names::INTAKE).await;
}

#[tokio::test]
async fn a_grpc_message_above_its_limit_is_refused_like_the_same_bytes_over_http() {
    let stack = Stack::start().await;
    let mut grpc = stack.grpc().await;
    let large = || PublishEventRequest {
        event: vec![b' '; MESSAGE_MAX_BYTES + 1].into(),
        id: "large".to_owned(),
    };
    let one = grpc.publish_event(stack.authorised(large())).await;
    let batch = stack.authorised(PublishEventsRequest {
        events: vec![large()],
    });
    let many = grpc.publish_events(batch).await;
    for status in [one.unwrap_err(), many.unwrap_err()] {
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert_eq!(status.message(), "one message has at most 4194304 bytes");
        let details = String::from_utf8_lossy(status.details()).into_owned();
        for word in ["PAYLOAD_TOO_LARGE", "TOO_LARGE", "$"] {
            assert!(details.contains(word), "no {word} in {details:?}");
        }
    }
    let streamed = stack.authorised(stream::iter(vec![large()]));
    let results = grpc.stream_events(streamed).await.unwrap().into_inner();
    let error = results.results[0].error.as_ref().unwrap();
    assert_eq!(
        (error.code, &*error.code_type, &*error.details[0].reason),
        (413, "PAYLOAD_TOO_LARGE", "too_large")
    );
    // A batch whose events are each within their limit has room below it.
    let events = (0..15)
        .map(|number| PublishEventRequest {
            event: event(&format!("l{number}"), &"x".repeat(250 * 1024)).into(),
            id: String::new(),
        })
        .collect();
    let batch = stack.authorised(PublishEventsRequest { events });
    let results = grpc.publish_events(batch).await.unwrap().into_inner();
    let accepted = |one: &EventResult| one.status == "accepted";
    assert!(results.results.iter().all(accepted), "{results:?}");
    assert_eq!(stack.events(15).await.len(), 15);
}
