//! Standard Webhooks signatures: version `v1` (HMAC-SHA256) here, `v1a` (ed25519) as
//! [`AsymmetricKey`].
//!
//! Signed are the bytes `id.timestamp.body`; the header holds one token per valid secret,
//! separated by single spaces (two would crash the Python verifier). Source: Standard Webhooks
//! specification 1.0.0.

mod asymmetric;
mod chosen;

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

pub use asymmetric::{AsymmetricKey, SEED_BYTES, verify_v1a};
pub use chosen::MIN_BITS;

/// Shortest and longest signing key, in bytes (Standard Webhooks, "Signature scheme").
pub const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// Length of the keys we make, in bytes.
pub const NEW_KEY_BYTES: usize = 32;

/// Most keys of one kind (secrets, ed25519 keys) that go on signing beside its newest one while
/// overlaps last.
pub const MAX_OLD_KEYS: usize = 10;

/// Bytes of a `v1` token: its name, and 32 bytes in base64.
const V1_TOKEN_BYTES: usize = 3 + 44;

/// Bytes of a `v1a` token: its name, and 64 bytes in base64.
const V1A_TOKEN_BYTES: usize = 4 + 88;

/// Most bytes of a `webhook-signature` header: every key of both kinds, with single spaces between.
pub const MAX_HEADER_BYTES: usize = (MAX_OLD_KEYS + 1) * (V1_TOKEN_BYTES + V1A_TOKEN_BYTES + 2) - 1;

const PREFIX: &str = "whsec_";

/// A webhook's signing key. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningKey(Vec<u8>);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(***)")
    }
}

/// Why a text is no signing secret.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SecretError {
    /// The prefix is missing.
    #[error("a secret starts with \"whsec_\"")]
    Prefix,
    /// Not base64.
    #[error("a secret is standard base64 with padding after its prefix")]
    Encoding,
    /// Too short or too long.
    #[error("a secret holds 24 to 64 bytes")]
    Length,
    /// Anybody may know it.
    #[error("a secret is drawn at random: this one is published as an example")]
    Published,
    /// Each byte is one step from the one before it.
    #[error("a secret is drawn at random: this one counts")]
    Counts,
    /// It seems to hold fewer than [`MIN_BITS`] bits.
    #[error("a secret is drawn at random: this one repeats its bytes")]
    Repeats,
    /// It is text for people.
    #[error("a secret is drawn at random: this one reads as words")]
    Words,
}

impl SigningKey {
    /// A key of random bytes that the caller drew.
    #[must_use]
    pub fn from_random(bytes: [u8; NEW_KEY_BYTES]) -> Self {
        Self(bytes.to_vec())
    }

    /// A key from its raw bytes.
    ///
    /// # Errors
    /// When the length is outside [`KEY_BYTES`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, SecretError> {
        if KEY_BYTES.contains(&bytes.len()) {
            Ok(Self(bytes))
        } else {
            Err(SecretError::Length)
        }
    }

    /// Reads the customer's spelling, `whsec_` and base64.
    ///
    /// # Errors
    /// Names what is wrong; never repeats the text.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let encoded = text.strip_prefix(PREFIX).ok_or(SecretError::Prefix)?;
        Self::from_bytes(
            STANDARD
                .decode(encoded)
                .map_err(|_| SecretError::Encoding)?,
        )
    }

    /// Reads a secret that a customer chose: like [`Self::parse`], and strong enough.
    ///
    /// The check is against what people type, fill in or copy (a pattern over and over, a counter,
    /// words, a published example), not a proof of entropy. Random bytes pass, and random text too.
    ///
    /// # Errors
    /// Names what is wrong; never repeats the text.
    pub fn parse_chosen(text: &str) -> Result<Self, SecretError> {
        let key = Self::parse(text)?;
        chosen::judge(&key.0)?;
        Ok(key)
    }

    /// The customer's spelling. Shown once, at creation and rotation.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}", STANDARD.encode(&self.0))
    }

    /// The raw key, for sealing.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The `webhook-signature` header for a body sent at `timestamp_seconds`: a `v1` token per secret, then
