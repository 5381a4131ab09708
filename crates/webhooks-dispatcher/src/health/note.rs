//! How an attempt ended, as health counts it, and the note of it to the partition's next owner.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use uuid::Uuid;
use webhooks_bus::{Outgoing, subjects};
use webhooks_domain::{
    endpoint::{FailureClass, Outcome},
    health::{Ended, Verdict},
    ids,
    retry::Next,
};
use webhooks_proto::{
    internal::v1::{AttemptEnded, DeliveryJob, DeliveryRef, EndedVerdict},
    v1,
};

use crate::{attempt::Attempted, job::Job, partition_io::publish_for_ever, shared::Shared};

/// What an attempt means for its endpoint's health. A test is a person's own try and means nothing.
pub(crate) fn ended_of(attempted: &Attempted, epoch: u64, at_micros: i64) -> Option<Ended> {
    if attempted.job.trigger == ids::Trigger::Test {
        return None;
    }
    let verdict = match (attempted.next, attempted.result.class) {
        (None, _) => Verdict::Delivered,
        (_, Some(FailureClass::Ours)) | (Some(Next::Again { .. }), _) => Verdict::Ours,
        _ if attempted.result.status == Some(410) => Verdict::Gone,
        (Some(Next::GiveUp), _) => Verdict::Failed,
        (Some(Next::Retry { .. }), _) => Verdict::Retried,
    };
    Some(Ended {
        epoch,
        delivery: attempted.job.delivery,
        attempt: attempted.job.attempt,
        probe: attempted.job.probe,
        verdict,
        at_micros,
        outcome: attempted.result.outcome,
        status_code: attempted.result.status,
        reason: attempted.result.reason().unwrap_or_default().to_owned(),
    })
}

/// Tells the next owner of the partition how an attempt ended. The message's id is of us and of the
/// `epoch` in which the partition was ours: an owner that got such a note and passes it on must not be
/// taken for the one who wrote it.
pub(crate) async fn tell_next_owner(
    shared: Arc<Shared>,
    partition: u16,
    webhook: Uuid,
    workspace: Uuid,
    epoch: u64,
    ended: Ended,
) {
    if matches!(ended.verdict, Verdict::Ours | Verdict::Retried) && !ended.probe {
        return;
    }
    let raw = |id: Uuid| Bytes::copy_from_slice(id.as_bytes());
    let note = DeliveryJob {
        delivery: Some(DeliveryRef {
            delivery_id: raw(ended.delivery),
            webhook_id: raw(webhook),
            workspace_id: raw(workspace),
            ..DeliveryRef::default()
        }),
        attempt: ended.attempt,
        ended: Some(wire(&ended)),
        ..DeliveryJob::default()
    };
    let (delivery, attempt) = (ended.delivery.simple(), ended.attempt);
    let id = format!("{delivery}:{attempt}:ended:{}:{epoch}", shared.name);
    let subject = subjects::delivery(partition, webhook, ended.delivery);
    let message = Outgoing::new(subject, &id, note.encode_to_vec().into());
    publish_for_ever(&shared.bus, message).await;
}

fn wire(ended: &Ended) -> AttemptEnded {
    AttemptEnded {
        epoch: ended.epoch,
        verdict: match ended.verdict {
            Verdict::Delivered => EndedVerdict::Delivered,
            Verdict::Failed => EndedVerdict::Failed,
            Verdict::Retried => EndedVerdict::Retried,
            Verdict::Gone => EndedVerdict::Gone,
            Verdict::Ours => EndedVerdict::Ours,
        }
        .into(),
        probe: ended.probe,
        at: ended.at_micros,
        outcome: v1::Outcome::from_str_name(&format!("OUTCOME_{}", ended.outcome.as_str()))
            .unwrap_or_default()
            .into(),
        status_code: ended.status_code.map_or(0, u32::from),
        reason: ended.reason.clone(),
    }
}

/// Reads such a note.
pub(crate) fn ended_in(job: &Job, note: &AttemptEnded) -> Ended {
    let outcome = note.outcome().as_str_name().trim_start_matches("OUTCOME_");
    Ended {
        epoch: note.epoch,
        delivery: job.delivery,
        attempt: job.attempt,
        probe: note.probe,
        verdict: match note.verdict() {
            EndedVerdict::Delivered => Verdict::Delivered,
            EndedVerdict::Failed => Verdict::Failed,
            EndedVerdict::Retried => Verdict::Retried,
            EndedVerdict::Gone => Verdict::Gone,
            // A verdict of a later version counts for nothing.
            EndedVerdict::Ours | EndedVerdict::Unspecified => Verdict::Ours,
        },
        at_micros: note.at,
        outcome: outcome.parse().unwrap_or(Outcome::Internal),
        status_code: u16::try_from(note.status_code)
            .ok()
            .filter(|code| *code > 0),
        reason: note.reason.clone(),
    }
}
