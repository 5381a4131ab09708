//! A delivery in hand.

use bytes::Bytes;
use prost::Message as _;
use uuid::Uuid;
use webhooks_bus::{Pulled, StoredMessage, words::trigger_of};
use webhooks_domain::{hop::Hop, ids::Trigger};
use webhooks_proto::internal::v1::{AttemptEnded, DeliveryJob, DeliveryRef, SnapshotPlace};

use crate::{line::Rank, registry::Target};

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

/// Where a delivery may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bound {
    /// Wherever its webhook points.
    Free,
    /// It is a challenge to the very endpoint that is looked at.
    Here,
    /// It is a challenge to another endpoint.
    Elsewhere,
}

/// A message, and the delivery that it owes.
pub(crate) type Owed = (MessageKey, Uuid);

/// Why a message needs nothing but its acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    /// The delivery has ended, which is recorded.
    Ended,
    /// Its attempt is recorded, and the next one comes as another message at this time (microseconds).
    ComesAgain(i64),
    /// This process has finished the attempt: what follows from it has been done.
    Known,
}

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
    /// When its message was to come (microseconds); 0 = at once.
    pub(crate) due_micros: i64,
    pub(crate) trigger: Trigger,
    pub(crate) message_id: String,
    pub(crate) body: Bytes,
    pub(crate) traceparent: String,
    pub(crate) recheck: bool,
    /// Only its message is left to acknowledge.
    pub(crate) over: Option<Over>,
    /// How often in a row this attempt failed through a fault of our own.
    pub(crate) own_faults: u32,
    /// It waited when a person discarded what its webhook was owed.
    pub(crate) discarded: bool,
    /// When it was first held (microseconds); 0 = it never was.
    pub(crate) held_at: i64,
    /// It left HELD to find out whether its endpoint is well again.
    pub(crate) probe: bool,
    /// The failing delivery of its key that it was told to wait for.
    pub(crate) waits_for: Option<Uuid>,
    /// It owes nothing: it tells how an attempt ended at an owner that had lost the partition.
    pub(crate) ended: Option<AttemptEnded>,
    /// Where in `body` the webhook's snapshot stands.
    pub(crate) snapshot: Option<SnapshotPlace>,
    /// SHA-256 of the only URL that it may go to: a challenge. Empty = wherever its webhook points.
    pub(crate) endpoint: Bytes,
    /// How many deliveries lie behind its event.
    pub(crate) hop: Hop,
    pub(crate) reference: DeliveryRef,
}

impl Job {
    /// Reads a message of either lane.
    ///
    /// # Errors
    /// Says what is wrong with a poison message.
    pub(crate) fn decode(lane: Lane, pulled: &Pulled) -> Result<Self, String> {
        Self::read(
            (lane, pulled.stream_seq),
            &pulled.payload,
            pulled.delivered > 1,
        )
    }

    /// Reads a message of either lane as it stands in its stream.
    ///
    /// # Errors
    /// Says what is wrong with a poison message.
    pub(crate) fn decode_stored(lane: Lane, stored: &StoredMessage) -> Result<Self, String> {
        Self::read((lane, stored.seq), &stored.payload, false)
    }

    fn read(key: MessageKey, payload: &Bytes, redelivered: bool) -> Result<Self, String> {
        // Its own bytes: what came lies in a read buffer of the client's, which may be many times as
        // large and would be kept for as long as the delivery is.
        let payload = Bytes::copy_from_slice(payload);
        let job = DeliveryJob::decode(payload).map_err(|error| error.to_string())?;
        let reference = job.delivery.ok_or("no delivery in it")?;
        let id = |what: &str, bytes: &Bytes| {
            Uuid::from_slice(bytes).map_err(|error| format!("{what}: {error}"))
        };
        Ok(Self {
            key,
            delivery: id("delivery_id", &reference.delivery_id)?,
            webhook: id("webhook_id", &reference.webhook_id)?,
            workspace: id("workspace_id", &reference.workspace_id)?,
            attempt: job.attempt.max(1),
            owed: job.attempt.max(1),
            park: job.park,
            due_micros: job.due_at,
            trigger: trigger_of(reference.trigger()).unwrap_or(Trigger::Event),
            message_id: job.message_id,
            body: job.body,
            traceparent: job.traceparent,
            recheck: job.recheck || redelivered,
            over: None,
            own_faults: job.own_faults,
            discarded: job.discarded,
            held_at: job.held_at,
            probe: job.probe,
            // What is no id was told by nobody.
            waits_for: Uuid::from_slice(&job.waits_for).ok(),
            ended: job.ended,
            snapshot: job.snapshot,
            endpoint: job.endpoint,
            hop: Hop::of(job.hop),
            reference,
        })
    }

    /// What it is, without its bytes.
    pub(crate) fn owed_by(&self) -> Owed {
        (self.key, self.delivery)
    }

