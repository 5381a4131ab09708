//! `webhooks up`: the whole system on this machine, every part a process of its own.
//!
//! It takes the part of an orchestrator: starts the servers and the services, keeps their ports,
//! starts a dead one again within a second, and stops them in order at the end: whoever takes work
//! before whoever is given it, the servers last. What scripts may rely on stands in the folder
//! (`.run` of the clone):
//!
//! * `env`: addresses and tokens in shell syntax, written last, removed when it stops;
//! * `<process>.pid` and `<process>.log` for each process, the pid file rewritten at each restart,
//!   the log appended to (and put aside as `<process>.log.1` when it is large);
//! * `secrets/`: keys and tokens (mode 600), `data/`: the servers' data; both are found again.
//!
//! Endpoints on loopback over plain HTTP are allowed here, loudly, since the demo receiver is one.
//!
//! A service that refuses its settings ends the run at once with exit code 64 and everything that is
//! wrong with them: no restart would help.
//!
//! A killed `webhooks up` takes its children along: the kernel (or a watchdog) sees to that. What
//! could be left nevertheless is ended by the next start, see [`stale`].

mod credentials;
mod env_file;
mod folder;
mod known;
mod layout;
mod ports;
mod servers;
mod services;
mod settings;
mod signals;
mod stale;
mod watch;

use std::{collections::BTreeSet, fmt, process::ExitCode, time::Duration};

use anyhow::Context as _;
use futures::future::try_join_all;
use thiserror::Error;
use webhooks_bus::BusSettings;
use webhooks_devstack::{SettingsRefused, Supervisor};
use webhooks_runtime::{EXIT_SETTINGS, Env, Settings as _, SettingsError};

pub(crate) use self::credentials::OPERATOR_SEED;
use self::{
    folder::Folder, layout::Layout, servers::Servers, settings::Settings, signals::Interrupts,
};
use crate::{
    cli::UpOptions,
    console::{complain, say},
    demo::{self, Accounts, Stage},
    http::Client,
    operate::{connected, migrate, open_bus, open_store, without_password},
    secrets::Secrets,
};

/// The exit code of a second interrupt, as shells count it.
const EXIT_INTERRUPTED: u8 = 130;

/// How long one service may take to be ready.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// How long servers that somebody else runs may take to answer.
const MIGRATE_LIMIT: Duration = Duration::from_secs(60);

/// How long a new token may take to reach ingest.
const TOKEN_LIMIT: Duration = Duration::from_secs(30);

/// After one service has refused its settings, how long the others may take to refuse theirs:
/// settings are the first thing a service reads.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Services that refuse their settings.
#[derive(Debug, Error)]
#[error("settings are refused\n{}", Said(.0))]
struct Refused(Vec<SettingsRefused>);

/// Everything that was said, once: several dispatchers say the same.
struct Said<'a>(&'a [SettingsRefused]);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said: BTreeSet<&str> = self.0.iter().map(|refused| refused.said.trim()).collect();
        f.write_str(&said.into_iter().collect::<Vec<_>>().join("\n"))
    }
}

/// The command. It ends with an interrupt (exit code 0 when everything stopped) or an error.
///
/// # Errors
/// Something cannot be started; everything that was started is stopped first.
pub(crate) async fn run(options: UpOptions) -> anyhow::Result<ExitCode> {
    let mut interrupts = Interrupts::catch()?;
    let settings = Settings::read(Env::from_process())?;
    let folder = Folder::open(&options.folder)?;
    stale::clean(&folder.path)?.into_iter().for_each(say);
    let supervisor = Supervisor::new(&folder.path)?;
    let served = tokio::select! {
        biased;
        () = interrupts.next() => Ok(()),
        served = Box::pin(serve(&supervisor, &folder, &settings)) => served,
    };
    folder.forget_env()?;
    // Said before the stopping, which may take a while, and by nobody else again.
    if let Err(error) = &served {
        complain(format_args!("{error:#}"));
    }
    say("stopping: ingest, fan-out, dispatchers, management, receiver, servers");
    let stopped = tokio::select! {
        stopped = stop(&supervisor) => stopped,
        () = interrupts.next() => {
            say("interrupted again: what still runs is killed");
            return Ok(ExitCode::from(EXIT_INTERRUPTED));
        }
    };
    stopped.context("not everything stopped as it should")?;
    say("stopped; the data stays, `make clean` removes it");
    Ok(match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Refused>() || error.is::<SettingsError>() => {
            ExitCode::from(EXIT_SETTINGS)
        }
        Err(_) => ExitCode::FAILURE,
    })
}

