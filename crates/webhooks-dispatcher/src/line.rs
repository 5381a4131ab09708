//! What waits for one endpoint: a queue, or, for a webhook that wants order, a queue for each key.
//!
//! Order means: of one key (a link, or a visitor) one delivery at a time, in the order in which the
//! events were accepted (`event_seq`), and **none starts while an earlier one of its key is known to
//! be unfinished**, wherever that one is: on the wire, waiting for its next attempt, or parked. So a
//! key that fails blocks itself and nobody else, and what waits behind a retry is parked until then
//! and not kept in memory.
//!
//! What is known outlives its stay in memory: for each unfinished delivery of such a webhook that its
//! owner has seen there is an entry of some 60 bytes, at most [`MAX_KNOWN`] of them. What comes beyond
//! is parked unseen, behind the others, and read in when half of them are gone. A new owner knows
//! nothing at first, so it starts nothing of the webhook until the owner before has finished and it
//! has read what waits on RETRIES ([`Line::must_learn`], [`Line::learn`]).
//!
//! A delivery arrives before earlier ones when fan-out finished its event first. So none starts before
//! every earlier event is fanned out ([`crate::floor`]); what has waited for that for
//! [`ordered::PATIENCE_MICROS`] goes all the same.
//!
//! Not promised: order between what fan-out had written and what a *crashed* owner had on the wire
//! (that one attempt may be repeated), nor beyond a pause (held deliveries go out as they were held).

mod ordered;

use std::collections::VecDeque;

use uuid::Uuid;

use crate::blocked::Behind;
use ordered::Ordered;

/// Most unfinished deliveries of one ordered webhook that its owner knows.
pub(crate) const MAX_KNOWN: usize = 20_000;

/// What goes one after another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ordering {
    /// Nothing.
    None,
    /// Deliveries of one link.
    Link,
    /// Deliveries of one visitor.
    Visitor,
}

/// Where a delivery stands in the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rank {
    /// Its key under each ordering; `None` = it has none, and waits for nobody.
    pub(crate) link: Option<u64>,
    /// The same for visitors.
    pub(crate) visitor: Option<u64>,
    /// The event's place on EVENTS.
    pub(crate) seq: u64,
    /// When it was accepted (microseconds).
    pub(crate) accepted_micros: i64,
    /// The delivery.
    pub(crate) delivery: Uuid,
}

impl Rank {
    fn place(self) -> ordered::Place {
        (self.seq, self.delivery)
    }

    /// The key under an ordering. What has none is a key of its own.
    fn key(self, ordering: Ordering) -> u64 {
        let key = match ordering {
            Ordering::None => None,
            Ordering::Link => self.link,
            Ordering::Visitor => self.visitor,
        };
        key.unwrap_or_else(|| self.delivery.as_u64_pair().1)
    }
}

/// What came of putting a delivery in line.
#[derive(Debug)]
pub(crate) enum Put<T> {
    /// It waits here.
    Taken,
    /// The same delivery is here already.
    Twin(T),
    /// There is no room.
    NoRoom(T),
    /// It waits behind one that failed and comes later than memory is kept for it.
    Blocked(T, Behind),
}

/// What has become of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Release {
    /// It is over, or no longer ours to send.
    Finished,
    /// It comes again at this time (microseconds).
    Later(i64),
}

/// An unfinished delivery, found on RETRIES.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    pub(crate) rank: Rank,
    /// Its message.
    pub(crate) schedule: u64,
    /// When it comes by itself.
    pub(crate) due_micros: i64,
    /// It waits for room, not for its time.
    pub(crate) parked: bool,
}

/// What waits for one endpoint.
#[derive(Debug)]
pub(crate) enum Line<T> {
    Free(VecDeque<(T, Rank)>),
    Ordered(Ordered<T>),
}

impl<T> Line<T> {
    pub(crate) fn new(ordering: Ordering) -> Self {
        match ordering {
            Ordering::None => Self::Free(VecDeque::new()),
            ordering => Self::Ordered(Ordered::new(ordering)),
        }
    }

    /// Changes the ordering; what waits here stays.
    pub(crate) fn reorder(&mut self, ordering: Ordering) {
        let waiting = self.take_all();
        *self = Self::new(ordering);
        for (job, rank) in waiting {
            match self {
                Self::Free(queue) => queue.push_back((job, rank)),
                Self::Ordered(ordered) => ordered.insert_here(job, rank),
            }
        }
    }

    /// How many wait here.
    pub(crate) fn waiting(&self) -> usize {
        match self {
            Self::Free(queue) => queue.len(),
            Self::Ordered(ordered) => ordered.waiting(),
        }
    }

