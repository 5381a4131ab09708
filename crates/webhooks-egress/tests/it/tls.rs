//! TLS: the name that is checked is the URL's, and nothing is sent before it is.

use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use webhooks_domain::endpoint::{FailureClass, Outcome};
use webhooks_egress::{EgressConfig, EgressError};

use crate::dns_server::{DnsServer, Reply};
use crate::receiver::{Receiver, Script, answer_one, ok};
use crate::{config, egress, post, within};

/// A TLS server, its authority's certificate, and what it was told: the server name, the request.
struct TlsReceiver {
    address: SocketAddr,
    authority: Vec<u8>,
    told: mpsc::UnboundedReceiver<(Option<String>, String)>,
}

async fn tls_receiver(name: &str) -> TlsReceiver {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let authority = params.self_signed(&key).expect("a certificate");
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().expect("a key");
    let leaf = CertificateParams::new(vec![name.to_owned()])
        .expect("parameters")
        .signed_by(&key, &issuer)
        .expect("a certificate");

    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key.into())
        .expect("a server configuration");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let (teller, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A client that does not like the certificate leaves during the handshake.
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let name = stream.get_ref().1.server_name().map(str::to_owned);
            if let Ok(request) = answer_one(&mut stream).await {
                teller.send((name, request)).expect("the test listens");
            }
        }
    });
    TlsReceiver {
        address,
        authority: authority.pem().into_bytes(),
        told,
    }
}

async fn with_authority(authority: Option<Vec<u8>>) -> EgressConfig {
    let dns = DnsServer::start(|_| Reply::addresses(&["127.0.0.1"])).await;
    EgressConfig {
        extra_ca_pem: authority,
        dns_servers: vec![dns.address],
        ..config()
    }
}

#[tokio::test]
async fn s_18_a_certificate_of_an_extra_authority_is_accepted_for_the_urls_host() {
    let mut receiver = tls_receiver("hooks.example.com").await;
    let egress = egress(with_authority(Some(receiver.authority.clone())).await);
    let url = format!("https://Hooks.Example.COM.:{}/", receiver.address.port());
    let result = post(&egress, &url).await;
    assert_eq!(result.outcome, Outcome::Success, "{:?}", result.reason());
    assert!(result.timings.connect.is_some());
    let (name, request) = within(receiver.told.recv()).await.expect("a request");
    assert_eq!(name.as_deref(), Some("hooks.example.com"));
    assert!(
        request.contains("\r\nhost: hooks.example.com:"),
        "{request}"
    );
}

#[tokio::test]
async fn s_18_a_bad_certificate_is_permanent_and_sees_no_request() {
    for (host, trusted, reason) in [
        ("hooks.example.com", false, "certificate_untrusted"),
        ("other.example.com", true, "certificate_wrong_host"),
        ("127.0.0.1", true, "certificate_wrong_host"),
    ] {
        let mut receiver = tls_receiver("hooks.example.com").await;
        let authority = trusted.then(|| receiver.authority.clone());
        let egress = egress(with_authority(authority).await);
        let url = format!("https://{host}:{}/", receiver.address.port());
        let result = post(&egress, &url).await;
        assert_eq!(result.outcome, Outcome::TlsError, "{host}");
        assert_eq!(result.class, Some(FailureClass::Permanent), "{host}");
        assert_eq!(result.reason(), Some(reason), "{host}");
        assert!(receiver.told.try_recv().is_err(), "{host}");
    }
}

#[tokio::test]
async fn a_server_without_tls_is_a_failed_handshake() {
    let receiver = Receiver::start(Script::Banner(ok())).await;
    let result = post(&egress(config()), &format!("https://{}/", receiver.address)).await;
    assert_eq!(result.outcome, Outcome::TlsError);
    assert_eq!(result.class, Some(FailureClass::Temporary));
    assert_eq!(result.reason(), Some("tls_handshake"));
    assert_eq!(receiver.counts().requests, 0);
}

#[tokio::test]
async fn extra_authorities_that_are_none_are_refused_at_start() {
    for pem in ["", "not a certificate"] {
        let config = with_authority(Some(pem.into())).await;
        let refused = webhooks_egress::Egress::new(config).err();
        assert!(
            matches!(
                refused,
                Some(EgressError::NoExtraCa | EgressError::ExtraCa(_))
            ),
            "{pem}: {refused:?}"
        );
    }
}

/// Set in the child process that is asked to write down the keys of its connections.
const CHILD: &str = "EGRESS_TEST_TLS_CHILD";

#[tokio::test]
async fn the_environment_cannot_have_keys_of_tls_written_down() {
    if std::env::var_os(CHILD).is_some() {
        let receiver = tls_receiver("hooks.example.com").await;
        let egress = egress(with_authority(Some(receiver.authority.clone())).await);
        let url = format!("https://hooks.example.com:{}/", receiver.address.port());
        assert_eq!(post(&egress, &url).await.outcome, Outcome::Success);
        return;
    }
    let folder = std::env::temp_dir();
    let file = folder.join(format!("egress-key-log-{}", std::process::id()));
    let output = std::process::Command::new(std::env::current_exe().expect("this program"))
        .args([
            "--exact",
            "tls::the_environment_cannot_have_keys_of_tls_written_down",
        ])
        .env(CHILD, "1")
        .env("SSLKEYLOGFILE", &file)
        .output()
        .expect("the child runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
    assert!(!file.exists(), "{} holds keys", file.display());
}
