//! The webhooks as this dispatcher knows them: the read model, made ready for sending.
//!
//! What a webhook says of its own (retries, rate, requests at a time, order) is bounded again here:
//! a value out of bounds was refused when it was saved, so if one arrives all the same, the
//! installation's own applies, and the log says so.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use http::{HeaderMap, HeaderName, HeaderValue};
use prost::Message as _;
use tokio::sync::broadcast;
use uuid::Uuid;
use webhooks_bus::ConfigSink;
use webhooks_domain::{
    challenge::{EndpointHash, endpoint_hash},
    endpoint::{AddressPolicy, CustomHeaders, EndpointRefusal, EndpointUrl},
    health::Configured,
    ids::partition_of,
    oauth2::{ClientAuth, ClientCredentials},
    rate::RateLimit,
    retry::RetryPolicy,
    sealing::{Binding, Keyring, Purpose, Sealed},
    signing::{self, AsymmetricKey, SigningKey},
};
use webhooks_egress::{Authorities, ClientCertificate, TlsIdentity, TlsIdentityError, TokenSource};
use webhooks_proto::internal::v1::{
    ClientCertificate as SealedCertificate, EndpointExtras, HeldChoice,
    Ordering as ConfiguredOrdering, SealedSecret, TokenClient, WebhookConfig, WorkspaceTrust,
};

use crate::{endpoint::Allowed, line::Ordering, settings::Limits};

/// Changes of its webhooks that a slow partition may miss before it has to look at all of them.
const CHANGES: usize = 1_024;

/// What holds for a webhook that says nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Defaults {
    retry: RetryPolicy,
    in_flight: usize,
    in_flight_max: usize,
}

impl Defaults {
    pub(crate) fn of(retry: &RetryPolicy, limits: &Limits) -> Self {
        Self {
            retry: *retry,
            in_flight: limits.per_endpoint,
            in_flight_max: limits.per_endpoint_max.max(limits.per_endpoint),
        }
    }
}

/// What delivery needs to know of one webhook. Not to be printed: the URL may carry a key.
pub(crate) struct Target {
    pub(crate) workspace: Uuid,
    /// Its status as configured; deliveries may have made another one of it.
    pub(crate) configured: Configured,
    /// What becomes of what was held before `held_choice_at` (microseconds), while it is active.
    pub(crate) held_choice: HeldChoice,
    pub(crate) held_choice_at: i64,
    /// Most deliveries held for it; `None` = as many as HELD takes.
    pub(crate) held_max: Option<u32>,
    pub(crate) url: Result<EndpointUrl, EndpointRefusal>,
    /// The same without what the extras append to its query.
    pub(crate) plain_url: Result<EndpointUrl, EndpointRefusal>,
    /// SHA-256 of the URL as it was configured.
    pub(crate) endpoint: EndpointHash,
    /// When its failed deliveries are tried again.
    pub(crate) retry: RetryPolicy,
    /// What it may do at a time.
    pub(crate) allowed: Allowed,
    /// Keys, newest first, with the time after which they sign no more (0 = never).
    keys: Vec<(SigningKey, i64)>,
    /// The same of those that sign with `v1a` beside them.
    asymmetric: Vec<(AsymmetricKey, i64)>,
    /// The customer's own headers: none of them one of ours, each marked as sensitive.
    pub(crate) headers: HeaderMap,
    /// A secret could not be opened: our fault, not the customer's.
    pub(crate) sealed_shut: bool,
    /// Where its access tokens come from.
    pub(crate) tokens: Option<Arc<TokenSource>>,
    client: Option<Arc<ClientCertificate>>,
    tls: RwLock<Tls>,
    /// Of the configuration that it was made of.
    digest: u64,
}

/// A webhook's sides of TLS, as the installation's when there is none.
#[derive(Clone, Default)]
pub(crate) struct Tls {
    /// With its endpoint.
    pub(crate) endpoint: Option<Arc<TlsIdentity>>,
    /// With its token endpoint, which sees no client certificate.
    pub(crate) tokens: Option<Arc<TlsIdentity>>,
}

impl Target {
    /// The keys that sign at `now_micros`.
    pub(crate) fn keys_at(&self, now_micros: i64) -> Vec<SigningKey> {
        signing::keys_at(&self.keys, now_micros)
    }

    /// The ed25519 keys that sign at `now_micros`.
    pub(crate) fn asymmetric_at(&self, now_micros: i64) -> Vec<AsymmetricKey> {
        signing::keys_at(&self.asymmetric, now_micros)
    }

    /// Its sides of TLS at this moment.
    pub(crate) fn tls(&self) -> Tls {
        let tls = self.tls.read().unwrap_or_else(PoisonError::into_inner);
        tls.clone()
    }

