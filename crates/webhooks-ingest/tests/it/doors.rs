//! The three doors lead to the same place.

use bytes::Bytes;
use futures::StreamExt as _;
use tokio_stream as stream;
use tonic::Code;
use webhooks_bus::{BusSettings, headers, names, subjects};
use webhooks_proto::v1::{PublishEventRequest, PublishEventsRequest};
use webhooks_runtime::telemetry::TraceContext;

use crate::support::{Options, Stack, WORKSPACE, event, event_id, header};

fn message(payload: &str, id: &str) -> PublishEventRequest {
    PublishEventRequest {
        event: Bytes::copy_from_slice(payload.as_bytes()),
        id: id.to_owned(),
    }
}

#[tokio::test]
async fn an_event_keeps_its_bytes_whichever_door_it_comes_through() {
    let stack = Stack::start().await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let answer = stack
        .post_with(&[("traceparent", trace)], event("http-1", "a"))
        .await;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(
        (answer.member("id"), answer.member("duplicate")),
        ("http-1", "false")
    );

    let mut grpc = stack.grpc().await;
    let request = stack.authorised(message(&event("grpc-1", "b"), ""));
    let accepted = grpc
        .publish_event(request)
        .await
        .unwrap()
        .into_inner()
        .event
        .unwrap();
    assert_eq!((&*accepted.id, accepted.duplicate), ("grpc-1", false));

    stack
        .publish(&format!("{WORKSPACE}:nats-1"), &event("nats-1", "c"))
        .await
        .unwrap();
    let events = stack.events(3).await;
    let found: Vec<_> = events.iter().map(event_id).collect();
    assert_eq!(found, ["http-1", "grpc-1", "nats-1"]);
    for (stored, mark) in events.iter().zip(["a", "b", "c"]) {
        assert_eq!(stored.payload, event(event_id(stored), mark));
        assert_eq!(header(stored, headers::WORKSPACE), WORKSPACE.to_string());
        assert!(TraceContext::parse(header(stored, headers::TRACEPARENT)).is_some());
        assert!(
            header(stored, headers::ACCEPTED_AT).parse::<i64>().unwrap() > 1_700_000_000_000_000
        );
    }
    let continued = TraceContext::parse(header(&events[0], headers::TRACEPARENT)).unwrap();
    assert_eq!(
        continued.trace_id,
        TraceContext::parse(trace).unwrap().trace_id
    );
    stack.empty(names::INTAKE).await;
    stack.stop().await;
}

#[tokio::test]
async fn a_repeat_is_recognised_at_every_door_and_after_a_restart_of_nats() {
    let mut stack = Stack::start().await;
    let body = event("", "a").replace("\"id\":\"\", ", "");
    let first = stack
        .post_with(&[("idempotency-key", "e1")], body.clone())
        .await;
    assert_eq!(first.status, 202, "{first:?}");
    let accepted_at = first.member("acceptedAt").to_owned();

    let check = async |stack: &Stack| {
        let again = stack
            .post_with(&[("idempotency-key", "e1")], body.clone())
            .await;
        assert_eq!(
            (again.status, again.member("duplicate")),
            (202, "true"),
            "{again:?}"
        );
        assert_eq!(again.member("acceptedAt"), accepted_at);
        let mut grpc = stack.grpc().await;
        let request = stack.authorised(message(&body, "e1"));
        let again = grpc
            .publish_event(request)
            .await
            .unwrap()
            .into_inner()
            .event
            .unwrap();
        assert!(again.duplicate);
        assert_eq!(again.accepted_at, accepted_at);
        stack.publish("e1", &body).await.unwrap();
        stack.empty(names::INTAKE).await;
        assert_eq!(stack.events(1).await.len(), 1);
    };
    check(&stack).await;
    stack.nats.restart().await.unwrap();
    stack.ready().await;
    check(&stack).await;
    assert!(stack.dead_letters(0).await.is_empty());
}

