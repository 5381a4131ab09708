//! Answers that can be read in two ways, or in none.

use webhooks_domain::endpoint::Outcome;

use super::kit::{Hostile, Step, answer, answering, send};
use super::{is_invalid, unhurried};
use crate::{egress, post};

#[tokio::test]
async fn r_15_what_does_not_start_like_http_is_an_invalid_response() {
    for line in [
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 000 No\r\n\r\n",
        "HTTP/1.1 099 No\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 2x0 OK\r\n\r\n",
        "HTTP/1.1 -200 OK\r\n\r\n",
        "HTTP/1.1\r\n\r\n",
        "HTTP/2 200 OK\r\n\r\n",
        "HTTP/3.7 200 OK\r\n\r\n",
        "HTTP/0.9 200 OK\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
        "http/1.1 200 OK\r\n\r\n",
        "<html>hello</html>\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "220 mail.example.com ESMTP\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00",
        "\0\0\0\0\0\0\0\0",
        "POST /hook HTTP/1.1\r\n\r\n",
    ] {
        is_invalid(line, "invalid_response", answering(line)).await;
    }
    // Said before the request came.
    let receiver = Hostile::start(vec![send("SSH-2.0-OpenSSH_9.2\r\n\r\n"), Step::Hold]).await;
    let result = post(&egress(unhurried()), &receiver.http_url()).await;
    assert_eq!(result.outcome, Outcome::InvalidResponse, "{result:?}");
}

#[tokio::test]
async fn r_17_ambiguous_answers_are_refused() {
    for (what, headers) in [
        ("two lengths", "content-length: 1\r\ncontent-length: 2\r\n"),
        ("a list of lengths", "content-length: 1, 2\r\n"),
        ("a negative length", "content-length: -1\r\n"),
        ("a signed length", "content-length: +1\r\n"),
        ("a length in hexadecimal", "content-length: 0x1\r\n"),
        ("an empty length", "content-length: \r\n"),
        ("a folded line", "x: a\r\n b\r\n"),
        ("a NUL", "x: a\0b\r\n"),
        ("a NUL in a name", "x\0y: a\r\n"),
        ("a space before the colon", "x : a\r\n"),
        ("a space in a name", "x y: a\r\n"),
        ("no colon", "nonsense\r\n"),
        ("no name", ": a\r\n"),
        ("a bare carriage return", "x: a\rb\r\n"),
    ] {
        let bytes = format!("HTTP/1.1 200 OK\r\n{headers}\r\nx");
        is_invalid(what, "invalid_response", answering(bytes)).await;
    }
}

/// Two attempts; says what the first met and how many connections both took.
async fn twice(bytes: &str) -> (Outcome, usize) {
    let receiver = Hostile::start(answering(bytes)).await;
    let egress = egress(unhurried());
    let first = post(&egress, &receiver.http_url()).await;
    let second = post(&egress, &receiver.http_url()).await;
    assert_eq!(first.outcome, second.outcome, "{bytes}");
    assert_eq!(first.status, second.status, "{bytes}");
    assert_eq!(receiver.requests(), 2, "{bytes}");
    (first.outcome, receiver.connections())
}

#[tokio::test]
async fn r_17_a_connection_with_an_odd_answer_is_not_used_again() {
    for bytes in [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\ncontent-length: 2\n\nok",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\n\r\nok",
        "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok",
        // More than one answer to one request: nobody must take the second for theirs.
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 204 Nothing\r\ncontent-length: 5\r\n\r\nhello",
        "HTTP/1.1 304 Same\r\ncontent-length: 5\r\n\r\nhello",
    ] {
        let (_, connections) = twice(bytes).await;
        assert_eq!(connections, 2, "{bytes}");
    }
    let regular = String::from_utf8(answer("200 OK", "", "ok")).expect("text");
    assert_eq!(twice(&regular).await, (Outcome::Success, 1));
}
