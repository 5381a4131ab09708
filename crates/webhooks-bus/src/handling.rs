//! Handling one message: not letting go of it while work lasts, surviving what panics, keeping
//! what can never be processed, and giving back what was fetched and not begun.

use std::{future::Future, panic::AssertUnwindSafe, time::Duration};

use futures::FutureExt as _;
use uuid::Uuid;
use webhooks_proto::{internal::v1::DeadLetter, v1::Header};
use webhooks_runtime::panics;

use crate::{
    bus::Bus,
    error::PublishError,
    pull::{Acker, Pull, Pulled},
    subjects::names,
};

/// How often a message that is still being worked on says so: well below
/// [`crate::topology::QUICK_ACK_WAIT`].
pub const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Bytes of a payload that are kept when the whole does not fit a dead letter.
pub const DEAD_PAYLOAD_KEPT: usize = 512 * 1024;

/// The same for what was sent to INTAKE and is larger than any event.
pub const REFUSED_PAYLOAD_KEPT: usize = 4 * 1024;

/// Most messages given back at a time.
const HAND_BACK_BATCH: usize = 256;

/// How often messages of a batch that is still being worked on say so: a third of
/// [`crate::topology::HISTORY_ACK_WAIT`].
pub const BATCH_PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// Does the work; while it lasts, the server is told every [`BATCH_PROGRESS_EVERY`] that all these
/// messages are still being worked on.
pub async fn while_working_on<T>(ackers: &[Acker], work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        match tokio::time::timeout(BATCH_PROGRESS_EVERY, work.as_mut()).await {
            Ok(done) => return done,
            Err(_) => {
                for acker in ackers {
                    if let Err(error) = acker.progress().await {
                        // Then they come twice, and every batch call of the store is idempotent.
                        tracing::debug!(%error, "progress could not be told");
                        break;
                    }
                }
            }
        }
    }
}

impl Acker {
    /// Does the work; while it lasts, the server is told every [`PROGRESS_EVERY`], so that it does
    /// not hand the message to somebody else.
    pub async fn while_working<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            match tokio::time::timeout(PROGRESS_EVERY, work.as_mut()).await {
                Ok(done) => return done,
                Err(_) => {
                    if let Err(error) = self.progress().await {
                        // Then the message comes twice, and ids make that harmless.
                        tracing::debug!(%error, "progress could not be told");
                    }
                }
            }
        }
    }
}

/// Does the work, up to `times` times when it panics.
///
/// # Errors
/// Where it panicked last. The text of a panic may hold anything, so it is told to nobody.
pub async fn survive<T, F>(times: u32, mut make: impl FnMut() -> F) -> Result<T, String>
where
    F: Future<Output = T>,
{
    let mut number = 0;
    loop {
        number += 1;
        match AssertUnwindSafe(make()).catch_unwind().await {
            Ok(done) => return Ok(done),
            Err(_) => {
                let place = panics::place();
                tracing::error!(panic.place = place, number, "handling a message panicked");
                if number >= times {
                    return Err(format!("panicked at {place}"));
                }
            }
        }
    }
}

impl Bus {
    /// Keeps a message that can never be processed, with its reason. Acknowledge it only when this
    /// worked. A payload too large for a dead letter is cut, and the detail says so.
    ///
    /// # Errors
    /// As [`Bus::publish`].
    pub async fn bury_pulled(
        &self,
        source: &str,
        stream: &str,
        pulled: &Pulled,
        reason: &str,
        detail: &str,
        now_micros: i64,
    ) -> Result<(), PublishError> {
        let letter = letter_of(source, stream, pulled, reason, detail, now_micros);
        match self.bury(letter.clone()).await {
            Err(PublishError::TooLarge(_)) => self.bury(cut(letter, DEAD_PAYLOAD_KEPT)).await,
            result => result,
        }
    }

    /// Keeps a message of INTAKE that is no event, for its workspace (nil: none is named). What is
    /// larger than any event (`whole` bytes) is of use to nobody but for its beginning, and is cut.
    ///
    /// # Errors
    /// As [`Bus::publish`].
    pub async fn refuse_pulled(
        &self,
        workspace: Uuid,
        pulled: &Pulled,
        reason: &str,
        detail: &str,
        (whole, now_micros): (usize, i64),
    ) -> Result<(), PublishError> {
        let letter = letter_of("ingest", names::INTAKE, pulled, reason, detail, now_micros);
        if letter.payload.len() > whole {
            let letter = cut(letter, REFUSED_PAYLOAD_KEPT);
            return self.bury_refused(workspace, letter).await;
        }
        match self.bury_refused(workspace, letter.clone()).await {
            Err(PublishError::TooLarge(_)) => {
                let letter = cut(letter, REFUSED_PAYLOAD_KEPT);
                self.bury_refused(workspace, letter).await
            }
            result => result,
        }
    }
}

fn letter_of(
    source: &str,
    stream: &str,
    pulled: &Pulled,
    reason: &str,
    detail: &str,
    now_micros: i64,
) -> DeadLetter {
    DeadLetter {
        source: source.to_owned(),
        reason: reason.to_owned(),
        detail: detail.to_owned(),
        stream: stream.to_owned(),
        subject: pulled.subject.clone(),
        stream_seq: pulled.stream_seq,
        payload: pulled.payload.clone(),
        headers: header_list(pulled),
        at: now_micros,
    }
}

/// The letter with the beginning of its payload only, and without headers, which may be as large.
fn cut(letter: DeadLetter, kept: usize) -> DeadLetter {
    let bytes = letter.payload.len();
    DeadLetter {
        detail: format!(
            "{} (the payload had {bytes} bytes and was cut)",
            letter.detail
        ),
        payload: letter.payload.slice(..bytes.min(kept)),
        headers: Vec::new(),
        ..letter
    }
}

fn header_list(pulled: &Pulled) -> Vec<Header> {
    let Some(headers) = &pulled.headers else {
        return Vec::new();
    };
    let each = headers.iter().flat_map(|(name, values)| {
        let name: &str = name.as_ref();
        values.iter().map(move |value| Header {
            name: name.to_owned(),
            value: value.as_str().to_owned(),
        })
    });
    each.collect()
}

impl Pull {
    /// Ends the pull and gives back what it has fetched and nobody has taken, so that it need not
    /// time out before somebody else gets it. The pull ends first: what is given back must not come
    /// here again.
    pub async fn hand_back(mut self) {
        let mut rest = Vec::new();
        while let Some(batch) = self.next_batch(HAND_BACK_BATCH).now_or_never() {
            rest.extend(batch);
        }
        drop(self);
        for pulled in rest {
            if let Err(error) = pulled.acker().nak(None).await {
                tracing::debug!(%error, "a message could not be given back");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::survive;

    #[tokio::test]
    async fn a_panic_is_tried_again_and_the_last_one_is_told_by_its_place() {
        webhooks_runtime::panics::remember_places();
        let mut runs = 0;
        let result = survive(3, || {
            runs += 1;
            let number = runs;
            async move {
                assert!(number == 3, "not yet");
                number
            }
        });
        assert_eq!(result.await, Ok(3));

        let mut runs = 0;
        let result = survive(3, || {
            runs += 1;
            async { panic!("canary-{}", 4711) }
        });
        let result: Result<(), String> = result.await;
        let told = result.unwrap_err();
        assert!(told.starts_with("panicked at "), "{told}");
        assert!(told.contains("handling.rs:"), "{told}");
        assert!(!told.contains("canary"), "{told}");
        assert_eq!(runs, 3);
    }
}
