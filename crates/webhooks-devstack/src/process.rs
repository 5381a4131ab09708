//! A child process that is always collected and never outlives its owner.
//!
//! Each child has a process group of its own, so Ctrl-C in a terminal reaches only us and we decide
//! the order of stopping. Its output goes straight to a file. A thread of ours collects it when it
//! ends; signals are sent under the same lock, so never to a process id that has been reused.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::OpenOptions,
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tokio::sync::watch;

use crate::{
    keep,
    leash::{Leash, Watchdog},
    spawner,
};

/// How long a killed process may take to be gone: the kernel's business only.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// How much of a log an error message quotes.
const LOG_TAIL_BYTES: u64 = 2_000;

/// What to start, and how to stop it.
#[derive(Debug, Clone)]
pub struct Spec {
    pub(crate) name: String,
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, Option<OsString>)>,
    current_dir: Option<PathBuf>,
    log: Option<PathBuf>,
    stop_signal: Signal,
    stop_limit: Duration,
    leash: Leash,
}

impl Spec {
    /// A program by this name in messages, pid and log files; stopped with SIGTERM and given 45
    /// seconds for it. It inherits this process's environment.
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            current_dir: None,
            log: None,
            stop_signal: Signal::TERM,
            stop_limit: Duration::from_secs(45),
            leash: Leash::best(),
        }
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(self, args: impl IntoIterator<Item = A>) -> Self {
        args.into_iter().fold(self, Self::arg)
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env
            .push((name.as_ref().to_owned(), Some(value.as_ref().to_owned())));
        self
    }

    /// Sets several variables of its environment.
    #[must_use]
    pub fn envs<K: AsRef<OsStr>, V: AsRef<OsStr>>(
        self,
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        variables
            .into_iter()
            .fold(self, |spec, (name, value)| spec.env(name, value))
    }

    /// Keeps a variable of ours from it.
    #[must_use]
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), None));
        self
    }

    /// The environment it will get, as far as it is text: ours with its own changes.
    #[must_use]
    pub fn environment(&self) -> BTreeMap<String, String> {
        let text = |(name, value): (OsString, OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let mut environment: BTreeMap<_, _> = std::env::vars_os().filter_map(text).collect();
        for (name, value) in &self.env {
            let Some(name) = name.to_str() else { continue };
            match value.as_deref().and_then(OsStr::to_str) {
                Some(value) => environment.insert(name.to_owned(), value.to_owned()),
                None => environment.remove(name),
            };
        }
        environment
    }

    /// The folder it starts in.
    #[must_use]
    pub fn current_dir(mut self, folder: impl Into<PathBuf>) -> Self {
        self.current_dir = Some(folder.into());
        self
    }

    /// The file its output is appended to. Without one the output is dropped.
    #[must_use]
    pub fn log(mut self, file: impl Into<PathBuf>) -> Self {
        self.log = Some(file.into());
        self
    }

    /// How it is asked to stop, and how long it may take before it is killed.
    #[must_use]
    pub fn stop_with(mut self, signal: Signal, limit: Duration) -> Self {
        self.stop_signal = signal;
        self.stop_limit = limit;
        self
    }

    /// The name given to it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether a log file was named.
    pub(crate) fn log_file(&self) -> Option<&Path> {
        self.log.as_deref()
    }

    /// The end of its log, for error messages.
    #[must_use]
    pub fn log_tail(&self) -> String {
        self.log_since(0)
    }

    /// The end of its log, but nothing before this offset.
    pub(crate) fn log_since(&self, offset: u64) -> String {
        let tail = |log| tail(log, offset);
        self.log.as_deref().map(tail).unwrap_or_default()
    }
}

/// A running (or ended) child. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: u32,
    stop_signal: Signal,
    stop_limit: Duration,
    shared: Arc<Shared>,
    exit: watch::Receiver<Option<ExitStatus>>,
}

#[derive(Debug)]
struct Shared {
    /// `Some` once the process has been collected; from then on its id is not ours.
    exit: Mutex<Option<ExitStatus>>,
    changed: Condvar,
    told: watch::Sender<Option<ExitStatus>>,
}

