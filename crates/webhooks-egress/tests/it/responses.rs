//! Hostile and broken answers.

use std::time::Duration;

use webhooks_domain::endpoint::{FailureClass, Outcome};
use webhooks_egress::{AttemptResult, EgressConfig};

use crate::receiver::{Receiver, Script, answer};
use crate::{config, egress, http_url, post};

/// The deadline of attempts that are meant to run into it.
const SHORT: Duration = Duration::from_millis(300);

async fn attempt(receiver: &Receiver) -> AttemptResult {
    post(&egress(config()), &http_url(receiver.address)).await
}

async fn short_attempt(receiver: &Receiver) -> AttemptResult {
    let config = EgressConfig {
        attempt_timeout: SHORT,
        ..config()
    };
    let result = post(&egress(config), &http_url(receiver.address)).await;
    assert!(result.timings.total >= SHORT, "{:?}", result.timings);
    assert!(result.timings.total < SHORT * 10, "{:?}", result.timings);
    result
}

async fn invalid(what: &str, script: Script) {
    let receiver = Receiver::start(script).await;
    let result = attempt(&receiver).await;
    assert_eq!(
        result.outcome,
        Outcome::InvalidResponse,
        "{what}: {result:?}"
    );
    assert_eq!(result.class, Some(FailureClass::Temporary), "{what}");
    assert_eq!(receiver.counts().connections, 1, "{what}");
}

#[tokio::test]
async fn an_endless_body_is_cut_and_still_a_success() {
    for (head, more) in [
        (
            "transfer-encoding: chunked",
            "400\r\n".to_owned() + &"x".repeat(0x400) + "\r\n",
        ),
        ("content-length: 99999999999", "x".repeat(0x400)),
        ("connection: close", "x".repeat(0x400)),
    ] {
        let head = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n");
        let receiver = Receiver::start(Script::Endless(head.into(), more.into())).await;
        let result = attempt(&receiver).await;
        assert_eq!(result.outcome, Outcome::Success);
        assert_eq!(result.response_body.len(), 16 * 1024);
        assert!(result.response_body.iter().all(|byte| *byte == b'x'));
        assert!(result.response_body_truncated);
        receiver.wait_closed(1).await;
    }
}

#[tokio::test]
async fn a_body_is_kept_whole_up_to_its_cap() {
    for (length, kept) in [
        (0, 0),
        (16 * 1024, 16 * 1024),
        (16 * 1024 + 1, 16 * 1024),
        (60_000, 16 * 1024),
    ] {
        let receiver = Receiver::start(Script::Answer(answer("200 OK", &"x".repeat(length)))).await;
        let result = attempt(&receiver).await;
        assert_eq!(result.response_body.len(), kept);
        assert_eq!(result.response_body_truncated, length > kept, "{length}");
    }
}

#[tokio::test]
async fn a_dripping_body_after_a_2xx_head_ends_at_the_deadline_as_a_success() {
    let head = b"HTTP/1.1 202 Accepted\r\ncontent-length: 99999\r\n\r\n".to_vec();
    let receiver = Receiver::start(Script::Drip(head, b"x".to_vec())).await;
    let result = short_attempt(&receiver).await;
    assert_eq!(result.outcome, Outcome::Success);
    assert_eq!(result.status, Some(202));
    assert!(result.response_body_truncated);
    assert!(!result.response_body.is_empty());
    receiver.wait_closed(1).await;
}

#[tokio::test]
async fn a_body_that_breaks_off_changes_nothing_about_the_status() {
    for (status, outcome) in [("200 OK", Outcome::Success), ("500 No", Outcome::HttpError)] {
        for framing in [
            "content-length: 100\r\n\r\nhalf",
            "transfer-encoding: chunked\r\n\r\n10\r\nhalf",
            "transfer-encoding: chunked\r\n\r\nnonsense\r\n",
        ] {
            let bytes = format!("HTTP/1.1 {status}\r\n{framing}").into_bytes();
            let receiver = Receiver::start(Script::AnswerAndClose(bytes)).await;
            let result = attempt(&receiver).await;
            assert_eq!(result.outcome, outcome, "{framing}");
            assert!(result.response_body_truncated, "{framing}");
            assert_eq!(receiver.counts().requests, 1, "{framing}");
        }
    }
}

