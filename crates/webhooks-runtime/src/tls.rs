//! TLS between our own processes (gRPC), and who may call what is not for customers.
//!
//! One port serves customers, who show bearer tokens, and our own services. So a client certificate
//! is asked for and not demanded; the services that are ours alone check that it was shown and that
//! its name (DNS or URI, such as a SPIFFE id) is on the list. That it is of the right authority, not
//! expired and the client's own is checked in the handshake: with a bad certificate there is no
//! connection at all.
//!
//! Files are read at start. A renewed certificate is taken up by a restart.
//!
//! Clients that read their files themselves (NATS's does, at each connection) have the files of their
//! settings looked at here, so that a wrong one shows at start.

use std::{collections::BTreeSet, fmt, path::PathBuf, sync::Arc};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tonic::{
    Request, Status,
    transport::{Certificate, ClientTlsConfig, Identity, Server, ServerTlsConfig},
};

use crate::settings::{Env, Secret, Settings};

/// How long a handshake may take.
const HANDSHAKE: std::time::Duration = std::time::Duration::from_secs(10);

/// TLS of a gRPC server. Off when no certificate is set.
#[derive(Clone, Debug, Default)]
pub struct GrpcServerTls {
    identity: Option<Pair>,
    client_authority: Option<Vec<u8>>,
    names: BTreeSet<String>,
}

/// TLS of a gRPC client. Off (and no certificate shown) when the address is `http://…`.
#[derive(Clone, Debug, Default)]
pub struct GrpcClientTls {
    identity: Option<Pair>,
    authority: Option<Vec<u8>>,
    server_name: Option<String>,
}

#[derive(Clone)]
struct Pair {
    certificate: Vec<u8>,
    key: Secret,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("certificate and key")
    }
}

impl Settings for GrpcServerTls {
    fn read(env: &mut Env) -> Self {
        let identity = pair(
            env,
            (
                "WEBHOOKS_GRPC_TLS_CERT",
                "PEM file with the certificate chain that gRPC is served with; empty = unencrypted",
            ),
            (
                "WEBHOOKS_GRPC_TLS_KEY",
                "PEM file with the key of WEBHOOKS_GRPC_TLS_CERT",
            ),
        );
        let client_authority = certificates(
            env,
            "WEBHOOKS_GRPC_TLS_CLIENT_CA",
            "PEM file with the authorities of our own services' certificates; set, only services with a certificate may report",
        );
        let names = env.list(
            "WEBHOOKS_GRPC_TLS_CLIENT_NAMES",
            "",
            "names (DNS or URI of the certificate) of the services that may report, comma separated",
        );
        let tls = Self {
            identity,
            client_authority,
            names: names.into_iter().collect(),
        };
        if tls.client_authority.is_some() && tls.identity.is_none() {
            env.problem(
                "WEBHOOKS_GRPC_TLS_CLIENT_CA",
                "needs WEBHOOKS_GRPC_TLS_CERT",
            );
        }
        if tls.client_authority.is_some() && tls.names.is_empty() {
            env.problem(
                "WEBHOOKS_GRPC_TLS_CLIENT_NAMES",
                "must name who may report, with WEBHOOKS_GRPC_TLS_CLIENT_CA",
            );
        }
        tls
    }
}

impl Settings for GrpcClientTls {
    fn read(env: &mut Env) -> Self {
        let tls = Self {
            identity: pair(
                env,
                (
                    "WEBHOOKS_MANAGEMENT_GRPC_TLS_CERT",
                    "PEM file with the certificate chain that is shown to management",
                ),
                (
                    "WEBHOOKS_MANAGEMENT_GRPC_TLS_KEY",
                    "PEM file with the key of WEBHOOKS_MANAGEMENT_GRPC_TLS_CERT",
                ),
            ),
            authority: certificates(
                env,
                "WEBHOOKS_MANAGEMENT_GRPC_TLS_CA",
                "PEM file with the authorities of management's certificate",
            ),
            server_name: env.optional(
                "WEBHOOKS_MANAGEMENT_GRPC_TLS_NAME",
                "name that management's certificate must have; empty = the host of its address",
            ),
        };
        if tls.identity.is_some() && tls.authority.is_none() {
            env.problem(
                "WEBHOOKS_MANAGEMENT_GRPC_TLS_CA",
                "must be set with WEBHOOKS_MANAGEMENT_GRPC_TLS_CERT",
            );
        }
        tls
    }
}

