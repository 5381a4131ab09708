//! Counters for the payload's snapshot, as of a few seconds ago.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use async_nats::jetstream::kv::Operation;
use futures::StreamExt as _;
use prost::Message as _;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use webhooks_proto::internal::v1::WebhookStats;

use crate::{bus::Bus, error::unavailable, follow::follow_until, subjects::names};

/// Pause before counters are followed anew.
const PAUSE: Duration = Duration::from_millis(500);

/// Follows bucket STATS. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct StatsMirror {
    stats: Arc<RwLock<HashMap<Uuid, WebhookStats>>>,
}

impl StatsMirror {
    /// Starts to follow. Counters are a courtesy: an outage leaves the last known ones.
    #[must_use]
    pub fn start(bus: &Bus, shutdown: CancellationToken) -> Self {
        let mirror = Self::default();
        let (followed, on) = (mirror.clone(), bus.clone());
        follow_until(bus, shutdown, names::STATS, PAUSE, move || {
            let (followed, on) = (followed.clone(), on.clone());
            async move { followed.follow(&on).await }
        });
        mirror
    }

    async fn follow(&self, bus: &Bus) -> Result<(), crate::BusError> {
        let bucket = bus.bucket(names::STATS).await?;
        let mut watch = bucket.watch_with_history(">").await.map_err(unavailable)?;
        while let Some(entry) = watch.next().await {
            let entry = entry.map_err(unavailable)?;
            let Ok(id) = Uuid::try_parse(&entry.key) else {
                continue;
            };
            let mut stats = self.stats.write().unwrap_or_else(PoisonError::into_inner);
            match entry.operation {
                Operation::Put => match WebhookStats::decode(entry.value) {
                    Ok(value) => {
                        stats.insert(id, value);
                    }
                    Err(error) => tracing::warn!(%error, webhook.id = %id, "unreadable stats"),
                },
                Operation::Delete | Operation::Purge => {
                    stats.remove(&id);
                }
            }
        }
        Ok(())
    }

    /// The counters of a webhook, if any are known.
    #[must_use]
    pub fn get(&self, webhook: Uuid) -> Option<WebhookStats> {
        self.stats
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&webhook)
            .cloned()
    }
}
