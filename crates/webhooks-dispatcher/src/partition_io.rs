//! What a partition does to the outside: each function makes something durable and says what is to
//! follow. They run beside the partition's task, which holds the state.

mod again;
mod aside;
mod attempted;
mod consumers;
mod schedule;

use std::time::Duration;

use futures::future::BoxFuture;
use uuid::Uuid;

use crate::{
    endpoint::Woken,
    health::HealthSettled,
    held::HeldSettled,
    job::{Job, MessageKey, Owed},
    line::{Found, Rank, Release},
};
pub(crate) use again::{look_again, recheck, still_owed, take_up};
pub(crate) use aside::{bury, cancel, give_up, hold};
pub(crate) use attempted::record;
pub(crate) use consumers::{Opened, look_for, open, remove, stream_of};
pub(crate) use schedule::{block, park, publish_for_ever};

/// What is to follow.
pub(crate) enum Settled {
    /// The message is done with: acknowledge it.
    Done {
        key: MessageKey,
        /// The delivery and attempt that are over ([`ENDED`](crate::finished::ENDED) = all of them), if
        /// they are.
        finished: Option<(Uuid, u32)>,
    },
    /// The partition is another's, and with it what follows: its message is left to it. `parking` = it
    /// was being parked.
    LetGo { key: MessageKey, parking: bool },
    /// Make the job's attempt after `delay`.
    Again { job: Box<Job>, delay: Duration },
    /// An attempt is recorded: what `then` says, and this has become of the delivery.
    Recorded {
        webhook: Uuid,
        rank: Rank,
        release: Release,
        then: Box<Settled>,
    },
    /// The delivery is parked as message `schedule` of RETRIES.
    Parked {
        key: MessageKey,
        webhook: Uuid,
        rank: Rank,
        schedule: u64,
    },
    /// It is no longer ours to send: what `then` says.
    Left {
        webhook: Uuid,
        rank: Rank,
        then: Box<Settled>,
    },
    /// Parked deliveries were let go.
    Woken { webhook: Uuid, woken: Woken },
    /// What is unfinished of an ordered webhook; `None` = it could not be read.
    Learned {
        webhook: Uuid,
        found: Option<(Vec<Found>, bool)>,
    },
    /// These messages of a leaver's are no more; `last` = all were looked for after it had ended.
    Gone {
        leaver: String,
        keys: Vec<MessageKey>,
        last: bool,
    },
    /// Something about an endpoint's health is durable, or is not.
    Health(HealthSettled),
    /// Something was done with what is held.
    Held(HeldSettled),
    /// Its attempt is made again, as message `schedule` of RETRIES that is due at `due` (microseconds): it
    /// failed through a fault of ours.
    Repeats {
        key: MessageKey,
        webhook: Uuid,
        rank: Rank,
        schedule: u64,
        due: i64,
    },
    /// These may go on.
    Admit(Vec<Job>),
    /// Messages that another had in hand, read anew, and those that are no more.
    TakenUp {
        found: Vec<Job>,
        gone: Vec<MessageKey>,
    },
    /// What was done with these panicked; `parking` = one of them was being parked.
    Panicked { owed: Vec<Owed>, parking: bool },
    /// What was to be removed has been, as far as the stream answered.
    Removed,
    /// Nothing.
    Nothing,
}

impl Settled {
    /// Leaves a message to whoever has the partition.
    pub(crate) fn let_go(key: MessageKey) -> Self {
        Self::LetGo {
            key,
            parking: false,
        }
    }
}

pub(crate) type Settling = BoxFuture<'static, Settled>;
