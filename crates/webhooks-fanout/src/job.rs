//! From a recorded match to the message that a delivery is owed by.

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message as _;
use uuid::Uuid;
use webhooks_bus::{Outgoing, subjects};
use webhooks_domain::{hop::Hop, ids};
use webhooks_proto::{
    internal::v1::{
        DeliveryJob, DeliveryRef, DeliveryReport, Match, Rendition, SnapshotPlace, Verdict,
    },
    v1::{DeliveryState, Trigger},
};

/// What is the same for every delivery of an event.
#[derive(Debug)]
pub struct JobMaker<'v> {
    verdict: &'v Verdict,
    workspace: Uuid,
    traceparent: String,
    hop: Hop,
    partitions: u16,
    recheck: bool,
}

/// A recorded verdict that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadVerdict {
    /// An id is not 16 bytes long.
    #[error("{0} is not an id of 16 bytes")]
    Id(&'static str),
    /// A match points to a rendition that is not there.
    #[error("rendition {0} is not there")]
    Rendition(u32),
    /// It does not decode, or parts of it are missing.
    #[error("{0}")]
    Incomplete(String),
}

/// A delivery to publish.
#[derive(Debug)]
pub struct Job {
    /// The message.
    pub message: Outgoing,
    /// The delivery.
    pub reference: DeliveryRef,
    /// The partition of its webhook.
    pub partition: u16,
    /// It goes to HELD.
    pub held: bool,
}

impl<'v> JobMaker<'v> {
    /// Makes the deliveries of a verdict; `verdict` is its part 0, `hop` its event's. `recheck` says that
    /// an earlier run may have published them, so that the dispatcher looks them up before it sends.
    ///
    /// # Errors
    /// The workspace is no id.
    pub fn new(
        verdict: &'v Verdict,
        traceparent: String,
        hop: Hop,
        partitions: u16,
        recheck: bool,
    ) -> Result<Self, BadVerdict> {
        let workspace = uuid(&verdict.workspace_id, "the workspace")?;
        Ok(Self {
            verdict,
            workspace,
            traceparent,
            hop,
            partitions,
            recheck,
        })
    }

    /// The delivery that `found` is owed.
    ///
    /// # Errors
    /// The match does not make sense.
    pub fn job(&self, found: &Match) -> Result<Job, BadVerdict> {
        let webhook = uuid(&found.webhook_id, "the webhook")?;
        let delivery = uuid(&found.delivery_id, "the delivery")?;
        let rendition = usize::try_from(found.rendition)
            .ok()
            .and_then(|index| self.verdict.renditions.get(index))
            .ok_or(BadVerdict::Rendition(found.rendition))?;
        let reference = self.reference(found);
        let job = DeliveryJob {
            delivery: Some(reference.clone()),
            attempt: 1,
            message_id: ids::message_id(self.workspace, &self.verdict.event_id, webhook),
            body: body(rendition, &found.snapshot),
            traceparent: self.traceparent.clone(),
            recheck: self.recheck,
            snapshot: place(rendition, found),
            hop: self.hop.get().into(),
            ..DeliveryJob::default()
        };
        let partition = ids::partition_of(webhook, self.partitions);
        let subject = if found.held {
            subjects::held(partition, webhook)
        } else {
            subjects::delivery(partition, webhook, delivery)
        };
        let message = Outgoing::new(subject, &delivery.to_string(), job.encode_to_vec().into());
        Ok(Job {
            message,
            reference,
            partition,
            held: found.held,
        })
    }

    fn reference(&self, found: &Match) -> DeliveryRef {
        DeliveryRef {
            delivery_id: found.delivery_id.clone(),
            webhook_id: found.webhook_id.clone(),
            workspace_id: self.verdict.workspace_id.clone(),
            event_id: self.verdict.event_id.clone(),
            event_type: self.verdict.event_type.clone(),
            link_id: self.verdict.link_id.clone(),
            lbid: self.verdict.lbid.clone(),
            trigger: Trigger::Event.into(),
            created_at: self.verdict.accepted_at,
            event_seq: self.verdict.event_seq,
        }
    }
}

impl Job {
    /// The same delivery for its partition's owner, who finds that its webhook holds.
    #[must_use]
    pub fn unheld(&self) -> Outgoing {
        let id = |bytes: &[u8]| uuid(bytes, "an id that was read before").unwrap_or_default();
        let (webhook, delivery) = (
            id(&self.reference.webhook_id),
            id(&self.reference.delivery_id),
        );
        Outgoing {
            subject: subjects::delivery(self.partition, webhook, delivery),
            ..self.message.clone()
        }
    }

    /// What management is told when the webhook's place on HELD is full: the delivery is over,
    /// nothing was sent, and a person may replay it.
    #[must_use]
    pub fn overflow_report(&self, now_micros: i64) -> Outgoing {
        let report = DeliveryReport {
            delivery: Some(self.reference.clone()),
            state: DeliveryState::Cancelled.into(),
            at: now_micros,
            reason: "hold_overflow".to_owned(),
            ..DeliveryReport::default()
        };
        let id = uuid(&self.reference.delivery_id, "the delivery").unwrap_or_default();
        Outgoing::new(
            subjects::report(self.partition),
            &format!("{id}:overflow"),
            report.encode_to_vec().into(),
        )
    }
}

