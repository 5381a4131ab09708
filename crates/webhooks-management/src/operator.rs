//! What an operator does: workspaces, their plans and limits, and their tokens. The `webhooks`
//! program calls this with the database's password in its hand; the operators' API calls it after
//! it has seen the operator's token.
//!
//! Nothing here goes through the checks of callers. Changes reach the read model through the outbox
//! like everything else: the program drains it at once, and within the service the pump does.

mod draft;

use std::sync::Arc;

use uuid::Uuid;
use webhooks_bus::{Bus, ConfigWriter};
use webhooks_domain::{
    clock::Clock,
    token::{MINT_BYTES, Token, TokenEnvironment},
    webhook::Plan,
};
use webhooks_store::{
    Actor, AttemptRecord, DeletedWorkspace, DeliveryRow, IdempotencyKey, KeptAnswer, NewToken,
    NewWorkspace, Store, StoreError, TokenKeyType, TokenRow, WorkspaceCursor, WorkspacePage,
    WorkspacePatch, WorkspaceRow,
};

use crate::{
    emails::is_email,
    error::{ManagementError, Violation},
    outbox::Outbox,
    scopes::{NO_SCOPE, PUBLISHABLE, Scope},
    secrets,
};

pub use draft::{LimitsDraft, MAX_EMAILS, WorkspaceDraft};

/// An operator's hands.
#[derive(Clone)]
pub struct Operator {
    store: Store,
    outbox: Outbox,
    clock: Arc<dyn Clock>,
    actor: Actor,
    /// Somebody else runs the outbox's pump.
    pumped: bool,
}

/// A token to be made.
#[derive(Debug, Clone)]
pub struct TokenWish {
    /// Whose it is.
    pub workspace: Uuid,
    /// What people call it.
    pub name: String,
    /// What it may do; empty = everything.
    pub scopes: Vec<String>,
    /// The member behind it; `None` = the workspace's owner.
    pub member: Option<Uuid>,
    /// Where that member reads mail; `None` = not known.
    pub member_email: Option<String>,
    /// Which environment its text names.
    pub environment: TokenEnvironment,
    /// When it ends, in microseconds; `None` = never.
    pub expires_at: Option<i64>,
}

impl Operator {
    /// Works on this store, and brings changes to the read model over this connection.
    #[must_use]
    pub fn new(store: Store, bus: &Bus, clock: Arc<dyn Clock>) -> Self {
        let outbox = Outbox::new(store.clone(), ConfigWriter::new(bus));
        Self {
            store,
            outbox,
            clock,
            actor: Actor::Operator,
            pumped: false,
        }
    }

    /// Works within a service that pumps this outbox, for this actor.
    pub(crate) fn within(
        store: Store,
        outbox: Outbox,
        clock: Arc<dyn Clock>,
        actor: Actor,
    ) -> Self {
        Self {
            store,
            outbox,
            clock,
            actor,
            pumped: true,
        }
    }

    /// Makes a workspace, or returns the one of this id as it is.
    ///
    /// # Errors
    /// The store fails, or a workspace of this id was deleted.
    pub async fn create_workspace(
        &self,
        id: Uuid,
        name: &str,
        plan: Plan,
        owner_member: Uuid,
    ) -> Result<WorkspaceRow, ManagementError> {
        let draft = WorkspaceDraft {
            id: Some(id.to_string()),
            name: Some(name.to_owned()),
            plan: Some(plan.as_str().to_owned()),
            owner_member: Some(owner_member.to_string()),
            ..WorkspaceDraft::default()
        };
        self.make_workspace(draft).await
    }

    /// Makes a workspace as the draft says, or returns the one of this id as it is.
    ///
    /// # Errors
    /// The draft breaks rules, the store fails, or a workspace of this id was deleted.
    pub async fn make_workspace(
        &self,
        draft: WorkspaceDraft,
    ) -> Result<WorkspaceRow, ManagementError> {
        self.make_workspace_for(draft, None).await
    }

    /// As [`Self::make_workspace`]; the creation is tied to an idempotency key that is held.
    ///
    /// # Errors
    /// As that.
    pub(crate) async fn make_workspace_for(
        &self,
        draft: WorkspaceDraft,
        claim: Option<IdempotencyKey<'_>>,
    ) -> Result<WorkspaceRow, ManagementError> {
        let wish = draft.judge_new()?;
        let new = NewWorkspace {
            id: wish.id.unwrap_or_else(Uuid::now_v7),
            name: wish.name,
            plan: wish.plan,
            owner_member: wish.owner_member.unwrap_or_else(Uuid::now_v7),
            now: self.clock.now_micros(),
        };
        let made = self
            .store
            .create_workspace_with(&new, &wish.settings, claim, &self.actor)
            .await;
        let row = made.map_err(|error| match error {
            StoreError::Conflict(_) => ManagementError::WorkspaceGone,
            other => other.into(),
        })?;
        tracing::info!(workspace.id = %row.id, plan = row.plan.as_str(), "workspace.created");
        Ok(row)
    }

