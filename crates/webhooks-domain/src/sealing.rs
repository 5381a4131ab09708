//! Secrets at rest: an envelope of XChaCha20-Poly1305 with a named key and associated data.
//!
//! Each secret is sealed with a data key of its own, drawn for it alone, and the data key with the
//! installation's key, which has a name. So the installation's key touches nothing but data keys, and
//! a change of it seals those anew ([`Keyring::rewrap`]) without a secret being opened. What lies in a
//! row is
//!
//! ```text
//! data key, sealed with the installation's key and the row's nonce   32 + 16 bytes
//! secret, sealed with the data key                                    n + 16 bytes
//! ```
//!
//! The data key seals once, so its nonce is zero. What was sealed before there were data keys (the
//! secret itself under the installation's key) still opens, and becomes an envelope with the next
//! change of the key; which of the two a row is, its tag tells.
//!
//! The associated data, the same for both layers, binds a ciphertext to its workspace, webhook, version and [`Purpose`]: a row
//! copied to another tenant does not open, nor does one put in another's place (custom headers where
//! a signing key belongs). Randomness is drawn by the caller.

use std::{collections::BTreeMap, fmt};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chacha20poly1305::{
    Key, KeyInit as _, XChaCha20Poly1305, XNonce,
    aead::{Aead as _, Payload},
};
use uuid::Uuid;

/// Length of a nonce in bytes.
pub const NONCE_BYTES: usize = 24;

/// Length of a key in bytes.
const KEY_BYTES: usize = 32;

/// Length of the tag behind what is sealed.
const TAG_BYTES: usize = 16;

/// Length of a sealed data key.
const WRAPPED_BYTES: usize = KEY_BYTES + TAG_BYTES;

/// Random bytes that sealing takes: a nonce and a data key.
pub const SEAL_RANDOM_BYTES: usize = NONCE_BYTES + KEY_BYTES;

/// Most keys a keyring holds: one that seals, the others still open.
pub const MAX_KEYS: usize = 8;

/// The keys secrets are sealed with. Never printed.
#[derive(Clone)]
pub struct Keyring {
    active: String,
    keys: BTreeMap<String, XChaCha20Poly1305>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring")
            .field("active", &self.active)
            .finish_non_exhaustive()
    }
}

/// What a sealed secret belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding {
    /// The workspace.
    pub workspace: Uuid,
    /// The webhook.
    pub webhook: Uuid,
    /// Version of the secret, from 1.
    pub version: u32,
}

/// What a sealed secret is for. Part of the associated data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// A key that signs with `v1` (HMAC-SHA256).
    SigningKey,
    /// An encoded `EndpointExtras`: custom headers.
    Extras,
    /// A key that signs with `v1a` (ed25519).
    Ed25519,
    /// An answer that is kept for a repeated call; its webhook is the digest of the caller's key.
    Answer,
}

impl Purpose {
    /// What stands behind workspace, webhook and version. A signing key's is empty: it is how
    /// secrets were sealed before there were other purposes, and those stay readable.
    const fn label(self) -> &'static [u8] {
        match self {
            Self::SigningKey => b"",
            Self::Extras => b"extras",
            Self::Ed25519 => b"ed25519",
            Self::Answer => b"answer",
        }
    }
}

/// A sealed secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Which key opens it.
    pub key_id: String,
    /// The nonce of the data key.
    pub nonce: [u8; NONCE_BYTES],
    /// The data key and the secret, each sealed.
    pub ciphertext: Vec<u8>,
}

/// Why a keyring could not be read or a secret not opened.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SealError {
    /// The keyring's text is not `id:base64[,id:base64…]` with keys of 32 bytes.
    #[error("expected id:base64 pairs, comma separated, each key 32 bytes, at most 8 of them")]
    Keyring,
    /// Sealed with a key that the keyring does not hold.
    #[error("sealed with unknown key {0:?}")]
    UnknownKey(String),
    /// Wrong key, wrong owner or damaged.
    #[error("the secret does not open: damaged, or it belongs elsewhere")]
    Refused,
}

