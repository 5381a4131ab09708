//! Creating, changing and deleting webhooks.

use uuid::Uuid;
use webhooks_domain::{
    sealing::{Binding, Purpose},
    signing::{AsymmetricKey, SigningKey},
    webhook::{HeldChoice, WebhookStatus},
};
use webhooks_store::{
    AsymmetricSecret, NewWebhook, Room, StatusFilter, StoreError, WebhookPatch, WebhookRow,
};

use super::{
    Answer, Face, Management, Mutated, Once, actor,
    once::{Claim, store_key},
    secrets::binding,
};
use crate::{
    auth::Caller,
    draft::{Before, Changes, Draft, NewDraft, RetryBounds, Rules},
    error::{ManagementError, Violation},
    extras::{Extras, Shown},
    secrets,
    words::{ShownStatus, by_person, wished},
};

/// How often a change is judged anew because the webhook changed meanwhile.
pub(super) const TRIES: usize = 8;

/// Version of a webhook's first signing secret.
const FIRST_VERSION: u32 = 1;

/// The revisions that a caller will change (`If-Match`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IfMatch(pub Vec<i64>);

impl IfMatch {
    pub(super) fn check(this: Option<&Self>, revision: i64) -> Result<(), ManagementError> {
        match this {
            Some(Self(wanted)) if !wanted.contains(&revision) => {
                Err(ManagementError::Precondition { current: revision })
            }
            _ => Ok(()),
        }
    }
}

/// The store's filter for a shown status.
pub(super) fn store_filter(status: Option<ShownStatus>) -> StatusFilter {
    match status {
        None => StatusFilter::Any,
        Some(ShownStatus::Active) => StatusFilter::Active,
        Some(ShownStatus::Paused) => StatusFilter::Paused,
        Some(ShownStatus::Disabled) => StatusFilter::Disabled,
    }
}

impl Management {
    /// Creates a webhook. `draft` is what the face could read, or why it could not.
    ///
    /// # Errors
    /// The draft breaks rules, the plan's limit is reached, or the change could not be made.
    pub async fn create_webhook(
        &self,
        caller: Caller,
        draft: Result<Draft, ManagementError>,
        once: Option<Once>,
        face: Face,
    ) -> Result<Answer, ManagementError> {
        let this = self.clone();
        self.to_the_end(async move {
            let result = match this.claim(&caller, once.as_ref()).await? {
                Claim::Answered(answer) => {
                    this.secret_again(&caller, &answer).await?;
                    return Ok(answer);
                }
                Claim::Made(id, _) => this.made(&caller, id, face).await,
                Claim::Do => this.make(&caller, draft, once.as_ref(), face).await,
            };
            this.conclude(&caller, once.as_ref(), face, result).await
        })
        .await
    }

    /// Changes a webhook. `id` is `None` when the path held no id.
    ///
    /// # Errors
    /// There is no such webhook, it is not at the revision that `if_match` names, the draft breaks
    /// rules, or the change could not be made.
    pub async fn update_webhook(
        &self,
        caller: Caller,
        id: Option<Uuid>,
        draft: Result<Draft, ManagementError>,
        if_match: Option<IfMatch>,
        once: Option<Once>,
        face: Face,
    ) -> Result<Answer, ManagementError> {
        let this = self.clone();
        self.to_the_end(async move {
            let result = match this.claim(&caller, once.as_ref()).await? {
                Claim::Answered(answer) => return Ok(answer),
                Claim::Do | Claim::Made(..) => {
                    let if_match = if_match.as_ref();
                    this.change(&caller, id, draft, if_match, face).await
                }
            };
            this.conclude(&caller, once.as_ref(), face, result).await
        })
        .await
    }

    /// Deletes a webhook. Its history stays.
    ///
    /// # Errors
    /// There is no such webhook, it is not at the revision that `if_match` names, or the change
    /// could not be made.
    pub async fn delete_webhook(
        &self,
        caller: &Caller,
        id: Uuid,
        if_match: Option<IfMatch>,
    ) -> Result<(), ManagementError> {
        let (this, caller) = (self.clone(), caller.clone());
        self.to_the_end(async move {
            this.read_model_is_there().await?;
            let mut tries = 0;
            let deleted = loop {
                tries += 1;
                let mut seen = None;
                if let Some(if_match) = &if_match {
                    let revision = this.get_webhook(&caller, id).await?.revision;
                    IfMatch::check(Some(if_match), revision)?;
                    seen = Some(revision);
                }
                let (store, now) = (&this.inner.store, this.now());
                match store
                    .delete_webhook(caller.workspace, id, seen, &actor(&caller), now)
                    .await
                {
                    // It changed in between: the next look says to what.
                    Err(StoreError::Conflict(_)) if tries < TRIES => {}
                    other => break other?,
                }
            };
            if !deleted {
                return Err(ManagementError::WebhookNotFound);
            }
            tracing::info!(webhook.id = %id, workspace.id = %caller.workspace, "webhook.deleted");
            this.inner.outbox.settled(caller.workspace).await
        })
        .await
    }

