//! How a receiver knows us, end to end: a workspace's own authority, a client certificate, and a token
//! that is fetched, kept, refused once and fetched anew.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::Method;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;
use webhooks_devstack::wait_until;
use webhooks_loadgen::stack::{Api, Stack, StackOptions};

const LIMIT: Duration = Duration::from_secs(30);

/// A throw-away authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
    der: CertificateDer<'static>,
}

impl Authority {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        Ok(Self {
            pem: certificate.pem(),
            der: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        })
    }

    pub(crate) fn leaf(&self, name: &str) -> anyhow::Result<(rcgen::Certificate, KeyPair)> {
        let key = KeyPair::generate()?;
        webhooks_devstack::note_secret(key.serialize_pem().as_bytes());
        let params = CertificateParams::new(vec![name.to_owned()])?;
        Ok((params.signed_by(&key, &self.issuer)?, key))
    }

    /// A server on this machine; `wants_clients`: only for those with a certificate of ours.
    pub(crate) fn server(&self, wants_clients: bool) -> anyhow::Result<TlsAcceptor> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let (certificate, key) = self.leaf("127.0.0.1")?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let builder = if wants_clients {
            let mut roots = RootCertStore::empty();
            roots.add(self.der.clone())?;
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build()?)
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let chain = vec![certificate.der().clone()];
        let config = builder.with_single_cert(chain, key.into())?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

/// The heads of requests, in lower case.
pub(crate) type Heads = Arc<Mutex<Vec<String>>>;

/// Answers each connection's one request with what `answer` makes of its head.
pub(crate) async fn serve(
    acceptor: TlsAcceptor,
    answer: impl Fn(&str) -> (u16, String) + Send + Sync + 'static,
) -> anyhow::Result<(SocketAddr, Heads)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let heads = Heads::default();
    let log = Arc::clone(&heads);
    #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // Who does not fit leaves during the handshake.
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut read = Vec::new();
            while !read.windows(4).any(|end| end == b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => read.push(byte),
                    Err(_) => break,
                }
            }
            let head = String::from_utf8_lossy(&read).to_lowercase();
            if head.is_empty() {
                continue;
            }
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .and_then(|length| length.parse().ok())
                .unwrap_or(0);
            let mut body = vec![0; length];
            if stream.read_exact(&mut body).await.is_err() {
                continue;
            }
            let (status, body) = answer(&head);
            if let Ok(mut log) = log.lock() {
                log.push(head);
            }
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
            );
            // A client that has gone does not mind.
            stream.write_all(answer.as_bytes()).await.ok();
            stream.shutdown().await.ok();
        }
    });
    Ok((address, heads))
}