    /// Where it stands among its endpoint's deliveries, should they have an order.
    pub(crate) fn rank(&self) -> Rank {
        let hash = |bytes: &[u8]| {
            use std::hash::{DefaultHasher, Hash as _, Hasher as _};
            let mut hasher = DefaultHasher::new();
            bytes.hash(&mut hasher);
            (!bytes.is_empty()).then(|| hasher.finish())
        };
        Rank {
            link: hash(&self.reference.link_id),
            visitor: hash(self.reference.lbid.as_bytes()),
            seq: self.reference.event_seq,
            accepted_micros: self.reference.created_at,
            delivery: self.delivery,
        }
    }

    /// How long ago its event was accepted, at `now_micros`.
    pub(crate) fn age(&self, now_micros: i64) -> std::time::Duration {
        let age = now_micros.saturating_sub(self.reference.created_at);
        std::time::Duration::from_micros(u64::try_from(age).unwrap_or(0))
    }

    /// Whether it may go to this target and no other, or must not go there.
    pub(crate) fn bound(&self, target: &Target) -> Bound {
        match self.endpoint.as_ref() {
            [] => Bound::Free,
            endpoint if *endpoint == target.endpoint => Bound::Here,
            _ => Bound::Elsewhere,
        }
    }

    /// Whether attempts were made since its message was written.
    pub(crate) fn made_progress(&self) -> bool {
        self.attempt != self.owed
    }

    /// The message that owes attempt `attempt` of this delivery at `due_at` (microseconds).
    pub(crate) fn encode(&self, attempt: u32, park: u32, due_at: i64) -> Bytes {
        let same = attempt == self.attempt;
        DeliveryJob {
            delivery: Some(self.reference.clone()),
            attempt,
            park,
            message_id: self.message_id.clone(),
            body: self.body.clone(),
            traceparent: self.traceparent.clone(),
            due_at,
            waits_for: self
                .waits_for
                .filter(|_| same)
                .map(|head| Bytes::copy_from_slice(head.as_bytes()))
                .unwrap_or_default(),
            snapshot: self.snapshot,
            endpoint: self.endpoint.clone(),
            hop: self.hop.get().into(),
            own_faults: if same { self.own_faults } else { 0 },
            // A probe that is put aside is still one when it comes back.
            probe: same && self.probe,
            held_at: self.held_at,
            ..DeliveryJob::default()
        }
        .encode_to_vec()
        .into()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A delivery as it is read from a lane.
    pub(crate) fn job(lane: Lane, job: DeliveryJob) -> Job {
        let id = |n: u128| Bytes::copy_from_slice(Uuid::from_u128(n).as_bytes());
        let reference = DeliveryRef {
            delivery_id: id(1),
            webhook_id: id(2),
            workspace_id: id(3),
            ..job.delivery.clone().unwrap_or_default()
        };
        let job = DeliveryJob {
            delivery: Some(reference),
            ..job
        };
        Job::read((lane, 7), &job.encode_to_vec().into(), false).unwrap()
    }

    fn again(job: &Job, attempt: u32) -> Job {
        Job::read(job.key, &job.encode(attempt, job.park + 1, 9), false).unwrap()
    }

    #[test]
    fn what_is_put_aside_comes_back_as_it_was_and_a_further_attempt_begins_anew() {
        let probe = job(
            Lane::Fresh,
            DeliveryJob {
                attempt: 2,
                probe: true,
                own_faults: 3,
                held_at: 5,
                hop: 1,
                ..DeliveryJob::default()
            },
        );
        let aside = again(&probe, 2);
        assert_eq!(
            (aside.probe, aside.own_faults, aside.held_at, aside.park),
            (true, 3, 5, 1)
        );
        let next = again(&probe, 3);
        assert_eq!((next.probe, next.own_faults, next.held_at), (false, 0, 5));
        assert_eq!((aside.hop, next.hop), (Hop::of(1), Hop::of(1)));
    }

    #[test]
    fn a_delivery_keeps_its_own_bytes_and_not_the_buffer_that_they_came_in() {
        let message = DeliveryJob {
            body: Bytes::from_static(b"{}"),
            ..DeliveryJob::default()
        };
        let reference = job(Lane::Fresh, message.clone()).reference;
        let message = DeliveryJob {
            delivery: Some(reference),
            ..message
        };
        let mut buffer = message.encode_to_vec();
        let length = buffer.len();
        buffer.resize(64 * 1024, 0);
        let buffer = Bytes::from(buffer);
        let read = Job::read((Lane::Fresh, 1), &buffer.slice(..length), false).unwrap();
        let (first, last) = (buffer.as_ptr(), buffer.as_ptr().wrapping_add(buffer.len()));
        let inside = |bytes: &Bytes| (first..last).contains(&bytes.as_ptr());
        assert!(!inside(&read.body) && !inside(&read.reference.delivery_id));
    }
}
