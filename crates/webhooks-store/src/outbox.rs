//! What the read model has yet to hear.
//!
//! A change of a webhook or token writes a row here in its own transaction; the outbox task tells
//! the bus and then removes the row. Ids are drawn before the commit, so a row with a lower id may
//! appear after one with a higher id. That is harmless: rows are removed by id and never skipped
//! by a cursor, and the rows of one key are in the order of its changes, because a change holds the
//! lock of the row it changes.

use sqlx::{PgConnection, Row as _, postgres::PgRow};
use uuid::Uuid;

use crate::{Store, error::StoreError};

/// What an outbox row is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutboxKind {
    /// A webhook: `key` is its id.
    Webhook,
    /// A token: `key` is its id.
    Token,
    /// A workspace's certificate authorities: `key` is the workspace's id.
    Trust,
}

impl OutboxKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Token => "token",
            Self::Trust => "trust",
        }
    }

    fn of(word: &str) -> Result<Self, StoreError> {
        [Self::Webhook, Self::Token, Self::Trust]
            .into_iter()
            .find(|kind| kind.as_str() == word)
            .ok_or_else(|| StoreError::corrupt("outbox kind", format!("unknown word {word:?}")))
    }
}

/// A change that the read model may not have yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxRow {
    /// Position; grows with each change of one key.
    pub id: i64,
    /// What changed.
    pub kind: OutboxKind,
    /// Whose it is.
    pub workspace_id: Uuid,
    /// The id of what changed. When no such row exists any more, it was deleted.
    pub key: String,
    /// The revision the change made.
    pub revision: i64,
}

impl OutboxRow {
    fn of(row: &PgRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.try_get("id")?,
            kind: OutboxKind::of(row.try_get("kind")?)?,
            workspace_id: row.try_get("workspace_id")?,
            key: row.try_get("key")?,
            revision: row.try_get("revision")?,
        })
    }
}

pub(crate) async fn push(
    connection: &mut PgConnection,
    kind: OutboxKind,
    workspace: Uuid,
    key: &str,
    revision: i64,
) -> Result<(), StoreError> {
    let insert = "INSERT INTO outbox (kind, workspace_id, key, revision) VALUES ($1, $2, $3, $4)";
    sqlx::query(insert)
        .bind(kind.as_str())
        .bind(workspace)
        .bind(key)
        .bind(revision)
        .execute(connection)
        .await?;
    Ok(())
}

impl Store {
    /// The oldest `limit` rows, in the order of their ids.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn next_outbox(&self, limit: u32) -> Result<Vec<OutboxRow>, StoreError> {
        let select =
            "SELECT id, kind, workspace_id, key, revision FROM outbox ORDER BY id LIMIT $1";
        let rows = sqlx::query(select)
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(OutboxRow::of).collect()
    }

    /// Removes rows whose changes the read model has. Ids that are gone already are no error.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn done_outbox(&self, ids: &[i64]) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM outbox WHERE id = ANY($1)")
            .bind(ids)
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}
