//! Connections that break, are closed at a bad moment, or take nothing.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;
use webhooks_domain::endpoint::{FailureClass, Outcome};

use super::authority::Authority;
use super::kit::{Hostile, Step, answer, answering, closed_soon, count, send};
use super::{DEADLINE, FAR, GRACE, meet, short, unhurried};
use crate::{egress, post, request, within};

const HALF_A_HEAD: &str = "HTTP/1.1 200 OK\r\nx-half: ";

#[tokio::test]
async fn r_10_a_connection_that_breaks_before_the_head_is_unreachable_and_not_tried_again() {
    for (what, before) in [
        ("at once", vec![]),
        ("after the request", vec![Step::Request]),
        ("mid-headers", vec![Step::Request, send(HALF_A_HEAD)]),
        ("mid-status", vec![Step::Request, send("HTTP/1.")]),
        (
            "after a 103",
            vec![Step::Request, send("HTTP/1.1 103 Hints\r\n\r\n")],
        ),
    ] {
        for end in [Step::Fin, Step::Reset] {
            let steps = before.iter().cloned().chain([end]).collect();
            let (result, receiver) = meet(steps).await;
            assert_eq!(result.outcome, Outcome::Unreachable, "{what}: {result:?}");
            assert_eq!(result.class, Some(FailureClass::Temporary), "{what}");
            assert_eq!(result.reason(), Some("connection_closed"), "{what}");
            closed_soon(&receiver).await;
        }
    }
}

/// The receiver closes after each answer without saying so, and the next request may already be on its
/// way into the closing connection.
#[tokio::test]
async fn r_12_a_connection_closed_between_requests_puts_no_request_twice_on_the_wire() {
    const EVENTS: usize = 1000;
    let steps = vec![Step::Request, send(answer("200 OK", "", "ok")), Step::Reset];
    let fin = vec![Step::Request, send(answer("200 OK", "", "ok"))];
    for steps in [steps, fin] {
        let receiver = Hostile::start(steps).await;
        let egress = egress(unhurried());
        let url = receiver.http_url();
        let (mut delivered, mut failed) = (HashSet::new(), 0);
        for batch in 0..EVENTS / 10 {
            let attempts = (0..10).map(|n| {
                let id = format!("msg-{}-end", batch * 10 + n);
                let mut request = request(&url);
                let value = HeaderValue::try_from(&id).expect("a header value");
                request.headers.insert("webhook-id", value);
                let egress = egress.clone();
                async move { (id, egress.send(request).await) }
            });
            for (id, result) in within(futures::future::join_all(attempts)).await {
                if result.outcome == Outcome::Success {
                    delivered.insert(id);
                } else {
                    assert_eq!(result.reason(), Some("connection_closed"), "{result:?}");
                    failed += 1;
                }
            }
        }
        let wire: Vec<u8> = receiver
            .logs()
            .into_iter()
            .flat_map(|log| log.received)
            .collect();
        let seen = |id: &String| count(&wire, id.as_bytes());
        assert!(delivered.iter().all(|id| seen(id) == 1));
        assert!(
            (0..EVENTS).all(|n| seen(&format!("msg-{n}-end")) <= 1),
            "a request was sent twice"
        );
        assert_eq!(delivered.len() + failed, EVENTS);
        assert!(failed < EVENTS / 4, "{failed} of {EVENTS} failed");
    }
}

#[tokio::test]
async fn r_18_an_early_answer_counts_although_the_upload_was_not_taken() {
    for (status, outcome) in [
        ("413 Too Large", Outcome::HttpError),
        ("200 OK", Outcome::Success),
    ] {
        for end in [Step::Fin, Step::Hold] {
            let steps = vec![Step::Head, send(answer(status, "", "")), end];
            let receiver = Hostile::start(steps).await;
            let mut request = request(&receiver.http_url());
            request.body = Bytes::from(vec![b'x'; 1024 * 1024]);
            let result = within(egress(unhurried()).send(request)).await;
            assert_eq!(result.outcome, outcome, "{status}: {result:?}");
            assert!(result.timings.total < FAR);
            assert_eq!(receiver.requests(), 1);
        }
    }
    // Closed without reading what is under way, the answer may be lost to the reset; the attempt
    // still ends, with either.
    let steps = vec![
        Step::Head,
        send(answer("413 Too Large", "", "")),
        Step::Reset,
    ];
    let receiver = Hostile::start(steps).await;
    let mut request = request(&receiver.http_url());
    request.body = Bytes::from(vec![b'x'; 1024 * 1024]);
    let result = within(egress(unhurried()).send(request)).await;
    assert!(
        matches!(result.reason(), Some("http_status" | "connection_closed")),
        "{result:?}"
    );
}