    /// Its workspace trusts these authorities from now on.
    fn trust(&self, authorities: Option<&Arc<Authorities>>) {
        let identity = |client: Option<&Arc<ClientCertificate>>| {
            (authorities.is_some() || client.is_some())
                .then(|| Arc::new(TlsIdentity::of(authorities.cloned(), client.cloned())))
        };
        let tls = Tls {
            endpoint: identity(self.client.as_ref()),
            tokens: identity(None),
        };
        *self.tls.write().unwrap_or_else(PoisonError::into_inner) = tls;
    }
}

/// All webhooks.
pub(crate) struct Registry {
    targets: RwLock<HashMap<Uuid, Arc<Target>>>,
    /// By workspace; held while targets change, so that none misses a change.
    authorities: Mutex<HashMap<Uuid, Arc<Authorities>>>,
    policy: AddressPolicy,
    keyring: Keyring,
    defaults: Defaults,
    /// One for each partition.
    changes: Vec<broadcast::Sender<Uuid>>,
    digests: RandomState,
}

impl Registry {
    pub(crate) fn new(
        policy: AddressPolicy,
        keyring: Keyring,
        defaults: Defaults,
        partitions: u16,
    ) -> Self {
        Self {
            targets: RwLock::default(),
            authorities: Mutex::default(),
            policy,
            keyring,
            defaults,
            changes: (0..partitions)
                .map(|_| broadcast::Sender::new(CHANGES))
                .collect(),
            digests: RandomState::new(),
        }
    }

