//! A delivery in hand.

use bytes::Bytes;
use prost::Message as _;
use uuid::Uuid;
use webhooks_bus::Pulled;
use webhooks_domain::ids::Trigger;
use webhooks_proto::{
    internal::v1::{DeliveryJob, DeliveryRef},
    v1,
};

/// Which of a partition's two streams a message came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    /// DELIVERIES: owed since fan-out.
    Fresh,
    /// RETRIES: a schedule that has fired.
    Due,
}

/// What identifies a message while it is ours.
pub(crate) type MessageKey = (Lane, u64);

/// A decoded delivery, with the message it is owed by.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) key: MessageKey,
    pub(crate) delivery: Uuid,
    pub(crate) webhook: Uuid,
    pub(crate) workspace: Uuid,
    /// Number of the attempt to make, from 1.
    pub(crate) attempt: u32,
    /// Number of the attempt that its message owes.
    pub(crate) owed: u32,
    pub(crate) park: u32,
    pub(crate) trigger: Trigger,
    pub(crate) message_id: String,
    pub(crate) body: Bytes,
    pub(crate) traceparent: String,
    pub(crate) recheck: bool,
    /// Its outcome is recorded already: only its message is left to acknowledge.
    pub(crate) over: bool,
    pub(crate) reference: DeliveryRef,
}

impl Job {
    /// Reads a message of either lane.
    ///
    /// # Errors
    /// Says what is wrong with a poison message.
    pub(crate) fn decode(lane: Lane, pulled: &Pulled) -> Result<Self, String> {
        let job = DeliveryJob::decode(pulled.payload.clone()).map_err(|error| error.to_string())?;
        let reference = job.delivery.ok_or("no delivery in it")?;
        let id = |what: &str, bytes: &Bytes| {
            Uuid::from_slice(bytes).map_err(|error| format!("{what}: {error}"))
        };
        Ok(Self {
            key: (lane, pulled.stream_seq),
            delivery: id("delivery_id", &reference.delivery_id)?,
            webhook: id("webhook_id", &reference.webhook_id)?,
            workspace: id("workspace_id", &reference.workspace_id)?,
            attempt: job.attempt.max(1),
            owed: job.attempt.max(1),
            park: job.park,
            trigger: match v1::Trigger::try_from(reference.trigger) {
                Ok(v1::Trigger::Replay) => Trigger::Replay,
                Ok(v1::Trigger::Test) => Trigger::Test,
                _ => Trigger::Event,
            },
            message_id: job.message_id,
            body: job.body,
            traceparent: job.traceparent,
            recheck: job.recheck || pulled.delivered > 1,
            over: false,
            reference,
        })
    }

    /// Whether attempts were made since its message was written.
    pub(crate) fn made_progress(&self) -> bool {
        self.attempt != self.owed
    }

    /// The message that owes attempt `attempt` of this delivery at `due_at` (microseconds).
    pub(crate) fn encode(&self, attempt: u32, park: u32, due_at: i64) -> Bytes {
        DeliveryJob {
            delivery: Some(self.reference.clone()),
            attempt,
            park,
            message_id: self.message_id.clone(),
            body: self.body.clone(),
            traceparent: self.traceparent.clone(),
            due_at,
            recheck: false,
        }
        .encode_to_vec()
        .into()
    }
}
