//! Workspaces (tenants): their plans, and what an operator sets for them.

mod authorities;
mod change;
mod delete;

use serde_json::{Value, json};
use sqlx::{PgConnection, Row as _, postgres::PgRow};
use uuid::Uuid;
use webhooks_domain::webhook::Plan;

use crate::{
    Store,
    error::StoreError,
    history::MAX_PAGE,
    pg::{self, Micros},
};

pub use authorities::{AuthoritiesRow, AuthoritiesWish};
pub use delete::DeletedWorkspace;

pub(crate) use change::hold;

/// A workspace to be made.
#[derive(Debug, Clone)]
pub struct NewWorkspace {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// Its plan.
    pub plan: Plan,
    /// The member who owns it; the author of what its first token makes.
    pub owner_member: Uuid,
    /// Now, in microseconds.
    pub now: i64,
}

/// What a workspace may, beyond or below its plan; `None` = as the plan or the installation says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WorkspaceLimits {
    /// Webhooks of any status.
    pub webhooks: Option<u32>,
    /// Most attempts that a webhook's retry policy may ask for.
    pub retry_max_attempts: Option<u32>,
    /// Longest time that a webhook's retry policy may ask for, in seconds.
    pub retry_max_age_seconds: Option<u64>,
    /// Events a second at each ingest process.
    pub events_per_second: Option<u32>,
    /// Deliveries held for one webhook.
    pub held_per_webhook: Option<u32>,
}

/// What an operator sets for a workspace, beside its plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkspaceSettings {
    /// Its tokens are test tokens.
    pub sandbox: bool,
    /// Who is told of its webhooks' trouble; at most ten.
    pub notification_emails: Vec<String>,
    /// Its limits.
    pub limits: WorkspaceLimits,
    /// Nothing is delivered to an endpoint that has not answered a challenge.
    pub endpoint_verification: bool,
    /// Hosts whose endpoints need not; at most 32.
    pub verification_exempt_hosts: Vec<String>,
}

/// What to change of a workspace; `None` = leave as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkspacePatch {
    /// Its name.
    pub name: Option<String>,
    /// Its plan. What exists beyond the new plan's limits stays.
    pub plan: Option<Plan>,
    /// Its tokens are test tokens: those made from now on.
    pub sandbox: Option<bool>,
    /// Who is told of its webhooks' trouble, anew; at most ten.
    pub notification_emails: Option<Vec<String>>,
    /// All its limits, anew.
    pub limits: Option<WorkspaceLimits>,
    /// Nothing is delivered to an endpoint that has not answered a challenge.
    pub endpoint_verification: Option<bool>,
    /// All hosts whose endpoints need not, anew; at most 32.
    pub verification_exempt_hosts: Option<Vec<String>>,
}

/// A workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkspaceRow {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// Its plan.
    pub plan: Plan,
    /// The member who owns it.
    pub owner_member: Uuid,
    /// What an operator set.
    pub settings: WorkspaceSettings,
    /// Microseconds.
    pub created_at: i64,
    /// Microseconds.
    pub updated_at: i64,
}

/// The last row of a page; the next page begins after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkspaceCursor {
    /// When that workspace was made, in microseconds.
    pub created_at: i64,
    /// Its id.
    pub id: Uuid,
}

/// A page of workspaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkspacePage {
    /// The rows, each with its number of webhooks.
    pub rows: Vec<(WorkspaceRow, i64)>,
    /// How many there are in all.
    pub total: i64,
    /// Whether another page follows.
    pub more: bool,
}

impl WorkspaceRow {
    /// Where the page after this row begins.
    #[must_use]
    pub fn cursor(&self) -> WorkspaceCursor {
        WorkspaceCursor {
            created_at: self.created_at,
            id: self.id,
        }
    }

