//! `webhooks migrate`: the database schema and the NATS streams, as this version needs them.
//!
//! Both are forward only and may be applied again at any time; a second one at the same moment
//! waits (PostgreSQL) or finds everything done (NATS). Nothing is ever deleted.

use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{Instant, sleep};
use webhooks_bus::Bus;
use webhooks_store::Store;

use super::{bus, connected, store, without_password};
use crate::{cli::MigrateOptions, console::say};

const PAUSE: Duration = Duration::from_millis(200);

/// The command.
///
/// # Errors
/// One of them is not there in time, or refuses.
pub(crate) async fn run(options: &MigrateOptions) -> anyhow::Result<()> {
    if !options.bus_only {
        let store = store()?;
        database(&store, options.wait).await?;
        say("the database schema is up to date");
        if let Some(role) = &options.app_role {
            grant(&store, role).await?;
            say(format_args!("role {role} may run the services on it"));
        }
    }
    if !options.database_only {
        let bus = bus().await?;
        streams(&bus, options.wait).await?;
        say(format_args!(
            "the streams at {} are up to date",
            without_password(&bus.settings().url)
        ));
    }
    Ok(())
}

/// Brings the schema up to date, waiting for the database.
///
/// # Errors
/// It is not there within `limit`, or a step fails.
pub(crate) async fn database(store: &Store, limit: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        match store.migrate().await {
            Ok(()) => return Ok(()),
            Err(error) if error.is_retryable() && Instant::now() < deadline => sleep(PAUSE).await,
            Err(error) => return Err(error).context("the database could not be migrated"),
        }
    }
}

/// Lets a role run the services on this schema.
///
/// # Errors
/// There is no such role, or this user may not grant.
pub(crate) async fn grant(store: &Store, role: &str) -> anyhow::Result<()> {
    let granted = store.grant_to(role).await;
    granted.with_context(|| format!("role {role} was not granted what the services need"))
}

/// Creates and updates the streams, waiting for NATS (JetStream answers a moment after the server).
///
/// # Errors
/// It is not there within `limit`, or refuses.
pub(crate) async fn streams(bus: &Bus, limit: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    connected(bus, limit).await?;
    loop {
        let applied = match bus.apply_topology().await {
            Ok(()) => bus.verify_topology().await,
            refused => refused,
        };
        match applied {
            Ok(()) => return Ok(()),
            Err(_) if Instant::now() < deadline && !bus.is_connected() => sleep(PAUSE).await,
            Err(webhooks_bus::BusError::Unavailable(_)) if Instant::now() < deadline => {
                sleep(PAUSE).await
            }
            Err(error) => return Err(error).context("the streams could not be set up"),
        }
    }
}
