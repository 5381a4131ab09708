//! The read model: configuration as the data plane sees it, in bucket CONFIG.
//!
//! Management writes it, ingest, fan-out and dispatchers follow it. Two questions have to be
//! answerable at any moment:
//!
//! * *Have I seen everything that was written before now?* [`ConfigMirror::catch_up`] asks the
//!   stream's leader for its last sequence and waits until the mirror has passed it. Fan-out asks
//!   after every pull, so a webhook whose creation was answered catches the next event. Where the
//!   stream has one copy only, that copy is asked first whether what was seen last is the newest
//!   there is: it nearly always is, and that question costs the server a fraction. A copy that may
//!   lag behind the leader is never asked.
//! * *How old is my view?* [`ConfigMirror::fresh_as_of`]: a dispatcher whose view is older than
//!   its limit starts nothing, so a webhook that was disabled is not called for longer.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_nats::jetstream::kv::Operation;
use bytes::Bytes;
use futures::StreamExt as _;
use prost::Message as _;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use webhooks_proto::internal::v1::{TokenConfig, WebhookConfig, WebhookStats, WorkspaceTrust};

use crate::{
    bus::{Bus, REQUEST_TIMEOUT},
    error::{BusError, PublishError, unavailable},
    publish::Outgoing,
    subjects::{
        headers, names, parse_trust_key, parse_webhook_key, token_key, trust_key, webhook_key,
    },
};

/// The stream behind the bucket.
pub(crate) const CONFIG_STREAM: &str = "KV_CONFIG";

/// How often the mirror checks how fresh it is.
const CHECK_EVERY: Duration = Duration::from_millis(500);

/// How long it is taken for granted that the stream has one copy, after its leader has said so, and that
/// it is still the stream that we follow. Longer than [`CHECK_EVERY`].
const ONE_COPY_FOR: Duration = Duration::from_secs(1);

/// How long the mirror may lag behind the leader before its watch is opened anew.
const STUCK_AFTER: Duration = Duration::from_secs(3);

/// Receives changes, in order. Must be quick: it runs on the mirror's task.
pub trait ConfigSink: Send + Sync + 'static {
    /// A webhook is new, changed, or gone.
    fn webhook(&self, id: Uuid, config: Option<WebhookConfig>);
    /// A token is new, changed, or gone.
    fn token(&self, _id: &str, _config: Option<TokenConfig>) {}
    /// A workspace's own certificate authorities are new or changed.
    fn trust(&self, _workspace: Uuid, _trust: WorkspaceTrust) {}
    /// Forget everything; the bucket was made anew.
    fn reset(&self);
}

/// Follows bucket CONFIG into a sink. Cheap to clone.
#[derive(Clone)]
pub struct ConfigMirror {
    shared: Arc<Shared>,
}

struct Shared {
    bus: Bus,
    sink: Arc<dyn ConfigSink>,
    position: watch::Sender<u64>,
    fresh: Mutex<Option<Instant>>,
    /// When the leader last said that the stream has one copy.
    one_copy: Mutex<Option<Instant>>,
    /// When the watch last brought something, known already or not.
    heard: Mutex<Option<Instant>>,
    reopen: Notify,
}

impl std::fmt::Debug for ConfigMirror {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConfigMirror")
            .field("position", &*self.shared.position.borrow())
            .finish_non_exhaustive()
    }
}

impl ConfigMirror {
    /// Starts to follow, through outages, until `shutdown`.
    #[must_use]
    pub fn start(bus: &Bus, sink: Arc<dyn ConfigSink>, shutdown: CancellationToken) -> Self {
        let shared = Arc::new(Shared {
            bus: bus.clone(),
            sink,
            position: watch::Sender::new(0),
            fresh: Mutex::new(None),
            one_copy: Mutex::new(None),
            heard: Mutex::new(None),
            reopen: Notify::new(),
        });
        let (follower, checker) = (shared.clone(), shared.clone());
        let stop = shutdown.clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "ends with its token; failures repeat inside"
        )]
        tokio::spawn(async move {
            stop.run_until_cancelled(follower.follow_for_ever()).await;
        });
        #[expect(
            clippy::disallowed_methods,
            reason = "ends with its token; failures repeat inside"
        )]
        tokio::spawn(async move {
            shutdown.run_until_cancelled(checker.check_for_ever()).await;
        });
        Self { shared }
    }

    /// The first full load is done.
    #[must_use]
    pub fn loaded(&self) -> bool {
        self.fresh_as_of().is_some()
    }

    /// Everything that was acknowledged before this instant is in the sink.
    #[must_use]
    pub fn fresh_as_of(&self) -> Option<Instant> {
        *lock(&self.shared.fresh)
    }

    /// Waits until the sink has everything that was acknowledged before the call.
    ///
    /// # Errors
    /// When NATS does not answer, or the watch lags for more than 5 s.
    pub async fn catch_up(&self) -> Result<(), BusError> {
        self.shared.catch_up().await
    }
}

