//! A PostgreSQL server.
//!
//! PostgreSQL refuses to run as root. Where we are root (containers, CI), its programs are started
//! in a user namespace in which we are user 1000 (`unshare -U`): no OS user and no chown needed. The
//! namespace is entered by the process itself, so the process id stays the postmaster's.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use rustix::process::Signal;
use tokio::process::Command;

use crate::{
    keep,
    ports::free_port,
    process::{Process, Spec},
    tools::Tools,
    tree,
    wait::wait_until,
};

/// The only user; trusted on loopback.
const USER: &str = "postgres";

/// After a crash the whole data folder is written to the disk first: on one that has gigabytes of
/// others' to write, 30 s were not enough.
const START_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(20);
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// For an immediate shutdown when dropped; after that SIGKILL.
const DROP_LIMIT: Duration = Duration::from_secs(3);
const START_TRIES: u32 = 3;

/// What a path of a Unix socket may have, less the name PostgreSQL appends.
const SOCKET_FOLDER_MAX_BYTES: usize = 80;

/// Longest name of a database.
const NAME_MAX_BYTES: usize = 63;

/// Settings of the caller that would change what PostgreSQL's programs do.
const FOREIGN: [&str; 14] = [
    "PGDATA",
    "PGHOST",
    "PGHOSTADDR",
    "PGPORT",
    "PGDATABASE",
    "PGUSER",
    "PGPASSWORD",
    "PGPASSFILE",
    "PGSERVICE",
    "PGOPTIONS",
    "PGSSLMODE",
    "PGTZ",
    "PGCLIENTENCODING",
    "PSQLRC",
];

/// What a PostgreSQL server is to be like.
#[derive(Debug, Clone)]
pub struct PostgresBuilder {
    folder: PathBuf,
    name: String,
    port: Option<u16>,
    fast: bool,
    shared_buffers_mb: u32,
    max_connections: u32,
    settings: Vec<(String, String)>,
    tools: Option<Tools>,
    log: Option<PathBuf>,
}

/// A PostgreSQL server of ours: prepared, running, or killed. Keeps port and data through restarts;
/// dropping it shuts it down at once and leaves the data.
#[derive(Debug)]
pub struct Postgres {
    tools: Tools,
    spec: Spec,
    port: u16,
    process: Option<Process>,
}

