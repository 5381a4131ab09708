//! Judging client certificates.

use webhooks_egress::{CertificateFacts, TlsIdentityError, certificate_facts};
use webhooks_runtime::Secret;

use super::extras::{By, GIVE_AGAIN, OTHER_HOST};
use crate::{
    extras::{ClientCertificate, ShownCertificate, shown_time},
    violations::Violations,
};

/// Longest certificate chain, in bytes of PEM.
pub(super) const MAX_CHAIN_BYTES: usize = 16 * 1_024;

/// Longest private key, in bytes of PEM.
const MAX_KEY_BYTES: usize = 16 * 1_024;

/// A client certificate as asked for; what is `None` is the stored one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificateDraft {
    /// The chain, PEM.
    pub certificate: Option<String>,
    /// The key, PEM.
    pub private_key: Option<Secret>,
}

const CHAIN: &str = "clientCertificate.certificate";
const KEY: &str = "clientCertificate.privateKey";

/// A client certificate and its key, which have to belong together and to be valid now.
pub(super) fn judge_certificate(
    violations: &mut Violations,
    stored: Option<&ClientCertificate>,
    by: By<'_>,
    draft: CertificateDraft,
) -> Option<ClientCertificate> {
    let before = violations.count();
    let chain = draft
        .certificate
        .or_else(|| stored.map(|stored| stored.chain.clone()));
    let leaf = judge_chain(violations, chain.as_deref(), by.now.div_euclid(1_000_000));
    let key = key_of(violations, stored, by, draft.private_key);
    let (chain, key, leaf) = (chain?, key?, leaf?);
    // A chain and a key that are each one are held against each other, unless one of them is the stored
    // one in the place of what the face could not read.
    if !violations.has_within(CHAIN) && !violations.has_within(KEY) {
        match webhooks_egress::ClientCertificate::new(chain.as_bytes(), key.expose().as_bytes()) {
            Ok(_) => {}
            Err(TlsIdentityError::Mismatch) => {
                let message = "does not belong to the first certificate";
                violations.refuse(KEY, "key_mismatch", message);
            }
            Err(TlsIdentityError::Key) => violations.refuse(KEY, NO_KEY.0, NO_KEY.1),
            Err(_) => violations.refuse(CHAIN, NO_CHAIN.0, NO_CHAIN.1),
        }
    }
    (violations.count() == before).then(|| ClientCertificate {
        shown: ShownCertificate::of(&leaf),
        chain,
        key,
    })
}

/// Reasons and words for texts that are none of their kind.
const NO_CHAIN: (&str, &str) = (
    "not_a_certificate",
    "is not one or more certificates in PEM",
);
const NO_KEY: (&str, &str) = (
    "not_a_private_key",
    "is not an unencrypted private key in PEM that TLS can use",
);

/// The key that was given, or the one that is stored, if it is one.
fn key_of(
    violations: &mut Violations,
    stored: Option<&ClientCertificate>,
    by: By<'_>,
    given: Option<Secret>,
) -> Option<Secret> {
    let masked =
        |given: &Secret| stored.is_some_and(|stored| stored.shown.private_key == given.expose());
    let key = match given {
        Some(given) if !masked(&given) => given,
        _ if by.moves && stored.is_some() => {
            violations.refuse(KEY, OTHER_HOST, GIVE_AGAIN);
            return None;
        }
        _ => match stored {
            Some(stored) => stored.key.clone(),
            None => {
                violations.refuse(KEY, "missing", "has to be given");
                return None;
            }
        },
    };
    if key.expose().len() > MAX_KEY_BYTES {
        let message = format!("has at most {MAX_KEY_BYTES} bytes");
        violations.refuse(KEY, "too_long", message);
        return None;
    }
    if webhooks_egress::ClientCertificate::check_key(key.expose().as_bytes()).is_err() {
        violations.refuse(KEY, NO_KEY.0, NO_KEY.1);
        return None;
    }
    Some(key)
}

/// What there is to say of the first certificate of a chain, if it is one.
fn judge_chain(
    violations: &mut Violations,
    chain: Option<&str>,
    now: i64,
) -> Option<CertificateFacts> {
    let Some(chain) = chain else {
        violations.refuse(CHAIN, "missing", "has to be given");
        return None;
    };
    if chain.len() > MAX_CHAIN_BYTES {
        let message = format!("has at most {MAX_CHAIN_BYTES} bytes");
        violations.refuse(CHAIN, "too_long", message);
        return None;
    }
    let facts = certificate_facts(chain.as_bytes()).unwrap_or_default();
    let Some(leaf) = facts.into_iter().next() else {
        violations.refuse(CHAIN, NO_CHAIN.0, NO_CHAIN.1);
        return None;
    };
    if leaf.not_after <= now {
        let message = format!("has expired on {}", shown_time(leaf.not_after));
        violations.refuse(CHAIN, "certificate_expired", message);
    } else if leaf.not_before > now {
        let message = format!("is not valid before {}", shown_time(leaf.not_before));
        violations.refuse(CHAIN, "certificate_not_yet_valid", message);
    }
    Some(leaf)
}
