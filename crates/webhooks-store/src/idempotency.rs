//! Idempotency keys: the same request twice is done once and answered twice.
//!
//! A key belongs to a token. [`Store::begin_idempotent`] claims it; the claim is finished with the
//! answer, or forgotten when the answer must not be kept. A holder that dies leaves its claim
//! behind: after [`IDEMPOTENCY_LEASE`] the next caller takes it over, and if the dead one had
//! already made something (see [`Store::create_webhook`]), it is told what.

use std::time::Duration;

use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use crate::{
    Store,
    error::StoreError,
    pg::{Micros, bigint, int, storable},
};

/// How long an answer is kept.
pub const IDEMPOTENCY_KEPT: Duration = Duration::from_secs(24 * 3_600);

/// How long a claim without an answer keeps others out. Longer than any request may take.
pub const IDEMPOTENCY_LEASE: Duration = Duration::from_secs(60);

/// Most keys that one [`Store::purge_idempotent`] removes.
pub const MAX_PURGED: u64 = 10_000;

/// A key in the scope of its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdempotencyKey<'a> {
    /// The token's id.
    pub token_id: &'a str,
    /// What the caller sent, 1 to 255 characters.
    pub key: &'a str,
}

/// An answer to be kept with what it answers, in one transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptAnswer<'a> {
    /// The key, which the caller holds.
    pub key: IdempotencyKey<'a>,
    /// The answer's status.
    pub status: u16,
    /// The answer's body, sealed when it shows a secret.
    pub body: &'a [u8],
    /// The id of what the answer is about, in the form of a UUID.
    pub subject: Option<Uuid>,
}

/// What [`Store::begin_idempotent`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// The key is the caller's: do the request, then finish or forget it.
    Fresh,
    /// The key is the caller's, and an earlier holder that was cut off had committed the creation
    /// of `subject`: do not create again, answer from its row, then finish.
    Recovered {
        /// The id of what was made.
        subject: Uuid,
        /// Which version of it, where it has several.
        version: Option<u32>,
    },
    /// The same request is being worked on.
    InProgress,
    /// The key was used for another request.
    Mismatch,
    /// The same request was answered before.
    Replay {
        /// The answer's status.
        status: u16,
        /// The answer's body, as it was given to [`Store::finish_idempotent`].
        body: Vec<u8>,
        /// The id of what the answer is about, where that was told.
        subject: Option<Uuid>,
        /// Which version of it, where it has several.
        version: Option<u32>,
    },
}

/// Claims a key that is free, has outlived its time, or was left behind. `$4` is now, `$5` and `$6`
/// are the moments before which an answer, or a claim without one, is void.
const CLAIM: &str = "
INSERT INTO idempotency_keys AS k (token_id, key, request_hash, started_at)
VALUES ($1, $2, $3, $4)
ON CONFLICT (token_id, key) DO UPDATE SET
  request_hash = EXCLUDED.request_hash,
  started_at = EXCLUDED.started_at,
  status = NULL,
  body = NULL,
  subject = CASE WHEN k.started_at <= $5 THEN NULL ELSE k.subject END,
  subject_version = CASE WHEN k.started_at <= $5 THEN NULL ELSE k.subject_version END
WHERE k.started_at <= $5
   OR (k.status IS NULL AND k.started_at <= $6 AND k.request_hash = EXCLUDED.request_hash)
RETURNING subject, subject_version";

const LOOK: &str = "
SELECT request_hash = $3 AS same, status, body, subject, subject_version FROM idempotency_keys
WHERE token_id = $1 AND key = $2";

const FINISH: &str = "
UPDATE idempotency_keys SET status = $3, body = $4, subject = coalesce($5, subject)
WHERE token_id = $1 AND key = $2 AND status IS NULL";

/// Oldest first, a bounded number at a time.
const PURGE: &str = "
DELETE FROM idempotency_keys WHERE (token_id, key) IN (
  SELECT token_id, key FROM idempotency_keys WHERE started_at <= $1 ORDER BY started_at LIMIT $2
)";

impl Store {
    /// Claims a key for the request with this hash. Of callers at the same moment, one gets
    /// [`Begun::Fresh`].
    ///
    /// # Errors
    /// When the database fails.
    pub async fn begin_idempotent(
        &self,
        key: IdempotencyKey<'_>,
        request_hash: [u8; 32],
        now: i64,
    ) -> Result<Begun, StoreError> {
        loop {
            let claimed = sqlx::query(CLAIM)
                .bind(storable(key.token_id))
                .bind(storable(key.key))
                .bind(request_hash.as_slice())
                .bind(Micros(now))
                .bind(Micros(before(now, IDEMPOTENCY_KEPT)))
                .bind(Micros(before(now, IDEMPOTENCY_LEASE)))
                .fetch_optional(&self.pool)
                .await?;
            if let Some(row) = claimed {
                let subject: Option<Uuid> = row.try_get("subject")?;
                let version: Option<i32> = row.try_get("subject_version")?;
                let version = version.and_then(|version| u32::try_from(version).ok());
                return Ok(subject.map_or(Begun::Fresh, |subject| Begun::Recovered {
                    subject,
                    version,
                }));
            }
            // Forgotten between the two statements: the claim is free again. Each turn needs
            // another caller to claim and forget in between, so this ends.
            if let Some(begun) = self.look(key, request_hash).await? {
                return Ok(begun);
            }
        }
    }

