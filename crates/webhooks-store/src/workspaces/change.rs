//! Making and changing workspaces.

use sqlx::PgConnection;
use uuid::Uuid;
use webhooks_domain::webhook::Plan;

use super::{NewWorkspace, WorkspacePatch, WorkspaceRow, WorkspaceSettings, one};
use crate::{
    Actor, Store,
    audit::{self, Entry},
    error::StoreError,
    idempotency::{self, IdempotencyKey},
    pg::{Micros, bigint, int, storable},
};

const INSERT: &str = "
INSERT INTO workspaces (id, name, plan, owner_member, created_at, updated_at, sandbox,
  notification_emails, max_webhooks, retry_max_attempts, retry_max_age_seconds, events_per_second,
  held_per_webhook, endpoint_verification, verification_exempt_hosts)
VALUES ($1, $2, $3, $4, $5, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) ON CONFLICT (id) DO NOTHING";

const UPDATE: &str = "
UPDATE workspaces SET name = $2, plan = $3, sandbox = $4, notification_emails = $5,
  max_webhooks = $6, retry_max_attempts = $7, retry_max_age_seconds = $8, events_per_second = $9,
  held_per_webhook = $10, updated_at = $11, endpoint_verification = $12,
  verification_exempt_hosts = $13
WHERE id = $1";

/// Every token in force carries the workspace's rate in the read model, which takes nothing but newer
/// revisions.
const TELL_TOKENS: &str = "
WITH told AS (
  UPDATE tokens SET revision = revision + 1
  WHERE workspace_id = $1 AND revoked_at IS NULL RETURNING id, revision
)
INSERT INTO outbox (kind, workspace_id, key, revision)
SELECT 'token', $1, id, revision FROM told";

/// Every webhook carries how many deliveries may be held for it, and whether it waits for its
/// endpoint's answer to a challenge. The read model takes nothing but newer revisions; the customer's
/// own, which is the entity tag, stays.
const TELL_WEBHOOKS: &str = "
WITH told AS (
  UPDATE webhooks SET told = told + 1 WHERE workspace_id = $1
  RETURNING id, revision + told AS revision
)
INSERT INTO outbox (kind, workspace_id, key, revision)
SELECT 'webhook', $1, id::text, revision FROM told";

impl Store {
    /// Makes a workspace, or returns the one that has this id already, unchanged.
    ///
    /// # Errors
    /// As [`Store::create_workspace_with`].
    pub async fn create_workspace(
        &self,
        new: &NewWorkspace,
        actor: &Actor,
    ) -> Result<WorkspaceRow, StoreError> {
        self.create_workspace_with(new, &WorkspaceSettings::default(), None, actor)
            .await
    }

    /// Makes a workspace with settings, or returns the one that has this id already, unchanged. The
    /// creation is tied to `claim`, so that whoever takes that key over learns of it.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when a workspace of this id was deleted.
    pub async fn create_workspace_with(
        &self,
        new: &NewWorkspace,
        settings: &WorkspaceSettings,
        claim: Option<IdempotencyKey<'_>>,
        actor: &Actor,
    ) -> Result<WorkspaceRow, StoreError> {
        let mut tx = self.pool.begin().await?;
        let limits = settings.limits;
        let done = sqlx::query(INSERT)
            .bind(new.id)
            .bind(storable(&new.name))
            .bind(new.plan.as_str())
            .bind(new.owner_member)
            .bind(Micros(new.now))
            .bind(settings.sandbox)
            .bind(emails(settings))
            .bind(limits.webhooks.map(int))
            .bind(limits.retry_max_attempts.map(int))
            .bind(limits.retry_max_age_seconds.map(bigint))
            .bind(limits.events_per_second.map(int))
            .bind(limits.held_per_webhook.map(int))
            .bind(settings.endpoint_verification)
            .bind(exempt(settings))
            .execute(&mut *tx)
            .await?;
        let row = one(&mut tx, new.id)
            .await?
            .ok_or(StoreError::Conflict("workspace id"))?;
        if done.rows_affected() == 1 {
            log(&mut tx, actor, "workspace.create", new.now, None, &row).await?;
            if let Some(claim) = claim {
                idempotency::bind_subject(&mut tx, claim, new.id).await?;
            }
            tx.commit().await?;
        }
        Ok(row)
    }

