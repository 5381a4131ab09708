//! Talking to the person in front of the terminal.

use std::{fmt::Display, io::Write};

use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// What our own code may say beside its results: warnings, on standard error. The restarts that the
/// supervisor reports are left out, since `webhooks up` words them itself.
const FILTER: &str = "warn,webhooks_devstack::supervisor=error,async_nats=error";

/// One line on standard output. A reader that went away (`| head`) is no reason to stop working.
pub(crate) fn say(text: impl Display) {
    line(std::io::stdout().lock(), text);
}

/// What went wrong, on standard error, which may have a reader that went away too (`2>&1 | head`).
/// `eprintln!` would end the program with a panic then.
pub(crate) fn complain(text: impl Display) {
    line(std::io::stderr().lock(), format_args!("webhooks: {text}"));
}

fn line(mut to: impl Write, text: impl Display) {
    drop(writeln!(to, "{text}").and_then(|()| to.flush()));
}

/// Shows warnings of the libraries on standard error. Only the first call of a process counts.
pub(crate) fn log_warnings() {
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        // It would be said with `eprintln!` that standard error cannot be written to.
        .log_internal_errors(false)
        .with_target(false)
        .without_time();
    drop(
        tracing_subscriber::registry()
            .with(EnvFilter::new(FILTER))
            .with(lines)
            .try_init(),
    );
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// A pipe whose reader is gone.
    struct Broken;

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }

    #[test]
    fn a_line_is_written_whole_and_a_reader_that_went_away_is_no_panic() {
        let mut written = Vec::new();
        line(&mut written, "ready");
        assert_eq!(written, b"ready\n");
        line(Broken, "ready");
    }
}
