//! Reading single messages and sequences, from the stream's leader unless it says otherwise.

use std::{collections::HashMap, time::Duration};

use async_nats::{
    HeaderMap,
    jetstream::{ErrorCode, consumer, message::StreamMessage},
};
use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::{
    batch::NOTHING_FOUND,
    bus::Bus,
    config::CONFIG_STREAM,
    error::{BusError, unavailable},
};

/// A message as it stands in a stream.
#[derive(Debug, Clone)]
pub struct StoredMessage {
    /// Its sequence.
    pub seq: u64,
    /// Its subject.
    pub subject: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its bytes.
    pub payload: Bytes,
    /// When it was stored: microseconds since the epoch.
    pub published_micros: i64,
}

impl StoredMessage {
    /// A header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(async_nats::HeaderValue::as_str)
    }

    /// Whether it says that its key has gone: deleted, or its time to live has passed.
    #[must_use]
    pub fn is_end_of_key(&self) -> bool {
        self.header("KV-Operation").is_some() || self.header("Nats-Marker-Reason").is_some()
    }
}

impl From<StreamMessage> for StoredMessage {
    fn from(message: StreamMessage) -> Self {
        Self {
            seq: message.sequence,
            subject: message.subject.to_string(),
            headers: message.headers,
            payload: message.payload,
            published_micros: crate::micros(message.time),
        }
    }
}

#[derive(serde::Deserialize)]
struct Info {
    state: State,
}

#[derive(serde::Deserialize)]
struct State {
    last_seq: u64,
    messages: u64,
}

/// How far a consumer has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConsumerState {
    /// Everything up to this sequence of the stream is acknowledged.
    pub acknowledged_to: u64,
    /// Messages that it has not been handed yet.
    pub pending: u64,
    /// Messages that it holds unacknowledged.
    pub unacknowledged: u64,
}

#[derive(serde::Deserialize)]
struct Led {
    /// Not there where the server is alone by its configuration.
    cluster: Option<Leader>,
    /// Told with every stream, and asked for so that no refusal is read as this.
    #[expect(dead_code, reason = "it only has to be there")]
    state: serde::de::IgnoredAny,
}

#[derive(serde::Deserialize)]
struct Leader {
    leader: Option<String>,
}

#[derive(serde::Deserialize)]
struct Extent {
    config: Copies,
    state: State,
    cluster: Option<Peers>,
}

#[derive(serde::Deserialize)]
struct Peers {
    replicas: Option<Vec<serde::de::IgnoredAny>>,
}

#[derive(serde::Deserialize)]
struct Copies {
    num_replicas: usize,
}

#[derive(serde::Deserialize)]
struct Timed {
    /// RFC 3339.
    ts: String,
}

#[derive(serde::Deserialize)]
struct FillInfo {
    config: FillConfig,
    state: FillState,
    ts: String,
}

#[derive(serde::Deserialize)]
struct FillConfig {
    max_bytes: i64,
}

#[derive(serde::Deserialize)]
struct FillState {
    bytes: u64,
    messages: u64,
    first_ts: String,
}

/// How full a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fill {
    /// Bytes in it.
    pub bytes: u64,
    /// Most bytes it takes; 0 = no limit.
    pub max_bytes: u64,
    /// Messages in it.
    pub messages: u64,
    /// How long its oldest message has been there; zero when it is empty.
    pub oldest: Duration,
}

impl Fill {
    /// The share that is taken; 0 where there is no limit.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        if self.max_bytes == 0 {
            return 0.0;
        }
        #[expect(clippy::cast_precision_loss, reason = "a share needs no more")]
        let ratio = self.bytes as f64 / self.max_bytes as f64;
        ratio
    }
}

#[derive(serde::Deserialize)]
struct SubjectsInfo {
    state: SubjectsState,
}

#[derive(serde::Deserialize)]
struct SubjectsState {
    #[serde(default)]
    subjects: Option<HashMap<String, u64>>,
}

impl Bus {
    /// The message at `seq`, if it is still there.
    ///
    /// # Errors
    /// When the stream does not answer.
    pub async fn get(&self, stream: &str, seq: u64) -> Result<Option<StoredMessage>, BusError> {
        let handle = self
            .jetstream()
            .get_stream_no_info(stream)
            .await
            .map_err(unavailable)?;
        match handle.raw_message_builder().sequence(seq).send().await {
            Ok(message) => Ok(Some(message.into())),
            Err(error) => absent(error),
        }
    }

    /// The first message at or after `seq` whose subject matches `filter`.
    ///
    /// # Errors
    /// When the stream does not answer.
    pub async fn get_next(
        &self,
        stream: &str,
        filter: &str,
        seq: u64,
    ) -> Result<Option<StoredMessage>, BusError> {
        let handle = self
            .jetstream()
            .get_stream_no_info(stream)
            .await
            .map_err(unavailable)?;
        match handle.get_first_raw_message_by_subject(filter, seq).await {
            Ok(message) => Ok(Some(message.into())),
            Err(error) => absent(error),
        }
    }

