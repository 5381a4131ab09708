//! Writing a ledger.

use std::{
    fmt,
    fs::File,
    io::{self, BufWriter, Write as _},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long a line may stay in the buffer.
const FLUSH_PERIOD: Duration = Duration::from_millis(50);

/// Writes lines to a file, or nowhere. Cheap to clone; the last clone flushes when it is dropped.
#[derive(Debug, Clone, Default)]
pub struct Ledger(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Mutex<BufWriter<File>>>,
    /// Ends the flusher with the last owner.
    _flusher: DropGuard,
}

impl Ledger {
    /// A ledger that keeps nothing.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Appends to a file, which is made if need be. Needs a tokio runtime around it.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(file: &Path) -> anyhow::Result<Self> {
        let opened = File::options().create(true).append(true).open(file);
        let opened =
            opened.with_context(|| format!("cannot open the ledger {}", file.display()))?;
        let shared = Arc::new(Mutex::new(BufWriter::with_capacity(256 * 1024, opened)));
        let stop = CancellationToken::new();
        #[expect(
            clippy::disallowed_methods,
            reason = "ends with the last owner of the ledger"
        )]
        tokio::spawn(flush_regularly(Arc::clone(&shared), stop.clone()));
        Ok(Self(Some(Arc::new(Inner {
            shared,
            _flusher: stop.drop_guard(),
        }))))
    }

    /// Adds lines. A full disk ends the process: a ledger with holes proves nothing.
    pub fn append<T: fmt::Display>(&self, lines: impl IntoIterator<Item = T>) {
        let Some(inner) = &self.0 else { return };
        let mut writer = inner.shared.lock().unwrap_or_else(PoisonError::into_inner);
        for line in lines {
            writeln!(writer, "{line}")
                .expect("a ledger that cannot be written makes the run worthless");
        }
    }

    /// Adds a line that is only made when it is kept.
    pub fn append_with<T: fmt::Display>(&self, line: impl FnOnce() -> T) {
        if self.0.is_some() {
            self.append([line()]);
        }
    }

    /// Hands the buffer to the system.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn flush(&self) -> io::Result<()> {
        let Some(inner) = &self.0 else { return Ok(()) };
        inner
            .shared
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .flush()
    }
}

async fn flush_regularly(shared: Arc<Mutex<BufWriter<File>>>, stop: CancellationToken) {
    while stop
        .run_until_cancelled(tokio::time::sleep(FLUSH_PERIOD))
        .await
        .is_some()
    {
        shared
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .flush()
            .expect("a ledger that cannot be written makes the run worthless");
    }
}
