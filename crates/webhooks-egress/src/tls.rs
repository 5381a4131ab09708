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
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::config::{EgressConfig, EgressError, MAX_IDENTITY_PEM_BYTES};

/// The only protocol we speak, so the only one we offer.
const ALPN: &[u8] = b"http/1.1";

/// Authorities of one workspace, to trust beside the installation's.
pub struct Authorities {
    digest: [u8; 32],
    certificates: Vec<CertificateDer<'static>>,
}

/// What one webhook shows to an endpoint that asks for a certificate. The key never shows in its
/// `Debug` form.
pub struct ClientCertificate {
    digest: [u8; 32],
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// A webhook's own side of TLS: authorities to trust beside the others, and a client certificate.
///
/// Two identities are equal if their PEM texts are. Connections are shared only among requests of
/// equal identity.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TlsIdentity {
    authorities: Option<Arc<Authorities>>,
    client: Option<Arc<ClientCertificate>>,
}

/// Why PEM texts make no [`TlsIdentity`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
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
    /// The key is no PEM private key, encrypted, or of a kind that TLS does not use.
    #[error("the private key is not valid")]
    Key,
    /// The key is not that of the certificate.
    #[error("the private key does not belong to the client certificate")]
    Mismatch,
}

impl Authorities {
    /// Reads PEM certificates.
    ///
    /// # Errors
    /// None, too long, or unusable.
    pub fn new(pem: &[u8]) -> Result<Self, TlsIdentityError> {
        short(pem)?;
        let read = certificates(pem).map_err(|_| TlsIdentityError::Authorities)?;
        if read.is_empty() {
            return Err(TlsIdentityError::Authorities);
        }
        let mut roots = RootCertStore::empty();
        for authority in &read {
            roots
                .add(authority.clone())
                .map_err(|_| TlsIdentityError::Authorities)?;
        }
        Ok(Self {
            digest: digest(&[pem]),
            certificates: read,
        })
    }
}

impl ClientCertificate {
    /// Reads a chain, our own certificate first, and its key, both PEM.
    ///
    /// # Errors
    /// Texts that are too long, no PEM of their kind, or do not belong together.
    pub fn new(chain_pem: &[u8], key_pem: &[u8]) -> Result<Self, TlsIdentityError> {
        short(chain_pem)?;
        short(key_pem)?;
        let chain = certificates(chain_pem).map_err(|_| TlsIdentityError::Certificate)?;
        if chain.is_empty() {
            return Err(TlsIdentityError::Certificate);
        }
        let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|_| TlsIdentityError::Key)?;
        let client = Self {
            digest: digest(&[chain_pem, key_pem]),
            chain,
            key,
        };
        // Whether all of it works together is best answered by using it.
        TlsIdentity::of(None, Some(Arc::new(client.copy())))
            .client_config(&Arc::new(RootCertStore::empty()))?;
        Ok(client)
    }

    /// Whether a text is a private key that TLS can use, whatever certificate it is for.
    ///
    /// # Errors
    /// A text that is too long, or no such key.
    pub fn check_key(key_pem: &[u8]) -> Result<(), TlsIdentityError> {
        short(key_pem)?;
        let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|_| TlsIdentityError::Key)?;
        let loaded = provider().key_provider.load_private_key(key);
        loaded.map(drop).map_err(|_| TlsIdentityError::Key)
    }

    fn copy(&self) -> Self {
        Self {
            digest: self.digest,
            chain: self.chain.clone(),
            key: self.key.clone_key(),
        }
    }
}

impl TlsIdentity {
    /// Puts an identity together.
    #[must_use]
    pub fn of(
        authorities: Option<Arc<Authorities>>,
        client: Option<Arc<ClientCertificate>>,
    ) -> Self {
        Self {
            authorities,
            client,
        }
    }

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
        let authorities = match authorities_pem {
            [] => None,
            pem => Some(Arc::new(Authorities::new(pem)?)),
        };
        let client = match (certificate_pem, key_pem) {
            ([], []) => None,
            ([], _) | (_, []) => return Err(TlsIdentityError::Mismatch),
            (chain, key) => Some(Arc::new(ClientCertificate::new(chain, key)?)),
        };
        Ok(Self::of(authorities, client))
    }

    /// Whether it trusts anybody of its own.
    pub(crate) fn has_authorities(&self) -> bool {
        self.authorities.is_some()
    }

    fn client_config(
        &self,
        trusted: &Arc<RootCertStore>,
    ) -> Result<ClientConfig, TlsIdentityError> {
        let mut roots = Arc::clone(trusted);
        if let Some(authorities) = &self.authorities {
            let own = Arc::make_mut(&mut roots);
            for authority in &authorities.certificates {
                own.add(authority.clone())
                    .map_err(|_| TlsIdentityError::Authorities)?;
            }
        }
        let builder = builder(roots);
        let mut config = match &self.client {
            None => builder.with_no_client_auth(),
            Some(client) => builder
                .with_client_auth_cert(client.chain.clone(), client.key.clone_key())
                .map_err(|error| match error {
                    rustls::Error::InconsistentKeys(_) => TlsIdentityError::Mismatch,
                    _ => TlsIdentityError::Key,
                })?,
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(config)
    }
}

fn short(pem: &[u8]) -> Result<(), TlsIdentityError> {
    if pem.len() > MAX_IDENTITY_PEM_BYTES {
        return Err(TlsIdentityError::TooLong);
    }
    Ok(())
}

/// One digest of several texts, each with its length.
fn digest(texts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update(text.len().to_be_bytes());
        hash.update(text);
    }
    hash.finalize().into()
}

macro_rules! equal_by_digest {
    ($kind:ident) => {
        impl PartialEq for $kind {
            fn eq(&self, other: &Self) -> bool {
                self.digest == other.digest
            }
        }

        impl Eq for $kind {}

        impl Hash for $kind {
            fn hash<H: Hasher>(&self, state: &mut H) {
                self.digest.hash(state);
            }
        }
    };
}

equal_by_digest!(Authorities);
equal_by_digest!(ClientCertificate);

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorities")
            .field("certificates", &self.certificates.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate")
            .field("chain", &self.chain.len())
            .finish_non_exhaustive()
    }
}

/// Whom this installation trusts.
pub(crate) struct Trust {
    roots: Arc<RootCertStore>,
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
        Ok(Self {
            roots: Arc::new(roots),
        })
    }

    /// Whether there is anybody to trust.
    pub(crate) fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    /// TLS for everyone without an identity.
    pub(crate) fn client_config(&self) -> ClientConfig {
        let mut config = builder(Arc::clone(&self.roots)).with_no_client_auth();
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
    roots: Arc<RootCertStore>,
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
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    CertificateDer::pem_slice_iter(pem).collect()
}
