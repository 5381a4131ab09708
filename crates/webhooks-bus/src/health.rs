//! Bucket HEALTH: what deliveries have made of an endpoint's status.
//!
//! A record is written only when it changes, by compare-and-set, by the dispatcher that owns the
//! endpoint's partition; it is there for the next owner, and for everybody who shows or mirrors it.
//! An endpoint without a record is well. The record of a webhook that was deleted is deleted by the
//! partition's owner.

mod record;

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use async_nats::jetstream::kv::Operation;
use bytes::Bytes;
use futures::StreamExt as _;
use prost::Message as _;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use webhooks_proto::internal::v1::EndpointHealth;

use crate::{
    bus::{Bus, REQUEST_TIMEOUT},
    error::{BusError, PublishError, unavailable},
    follow::follow_until,
    publish::Outgoing,
    subjects::{headers, names},
};

pub use record::{Signature, configured, effective_status, health_of, record_of, status_of};

const STREAM: &str = "KV_HEALTH";

/// Changes that a slow listener may miss before it has to look at everything.
const CHANGES: usize = 4_096;

/// Pause before records are followed anew.
const PAUSE: Duration = Duration::from_millis(200);

/// How long a catch-up may take.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(3);

/// A record with its revision in the bucket.
pub type HealthEntry = (EndpointHealth, u64);

/// Follows bucket HEALTH. Cheap to clone.
#[derive(Clone)]
pub struct HealthMirror {
    shared: Arc<Shared>,
}

struct Shared {
    bus: Bus,
    records: RwLock<HashMap<Uuid, HealthEntry>>,
    position: watch::Sender<Option<u64>>,
    changes: broadcast::Sender<Uuid>,
}

impl std::fmt::Debug for HealthMirror {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HealthMirror")
            .field("position", &*self.shared.position.borrow())
            .finish_non_exhaustive()
    }
}

impl HealthMirror {
    /// Starts to follow, through outages, until `shutdown`. An outage leaves the last known records.
    #[must_use]
    pub fn start(bus: &Bus, shutdown: CancellationToken) -> Self {
        let shared = Arc::new(Shared {
            bus: bus.clone(),
            records: RwLock::default(),
            position: watch::Sender::new(None),
            changes: broadcast::Sender::new(CHANGES),
        });
        let follower = shared.clone();
        follow_until(bus, shutdown, names::HEALTH, PAUSE, move || {
            let follower = follower.clone();
            async move { follower.follow().await }
        });
        Self { shared }
    }

    /// What is kept of a webhook's endpoint.
    #[must_use]
    pub fn get(&self, webhook: Uuid) -> Option<EndpointHealth> {
        let records = self.shared.records();
        records.get(&webhook).map(|(record, _)| record.clone())
    }

    /// Every record with its revision.
    #[must_use]
    pub fn all(&self) -> Vec<(Uuid, HealthEntry)> {
        let records = self.shared.records();
        records
            .iter()
            .map(|(id, entry)| (*id, entry.clone()))
            .collect()
    }

    /// Tells of records that have changed or gone. A listener that missed some
    /// (`RecvError::Lagged`) looks at [`HealthMirror::all`].
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<Uuid> {
        self.shared.changes.subscribe()
    }

    /// The first full load is done.
    #[must_use]
    pub fn loaded(&self) -> bool {
        self.shared.position.borrow().is_some()
    }

    /// Waits until everything is here that was acknowledged before the call.
    ///
    /// # Errors
    /// When NATS does not answer, or the watch lags for more than 3 s.
    pub async fn catch_up(&self) -> Result<(), BusError> {
        let last = self.shared.bus.last_seq(STREAM).await?;
        let mut position = self.shared.position.subscribe();
        let passed = position.wait_for(|seen| seen.is_some_and(|seen| seen >= last));
        match tokio::time::timeout(CATCH_UP_WITHIN, passed).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(BusError::Unavailable("health lags".to_owned())),
        }
    }
}

