//! The bytes of deliveries that this process may hold in memory, for all of its partitions together.
//!
//! A partition's window counts messages; a body may have 256 KiB, and 16 windows of such bodies would
//! be gigabytes. So every message in hand counts with its bytes ([`Budget::take`]) until it is
//! acknowledged, and nothing is pulled while the budget is used up. What a pull brings at a time goes
//! beyond it; how much that is, is bounded by `PULL_MAX_BYTES`.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::pace;

/// What a delivery takes in memory beside its message: what was decoded of it, its places in lines
/// and maps.
const OVERHEAD: usize = 1_024;

/// A process's budget.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: usize,
    used: AtomicUsize,
    held: AtomicUsize,
}

/// A message's part of it; given back when dropped.
#[derive(Debug)]
pub(crate) struct Part {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
        })
    }

    /// Counts a message that is here already, however full the budget is.
    pub(crate) fn take(self: &Arc<Self>, message_bytes: usize) -> Part {
        let bytes = message_bytes.saturating_add(OVERHEAD);
        self.used.fetch_add(bytes, Ordering::Relaxed);
        self.held.fetch_add(1, Ordering::Relaxed);
        Part {
            budget: self.clone(),
            bytes,
        }
    }

    /// Whether more may be pulled.
    pub(crate) fn has_room(&self) -> bool {
        self.used() < self.limit
    }

    /// Whether it is nearly used up.
    pub(crate) fn is_short(&self) -> bool {
        pace::is_short(self.used(), self.limit)
    }

    /// Bytes in use.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// How many more deliveries like those in hand find room.
    pub(crate) fn room(&self) -> usize {
        let (used, held) = (self.used(), self.held.load(Ordering::Relaxed));
        let mean = used.checked_div(held).unwrap_or(OVERHEAD).max(OVERHEAD);
        self.limit.saturating_sub(used) / mean
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
        self.budget.held.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_messages_use_it_up_and_give_it_back() {
        let budget = Budget::new(1 << 20);
        assert!(budget.has_room());
        assert_eq!(budget.room(), 1_024);
        let mut parts: Vec<_> = (0..3).map(|_| budget.take(255 * 1_024)).collect();
        assert!(budget.has_room());
        assert_eq!(budget.room(), 1);
        parts.push(budget.take(255 * 1_024));
        assert!(!budget.has_room());
        assert_eq!(budget.room(), 0);
        // What is here is here: it is counted beyond the limit too.
        parts.push(budget.take(255 * 1_024));
        assert_eq!(budget.used(), 5 * 256 * 1_024);
        drop(parts);
        assert_eq!((budget.used(), budget.has_room()), (0, true));
    }
}
