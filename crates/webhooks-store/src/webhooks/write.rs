//! Changing webhooks: the row, its links and secrets, its outbox row and its audit entry, together
//! or not at all.

use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    NewWebhook, Room, WebhookOptions, WebhookPatch, WebhookRow, read,
    statements::{insert, update},
};
use crate::{
    Actor, IdempotencyKey, OutboxKind, Store, WorkspaceRow,
    audit::{self, Entry},
    error::StoreError,
    idempotency, outbox,
    pg::storable,
    workspaces,
};

impl Store {
    /// Makes a webhook, within the plan's limit (`None` = no limit), which holds whatever runs at
    /// the same time: creations in one workspace wait for each other and for changes of it, and a
    /// [`Room`] tells by which workspace the limit was judged.
    ///
    /// With `claim`, the key that the caller holds is tied to the new webhook in the same
    /// transaction, so that whoever takes the key over after a crash gets
    /// [`crate::Begun::Recovered`] and does not make a second one.
    ///
    /// # Errors
    /// [`StoreError::PlanLimit`]; [`StoreError::NotFound`] without such a workspace;
    /// [`StoreError::Conflict`] when the id is taken, the claim is no longer the caller's, or
    /// (`"workspace"`) plan or limits are others than those that the limit was judged by.
    pub async fn create_webhook(
        &self,
        new: &NewWebhook,
        room: impl Into<Room<'_>>,
        claim: Option<IdempotencyKey<'_>>,
        actor: &Actor,
    ) -> Result<WebhookRow, StoreError> {
        let room = room.into();
        let mut tx = self.pool.begin().await?;
        hold_workspace(&mut tx, new.workspace_id, room).await?;
        if let Some(claim) = claim {
            idempotency::bind_subject(&mut tx, claim, new.id).await?;
        }
        insert(&mut tx, new).await?;
        let row = read::one(&mut tx, new.workspace_id, new.id)
            .await?
            .ok_or(StoreError::NotFound("webhook"))?;
        log(&mut tx, actor, "webhook.create", new.now, None, Some(&row)).await?;
        tx.commit().await?;
        Ok(row)
    }

    /// Changes a webhook and returns it as it is now; `None` when the workspace has none of this
    /// id. A patch that changes nothing writes nothing: revision and `updated_at` stay.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when `expected_revision` is not the row's.
    pub async fn update_webhook(
        &self,
        workspace: Uuid,
        id: Uuid,
        patch: &WebhookPatch,
        actor: &Actor,
        now: i64,
    ) -> Result<Option<WebhookRow>, StoreError> {
        let mut tx = self.pool.begin().await?;
        let Some(before) = hold_webhook(&mut tx, workspace, id).await? else {
            return Ok(None);
        };
        if patch
            .expected_revision
            .is_some_and(|expected| expected != before.revision)
        {
            return Err(StoreError::Conflict("webhook revision"));
        }
        let Some(wanted) = apply(&before, patch, now) else {
            return Ok(Some(before));
        };
        update(&mut tx, &before, &wanted).await?;
        let after = read::one(&mut tx, workspace, id).await?;
        log(
            &mut tx,
            actor,
            "webhook.update",
            now,
            Some(&before),
            after.as_ref(),
        )
        .await?;
        tx.commit().await?;
        Ok(after)
    }

    /// Deletes a webhook with its links and secrets; its history stays. `false` when the workspace
    /// has none of this id.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when `expected_revision` is given and not the row's.
    pub async fn delete_webhook(
        &self,
        workspace: Uuid,
        id: Uuid,
        expected_revision: Option<i64>,
        actor: &Actor,
        now: i64,
    ) -> Result<bool, StoreError> {
        let mut tx = self.pool.begin().await?;
        let Some(before) = hold_webhook(&mut tx, workspace, id).await? else {
            return Ok(false);
        };
        if expected_revision.is_some_and(|expected| expected != before.revision) {
            return Err(StoreError::Conflict("webhook revision"));
        }
        sqlx::query("DELETE FROM webhooks WHERE id = $1")
            .bind(id)
            .execute(&mut *tx)
            .await?;
        log(&mut tx, actor, "webhook.delete", now, Some(&before), None).await?;
        tx.commit().await?;
        Ok(true)
    }
}

