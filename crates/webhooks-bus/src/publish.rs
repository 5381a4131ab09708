//! Durable publishing.
//!
//! Two ways to the same promise. A single publish is a request whose answer is the stream's
//! acknowledgement. Where the server syncs every write to disk (`sync_interval: always`, one
//! replica), each single publish costs one fsync, so what waits is sent together as an *atomic
//! batch* (ADR-50): one fsync for up to [`MAX_BATCH`] messages, at most [`BATCHES_IN_FLIGHT`] at a
//! time for each stream; a message that is alone goes single, so a low rate pays no latency.
//!
//! A batch is refused whole when one of its ids was seen before, so whatever goes wrong with a
//! batch, its messages are published again one by one, with the same ids.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::{Client, HeaderMap, Request, jetstream::response::Response};
use bytes::Bytes;
use futures::future::join_all;
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::Instant,
};

use crate::{bus::Bus, error::PublishError, flow::Flow, subjects::headers};

/// Most messages of an atomic batch (the server allows 1,000; larger ones gained nothing).
pub const MAX_BATCH: usize = 200;

/// Atomic batches of one stream that are on their way at a time.
pub const BATCHES_IN_FLIGHT: usize = 4;

/// Messages that wait for a place in a batch, for each stream. More than a service has under way, so that
/// none waits in line for a place ([`crate::flow`] says why that must not be).
const BATCH_QUEUE: usize = 65_536;

/// How long one try may take before it is repeated.
const TRY_TIMEOUT: Duration = Duration::from_secs(2);

/// A message to publish.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Where to.
    pub subject: String,
    /// Headers, the message id among them.
    pub headers: HeaderMap,
    /// The bytes.
    pub payload: Bytes,
}

impl Outgoing {
    /// A message with a deterministic id, so that a repeated publish is stored once.
    #[must_use]
    pub fn new(subject: String, message_id: &str, payload: Bytes) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(headers::MSG_ID, message_id);
        Self {
            subject,
            headers,
            payload,
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.insert(name, value);
        self
    }
}

/// Where a message was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Its sequence in the stream; of the first one, for a duplicate.
    pub seq: u64,
    /// The id had been stored before; nothing new was.
    pub duplicate: bool,
}

#[derive(serde::Deserialize)]
struct Ack {
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
}

/// What one try came to.
enum Try {
    Stored(Stored),
    /// Final.
    Refused(PublishError),
    /// Unknown or passing; try again.
    Again(String),
}

impl Bus {
    /// Publishes until the stream has it, at most for `within`.
    ///
    /// # Errors
    /// [`PublishError::Full`] and [`PublishError::TooLarge`] when it was surely not stored,
    /// [`PublishError::Unavailable`] when that is unknown.
    pub async fn publish(
        &self,
        message: Outgoing,
        within: Duration,
    ) -> Result<Stored, PublishError> {
        if self.inner.batcher.enabled {
            self.inner.batcher.publish(message, within).await
        } else {
            publish_single(self.client(), &self.inner.batcher.flow, message, within).await
        }
    }

    /// Publishes with compare-and-set headers or other conditions: one try, never in a batch.
    ///
    /// # Errors
    /// As [`Bus::publish`], and [`PublishError::WrongLast`].
    pub async fn publish_once(
        &self,
        message: Outgoing,
        within: Duration,
    ) -> Result<Stored, PublishError> {
        match try_once(self.client(), &self.inner.batcher.flow, &message, within).await {
            Try::Stored(stored) => Ok(stored),
            Try::Refused(error) => Err(error),
            Try::Again(reason) => Err(PublishError::Unavailable(reason)),
        }
    }
}

