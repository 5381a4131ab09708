//! Creating, changing and deleting webhooks.

use uuid::Uuid;
use webhooks_domain::{
    sealing::{Binding, NONCE_BYTES, Sealed},
    signing::SigningKey,
};
use webhooks_store::{
    IdempotencyKey, NewWebhook, SealedSecret, StatusFilter, StoreError, WebhookPatch, WebhookRow,
};

use super::{Answer, Face, Management, Mutated, Once, actor, once::Claim};
use crate::{
    auth::Caller,
    draft::{Changes, Draft, NewDraft},
    error::ManagementError,
    secrets,
    words::{ShownStatus, wished},
};

/// How often a change is judged anew because the webhook changed meanwhile.
const TRIES: usize = 8;

/// Version of a webhook's first signing secret.
const FIRST_VERSION: u32 = 1;

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
                Claim::Answered(answer) => return Ok(answer),
                Claim::Made(id) => this.made(&caller, id, face).await,
                Claim::Do => this.make(&caller, draft, once.as_ref(), face).await,
            };
            this.conclude(&caller, once.as_ref(), face, result).await
        })
        .await
    }

    /// Changes a webhook. `id` is `None` when the path held no id.
    ///
    /// # Errors
    /// There is no such webhook, the draft breaks rules, or the change could not be made.
    pub async fn update_webhook(
        &self,
        caller: Caller,
        id: Option<Uuid>,
        draft: Result<Draft, ManagementError>,
        once: Option<Once>,
        face: Face,
    ) -> Result<Answer, ManagementError> {
        let this = self.clone();
        self.to_the_end(async move {
            let result = match this.claim(&caller, once.as_ref()).await? {
                Claim::Answered(answer) => return Ok(answer),
                Claim::Do | Claim::Made(_) => this.change(&caller, id, draft, face).await,
            };
            this.conclude(&caller, once.as_ref(), face, result).await
        })
        .await
    }

    /// Deletes a webhook. Its history stays.
    ///
    /// # Errors
    /// There is no such webhook, or the change could not be made.
    pub async fn delete_webhook(&self, caller: &Caller, id: Uuid) -> Result<(), ManagementError> {
        let (this, caller) = (self.clone(), caller.clone());
        self.to_the_end(async move {
            this.read_model_is_there().await?;
            let (store, now) = (&this.inner.store, this.now());
            if !store
                .delete_webhook(caller.workspace, id, &actor(&caller), now)
                .await?
            {
                return Err(ManagementError::WebhookNotFound);
            }
            tracing::info!(webhook.id = %id, workspace.id = %caller.workspace, "webhook.deleted");
            this.inner.outbox.settled().await
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
        let draft = draft?.judge_new(&self.inner.addresses)?;
        self.read_model_is_there().await?;
        let workspace = self.inner.store.get_workspace(caller.workspace).await?;
        let workspace = workspace.ok_or(ManagementError::Unauthenticated)?;
        let now = self.now();
        let id = webhook_id(now, secrets::random().map_err(ManagementError::internal)?);
        let binding = Binding {
            workspace: caller.workspace,
            webhook: id,
            version: FIRST_VERSION,
        };
        let (key, sealed) =
            secrets::mint(&self.inner.keyring, binding).map_err(ManagementError::internal)?;
        let new = new_webhook(caller, id, draft, sealed, now);
        let claim = once.map(|once| IdempotencyKey {
            token_id: &caller.token_id,
            key: &once.key,
        });
        let limit = workspace.plan.webhook_limit(self.inner.light_plan_webhooks);
        let made = self
            .inner
            .store
            .create_webhook(&new, limit, claim, &actor(caller))
            .await;
        let row = made.map_err(|error| match error {
            StoreError::PlanLimit { limit, used } => ManagementError::PlanLimit {
                limit,
                used: u64::from(used),
                plan: workspace.plan,
            },
            // The claim outlived its lease and someone else took it: that call gives the answer.
            StoreError::Conflict(_) => ManagementError::IdempotencyInProgress,
            other => other.into(),
        })?;
        tracing::info!(webhook.id = %row.id, workspace.id = %row.workspace_id, "webhook.created");
        (face.encode)(&Mutated::Created {
            row: &row,
            secret: &key.reveal(),
        })
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
        let stored = row
            .secrets
            .iter()
            .find(|secret| secret.version == FIRST_VERSION);
        let stored = stored.ok_or(ManagementError::WebhookNotFound)?;
        let nonce: [u8; NONCE_BYTES] = stored
            .nonce
            .as_slice()
            .try_into()
            .map_err(ManagementError::internal)?;
        let sealed = Sealed {
            key_id: stored.key_id.clone(),
            nonce,
            ciphertext: stored.ciphertext.clone(),
        };
        let binding = Binding {
            workspace: row.workspace_id,
            webhook: row.id,
            version: stored.version,
        };
        let bytes = self
            .inner
            .keyring
            .open(binding, &sealed)
            .map_err(ManagementError::internal)?;
        SigningKey::from_bytes(bytes).map_err(ManagementError::internal)
    }

    async fn change(
        &self,
        caller: &Caller,
        id: Option<Uuid>,
        draft: Result<Draft, ManagementError>,
        face: Face,
    ) -> Result<Vec<u8>, ManagementError> {
        // An unknown id is told before the body is judged: a stranger's webhook has no rules to learn.
        let id = id.ok_or(ManagementError::WebhookNotFound)?;
        let mut row = self.get_webhook(caller, id).await?;
        let changes = draft?.judge_changes(&self.inner.addresses)?;
        self.read_model_is_there().await?;
        for _ in 0..TRIES {
            let patch = patch(&row, &changes);
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
                // What the wish means depends on the status that was shown, and that has moved on.
                Err(StoreError::Conflict(_)) => row = self.get_webhook(caller, id).await?,
                Err(error) => return Err(error.into()),
            }
        }
        Err(ManagementError::Unavailable(None))
    }
}

/// A time-ordered id (UUIDv7).
fn webhook_id(now_micros: i64, random: [u8; 10]) -> Uuid {
    let millis = u64::try_from(now_micros / 1_000).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}

fn new_webhook(caller: &Caller, id: Uuid, draft: NewDraft, sealed: Sealed, now: i64) -> NewWebhook {
    NewWebhook {
        id,
        workspace_id: caller.workspace,
        name: draft.name,
        endpoint_url: draft.endpoint_url,
        link_ids: draft.links,
        triggers: draft.triggers,
        source: draft.source,
        profile: draft.profile.as_str().to_owned(),
        created_by: caller.member,
        secret: SealedSecret {
            key_id: sealed.key_id,
            version: FIRST_VERSION,
            nonce: sealed.nonce.to_vec(),
            ciphertext: sealed.ciphertext,
            expires_at: None,
        },
        now,
    }
}

/// What to change of `row`. A status that is already shown is no change; one that is not is only
/// right for the status it was judged against, hence the revision.
fn patch(row: &WebhookRow, changes: &Changes) -> WebhookPatch {
    let status = changes.status.and_then(|wish| wished(row.status, wish));
    WebhookPatch {
        name: changes.name.clone(),
        endpoint_url: changes.endpoint_url.clone(),
        link_ids: changes.links.clone(),
        triggers: changes.triggers.clone(),
        status,
        source: changes.source,
        profile: changes.profile.map(|profile| profile.as_str().to_owned()),
        expected_revision: changes.status.map(|_| row.revision),
    }
}
