//! Keys over a webhook's life: listing its signing secrets (masked), and putting a new key in front, a
//! signing secret or a key pair for `v1a`.
//!
//! A rotation is one transaction: the new key is there, the ones of its kind before it end when the
//! overlap is over. Until then every request carries a signature of each, so a receiver may change its
//! secret, or look the public key up, at any moment in between. A new secret is in the answer, and
//! nowhere else; of a key pair only the public half is ever shown.

use std::time::Duration;

use uuid::Uuid;
use webhooks_domain::{
    sealing::{Binding, Purpose},
    signing::{AsymmetricKey, SigningKey},
};
use webhooks_runtime::Secret;
use webhooks_store::{AsymmetricSecret, Rotation, SealedSecret, StoreError, WebhookRow};

use super::{
    Answer, Face, Management, Mutated, NewKey, Once, actor,
    once::{Claim, store_key},
    webhooks::{IfMatch, TRIES, draw_asymmetric},
};
use crate::{
    auth::Caller,
    draft::judge_secret,
    error::{ManagementError, Violation},
    extras::mask,
    refusal::Refusal,
    secrets,
    violations::Violations,
};

/// How long the secrets before go on signing, when the caller does not say.
pub const OVERLAP: Duration = Duration::from_secs(24 * 3_600);

/// How long they may go on signing.
pub const LONGEST_OVERLAP: Duration = Duration::from_secs(7 * 24 * 3_600);

/// How a draft names the signing secret.
pub(crate) const SECRET: &str = "SECRET";

/// How a draft names the key pair of `v1a`.
pub(crate) const PUBLIC_KEY: &str = "PUBLIC_KEY";

/// A rotation as asked for, unchecked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RotationDraft {
    /// Which key; absent = the signing secret.
    pub key: Option<String>,
    /// How long the keys before go on signing, in seconds; 0 = they stop at once.
    pub overlap_seconds: Option<i64>,
    /// The caller's own secret.
    pub secret: Option<Secret>,
    /// What the face itself found wrong.
    pub problems: Violations,
}

/// A signing secret as it may be seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretSummary {
    /// Its version.
    pub version: u32,
    /// When it was made, in microseconds.
    pub created_at: i64,
    /// When it stops signing, in microseconds; `None` = not planned.
    pub expires_at: Option<i64>,
    /// Whether it signs now.
    pub active: bool,
    /// `whsec_`, a mask and its last four characters.
    pub masked: String,
}

impl Management {
    /// The signing secrets of a webhook, newest first, without the secrets.
    ///
    /// # Errors
    /// There is no such webhook.
    pub async fn list_secrets(
        &self,
        caller: &Caller,
        id: Uuid,
    ) -> Result<Vec<SecretSummary>, ManagementError> {
        let row = self.get_webhook(caller, id).await?;
        let now = self.now();
        let shown = |secret: &SealedSecret| {
            // A key that does not open signs nothing; that there is one has to be seen all the same.
            let key = self.signing_key(&row, secret).map(|key| key.reveal());
            let text = key.unwrap_or_else(|error| {
                let version = secret.version;
                tracing::error!(webhook.id = %row.id, version, %error, "a signing key does not open");
                String::new()
            });
            SecretSummary {
                version: secret.version,
                created_at: secret.created_at,
                expires_at: secret.expires_at,
                active: secret.signs_at(now),
                masked: format!("whsec_{}", mask(&text)),
            }
        };
        Ok(row.secrets.iter().map(shown).collect())
    }

    /// Gives a webhook a new signing secret, or the caller's, or a new key pair for `v1a`. `id` is
    /// `None` when the path held no id; `draft` is what the face could read, or why it could not.
    ///
    /// # Errors
    /// There is no such webhook, it is not at the revision that `if_match` names, the draft breaks
    /// rules, or the change could not be made.
    pub async fn rotate_secret(
        &self,
        caller: Caller,
        id: Option<Uuid>,
        draft: Result<RotationDraft, ManagementError>,
        if_match: Option<IfMatch>,
        once: Option<Once>,
        face: Face,
    ) -> Result<Answer, ManagementError> {
        let this = self.clone();
        self.to_the_end(async move {
            let result = match this.claim(&caller, once.as_ref()).await? {
                Claim::Answered(answer) => {
                    this.shown_while_it_signs(&caller, &answer).await?;
                    return Ok(answer);
                }
                Claim::Made(id, version) => this.rotated(&caller, id, version, face).await,
                Claim::Do => {
                    let seen = if_match.as_ref();
                    this.rotate(&caller, id, (draft, seen), once.as_ref(), face)
                        .await
                }
            };
            this.conclude(&caller, once.as_ref(), face, result).await
        })
        .await
    }

