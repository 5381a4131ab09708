//! Bodies that never end, blow up, break off or are anything but text.

use std::time::Duration;

use webhooks_domain::endpoint::{FailureClass, Outcome};

use super::kit::{CHUNKED, Hostile, Step, answer, answering, closed_soon, send};
use super::{DEADLINE, FAR, attempt_within, meet, meet_until_the_deadline};

/// 10 MiB of zeros in 10 KiB.
const BOMB: &[u8] = include_bytes!("../../data/zeros.gz");

#[tokio::test]
async fn r_02_a_slow_body_after_a_2xx_head_is_delivered_and_ends_at_the_deadline() {
    for head in [
        "HTTP/1.1 202 Accepted\r\ncontent-length: 99999\r\n\r\n",
        "HTTP/1.1 202 Accepted\r\n\r\n",
    ] {
        let drip = Step::Drip(b"x".to_vec(), Duration::from_millis(20));
        let (result, receiver) =
            meet_until_the_deadline(vec![Step::Request, send(head), drip]).await;
        assert_eq!(result.outcome, Outcome::Success, "{head}");
        assert_eq!((result.status, result.class), (Some(202), None));
        assert!(result.response_body_truncated && !result.response_body.is_empty());
        assert!(result.timings.first_byte < Some(DEADLINE));
        closed_soon(&receiver).await;
    }
    let chunks = Step::Drip(b"1\r\nx\r\n".to_vec(), Duration::from_millis(20));
    let (result, receiver) =
        meet_until_the_deadline(vec![Step::Request, send(CHUNKED), chunks]).await;
    assert_eq!(result.outcome, Outcome::Success);
    closed_soon(&receiver).await;
    // A failure stays the failure it was.
    let head = "HTTP/1.1 503 Busy\r\ncontent-length: 9\r\nretry-after: 7\r\n\r\n";
    let (result, _receiver) =
        meet_until_the_deadline(vec![Step::Request, send(head), Step::Hold]).await;
    assert_eq!(result.class, Some(FailureClass::Temporary));
    assert_eq!(result.status, Some(503));
    assert_eq!(result.response_headers.get("retry-after"), Some("7"));
}

#[tokio::test]
async fn r_03_endless_bodies_are_cut_and_the_connection_is_closed() {
    let chunk = |length: usize| format!("{length:x}\r\n{}\r\n", "x".repeat(length)).into_bytes();
    for (what, head, flood) in [
        ("chunks of 1 KiB", CHUNKED, chunk(1024)),
        ("chunks of a byte", CHUNKED, chunk(1).repeat(100)),
        (
            "chunk extensions",
            CHUNKED,
            b"1;".iter().copied().chain([b'e'; 4096]).collect(),
        ),
        (
            "a length of 10 TB",
            "HTTP/1.1 200 OK\r\ncontent-length: 10000000000000\r\n\r\n",
            vec![b'x'; 4096],
        ),
        (
            "a length beyond 64 bits",
            "HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551615\r\n\r\n",
            vec![b'x'; 4096],
        ),
        ("no length", "HTTP/1.1 200 OK\r\n\r\n", vec![b'x'; 4096]),
    ] {
        let steps = vec![Step::Request, send(head), Step::Flood(flood)];
        let (result, receiver) = meet(steps).await;
        if result.status.is_none() {
            // A length that no number holds is no HTTP.
            assert_eq!(what, "a length beyond 64 bits");
            assert_eq!(result.outcome, Outcome::InvalidResponse, "{what}");
        } else {
            assert_eq!(result.outcome, Outcome::Success, "{what}");
            assert!(result.response_body_truncated, "{what}");
        }
        closed_soon(&receiver).await;
    }
    // Trailers without end come after the body, and are nobody's business.
    let trailers = Step::Flood(b"x: y\r\n".repeat(100));
    let steps = vec![
        Step::Request,
        send(CHUNKED),
        send("2\r\nok\r\n0\r\n"),
        trailers,
    ];
    let (result, receiver) = meet(steps).await;
    assert_eq!(result.outcome, Outcome::Success);
    assert_eq!(&result.response_body[..], b"ok");
    closed_soon(&receiver).await;
}

#[tokio::test]
async fn r_04_nothing_is_decompressed_and_nothing_is_asked_for() {
    for encoding in ["gzip", "br", "zstd", "deflate", "gzip, gzip"] {
        let headers = format!("content-encoding: {encoding}\r\n");
        let (result, receiver) = meet(answering(answer("200 OK", &headers, BOMB))).await;
        assert_eq!(result.outcome, Outcome::Success);
        assert_eq!(&result.response_body[..], BOMB, "as it was received");
        let request = receiver.logs().remove(0).received;
        let request = String::from_utf8_lossy(&request).to_lowercase();
        assert!(!request.contains("accept-encoding"), "{request}");
    }
    let chunked = format!("content-encoding: gzip\r\n{}", "x-padding: y\r\n");
    let (result, _receiver) = meet(answering(answer("200 OK", &chunked, BOMB.repeat(20)))).await;
    assert_eq!(result.response_body.len(), 16 * 1024);
    assert!(result.response_body_truncated);
}

