//! Attempts that this process has finished.
//!
//! Their messages may come once more: an acknowledgement is lost with its connection, and a partition
//! that is lost and taken again comes with new consumers. Whoever owns it then, a task of this process
//! knows without a question what was done; so nothing is sent again although the history may not have
//! it yet, or does not answer.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Mutex, PoisonError},
};

use uuid::Uuid;

/// How many are remembered, the newest: some 5 MiB.
const REMEMBERED: usize = 65_536;

/// The newest finished attempts of all partitions.
#[derive(Debug, Default)]
pub(crate) struct Finished(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    known: HashSet<(Uuid, u32)>,
    /// The oldest first.
    order: VecDeque<(Uuid, u32)>,
}

impl Finished {
    /// Attempt `attempt` of a delivery is recorded, and what follows from it is durable.
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

    /// Whether it is.
    pub(crate) fn contains(&self, delivery: Uuid, attempt: u32) -> bool {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.known.contains(&(delivery, attempt))
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
}
