//! The order in which pulled events are handled: workspaces take turns.
//!
//! EVENTS is one stream for all, so a workspace that publishes 1,000 events at once puts them before
//! everybody else's. Here they wait in a queue of their workspace; the workspaces that have something
//! waiting take turns, and none has more than its share under way. An event of a quiet workspace is
//! then at most one event of each busy one away from its start, however long their queues are, as
//! long as it is pulled: so more is pulled than handled, up to a limit of number and of bytes. Within
//! a workspace the order stays that of the stream.
//!
//! Pure: it knows nothing of messages, tasks and time.

use std::collections::{HashMap, VecDeque};

use uuid::Uuid;

/// Limits of a [`Line`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Events of one workspace under way at a time.
    pub(crate) share: usize,
    /// Events under way at a time.
    pub(crate) under_way: usize,
    /// Events waiting beyond which nothing more is to be pulled.
    pub(crate) waiting: usize,
    /// Their bytes beyond which nothing more is to be pulled.
    pub(crate) bytes: usize,
}

#[derive(Debug)]
struct Queue<T> {
    waiting: VecDeque<(T, usize)>,
    under_way: usize,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            under_way: 0,
        }
    }
}

/// What waits, and how much of each workspace is under way.
#[derive(Debug)]
pub(crate) struct Line<T> {
    limits: Limits,
    queues: HashMap<Uuid, Queue<T>>,
    /// Workspaces that may have a turn, next one first; each once, and only if it may start something.
    turns: VecDeque<Uuid>,
    waiting: usize,
    bytes: usize,
    under_way: usize,
}

impl<T> Line<T> {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            queues: HashMap::new(),
            turns: VecDeque::new(),
            waiting: 0,
            bytes: 0,
            under_way: 0,
        }
    }

    /// Whether more may be pulled. What was pulled is always taken, so a line may be longer than its
    /// limit by one batch.
    pub(crate) fn has_room(&self) -> bool {
        self.waiting < self.limits.waiting && self.bytes < self.limits.bytes
    }

    /// Puts an event of `bytes` bytes behind those of its workspace.
    pub(crate) fn push(&mut self, workspace: Uuid, event: T, bytes: usize) {
        let queue = self.queues.entry(workspace).or_default();
        if queue.waiting.is_empty() && queue.under_way < self.limits.share {
            self.turns.push_back(workspace);
        }
        queue.waiting.push_back((event, bytes));
        self.waiting += 1;
        self.bytes += bytes;
    }

    /// The next event, if one may start; it is under way until [`Line::ended`].
    pub(crate) fn start(&mut self) -> Option<(Uuid, T)> {
        if self.under_way >= self.limits.under_way {
            return None;
        }
        let workspace = self.turns.pop_front()?;
        let queue = self.queues.get_mut(&workspace)?;
        let (event, bytes) = queue.waiting.pop_front()?;
        queue.under_way += 1;
        self.waiting -= 1;
        self.bytes -= bytes;
        self.under_way += 1;
        if !queue.waiting.is_empty() && queue.under_way < self.limits.share {
            self.turns.push_back(workspace);
        }
        Some((workspace, event))
    }

    /// An event of `workspace` is no longer under way.
    pub(crate) fn ended(&mut self, workspace: Uuid) {
        let Some(queue) = self.queues.get_mut(&workspace) else {
            return;
        };
        if queue.under_way == self.limits.share && !queue.waiting.is_empty() {
            self.turns.push_back(workspace);
        }
        queue.under_way = queue.under_way.saturating_sub(1);
        self.under_way = self.under_way.saturating_sub(1);
        if queue.under_way == 0 && queue.waiting.is_empty() {
            self.queues.remove(&workspace);
        }
    }

    /// What waits.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &T> {
        self.queues
            .values()
            .flat_map(|queue| queue.waiting.iter().map(|(event, _)| event))
    }

    /// Takes everything that waits.
    pub(crate) fn drain(&mut self) -> Vec<T> {
        self.turns.clear();
        (self.waiting, self.bytes) = (0, 0);
        let queues = self.queues.values_mut();
        queues
            .flat_map(|queue| queue.waiting.drain(..).map(|(event, _)| event))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits {
        share: 4,
        under_way: 10,
        waiting: 100,
        bytes: 1_000,
    };

    fn id(n: u128) -> Uuid {
        Uuid::from_u128(n)
    }

    #[test]
    fn one_event_of_a_quiet_workspace_passes_a_thousand_of_a_busy_one() {
        let mut line = Line::new(LIMITS);
        for n in 0..1_000 {
            line.push(id(1), n, 1);
        }
        line.push(id(2), 7_000, 1);
        assert_eq!(line.start(), Some((id(1), 0)));
        assert_eq!(line.start(), Some((id(2), 7_000)));
        assert_eq!(line.start(), Some((id(1), 1)));
    }

    #[test]
    fn a_workspace_keeps_to_its_share_and_leaves_the_rest_free() {
        let mut line = Line::new(LIMITS);
        for n in 0..20 {
            line.push(id(1), n, 1);
        }
        assert_eq!(std::iter::from_fn(|| line.start()).count(), 4);
        line.push(id(2), 100, 1);
        assert_eq!(line.start(), Some((id(2), 100)));
        line.ended(id(1));
        assert_eq!(line.start(), Some((id(1), 4)));
        assert_eq!(line.start(), None);
    }

    #[test]
    fn it_asks_for_no_more_beyond_its_limits() {
        let mut line = Line::new(LIMITS);
        assert!(line.has_room());
        line.push(id(1), 0, 1_000);
        assert!(!line.has_room(), "bytes");
        line.start();
        assert!(line.has_room());
        for n in 0..100 {
            line.push(id(1), n, 0);
        }
        assert!(!line.has_room(), "number");
        assert_eq!(line.waiting().count(), 100);
        assert_eq!(line.drain().len(), 100);
        assert!(line.has_room() && line.start().is_none());
    }

    proptest! {
        #[test]
        fn all_start_once_in_their_workspaces_order_within_the_limits(
            steps in prop::collection::vec((0u8..3, 0u128..4), 1..400),
        ) {
            let mut line = Line::new(LIMITS);
            let mut under_way: Vec<Uuid> = Vec::new();
            let mut next = 0u32;
            let mut last: HashMap<Uuid, u32> = HashMap::new();
            let mut started = 0;
            let mut note = |(workspace, n): (Uuid, u32), under_way: &mut Vec<Uuid>| {
                under_way.push(workspace);
                started += 1;
                last.insert(workspace, n).is_none_or(|before| before < n)
            };
            for (step, workspace) in steps {
                match step {
                    0 => { line.push(id(workspace), next, 3); next += 1; }
                    1 => if let Some(found) = line.start() {
                        prop_assert!(note(found, &mut under_way));
                    },
                    _ => if let Some(one) = under_way.pop() { line.ended(one); },
                }
                prop_assert!(under_way.len() <= LIMITS.under_way);
                for w in 0..4 {
                    prop_assert!(under_way.iter().filter(|one| **one == id(w)).count() <= LIMITS.share);
                }
            }
            // Nothing is forgotten: when all ends, all starts.
            loop {
                while let Some(found) = line.start() { prop_assert!(note(found, &mut under_way)); }
                match under_way.pop() { Some(one) => line.ended(one), None => break }
            }
            prop_assert_eq!(started, next);
            prop_assert!(line.queues.is_empty() && line.turns.is_empty() && line.bytes == 0);
        }
    }
}
