//! Signals: the first asks for a drain, the second ends it.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The exit code after a second signal, as shells have it for an interrupt.
pub const EXIT_INTERRUPTED: i32 = 130;

/// SIGTERM and SIGINT, both caught from the moment this exists.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Begins to catch both.
    ///
    /// # Errors
    /// The handler cannot be installed.
    pub fn catch() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one; gives its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }

    /// Cancels `shutdown` at the first signal and ends the process at the second.
    pub async fn obey(mut self, shutdown: CancellationToken) {
        let signal = self.next().await;
        tracing::info!(signal, "service.stopping");
        shutdown.cancel();
        let signal = self.next().await;
        tracing::error!(signal, "second signal: exiting without finishing the drain");
        #[expect(
            clippy::disallowed_methods,
            reason = "whoever signals twice wants out now, whatever still runs"
        )]
        std::process::exit(EXIT_INTERRUPTED);
    }
}