    /// Nothing is here, and nothing to remember.
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Free(queue) => queue.is_empty(),
            Self::Ordered(ordered) => ordered.is_empty(),
        }
    }

    /// Whether one of them may start, as far as order goes.
    pub(crate) fn has_ready(&self, now_micros: i64) -> bool {
        match self {
            Self::Free(queue) => !queue.is_empty(),
            Self::Ordered(ordered) => ordered.has_ready(now_micros),
        }
    }

    /// Every delivery of the events up to `up_to` has arrived. Whether one waits for later ones.
    pub(crate) fn fanned_out(&mut self, up_to: u64, now_micros: i64) -> bool {
        match self {
            Self::Free(_) => false,
            Self::Ordered(ordered) => ordered.fanned_out(up_to, now_micros),
        }
    }

    /// Puts a delivery in line, where there are at most `room` places.
    pub(crate) fn put(
        &mut self,
        job: T,
        rank: Rank,
        was_parked: bool,
        room: usize,
        now_micros: i64,
    ) -> Put<T> {
        match self {
            Self::Free(queue) if queue.len() < room => {
                queue.push_back((job, rank));
                Put::Taken
            }
            Self::Free(_) => Put::NoRoom(job),
            Self::Ordered(ordered) => ordered.put(job, rank, was_parked, room, now_micros),
        }
    }

    /// A delivery that was in line, or was to be, is parked until `until_micros`.
    pub(crate) fn park(&mut self, rank: Rank, until_micros: i64) {
        if let Self::Ordered(ordered) = self {
            ordered.park(rank, until_micros);
        }
    }

    /// It was parked as this message.
    pub(crate) fn parked_as(&mut self, rank: Rank, schedule: u64) {
        if let Self::Ordered(ordered) = self {
            ordered.parked_as(rank, schedule);
        }
    }

    /// The next that may start.
    pub(crate) fn take(&mut self, now_micros: i64) -> Option<T> {
        match self {
            Self::Free(queue) => queue.pop_front().map(|(job, _)| job),
            Self::Ordered(ordered) => ordered.take(now_micros),
        }
    }

    /// What has become of one that was taken or parked.
    pub(crate) fn release(&mut self, rank: Rank, release: Release) {
        if let Self::Ordered(ordered) = self {
            ordered.release(rank, release);
        }
    }

    /// Takes what waits beyond `room`, the newest; oldest of them first.
    pub(crate) fn beyond(&mut self, room: usize) -> Vec<(T, Rank)> {
        match self {
            Self::Free(queue) => queue.split_off(room.min(queue.len())).into(),
            Self::Ordered(ordered) => ordered.beyond(room),
        }
    }

    /// Takes what waits behind deliveries that come again much later.
    pub(crate) fn blocked(&mut self, now_micros: i64) -> Vec<(T, Rank, Behind)> {
        match self {
            Self::Free(_) => Vec::new(),
            Self::Ordered(ordered) => ordered.blocked(now_micros),
        }
    }

    /// The messages of parked deliveries whose turn it is, as many as find room; `None` = any will
    /// do.
    pub(crate) fn wanted(&mut self, room: usize) -> Option<Vec<u64>> {
        match self {
            Self::Free(_) => None,
            Self::Ordered(ordered) => Some(ordered.take_wanted(room)),
        }
    }

    /// Those that were wanted have perhaps not come.
    pub(crate) fn want_again(&mut self) {
        if let Self::Ordered(ordered) = self {
            ordered.refresh_all();
        }
    }

    /// Whether there is an order.
    pub(crate) fn is_ordered(&self) -> bool {
        matches!(self, Self::Ordered(_))
    }

    /// Whether what is unfinished must be read from RETRIES; then it is under way.
    pub(crate) fn must_learn(&mut self) -> bool {
        match self {
            Self::Free(_) => false,
            Self::Ordered(ordered) => ordered.must_learn(),
        }
    }

    /// What was found there; `whole` = that is all. `None` = it could not be read.
    pub(crate) fn learn(&mut self, found: Option<(Vec<Found>, bool)>) {
        if let Self::Ordered(ordered) = self {
            ordered.learn(found);
        }
    }

    /// Forgets what should have come back long ago.
    pub(crate) fn forget_overdue(&mut self, now_micros: i64) {
        if let Self::Ordered(ordered) = self {
            ordered.forget_overdue(now_micros);
        }
    }

    /// Takes everything that has not started.
    pub(crate) fn drain(&mut self) -> Vec<T> {
        self.take_all().into_iter().map(|(job, _)| job).collect()
    }

    fn take_all(&mut self) -> Vec<(T, Rank)> {
        match self {
            Self::Free(queue) => queue.drain(..).collect(),
            Self::Ordered(ordered) => ordered.take_all(),
        }
    }
}

#[cfg(test)]
mod tests;
