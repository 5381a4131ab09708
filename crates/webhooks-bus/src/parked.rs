//! Letting a schedule go before its time.
//!
//! It is what the server does when a schedule fires, done by hand: one message into the target,
//! which takes the schedule away *in the same step* (`Nats-Scheduler`, `Nats-Schedule-Next: purge`,
//! ADR-51 of NATS), and which is refused when the schedule is no longer there
//! (`Nats-Expected-Last-Subject-Sequence` on the schedule's subject). So whatever crashes, and
//! however stale the reader's view is, the delivery exists exactly once: as a schedule or as a due
//! message. Only one race is left: the server has begun to fire it at the very same moment. Leave
//! alone what is due within [`FIRE_MARGIN`].

use std::time::Duration;

use async_nats::HeaderMap;

use crate::{
    bus::{Bus, REQUEST_TIMEOUT},
    error::{BusError, PublishError},
    publish::Outgoing,
    read::StoredMessage,
    subjects::headers,
};

/// What is due sooner comes by itself.
pub const FIRE_MARGIN: Duration = Duration::from_secs(2);

impl Bus {
    /// Lets `schedule` go now. False when it is no longer there: it has fired, or was let go.
    ///
    /// # Errors
    /// When the stream does not answer, or the message is no schedule. Nothing is lost; whether it
    /// has gone is unknown.
    pub async fn fire_now(&self, schedule: &StoredMessage) -> Result<bool, BusError> {
        let target = schedule
            .header(headers::SCHEDULE_TARGET)
            .ok_or_else(|| BusError::Decode("a schedule without a target".to_owned()))?;
        let mut kept = HeaderMap::new();
        if let Some(traceparent) = schedule.header(headers::TRACEPARENT) {
            kept.insert(headers::TRACEPARENT, traceparent);
        }
        // The subject is never used twice, so this id is never that of another message.
        kept.insert(
            headers::MSG_ID,
            format!("{}:now", schedule.subject).as_str(),
        );
        kept.insert(headers::SCHEDULER, schedule.subject.as_str());
        kept.insert(headers::SCHEDULE_NEXT, "purge");
        kept.insert(
            headers::EXPECTED_LAST_SUBJECT_SEQUENCE,
            schedule.seq.to_string().as_str(),
        );
        kept.insert(
            headers::EXPECTED_LAST_SUBJECT_SEQUENCE_SUBJECT,
            schedule.subject.as_str(),
        );
        let message = Outgoing {
            subject: target.to_owned(),
            headers: kept,
            payload: schedule.payload.clone(),
        };
        match self.publish_once(message, REQUEST_TIMEOUT).await {
            Ok(_) => Ok(true),
            Err(PublishError::WrongLast(_)) => Ok(false),
            Err(error) => Err(BusError::Unavailable(error.to_string())),
        }
    }
}