    async fn rotate(
        &self,
        caller: &Caller,
        id: Option<Uuid>,
        (draft, if_match): (Result<RotationDraft, ManagementError>, Option<&IfMatch>),
        once: Option<&Once>,
        face: Face,
    ) -> Result<Vec<u8>, ManagementError> {
        let id = id.ok_or(ManagementError::WebhookNotFound)?;
        let mut row = self.get_webhook(caller, id).await?;
        let (overlap, wish) = judge(draft?, row.asymmetric.is_some())?;
        self.read_model_is_there().await?;
        let fresh = match wish {
            Wish::Secret(Some(own)) => Fresh::secret(&own),
            Wish::Secret(None) => {
                Fresh::secret(&secrets::draw().map_err(ManagementError::internal)?)
            }
            Wish::PublicKey => Fresh::pair(&draw_asymmetric()?),
        };
        for _ in 0..TRIES {
            IfMatch::check(if_match, row.revision)?;
            if fresh.public_key().is_some() && row.asymmetric.is_none() {
                // It was switched off between two looks.
                return Err(ManagementError::Invalid(vec![no_v1a()]));
            }
            let now = self.now();
            let secret = self.seal_next(&row, fresh.purpose, &fresh.bytes, now)?;
            let overlap = i64::try_from(overlap.as_micros()).unwrap_or(i64::MAX);
            let rotation = Rotation {
                secret,
                public_key: fresh.public_key().map(str::to_owned),
                old_until: now.saturating_add(overlap),
                expected_revision: row.revision,
            };
            let claim = once.map(|once| store_key(caller, once));
            let done = self
                .inner
                .store
                .rotate_secret(caller.workspace, id, &rotation, claim, &actor(caller), now)
                .await;
            match done {
                Ok(Some(after)) => {
                    tracing::info!(webhook.id = %id, workspace.id = %caller.workspace, revision = after.revision, public_key = fresh.public_key(), "webhook.secret_rotated");
                    return (face.encode)(&Mutated::Rotated {
                        row: &after,
                        key: fresh.shown(),
                    });
                }
                Ok(None) => return Err(ManagementError::WebhookNotFound),
                // The version has to be the next one, and somebody else was faster.
                Err(StoreError::Conflict("webhook revision")) => {
                    row = self.get_webhook(caller, id).await?;
                }
                // The claim outlived its lease and someone else took it: that call gives the answer.
                Err(StoreError::Conflict(_)) => return Err(ManagementError::IdempotencyInProgress),
                Err(error) => return Err(error.into()),
            }
        }
        Err(ManagementError::Unavailable(None))
    }

    /// The answer to a rotation whose first call was cut off after its commit.
    async fn rotated(
        &self,
        caller: &Caller,
        id: Uuid,
        version: Option<u32>,
        face: Face,
    ) -> Result<Vec<u8>, ManagementError> {
        let row = self.get_webhook(caller, id).await?;
        // Another rotation may have come since, and its key is not this call's.
        match living(&row, version, self.now()).ok_or(Refusal::SecretGone)? {
            Living::Secret(made) => (face.encode)(&Mutated::Rotated {
                row: &row,
                key: NewKey::Secret(&self.signing_key(&row, made)?.reveal()),
            }),
            Living::Pair(made) => (face.encode)(&Mutated::Rotated {
                row: &row,
                key: NewKey::Public(&made.public_key),
            }),
        }
    }

