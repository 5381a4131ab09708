//! The outside ledgers: what a publisher tried and was told, and what a receiver saw.
//!
//! One line per fact, fields separated by tabs, so that `sort`, `cut` and `comm` are enough to look
//! into one. A line is in the process's buffer before the fact has consequences (a receiver notes a
//! request before it answers); the buffer goes to the file many times a second and at the end.

mod lines;
mod writer;

use std::{path::Path, str::FromStr};

use anyhow::{Context as _, ensure};
use uuid::Uuid;

pub use self::writer::Ledger;

/// What a publisher was told of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Acknowledged: the system owes its deliveries.
    Ok,
    /// Surely not taken.
    Refused,
    /// No answer, or one that leaves it open. It may have been taken.
    Unknown,
}

impl Outcome {
    /// The word in the ledger.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
        }
    }
}

impl FromStr for Outcome {
    type Err = anyhow::Error;

    fn from_str(word: &str) -> anyhow::Result<Self> {
        [Self::Ok, Self::Refused, Self::Unknown]
            .into_iter()
            .find(|outcome| outcome.as_str() == word)
            .with_context(|| format!("{word:?} is no outcome"))
    }
}

/// One event that a publisher tried to hand over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The event's id.
    pub event: Uuid,
    /// Its workspace.
    pub workspace: Uuid,
    /// Its link.
    pub link: Uuid,
    /// Kind of its step.
    pub kind: String,
    /// Through which door: `http`, `grpc` or `nats`.
    pub door: String,
    /// What the publisher was told.
    pub outcome: Outcome,
    /// When it began to send it, in microseconds since the epoch.
    pub started: i64,
    /// When it knew the outcome.
    pub ended: i64,
    /// When the system says it accepted it, where the answer tells.
    pub accepted: Option<i64>,
    /// Why it was not ok.
    pub detail: String,
}

/// One request that a receiver saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// When its body was complete, in microseconds since the epoch.
    pub at: i64,
    /// The same by a clock that never jumps, in microseconds since the receiver's start.
    pub monotonic: u64,
    /// Its path.
    pub path: String,
    /// Its `webhook-id` header; empty = none.
    pub message_id: String,
    /// Its `webhook-attempt` header; 0 = none.
    pub attempt: u32,
    /// `event.id` of its body; `None` = not found.
    pub event: Option<Uuid>,
    /// `webhook.id` of its body; `None` = not found.
    pub webhook: Option<Uuid>,
    /// The first eight bytes of the SHA-256 of its body.
    pub body_hash: u64,
    /// The status it is answered with; 0 = the connection is cut instead.
    pub status: u16,
    /// Whether the signature holds and is fresh; `None` = no secret is known.
    pub verified: Option<bool>,
}

/// Every line of a ledger.
///
/// # Errors
/// The file cannot be read, or a line is not what it should be; the message names it.
pub fn read<T: FromStr<Err = anyhow::Error>>(file: &Path) -> anyhow::Result<Vec<T>> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    ensure!(
        text.is_empty() || text.ends_with('\n'),
        "{} ends in the middle of a line",
        file.display()
    );
    let parse = |(index, line): (usize, &str)| {
        line.parse()
            .with_context(|| format!("line {} of {}", index + 1, file.display()))
    };
    text.lines().enumerate().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published() -> Published {
        Published {
            event: Uuid::from_u128(1),
            workspace: Uuid::from_u128(2),
            link: Uuid::from_u128(3),
            kind: "KIND_EXIT".to_owned(),
            door: "http".to_owned(),
            outcome: Outcome::Unknown,
            started: 5,
            ended: 7,
            accepted: None,
            detail: "line one\nline\ttwo".to_owned(),
        }
    }

    fn received() -> Received {
        Received {
            at: 5,
            monotonic: 6,
            path: "/ok/1".to_owned(),
            message_id: "msg_1".to_owned(),
            attempt: 2,
            event: Some(Uuid::from_u128(1)),
            webhook: None,
            body_hash: 0xfeed,
            status: 0,
            verified: Some(false),
        }
    }

    #[test]
    fn lines_round_trip_and_stay_lines() {
        let expected = Published {
            detail: "line one line two".to_owned(),
            ..published()
        };
        assert_eq!(
            published().to_string().parse::<Published>().unwrap(),
            expected
        );
        assert_eq!(
            received().to_string().parse::<Received>().unwrap(),
            received()
        );
        assert!("1\t2".parse::<Received>().is_err());
    }

    #[tokio::test]
    async fn what_was_appended_is_read_back_after_a_flush() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ledger");
        let ledger = Ledger::open(&file).unwrap();
        ledger.append([received(), received()]);
        ledger.flush().unwrap();
        assert_eq!(read::<Received>(&file).unwrap(), [received(), received()]);
        std::fs::write(&file, "half a li").unwrap();
        assert!(
            read::<Received>(&file)
                .unwrap_err()
                .to_string()
                .contains("middle")
        );
    }
}
