//! What deliveries have made of a webhook's status, and the mails that say so.
//!
//! The status in force is the dispatchers' decision; here it is mirrored for people. One operational
//! event is acted on once, in one transaction: the row's status, its audit entry, its mails. The
//! configuration's revision stays: nothing of it has changed.

use sqlx::{Row as _, postgres::PgRow};
use uuid::Uuid;
use webhooks_domain::webhook::{StatusReason, WebhookStatus};

use crate::{
    Actor, Store, WebhookRow,
    audit::{self, Entry},
    error::StoreError,
    pg::{self, Micros, storable},
    webhooks::write::hold_webhook,
};

/// Most mails that one look takes.
pub const MAX_MAILS: i64 = 50;

/// Something happened to a webhook's health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthNews {
    /// The run of failures it belongs to.
    pub episode_id: String,
    /// `failing`, `paused`, `resumed` or `auto_disabled`.
    pub kind: String,
    /// The workspace.
    pub workspace_id: Uuid,
    /// The webhook.
    pub webhook_id: Uuid,
    /// The webhook's health epoch; of an older one than the row's it means nothing any more.
    pub epoch: i64,
    /// The status it led to.
    pub status: WebhookStatus,
    /// Why.
    pub reason: Option<StatusReason>,
    /// When, in microseconds.
    pub at: i64,
}

/// A mail to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMail {
    /// The same on every try.
    pub message_id: String,
    /// To whom.
    pub recipient: String,
    /// What about.
    pub subject: String,
    /// Plain text.
    pub body: String,
}

/// A mail that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailRow {
    /// Its number.
    pub id: i64,
    /// What it says.
    pub mail: NewMail,
    /// When it was written, in microseconds.
    pub created_at: i64,
    /// How often it was tried before.
    pub tries: u32,
}

impl Store {
    /// Acts on an event: once, and only when it is about the webhook's present epoch and no person
    /// has paused or disabled it. `mails` writes what the workspace's people are told, from the
    /// webhook and their addresses. Whether anything was done.
    ///
    /// # Errors
    /// Postgres cannot be asked.
    pub async fn record_health(
        &self,
        news: &HealthNews,
        mails: impl FnOnce(&WebhookRow, &[String]) -> Vec<NewMail> + Send,
        now: i64,
    ) -> Result<bool, StoreError> {
        let mut tx = self.pool.begin().await?;
        let fresh = sqlx::query(
            "INSERT INTO health_news (episode_id, kind, webhook_id, at) VALUES ($1, $2, $3, $4)
ON CONFLICT DO NOTHING",
        )
        .bind(storable(&news.episode_id))
        .bind(storable(&news.kind))
        .bind(news.webhook_id)
        .bind(Micros(news.at))
        .execute(&mut *tx)
        .await?;
        if fresh.rows_affected() == 0 {
            return Ok(false);
        }
        let webhook = hold_webhook(&mut tx, news.workspace_id, news.webhook_id).await?;
        let Some(before) = webhook.filter(|row| concerns(row, news)) else {
            tx.commit().await?;
            return Ok(false);
        };
        if (before.status, before.status_reason) != (news.status, news.reason) {
            sqlx::query("UPDATE webhooks SET status = $2, status_reason = $3 WHERE id = $1")
                .bind(before.id)
                .bind(news.status.as_str())
                .bind(news.reason.map(StatusReason::as_str))
                .execute(&mut *tx)
                .await?;
            let after = WebhookRow {
                status: news.status,
                status_reason: news.reason,
                ..before.clone()
            };
            let entry = Entry {
                workspace: before.workspace_id,
                actor: &Actor::System,
                action: action(news.status),
                subject: &before.id.to_string(),
                at: now,
                before: Some(before.audited()),
                after: Some(after.audited()),
            };
            audit::write(&mut tx, entry).await?;
        }
        let addresses: Vec<String> =
            sqlx::query_scalar("SELECT notification_emails FROM workspaces WHERE id = $1")
                .bind(before.workspace_id)
                .fetch_one(&mut *tx)
                .await?;
        for mail in mails(&before, &addresses) {
            sqlx::query(
                "INSERT INTO mail_outbox
  (workspace_id, message_id, recipient, subject, body, created_at, next_try_at)
VALUES ($1, $2, $3, $4, $5, $6, $6) ON CONFLICT DO NOTHING",
            )
            .bind(before.workspace_id)
            .bind(storable(&mail.message_id))
            .bind(storable(&mail.recipient))
            .bind(storable(&mail.subject))
            .bind(storable(&mail.body))
            .bind(Micros(now))
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        Ok(true)
    }

    /// Takes mails that are due, oldest first: nobody else gets them before `lease_until`.
    ///
    /// # Errors
    /// Postgres cannot be asked.
    pub async fn take_mails(&self, now: i64, lease_until: i64) -> Result<Vec<MailRow>, StoreError> {
        let rows = sqlx::query(
            "UPDATE mail_outbox SET next_try_at = $2, tries = tries + 1 WHERE id IN (
  SELECT id FROM mail_outbox WHERE sent_at IS NULL AND given_up_at IS NULL AND next_try_at <= $1
  ORDER BY next_try_at LIMIT $3 FOR UPDATE SKIP LOCKED)
RETURNING id, message_id, recipient, subject, body, created_at, tries - 1 AS tries",
        )
        .bind(Micros(now))
        .bind(Micros(lease_until))
        .bind(MAX_MAILS)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(mail).collect()
    }

