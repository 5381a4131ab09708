//! Workspaces (tenants) and their plans.

use serde_json::json;
use sqlx::{Row as _, postgres::PgRow};
use uuid::Uuid;
use webhooks_domain::webhook::Plan;

use crate::{
    Actor, Store,
    audit::{self, Entry},
    error::StoreError,
    pg::{self, Micros, storable},
};

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
    /// Microseconds.
    pub created_at: i64,
    /// Microseconds.
    pub updated_at: i64,
}

impl WorkspaceRow {
    fn of(row: &PgRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.try_get("id")?,
            name: row.try_get("name")?,
            plan: pg::word(row, "plan")?,
            owner_member: row.try_get("owner_member")?,
            created_at: pg::micros(row, "created_at")?,
            updated_at: pg::micros(row, "updated_at")?,
        })
    }
}

const INSERT: &str = "
INSERT INTO workspaces (id, name, plan, owner_member, created_at, updated_at)
VALUES ($1, $2, $3, $4, $5, $5) ON CONFLICT (id) DO NOTHING RETURNING *";

const SELECT: &str = "SELECT * FROM workspaces WHERE id = $1";

impl Store {
    /// Makes a workspace, or returns the one that has this id already, unchanged.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn create_workspace(
        &self,
        new: &NewWorkspace,
        actor: &Actor,
    ) -> Result<WorkspaceRow, StoreError> {
        let mut tx = self.pool.begin().await?;
        let made = sqlx::query(INSERT)
            .bind(new.id)
            .bind(storable(&new.name))
            .bind(new.plan.as_str())
            .bind(new.owner_member)
            .bind(Micros(new.now))
            .fetch_optional(&mut *tx)
            .await?;
        let Some(made) = made else {
            let there = sqlx::query(SELECT).bind(new.id).fetch_one(&mut *tx).await?;
            return WorkspaceRow::of(&there);
        };
        let made = WorkspaceRow::of(&made)?;
        let entry = Entry {
            workspace: made.id,
            actor,
            action: "workspace.create",
            subject: &made.id.to_string(),
            at: new.now,
            before: None,
            after: Some(json!({ "name": made.name, "plan": made.plan.as_str() })),
        };
        audit::write(&mut tx, entry).await?;
        tx.commit().await?;
        Ok(made)
    }

    /// The workspace of this id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn get_workspace(&self, id: Uuid) -> Result<Option<WorkspaceRow>, StoreError> {
        let row = sqlx::query(SELECT)
            .bind(id)
            .fetch_optional(&self.pool)
            .await?;
        row.as_ref().map(WorkspaceRow::of).transpose()
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
        let mut tx = self.pool.begin().await?;
        let locked = "SELECT * FROM workspaces WHERE id = $1 FOR NO KEY UPDATE";
        let Some(row) = sqlx::query(locked)
            .bind(id)
            .fetch_optional(&mut *tx)
            .await?
        else {
            return Ok(None);
        };
        let before = WorkspaceRow::of(&row)?;
        if before.plan == plan {
            return Ok(Some(before));
        }
        let update = "UPDATE workspaces SET plan = $2, updated_at = $3 WHERE id = $1 RETURNING *";
        let row = sqlx::query(update)
            .bind(id)
            .bind(plan.as_str())
            .bind(Micros(now))
            .fetch_one(&mut *tx)
            .await?;
        let after = WorkspaceRow::of(&row)?;
        let entry = Entry {
            workspace: id,
            actor,
            action: "workspace.set_plan",
            subject: &id.to_string(),
            at: now,
            before: Some(json!({ "plan": before.plan.as_str() })),
            after: Some(json!({ "plan": after.plan.as_str() })),
        };
        audit::write(&mut tx, entry).await?;
        tx.commit().await?;
        Ok(Some(after))
    }
}
