//! HTTP/2, which we do not speak.
//!
//! The tricks of HTTP/2 receivers (requests refused and sent again, rapid resets, floods of frames) need
//! a client that speaks it. Ours offers `http/1.1` and nothing else, so a server either speaks that or
//! fails; frames that come anyway are no HTTP/1.1 and end the attempt.

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::LazyConfigAcceptor;
use webhooks_devstack::floods::frame;
use webhooks_domain::endpoint::{FailureClass, Outcome};

use super::authority::{Authority, server};
use super::kit::{Hostile, Step, answer, answering, closed_soon, send};
use super::{is_invalid, meet, unhurried};
use crate::{egress, post, within};

const HOST: &str = "hooks.example.com";

#[tokio::test]
async fn r_13_nothing_but_http_1_1_is_offered_and_the_name_has_no_dot() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let (teller, mut told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let hello = LazyConfigAcceptor::new(Default::default(), stream).await;
            let hello = hello.expect("a client hello");
            let hello = hello.client_hello();
            let protocols: Vec<Vec<u8>> = hello
                .alpn()
                .into_iter()
                .flatten()
                .map(<[u8]>::to_vec)
                .collect();
            let name = hello.server_name().map(str::to_owned);
            teller.send((protocols, name)).expect("the test listens");
        }
    });
    let egress = egress(Authority::new().trusted(unhurried()).await);
    let result = post(&egress, &format!("https://{HOST}.:{port}/hook")).await;
    assert_ne!(result.outcome, Outcome::Success);
    let (protocols, name) = within(told.recv()).await.expect("a hello");
    assert_eq!(protocols, [b"http/1.1".to_vec()]);
    assert_eq!(name.as_deref(), Some(HOST));
}

#[tokio::test]
async fn r_13_a_server_that_speaks_only_http_2_is_a_failed_handshake() {
    let authority = Authority::new();
    let leaf = authority.leaf(HOST);
    for (protocols, outcome) in [
        (&[&b"h2"[..]][..], Outcome::TlsError),
        (&[&b"h2"[..], b"http/1.1"][..], Outcome::Success),
        (&[][..], Outcome::Success),
    ] {
        let config = std::sync::Arc::new(server(&leaf, protocols));
        let receiver = Hostile::tls(config, answering(answer("200 OK", "", "ok"))).await;
        let egress = egress(authority.trusted(unhurried()).await);
        let result = post(&egress, &receiver.https_url(HOST)).await;
        assert_eq!(result.outcome, outcome, "{result:?}");
        if outcome == Outcome::TlsError {
            assert_eq!(result.class, Some(FailureClass::Temporary));
            assert_eq!(result.reason(), Some("tls_handshake"));
            assert_eq!(receiver.requests(), 0);
        }
    }
}

/// What a hostile HTTP/2 server has to say after its settings.
fn tricks() -> Vec<(&'static str, Vec<u8>)> {
    let settings = frame(4, 0, 0, &[]);
    let after = |more: Vec<u8>| [settings.clone(), more].concat();
    vec![
        ("GOAWAY(0)", after(frame(7, 0, 0, &[0; 8]))),
        ("REFUSED_STREAM", after(frame(3, 0, 1, &[0, 0, 0, 7]))),
        ("CANCEL", after(frame(3, 0, 1, &[0, 0, 0, 8]))),
        ("no streams", frame(4, 0, 0, &[0, 3, 0, 0, 0, 0])),
        ("window of 0", frame(4, 0, 0, &[0, 4, 0, 0, 0, 0])),
        ("a response", after(frame(1, 5, 1, &[0x88]))),
    ]
}

#[tokio::test]
async fn r_13_frames_are_no_answer_and_nothing_is_sent_twice() {
    for (what, bytes) in tricks() {
        let steps = vec![Step::Request, send(&bytes), Step::Hold];
        is_invalid(what, "invalid_response", steps).await;
        // Said before anybody asked, as servers do that know only HTTP/2.
        let (result, receiver) = meet(vec![send(&bytes), Step::Request, Step::Hold]).await;
        assert_eq!(
            result.class,
            Some(FailureClass::Temporary),
            "{what}: {result:?}"
        );
        assert!(
            matches!(
                result.outcome,
                Outcome::InvalidResponse | Outcome::Unreachable
            ),
            "{what}: {result:?}"
        );
        closed_soon(&receiver).await;
    }
}

#[tokio::test]
async fn r_14_floods_of_frames_end_at_once() {
    for (what, flood) in [
        ("PING", frame(6, 0, 0, &[0; 8])),
        ("SETTINGS", frame(4, 0, 0, &[])),
        ("RST_STREAM", frame(3, 0, 1, &[0, 0, 0, 8])),
        ("CONTINUATION", frame(9, 0, 1, &[0; 64])),
    ] {
        let steps = vec![Step::Request, Step::Flood(flood.repeat(100))];
        is_invalid(what, "invalid_response", steps).await;
    }
}