    fn of(row: &PgRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.try_get("id")?,
            name: row.try_get("name")?,
            plan: pg::word(row, "plan")?,
            owner_member: row.try_get("owner_member")?,
            settings: WorkspaceSettings {
                sandbox: row.try_get("sandbox")?,
                notification_emails: row.try_get("notification_emails")?,
                limits: limits(row)?,
                endpoint_verification: row.try_get("endpoint_verification")?,
                verification_exempt_hosts: row.try_get("verification_exempt_hosts")?,
            },
            created_at: pg::micros(row, "created_at")?,
            updated_at: pg::micros(row, "updated_at")?,
        })
    }

    fn audited(&self) -> Value {
        let limits = self.settings.limits;
        json!({
            "name": self.name,
            "plan": self.plan.as_str(),
            "sandbox": self.settings.sandbox,
            "notificationEmails": self.settings.notification_emails,
            "endpointVerification": self.settings.endpoint_verification,
            "verificationExemptHosts": self.settings.verification_exempt_hosts,
            "limits": {
                "webhooks": limits.webhooks,
                "retryMaxAttempts": limits.retry_max_attempts,
                "retryMaxAgeSeconds": limits.retry_max_age_seconds,
                "eventsPerSecond": limits.events_per_second,
                "heldPerWebhook": limits.held_per_webhook,
            },
        })
    }
}

fn limits(row: &PgRow) -> Result<WorkspaceLimits, StoreError> {
    let number = |column| -> Result<Option<u32>, StoreError> {
        let value: Option<i32> = row.try_get(column)?;
        Ok(value.and_then(|value| u32::try_from(value).ok()))
    };
    let age: Option<i64> = row.try_get("retry_max_age_seconds")?;
    Ok(WorkspaceLimits {
        webhooks: number("max_webhooks")?,
        retry_max_attempts: number("retry_max_attempts")?,
        retry_max_age_seconds: age.and_then(|age| u64::try_from(age).ok()),
        events_per_second: number("events_per_second")?,
        held_per_webhook: number("held_per_webhook")?,
    })
}

/// One row more than the page holds tells whether another page follows.
const PAGE: &str = "
SELECT w.*, (SELECT count(*) FROM webhooks h WHERE h.workspace_id = w.id) AS webhook_count
FROM workspaces w WHERE w.deleted_at IS NULL AND (w.created_at, w.id) > ($1, $2)
ORDER BY w.created_at, w.id LIMIT $3";

impl Store {
    /// The workspace of this id; a deleted one is not found.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn get_workspace(&self, id: Uuid) -> Result<Option<WorkspaceRow>, StoreError> {
        one(&mut *self.pool.acquire().await?, id).await
    }

    /// A page of all workspaces, oldest first, beginning after `after`, each with its number of
    /// webhooks. `page_size` is capped at [`MAX_PAGE`].
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list_workspaces(
        &self,
        page_size: u32,
        after: Option<WorkspaceCursor>,
    ) -> Result<WorkspacePage, StoreError> {
        let page_size = page_size.min(MAX_PAGE);
        let after = after.unwrap_or(WorkspaceCursor {
            created_at: i64::MIN,
            id: Uuid::nil(),
        });
        let mut tx = self.begin_reading().await?;
        let total: i64 =
            sqlx::query_scalar("SELECT count(*) FROM workspaces WHERE deleted_at IS NULL")
                .fetch_one(&mut *tx)
                .await?;
        let found = sqlx::query(PAGE)
            .bind(Micros(after.created_at))
            .bind(after.id)
            .bind(i64::from(page_size) + 1)
            .fetch_all(&mut *tx)
            .await?;
        tx.commit().await?;
        let (rows, more) = pg::page(&found, page_size, |row| {
            Ok((WorkspaceRow::of(row)?, row.try_get("webhook_count")?))
        })?;
        Ok(WorkspacePage { rows, total, more })
    }
}

async fn one(connection: &mut PgConnection, id: Uuid) -> Result<Option<WorkspaceRow>, StoreError> {
    let select = "SELECT * FROM workspaces WHERE id = $1 AND deleted_at IS NULL";
    let row = sqlx::query(select)
        .bind(id)
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(WorkspaceRow::of).transpose()
}