impl Process {
    /// Starts it.
    ///
    /// # Errors
    /// The program or its log cannot be opened, or the system refuses.
    pub fn spawn(spec: &Spec) -> anyhow::Result<Self> {
        // Through `setpriv` a missing program would only show in the log.
        if spec.program.components().count() > 1 && !spec.program.is_file() {
            bail!(
                "cannot start {}: {} does not exist",
                spec.name,
                spec.program.display()
            );
        }
        let mut command = spec.leash.command(&spec.program);
        command
            .args(&spec.args)
            .stdin(Stdio::null())
            .process_group(0);
        for (name, value) in &spec.env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if let Some(folder) = &spec.current_dir {
            command.current_dir(folder);
        }
        let (output, errors) = match &spec.log {
            None => (Stdio::null(), Stdio::null()),
            Some(path) => {
                keep::log(path)?;
                let opened = OpenOptions::new().create(true).append(true).open(path);
                let file =
                    opened.with_context(|| format!("cannot open the log {}", path.display()))?;
                (Stdio::from(file.try_clone()?), Stdio::from(file))
            }
        };
        command.stdout(output).stderr(errors);
        let mut child =
            spawner::spawn(command).with_context(|| format!("cannot start {}", spec.name))?;
        let watchdog = match spec.leash.watchdog(child.id()) {
            Ok(watchdog) => watchdog,
            Err(error) => {
                child.kill()?;
                child.wait()?;
                return Err(error);
            }
        };
        let (told, exit) = watch::channel(None);
        let shared = Arc::new(Shared {
            exit: Mutex::new(None),
            changed: Condvar::new(),
            told,
        });
        let process = Self {
            name: spec.name.clone(),
            pid: child.id(),
            stop_signal: spec.stop_signal,
            stop_limit: spec.stop_limit,
            shared: Arc::clone(&shared),
            exit,
        };
        std::thread::Builder::new()
            .name("devstack-collect".to_owned())
            .spawn(move || collect(child, watchdog, &shared))
            .context("cannot start the thread that collects a child process")?;
        Ok(process)
    }

    /// Starts it and waits until it is `ready`. With it comes what became of that; a failure ends with
    /// its log.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn).
    pub(crate) async fn spawn_until(
        spec: &Spec,
        ready: impl Future<Output = anyhow::Result<()>>,
    ) -> anyhow::Result<(Self, anyhow::Result<()>)> {
        let process = Self::spawn(spec)?;
        let result = tokio::select! {
            result = ready => result,
            status = process.wait() => Err(anyhow::anyhow!("{} ended with {status}", spec.name)),
        };
        let result = result.with_context(|| {
            format!(
                "{} did not start; its log ends with:\n{}",
                spec.name,
                spec.log_tail()
            )
        });
        Ok((process, result))
    }

    /// Its process id: the program's own, no wrapper's.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// How it ended; `None` while it runs.
    #[must_use]
    pub fn exit_status(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    /// Waits for its end, however long.
    pub async fn wait(&self) -> ExitStatus {
        let mut exit = self.exit.clone();
        match exit.wait_for(Option::is_some).await {
            Ok(status) => status.expect("waited for it to be there"),
            // The collecting thread tells before it ends.
            Err(_) => self
                .exit_status()
                .unwrap_or_else(|| ExitStatus::from_raw(Signal::KILL.as_raw())),
        }
    }

    /// Sends a signal. Whether it was still running.
    ///
    /// # Errors
    /// The system refuses.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<bool> {
        let exit = self
            .shared
            .exit
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if exit.is_some() {
            return Ok(false);
        }
        let pid = i32::try_from(self.pid)
            .ok()
            .and_then(Pid::from_raw)
            .context("not a process id")?;
        kill_process(pid, signal)
            .with_context(|| format!("cannot signal {} (pid {})", self.name, self.pid))?;
        Ok(true)
    }

    /// SIGKILL, and waits until it is gone.
    ///
    /// # Errors
    /// The system refuses, or the process hangs in the kernel.
    pub async fn kill(&self) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::KILL)?;
        match tokio::time::timeout(KILL_LIMIT, self.wait()).await {
            Ok(status) => Ok(status),
            Err(_) => bail!(
                "{} (pid {}) was killed but is not gone",
                self.name,
                self.pid
            ),
        }
    }

    /// Asks it to stop, waits, and kills it when it takes too long.
    ///
    /// # Errors
    /// The system refuses to signal it.
    pub async fn stop(&self) -> anyhow::Result<ExitStatus> {
        self.signal(self.stop_signal)?;
        match tokio::time::timeout(self.stop_limit, self.wait()).await {
            Ok(status) => Ok(status),
            Err(_) => {
                tracing::warn!(process = self.name, pid = self.pid, limit = ?self.stop_limit, "did not stop: killed");
                self.kill().await
            }
        }
    }

    /// Waits without a runtime. Whether it ended in time.
    pub(crate) fn wait_blocking(&self, limit: Duration) -> bool {
        let exit = self
            .shared
            .exit
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .shared
            .changed
            .wait_timeout_while(exit, limit, |exit| exit.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.is_some()
    }
}

