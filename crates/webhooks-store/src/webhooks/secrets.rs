//! What is sealed for a webhook: signing keys over time, and single ones of other kinds.

use serde_json::{Value, json};
use sqlx::{PgConnection, Row as _, postgres::PgRow};
use uuid::Uuid;
use webhooks_domain::signing::MAX_OLD_KEYS;

use super::{AsymmetricSecret, SealedSecret, WebhookRow, read, write};
use crate::{
    Actor, IdempotencyKey, Store,
    error::StoreError,
    idempotency,
    pg::{self, Micros, int, storable},
};

/// Most keys of one kind (signing keys, ed25519 keys) that go on signing beside the newest one.
pub const MAX_OLD_SECRETS: usize = MAX_OLD_KEYS;

/// What kind of secret a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Signing,
    Extras,
    Ed25519,
    /// An ed25519 key that another one has followed: of these there may be several.
    OldEd25519,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Signing => "SIGNING",
            Self::Extras => "EXTRAS",
            Self::Ed25519 => "ED25519",
            Self::OldEd25519 => "ED25519_OLD",
        }
    }
}

/// A new key for a webhook.
#[derive(Debug, Clone)]
pub struct Rotation {
    /// The key. Its version is one more than the webhook's newest.
    pub secret: SealedSecret,
    /// What receivers verify with, of an ed25519 key; `None` = it is a signing key. Keys of the other
    /// kind stay as they are.
    pub public_key: Option<String>,
    /// When the keys before it stop signing at the latest, in microseconds: those that would end
    /// later end then. In the past = at once.
    pub old_until: i64,
    /// Refuse with [`StoreError::Conflict`] unless the row is at this revision.
    pub expected_revision: i64,
}

const INSERT: &str = "
INSERT INTO webhook_secrets (webhook_id, version, key_id, nonce, ciphertext, expires_at, created_at,
  kind)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";

/// `least` takes a null for no opinion.
const CUT: &str = "
UPDATE webhook_secrets SET expires_at = least(expires_at, $2)
WHERE webhook_id = $1 AND kind = $4 AND version <> $3";

/// The one ed25519 key becomes an old one, with its public half: the webhook's row holds the newest's.
const FOLLOW: &str = "
UPDATE webhook_secrets SET kind = 'ED25519_OLD', public_key = $2, expires_at = $3
WHERE webhook_id = $1 AND kind = 'ED25519'";

/// Those that have ended at $2, and what is older than the newest $4 that have not.
const DROP_OLD: &str = "
DELETE FROM webhook_secrets WHERE webhook_id = $1 AND kind = $5 AND version <> $3
  AND (expires_at <= $2 OR version NOT IN (
    SELECT version FROM webhook_secrets
    WHERE webhook_id = $1 AND kind = $5 AND version <> $3 AND expires_at > $2
    ORDER BY version DESC LIMIT $4))";

const EXPIRED: &str = "
SELECT DISTINCT w.workspace_id, w.id FROM webhook_secrets s JOIN webhooks w ON w.id = s.webhook_id
WHERE s.expires_at <= $1 ORDER BY w.id LIMIT $2";

const DROP_EXPIRED: &str = "
DELETE FROM webhook_secrets
WHERE webhook_id = $1 AND kind IN ('SIGNING', 'ED25519_OLD') AND expires_at <= $2";

const BUMP: &str = "
UPDATE webhooks SET revision = revision + 1, updated_at = greatest(updated_at, $2),
  secret_version = greatest(secret_version, $3), public_key = coalesce($4, public_key)
WHERE id = $1";