impl Shared {
    fn records(&self) -> std::sync::RwLockReadGuard<'_, HashMap<Uuid, HealthEntry>> {
        self.records.read().unwrap_or_else(PoisonError::into_inner)
    }

    async fn follow(&self) -> Result<(), BusError> {
        let bucket = self.bus.bucket(names::HEALTH).await?;
        let last = self.bus.last_seq(STREAM).await?;
        if self.position.borrow().is_some_and(|seen| last < seen) {
            // The bucket was made anew.
            self.records
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .clear();
            self.position.send_replace(None);
        }
        let empty = self.bus.message_count(STREAM).await? == 0;
        let mut watch = bucket.watch_with_history(">").await.map_err(unavailable)?;
        if empty {
            self.passed(last);
        }
        while let Some(entry) = watch.next().await {
            let entry = entry.map_err(unavailable)?;
            if let Ok(id) = Uuid::try_parse(&entry.key) {
                let value = (entry.operation == Operation::Put).then_some(entry.value);
                self.apply(id, value, entry.revision);
            }
            if self.position.borrow().is_some() {
                self.passed(entry.revision);
            } else if entry.seen_current {
                self.passed(last.max(entry.revision));
            }
        }
        Ok(())
    }

    fn apply(&self, id: Uuid, value: Option<Bytes>, revision: u64) {
        let decoded = match value.map(EndpointHealth::decode).transpose() {
            Ok(decoded) => decoded,
            Err(error) => {
                tracing::error!(webhook.id = %id, %error, "unreadable health record");
                return;
            }
        };
        {
            let mut records = self.records.write().unwrap_or_else(PoisonError::into_inner);
            match decoded {
                Some(record) => records.insert(id, (record, revision)),
                None => records.remove(&id),
            };
        }
        // Nobody listening is fine.
        self.changes.send(id).ok();
    }

    fn passed(&self, revision: u64) {
        self.position.send_if_modified(|seen| {
            let newer = seen.is_none_or(|seen| revision > seen);
            if newer {
                *seen = Some(revision);
            }
            newer
        });
    }
}

/// Reads and writes single records, at the leader. Only the owner of an endpoint's partition writes.
#[derive(Clone, Debug)]
pub struct HealthStore {
    bus: Bus,
}

impl HealthStore {
    /// A store on this connection.
    #[must_use]
    pub fn new(bus: &Bus) -> Self {
        Self { bus: bus.clone() }
    }

    /// The record, if there is one, and the revision that the next write has to name.
    ///
    /// # Errors
    /// When NATS does not answer or the record cannot be read.
    pub async fn get(&self, webhook: Uuid) -> Result<(Option<EndpointHealth>, u64), BusError> {
        let Some(found) = self.bus.get_last(STREAM, &subject(webhook)).await? else {
            return Ok((None, 0));
        };
        if found.header("KV-Operation").is_some() {
            return Ok((None, found.seq));
        }
        let record = EndpointHealth::decode(found.payload)
            .map_err(|error| BusError::Decode(error.to_string()))?;
        Ok((Some(record), found.seq))
    }

    /// Replaces the record of revision `expected` (0 = there is none); returns the new revision.
    ///
    /// # Errors
    /// [`BusError::Conflict`] when another revision is there, [`BusError::Unavailable`] when it is
    /// unknown whether it was written.
    pub async fn put(
        &self,
        webhook: Uuid,
        record: &EndpointHealth,
        expected: u64,
    ) -> Result<u64, BusError> {
        let payload = record.encode_to_vec().into();
        self.write(webhook, payload, expected, false).await
    }

    /// Deletes the record, whatever it says. Idempotent.
    ///
    /// # Errors
    /// When NATS does not take it, or somebody else writes at the same time.
    pub async fn delete(&self, webhook: Uuid) -> Result<(), BusError> {
        match self.get(webhook).await {
            Ok((None, _)) => Ok(()),
            Ok((Some(_), revision)) => self
                .write(webhook, Bytes::new(), revision, true)
                .await
                .map(|_| ()),
            Err(error) => Err(error),
        }
    }

    async fn write(
        &self,
        webhook: Uuid,
        payload: Bytes,
        expected: u64,
        delete: bool,
    ) -> Result<u64, BusError> {
        let mut written = async_nats::HeaderMap::new();
        written.insert(
            headers::EXPECTED_LAST_SUBJECT_SEQUENCE,
            expected.to_string().as_str(),
        );
        if delete {
            written.insert("KV-Operation", "DEL");
        }
        let message = Outgoing {
            subject: subject(webhook),
            headers: written,
            payload,
        };
        match self.bus.publish_once(message, REQUEST_TIMEOUT).await {
            Ok(stored) => Ok(stored.seq),
            Err(PublishError::WrongLast(text)) => Err(BusError::Conflict(text)),
            Err(error) => Err(unavailable(error)),
        }
    }
}

fn subject(webhook: Uuid) -> String {
    format!("$KV.{}.{webhook}", names::HEALTH)
}