/// Fewest different bytes of a key: 32 random ones have fewer once in 10^20 draws.
const DIFFERENT_BYTES: usize = 12;

/// Whether a key, in base64, was written by a person and not drawn at random: few different bytes, a
/// count, or text. What is no base64 is no key and not judged.
#[must_use]
pub fn is_made_up_key(encoded: &str) -> bool {
    let Ok(key) = STANDARD.decode(encoded.trim()) else {
        return false;
    };
    let different = key.iter().collect::<std::collections::BTreeSet<_>>().len();
    let mut steps = key.windows(2).map(|pair| pair[1].wrapping_sub(pair[0]));
    let first = steps.next();
    different < DIFFERENT_BYTES
        || steps.all(|step| Some(step) == first)
        || key.iter().all(|byte| (b' '..=b'~').contains(byte))
}

impl Keyring {
    /// Reads `id:base64[,id:base64…]`; the first key seals, all of them open.
    ///
    /// # Errors
    /// [`SealError::Keyring`] when the text is anything else.
    pub fn parse(text: &str) -> Result<Self, SealError> {
        let mut keys = BTreeMap::new();
        let mut active = None;
        for pair in text
            .split(',')
            .map(str::trim)
            .filter(|pair| !pair.is_empty())
        {
            let (id, encoded) = pair.split_once(':').ok_or(SealError::Keyring)?;
            let bytes = STANDARD
                .decode(encoded.trim())
                .map_err(|_| SealError::Keyring)?;
            let key = XChaCha20Poly1305::new_from_slice(&bytes).map_err(|_| SealError::Keyring)?;
            if id.is_empty() || keys.insert(id.to_owned(), key).is_some() || keys.len() > MAX_KEYS {
                return Err(SealError::Keyring);
            }
            active.get_or_insert_with(|| id.to_owned());
        }
        Ok(Self {
            active: active.ok_or(SealError::Keyring)?,
            keys,
        })
    }

    /// The id of the key that seals.
    #[must_use]
    pub fn active(&self) -> &str {
        &self.active
    }

    /// Seals a signing key for its owner, with the active key and fresh `random` bytes.
    #[must_use]
    pub fn seal(&self, binding: Binding, secret: &[u8], random: [u8; SEAL_RANDOM_BYTES]) -> Sealed {
        self.seal_for(Purpose::SigningKey, binding, secret, random)
    }

    /// Seals `secret` for its owner and `purpose`, with the active key and fresh `random` bytes.
    #[must_use]
    pub fn seal_for(
        &self,
        purpose: Purpose,
        binding: Binding,
        secret: &[u8],
        random: [u8; SEAL_RANDOM_BYTES],
    ) -> Sealed {
        let (nonce, data_key) = split(random);
        let aad = associated_data(purpose, binding);
        let mut ciphertext = encrypt(self.sealing_key(), &nonce, &data_key, &aad);
        let cipher = XChaCha20Poly1305::new(Key::from_slice(&data_key));
        ciphertext.extend(encrypt(&cipher, &DATA_NONCE, secret, &aad));
        Sealed {
            key_id: self.active.clone(),
            nonce,
            ciphertext,
        }
    }

    /// The same secret with its data key sealed by the active key; `nonce` is fresh. The secret itself
    /// is not opened. `None` = it is no envelope, so it has to be opened and sealed.
    ///
    /// # Errors
    /// As [`Keyring::open_for`].
    pub fn rewrap(
        &self,
        purpose: Purpose,
        binding: Binding,
        sealed: &Sealed,
        nonce: [u8; NONCE_BYTES],
    ) -> Result<Option<Sealed>, SealError> {
        let aad = associated_data(purpose, binding);
        let key = self.key(&sealed.key_id)?;
        let Some((data_key, secret)) = data_key(key, sealed, &aad) else {
            return Ok(None);
        };
        let mut ciphertext = encrypt(self.sealing_key(), &nonce, &data_key, &aad);
        ciphertext.extend_from_slice(secret);
        Ok(Some(Sealed {
            key_id: self.active.clone(),
            nonce,
            ciphertext,
        }))
    }