impl Shared {
    async fn catch_up(&self) -> Result<(), BusError> {
        let asked = Instant::now();
        let seen = *self.position.borrow();
        // Whatever keeps the cheap question from being answered: the leader knows.
        if self.has_one_copy()
            && matches!(self.bus.is_newest(CONFIG_STREAM, seen).await, Ok(true))
            // Nothing was forgotten meanwhile.
            && *self.position.borrow() >= seen
        {
            self.is_fresh_as_of(asked);
            return Ok(());
        }
        self.catch_up_with_leader().await
    }

    async fn catch_up_with_leader(&self) -> Result<(), BusError> {
        let asked = Instant::now();
        let alone = self.ask_leader().await;
        *lock(&self.one_copy) = matches!(alone, Ok(true)).then_some(asked);
        alone?;
        self.is_fresh_as_of(asked);
        Ok(())
    }

    /// Waits for everything that the leader has, and says whether its copy of the stream is the only one.
    async fn ask_leader(&self) -> Result<bool, BusError> {
        let (last, alone) = self.bus.last_seq_and_whether_alone(CONFIG_STREAM).await?;
        if last < *self.position.borrow() {
            // The bucket went back: it is another one.
            self.reopen.notify_one();
            return Err(BusError::Unavailable(
                "the read model was made anew".to_owned(),
            ));
        }
        let mut position = self.position.subscribe();
        let seen = tokio::time::timeout(STUCK_AFTER, position.wait_for(|seen| *seen >= last)).await;
        if !matches!(seen, Ok(Ok(_))) {
            self.reopen.notify_one();
            return Err(BusError::Unavailable("the read model lags".to_owned()));
        }
        Ok(alone)
    }

    fn has_one_copy(&self) -> bool {
        lock(&self.one_copy).is_some_and(|said| said.elapsed() < ONE_COPY_FOR)
    }

    fn is_fresh_as_of(&self, asked: Instant) {
        let mut fresh = lock(&self.fresh);
        *fresh = Some(fresh.map_or(asked, |before| before.max(asked)));
    }

    async fn check_for_ever(&self) {
        loop {
            // The leader: it also says whether this is still the same stream.
            if let Err(error) = self.catch_up_with_leader().await {
                tracing::debug!(%error, "read model not confirmed");
            }
            tokio::time::sleep(CHECK_EVERY).await;
        }
    }

