//! Runs named processes and starts a dead one again, as an orchestrator would.
//!
//! Each process has `<name>.pid` and `<name>.log` in the supervisor's folder. The pid file is
//! rewritten at every start, so a script can kill any process and watch it come back. A process that
//! dies at once is started again after the same pause, for ever: what is wrong with it stands in its
//! log, and whoever waits for it to be ready sees it there. Only one that refuses its settings (exit
//! code 64) stays dead: it would refuse them again.
//!
//! Logs are appended to, over restarts and over runs, and put aside beyond
//! [`LOG_MAX_BYTES`](crate::LOG_MAX_BYTES): `<name>.log.1` is what came before.
//!
//! It belongs to the tokio runtime it is used in.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use futures::future::join_all;
use thiserror::Error;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    http::http_get,
    logs,
    process::{Process, Spec},
    wait::wait_until,
};

/// Between the death of a process and its next start.
pub const RESTART_PAUSE: Duration = Duration::from_millis(250);

/// The exit code with which our services refuse their settings: starting again would not help.
const EXIT_SETTINGS: i32 = 64;

/// A process refused its settings (exit code 64) and was not started again.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{name} refuses its settings:\n{said}")]
pub struct SettingsRefused {
    /// The process.
    pub name: String,
    /// What it wrote to its log since its start: all problems.
    pub said: String,
}

/// What is known of one supervised process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChildState {
    /// Its process id; `None` between a death and the next start, and after a stop.
    pub pid: Option<u32>,
    /// How often it was started.
    pub starts: u32,
    /// How it ended last.
    pub last_exit: Option<ExitStatus>,
}

/// A set of supervised processes. Dropping it kills them all; [`stop_all`](Self::stop_all) is the polite way.
#[derive(Debug)]
pub struct Supervisor {
    folder: PathBuf,
    children: Mutex<BTreeMap<String, Child>>,
}

#[derive(Debug)]
struct Child {
    shared: Arc<Shared>,
    monitor: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    spec: Spec,
    pid_file: PathBuf,
    /// Where in its log its last start began.
    log_from: AtomicU64,
    stopping: CancellationToken,
    state: Mutex<ChildState>,
    process: Mutex<Option<Arc<Process>>>,
}

