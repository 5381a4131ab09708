//! Up to which event everything is fanned out.
//!
//! Fan-out works on many events at a time, and a crashed one's events come again seconds later, so
//! deliveries do not arrive in the order of their events. An ordered webhook's delivery may start
//! when no earlier one can come any more: fan-out acknowledges an event when all of its deliveries
//! are on their streams, so everything up to its consumer's acknowledgement floor is there. What the
//! floor covers counts [`GRACE`] later, the time in which it reaches its partition's owner.
//!
//! Asked only while something waits for the answer, and once for all partitions of a process.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use webhooks_bus::{Bus, names};

/// How long what is on its stream may take to reach the owner of its partition.
const GRACE: Duration = Duration::from_millis(100);

/// Shortest time between two questions.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// What is known of fan-out's progress.
#[derive(Debug, Default)]
pub(crate) struct FannedOut {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    in_force: u64,
    /// The newest answer, and when it came.
    answer: Option<(u64, Instant)>,
    asked: Option<Instant>,
}

impl State {
    fn settle(&mut self, now: Instant) -> u64 {
        if let Some((to, at)) = self.answer
            && now - at >= GRACE
        {
            self.in_force = self.in_force.max(to);
            self.answer = None;
        }
        self.in_force
    }

    /// Whether it is time to ask: not while an answer waits to come into force.
    fn may_ask(&mut self, now: Instant) -> bool {
        self.settle(now);
        let quiet = self.asked.is_none_or(|asked| now - asked >= ASK_EVERY);
        let ask = quiet && self.answer.is_none();
        if ask {
            self.asked = Some(now);
        }
        ask
    }
}

impl FannedOut {
    /// Everything up to this event has arrived.
    pub(crate) fn up_to(&self) -> u64 {
        self.lock().settle(Instant::now())
    }

    /// Asks anew, if nobody has just done so.
    pub(crate) async fn ask(&self, bus: &Bus) {
        if !self.lock().may_ask(Instant::now()) {
            return;
        }
        match bus
            .consumer_state(names::EVENTS, names::EVENTS_CONSUMER)
            .await
        {
            Ok(state) => self.lock().answer = Some((state.acknowledged_to, Instant::now())),
            Err(error) => tracing::debug!(%error, "fan-out's progress is not known"),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_after_its_grace_and_never_goes_back() {
        let (mut state, start) = (State::default(), Instant::now());
        assert!(state.may_ask(start));
        assert!(!state.may_ask(start + Duration::from_millis(10)));
        state.answer = Some((7, start));
        assert_eq!(state.settle(start + GRACE / 2), 0);
        assert!(!state.may_ask(start + GRACE / 2 + ASK_EVERY - Duration::from_millis(1)));
        assert_eq!(state.settle(start + GRACE), 7);
        assert!(state.may_ask(start + GRACE));
        state.answer = Some((3, start + GRACE));
        assert_eq!(state.settle(start + GRACE * 2), 7);
    }
}
