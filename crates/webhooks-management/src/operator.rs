//! What an operator does by hand (the `webhooks` program calls these): workspaces, tokens, plans.
//!
//! Nothing here goes through the API's checks of callers; whoever holds the database's password is
//! the operator. Tokens reach the read model through the outbox like everything else: [`Operator`]
//! drains it at once, and a running management service would too.

use std::sync::Arc;

use uuid::Uuid;
use webhooks_bus::{Bus, ConfigWriter};
use webhooks_domain::{
    clock::Clock,
    token::{MINT_BYTES, Token, TokenEnvironment},
    webhook::Plan,
};
use webhooks_store::{Actor, NewToken, NewWorkspace, Store, WorkspaceRow};

use crate::{outbox::Outbox, secrets};

/// An operator's hands.
#[derive(Clone)]
pub struct Operator {
    store: Store,
    outbox: Outbox,
    clock: Arc<dyn Clock>,
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
        }
    }

    /// Makes a workspace, or returns the one of this id as it is.
    ///
    /// # Errors
    /// The store fails.
    pub async fn create_workspace(
        &self,
        id: Uuid,
        name: &str,
        plan: Plan,
        owner_member: Uuid,
    ) -> anyhow::Result<WorkspaceRow> {
        let new = NewWorkspace {
            id,
            name: name.to_owned(),
            plan,
            owner_member,
            now: self.clock.now_micros(),
        };
        Ok(self.store.create_workspace(&new, &Actor::Operator).await?)
    }

    /// Makes a token and returns it: the only time that its text is seen.
    ///
    /// # Errors
    /// There is no such workspace, the store fails, or the read model does (then the token is made
    /// and becomes known to ingest as soon as management runs; its text is lost, make another).
    pub async fn create_token(&self, wish: TokenWish) -> anyhow::Result<Token> {
        let workspace = self.store.get_workspace(wish.workspace).await?;
        let workspace =
            workspace.ok_or_else(|| anyhow::anyhow!("no such workspace: {}", wish.workspace))?;
        let token = Token::mint(wish.environment, &secrets::random::<MINT_BYTES>()?);
        let new = NewToken {
            id: token.id().to_owned(),
            hash: token.hash(),
            workspace_id: wish.workspace,
            name: wish.name,
            scopes: wish.scopes,
            created_by: wish.member.unwrap_or(workspace.owner_member),
            expires_at: wish.expires_at,
            now: self.clock.now_micros(),
        };
        self.store.create_token(&new, &Actor::Operator).await?;
        self.outbox.drain().await?;
        Ok(token)
    }

    /// Ends a token; false when the workspace has no such token, or it had ended.
    ///
    /// # Errors
    /// The store or the read model fails.
    pub async fn revoke_token(&self, workspace: Uuid, id: &str) -> anyhow::Result<bool> {
        let now = self.clock.now_micros();
        let revoked = self
            .store
            .revoke_token(workspace, id, &Actor::Operator, now)
            .await?;
        self.outbox.drain().await?;
        Ok(revoked)
    }

    /// Puts a workspace on a plan; false when there is none of this id. What exists beyond the new
    /// plan's limit stays.
    ///
    /// # Errors
    /// The store fails.
    pub async fn set_plan(&self, workspace: Uuid, plan: Plan) -> anyhow::Result<bool> {
        let now = self.clock.now_micros();
        let changed = self
            .store
            .set_plan(workspace, plan, &Actor::Operator, now)
            .await?;
        Ok(changed.is_some())
    }
}
