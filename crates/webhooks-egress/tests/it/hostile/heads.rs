//! Heads that never end, or are too much.

use std::time::Duration;

use webhooks_domain::endpoint::Outcome;

use super::kit::{Hostile, Step, answer, answering, send};
use super::{DEADLINE, attempt_within, is_invalid, meet, short, times_out, unhurried};
use crate::{egress, post};

const DRIP: Duration = Duration::from_millis(20);

fn headers(count: usize, length: usize) -> Vec<u8> {
    let value = "v".repeat(length);
    let headers: String = (0..count).map(|n| format!("x-{n}: {value}\r\n")).collect();
    answer("200 OK", &headers, "")
}

#[tokio::test]
async fn r_01_slow_headers_end_at_the_deadline() {
    for (what, first) in [
        ("a value that grows", "HTTP/1.1 200 OK\r\nx-slow: "),
        ("a status line that grows", "HTTP/1.1 200 "),
        ("nothing at first", ""),
    ] {
        let steps = vec![Step::Request, send(first), Step::Drip(b"a".to_vec(), DRIP)];
        match first {
            // What starts with an `a` is no HTTP, and need not be waited for.
            "" => is_invalid(what, "invalid_response", steps).await,
            _ => times_out(what, steps).await,
        }
    }
    let lines = Step::Drip(b"x: y\r\n".to_vec(), DRIP);
    let steps = vec![Step::Request, send("HTTP/1.1 200 OK\r\n"), lines];
    times_out("a line at a time", steps).await;
}

#[tokio::test]
async fn r_05_too_many_or_too_large_headers_are_an_invalid_response() {
    let head = "head_too_large";
    is_invalid(
        "1 MiB in one header",
        head,
        answering(headers(1, 1024 * 1024)),
    )
    .await;
    is_invalid("10,000 headers", head, answering(headers(10_000, 1))).await;
    is_invalid("360 KiB in 90 headers", head, answering(headers(90, 4096))).await;
    is_invalid("101 headers", head, answering(headers(100, 1))).await;
    let endless = |line: &str| {
        let flood = Step::Flood(line.repeat(200).into_bytes());
        vec![Step::Request, send("HTTP/1.1 200 OK\r\nx: "), flood]
    };
    is_invalid("an endless header", head, endless("vvvvvvvv")).await;
    is_invalid("endless headers", head, endless("v\r\nx: ")).await;

    // What is accepted is cut to what is kept.
    let (result, _receiver) = meet(answering(headers(90, 300))).await;
    assert_eq!(result.outcome, Outcome::Success);
    assert!(result.response_headers.is_truncated());
    assert_eq!(result.response_headers.to_vec().len(), 64);
}

#[tokio::test]
async fn r_06_a_slow_flood_of_informational_answers_ends_at_the_deadline() {
    for status in ["100 Continue", "102 Processing", "103 Early Hints"] {
        let hint = format!("HTTP/1.1 {status}\r\nx: y\r\n\r\n").into_bytes();
        times_out(status, vec![Step::Request, Step::Drip(hint, DRIP)]).await;
    }
}

#[tokio::test]
async fn r_06_a_fast_flood_of_informational_answers_ends_at_once() {
    for status in ["100 Continue", "102 Processing", "103 Early Hints"] {
        let hint = format!("HTTP/1.1 {status}\r\n\r\n")
            .repeat(500)
            .into_bytes();
        let steps = vec![Step::Request, Step::Flood(hint)];
        is_invalid(status, "head_too_large", steps).await;
    }
    // A few before the answer are as they should be.
    let hints = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n";
    let steps = answering([&hints[..], &answer("200 OK", "", "ok")].concat());
    let (result, _receiver) = meet(steps).await;
    assert_eq!(result.status, Some(200));
    assert_eq!(&result.response_body[..], b"ok");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r_06_healthy_receivers_are_served_beside_twenty_floods() {
    let hint = b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(500);
    let flood = Hostile::start(vec![Step::Request, Step::Flood(hint)]).await;
    let healthy = Hostile::start(answering(answer("200 OK", "", "ok"))).await;
    let egress = egress(unhurried());
    let floods = (0..20).map(|_| async {
        for _ in 0..3 {
            let result = post(&egress, &flood.http_url()).await;
            assert!(
                matches!(result.reason(), Some("head_too_large" | "timeout")),
                "{result:?}"
            );
        }
    });
    let served = async {
        for _ in 0..100 {
            let result = post(&egress, &healthy.http_url()).await;
            assert_eq!(result.outcome, Outcome::Success);
        }
    };
    futures::join!(futures::future::join_all(floods), served);
}

#[tokio::test]
async fn r_24_an_answer_after_the_deadline_is_a_timeout() {
    let late = Step::Pause(DEADLINE + Duration::from_millis(300));
    let steps = vec![
        Step::Request,
        late,
        send(answer("200 OK", "", "late")),
        Step::Hold,
    ];
    times_out("a late 200", steps).await;

    // The next attempt is on a connection of its own: nothing late is taken for its answer.
    let first_late = vec![
        Step::Request,
        Step::Pause(DEADLINE + Duration::from_millis(300)),
        send(answer("500 Late", "", "")),
        Step::Hold,
    ];
    let receiver = Hostile::start(first_late).await;
    let egress = egress(short());
    for number in 1..=2 {
        let result = post(&egress, &receiver.http_url()).await;
        assert_eq!(result.outcome, Outcome::Timeout, "attempt {number}");
        assert_eq!(receiver.connections(), number);
    }
}

#[tokio::test]
async fn r_07_silence_after_the_connection_ends_at_the_deadline() {
    times_out("accepts and reads", vec![Step::Hold]).await;
    let receiver = Hostile::start(vec![Step::UntilReleased, Step::Hold]).await;
    let result = attempt_within(&receiver, DEADLINE).await;
    assert_eq!(result.reason(), Some("timeout"));
    receiver.release();
    super::closed_soon(&receiver).await;
}
