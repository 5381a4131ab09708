//! Webhooks as they were at a moment, as far as matching asks.
//!
//! Every change of a webhook writes an audit entry with what was before, in its own transaction; so
//! does what deliveries make of its status. The configuration of a moment is therefore what the first
//! later entry says was before it, and where there is none, what the row says now. No second history
//! is kept that could tell otherwise.
//!
//! Not known: what was changed in the tables by hand, and an entry that a release wrote in a form that
//! this one cannot read ([`Past::Unreadable`]).

use std::collections::HashMap;

use serde_json::Value;
use sqlx::{Row as _, postgres::PgRow};
use uuid::Uuid;
use webhooks_domain::webhook::WebhookStatus;

use crate::{
    Store,
    error::StoreError,
    history::MAX_PAGE,
    pg::{self, Micros},
};

/// A webhook's configuration at a moment that lies before its last change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Past {
    /// It was this.
    Config(PastConfig),
    /// It was another than now, perhaps; the entry cannot be read.
    Unreadable,
}

/// What matching asks of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastConfig {
    /// What delivery obeyed.
    pub status: WebhookStatus,
    /// The links whose events it took; empty = the whole workspace.
    pub link_ids: Vec<Uuid>,
    /// The step kinds it took; empty = every kind.
    pub triggers: Vec<String>,
    /// The event actions it took; empty = every action.
    pub event_actions: Vec<String>,
    /// The configuration's revision.
    pub revision: i64,
}

/// A webhook that is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeletedWebhook {
    /// Its id.
    pub id: Uuid,
    /// When it was made, in microseconds.
    pub created_at: i64,
}

/// Tests, challenges and looks at a secret have no `before`. A webhook that was made only later has
/// none either: then it is told as it was made.
const FIRST_AFTER: &str = "
SELECT w.id AS webhook_id, a.config->>'status' AS status, a.config->'linkIds' AS link_ids,
  a.config->'triggers' AS triggers, a.config#>'{options,eventActions}' AS event_actions,
  a.config->'revision' AS revision
FROM unnest($2::uuid[]) w(id) CROSS JOIN LATERAL (
  SELECT coalesce(e.before, e.after) AS config FROM audit_log e
  WHERE e.workspace_id = $1 AND e.subject = w.id::text AND e.at > $3
    AND e.action LIKE 'webhook.%' AND (e.before IS NOT NULL OR e.action = 'webhook.create')
  ORDER BY e.at, e.id LIMIT 1) a";

/// The entry of its creation is looked for by the index of webhooks' entries, hence both conditions.
const DELETED_AFTER: &str = "
SELECT d.subject::uuid AS webhook_id, c.at AS created_at
FROM audit_log d CROSS JOIN LATERAL (
  SELECT e.at FROM audit_log e
  WHERE e.workspace_id = $1 AND e.subject = d.subject
    AND e.action LIKE 'webhook.%' AND e.action = 'webhook.create'
  ORDER BY e.at, e.id LIMIT 1) c
WHERE d.workspace_id = $1 AND d.action = 'webhook.delete' AND d.at > $2 AND c.at <= $3
ORDER BY d.at, d.id LIMIT $4";

impl Store {
    /// Those of the workspace's webhooks that were changed or deleted after `at` (microseconds), as
    /// they were then. One that is not in the answer was not changed since. One that was made after
    /// `at` is told as it was made.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn webhooks_at(
        &self,
        workspace: Uuid,
        ids: &[Uuid],
        at: i64,
    ) -> Result<HashMap<Uuid, Past>, StoreError> {
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let rows = sqlx::query(FIRST_AFTER)
            .bind(workspace)
            .bind(ids)
            .bind(Micros(at))
            .fetch_all(&self.pool)
            .await?;
        rows.iter()
            .map(|row| Ok((row.try_get::<Uuid, _>("webhook_id")?, past(row)?)))
            .collect()
    }

    /// The workspace's webhooks that were made by `made_by` and deleted after `after` (both in
    /// microseconds), in the order of their deletion; [`MAX_PAGE`] of them at most.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn webhooks_deleted_after(
        &self,
        workspace: Uuid,
        after: i64,
        made_by: i64,
    ) -> Result<Vec<DeletedWebhook>, StoreError> {
        let rows = sqlx::query(DELETED_AFTER)
            .bind(workspace)
            .bind(Micros(after))
            .bind(Micros(made_by))
            .bind(i64::from(MAX_PAGE))
            .fetch_all(&self.pool)
            .await?;
        rows.iter()
            .map(|row| {
                Ok(DeletedWebhook {
                    id: row.try_get("webhook_id")?,
                    created_at: pg::micros(row, "created_at")?,
                })
            })
            .collect()
    }
}

fn past(row: &PgRow) -> Result<Past, StoreError> {
    let part = |column| row.try_get::<Option<Value>, _>(column);
    let status: Option<String> = row.try_get("status")?;
    let (link_ids, triggers) = (part("link_ids")?, part("triggers")?);
    let (event_actions, revision) = (part("event_actions")?, part("revision")?);
    // What has another form than ours is not known, which is an answer and no failure.
    let read = || {
        Some(PastConfig {
            status: status?.parse().ok()?,
            link_ids: serde_json::from_value(link_ids?).ok()?,
            triggers: serde_json::from_value(triggers?).ok()?,
            event_actions: serde_json::from_value(event_actions?).ok()?,
            revision: serde_json::from_value(revision?).ok()?,
        })
    };
    Ok(read().map_or(Past::Unreadable, Past::Config))
}