    async fn follow_for_ever(&self) {
        let mut connections = self.bus.connections();
        loop {
            let opened = Instant::now();
            let stuck = async {
                loop {
                    self.reopen.notified().await;
                    // One that was just opened gets its time, and one that brings entries is slow and not
                    // stuck: to begin it anew would only make it later, for ever where there are many.
                    if opened.elapsed() >= STUCK_AFTER && !self.hears() {
                        break;
                    }
                }
            };
            let ended = tokio::select! {
                ended = self.follow() => ended,
                () = stuck => Err(BusError::Unavailable("stuck".to_owned())),
                // The watch went with its server, if that began anew. Whoever waited for it to be missed
                // would bring nothing for as long.
                _ = connections.changed() => Err(BusError::Unavailable("a new connection".to_owned())),
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "following the read model anew");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Whether the watch has brought something lately.
    fn hears(&self) -> bool {
        lock(&self.heard).is_some_and(|at| at.elapsed() < STUCK_AFTER)
    }

    async fn follow(&self) -> Result<(), BusError> {
        let bucket = self.bus.bucket(names::CONFIG).await?;
        let last = self.bus.last_seq(CONFIG_STREAM).await?;
        if last < *self.position.borrow() {
            self.sink.reset();
            self.position.send_replace(0);
        }
        let mut watch = bucket.watch_with_history(">").await.map_err(unavailable)?;
        while let Some(entry) = watch.next().await {
            let entry = entry.map_err(unavailable)?;
            *lock(&self.heard) = Some(Instant::now());
            let value = (entry.operation == Operation::Put).then_some(entry.value);
            self.apply(&entry.key, value);
            self.position.send_if_modified(|seen| {
                let newer = entry.revision > *seen;
                *seen = (*seen).max(entry.revision);
                newer
            });
        }
        Ok(())
    }

    fn apply(&self, key: &str, value: Option<Bytes>) {
        if let Some((_, id)) = parse_webhook_key(key) {
            match value.map(WebhookConfig::decode).transpose() {
                Ok(config) => self.sink.webhook(id, config),
                Err(error) => tracing::error!(key, %error, "unreadable webhook in the read model"),
            }
        } else if let Some(workspace) = parse_trust_key(key) {
            match value.map_or_else(|| Ok(WorkspaceTrust::default()), WorkspaceTrust::decode) {
                Ok(trust) => self.sink.trust(workspace, trust),
                Err(error) => tracing::error!(key, %error, "unreadable trust in the read model"),
            }
        } else if let Some(id) = key.strip_prefix("t.") {
            match value.map(TokenConfig::decode).transpose() {
                Ok(config) => self.sink.token(id, config),
                Err(error) => tracing::error!(key, %error, "unreadable token in the read model"),
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes bucket CONFIG and bucket STATS. Only management does.
#[derive(Clone, Debug)]
pub struct ConfigWriter {
    bus: Bus,
}

/// How often a write is tried again that met another writer.
const CONFLICT_TRIES: usize = 16;

impl ConfigWriter {
    /// A writer on this connection.
    #[must_use]
    pub fn new(bus: &Bus) -> Self {
        Self { bus: bus.clone() }
    }

    /// Makes `config` the read model's version, unless it has the same or a newer revision, or the
    /// webhook was deleted (ids are never used again). Idempotent.
    ///
    /// # Errors
    /// When NATS does not take it.
    pub async fn put_webhook(&self, config: &WebhookConfig) -> Result<(), BusError> {
        let (workspace, webhook) = ids_of(config)?;
        let key = webhook_key(workspace, webhook);
        self.compare_and_set(
            names::CONFIG,
            &key,
            Some(config.encode_to_vec().into()),
            |found| {
                WebhookConfig::decode(found).is_ok_and(|found| found.revision >= config.revision)
            },
        )
        .await
    }

    /// Removes a webhook, for ever, as [`Self::delete_token`] does. Idempotent.
    ///
    /// # Errors
    /// When NATS does not take it.
    pub async fn delete_webhook(&self, workspace: Uuid, webhook: Uuid) -> Result<(), BusError> {
        self.compare_and_set(
            names::CONFIG,
            &webhook_key(workspace, webhook),
            None,
            |_| false,
        )
        .await
    }

    /// Makes a workspace's own authorities known, unless the read model has the same or a newer
    /// revision. They are never removed, only emptied. Idempotent.
    ///
    /// # Errors
    /// When NATS does not take it.
    pub async fn put_trust(&self, trust: &WorkspaceTrust) -> Result<(), BusError> {
        let workspace = Uuid::from_slice(&trust.workspace_id)
            .map_err(|error| BusError::Decode(error.to_string()))?;
        self.compare_and_set(
            names::CONFIG,
            &trust_key(workspace),
            Some(trust.encode_to_vec().into()),
            |found| {
                WorkspaceTrust::decode(found).is_ok_and(|found| found.revision >= trust.revision)
            },
        )
        .await
    }

    /// Makes a token known to ingest, unless the read model has the same or a newer revision, or
    /// the token was revoked (ids are never used again): whoever read the row before it changed,
    /// and writes after, gives nobody back what was taken. Idempotent.
    ///
    /// # Errors
    /// When NATS does not take it.
    pub async fn put_token(&self, token: &TokenConfig) -> Result<(), BusError> {
        self.compare_and_set(
            names::CONFIG,
            &token_key(&token.id),
            Some(token.encode_to_vec().into()),
            |found| TokenConfig::decode(found).is_ok_and(|found| found.revision >= token.revision),
        )
        .await
    }

    /// Makes a token unknown, for ever: the marker is written even where nothing was, because the
    /// first write may still be under way. Idempotent.
    ///
    /// # Errors
    /// When NATS does not take it.
    pub async fn delete_token(&self, id: &str) -> Result<(), BusError> {
        self.compare_and_set(names::CONFIG, &token_key(id), None, |_| false)
            .await
    }

    /// Publishes a webhook's counters; the last writer wins.
    ///
    /// # Errors
    /// When NATS does not take it.
    pub async fn put_stats(&self, webhook: Uuid, stats: &WebhookStats) -> Result<(), BusError> {
        let message = Outgoing {
            subject: format!("$KV.{}.{webhook}", names::STATS),
            headers: async_nats::HeaderMap::new(),
            payload: stats.encode_to_vec().into(),
        };
        self.bus
            .publish_once(message, REQUEST_TIMEOUT)
            .await
            .map(|_| ())
            .map_err(unavailable)
    }

    /// Every webhook in the read model: workspace, id, revision.
    ///
    /// # Errors
    /// When NATS does not answer.
    pub async fn webhooks(&self) -> Result<Vec<(Uuid, Uuid, i64)>, BusError> {
        let bucket = self.bus.bucket(names::CONFIG).await?;
        let last = self.bus.last_seq(CONFIG_STREAM).await?;
        let mut all = Vec::new();
        if last == 0 {
            return Ok(all);
        }
        let mut watch = bucket
            .watch_with_history("w.>")
            .await
            .map_err(unavailable)?;
        // The watch says after its last old entry that it is current; with none at all it says
        // nothing, so a quiet second ends the listing too.
        while let Ok(Some(entry)) = tokio::time::timeout(Duration::from_secs(1), watch.next()).await
        {
            let entry = entry.map_err(unavailable)?;
            if let (Operation::Put, Some((workspace, webhook))) =
                (entry.operation, parse_webhook_key(&entry.key))
            {
                let revision =
                    WebhookConfig::decode(entry.value).map_or(0, |config| config.revision);
                all.push((workspace, webhook, revision));
            }
            if entry.seen_current {
                break;
            }
        }
        Ok(all)
    }

    /// Writes `value` (`None` = delete) to a key, unless `settled` says that what is there will do.
    /// A deletion is final: no key of this bucket is of an id that is used twice, and the one kind
    /// that is of a workspace, its trust, is never deleted.
    async fn compare_and_set(
        &self,
        bucket: &str,
        key: &str,
        value: Option<Bytes>,
        settled: impl Fn(Bytes) -> bool,
    ) -> Result<(), BusError> {
        let (stream, subject) = (format!("KV_{bucket}"), format!("$KV.{bucket}.{key}"));
        for _ in 0..CONFLICT_TRIES {
            let found = self.bus.get_last(&stream, &subject).await?;
            let mut expected = 0;
            if let Some(found) = found {
                expected = found.seq;
                let deleted = found.header("KV-Operation").is_some();
                let done = match &value {
                    None => deleted,
                    Some(_) => deleted || settled(found.payload),
                };
                if done {
                    return Ok(());
                }
            }
            let mut headers = async_nats::HeaderMap::new();
            headers.insert(
                headers::EXPECTED_LAST_SUBJECT_SEQUENCE,
                expected.to_string().as_str(),
            );
            if value.is_none() {
                headers.insert("KV-Operation", "DEL");
            }
            let payload = value.clone().unwrap_or_default();
            let message = Outgoing {
                subject: subject.clone(),
                headers,
                payload,
            };
            match self.bus.publish_once(message, REQUEST_TIMEOUT).await {
                Ok(_) => return Ok(()),
                // Somebody else wrote, or our own write got through without its answer: look again.
                Err(PublishError::WrongLast(_)) => {}
                Err(error) => return Err(unavailable(error)),
            }
        }
        Err(BusError::Conflict(format!("key {key} keeps changing")))
    }
}

fn ids_of(config: &WebhookConfig) -> Result<(Uuid, Uuid), BusError> {
    let id =
        |bytes: &[u8]| Uuid::from_slice(bytes).map_err(|error| BusError::Decode(error.to_string()));
    Ok((id(&config.workspace_id)?, id(&config.id)?))
}
