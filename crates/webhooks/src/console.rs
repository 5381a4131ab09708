//! Talking to the person in front of the terminal.

use std::io::Write as _;

use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// What our own code may say beside its results: warnings, on standard error. The restarts that the
/// supervisor reports are left out, since `webhooks up` words them itself.
const FILTER: &str = "warn,webhooks_devstack::supervisor=error,async_nats=error";

/// One line on standard output. A reader that went away (`| head`) is no reason to stop working.
pub(crate) fn say(text: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    drop(writeln!(out, "{text}").and_then(|()| out.flush()));
}

/// Shows warnings of the libraries on standard error. Only the first call of a process counts.
pub(crate) fn log_warnings() {
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false)
        .without_time();
    drop(
        tracing_subscriber::registry()
            .with(EnvFilter::new(FILTER))
            .with(lines)
            .try_init(),
    );
}
