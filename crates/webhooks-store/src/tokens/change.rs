//! Making, changing and revoking tokens: the row, its outbox row and its audit entry, together or
//! not at all.

use sqlx::PgConnection;
use uuid::Uuid;

use super::{MAX_TOKENS, NewToken, TokenPatch, TokenRow, read};
use crate::{
    Actor, KeptAnswer, OutboxKind, Store,
    audit::{self, Entry},
    error::{StoreError, is_duplicate},
    idempotency, outbox,
    pg::{Micros, storable},
};

const INSERT: &str = "
INSERT INTO tokens
  (id, hash, workspace_id, name, key_type, scopes, created_by, created_at, expires_at, member_email,
  revision)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 1)";

const UPDATE: &str = "
UPDATE tokens SET name = $2, scopes = $3, expires_at = $4, updated_at = $5, revision = $6
WHERE id = $1";

const REVOKE: &str = "
UPDATE tokens SET revoked_at = $2, updated_at = $2, revision = revision + 1 WHERE id = $1";

/// Only forward, so that batches of several processes may come in any order.
const TOUCH: &str = "
UPDATE tokens t SET last_used_at = u.at
FROM unnest($1::text[], $2::timestamptz[]) u(id, at)
WHERE t.id = u.id AND (t.last_used_at IS NULL OR t.last_used_at < u.at)";

impl Store {
    /// Stores a token, and with it the answer that is kept for the caller's idempotency key.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the id is taken or the key is no longer the caller's,
    /// [`StoreError::NotFound`] when there is no such workspace, [`StoreError::Full`] when it has
    /// [`MAX_TOKENS`] already.
    pub async fn create_token(
        &self,
        new: &NewToken,
        kept: Option<KeptAnswer<'_>>,
        actor: &Actor,
    ) -> Result<TokenRow, StoreError> {
        let mut tx = self.pool.begin().await?;
        hold_workspace(&mut tx, new.workspace_id).await?;
        if let Some(kept) = kept {
            idempotency::finish_within(&mut tx, kept).await?;
        }
        let scopes: Vec<_> = new.scopes.iter().map(|scope| storable(scope)).collect();
        sqlx::query(INSERT)
            .bind(storable(&new.id))
            .bind(new.hash.as_slice())
            .bind(new.workspace_id)
            .bind(storable(&new.name))
            .bind(new.key_type.as_str())
            .bind(scopes)
            .bind(new.created_by)
            .bind(Micros(new.now))
            .bind(new.expires_at.map(Micros))
            .bind(new.member_email.as_deref().map(storable))
            .execute(&mut *tx)
            .await
            .map_err(|error| {
                if is_duplicate(&error) {
                    StoreError::Conflict("token id")
                } else {
                    error.into()
                }
            })?;
        let row = read::in_force(&mut tx, new.workspace_id, &new.id)
            .await?
            .ok_or(StoreError::NotFound("token"))?;
        log(&mut tx, actor, "token.create", new.now, None, &row).await?;
        tx.commit().await?;
        Ok(row)
    }

