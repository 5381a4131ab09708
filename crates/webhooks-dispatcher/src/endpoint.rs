//! One endpoint's share of its partition: the cap on requests in flight, the queue behind it, and
//! the times at which what does not fit is parked. Pure: the partition's owner is the only one who
//! holds it, so it needs no lock and holds across replicas.

use std::{collections::VecDeque, time::Duration};

/// Longest time a delivery is parked for want of room.
pub(crate) const MAX_PARK: Duration = Duration::from_secs(30);

/// Shortest.
pub(crate) const MIN_PARK: Duration = Duration::from_secs(1);

/// How long an answer is thought to take before one has been seen.
const FIRST_GUESS_MICROS: i64 = 200_000;

/// The state of one endpoint.
#[derive(Debug)]
pub(crate) struct Endpoint<T> {
    cap: usize,
    queue_limit: usize,
    in_flight: usize,
    queue: VecDeque<T>,
    latency_micros: i64,
    next_slot_micros: i64,
}

impl<T> Endpoint<T> {
    pub(crate) fn new(cap: usize, queue_limit: usize) -> Self {
        Self {
            cap,
            queue_limit,
            in_flight: 0,
            queue: VecDeque::new(),
            latency_micros: FIRST_GUESS_MICROS,
            next_slot_micros: 0,
        }
    }

    /// Takes a delivery (at most `share` may wait), or says when there will be room: each parked one gets a slot of its own,
    /// spaced as the endpoint answers.
    pub(crate) fn admit(
        &mut self,
        job: T,
        share: usize,
        now_micros: i64,
    ) -> Result<(), (T, Duration)> {
        if self.queue.len() < self.queue_limit.min(share.max(1)) {
            self.queue.push_back(job);
            return Ok(());
        }
        let spacing = self.latency_micros / i64::try_from(self.cap).unwrap_or(1).max(1);
        // What waits in memory goes first.
        let backlog = spacing * i64::try_from(self.queue.len()).unwrap_or(0);
        let slot = self.next_slot_micros.max(now_micros + backlog);
        self.next_slot_micros = slot + spacing;
        let wait = Duration::from_micros(u64::try_from(slot - now_micros).unwrap_or(0));
        Err((job, wait.clamp(MIN_PARK, MAX_PARK)))
    }

    /// The next delivery that may go out now.
    pub(crate) fn start(&mut self) -> Option<T> {
        if self.in_flight >= self.cap {
            return None;
        }
        let job = self.queue.pop_front()?;
        self.in_flight += 1;
        Some(job)
    }

    /// A request has ended after `latency`: its place is free.
    pub(crate) fn ended(&mut self, latency: Duration) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let seen = i64::try_from(latency.as_micros()).unwrap_or(i64::MAX / 16);
        self.latency_micros += (seen - self.latency_micros) / 8;
    }

    /// Whether something waits that may start.
    pub(crate) fn has_startable(&self) -> bool {
        self.in_flight < self.cap && !self.queue.is_empty()
    }

    /// Nothing in hand: it can be forgotten.
    pub(crate) fn is_idle(&self, now_micros: i64) -> bool {
        self.in_flight == 0 && self.queue.is_empty() && self.next_slot_micros < now_micros
    }

    /// Takes everything that has not started.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = T> {
        self.queue.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_slow_endpoint_parks_what_does_not_fit_spaced_as_it_answers() {
        let mut endpoint = Endpoint::new(8, 2);
        for _ in 0..100 {
            endpoint.ended(Duration::from_secs(8));
        }
        assert!(endpoint.admit(1, 99, 0).is_ok() && endpoint.admit(2, 99, 0).is_ok());
        let waits: Vec<_> = (3..8)
            .map(|n| endpoint.admit(n, 99, 0).unwrap_err().1)
            .collect();
        assert!(waits.windows(2).all(|pair| pair[0] < pair[1]), "{waits:?}");
        assert!(
            waits[4] - waits[3] > Duration::from_millis(900),
            "{waits:?}"
        );
    }

    proptest! {
        #[test]
        fn never_more_in_flight_than_the_cap_and_nothing_is_lost(cap in 1usize..10, limit in 1usize..20, steps in prop::collection::vec(0u8..4, 1..300)) {
            let mut endpoint = Endpoint::new(cap, limit);
            let (mut given, mut started, mut ended, mut parked) = (0u32, 0u32, 0u32, 0u32);
            for step in steps {
                match step {
                    0 | 1 => { given += 1; if endpoint.admit(given, 99, 0).is_err() { parked += 1; } }
                    2 => if endpoint.start().is_some() { started += 1; },
                    _ => if started > ended { ended += 1; endpoint.ended(Duration::from_millis(1)); },
                }
                prop_assert!((started - ended) as usize <= cap);
            }
            let waiting = u32::try_from(endpoint.drain().count()).unwrap();
            prop_assert_eq!(given, parked + started + waiting);
        }

        #[test]
        fn a_park_is_bounded(latency in 0u64..40_000, count in 1usize..400) {
            let mut endpoint = Endpoint::new(8, 1);
            for _ in 0..50 { endpoint.ended(Duration::from_millis(latency)); }
            for _ in 0..count {
                if let Err(((), wait)) = endpoint.admit((), 99, 0) { prop_assert!((MIN_PARK..=MAX_PARK).contains(&wait)); }
            }
        }
    }
}