#[tokio::test]
async fn r_18_a_receiver_that_takes_nothing_holds_an_attempt_until_its_deadline_and_no_longer() {
    let authority = Authority::new();
    let tls = authority.server(&authority.leaf("hooks.example.com"));
    for tls in [None, Some(tls)] {
        let secure = tls.is_some();
        let steps = vec![Step::UntilReleased, Step::Hold];
        let listener = super::kit::listen([127, 0, 0, 1], 0);
        let receiver = Hostile::start_with(listener, tls.map(Into::into), steps);
        let egress = egress(authority.trusted(short()).await);
        let url = if secure {
            receiver.https_url("hooks.example.com")
        } else {
            receiver.http_url()
        };
        let mut request = request(&url);
        request.body = Bytes::from(vec![b'x'; 16 * 1024 * 1024]);
        let result = within(egress.send(request)).await;
        assert_eq!(result.reason(), Some("timeout"), "{result:?}");
        assert!(result.timings.total < DEADLINE + GRACE);
        // Not only the attempt has given up, so has the connection: it was reset, and what it still
        // had to send went with it.
        receiver.release();
        closed_soon(&receiver).await;
        let taken = receiver.logs()[0].received.len();
        assert!(taken < 8 * 1024 * 1024, "{taken} bytes were sent after all");
    }
}

#[tokio::test]
async fn r_28_the_bytes_on_the_wire_are_the_bytes_that_were_given() {
    let receiver = Hostile::start(answering(answer("500 No", "", ""))).await;
    let egress = egress(unhurried());
    let body: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    for number in 1..=3 {
        let mut request = request(&receiver.http_url());
        request.body = Bytes::from(body.clone());
        let result = within(egress.send(request)).await;
        assert_eq!(result.status, Some(500));
        let wire: Vec<u8> = receiver
            .logs()
            .into_iter()
            .flat_map(|log| log.received)
            .collect();
        assert_eq!(count(&wire, &body), number);
    }
}

#[tokio::test]
async fn a_slow_receiver_that_does_take_its_request_is_waited_for() {
    // An upload that stalls and goes on within the deadline is no failure.
    let steps = vec![
        Step::Pause(DEADLINE / 2),
        Step::Request,
        send(answer("200 OK", "", "")),
        Step::Hold,
    ];
    let receiver = Hostile::start(steps).await;
    let mut request = request(&receiver.http_url());
    request.body = Bytes::from(vec![b'x'; 1024 * 1024]);
    let result = within(egress(unhurried()).send(request)).await;
    assert_eq!(result.outcome, Outcome::Success, "{result:?}");
    assert!(result.timings.first_byte >= Some(DEADLINE / 2));
}

#[tokio::test]
async fn r_10_a_tls_connection_that_breaks_is_unreachable_too() {
    let authority = Authority::new();
    let config = Arc::clone(&authority.server(&authority.leaf("hooks.example.com")));
    for (what, before) in [
        ("after the request", vec![Step::Request]),
        ("mid-headers", vec![Step::Request, send(HALF_A_HEAD)]),
    ] {
        for end in [Step::Fin, Step::Reset] {
            let steps = before.iter().cloned().chain([end]).collect();
            let receiver = Hostile::tls(Arc::clone(&config), steps).await;
            let egress = egress(authority.trusted(unhurried()).await);
            let result = post(&egress, &receiver.https_url("hooks.example.com")).await;
            assert_eq!(result.outcome, Outcome::Unreachable, "{what}: {result:?}");
            assert_eq!(receiver.requests(), 1, "{what}");
            closed_soon(&receiver).await;
        }
    }
}