    /// Changes a token and returns it as it is now; `None` when the workspace has none of this id
    /// that is not revoked. A patch that changes nothing writes nothing.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn update_token(
        &self,
        workspace: Uuid,
        id: &str,
        patch: &TokenPatch,
        actor: &Actor,
        now: i64,
    ) -> Result<Option<TokenRow>, StoreError> {
        let mut tx = self.pool.begin().await?;
        let Some(before) = hold_token(&mut tx, workspace, id).await? else {
            return Ok(None);
        };
        let mut wanted = before.clone();
        if let Some(name) = &patch.name {
            wanted.name = storable(name).into_owned();
        }
        if let Some(scopes) = &patch.scopes {
            wanted.scopes = scopes
                .iter()
                .map(|scope| storable(scope).into_owned())
                .collect();
        }
        if let Some(expires_at) = patch.expires_at {
            wanted.expires_at = expires_at;
        }
        if wanted == before {
            return Ok(Some(before));
        }
        sqlx::query(UPDATE)
            .bind(&wanted.id)
            .bind(&wanted.name)
            .bind(&wanted.scopes)
            .bind(wanted.expires_at.map(Micros))
            .bind(Micros(now.max(before.updated_at)))
            .bind(before.revision + 1)
            .execute(&mut *tx)
            .await?;
        let after = read::in_force(&mut tx, workspace, id).await?;
        if let Some(after) = &after {
            log(&mut tx, actor, "token.update", now, Some(&before), after).await?;
        }
        tx.commit().await?;
        Ok(after)
    }

    /// Revokes a token; `false` when the workspace has no such token or it was revoked before.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn revoke_token(
        &self,
        workspace: Uuid,
        id: &str,
        actor: &Actor,
        now: i64,
    ) -> Result<bool, StoreError> {
        let mut tx = self.pool.begin().await?;
        let Some(before) = hold_token(&mut tx, workspace, id).await? else {
            return Ok(false);
        };
        sqlx::query(REVOKE)
            .bind(&before.id)
            .bind(Micros(now))
            .execute(&mut *tx)
            .await?;
        let after = TokenRow {
            revoked_at: Some(now),
            revision: before.revision + 1,
            ..before.clone()
        };
        log(&mut tx, actor, "token.revoke", now, Some(&before), &after).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Writes down when tokens were last used, in microseconds. No audit entry: it is no change.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn touch_tokens(&self, used: &[(String, i64)]) -> Result<(), StoreError> {
        if used.is_empty() {
            return Ok(());
        }
        let (ids, times): (Vec<_>, Vec<_>) = used
            .iter()
            .map(|(id, at)| (storable(id), Micros(*at)))
            .unzip();
        sqlx::query(TOUCH)
            .bind(ids)
            .bind(times)
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}

/// Keeps other creations in this workspace waiting, and counts.
async fn hold_workspace(connection: &mut PgConnection, workspace: Uuid) -> Result<(), StoreError> {
    let hold = "SELECT 1 FROM workspaces WHERE id = $1 AND deleted_at IS NULL FOR NO KEY UPDATE";
    let there = sqlx::query(hold)
        .bind(workspace)
        .fetch_optional(&mut *connection)
        .await?;
    if there.is_none() {
        return Err(StoreError::NotFound("workspace"));
    }
    let count = "SELECT count(*) FROM tokens WHERE workspace_id = $1 AND revoked_at IS NULL";
    let used: i64 = sqlx::query_scalar(count)
        .bind(workspace)
        .fetch_one(connection)
        .await?;
    if used < i64::from(MAX_TOKENS) {
        Ok(())
    } else {
        Err(StoreError::Full {
            what: "tokens",
            limit: MAX_TOKENS,
        })
    }
}

/// Locks a token's row and reads it.
async fn hold_token(
    connection: &mut PgConnection,
    workspace: Uuid,
    id: &str,
) -> Result<Option<TokenRow>, StoreError> {
    let hold = "SELECT 1 FROM tokens
        WHERE workspace_id = $1 AND id = $2 AND revoked_at IS NULL FOR UPDATE";
    let there = sqlx::query(hold)
        .bind(workspace)
        .bind(storable(id))
        .fetch_optional(&mut *connection)
        .await?;
    // Read by a second statement, which sees what the one that held the lock before had written.
    if there.is_some() {
        read::in_force(connection, workspace, id).await
    } else {
        Ok(None)
    }
}

/// Tells the outbox and the audit log.
async fn log(
    connection: &mut PgConnection,
    actor: &Actor,
    action: &'static str,
    now: i64,
    before: Option<&TokenRow>,
    after: &TokenRow,
) -> Result<(), StoreError> {
    outbox::push(
        connection,
        OutboxKind::Token,
        after.workspace_id,
        &after.id,
        after.revision,
    )
    .await?;
    let entry = Entry {
        workspace: after.workspace_id,
        actor,
        action,
        subject: &after.id,
        at: now,
        before: before.map(TokenRow::audited),
        after: Some(after.audited()),
    };
    audit::write(connection, entry).await
}