    /// The newest message of `subject`.
    ///
    /// # Errors
    /// When the stream does not answer.
    pub async fn get_last(
        &self,
        stream: &str,
        subject: &str,
    ) -> Result<Option<StoredMessage>, BusError> {
        let handle = self
            .jetstream()
            .get_stream_no_info(stream)
            .await
            .map_err(unavailable)?;
        match handle.get_last_raw_message_by_subject(subject).await {
            Ok(message) => Ok(Some(message.into())),
            Err(error) => absent(error),
        }
    }

    /// Removes one message from a stream, whoever holds it.
    ///
    /// # Errors
    /// When the stream does not answer.
    pub async fn remove(&self, stream: &str, seq: u64) -> Result<bool, BusError> {
        let handle = self
            .jetstream()
            .get_stream_no_info(stream)
            .await
            .map_err(unavailable)?;
        handle.delete_message(seq).await.map_err(unavailable)
    }

    /// Removes the messages of one subject up to and with `last`: one request, however many they are.
    ///
    /// # Errors
    /// When the stream does not answer; whether they have gone is unknown then.
    pub async fn remove_to(&self, stream: &str, subject: &str, last: u64) -> Result<(), BusError> {
        let handle = self
            .jetstream()
            .get_stream_no_info(stream)
            .await
            .map_err(unavailable)?;
        let purge = handle.purge().filter(subject).sequence(last + 1);
        purge.await.map(drop).map_err(unavailable)
    }

    /// The stream's last sequence, from its leader.
    ///
    /// # Errors
    /// When the stream does not answer.
    pub async fn last_seq(&self, stream: &str) -> Result<u64, BusError> {
        self.state(stream).await.map(|state| state.last_seq)
    }

    /// The stream's last sequence, and whether there is one copy of the stream, from its leader.
    ///
    /// # Errors
    /// When the stream does not answer.
    pub(crate) async fn last_seq_and_whether_alone(
        &self,
        stream: &str,
    ) -> Result<(u64, bool), BusError> {
        let found: Extent = self.info_of(stream).await?;
        // While a stream moves, others have copies whatever its configuration says.
        let others = found.cluster.and_then(|cluster| cluster.replicas);
        let alone = found.config.num_replicas == 1 && others.is_none_or(|others| others.is_empty());
        Ok((found.state.last_seq, alone))
    }

    /// Whether `seq` is the newest message of the stream, and there. Any copy of the stream answers, one
    /// that lags too; where there is only one, the answer is as true as the leader's, and much cheaper: it
    /// is a direct get, which does not go through the server's one queue of API requests.
    ///
    /// False also when `seq` is not there any more, and when a mirror answers.
    ///
    /// # Errors
    /// When the stream does not answer.
    pub(crate) async fn is_newest(&self, stream: &str, seq: u64) -> Result<bool, BusError> {
        // A batch of one also tells how many come after it. The batch's end is not waited for.
        let question = serde_json::json!({ "next_by_subj": ">", "seq": seq.max(1), "batch": 1 });
        let ask = format!("$JS.API.DIRECT.GET.{stream}");
        let answer = self.client().request(ask, question.to_string().into());
        let answer = answer.await.map_err(unavailable)?;
        match answer.status.map(|status| status.as_u16()) {
            None => {
                let headers = answer.headers.unwrap_or_default();
                let says = |name: &str, value: &str| {
                    let said = headers.get(name).map(async_nats::HeaderValue::as_str);
                    said == Some(value)
                };
                Ok(says("Nats-Stream", stream)
                    && says("Nats-Sequence", &seq.to_string())
                    && says("Nats-Num-Pending", "0"))
            }
            Some(NOTHING_FOUND) => Ok(false),
            Some(status) => {
                let text = answer.description.unwrap_or_default();
                Err(BusError::Unavailable(format!("{status} {text}")))
            }
        }
    }

    /// How many messages a stream holds.
    ///
    /// # Errors
    /// When the stream does not answer.
    pub async fn message_count(&self, stream: &str) -> Result<u64, BusError> {
        self.state(stream).await.map(|state| state.messages)
    }

    /// What time it is at the server that leads a stream, in microseconds since the epoch.
    ///
    /// # Errors
    /// When the stream does not answer, or without a time.
    pub async fn server_micros(&self, stream: &str) -> Result<i64, BusError> {
        let info: Timed = self.info_of(stream).await?;
        webhooks_domain::event::parse_rfc3339_micros(&info.ts)
            .ok_or_else(|| BusError::Decode("the server's time is none".to_owned()))
    }

    /// How full a stream is.
    ///
    /// # Errors
    /// When the stream does not answer.
    pub async fn fill(&self, stream: &str) -> Result<Fill, BusError> {
        let info: FillInfo = self.info_of(stream).await?;
        let parse = webhooks_domain::event::parse_rfc3339_micros;
        let oldest = match (parse(&info.ts), parse(&info.state.first_ts)) {
            (Some(now), Some(first)) if info.state.messages > 0 => now.saturating_sub(first),
            _ => 0,
        };
        Ok(Fill {
            bytes: info.state.bytes,
            max_bytes: u64::try_from(info.config.max_bytes).unwrap_or(0),
            messages: info.state.messages,
            oldest: Duration::from_micros(u64::try_from(oldest).unwrap_or(0)),
        })
    }

