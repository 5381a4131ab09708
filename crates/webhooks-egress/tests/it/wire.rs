//! What goes over the wire, and what must not.

use std::process::Command;
use std::time::Duration;

use webhooks_domain::endpoint::{FailureClass, Outcome};
use webhooks_egress::EgressConfig;

use crate::receiver::{Receiver, Script, ok};
use crate::{config, egress, http_url, post};

#[tokio::test]
async fn one_post_goes_out_as_it_was_given() {
    let receiver = Receiver::start(Script::Answer(ok())).await;
    let result = post(&egress(config()), &http_url(receiver.address)).await;

    assert_eq!(result.outcome, Outcome::Success);
    assert_eq!(
        (result.class, result.error(), result.reason()),
        (None, None, None)
    );
    assert_eq!(result.status, Some(200));
    assert_eq!(&result.response_body[..], b"ok");
    assert!(!result.response_body_truncated);
    assert_eq!(result.response_headers.get("x-kind"), Some("test"));
    assert_eq!(result.remote_ip, Some(receiver.address.ip()));
    let timings = result.timings;
    assert_eq!(timings.dns, None, "a literal is not resolved");
    assert!(
        timings
            .connect
            .is_some_and(|connect| connect <= timings.total)
    );
    assert!(
        timings
            .first_byte
            .is_some_and(|first| first <= timings.total)
    );

    let [request] = receiver.requests().try_into().expect("one request");
    let (head, body) = request.split_once("\r\n\r\n").expect("head and body");
    assert!(
        head.starts_with("POST /hook?token=canary-of-a-query HTTP/1.1\r\n"),
        "{head}"
    );
    assert!(
        head.contains(&format!("\r\nhost: {}", receiver.address)),
        "{head}"
    );
    assert!(head.contains("\r\nwebhook-id: msg_1"), "{head}");
    assert!(
        head.contains("\r\nuser-agent: Linkbreakers-Webhooks/"),
        "{head}"
    );
    for unwanted in ["accept-encoding", "referer", "cookie", "transfer-encoding"] {
        assert!(!head.contains(unwanted), "{unwanted} in {head}");
    }
    assert_eq!(body, "{\"hello\":\"world\"}");
}

#[tokio::test]
async fn s_10_a_redirect_is_not_followed() {
    let canary = Receiver::start(Script::Answer(ok())).await;
    for status in [301, 302, 303, 307, 308] {
        for location in [
            http_url(canary.address),
            format!("//{}/", canary.address),
            "/elsewhere".to_owned(),
            "file:///etc/passwd".to_owned(),
            "https://8.8.8.8/".to_owned(),
            "http://169.254.169.254/latest/".to_owned(),
        ] {
            let redirect = format!(
                "HTTP/1.1 {status} Elsewhere\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n"
            );
            let receiver = Receiver::start(Script::Answer(redirect.into_bytes())).await;
            let result = post(&egress(config()), &http_url(receiver.address)).await;
            assert_eq!(result.outcome, Outcome::HttpError);
            assert_eq!(result.status, Some(status));
            assert_eq!(result.class, Some(FailureClass::Permanent));
            assert_eq!(result.reason(), Some("redirect"));
            assert_eq!(receiver.counts().requests, 1, "{status}");
        }
    }
    assert_eq!(canary.counts().connections, 0);
}

#[tokio::test]
async fn s_03_s_04_a_literal_is_judged_before_anything_is_dialled() {
    let allowed = Receiver::start(Script::Answer(ok())).await;
    let victim = allowed.neighbour([127, 0, 0, 2]).await;
    let port = victim.address.port();
    let egress = egress(config());
    for host in [
        "127.0.0.2",
        "2130706434",
        "0x7f.2",
        "0177.0.0.2",
        "127.0.0.2.",
        "%31%32%37.0.0.2",
        "[::ffff:127.0.0.2]",
        "[::127.0.0.2]",
        "[::1]",
        "0.0.0.0",
    ] {
        let result = post(&egress, &format!("http://{host}:{port}/")).await;
        assert_eq!(result.outcome, Outcome::Blocked, "{host}");
        assert_eq!(result.class, Some(FailureClass::Permanent), "{host}");
        assert_eq!(result.reason(), Some("blocked_address"), "{host}");
    }
    assert_eq!(victim.counts().connections, 0);
}

#[tokio::test]
async fn plain_http_needs_its_switch() {
    let receiver = Receiver::start(Script::Answer(ok())).await;
    let mut config = config();
    config.policy.allow_http = false;
    let result = post(&egress(config), &http_url(receiver.address)).await;
    assert_eq!(result.outcome, Outcome::Blocked);
    assert_eq!(result.reason(), Some("scheme_not_https"));
    assert_eq!(receiver.counts().connections, 0);
}

