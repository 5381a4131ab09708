//! Access tokens. Only a token's hash is stored, so nothing here can be used to call.

use serde_json::{Value, json};
use sqlx::{Row as _, postgres::PgRow};
use uuid::Uuid;

use crate::{
    Actor, OutboxKind, Store,
    audit::{self, Entry},
    error::{StoreError, is_duplicate},
    outbox,
    pg::{self, Micros, storable},
};

/// A token to be stored.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// Its public part.
    pub id: String,
    /// SHA-256 of the whole token.
    pub hash: [u8; 32],
    /// Whose it is.
    pub workspace_id: Uuid,
    /// What people call it.
    pub name: String,
    /// What it may do; empty = everything.
    pub scopes: Vec<String>,
    /// The member who made it.
    pub created_by: Uuid,
    /// When it ends, in microseconds; `None` = never.
    pub expires_at: Option<i64>,
    /// Now, in microseconds.
    pub now: i64,
}

/// A stored token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    /// Its public part.
    pub id: String,
    /// SHA-256 of the whole token.
    pub hash: [u8; 32],
    /// Whose it is.
    pub workspace_id: Uuid,
    /// What people call it.
    pub name: String,
    /// What it may do; empty = everything.
    pub scopes: Vec<String>,
    /// The member who made it.
    pub created_by: Uuid,
    /// Microseconds.
    pub created_at: i64,
    /// When it ends, in microseconds; `None` = never.
    pub expires_at: Option<i64>,
    /// When it was revoked, in microseconds; a revoked token stays as a row.
    pub revoked_at: Option<i64>,
    /// 1 when made, 2 when revoked.
    pub revision: i64,
}

impl TokenRow {
    fn of(row: &PgRow) -> Result<Self, StoreError> {
        let hash: &[u8] = row.try_get("hash")?;
        Ok(Self {
            id: row.try_get("id")?,
            hash: hash
                .try_into()
                .map_err(|error| StoreError::corrupt("token hash", error))?,
            workspace_id: row.try_get("workspace_id")?,
            name: row.try_get("name")?,
            scopes: row.try_get("scopes")?,
            created_by: row.try_get("created_by")?,
            created_at: pg::micros(row, "created_at")?,
            expires_at: pg::optional_micros(row, "expires_at")?,
            revoked_at: pg::optional_micros(row, "revoked_at")?,
            revision: row.try_get("revision")?,
        })
    }

    fn audited(&self) -> Value {
        json!({ "name": self.name, "scopes": self.scopes, "expiresAt": self.expires_at, "revokedAt": self.revoked_at })
    }
}

const INSERT: &str = "
INSERT INTO tokens
  (id, hash, workspace_id, name, scopes, created_by, created_at, expires_at, revision)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 1) RETURNING *";

const REVOKE: &str = "
UPDATE tokens SET revoked_at = $3, revision = revision + 1
WHERE workspace_id = $1 AND id = $2 AND revoked_at IS NULL RETURNING *";

impl Store {
    /// Stores a token.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the id is taken, [`StoreError::NotFound`] when there is no such
    /// workspace.
    pub async fn create_token(
        &self,
        new: &NewToken,
        actor: &Actor,
    ) -> Result<TokenRow, StoreError> {
        let mut tx = self.pool.begin().await?;
        let scopes: Vec<_> = new.scopes.iter().map(|scope| storable(scope)).collect();
        let row = sqlx::query(INSERT)
            .bind(&new.id)
            .bind(new.hash.as_slice())
            .bind(new.workspace_id)
            .bind(storable(&new.name))
            .bind(scopes)
            .bind(new.created_by)
            .bind(Micros(new.now))
            .bind(new.expires_at.map(Micros))
            .fetch_one(&mut *tx)
            .await
            .map_err(refused)?;
        let row = TokenRow::of(&row)?;
        let entry = Entry {
            workspace: row.workspace_id,
            actor,
            action: "token.create",
            subject: &row.id,
            at: new.now,
            before: None,
            after: Some(row.audited()),
        };
        outbox::push(
            &mut tx,
            OutboxKind::Token,
            row.workspace_id,
            &row.id,
            row.revision,
        )
        .await?;
        audit::write(&mut tx, entry).await?;
        tx.commit().await?;
        Ok(row)
    }

    /// The token of this id, revoked or expired ones included.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn token_by_id(&self, id: &str) -> Result<Option<TokenRow>, StoreError> {
        let select = "SELECT * FROM tokens WHERE id = $1";
        let row = sqlx::query(select)
            .bind(storable(id))
            .fetch_optional(&self.pool)
            .await?;
        row.as_ref().map(TokenRow::of).transpose()
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
        let row = sqlx::query(REVOKE)
            .bind(workspace)
            .bind(storable(id))
            .bind(Micros(now))
            .fetch_optional(&mut *tx)
            .await?;
        let Some(row) = row else { return Ok(false) };
        let row = TokenRow::of(&row)?;
        let before = TokenRow {
            revoked_at: None,
            ..row.clone()
        };
        let entry = Entry {
            workspace,
            actor,
            action: "token.revoke",
            subject: &row.id,
            at: now,
            before: Some(before.audited()),
            after: Some(row.audited()),
        };
        outbox::push(&mut tx, OutboxKind::Token, workspace, &row.id, row.revision).await?;
        audit::write(&mut tx, entry).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// The workspace's tokens, oldest first, revoked ones included.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list_tokens(&self, workspace: Uuid) -> Result<Vec<TokenRow>, StoreError> {
        let select = "SELECT * FROM tokens WHERE workspace_id = $1 ORDER BY created_at, id";
        let rows = sqlx::query(select)
            .bind(workspace)
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(TokenRow::of).collect()
    }

    /// The next `limit` tokens after `after` in the order of ids, revoked ones included, of every
    /// workspace: for the reconcile of the read model.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn token_config_rows(
        &self,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<TokenRow>, StoreError> {
        let select = "SELECT * FROM tokens WHERE id > $1 ORDER BY id LIMIT $2";
        let rows = sqlx::query(select)
            .bind(storable(after.unwrap_or_default()))
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(TokenRow::of).collect()
    }
}

fn refused(error: sqlx::Error) -> StoreError {
    let foreign = error
        .as_database_error()
        .is_some_and(|e| e.is_foreign_key_violation());
    if foreign {
        StoreError::NotFound("workspace")
    } else if is_duplicate(&error) {
        StoreError::Conflict("token id")
    } else {
        error.into()
    }
}
