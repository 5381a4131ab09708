//! Reading many messages of a stream with one question.

use async_nats::HeaderMap;
use futures::StreamExt as _;

use crate::{
    bus::{Bus, REQUEST_TIMEOUT},
    error::{BusError, unavailable},
    read::StoredMessage,
};

/// Most messages of one answer.
const MAX_READ: usize = 1_000;

/// Most bytes of one answer (its last message may go beyond).
const MAX_READ_BYTES: u32 = 4 * 1024 * 1024;

/// Status of the answer that ends a batch.
const END_OF_BATCH: u16 = 204;

/// Status of the answer that there is nothing.
pub(crate) const NOTHING_FOUND: u16 = 404;

/// Headers in which the server tells what a message was.
const TOLD: [&str; 6] = [
    "Nats-Sequence",
    "Nats-Subject",
    "Nats-Time-Stamp",
    "Nats-Stream",
    "Nats-Num-Pending",
    "Nats-Last-Sequence",
];

/// Where a batch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadFrom {
    /// At this sequence.
    Seq(u64),
    /// At what was stored at this moment or later, microseconds since the epoch.
    Micros(i64),
}

impl Bus {
    /// Messages whose subject matches `filter`, in order, at most `max` (up to 1,000) and some
    /// 4 MiB. None at all means that there is none left; fewer than `max` means nothing. In a
    /// cluster the answer may lag behind the leader a little.
    ///
    /// # Errors
    /// When the stream does not answer in time.
    pub async fn get_batch(
        &self,
        stream: &str,
        filter: &str,
        from: ReadFrom,
        max: usize,
    ) -> Result<Vec<StoredMessage>, BusError> {
        let mut question = serde_json::json!({
            "next_by_subj": filter,
            "batch": max.clamp(1, MAX_READ),
            "max_bytes": MAX_READ_BYTES,
        });
        match from {
            ReadFrom::Seq(seq) => question["seq"] = seq.max(1).into(),
            ReadFrom::Micros(micros) => {
                question["start_time"] = webhooks_domain::event::format_micros(micros).into();
            }
        }
        let inbox = self.client().new_inbox();
        let mut answers = self
            .client()
            .subscribe(inbox.clone())
            .await
            .map_err(unavailable)?;
        let ask = format!("$JS.API.DIRECT.GET.{stream}");
        self.client()
            .publish_with_reply(ask, inbox, question.to_string().into())
            .await
            .map_err(unavailable)?;
        let mut found = Vec::new();
        let read = async {
            while let Some(answer) = answers.next().await {
                match answer.status.map(|status| status.as_u16()) {
                    None => found.push(told(answer)?),
                    Some(END_OF_BATCH | NOTHING_FOUND) => return Ok(()),
                    Some(status) => {
                        let text = answer.description.unwrap_or_default();
                        return Err(BusError::Unavailable(format!("{status} {text}")));
                    }
                }
            }
            Err(BusError::Unavailable("the connection ended".to_owned()))
        };
        match tokio::time::timeout(REQUEST_TIMEOUT, read).await {
            Ok(Ok(())) => Ok(found),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(BusError::Unavailable("no answer in time".to_owned())),
        }
    }
}

/// From an answer, whose headers tell what the message was.
fn told(answer: async_nats::Message) -> Result<StoredMessage, BusError> {
    let all = answer.headers.unwrap_or_default();
    let value = |name: &str| {
        let value = all.get(name).map(async_nats::HeaderValue::as_str);
        value.ok_or_else(|| BusError::Decode(format!("a stored message without {name}")))
    };
    let seq = value("Nats-Sequence")?;
    let seq = seq
        .parse()
        .map_err(|_| BusError::Decode(format!("{seq:?} is no sequence")))?;
    let time = value("Nats-Time-Stamp")?;
    let published_micros = webhooks_domain::event::parse_rfc3339_micros(time)
        .ok_or_else(|| BusError::Decode(format!("{time:?} is no time")))?;
    let subject = value("Nats-Subject")?.to_owned();
    let mut headers = HeaderMap::new();
    for (name, values) in all.iter() {
        if !TOLD.contains(&name.as_ref()) {
            for value in values {
                headers.append(name.clone(), value.clone());
            }
        }
    }
    Ok(StoredMessage {
        seq,
        subject,
        headers,
        payload: answer.payload,
        published_micros,
    })
}
