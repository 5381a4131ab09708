//! An HTTP sink that stands in for customers' endpoints.
//!
//! `POST` to any path is a delivery; the path says how the endpoint behaves ([`Behaviour`]). What came
//! is kept in memory (the newest [`ReceiverOptions::keep`] requests) and, if wanted, noted in a ledger
//! *before* the answer goes out, so that whatever the sender believes to have delivered stands there.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /requests?limit=N&webhookId=…` | the newest requests as JSON, newest first (`webhookId`: a webhook's id or a `webhook-id` header) |
//! | `GET /count` | `{"count": N}`: all since the start or the last `DELETE` |
//! | `DELETE /requests` | forgets them |
//! | `POST /secrets` `{"secret": "whsec_…", "webhookId": "…"?}` | from now on signatures are verified, for that webhook or for any |
//! | `GET /livez` | 200 |
//!
//! It is not hardened: loopback only.

mod behaviour;
mod inspect;
mod journal;
mod serve;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use anyhow::Context as _;
use rand::SeedableRng as _;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use uuid::Uuid;
use webhooks_domain::signing::SigningKey;

pub use self::{
    behaviour::{Behaviour, MAX_HANG},
    journal::{Captured, DEFAULT_KEEP},
};
use self::{inspect::Secrets, journal::Journal};
use crate::ledger::Ledger;

/// What a receiver is to be like.
#[derive(Debug, Clone)]
pub struct ReceiverOptions {
    /// Where it listens; port 0 takes a free one.
    pub address: SocketAddr,
    /// How many requests it keeps in memory; 0 keeps none.
    pub keep: usize,
    /// A file to note every request in.
    pub ledger: Option<PathBuf>,
    /// Secrets that any webhook's signature may be made with.
    pub secrets: Vec<SigningKey>,
    /// What `/flaky` draws from.
    pub seed: u64,
}

impl Default for ReceiverOptions {
    fn default() -> Self {
        Self {
            address: ([127, 0, 0, 1], 0).into(),
            keep: DEFAULT_KEEP,
            ledger: None,
            secrets: Vec::new(),
            seed: 0,
        }
    }
}

/// A running receiver. Dropping it closes its port and cuts its connections.
#[derive(Debug)]
pub struct Receiver {
    /// Where it listens.
    pub addr: SocketAddr,
    shared: Arc<Shared>,
    tasks: TaskTracker,
    stop: CancellationToken,
    _stop_on_drop: DropGuard,
}

#[derive(Debug)]
struct Shared {
    journal: Journal,
    ledger: Ledger,
    secrets: Secrets,
    dice: std::sync::Mutex<rand::rngs::StdRng>,
    started: Instant,
    count: Arc<AtomicU64>,
}

impl Receiver {
    /// Starts one in this process.
    ///
    /// # Errors
    /// The port is taken, or the ledger cannot be opened.
    pub async fn start(options: ReceiverOptions) -> anyhow::Result<Self> {
        let listener = tokio::net::TcpListener::bind(options.address)
            .await
            .with_context(|| format!("cannot listen at {}", options.address))?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared {
            journal: Journal::new(options.keep),
            ledger: options
                .ledger
                .as_deref()
                .map_or_else(|| Ok(Ledger::none()), Ledger::open)?,
            secrets: Secrets::new(options.secrets),
            dice: std::sync::Mutex::new(rand::rngs::StdRng::seed_from_u64(options.seed)),
            started: Instant::now(),
            count: Arc::default(),
        });
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(serve::accept(
            listener,
            Arc::clone(&shared),
            tasks.clone(),
            stop.clone(),
        ));
        Ok(Self {
            addr,
            shared,
            tasks,
            _stop_on_drop: stop.clone().drop_guard(),
            stop,
        })
    }

    /// The URL of a path here.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// How many deliveries came since the start or the last [`clear`](Self::clear).
    #[must_use]
    pub fn count(&self) -> u64 {
        self.shared.count.load(Ordering::Relaxed)
    }

    /// The counter behind [`count`](Self::count), to be read where the receiver cannot be.
    #[must_use]
    pub fn counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.shared.count)
    }

    /// The newest requests that are kept, newest first.
    #[must_use]
    pub fn requests(&self) -> Vec<Arc<Captured>> {
        self.shared.journal.newest(usize::MAX, |_| true)
    }

    /// Forgets what came; the ledger stays.
    pub fn clear(&self) {
        self.shared.clear();
    }

    /// Verifies signatures with this secret from now on: those of one webhook, or of any.
    pub fn add_secret(&self, webhook: Option<Uuid>, key: SigningKey) {
        self.shared.secrets.add(webhook, key);
    }

    /// Hands the ledger's buffer to the system.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn flush(&self) -> anyhow::Result<()> {
        self.shared
            .ledger
            .flush()
            .context("cannot write the ledger")
    }

    /// Closes the port, cuts the connections and flushes the ledger.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.flush()
    }
}

impl Shared {
    fn clear(&self) {
        self.journal.clear();
        self.count.store(0, Ordering::Relaxed);
    }
}