    async fn make(
        &self,
        caller: &Caller,
        draft: Result<Draft, ManagementError>,
        once: Option<&Once>,
        face: Face,
    ) -> Result<Vec<u8>, ManagementError> {
        let draft = draft?;
        let mut asked = false;
        for _ in 0..TRIES {
            let workspace = self.inner.store.get_workspace(caller.workspace).await?;
            let workspace = workspace.ok_or(ManagementError::Unauthenticated)?;
            let mut draft = draft.clone().judge_new(&Rules {
                addresses: &self.inner.addresses,
                retry: RetryBounds::of(&workspace),
                now: self.now(),
            })?;
            if !asked {
                self.read_model_is_there().await?;
                asked = true;
            }
            let key = match draft.secret.take() {
                Some(key) => key,
                None => secrets::draw().map_err(ManagementError::internal)?,
            };
            let new = self.new_webhook(caller, draft, key.as_bytes())?;
            let claim = once.map(|once| store_key(caller, once));
            let room = Room {
                limit: self.webhook_limit(&workspace),
                judged_by: Some(&workspace),
            };
            let made = self
                .inner
                .store
                .create_webhook(&new, room, claim, &actor(caller))
                .await;
            let row = match made {
                Ok(row) => row,
                // An operator changed what the workspace may: that holds from its answer on.
                Err(StoreError::Conflict("workspace")) => continue,
                Err(StoreError::PlanLimit { limit, used }) => {
                    return Err(ManagementError::PlanLimit {
                        limit,
                        used: u64::from(used),
                        plan: workspace.plan,
                    });
                }
                // The claim outlived its lease and someone else took it: that call gives the answer.
                Err(StoreError::Conflict(_)) => return Err(ManagementError::IdempotencyInProgress),
                Err(StoreError::NotFound(_)) => return Err(ManagementError::Unauthenticated),
                Err(error) => return Err(error.into()),
            };
            tracing::info!(webhook.id = %row.id, workspace.id = %row.workspace_id, "webhook.created");
            return (face.encode)(&Mutated::Created {
                row: &row,
                secret: &key.reveal(),
            });
        }
        Err(ManagementError::Unavailable(None))
    }

    /// A kept answer shows a webhook's signing secret again.
    pub(super) async fn secret_again(
        &self,
        caller: &Caller,
        answer: &Answer,
    ) -> Result<(), ManagementError> {
        let (actor, action) = (actor(caller), "webhook.secret_shown");
        self.shown_again(caller.workspace, &actor, action, answer, |id| {
            id.to_string()
        })
        .await
    }

    /// The answer to a creation whose first call was cut off after its commit.
    async fn made(
        &self,
        caller: &Caller,
        id: Uuid,
        face: Face,
    ) -> Result<Vec<u8>, ManagementError> {
        let row = self.get_webhook(caller, id).await?;
        let secret = self.first_secret(&row)?;
        (face.encode)(&Mutated::Created {
            row: &row,
            secret: &secret.reveal(),
        })
    }

    fn first_secret(&self, row: &WebhookRow) -> Result<SigningKey, ManagementError> {
        let mut secrets = row.secrets.iter();
        let first = secrets.find(|secret| secret.version == FIRST_VERSION);
        self.signing_key(row, first.ok_or(ManagementError::WebhookNotFound)?)
    }