    /// Puts a workspace on a plan; `None` when there is no such workspace. What exists beyond the
    /// new plan's limits stays.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn set_plan(
        &self,
        id: Uuid,
        plan: Plan,
        actor: &Actor,
        now: i64,
    ) -> Result<Option<WorkspaceRow>, StoreError> {
        let patch = WorkspacePatch {
            plan: Some(plan),
            ..WorkspacePatch::default()
        };
        self.change_workspace(id, &patch, actor, "workspace.set_plan", now)
            .await
    }

    /// Changes a workspace and returns it as it is now; `None` when there is no such workspace. A
    /// patch that changes nothing writes nothing.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn update_workspace(
        &self,
        id: Uuid,
        patch: &WorkspacePatch,
        actor: &Actor,
        now: i64,
    ) -> Result<Option<WorkspaceRow>, StoreError> {
        self.change_workspace(id, patch, actor, "workspace.update", now)
            .await
    }

    async fn change_workspace(
        &self,
        id: Uuid,
        patch: &WorkspacePatch,
        actor: &Actor,
        action: &'static str,
        now: i64,
    ) -> Result<Option<WorkspaceRow>, StoreError> {
        let mut tx = self.pool.begin().await?;
        let Some(before) = hold(&mut tx, id).await? else {
            return Ok(None);
        };
        let wanted = apply(&before, patch);
        if wanted == before {
            return Ok(Some(before));
        }
        let limits = wanted.settings.limits;
        sqlx::query(UPDATE)
            .bind(id)
            .bind(&wanted.name)
            .bind(wanted.plan.as_str())
            .bind(wanted.settings.sandbox)
            .bind(emails(&wanted.settings))
            .bind(limits.webhooks.map(int))
            .bind(limits.retry_max_attempts.map(int))
            .bind(limits.retry_max_age_seconds.map(bigint))
            .bind(limits.events_per_second.map(int))
            .bind(limits.held_per_webhook.map(int))
            .bind(Micros(now.max(before.updated_at)))
            .bind(wanted.settings.endpoint_verification)
            .bind(exempt(&wanted.settings))
            .execute(&mut *tx)
            .await?;
        if limits.events_per_second != before.settings.limits.events_per_second {
            sqlx::query(TELL_TOKENS).bind(id).execute(&mut *tx).await?;
        }
        if told_of_webhooks(&wanted.settings) != told_of_webhooks(&before.settings) {
            sqlx::query(TELL_WEBHOOKS)
                .bind(id)
                .execute(&mut *tx)
                .await?;
        }
        let after = one(&mut tx, id).await?;
        if let Some(after) = &after {
            log(&mut tx, actor, action, now, Some(&before), after).await?;
        }
        tx.commit().await?;
        Ok(after)
    }
}

fn apply(before: &WorkspaceRow, patch: &WorkspacePatch) -> WorkspaceRow {
    let mut after = before.clone();
    if let Some(name) = &patch.name {
        after.name = storable(name).into_owned();
    }
    if let Some(plan) = patch.plan {
        after.plan = plan;
    }
    if let Some(sandbox) = patch.sandbox {
        after.settings.sandbox = sandbox;
    }
    if let Some(emails) = &patch.notification_emails {
        after.settings.notification_emails = emails
            .iter()
            .map(|email| storable(email).into_owned())
            .collect();
    }
    if let Some(limits) = patch.limits {
        after.settings.limits = limits;
    }
    if let Some(required) = patch.endpoint_verification {
        after.settings.endpoint_verification = required;
    }
    if let Some(hosts) = &patch.verification_exempt_hosts {
        after.settings.verification_exempt_hosts = hosts
            .iter()
            .map(|host| storable(host).into_owned())
            .collect();
    }
    after
}

/// What each webhook carries of its workspace in the read model.
fn told_of_webhooks(settings: &WorkspaceSettings) -> (Option<u32>, bool, &[String]) {
    (
        settings.limits.held_per_webhook,
        settings.endpoint_verification,
        &settings.verification_exempt_hosts,
    )
}

fn exempt(settings: &WorkspaceSettings) -> Vec<std::borrow::Cow<'_, str>> {
    let hosts = settings.verification_exempt_hosts.iter();
    hosts.map(|host| storable(host)).collect()
}

fn emails(settings: &WorkspaceSettings) -> Vec<std::borrow::Cow<'_, str>> {
    let emails = settings.notification_emails.iter();
    emails.map(|email| storable(email)).collect()
}

/// Locks a workspace's row and reads it. Creations in it wait.
pub(crate) async fn hold(
    connection: &mut PgConnection,
    id: Uuid,
) -> Result<Option<WorkspaceRow>, StoreError> {
    let hold = "SELECT 1 FROM workspaces WHERE id = $1 AND deleted_at IS NULL FOR NO KEY UPDATE";
    let there = sqlx::query(hold)
        .bind(id)
        .fetch_optional(&mut *connection)
        .await?;
    // Read by a second statement, which sees what the one that held the lock before had written.
    if there.is_some() {
        one(connection, id).await
    } else {
        Ok(None)
    }
}

pub(super) async fn log(
    connection: &mut PgConnection,
    actor: &Actor,
    action: &'static str,
    now: i64,
    before: Option<&WorkspaceRow>,
    after: &WorkspaceRow,
) -> Result<(), StoreError> {
    let entry = Entry {
        workspace: after.id,
        actor,
        action,
        subject: &after.id.to_string(),
        at: now,
        before: before.map(WorkspaceRow::audited),
        after: Some(after.audited()),
    };
    audit::write(connection, entry).await
}
