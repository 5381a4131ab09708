//! The outside ledgers: what a publisher tried and was told, and what a receiver saw.
//!
//! One line per fact, fields separated by tabs, so that `sort`, `cut` and `comm` are enough to look
//! into one. A line is in the process's buffer before the fact has consequences (a receiver notes a
//! request before it answers); the buffer goes to the file many times a second and at the end.

use std::{
    fmt,
    fs::File,
    io::{self, BufWriter, Write as _},
    path::Path,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

/// How long a line may stay in the buffer.
const FLUSH_PERIOD: Duration = Duration::from_millis(50);

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

impl fmt::Display for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let accepted = self.accepted.map_or("-".to_owned(), |at| at.to_string());
        let (outcome, detail) = (self.outcome.as_str(), clean(&self.detail));
        write!(
            f,
            "{}\t{}\t{}\t{}\t{}\t{outcome}\t{}\t{}\t{accepted}\t{detail}",
            self.event,
            self.workspace,
            self.link,
            clean(&self.kind),
            clean(&self.door),
            self.started,
            self.ended
        )
    }
}

impl FromStr for Published {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> anyhow::Result<Self> {
        let [
            event,
            workspace,
            link,
            kind,
            door,
            outcome,
            started,
            ended,
            accepted,
            detail,
        ] = fields(line)?;
        Ok(Self {
            event: event.parse()?,
            workspace: workspace.parse()?,
            link: link.parse()?,
            kind: kind.to_owned(),
            door: door.to_owned(),
            outcome: outcome.parse()?,
            started: started.parse()?,
            ended: ended.parse()?,
            accepted: optional(accepted)?,
            detail: detail.to_owned(),
        })
    }
}

impl fmt::Display for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = |id: Option<Uuid>| id.map_or("-".to_owned(), |id| id.to_string());
        let verified = match self.verified {
            None => "-",
            Some(true) => "verified",
            Some(false) => "forged",
        };
        write!(
            f,
            "{}\t{}\t{}\t{}\t{}\t{}\t{}\t{:016x}\t{}\t{verified}",
            self.at,
            self.monotonic,
            clean(&self.path),
            clean(&self.message_id),
            self.attempt,
            id(self.event),
            id(self.webhook),
            self.body_hash,
            self.status
        )
    }
}

impl FromStr for Received {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> anyhow::Result<Self> {
        let [
            at,
            monotonic,
            path,
            message_id,
            attempt,
            event,
            webhook,
            body_hash,
            status,
            verified,
        ] = fields(line)?;
        Ok(Self {
            at: at.parse()?,
            monotonic: monotonic.parse()?,
            path: path.to_owned(),
            message_id: message_id.to_owned(),
            attempt: attempt.parse()?,
            event: optional(event)?,
            webhook: optional(webhook)?,
            body_hash: u64::from_str_radix(body_hash, 16)?,
            status: status.parse()?,
            verified: match verified {
                "-" => None,
                "verified" => Some(true),
                "forged" => Some(false),
                other => bail!("{other:?} is no verdict on a signature"),
            },
        })
    }
}

fn fields<const N: usize>(line: &str) -> anyhow::Result<[&str; N]> {
    let fields: Vec<&str> = line.split('\t').collect();
    let count = fields.len();
    <[&str; N]>::try_from(fields)
        .ok()
        .with_context(|| format!("{count} fields instead of {N}"))
}

fn optional<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(
    field: &str,
) -> anyhow::Result<Option<T>> {
    if field == "-" {
        Ok(None)
    } else {
        Ok(Some(field.parse()?))
    }
}

/// A field must not break its line.
fn clean(text: &str) -> String {
    text.replace(|c: char| c.is_control(), " ")
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