impl Store {
    /// Gives a webhook a new signing key, or a new ed25519 key in place of the one it has; the keys of
    /// that kind before it sign beside it until [`Rotation::old_until`], the newest
    /// [`MAX_OLD_SECRETS`] of them. `None` when the workspace has no such webhook.
    ///
    /// With `claim`, the key that the caller holds is tied to the webhook in the same transaction,
    /// so that whoever takes the key over after a crash does not rotate again.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the revision has moved on, there is no ed25519 key that a new one
    /// could follow, or the claim is no longer the caller's.
    pub async fn rotate_secret(
        &self,
        workspace: Uuid,
        id: Uuid,
        rotation: &Rotation,
        claim: Option<IdempotencyKey<'_>>,
        actor: &Actor,
        now: i64,
    ) -> Result<Option<WebhookRow>, StoreError> {
        let mut tx = self.pool.begin().await?;
        if let Some(claim) = claim {
            let version = Some(rotation.secret.version);
            idempotency::bind_version(&mut tx, claim, id, version).await?;
        }
        let Some(before) = write::hold_webhook(&mut tx, workspace, id).await? else {
            return Ok(None);
        };
        if before.revision != rotation.expected_revision {
            return Err(StoreError::Conflict("webhook revision"));
        }
        let version = rotation.secret.version;
        let public_key = rotation.public_key.as_deref();
        let (kind, old, action) = match public_key {
            None => (Kind::Signing, Kind::Signing, "webhook.secret_rotate"),
            Some(_) => {
                let current = before.asymmetric.as_ref();
                let current = current.ok_or(StoreError::Conflict("webhook public key"))?;
                sqlx::query(FOLLOW)
                    .bind(id)
                    .bind(&current.public_key)
                    .bind(Micros(rotation.old_until))
                    .execute(&mut *tx)
                    .await?;
                let action = "webhook.public_key_rotate";
                (Kind::Ed25519, Kind::OldEd25519, action)
            }
        };
        insert(&mut tx, id, kind, &rotation.secret).await?;
        sqlx::query(CUT)
            .bind(id)
            .bind(Micros(rotation.old_until))
            .bind(int(version))
            .bind(old.as_str())
            .execute(&mut *tx)
            .await?;
        sqlx::query(DROP_OLD)
            .bind(id)
            .bind(Micros(now))
            .bind(int(version))
            .bind(i64::try_from(MAX_OLD_SECRETS).unwrap_or(i64::MAX))
            .bind(old.as_str())
            .execute(&mut *tx)
            .await?;
        bump(&mut tx, id, now, version, public_key).await?;
        let after = read::one(&mut tx, workspace, id).await?;
        write::log(&mut tx, actor, action, now, Some(&before), after.as_ref()).await?;
        tx.commit().await?;
        Ok(after)
    }

    /// Removes signing keys and ed25519 keys that have ended, of at most `limit` webhooks, and tells the read model.
    /// Returns how many webhooks that were.
    ///
    /// # Errors
    /// When the database fails; what was removed before stays removed.
    pub async fn drop_expired_secrets(&self, now: i64, limit: u32) -> Result<usize, StoreError> {
        let rows = sqlx::query(EXPIRED)
            .bind(Micros(now))
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?;
        for row in &rows {
            let (workspace, id): (Uuid, Uuid) = (row.try_get("workspace_id")?, row.try_get("id")?);
            let mut tx = self.pool.begin().await?;
            let Some(before) = write::hold_webhook(&mut tx, workspace, id).await? else {
                continue;
            };
            let dropped = sqlx::query(DROP_EXPIRED)
                .bind(id)
                .bind(Micros(now))
                .execute(&mut *tx)
                .await?;
            if dropped.rows_affected() == 0 {
                continue;
            }
            // Nobody changed anything: only the revision moves, for the read model.
            bump(&mut tx, id, before.updated_at, before.secret_version, None).await?;
            let after = read::one(&mut tx, workspace, id).await?;
            let action = "webhook.secret_expire";
            let system = Actor::System;
            write::log(&mut tx, &system, action, now, Some(&before), after.as_ref()).await?;
            tx.commit().await?;
        }
        Ok(rows.len())
    }
}

