//! Operators' commands.

pub(crate) mod accounts;
pub(crate) mod certificates;
pub(crate) mod config;
pub(crate) mod dead;
pub(crate) mod deliveries;
pub(crate) mod doctor;
pub(crate) mod migrate;
pub(crate) mod nats;
pub(crate) mod probe;
pub(crate) mod redrive;
pub(crate) mod rewrap;
pub(crate) mod workspaces;

use std::time::Duration;

use anyhow::Context as _;
use webhooks_bus::{Bus, BusSettings};
use webhooks_devstack::wait_until;
use webhooks_runtime::{Clock as _, Env, Settings as _, SystemClock, settings::Address};
use webhooks_store::{Store, StoreSettings};

/// How long a command waits for a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// The database that `WEBHOOKS_DATABASE_URL` names.
///
/// # Errors
/// The setting is missing or no PostgreSQL address.
pub(crate) fn store() -> anyhow::Result<Store> {
    let mut env = Env::from_process();
    let url = env.secret_address(
        "WEBHOOKS_DATABASE_URL",
        Address::Postgres,
        "PostgreSQL, `postgres://user:password@host/database`",
    );
    env.finish()?;
    open_store(url.expose())
}

/// The database at this address; few connections, since commands do one thing after the other.
///
/// # Errors
/// It is no PostgreSQL address.
pub(crate) fn open_store(url: &str) -> anyhow::Result<Store> {
    let settings = StoreSettings {
        max_connections: 2,
        ..StoreSettings::new(url)
    };
    Store::connect(&settings).context("the database address cannot be used")
}

/// The bus that `WEBHOOKS_NATS_*` describes, not necessarily connected yet.
///
/// # Errors
/// A setting cannot be used.
pub(crate) async fn bus() -> anyhow::Result<Bus> {
    let mut env = Env::from_process();
    let settings = bus_settings(&mut env);
    env.finish()?;
    open_bus(settings).await
}

/// As the services read it; but beside `webhooks up` the address is a publisher's, and the
/// operator's own seed counts.
fn bus_settings(env: &mut Env) -> BusSettings {
    let settings = BusSettings::read(env);
    let seed = env.optional_secret(
        crate::up::OPERATOR_SEED,
        "seed of the operator's nkey, for the operators' commands",
    );
    BusSettings {
        nkey_seed: settings.nkey_seed.or(seed),
        ..settings
    }
}

/// A bus, not necessarily connected yet.
///
/// # Errors
/// A setting cannot be used.
pub(crate) async fn open_bus(settings: BusSettings) -> anyhow::Result<Bus> {
    Bus::connect(settings, "webhooks")
        .await
        .context("NATS cannot be used")
}

/// Waits until the bus is connected.
///
/// # Errors
/// It is not within `limit`.
pub(crate) async fn connected(bus: &Bus, limit: Duration) -> anyhow::Result<()> {
    let what = format!("NATS at {}", without_password(&bus.settings().url));
    wait_until(&what, limit, async || {
        if bus.is_connected() {
            Ok(())
        } else {
            Err("not connected")
        }
    })
    .await
}

/// [`bus`], connected.
///
/// # Errors
/// As [`bus`], or it is not connected within ten seconds.
pub(crate) async fn connected_bus() -> anyhow::Result<Bus> {
    let bus = bus().await?;
    connected(&bus, CONNECT_LIMIT).await?;
    Ok(bus)
}

/// Microseconds since the epoch.
pub(crate) fn now() -> i64 {
    SystemClock.now_micros()
}

/// An address as it may be shown: what stands before an `@` is left out.
pub(crate) fn without_password(url: &str) -> String {
    let hide = |one: &str| match (one.split_once("://"), one.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        _ => one.to_owned(),
    };
    url.split(',')
        .map(|one| hide(one.trim()))
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
mod tests {
    use super::without_password;

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(
            without_password("nats://u:p@a:1, nats://b:2"),
            "nats://a:1,nats://b:2"
        );
        assert_eq!(without_password("postgres://u:p@ss@h/d"), "postgres://h/d");
    }
}