    /// Refuses a kept answer whose key a later rotation has ended, or whose webhook is gone: who repeats
    /// the call would put a key in place that verifies nothing. A secret that is shown again is written
    /// down; a public key is for everybody.
    async fn shown_while_it_signs(
        &self,
        caller: &Caller,
        answer: &Answer,
    ) -> Result<(), ManagementError> {
        let (Some(id), Some(version)) = (answer.subject, answer.version) else {
            return self.secret_again(caller, answer).await;
        };
        let row = self.get_webhook(caller, id).await?;
        match living(&row, Some(version), self.now()).ok_or(Refusal::SecretGone)? {
            Living::Secret(_) => self.secret_again(caller, answer).await,
            Living::Pair(_) => Ok(()),
        }
    }

    /// Seals something as the webhook's next secret.
    fn seal_next(
        &self,
        row: &WebhookRow,
        purpose: Purpose,
        secret: &[u8],
        now: i64,
    ) -> Result<SealedSecret, ManagementError> {
        let binding = binding(row, row.secret_version.saturating_add(1));
        secrets::seal(&self.inner.keyring, purpose, binding, secret, now)
            .map_err(ManagementError::internal)
    }

    /// Opens a stored signing key.
    pub(super) fn signing_key(
        &self,
        row: &WebhookRow,
        secret: &SealedSecret,
    ) -> Result<SigningKey, ManagementError> {
        let bytes = secrets::open(
            &self.inner.keyring,
            Purpose::SigningKey,
            binding(row, secret.version),
            secret,
        )
        .map_err(ManagementError::internal)?;
        SigningKey::from_bytes(bytes).map_err(ManagementError::internal)
    }
}

/// What a rotation is to make.
#[derive(Debug, PartialEq, Eq)]
enum Wish {
    /// A signing secret; `None` = a new one.
    Secret(Option<SigningKey>),
    /// A key pair for `v1a`.
    PublicKey,
}

/// A key that a rotation puts in front, before it is sealed. Not to be printed.
struct Fresh {
    purpose: Purpose,
    /// What is sealed.
    bytes: Vec<u8>,
    /// What the answer shows.
    text: String,
}

impl Fresh {
    fn secret(key: &SigningKey) -> Self {
        Self {
            purpose: Purpose::SigningKey,
            bytes: key.as_bytes().to_vec(),
            text: key.reveal(),
        }
    }

    fn pair(key: &AsymmetricKey) -> Self {
        Self {
            purpose: Purpose::Ed25519,
            bytes: key.seed().to_vec(),
            text: key.public_key(),
        }
    }

    /// The public half of a key pair.
    fn public_key(&self) -> Option<&str> {
        (self.purpose == Purpose::Ed25519).then_some(self.text.as_str())
    }

    fn shown(&self) -> NewKey<'_> {
        match self.public_key() {
            Some(public_key) => NewKey::Public(public_key),
            None => NewKey::Secret(&self.text),
        }
    }
}

/// A key that signs.
enum Living<'a> {
    Secret(&'a SealedSecret),
    Pair(&'a AsymmetricSecret),
}

/// The key of this version, or the newest secret, if it signs at `now`. All keys of a webhook share one
/// numbering, so a version is of one kind.
fn living(row: &WebhookRow, version: Option<u32>, now: i64) -> Option<Living<'_>> {
    let named = |sealed: &SealedSecret| version.is_none_or(|version| sealed.version == version);
    let secret = row.secrets.iter().find(|secret| named(secret));
    let (sealed, found) = match secret {
        Some(secret) => (secret, Living::Secret(secret)),
        None => {
            let pair = row.asymmetric_keys().find(|key| named(&key.sealed))?;
            (&pair.sealed, Living::Pair(pair))
        }
    };
    sealed.signs_at(now).then_some(found)
}

/// What a version of a webhook's secrets is bound to.
pub(super) fn binding(row: &WebhookRow, version: u32) -> Binding {
    Binding {
        workspace: row.workspace_id,
        webhook: row.id,
        version,
    }
}

/// Why the key of `v1a` is not rotated where there is none.
fn no_v1a() -> Violation {
    let message = "is the key of v1a, which the webhook's signatures do not name";
    Violation::new("key", "no_v1a", message)
}