impl Process {
    /// SIGKILL without a runtime, for `Drop`.
    pub(crate) fn kill_blocking(&self) {
        match self.signal(Signal::KILL) {
            Ok(false) => {}
            Ok(true) if self.wait_blocking(KILL_LIMIT) => {}
            Ok(true) => tracing::warn!(
                process = self.name,
                pid = self.pid,
                "was killed but is not gone"
            ),
            Err(error) => tracing::warn!(error = %format_args!("{error:#}"), "could not be killed"),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill_blocking();
    }
}

/// Waits for the end without collecting, so that the id stays reserved; then, under the lock, collects.
fn collect(mut child: Child, watchdog: Option<Watchdog>, shared: &Shared) {
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .expect("a child has a valid process id");
    while let Err(rustix::io::Errno::INTR) = waitid(
        WaitId::Pid(pid),
        WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
    ) {}
    if let Some(watchdog) = watchdog {
        watchdog.dismiss();
    }
    let mut exit = shared.exit.lock().unwrap_or_else(PoisonError::into_inner);
    // It cannot fail for a child that nobody else waits for; and if it does, the child is not ours.
    let status = child
        .wait()
        .unwrap_or_else(|_| ExitStatus::from_raw(Signal::KILL.as_raw()));
    *exit = Some(status);
    shared.told.send_replace(Some(status));
    shared.changed.notify_all();
}

fn tail(path: &Path, since: u64) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        let from = length.saturating_sub(LOG_TAIL_BYTES).max(since);
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    };
    read().unwrap_or_else(|error| format!("(cannot read {}: {error})", path.display()))
}

#[cfg(test)]
mod tests {
    use super::{Duration, Leash, Process, Signal, Spec};
    use crate::is_running;

    fn shell(script: &str) -> Spec {
        Spec::new("test", "/bin/sh").args(["-c", script])
    }

    #[tokio::test]
    async fn output_environment_and_exit_code_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let spec = shell("echo out $GREETING; echo err >&2; exit 7").env("GREETING", "hello");
        let spec = spec
            .log(folder.path().join("log"))
            .current_dir(folder.path());
        let process = Process::spawn(&spec).unwrap();
        assert_eq!(process.wait().await.code(), Some(7));
        assert_eq!(spec.log_tail(), "out hello\nerr");
        assert!(!process.signal(Signal::TERM).unwrap(), "it has ended");
    }

    #[tokio::test]
    async fn a_process_that_ignores_the_polite_signal_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let ready = folder.path().join("ready");
        let spec = shell("trap '' TERM; : > \"$0\"; while :; do sleep 1; done").arg(&ready);
        let process =
            Process::spawn(&spec.stop_with(Signal::TERM, Duration::from_millis(100))).unwrap();
        crate::wait_until("the trap", Duration::from_secs(10), async || {
            if ready.exists() { Ok(()) } else { Err(()) }
        })
        .await
        .unwrap();
        let status = process.stop().await.unwrap();
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&status),
            Some(9)
        );
    }

    #[tokio::test]
    async fn dropping_kills_with_either_leash() {
        for leash in [Leash::best(), Leash::Watchdog] {
            let process = Process::spawn(&Spec {
                leash,
                ..shell("exec sleep 60")
            })
            .unwrap();
            let pid = process.pid();
            assert!(is_running(pid));
            drop(process);
            assert!(!is_running(pid), "{leash:?}");
        }
    }

    #[test]
    fn a_child_outlives_the_thread_that_asked_for_it() {
        let process = std::thread::spawn(|| Process::spawn(&shell("exec sleep 60")).unwrap())
            .join()
            .unwrap();
        assert!(
            !process.wait_blocking(Duration::from_millis(100)),
            "it was killed with the thread"
        );
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error() {
        let error = Process::spawn(&Spec::new("ghost", "/nowhere/ghost")).unwrap_err();
        assert!(
            error.to_string().contains("/nowhere/ghost does not exist"),
            "{error:#}"
        );
    }
}