#[tokio::test]
async fn the_first_body_of_an_id_wins_and_the_second_is_refused_everywhere() {
    let stack = Stack::start().await;
    assert_eq!(stack.post(event("e1", "first")).await.status, 202);

    let answer = stack.post(event("e1", "second")).await;
    assert_eq!(
        (answer.status, answer.member("codeType")),
        (409, "EVENT_ID_CONFLICT"),
        "{answer:?}"
    );
    let mut grpc = stack.grpc().await;
    let status = grpc
        .publish_event(stack.authorised(message(&event("e1", "second"), "")))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists);
    assert!(!status.details().is_empty());
    stack.publish("e1", &event("e1", "second")).await.unwrap();
    let letters = stack.dead_letters(1).await;
    assert_eq!(
        (&*letters[0].source, &*letters[0].reason),
        ("ingest", "conflict")
    );
    assert_eq!(letters[0].payload, event("e1", "second"));

    assert_eq!(stack.events(1).await[0].payload, event("e1", "first"));
}

#[tokio::test]
async fn an_array_is_answered_in_order_each_event_for_itself() {
    let stack = Stack::start().await;
    assert_eq!(stack.post(event("e0", "")).await.status, 202);
    let parts = [
        event("e0", ""),
        event("e1", ""),
        "{\"lbid\":7,\"id\":\"e7\"}".to_owned(),
        event("e1", "other"),
        event("e2", ""),
    ];
    let answer = stack.post(format!("[{}]", parts.join(" , "))).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let results: Vec<_> = answer
        .body
        .split("\"status\":\"")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap())
        .collect();
    // The two with one id race; exactly one of them is stored.
    assert_eq!(
        (results[0], results[2], results[4]),
        ("duplicate", "refused", "accepted")
    );
    assert!(
        answer.body.contains(r#"{"id":"e7","status":"refused","#),
        "{answer:?}"
    );
    let mut racers = [results[1], results[3]];
    racers.sort_unstable();
    assert_eq!(racers, ["accepted", "refused"]);
    let events = stack.events(3).await;
    assert!(events.iter().any(|stored| stored.payload == parts[4]));

    let large: Vec<_> = (0..1_000)
        .map(|number| event(&format!("m{number}"), ""))
        .collect();
    let answer = stack.post(format!("[{}]", large.join(","))).await;
    assert_eq!(answer.body.matches("\"accepted\"").count(), 1_000);
    assert_eq!(stack.events(1_003).await.len(), 1_003);
}

#[tokio::test]
async fn grpc_takes_batches_and_streams() {
    let stack = Stack::start().await;
    let mut grpc = stack.grpc().await;
    let events = vec![
        message(&event("b1", ""), ""),
        message("{", ""),
        message(&event("", "").replace("\"id\":\"\", ", ""), "b2"),
    ];
    let batch = stack.authorised(PublishEventsRequest { events });
    let results = grpc
        .publish_events(batch)
        .await
        .unwrap()
        .into_inner()
        .results;
    let told: Vec<_> = results.iter().map(|one| (&*one.id, &*one.status)).collect();
    assert_eq!(
        told,
        [("b1", "accepted"), ("", "refused"), ("b2", "accepted")]
    );
    let error = results[1].error.as_ref().unwrap();
    assert_eq!(
        (error.code, &*error.code_type, &*error.details[0].reason),
        (400, "INVALID_ARGUMENT", "not_json")
    );

    let many: Vec<_> = (0..2_000)
        .map(|number| message(&event(&format!("s{number}"), ""), ""))
        .collect();
    let results = grpc
        .stream_events(stack.authorised(stream::iter(many)))
        .await
        .unwrap()
        .into_inner()
        .results;
    let ids: Vec<_> = results.iter().map(|one| one.id.clone()).collect();
    assert_eq!(
        ids,
        (0..2_000)
            .map(|number| format!("s{number}"))
            .collect::<Vec<_>>()
    );
    assert!(results.iter().all(|one| one.status == "accepted"));
    assert_eq!(stack.events(2_002).await.len(), 2_002);
}

