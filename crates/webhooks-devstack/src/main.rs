//! `webhooks-devstack FOLDER`: just the two servers, for working on one service by hand.
//!
//! `webhooks-devstack search FOLDER`: searches what a test run left there for secrets (`make test-canary`).
//!
//! Starts nats-server and PostgreSQL with their data in the folder, prints how to reach them (shell
//! syntax), and keeps them until Ctrl-C or SIGTERM.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use webhooks_devstack::{NatsServer, Postgres, search};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let usage = "usage: webhooks-devstack FOLDER, or webhooks-devstack search FOLDER";
    let folder = arguments.next().context(usage)?;
    if folder == Path::new("search") {
        let found = search(&arguments.next().context(usage)?)?;
        writeln!(std::io::stdout(), "{found}")?;
        anyhow::ensure!(found.is_clean(), "not clean");
        return Ok(());
    }
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut nats = NatsServer::builder(folder.join("nats")).start().await?;
    let mut postgres = Postgres::builder(folder.join("postgres")).start().await?;
    let database = postgres.ensure_database("webhooks").await?;
    let mut out = std::io::stdout();
    writeln!(
        out,
        "WEBHOOKS_NATS_URL='{}'\nWEBHOOKS_NATS_MONITOR_URL='{}'",
        nats.url(),
        nats.monitor_url()
    )?;
    writeln!(out, "WEBHOOKS_DATABASE_URL='{database}'")?;
    let pid = |pid: Option<u32>| pid.map_or_else(String::new, |pid| pid.to_string());
    writeln!(
        out,
        "NATS_PID={}\nPOSTGRES_PID={}\nREADY=1",
        pid(nats.pid()),
        pid(postgres.pid())
    )?;
    out.flush()?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    postgres.stop().await?;
    nats.stop().await
}
