//! The loop that both history consumers share: pull, decode, commit, acknowledge.

use std::future::Future;

use webhooks_bus::{Acker, Pull, PullSettings, Pulled, while_working_on};
use webhooks_runtime::{Backoff, error_chain};
use webhooks_store::StoreError;

use super::{Surroundings, pause};

/// Messages asked for at once.
pub(super) const BATCH: usize = 500;

/// A consumer's stream, for the log and for dead letters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source {
    pub(super) stream: &'static str,
    pub(super) consumer: &'static str,
}

/// A decoded message that is not acknowledged yet.
pub(super) struct Taken<T> {
    pub(super) value: T,
    pub(super) message: Pulled,
}

impl Source {
    pub(super) fn open(self, around: &Surroundings) -> Pull {
        let settings = PullSettings {
            batch: BATCH,
            ..PullSettings::default()
        };
        around.bus.pull(self.stream, self.consumer, settings)
    }

    /// Commits a batch, however long that takes, and acknowledges it. Records that the store
    /// refuses for good are found by halving the batch, and buried. False = the service ends first.
    pub(super) async fn commit<T, F, R>(
        self,
        around: &Surroundings,
        batch: Vec<Taken<T>>,
        record: F,
    ) -> bool
    where
        F: Fn(Vec<T>) -> R,
        R: Future<Output = Result<(), StoreError>>,
        T: Clone,
    {
        let mut open = vec![batch];
        let mut failures = 0_u32;
        while let Some(mut part) = open.pop() {
            if part.is_empty() {
                continue;
            }
            // Ours while it lasts, pauses included: without this JetStream hands it to someone else.
            let ackers: Vec<Acker> = part.iter().map(|taken| taken.message.acker()).collect();
            let values = part.iter().map(|taken| taken.value.clone()).collect();
            match while_working_on(&ackers, record(values)).await {
                Ok(()) => {
                    failures = 0;
                    metrics::counter!("webhooks_history_records_total", "stream" => self.stream)
                        .increment(u64::try_from(part.len()).unwrap_or(0));
                    for taken in &part {
                        acknowledge(&taken.message.acker()).await;
                    }
                }
                Err(error) if error.is_retryable() => {
                    failures = failures.saturating_add(1);
                    tracing::warn!(
                        stream = self.stream,
                        failures,
                        error = error_chain(&error),
                        "history.waiting"
                    );
                    open.push(part);
                    // What other halves of the batch wait for counts as work too.
                    let waiting: Vec<Acker> = open
                        .iter()
                        .flatten()
                        .map(|taken| taken.message.acker())
                        .collect();
                    for acker in &waiting {
                        progress(acker).await;
                    }
                    let pausing = pause(around, Backoff::CONNECT.delay(failures, rand::random()));
                    if while_working_on(&waiting, pausing).await {
                        return false;
                    }
                }
                Err(error) if part.len() == 1 => {
                    let message = &part[0].message;
                    self.bury(around, message, "refused_by_store", &error_chain(&error))
                        .await;
                }
                Err(_) => {
                    let rest = part.split_off(part.len() / 2);
                    open.push(rest);
                    open.push(part);
                }
            }
        }
        true
    }

    /// Keeps a message that cannot be processed, and acknowledges it.
    pub(super) async fn bury(
        self,
        around: &Surroundings,
        message: &Pulled,
        reason: &str,
        detail: &str,
    ) {
        let now = around.clock.now_micros();
        let kept = around
            .bus
            .bury_pulled("management", self.stream, message, reason, detail, now)
            .await;
        match kept {
            Ok(()) => acknowledge(&message.acker()).await,
            // Not kept, so not acknowledged: it comes again.
            Err(error) => {
                tracing::warn!(stream = self.stream, %error, "a dead letter could not be kept yet")
            }
        }
    }
}

/// An acknowledgement that is lost brings the message again, which is harmless.
pub(super) async fn acknowledge(acker: &Acker) {
    if let Err(error) = acker.ack().await {
        tracing::debug!(%error, "an acknowledgement was not sent");
    }
}

async fn progress(acker: &Acker) {
    if let Err(error) = acker.progress().await {
        tracing::debug!(%error, "progress was not signalled");
    }
}
