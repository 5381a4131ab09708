//! History: which deliveries an event made, what became of each, and every attempt.
//!
//! Two sources write here. A *verdict* says which deliveries are owed; a *report* says what
//! happened to one. Either may come first, twice, or late. [`standing`] holds the pure rules by
//! which accounts of one delivery are merged; the statements only carry them out.

mod codec;
mod events;
mod headers;
mod jobs;
mod list;
mod measure;
mod open;
mod owed;
mod recorded;
mod repair;
mod reports;
mod rows;
mod search;
mod standing;
mod tally;
mod verdicts;

use bytes::Bytes;
use uuid::Uuid;
use webhooks_domain::{
    delivery::DeliveryState,
    endpoint::outcome::{FailureClass, Outcome},
    ids::Trigger,
};

pub use events::{EventContent, EventCursor, EventPage, EventRow};
pub use jobs::{
    JobCursor, JobFilter, JobPage, JobRow, JobState, JobType, MAX_JOBS_OPEN, Missing, NewJob,
};
pub use measure::{
    Bucket, Counts, ErrorExample, ErrorGroup, Interval, Latency, MAX_MEASURED, MAX_PULSE, Measures,
    Pulse, UsageDay,
};
pub use open::{MAX_WATCHED, WatchedDelivery};
pub use owed::{NewTest, OwedRow, Replay, TestSend, Wish};
pub use recorded::RecordedDelivery;
pub use repair::{MAX_COMPARED, MAX_NAMED};
pub use rows::DeliveryRow;
pub use search::{DeliveryCursor, DeliveryFilter, DeliveryPage, MAX_COUNTED, MAX_EXAMINED};

/// Most rows of a page.
pub const MAX_PAGE: u32 = 1_000;

/// Most reports in one call.
pub const MAX_REPORTS: usize = 1_000;

/// Most verdicts in one call.
pub const MAX_VERDICTS: usize = 1_000;

/// Most deliveries in all the verdicts of one call.
pub const MAX_VERDICT_DELIVERIES: usize = 20_000;

/// Most attempts shown of one delivery, from the first.
pub const MAX_ATTEMPTS_SHOWN: u32 = 1_000;

/// An event, and the deliveries (or some of them) that it made.
#[derive(Debug, Clone)]
pub struct VerdictRecord {
    /// Whose event it is.
    pub workspace_id: Uuid,
    /// The event's id.
    pub event_id: String,
    /// Its place on the EVENTS stream.
    pub event_seq: u64,
    /// The link it is about.
    pub link_id: Option<Uuid>,
    /// The journey's key.
    pub lbid: String,
    /// `step.completed`.
    pub event_type: String,
    /// `KIND_EXIT`, …
    pub step_kind: String,
    /// The step's action, as it came.
    pub event_action: String,
    /// When the event was accepted, in microseconds; its UTC day is the partition.
    pub accepted_at: i64,
    /// The event's own timestamp, in microseconds.
    pub event_timestamp: i64,
    /// Which renderer made the renditions.
    pub renderer_version: u32,
    /// The sanitised event per profile; empty in all parts of a verdict but the first.
    pub renditions: Vec<RenditionRecord>,
    /// The deliveries.
    pub deliveries: Vec<VerdictDelivery>,
}

/// The sanitised event in one profile: a body is `head`, the webhook's snapshot, `tail`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenditionRecord {
    /// `standard`, `strict` or `thin`.
    pub profile: String,
    /// What stands before the snapshot.
    pub head: Bytes,
    /// What stands after it.
    pub tail: Bytes,
}

/// A delivery as a verdict tells of it.
#[derive(Debug, Clone)]
pub struct VerdictDelivery {
    /// Its id, which carries the millisecond the event was accepted in.
    pub delivery_id: Uuid,
    /// To which webhook.
    pub webhook_id: Uuid,
    /// The rendered `webhook` object.
    pub snapshot: Bytes,
    /// Index into the event's renditions.
    pub rendition: u32,
    /// The webhook was paused: the delivery begins as held.
    pub held: bool,
}

/// What is the same in all reports and messages of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryFacts {
    /// Its id, which carries the millisecond of `created_at`.
    pub delivery_id: Uuid,
    /// To which webhook.
    pub webhook_id: Uuid,
    /// Whose it is.
    pub workspace_id: Uuid,
    /// Of which event.
    pub event_id: String,
    /// `step.completed`.
    pub event_type: String,
    /// The link the event is about.
    pub link_id: Option<Uuid>,
    /// The journey's key.
    pub lbid: String,
    /// What made it.
    pub trigger: Trigger,
    /// When it was made, in microseconds: when its event was accepted, unless a person asked for it.
    pub created_at: i64,
    /// The event's place on the EVENTS stream.
    pub event_seq: u64,
}

/// Something happened to a delivery.
#[derive(Debug, Clone)]
pub struct ReportRecord {
    /// Which delivery.
    pub delivery: DeliveryFacts,
    /// What state it is in now.
    pub state: DeliveryState,
    /// Attempts made so far. 0 when the reporter does not say: then the number of `attempt` counts.
    pub attempts_made: u32,
    /// When the next attempt is due, in microseconds; `None` = unknown or never.
    pub next_attempt_at: Option<i64>,
    /// When it became so, in microseconds.
    pub at: i64,
    /// The attempt that made it so; `None` when nothing was sent.
    pub attempt: Option<AttemptRecord>,
    /// Why it is so where no attempt tells, a machine word such as `hold_expired`; empty = none.
    pub reason: String,
    /// The failing delivery of its key that it waits for, where its webhook wants an order.
    pub waits_for: Option<Uuid>,
    /// The rendered `webhook` object and the index of its rendition, if the reporter knows: then the
    /// row is whole before its verdict is recorded, and need not be written again.
    pub snapshot: Option<(Bytes, u32)>,
}

/// One execution of an attempt, to be stored or as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptRecord {
    /// Number of the attempt, from 1.
    pub number: u32,
    /// The execution's own id: a kill may make an attempt run twice.
    pub execution_id: Uuid,
    /// When it began, in microseconds.
    pub started_at: i64,
    /// What it met.
    pub outcome: Outcome,
    /// What that means; `None` for a success.
    pub class: Option<FailureClass>,
    /// The answer's status.
    pub status_code: Option<u16>,
    /// How long its parts took.
    pub timings: Timings,
    /// The answer's headers.
    pub response_headers: Vec<ResponseHeader>,
    /// The beginning of the answer's body.
    pub response_body: Bytes,
    /// There was more of it.
    pub response_body_truncated: bool,
    /// What went wrong, for people; empty for a success.
    pub error: String,
    /// Where the request went, for operators.
    pub remote_ip: String,
    /// Who sent it, for operators.
    pub dispatcher: String,
}

/// Durations in microseconds (at most 35 minutes are kept); `None` = unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timings {
    /// Name resolution.
    pub dns_us: Option<u32>,
    /// Connection.
    pub connect_us: Option<u32>,
    /// TLS handshake.
    pub tls_us: Option<u32>,
    /// Until the answer's head.
    pub first_byte_us: Option<u32>,
    /// The whole attempt.
    pub total_us: Option<u32>,
}

/// A header of an answer. NUL, CR and LF in it are stored as `␀`, `␍` and `␊`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseHeader {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}
