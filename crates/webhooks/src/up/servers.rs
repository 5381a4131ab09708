//! nats-server and PostgreSQL: our own, or somebody else's.

use std::time::Duration;

use anyhow::Context as _;
use webhooks_devstack::{NatsServer, Postgres, Supervisor, Tools};

use super::{credentials::Credentials, folder::Folder, layout::Layout, settings::Settings};
use crate::{console::say, operate::without_password};

/// PostgreSQL may have a log to replay after a kill.
const START_LIMIT: Duration = Duration::from_secs(60);

const DATABASE: &str = "webhooks";

/// The role that the services are to the database. It owns no configuration and cannot change the
/// audit log.
const APP_ROLE: &str = "webhooks_app";

/// Where they are.
#[derive(Debug, Clone)]
pub(crate) struct Servers {
    pub(crate) nats_url: String,
    pub(crate) database_url: String,
    /// The same database for the services, as a role that may not do everything.
    pub(crate) app_database_url: String,
    /// That role, on our own server.
    pub(crate) app_role: Option<&'static str>,
    /// Our own nats-server's monitoring address.
    pub(crate) nats_monitor_url: Option<String>,
    /// Our own nats-server's users.
    pub(crate) credentials: Option<Credentials>,
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
        let (nats, postgres) = tokio::try_join!(
            nats(supervisor, folder, layout, settings),
            postgres(supervisor, folder, layout, settings)
        )?;
        let (nats_url, nats_monitor_url, credentials) = nats;
        Ok(Self {
            nats_url,
            nats_monitor_url,
            credentials,
            database_url: postgres.0,
            app_database_url: postgres.1,
            app_role: postgres.2,
        })
    }
}

async fn nats(
    supervisor: &Supervisor,
    folder: &Folder,
    layout: &Layout,
    settings: &Settings,
) -> anyhow::Result<(String, Option<String>, Option<Credentials>)> {
    if let Some(url) = &settings.nats_url {
        say(format_args!("using NATS at {}", without_password(url)));
        return Ok((url.clone(), None, None));
    }
    let log = folder.path.join("nats.log");
    let credentials = Credentials::open(folder)?;
    let server = NatsServer::builder(folder.path.join("data/nats"))
        .port(layout.nats)
        .monitor_port(layout.nats_monitor)
        .sync_interval(settings.sync)
        .extra_config(credentials.server_config()?)
        .tools(Tools::locate()?)
        .log(&log)
        .prepare()?;
    say(format_args!("starting nats-server at {}", server.url()));
    supervisor.start(server.spec())?;
    server
        .wait_healthy(START_LIMIT)
        .await
        .with_context(|| supervisor.log_tail("nats"))?;
    Ok((server.url(), Some(server.monitor_url()), Some(credentials)))
}

async fn postgres(
    supervisor: &Supervisor,
    folder: &Folder,
    layout: &Layout,
    settings: &Settings,
) -> anyhow::Result<(String, String, Option<&'static str>)> {
    if let Some(url) = &settings.database_url {
        say(format_args!(
            "using PostgreSQL at {}",
            without_password(url)
        ));
        return Ok((url.clone(), url.clone(), None));
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
    supervisor.start(server.spec())?;
    server
        .wait_accepting(START_LIMIT)
        .await
        .with_context(|| supervisor.log_tail("postgres"))?;
    let url = server.ensure_database(DATABASE).await?;
    let app_url = server.ensure_role(APP_ROLE, DATABASE).await?;
    Ok((url, app_url, Some(APP_ROLE)))
}
