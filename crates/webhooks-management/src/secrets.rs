//! Signing secrets: drawn here, shown once, kept sealed. Also seals the answers that are kept for
//! idempotency keys, because the answer to a creation holds the secret.

use rand::{TryRngCore as _, rngs::OsRng};
use uuid::Uuid;
use webhooks_domain::{
    sealing::{Binding, Keyring, NONCE_BYTES, SealError, Sealed},
    signing::{NEW_KEY_BYTES, SigningKey},
};

/// The system cannot give random bytes. There is nothing sensible to do without them.
#[derive(Debug, thiserror::Error)]
#[error("the system gives no random bytes")]
pub(crate) struct NoRandomness(#[source] rand::rand_core::OsError);

/// Fills an array with random bytes of the system.
///
/// # Errors
/// The system has none.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    OsRng.try_fill_bytes(&mut bytes).map_err(NoRandomness)?;
    Ok(bytes)
}

/// A new signing key, and how it is kept for its webhook.
///
/// # Errors
/// The system has no random bytes.
pub(crate) fn mint(
    keyring: &Keyring,
    binding: Binding,
) -> Result<(SigningKey, Sealed), NoRandomness> {
    let key = SigningKey::from_random(random::<NEW_KEY_BYTES>()?);
    let sealed = keyring.seal(binding, key.as_bytes(), random::<NONCE_BYTES>()?);
    Ok((key, sealed))
}

/// What a kept answer belongs to: sealed for one workspace, it opens for no other.
fn answer_binding(workspace: Uuid) -> Binding {
    // Version 0 is no signing key's.
    Binding {
        workspace,
        webhook: Uuid::nil(),
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
    answer: &[u8],
) -> Result<Vec<u8>, NoRandomness> {
    let sealed = keyring.seal(answer_binding(workspace), answer, random::<NONCE_BYTES>()?);
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
/// Sealed with a key that is gone, for another workspace, or damaged.
pub(crate) fn open_answer(
    keyring: &Keyring,
    workspace: Uuid,
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
    keyring.open(answer_binding(workspace), &sealed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_answer_opens_for_its_workspace_only() {
        let keyring = Keyring::parse("k1:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=").unwrap();
        let (here, there) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let kept = seal_answer(&keyring, here, b"{\"secret\":1}").unwrap();
        assert!(!kept.windows(6).any(|part| part == b"secret"));
        assert_eq!(
            open_answer(&keyring, here, &kept).unwrap(),
            b"{\"secret\":1}"
        );
        assert_eq!(open_answer(&keyring, there, &kept), Err(SealError::Refused));
        assert_eq!(open_answer(&keyring, here, &[]), Err(SealError::Refused));
    }

    #[test]
    fn a_minted_key_opens_again() {
        let keyring = Keyring::parse("k1:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=").unwrap();
        let binding = Binding {
            workspace: Uuid::from_u128(1),
            webhook: Uuid::from_u128(2),
            version: 1,
        };
        let (key, sealed) = mint(&keyring, binding).unwrap();
        assert_eq!(keyring.open(binding, &sealed).unwrap(), key.as_bytes());
        let (other, _) = mint(&keyring, binding).unwrap();
        assert_ne!(key, other);
    }
}
