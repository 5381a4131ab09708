//! Dead letters: what could not be processed, kept with its reason.
//!
//! They lie on two streams, because they mean two things. DEAD has what our own services could not
//! process: an accepted event, a delivery, a report. Somebody is owed that, so the stream refuses rather
//! than forgets, and nothing pushes anything out. REFUSED has what publishers put on INTAKE and what is
//! no event: nobody is owed it, and a stranger decides how much of it there is. There each workspace
//! keeps its newest [`REFUSED_PER_WORKSPACE`], the oldest of all make room when the stream is full, and
//! so garbage never holds up INTAKE, nor displaces a letter of ours.
//!
//! A letter's number is its sequence. REFUSED begins at [`FIRST_REFUSED`], so a number names one letter.

use prost::Message as _;
use uuid::Uuid;
use webhooks_proto::internal::v1::DeadLetter;

use crate::{
    bus::{Bus, REQUEST_TIMEOUT},
    error::{BusError, PublishError},
    publish::Outgoing,
    read::StoredMessage,
    subjects::{self, names},
};

/// Letters about one workspace's messages that REFUSED keeps; the newest push out the oldest.
pub const REFUSED_PER_WORKSPACE: i64 = 1_000;

/// The number of REFUSED's first letter, far above what DEAD ever reaches.
pub const FIRST_REFUSED: u64 = 1_000_000_000_000;

/// Whose letters lie on REFUSED.
const INGEST: &str = "ingest";

/// The stream that the letter with this number lies on.
#[must_use]
pub fn letters_stream(number: u64) -> &'static str {
    if number < FIRST_REFUSED {
        names::DEAD
    } else {
        names::REFUSED
    }
}

impl Bus {
    /// Keeps what one of our services could not process where an operator finds it.
    ///
    /// # Errors
    /// As [`Bus::publish`]; the caller must not acknowledge the message then.
    pub async fn bury(&self, letter: DeadLetter) -> Result<(), PublishError> {
        self.keep_letter(subjects::dead(&letter.source), letter)
            .await
    }

    /// Keeps what a publisher of `workspace` sent and what is no event (nil: the subject names no
    /// workspace).
    ///
    /// # Errors
    /// As [`Bus::bury`].
    pub(crate) async fn bury_refused(
        &self,
        workspace: Uuid,
        letter: DeadLetter,
    ) -> Result<(), PublishError> {
        self.keep_letter(subjects::refused(workspace), letter).await
    }

    async fn keep_letter(&self, subject: String, letter: DeadLetter) -> Result<(), PublishError> {
        metrics::counter!("webhooks_dead_letters_total", "source" => letter.source.clone(), "reason" => letter.reason.clone()).increment(1);
        tracing::warn!(
            dead.source = letter.source,
            dead.reason = letter.reason,
            dead.detail = letter.detail,
            stream = letter.stream,
            stream.seq = letter.stream_seq,
            "dead letter kept"
        );
        let id = format!("{}:{}:{}", letter.source, letter.stream, letter.stream_seq);
        let message = Outgoing::new(subject, &id, letter.encode_to_vec().into());
        self.publish(message, REQUEST_TIMEOUT).await.map(|_| ())
    }

    /// The letter with this number.
    ///
    /// # Errors
    /// When the stream does not answer.
    pub async fn letter(&self, number: u64) -> Result<Option<StoredMessage>, BusError> {
        self.get(letters_stream(number), number).await
    }

    /// The first letter (of one service, if named) at or after a number.
    ///
    /// # Errors
    /// When a stream does not answer.
    pub async fn letter_after(
        &self,
        source: Option<&str>,
        from: u64,
    ) -> Result<Option<StoredMessage>, BusError> {
        if from < FIRST_REFUSED {
            let filter = subjects::dead(source.unwrap_or(">"));
            let found = self.get_next(names::DEAD, &filter, from.max(1)).await?;
            if found.is_some() {
                return Ok(found);
            }
        }
        if source.is_some_and(|source| source != INGEST) {
            return Ok(None);
        }
        let from = from.max(FIRST_REFUSED);
        self.get_next(names::REFUSED, subjects::REFUSED_FILTER, from)
            .await
    }

    /// How many letters there are.
    ///
    /// # Errors
    /// When a stream does not answer.
    pub async fn letters(&self) -> Result<u64, BusError> {
        Ok(self.message_count(names::DEAD).await? + self.message_count(names::REFUSED).await?)
    }

    /// Removes a letter.
    ///
    /// # Errors
    /// When the stream does not answer.
    pub async fn remove_letter(&self, number: u64) -> Result<bool, BusError> {
        self.remove(letters_stream(number), number).await
    }
}
