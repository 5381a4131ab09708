//! Judging client certificates.

use webhooks_egress::{TlsIdentityError, certificate_facts};
use webhooks_runtime::Secret;

use super::extras::{By, GIVE_AGAIN, OTHER_HOST};
use crate::{
    error::Violation,
    extras::{ClientCertificate, ShownCertificate, shown_time},
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

/// A client certificate and its key, which have to belong together and to be valid now.
pub(super) fn judge_certificate(
    violations: &mut Vec<Violation>,
    stored: Option<&ClientCertificate>,
    by: By<'_>,
    draft: CertificateDraft,
) -> Option<ClientCertificate> {
    const CHAIN: &str = "clientCertificate.certificate";
    const KEY: &str = "clientCertificate.privateKey";
    let now = by.now.div_euclid(1_000_000);
    let mut no = |field: &str, reason: &'static str, message: String| {
        violations.push(Violation::new(field, reason, message));
        None
    };
    let given = draft.private_key;
    let masked =
        |given: &Secret| stored.is_some_and(|stored| stored.shown.private_key == given.expose());
    let key = match given {
        Some(given) if !masked(&given) => Some(given),
        _ if by.moves && stored.is_some() => {
            return no(KEY, OTHER_HOST, GIVE_AGAIN.to_owned());
        }
        _ => stored.map(|stored| stored.key.clone()),
    };
    let chain = draft
        .certificate
        .or_else(|| stored.map(|stored| stored.chain.clone()));
    let Some(chain) = chain else {
        return no(CHAIN, "missing", "has to be given".to_owned());
    };
    let Some(key) = key else {
        return no(KEY, "missing", "has to be given".to_owned());
    };
    if chain.len() > MAX_CHAIN_BYTES {
        return no(
            CHAIN,
            "too_long",
            format!("has at most {MAX_CHAIN_BYTES} bytes"),
        );
    }
    if key.expose().len() > MAX_KEY_BYTES {
        return no(
            KEY,
            "too_long",
            format!("has at most {MAX_KEY_BYTES} bytes"),
        );
    }
    let facts = certificate_facts(chain.as_bytes()).unwrap_or_default();
    let Some(leaf) = facts.first() else {
        let message = "is not one or more certificates in PEM".to_owned();
        return no(CHAIN, "not_a_certificate", message);
    };
    let parsed = webhooks_egress::ClientCertificate::new(chain.as_bytes(), key.expose().as_bytes());
    match parsed {
        Ok(_) => {}
        Err(TlsIdentityError::Mismatch) => {
            let message = "does not belong to the first certificate".to_owned();
            return no(KEY, "key_mismatch", message);
        }
        Err(TlsIdentityError::Key) => {
            let message = "is not an unencrypted private key in PEM that TLS can use".to_owned();
            return no(KEY, "not_a_private_key", message);
        }
        Err(_) => {
            let message = "is not one or more certificates in PEM".to_owned();
            return no(CHAIN, "not_a_certificate", message);
        }
    }
    if leaf.not_after <= now {
        let message = format!("has expired on {}", shown_time(leaf.not_after));
        return no(CHAIN, "certificate_expired", message);
    }
    if leaf.not_before > now {
        let message = format!("is not valid before {}", shown_time(leaf.not_before));
        return no(CHAIN, "certificate_not_yet_valid", message);
    }
    Some(ClientCertificate {
        shown: ShownCertificate::of(leaf),
        chain,
        key,
    })
}
