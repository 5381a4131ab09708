//! Whether what follows from an attempt may still be written by whoever made it.
//!
//! A process that stood still, or was cut off, goes on as if nothing had been: its attempts end, most of
//! them by their deadline. Meanwhile another may own the partition, have taken up the same deliveries and
//! have finished them. So what an attempt leads to (a retry, a delivery put aside) is written only by a
//! task that still has the partition, or has given it away with the delivery named as its own to finish.
//! Anybody else records the attempt and lets the message go: the next owner gets it in any case, and goes
//! on from what is recorded.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep};
use webhooks_bus::Leases;

/// How often it is looked again: membership that is uncertain is certain or lost within twice its time
/// to live.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How long after it gave a partition away a task may still write: less than the next owner waits for it
/// ([`LEAVER_PATIENCE`](crate::partition::LEAVER_PATIENCE)).
const FINISH_WITHIN: Duration = Duration::from_secs(40);

/// What a task was told of its partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing: it is ours, if our membership is certain.
    Owning,
    /// It gave it away, when its membership had lapsed so often; `None` = it was not certain then. The
    /// next owner waits for what was named, but not for ever.
    Given { lapses: Option<u64>, until: Instant },
    /// It is another's.
    Lost,
}

/// A task's claim to one partition.
pub(crate) struct Tenure {
    leases: Leases,
    partition: u16,
    epoch: u64,
    stage: Mutex<Stage>,
}

impl Tenure {
    /// Of a partition that was gained with `epoch`.
    pub(crate) fn new(leases: Leases, partition: u16, epoch: u64) -> Self {
        Self {
            leases,
            partition,
            epoch,
            stage: Mutex::new(Stage::Owning),
        }
    }

    /// The partition is about to be given away; what is in hand will be named.
    pub(crate) fn give(&self) {
        self.become_(Stage::Given {
            lapses: self.leases.lapses(),
            until: Instant::now() + FINISH_WITHIN,
        });
    }

    /// The partition is another's.
    pub(crate) fn lose(&self) {
        self.become_(Stage::Lost);
    }

    /// Whether it was lost.
    pub(crate) fn is_lost(&self) -> bool {
        self.stage() == Stage::Lost
    }

    /// Does something durable that follows from an attempt; `None` = it is no longer ours to do. What was
    /// begun then may be done all the same, late: the next owner lets alone what it has ended
    /// ([`Finished`](crate::finished::Finished)), and a retry that both make has one message id.
    pub(crate) async fn hold<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        loop {
            match self.holds() {
                Some(true) => break,
                Some(false) => return None,
                None => sleep(LOOK_AGAIN).await,
            }
        }
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return Some(done),
                () = sleep(LOOK_AGAIN) => if self.holds() == Some(false) {
                    return None;
                },
            }
        }
    }

    fn holds(&self) -> Option<bool> {
        let stage = self.stage();
        let owned = || self.leases.holds(self.partition, self.epoch);
        holds(stage, owned, || self.leases.lapses(), Instant::now())
    }

    fn stage(&self) -> Stage {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn become_(&self, stage: Stage) {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
    }
}

/// Whether the claim holds; `None` = that is not certain now, and will be.
fn holds(
    stage: Stage,
    owned: impl FnOnce() -> bool,
    lapses: impl FnOnce() -> Option<u64>,
    now: Instant,
) -> Option<bool> {
    match stage {
        Stage::Owning => owned().then_some(true),
        // The next owner leaves to us what was named, for that long, and as long as it sees us alive.
        Stage::Given {
            lapses: given,
            until,
        } => Some(now < until && given.is_some() && given == lapses()),
        Stage::Lost => Some(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_is_written_by_who_surely_owns_or_gave_away_and_never_lapsed() {
        let now = Instant::now();
        let of = |stage, owned, lapses| holds(stage, || owned, || lapses, now);
        let given = |lapses, secs| Stage::Given {
            lapses,
            until: now + Duration::from_secs(secs),
        };
        assert_eq!(of(Stage::Owning, true, Some(0)), Some(true));
        // Lapsed: it may turn out to be ours still.
        assert_eq!(of(Stage::Owning, false, None), None);
        assert_eq!(of(given(Some(3), 1), false, Some(3)), Some(true));
        // Others may have seen our end, or have lost patience.
        assert_eq!(of(given(Some(3), 1), false, None), Some(false));
        assert_eq!(of(given(Some(3), 1), true, Some(4)), Some(false));
        assert_eq!(of(given(Some(3), 0), false, Some(3)), Some(false));
        assert_eq!(of(given(None, 1), false, None), Some(false));
        assert_eq!(of(Stage::Lost, true, Some(0)), Some(false));
    }
}