#[tokio::test]
async fn r_11_a_body_that_breaks_off_changes_nothing_about_the_status() {
    for (status, outcome) in [
        ("200 OK", Outcome::Success),
        ("204 Nothing", Outcome::Success),
        ("500 No", Outcome::HttpError),
    ] {
        for framing in [
            "content-length: 100\r\n\r\nhalf",
            "transfer-encoding: chunked\r\n\r\n10\r\nhalf",
            "transfer-encoding: chunked\r\n\r\nnonsense\r\n",
            "transfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
            "transfer-encoding: chunked\r\n\r\n-1\r\nx\r\n",
        ] {
            for end in [Step::Fin, Step::Reset] {
                let reset = matches!(end, Step::Reset);
                let head = format!("HTTP/1.1 {status}\r\n{framing}");
                // Without the pause the reset might overtake the head, and nobody would see it.
                let pause = Step::Pause(Duration::from_millis(30));
                let (result, receiver) = meet(vec![Step::Request, send(head), pause, end]).await;
                assert_eq!(result.outcome, outcome, "{framing} {reset}");
                let expected = status.split(' ').next().and_then(|code| code.parse().ok());
                assert_eq!(result.status, expected, "{framing} {reset}");
                if !status.starts_with("204") {
                    assert!(result.response_body_truncated, "{framing} {reset}");
                }
                assert_eq!(receiver.requests(), 1, "{framing} {reset}");
                closed_soon(&receiver).await;
            }
        }
    }
}

#[tokio::test]
async fn r_19_bytes_that_are_no_text_are_kept_as_they_are() {
    let everything: Vec<u8> = (0..=255).cycle().take(4096).collect();
    let headers =
        b"x-latin: caf\xe9\r\nx-utf8: caf\xc3\xa9\r\nx-raw: \x80\xff\r\nset-cookie: a=b\r\n";
    let mut bytes = b"HTTP/1.1 200 OK\r\n".to_vec();
    bytes.extend(headers);
    bytes.extend(b"content-length: 4096\r\n\r\n");
    bytes.extend(&everything);
    let receiver = Hostile::start(answering(bytes)).await;
    let result = attempt_within(&receiver, FAR).await;
    assert_eq!(result.outcome, Outcome::Success);
    assert_eq!(&result.response_body[..], &everything[..]);
    let kept = result.response_headers.to_vec();
    let value = |name: &str| {
        let found = kept.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    };
    assert_eq!(value("x-latin"), Some("caf\u{fffd}"));
    assert_eq!(value("x-utf8"), Some("café"));
    assert_eq!(value("x-raw"), Some("\u{fffd}\u{fffd}"));
    assert_eq!(result.response_headers.get("x-raw"), None);
}

#[tokio::test]
async fn r_20_what_would_break_a_page_a_log_or_a_header_arrives_as_plain_data() {
    let body = "<script>alert(1)</script>\x1b[31m\r\nHTTP/1.1 200 OK\r\n\r\n";
    let headers = "x-html: <script>alert(1)</script>\r\n\
        x-split: a%0d%0aset-cookie: x=y\r\n\
        x-quote: \"'`;--\r\n\
        location: javascript:alert(1)\r\n\
        x-tab: a\tb\r\n";
    let (result, _receiver) = meet(answering(answer("400 <b>Bad</b>", headers, body))).await;
    assert_eq!(result.status, Some(400));
    assert_eq!(&result.response_body[..], body.as_bytes());
    let kept = result.response_headers.to_vec();
    assert_eq!(kept.len(), 6);
    assert!(kept.iter().all(|(name, _)| name != "set-cookie"));
    for (name, value) in &kept {
        let plain = |text: &str| !text.chars().any(|c| c.is_control() && c != '\t');
        assert!(plain(name) && plain(value), "{name}: {value:?}");
    }
    // The error is ours; nothing of it was written by the receiver.
    let error = result.error().expect("an error");
    assert_eq!(error, "the endpoint did not answer with a 2xx status");

    for control in ["\x1b[31mred", "\x07", "\x7f", "\x00", "a\rb"] {
        let bytes = answer("200 OK", &format!("x: {control}\r\n"), "");
        super::is_invalid("a control character", "invalid_response", answering(bytes)).await;
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
        let (result, _receiver) = meet(answering(answer("200 OK", "", vec![b'x'; length]))).await;
        assert_eq!(result.response_body.len(), kept);
        assert_eq!(result.response_body_truncated, length > kept, "{length}");
    }
}