    /// Changes a workspace.
    ///
    /// # Errors
    /// There is none of this id, the draft breaks rules, or the store or the read model fails.
    pub async fn change_workspace(
        &self,
        id: Uuid,
        draft: WorkspaceDraft,
    ) -> Result<WorkspaceRow, ManagementError> {
        let now = self.clock.now_micros();
        let before = self.workspace(id).await?;
        let patch = draft.judge_changes()?;
        let only_plan = WorkspacePatch {
            plan: patch.plan,
            ..WorkspacePatch::default()
        };
        let changed = match patch.plan {
            // A plan's change has a name of its own in the audit log.
            Some(plan) if patch == only_plan => {
                self.store.set_plan(id, plan, &self.actor, now).await?
            }
            _ => {
                let update = self.store.update_workspace(id, &patch, &self.actor, now);
                update.await?
            }
        };
        let changed = changed.ok_or(ManagementError::WorkspaceNotFound)?;
        // What the read model holds of a workspace's settings.
        if told(&changed) != told(&before) {
            self.in_force(id).await?;
        }
        tracing::info!(workspace.id = %id, plan = changed.plan.as_str(), "workspace.changed");
        Ok(changed)
    }

    /// Deletes a workspace: its deliveries end, its tokens open nothing, its history stays.
    ///
    /// # Errors
    /// There is none of this id, or the store or the read model fails.
    pub async fn delete_workspace(&self, id: Uuid) -> Result<DeletedWorkspace, ManagementError> {
        let now = self.clock.now_micros();
        let deleted = self.store.delete_workspace(id, &self.actor, now).await?;
        let deleted = deleted.ok_or(ManagementError::WorkspaceNotFound)?;
        tracing::info!(
            workspace.id = %id,
            webhooks = deleted.webhooks,
            tokens = deleted.tokens,
            "workspace.deleted"
        );
        self.in_force(id).await?;
        Ok(deleted)
    }

    /// A workspace.
    ///
    /// # Errors
    /// There is none of this id, or the store fails.
    pub async fn workspace(&self, id: Uuid) -> Result<WorkspaceRow, ManagementError> {
        let row = self.store.get_workspace(id).await?;
        row.ok_or(ManagementError::WorkspaceNotFound)
    }

    /// A delivery of any workspace with its attempts.
    ///
    /// # Errors
    /// There is none of this id, or the store fails.
    pub async fn delivery(
        &self,
        id: Uuid,
    ) -> Result<(DeliveryRow, Vec<AttemptRecord>), ManagementError> {
        let workspace = self.store.workspace_of_delivery(id).await?;
        let workspace = workspace.ok_or(ManagementError::DeliveryNotFound)?;
        let found = self.store.get_delivery(workspace, id).await?;
        found.ok_or(ManagementError::DeliveryNotFound)
    }

    /// How many webhooks a workspace has, of any status.
    ///
    /// # Errors
    /// The store fails.
    pub async fn webhook_count(&self, id: Uuid) -> Result<i64, ManagementError> {
        Ok(self.store.count_webhooks(id).await?)
    }

    /// Workspaces, oldest first, each with its number of webhooks.
    ///
    /// # Errors
    /// The store fails.
    pub async fn workspaces(
        &self,
        page_size: u32,
        after: Option<WorkspaceCursor>,
    ) -> Result<WorkspacePage, ManagementError> {
        Ok(self.store.list_workspaces(page_size, after).await?)
    }

    /// Makes a token and returns it: the only time that its text is seen.
    ///
    /// # Errors
    /// There is no such workspace, the member's address is none, the store fails, or the read model
    /// does (then the token is made and becomes known to ingest as soon as management runs; its text
    /// is lost, make another).
    pub async fn create_token(&self, wish: TokenWish) -> Result<Token, ManagementError> {
        let token = self.create_token_and(wish, |_| Ok(None)).await?;
        self.in_force(token.1).await?;
        Ok(token.0)
    }