/// Sends a test and waits for its end.
async fn deliver(api: &mut Api, webhook: &str) -> anyhow::Result<serde_json::Value> {
    let path = format!("/v1/webhooks/{webhook}/test");
    let made = api.call(Method::POST, &path, Some(&json!({}))).await?;
    let id = made["delivery"]["id"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let api = tokio::sync::Mutex::new(api);
    wait_until("the delivery's end", LIMIT, async || {
        let found = api.lock().await.get(&format!("/v1/deliveries/{id}")).await;
        let found = found.map_err(|error| error.to_string())?;
        let delivery = found["delivery"].clone();
        match delivery["state"].as_str() {
            Some("DELIVERED" | "FAILED") => Ok(delivery),
            _ => Err(delivery.to_string()),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_knows_us_by_certificate_and_token_and_is_known_by_its_own_authority()
-> anyhow::Result<()> {
    let authority = Authority::new()?;
    let good = Arc::new(AtomicUsize::new(1));
    let given = Arc::clone(&good);
    let (tokens, asked) = serve(authority.server(false)?, move |_| {
        let number = given.load(Ordering::SeqCst);
        let token = json!({ "access_token": format!("canary-access-{number}"), "token_type": "Bearer", "expires_in": 3600 });
        (200, token.to_string())
    })
    .await?;
    let wanted = Arc::clone(&good);
    let (endpoint, heads) = serve(authority.server(true)?, move |head| {
        let number = wanted.load(Ordering::SeqCst);
        let known = head.contains(&format!("authorization: bearer canary-access-{number}\r\n"));
        (if known { 200 } else { 401 }, String::new())
    })
    .await?;

    let folder = tempfile::tempdir()?;
    let stack = Stack::start(StackOptions::new(super::bin_dir(), folder.path())).await?;
    let workspace = stack.workspace("Receiver").await?;
    let mut api = stack.api(&workspace)?;
    let (certificate, key) = authority.leaf("client.example")?;
    let body = json!({
        "name": "both",
        "endpointUrl": format!("https://{endpoint}/hook"),
        "auth": {
            "type": "oauth2ClientCredentials", "tokenUrl": format!("https://{tokens}/token"),
            "clientId": "us", "clientSecret": "canary-client-secret-5d1c",
        },
        "clientCertificate": { "certificate": certificate.pem(), "privateKey": key.serialize_pem() },
    });
    let made = api.call(Method::POST, "/v1/webhooks", Some(&body)).await?;
    let shown = made.to_string();
    assert!(
        !shown.contains("canary") && !shown.contains("PRIVATE KEY"),
        "{shown}"
    );
    assert_eq!(made["webhook"]["clientCertificate"]["privateKey"], "••••");
    let webhook = made["webhook"]["id"]
        .as_str()
        .unwrap_or_default()
        .to_owned();

    // Nobody trusts the authority yet.
    let refused = deliver(&mut api, &webhook).await?;
    assert_eq!(
        refused["lastError"]["reason"], "token_endpoint_untrusted",
        "{refused}"
    );
    assert_eq!(refused["attempts"][0]["outcome"], "TOKEN_ERROR");

    let path = "/v1/certificate-authorities";
    let set = json!({ "certificates": authority.pem });
    let set = api.call(Method::PUT, path, Some(&set)).await?;
    assert_eq!(
        set["authorities"].as_array().map(Vec::len),
        Some(1),
        "{set}"
    );
    // Another configuration is another source of tokens: the failed call is not remembered for it. The
    // secret that is left out stays.
    let path = format!("/v1/webhooks/{webhook}");
    let auth = json!({
        "type": "oauth2ClientCredentials", "tokenUrl": format!("https://{tokens}/token"),
        "clientId": "us", "scopes": ["hooks"],
    });
    let change = json!({ "auth": auth });
    api.call(Method::PATCH, &path, Some(&change)).await?;
    let delivered = deliver(&mut api, &webhook).await?;
    assert_eq!(delivered["state"], "DELIVERED", "{delivered}");
    assert_eq!(delivered["attemptCount"], 1, "{delivered}");
    deliver(&mut api, &webhook).await?;
    assert_eq!(
        asked.lock().expect("not poisoned").len(),
        1,
        "the token is kept"
    );
    assert!(asked.lock().expect("not poisoned")[0].starts_with("post /token "));

    // The token server revokes it: one refused request, and the retry at once has a new one.
    good.store(2, Ordering::SeqCst);
    let before = heads.lock().expect("not poisoned").len();
    let renewed = deliver(&mut api, &webhook).await?;
    assert_eq!(renewed["state"], "DELIVERED", "{renewed}");
    let attempts = renewed["attempts"].as_array().cloned().unwrap_or_default();
    let statuses: Vec<_> = attempts
        .iter()
        .map(|one| one["statusCode"].clone())
        .collect();
    assert_eq!(statuses, [json!(401), json!(200)], "{renewed}");
    assert_eq!(
        heads.lock().expect("not poisoned").len(),
        before + 2,
        "requests = attempts"
    );
    assert_eq!(asked.lock().expect("not poisoned").len(), 2);

    // Without its certificate the handshake ends; without the authority there is no token either.
    let change = json!({ "clientCertificate": null });
    api.call(Method::PATCH, &path, Some(&change)).await?;
    let bare = deliver(&mut api, &webhook).await?;
    assert_eq!(
        bare["lastError"]["reason"], "client_certificate_refused",
        "{bare}"
    );
    api.call(Method::DELETE, "/v1/certificate-authorities", None)
        .await?;
    let gone = deliver(&mut api, &webhook).await?;
    assert_eq!(
        gone["lastError"]["reason"], "certificate_untrusted",
        "{gone}"
    );

    let log = api.get("/v1/audit-log").await?.to_string();
    assert!(
        log.contains("authorities.set") && log.contains("authorities.delete"),
        "{log}"
    );
    assert!(
        !log.contains("canary") && !log.contains("PRIVATE KEY"),
        "{log}"
    );
    stack.stop_all().await
}
