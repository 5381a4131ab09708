//! The statements that store a webhook with its links and secrets.

use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    NewWebhook, WebhookOptions, WebhookRow,
    secrets::{self, Kind},
};
use crate::{
    error::{StoreError, is_duplicate},
    pg::{Micros, int, storable},
};

const INSERT: &str = "
INSERT INTO webhooks (id, workspace_id, name, endpoint_url, status, status_reason, triggers, source,
  profile, created_by, created_at, updated_at, revision, created_by_email)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11, 1, $12)";

const UPDATE: &str = "
UPDATE webhooks SET name = $2, endpoint_url = $3, status = $4, status_reason = $5, triggers = $6,
  source = $7, profile = $8, updated_at = $9, revision = $10, health_epoch = $11, held_choice = $12,
  held_choice_at = $13
WHERE id = $1";

const SET_OPTIONS: &str = "
UPDATE webhooks SET description = $2, labels = $3, event_actions = $4, retry = $5, rate_count = $6,
  rate_period_seconds = $7, rate_burst = $8, max_in_flight = $9, ordering = $10
WHERE id = $1";

const SET_SHOWN: &str = "
UPDATE webhooks SET extras_shown = $2, public_key = $3, secret_version = $4 WHERE id = $1";

/// A link named twice counts once, at its first place.
const INSERT_LINKS: &str = "
INSERT INTO webhook_links (webhook_id, link_id, position)
SELECT $1, link_id, min(position)::int FROM unnest($2::uuid[]) WITH ORDINALITY u(link_id, position)
GROUP BY link_id";

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
        .bind(new.status.as_str())
        .bind(new.status_reason.map(|reason| reason.as_str()))
        .bind(triggers)
        .bind(new.source.as_str())
        .bind(storable(&new.profile))
        .bind(new.created_by)
        .bind(Micros(new.now))
        .bind(new.created_by_email.as_deref().map(storable))
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
    if new.options != WebhookOptions::default() {
        set_options(connection, new.id, &new.options).await?;
    }
    secrets::insert(connection, new.id, Kind::Signing, &new.secret).await?;
    let asymmetric = new.asymmetric.as_ref();
    if new.extras.sealed.is_none() && asymmetric.is_none() {
        return Ok(());
    }
    let singles = [
        (Kind::Extras, new.extras.sealed.as_ref()),
        (Kind::Ed25519, asymmetric.map(|key| &key.sealed)),
    ];
    let mut newest = new.secret.version;
    for (kind, secret) in singles {
        let Some(secret) = secret else { continue };
        secrets::insert(connection, new.id, kind, secret).await?;
        newest = newest.max(secret.version);
    }
    sqlx::query(SET_SHOWN)
        .bind(new.id)
        .bind(&new.extras.shown)
        .bind(asymmetric.map(|key| &key.public_key))
        .bind(int(newest))
        .execute(connection)
        .await?;
    Ok(())
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
        .bind(wanted.health_epoch)
        .bind(wanted.held_choice.as_str())
        .bind(wanted.held_choice_at.map(Micros))
        .execute(&mut *connection)
        .await?;
    if wanted.options != before.options {
        set_options(connection, wanted.id, &wanted.options).await?;
    }
    update_sealed(connection, before, wanted).await?;
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

async fn set_options(
    connection: &mut PgConnection,
    webhook: Uuid,
    options: &WebhookOptions,
) -> Result<(), StoreError> {
    let actions = &options.event_actions;
    let actions: Vec<_> = actions.iter().map(|word| storable(word)).collect();
    let labels = options.labels.iter();
    let labels: serde_json::Map<_, _> = labels
        .map(|(name, value)| (storable(name).into_owned(), storable(value).into()))
        .collect();
    sqlx::query(SET_OPTIONS)
        .bind(webhook)
        .bind(storable(&options.description))
        .bind(serde_json::Value::Object(labels))
        .bind(actions)
        .bind(options.retry.column())
        .bind(options.rate.map(|rate| int(rate.count)))
        .bind(options.rate.map(|rate| int(rate.period_seconds)))
        .bind(options.rate.map(|rate| int(rate.burst)))
        .bind(options.max_in_flight.map(int))
        .bind(options.ordering.as_str())
        .execute(connection)
        .await?;
    Ok(())
}

async fn update_sealed(
    connection: &mut PgConnection,
    before: &WebhookRow,
    wanted: &WebhookRow,
) -> Result<(), StoreError> {
    if wanted.extras == before.extras && wanted.asymmetric == before.asymmetric {
        return Ok(());
    }
    let asymmetric = |row: &WebhookRow| row.asymmetric.as_ref().map(|key| key.sealed.clone());
    for (kind, was, is) in [
        (
            Kind::Extras,
            before.extras.sealed.clone(),
            wanted.extras.sealed.clone(),
        ),
        (Kind::Ed25519, asymmetric(before), asymmetric(wanted)),
    ] {
        if was != is {
            secrets::replace(connection, wanted.id, kind, is.as_ref()).await?;
        }
    }
    if wanted.asymmetric != before.asymmetric {
        // Switched off, or on: no key of before signs beside this one.
        secrets::replace(connection, wanted.id, Kind::OldEd25519, None).await?;
    }
    sqlx::query(SET_SHOWN)
        .bind(wanted.id)
        .bind(&wanted.extras.shown)
        .bind(wanted.asymmetric.as_ref().map(|key| &key.public_key))
        .bind(int(wanted.secret_version))
        .execute(connection)
        .await?;
    Ok(())
}
