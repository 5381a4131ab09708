//! A workspace's own certificate authorities: its endpoints and token endpoints are trusted by them,
//! beside the installation's. Nobody else's are, and nothing switches the check off.

use webhooks_egress::{Authorities, CertificateFacts, certificate_facts};
use webhooks_store::{AuthoritiesWish, StoreError};

use super::{Answer, Management, Once, actor, once::Claim};
use crate::{
    auth::Caller,
    error::{ManagementError, Violation},
};

/// Most authorities of a workspace.
pub const MAX_AUTHORITIES: usize = 10;

/// Longest text of all of them, in bytes of PEM.
pub const MAX_AUTHORITIES_BYTES: usize = 32 * 1_024;

/// A workspace's authorities.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnAuthorities {
    /// PEM; empty = none.
    pub pem: String,
    /// What each says of itself.
    pub facts: Vec<CertificateFacts>,
}

/// How a face puts a workspace's authorities, so that the answer can be kept.
#[derive(Debug, Clone, Copy)]
pub struct AuthoritiesFace {
    /// Encodes them.
    pub encode: fn(&OwnAuthorities) -> Result<Vec<u8>, ManagementError>,
    /// Encodes a refusal; `None` = refusals are not kept.
    pub refuse: Option<fn(&ManagementError) -> Vec<u8>>,
}

impl Management {
    /// The authorities of the caller's workspace.
    ///
    /// # Errors
    /// The store is away.
    pub async fn authorities(&self, caller: &Caller) -> Result<OwnAuthorities, ManagementError> {
        let row = self.inner.store.authorities(caller.workspace).await?;
        let pem = row.map(|row| row.pem).unwrap_or_default();
        let facts = certificate_facts(pem.as_bytes()).map_err(ManagementError::internal)?;
        Ok(OwnAuthorities { pem, facts })
    }

    /// Sets them all anew. `pem` is what the face could read, or why it could not.
    ///
    /// # Errors
    /// The text is no usable list of authorities, or the change could not be made.
    pub async fn set_authorities(
        &self,
        caller: Caller,
        pem: Result<Option<String>, ManagementError>,
        once: Option<Once>,
        face: AuthoritiesFace,
    ) -> Result<Answer, ManagementError> {
        let this = self.clone();
        self.to_the_end(async move {
            let result = match this.claim(&caller, once.as_ref()).await? {
                Claim::Answered(answer) => return Ok(answer),
                // Setting them twice is setting them once.
                Claim::Do | Claim::Made(..) => {
                    let set = async {
                        let wish = judge(pem?, this.now().div_euclid(1_000_000))
                            .map_err(|violation| ManagementError::Invalid(vec![violation]))?;
                        this.put_authorities(&caller, wish.clone()).await?;
                        (face.encode)(&wish)
                    };
                    set.await
                }
            };
            this.conclude_with(&caller, once.as_ref(), face.refuse, result)
                .await
        })
        .await
    }

    /// Takes them all away. None at all is fine.
    ///
    /// # Errors
    /// The change could not be made.
    pub async fn delete_authorities(&self, caller: &Caller) -> Result<(), ManagementError> {
        let (this, caller) = (self.clone(), caller.clone());
        self.to_the_end(async move {
            this.put_authorities(&caller, OwnAuthorities::default())
                .await?;
            this.inner.outbox.settled(caller.workspace).await
        })
        .await
    }

    async fn put_authorities(
        &self,
        caller: &Caller,
        wish: OwnAuthorities,
    ) -> Result<(), ManagementError> {
        self.read_model_is_there().await?;
        let wish = AuthoritiesWish {
            fingerprints: wish.facts.into_iter().map(|one| one.fingerprint).collect(),
            pem: wish.pem,
        };
        let (workspace, actor) = (caller.workspace, actor(caller));
        let store = &self.inner.store;
        let set = store
            .set_authorities(workspace, &wish, &actor, self.now())
            .await;
        set.map_err(|error| match error {
            // Its token was remembered a little longer than it.
            StoreError::NotFound(_) => ManagementError::Unauthenticated,
            other => other.into(),
        })?;
        tracing::info!(workspace.id = %workspace, count = wish.fingerprints.len(), "authorities.set");
        Ok(())
    }
}

/// Judges a list of authorities at `now` (seconds).
fn judge(pem: Option<String>, now: i64) -> Result<OwnAuthorities, Violation> {
    let no = |reason, message: String| Err(Violation::new("certificates", reason, message));
    let Some(pem) = pem else {
        return no("missing", "has to be given".to_owned());
    };
    if pem.len() > MAX_AUTHORITIES_BYTES {
        return no(
            "too_long",
            format!("has at most {MAX_AUTHORITIES_BYTES} bytes"),
        );
    }
    let facts = certificate_facts(pem.as_bytes()).unwrap_or_default();
    if facts.is_empty() || Authorities::new(pem.as_bytes()).is_err() {
        let message = "is not one or more certificates in PEM".to_owned();
        return no("not_a_certificate", message);
    }
    if facts.len() > MAX_AUTHORITIES {
        return no(
            "too_many",
            format!("holds at most {MAX_AUTHORITIES} certificates"),
        );
    }
    for (index, one) in facts.iter().enumerate() {
        if !one.is_authority {
            let message = format!("certificate {index}: is not an authority's");
            return no("not_an_authority", message);
        }
        if one.not_after <= now {
            return no(
                "certificate_expired",
                format!("certificate {index}: has expired"),
            );
        }
    }
    Ok(OwnAuthorities { pem, facts })
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};

    use super::*;

    const NOW: i64 = 1_770_000_000;

    fn certificate(authority: bool, until: i32) -> String {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.not_after = date_time_ymd(until, 1, 1);
        if authority {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().pem()
    }

    #[test]
    fn only_authorities_that_are_valid_are_taken() {
        let good = certificate(true, 2040);
        let check = |pem: Option<String>, reason| {
            assert_eq!(judge(pem, NOW).unwrap_err().reason, reason);
        };
        check(None, "missing");
        check(Some(String::new()), "not_a_certificate");
        check(Some("x".into()), "not_a_certificate");
        check(Some(certificate(false, 2040)), "not_an_authority");
        check(Some(certificate(true, 2021)), "certificate_expired");
        check(Some(good.repeat(11)), "too_many");
        check(Some("x".repeat(MAX_AUTHORITIES_BYTES + 1)), "too_long");
        let both = judge(Some(format!("{good}{}", certificate(true, 2041))), NOW).unwrap();
        assert_eq!(both.facts.len(), 2);
    }
}
