//! Signing secrets: drawn here, shown once, kept sealed. Also seals the answers that are kept for
//! idempotency keys, because the answer to a creation holds the secret.

use rand::{TryRngCore as _, rngs::OsRng};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;
use webhooks_domain::{
    sealing::{Binding, Keyring, NONCE_BYTES, Purpose, SEAL_RANDOM_BYTES, SealError, Sealed},
    signing::{NEW_KEY_BYTES, SigningKey},
};
use webhooks_store::{IdempotencyKey, SealedSecret};

/// The system cannot give random bytes. There is nothing sensible to do without them.
#[derive(Debug, thiserror::Error)]
#[error("the system gives no random bytes")]
pub struct NoRandomness(#[source] rand::rand_core::OsError);

/// Fills an array with random bytes of the system.
///
/// # Errors
/// The system has none.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    OsRng.try_fill_bytes(&mut bytes).map_err(NoRandomness)?;
    Ok(bytes)
}

/// A new signing key.
///
/// # Errors
/// The system has no random bytes.
pub(crate) fn draw() -> Result<SigningKey, NoRandomness> {
    Ok(SigningKey::from_random(random::<NEW_KEY_BYTES>()?))
}

/// Seals something for its webhook, ready to be stored.
///
/// # Errors
/// The system has no random bytes.
pub(crate) fn seal(
    keyring: &Keyring,
    purpose: Purpose,
    binding: Binding,
    secret: &[u8],
    now: i64,
) -> Result<SealedSecret, NoRandomness> {
    let sealed = keyring.seal_for(purpose, binding, secret, random::<SEAL_RANDOM_BYTES>()?);
    Ok(SealedSecret {
        key_id: sealed.key_id,
        version: binding.version,
        nonce: sealed.nonce.to_vec(),
        ciphertext: sealed.ciphertext,
        created_at: now,
        expires_at: None,
    })
}

/// Opens what is stored for a webhook.
///
/// # Errors
/// It is damaged, belongs elsewhere, or its key is gone.
pub(crate) fn open(
    keyring: &Keyring,
    purpose: Purpose,
    binding: Binding,
    stored: &SealedSecret,
) -> Result<Vec<u8>, SealError> {
    let nonce = stored.nonce.as_slice();
    let sealed = Sealed {
        key_id: stored.key_id.clone(),
        nonce: nonce.try_into().map_err(|_| SealError::Refused)?,
        ciphertext: stored.ciphertext.clone(),
    };
    keyring.open_for(purpose, binding, &sealed)
}

/// What a kept answer belongs to: the workspace, and in the webhook's place the token and the key it
/// is kept for, so that a row copied to another call's place does not open there. Answers of releases
/// before this purpose do not open any more; they would have lived for 24 hours.
fn answer_binding(workspace: Uuid, key: IdempotencyKey<'_>) -> Binding {
    let mut digest = Sha256::new();
    // A token's id has neither a NUL nor another length, so no two pairs read alike.
    for part in [key.token_id.as_bytes(), b"\0", key.key.as_bytes()] {
        digest.update(part);
    }
    let mut call = [0; 16];
    for (slot, byte) in call.iter_mut().zip(digest.finalize()) {
        *slot = byte;
    }
    Binding {
        workspace,
        webhook: Uuid::from_bytes(call),
        version: 0,
    }
}

/// Seals an answer that is kept: `key id length, key id, nonce, ciphertext`.
///
/// # Errors
/// The system has no random bytes.
pub(crate) fn seal_answer(
    keyring: &Keyring,
    workspace: Uuid,
    key: IdempotencyKey<'_>,
    answer: &[u8],
) -> Result<Vec<u8>, NoRandomness> {
    let binding = answer_binding(workspace, key);
    let random = random::<SEAL_RANDOM_BYTES>()?;
    let sealed = keyring.seal_for(Purpose::Answer, binding, answer, random);
    let id = sealed.key_id.as_bytes();
    let mut kept = Vec::with_capacity(1 + id.len() + NONCE_BYTES + sealed.ciphertext.len());
    // Key ids are a few characters; one beyond 255 bytes would not open again and is cut to fail so.
    kept.push(u8::try_from(id.len()).unwrap_or(u8::MAX));
    kept.extend_from_slice(id);
    kept.extend_from_slice(&sealed.nonce);
    kept.extend_from_slice(&sealed.ciphertext);
    Ok(kept)
}

