//! Every status there is, and what `Retry-After` may wish for.

use std::sync::Arc;
use std::time::Duration;

use webhooks_domain::endpoint::{FailureClass, Outcome};
use webhooks_domain::retry::{MAX_RETRY_AFTER, Next, RetryPolicy, parse_retry_after};

use super::kit::{Hostile, Step, answer, answering, closed_soon};
use super::{FAR, attempt_within, meet, unhurried};
use crate::{egress, post};

#[tokio::test]
async fn r_16_only_200_to_299_is_success() {
    for (bytes, status, outcome) in [
        (
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
            101,
            Outcome::HttpError,
        ),
        (
            "HTTP/1.1 101 Switching Protocols\r\n\r\n",
            101,
            Outcome::HttpError,
        ),
        (
            "HTTP/1.1 204 Nothing\r\ncontent-length: 5\r\n\r\nhello",
            204,
            Outcome::Success,
        ),
        (
            "HTTP/1.1 205 Reset\r\ncontent-length: 5\r\n\r\nhello",
            205,
            Outcome::Success,
        ),
        (
            "HTTP/1.1 299 Odd\r\ncontent-length: 0\r\n\r\n",
            299,
            Outcome::Success,
        ),
        (
            "HTTP/1.1 300 Many\r\ncontent-length: 0\r\n\r\n",
            300,
            Outcome::HttpError,
        ),
        ("HTTP/1.1 304 Same\r\n\r\n", 304, Outcome::HttpError),
        (
            "HTTP/1.1 600 Odd\r\ncontent-length: 0\r\n\r\n",
            600,
            Outcome::HttpError,
        ),
        (
            "HTTP/1.1 999 Odd\r\ncontent-length: 0\r\n\r\n",
            999,
            Outcome::HttpError,
        ),
    ] {
        let (result, receiver) = meet(answering(bytes)).await;
        assert_eq!(result.status, Some(status), "{result:?}");
        assert_eq!(result.outcome, outcome, "{status}");
        if outcome != Outcome::Success {
            assert_eq!(result.class, Some(FailureClass::Permanent), "{status}");
        }
        assert_eq!(receiver.requests(), 1, "{status}");
    }
    // 199 is informational like 103: the answer is still to come.
    let hint = b"HTTP/1.1 199 Odd\r\n\r\n";
    let (result, _receiver) =
        meet(answering([&hint[..], &answer("200 OK", "", "ok")].concat())).await;
    assert_eq!(result.status, Some(200));
    super::times_out(
        "199 alone",
        vec![Step::Request, Step::Send(hint.to_vec()), Step::Hold],
    )
    .await;
}

#[tokio::test]
async fn r_16_a_connection_that_switched_protocols_is_closed() {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n";
    let receiver = Hostile::start(answering(switch)).await;
    assert_eq!(attempt_within(&receiver, FAR).await.status, Some(101));
    closed_soon(&receiver).await;
}

#[tokio::test]
async fn r_22_gone_is_permanent_and_says_so() {
    let (result, receiver) = meet(answering(answer("410 Gone", "", ""))).await;
    assert_eq!(result.class, Some(FailureClass::Permanent));
    assert_eq!(result.reason(), Some("gone"));
    assert_eq!(receiver.requests(), 1);
}

#[tokio::test]
async fn r_23_every_status_from_200_to_999_has_its_class() {
    const TEMPORARY_4XX: [u16; 6] = [404, 408, 409, 423, 425, 429];
    let mirror = Step::Answer(Arc::new(|head| {
        let status = head.split(['/', ' ']).nth(3).unwrap_or_default();
        answer(&format!("{status} Mirror"), "", "")
    }));
    let receiver = Hostile::start(vec![Step::Request, mirror, Step::Again]).await;
    let egress = egress(unhurried());
    for status in 200..=999 {
        let url = format!("{}/{status}", receiver.http_url());
        let result = post(&egress, &url).await;
        let expected = match status {
            200..=299 => None,
            501 | 505 => Some(FailureClass::Permanent),
            500..=599 => Some(FailureClass::Temporary),
            _ if TEMPORARY_4XX.contains(&status) => Some(FailureClass::Temporary),
            _ => Some(FailureClass::Permanent),
        };
        assert_eq!(result.status, Some(status), "{result:?}");
        assert_eq!(result.class, expected, "{status}");
        let reason = match status {
            200..=299 => None,
            300..=399 => Some("redirect"),
            410 => Some("gone"),
            _ => Some("http_status"),
        };
        assert_eq!(result.reason(), reason, "{status}");
    }
    assert_eq!(receiver.requests(), 800);
}

/// Tue, 14 Nov 2023 22:13:20 GMT.
const NOW_MICROS: i64 = 1_700_000_000_000_000;

#[tokio::test]
async fn r_21_no_retry_after_is_absurd_enough_to_hurt() {
    let hour = Some(3_600);
    for (value, expected) in [
        ("0", Some(0)),
        ("7", Some(7)),
        ("3601", hour),
        ("99999999999999999999", hour),
        ("-5", None),
        ("1.5", None),
        ("inf", None),
        ("-inf", None),
        ("NaN", None),
        ("1e300", None),
        ("0x10", None),
        ("", None),
        ("soon", None),
        ("7, 9", None),
        ("Thu, 01 Jan 1970 00:00:00 GMT", None),
        ("Fri, 31 Dec 9999 23:59:59 GMT", hour),
        ("Tue, 14 Nov 2023 22:13:30 GMT", Some(10)),
        ("Tue, 14 Nov 2023 22:13:30 PST", None),
        ("Tue, 32 Nov 2023 22:13:30 GMT", None),
        ("Tue, 14 Nov 99999 22:13:30 GMT", None),
        ("caf\u{e9}", None),
    ] {
        let headers = format!("retry-after: {value}\r\n");
        let (result, _receiver) = meet(answering(answer("429 Busy", &headers, ""))).await;
        let wish = result
            .response_headers
            .get("retry-after")
            .and_then(|value| parse_retry_after(value, NOW_MICROS));
        assert_eq!(wish, expected.map(Duration::from_secs), "{value}");
        // Whatever was wished for, the wait is between the policy's own and an hour.
        let class = result.class.expect("a failure");
        let own = RetryPolicy::STANDARD.next(1, class, None, Duration::ZERO, 0.5);
        let Next::Retry { delay: own, .. } = own else {
            panic!("{own:?}")
        };
        let next = RetryPolicy::STANDARD.next(1, class, wish, Duration::ZERO, 0.5);
        let Next::Retry { attempt: 2, delay } = next else {
            panic!("{value}: {next:?}")
        };
        assert!(
            delay >= own && delay <= MAX_RETRY_AFTER,
            "{value}: {delay:?}"
        );
    }
    let twice = "retry-after: 5\r\nretry-after: 50\r\n";
    let (result, _receiver) = meet(answering(answer("503 Busy", twice, ""))).await;
    assert_eq!(result.response_headers.get("retry-after"), Some("5"));
}
