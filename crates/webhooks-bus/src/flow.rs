//! How many requests may wait unsent in the client.
//!
//! The client queues what is to be sent in a channel with a fixed number of places, and whoever finds
//! it full waits in a line of its own. Such a line is dangerous: a place may be given to a request
//! whose owner does not look at the moment (one of many futures that a task holds while it waits for
//! something else to be sent), and when all places are given so, nothing is sent any more, for ever.
//! It happened: on a disk so slow that NATS answered nothing for ten seconds at a time, a dispatcher
//! tried thousands of publishes again every two seconds, and came to stand still.
//!
//! So the channel must never fill. Requests are numbered as they enter it. It is a queue: when a
//! request has been answered, every earlier one has left it. What was sent since the last answered one
//! is then the most that can be in it, and at [`MAX_UNSENT`] a publish is told to come later, without
//! waiting in any line. One every [`PROBE_EVERY`] goes all the same, or nobody would learn that
//! the server answers again.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// Most publishes that may be unsent or unanswered. Far above what a service has under way when NATS
/// answers (a dispatcher: a few thousand), far below the client's places ([`crate::bus::CLIENT_CAPACITY`]),
/// which acknowledgements and other requests share.
pub(crate) const MAX_UNSENT: u64 = 16_384;

/// How often one is tried at the limit.
const PROBE_EVERY: Duration = Duration::from_millis(100);

/// Counts.
#[derive(Debug)]
pub(crate) struct Flow {
    began: Instant,
    sent: AtomicU64,
    answered: AtomicU64,
    last_probe_millis: AtomicU64,
}

impl Default for Flow {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            sent: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            last_probe_millis: AtomicU64::new(0),
        }
    }
}

impl Flow {
    /// The number of a request that is sent now; `None` = it must not be sent now.
    pub(crate) fn enter(&self) -> Option<u64> {
        self.enter_at(self.began.elapsed())
    }

    fn enter_at(&self, since_begin: Duration) -> Option<u64> {
        // The answers first: one that comes between the two loads then counts as unsent for a moment
        // longer. Still no bare subtraction: relaxed loads of two counters promise no order.
        let answered = self.answered.load(Ordering::Relaxed);
        let unsent = self.sent.load(Ordering::Relaxed).saturating_sub(answered);
        if unsent >= MAX_UNSENT && !self.may_probe(since_begin) {
            return None;
        }
        Some(self.sent.fetch_add(1, Ordering::Relaxed) + 1)
    }

    fn may_probe(&self, since_begin: Duration) -> bool {
        let now = u64::try_from(since_begin.as_millis()).unwrap_or(u64::MAX);
        let every = u64::try_from(PROBE_EVERY.as_millis()).unwrap_or(u64::MAX);
        let last = self.last_probe_millis.load(Ordering::Relaxed);
        now.saturating_sub(last) >= every
            && self
                .last_probe_millis
                .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// The server has answered this request, whatever it said.
    pub(crate) fn answered(&self, number: u64) {
        self.answered.fetch_max(number, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unanswered_is_bounded_and_an_answer_frees_all_that_went_before() {
        let flow = Flow::default();
        let numbers: Vec<_> = (0..MAX_UNSENT)
            .map(|_| flow.enter_at(Duration::ZERO).unwrap())
            .collect();
        assert_eq!(flow.enter_at(Duration::ZERO), None);
        // Timeouts free nothing: what they left behind may still be in the queue.
        assert_eq!(flow.enter_at(Duration::from_millis(99)), None);
        flow.answered(numbers[9]);
        assert_eq!(
            (0..20)
                .filter(|_| flow.enter_at(Duration::ZERO).is_some())
                .count(),
            10
        );
        // A late answer to an earlier one takes nothing back.
        flow.answered(numbers[3]);
        assert_eq!(flow.enter_at(Duration::ZERO), None);
    }

    #[test]
    fn answers_that_overtake_a_count_from_another_thread_do_no_harm() {
        let flow = Flow::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200_000 {
                        // A thread that was put aside between its two looks sees too many unsent.
                        let number = loop {
                            if let Some(number) = flow.enter() {
                                break number;
                            }
                        };
                        flow.answered(number);
                    }
                });
            }
        });
        assert_eq!(flow.sent.load(Ordering::Relaxed), 800_000);
        assert_eq!(flow.answered.load(Ordering::Relaxed), 800_000);
    }

    #[test]
    fn at_the_limit_one_goes_now_and_then_and_its_answer_opens_the_way() {
        let flow = Flow::default();
        for _ in 0..MAX_UNSENT {
            flow.enter_at(Duration::ZERO).unwrap();
        }
        let later = Duration::from_secs(1);
        let probe = flow.enter_at(later).unwrap();
        assert_eq!(flow.enter_at(later), None);
        assert!(flow.enter_at(later + PROBE_EVERY).is_some());
        flow.answered(probe);
        assert!(flow.enter_at(later + PROBE_EVERY).is_some());
    }
}