    /// A mail has gone out.
    ///
    /// # Errors
    /// Postgres cannot be asked.
    pub async fn mail_sent(&self, id: i64, now: i64) -> Result<(), StoreError> {
        sqlx::query("UPDATE mail_outbox SET sent_at = $2, last_error = NULL WHERE id = $1")
            .bind(id)
            .bind(Micros(now))
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// A mail could not go out: the next try is at `next`, or never (`None`).
    ///
    /// # Errors
    /// Postgres cannot be asked.
    pub async fn mail_failed(
        &self,
        id: i64,
        error: &str,
        next: Option<i64>,
        now: i64,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE mail_outbox SET last_error = $2, next_try_at = coalesce($3, next_try_at),
  given_up_at = CASE WHEN $3::timestamptz IS NULL THEN $4 END WHERE id = $1",
        )
        .bind(id)
        .bind(storable(error))
        .bind(next.map(Micros))
        .bind(Micros(now))
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Forgets mails, sent or not, and acted-on events from before `before`: without a mail server
    /// they would gather for ever.
    ///
    /// # Errors
    /// Postgres cannot be asked.
    pub async fn forget_health_news(&self, before: i64) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM mail_outbox WHERE created_at < $1")
            .bind(Micros(before))
            .execute(&self.pool)
            .await?;
        sqlx::query("DELETE FROM health_news WHERE at < $1")
            .bind(Micros(before))
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}

/// Whether an event may change this row: it is of the present epoch, and the status is not a person's
/// own choice.
fn concerns(row: &WebhookRow, news: &HealthNews) -> bool {
    let by_person =
        row.status == WebhookStatus::Disabled || row.status_reason == Some(StatusReason::User);
    row.health_epoch == news.epoch && !by_person
}

fn action(status: WebhookStatus) -> &'static str {
    match status {
        WebhookStatus::Active => "webhook.resume",
        WebhookStatus::Paused => "webhook.pause",
        WebhookStatus::Disabled => "webhook.disable",
        WebhookStatus::AutoDisabled => "webhook.auto_disable",
    }
}

fn mail(row: &PgRow) -> Result<MailRow, StoreError> {
    let tries: i32 = row.try_get("tries")?;
    Ok(MailRow {
        id: row.try_get("id")?,
        mail: NewMail {
            message_id: row.try_get("message_id")?,
            recipient: row.try_get("recipient")?,
            subject: row.try_get("subject")?,
            body: row.try_get("body")?,
        },
        created_at: pg::micros(row, "created_at")?,
        tries: u32::try_from(tries).unwrap_or(0),
    })
}
