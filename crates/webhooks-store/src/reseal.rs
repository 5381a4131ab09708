//! Finding what is sealed with an older key, and putting it back sealed with the one that counts.
//!
//! A new ciphertext replaces an old one only where the old one still stands, so a rotation of the
//! secret itself that comes between is never undone. The webhook's revision grows, because the read
//! model holds the ciphertext too and must follow.

use std::collections::BTreeMap;

use sqlx::{PgConnection, Row as _, postgres::PgRow};
use uuid::Uuid;

use crate::{
    OutboxKind, Store,
    error::StoreError,
    outbox,
    pg::{int, unsigned},
};

/// Most rows of one batch.
pub const MAX_RESEALED: u32 = 500;

/// A row of sealed secrets, with whom and what it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedRow {
    /// Whose it is.
    pub workspace_id: Uuid,
    /// Of which webhook.
    pub webhook_id: Uuid,
    /// Its version.
    pub version: u32,
    /// `SIGNING`, `EXTRAS`, `ED25519` or `ED25519_OLD`.
    pub kind: String,
    /// Which key opens it.
    pub key_id: String,
    /// The nonce.
    pub nonce: Vec<u8>,
    /// Ciphertext and tag.
    pub ciphertext: Vec<u8>,
}

/// What one of them becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resealed {
    /// As it was read.
    pub old: SealedRow,
    /// Which key opens it now.
    pub key_id: String,
    /// The new nonce.
    pub nonce: Vec<u8>,
    /// The new ciphertext and tag.
    pub ciphertext: Vec<u8>,
}

impl SealedRow {
    fn of(row: &PgRow) -> Result<Self, StoreError> {
        Ok(Self {
            workspace_id: row.try_get("workspace_id")?,
            webhook_id: row.try_get("webhook_id")?,
            version: unsigned(row, "version")?,
            kind: row.try_get("kind")?,
            key_id: row.try_get("key_id")?,
            nonce: row.try_get("nonce")?,
            ciphertext: row.try_get("ciphertext")?,
        })
    }
}

impl Store {
    /// How many secrets each key seals.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn sealed_by_key(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        let select = "SELECT key_id, count(*) AS rows FROM webhook_secrets GROUP BY key_id";
        let rows = sqlx::query(select).fetch_all(&self.pool).await?;
        rows.iter()
            .map(|row| {
                let count: i64 = row.try_get("rows")?;
                Ok((row.try_get("key_id")?, u64::try_from(count).unwrap_or(0)))
            })
            .collect()
    }

    /// Some secrets that another key than `active` seals, after this webhook and version; at most
    /// `limit` and [`MAX_RESEALED`].
    ///
    /// # Errors
    /// When the database fails.
    pub async fn sealed_with_others(
        &self,
        active: &str,
        after: (Uuid, u32),
        limit: u32,
    ) -> Result<Vec<SealedRow>, StoreError> {
        let select = "
SELECT w.workspace_id, s.webhook_id, s.version, s.kind, s.key_id, s.nonce, s.ciphertext
FROM webhook_secrets s JOIN webhooks w ON w.id = s.webhook_id
WHERE s.key_id <> $1 AND (s.webhook_id, s.version) > ($2, $3)
ORDER BY s.webhook_id, s.version LIMIT $4";
        let rows = sqlx::query(select)
            .bind(active)
            .bind(after.0)
            .bind(int(after.1))
            .bind(i64::from(limit.min(MAX_RESEALED)))
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(SealedRow::of).collect()
    }

    /// Puts them back in one transaction; answers how many were still as they had been read.
    ///
    /// # Errors
    /// When the database fails: then none was.
    pub async fn reseal(&self, rows: &[Resealed]) -> Result<u64, StoreError> {
        let mut webhooks: BTreeMap<Uuid, Vec<&Resealed>> = BTreeMap::new();
        for row in rows {
            webhooks.entry(row.old.webhook_id).or_default().push(row);
        }
        let mut tx = self.pool.begin().await?;
        let mut done = 0;
        for (webhook, rows) in webhooks {
            done += reseal_one(&mut tx, webhook, &rows).await?;
        }
        tx.commit().await?;
        Ok(done)
    }
}

async fn reseal_one(
    connection: &mut PgConnection,
    webhook: Uuid,
    rows: &[&Resealed],
) -> Result<u64, StoreError> {
    // The webhook's lock first: a change of it holds that while it looks at its secrets.
    let lock = "SELECT workspace_id FROM webhooks WHERE id = $1 FOR UPDATE";
    let found: Option<Uuid> = sqlx::query_scalar(lock)
        .bind(webhook)
        .fetch_optional(&mut *connection)
        .await?;
    let Some(workspace) = found else {
        return Ok(0);
    };
    let mut done = 0;
    for row in rows {
        let update = "
UPDATE webhook_secrets SET key_id = $1, nonce = $2, ciphertext = $3
WHERE webhook_id = $4 AND version = $5 AND kind = $6 AND key_id = $7 AND nonce = $8";
        let updated = sqlx::query(update)
            .bind(&row.key_id)
            .bind(&row.nonce)
            .bind(&row.ciphertext)
            .bind(webhook)
            .bind(int(row.old.version))
            .bind(&row.old.kind)
            .bind(&row.old.key_id)
            .bind(&row.old.nonce)
            .execute(&mut *connection)
            .await?;
        done += updated.rows_affected();
    }
    if done == 0 {
        return Ok(0);
    }
    let grow =
        "UPDATE webhooks SET revision = revision + 1 WHERE id = $1 RETURNING revision + told";
    let revision: i64 = sqlx::query_scalar(grow)
        .bind(webhook)
        .fetch_one(&mut *connection)
        .await?;
    outbox::push(
        connection,
        OutboxKind::Webhook,
        workspace,
        &webhook.to_string(),
        revision,
    )
    .await?;
    Ok(done)
}
