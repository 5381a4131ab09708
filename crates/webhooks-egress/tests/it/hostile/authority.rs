//! A throw-away certificate authority.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use webhooks_egress::EgressConfig;

use crate::dns_server::{DnsServer, Reply};

/// An authority and its certificate.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: Certificate,
}

/// A certificate chain with its key.
pub(crate) struct Leaf {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: KeyPair,
}

impl Leaf {
    pub(crate) fn chain_pem(&self) -> String {
        let blocks = self.chain.iter().map(|der| {
            use base64::Engine as _;
            let text = base64::engine::general_purpose::STANDARD.encode(der);
            format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
        });
        blocks.collect()
    }
}

/// Each has a name of its own: who cannot tell issuers apart by name finds bad signatures.
fn authority_params() -> CertificateParams {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    let name = format!("authority {}", NEXT.fetch_add(1, Ordering::Relaxed));
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

pub(crate) fn params(name: &str) -> CertificateParams {
    CertificateParams::new(vec![name.to_owned()]).expect("parameters")
}

/// A certificate that vouches for itself.
pub(crate) fn self_signed(name: &str) -> Leaf {
    let key = KeyPair::generate().expect("a key");
    let certificate = params(name).self_signed(&key).expect("a certificate");
    Leaf {
        chain: vec![certificate.der().clone()],
        key,
    }
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let params = authority_params();
        let certificate = params.self_signed(&key).expect("a certificate");
        Self {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    pub(crate) fn pem(&self) -> String {
        self.certificate.pem()
    }

    pub(crate) fn leaf(&self, name: &str) -> Leaf {
        self.sign(&params(name))
    }

    pub(crate) fn sign(&self, params: &CertificateParams) -> Leaf {
        let key = KeyPair::generate().expect("a key");
        webhooks_devstack::note_secret(key.serialize_pem().as_bytes());
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Leaf {
            chain: vec![certificate.der().clone()],
            key,
        }
    }

    /// A leaf below an intermediate authority, whose certificate is the second of the chain.
    pub(crate) fn leaf_below_an_intermediate(&self, name: &str) -> Leaf {
        let key = KeyPair::generate().expect("a key");
        let middle = authority_params();
        let certificate = middle.signed_by(&key, &self.issuer).expect("a certificate");
        let below = Self {
            issuer: Issuer::new(middle, key),
            certificate,
        };
        let mut leaf = below.leaf(name);
        leaf.chain.push(below.certificate.der().clone());
        leaf
    }

    /// A server with this certificate.
    pub(crate) fn server(&self, leaf: &Leaf) -> Arc<ServerConfig> {
        Arc::new(server(leaf, &[]))
    }

    /// A server that asks for a certificate of this authority.
    pub(crate) fn server_for_clients(&self, leaf: &Leaf) -> Arc<ServerConfig> {
        let mut roots = RootCertStore::empty();
        let own = self.certificate.der().clone();
        roots.add(own).expect("an authority");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .expect("a verifier");
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(verifier)
            .with_single_cert(leaf.chain.clone(), key(leaf))
            .expect("a server configuration");
        Arc::new(config)
    }

    /// These settings, with this authority trusted and every name leading to this machine.
    pub(crate) async fn trusted(&self, config: EgressConfig) -> EgressConfig {
        EgressConfig {
            extra_ca_pem: Some(self.pem().into_bytes()),
            ..at_home(config).await
        }
    }
}

/// These settings, with every name leading to this machine.
pub(crate) async fn at_home(config: EgressConfig) -> EgressConfig {
    let dns = DnsServer::start(|_| Reply::addresses(&["127.0.0.1"])).await;
    EgressConfig {
        dns_servers: vec![dns.address],
        ..config
    }
}

/// A server that chooses between these protocols.
pub(crate) fn server(leaf: &Leaf, protocols: &[&[u8]]) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(leaf.chain.clone(), key(leaf))
        .expect("a server configuration");
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    config
}

fn key(leaf: &Leaf) -> rustls::pki_types::PrivateKeyDer<'static> {
    rustls::pki_types::PrivatePkcs8KeyDer::from(leaf.key.serialize_der()).into()
}
