//! A workspace's own certificate authorities. Public data: stored as they are.

use serde_json::{Value, json};
use sqlx::{PgConnection, Row as _, postgres::PgRow};
use uuid::Uuid;

use super::change::hold;
use crate::{
    Actor, OutboxKind, Store,
    audit::{self, Entry},
    error::StoreError,
    outbox,
    pg::{Micros, storable},
};

/// The authorities of one workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthoritiesRow {
    /// Whose they are.
    pub workspace_id: Uuid,
    /// PEM; empty = none.
    pub pem: String,
    /// Grows by one with each change.
    pub revision: i64,
}

impl AuthoritiesRow {
    fn of(row: &PgRow) -> Result<Self, StoreError> {
        Ok(Self {
            workspace_id: row.try_get("workspace_id")?,
            pem: row.try_get("pem")?,
            revision: row.try_get("revision")?,
        })
    }
}

/// Authorities to store, and how the audit log names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthoritiesWish {
    /// PEM; empty = none.
    pub pem: String,
    /// Their fingerprints.
    pub fingerprints: Vec<String>,
}

const SET: &str = "
INSERT INTO workspace_authorities AS known (workspace_id, pem, revision, updated_at)
VALUES ($1, $2, 1, $3)
ON CONFLICT (workspace_id) DO UPDATE
  SET pem = excluded.pem, revision = known.revision + 1, updated_at = excluded.updated_at
  WHERE known.pem <> excluded.pem
RETURNING workspace_id, pem, revision";

impl Store {
    /// The authorities of a workspace; `None` when it never had any.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn authorities(&self, workspace: Uuid) -> Result<Option<AuthoritiesRow>, StoreError> {
        let mut connection = self.pool.acquire().await?;
        one(&mut connection, workspace).await
    }

    /// Sets them all anew. Authorities that are the same write nothing.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] without such a workspace.
    pub async fn set_authorities(
        &self,
        workspace: Uuid,
        wish: &AuthoritiesWish,
        actor: &Actor,
        now: i64,
    ) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        if hold(&mut tx, workspace).await?.is_none() {
            return Err(StoreError::NotFound("workspace"));
        }
        let before = one(&mut tx, workspace).await?;
        if before.is_none() && wish.pem.is_empty() {
            return Ok(());
        }
        let changed = sqlx::query(SET)
            .bind(workspace)
            .bind(storable(&wish.pem))
            .bind(Micros(now))
            .fetch_optional(&mut *tx)
            .await?;
        let Some(changed) = changed else {
            return Ok(());
        };
        let after = AuthoritiesRow::of(&changed)?;
        tell(&mut tx, &after).await?;
        let entry = Entry {
            workspace,
            actor,
            action: if wish.pem.is_empty() {
                "authorities.delete"
            } else {
                "authorities.set"
            },
            subject: &workspace.to_string(),
            at: now,
            before: before.map(|row| json!({ "revision": row.revision })),
            after: Some(audited(&after, wish)),
        };
        audit::write(&mut tx, entry).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Authorities of all workspaces, by id, at most `limit` after `after`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn authorities_rows(
        &self,
        after: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<AuthoritiesRow>, StoreError> {
        let select = "SELECT workspace_id, pem, revision FROM workspace_authorities
            WHERE workspace_id > $1 ORDER BY workspace_id LIMIT $2";
        let rows = sqlx::query(select)
            .bind(after.unwrap_or_default())
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(AuthoritiesRow::of).collect()
    }
}

fn audited(row: &AuthoritiesRow, wish: &AuthoritiesWish) -> Value {
    json!({ "revision": row.revision, "fingerprints": wish.fingerprints })
}

async fn one(
    connection: &mut PgConnection,
    workspace: Uuid,
) -> Result<Option<AuthoritiesRow>, StoreError> {
    let select =
        "SELECT workspace_id, pem, revision FROM workspace_authorities WHERE workspace_id = $1";
    let row = sqlx::query(select)
        .bind(workspace)
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(AuthoritiesRow::of).transpose()
}

async fn tell(connection: &mut PgConnection, row: &AuthoritiesRow) -> Result<(), StoreError> {
    let key = row.workspace_id.to_string();
    outbox::push(
        connection,
        OutboxKind::Trust,
        row.workspace_id,
        &key,
        row.revision,
    )
    .await
}

/// Empties them with their workspace.
pub(super) async fn drop_all(
    connection: &mut PgConnection,
    workspace: Uuid,
    now: i64,
) -> Result<(), StoreError> {
    let update =
        "UPDATE workspace_authorities SET pem = '', revision = revision + 1, updated_at = $2
        WHERE workspace_id = $1 AND pem <> '' RETURNING workspace_id, pem, revision";
    let dropped = sqlx::query(update)
        .bind(workspace)
        .bind(Micros(now))
        .fetch_optional(&mut *connection)
        .await?;
    match dropped {
        Some(row) => tell(connection, &AuthoritiesRow::of(&row)?).await,
        None => Ok(()),
    }
}
