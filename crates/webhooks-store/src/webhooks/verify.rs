//! An endpoint has shown that it belongs to its webhook's owner.

use uuid::Uuid;
use webhooks_domain::challenge;

use super::{
    read,
    write::{hold_webhook, log},
};
use crate::{Actor, Store, error::StoreError};

const VERIFY: &str = "
UPDATE webhooks SET verified_endpoint = $4, revision = revision + 1
WHERE workspace_id = $1 AND id = $2 AND endpoint_url = $3";

/// What came of an endpoint's right answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verified {
    /// It counts from now on.
    Now,
    /// It counted already.
    Before,
    /// The webhook is gone, or points elsewhere by now: the answer says nothing of that.
    Stale,
}

impl Store {
    /// Takes it that the endpoint at `url` belongs to the webhook's owner, if that is where the webhook
    /// still points. A new revision for the read model; no change of the configuration.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn verify_endpoint(
        &self,
        workspace: Uuid,
        id: Uuid,
        url: &str,
        actor: &Actor,
        now: i64,
    ) -> Result<Verified, StoreError> {
        let mut tx = self.pool.begin().await?;
        let Some(before) = hold_webhook(&mut tx, workspace, id).await? else {
            return Ok(Verified::Stale);
        };
        if before.endpoint_url != url {
            return Ok(Verified::Stale);
        }
        if before.has_verified_endpoint() {
            return Ok(Verified::Before);
        }
        let hash = challenge::endpoint_hash(url);
        sqlx::query(VERIFY)
            .bind(workspace)
            .bind(id)
            .bind(url)
            .bind(hash.as_slice())
            .execute(&mut *tx)
            .await?;
        let after = read::one(&mut tx, workspace, id).await?;
        let (before, after) = (Some(&before), after.as_ref());
        log(&mut tx, actor, "webhook.verify", now, before, after).await?;
        tx.commit().await?;
        Ok(Verified::Now)
    }
}
