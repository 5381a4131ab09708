//! The HTTP clients: one for everybody, and one for each TLS identity in use.
//!
//! A client is a pool of connections, and connections must not cross identities: what one webhook's
//! certificate opened is not for another's request. The identities' clients are few and dear (a TLS
//! configuration each), so the least recently used one makes room when there are too many.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use webhooks_domain::endpoint::AddressPolicy;

use crate::config::{EgressConfig, MAX_IDENTITY_CLIENTS, MAX_READ_HEADER_BYTES, MAX_READ_HEADERS};
use crate::dial::Dialler;
use crate::resolver::VettingResolver;
use crate::sockets::Sockets;
use crate::tls::{TlsIdentity, TlsIdentityError, Trust};

pub(crate) type HttpClient = Client<Dialler, Full<Bytes>>;

pub(crate) struct Clients {
    everybody: HttpClient,
    trust: Trust,
    config: EgressConfig,
    resolver: VettingResolver,
    policy: Arc<AddressPolicy>,
    identities: Mutex<Recent>,
    sockets: Sockets,
}

#[derive(Default)]
struct Recent {
    clients: HashMap<Arc<TlsIdentity>, (HttpClient, u64)>,
    clock: u64,
}

impl Clients {
    pub(crate) fn new(
        config: EgressConfig,
        trust: Trust,
        resolver: VettingResolver,
        policy: Arc<AddressPolicy>,
        sockets: Sockets,
    ) -> Self {
        let tls = trust.client_config();
        let everybody = client(
            &config,
            tls,
            resolver.clone(),
            Arc::clone(&policy),
            sockets.clone(),
        );
        Self {
            everybody,
            sockets,
            trust,
            config,
            resolver,
            policy,
            identities: Mutex::default(),
        }
    }

    /// There are so many connections that none is kept for later.
    pub(crate) fn are_many_open(&self) -> bool {
        self.sockets.are_many(self.config.max_kept_connections)
    }

    /// Whether TLS can work at all for this identity.
    pub(crate) fn can_verify(&self, identity: Option<&Arc<TlsIdentity>>) -> bool {
        identity.is_some_and(|identity| identity.has_authorities()) || !self.trust.is_empty()
    }

    /// The client for an identity, made if need be.
    pub(crate) fn client(
        &self,
        identity: Option<&Arc<TlsIdentity>>,
    ) -> Result<HttpClient, TlsIdentityError> {
        let Some(identity) = identity else {
            return Ok(self.everybody.clone());
        };
        let mut recent = self
            .identities
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        recent.clock += 1;
        let now = recent.clock;
        if let Some((client, used)) = recent.clients.get_mut(identity) {
            *used = now;
            return Ok(client.clone());
        }
        let tls = self.trust.client_config_for(identity)?;
        let client = client(
            &self.config,
            tls,
            self.resolver.clone(),
            Arc::clone(&self.policy),
            self.sockets.clone(),
        );
        if recent.clients.len() >= MAX_IDENTITY_CLIENTS {
            recent.drop_oldest();
        }
        recent
            .clients
            .insert(Arc::clone(identity), (client.clone(), now));
        Ok(client)
    }
}

impl Recent {
    fn drop_oldest(&mut self) {
        let oldest = self.clients.iter().min_by_key(|(_, (_, used))| *used);
        if let Some(oldest) = oldest.map(|(identity, _)| Arc::clone(identity)) {
            self.clients.remove(&oldest);
        }
    }
}

/// The one place where an outbound client is configured. It follows no redirects and knows no
/// proxies, cookies, encodings or HTTP/2; deadlines other than the dial's are the attempt's.
fn client(
    config: &EgressConfig,
    tls: ClientConfig,
    resolver: VettingResolver,
    policy: Arc<AddressPolicy>,
    sockets: Sockets,
) -> HttpClient {
    let dialler = Dialler::new(
        resolver,
        Arc::new(tls),
        policy,
        config.connect_timeout,
        config.attempt_timeout,
        sockets,
    );
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(config.pool_idle_timeout)
        .pool_max_idle_per_host(config.pool_max_idle_per_host)
        .http1_max_buf_size(MAX_READ_HEADER_BYTES)
        .http1_max_headers(MAX_READ_HEADERS)
        // Only for a request of which not a byte has been sent, because the pooled connection it was
        // meant for turned out to be closed.
        .retry_canceled_requests(true)
        .build(dialler)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::sockets::Limit;

    fn identity() -> Arc<TlsIdentity> {
        let key = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::new(vec!["client.example".to_owned()])
            .expect("parameters")
            .self_signed(&key)
            .expect("a certificate");
        let identity = TlsIdentity::new(
            b"",
            certificate.pem().as_bytes(),
            key.serialize_pem().as_bytes(),
        );
        Arc::new(identity.expect("an identity"))
    }

    #[tokio::test]
    async fn identities_have_clients_of_their_own_and_the_oldest_makes_room() {
        let config = EgressConfig {
            dns_servers: vec![([127, 0, 0, 1], 53).into()],
            ..EgressConfig::default()
        };
        let policy = Arc::new(AddressPolicy::default());
        let sockets = Sockets::new(Limit::System);
        let resolver = VettingResolver::new(&config, Arc::clone(&policy), sockets.clone())
            .expect("a resolver");
        let mut trusting = config.clone();
        trusting.policy.allow_http = true;
        let trust = Trust::load(&trusting).expect("trust");
        let clients = Clients::new(config, trust, resolver, policy, sockets);
        let identities: Vec<_> = (0..=MAX_IDENTITY_CLIENTS).map(|_| identity()).collect();
        for identity in &identities {
            clients.client(Some(&identities[0])).expect("a client");
            clients.client(Some(identity)).expect("a client");
        }
        let held = clients.identities.lock().expect("not poisoned");
        assert_eq!(held.clients.len(), MAX_IDENTITY_CLIENTS);
        assert!(held.clients.contains_key(&identities[0]), "used all along");
        assert!(!held.clients.contains_key(&identities[1]), "the oldest");
    }

    #[test]
    fn an_identity_is_refused_with_its_reason() {
        let (key, other) = (
            KeyPair::generate().expect("a key"),
            KeyPair::generate().expect("a key"),
        );
        let certificate = CertificateParams::new(vec!["client.example".to_owned()])
            .expect("parameters")
            .self_signed(&key)
            .expect("a certificate")
            .pem();
        let check = |ca: &str, chain: &str, key: &str, expected: &str| {
            let refused = TlsIdentity::new(ca.as_bytes(), chain.as_bytes(), key.as_bytes());
            let refused = refused.expect_err(expected).to_string();
            assert!(refused.contains(expected), "{refused}");
        };
        let (own, wrong) = (key.serialize_pem(), other.serialize_pem());
        check("nonsense", "", "", "authorities");
        check("", "nonsense", &own, "client certificate is not valid");
        check("", &certificate, "nonsense", "key is not valid");
        check("", &certificate, "", "belong");
        check("", "", &own, "belong");
        check("", &certificate, &wrong, "belong");
        check(&"x".repeat(65 * 1024), "", "", "longer");
        let identity = TlsIdentity::new(b"", certificate.as_bytes(), own.as_bytes());
        let shown = format!("{:?}", identity.expect("an identity"));
        assert!(!shown.contains("PRIVATE"), "{shown}");
        assert!(!shown.contains("key"), "{shown}");
        assert!(TlsIdentity::new(certificate.as_bytes(), b"", b"").is_ok());
    }
}