#[tokio::test]
async fn connections_are_used_again() {
    let receiver = Receiver::start(Script::Answer(ok())).await;
    let egress = egress(config());
    let mut reused = 0;
    for _ in 0..20 {
        let result = post(&egress, &http_url(receiver.address)).await;
        assert_eq!(result.outcome, Outcome::Success);
        reused += usize::from(result.timings.connect.is_none());
    }
    let counts = receiver.counts();
    assert_eq!(counts.requests, 20);
    assert!(counts.connections < 10, "{counts:?}");
    assert!(reused > 10, "{reused} reused");
}

#[tokio::test]
async fn with_many_connections_open_none_is_kept_for_later() {
    let (kept, closed) = (
        Receiver::start(Script::Answer(ok())).await,
        Receiver::start(Script::Answer(ok())).await,
    );
    let egress = egress(EgressConfig {
        max_kept_connections: 1,
        ..config()
    });
    for receiver in [&kept, &closed] {
        let result = post(&egress, &http_url(receiver.address)).await;
        assert_eq!(result.outcome, Outcome::Success);
    }
    closed.wait_closed(1).await;
    assert_eq!((kept.counts().connections, kept.counts().closed), (1, 0));
    let [asked] = closed.requests().try_into().expect("one request");
    assert!(asked.contains("\r\nconnection: close\r\n"), "{asked}");
}

#[tokio::test]
async fn nobody_listening_is_unreachable() {
    let receiver = Receiver::start(Script::Answer(ok())).await;
    // Nothing listens on this port at the neighbour's address.
    let mut config = config();
    config.policy.allow_cidrs.push(crate::cidr("127.0.0.3"));
    let url = format!("http://127.0.0.3:{}/", receiver.address.port());
    let result = post(&egress(config), &url).await;
    assert_eq!(result.outcome, Outcome::Unreachable);
    assert_eq!(result.class, Some(FailureClass::Temporary));
    assert_eq!(result.reason(), Some("connection_refused"));
}

#[tokio::test]
async fn a_handshake_that_never_comes_ends_with_the_connect_budget() {
    let receiver = Receiver::start(Script::Silence).await;
    let config = EgressConfig {
        connect_timeout: Duration::from_millis(200),
        ..config()
    };
    let url = format!("https://{}/", receiver.address);
    let result = post(&egress(config), &url).await;
    assert_eq!(result.outcome, Outcome::Timeout);
    assert_eq!(result.class, Some(FailureClass::Temporary));
    assert_eq!(result.reason(), Some("connect_timeout"));
    assert!(result.timings.total < Duration::from_secs(5));
    receiver.wait_closed(1).await;
}

/// Set in the child process that has the proxy variables.
const CHILD: &str = "EGRESS_TEST_CHILD";

#[tokio::test]
async fn s_11_proxies_in_the_environment_are_ignored() {
    if std::env::var_os(CHILD).is_some() {
        let receiver = Receiver::start(Script::Answer(ok())).await;
        let result = post(&egress(config()), &http_url(receiver.address)).await;
        assert_eq!(result.outcome, Outcome::Success);
        return;
    }
    let canary = Receiver::start(Script::Silence).await;
    let proxy = format!("http://{}", canary.address);
    let mut child = Command::new(std::env::current_exe().expect("this program"));
    child
        .args([
            "--exact",
            "wire::s_11_proxies_in_the_environment_are_ignored",
        ])
        .env(CHILD, "1");
    for variable in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        child.env(variable, &proxy);
        child.env(variable.to_lowercase(), &proxy);
    }
    let output = tokio::task::spawn_blocking(move || child.output())
        .await
        .expect("not cancelled")
        .expect("the child runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
    assert_eq!(canary.counts().connections, 0);
}

#[tokio::test]
async fn f_29_no_more_sockets_are_opened_than_there_are_descriptors_for_and_the_rest_is_our_fault()
{
    let receiver = Receiver::start(Script::Silence).await;
    let egress = egress(EgressConfig {
        // Four, beside what everything else needs.
        descriptors: Some(48 + 4),
        attempt_timeout: Duration::from_secs(5),
        ..config()
    });
    assert_eq!(egress.most_connections(), 4);
    let url = http_url(receiver.address);
    let attempts = (0..10).map(|_| post(&egress, &url));
    let results = futures::future::join_all(attempts).await;
    let of = |reason| {
        let such = results
            .iter()
            .filter(|result| result.reason() == Some(reason));
        such.count()
    };
    assert_eq!((of("timeout"), of("internal")), (4, 6), "{results:?}");
    assert_eq!(receiver.counts().connections, 4);
    let ours = results
        .iter()
        .filter(|result| result.class == Some(FailureClass::Ours));
    assert_eq!(ours.count(), 6, "none of them counts");
    // They are free again.
    let answering = Receiver::start(Script::Answer(ok())).await;
    let result = post(&egress, &http_url(answering.address)).await;
    assert_eq!(result.outcome, Outcome::Success, "{result:?}");
}