/// Starts everything, shows the demo, and watches for ever.
async fn serve(
    supervisor: &Supervisor,
    folder: &Folder,
    settings: &Settings,
) -> anyhow::Result<()> {
    let secrets = Secrets::open(folder.path.join("secrets"))?;
    let layout = Layout::choose(folder, settings)?;
    let servers = Servers::start(supervisor, folder, &layout, settings).await?;
    let (store, bus) = (
        open_store(&servers.database_url)?,
        open_bus(bus_settings(&servers)?).await?,
    );
    say("migrating: database schema, streams");
    let (database, streams) = tokio::join!(
        migrate::database(&store, MIGRATE_LIMIT),
        migrate::streams(&bus, MIGRATE_LIMIT)
    );
    database.and(streams)?;
    if let Some(role) = servers.app_role {
        migrate::grant(&store, role).await?;
    }
    let accounts = Accounts::ensure(&store, &bus, &secrets).await?;
    store.close().await;

    settings.warn_if_open();
    for name in known::typing_mistakes(Env::from_process()) {
        say(format_args!(
            "WARNING: {name} is set and no service knows it: a typing mistake?"
        ));
    }
    let shared = secrets.shared()?.or_as_the_caller_says();
    say(format_args!(
        "starting ingest, fan-out, {} dispatcher(s), management, the demo receiver",
        settings.dispatchers
    ));
    for spec in services::specs(&layout, settings, &servers, &shared)? {
        supervisor.start(spec)?;
    }
    let waits = layout
        .processes()
        .into_iter()
        .map(|process| ready(supervisor, process));
    if let Err(error) = try_join_all(waits).await {
        if !error.is::<SettingsRefused>() {
            return Err(error);
        }
        tokio::time::sleep(LAST_WORDS).await;
        return Err(Refused(supervisor.refused()).into());
    }
    let told =
        [&accounts.token, &accounts.other_token].map(|token| known_to_ingest(&layout, token));
    try_join_all(told).await?;
    connected(&bus, MIGRATE_LIMIT).await?;

    let (api, receiver) = (layout.api_url(), layout.receiver_url());
    let stage = Stage {
        api: &api,
        receiver: &receiver,
        endpoint: &receiver,
        bus: &bus,
        accounts: &accounts,
        secrets: &secrets,
    };
    if let Err(error) = demo::perform(&stage).await {
        say(format_args!(
            "the demo failed: {error:#}\nlogs: {}",
            folder.path.display()
        ));
    }
    bus.flush().await;
    drop(bus);
    env_file::write(
        folder,
        &env_file::lines(&layout, settings, &servers, &accounts, &shared)?,
    )?;
    say(format_args!(
        "\nready: API {api}, events {}, NATS {}\naddresses and tokens: {}, logs beside it; Ctrl-C stops everything",
        layout.ingest_url(),
        without_password(&servers.nats_url),
        folder.env_file().display(),
    ));
    watch::watch(supervisor).await
}

/// The caller's settings of the bus, at the address of the servers of this run.
fn bus_settings(servers: &Servers) -> anyhow::Result<BusSettings> {
    let mut env = Env::from_process();
    let settings = BusSettings::read(&mut env);
    env.finish()?;
    let settings = BusSettings {
        url: servers.nats_url.clone(),
        ..settings
    };
    match &servers.credentials {
        Some(credentials) => credentials.operator(settings),
        None => Ok(settings),
    }
}

async fn ready(supervisor: &Supervisor, process: layout::Process) -> anyhow::Result<()> {
    let url = process.ready_url();
    supervisor
        .wait_ready(&process.name, READY_LIMIT, || Ok(url.clone()))
        .await?;
    say(format_args!("  {} is ready", process.name));
    Ok(())
}

/// Waits until ingest takes a token: it learns tokens from the read model, a moment after they were made.
async fn known_to_ingest(layout: &Layout, token: &str) -> anyhow::Result<()> {
    let ingest = Client::new(&layout.ingest_url(), Some(token))?;
    let nothing = serde_json::json!({});
    webhooks_devstack::wait_until("ingest to know the tokens", TOKEN_LIMIT, async || {
        match ingest.call("POST", "/v1/events", Some(&nothing)).await {
            // The token opened the door, and then the event was refused, as it must be.
            Ok(answer) if answer.status == 400 => Ok(()),
            Ok(answer) => Err(format!("{} {}", answer.status, answer.body)),
            Err(error) => Err(format!("{error:#}")),
        }
    })
    .await
}

async fn stop(supervisor: &Supervisor) -> anyhow::Result<()> {
    let names = supervisor.names();
    let dispatchers: Vec<&str> = names
        .iter()
        .map(String::as_str)
        .filter(|name| name.starts_with("dispatcher-"))
        .collect();
    supervisor
        .stop_all(&[
            &["ingest"],
            &["fanout"],
            &dispatchers,
            &["management"],
            &["receiver"],
            &["nats", "postgres"],
        ])
        .await
}

#[cfg(test)]
mod tests {
    use super::{Refused, SettingsRefused};

    #[test]
    fn what_two_dispatchers_say_of_their_settings_is_told_once() {
        let said = |name: &str, said: &str| SettingsRefused {
            name: name.to_owned(),
            said: said.to_owned(),
        };
        let refused = Refused(vec![
            said("dispatcher-1", "webhooks-dispatcher: X: wrong"),
            said("dispatcher-2", "webhooks-dispatcher: X: wrong\n"),
            said("ingest", "webhooks-ingest: Y: wrong"),
        ]);
        assert_eq!(
            refused.to_string(),
            "settings are refused\nwebhooks-dispatcher: X: wrong\nwebhooks-ingest: Y: wrong"
        );
    }
}