impl PostgresBuilder {
    /// The name of its process and log (`postgres` when not set).
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The port; 0 (the default) takes a free one.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = (port != 0).then_some(port);
        self
    }

    /// Trades durability for speed (`fsync` off): for tests that do not kill the machine.
    #[must_use]
    pub fn fast(mut self) -> Self {
        self.fast = true;
        self
    }

    /// Shared buffers in MiB; 128 when not set.
    #[must_use]
    pub fn shared_buffers_mb(mut self, mebibytes: u32) -> Self {
        self.shared_buffers_mb = mebibytes;
        self
    }

    /// Connections; 100 when not set.
    #[must_use]
    pub fn max_connections(mut self, connections: u32) -> Self {
        self.max_connections = connections;
        self
    }

    /// Any other server setting.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
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

    /// Makes the data folder, if it is not there, and chooses a port, but starts nothing: for a
    /// [`Supervisor`](crate::Supervisor), which runs [`Postgres::spec`].
    ///
    /// # Errors
    /// No programs, no free port, or `initdb` fails.
    pub async fn prepare(&self) -> anyhow::Result<Postgres> {
        let tools = self.tools.clone().map_or_else(Tools::locate, Ok)?;
        keep::keep_own_log();
        std::fs::create_dir_all(&self.folder)
            .with_context(|| format!("cannot create {}", self.folder.display()))?;
        let folder = self.folder.canonicalize()?;
        let data = folder.join("data");
        if !data.join("PG_VERSION").exists() {
            initdb(&tools, &folder, &data, self.fast).await?;
        }
        let port = self.port.map_or_else(free_port, Ok)?;
        let log = self
            .log
            .clone()
            .unwrap_or_else(|| folder.join(format!("{}.log", self.name)));
        let (program, args) = as_ordinary_user(&tools.postgres("postgres"));
        let spec = Spec::new(&self.name, program)
            .args(args)
            .arg("-D")
            .arg(&data)
            .args(self.arguments(&folder, port));
        // SIGINT is PostgreSQL's fast shutdown: SIGTERM would wait for every client to leave.
        let spec = spec.log(log).stop_with(Signal::INT, STOP_LIMIT);
        let spec = FOREIGN
            .iter()
            .fold(spec, |spec, name| spec.env_remove(name));
        Ok(Postgres {
            tools,
            spec,
            port,
            process: None,
        })
    }

    /// Starts the server and waits until it accepts connections. The first time this takes a second.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare), or the server does not start within 30 seconds; the message
    /// ends with its log.
    pub async fn start(&self) -> anyhow::Result<Postgres> {
        let mut tries = 1;
        loop {
            let mut server = self.prepare().await?;
            match server.start().await {
                Ok(()) => return Ok(server),
                // Somebody else took the port between our choice and the server's.
                Err(error)
                    if self.port.is_none()
                        && tries < START_TRIES
                        && format!("{error:#}").contains("Address already in use") =>
                {
                    tries += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn arguments(&self, folder: &Path, port: u16) -> Vec<String> {
        let socket_folder = folder
            .to_str()
            .filter(|path| path.len() <= SOCKET_FOLDER_MAX_BYTES && !path.contains(','));
        let on = if self.fast { "off" } else { "on" };
        let mut settings = vec![
            ("port", port.to_string()),
            ("listen_addresses", "127.0.0.1".to_owned()),
            (
                "unix_socket_directories",
                socket_folder.unwrap_or_default().to_owned(),
            ),
            ("max_connections", self.max_connections.to_string()),
            ("shared_buffers", format!("{}MB", self.shared_buffers_mb)),
            ("fsync", on.to_owned()),
            ("synchronous_commit", on.to_owned()),
            ("full_page_writes", on.to_owned()),
            // The default of 1 GB means a checkpoint every 30 s under load, and after each one every
            // page is logged whole again: a third of the log, measured.
            ("max_wal_size", "2GB".to_owned()),
            ("checkpoint_timeout", "15min".to_owned()),
            // In its own folder, and so gone with it. The default keeps these files in the machine's
            // /dev/shm, where only the next start on the same data removes what a kill has left.
            ("dynamic_shared_memory_type", "mmap".to_owned()),
            ("timezone", "UTC".to_owned()),
            ("log_timezone", "UTC".to_owned()),
            ("jit", "off".to_owned()),
            ("log_checkpoints", "off".to_owned()),
        ];
        settings.extend(
            self.settings
                .iter()
                .map(|(name, value)| (name.as_str(), value.clone())),
        );
        settings
            .into_iter()
            .flat_map(|(name, value)| ["-c".to_owned(), format!("{name}={value}")])
            .collect()
    }
}

impl Postgres {
    /// A server whose data and log live in this folder.
    pub fn builder(folder: impl Into<PathBuf>) -> PostgresBuilder {
        PostgresBuilder {
            folder: folder.into(),
            name: "postgres".to_owned(),
            port: None,
            fast: false,
            shared_buffers_mb: 128,
            max_connections: 100,
            settings: Vec::new(),
            tools: None,
            log: None,
        }
    }

    /// Where a database is found; `postgres` always exists.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{database}", self.port)
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The postmaster's process id, when it was started here and still runs.
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

    /// Starts it (again), on the same port with the same data, and waits until it accepts connections.
    ///
    /// # Errors
    /// It runs already, or does not start within 30 seconds.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        if self.pid().is_some() {
            bail!("{} runs already", self.spec.name());
        }
        let ready = self.wait_accepting(START_LIMIT);
        let (process, accepting) = Process::spawn_until(&self.spec, ready).await?;
        self.process = Some(process);
        accepting
    }

    /// Waits until the server, whoever runs it, accepts connections.
    ///
    /// # Errors
    /// It does not within `limit`.
    pub async fn wait_accepting(&self, limit: Duration) -> anyhow::Result<()> {
        wait_until("PostgreSQL to accept connections", limit, async || {
            self.sql("postgres", "SELECT 1")
                .await
                .map(drop)
                .map_err(|error| format!("{error:#}"))
        })
        .await
    }

    /// SIGKILL of the postmaster and of everything below it, as a crash of the machine would have
    /// it. Nothing happens when it does not run.
    ///
    /// # Errors
    /// The system refuses, or a process is not gone within ten seconds.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        let Some(process) = self.process.take() else {
            return Ok(());
        };
        let backends = tree::descendants(process.pid());
        process.kill().await?;
        // They would notice by themselves, but a busy one only later, and it keeps a restart out.
        tree::kill_all(&backends, KILL_LIMIT).await
    }

    /// A fast shutdown (clients are disconnected), and SIGKILL after 20 seconds. Nothing happens
    /// when it does not run.
    ///
    /// # Errors
    /// The system refuses.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.dump_to_keep();
        if let Some(process) = self.process.take() {
            process.stop().await?;
        }
        Ok(())
    }

    /// Sends a signal to the postmaster and to everything below it ([`Signal::STOP`] and
    /// [`Signal::CONT`] are what it is for). Whether it was running.
    ///
    /// # Errors
    /// The system refuses.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<bool> {
        let Some(process) = &self.process else {
            return Ok(false);
        };
        // The postmaster first: it must start nobody while the others are told.
        let running = process.signal(signal)?;
        tree::signal_all(&tree::descendants(process.pid()), signal)?;
        Ok(running)
    }

    /// [`kill`](Self::kill), then [`start`](Self::start).
    ///
    /// # Errors
    /// As both.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.kill().await?;
        self.start().await
    }

    /// Makes an empty database; gives its URL.
    ///
    /// # Errors
    /// It exists, the name is not `[a-z0-9_]{1,63}`, or the server is down.
    pub async fn create_database(&self, name: &str) -> anyhow::Result<String> {
        self.sql(
            "postgres",
            &format!("CREATE DATABASE \"{}\"", checked(name)?),
        )
        .await?;
        Ok(self.url(name))
    }

    /// Makes a copy of a database nobody is connected to: the quick way to many migrated ones.
    ///
    /// # Errors
    /// As [`create_database`](Self::create_database), or somebody is connected to the template.
    pub async fn create_database_from(&self, name: &str, template: &str) -> anyhow::Result<String> {
        let (name, template) = (checked(name)?, checked(template)?);
        self.sql(
            "postgres",
            &format!("CREATE DATABASE \"{name}\" TEMPLATE \"{template}\""),
        )
        .await?;
        Ok(self.url(name))
    }

    /// Makes a database unless it is there; gives its URL.
    ///
    /// # Errors
    /// As [`create_database`](Self::create_database), less its being there.
    pub async fn ensure_database(&self, name: &str) -> anyhow::Result<String> {
        let there = format!(
            "SELECT 1 FROM pg_database WHERE datname = '{}'",
            checked(name)?
        );
        if self.sql("postgres", &there).await?.is_empty() {
            return self.create_database(name).await;
        }
        Ok(self.url(name))
    }

    /// Makes a role that may log in and nothing else, unless it is there; gives its URL of a database.
    ///
    /// # Errors
    /// A name is not `[a-z0-9_]{1,63}`, or the server is down.
    pub async fn ensure_role(&self, role: &str, database: &str) -> anyhow::Result<String> {
        let role = checked(role)?;
        let there = format!("SELECT 1 FROM pg_roles WHERE rolname = '{role}'");
        if self.sql("postgres", &there).await?.is_empty() {
            self.sql("postgres", &format!("CREATE ROLE \"{role}\" LOGIN"))
                .await?;
        }
        Ok(self.role_url(role, database))
    }

    /// Where a database is found as this role.
    #[must_use]
    pub fn role_url(&self, role: &str, database: &str) -> String {
        format!("postgres://{role}@127.0.0.1:{}/{database}", self.port)
    }

    /// Removes a database and whoever is connected to it.
    ///
    /// # Errors
    /// The server is down or refuses.
    pub async fn drop_database(&self, name: &str) -> anyhow::Result<()> {
        self.dump_to_keep();
        let statement = format!(
            "DROP DATABASE IF EXISTS \"{}\" WITH (FORCE)",
            checked(name)?
        );
        self.sql("postgres", &statement).await.map(drop)
    }

    /// Runs a statement with `psql` and gives what it prints: rows as lines, columns split by `|`.
    ///
    /// # Errors
    /// The statement fails, or the server is down.
    pub async fn sql(&self, database: &str, statement: &str) -> anyhow::Result<String> {
        let mut psql = Command::new(self.tools.postgres("psql"));
        psql.args([
            "--no-psqlrc",
            "--quiet",
            "--no-align",
            "--tuples-only",
            "--set",
            "ON_ERROR_STOP=1",
        ])
        .args(["--dbname", &self.url(database), "--command", statement]);
        run(psql).await
    }
}