#[tokio::test]
async fn a_dripping_head_ends_at_the_deadline() {
    let head = b"HTTP/1.1 200 OK\r\nx-slow: ".to_vec();
    let receiver = Receiver::start(Script::Drip(head, b"x".to_vec())).await;
    let result = short_attempt(&receiver).await;
    assert_eq!(result.outcome, Outcome::Timeout);
    assert_eq!(result.class, Some(FailureClass::Temporary));
    assert_eq!((result.status, result.timings.first_byte), (None, None));
    receiver.wait_closed(1).await;
    assert_eq!(receiver.counts().requests, 1);
}

#[tokio::test]
async fn silence_ends_at_the_deadline() {
    let receiver = Receiver::start(Script::Silence).await;
    let result = short_attempt(&receiver).await;
    assert_eq!(result.outcome, Outcome::Timeout);
    assert_eq!(result.reason(), Some("timeout"));
    receiver.wait_closed(1).await;
}

#[tokio::test]
async fn a_connection_that_breaks_before_the_head_is_unreachable_and_not_tried_again() {
    for script in [
        Script::Reset,
        Script::AnswerAndClose(Vec::new()),
        Script::AnswerAndClose(b"HTTP/1.1 200 OK\r\nx-half".to_vec()),
    ] {
        let receiver = Receiver::start(script).await;
        let result = attempt(&receiver).await;
        assert_eq!(result.outcome, Outcome::Unreachable, "{result:?}");
        assert_eq!(result.class, Some(FailureClass::Temporary));
        assert_eq!(result.reason(), Some("connection_closed"));
        assert_eq!(receiver.counts().requests, 1);
    }
}

#[tokio::test]
async fn what_is_not_http_is_an_invalid_response() {
    for line in [
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 000 No\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/3.7 200 OK\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
        "<html>hello</html>\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon here\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx: \0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
    ] {
        invalid(line, Script::Answer(line.into())).await;
    }
    let banner = b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec();
    invalid("a banner", Script::Banner(banner)).await;
}

#[tokio::test]
async fn a_flood_of_headers_is_an_invalid_response() {
    let flood = |count: usize, length: usize| {
        let header = |n| format!("x-{n}: {}\r\n", "v".repeat(length));
        let headers: String = (0..count).map(header).collect();
        let answer = format!("HTTP/1.1 200 OK\r\n{headers}content-length: 0\r\n\r\n");
        Script::Answer(answer.into_bytes())
    };
    invalid("10,000 headers", flood(10_000, 1)).await;
    invalid("1 MiB in one header", flood(1, 1024 * 1024)).await;
    invalid("360 KiB in 90 headers", flood(90, 4096)).await;
    invalid(
        "an endless header",
        Script::Endless(b"HTTP/1.1 200 OK\r\nx: ".to_vec(), vec![b'v'; 1024]),
    )
    .await;

    let receiver = Receiver::start(flood(80, 512)).await;
    let result = attempt(&receiver).await;
    assert_eq!(result.outcome, Outcome::Success);
    assert_eq!(result.response_headers.to_vec().len(), 63);
    assert!(result.response_headers.is_truncated());
}

#[tokio::test]
async fn informational_answers_are_passed_over_and_odd_ones_are_failures() {
    let hints = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n";
    let bytes = [&hints[..], &answer("200 OK", "ok")].concat();
    let receiver = Receiver::start(Script::Answer(bytes)).await;
    assert_eq!(attempt(&receiver).await.status, Some(200));

    for (status, class) in [
        (101, FailureClass::Permanent),
        (304, FailureClass::Permanent),
        (400, FailureClass::Permanent),
        (404, FailureClass::Temporary),
        (410, FailureClass::Permanent),
        (429, FailureClass::Temporary),
        (500, FailureClass::Temporary),
        (501, FailureClass::Permanent),
        (503, FailureClass::Temporary),
        (600, FailureClass::Permanent),
        (999, FailureClass::Permanent),
    ] {
        let bytes = answer(&format!("{status} Odd"), "");
        let receiver = Receiver::start(Script::AnswerAndClose(bytes)).await;
        let result = attempt(&receiver).await;
        assert_eq!(result.outcome, Outcome::HttpError, "{status}");
        assert_eq!(result.status, Some(status));
        assert_eq!(result.class, Some(class), "{status}");
        assert_eq!(receiver.counts().requests, 1, "{status}");
    }
}

#[tokio::test]
async fn a_flood_of_informational_answers_ends_at_the_deadline() {
    let hint = b"HTTP/1.1 103 Early Hints\r\n\r\n".to_vec();
    let receiver = Receiver::start(Script::Drip(hint.clone(), hint)).await;
    let result = short_attempt(&receiver).await;
    assert_eq!(result.outcome, Outcome::Timeout);
    receiver.wait_closed(1).await;
}
