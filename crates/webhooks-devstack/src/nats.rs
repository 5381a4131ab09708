//! A nats-server with JetStream.

use std::{
    fmt::Write as _,
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use rustix::process::Signal;

use crate::{
    http::http_get,
    keep,
    ports::free_port,
    process::{Process, Spec},
    tools::Tools,
    wait::wait_until,
};

const START_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// How often a start is tried anew with other ports, when the ports were ours to choose.
const START_TRIES: u32 = 3;

const MIB: u64 = 1024 * 1024;

/// When the server flushes what it has acknowledged to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SyncInterval {
    /// nats-server's own: every two minutes. Survives SIGKILL of the server, not a loss of power.
    #[default]
    ServerDefault,
    /// Before every acknowledgement.
    Always,
    /// Every so often.
    Every(Duration),
}

/// What a nats-server is to be like.
#[derive(Debug, Clone)]
pub struct NatsBuilder {
    folder: PathBuf,
    name: String,
    port: Option<u16>,
    monitor_port: Option<u16>,
    sync: SyncInterval,
    max_file_bytes: u64,
    max_memory_bytes: u64,
    extra: String,
    tools: Option<Tools>,
    log: Option<PathBuf>,
}

/// A nats-server of ours: prepared, running, or killed. Keeps ports and data through restarts;
/// dropping it kills the process and leaves the data.
#[derive(Debug)]
pub struct NatsServer {
    spec: Spec,
    port: u16,
    monitor_port: u16,
    process: Option<Process>,
}

impl NatsBuilder {
    /// The server's name (`nats` when not set); also the name of its process and log.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The client port; 0 (the default) takes a free one.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = (port != 0).then_some(port);
        self
    }

    /// The monitoring port; 0 (the default) takes a free one.
    #[must_use]
    pub fn monitor_port(mut self, port: u16) -> Self {
        self.monitor_port = (port != 0).then_some(port);
        self
    }

    /// When to flush to the disk.
    #[must_use]
    pub fn sync_interval(mut self, sync: SyncInterval) -> Self {
        self.sync = sync;
        self
    }

    /// What all streams on disk may reserve together; 64 GiB when not set (a limit, not an allocation).
    #[must_use]
    pub fn max_file_bytes(mut self, bytes: u64) -> Self {
        self.max_file_bytes = bytes;
        self
    }

    /// What all streams in memory may reserve together; 1 GiB when not set.
    #[must_use]
    pub fn max_memory_bytes(mut self, bytes: u64) -> Self {
        self.max_memory_bytes = bytes;
        self
    }

    /// Further lines for the configuration file (users and permissions, for example).
    #[must_use]
    pub fn extra_config(mut self, text: impl Into<String>) -> Self {
        self.extra = text.into();
        self
    }

    /// Programs other than the located ones.
    #[must_use]
    pub fn tools(mut self, tools: Tools) -> Self {
        self.tools = Some(tools);
        self
    }

    /// The log file; `<name>.log` in the server's folder when not set.
    #[must_use]
    pub fn log(mut self, file: impl Into<PathBuf>) -> Self {
        self.log = Some(file.into());
        self
    }

    /// Chooses ports and writes the configuration, but starts nothing: for a
    /// [`Supervisor`](crate::Supervisor), which runs [`NatsServer::spec`].
    ///
    /// # Errors
    /// No programs, no free port, or the folder cannot be written.
    pub fn prepare(&self) -> anyhow::Result<NatsServer> {
        let tools = self.tools.clone().map_or_else(Tools::locate, Ok)?;
        keep::keep_own_log();
        std::fs::create_dir_all(&self.folder)
            .with_context(|| format!("cannot create {}", self.folder.display()))?;
        let folder = self.folder.canonicalize()?;
        keep::streams(&folder.join("data"))?;
        let port = self.port.map_or_else(free_port, Ok)?;
        let monitor_port = self.monitor_port.map_or_else(free_port, Ok)?;
        let config = folder.join(format!("{}.conf", self.name));
        write_private(&config, &self.config(&folder, port, monitor_port)?)
            .with_context(|| format!("cannot write {}", config.display()))?;
        let log = self
            .log
            .clone()
            .unwrap_or_else(|| folder.join(format!("{}.log", self.name)));
        let spec = Spec::new(&self.name, tools.nats_server)
            .arg("--config")
            .arg(&config)
            .log(log)
            .stop_with(Signal::TERM, STOP_LIMIT);
        Ok(NatsServer {
            spec,
            port,
            monitor_port,
            process: None,
        })
    }

    /// Starts the server and waits until it is healthy.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare), or the server does not become healthy within 20 seconds; the
    /// message ends with its log.
    pub async fn start(&self) -> anyhow::Result<NatsServer> {
        let chosen = self.port.is_none() || self.monitor_port.is_none();
        let mut tries = 1;
        loop {
            let mut server = self.prepare()?;
            match server.start().await {
                Ok(()) => return Ok(server),
                // Somebody else took the port between our choice and the server's.
                Err(error)
                    if chosen
                        && tries < START_TRIES
                        && format!("{error:#}").contains("address already in use") =>
                {
                    tries += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn config(&self, folder: &Path, port: u16, monitor_port: u16) -> anyhow::Result<String> {
        let mut text = String::new();
        writeln!(text, "server_name: {}", quoted(&self.name)?)?;
        writeln!(
            text,
            "listen: \"127.0.0.1:{port}\"\nhttp: \"127.0.0.1:{monitor_port}\""
        )?;
        writeln!(text, "jetstream {{")?;
        writeln!(
            text,
            "  store_dir: {}",
            quoted(&folder.join("data").to_string_lossy())?
        )?;
        writeln!(
            text,
            "  max_file_store: {}\n  max_memory_store: {}",
            self.max_file_bytes, self.max_memory_bytes
        )?;
        match self.sync {
            SyncInterval::ServerDefault => {}
            SyncInterval::Always => writeln!(text, "  sync_interval: always")?,
            // Quoted: a bare number with a unit letter is read as a number of seconds.
            SyncInterval::Every(period) => {
                writeln!(text, "  sync_interval: \"{}ms\"", period.as_millis())?
            }
        }
        writeln!(text, "}}\n{}", self.extra)?;
        Ok(text)
    }
}

impl NatsServer {
    /// A server whose configuration, data and log live in this folder.
    pub fn builder(folder: impl Into<PathBuf>) -> NatsBuilder {
        NatsBuilder {
            folder: folder.into(),
            name: "nats".to_owned(),
            port: None,
            monitor_port: None,
            sync: SyncInterval::default(),
            max_file_bytes: 64 * 1024 * MIB,
            max_memory_bytes: 1024 * MIB,
            extra: String::new(),
            tools: None,
            log: None,
        }
    }

    /// Where clients connect.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Where the server tells about itself (`/healthz`, `/jsz`, `/varz`).
    #[must_use]
    pub fn monitor_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.monitor_port)
    }

    /// The client port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The monitoring port.
    #[must_use]
    pub fn monitor_port(&self) -> u16 {
        self.monitor_port
    }

    /// Its process id, when it was started here and still runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process
            .as_ref()
            .filter(|process| process.exit_status().is_none())
            .map(Process::pid)
    }

    /// How to start it, for a supervisor.
    #[must_use]
    pub fn spec(&self) -> Spec {
        self.spec.clone()
    }

    /// Starts it (again), on the same ports with the same data, and waits until it is healthy.
    ///
    /// # Errors
    /// It runs already, or does not become healthy within 20 seconds.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        if self.pid().is_some() {
            bail!("{} runs already", self.spec.name());
        }
        let ready = self.wait_healthy(START_LIMIT);
        let (process, healthy) = Process::spawn_until(&self.spec, ready).await?;
        self.process = Some(process);
        healthy
    }

    /// Waits until the server, whoever runs it, says that it is healthy.
    ///
    /// # Errors
    /// It does not within `limit`.
    pub async fn wait_healthy(&self, limit: Duration) -> anyhow::Result<()> {
        let url = format!("{}/healthz", self.monitor_url());
        wait_until(
            "nats-server to be healthy",
            limit,
            async || match http_get(&url).await {
                Ok((200, _)) => Ok(()),
                Ok(other) => Err(format!("{other:?}")),
                Err(error) => Err(format!("{error:#}")),
            },
        )
        .await
    }

    /// SIGKILL. Nothing happens when it does not run.
    ///
    /// # Errors
    /// The system refuses.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(process) = self.process.take() {
            process.kill().await?;
        }
        Ok(())
    }

    /// SIGTERM, and SIGKILL after 15 seconds. Nothing happens when it does not run.
    ///
    /// # Errors
    /// The system refuses.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        if let Some(process) = self.process.take() {
            process.stop().await?;
        }
        Ok(())
    }

    /// Sends it a signal, [`Signal::STOP`] and [`Signal::CONT`] for example. Whether it was running.
    ///
    /// # Errors
    /// The system refuses.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<bool> {
        let process = self.process.as_ref();
        process.map_or(Ok(false), |process| process.signal(signal))
    }

    /// [`kill`](Self::kill), then [`start`](Self::start).
    ///
    /// # Errors
    /// As both.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.kill().await?;
        self.start().await
    }
}