async fn bump(
    connection: &mut PgConnection,
    webhook: Uuid,
    now: i64,
    version: u32,
    public_key: Option<&str>,
) -> Result<(), StoreError> {
    sqlx::query(BUMP)
        .bind(webhook)
        .bind(Micros(now))
        .bind(int(version))
        .bind(public_key)
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn insert(
    connection: &mut PgConnection,
    webhook: Uuid,
    kind: Kind,
    secret: &SealedSecret,
) -> Result<(), StoreError> {
    sqlx::query(INSERT)
        .bind(webhook)
        .bind(int(secret.version))
        .bind(storable(&secret.key_id))
        .bind(&secret.nonce)
        .bind(&secret.ciphertext)
        .bind(secret.expires_at.map(Micros))
        .bind(Micros(secret.created_at))
        .bind(kind.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

/// Puts the one secret of a kind in place of the one before.
pub(super) async fn replace(
    connection: &mut PgConnection,
    webhook: Uuid,
    kind: Kind,
    secret: Option<&SealedSecret>,
) -> Result<(), StoreError> {
    let clear = "DELETE FROM webhook_secrets WHERE webhook_id = $1 AND kind = $2";
    sqlx::query(clear)
        .bind(webhook)
        .bind(kind.as_str())
        .execute(&mut *connection)
        .await?;
    match secret {
        Some(secret) => insert(connection, webhook, kind, secret).await,
        None => Ok(()),
    }
}

/// The keys of kinds of which there may be several, newest first: the signing keys, and the ed25519
/// keys that were followed. They come as columns of equal length.
pub(super) fn several(
    row: &PgRow,
) -> Result<(Vec<SealedSecret>, Vec<AsymmetricSecret>), StoreError> {
    let (mut signing, mut asymmetric) = (Vec::new(), Vec::new());
    let public_keys: Vec<Option<String>> = row.try_get("secret_public_keys")?;
    for (sealed, public_key) in columns(row)?.into_iter().zip(public_keys) {
        match public_key {
            None => signing.push(sealed),
            Some(public_key) => asymmetric.push(AsymmetricSecret { public_key, sealed }),
        }
    }
    Ok((signing, asymmetric))
}

fn columns(row: &PgRow) -> Result<Vec<SealedSecret>, StoreError> {
    let versions: Vec<i32> = row.try_get("secret_versions")?;
    let key_ids: Vec<String> = row.try_get("secret_key_ids")?;
    let nonces: Vec<Vec<u8>> = row.try_get("secret_nonces")?;
    let ciphertexts: Vec<Vec<u8>> = row.try_get("secret_ciphertexts")?;
    let expiries: Vec<Option<Micros>> = row.try_get("secret_expiries")?;
    let creations: Vec<Micros> = row.try_get("secret_creations")?;
    let columns = versions
        .into_iter()
        .zip(key_ids)
        .zip(nonces)
        .zip(ciphertexts)
        .zip(expiries)
        .zip(creations);
    columns
        .map(
            |(((((version, key_id), nonce), ciphertext), expires_at), created_at)| {
                Ok(SealedSecret {
                    key_id,
                    version: version_of(version)?,
                    nonce,
                    ciphertext,
                    created_at: created_at.0,
                    expires_at: expires_at.map(|at| at.0),
                })
            },
        )
        .collect()
}

/// The one secret of a kind, whose columns begin with `prefix`.
pub(super) fn single(row: &PgRow, prefix: &str) -> Result<Option<SealedSecret>, StoreError> {
    let column = |name: &str| format!("{prefix}_{name}");
    let version: Option<i32> = row.try_get(column("version").as_str())?;
    let Some(version) = version else {
        return Ok(None);
    };
    Ok(Some(SealedSecret {
        key_id: row.try_get(column("key_id").as_str())?,
        version: version_of(version)?,
        nonce: row.try_get(column("nonce").as_str())?,
        ciphertext: row.try_get(column("ciphertext").as_str())?,
        created_at: pg::micros(row, &column("created_at"))?,
        expires_at: None,
    }))
}

pub(super) fn asymmetric(row: &PgRow) -> Result<Option<AsymmetricSecret>, StoreError> {
    let public_key: Option<String> = row.try_get("public_key")?;
    let sealed = single(row, "ed25519")?;
    Ok(public_key
        .zip(sealed)
        .map(|(public_key, sealed)| AsymmetricSecret { public_key, sealed }))
}

/// What the audit log keeps of a signing key.
pub(super) fn audited(secret: &SealedSecret) -> Value {
    json!({ "version": secret.version, "expiresAtMicros": secret.expires_at })
}

/// What the audit log keeps of an ed25519 key that was followed.
pub(super) fn audited_old(key: &AsymmetricSecret) -> Value {
    json!({
        "publicKey": key.public_key,
        "version": key.sealed.version,
        "expiresAtMicros": key.sealed.expires_at,
    })
}

fn version_of(version: i32) -> Result<u32, StoreError> {
    u32::try_from(version).map_err(|error| StoreError::corrupt("secret version", error))
}