/// a `v1a` token per ed25519 key, each kind in the order given.
#[must_use]
pub fn sign_with(
    keys: &[SigningKey],
    asymmetric: &[AsymmetricKey],
    id: &str,
    timestamp_seconds: i64,
    body: &[u8],
) -> String {
    let mut header = sign(keys, id, timestamp_seconds, body);
    for key in asymmetric {
        if !header.is_empty() {
            header.push(' ');
        }
        header.push_str(&key.sign(id, timestamp_seconds, body));
    }
    header
}

/// The keys of one kind that sign at `now_micros`: of `keys`, newest first, each with the time from
/// which on it signs no more (0 = never), those that have not ended, [`MAX_OLD_KEYS`] beside the newest.
#[must_use]
pub fn keys_at<K: Clone>(keys: &[(K, i64)], now_micros: i64) -> Vec<K> {
    keys.iter()
        .filter(|(_, until)| *until == 0 || *until > now_micros)
        .take(MAX_OLD_KEYS + 1)
        .map(|(key, _)| key.clone())
        .collect()
}

/// The `v1` tokens of a `webhook-signature` header: one per key.
#[must_use]
pub fn sign(keys: &[SigningKey], id: &str, timestamp_seconds: i64, body: &[u8]) -> String {
    let mut header = String::with_capacity(keys.len() * 48);
    for key in keys {
        if !header.is_empty() {
            header.push(' ');
        }
        header.push_str("v1,");
        STANDARD.encode_string(
            mac(key, id, timestamp_seconds, body)
                .finalize()
                .into_bytes(),
            &mut header,
        );
    }
    header
}

/// Whether `header` holds a valid `v1` token for `key`. For our own demo receiver and tests;
/// customers use the Standard Webhooks libraries.
#[must_use]
pub fn verify(
    key: &SigningKey,
    id: &str,
    timestamp_seconds: i64,
    body: &[u8],
    header: &str,
) -> bool {
    header
        .split(' ')
        .filter_map(|token| token.strip_prefix("v1,"))
        .any(|encoded| {
            STANDARD.decode(encoded).is_ok_and(|given| {
                mac(key, id, timestamp_seconds, body)
                    .verify_slice(&given)
                    .is_ok()
            })
        })
}

