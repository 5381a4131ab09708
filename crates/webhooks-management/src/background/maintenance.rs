//! Housekeeping: tomorrow's partitions, yesterday's history, answers nobody can ask for any more.

use std::time::Duration;

use webhooks_store::{Day, MAX_PURGED};

use super::{Surroundings, pause};

/// How often.
const EVERY: Duration = Duration::from_secs(3_600);

/// How many days ahead partitions are made.
const AHEAD_DAYS: u16 = 7;

/// How many days after its own a day is closed: by then its deliveries have ended, all but the held
/// ones and those with long schedules.
const CLOSED_AFTER_DAYS: i32 = 1;

/// Most batches of keys that one run removes, of [`MAX_PURGED`] each: a million an hour, which is more
/// than callers can leave behind for long.
const PURGE_BATCHES: u32 = 100;

/// Runs at start and then every hour, until shutdown.
pub(super) async fn run(around: Surroundings, retention_days: u32) -> anyhow::Result<()> {
    loop {
        let now = around.clock.now_micros();
        let today = Day::of_micros(now);
        let made = around.store.ensure_partitions(today, AHEAD_DAYS).await?;
        let oldest = Day::of_micros(now.saturating_sub(i64::from(retention_days) * DAY_MICROS));
        let dropped = around.store.drop_partitions_older_than(oldest).await?;
        let over = today.plus(-CLOSED_AFTER_DAYS);
        let closed = around.store.close_partitions_older_than(over).await?;
        let news = now.saturating_sub(NEWS_DAYS * DAY_MICROS);
        around.store.forget_health_news(news).await?;
        let purged = purge(&around, now).await?;
        tracing::info!(made, dropped, closed, purged, "history.maintained");
        if pause(&around, EVERY).await {
            return Ok(());
        }
    }
}

/// Removes the idempotency keys that have outlived their time; answers how many. What one run leaves,
/// at [`PURGE_BATCHES`] or at shutdown, is the next one's.
async fn purge(around: &Surroundings, now: i64) -> anyhow::Result<u64> {
    let mut purged = 0;
    for _ in 0..PURGE_BATCHES {
        let removed = around.store.purge_idempotent(now).await?;
        purged += removed;
        if removed < MAX_PURGED || around.shutdown.is_cancelled() {
            break;
        }
    }
    Ok(purged)
}

/// How long mails that went out, and events that were acted on, are remembered: longer than stream
/// OPS keeps them.
const NEWS_DAYS: i64 = 30;

const DAY_MICROS: i64 = 86_400_000_000;