async fn publish_single(
    client: &Client,
    flow: &Flow,
    message: Outgoing,
    within: Duration,
) -> Result<Stored, PublishError> {
    let deadline = Instant::now() + within;
    let mut pause = Duration::from_millis(20);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match try_once(client, flow, &message, left.min(TRY_TIMEOUT)).await {
            Try::Stored(stored) => return Ok(stored),
            Try::Refused(error) => return Err(error),
            Try::Again(reason) => {
                if Instant::now() + pause >= deadline {
                    return Err(PublishError::Unavailable(reason));
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
        }
    }
}

async fn try_once(client: &Client, flow: &Flow, message: &Outgoing, timeout: Duration) -> Try {
    let Some(number) = flow.enter() else {
        return Try::Again("too much is unsent or unanswered".to_owned());
    };
    let request = Request::new()
        .headers(message.headers.clone())
        .payload(message.payload.clone())
        .timeout(Some(timeout));
    let answer = client.send_request(message.subject.clone(), request).await;
    let timed_out = answer
        .as_ref()
        .is_err_and(|error| error.kind() == async_nats::RequestErrorKind::TimedOut);
    if !timed_out {
        flow.answered(number);
    }
    match answer {
        Ok(reply) => read_ack(&reply.payload),
        Err(error) if error.kind() == async_nats::RequestErrorKind::MaxPayloadExceeded => {
            Try::Refused(PublishError::TooLarge(error.to_string()))
        }
        // No responders means that no stream takes the subject at this moment: a leader change, or
        // a server that has just started.
        Err(error) => Try::Again(error.to_string()),
    }
}

fn read_ack(payload: &[u8]) -> Try {
    match serde_json::from_slice::<Response<Ack>>(payload) {
        Ok(Response::Ok(ack)) => Try::Stored(Stored {
            seq: ack.seq,
            duplicate: ack.duplicate,
        }),
        Ok(Response::Err { error }) => {
            let text = error.to_string();
            match error.error_code().0 {
                10_077 | 10_122 | 10_047 => Try::Refused(PublishError::Full(text)),
                10_054 => Try::Refused(PublishError::TooLarge(text)),
                10_071 => Try::Refused(PublishError::WrongLast(text)),
                // Among them 10158, "duplicate message id is in process".
                _ => Try::Again(text),
            }
        }
        Err(error) => Try::Again(format!("unreadable acknowledgement: {error}")),
    }
}

struct Waiting {
    message: Outgoing,
    deadline: Instant,
    done: oneshot::Sender<Result<Stored, PublishError>>,
}

/// Collects messages for a stream and sends what waits as one atomic batch.
pub(crate) struct Batcher {
    enabled: bool,
    client: Client,
    flow: Arc<Flow>,
    lanes: Mutex<HashMap<String, mpsc::Sender<Waiting>>>,
    next_id: Arc<AtomicU64>,
}

impl Batcher {
    pub(crate) fn new(client: Client, enabled: bool) -> Self {
        Self {
            enabled,
            client,
            flow: Arc::default(),
            lanes: Mutex::default(),
            next_id: Arc::default(),
        }
    }

    async fn publish(&self, message: Outgoing, within: Duration) -> Result<Stored, PublishError> {
        let lane = self.lane(&message.subject);
        let (done, answer) = oneshot::channel();
        let waiting = Waiting {
            message,
            deadline: Instant::now() + within,
            done,
        };
        if lane.send(waiting).await.is_err() {
            return Err(PublishError::Unavailable(
                "the publisher has stopped".to_owned(),
            ));
        }
        answer.await.unwrap_or_else(|_| {
            Err(PublishError::Unavailable(
                "the publisher has stopped".to_owned(),
            ))
        })
    }

    /// A lane for each stream, told by the subject's kind and shard; a batch must not span streams.
    fn lane(&self, subject: &str) -> mpsc::Sender<Waiting> {
        let key = lane_key(subject);
        let mut lanes = self
            .lanes
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        lanes
            .entry(key)
            .or_insert_with(|| {
                let (sender, receiver) = mpsc::channel(BATCH_QUEUE);
                let client = self.client.clone();
                let ids = self.next_id.clone();
                #[expect(
                    clippy::disallowed_methods,
                    reason = "ends with the Bus: the channel closes"
                )]
                tokio::spawn(run_lane(client, self.flow.clone(), ids, receiver));
                sender
            })
            .clone()
    }
}

fn lane_key(subject: &str) -> String {
    let mut tokens = subject.split('.');
    let kind = (
        tokens.next().unwrap_or_default(),
        tokens.next().unwrap_or_default(),
    );
    let shard = match kind.1 {
        "dlv" | "sched" | "due" => tokens
            .next()
            .and_then(|partition| partition.parse::<u16>().ok())
            .map_or(0, |partition| {
                partition / crate::names::PARTITIONS_PER_STREAM
            }),
        _ => 0,
    };
    format!("{}.{}.{shard}", kind.0, kind.1)
}

