//! Answers by name: bounded, each with its own expiry, one lookup per name at a time.
//!
//! Thousands of deliveries to one host start in the same second; the first asks and the others wait
//! for its answer. A waiter that is dropped takes nothing with it, and if the one that asks is
//! dropped, the next waiter asks.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;

/// A cache of `A` by name.
pub(crate) struct NameCache<A> {
    slots: RwLock<HashMap<Box<str>, Arc<Slot<A>>>>,
    capacity: usize,
}

/// One name's answer.
pub(crate) struct Slot<A> {
    answer: Mutex<Option<(A, Instant)>>,
    asking: tokio::sync::Mutex<()>,
}

impl<A: Clone> NameCache<A> {
    /// A cache of at most `capacity` names.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            slots: RwLock::new(HashMap::new()),
            capacity,
        }
    }

    /// The answer, if there is one and it has not expired. Never waits.
    pub(crate) fn fresh(&self, name: &str, now: Instant) -> Option<A> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        slots.get(name)?.fresh(now)
    }

    /// The slot of a name, made if need be.
    pub(crate) fn slot(&self, name: &str, now: Instant) -> Arc<Slot<A>> {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(name) {
            return Arc::clone(slot);
        }
        if slots.len() >= self.capacity {
            make_room(&mut slots, now);
        }
        let slot = Arc::new(Slot::default());
        slots.insert(name.into(), Arc::clone(&slot));
        slot
    }
}

/// Drops what has expired; if that was nothing, any eighth, so that a flood of names costs one sweep
/// per many insertions. A name that is dropped too early is only asked for again.
fn make_room<A: Clone>(slots: &mut HashMap<Box<str>, Arc<Slot<A>>>, now: Instant) {
    let before = slots.len();
    slots.retain(|_, slot| Arc::strong_count(slot) > 1 || slot.fresh(now).is_some());
    if slots.len() == before {
        let mut index = 0_usize;
        slots.retain(|_, _| {
            index += 1;
            index % 8 != 1
        });
    }
}

impl<A> Default for Slot<A> {
    fn default() -> Self {
        Self {
            answer: Mutex::new(None),
            asking: tokio::sync::Mutex::new(()),
        }
    }
}

impl<A: Clone> Slot<A> {
    pub(crate) fn fresh(&self, now: Instant) -> Option<A> {
        let answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        match answer.as_ref() {
            Some((answer, expires)) if now < *expires => Some(answer.clone()),
            _ => None,
        }
    }

    /// Whether the answer that is kept is such a one.
    pub(crate) fn holds(&self, such: impl Fn(&A) -> bool) -> bool {
        let answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        answer.as_ref().is_some_and(|(answer, _)| such(answer))
    }

    /// Forgets the answer that is kept, if it is such a one.
    pub(crate) fn forget(&self, such: impl Fn(&A) -> bool) {
        let mut answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        if answer.as_ref().is_some_and(|(answer, _)| such(answer)) {
            *answer = None;
        }
    }

    /// The fresh answer, or what `ask` says, which is then kept as long as it says. Waits for a
    /// question already under way instead of asking twice.
    pub(crate) async fn get_or_ask<F>(&self, ask: impl FnOnce() -> F) -> A
    where
        F: Future<Output = (A, Duration)>,
    {
        let _turn = self.asking.lock().await;
        if let Some(answer) = self.fresh(Instant::now()) {
            return answer;
        }
        let (answer, keep) = ask().await;
        let expires = Instant::now() + keep;
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((answer.clone(), expires));
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_name_is_asked_for_once_at_a_time_and_again_after_it_expired() {
        let cache = NameCache::new(4);
        let asked = AtomicUsize::new(0);
        let get = async || {
            let slot = cache.slot("a.example", Instant::now());
            let ask = || async {
                tokio::time::sleep(Duration::from_millis(10)).await;
                (
                    asked.fetch_add(1, Ordering::Relaxed),
                    Duration::from_secs(5),
                )
            };
            slot.get_or_ask(ask).await
        };
        assert_eq!(futures::join!(get(), get(), get()), (0, 0, 0));
        assert_eq!(cache.fresh("a.example", Instant::now()), Some(0));
        assert_eq!(cache.fresh("b.example", Instant::now()), None);

        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(cache.fresh("a.example", Instant::now()), None);
        assert_eq!(get().await, 1);
    }

    #[tokio::test]
    async fn the_next_waiter_asks_when_the_first_gave_up() {
        let slot = Slot::default();
        let never = || std::future::pending::<(u8, Duration)>();
        let gave_up = tokio::time::timeout(Duration::from_millis(1), slot.get_or_ask(never)).await;
        assert!(gave_up.is_err());
        let answer = slot.get_or_ask(|| async { (7, Duration::from_secs(1)) });
        assert_eq!(answer.await, 7);
    }

    #[tokio::test]
    async fn the_number_of_names_is_bounded() {
        let cache = NameCache::new(16);
        for n in 0..1000 {
            let slot = cache.slot(&format!("{n}.example"), Instant::now());
            slot.get_or_ask(|| async { (n, Duration::from_secs(60)) })
                .await;
            let held = cache.slots.read().expect("not poisoned").len();
            assert!(held <= 16, "{held} names after {n}");
        }
        assert_eq!(cache.fresh("999.example", Instant::now()), Some(999));
    }
}