    pub(crate) fn get(&self, webhook: Uuid) -> Option<Arc<Target>> {
        self.targets
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&webhook)
            .cloned()
    }

    /// Every webhook.
    pub(crate) fn ids(&self) -> Vec<Uuid> {
        let targets = self.targets.read().unwrap_or_else(PoisonError::into_inner);
        targets.keys().copied().collect()
    }

    /// When failed deliveries of a webhook are tried again.
    pub(crate) fn retry_of(&self, webhook: Uuid) -> RetryPolicy {
        self.get(webhook)
            .map_or(self.defaults.retry, |target| target.retry)
    }

    /// Tells of a partition's webhooks that have changed or gone. `None` = there is no such partition.
    pub(crate) fn changes(&self, partition: u16) -> Option<broadcast::Receiver<Uuid>> {
        self.changes
            .get(usize::from(partition))
            .map(broadcast::Sender::subscribe)
    }

    fn tell(&self, webhook: Uuid) {
        let partitions = u16::try_from(self.changes.len()).unwrap_or(u16::MAX);
        let partition = partition_of(webhook, partitions);
        if let Some(changes) = self.changes.get(usize::from(partition)) {
            // Nobody listening is fine: the partition is not ours.
            changes.send(webhook).ok();
        }
    }

    fn digest(&self, config: &WebhookConfig) -> u64 {
        self.digests.hash_one(config.encode_to_vec())
    }

    fn make(&self, config: &WebhookConfig) -> Target {
        let mut keys = Vec::with_capacity(config.secrets.len());
        let mut opened = true;
        for secret in &config.secrets {
            let key = self
                .open(config, Purpose::SigningKey, secret)
                .and_then(|key| SigningKey::from_bytes(key).map_err(|error| error.to_string()));
            match key {
                Ok(key) => keys.push((key, secret.expires_at)),
                Err(error) => opened = cannot_open("signing key", secret, &error),
            }
        }
        let mut asymmetric = Vec::new();
        for secret in config.ed25519.iter().chain(&config.old_ed25519) {
            let seed = self
                .open(config, Purpose::Ed25519, secret)
                .and_then(|seed| {
                    seed.try_into()
                        .map_err(|_| "a seed has 32 bytes".to_owned())
                });
            match seed {
                Ok(seed) => asymmetric.push((AsymmetricKey::from_seed(seed), secret.expires_at)),
                Err(error) => opened = cannot_open("ed25519 key", secret, &error),
            }
        }
        let mut extras = EndpointExtras::default();
        if let Some(secret) = &config.extras {
            let read = self
                .open(config, Purpose::Extras, secret)
                .and_then(|bytes| {
                    EndpointExtras::decode(bytes.as_slice()).map_err(|error| error.to_string())
                });
            match read {
                Ok(read) => extras = read,
                Err(error) => opened = cannot_open("custom headers", secret, &error),
            }
        }
        let client = match extras.client_certificate.as_ref().map(client_certificate) {
            None => None,
            Some(Ok(client)) => Some(Arc::new(client)),
            Some(Err(error)) => {
                tracing::error!(%error, webhook.id = %shown(config), "a client certificate that was accepted does not work");
                opened = false;
                None
            }
        };
        Target {
            workspace: Uuid::from_slice(&config.workspace_id).unwrap_or_default(),
            configured: webhooks_bus::configured(config),
            held_choice: config.held_choice(),
            held_choice_at: config.held_choice_at,
            held_max: config.held_max,
            url: whole_url(&config.endpoint_url, &extras, &self.policy),
            plain_url: EndpointUrl::parse(&config.endpoint_url, &self.policy),
            endpoint: endpoint_hash(&config.endpoint_url),
            retry: self.retry(config),
            allowed: self.allowed(config),
            sealed_shut: !opened || keys.is_empty(),
            keys,
            asymmetric,
            headers: custom_headers(config, &extras),
            tokens: extras.token.map(|client| Arc::new(self.tokens(client))),
            client,
            tls: RwLock::default(),
            digest: self.digest(config),
        }
    }

    fn retry(&self, config: &WebhookConfig) -> RetryPolicy {
        let Some(own) = &config.retry else {
            return self.defaults.retry;
        };
        let policy = RetryPolicy::from_numbers(
            own.max_attempts,
            own.base_ms,
            own.factor_milli,
            own.cap_ms,
            own.jitter_milli,
            own.max_age_ms,
        );
        match policy.validate() {
            Ok(()) => RetryPolicy {
                immediate: self.defaults.retry.immediate,
                ..policy
            },
            Err(error) => {
                tracing::error!(%error, webhook.id = %shown(config), "a retry policy is out of bounds");
                self.defaults.retry
            }
        }
    }

    fn allowed(&self, config: &WebhookConfig) -> Allowed {
        let cap = match usize::try_from(config.max_in_flight) {
            Ok(0) | Err(_) => self.defaults.in_flight,
            Ok(own) => own.min(self.defaults.in_flight_max),
        };
        let rate = config.rate.as_ref().and_then(|rate| {
            RateLimit::new(rate.count, rate.period_seconds, rate.burst)
                .inspect_err(|error| {
                    tracing::error!(%error, webhook.id = %shown(config), "a rate limit is out of bounds");
                })
                .ok()
        });
        let ordering = match config.ordering() {
            ConfiguredOrdering::None => Ordering::None,
            ConfiguredOrdering::Link => Ordering::Link,
            ConfiguredOrdering::Visitor => Ordering::Visitor,
        };
        Allowed {
            cap,
            rate,
            ordering,
        }
    }

    fn tokens(&self, client: TokenClient) -> TokenSource {
        let credentials = ClientCredentials {
            id: client.client_id,
            secret: client.client_secret,
            scopes: client.scopes,
            audience: client.audience,
            auth: match client.in_body {
                true => ClientAuth::Post,
                false => ClientAuth::Basic,
            },
        };
        TokenSource::new(EndpointUrl::parse(&client.url, &self.policy), credentials)
    }

    fn open(
        &self,
        config: &WebhookConfig,
        purpose: Purpose,
        secret: &SealedSecret,
    ) -> Result<Vec<u8>, String> {
        let id = |bytes: &[u8]| Uuid::from_slice(bytes).map_err(|error| error.to_string());
        let binding = Binding {
            workspace: id(&config.workspace_id)?,
            webhook: id(&config.id)?,
            version: secret.version,
        };
        let nonce = secret
            .nonce
            .as_ref()
            .try_into()
            .map_err(|_| "a nonce has 24 bytes".to_owned())?;
        let sealed = Sealed {
            key_id: secret.key_id.clone(),
            nonce,
            ciphertext: secret.ciphertext.to_vec(),
        };
        self.keyring
            .open_for(purpose, binding, &sealed)
            .map_err(|error| error.to_string())
    }
}

fn client_certificate(sealed: &SealedCertificate) -> Result<ClientCertificate, TlsIdentityError> {
    ClientCertificate::new(&sealed.chain, &sealed.private_key)
}

/// Always false: it is not open.
fn cannot_open(what: &str, secret: &SealedSecret, error: &str) -> bool {
    tracing::error!(
        error,
        key.id = secret.key_id,
        what,
        "a secret does not open"
    );
    false
}

fn shown(config: &WebhookConfig) -> Uuid {
    Uuid::from_slice(&config.id).unwrap_or_default()
}

/// The URL to call, with what the extras append to its query.
fn whole_url(
    text: &str,
    extras: &EndpointExtras,
    policy: &AddressPolicy,
) -> Result<EndpointUrl, EndpointRefusal> {
    let pairs = extras.query.iter().map(|pair| (&pair.name, &pair.value));
    EndpointUrl::parse(text, policy)?.with_query(pairs, policy)
}

