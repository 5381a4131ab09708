//! Deliveries that a person took back before they were sent.
//!
//! Bucket CANCELLED has a key for each, for as long as a delivery can be owed (hold and retry
//! horizon, 7 days, and a day to spare). Dispatchers follow it and ask before every attempt. It is
//! a mark, not the record: the record is management's row, and an attempt that was on the wire when
//! the mark came may still succeed, which then outranks the cancellation.

use std::{
    collections::HashSet,
    sync::{
        Arc, PoisonError, RwLock, RwLockWriteGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::jetstream::kv::Operation;
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    bus::Bus,
    error::{BusError, unavailable},
    follow::follow_until,
    publish::Outgoing,
    subjects::names,
};

/// How long a mark stays: longer than anything is held or retried.
pub const CANCELLED_KEPT: Duration = Duration::from_secs(8 * 24 * 3_600);

/// How long a mark may take to be written.
const WITHIN: Duration = Duration::from_secs(2);

/// Pause before marks are followed anew.
const PAUSE: Duration = Duration::from_millis(500);

/// Marks that a listener may be behind; it is not told of older ones.
const MARKS_BEHIND: usize = 4_096;

/// Follows bucket CANCELLED. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct CancelledMirror {
    marked: Arc<RwLock<HashSet<Uuid>>>,
    loaded: Arc<AtomicBool>,
    told: Told,
}

/// A mark with the webhook that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Whose delivery it is.
    pub webhook: Uuid,
    /// What was taken back.
    pub delivery: Uuid,
}

/// Marks as they come.
#[derive(Clone, Debug)]
struct Told(broadcast::Sender<Mark>);

impl Default for Told {
    fn default() -> Self {
        Self(broadcast::Sender::new(MARKS_BEHIND))
    }
}

impl CancelledMirror {
    /// Starts to follow, through outages, until `shutdown`. An outage leaves the last known marks;
    /// a watch that begins anew reads them all again and drops those that have expired.
    #[must_use]
    pub fn start(bus: &Bus, shutdown: CancellationToken) -> Self {
        let mirror = Self::default();
        let (followed, on) = (mirror.clone(), bus.clone());
        follow_until(bus, shutdown, names::CANCELLED, PAUSE, move || {
            let (followed, on) = (followed.clone(), on.clone());
            async move { followed.follow(&on).await }
        });
        mirror
    }

    async fn follow(&self, bus: &Bus) -> Result<(), BusError> {
        let bucket = bus.bucket(names::CANCELLED).await?;
        // An empty bucket's watch never says that it is current.
        let stream = bus
            .jetstream()
            .get_stream(format!("KV_{}", names::CANCELLED))
            .await
            .map_err(unavailable)?;
        let empty = stream.cached_info().state.messages == 0;
        let mut watch = bucket.watch_with_history(">").await.map_err(unavailable)?;
        let mut loading = (!empty).then(HashSet::new);
        if empty {
            self.write().clear();
            self.loaded.store(true, Ordering::Release);
        }
        while let Some(entry) = watch.next().await {
            let entry = entry.map_err(unavailable)?;
            let Ok(id) = Uuid::try_parse(&entry.key) else {
                continue;
            };
            let put = entry.operation == Operation::Put;
            if put && let Ok(webhook) = Uuid::from_slice(&entry.value) {
                let mark = Mark {
                    webhook,
                    delivery: id,
                };
                // Nobody listens while no partition is owned.
                self.told.0.send(mark).ok();
            }
            let mut marked = self.write();
            if put {
                marked.insert(id);
            } else {
                marked.remove(&id);
            }
            if let Some(loaded) = &mut loading {
                if put {
                    loaded.insert(id);
                }
                if entry.seen_current {
                    // What was not read again has outlived its time.
                    *marked = loading.take().unwrap_or_default();
                    self.loaded.store(true, Ordering::Release);
                }
            }
        }
        Ok(())
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashSet<Uuid>> {
        self.marked.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every mark that there was at the start is known.
    #[must_use]
    pub fn loaded(&self) -> bool {
        self.loaded.load(Ordering::Acquire)
    }

    /// Tells of marks that come from now on, and of all there are when the watch begins anew. A mark
    /// of an older release names no webhook and is not told.
    #[must_use]
    pub fn marks(&self) -> broadcast::Receiver<Mark> {
        self.told.0.subscribe()
    }

    /// Nobody took anything back.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.marked
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    }

    /// Whether a person took this delivery back.
    #[must_use]
    pub fn contains(&self, delivery: Uuid) -> bool {
        let marked = self.marked.read().unwrap_or_else(PoisonError::into_inner);
        !marked.is_empty() && marked.contains(&delivery)
    }
}

impl Bus {
    /// Marks a delivery of `webhook` as taken back. Idempotent; in force at every dispatcher that
    /// hears of it.
    ///
    /// # Errors
    /// When NATS does not take it.
    pub async fn mark_cancelled(&self, delivery: Uuid, webhook: Uuid) -> Result<(), BusError> {
        let message = Outgoing {
            subject: format!("$KV.{}.{delivery}", names::CANCELLED),
            headers: async_nats::HeaderMap::new(),
            payload: Bytes::copy_from_slice(webhook.as_bytes()),
        };
        self.publish_once(message, WITHIN)
            .await
            .map(|_| ())
            .map_err(unavailable)
    }
}