    async fn change(
        &self,
        caller: &Caller,
        id: Option<Uuid>,
        draft: Result<Draft, ManagementError>,
        if_match: Option<&IfMatch>,
        face: Face,
    ) -> Result<Vec<u8>, ManagementError> {
        // An unknown id is told before the body is judged: a stranger's webhook has no rules to learn.
        let id = id.ok_or(ManagementError::WebhookNotFound)?;
        let mut row = self.get_webhook(caller, id).await?;
        let draft = draft?;
        let workspace = self.inner.store.get_workspace(caller.workspace).await?;
        let rules = Rules {
            addresses: &self.inner.addresses,
            retry: RetryBounds::of(&workspace.ok_or(ManagementError::Unauthenticated)?),
            now: self.now(),
        };
        let mut asked = false;
        for _ in 0..TRIES {
            IfMatch::check(if_match, row.revision)?;
            let stored = match draft.touches_extras() {
                true => self.open_extras(&row)?,
                false => Extras::default(),
            };
            let before = Before {
                endpoint_url: &row.endpoint_url,
                retry: row.options.retry,
                extras: &stored,
            };
            let changes = draft.clone().judge_changes(&rules, before)?;
            let mut patch = self.patch(&row, changes, &stored)?;
            if if_match.is_some() {
                patch.expected_revision = Some(row.revision);
            }
            if !asked {
                self.read_model_is_there().await?;
                asked = true;
            }
            let done = self
                .inner
                .store
                .update_webhook(caller.workspace, id, &patch, &actor(caller), self.now())
                .await;
            match done {
                Ok(Some(after)) => {
                    if after.revision != row.revision {
                        tracing::info!(webhook.id = %id, workspace.id = %caller.workspace, revision = after.revision, "webhook.changed");
                    }
                    return (face.encode)(&Mutated::Changed { row: &after });
                }
                Ok(None) => return Err(ManagementError::WebhookNotFound),
                // What the wish means depends on what was stored, and that has moved on.
                Err(StoreError::Conflict(_)) => row = self.get_webhook(caller, id).await?,
                Err(error) => return Err(error.into()),
            }
        }
        Err(ManagementError::Unavailable(None))
    }

    fn new_webhook(
        &self,
        caller: &Caller,
        draft: NewDraft,
        key: &[u8],
    ) -> Result<NewWebhook, ManagementError> {
        let now = self.now();
        let id = webhook_id(now, secrets::random().map_err(ManagementError::internal)?);
        let mut version = 0;
        let mut seal = |purpose, secret: &[u8]| {
            version += 1;
            let binding = Binding {
                workspace: caller.workspace,
                webhook: id,
                version,
            };
            secrets::seal(&self.inner.keyring, purpose, binding, secret, now)
                .map_err(ManagementError::internal)
        };
        // The first one sealed has the first version, which is how a creation's secret is found.
        let secret = seal(Purpose::SigningKey, key)?;
        let extras = match draft.extras.is_empty() {
            true => webhooks_store::Extras::default(),
            false => webhooks_store::Extras {
                shown: stored_form(&draft.extras)?,
                sealed: Some(seal(Purpose::Extras, &draft.extras.encode())?),
            },
        };
        let asymmetric = match draft.asymmetric {
            false => None,
            true => {
                let key = draw_asymmetric()?;
                Some(AsymmetricSecret {
                    public_key: key.public_key(),
                    sealed: seal(Purpose::Ed25519, &key.seed())?,
                })
            }
        };
        let (status, status_reason) = by_person(draft.status);
        Ok(NewWebhook {
            id,
            workspace_id: caller.workspace,
            name: draft.name,
            endpoint_url: draft.endpoint_url,
            link_ids: draft.links,
            triggers: draft.triggers,
            source: draft.source,
            profile: draft.profile.as_str().to_owned(),
            created_by: caller.member,
            created_by_email: caller.member_email.clone(),
            status,
            status_reason,
            options: draft.options,
            secret,
            extras,
            asymmetric,
            now,
        })
    }

    /// What to change of `row`. A status that is already shown is no change; one that is not is only
    /// right for the status it was judged against, and a secret only for the version it was sealed
    /// for, hence the revision.
    fn patch(
        &self,
        row: &WebhookRow,
        changes: Changes,
        stored: &Extras,
    ) -> Result<WebhookPatch, ManagementError> {
        let status = changes.status.and_then(|wish| wished(row.status, wish));
        let held_choice = held_choice(row.status, status.map(|(status, _)| status), changes.held)?;
        let mut patch = WebhookPatch {
            name: changes.name,
            endpoint_url: changes.endpoint_url,
            link_ids: changes.links,
            triggers: changes.triggers,
            status,
            new_health_epoch: status.is_some(),
            held_choice,
            source: changes.source,
            profile: changes.profile.map(|profile| profile.as_str().to_owned()),
            description: changes.description,
            labels: changes.labels,
            event_actions: changes.event_actions,
            retry: changes.retry,
            rate: changes.rate,
            max_in_flight: changes.max_in_flight,
            ordering: changes.ordering,
            extras: None,
            asymmetric: None,
            expected_revision: (changes.status.is_some() || changes.held.is_some())
                .then_some(row.revision),
        };
        let mut version = row.secret_version;
        let mut seal = |purpose, secret: &[u8]| {
            version = version.saturating_add(1);
            let binding = binding(row, version);
            secrets::seal(&self.inner.keyring, purpose, binding, secret, self.now())
                .map_err(ManagementError::internal)
        };
        // The same values again are no change.
        if let Some(extras) = changes.extras.filter(|extras| extras != stored) {
            patch.expected_revision = Some(row.revision);
            patch.extras = Some(match extras.is_empty() {
                true => webhooks_store::Extras::default(),
                false => webhooks_store::Extras {
                    shown: stored_form(&extras)?,
                    sealed: Some(seal(Purpose::Extras, &extras.encode())?),
                },
            });
        }
        let wanted = changes.asymmetric.unwrap_or(row.asymmetric.is_some());
        if wanted != row.asymmetric.is_some() {
            patch.expected_revision = Some(row.revision);
            patch.asymmetric = Some(match wanted {
                false => None,
                true => {
                    let key = draw_asymmetric()?;
                    Some(AsymmetricSecret {
                        public_key: key.public_key(),
                        sealed: seal(Purpose::Ed25519, &key.seed())?,
                    })
                }
            });
        }
        Ok(patch)
    }