impl GrpcServerTls {
    /// Whether connections are encrypted.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.identity.is_some()
    }

    /// Makes a server speak it.
    ///
    /// # Errors
    /// The certificate and key do not belong together.
    pub fn apply<L>(&self, server: Server<L>) -> Result<Server<L>, tonic::transport::Error> {
        let Some(pair) = &self.identity else {
            return Ok(server);
        };
        let mut config = ServerTlsConfig::new()
            .identity(Identity::from_pem(&pair.certificate, pair.key.expose()))
            .timeout(HANDSHAKE);
        if let Some(authority) = &self.client_authority {
            config = config
                .client_ca_root(Certificate::from_pem(authority))
                .client_auth_optional(true);
        }
        server.tls_config(config)
    }

    /// Who may call what is ours alone.
    #[must_use]
    pub fn peers(&self) -> Peers {
        Peers(
            self.client_authority
                .as_ref()
                .map(|_| Arc::new(self.names.clone())),
        )
    }
}

impl GrpcClientTls {
    /// How to connect to an `https://` address.
    #[must_use]
    pub fn config(&self) -> ClientTlsConfig {
        let mut config = ClientTlsConfig::new().timeout(HANDSHAKE);
        if let Some(authority) = &self.authority {
            config = config.ca_certificate(Certificate::from_pem(authority));
        }
        if let Some(pair) = &self.identity {
            config = config.identity(Identity::from_pem(&pair.certificate, pair.key.expose()));
        }
        if let Some(name) = &self.server_name {
            config = config.domain_name(name);
        }
        config
    }
}

/// Who may call what is ours alone: with client certificates, the names on the list.
#[derive(Clone, Debug, Default)]
pub struct Peers(Option<Arc<BTreeSet<String>>>);

impl Peers {
    /// Lets a call in, or says why not. Without client certificates everybody passes here, and the
    /// internal token decides alone.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` without a certificate, `PERMISSION_DENIED` with another name.
    pub fn admit<T>(&self, request: &Request<T>) -> Result<(), Box<Status>> {
        let Some(names) = &self.0 else {
            return Ok(());
        };
        let shown = request.peer_certs();
        let Some(certificate) = shown.as_ref().and_then(|chain| chain.first()) else {
            return Err(Box::new(Status::unauthenticated(
                "a client certificate is required",
            )));
        };
        if is_named(certificate, names) {
            Ok(())
        } else {
            tracing::warn!("grpc.peer_refused");
            Err(Box::new(Status::permission_denied(
                "this certificate's name may not call here",
            )))
        }
    }
}

/// Whether a certificate has one of these names. Wildcards in it match nothing.
fn is_named(certificate: &CertificateDer<'_>, names: &BTreeSet<String>) -> bool {
    let Ok(parsed) = webpki::EndEntityCert::try_from(certificate) else {
        return false;
    };
    parsed
        .valid_dns_names()
        .chain(parsed.valid_uri_names())
        .any(|name| names.contains(name))
}

/// A setting that names a PEM file with certificates, for a client that reads the file itself. A file
/// that cannot be read or holds none is a problem.
pub fn certificate_file(env: &mut Env, name: &'static str, doc: &str) -> Option<PathBuf> {
    certificates(env, name, doc)?;
    env.path_of(name)
}

/// The same for a PEM file with a key.
pub fn key_file(env: &mut Env, name: &'static str, doc: &str) -> Option<PathBuf> {
    let text = file(env, name, doc)?;
    if PrivateKeyDer::from_pem_slice(&text).is_err() {
        env.problem(name, "holds no key in PEM");
        return None;
    }
    env.path_of(name)
}

type Question = (&'static str, &'static str);

fn pair(env: &mut Env, certificate: Question, key: Question) -> Option<Pair> {
    let chain = certificates(env, certificate.0, certificate.1);
    let text = file(env, key.0, key.1);
    if let Some(text) = &text
        && PrivateKeyDer::from_pem_slice(text).is_err()
    {
        env.problem(key.0, "holds no key in PEM");
    }
    match (chain, text) {
        (Some(certificate), Some(text)) => Some(Pair {
            certificate,
            key: Secret::new(String::from_utf8_lossy(&text)),
        }),
        (None, None) => None,
        // A file that was set and could not be read was complained about already.
        _ => {
            env.problem(
                certificate.0,
                format_args!("must be set together with {}", key.0),
            );
            None
        }
    }
}

