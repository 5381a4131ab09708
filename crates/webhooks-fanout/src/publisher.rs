//! Publishing what is owed, for as long as it takes.
//!
//! All events share one window of unacknowledged publishes, and each event may use a share of it,
//! so an event with 10,000 matches does not stand before the others: the window hands out its
//! places in the order they were asked for, and the large event never has more than its share in
//! the queue. A place is given back while a refused publish waits for its next try.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use webhooks_bus::{Bus, Outgoing, PublishError, Stored};
use webhooks_runtime::Backoff;

/// How long one publish may take before it is counted as failed and tried again.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);

/// Pauses between tries.
const PAUSES: Backoff = Backoff {
    base: Duration::from_millis(50),
    factor: 2.0,
    cap: Duration::from_secs(2),
    jitter: 0.5,
};

/// Why something is not on its stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotPublished {
    /// The service stops and the stream does not take it now.
    #[error("stopped before the stream took it")]
    Stopped,
    /// It will never fit.
    #[error("too large: {0}")]
    TooLarge(String),
    /// The place of this one subject is full, while the stream has room.
    #[error("no room on its subject")]
    SubjectFull,
    /// The stream is full, and the message has another place to go to.
    #[error("no room on its stream")]
    StreamFull,
}

/// The shared window.
#[derive(Debug, Clone)]
pub(crate) struct Publisher {
    bus: Bus,
    window: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Publisher {
    /// A window of `window` publishes at a time; after `stop` nothing is tried again.
    pub(crate) fn new(bus: Bus, window: usize, stop: CancellationToken) -> Self {
        Self {
            bus,
            window: Arc::new(Semaphore::new(window)),
            stop,
        }
    }

    /// Publishes until the stream has it.
    pub(crate) async fn publish(&self, message: Outgoing) -> Result<Stored, NotPublished> {
        self.publish_as(message, false).await
    }

    /// Publishes until the stream has it, or says that it is full.
    pub(crate) async fn publish_or_full(&self, message: Outgoing) -> Result<Stored, NotPublished> {
        self.publish_as(message, true).await
    }

    async fn publish_as(&self, message: Outgoing, tell_full: bool) -> Result<Stored, NotPublished> {
        let mut failures = 0_u32;
        loop {
            let error = {
                let Ok(_place) = self.window.acquire().await else {
                    return Err(NotPublished::Stopped);
                };
                match self.bus.publish(message.clone(), PUBLISH_TIMEOUT).await {
                    Ok(stored) => return Ok(stored),
                    Err(error) => error,
                }
            };
            let reason = match error {
                PublishError::TooLarge(detail) => return Err(NotPublished::TooLarge(detail)),
                PublishError::Full(detail) if is_of_subject(&detail) => {
                    return Err(NotPublished::SubjectFull);
                }
                PublishError::Full(_) if tell_full => return Err(NotPublished::StreamFull),
                PublishError::Full(_) => "full",
                PublishError::Unavailable(_) | PublishError::WrongLast(_) => "unavailable",
            };
            failures = failures.saturating_add(1);
            metrics::counter!("webhooks_fanout_publish_retries_total", "reason" => reason)
                .increment(1);
            tracing::debug!(
                subject = message.subject,
                reason,
                failures,
                "publish is tried again"
            );
            self.pause(failures).await?;
        }
    }

    /// Waits before the next try; an error when the service stops.
    pub(crate) async fn pause(&self, failures: u32) -> Result<(), NotPublished> {
        let pause = tokio::time::sleep(PAUSES.delay(failures, rand::random()));
        self.stop
            .run_until_cancelled(pause)
            .await
            .ok_or(NotPublished::Stopped)
    }
}

/// Whether a refusal for lack of room is about the subject's limit; the server tells by words only.
fn is_of_subject(detail: &str) -> bool {
    detail.contains("per subject")
}

#[cfg(test)]
mod tests {
    use super::is_of_subject;

    #[test]
    fn the_servers_words_tell_a_full_subject_from_a_full_stream() {
        assert!(is_of_subject(
            "maximum messages per subject exceeded (code 503, error code 10077)"
        ));
        assert!(!is_of_subject(
            "maximum bytes exceeded (code 503, error code 10077)"
        ));
        assert!(!is_of_subject("maximum messages exceeded"));
    }
}