impl Supervisor {
    /// Keeps pid files and logs in this folder, which is made if need be.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn new(folder: impl Into<PathBuf>) -> anyhow::Result<Self> {
        let folder = folder.into();
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(Self {
            folder,
            children: Mutex::default(),
        })
    }

    /// Starts a process and keeps it running. Its output is appended to `<name>.log` in the folder
    /// unless the spec names another file.
    ///
    /// # Errors
    /// There is one by this name already, or the first start fails.
    pub fn start(&self, mut spec: Spec) -> anyhow::Result<()> {
        let name = spec.name().to_owned();
        let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        if children.contains_key(&name) {
            bail!("there is a process named {name} already");
        }
        if spec.log_file().is_none() {
            spec = spec.log(self.folder.join(format!("{name}.log")));
        }
        let shared = Arc::new(Shared {
            spec,
            pid_file: self.folder.join(format!("{name}.pid")),
            log_from: AtomicU64::new(0),
            stopping: CancellationToken::new(),
            state: Mutex::default(),
            process: Mutex::default(),
        });
        let first = shared.start()?;
        #[expect(
            clippy::disallowed_methods,
            reason = "development tooling has no service tasks; `stop` waits for it, and drop ends it"
        )]
        let monitor = tokio::spawn(Arc::clone(&shared).monitor(first));
        children.insert(name, Child { shared, monitor });
        Ok(())
    }

    /// What is known of a process.
    #[must_use]
    pub fn state(&self, name: &str) -> Option<ChildState> {
        self.find(name).ok().map(|shared| shared.state())
    }

    /// The current process id.
    #[must_use]
    pub fn pid(&self, name: &str) -> Option<u32> {
        self.state(name).and_then(|state| state.pid)
    }

    /// Everybody who refused their settings, in alphabetical order.
    #[must_use]
    pub fn refused(&self) -> Vec<SettingsRefused> {
        let children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = children.values().filter_map(|child| child.shared.refused());
        refused.collect()
    }

    /// The names, in alphabetical order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.children
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .keys()
            .cloned()
            .collect()
    }

    /// The end of a process's log, for error messages.
    #[must_use]
    pub fn log_tail(&self, name: &str) -> String {
        self.find(name)
            .map(|shared| shared.spec.log_tail())
            .unwrap_or_default()
    }

    /// SIGKILL; it will be started again.
    ///
    /// # Errors
    /// There is none by this name, or the system refuses.
    pub async fn kill(&self, name: &str) -> anyhow::Result<()> {
        let process = self.find(name)?.process();
        if let Some(process) = process {
            process.kill().await?;
        }
        Ok(())
    }

    /// Stops a process for good: its stop signal, its time, SIGKILL. Afterwards the name is free.
    ///
    /// # Errors
    /// There is none by this name, or the system refuses.
    pub async fn stop(&self, name: &str) -> anyhow::Result<()> {
        let child = self
            .children
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name);
        let child = child.with_context(|| format!("there is no process named {name}"))?;
        child.shared.stop().await?;
        child
            .monitor
            .await
            .context("the monitor of a process failed")
    }

    /// Stops everything: the groups one after the other, the members of a group at the same time.
    /// Processes that no group names come first. (Services, then the servers they need.)
    ///
    /// # Errors
    /// All that went wrong; the others are stopped nevertheless.
    pub async fn stop_all(&self, groups: &[&[&str]]) -> anyhow::Result<()> {
        let grouped = |name: &String| groups.iter().any(|group| group.contains(&name.as_str()));
        let first = self
            .names()
            .into_iter()
            .filter(|name| !grouped(name))
            .collect();
        let there = self.names();
        let rest = groups.iter().map(|group| {
            group
                .iter()
                .filter(|name| there.iter().any(|known| known == *name))
                .map(|name| (*name).to_owned())
                .collect()
        });
        let mut problems = Vec::new();
        for group in std::iter::once::<Vec<String>>(first).chain(rest) {
            let stopped = join_all(group.iter().map(|name| self.stop(name))).await;
            problems.extend(
                stopped
                    .into_iter()
                    .filter_map(Result::err)
                    .map(|error| format!("{error:#}")),
            );
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(anyhow!("{}", problems.join("; ")))
        }
    }

    /// Waits until `url` (given the moment it is asked, as a port may only be known after the start)
    /// answers 200.
    ///
    /// # Errors
    /// It does not within `limit` (the message ends with the log), or the process refuses its
    /// settings, which ends the waiting at once with [`SettingsRefused`].
    pub async fn wait_ready(
        &self,
        name: &str,
        limit: Duration,
        url: impl Fn() -> anyhow::Result<String>,
    ) -> anyhow::Result<()> {
        let shared = self.find(name)?;
        let what = format!("{name} to be ready");
        let ready = wait_until(&what, limit, async || {
            let state = shared.state();
            if let Some(refused) = shared.refused() {
                return Ok(Err(refused));
            }
            match probe(url()).await {
                Ok((200, _)) => Ok(Ok(())),
                Ok((status, body)) => Err(format!("{status} {}", body.trim())),
                Err(error) => Err(format!("{error:#} (started {} times)", state.starts)),
            }
        });
        let ready = ready.await.with_context(|| {
            format!(
                "{name} is not ready; its log ends with:\n{}",
                shared.spec.log_tail()
            )
        })?;
        Ok(ready?)
    }

    fn find(&self, name: &str) -> anyhow::Result<Arc<Shared>> {
        let children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        let child = children
            .get(name)
            .with_context(|| format!("there is no process named {name}"))?;
        Ok(Arc::clone(&child.shared))
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        for (_, child) in
            std::mem::take(&mut *self.children.lock().unwrap_or_else(PoisonError::into_inner))
        {
            child.shared.stopping.cancel();
            child.monitor.abort();
            // Killed when the last owner lets go; the monitor may be one until its runtime has ended it.
            if let Some(process) = child.shared.process() {
                process.kill_blocking();
            }
            remove(&child.shared.pid_file);
        }
    }
}