    async fn look(
        &self,
        key: IdempotencyKey<'_>,
        request_hash: [u8; 32],
    ) -> Result<Option<Begun>, StoreError> {
        let row = sqlx::query(LOOK)
            .bind(storable(key.token_id))
            .bind(storable(key.key))
            .bind(request_hash.as_slice())
            .fetch_optional(&self.pool)
            .await?;
        let Some(row) = row else { return Ok(None) };
        if !row.try_get::<bool, _>("same")? {
            return Ok(Some(Begun::Mismatch));
        }
        let Some(status) = row.try_get::<Option<i32>, _>("status")? else {
            return Ok(Some(Begun::InProgress));
        };
        let status = u16::try_from(status)
            .map_err(|error| StoreError::corrupt("idempotency status", error))?;
        let version: Option<i32> = row.try_get("subject_version")?;
        Ok(Some(Begun::Replay {
            status,
            body: row.try_get("body")?,
            subject: row.try_get("subject")?,
            version: version.and_then(|version| u32::try_from(version).ok()),
        }))
    }

    /// Keeps the answer. The body is kept as given: a caller whose answer shows a secret seals it
    /// first. The first answer stays. `subject` is the id of what the answer is about, where no
    /// transaction has tied it to the key.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn finish_idempotent(
        &self,
        key: IdempotencyKey<'_>,
        status: u16,
        body: &[u8],
        subject: Option<Uuid>,
    ) -> Result<(), StoreError> {
        sqlx::query(FINISH)
            .bind(storable(key.token_id))
            .bind(storable(key.key))
            .bind(i32::from(status))
            .bind(body)
            .bind(subject)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Gives up a claim whose answer must not be kept, so that the request can be sent again. A
    /// claim that was answered or has made something stays.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn forget_idempotent(&self, key: IdempotencyKey<'_>) -> Result<(), StoreError> {
        let delete = "DELETE FROM idempotency_keys
            WHERE token_id = $1 AND key = $2 AND status IS NULL AND subject IS NULL";
        sqlx::query(delete)
            .bind(storable(key.token_id))
            .bind(storable(key.key))
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Removes keys that have outlived [`IDEMPOTENCY_KEPT`], the oldest first, at most
    /// [`MAX_PURGED`] a call; answers how many. As many as that: there may be more.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn purge_idempotent(&self, now: i64) -> Result<u64, StoreError> {
        let done = sqlx::query(PURGE)
            .bind(Micros(before(now, IDEMPOTENCY_KEPT)))
            .bind(bigint(MAX_PURGED))
            .execute(&self.pool)
            .await?;
        Ok(done.rows_affected())
    }
}

/// As [`Store::finish_idempotent`], in the transaction of what the answer is about.
pub(crate) async fn finish_within(
    connection: &mut PgConnection,
    kept: KeptAnswer<'_>,
) -> Result<(), StoreError> {
    let done = sqlx::query(FINISH)
        .bind(storable(kept.key.token_id))
        .bind(storable(kept.key.key))
        .bind(i32::from(kept.status))
        .bind(kept.body)
        .bind(kept.subject)
        .execute(connection)
        .await?;
    if done.rows_affected() == 1 {
        Ok(())
    } else {
        Err(StoreError::Conflict("idempotency key"))
    }
}

/// Ties a claim to what its holder is about to make, in the same transaction.
pub(crate) async fn bind_subject(
    connection: &mut PgConnection,
    key: IdempotencyKey<'_>,
    subject: Uuid,
) -> Result<(), StoreError> {
    bind_version(connection, key, subject, None).await
}

/// The same for a version of something.
pub(crate) async fn bind_version(
    connection: &mut PgConnection,
    key: IdempotencyKey<'_>,
    subject: Uuid,
    version: Option<u32>,
) -> Result<(), StoreError> {
    let update = "UPDATE idempotency_keys SET subject = $3, subject_version = $4
        WHERE token_id = $1 AND key = $2 AND status IS NULL AND subject IS NULL";
    let done = sqlx::query(update)
        .bind(storable(key.token_id))
        .bind(storable(key.key))
        .bind(subject)
        .bind(version.map(int))
        .execute(connection)
        .await?;
    if done.rows_affected() == 1 {
        Ok(())
    } else {
        Err(StoreError::Conflict("idempotency key"))
    }
}

fn before(now: i64, span: Duration) -> i64 {
    now.saturating_sub(i64::try_from(span.as_micros()).unwrap_or(i64::MAX))
}
