//! Runs named processes and starts a dead one again, as an orchestrator would.
//!
//! Each process has `<name>.pid` and `<name>.log` in the supervisor's folder. The pid file is
//! rewritten at every start, so a script can kill any process and watch it come back. A process that
//! dies at once is started again after the same pause, for ever: what is wrong with it stands in its
//! log, and whoever waits for it to be ready sees it there.
//!
//! It belongs to the tokio runtime it is used in.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use futures::future::join_all;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    http::http_get,
    process::{Process, Spec},
    wait::wait_until,
};

/// Between the death of a process and its next start.
pub const RESTART_PAUSE: Duration = Duration::from_millis(250);

/// The exit code with which our services refuse their settings: starting again would not help.
const EXIT_SETTINGS: i32 = 64;

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
    /// (emptied by this first start) unless the spec names another file.
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
            let log = self.folder.join(format!("{name}.log"));
            std::fs::write(&log, "").with_context(|| format!("cannot write {}", log.display()))?;
            spec = spec.log(log);
        }
        let shared = Arc::new(Shared {
            spec,
            pid_file: self.folder.join(format!("{name}.pid")),
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
    /// It does not within `limit`, or the process refuses its settings (exit 64), which ends the
    /// waiting at once. The message ends with the log.
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
            if state
                .last_exit
                .is_some_and(|exit| exit.code() == Some(EXIT_SETTINGS))
            {
                return Ok(Err(anyhow!("{name} refuses its settings")));
            }
            match probe(url()).await {
                Ok((200, _)) => Ok(Ok(())),
                Ok((status, body)) => Err(format!("{status} {}", body.trim())),
                Err(error) => Err(format!("{error:#} (started {} times)", state.starts)),
            }
        });
        let ready = ready.await.and_then(std::convert::identity);
        ready.with_context(|| {
            format!(
                "{name} is not ready; its log ends with:\n{}",
                shared.spec.log_tail()
            )
        })
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

    fn start(&self) -> anyhow::Result<Arc<Process>> {
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
                let exit = running.wait().await;
                self.ended(exit);
                if self.stopping.is_cancelled() {
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
