//! nats-server and PostgreSQL: our own, or somebody else's.

use std::{fs::File, path::Path, time::Duration};

use anyhow::Context as _;
use webhooks_devstack::{NatsServer, Postgres, Supervisor, Tools};

use super::{folder::Folder, layout::Layout, settings::Settings};
use crate::{console::say, operate::without_password};

/// PostgreSQL may have a log to replay after a kill.
const START_LIMIT: Duration = Duration::from_secs(60);

const DATABASE: &str = "webhooks";

/// Where they are.
#[derive(Debug, Clone)]
pub(crate) struct Servers {
    pub(crate) nats_url: String,
    pub(crate) database_url: String,
    /// Our own nats-server's monitoring address.
    pub(crate) nats_monitor_url: Option<String>,
}

impl Servers {
    /// Starts those that nobody gave, and waits until they answer.
    ///
    /// # Errors
    /// The programs are not fetched, or a server does not start; the message ends with its log.
    pub(crate) async fn start(
        supervisor: &Supervisor,
        folder: &Folder,
        layout: &Layout,
        settings: &Settings,
    ) -> anyhow::Result<Self> {
        let (nats, database_url) = tokio::try_join!(
            nats(supervisor, folder, layout, settings),
            postgres(supervisor, folder, layout, settings)
        )?;
        let (nats_url, nats_monitor_url) = nats;
        Ok(Self {
            nats_url,
            nats_monitor_url,
            database_url,
        })
    }
}

async fn nats(
    supervisor: &Supervisor,
    folder: &Folder,
    layout: &Layout,
    settings: &Settings,
) -> anyhow::Result<(String, Option<String>)> {
    if let Some(url) = &settings.nats_url {
        say(format_args!("using NATS at {}", without_password(url)));
        return Ok((url.clone(), None));
    }
    let log = folder.path.join("nats.log");
    let server = NatsServer::builder(folder.path.join("data/nats"))
        .port(layout.nats)
        .monitor_port(layout.nats_monitor)
        .sync_interval(settings.sync)
        .tools(Tools::locate()?)
        .log(&log)
        .prepare()?;
    say(format_args!("starting nats-server at {}", server.url()));
    empty(&log)?;
    supervisor.start(server.spec())?;
    server
        .wait_healthy(START_LIMIT)
        .await
        .with_context(|| supervisor.log_tail("nats"))?;
    Ok((server.url(), Some(server.monitor_url())))
}

async fn postgres(
    supervisor: &Supervisor,
    folder: &Folder,
    layout: &Layout,
    settings: &Settings,
) -> anyhow::Result<String> {
    if let Some(url) = &settings.database_url {
        say(format_args!(
            "using PostgreSQL at {}",
            without_password(url)
        ));
        return Ok(url.clone());
    }
    let log = folder.path.join("postgres.log");
    let builder = Postgres::builder(folder.path.join("data/postgres"))
        .port(layout.postgres)
        .tools(Tools::locate()?);
    if !folder.path.join("data/postgres/data/PG_VERSION").exists() {
        say("making a database cluster");
    }
    let server = builder.log(&log).prepare().await?;
    say(format_args!(
        "starting PostgreSQL at 127.0.0.1:{}",
        server.port()
    ));
    empty(&log)?;
    supervisor.start(server.spec())?;
    server
        .wait_accepting(START_LIMIT)
        .await
        .with_context(|| supervisor.log_tail("postgres"))?;
    server.ensure_database(DATABASE).await
}

/// Logs are those of this run.
fn empty(log: &Path) -> anyhow::Result<()> {
    File::create(log)
        .with_context(|| format!("cannot write {}", log.display()))
        .map(drop)
}