/// The patched row; `None` when it would be the same.
fn apply(before: &WebhookRow, patch: &WebhookPatch, now: i64) -> Option<WebhookRow> {
    fn set<T: Clone>(value: &mut T, wish: Option<&T>) {
        if let Some(wish) = wish {
            value.clone_from(wish);
        }
    }
    let text = |wish: &Option<String>| wish.as_ref().map(|text| storable(text).into_owned());
    let mut after = before.clone();
    set(&mut after.name, text(&patch.name).as_ref());
    set(&mut after.endpoint_url, text(&patch.endpoint_url).as_ref());
    set(&mut after.profile, text(&patch.profile).as_ref());
    set(&mut after.source, patch.source.as_ref());
    if let Some(links) = &patch.link_ids {
        let mut seen = std::collections::HashSet::new();
        after.link_ids = links
            .iter()
            .copied()
            .filter(|link| seen.insert(*link))
            .collect();
    }
    if let Some(triggers) = &patch.triggers {
        after.triggers = triggers
            .iter()
            .map(|kind| storable(kind).into_owned())
            .collect();
    }
    if let Some((status, reason)) = patch.status {
        after.status = status;
        after.status_reason = reason;
    }
    if patch.new_health_epoch {
        after.health_epoch += 1;
    }
    if let Some(choice) = patch.held_choice {
        after.held_choice = choice;
        after.held_choice_at = Some(now);
    }
    apply_options(&mut after.options, patch);
    if let Some(extras) = &patch.extras {
        after.extras.clone_from(extras);
    }
    if let Some(asymmetric) = &patch.asymmetric {
        after.asymmetric.clone_from(asymmetric);
        after.old_asymmetric.clear();
    }
    let sealed = after.extras.sealed.iter();
    let sealed = sealed.chain(after.asymmetric.iter().map(|key| &key.sealed));
    let newest = sealed.map(|secret| secret.version).max().unwrap_or(0);
    after.secret_version = after.secret_version.max(newest);
    if after == *before {
        return None;
    }
    after.updated_at = now.max(before.updated_at);
    after.revision += 1;
    Some(after)
}

fn apply_options(options: &mut WebhookOptions, patch: &WebhookPatch) {
    if let Some(description) = &patch.description {
        options.description = storable(description).into_owned();
    }
    if let Some(labels) = &patch.labels {
        options.labels.clone_from(labels);
    }
    if let Some(actions) = &patch.event_actions {
        options.event_actions.clone_from(actions);
    }
    options.retry = patch.retry.unwrap_or(options.retry);
    options.rate = patch.rate.unwrap_or(options.rate);
    options.max_in_flight = patch.max_in_flight.unwrap_or(options.max_in_flight);
    options.ordering = patch.ordering.unwrap_or(options.ordering);
}

/// Keeps other creations in this workspace waiting, sees that it still is what the caller judged by,
/// and counts.
async fn hold_workspace(
    connection: &mut PgConnection,
    workspace: Uuid,
    room: Room<'_>,
) -> Result<(), StoreError> {
    let held = workspaces::hold(connection, workspace).await?;
    let held = held.ok_or(StoreError::NotFound("workspace"))?;
    let allowed = |row: &WorkspaceRow| (row.plan, row.settings.limits);
    if room
        .judged_by
        .is_some_and(|judged| allowed(judged) != allowed(&held))
    {
        return Err(StoreError::Conflict("workspace"));
    }
    let Some(limit) = room.limit else {
        return Ok(());
    };
    let count = "SELECT count(*) FROM webhooks WHERE workspace_id = $1";
    let used: i64 = sqlx::query_scalar(count)
        .bind(workspace)
        .fetch_one(connection)
        .await?;
    let used = u32::try_from(used).unwrap_or(u32::MAX);
    if used >= limit {
        Err(StoreError::PlanLimit { limit, used })
    } else {
        Ok(())
    }
}

/// Locks a webhook's row and reads it.
pub(crate) async fn hold_webhook(
    connection: &mut PgConnection,
    workspace: Uuid,
    id: Uuid,
) -> Result<Option<WebhookRow>, StoreError> {
    let hold = "SELECT 1 FROM webhooks WHERE workspace_id = $1 AND id = $2 FOR UPDATE";
    let there = sqlx::query(hold)
        .bind(workspace)
        .bind(id)
        .fetch_optional(&mut *connection)
        .await?;
    // Read by a second statement, which sees what the one that held the lock before had written.
    if there.is_some() {
        read::one(connection, workspace, id).await
    } else {
        Ok(None)
    }
}

/// Tells the outbox and the audit log. A deletion is a revision too: the read model drops its copy
/// only for a newer one.
pub(super) async fn log(
    connection: &mut PgConnection,
    actor: &Actor,
    action: &'static str,
    now: i64,
    before: Option<&WebhookRow>,
    after: Option<&WebhookRow>,
) -> Result<(), StoreError> {
    let Some(row) = after.or(before) else {
        return Ok(());
    };
    let revision = row.config_revision() + i64::from(after.is_none());
    let key = row.id.to_string();
    outbox::push(
        connection,
        OutboxKind::Webhook,
        row.workspace_id,
        &key,
        revision,
    )
    .await?;
    let entry = Entry {
        workspace: row.workspace_id,
        actor,
        action,
        subject: &key,
        at: now,
        before: before.map(WebhookRow::audited),
        after: after.map(WebhookRow::audited),
    };
    audit::write(connection, entry).await
}