impl Shared {
    fn state(&self) -> ChildState {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn process(&self) -> Option<Arc<Process>> {
        self.process
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn refused(&self) -> Option<SettingsRefused> {
        let exit = self.state().last_exit?;
        (exit.code() == Some(EXIT_SETTINGS)).then(|| SettingsRefused {
            name: self.spec.name().to_owned(),
            said: self.spec.log_since(self.log_from.load(Ordering::Relaxed)),
        })
    }

    /// Puts the log aside when it has become too large.
    async fn tidy(&self) {
        let Some(log) = self.spec.log_file().map(Path::to_owned) else {
            return;
        };
        let shown = log.display().to_string();
        let rotating =
            tokio::task::spawn_blocking(move || logs::rotate(&log, logs::LOG_MAX_BYTES)).await;
        match rotating {
            Ok(Err(error)) => {
                tracing::warn!(file = shown, %error, "the log is large and cannot be put aside")
            }
            Ok(Ok(true)) => self.log_from.store(0, Ordering::Relaxed),
            // An error only says that the runtime is ending.
            Ok(Ok(false)) | Err(_) => {}
        }
    }

    fn start(&self) -> anyhow::Result<Arc<Process>> {
        if let Some(log) = self.spec.log_file() {
            self.log_from.store(logs::length(log), Ordering::Relaxed);
        }
        let process = Arc::new(Process::spawn(&self.spec)?);
        let mut current = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.pid = Some(process.pid());
        state.starts = state.starts.saturating_add(1);
        *current = Some(Arc::clone(&process));
        write_pid(&self.pid_file, process.pid())?;
        Ok(process)
    }

    fn ended(&self, exit: ExitStatus) {
        self.process
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.pid = None;
        state.last_exit = Some(exit);
    }

    /// Waits for each death and starts anew, until told to stop.
    async fn monitor(self: Arc<Self>, first: Arc<Process>) {
        let mut process = Some(first);
        loop {
            if let Some(running) = process.take() {
                let exit = loop {
                    tokio::select! {
                        exit = running.wait() => break exit,
                        () = tokio::time::sleep(logs::LOOK_EVERY) => self.tidy().await,
                    }
                };
                self.ended(exit);
                if self.stopping.is_cancelled() {
                    break;
                }
                if exit.code() == Some(EXIT_SETTINGS) {
                    tracing::warn!(process = self.spec.name(), "refuses its settings");
                    break;
                }
                tracing::warn!(process = self.spec.name(), %exit, "ended; starting it again");
            }
            if self
                .stopping
                .run_until_cancelled(tokio::time::sleep(RESTART_PAUSE))
                .await
                .is_none()
            {
                break;
            }
            match self.start() {
                Ok(started) => {
                    if self.stopping.is_cancelled() {
                        // Told to stop in the middle of the start, when there was nothing to stop yet.
                        self.stop_late(&started).await;
                    }
                    process = Some(started);
                }
                Err(error) => {
                    tracing::error!(process = self.spec.name(), error = %format_args!("{error:#}"), "cannot be started again")
                }
            }
        }
        remove(&self.pid_file);
    }

    async fn stop_late(&self, process: &Process) {
        if let Err(error) = process.stop().await {
            tracing::warn!(process = self.spec.name(), error = %format_args!("{error:#}"), "cannot be stopped");
        }
    }

    async fn stop(&self) -> anyhow::Result<()> {
        self.stopping.cancel();
        match self.process() {
            Some(process) => process.stop().await.map(drop),
            None => Ok(()),
        }
    }
}

async fn probe(url: anyhow::Result<String>) -> anyhow::Result<(u16, String)> {
    http_get(&url?).await
}

fn write_pid(file: &Path, pid: u32) -> anyhow::Result<()> {
    let partial = file.with_extension("pid.partial");
    std::fs::write(&partial, format!("{pid}\n"))
        .and_then(|()| std::fs::rename(&partial, file))
        .with_context(|| format!("cannot write {}", file.display()))
}

fn remove(file: &Path) {
    if let Err(error) = std::fs::remove_file(file)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(file = %file.display(), error = %error, "cannot be removed");
    }
}