    /// Headers and credentials in the clear.
    fn open_extras(&self, row: &WebhookRow) -> Result<Extras, ManagementError> {
        let Some(sealed) = &row.extras.sealed else {
            return Ok(Extras::default());
        };
        let binding = binding(row, sealed.version);
        let bytes = secrets::open(&self.inner.keyring, Purpose::Extras, binding, sealed)
            .map_err(ManagementError::internal)?;
        Extras::decode(&bytes, &Shown::read(&row.extras.shown)).map_err(ManagementError::internal)
    }
}

/// A time-ordered id (UUIDv7).
fn webhook_id(now_micros: i64, random: [u8; 10]) -> Uuid {
    let millis = u64::try_from(now_micros / 1_000).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}

fn stored_form(extras: &Extras) -> Result<serde_json::Value, ManagementError> {
    extras
        .shown()
        .to_stored()
        .map_err(ManagementError::internal)
}

pub(super) fn draw_asymmetric() -> Result<AsymmetricKey, ManagementError> {
    let seed = secrets::random().map_err(ManagementError::internal)?;
    Ok(AsymmetricKey::from_seed(seed))
}

/// What becomes of held deliveries when the status goes from `stored` to `next` (`None` = it stays).
/// Who says nothing gets what a pause promises: its events go out on resume. After an automatic
/// disabling they stay held until somebody decides.
fn held_choice(
    stored: WebhookStatus,
    next: Option<WebhookStatus>,
    wish: Option<HeldChoice>,
) -> Result<Option<HeldChoice>, ManagementError> {
    if next.unwrap_or(stored) != WebhookStatus::Active {
        return match wish {
            None => Ok(None),
            Some(_) => Err(ManagementError::Invalid(vec![Violation::new(
                "heldDeliveries",
                "not_active",
                "goes with the status WEBHOOK_STATUS_ACTIVE",
            )])),
        };
    }
    Ok(wish.or(next.map(|_| match stored {
        WebhookStatus::Paused => HeldChoice::Deliver,
        _ => HeldChoice::Keep,
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_held_goes_out_after_a_pause_and_waits_after_an_automatic_disabling() {
        use WebhookStatus::{Active, AutoDisabled, Disabled, Paused};
        let said = |stored, next, wish| held_choice(stored, next, wish).ok();
        assert_eq!(
            said(Paused, Some(Active), None),
            Some(Some(HeldChoice::Deliver))
        );
        assert_eq!(
            said(AutoDisabled, Some(Active), None),
            Some(Some(HeldChoice::Keep))
        );
        assert_eq!(
            said(Disabled, Some(Active), None),
            Some(Some(HeldChoice::Keep))
        );
        let discard = Some(HeldChoice::Discard);
        assert_eq!(said(AutoDisabled, Some(Active), discard), Some(discard));
        assert_eq!(said(Active, None, discard), Some(discard), "decided later");
        assert_eq!(said(Active, None, None), Some(None));
        assert_eq!(said(Active, Some(Paused), None), Some(None));
        for (stored, next) in [(Active, Some(Paused)), (AutoDisabled, None)] {
            assert_eq!(said(stored, next, discard), None);
        }
    }

    #[test]
    fn only_a_revision_that_was_seen_is_changed() {
        let seen = IfMatch(vec![3, 4]);
        IfMatch::check(None, 9).unwrap();
        IfMatch::check(Some(&seen), 4).unwrap();
        let refused = IfMatch::check(Some(&seen), 5).unwrap_err();
        assert!(matches!(
            refused,
            ManagementError::Precondition { current: 5 }
        ));
    }
}