/// The custom headers that may be sent. One that may not (it was refused when it was saved) is left
/// out; the others go.
fn custom_headers(config: &WebhookConfig, extras: &EndpointExtras) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(extras.headers.len());
    let mut left_out = 0;
    for header in &extras.headers {
        let one = [(header.name.as_str(), header.value.as_str())];
        let checked = CustomHeaders::check(one).ok();
        let Some((name, mut value)) = checked.as_ref().and_then(|checked| {
            let (name, value) = checked.iter().next()?;
            let name = HeaderName::try_from(name).ok()?;
            Some((name, HeaderValue::try_from(value).ok()?))
        }) else {
            left_out += 1;
            continue;
        };
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    if left_out > 0 {
        tracing::error!(webhook.id = %shown(config), left_out, "custom headers that may not be sent");
    }
    headers
}

impl ConfigSink for Registry {
    fn webhook(&self, id: Uuid, config: Option<WebhookConfig>) {
        // The read model is read from its beginning whenever it is opened anew: what is known already
        // costs no opening of secrets and is no news, or a hundred thousand of them would never end.
        let known = self.get(id).map(|known| known.digest);
        if known == config.as_ref().map(|config| self.digest(config)) {
            return;
        }
        let mut target = config.map(|config| self.make(&config));
        {
            let authorities = self
                .authorities
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if let Some(target) = &mut target {
                target.trust(authorities.get(&target.workspace));
                // A change of something else costs no token.
                let before = self.get(id).and_then(|before| before.tokens.clone());
                if let (Some(before), Some(own)) = (before, &mut target.tokens)
                    && before.is_same(own)
                {
                    *own = before;
                }
            }
            let target = target.map(Arc::new);
            let mut targets = self.targets.write().unwrap_or_else(PoisonError::into_inner);
            match target {
                Some(target) => targets.insert(id, target),
                None => targets.remove(&id),
            };
        }
        self.tell(id);
    }

    fn trust(&self, workspace: Uuid, trust: WorkspaceTrust) {
        let mut all = self
            .authorities
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.remove(&workspace);
        if !trust.authorities.is_empty() {
            match Authorities::new(&trust.authorities) {
                Ok(authorities) => {
                    all.insert(workspace, Arc::new(authorities));
                }
                Err(error) => {
                    tracing::error!(%error, workspace.id = %workspace, "authorities that were accepted do not work");
                }
            }
        }
        let targets = self.targets.read().unwrap_or_else(PoisonError::into_inner);
        for target in targets.values().filter(|one| one.workspace == workspace) {
            target.trust(all.get(&workspace));
        }
    }

    fn reset(&self) {
        self.authorities
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        self.targets
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTITIONS: u16 = 4;

    fn registry() -> Registry {
        let keyring = Keyring::parse(&format!("k1:{}=", "A".repeat(43))).unwrap();
        let defaults = Defaults {
            retry: RetryPolicy::STANDARD,
            in_flight: 8,
            in_flight_max: 64,
        };
        Registry::new(AddressPolicy::default(), keyring, defaults, PARTITIONS)
    }

    fn config(id: Uuid, revision: i64) -> WebhookConfig {
        WebhookConfig {
            id: id.as_bytes().to_vec().into(),
            workspace_id: Uuid::from_u128(7).as_bytes().to_vec().into(),
            endpoint_url: "https://a.example/hook".to_owned(),
            revision,
            ..WebhookConfig::default()
        }
    }

    #[test]
    fn its_partition_is_told_of_a_change_and_of_nothing_that_it_knows() {
        let registry = registry();
        let id = Uuid::from_u128(5);
        let own = partition_of(id, PARTITIONS);
        let mut own_changes = registry.changes(own).unwrap();
        let mut others: Vec<_> = (0..PARTITIONS)
            .filter(|other| *other != own)
            .map(|other| registry.changes(other).unwrap())
            .collect();
        // Nothing is gone that was never there.
        registry.webhook(id, None);
        assert!(own_changes.try_recv().is_err());
        registry.webhook(id, Some(config(id, 1)));
        assert_eq!(own_changes.try_recv(), Ok(id));
        let first = registry.get(id).unwrap();
        registry.webhook(id, Some(config(id, 1)));
        assert!(own_changes.try_recv().is_err());
        assert!(Arc::ptr_eq(&first, &registry.get(id).unwrap()));
        registry.webhook(id, Some(config(id, 2)));
        assert_eq!(own_changes.try_recv(), Ok(id));
        registry.webhook(id, None);
        assert_eq!(own_changes.try_recv(), Ok(id));
        assert!(registry.get(id).is_none());
        assert!(others.iter_mut().all(|other| other.try_recv().is_err()));
        assert!(registry.changes(PARTITIONS).is_none());
    }
}
