//! Whom we trust, and who we say we are.
//!
//! TLS 1.2 and 1.3 with a certificate for the URL's host, always; there is no switch that skips the
//! check. Trusted are the system's authorities, those that the operator added, and, for one webhook's
//! connections alone, those of its own [`TlsIdentity`]. Revocation is not asked about: answers of
//! revocation servers would be one more party that a delivery waits for.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{Error as PemError, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;

use crate::config::{EgressConfig, EgressError, MAX_IDENTITY_PEM_BYTES};

/// The only protocol we speak, so the only one we offer.
const ALPN: &[u8] = b"http/1.1";

/// A webhook's own side of TLS: authorities to trust beside the others, and a client certificate.
///
/// Two identities are equal if their PEM texts are. Connections are shared only among requests of
/// equal identity. The private key never shows in its `Debug` form.
pub struct TlsIdentity {
    authorities_pem: Vec<u8>,
    certificate_pem: Vec<u8>,
    key_pem: Vec<u8>,
    authorities: Vec<CertificateDer<'static>>,
    chain: Vec<CertificateDer<'static>>,
    key: Option<PrivateKeyDer<'static>>,
}

/// Why PEM texts make no [`TlsIdentity`].
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TlsIdentityError {
    /// A text is longer than 64 KiB.
    #[error("the PEM text is longer than {MAX_IDENTITY_PEM_BYTES} bytes")]
    TooLong,
    /// The authorities are no PEM certificates.
    #[error("the certificate authorities are not valid")]
    Authorities,
    /// The client certificate is no PEM certificate chain.
    #[error("the client certificate is not valid")]
    Certificate,
    /// The key is no PEM private key.
    #[error("the private key is not valid")]
    Key,
    /// The key is not that of the certificate.
    #[error("the private key does not belong to the client certificate")]
    Mismatch,
}

impl TlsIdentity {
    /// Reads an identity: authorities to trust and a client certificate chain with its key, all PEM.
    /// Either may be left out by an empty text.
    ///
    /// # Errors
    /// Texts that are too long, no PEM of their kind, or do not belong together.
    pub fn new(
        authorities_pem: &[u8],
        certificate_pem: &[u8],
        key_pem: &[u8],
    ) -> Result<Self, TlsIdentityError> {
        if [authorities_pem, certificate_pem, key_pem]
            .iter()
            .any(|pem| pem.len() > MAX_IDENTITY_PEM_BYTES)
        {
            return Err(TlsIdentityError::TooLong);
        }
        let authorities =
            certificates(authorities_pem).map_err(|_| TlsIdentityError::Authorities)?;
        let chain = certificates(certificate_pem).map_err(|_| TlsIdentityError::Certificate)?;
        if authorities.is_empty() != authorities_pem.is_empty() {
            return Err(TlsIdentityError::Authorities);
        }
        if chain.is_empty() != certificate_pem.is_empty() {
            return Err(TlsIdentityError::Certificate);
        }
        let key = match key_pem {
            [] => None,
            pem => Some(PrivateKeyDer::from_pem_slice(pem).map_err(|_| TlsIdentityError::Key)?),
        };
        if key.is_some() == chain.is_empty() {
            return Err(TlsIdentityError::Mismatch);
        }
        let identity = Self {
            authorities_pem: authorities_pem.into(),
            certificate_pem: certificate_pem.into(),
            key_pem: key_pem.into(),
            authorities,
            chain,
            key,
        };
        // Whether all of it works together is best answered by using it.
        identity.client_config(&RootCertStore::empty())?;
        Ok(identity)
    }

    fn client_config(&self, trusted: &RootCertStore) -> Result<ClientConfig, TlsIdentityError> {
        let mut roots = trusted.clone();
        for authority in &self.authorities {
            roots
                .add(authority.clone())
                .map_err(|_| TlsIdentityError::Authorities)?;
        }
        let builder = builder(roots);
        let mut config = match &self.key {
            None => builder.with_no_client_auth(),
            Some(key) => builder
                .with_client_auth_cert(self.chain.clone(), key.clone_key())
                .map_err(|error| match error {
                    rustls::Error::InconsistentKeys(_) => TlsIdentityError::Mismatch,
                    _ => TlsIdentityError::Key,
                })?,
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(config)
    }
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsIdentity")
            .field("authorities", &self.authorities.len())
            .field("chain", &self.chain.len())
            .finish_non_exhaustive()
    }
}

impl PartialEq for TlsIdentity {
    fn eq(&self, other: &Self) -> bool {
        self.authorities_pem == other.authorities_pem
            && self.certificate_pem == other.certificate_pem
            && self.key_pem == other.key_pem
    }
}

impl Eq for TlsIdentity {}

impl Hash for TlsIdentity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.authorities_pem.hash(state);
        self.certificate_pem.hash(state);
    }
}

/// Whom this installation trusts.
pub(crate) struct Trust {
    roots: RootCertStore,
}

impl Trust {
    /// The system's authorities and the operator's.
    ///
    /// # Errors
    /// Extra authorities that are none; nobody to trust at all, unless plain http is allowed.
    pub(crate) fn load(config: &EgressConfig) -> Result<Self, EgressError> {
        let mut roots = RootCertStore::empty();
        let system = rustls_native_certs::load_native_certs();
        // Systems ship with a few certificates that nobody can read any more.
        let (_, unreadable) = roots.add_parsable_certificates(system.certs);
        if unreadable > 0 || !system.errors.is_empty() {
            tracing::debug!(unreadable, errors = ?system.errors, "some system authorities are left out");
        }
        if let Some(pem) = &config.extra_ca_pem {
            let extra = certificates(pem).map_err(EgressError::ExtraCa)?;
            if extra.is_empty() {
                return Err(EgressError::NoExtraCa);
            }
            for authority in extra {
                roots.add(authority).map_err(EgressError::ExtraCaRefused)?;
            }
        }
        if roots.is_empty() {
            // A machine without certificates may still develop over plain http.
            if !config.policy.allow_http {
                return Err(EgressError::NoAuthorities);
            }
            tracing::error!("no trusted certificates: https endpoints cannot be called");
        }
        Ok(Self { roots })
    }

    /// Whether there is anybody to trust.
    pub(crate) fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    /// TLS for everyone without an identity.
    pub(crate) fn client_config(&self) -> ClientConfig {
        let mut config = builder(self.roots.clone()).with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        config
    }

    /// TLS for one identity.
    pub(crate) fn client_config_for(
        &self,
        identity: &TlsIdentity,
    ) -> Result<ClientConfig, TlsIdentityError> {
        identity.client_config(&self.roots)
    }
}

fn builder(
    roots: RootCertStore,
) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .expect("the provider has cipher suites for both versions")
        .with_root_certificates(roots)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// All certificates of a PEM text. Text around them is passed over.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    CertificateDer::pem_slice_iter(pem).collect()
}