    /// Opens a signing key for its owner.
    ///
    /// # Errors
    /// As [`Keyring::open_for`].
    pub fn open(&self, binding: Binding, sealed: &Sealed) -> Result<Vec<u8>, SealError> {
        self.open_for(Purpose::SigningKey, binding, sealed)
    }

    /// Opens a secret for its owner and `purpose`.
    ///
    /// # Errors
    /// When the key is unknown, the data damaged, or the owner or purpose another.
    pub fn open_for(
        &self,
        purpose: Purpose,
        binding: Binding,
        sealed: &Sealed,
    ) -> Result<Vec<u8>, SealError> {
        let aad = associated_data(purpose, binding);
        let key = self.key(&sealed.key_id)?;
        let opened = match data_key(key, sealed, &aad) {
            Some((data_key, secret)) => {
                let cipher = XChaCha20Poly1305::new_from_slice(&data_key);
                cipher
                    .ok()
                    .and_then(|cipher| decrypt(&cipher, &DATA_NONCE, secret, &aad))
            }
            None => decrypt(key, &sealed.nonce, &sealed.ciphertext, &aad),
        };
        opened.ok_or(SealError::Refused)
    }

    fn sealing_key(&self) -> &XChaCha20Poly1305 {
        self.keys
            .get(&self.active)
            .expect("the active key is in the ring")
    }

    fn key(&self, id: &str) -> Result<&XChaCha20Poly1305, SealError> {
        self.keys
            .get(id)
            .ok_or_else(|| SealError::UnknownKey(id.to_owned()))
    }
}

/// The nonce of what a data key seals: it seals once.
const DATA_NONCE: [u8; NONCE_BYTES] = [0; NONCE_BYTES];

fn split(random: [u8; SEAL_RANDOM_BYTES]) -> ([u8; NONCE_BYTES], [u8; KEY_BYTES]) {
    let (mut nonce, mut key) = ([0; NONCE_BYTES], [0; KEY_BYTES]);
    nonce.copy_from_slice(&random[..NONCE_BYTES]);
    key.copy_from_slice(&random[NONCE_BYTES..]);
    (nonce, key)
}

/// An envelope's data key, opened, and its sealed secret; `None` = it is none, or not for this owner.
fn data_key<'a>(
    key: &XChaCha20Poly1305,
    sealed: &'a Sealed,
    aad: &[u8],
) -> Option<(Vec<u8>, &'a [u8])> {
    let (wrapped, secret) = sealed.ciphertext.split_at_checked(WRAPPED_BYTES)?;
    // Without this a secret of 32 bytes that was sealed without a data key would pass for one.
    if secret.len() < TAG_BYTES {
        return None;
    }
    Some((decrypt(key, &sealed.nonce, wrapped, aad)?, secret))
}

fn encrypt(key: &XChaCha20Poly1305, nonce: &[u8; NONCE_BYTES], msg: &[u8], aad: &[u8]) -> Vec<u8> {
    key.encrypt(XNonce::from_slice(nonce), Payload { msg, aad })
        .expect("sealing in memory cannot fail")
}

fn decrypt(
    key: &XChaCha20Poly1305,
    nonce: &[u8; NONCE_BYTES],
    msg: &[u8],
    aad: &[u8],
) -> Option<Vec<u8>> {
    key.decrypt(XNonce::from_slice(nonce), Payload { msg, aad })
        .ok()
}

