//! The webhooks as this dispatcher knows them: the read model, made ready for sending.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use tokio::sync::broadcast;
use uuid::Uuid;
use webhooks_bus::ConfigSink;
use webhooks_domain::{
    endpoint::{AddressPolicy, EndpointRefusal, EndpointUrl},
    sealing::{Binding, Keyring, Sealed},
    signing::SigningKey,
};
use webhooks_proto::internal::v1::{SealedSecret, Status, WebhookConfig};

/// Status changes that a slow listener may miss before it has to look at everything.
const CHANGES: usize = 1_024;

/// What delivery needs to know of one webhook.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) status: Status,
    pub(crate) url: Result<EndpointUrl, EndpointRefusal>,
    /// Keys with the time after which they sign no more (0 = never).
    keys: Vec<(SigningKey, i64)>,
    /// A secret could not be opened: our fault, not the customer's.
    pub(crate) sealed_shut: bool,
}

impl Target {
    /// The keys that sign at `now_micros`.
    pub(crate) fn keys_at(&self, now_micros: i64) -> Vec<SigningKey> {
        self.keys
            .iter()
            .filter(|(_, until)| *until == 0 || *until > now_micros)
            .map(|(key, _)| key.clone())
            .collect()
    }
}

/// All webhooks.
pub(crate) struct Registry {
    targets: RwLock<HashMap<Uuid, Arc<Target>>>,
    policy: AddressPolicy,
    keyring: Keyring,
    changes: broadcast::Sender<Uuid>,
}

impl Registry {
    pub(crate) fn new(policy: AddressPolicy, keyring: Keyring) -> Self {
        Self {
            targets: RwLock::default(),
            policy,
            keyring,
            changes: broadcast::Sender::new(CHANGES),
        }
    }

    pub(crate) fn get(&self, webhook: Uuid) -> Option<Arc<Target>> {
        self.targets
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&webhook)
            .cloned()
    }

    /// Tells of webhooks that have changed or gone.
    pub(crate) fn changes(&self) -> broadcast::Receiver<Uuid> {
        self.changes.subscribe()
    }

    fn make(&self, config: &WebhookConfig) -> Target {
        let mut sealed_shut = false;
        let mut keys = Vec::with_capacity(config.secrets.len());
        for secret in &config.secrets {
            match self.open(config, secret) {
                Ok(key) => keys.push((key, secret.expires_at)),
                Err(error) => {
                    sealed_shut = true;
                    tracing::error!(
                        error,
                        key.id = secret.key_id,
                        "a signing secret does not open"
                    );
                }
            }
        }
        Target {
            status: Status::try_from(config.status).unwrap_or(Status::Unspecified),
            url: EndpointUrl::parse(&config.endpoint_url, &self.policy),
            sealed_shut: sealed_shut || keys.is_empty(),
            keys,
        }
    }

    fn open(&self, config: &WebhookConfig, secret: &SealedSecret) -> Result<SigningKey, String> {
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
        let key = self
            .keyring
            .open(binding, &sealed)
            .map_err(|error| error.to_string())?;
        SigningKey::from_bytes(key).map_err(|error| error.to_string())
    }
}

impl ConfigSink for Registry {
    fn webhook(&self, id: Uuid, config: Option<WebhookConfig>) {
        let target = config.map(|config| Arc::new(self.make(&config)));
        {
            let mut targets = self.targets.write().unwrap_or_else(PoisonError::into_inner);
            match target {
                Some(target) => targets.insert(id, target),
                None => targets.remove(&id),
            };
        }
        // Nobody listening is fine: no partition is ours yet.
        self.changes.send(id).ok();
    }

    fn reset(&self) {
        self.targets
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}
