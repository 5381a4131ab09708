//! What is refused, and in which words.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt as _;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use webhooks_bus::ConfigWriter;
use webhooks_devstack::wait_until;
use webhooks_proto::v1::PublishEventRequest;
use webhooks_runtime::callers::CallerSettings;

use crate::support::{LIMIT, OTHER, Options, Stack, event, event_of, post_to, raw, request, token};

#[tokio::test]
async fn credentials_are_judged_before_anything_else() {
    let stack = Stack::start().await;
    let narrow = token(2);
    stack.put_token(&narrow, &["webhooks:write"]).await;
    let post = async |authorization: &str, body: &str| {
        let headers = [
            ("authorization", authorization),
            ("content-type", "application/json"),
        ];
        request(stack.http, "POST", "/v1/events", &headers, body.as_bytes()).await
    };
    for bad in ["", "Bearer", "Bearer lbk_test_nonsense", "Basic x"] {
        let answer = post(bad, "").await;
        assert_eq!(
            (answer.status, answer.member("codeType")),
            (401, "UNAUTHENTICATED"),
            "{bad}"
        );
    }
    let unknown = post(&format!("Bearer {}", token(3).reveal()), &event("e", "")).await;
    assert_eq!(unknown.status, 401);
    webhooks_devstack::wait_until("the narrow token", crate::support::LIMIT, async || {
        let answer = post(&format!("Bearer {}", narrow.reveal()), &event("e", "")).await;
        if answer.member("codeType") == "MISSING_SCOPE"
            && answer.body.contains(r#"{"scope":"events:write"}"#)
        {
            Ok(())
        } else {
            Err(answer)
        }
    })
    .await
    .unwrap();
    let foreign = stack.post(event_of(OTHER, "e", "")).await;
    assert_eq!(
        (foreign.status, foreign.member("codeType")),
        (403, "WORKSPACE_MISMATCH")
    );

    let mut grpc = stack.grpc().await;
    let bare = PublishEventRequest {
        event: Bytes::from(event("e", "")),
        id: String::new(),
    };
    let status = grpc.publish_event(bare.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    let foreign = PublishEventRequest {
        event: Bytes::from(event_of(OTHER, "e", "")),
        ..bare
    };
    let status = grpc
        .publish_event(stack.authorised(foreign))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(stack.events(0).await.is_empty());
}

#[tokio::test]
async fn a_revoked_token_ends_within_five_seconds_and_no_other() {
    let stack = Stack::start().await;
    let revoked = token(2);
    stack.put_token(&revoked, &["events:write"]).await;
    let ask = async || post_to(stack.http, &revoked, &[], event("e", "")).await;
    wait_until("the token to be known", LIMIT, async || match ask().await {
        answer if answer.status == 202 => Ok(()),
        answer => Err(answer),
    })
    .await
    .unwrap();
    let config = ConfigWriter::new(&stack.bus);
    config.delete_token(revoked.id()).await.unwrap();
    let limit = Duration::from_secs(5);
    let ended = wait_until("the token's end", limit, async || match ask().await {
        answer if answer.status == 202 => Err(answer),
        answer => Ok(answer),
    })
    .await
    .unwrap();
    assert_eq!(
        (ended.status, ended.member("codeType")),
        (401, "UNAUTHENTICATED")
    );
    let other = stack.post(event("e", "")).await;
    assert_eq!((other.status, other.member("duplicate")), (202, "true"));
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused_and_the_next_request_is_served() {
    let stack = Stack::start().await;
    let heads = [
        // Twice the limit and more: what is read at once may go beyond it.
        format!("x-large: {}\r\n", "x".repeat(200 * 1024)),
        "x-many: 1\r\n".repeat(10_000),
    ];
    for (number, lines) in heads.iter().enumerate() {
        let body = event(&format!("large-{number}"), "");
        let head = format!(
            "POST /v1/events HTTP/1.1\r\nhost: test\r\nconnection: close\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n{lines}content-length: {}\r\n\r\n",
            stack.token.reveal(),
            body.len()
        );
        let refused = raw(stack.http, &[head.as_bytes(), body.as_bytes()].concat()).await;
        assert!((400..500).contains(&refused.status), "{refused:?}");
        let proper = stack.post(event(&format!("proper-{number}"), "")).await;
        assert_eq!(proper.status, 202, "{proper:?}");
    }
    assert_eq!(stack.events(2).await.len(), 2);
}

#[tokio::test]
async fn a_page_of_another_site_can_send_nothing() {
    let stack = Stack::start().await;
    let authorization = format!("Bearer {}", stack.token.reveal());
    let origin = ("origin", "https://elsewhere.example");
    let silent = |answer: &crate::support::Answer| {
        let head = answer.head.to_ascii_lowercase();
        assert!(!head.contains("\naccess-control-"), "{answer:?}");
    };
    // What a form of any page sends without asking first.
    for kind in [
        "text/plain",
        "text/plain; charset=utf-8",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
    ] {
        let headers = [
            ("authorization", authorization.as_str()),
            ("content-type", kind),
            origin,
        ];
        let body = event("e", "");
        let answer = request(stack.http, "POST", "/v1/events", &headers, body.as_bytes()).await;
        assert_eq!(
            (answer.status, answer.member("codeType")),
            (415, "UNSUPPORTED_MEDIA_TYPE"),
            "{kind}"
        );
        silent(&answer);
    }
    // What a script has to ask for first.
    let asks = [
        origin,
        ("access-control-request-method", "POST"),
        (
            "access-control-request-headers",
            "authorization,content-type",
        ),
    ];
    let answer = request(stack.http, "OPTIONS", "/v1/events", &asks, b"").await;
    assert_eq!(
        (answer.status, answer.member("codeType")),
        (405, "METHOD_NOT_ALLOWED")
    );
    silent(&answer);
    // Another method than the one that it was sent with.
    let overrides = [
        ("authorization", authorization.as_str()),
        ("x-http-method-override", "POST"),
    ];
    let answer = request(stack.http, "GET", "/v1/events", &overrides, b"").await;
    assert_eq!(answer.status, 405, "{answer:?}");
    assert!(stack.events(0).await.is_empty());
    let taken = stack.post_with(&[origin], event("e", "")).await;
    assert_eq!(taken.status, 202, "{taken:?}");
    silent(&taken);
}

#[tokio::test]
async fn who_guesses_tokens_is_told_to_wait_and_a_right_one_is_still_served() {
    let stack = Stack::with(Options {
        callers: Some(CallerSettings {
            trusted_proxies: vec!["127.0.0.1".parse().unwrap()],
            failures_per_minute: 3,
        }),
        ..Options::default()
    })
    .await;
    let wrong = format!("Bearer {}", token(9).reveal());
    let guess = async |from: &str| {
        let headers = [
            ("authorization", wrong.as_str()),
            ("content-type", "application/json"),
            ("x-forwarded-for", from),
        ];
        let answer = request(stack.http, "POST", "/v1/events", &headers, b"{}").await;
        let code_type = answer.member("codeType").to_owned();
        (answer.status, code_type, answer)
    };
    for number in 0..3 {
        let (status, code_type, _) = guess("192.0.2.1").await;
        assert_eq!((status, &*code_type), (401, "UNAUTHENTICATED"), "{number}");
    }
    let (status, code_type, answer) = guess("192.0.2.1").await;
    assert_eq!((status, &*code_type), (429, "RATE_LIMITED"), "{answer:?}");
    let wait = answer.head.to_ascii_lowercase();
    let (_, wait) = wait.split_once("retry-after: ").unwrap();
    let wait: u32 = wait.lines().next().unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");

    // gRPC counts in the same window, and tells the same.
    let mut grpc = stack.grpc().await;
    let message = || PublishEventRequest {
        event: Bytes::from(event("e", "")),
        id: String::new(),
    };
    let mut shown = tonic::Request::new(message());
    shown
        .metadata_mut()
        .insert("authorization", wrong.parse().unwrap());
    shown
        .metadata_mut()
        .insert("x-forwarded-for", "192.0.2.1".parse().unwrap());
    let status = grpc.publish_event(shown).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(!status.details().is_empty(), "{status:?}");

    // No token is no guess; another address has its own count; a right token is served.
    let from = ("x-forwarded-for", "192.0.2.1");
    let nothing = request(stack.http, "POST", "/v1/events", &[from], b"{}").await;
    assert_eq!(nothing.status, 401);
    assert_eq!(guess("192.0.2.2").await.0, 401);
    let answer = stack.post_with(&[from], event("e", "")).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let mut right = stack.authorised(message());
    right
        .metadata_mut()
        .insert("x-forwarded-for", "192.0.2.1".parse().unwrap());
    let accepted = grpc.publish_event(right).await.unwrap().into_inner();
    assert!(accepted.event.unwrap().duplicate);
    assert_eq!(guess("192.0.2.1").await.0, 429);
}

#[tokio::test]
async fn every_answer_has_the_requests_id() {
    let stack = Stack::start().await;
    let id_of = |answer: &crate::support::Answer| {
        let mut lines = answer.head.lines();
        let id = lines.find_map(|line| {
            let (name, id) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("x-request-id")
                .then(|| id.to_owned())
        });
        id.unwrap_or_else(|| panic!("no id: {answer:?}"))
    };
    let own = [("x-request-id", "order-7:1")];
    let accepted = stack.post_with(&own, event("e", "")).await;
    assert_eq!((accepted.status, &*id_of(&accepted)), (202, "order-7:1"));
    let many = format!("[{}]", event("f", ""));
    assert_eq!(id_of(&stack.post_with(&own, many).await), "order-7:1");
    // Every refusal has it, also where nobody has looked at the request.
    let refused = stack.post_with(&own, "{}").await;
    assert_eq!((refused.status, &*id_of(&refused)), (400, "order-7:1"));
    for (method, path, status) in [
        ("POST", "/v1/events", 401),
        ("POST", "/v1/nothing", 404),
        ("DELETE", "/v1/events", 405),
        ("GET", "/v1", 200),
    ] {
        let answer = request(stack.http, method, path, &own, b"").await;
        assert_eq!((answer.status, &*id_of(&answer)), (status, "order-7:1"));
    }
    // One that is none is replaced, and so is none at all; no two requests have the same.
    let long = "x".repeat(129);
    let mut ids = Vec::new();
    for given in ["a b", &long] {
        ids.push(id_of(
            &stack.post_with(&[("x-request-id", given)], "{}").await,
        ));
    }
    for number in 0..2 {
        ids.push(id_of(&stack.post(event(&format!("g{number}"), "")).await));
    }
    for id in &ids {
        id.parse::<uuid::Uuid>().unwrap();
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 4);
}

#[tokio::test]
async fn bad_requests_get_the_flat_error_body() {
    let stack = Stack::start().await;
    let check = |answer: crate::support::Answer, status: u16, code_type: &str| {
        assert_eq!(
            (answer.status, answer.member("codeType")),
            (status, code_type),
            "{answer:?}"
        );
        assert_eq!(answer.member("code"), status.to_string());
        assert!(
            answer.body.contains("\"details\":[") && answer.body.contains("\"message\":\""),
            "{answer:?}"
        );
        assert!(
            answer.has_header("content-type: application/json"),
            "{answer:?}"
        );
    };
    check(stack.post("").await, 400, "INVALID_ARGUMENT");
    check(stack.post("[{]").await, 400, "INVALID_ARGUMENT");
    check(
        stack
            .post(event("e", "").replace("\"lbid\"", "\"type\":\"x\",\"lbid\""))
            .await,
        400,
        "INVALID_ARGUMENT",
    );
    check(
        stack
            .post_with(&[("idempotency-key", "other")], event("e", ""))
            .await,
        400,
        "INVALID_ARGUMENT",
    );
    let empty = stack
        .post_with(&[("idempotency-key", "")], event("e", ""))
        .await;
    assert_eq!(
        (empty.member("field"), empty.member("reason")),
        ("Idempotency-Key", "empty")
    );
    check(empty, 400, "INVALID_ARGUMENT");
    check(
        stack.post_with(&[("idempotency-key", "k")], "[]").await,
        400,
        "INVALID_ARGUMENT",
    );
    check(
        stack.post_with(&[("content-encoding", "gzip")], "x").await,
        415,
        "UNSUPPORTED_MEDIA_TYPE",
    );
    check(
        request(stack.http, "POST", "/v1/nothing", &[], b"").await,
        404,
        "NOT_FOUND",
    );
    check(
        request(stack.http, "DELETE", "/v1/events", &[], b"").await,
        405,
        "METHOD_NOT_ALLOWED",
    );
    let depth = format!("{{\"event\":{}{}}}", "[".repeat(1_000), "]".repeat(1_000));
    let deep = stack.post(depth).await;
    assert_eq!(deep.member("reason"), "too_deep");
    check(deep, 400, "INVALID_ARGUMENT");
    // As many levels as fit into an array's body: two million; that event is too large besides.
    let levels = 2 * 1_000 * 1_000;
    let deepest = format!("[{}{}]", "[".repeat(levels), "]".repeat(levels));
    let deepest = stack.post(deepest).await;
    assert!(deepest.status < 500, "{deepest:?}");
    assert_eq!(deepest.member("reason"), "too_large", "{deepest:?}");
    for path in ["/", "/v1"] {
        let about = request(stack.http, "GET", path, &[], b"").await;
        assert_eq!(
            (about.status, about.member("name")),
            (200, "linkbreakers-webhooks-ingest")
        );
    }
    assert!(stack.events(0).await.is_empty());
}

#[tokio::test]
async fn what_is_too_large_is_a_413_however_it_is_sent() {
    let stack = Stack::start().await;
    let large = |answer: crate::support::Answer| {
        assert_eq!(
            (answer.status, answer.member("codeType")),
            (413, "PAYLOAD_TOO_LARGE"),
            "{answer:?}"
        );
    };
    large(stack.post(event("e", &"x".repeat(256 * 1024))).await);
    large(stack.post(vec![b' '; 5 * 1024 * 1024]).await);
    large(
        stack
            .post(format!("[{}]", " ".repeat(4 * 1024 * 1024)))
            .await,
    );
    large(
        stack
            .post(format!("[{}]", vec!["1"; 1_001].join(",")))
            .await,
    );
    // In chunks, without a length.
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    let chunked = [("transfer-encoding", "chunked")];
    large(
        stack
            .post_with(&chunked, format!("{}0\r\n\r\n", chunk.repeat(6)))
            .await,
    );
    // A length that lies, from a client that waits for permission: it never has to send.
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: 1000000000\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n",
        stack.token.reveal()
    );
    large(raw(stack.http, head.as_bytes()).await);
    // The largest that fits.
    let room = 256 * 1024 - event("e", "").len();
    assert_eq!(stack.post(event("e", &"x".repeat(room))).await.status, 202);
}

#[tokio::test]
async fn a_quota_is_a_429_with_retry_after_and_spares_nats_publishers() {
    let stack = Stack::with(Options {
        quota_per_second: 5,
        ..Options::default()
    })
    .await;
    let mut refused = None;
    for number in 0..100 {
        let answer = stack.post(event(&format!("q{number}"), "")).await;
        if answer.status == 429 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("a hundred at once are above five a second");
    assert_eq!(refused.member("codeType"), "RATE_LIMITED");
    assert!(refused.has_header("retry-after: 1"), "{refused:?}");
    let before = stack
        .bus
        .message_count(webhooks_bus::names::EVENTS)
        .await
        .unwrap();
    for number in 0..50 {
        stack
            .publish(&format!("n{number}"), &event(&format!("n{number}"), ""))
            .await
            .unwrap();
    }
    stack.events(before + 50).await;
}

#[tokio::test]
async fn grpc_tells_its_health() {
    let stack = Stack::start().await;
    let channel = tonic::transport::Channel::from_shared(format!("http://{}", stack.grpc))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut health = HealthClient::new(channel);
    let serving = HealthCheckRequest {
        service: "linkbreakers.webhooks.v1.EventService".to_owned(),
    };
    webhooks_devstack::wait_until("SERVING", crate::support::LIMIT, async || {
        match health.check(serving.clone()).await {
            Ok(answer) if answer.get_ref().status == 1 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_health_watch_that_stays_open_does_not_hold_up_the_end() {
    let stack = Stack::start().await;
    let channel = tonic::transport::Channel::from_shared(format!("http://{}", stack.grpc))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut health = HealthClient::new(channel);
    let mut watch = health
        .watch(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(watch.message().await.unwrap().is_some());
    // Within the limit of its drain, or this panics; the watch is still held.
    let begun = std::time::Instant::now();
    stack.stop().await;
    assert!(begun.elapsed() < webhooks_ingest::GRPC_CALL_TIMEOUT);
    drop(watch);
}

#[tokio::test]
async fn a_head_that_never_ends_does_not_hold_up_the_end() {
    let stack = Stack::start().await;
    let mut half = tokio::net::TcpStream::connect(stack.http).await.unwrap();
    half.write_all(b"POST /v1/events HTTP/1.1\r\nhost:")
        .await
        .unwrap();
    // Connections are taken in their order.
    assert_eq!(stack.post(event("beside", "")).await.status, 202);
    // Within 20 s, or this panics; a head may take 30 s.
    stack.stop().await;
    drop(half);
}

#[tokio::test]
async fn http_and_grpc_share_one_budget_of_memory() {
    let stack = Stack::with(Options {
        body_memory: Some(256 * 1024),
        ..Options::default()
    })
    .await;
    let publish = async |id: &str, bytes: usize| {
        let message = PublishEventRequest {
            event: event(id, &"x".repeat(bytes)).into(),
            id: String::new(),
        };
        let mut grpc = stack.grpc().await;
        let answer = grpc.publish_event(stack.authorised(message)).await;
        answer.map(drop).map_err(|status| status.code())
    };
    assert_eq!(publish("alone", 150_000).await, Ok(()));
    // An HTTP body that does not end holds its part.
    let mut half = tokio::net::TcpStream::connect(stack.http).await.unwrap();
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: 200000\r\n\r\n{{",
        stack.token.reveal()
    );
    half.write_all(head.as_bytes()).await.unwrap();
    half.write_all(&vec![b' '; 190_000]).await.unwrap();
    webhooks_devstack::wait_until(
        "a large message to be refused",
        LIMIT,
        async || match publish("second", 150_000).await {
            Err(tonic::Code::Unavailable) => Ok(()),
            other => Err(format!("{other:?}")),
        },
    )
    .await
    .unwrap();
    assert_eq!(publish("small", 10).await, Ok(()));
    drop(half);
    webhooks_devstack::wait_until("room again", LIMIT, async || {
        publish("third", 150_000).await
    })
    .await
    .unwrap();
}