fn associated_data(purpose: Purpose, binding: Binding) -> Vec<u8> {
    let mut data = Vec::with_capacity(48);
    data.extend_from_slice(binding.workspace.as_bytes());
    data.extend_from_slice(binding.webhook.as_bytes());
    data.extend_from_slice(&binding.version.to_be_bytes());
    // Last and alone of variable length, so that no two bindings read alike.
    data.extend_from_slice(purpose.label());
    data
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ring(text: &str) -> Keyring {
        Keyring::parse(text).unwrap()
    }

    fn key(byte: u8) -> String {
        STANDARD.encode([byte; 32])
    }

    #[test]
    fn a_secret_opens_only_for_its_owner_and_version() {
        let ring = ring(&format!("a:{}", key(1)));
        let owner = Binding {
            workspace: Uuid::from_u128(1),
            webhook: Uuid::from_u128(2),
            version: 1,
        };
        let sealed = ring.seal(owner, b"secret", [7; SEAL_RANDOM_BYTES]);
        assert_eq!(ring.open(owner, &sealed).unwrap(), b"secret");
        for other in [
            Binding {
                workspace: Uuid::from_u128(9),
                ..owner
            },
            Binding {
                webhook: Uuid::from_u128(9),
                ..owner
            },
            Binding {
                version: 2,
                ..owner
            },
        ] {
            assert_eq!(ring.open(other, &sealed).unwrap_err(), SealError::Refused);
        }
        let mut damaged = sealed;
        damaged.ciphertext[0] ^= 1;
        assert_eq!(ring.open(owner, &damaged).unwrap_err(), SealError::Refused);
    }

    #[test]
    fn a_key_that_nobody_drew_is_seen() {
        let made_up = |bytes: &[u8]| is_made_up_key(&STANDARD.encode(bytes));
        let counted = |step: u8| {
            (0..32_u8)
                .map(|at| at.wrapping_mul(step))
                .collect::<Vec<_>>()
        };
        for step in [0, 1, 3, 7, 255] {
            assert!(made_up(&counted(step)), "{step}");
        }
        assert!(made_up(b"correct horse battery staple 32!"));
        assert!(made_up(b"0123456789abcdef0123456789abcdef"));
        let repeated: Vec<u8> = (0..32_u8).map(|at| (at % 11).wrapping_mul(97)).collect();
        assert!(made_up(&repeated), "eleven different bytes");
        // Its base64 has many different characters, which is no sign of chance.
        assert!(is_made_up_key(
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
        ));
        assert!(!is_made_up_key(
            "9sX0bUj4Gq7nT2hVw8cLrYpZ3eDmKfA5iOzQ1xWvB6E="
        ));
        assert!(!is_made_up_key("not base64"));
    }

    proptest! {
        #[test]
        fn a_random_key_is_not_made_up(key in any::<[u8; 32]>().prop_filter("drawn", |key| {
            // proptest draws small and equal values more often than chance does.
            key.iter().collect::<std::collections::BTreeSet<_>>().len() > 20
                && key.iter().any(|byte| !byte.is_ascii())
                && key[1].wrapping_sub(key[0]) != key[2].wrapping_sub(key[1])
        })) {
            prop_assert!(!is_made_up_key(&STANDARD.encode(key)));
        }
    }

    #[test]
    fn a_secret_opens_only_for_its_purpose() {
        let ring = ring(&format!("a:{}", key(1)));
        let owner = Binding {
            workspace: Uuid::from_u128(1),
            webhook: Uuid::from_u128(2),
            version: 1,
        };
        let all = [Purpose::SigningKey, Purpose::Extras, Purpose::Ed25519];
        for sealed_for in all {
            let sealed = ring.seal_for(sealed_for, owner, b"secret", [7; SEAL_RANDOM_BYTES]);
            for opened_for in all {
                assert_eq!(
                    ring.open_for(opened_for, owner, &sealed).is_ok(),
                    sealed_for == opened_for
                );
            }
        }
        // What was sealed before there were purposes is a signing key.
        let sealed = ring.seal(owner, b"secret", [7; SEAL_RANDOM_BYTES]);
        assert_eq!(
            ring.open_for(Purpose::SigningKey, owner, &sealed).unwrap(),
            b"secret"
        );
    }

    #[test]
    fn an_old_key_still_opens_and_an_unknown_one_is_named() {
        let owner = Binding {
            workspace: Uuid::nil(),
            webhook: Uuid::nil(),
            version: 1,
        };
        let sealed = ring(&format!("old:{}", key(1))).seal(owner, b"s", [0; SEAL_RANDOM_BYTES]);
        let both = ring(&format!("new:{},old:{}", key(2), key(1)));
        assert_eq!(both.open(owner, &sealed).unwrap(), b"s");
        assert_eq!(both.seal(owner, b"s", [0; SEAL_RANDOM_BYTES]).key_id, "new");
        let only_new = ring(&format!("new:{}", key(2)));
        assert_eq!(
            only_new.open(owner, &sealed).unwrap_err(),
            SealError::UnknownKey("old".into())
        );
    }

    /// As secrets were sealed before there were data keys.
    fn without_envelope(key_byte: u8, owner: Binding, secret: &[u8]) -> Sealed {
        let cipher = XChaCha20Poly1305::new_from_slice(&[key_byte; 32]).unwrap();
        let aad = associated_data(Purpose::SigningKey, owner);
        Sealed {
            key_id: "old".to_owned(),
            nonce: [3; 24],
            ciphertext: encrypt(&cipher, &[3; 24], secret, &aad),
        }
    }

    #[test]
    fn what_was_sealed_without_a_data_key_still_opens_and_is_no_envelope() {
        let owner = Binding {
            workspace: Uuid::from_u128(1),
            webhook: Uuid::from_u128(2),
            version: 1,
        };
        let ring = ring(&format!("old:{}", key(1)));
        for length in [0, 1, 32, 33, 64, 500] {
            let secret = vec![5; length];
            let sealed = without_envelope(1, owner, &secret);
            assert_eq!(ring.open(owner, &sealed).unwrap(), secret);
            let rewrapped = ring.rewrap(Purpose::SigningKey, owner, &sealed, [1; 24]);
            assert_eq!(rewrapped.unwrap(), None);
        }
    }

    #[test]
    fn a_change_of_the_key_seals_the_data_key_anew_and_leaves_the_secret_closed() {
        let owner = Binding {
            workspace: Uuid::from_u128(1),
            webhook: Uuid::from_u128(2),
            version: 1,
        };
        let random = std::array::from_fn(|byte| u8::try_from(byte).unwrap());
        let sealed = ring(&format!("old:{}", key(1))).seal(owner, b"secret", random);
        let both = ring(&format!("new:{},old:{}", key(2), key(1)));
        let renewed = both
            .rewrap(Purpose::SigningKey, owner, &sealed, [8; 24])
            .unwrap()
            .unwrap();
        assert_eq!(
            (renewed.key_id.as_str(), renewed.nonce),
            ("new", [8; NONCE_BYTES])
        );
        let secret_of = |sealed: &Sealed| sealed.ciphertext[WRAPPED_BYTES..].to_vec();
        assert_eq!(secret_of(&renewed), secret_of(&sealed));
        let only_new = ring(&format!("new:{}", key(2)));
        assert_eq!(only_new.open(owner, &renewed).unwrap(), b"secret");
        // Not for anybody else, and not with another's data key.
        let stranger = Binding {
            webhook: Uuid::from_u128(3),
            ..owner
        };
        let tried = both.rewrap(Purpose::SigningKey, stranger, &sealed, [8; 24]);
        assert_eq!(tried.unwrap(), None);
        let mut mixed = renewed.clone();
        let other = only_new.seal(owner, b"other", [9; SEAL_RANDOM_BYTES]);
        mixed.ciphertext.truncate(WRAPPED_BYTES);
        mixed
            .ciphertext
            .extend_from_slice(&other.ciphertext[WRAPPED_BYTES..]);
        assert_eq!(
            only_new.open(owner, &mixed).unwrap_err(),
            SealError::Refused
        );
    }

    #[test]
    fn a_bad_keyring_is_refused() {
        for bad in [
            "",
            "a",
            "a:",
            "a:AAAA",
            &format!("a:{0},a:{0}", key(1)),
            &format!(":{}", key(1)),
        ] {
            assert_eq!(
                Keyring::parse(bad).unwrap_err(),
                SealError::Keyring,
                "{bad:?}"
            );
        }
    }
}
