//! Deleting a workspace: from the commit on nothing of it is delivered and no token of it opens
//! anything. Its history stays until retention, and its row for ever, so that its id is never used
//! again.

use serde_json::json;
use sqlx::Row as _;
use uuid::Uuid;

use super::{WorkspaceRow, change::hold};
use crate::{
    Actor, Store,
    audit::{self, Entry},
    error::StoreError,
    pg::Micros,
};

/// What went with a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeletedWorkspace {
    /// Webhooks that were deleted.
    pub webhooks: i64,
    /// Tokens that were revoked.
    pub tokens: i64,
}

const MARK: &str = "UPDATE workspaces SET deleted_at = $2, updated_at = $2 WHERE id = $1";

/// A deletion is a revision too: the read model drops its copy only for a newer one.
const WEBHOOKS: &str = "
WITH gone AS (DELETE FROM webhooks WHERE workspace_id = $1 RETURNING id, revision + told AS revision),
told AS (
  INSERT INTO outbox (kind, workspace_id, key, revision)
  SELECT 'webhook', $1, id::text, revision + 1 FROM gone RETURNING 1
)
SELECT count(*) AS n FROM told";

const TOKENS: &str = "
WITH gone AS (
  UPDATE tokens SET revoked_at = $2, updated_at = $2, revision = revision + 1
  WHERE workspace_id = $1 AND revoked_at IS NULL RETURNING id, revision
),
told AS (
  INSERT INTO outbox (kind, workspace_id, key, revision)
  SELECT 'token', $1, id, revision FROM gone RETURNING 1
)
SELECT count(*) AS n FROM told";

impl Store {
    /// Deletes a workspace with its webhooks, and revokes its tokens; `None` when there is no such
    /// workspace.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn delete_workspace(
        &self,
        id: Uuid,
        actor: &Actor,
        now: i64,
    ) -> Result<Option<DeletedWorkspace>, StoreError> {
        let mut tx = self.pool.begin().await?;
        let Some(before) = hold(&mut tx, id).await? else {
            return Ok(None);
        };
        sqlx::query(MARK)
            .bind(id)
            .bind(Micros(now))
            .execute(&mut *tx)
            .await?;
        let webhooks = sqlx::query(WEBHOOKS).bind(id).fetch_one(&mut *tx).await?;
        let tokens = sqlx::query(TOKENS)
            .bind(id)
            .bind(Micros(now))
            .fetch_one(&mut *tx)
            .await?;
        super::authorities::drop_all(&mut tx, id, now).await?;
        let deleted = DeletedWorkspace {
            webhooks: webhooks.try_get("n")?,
            tokens: tokens.try_get("n")?,
        };
        let entry = Entry {
            workspace: id,
            actor,
            action: "workspace.delete",
            subject: &id.to_string(),
            at: now,
            before: Some(WorkspaceRow::audited(&before)),
            after: Some(json!({ "webhooks": deleted.webhooks, "tokens": deleted.tokens })),
        };
        audit::write(&mut tx, entry).await?;
        tx.commit().await?;
        Ok(Some(deleted))
    }
}
