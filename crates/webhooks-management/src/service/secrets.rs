//! Signing secrets over a webhook's life: listing them (masked), and putting a new one in front.
//!
//! A rotation is one transaction: the new key is there, the ones before it end when the overlap is
//! over. Until then every request carries a signature of each, so a receiver may change its secret
//! at any moment in between. The new secret is in the answer, and nowhere else.

use std::time::Duration;

use uuid::Uuid;
use webhooks_domain::{
    sealing::{Binding, Purpose},
    signing::SigningKey,
};
use webhooks_runtime::Secret;
use webhooks_store::{Rotation, SealedSecret, StoreError, WebhookRow};

use super::{
    Answer, Face, Management, Mutated, Once, actor,
    once::{Claim, store_key},
    webhooks::{IfMatch, TRIES},
};
use crate::{
    auth::Caller,
    draft::judge_secret,
    error::{ManagementError, Violation},
    extras::mask,
    refusal::Refusal,
    secrets,
};

/// How long the secrets before go on signing, when the caller does not say.
pub const OVERLAP: Duration = Duration::from_secs(24 * 3_600);

/// How long they may go on signing.
pub const LONGEST_OVERLAP: Duration = Duration::from_secs(7 * 24 * 3_600);

/// A rotation as asked for, unchecked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RotationDraft {
    /// How long the secrets before go on signing, in seconds; 0 = they stop at once.
    pub overlap_seconds: Option<i64>,
    /// The caller's own secret.
    pub secret: Option<Secret>,
    /// What the face itself found wrong.
    pub problems: Vec<Violation>,
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
                active: secret.expires_at.is_none_or(|end| now < end),
                masked: format!("whsec_{}", mask(&text)),
            }
        };
        Ok(row.secrets.iter().map(shown).collect())
    }

    /// Gives a webhook a new signing secret, or the caller's. `id` is `None` when the path held no
    /// id; `draft` is what the face could read, or why it could not.
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
                    this.still_signs(&caller, &answer).await?;
                    this.secret_again(&caller, &answer).await?;
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
        let (overlap, own) = judge(draft?)?;
        self.read_model_is_there().await?;
        let key = match own {
            Some(key) => key,
            None => secrets::draw().map_err(ManagementError::internal)?,
        };
        for _ in 0..TRIES {
            IfMatch::check(if_match, row.revision)?;
            let now = self.now();
            let secret = self.seal_next(&row, Purpose::SigningKey, key.as_bytes(), now)?;
            let overlap = i64::try_from(overlap.as_micros()).unwrap_or(i64::MAX);
            let rotation = Rotation {
                secret,
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
                    tracing::info!(webhook.id = %id, workspace.id = %caller.workspace, revision = after.revision, "webhook.secret_rotated");
                    return (face.encode)(&Mutated::Rotated {
                        row: &after,
                        secret: &key.reveal(),
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
        // Another rotation may have come since, and its secret is not this call's.
        let made = living(&row, version, self.now()).ok_or(Refusal::SecretGone)?;
        let key = self.signing_key(&row, made)?;
        (face.encode)(&Mutated::Rotated {
            row: &row,
            secret: &key.reveal(),
        })
    }

    /// Refuses a kept answer whose secret a later rotation has ended, or whose webhook is gone: who
    /// repeats the call would put a secret in place that verifies nothing.
    async fn still_signs(&self, caller: &Caller, answer: &Answer) -> Result<(), ManagementError> {
        let (Some(id), Some(version)) = (answer.subject, answer.version) else {
            return Ok(());
        };
        let row = self.get_webhook(caller, id).await?;
        living(&row, Some(version), self.now()).ok_or(Refusal::SecretGone)?;
        Ok(())
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

/// The secret of this version, or the newest one, if it signs at `now`.
fn living(row: &WebhookRow, version: Option<u32>, now: i64) -> Option<&SealedSecret> {
    let mut secrets = row.secrets.iter();
    secrets
        .find(|secret| version.is_none_or(|version| secret.version == version))
        .filter(|secret| secret.expires_at.is_none_or(|end| now < end))
}

/// What a version of a webhook's secrets is bound to.
pub(super) fn binding(row: &WebhookRow, version: u32) -> Binding {
    Binding {
        workspace: row.workspace_id,
        webhook: row.id,
        version,
    }
}

/// The overlap and the caller's own key.
fn judge(draft: RotationDraft) -> Result<(Duration, Option<SigningKey>), ManagementError> {
    let mut problems = draft.problems;
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
    let key = judge_secret(problems, draft.secret)?;
    Ok((overlap, key))
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
            judge(draft).map(|(overlap, _)| overlap.as_secs())
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
            problems: Vec::new(),
        };
        let error = judge(both).unwrap_err();
        let fields: Vec<_> = error.violations().iter().map(|v| &v.field).collect();
        assert_eq!(fields, ["overlapSeconds", "secret"]);
        assert!(!format!("{error:?}").contains("hunter2"));
    }
}