    /// Whether JetStream works where we are connected: not when nobody answers in time, and not when the
    /// server knows no leader.
    pub(crate) async fn is_answered(&self) -> bool {
        use async_nats::jetstream::response::Response;
        let request = format!("STREAM.INFO.{CONFIG_STREAM}");
        let answer: Result<Response<Led>, _> = self.jetstream().request(request, &()).await;
        match answer {
            // One that is alone tells what it has; it only knows no leader any more.
            Ok(Response::Ok(led)) => led.cluster.is_none_or(|cluster| cluster.leader.is_some()),
            Ok(Response::Err { error }) => error.error_code() != ErrorCode::CLUSTER_NOT_AVAILABLE,
            Err(error) => {
                tracing::debug!(%error, "nats.asked");
                false
            }
        }
    }

    /// What a stream's leader says of it, as far as `T` asks.
    async fn info_of<T: DeserializeOwned>(&self, stream: &str) -> Result<T, BusError> {
        use async_nats::jetstream::response::Response;
        let answer: Response<T> = self
            .jetstream()
            .request(format!("STREAM.INFO.{stream}"), &())
            .await
            .map_err(unavailable)?;
        match answer {
            Response::Ok(info) => Ok(info),
            Response::Err { error } => Err(unavailable(error)),
        }
    }

    /// How a consumer is set, if it is there.
    ///
    /// # Errors
    /// When the stream does not answer.
    pub(crate) async fn consumer_config(
        &self,
        stream: &str,
        consumer: &str,
    ) -> Result<Option<consumer::Config>, BusError> {
        use async_nats::jetstream::{consumer::Info, response::Response};
        let answer: Response<Info> = self
            .jetstream()
            .request(
                format!("CONSUMER.INFO.{stream}.{consumer}"),
                &serde_json::json!({}),
            )
            .await
            .map_err(unavailable)?;
        match answer {
            Response::Ok(info) => Ok(Some(info.config)),
            Response::Err { error } if error.code() == 404 => Ok(None),
            Response::Err { error } => Err(unavailable(error)),
        }
    }

    /// How far a consumer has come.
    ///
    /// # Errors
    /// When the stream does not answer.
    pub async fn consumer_state(
        &self,
        stream: &str,
        consumer: &str,
    ) -> Result<ConsumerState, BusError> {
        let handle = self
            .jetstream()
            .get_stream_no_info(stream)
            .await
            .map_err(unavailable)?;
        let info = handle.consumer_info(consumer).await.map_err(unavailable)?;
        Ok(ConsumerState {
            acknowledged_to: info.ack_floor.stream_sequence,
            pending: info.num_pending,
            unacknowledged: u64::try_from(info.num_ack_pending).unwrap_or(0),
        })
    }

    /// How many messages each subject that matches `filter` has; at most the first 100,000 subjects.
    ///
    /// # Errors
    /// When the stream does not answer.
    pub async fn subject_counts(
        &self,
        stream: &str,
        filter: &str,
    ) -> Result<HashMap<String, u64>, BusError> {
        use async_nats::jetstream::response::Response;
        let question = serde_json::json!({ "subjects_filter": filter });
        let answer: Response<SubjectsInfo> = self
            .jetstream()
            .request(format!("STREAM.INFO.{stream}"), &question)
            .await
            .map_err(unavailable)?;
        match answer {
            Response::Ok(info) => Ok(info.state.subjects.unwrap_or_default()),
            Response::Err { error } => Err(unavailable(error)),
        }
    }

    async fn state(&self, stream: &str) -> Result<State, BusError> {
        use async_nats::jetstream::response::Response;
        let answer: Response<Info> = self
            .jetstream()
            .request(format!("STREAM.INFO.{stream}"), &())
            .await
            .map_err(unavailable)?;
        match answer {
            Response::Ok(info) => Ok(info.state),
            Response::Err { error } => Err(unavailable(error)),
        }
    }
}

fn absent(
    error: async_nats::jetstream::stream::RawMessageError,
) -> Result<Option<StoredMessage>, BusError> {
    use async_nats::jetstream::stream::RawMessageErrorKind;
    match error.kind() {
        RawMessageErrorKind::NoMessageFound => Ok(None),
        _ => Err(unavailable(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::{Duration, Fill};

    #[test]
    fn a_stream_without_a_limit_is_never_full() {
        let fill = |bytes, max_bytes| {
            let fill = Fill {
                bytes,
                max_bytes,
                messages: 1,
                oldest: Duration::ZERO,
            };
            fill.ratio()
        };
        assert!(fill(5, 0).abs() < f64::EPSILON);
        assert!((fill(3, 4) - 0.75).abs() < f64::EPSILON);
    }
}
