//! Verdicts into history: which deliveries an event made.
//!
//! Most deliveries are reported within milliseconds, and a report makes the whole row. So a verdict
//! is looked at a little later than it was published: then most of its rows exist already and the
//! store has nothing to write for them. When the consumer lags anyway, nothing waits.
//!
//! A verdict with many matches comes in parts. Part 0 is published last and names the others, so it
//! alone is acted on: the others are read by their sequences. A part that nobody names was left
//! behind by a fan-out that did not finish, and means nothing.

use std::time::Duration;

use anyhow::Context as _;
use prost::Message as _;
use webhooks_bus::{Pulled, names};
use webhooks_proto::internal::v1::Verdict;
use webhooks_runtime::Backoff;
use webhooks_store::{MAX_VERDICT_DELIVERIES, MAX_VERDICTS, Store, StoreError, VerdictRecord};

use super::{
    Surroundings,
    consume::{BATCH, Source, Taken, acknowledge},
    pause,
};
use crate::model::verdict_record;

/// How old a verdict is before it is recorded.
const SETTLING: Duration = Duration::from_millis(300);

const SOURCE: Source = Source {
    stream: names::VERDICTS,
    consumer: names::VERDICTS_CONSUMER,
};

/// Records verdicts until shutdown.
pub(super) async fn run(around: Surroundings) -> anyhow::Result<()> {
    let mut pull = SOURCE.open(&around);
    loop {
        let next = around
            .shutdown
            .run_until_cancelled(pull.next_batch(BATCH))
            .await;
        let Some(messages) = next else { return Ok(()) };
        let youngest = messages
            .iter()
            .map(|message| message.published_micros)
            .max()
            .unwrap_or(0);
        let wait = remaining(youngest, around.clock.now_micros());
        if !wait.is_zero() && pause(&around, wait).await {
            return Ok(());
        }
        let Some(batch) = gather(&around, messages).await else {
            return Ok(());
        };
        let store = &around.store;
        let record = |verdicts: Vec<Vec<VerdictRecord>>| async move {
            record_all(store, verdicts.into_iter().flatten()).await
        };
        if !SOURCE.commit(&around, batch, record).await {
            return Ok(());
        }
    }
}

/// How long a verdict published then has to settle yet. Clocks differ; more than the whole time is
/// never waited.
fn remaining(published: i64, now: i64) -> Duration {
    let age = Duration::from_micros(u64::try_from(now.saturating_sub(published)).unwrap_or(0));
    SETTLING.saturating_sub(age)
}

/// The whole verdicts among the messages; what makes no sense is buried, what means nothing
/// acknowledged. `None` = the service ends first.
async fn gather(
    around: &Surroundings,
    messages: Vec<Pulled>,
) -> Option<Vec<Taken<Vec<VerdictRecord>>>> {
    let mut whole = Vec::with_capacity(messages.len());
    for message in messages {
        let verdict = match decode(&message.payload) {
            Ok(verdict) => verdict,
            Err(error) => {
                SOURCE
                    .bury(around, &message, "undecodable", &format!("{error:#}"))
                    .await;
                continue;
            }
        };
        if verdict.part > 0 {
            acknowledge(&message.acker()).await;
            continue;
        }
        let mut parts = vec![verdict];
        for seq in parts[0].part_seqs.clone() {
            parts.extend(part(around, seq).await?);
        }
        let records: Result<Vec<_>, _> = parts.into_iter().map(verdict_record).collect();
        match records {
            Ok(value) => whole.push(Taken { value, message }),
            Err(nonsense) => {
                SOURCE
                    .bury(around, &message, "undecodable", &nonsense.to_string())
                    .await
            }
        }
    }
    Some(whole)
}

fn decode(payload: &[u8]) -> anyhow::Result<Verdict> {
    Ok(Verdict::decode(payload)?)
}

/// One further part of a verdict, however long the stream takes to answer. A part that is gone (it
/// outlived the stream's age) leaves its deliveries to their reports. `None` = the service ends.
async fn part(around: &Surroundings, seq: u64) -> Option<Option<Verdict>> {
    let mut failures = 0_u32;
    loop {
        match around
            .bus
            .get(names::VERDICTS, seq)
            .await
            .context("the stream does not answer")
        {
            Ok(found) => {
                let verdict = found.and_then(|message| decode(&message.payload).ok());
                if verdict.is_none() {
                    tracing::warn!(
                        stream.seq = seq,
                        "a part of a verdict is gone or not readable"
                    );
                }
                return Some(verdict);
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                tracing::warn!(failures, error = format!("{error:#}"), "history.waiting");
                if pause(around, Backoff::CONNECT.delay(failures, rand::random())).await {
                    return None;
                }
            }
        }
    }
}

/// Records any number, in calls of the size that the store takes. Cut off half-way, all of it can be
/// done again.
async fn record_all(
    store: &Store,
    records: impl Iterator<Item = VerdictRecord>,
) -> Result<(), StoreError> {
    let mut call: Vec<VerdictRecord> = Vec::new();
    let mut deliveries = 0;
    for record in records {
        let count = record.deliveries.len();
        if call.len() == MAX_VERDICTS
            || (deliveries + count > MAX_VERDICT_DELIVERIES && !call.is_empty())
        {
            store.record_verdicts(&call).await?;
            call.clear();
            deliveries = 0;
        }
        deliveries += count;
        call.push(record);
    }
    store.record_verdicts(&call).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_settles_and_an_old_one_does_not_wait() {
        assert_eq!(remaining(1_000_000, 1_100_000), Duration::from_millis(200));
        assert_eq!(remaining(1_000_000, 1_300_000), Duration::ZERO);
        assert_eq!(remaining(1_000_000, 9_000_000), Duration::ZERO);
        assert_eq!(
            remaining(5_000_000, 1_000_000),
            SETTLING,
            "published in our future"
        );
    }
}
