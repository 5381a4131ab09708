//! From the tables to the read model, and how a call waits for it.
//!
//! A change commits its row and an outbox row together; this pump writes what changed to the
//! bucket CONFIG and removes the outbox row. It reads the *current* row, so a row that changed
//! twice is written once, and whoever is late writes nothing (the bucket refuses older revisions).
//! Several replicas may pump at once for the same reason.
//!
//! A call takes a ticket after its commit and waits until a drain that began after the ticket has
//! finished: then its change is in the read model, whoever put it there.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::{TryStreamExt as _, stream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use webhooks_bus::ConfigWriter;
use webhooks_runtime::{Backoff, error_chain};
use webhooks_store::{OutboxKind, OutboxRow, Store};

use crate::{error::ManagementError, model};

/// Rows of one drain step.
const BATCH: u32 = 200;

/// Keys written at once.
const PARALLEL: usize = 8;

/// How often the pump looks without being asked: for rows of other processes.
const POLL: Duration = Duration::from_millis(500);

/// Pauses between failed drains. Short at most: a call that waits for its change has
/// [`SETTLE_WITHIN`], and should profit when NATS comes back meanwhile.
const AGAIN: Backoff = Backoff {
    cap: Duration::from_secs(1),
    ..Backoff::CONNECT
};

/// How long a call waits for its change to be in force.
pub(crate) const SETTLE_WITHIN: Duration = Duration::from_secs(5);

/// The pump. Clones share it.
#[derive(Clone)]
pub struct Outbox {
    store: Store,
    writer: ConfigWriter,
    asked: Arc<watch::Sender<u64>>,
    done: Arc<watch::Sender<u64>>,
}

impl Outbox {
    /// A pump that does not run yet.
    #[must_use]
    pub fn new(store: Store, writer: ConfigWriter) -> Self {
        Self {
            store,
            writer,
            asked: Arc::new(watch::Sender::new(0)),
            done: Arc::new(watch::Sender::new(0)),
        }
    }

    /// Waits until everything committed before the call is in the read model.
    ///
    /// # Errors
    /// [`ManagementError::Pending`] when that takes longer than [`SETTLE_WITHIN`].
    pub async fn settled(&self) -> Result<(), ManagementError> {
        let mut ticket = 0;
        let mut done = self.done.subscribe();
        self.asked.send_modify(|asked| {
            *asked += 1;
            ticket = *asked;
        });
        let reached =
            tokio::time::timeout(SETTLE_WITHIN, done.wait_for(|done| *done >= ticket)).await;
        if matches!(reached, Ok(Ok(_))) {
            Ok(())
        } else {
            Err(ManagementError::Pending)
        }
    }

    /// Pumps until `stop`. Failures repeat with growing pauses.
    pub async fn run(&self, stop: CancellationToken) {
        let mut asked = self.asked.subscribe();
        let mut failures = 0_u32;
        while !stop.is_cancelled() {
            let tickets = *asked.borrow_and_update();
            let pause = match self.drain().await {
                Ok(()) => {
                    failures = 0;
                    self.done.send_replace(tickets);
                    POLL
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    tracing::warn!(
                        failures,
                        error = error_chain(error.as_ref()),
                        "outbox.waiting"
                    );
                    AGAIN.delay(failures, rand::random())
                }
            };
            // After a failure new tickets do not hurry: it is NATS or Postgres that is missing.
            let woken = async {
                if failures > 0 || asked.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
                () = woken => {}
            }
        }
    }

    /// Writes out every row there is.
    ///
    /// # Errors
    /// The store or the bus fails; what was written stays written.
    pub async fn drain(&self) -> anyhow::Result<()> {
        loop {
            let rows = self.store.next_outbox(BATCH).await?;
            if rows.is_empty() {
                return Ok(());
            }
            let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
            // The current row is written, so one row of a key stands for all of them.
            let keys: HashMap<(OutboxKind, String), OutboxRow> = rows
                .into_iter()
                .map(|row| ((row.kind, row.key.clone()), row))
                .collect();
            stream::iter(keys.into_values().map(anyhow::Ok))
                .try_for_each_concurrent(PARALLEL, |row| self.write(row))
                .await?;
            self.store.done_outbox(&ids).await?;
        }
    }

    async fn write(&self, row: OutboxRow) -> anyhow::Result<()> {
        match row.kind {
            OutboxKind::Webhook => {
                let id: Uuid = row.key.parse()?;
                match self.store.get_webhook(row.workspace_id, id).await? {
                    Some(webhook) => {
                        self.writer
                            .put_webhook(&model::webhook_config(&webhook))
                            .await?
                    }
                    None => self.writer.delete_webhook(row.workspace_id, id).await?,
                }
            }
            OutboxKind::Token => match self.store.token_by_id(&row.key).await? {
                Some(token) if token.revoked_at.is_none() => {
                    self.writer.put_token(&model::token_config(&token)).await?;
                }
                _ => self.writer.delete_token(&row.key).await?,
            },
            OutboxKind::Trust => {
                if let Some(authorities) = self.store.authorities(row.workspace_id).await? {
                    let trust = model::workspace_trust(&authorities);
                    self.writer.put_trust(&trust).await?;
                }
            }
        }
        Ok(())
    }
}
