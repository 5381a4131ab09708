//! The options of a webhook over REST: set, shown, in the read model, and never a secret of them
//! where it does not belong.

mod changes;
mod credentials;
mod public_keys;
mod secrets;
mod shown;

use prost::Message as _;
use serde_json::{Value, json};
use uuid::Uuid;
use webhooks_domain::{
    sealing::{Binding, Keyring, Purpose, Sealed},
    signing::SigningKey,
};
use webhooks_proto::internal::v1 as wire;

use crate::support::{ENCRYPTION_KEYS, World};

/// A secret that a caller drew.
const OWN_SECRET: &str = "whsec_llO//GAFkYaZqXnBO/YM78G0NjgbWVzX";

fn path(id: Uuid) -> String {
    format!("/v1/webhooks/{id}")
}

/// Where its keys are rotated.
fn rotation(id: Uuid) -> String {
    format!("{}/secret/rotate", path(id))
}

/// A webhook as the data plane reads it.
pub(crate) async fn configured(world: &World, workspace: Uuid, id: Uuid) -> wire::WebhookConfig {
    let bucket = world.bus.jetstream().get_key_value("CONFIG").await.unwrap();
    let entry = bucket.get(format!("w.{workspace}.{id}")).await.unwrap();
    wire::WebhookConfig::decode(entry.unwrap()).unwrap()
}

pub(crate) fn open(
    config: &wire::WebhookConfig,
    purpose: Purpose,
    secret: &wire::SealedSecret,
) -> Vec<u8> {
    let binding = Binding {
        workspace: Uuid::from_slice(&config.workspace_id).unwrap(),
        webhook: Uuid::from_slice(&config.id).unwrap(),
        version: secret.version,
    };
    let sealed = Sealed {
        key_id: secret.key_id.clone(),
        nonce: secret.nonce.as_ref().try_into().unwrap(),
        ciphertext: secret.ciphertext.to_vec(),
    };
    let keyring = Keyring::parse(ENCRYPTION_KEYS).unwrap();
    keyring.open_for(purpose, binding, &sealed).unwrap()
}

/// The keys that sign at `at`, as a dispatcher takes them from the read model.
fn signing_keys(config: &wire::WebhookConfig, at: i64) -> Vec<SigningKey> {
    config
        .secrets
        .iter()
        .filter(|secret| secret.expires_at == 0 || at < secret.expires_at)
        .map(|secret| SigningKey::from_bytes(open(config, Purpose::SigningKey, secret)).unwrap())
        .collect()
}

fn full_body() -> Value {
    json!({
        "name": "CRM",
        "endpointUrl": "https://example.com/hook",
        "description": "orders\nof the north",
        "labels": { "team": "blue", "cost-centre": "7" },
        "eventActions": ["EVENT_ACTION_FORM_SUBMIT", "CLIENT_REDIRECT", "FORM_SUBMIT"],
        "status": "WEBHOOK_STATUS_PAUSED",
        "retryPolicy": { "maxAttempts": 5, "baseSeconds": 1.5, "factor": 3 },
        "rateLimit": { "count": 600, "periodSeconds": 60 },
        "maxInFlight": 2,
        "ordering": "LINK",
        "headers": [{ "name": "X-Team", "value": "canary-header-value" }],
        "auth": { "type": "apiKey", "in": "query", "name": "key", "value": "canary-key" },
        "signatures": ["v1", "v1a"],
    })
}