fn certificates(env: &mut Env, name: &'static str, doc: &str) -> Option<Vec<u8>> {
    let text = file(env, name, doc)?;
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match parsed {
        Ok(found) if !found.is_empty() => Some(text),
        _ => {
            env.problem(name, "holds no certificate in PEM");
            None
        }
    }
}

fn file(env: &mut Env, name: &'static str, doc: &str) -> Option<Vec<u8>> {
    let path = PathBuf::from(env.optional(name, doc)?);
    match std::fs::read(&path) {
        Ok(text) => Some(text),
        Err(error) => {
            env.problem(
                name,
                format_args!("cannot read {}: {error}", path.display()),
            );
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    fn certificate(names: Vec<SanType>) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    #[test]
    fn a_name_is_a_whole_dns_name_or_uri() {
        let names: BTreeSet<String> = ["dispatcher.internal", "spiffe://example/dispatcher"]
            .map(str::to_owned)
            .into();
        let dns = |name: &str| certificate(vec![SanType::DnsName(name.try_into().unwrap())]);
        let uri = |name: &str| certificate(vec![SanType::URI(name.try_into().unwrap())]);
        assert!(is_named(&dns("dispatcher.internal"), &names));
        assert!(is_named(&uri("spiffe://example/dispatcher"), &names));
        for other in [
            dns("dispatcher.internal.evil.example"),
            dns("*.internal"),
            uri("dispatcher.internal/"),
            uri("spiffe://example/dispatcher2"),
            certificate(Vec::new()),
            CertificateDer::from(b"nonsense".to_vec()),
        ] {
            assert!(!is_named(&other, &names));
        }
    }

    #[test]
    fn half_a_setting_is_a_problem() {
        let problems = |variables: &[(&str, &str)]| {
            let mut env = Env::from_vars(variables.iter().copied());
            drop((GrpcServerTls::read(&mut env), GrpcClientTls::read(&mut env)));
            env.finish()
                .map_or_else(|error| error.problems.len(), |()| 0)
        };
        assert_eq!(problems(&[]), 0);
        // Not readable, and its key is missing.
        assert_eq!(problems(&[("WEBHOOKS_GRPC_TLS_KEY", "/nowhere")]), 1);
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let path = folder.path().join("key.pem");
        std::fs::write(&path, key.serialize_pem()).unwrap();
        let path = path.to_str().unwrap();
        assert_eq!(problems(&[("WEBHOOKS_GRPC_TLS_KEY", path)]), 1);
        // A key is no certificate.
        assert_eq!(problems(&[("WEBHOOKS_GRPC_TLS_CLIENT_CA", path)]), 1);
    }

    #[test]
    fn files_for_others_to_read_are_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::default().self_signed(&key).unwrap();
        let write = |name: &str, text: String| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let key = write("key.pem", key.serialize_pem());
        let certificate = write("certificate.pem", certificate.pem());
        let nowhere = "/nowhere".to_owned();
        for (path, is_certificate, is_key) in [
            (&key, false, true),
            (&certificate, true, false),
            (&nowhere, false, false),
        ] {
            let mut env = Env::from_vars([("A", path), ("B", path)]);
            let path = PathBuf::from(path);
            assert_eq!(
                certificate_file(&mut env, "A", ""),
                is_certificate.then(|| path.clone())
            );
            assert_eq!(key_file(&mut env, "B", ""), is_key.then_some(path));
            let problems = usize::from(!is_certificate) + usize::from(!is_key);
            assert_eq!(env.finish().unwrap_err().problems.len(), problems);
        }
        let mut env = Env::from_vars([("A", "")]);
        assert_eq!(certificate_file(&mut env, "A", ""), None);
        env.finish().unwrap();
    }

    #[test]
    fn keys_are_not_shown() {
        let pair = Pair {
            certificate: Vec::new(),
            key: Secret::new("-----BEGIN PRIVATE KEY-----"),
        };
        let tls = GrpcServerTls {
            identity: Some(pair),
            ..GrpcServerTls::default()
        };
        assert!(!format!("{tls:?}").contains("PRIVATE"));
    }
}
