//! From the tables to the read model, and how a call waits for it.
//!
//! A change commits its row and an outbox row together; this pump writes what changed to the
//! bucket CONFIG and removes the outbox row. It reads the *current* row, so a row that changed
//! twice is written once, and whoever is late writes nothing (the bucket refuses older revisions).
//! Several replicas may pump at once for the same reason.
//!
//! Workspaces take turns: each step tells a few rows of every workspace that has any. A call takes a
//! ticket after its commit and waits until a step that began after the ticket has left nothing of its
//! own workspace: then its change is in the read model, whoever put it there. A bulk change elsewhere,
//! or a row elsewhere that cannot be told, does not hold it up.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, stream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use webhooks_bus::ConfigWriter;
use webhooks_runtime::{Backoff, error_chain};
use webhooks_store::{OutboxKind, OutboxRow, OutboxStep, Store};

use crate::{error::ManagementError, model};

/// Workspaces of one step.
const WORKSPACES: u32 = 200;

/// Rows of each of them: what a call usually writes, and few enough that a step is over in a moment.
const OF_EACH: u32 = 20;

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
    done: Arc<watch::Sender<Step>>,
}

/// What a step has left behind.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Step {
    /// Tickets that were taken before it began.
    tickets: u64,
    /// Workspaces that have, or may have, more to be told.
    left: HashSet<Uuid>,
    /// Every workspace that it told everything of; `None` = all that are not in `left`.
    told: Option<HashSet<Uuid>>,
}

impl Step {
    /// What is left when these rows of a step could not be told.
    fn after(tickets: u64, step: &OutboxStep, failed: &HashSet<Uuid>) -> Self {
        let left: HashSet<Uuid> = step.more_of.union(failed).copied().collect();
        let told = step.more_workspaces.then(|| {
            let seen = step.rows.iter().map(|row| row.workspace_id);
            seen.filter(|workspace| !left.contains(workspace)).collect()
        });
        Self {
            tickets,
            left,
            told,
        }
    }

    /// Whether everything of a workspace that was committed before the ticket is told.
    fn settles(&self, ticket: u64, workspace: Uuid) -> bool {
        let told = self.told.as_ref();
        self.tickets >= ticket
            && !self.left.contains(&workspace)
            && told.is_none_or(|told| told.contains(&workspace))
    }

    fn is_last(&self) -> bool {
        self.left.is_empty() && self.told.is_none()
    }
}

impl Outbox {
    /// A pump that does not run yet.
    #[must_use]
    pub fn new(store: Store, writer: ConfigWriter) -> Self {
        Self {
            store,
            writer,
            asked: Arc::new(watch::Sender::new(0)),
            done: Arc::new(watch::Sender::new(Step::default())),
        }
    }

