//! `webhooks-bus`: the only crate that names streams, subjects and consumers.
//!
//! JetStream is the ledger of obligations: an event is accepted when the EVENTS stream has it, a
//! delivery is owed until its message is acknowledged. Three rules hold everywhere:
//!
//! * **A publish is durable when its acknowledgement is here**, not before. [`Bus::publish`]
//!   repeats the same bytes with the same message id until the acknowledgement comes or the
//!   deadline passes; then the outcome is unknown and the caller must say so.
//! * **Streams that carry obligations refuse what they cannot hold** (`discard: new`), so a full
//!   stream is backpressure and never loss.
//! * **Nothing waits on a consumer.** What cannot go out now is published as a schedule and its
//!   message acknowledged; see `RETRIES` in [`topology`].
//!
//! What is *not* promised here: one message may be handed over more than once.

mod batch;
mod bus;
mod cancelled;
mod config;
mod elsewhere;
mod error;
mod fill;
mod flow;
mod follow;
mod handling;
mod health;
mod identities;
mod leases;
mod letters;
mod ops;
mod parked;
pub mod permissions;
mod publish;
mod pull;
mod read;
mod roll;
mod settings;
mod stats;
mod steady;
pub mod subjects;
pub mod topology;
mod vitals;
pub mod words;

pub use batch::ReadFrom;
pub use bus::Bus;
pub use cancelled::{CANCELLED_KEPT, CancelledMirror, Mark};
pub use config::{ConfigMirror, ConfigSink, ConfigWriter};
pub use error::{BusError, PublishError};
pub use fill::{FILLING, NEARLY_FULL, ROOM_AGAIN, watch_fill};
pub use handling::{
    BATCH_PROGRESS_EVERY, DEAD_PAYLOAD_KEPT, PROGRESS_EVERY, REFUSED_PAYLOAD_KEPT, survive,
    while_working_on,
};
pub use health::{
    HealthEntry, HealthMirror, HealthStore, Signature, configured, effective_status, health_of,
    record_of, status_of,
};
pub use identities::{Identities, IdentityError, write_new_seed};
pub use leases::{Handover, InHand, LeaseEvent, Leases, LeasesSettings};
pub use letters::{FIRST_REFUSED, REFUSED_PER_WORKSPACE, letters_stream};
pub use ops::{OpsEvent, OpsFailure};
pub use parked::FIRE_MARGIN;
pub use publish::{BATCHES_IN_FLIGHT, MAX_BATCH, Outgoing, Stored};
pub use pull::{Acker, Pull, PullSettings, Pulled};
pub use read::{ConsumerState, Fill, StoredMessage};
pub use settings::BusSettings;
pub use stats::StatsMirror;
pub use steady::{CLOCK_TOLERANCE, SteadyClock};
pub use subjects::{headers, names};
pub use vitals::{Pulse, Vitals};

/// Microseconds since the epoch of a server timestamp.
pub(crate) fn micros(at: time::OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos() / 1_000).unwrap_or(i64::MAX)
}