/// Passwords of users may stand in it.
fn write_private(file: &Path, text: &str) -> std::io::Result<()> {
    let mut opened = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(file)?;
    opened.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    opened.write_all(text.as_bytes())
}

fn quoted(text: &str) -> anyhow::Result<String> {
    if text.contains(['"', '\\', '\n']) {
        bail!("{text:?} cannot stand in a nats-server configuration");
    }
    Ok(format!("\"{text}\""))
}

#[cfg(test)]
mod tests {
    use super::{Duration, NatsServer, Path, SyncInterval};

    #[test]
    fn the_configuration_quotes_its_durations() {
        let builder = NatsServer::builder("unused")
            .name("n1")
            .max_file_bytes(5)
            .max_memory_bytes(6);
        let text = builder
            .clone()
            .sync_interval(SyncInterval::Every(Duration::from_secs(1)));
        let text = text.config(Path::new("/data"), 1, 2).unwrap();
        for line in [
            "server_name: \"n1\"",
            "listen: \"127.0.0.1:1\"",
            "http: \"127.0.0.1:2\"",
            "sync_interval: \"1000ms\"",
            "store_dir: \"/data/data\"",
            "max_file_store: 5",
            "max_memory_store: 6",
        ] {
            assert!(text.contains(line), "no {line} in {text}");
        }
        let text = builder
            .clone()
            .sync_interval(SyncInterval::Always)
            .config(Path::new("/data"), 1, 2)
            .unwrap();
        assert!(text.contains("sync_interval: always"), "{text}");
        builder.config(Path::new("/da\"ta"), 1, 2).unwrap_err();
    }
}