    /// Waits until everything of the workspace that was committed before the call is in the read model.
    ///
    /// # Errors
    /// [`ManagementError::Pending`] when that takes longer than [`SETTLE_WITHIN`].
    pub async fn settled(&self, workspace: Uuid) -> Result<(), ManagementError> {
        let mut ticket = 0;
        let mut done = self.done.subscribe();
        self.asked.send_modify(|asked| {
            *asked += 1;
            ticket = *asked;
        });
        let settled = done.wait_for(|step| step.settles(ticket, workspace));
        match tokio::time::timeout(SETTLE_WITHIN, settled).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(ManagementError::Pending),
        }
    }

    /// Pumps until `stop`. Failures repeat with growing pauses.
    pub async fn run(&self, stop: CancellationToken) {
        let mut asked = self.asked.subscribe();
        let mut failures = 0_u32;
        while !stop.is_cancelled() {
            let tickets = *asked.borrow_and_update();
            let pause = match self.step().await {
                Ok((step, failed)) => {
                    let after = Step::after(tickets, &step, &failed.workspaces);
                    let goes_on = !after.is_last();
                    self.done.send_replace(after);
                    match failed.error {
                        // Who is stuck does not slow down the others.
                        _ if goes_on && failed.told > 0 => continue,
                        None => {
                            failures = 0;
                            POLL
                        }
                        Some(error) => again(&mut failures, &error),
                    }
                }
                Err(error) => again(&mut failures, &error),
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
            let (step, failed) = self.step().await?;
            if let Some(error) = failed.error {
                return Err(error);
            }
            if step.more_of.is_empty() && !step.more_workspaces {
                return Ok(());
            }
        }
    }

    /// Tells the next rows of each workspace.
    async fn step(&self) -> anyhow::Result<(OutboxStep, Failed)> {
        let step = self.store.next_outbox(WORKSPACES, OF_EACH).await?;
        // The current row is written, so one row of a key stands for all of them.
        let mut keys: HashMap<(OutboxKind, String), (OutboxRow, Vec<i64>)> = HashMap::new();
        for row in &step.rows {
            let (_, ids) = keys
                .entry((row.kind, row.key.clone()))
                .or_insert_with(|| (row.clone(), Vec::new()));
            ids.push(row.id);
        }
        let written: Vec<_> = stream::iter(keys.into_values())
            .map(|(row, ids)| async move { (row.workspace_id, ids, self.write(row).await) })
            .buffer_unordered(PARALLEL)
            .collect()
            .await;
        let (mut done, mut failed) = (Vec::new(), Failed::default());
        for (workspace, ids, result) in written {
            match result {
                Ok(()) => done.extend(ids),
                Err(error) => {
                    failed.workspaces.insert(workspace);
                    failed.error = Some(error);
                }
            }
        }
        failed.told = done.len();
        if !done.is_empty() {
            self.store.done_outbox(&done).await?;
        }
        Ok((step, failed))
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

/// Rows that could not be told: of these workspaces, and why one of them could not.
#[derive(Default)]
struct Failed {
    workspaces: HashSet<Uuid>,
    error: Option<anyhow::Error>,
    /// How many others could.
    told: usize,
}

/// How long to wait after another failure.
fn again(failures: &mut u32, error: &anyhow::Error) -> Duration {
    *failures = failures.saturating_add(1);
    tracing::warn!(
        failures,
        error = error_chain(error.as_ref()),
        "outbox.waiting"
    );
    AGAIN.delay(*failures, rand::random())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(of: &[u128], more_of: &[u128], more_workspaces: bool) -> OutboxStep {
        let row = |workspace: &u128| OutboxRow {
            id: 1,
            kind: OutboxKind::Webhook,
            workspace_id: Uuid::from_u128(*workspace),
            key: String::new(),
            revision: 1,
        };
        OutboxStep {
            rows: of.iter().map(row).collect(),
            more_of: more_of.iter().copied().map(Uuid::from_u128).collect(),
            more_workspaces,
        }
    }

    #[test]
    fn a_call_waits_for_its_own_workspace_and_for_no_other() {
        let settles =
            |step: &Step, ticket, workspace| step.settles(ticket, Uuid::from_u128(workspace));
        let none = HashSet::new();
        // 1 has more, 2 has none left, of 3 there was nothing.
        let after = Step::after(7, &step(&[1, 2], &[1], false), &none);
        assert!(!settles(&after, 7, 1));
        assert!(settles(&after, 7, 2) && settles(&after, 7, 3));
        assert!(!settles(&after, 8, 2), "it began before the commit");
        assert!(!after.is_last());
        // What could not be told is left.
        let failed = HashSet::from([Uuid::from_u128(2)]);
        let after = Step::after(7, &step(&[1, 2], &[], false), &failed);
        assert!(settles(&after, 7, 1) && !settles(&after, 7, 2));
        // Of others nothing is known when there were too many to look at.
        let after = Step::after(7, &step(&[1, 2], &[], true), &none);
        assert!(settles(&after, 7, 1) && !settles(&after, 7, 3));
        assert!(!after.is_last());
        assert!(Step::after(7, &step(&[1, 2], &[], false), &none).is_last());
    }
}
