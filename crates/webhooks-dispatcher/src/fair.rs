//! Fair share of a dispatcher's places (requests on the wire in all) between workspaces.
//!
//! The rule is a moving threshold: a workspace may hold [`FLOOR`] places, and beyond that at most
//! [`WEIGHT`] times as many as are free at the moment. So one workspace alone, with however many
//! endpoints that hang, leaves a quarter of the places free; two leave a seventh; and whoever comes
//! next finds some at once and does not wait until a request of somebody else has ended. Nothing is
//! reserved and nobody is listed: the rule asks only how many are free and how many this workspace
//! holds.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use uuid::Uuid;

/// Places that a workspace may hold however few are free: one endpoint's default cap.
pub(crate) const FLOOR: usize = 8;

/// Beyond the floor, a workspace may hold so many times what is free.
pub(crate) const WEIGHT: usize = 3;

/// Whether a workspace that holds `held` places may take another, where `in_use` of `limit` are taken.
pub(crate) fn may_take(held: usize, in_use: usize, limit: usize) -> bool {
    let free = limit.saturating_sub(in_use);
    free > 0 && (held < FLOOR || held < WEIGHT * free)
}

/// The places of a dispatcher.
#[derive(Debug)]
pub(crate) struct Places {
    limit: AtomicUsize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    in_all: usize,
    by_workspace: HashMap<Uuid, usize>,
}

/// A place on the wire, free again when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    workspace: Uuid,
}

impl Places {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit: AtomicUsize::new(limit),
            taken: Mutex::default(),
        })
    }

    /// There are so many from now on. What is on the wire beyond that ends first. Returns how many
    /// there were.
    pub(crate) fn limit_to(&self, limit: usize) -> usize {
        self.limit.swap(limit, Ordering::Relaxed)
    }

    /// A place for a request of `workspace`, if it may have one now.
    pub(crate) fn take(self: &Arc<Self>, workspace: Uuid) -> Option<Place> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let held = taken.by_workspace.get(&workspace).copied().unwrap_or(0);
        if !may_take(held, taken.in_all, self.limit.load(Ordering::Relaxed)) {
            return None;
        }
        taken.in_all += 1;
        taken.by_workspace.insert(workspace, held + 1);
        drop(taken);
        Some(Place {
            places: self.clone(),
            workspace,
        })
    }

    /// How many are taken.
    pub(crate) fn in_use(&self) -> usize {
        self.taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .in_all
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self
            .places
            .taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        taken.in_all = taken.in_all.saturating_sub(1);
        if let Some(held) = taken.by_workspace.get_mut(&self.workspace) {
            *held -= 1;
            if *held == 0 {
                taken.by_workspace.remove(&self.workspace);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_workspace_leaves_a_quarter_and_the_next_finds_places_at_once() {
        let places = Places::new(2_000);
        let (hog, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let hogged: Vec<_> = std::iter::from_fn(|| places.take(hog)).collect();
        assert_eq!(hogged.len(), 1_500);
        let others: Vec<_> = std::iter::from_fn(|| places.take(other)).collect();
        assert!(others.len() >= 300, "{}", others.len());
        drop(hogged);
        assert_eq!(places.in_use(), others.len());
        drop(others);
        assert!(places.taken.lock().unwrap().by_workspace.is_empty());
    }

    #[test]
    fn fewer_places_hold_for_whoever_comes_next() {
        let places = Places::new(100);
        let held: Vec<_> = std::iter::from_fn(|| places.take(Uuid::nil())).collect();
        assert_eq!(places.limit_to(10), 100);
        assert!(held.len() > 10 && places.take(Uuid::from_u128(1)).is_none());
        drop(held);
        let few = std::iter::from_fn(|| places.take(Uuid::nil()));
        assert_eq!(few.take(20).collect::<Vec<_>>().len(), 8);
    }

    #[test]
    fn a_dispatcher_with_few_places_uses_all_of_them() {
        let places = Places::new(8);
        let all: Vec<_> = std::iter::from_fn(|| places.take(Uuid::nil())).collect();
        assert_eq!(all.len(), 8);
    }

    proptest! {
        #[test]
        fn whoever_holds_less_than_the_floor_gets_one_while_any_is_free(
            limit in 1usize..300, steps in prop::collection::vec((0u128..6, prop::bool::ANY), 1..600),
        ) {
            let places = Places::new(limit);
            let mut held: HashMap<u128, Vec<Place>> = HashMap::new();
            for (who, take) in steps {
                let mine = held.get(&who).map_or(0, Vec::len);
                let free = limit - places.in_use();
                if take {
                    let place = places.take(Uuid::from_u128(who));
                    if free == 0 { prop_assert!(place.is_none()); }
                    if free > 0 && mine < FLOOR { prop_assert!(place.is_some()); }
                    if mine >= FLOOR && mine >= WEIGHT * free { prop_assert!(place.is_none()); }
                    held.entry(who).or_default().extend(place);
                } else if let Some(mine) = held.get_mut(&who) {
                    mine.pop();
                }
                let sum: usize = held.values().map(Vec::len).sum();
                prop_assert_eq!(sum, places.in_use());
                prop_assert!(sum <= limit);
            }
        }
    }
}
