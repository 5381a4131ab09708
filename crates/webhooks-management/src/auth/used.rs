//! When tokens were last used: noted at each call, written once a minute.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use webhooks_runtime::error_chain;
use webhooks_store::Store;

/// How often uses are written.
const EVERY: Duration = Duration::from_secs(60);

/// Most tokens whose use waits to be written; further ones are noted in the next minute.
const MAX_WAITING: usize = 100_000;

/// Tokens in one statement.
const BATCH: usize = 1_000;

/// Uses that wait to be written, by token id, in microseconds.
#[derive(Default)]
pub(super) struct Used {
    waiting: Mutex<HashMap<String, i64>>,
}

impl Used {
    /// Notes a use.
    pub(super) fn note(&self, id: &str, now: i64) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = waiting.get_mut(id) {
            *at = now;
        } else if waiting.len() < MAX_WAITING {
            waiting.insert(id.to_owned(), now);
        }
    }

    /// Writes what waits, once a minute and at the end.
    pub(super) async fn keep(&self, store: &Store, stop: CancellationToken) {
        loop {
            let stopped = stop
                .run_until_cancelled(tokio::time::sleep(EVERY))
                .await
                .is_none();
            self.write(store).await;
            if stopped {
                return;
            }
        }
    }

    async fn write(&self, store: &Store) {
        let waiting = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *waiting)
        };
        let waiting: Vec<(String, i64)> = waiting.into_iter().collect();
        for batch in waiting.chunks(BATCH) {
            // Lost when the store is away: it is a convenience, and the next minute writes again.
            if let Err(error) = store.touch_tokens(batch).await {
                tracing::warn!(error = error_chain(&error), "token.last_use_not_written");
                return;
            }
        }
    }
}