impl Postgres {
    /// What it holds, where a run is kept to be searched.
    fn dump_to_keep(&self) {
        let Some(log) = self.spec.log_file().filter(|_| self.pid().is_some()) else {
            return;
        };
        if keep::is_kept()
            && let Err(error) = keep::dump(
                &self.tools.postgres("pg_dumpall"),
                &self.url("postgres"),
                log,
            )
        {
            tracing::warn!(error = %format_args!("{error:#}"), "a database is not kept");
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.dump_to_keep();
        // SIGQUIT: the postmaster kills and collects its backends itself; `Process` kills it if it does not.
        if let Some(process) = &self.process
            && process.signal(Signal::QUIT).is_ok_and(|running| running)
            && !process.wait_blocking(DROP_LIMIT)
        {
            tracing::warn!(
                pid = process.pid(),
                "PostgreSQL did not shut down at once: killed"
            );
        }
    }
}

/// Into a folder beside, then renamed: an interrupted `initdb` must not look like a finished one.
async fn initdb(tools: &Tools, folder: &Path, data: &Path, fast: bool) -> anyhow::Result<()> {
    let partial = folder.join("data.partial");
    if partial.exists() {
        std::fs::remove_dir_all(&partial)
            .with_context(|| format!("cannot remove {}", partial.display()))?;
    }
    let (program, args) = as_ordinary_user(&tools.postgres("initdb"));
    let mut command = Command::new(program);
    command.args(args).arg("--pgdata").arg(&partial);
    command.args([
        "--username",
        USER,
        "--auth",
        "trust",
        "--encoding",
        "UTF8",
        "--locale",
        "C",
        "--no-instructions",
    ]);
    if fast {
        command.arg("--no-sync");
    }
    run(command).await.context("initdb failed")?;
    std::fs::rename(&partial, data).with_context(|| format!("cannot rename {}", partial.display()))
}

/// The program and the arguments before its own.
fn as_ordinary_user(program: &Path) -> (PathBuf, Vec<OsString>) {
    if !rustix::process::geteuid().is_root() {
        return (program.to_owned(), Vec::new());
    }
    let args = ["-U", "--map-user=1000", "--map-group=1000"].map(OsString::from);
    (
        "unshare".into(),
        args.into_iter()
            .chain([program.as_os_str().to_owned()])
            .collect(),
    )
}

async fn run(mut command: Command) -> anyhow::Result<String> {
    for name in FOREIGN {
        command.env_remove(name);
    }
    let name = command.as_std().get_program().to_owned();
    let output = command
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await;
    let output = output.with_context(|| format!("cannot start {}", name.display()))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}", errors.trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Names stand in statements as they are, so they must be harmless.
fn checked(name: &str) -> anyhow::Result<&str> {
    let harmless = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    ensure!(
        (1..=NAME_MAX_BYTES).contains(&name.len()) && name.bytes().all(harmless),
        "{name:?} is not a database name of a-z, 0-9 and _"
    );
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::{Path, Postgres, checked};

    #[test]
    fn durability_is_on_unless_speed_was_asked_for() {
        let careful = Postgres::builder("unused").arguments(Path::new("/short"), 1);
        assert!(careful.contains(&"fsync=on".to_owned()), "{careful:?}");
        assert!(
            careful.contains(&"unix_socket_directories=/short".to_owned()),
            "{careful:?}"
        );
        let long = "/long".repeat(40);
        let fast = Postgres::builder("unused")
            .fast()
            .shared_buffers_mb(256)
            .setting("work_mem", "8MB");
        let fast = fast.arguments(Path::new(&long), 1);
        for expected in [
            "fsync=off",
            "synchronous_commit=off",
            "shared_buffers=256MB",
            "work_mem=8MB",
            "unix_socket_directories=",
        ] {
            assert!(
                fast.contains(&expected.to_owned()),
                "no {expected} in {fast:?}"
            );
        }
    }

    #[test]
    fn names_that_could_do_harm_are_refused() {
        assert_eq!(checked("test_1").unwrap(), "test_1");
        for bad in ["", "a b", "a\"; DROP", "Ä", &"x".repeat(64)] {
            checked(bad).unwrap_err();
        }
    }
}
