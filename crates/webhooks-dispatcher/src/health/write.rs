//! Writing and deleting one record.

use std::sync::Arc;

use futures::{FutureExt as _, future::BoxFuture};
use uuid::Uuid;
use webhooks_bus::BusError;
use webhooks_proto::internal::v1::EndpointHealth;

use crate::{partition_io::Settled, shared::Shared};

/// What came of a write.
pub(super) enum Put {
    /// It is there, as this revision.
    Done(u64),
    /// Another one is there (or none), with this revision.
    Other(Box<Option<EndpointHealth>>, u64),
    /// Not while the lease is uncertain.
    Later,
}

/// Replaces the record of revision `expected`.
pub(super) async fn put(
    shared: &Shared,
    webhook: Uuid,
    record: EndpointHealth,
    expected: u64,
) -> Result<Put, BusError> {
    match shared.health_store.put(webhook, &record, expected).await {
        Ok(revision) => Ok(Put::Done(revision)),
        Err(BusError::Conflict(_)) => {
            let (found, revision) = shared.health_store.get(webhook).await?;
            // Our own write got through without its answer.
            if found.as_ref() == Some(&record) {
                Ok(Put::Done(revision))
            } else {
                Ok(Put::Other(Box::new(found), revision))
            }
        }
        Err(error) => Err(error),
    }
}

/// Deletes the record of a webhook that is gone.
pub(super) fn forget(shared: Arc<Shared>, webhook: Uuid) -> BoxFuture<'static, Settled> {
    async move {
        if let Err(error) = shared.health_store.delete(webhook).await {
            tracing::debug!(%error, webhook.id = %webhook, "a health record is left behind");
        }
        Settled::Nothing
    }
    .boxed()
}
