//! Reading webhooks: one statement a page, so that a row, its links, secrets and counters are of
//! one moment.

use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::{PublicKey, StatusFilter, WebhookCursor, WebhookPage, WebhookRow};
use crate::{
    Store,
    error::StoreError,
    history::MAX_PAGE,
    pg::{self, Micros},
};

/// Everything of the webhooks that the condition names.
macro_rules! select {
    ($condition:literal) => {
        concat!(
            "
SELECT w.*,
  coalesce(s.success_count, 0) AS success_count,
  coalesce(s.failure_count, 0) AS failure_count,
  s.last_sent_at, s.last_delivered_at,
  ARRAY(SELECT l.link_id FROM webhook_links l WHERE l.webhook_id = w.id ORDER BY l.position)
    AS link_ids,
  coalesce(k.versions, '{}') AS secret_versions,
  coalesce(k.key_ids, '{}') AS secret_key_ids,
  coalesce(k.nonces, '{}') AS secret_nonces,
  coalesce(k.ciphertexts, '{}') AS secret_ciphertexts,
  coalesce(k.expiries, '{}') AS secret_expiries,
  coalesce(k.creations, '{}') AS secret_creations,
  coalesce(k.public_keys, '{}') AS secret_public_keys,
  x.version AS extras_version, x.key_id AS extras_key_id, x.nonce AS extras_nonce,
  x.ciphertext AS extras_ciphertext, x.created_at AS extras_created_at,
  a.version AS ed25519_version, a.key_id AS ed25519_key_id, a.nonce AS ed25519_nonce,
  a.ciphertext AS ed25519_ciphertext, a.created_at AS ed25519_created_at,
  (SELECT o.held_per_webhook FROM workspaces o WHERE o.id = w.workspace_id) AS held_max,
  (SELECT o.verification_exempt_hosts FROM workspaces o
    WHERE o.id = w.workspace_id AND o.endpoint_verification) AS exempt_hosts
FROM webhooks w
LEFT JOIN webhook_stats s ON s.webhook_id = w.id
LEFT JOIN LATERAL (
  SELECT array_agg(version ORDER BY version DESC) AS versions,
    array_agg(key_id ORDER BY version DESC) AS key_ids,
    array_agg(nonce ORDER BY version DESC) AS nonces,
    array_agg(ciphertext ORDER BY version DESC) AS ciphertexts,
    array_agg(expires_at ORDER BY version DESC) AS expiries,
    array_agg(created_at ORDER BY version DESC) AS creations,
    array_agg(public_key ORDER BY version DESC) AS public_keys
  FROM webhook_secrets WHERE webhook_id = w.id AND kind IN ('SIGNING', 'ED25519_OLD')
) k ON true
LEFT JOIN webhook_secrets x ON x.webhook_id = w.id AND x.kind = 'EXTRAS'
LEFT JOIN webhook_secrets a ON a.webhook_id = w.id AND a.kind = 'ED25519'
WHERE ",
            $condition
        )
    };
}

const ONE: &str = select!("w.workspace_id = $1 AND w.id = $2");

/// By id, over all workspaces.
const FOR_RECONCILE: &str = select!("w.id > $1 ORDER BY w.id LIMIT $2");

/// One row more than the page holds tells whether another page follows.
const PAGE: &str = select!(
    "w.workspace_id = $1 AND w.status = ANY($2) AND (w.created_at, w.id) > ($3, $4)
ORDER BY w.created_at, w.id LIMIT $5"
);

/// The newest one's is in the webhook's row, and there is none at all without it.
const PUBLIC_KEYS: &str = "
SELECT coalesce(s.public_key, w.public_key) AS public_key, s.created_at, s.expires_at
FROM webhooks w JOIN webhook_secrets s ON s.webhook_id = w.id
WHERE w.id = $1 AND w.public_key IS NOT NULL AND s.kind IN ('ED25519', 'ED25519_OLD')
ORDER BY s.version DESC";

const TOTAL: &str = "SELECT count(*) FROM webhooks WHERE workspace_id = $1 AND status = ANY($2)";

impl Store {
    /// The workspace's webhook of this id; another workspace's is not found.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn get_webhook(
        &self,
        workspace: Uuid,
        id: Uuid,
    ) -> Result<Option<WebhookRow>, StoreError> {
        one(&mut *self.pool.acquire().await?, workspace, id).await
    }

    /// A page of the workspace's webhooks, oldest first by (creation, id), beginning after `after`,
    /// with the exact number of all that match. `page_size` is capped at [`MAX_PAGE`].
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list_webhooks(
        &self,
        workspace: Uuid,
        filter: StatusFilter,
        page_size: u32,
        after: Option<WebhookCursor>,
    ) -> Result<WebhookPage, StoreError> {
        let after = after.unwrap_or(WebhookCursor {
            created_at: i64::MIN,
            id: Uuid::nil(),
        });
        let page_size = page_size.min(MAX_PAGE);
        let mut tx = self.begin_reading().await?;
        let total: i64 = sqlx::query_scalar(TOTAL)
            .bind(workspace)
            .bind(filter.words())
            .fetch_one(&mut *tx)
            .await?;
        let found = sqlx::query(PAGE)
            .bind(workspace)
            .bind(filter.words())
            .bind(Micros(after.created_at))
            .bind(after.id)
            .bind(i64::from(page_size) + 1)
            .fetch_all(&mut *tx)
            .await?;
        tx.commit().await?;
        let (rows, more) = pg::page(&found, page_size, WebhookRow::of)?;
        Ok(WebhookPage { rows, total, more })
    }

    /// The public ed25519 keys of a webhook of any workspace, newest first, expired ones included. No
    /// secret.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn public_keys(&self, webhook: Uuid) -> Result<Vec<PublicKey>, StoreError> {
        let rows = sqlx::query(PUBLIC_KEYS)
            .bind(webhook)
            .fetch_all(&self.pool)
            .await?;
        rows.iter()
            .map(|row| {
                Ok(PublicKey {
                    key: row.try_get("public_key")?,
                    created_at: pg::micros(row, "created_at")?,
                    expires_at: pg::optional_micros(row, "expires_at")?,
                })
            })
            .collect()
    }

    /// How many webhooks of any status the workspace has.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn count_webhooks(&self, workspace: Uuid) -> Result<i64, StoreError> {
        let count = "SELECT count(*) AS n FROM webhooks WHERE workspace_id = $1";
        let row = sqlx::query(count)
            .bind(workspace)
            .fetch_one(&self.pool)
            .await?;
        Ok(row.try_get("n")?)
    }

    /// The next `limit` webhooks after `after` in the order of ids, of every workspace: for the
    /// reconcile of the read model.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn webhook_config_rows(
        &self,
        after: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<WebhookRow>, StoreError> {
        let rows = sqlx::query(FOR_RECONCILE)
            .bind(after.unwrap_or_default())
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(WebhookRow::of).collect()
    }
}

pub(super) async fn one(
    connection: &mut PgConnection,
    workspace: Uuid,
    id: Uuid,
) -> Result<Option<WebhookRow>, StoreError> {
    let row = sqlx::query(ONE)
        .bind(workspace)
        .bind(id)
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(WebhookRow::of).transpose()
}
