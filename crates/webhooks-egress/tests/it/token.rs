//! Access tokens from a real token server, good and bad, through the guarded client.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use webhooks_domain::endpoint::{AddressPolicy, EndpointUrl, FailureClass, Outcome};
use webhooks_domain::oauth2::{ClientAuth, ClientCredentials};
use webhooks_egress::{AttemptResult, Credentials, Egress, EgressConfig, TlsIdentity, TokenSource};

use crate::hostile::authority::Authority;
use crate::hostile::kit::{Hostile, answering};
use crate::receiver::{answer, read_request};
use crate::{cidr, config, egress, request, within};

/// A server that makes its answers by number and request, one request a connection; an empty answer
/// is silence.
struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(answer: impl Fn(usize, &str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (Arc::clone(&requests), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                tokio::spawn(async move {
                    while let Ok(request) = read_request(&mut stream).await {
                        let number = {
                            let mut log = log.lock().expect("not poisoned");
                            log.push(request.clone());
                            log.len()
                        };
                        let bytes = answer(number, &request);
                        if bytes.is_empty() {
                            std::future::pending::<()>().await;
                        }
                        // Whoever has left does not mind.
                        stream.write_all(&bytes).await.ok();
                    }
                });
            }
        });
        Self { address, requests }
    }

    fn url(&self) -> String {
        format!("http://{}/token", self.address)
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("not poisoned").clone()
    }
}

fn token(number: usize) -> Vec<u8> {
    let body = format!(
        r#"{{"access_token":"canary-access-{number}","token_type":"Bearer","expires_in":3600}}"#
    );
    answer("200 OK", &body)
}

fn source(url: &str) -> TokenSource {
    let anything = AddressPolicy {
        allow_http: true,
        allow_cidrs: vec![cidr("0.0.0.0/0")],
        ..AddressPolicy::default()
    };
    let client = ClientCredentials {
        id: "client".into(),
        secret: "canary-client-secret".into(),
        scopes: vec!["hooks".into()],
        audience: String::new(),
        auth: ClientAuth::Basic,
    };
    TokenSource::new(EndpointUrl::parse(url, &anything), client)
}

async fn send(egress: &Egress, url: &str, source: &TokenSource) -> AttemptResult {
    let credentials = Credentials {
        token: Some(source),
        ..Credentials::default()
    };
    within(egress.send_with(request(url), credentials)).await
}

fn bearers(server: &Server) -> Vec<String> {
    let requests = server.requests();
    let line = |request: &String| {
        let line = request
            .lines()
            .find_map(|line| line.strip_prefix("authorization: Bearer "));
        line.unwrap_or("none").to_owned()
    };
    requests.iter().map(line).collect()
}

#[tokio::test]
async fn a_token_is_fetched_once_by_a_crowd_and_kept() {
    let tokens = Server::start(|number, _| token(number)).await;
    let endpoint = Server::start(|_, _| answer("200 OK", "")).await;
    let (egress, source) = (egress(config()), source(&tokens.url()));
    let url = endpoint.url();
    let crowd = (0..20).map(|_| send(&egress, &url, &source));
    for result in futures::future::join_all(crowd).await {
        assert_eq!(result.outcome, Outcome::Success, "{result:?}");
    }
    assert_eq!(bearers(&endpoint), vec!["canary-access-1".to_owned(); 20]);
    let asked = tokens.requests();
    assert_eq!(asked.len(), 1);
    assert!(asked[0].starts_with("POST /token HTTP/1.1\r\n"));
    assert!(asked[0].contains("content-type: application/x-www-form-urlencoded\r\n"));
    assert!(asked[0].contains("authorization: Basic Y2xpZW50OmNhbmFyeS1jbGllbnQtc2VjcmV0\r\n"));
    assert!(asked[0].ends_with("\r\n\r\ngrant_type=client_credentials&scope=hooks"));
}

#[tokio::test]
async fn a_401_makes_the_next_attempt_fetch_a_new_token_and_is_one_request() {
    let tokens = Server::start(|number, _| token(number)).await;
    // The first token works once, the second always.
    let endpoint = Server::start(|number, request| {
        let good = number == 1 || request.contains("Bearer canary-access-2");
        answer(if good { "200 OK" } else { "401 Unauthorized" }, "")
    })
    .await;
    let (egress, source) = (egress(config()), source(&tokens.url()));
    let url = endpoint.url();
    assert_eq!(send(&egress, &url, &source).await.outcome, Outcome::Success);
    let stale = send(&egress, &url, &source).await;
    assert_eq!(stale.outcome, Outcome::HttpError);
    assert_eq!(
        (stale.status, stale.reason()),
        (Some(401), Some("token_stale"))
    );
    assert_eq!(stale.class, Some(FailureClass::Temporary));
    assert_eq!(endpoint.requests().len(), 2, "one request for each attempt");
    assert_eq!(send(&egress, &url, &source).await.outcome, Outcome::Success);
    assert_eq!(
        bearers(&endpoint),
        ["canary-access-1", "canary-access-1", "canary-access-2"]
    );
}

#[tokio::test]
async fn an_endpoint_that_refuses_new_tokens_too_is_asked_no_more_and_asks_for_no_more() {
    let tokens = Server::start(|number, _| token(number)).await;
    let endpoint = Server::start(|_, _| answer("401 Unauthorized", "")).await;
    let (egress, source) = (egress(config()), source(&tokens.url()));
    let url = endpoint.url();
    let first = send(&egress, &url, &source).await;
    assert_eq!(first.reason(), Some("http_status"));
    assert_eq!(first.class, Some(FailureClass::Permanent));
    let second = send(&egress, &url, &source).await;
    assert_eq!(second.reason(), Some("token_stale"));
    for _ in 0..5 {
        let result = send(&egress, &url, &source).await;
        assert_eq!(result.class, Some(FailureClass::Permanent), "{result:?}");
    }
    assert_eq!(tokens.requests().len(), 2);
}

