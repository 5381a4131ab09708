//! Attempts that this process has finished, and deliveries that it has ended.
//!
//! Their messages may come once more: an acknowledgement is lost with its connection, and a partition
//! that is lost and taken again comes with new consumers. Whoever owns it then, a task of this process
//! knows without a question what was done; so nothing is sent again although the history may not have
//! it yet, or does not answer. A delivery that has ended has no further attempt of any number: what asks
//! for one is late, written by somebody who had lost the partition and did not know it. (A person's retry
//! is a delivery of its own.)

use std::{
    collections::{HashSet, VecDeque},
    sync::{Mutex, PoisonError},
};

use uuid::Uuid;

/// In place of an attempt's number: the delivery has ended.
pub(crate) const ENDED: u32 = u32::MAX;

/// How many are remembered, the newest: some 5 MiB.
const REMEMBERED: usize = 65_536;

/// The newest of all partitions.
#[derive(Debug, Default)]
pub(crate) struct Finished(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    known: HashSet<(Uuid, u32)>,
    /// The oldest first.
    order: VecDeque<(Uuid, u32)>,
}

impl Finished {
    /// Attempt `attempt` of a delivery is recorded, and what follows from it is durable; [`ENDED`] = that
    /// was the last one.
    pub(crate) fn add(&self, delivery: Uuid, attempt: u32) {
        self.add_within(delivery, attempt, REMEMBERED);
    }

    fn add_within(&self, delivery: Uuid, attempt: u32, most: usize) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.known.insert((delivery, attempt)) {
            return;
        }
        state.order.push_back((delivery, attempt));
        if state.order.len() > most
            && let Some(oldest) = state.order.pop_front()
        {
            state.known.remove(&oldest);
        }
    }

    /// Whether this attempt is, or the whole delivery.
    pub(crate) fn contains(&self, delivery: Uuid, attempt: u32) -> bool {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.known.contains(&(delivery, attempt)) || state.known.contains(&(delivery, ENDED))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_remembered_each_once() {
        let finished = Finished::default();
        let id = Uuid::from_u128;
        for n in [1, 2, 2, 2, 3] {
            finished.add_within(id(n), 1, 3);
        }
        assert!([1, 2, 3].iter().all(|n| finished.contains(id(*n), 1)));
        assert!(!finished.contains(id(1), 2));
        finished.add_within(id(4), 1, 3);
        assert!(!finished.contains(id(1), 1));
        assert!([2, 3, 4].iter().all(|n| finished.contains(id(*n), 1)));
    }

    #[test]
    fn a_delivery_that_has_ended_has_no_further_attempt() {
        let finished = Finished::default();
        let delivery = Uuid::from_u128(1);
        finished.add(delivery, 1);
        assert!(!finished.contains(delivery, 2));
        finished.add(delivery, ENDED);
        assert!(
            [1, 2, 3, 100]
                .iter()
                .all(|n| finished.contains(delivery, *n))
        );
        assert!(!finished.contains(Uuid::from_u128(2), 1));
    }
}
