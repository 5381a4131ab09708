//! Deliveries whose handling panicked. Each is tried again a few times, and then kept as a dead letter:
//! what panics each time must neither go round for ever nor take its partition down with it again
//! and again.

use std::{
    collections::{HashMap, VecDeque},
    panic::AssertUnwindSafe,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures::FutureExt as _;
use uuid::Uuid;

use crate::partition_io::{Settled, Settling};

/// How often the handling of one delivery may panic before it is given up.
pub(crate) const TRIES: u32 = 3;

/// Pause after a panic before what follows is done: what panics each time must not spin.
const PAUSE: Duration = Duration::from_millis(500);

/// Deliveries remembered, the newest.
const REMEMBERED: usize = 1_024;

/// How often deliveries have panicked in this process.
#[derive(Debug, Default)]
pub(crate) struct Panics(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    times: HashMap<Uuid, u32>,
    order: VecDeque<Uuid>,
}

impl Panics {
    /// Counts one more; returns how many there were.
    pub(crate) fn count(&self, delivery: Uuid) -> u32 {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        let times = state.times.entry(delivery).or_insert_with(|| {
            state.order.push_back(delivery);
            0
        });
        *times += 1;
        let times = *times;
        if state.order.len() > REMEMBERED
            && let Some(oldest) = state.order.pop_front()
        {
            state.times.remove(&oldest);
        }
        times
    }

    /// Whether a delivery has panicked too often.
    pub(crate) fn is_poison(&self, delivery: Uuid) -> bool {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state
            .times
            .get(&delivery)
            .is_some_and(|times| *times >= TRIES)
    }

    /// It was given up: should somebody send it on its way again, it begins anew.
    pub(crate) fn forget(&self, delivery: Uuid) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.times.remove(&delivery).is_some() {
            state.order.retain(|one| *one != delivery);
        }
    }
}

/// Does the work; when it panics, what is to follow is what `instead` says.
pub(crate) fn surviving(
    work: impl Future<Output = Settled> + Send + 'static,
    instead: impl FnOnce() -> Settled + Send + 'static,
) -> Settling {
    async move {
        match AssertUnwindSafe(work).catch_unwind().await {
            Ok(settled) => settled,
            Err(_) => {
                tracing::error!("settling.panicked");
                metrics::counter!("webhooks_settling_panics_total").increment(1);
                tokio::time::sleep(PAUSE).await;
                instead()
            }
        }
    }
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_third_panic_is_one_too_many_and_only_the_newest_are_remembered() {
        let panics = Panics::default();
        let id = |n: usize| Uuid::from_u128(n as u128);
        assert_eq!([1, 2, 3].map(|_| panics.count(id(0))), [1, 2, 3]);
        assert!(panics.is_poison(id(0)) && !panics.is_poison(id(1)));
        panics.forget(id(0));
        assert!(!panics.is_poison(id(0)));
        for n in 1..=REMEMBERED + 1 {
            panics.count(id(n));
        }
        assert_eq!(panics.count(id(1)), 1, "forgotten");
        assert_eq!(panics.count(id(REMEMBERED + 1)), 2);
    }

    #[tokio::test]
    async fn work_that_panics_is_followed_by_what_was_said() {
        let webhook = Uuid::from_u128(7);
        let work = async move {
            assert!(webhook.is_nil(), "on purpose");
            Settled::Nothing
        };
        let settled = surviving(work, move || Settled::Learned {
            webhook,
            found: None,
        });
        assert!(matches!(
            settled.await,
            Settled::Learned { found: None, .. }
        ));
    }
}