    /// Makes a token and keeps, in the same transaction, what `keep` makes of it under an idempotency
    /// key. It is not in force yet: the workspace's outbox has it.
    ///
    /// # Errors
    /// As [`Self::create_token`], or as `keep`.
    pub(crate) async fn create_token_and(
        &self,
        wish: TokenWish,
        keep: impl FnOnce(&Token) -> Result<Option<Kept>, ManagementError>,
    ) -> Result<(Token, Uuid), ManagementError> {
        let workspace = self.workspace(wish.workspace).await?;
        let mut violations = Vec::new();
        if wish
            .member_email
            .as_deref()
            .is_some_and(|email| !is_email(email))
        {
            let message = "is an address of the form name@host.example";
            violations.push(Violation::new("memberEmail", "not_an_address", message));
        }
        for (index, scope) in wish.scopes.iter().enumerate() {
            // One that nobody knows would open nothing, and nobody would be told. Stored by its name.
            if Scope::parse(scope).is_none_or(|known| known.name != scope) && scope != PUBLISHABLE {
                let field = format!("scopes[{index}]");
                violations.push(Violation::new(field, "unknown_value", NO_SCOPE));
            }
        }
        if !violations.is_empty() {
            return Err(ManagementError::Invalid(violations));
        }
        let environment = if workspace.settings.sandbox {
            TokenEnvironment::Test
        } else {
            wish.environment
        };
        let random = secrets::random::<MINT_BYTES>().map_err(ManagementError::internal)?;
        let token = Token::mint(environment, &random);
        let new = NewToken {
            id: token.id().to_owned(),
            hash: token.hash(),
            workspace_id: wish.workspace,
            name: wish.name,
            key_type: TokenKeyType::Secret,
            scopes: wish.scopes,
            created_by: wish.member.unwrap_or(workspace.owner_member),
            member_email: wish.member_email,
            expires_at: wish.expires_at,
            now: self.clock.now_micros(),
        };
        let kept = keep(&token)?;
        let answer = kept.as_ref().map(|kept| KeptAnswer {
            key: IdempotencyKey {
                token_id: &kept.holder,
                key: &kept.key,
            },
            status: http::StatusCode::OK.as_u16(),
            body: &kept.body,
            subject: Some(kept.subject),
        });
        let made = self.store.create_token(&new, answer, &self.actor).await;
        made.map_err(|error| match error {
            StoreError::Full { limit, .. } => ManagementError::TokenLimit(limit),
            StoreError::NotFound(_) => ManagementError::WorkspaceNotFound,
            // The claim outlived its lease and someone else took it: that call gives the answer.
            StoreError::Conflict(_) if kept.is_some() => ManagementError::IdempotencyInProgress,
            other => other.into(),
        })?;
        Ok((token, workspace.id))
    }

    /// Ends a token; false when the workspace has no such token, or it had ended.
    ///
    /// # Errors
    /// The store or the read model fails.
    pub async fn revoke_token(&self, workspace: Uuid, id: &str) -> Result<bool, ManagementError> {
        let now = self.clock.now_micros();
        let revoked = self
            .store
            .revoke_token(workspace, id, &self.actor, now)
            .await?;
        self.in_force(workspace).await?;
        Ok(revoked)
    }

    /// A workspace's tokens, oldest first, revoked ones included.
    ///
    /// # Errors
    /// The store fails.
    pub async fn tokens(&self, workspace: Uuid) -> Result<Vec<TokenRow>, ManagementError> {
        Ok(self.store.list_tokens(workspace).await?)
    }

    /// Puts a workspace on a plan; false when there is none of this id. What exists beyond the new
    /// plan's limit stays.
    ///
    /// # Errors
    /// The store fails.
    pub async fn set_plan(&self, workspace: Uuid, plan: Plan) -> Result<bool, ManagementError> {
        let now = self.clock.now_micros();
        let changed = self
            .store
            .set_plan(workspace, plan, &self.actor, now)
            .await?;
        Ok(changed.is_some())
    }

    /// Brings what was committed of a workspace to the read model.
    async fn in_force(&self, workspace: Uuid) -> Result<(), ManagementError> {
        if self.pumped {
            self.outbox.settled(workspace).await
        } else {
            let drained = self.outbox.drain().await;
            drained.map_err(|error| ManagementError::Unavailable(Some(error)))
        }
    }
}

fn told(row: &WorkspaceRow) -> (Option<u32>, Option<u32>, bool, &[String]) {
    let settings = &row.settings;
    (
        settings.limits.events_per_second,
        settings.limits.held_per_webhook,
        settings.endpoint_verification,
        &settings.verification_exempt_hosts,
    )
}

/// An answer that is kept with the token it shows, under a key that is held.
pub(crate) struct Kept {
    /// Whose key it is.
    pub(crate) holder: String,
    pub(crate) key: String,
    /// The answer's body, sealed.
    pub(crate) body: Vec<u8>,
    pub(crate) subject: Uuid,
}