#[tokio::test]
async fn a_token_endpoint_that_misbehaves_is_told_by_its_reason_and_nothing_is_sent() {
    use FailureClass::{Permanent, Temporary};
    let long = answer(
        "200 OK",
        &format!(r#"{{"access_token":"{}"}}"#, "x".repeat(60_000)),
    );
    let redirect =
        b"HTTP/1.1 307 Moved\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
    for (what, reply, reason, class) in [
        (
            "500",
            answer("500 Oops", "{}"),
            "token_endpoint_unavailable",
            Temporary,
        ),
        (
            "429",
            answer("429 Slow", "{}"),
            "token_endpoint_unavailable",
            Temporary,
        ),
        (
            "silence",
            Vec::new(),
            "token_endpoint_unavailable",
            Temporary,
        ),
        (
            "invalid_client",
            answer("401 No", "{}"),
            "token_endpoint_refused",
            Permanent,
        ),
        (
            "bad scope",
            answer("400 No", "{}"),
            "token_endpoint_refused",
            Permanent,
        ),
        (
            "redirect",
            redirect.to_vec(),
            "token_endpoint_refused",
            Permanent,
        ),
        (
            "garbage",
            answer("200 OK", "<html>"),
            "token_endpoint_invalid",
            Temporary,
        ),
        (
            "no content",
            answer("204 No Content", ""),
            "token_endpoint_invalid",
            Temporary,
        ),
        (
            "no HTTP",
            b"SSH-2.0-x\r\n\r\n".to_vec(),
            "token_endpoint_invalid",
            Temporary,
        ),
        ("huge", long, "token_endpoint_invalid", Temporary),
    ] {
        let tokens = Server::start(move |_, _| reply.clone()).await;
        let endpoint = Server::start(|_, _| answer("200 OK", "")).await;
        // Only silence has need of a deadline.
        let attempt_timeout = if what == "silence" { 300 } else { 10_000 };
        let egress = egress(EgressConfig {
            attempt_timeout: Duration::from_millis(attempt_timeout),
            ..config()
        });
        let source = source(&tokens.url());
        let asked = Instant::now();
        let result = send(&egress, &endpoint.url(), &source).await;
        assert_eq!(result.outcome, Outcome::TokenError, "{what}: {result:?}");
        assert_eq!(result.reason(), Some(reason), "{what}");
        assert_eq!(result.class, Some(class), "{what}");
        assert_eq!(result.status, None, "{what}: the endpoint was not called");
        assert_eq!(endpoint.requests().len(), 0, "{what}");
        assert_eq!(
            tokens.requests().len(),
            1,
            "{what}: redirects are not followed"
        );
        assert!(result.timings.total < Duration::from_secs(5), "{what}");
        // A crowd does not stand in line for the same failure, for a second.
        send(&egress, &endpoint.url(), &source).await;
        if asked.elapsed() < Duration::from_secs(1) {
            assert_eq!(tokens.requests().len(), 1, "{what}");
        }
    }
}

#[tokio::test]
async fn s_17_a_token_endpoint_inside_our_network_gets_no_packet() {
    let tokens = Server::start(|number, _| token(number)).await;
    let endpoint = Server::start(|_, _| answer("200 OK", "")).await;
    // The neighbour of the one address that is allowed.
    let victim = TcpListener::bind(("127.0.0.2", tokens.address.port()))
        .await
        .expect("a port");
    let url = format!("http://127.0.0.2:{}/token", tokens.address.port());
    let result = send(&egress(config()), &endpoint.url(), &source(&url)).await;
    assert_eq!(result.outcome, Outcome::TokenError);
    assert_eq!(result.reason(), Some("token_endpoint_blocked"));
    assert_eq!(result.class, Some(FailureClass::Permanent));
    let nobody = tokio::time::timeout(Duration::from_millis(50), victim.accept()).await;
    assert!(nobody.is_err(), "somebody connected");

    // And no token is fetched for an endpoint that may not be called.
    let inside = format!("http://127.0.0.2:{}/", tokens.address.port());
    let result = send(&egress(config()), &inside, &source(&tokens.url())).await;
    assert_eq!(result.outcome, Outcome::Blocked);
    assert_eq!(tokens.requests().len(), 0);
}

#[tokio::test]
async fn a_token_endpoint_is_trusted_by_its_workspaces_authority_and_by_no_other() {
    const HOST: &str = "id.example.com";
    let (ours, theirs) = (Authority::new(), Authority::new());
    let server = theirs.server(&theirs.leaf(HOST));
    let tokens = Hostile::tls(server, answering(token(1))).await;
    let endpoint = Server::start(|_, _| answer("200 OK", "")).await;
    let egress = egress(ours.trusted(config()).await);
    let url = tokens.https_url(HOST);
    let untrusted = send(&egress, &endpoint.url(), &source(&url)).await;
    assert_eq!(untrusted.reason(), Some("token_endpoint_untrusted"));
    assert_eq!(untrusted.class, Some(FailureClass::Permanent));

    let identity = TlsIdentity::new(theirs.pem().as_bytes(), b"", b"").expect("an identity");
    let (identity, source) = (Arc::new(identity), source(&url));
    let credentials = Credentials {
        identity: None,
        token: Some(&source),
        token_identity: Some(&identity),
    };
    let result = within(egress.send_with(request(&endpoint.url()), credentials)).await;
    assert_eq!(result.outcome, Outcome::Success, "{result:?}");
    assert_eq!(bearers(&endpoint), ["canary-access-1"]);
}