#[tokio::test]
async fn a_bad_nats_message_is_kept_with_its_reason_and_the_next_one_passes() {
    let stack = Stack::start().await;
    let foreign = crate::support::event_of(crate::support::OTHER, "e1", "");
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let large = event("large", &"x".repeat(300_000));
    for (id, payload) in [
        ("1", "no json"),
        ("2", &*foreign),
        ("3", &*deep),
        ("4", &*large),
        ("5", "{}"),
    ] {
        stack.publish(id, payload).await.unwrap();
    }
    let elsewhere = "workflow.events.v1.nobody.step.completed".to_owned();
    stack
        .publish_to(elsewhere, "6", &event("e6", ""))
        .await
        .unwrap();
    stack.publish("e7", &event("e7", "")).await.unwrap();

    assert_eq!(event_id(&stack.events(1).await[0]), "e7");
    let mut letters = stack.dead_letters(6).await;
    letters.sort_by_key(|letter| letter.stream_seq);
    let reasons: Vec<_> = letters.iter().map(|letter| &*letter.reason).collect();
    assert_eq!(
        reasons,
        [
            "not_json",
            "tenant_mismatch",
            "too_deep",
            "too_large",
            "missing",
            "unknown_subject"
        ]
    );
    assert_eq!(letters[1].payload, foreign);
    // Larger than any event: nobody needs more than its beginning.
    assert_eq!(letters[3].payload, large[..4_096]);
    assert!(letters[3].detail.ends_with("bytes and was cut)"));
    assert_eq!(
        letters[5].subject,
        "workflow.events.v1.nobody.step.completed"
    );
    assert!(
        letters[0]
            .headers
            .iter()
            .any(|header| header.name == headers::MSG_ID && header.value == "1")
    );
    stack.empty(names::INTAKE).await;
}

#[tokio::test]
async fn a_flood_of_garbage_holds_up_nobody_and_displaces_no_letter_of_another_workspace() {
    let stack = Stack::with(Options {
        bus: BusSettings {
            refused_max_bytes: 4 * 1024 * 1024,
            ..BusSettings::default()
        },
        ..Options::default()
    })
    .await;
    stack.publish("flooder", "{}").await.unwrap();
    let other = crate::support::OTHER;
    let elsewhere = || subjects::intake(other);
    stack
        .publish_to(elsewhere(), "other", "no json")
        .await
        .unwrap();
    let flood = |bytes: usize, count: usize| {
        let stack = &stack;
        futures::stream::iter(0..count)
            .map(move |number| async move {
                let garbage = format!("{number}{}", "x".repeat(bytes));
                let id = format!("{bytes}-{number}");
                stack.publish(&id, &garbage).await.unwrap();
            })
            .buffer_unordered(64)
            .collect::<Vec<_>>()
    };
    // More than a workspace's letters.
    flood(100, 1_100).await;
    stack.empty(names::INTAKE).await;
    assert_eq!(stack.dead_letters(1_001).await.len(), 1_001);
    let kept = stack.dead_letters(1_001).await;
    let others = kept
        .iter()
        .filter(|letter| letter.subject == elsewhere())
        .count();
    assert_eq!(others, 1);
    // More than the stream holds.
    flood(50_000, 200).await;
    let event = crate::support::event_of(other, "e1", "");
    stack.publish_to(elsewhere(), "e1", &event).await.unwrap();
    assert_eq!(event_id(&stack.events(1).await[0]), "e1");
    stack.empty(names::INTAKE).await;
    let bytes = stack.bus.fill(names::REFUSED).await.unwrap().bytes;
    assert!((2_000_000..=4 * 1024 * 1024).contains(&bytes), "{bytes}");
    assert_eq!(stack.bus.message_count(names::DEAD).await.unwrap(), 0);
}

#[tokio::test]
async fn a_stream_that_cannot_be_read_to_its_end_is_answered_for_what_was_read() {
    let stack = Stack::start().await;
    let events = vec![
        message(&event("s1", ""), ""),
        message("{", ""),
        message(&"x".repeat(5 * 1024 * 1024), ""),
        message(&event("s2", ""), ""),
    ];
    let mut grpc = stack.grpc().await;
    let results = grpc
        .stream_events(stack.authorised(stream::iter(events)))
        .await
        .unwrap()
        .into_inner()
        .results;
    let told: Vec<_> = results
        .iter()
        .map(|one| {
            let code = one.error.as_ref().map_or("", |error| &error.code_type);
            (&*one.id, &*one.status, code)
        })
        .collect();
    assert_eq!(
        told,
        [
            ("s1", "accepted", ""),
            ("", "refused", "INVALID_ARGUMENT"),
            ("", "refused", "PAYLOAD_TOO_LARGE")
        ]
    );
    assert_eq!(event_id(&stack.events(1).await[0]), "s1");
}