/// The frozen body: what was sanitised, with the snapshot in its place.
fn body(rendition: &Rendition, snapshot: &[u8]) -> Bytes {
    let length = rendition.head.len() + snapshot.len() + rendition.tail.len();
    let mut body = BytesMut::with_capacity(length);
    for part in [&rendition.head[..], snapshot, &rendition.tail] {
        body.put_slice(part);
    }
    body.freeze()
}

/// Where the snapshot stands in the body.
fn place(rendition: &Rendition, found: &Match) -> Option<SnapshotPlace> {
    Some(SnapshotPlace {
        start: u32::try_from(rendition.head.len()).ok()?,
        length: u32::try_from(found.snapshot.len()).ok()?,
        rendition: found.rendition,
    })
}

fn uuid(bytes: &[u8], what: &'static str) -> Result<Uuid, BadVerdict> {
    Uuid::from_slice(bytes).map_err(|_| BadVerdict::Id(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKSPACE: Uuid = Uuid::from_u128(1);
    const WEBHOOK: Uuid = Uuid::from_u128(2);

    fn bytes(id: Uuid) -> Bytes {
        Bytes::copy_from_slice(id.as_bytes())
    }

    fn verdict() -> Verdict {
        let rendition = |profile: &str| Rendition {
            profile: profile.to_owned(),
            head: format!(r#"{{"p":"{profile}","webhook":"#).into(),
            tail: r#","lbid":"x"}"#.into(),
        };
        Verdict {
            event_seq: 7,
            event_id: "e1".to_owned(),
            workspace_id: bytes(WORKSPACE),
            accepted_at: 1_760_112_750_000_000,
            parts: 1,
            renditions: vec![rendition("standard"), rendition("thin")],
            ..Verdict::default()
        }
    }

    fn found(rendition: u32, held: bool) -> Match {
        Match {
            webhook_id: bytes(WEBHOOK),
            delivery_id: bytes(ids::delivery_id(
                WORKSPACE,
                "e1",
                WEBHOOK,
                1_760_112_750_000_000,
            )),
            snapshot: r#"{"id":1}"#.into(),
            rendition,
            held,
        }
    }

    #[test]
    fn the_body_is_head_snapshot_and_tail_and_the_ids_are_the_computed_ones() {
        let verdict = verdict();
        let maker = JobMaker::new(&verdict, "trace".to_owned(), Hop::of(1), 16, false).unwrap();
        let job = maker.job(&found(1, false)).unwrap();
        let sent = DeliveryJob::decode(job.message.payload.clone()).unwrap();
        assert_eq!(sent.body, r#"{"p":"thin","webhook":{"id":1},"lbid":"x"}"#);
        let place = sent.snapshot.unwrap();
        let (start, length) = (place.start as usize, place.length as usize);
        assert_eq!(sent.body.slice(start..start + length), r#"{"id":1}"#);
        assert_eq!(place.rendition, 1);
        assert_eq!(sent.message_id, ids::message_id(WORKSPACE, "e1", WEBHOOK));
        assert_eq!(
            (sent.attempt, sent.park, sent.due_at, sent.recheck, sent.hop),
            (1, 0, 0, false, 1)
        );
        let delivery = ids::delivery_id(WORKSPACE, "e1", WEBHOOK, 1_760_112_750_000_000);
        let partition = ids::partition_of(WEBHOOK, 16);
        assert_eq!(
            job.message.subject,
            subjects::delivery(partition, WEBHOOK, delivery)
        );
        assert_eq!(job.reference.event_seq, 7);
    }

    #[test]
    fn a_held_delivery_goes_to_its_webhooks_place_and_an_overflow_is_told() {
        let verdict = verdict();
        let maker = JobMaker::new(&verdict, String::new(), Hop::default(), 16, true).unwrap();
        let job = maker.job(&found(0, true)).unwrap();
        assert_eq!(job.message.subject, subjects::held(job.partition, WEBHOOK));
        let report = DeliveryReport::decode(job.overflow_report(5).payload).unwrap();
        assert_eq!(report.state(), DeliveryState::Cancelled);
        assert_eq!(report.delivery, Some(job.reference));
    }

    #[test]
    fn a_verdict_that_makes_no_sense_is_refused() {
        let verdict = verdict();
        let maker = JobMaker::new(&verdict, String::new(), Hop::default(), 16, true).unwrap();
        assert_eq!(
            maker.job(&found(2, false)).unwrap_err(),
            BadVerdict::Rendition(2)
        );
        let nobody = Match {
            webhook_id: Bytes::new(),
            ..found(0, false)
        };
        assert_eq!(
            maker.job(&nobody).unwrap_err(),
            BadVerdict::Id("the webhook")
        );
        let nobodys = Verdict::default();
        assert!(JobMaker::new(&nobodys, String::new(), Hop::default(), 16, true).is_err());
    }
}
