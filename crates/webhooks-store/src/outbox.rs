//! What the read model has yet to hear.
//!
//! A change of a webhook or token writes a row here in its own transaction; the outbox task tells
//! the bus and then removes the row. Ids are drawn before the commit, so a row with a lower id may
//! appear after one with a higher id. That is harmless: rows are removed by id and never skipped
//! by a cursor, and the rows of one key are in the order of its changes, because a change holds the
//! lock of the row it changes.

use std::collections::{HashMap, HashSet};

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

/// The next rows: of each workspace its oldest, so that one with many changes holds up nobody else.
/// Workspaces are found by their first row each, not by reading all rows.
const NEXT: &str = "
WITH RECURSIVE waiting (workspace_id) AS (
  (SELECT workspace_id FROM outbox ORDER BY workspace_id LIMIT 1)
  UNION ALL
  SELECT (SELECT o.workspace_id FROM outbox o WHERE o.workspace_id > w.workspace_id
          ORDER BY o.workspace_id LIMIT 1)
  FROM waiting w WHERE w.workspace_id IS NOT NULL
)
SELECT o.id, o.kind, o.workspace_id, o.key, o.revision
FROM (SELECT workspace_id FROM waiting WHERE workspace_id IS NOT NULL LIMIT $1) w
CROSS JOIN LATERAL (
  SELECT * FROM outbox o WHERE o.workspace_id = w.workspace_id ORDER BY o.id LIMIT $2
) o
ORDER BY o.id";

/// What is to be told next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxStep {
    /// The oldest rows of each workspace, in the order of their ids.
    pub rows: Vec<OutboxRow>,
    /// Workspaces that have, or may have, more than these.
    pub more_of: HashSet<Uuid>,
    /// There may be rows of workspaces that are not in this step.
    pub more_workspaces: bool,
}

impl Store {
    /// The oldest `of_each` rows of `workspaces` workspaces.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn next_outbox(
        &self,
        workspaces: u32,
        of_each: u32,
    ) -> Result<OutboxStep, StoreError> {
        let rows = sqlx::query(NEXT)
            .bind(i64::from(workspaces))
            .bind(i64::from(of_each))
            .fetch_all(&self.pool)
            .await?;
        let rows: Vec<OutboxRow> = rows.iter().map(OutboxRow::of).collect::<Result<_, _>>()?;
        let mut counts: HashMap<Uuid, u32> = HashMap::new();
        for row in &rows {
            *counts.entry(row.workspace_id).or_default() += 1;
        }
        let found = u32::try_from(counts.len()).unwrap_or(u32::MAX);
        let full = counts.into_iter().filter(|(_, count)| *count >= of_each);
        Ok(OutboxStep {
            rows,
            more_of: full.map(|(workspace, _)| workspace).collect(),
            more_workspaces: found >= workspaces,
        })
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