/// The overlap, and what is to be made for a webhook that signs `v1a` or does not.
fn judge(draft: RotationDraft, has_v1a: bool) -> Result<(Duration, Wish), ManagementError> {
    let mut problems = draft.problems;
    let public = draft.key.as_deref() == Some(PUBLIC_KEY);
    match draft.key.as_deref() {
        None | Some(SECRET) => {}
        Some(PUBLIC_KEY) => {
            if !has_v1a {
                problems.push(no_v1a());
            }
            if draft.secret.is_some() {
                let message = "goes with the key SECRET: key pairs are always new";
                problems.push(Violation::new("secret", "ambiguous", message));
            }
        }
        Some(_) => {
            let message = format!("is {SECRET} or {PUBLIC_KEY}");
            problems.push(Violation::new("key", "unknown_value", message));
        }
    }
    let overlap = match draft.overlap_seconds {
        None => OVERLAP,
        Some(seconds) => {
            let asked = u64::try_from(seconds).map(Duration::from_secs).ok();
            let asked = asked.filter(|asked| *asked <= LONGEST_OVERLAP);
            if asked.is_none() {
                let message = format!("is 0 to {}", LONGEST_OVERLAP.as_secs());
                problems.push(Violation::new("overlapSeconds", "out_of_bounds", message));
            }
            asked.unwrap_or(OVERLAP)
        }
    };
    let secret = draft.secret.filter(|_| !public);
    let own = judge_secret(problems, secret)?;
    let wish = match public {
        true => Wish::PublicKey,
        false => Wish::Secret(own),
    };
    Ok((overlap, wish))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlap_is_at_most_a_week_and_a_day_by_default() {
        let overlap = |overlap_seconds| {
            let draft = RotationDraft {
                overlap_seconds,
                ..RotationDraft::default()
            };
            judge(draft, false).map(|(overlap, _)| overlap.as_secs())
        };
        assert_eq!(overlap(None).unwrap(), 86_400);
        assert_eq!(overlap(Some(0)).unwrap(), 0);
        assert_eq!(overlap(Some(604_800)).unwrap(), 604_800);
        for bad in [-1, 604_801, i64::MAX] {
            let error = overlap(Some(bad)).unwrap_err();
            assert_eq!(error.violations()[0].field, "overlapSeconds");
        }
        let both = RotationDraft {
            overlap_seconds: Some(-1),
            secret: Some(Secret::new("hunter2")),
            ..RotationDraft::default()
        };
        let error = judge(both, false).unwrap_err();
        let fields: Vec<_> = error.violations().iter().map(|v| &v.field).collect();
        assert_eq!(fields, ["overlapSeconds", "secret"]);
        assert!(!format!("{error:?}").contains("hunter2"));
    }

    #[test]
    fn a_rotation_is_about_the_secret_unless_it_names_a_public_key_that_is_there() {
        let judged = |key: Option<&str>, secret: Option<&str>, has_v1a| {
            let draft = RotationDraft {
                key: key.map(str::to_owned),
                secret: secret.map(Secret::new),
                ..RotationDraft::default()
            };
            judge(draft, has_v1a).map(|(overlap, wish)| {
                assert_eq!(overlap, OVERLAP);
                wish
            })
        };
        for key in [None, Some("SECRET")] {
            for has_v1a in [false, true] {
                assert_eq!(judged(key, None, has_v1a).unwrap(), Wish::Secret(None));
            }
        }
        assert_eq!(
            judged(Some("PUBLIC_KEY"), None, true).unwrap(),
            Wish::PublicKey
        );
        for (key, secret, has_v1a, expected) in [
            ("PUBLIC_KEY", None, false, vec![("key", "no_v1a")]),
            (
                "PUBLIC_KEY",
                Some("hunter2"),
                false,
                vec![("key", "no_v1a"), ("secret", "ambiguous")],
            ),
            ("public_key", None, true, vec![("key", "unknown_value")]),
            ("", None, true, vec![("key", "unknown_value")]),
        ] {
            let error = judged(Some(key), secret, has_v1a).unwrap_err();
            let said = error.violations().iter();
            let said: Vec<_> = said.map(|v| (v.field.as_str(), v.reason)).collect();
            assert_eq!(said, expected, "{key}");
            assert!(!format!("{error:?}").contains("hunter2"));
        }
    }
}
