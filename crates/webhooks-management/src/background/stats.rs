//! Counters for the payload's snapshot, from the tables to bucket STATS: a few seconds old, at most
//! one write in [`PER_WEBHOOK`] for each webhook, however much it delivers.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;
use uuid::Uuid;
use webhooks_store::{StatsCursor, StatsRow};

use super::{Surroundings, pause};
use crate::model::webhook_stats;

/// How often changed counters are looked for.
const EVERY: Duration = Duration::from_secs(2);

/// How long a webhook's published counters stand at least.
const PER_WEBHOOK: Duration = Duration::from_secs(5);

/// What is known of the counters that changed.
#[derive(Default)]
struct Board {
    waiting: HashMap<Uuid, StatsRow>,
    published: HashMap<Uuid, (Instant, StatsRow)>,
}

impl Board {
    /// Takes notice of changed counters. The store may name a row again that has not changed.
    fn note(&mut self, rows: Vec<StatsRow>) {
        for row in rows {
            let known = self.published.get(&row.webhook_id);
            if known.is_none_or(|(_, published)| *published != row) {
                self.waiting.insert(row.webhook_id, row);
            }
        }
    }

    /// What may be published now.
    fn due(&self, now: Instant) -> Vec<StatsRow> {
        let rested = |id: &Uuid| {
            let known = self.published.get(id);
            known.is_none_or(|(at, _)| now.duration_since(*at) >= PER_WEBHOOK)
        };
        self.waiting
            .iter()
            .filter(|(id, _)| rested(id))
            .map(|(_, row)| row.clone())
            .collect()
    }

    fn done(&mut self, row: StatsRow, now: Instant) {
        self.waiting.remove(&row.webhook_id);
        self.published.insert(row.webhook_id, (now, row));
    }
}

/// Publishes counters until shutdown.
pub(super) async fn run(around: Surroundings) -> anyhow::Result<()> {
    let mut board = Board::default();
    let mut cursor = StatsCursor::default();
    loop {
        let (rows, next) = around.store.stats_changed_since(cursor).await?;
        cursor = next;
        board.note(rows);
        let now = Instant::now();
        for row in board.due(now) {
            around
                .writer
                .put_stats(row.webhook_id, &webhook_stats(&row))
                .await?;
            board.done(row, now);
        }
        if pause(&around, EVERY).await {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: u128, success_count: i64) -> StatsRow {
        StatsRow {
            webhook_id: Uuid::from_u128(id),
            success_count,
            failure_count: 0,
            last_sent_at: Some(1),
            last_delivered_at: Some(1),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_webhook_is_published_now_and_then() {
        let mut board = Board::default();
        let due = |board: &Board| board.due(Instant::now()).len();
        board.note(vec![row(1, 1), row(2, 1)]);
        assert_eq!(due(&board), 2);
        for row in board.due(Instant::now()) {
            board.done(row, Instant::now());
        }
        board.note(vec![row(1, 1)]);
        assert_eq!(due(&board), 0, "named again, not changed");
        board.note(vec![row(1, 2)]);
        tokio::time::advance(PER_WEBHOOK - Duration::from_millis(1)).await;
        assert_eq!(due(&board), 0, "too soon");
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(board.due(Instant::now()), [row(1, 2)]);
    }
}
