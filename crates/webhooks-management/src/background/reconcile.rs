//! Makes the read model what the tables say, however it came to differ: a bucket restored from an
//! old backup, a lost outbox row, a hand that slipped.
//!
//! The read model is listed first and the tables after it. So a webhook that is made meanwhile is at
//! worst written twice; the other order would take it for a leftover and delete it. A leftover is
//! looked up once more before it goes, and when there are suspiciously many, none goes: an empty or
//! wrong database must not switch off every customer.

use std::{collections::HashMap, time::Duration};

use uuid::Uuid;

use super::{Surroundings, pause};
use crate::model::{token_config, webhook_config, workspace_trust};

/// How often.
const EVERY: Duration = Duration::from_secs(60);

/// Rows read at once.
const PAGE: u32 = 500;

/// Up to this many leftovers go without further thought.
const FEW_LEFTOVERS: usize = 20;

/// What a run repaired.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Repaired {
    written: usize,
    removed: usize,
}

/// Reconciles at start and then every minute, until shutdown.
pub(super) async fn run(around: Surroundings) -> anyhow::Result<()> {
    loop {
        let repaired = once(&around).await?;
        if repaired != Repaired::default() {
            metrics::counter!("webhooks_read_model_repairs_total")
                .increment(u64::try_from(repaired.written + repaired.removed).unwrap_or(0));
            tracing::info!(
                written = repaired.written,
                removed = repaired.removed,
                "read_model.repaired"
            );
        }
        if pause(&around, EVERY).await {
            return Ok(());
        }
    }
}

async fn once(around: &Surroundings) -> anyhow::Result<Repaired> {
    let mut repaired = Repaired::default();
    let listed = around.writer.webhooks().await?;
    let listed_count = listed.len();
    let mut there: HashMap<Uuid, (Uuid, i64)> = listed
        .into_iter()
        .map(|(workspace, id, revision)| (id, (workspace, revision)))
        .collect();
    let mut after = None;
    loop {
        let rows = around.store.webhook_config_rows(after, PAGE).await?;
        let Some(last) = rows.last() else { break };
        after = Some(last.id);
        for row in &rows {
            let found = there.remove(&row.id);
            if found.is_none_or(|(_, revision)| revision < row.config_revision()) {
                around.writer.put_webhook(&webhook_config(row)).await?;
                repaired.written += 1;
            }
        }
    }
    if too_many(there.len(), listed_count) {
        tracing::error!(
            leftovers = there.len(),
            listed = listed_count,
            "read_model.leftovers_kept"
        );
    } else {
        for (id, (workspace, _)) in there {
            if around.store.get_webhook(workspace, id).await?.is_none() {
                around.writer.delete_webhook(workspace, id).await?;
                repaired.removed += 1;
            }
        }
    }
    tokens(around).await?;
    authorities(around).await?;
    Ok(repaired)
}

/// Whether so much of the read model is unknown to the tables that the tables are in doubt.
fn too_many(leftovers: usize, listed: usize) -> bool {
    leftovers > FEW_LEFTOVERS && leftovers * 2 > listed
}

/// Tokens: the writer compares before it writes, so what is right costs a look each. A page may be
/// older than a revocation by the time it is written; the writer then writes nothing.
async fn tokens(around: &Surroundings) -> anyhow::Result<()> {
    let mut after: Option<String> = None;
    loop {
        let rows = around
            .store
            .token_config_rows(after.as_deref(), PAGE)
            .await?;
        let Some(last) = rows.last() else {
            return Ok(());
        };
        after = Some(last.id.clone());
        for row in &rows {
            if row.revoked_at.is_none() {
                around.writer.put_token(&token_config(row)).await?;
            } else {
                around.writer.delete_token(&row.id).await?;
            }
        }
    }
}

/// Certificate authorities: few workspaces have any.
async fn authorities(around: &Surroundings) -> anyhow::Result<()> {
    let mut after = None;
    loop {
        let rows = around.store.authorities_rows(after, PAGE).await?;
        let Some(last) = rows.last() else {
            return Ok(());
        };
        after = Some(last.workspace_id);
        for row in &rows {
            around.writer.put_trust(&workspace_trust(row)).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::too_many;

    #[test]
    fn a_wrong_database_switches_nobody_off() {
        assert!(!too_many(0, 0));
        assert!(!too_many(20, 20), "a handful is repaired");
        assert!(!too_many(50, 100_000));
        assert!(too_many(21, 21));
        assert!(too_many(60_000, 100_000));
    }
}
