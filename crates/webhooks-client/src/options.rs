//! How to connect.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::Error;

/// Default deadline of a call, tries and pauses included.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Most tries of a call.
pub const MAX_TRIES: u32 = 10;

/// Tries of a call when nothing else is said.
const TRIES: u32 = 4;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);

/// How often a connection with an open call is asked whether it is still there, and how long it may
/// take to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
const KEEP_ALIVE_ANSWER: Duration = Duration::from_secs(10);

/// Where to connect, as whom, and how patiently.
#[derive(Clone)]
pub struct Options {
    pub(crate) address: String,
    pub(crate) token: String,
    pub(crate) deadline: Duration,
    pub(crate) tries: u32,
    pub(crate) tls: Tls,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("address", &self.address)
            .field("deadline", &self.deadline)
            .field("tries", &self.tries)
            .finish_non_exhaustive()
    }
}

/// TLS of an `https://` address; an `http://` one has none.
#[derive(Clone, Default)]
pub struct Tls {
    /// Authorities (PEM) that the server's certificate may be of; `None` = the system's.
    pub authorities: Option<Vec<u8>>,
    /// Certificate chain and key (PEM) that are shown to the server.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The name the server's certificate must have; `None` = the address's host.
    pub server_name: Option<String>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("own_authorities", &self.authorities.is_some())
            .field("identity", &self.identity.is_some())
            .field("server_name", &self.server_name)
            .finish()
    }
}

impl Options {
    /// The address (`https://host:port` or `http://host:port`) and the token: a workspace's, or the
    /// operator's for the operators' calls.
    pub fn new(address: impl Into<String>, token: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            token: token.into(),
            deadline: DEADLINE,
            tries: TRIES,
            tls: Tls::default(),
        }
    }

    /// How long a call may take, tries and pauses included; [`DEADLINE`] when not set. Tails have
    /// none.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How often a call is tried while the server is unavailable, 1 to [`MAX_TRIES`]; 4 when not set.
    #[must_use]
    pub fn tries(mut self, tries: u32) -> Self {
        self.tries = tries;
        self
    }

    /// Certificates of one's own.
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = tls;
        self
    }

    pub(crate) fn endpoint(&self) -> Result<Endpoint, Error> {
        let endpoint = Endpoint::from_shared(self.address.clone())
            .map_err(Error::Address)?
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_ANSWER);
        if !self.address.starts_with("https://") {
            return Ok(endpoint);
        }
        endpoint
            .tls_config(self.tls.config()?)
            .map_err(Error::Address)
    }
}

impl Tls {
    fn config(&self) -> Result<ClientTlsConfig, Error> {
        let mut config = ClientTlsConfig::new();
        config = match &self.authorities {
            Some(pem) => config.ca_certificate(Certificate::from_pem(pem)),
            None => config.ca_certificates(system_authorities()?),
        };
        if let Some((certificate, key)) = &self.identity {
            config = config.identity(Identity::from_pem(certificate, key));
        }
        if let Some(name) = &self.server_name {
            config = config.domain_name(name);
        }
        Ok(config)
    }
}

/// The system's authorities. Single broken ones are left out, as every client does.
fn system_authorities() -> Result<Vec<Certificate>, Error> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        return Err(Error::NoAuthorities);
    }
    let pem = |der: &[u8]| {
        format!(
            "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
            STANDARD.encode(der)
        )
    };
    let certificates = found.certs.iter();
    Ok(certificates
        .map(|one| Certificate::from_pem(pem(one.as_ref())))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_token_nor_key_is_printed() {
        let options = Options::new("https://localhost:1", "lbk_live_secret").tls(Tls {
            identity: Some((b"certificate".to_vec(), b"private".to_vec())),
            ..Tls::default()
        });
        let printed = format!("{options:?} {:?}", options.tls);
        assert!(!printed.contains("secret") && !printed.contains("private"));
    }

    #[test]
    fn an_address_that_is_none_is_refused_at_once() {
        let refused = Options::new("not an address", "t").endpoint();
        assert!(matches!(refused, Err(Error::Address(_))));
    }
}