/// Opens a kept answer.
///
/// # Errors
/// Sealed with a key that is gone, for another call, or damaged.
pub(crate) fn open_answer(
    keyring: &Keyring,
    workspace: Uuid,
    key: IdempotencyKey<'_>,
    kept: &[u8],
) -> Result<Vec<u8>, SealError> {
    let parts = || {
        let (length, rest) = kept.split_first()?;
        let (id, rest) = rest.split_at_checked(usize::from(*length))?;
        let (nonce, ciphertext) = rest.split_at_checked(NONCE_BYTES)?;
        Some(Sealed {
            key_id: String::from_utf8(id.to_vec()).ok()?,
            nonce: nonce.try_into().ok()?,
            ciphertext: ciphertext.to_vec(),
        })
    };
    let sealed = parts().ok_or(SealError::Refused)?;
    keyring.open_for(Purpose::Answer, answer_binding(workspace, key), &sealed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_answer_opens_for_its_call_only() {
        let keyring = Keyring::parse("k1:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=").unwrap();
        let (here, there) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let key = |token_id, key| IdempotencyKey { token_id, key };
        let own = key("Ab3dEf6hIj9l", "once");
        let kept = seal_answer(&keyring, here, own, b"{\"secret\":1}").unwrap();
        assert!(!kept.windows(6).any(|part| part == b"secret"));
        assert_eq!(
            open_answer(&keyring, here, own, &kept).unwrap(),
            b"{\"secret\":1}"
        );
        for (workspace, key) in [
            (there, own),
            (here, key("Ab3dEf6hIj9l", "twice")),
            (here, key("zb3dEf6hIj9l", "once")),
        ] {
            let refused = open_answer(&keyring, workspace, key, &kept);
            assert_eq!(refused, Err(SealError::Refused));
        }
        assert_eq!(
            open_answer(&keyring, here, own, &[]),
            Err(SealError::Refused)
        );
        // An answer is no signing key, wherever its row is put.
        let length = 1 + usize::from(kept[0]);
        let sealed = Sealed {
            key_id: "k1".into(),
            nonce: kept[length..length + NONCE_BYTES].try_into().unwrap(),
            ciphertext: kept[length + NONCE_BYTES..].to_vec(),
        };
        let as_key = keyring.open(answer_binding(here, own), &sealed);
        assert_eq!(as_key, Err(SealError::Refused));
    }

    #[test]
    fn what_was_sealed_opens_for_its_purpose() {
        let keyring = Keyring::parse("k1:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=").unwrap();
        let binding = Binding {
            workspace: Uuid::from_u128(1),
            webhook: Uuid::from_u128(2),
            version: 1,
        };
        let key = draw().unwrap();
        assert_ne!(key, draw().unwrap());
        let sealed = seal(&keyring, Purpose::SigningKey, binding, key.as_bytes(), 5).unwrap();
        assert_eq!((sealed.version, sealed.created_at), (1, 5));
        let opened = open(&keyring, Purpose::SigningKey, binding, &sealed).unwrap();
        assert_eq!(opened, key.as_bytes());
        let elsewhere = open(&keyring, Purpose::Extras, binding, &sealed);
        assert_eq!(elsewhere, Err(SealError::Refused));
        let cut = SealedSecret {
            nonce: vec![1],
            ..sealed
        };
        let refused = open(&keyring, Purpose::SigningKey, binding, &cut);
        assert_eq!(refused, Err(SealError::Refused));
    }
}
