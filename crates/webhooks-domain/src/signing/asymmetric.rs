//! Standard Webhooks signatures, version `v1a` (ed25519): the receiver holds a public key only, so
//! what it knows cannot sign.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signature, Signer as _, Verifier as _, VerifyingKey};

/// Bytes of a key's seed, which is all there is to keep of it.
pub const SEED_BYTES: usize = 32;

const PUBLIC_PREFIX: &str = "whpk_";
const TOKEN_PREFIX: &str = "v1a,";

/// A webhook's ed25519 key. Never printed.
#[derive(Clone)]
pub struct AsymmetricKey(ed25519_dalek::SigningKey);

impl fmt::Debug for AsymmetricKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AsymmetricKey(***)")
    }
}

impl AsymmetricKey {
    /// The key of a seed that the caller drew at random, or kept.
    #[must_use]
    pub fn from_seed(seed: [u8; SEED_BYTES]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(&seed))
    }

    /// The seed, for sealing.
    #[must_use]
    pub fn seed(&self) -> [u8; SEED_BYTES] {
        self.0.to_bytes()
    }

    /// The public key in the specification's spelling, `whpk_` and base64. No secret.
    #[must_use]
    pub fn public_key(&self) -> String {
        let bytes = self.0.verifying_key().to_bytes();
        format!("{PUBLIC_PREFIX}{}", STANDARD.encode(bytes))
    }

    /// One token for the `webhook-signature` header. Tokens of several keys and versions stand in
    /// it with single spaces between.
    #[must_use]
    pub fn sign(&self, id: &str, timestamp_seconds: i64, body: &[u8]) -> String {
        let signature = self.0.sign(&signed(id, timestamp_seconds, body));
        format!("{TOKEN_PREFIX}{}", STANDARD.encode(signature.to_bytes()))
    }
}

/// Whether `header` holds a valid `v1a` token for the public key (`whpk_…`). For our own receivers
/// and tests; customers use the Standard Webhooks libraries.
#[must_use]
pub fn verify_v1a(
    public_key: &str,
    id: &str,
    timestamp_seconds: i64,
    body: &[u8],
    header: &str,
) -> bool {
    let Some(key) = parse_public(public_key) else {
        return false;
    };
    let content = signed(id, timestamp_seconds, body);
    header
        .split(' ')
        .filter_map(|token| token.strip_prefix(TOKEN_PREFIX))
        .filter_map(|encoded| Signature::from_slice(&STANDARD.decode(encoded).ok()?).ok())
        .any(|signature| key.verify(&content, &signature).is_ok())
}

fn parse_public(text: &str) -> Option<VerifyingKey> {
    let bytes = STANDARD.decode(text.strip_prefix(PUBLIC_PREFIX)?).ok()?;
    VerifyingKey::from_bytes(bytes.as_slice().try_into().ok()?).ok()
}

fn signed(id: &str, timestamp_seconds: i64, body: &[u8]) -> Vec<u8> {
    let mut content = format!("{id}.{timestamp_seconds}.").into_bytes();
    content.extend_from_slice(body);
    content
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_public_key_verifies_and_any_change_breaks_it() {
        let key = AsymmetricKey::from_seed([7; 32]);
        let public = key.public_key();
        let header = format!("v1,AAAA {}", key.sign("msg_1", 5, b"{}"));
        assert!(verify_v1a(&public, "msg_1", 5, b"{}", &header));
        assert!(!verify_v1a(&public, "msg_2", 5, b"{}", &header));
        assert!(!verify_v1a(&public, "msg_1", 6, b"{}", &header));
        assert!(!verify_v1a(&public, "msg_1", 5, b"{ }", &header));
        let other = AsymmetricKey::from_seed([8; 32]).public_key();
        assert!(!verify_v1a(&other, "msg_1", 5, b"{}", &header));
        assert!(!verify_v1a("whpk_AAAA", "msg_1", 5, b"{}", &header));
    }

    /// RFC 8032, section 7.1, test 1: the key pair.
    #[test]
    fn a_seed_has_the_standards_public_key() {
        let seed = STANDARD.decode("nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=");
        let key = AsymmetricKey::from_seed(seed.unwrap().try_into().unwrap());
        let expected = "whpk_11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
        assert_eq!(key.public_key(), expected);
        assert_eq!(format!("{key:?}"), "AsymmetricKey(***)");
        assert_eq!(AsymmetricKey::from_seed(key.seed()).public_key(), expected);
    }
}