async fn run_lane(
    client: Client,
    flow: Arc<Flow>,
    ids: Arc<AtomicU64>,
    mut queue: mpsc::Receiver<Waiting>,
) {
    let places = Arc::new(Semaphore::new(BATCHES_IN_FLIGHT));
    let mut batch = Vec::with_capacity(MAX_BATCH);
    // The place is taken first: while all are in use, messages pile up and make the next batch larger.
    while let Ok(place) = places.clone().acquire_owned().await {
        if queue.recv_many(&mut batch, MAX_BATCH).await == 0 {
            return;
        }
        let messages = std::mem::replace(&mut batch, Vec::with_capacity(MAX_BATCH));
        let id = ids.fetch_add(1, Ordering::Relaxed);
        let (client, flow) = (client.clone(), flow.clone());
        #[expect(
            clippy::disallowed_methods,
            reason = "bounded by its place; answers its callers"
        )]
        tokio::spawn(async move {
            send_together(&client, &flow, id, messages).await;
            drop(place);
        });
    }
}

async fn send_together(client: &Client, flow: &Flow, id: u64, messages: Vec<Waiting>) {
    if messages.len() > 1 {
        match atomic(client, id, &messages).await {
            Ok(last) => {
                let first = last - (messages.len() as u64 - 1);
                for (seq, waiting) in (first..).zip(messages) {
                    answer(
                        waiting.done,
                        Ok(Stored {
                            seq,
                            duplicate: false,
                        }),
                    );
                }
                return;
            }
            Err(reason) => tracing::debug!(reason, "atomic batch refused, publishing one by one"),
        }
    }
    join_all(messages.into_iter().map(|waiting| async move {
        let within = waiting.deadline.saturating_duration_since(Instant::now());
        let result = publish_single(client, flow, waiting.message, within).await;
        answer(waiting.done, result);
    }))
    .await;
}

/// A caller that went away needs no answer.
fn answer(
    done: oneshot::Sender<Result<Stored, PublishError>>,
    result: Result<Stored, PublishError>,
) {
    if done.send(result).is_err() {
        tracing::trace!("the publisher's caller has gone");
    }
}

/// Sends one atomic batch; returns the sequence of its last message.
async fn atomic(client: &Client, id: u64, messages: &[Waiting]) -> Result<u64, String> {
    let batch_id = format!("{}-{id}", uuid::Uuid::new_v4().simple());
    let last = messages.len() - 1;
    for (index, waiting) in messages.iter().enumerate() {
        let mut headers = waiting.message.headers.clone();
        headers.insert("Nats-Batch-Id", batch_id.as_str());
        headers.insert("Nats-Batch-Sequence", (index + 1).to_string().as_str());
        let subject = waiting.message.subject.clone();
        let payload = waiting.message.payload.clone();
        if index < last {
            client
                .publish_with_headers(subject, headers, payload)
                .await
                .map_err(|error| error.to_string())?;
        } else {
            headers.insert("Nats-Batch-Commit", "1");
            let request = Request::new()
                .headers(headers)
                .payload(payload)
                .timeout(Some(TRY_TIMEOUT));
            let reply = client
                .send_request(subject, request)
                .await
                .map_err(|error| error.to_string())?;
            return match read_ack(&reply.payload) {
                Try::Stored(stored) => Ok(stored.seq),
                Try::Refused(error) => Err(error.to_string()),
                Try::Again(reason) => Err(reason),
            };
        }
    }
    Err("an empty batch".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_is_a_stream() {
        assert_eq!(lane_key("wh.dlv.15.a.b"), lane_key("wh.dlv.0.c.d"));
        assert_ne!(lane_key("wh.dlv.16.a.b"), lane_key("wh.dlv.0.c.d"));
        assert_ne!(lane_key("wh.dlv.0.a"), lane_key("wh.sched.0.a"));
        assert_eq!(lane_key("wh.evt.3.x"), lane_key("wh.evt.7.y"));
    }

    #[test]
    fn acknowledgements_are_told_apart() {
        assert!(matches!(
            read_ack(br#"{"stream":"S","seq":7,"duplicate":true}"#),
            Try::Stored(Stored {
                seq: 7,
                duplicate: true
            })
        ));
        let refused = |code: u32| {
            let text = format!(r#"{{"error":{{"code":503,"err_code":{code},"description":"x"}}}}"#);
            read_ack(text.as_bytes())
        };
        assert!(matches!(
            refused(10_077),
            Try::Refused(PublishError::Full(_))
        ));
        assert!(matches!(
            refused(10_071),
            Try::Refused(PublishError::WrongLast(_))
        ));
        assert!(matches!(refused(10_158), Try::Again(_)));
        assert!(matches!(read_ack(b"?"), Try::Again(_)));
    }
}