fn mac(key: &SigningKey, id: &str, timestamp_seconds: i64, body: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(&key.0).expect("HMAC takes a key of any length");
    mac.update(id.as_bytes());
    mac.update(b".");
    mac.update(timestamp_seconds.to_string().as_bytes());
    mac.update(b".");
    mac.update(body);
    mac
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The specification's own example (Standard Webhooks 1.0.0, reference libraries' test).
    #[test]
    fn the_specifications_vector_holds() {
        let key = SigningKey::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let header = sign(
            std::slice::from_ref(&key),
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(header, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert!(verify(
            &key,
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
            &header
        ));
    }

    #[test]
    fn a_rotated_secret_adds_a_token_after_one_space() {
        let (old, new) = (
            SigningKey::from_random([1; 32]),
            SigningKey::from_random([2; 32]),
        );
        let header = sign(&[new.clone(), old.clone()], "m", 1, b"x");
        assert_eq!(header.matches(' ').count(), 1);
        assert!(verify(&old, "m", 1, b"x", &header) && verify(&new, "m", 1, b"x", &header));
    }

    #[test]
    fn during_an_overlap_both_public_keys_verify_and_from_its_end_on_only_the_new_one() {
        let secret = SigningKey::from_random([1; 32]);
        let (old, new) = (
            AsymmetricKey::from_seed([2; 32]),
            AsymmetricKey::from_seed([3; 32]),
        );
        let (old_public, new_public) = (old.public_key(), new.public_key());
        let pairs = [(new, 0), (old, 1_000)];
        let header = |now| {
            let pairs = keys_at(&pairs, now);
            sign_with(std::slice::from_ref(&secret), &pairs, "m", 1, b"x")
        };
        let during = header(999);
        let tokens: Vec<&str> = during.split(' ').collect();
        assert_eq!(tokens.len(), 3, "{during}");
        assert!(verify(&secret, "m", 1, b"x", tokens[0]));
        assert!(verify_v1a(&new_public, "m", 1, b"x", tokens[1]));
        assert!(verify_v1a(&old_public, "m", 1, b"x", tokens[2]));
        for now in [1_000, 1_001, i64::MAX] {
            let after = header(now);
            assert_eq!(after.split(' ').count(), 2, "{after}");
            assert!(verify_v1a(&new_public, "m", 1, b"x", &after));
            assert!(!verify_v1a(&old_public, "m", 1, b"x", &after));
        }
        let only = sign_with(&[], &keys_at(&pairs, 1_000), "m", 1, b"x");
        assert!(only.starts_with("v1a,"), "no space before the first token");
    }

    #[test]
    fn a_header_is_never_longer_than_its_bound_however_many_keys_there_are() {
        let header = |count: u8| {
            let secrets: Vec<_> = (0..count)
                .map(|byte| (SigningKey::from_random([byte; 32]), 0))
                .collect();
            let pairs: Vec<_> = (0..count)
                .map(|byte| (AsymmetricKey::from_seed([byte; 32]), 0))
                .collect();
            sign_with(&keys_at(&secrets, 5), &keys_at(&pairs, 5), "m", 1, b"x")
        };
        let newest = AsymmetricKey::from_seed([0; 32]).public_key();
        let eleventh = AsymmetricKey::from_seed([10; 32]).public_key();
        let twelfth = AsymmetricKey::from_seed([11; 32]).public_key();
        assert_eq!(MAX_HEADER_BYTES, 1_550);
        for count in [11, 12, 40] {
            let header = header(count);
            assert_eq!(header.len(), MAX_HEADER_BYTES, "{count}");
            assert!(verify_v1a(&newest, "m", 1, b"x", &header));
            assert!(verify_v1a(&eleventh, "m", 1, b"x", &header));
            assert!(!verify_v1a(&twelfth, "m", 1, b"x", &header));
        }
        assert!(header(10).len() < MAX_HEADER_BYTES);
    }

    #[test]
    fn a_bad_secret_says_why_and_debug_hides_it() {
        assert_eq!(
            SigningKey::parse("secret").unwrap_err(),
            SecretError::Prefix
        );
        assert_eq!(
            SigningKey::parse("whsec_!").unwrap_err(),
            SecretError::Encoding
        );
        assert_eq!(
            SigningKey::parse("whsec_AAAA").unwrap_err(),
            SecretError::Length
        );
        assert_eq!(
            format!("{:?}", SigningKey::from_random([7; 32])),
            "SigningKey(***)"
        );
    }

    #[test]
    fn a_chosen_secret_is_judged_and_a_stored_one_is_only_read() {
        let example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        assert_eq!(
            SigningKey::parse_chosen(example).unwrap_err(),
            SecretError::Published
        );
        SigningKey::parse(example).unwrap();
        SigningKey::parse_chosen("whsec_llO//GAFkYaZqXnBO/YM78G0NjgbWVzX").unwrap();
        assert_eq!(
            SigningKey::parse_chosen("whsec_AAAA").unwrap_err(),
            SecretError::Length
        );
    }

    proptest! {
        #[test]
        fn any_change_breaks_the_signature(body in prop::collection::vec(any::<u8>(), 1..200), at in 0usize..200, flip in 1u8..) {
            let key = SigningKey::from_random([9; 32]);
            let header = sign(std::slice::from_ref(&key), "m", 5, &body);
            prop_assert!(verify(&key, "m", 5, &body, &header));
            let mut other = body.clone();
            let at = at % other.len();
            other[at] ^= flip;
            prop_assert!(!verify(&key, "m", 5, &other, &header));
            prop_assert!(!verify(&key, "m", 6, &body, &header));
            prop_assert!(!verify(&key, "n", 5, &body, &header));
        }

        #[test]
        fn secrets_round_trip(bytes in prop::collection::vec(any::<u8>(), 24..=64)) {
            let key = SigningKey::from_bytes(bytes).unwrap();
            prop_assert_eq!(SigningKey::parse(&key.reveal()).unwrap(), key);
        }
    }
}
