//! Background tasks with a name and a policy.
//!
//! A bare `tokio::spawn` that panics or returns an error is gone without a word while the process
//! looks healthy. A task spawned here is logged when it dies, shows in readiness as `task.<name>`,
//! and, by policy, takes the service down so that the orchestrator can start a whole one.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::anyhow;
use futures::FutureExt as _;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{backoff::Backoff, panics, readiness::Readiness};

/// What the end of a task with an error (or a panic) means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// The service cannot do its work without it: stop, and exit with that error.
    StopService,
    /// The service can go on; it is logged, and readiness shows it.
    Log,
}

/// The tasks of a service. Clones share them.
#[derive(Debug, Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    shutdown: CancellationToken,
    readiness: Readiness,
    running: Arc<Mutex<Vec<String>>>,
    fatal: Arc<Mutex<Option<anyhow::Error>>>,
}

impl Tasks {
    /// No tasks yet. `shutdown` is cancelled when an essential one dies.
    #[must_use]
    pub fn new(shutdown: CancellationToken, readiness: Readiness) -> Self {
        Self {
            tracker: TaskTracker::new(),
            shutdown,
            readiness,
            running: Arc::default(),
            fatal: Arc::default(),
        }
    }

    /// Runs a future to its end. It should end soon after the service's shutdown token is cancelled;
    /// it is never aborted. Ending with `Ok` is fine at any time.
    pub fn spawn<F, E>(&self, name: impl Into<String>, on_error: OnError, future: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<anyhow::Error>,
    {
        let name = name.into();
        let tasks = self.clone();
        self.tracker.spawn(async move {
            let _running = tasks.enlist(&name);
            if let Err(error) = guarded(future).await {
                tasks.died(&name, on_error, error);
            }
        });
    }

    /// Runs a loop that is begun anew after a pause whenever it fails, until shutdown. Readiness
    /// shows the failure during the pause. Ending with `Ok` ends it for good.
    pub fn spawn_restarting<F, E>(
        &self,
        name: impl Into<String>,
        backoff: Backoff,
        mut make: impl FnMut() -> F + Send + 'static,
    ) where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<anyhow::Error>,
    {
        let name = name.into();
        let tasks = self.clone();
        self.tracker.spawn(async move {
            let _running = tasks.enlist(&name);
            let condition = condition(&name);
            let mut failures = 0_u32;
            while let Err(error) = guarded(make()).await {
                failures = failures.saturating_add(1);
                let pause = backoff.delay(failures, rand::random());
                tasks.report(&name, &condition, &error);
                if tasks
                    .shutdown
                    .run_until_cancelled(tokio::time::sleep(pause))
                    .await
                    .is_none()
                {
                    return;
                }
                tasks.readiness.clear(&condition);
            }
        });
    }

    /// Waits for all tasks to end, however long. None should be spawned any more.
    pub async fn wait(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Waits for all tasks to end, at most `limit`.
    ///
    /// # Errors
    /// The names of those that have not.
    pub async fn drain(&self, limit: Duration) -> Result<(), Vec<String>> {
        tokio::time::timeout(limit, self.wait())
            .await
            .map_err(|_| self.running())
    }

    /// The names of the tasks that run now.
    #[must_use]
    pub fn running(&self) -> Vec<String> {
        self.running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The error of the essential task that stopped the service, once.
    #[must_use]
    pub fn take_fatal(&self) -> Option<anyhow::Error> {
        self.fatal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// The same tasks, with names shown in readiness under another scope.
    pub(crate) fn with_readiness(&self, readiness: Readiness) -> Self {
        Self {
            readiness,
            ..self.clone()
        }
    }

    fn enlist(&self, name: &str) -> Enlisted {
        self.running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(name.to_owned());
        Enlisted {
            name: name.to_owned(),
            running: Arc::clone(&self.running),
        }
    }

    fn died(&self, name: &str, on_error: OnError, error: anyhow::Error) {
        self.report(name, &condition(name), &error);
        if on_error == OnError::StopService {
            // The first cause counts; what follows from it is only logged.
            let mut fatal = self.fatal.lock().unwrap_or_else(PoisonError::into_inner);
            fatal.get_or_insert(error.context(format!("task {name} failed")));
            self.shutdown.cancel();
        }
    }

    fn report(&self, name: &str, condition: &str, error: &anyhow::Error) {
        tracing::error!(task = name, error = %format_args!("{error:#}"), "task.failed");
        self.readiness.fail(condition, format!("{error:#}"));
    }
}

/// Keeps the name on the list while the task runs, whatever way it ends.
struct Enlisted {
    name: String,
    running: Arc<Mutex<Vec<String>>>,
}

impl Drop for Enlisted {
    fn drop(&mut self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = running.iter().position(|name| *name == self.name) {
            running.swap_remove(at);
        }
    }
}

fn condition(name: &str) -> String {
    format!("task.{name}")
}

async fn guarded<E: Into<anyhow::Error>>(
    future: impl Future<Output = Result<(), E>>,
) -> anyhow::Result<()> {
    match AssertUnwindSafe(future).catch_unwind().await {
        Ok(result) => result.map_err(Into::into),
        // Its text may hold anything; see the module.
        Err(_) => Err(anyhow!("panicked at {}", panics::place())),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::{Arc, Backoff, CancellationToken, Duration, OnError, Readiness, Tasks, anyhow};

    const LIMIT: Duration = Duration::from_secs(10);

    const QUICK: Backoff = Backoff {
        base: Duration::from_millis(1),
        factor: 1.0,
        cap: Duration::from_millis(1),
        jitter: 0.0,
    };

    fn explode() -> anyhow::Result<()> {
        panic!("boom {}", 7)
    }

    fn tasks() -> (Tasks, CancellationToken, Readiness) {
        let readiness = Readiness::new();
        readiness.ok("startup");
        let shutdown = CancellationToken::new();
        (
            Tasks::new(shutdown.clone(), readiness.clone()),
            shutdown,
            readiness,
        )
    }

    #[tokio::test]
    async fn an_essential_task_that_fails_stops_the_service() {
        let (tasks, shutdown, readiness) = tasks();
        tasks.spawn("loop", OnError::StopService, async {
            Err(anyhow!("inner").context("outer"))
        });
        tokio::time::timeout(LIMIT, shutdown.cancelled())
            .await
            .unwrap();
        assert_eq!(
            format!("{:#}", tasks.take_fatal().unwrap()),
            "task loop failed: outer: inner"
        );
        assert_eq!(readiness.state().missing(), ["task.loop: outer: inner"]);
    }

    #[tokio::test]
    async fn a_panic_is_an_error_like_any_other() {
        crate::panics::remember_places();
        let (tasks, shutdown, readiness) = tasks();
        tasks.spawn("loop", OnError::Log, async { explode() });
        tasks.drain(LIMIT).await.unwrap();
        assert!(!shutdown.is_cancelled());
        assert!(tasks.take_fatal().is_none());
        let missing = readiness.state().missing();
        let text = missing.join(" ");
        assert!(text.contains("task.loop: panicked at "), "{text}");
        assert!(text.contains("tasks.rs:"), "{text}");
        assert!(!text.contains("boom"), "{text}");
    }

    #[tokio::test]
    async fn a_task_that_ends_well_leaves_no_trace() {
        let (tasks, shutdown, readiness) = tasks();
        tasks.spawn("once", OnError::StopService, async {
            Ok::<(), anyhow::Error>(())
        });
        tasks.drain(LIMIT).await.unwrap();
        assert!(!shutdown.is_cancelled());
        assert!(readiness.state().is_ready());
        assert!(tasks.running().is_empty());
    }

    #[tokio::test]
    async fn a_drain_that_takes_too_long_names_who_is_left() {
        let (tasks, ..) = tasks();
        tasks.spawn(
            "stuck",
            OnError::Log,
            std::future::pending::<anyhow::Result<()>>(),
        );
        assert_eq!(
            tasks.drain(Duration::from_millis(20)).await,
            Err(vec!["stuck".to_owned()])
        );
    }

    #[tokio::test]
    async fn a_restarting_task_is_begun_again_until_it_ends_well() {
        let (tasks, shutdown, readiness) = tasks();
        let runs = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&runs);
        tasks.spawn_restarting("pump", QUICK, move || {
            let run = counted.fetch_add(1, Ordering::SeqCst);
            async move {
                if run < 3 {
                    Err(anyhow!("lost"))
                } else {
                    Ok(())
                }
            }
        });
        tasks.drain(LIMIT).await.unwrap();
        assert_eq!(runs.load(Ordering::SeqCst), 4);
        assert!(readiness.state().is_ready(), "{:?}", readiness.state());
        assert!(!shutdown.is_cancelled());
    }

    #[tokio::test]
    async fn shutdown_ends_the_restarting() {
        let (tasks, shutdown, readiness) = tasks();
        let stop = shutdown.clone();
        tasks.spawn_restarting("pump", QUICK, move || {
            stop.cancel();
            std::future::ready(Err(anyhow!("lost")))
        });
        tasks.drain(LIMIT).await.unwrap();
        assert_eq!(readiness.state().missing(), ["task.pump: lost"]);
    }
}
