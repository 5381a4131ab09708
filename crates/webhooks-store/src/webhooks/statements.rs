//! The statements that store a webhook with its links and secrets.

use sqlx::PgConnection;
use uuid::Uuid;

use super::{NewWebhook, SealedSecret, WebhookRow};
use crate::{
    error::{StoreError, is_duplicate},
    pg::{Micros, int, storable},
};

const INSERT: &str = "
INSERT INTO webhooks (id, workspace_id, name, endpoint_url, status, triggers, source, profile,
  created_by, created_at, updated_at, revision)
VALUES ($1, $2, $3, $4, 'ACTIVE', $5, $6, $7, $8, $9, $9, 1)";

const UPDATE: &str = "
UPDATE webhooks SET name = $2, endpoint_url = $3, status = $4, status_reason = $5, triggers = $6,
  source = $7, profile = $8, updated_at = $9, revision = $10
WHERE id = $1";

/// A link named twice counts once, at its first place.
const INSERT_LINKS: &str = "
INSERT INTO webhook_links (webhook_id, link_id, position)
SELECT $1, link_id, min(position)::int FROM unnest($2::uuid[]) WITH ORDINALITY u(link_id, position)
GROUP BY link_id";

const INSERT_SECRET: &str = "
INSERT INTO webhook_secrets (webhook_id, version, key_id, nonce, ciphertext, expires_at, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7)";

pub(super) async fn insert(
    connection: &mut PgConnection,
    new: &NewWebhook,
) -> Result<(), StoreError> {
    let triggers: Vec<_> = new.triggers.iter().map(|kind| storable(kind)).collect();
    sqlx::query(INSERT)
        .bind(new.id)
        .bind(new.workspace_id)
        .bind(storable(&new.name))
        .bind(storable(&new.endpoint_url))
        .bind(triggers)
        .bind(new.source.as_str())
        .bind(storable(&new.profile))
        .bind(new.created_by)
        .bind(Micros(new.now))
        .execute(&mut *connection)
        .await
        .map_err(|error| {
            if is_duplicate(&error) {
                StoreError::Conflict("webhook id")
            } else {
                error.into()
            }
        })?;
    insert_links(connection, new.id, &new.link_ids).await?;
    insert_secret(connection, new.id, &new.secret, new.now).await
}

pub(super) async fn update(
    connection: &mut PgConnection,
    before: &WebhookRow,
    wanted: &WebhookRow,
) -> Result<(), StoreError> {
    sqlx::query(UPDATE)
        .bind(wanted.id)
        .bind(&wanted.name)
        .bind(&wanted.endpoint_url)
        .bind(wanted.status.as_str())
        .bind(wanted.status_reason.map(|reason| reason.as_str()))
        .bind(&wanted.triggers)
        .bind(wanted.source.as_str())
        .bind(&wanted.profile)
        .bind(Micros(wanted.updated_at))
        .bind(wanted.revision)
        .execute(&mut *connection)
        .await?;
    if wanted.link_ids == before.link_ids {
        return Ok(());
    }
    let clear = "DELETE FROM webhook_links WHERE webhook_id = $1";
    sqlx::query(clear)
        .bind(wanted.id)
        .execute(&mut *connection)
        .await?;
    insert_links(connection, wanted.id, &wanted.link_ids).await
}

async fn insert_links(
    connection: &mut PgConnection,
    webhook: Uuid,
    links: &[Uuid],
) -> Result<(), StoreError> {
    if !links.is_empty() {
        sqlx::query(INSERT_LINKS)
            .bind(webhook)
            .bind(links)
            .execute(connection)
            .await?;
    }
    Ok(())
}

async fn insert_secret(
    connection: &mut PgConnection,
    webhook: Uuid,
    secret: &SealedSecret,
    now: i64,
) -> Result<(), StoreError> {
    sqlx::query(INSERT_SECRET)
        .bind(webhook)
        .bind(int(secret.version))
        .bind(storable(&secret.key_id))
        .bind(&secret.nonce)
        .bind(&secret.ciphertext)
        .bind(secret.expires_at.map(Micros))
        .bind(Micros(now))
        .execute(connection)
        .await?;
    Ok(())
}
