//! One endpoint's share of its partition: the cap on requests in flight, the queue behind it, and
//! the times at which what does not fit is parked. Pure: the partition's owner is the only one who
//! holds it, so it needs no lock and holds across replicas.

use std::{collections::VecDeque, time::Duration};

/// Longest time a delivery is parked for want of room.
pub(crate) const MAX_PARK: Duration = Duration::from_secs(30);

/// Shortest.
pub(crate) const MIN_PARK: Duration = Duration::from_secs(1);

/// How long an answer is thought to take before one has been seen.
const FIRST_GUESS_MICROS: i64 = 20_000;

/// An endpoint whose deliveries leave at least this often (5 ms apart) is fast: its burst is worked
/// off in memory, and parking would only delay it.
const FAST_SPACING_MICROS: i64 = 5_000;

/// How long what waits in memory may wait, as the endpoint answers; the rest is parked.
const MAX_WAIT_MICROS: i64 = 2_000_000;

/// Fewest deliveries that may wait in memory, however slow the endpoint.
const MIN_QUEUE: usize = 8;

/// The state of one endpoint.
#[derive(Debug)]
pub(crate) struct Endpoint<T> {
    cap: usize,
    queue_limit: usize,
    in_flight: usize,
    queue: VecDeque<T>,
    latency_micros: i64,
    next_slot_micros: i64,
    /// When a request last ended, or the first one began.
    progress_micros: i64,
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
            progress_micros: 0,
        }
    }

    /// Time between two deliveries, as the endpoint answers at the moment: one that is full and has
    /// not answered for long is as slow as that.
    fn spacing(&self, now_micros: i64) -> i64 {
        let silent = if self.in_flight >= self.cap {
            now_micros - self.progress_micros
        } else {
            0
        };
        self.latency_micros.max(silent) / i64::try_from(self.cap).unwrap_or(1).max(1)
    }

    /// How many deliveries may wait in memory. A fast endpoint gets what it works off in
    /// [`MAX_WAIT_MICROS`]; a slow one no more than its limit, and its `share` of what is free.
    fn room(&self, share: usize, now_micros: i64) -> usize {
        let spacing = self.spacing(now_micros).max(1);
        let in_time = usize::try_from(MAX_WAIT_MICROS / spacing).unwrap_or(0);
        if spacing < FAST_SPACING_MICROS {
            in_time.max(self.queue_limit)
        } else {
            in_time.min(self.queue_limit).min(share).max(MIN_QUEUE)
        }
    }

    /// Takes a delivery, or says when there will be room: each parked one gets a slot of its own,
    /// spaced as the endpoint answers.
    pub(crate) fn admit(
        &mut self,
        job: T,
        share: usize,
        now_micros: i64,
    ) -> Result<(), (T, Duration)> {
        if self.queue.len() < self.room(share, now_micros) {
            self.queue.push_back(job);
            return Ok(());
        }
        let wait = self.slot(now_micros);
        Err((job, wait))
    }

    /// What waits beyond the room that an endpoint has which has become slow, newest first, each
    /// with the time to park it for.
    pub(crate) fn spill(&mut self, share: usize, now_micros: i64) -> Vec<(T, Duration)> {
        let room = self.room(share, now_micros);
        let mut spilt = Vec::new();
        while self.queue.len() > room {
            let Some(job) = self.queue.pop_back() else {
                break;
            };
            let wait = self.slot(now_micros);
            spilt.push((job, wait));
        }
        spilt
    }

    fn slot(&mut self, now_micros: i64) -> Duration {
        let spacing = self.spacing(now_micros);
        // What waits in memory goes first.
        let backlog = spacing * i64::try_from(self.queue.len()).unwrap_or(0);
        let slot = self.next_slot_micros.max(now_micros + backlog);
        self.next_slot_micros = slot + spacing;
        let wait = Duration::from_micros(u64::try_from(slot - now_micros).unwrap_or(0));
        wait.clamp(MIN_PARK, MAX_PARK)
    }

    /// The next delivery that may go out now.
    pub(crate) fn start(&mut self, now_micros: i64) -> Option<T> {
        if self.in_flight >= self.cap {
            return None;
        }
        let job = self.queue.pop_front()?;
        if self.in_flight == 0 {
            self.progress_micros = now_micros;
        }
        self.in_flight += 1;
        Some(job)
    }

    /// A request has ended after `latency`: its place is free.
    pub(crate) fn ended(&mut self, latency: Duration, now_micros: i64) {
        self.progress_micros = now_micros;
        self.in_flight = self.in_flight.saturating_sub(1);
        let seen = i64::try_from(latency.as_micros()).unwrap_or(i64::MAX / 16);
        self.latency_micros += (seen - self.latency_micros) / 8;
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.len()
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

    fn slow(limit: usize) -> Endpoint<i32> {
        let mut endpoint = Endpoint::new(8, limit);
        for _ in 0..100 {
            endpoint.ended(Duration::from_secs(8), 0);
        }
        endpoint
    }

    #[test]
    fn a_slow_endpoint_parks_what_does_not_fit_spaced_as_it_answers() {
        let mut endpoint = slow(256);
        for n in 0..8 {
            assert!(endpoint.admit(n, 999, 0).is_ok());
        }
        let waits: Vec<_> = (3..8)
            .map(|n| endpoint.admit(n, 999, 0).unwrap_err().1)
            .collect();
        assert!(waits.windows(2).all(|pair| pair[0] < pair[1]), "{waits:?}");
        assert!(
            waits[4] - waits[3] > Duration::from_millis(900),
            "{waits:?}"
        );
    }

    #[test]
    fn a_fast_endpoints_burst_waits_in_memory() {
        let mut endpoint = Endpoint::new(8, 16);
        for _ in 0..100 {
            endpoint.ended(Duration::from_millis(2), 0);
        }
        assert!((0..2_000).all(|n| endpoint.admit(n, 1, 0).is_ok()));
    }

    #[test]
    fn one_that_falls_silent_becomes_slow_and_spills_what_it_holds() {
        let mut endpoint = Endpoint::new(8, 16);
        assert!((0..100).all(|n| endpoint.admit(n, 1_000, 0).is_ok()));
        while endpoint.start(0).is_some() {}
        assert!(endpoint.spill(1_000, 10_000).is_empty());
        let spilt = endpoint.spill(1_000, 10_000_000);
        assert_eq!(endpoint.waiting(), 8);
        assert_eq!(spilt.len(), 100 - 8 - 8);
        // What was admitted last goes first, so the oldest stay next in line.
        assert_eq!(spilt[0].0, 99);
        assert_eq!(endpoint.start(10_000_000), None);
    }

    proptest! {
        #[test]
        fn never_more_in_flight_than_the_cap_and_nothing_is_lost(cap in 1usize..10, limit in 1usize..20, steps in prop::collection::vec(0u8..5, 1..300)) {
            let mut endpoint = Endpoint::new(cap, limit);
            let (mut given, mut started, mut ended, mut parked) = (0u32, 0u32, 0u32, 0usize);
            for (now, step) in (0i64..).step_by(700_000).zip(steps) {
                match step {
                    0 | 1 => { given += 1; parked += usize::from(endpoint.admit(given, 99, now).is_err()); }
                    2 => if endpoint.start(now).is_some() { started += 1; },
                    3 => parked += endpoint.spill(99, now).len(),
                    _ => if started > ended { ended += 1; endpoint.ended(Duration::from_millis(1), now); },
                }
                prop_assert!((started - ended) as usize <= cap);
            }
            let waiting = endpoint.drain().count();
            prop_assert_eq!(given as usize, parked + started as usize + waiting);
        }

        #[test]
        fn a_park_is_bounded(latency in 0u64..40_000, count in 1usize..400) {
            let mut endpoint = Endpoint::new(8, 1);
            for _ in 0..50 { endpoint.ended(Duration::from_millis(latency), 0); }
            for _ in 0..count {
                if let Err(((), wait)) = endpoint.admit((), 99, 0) { prop_assert!((MIN_PARK..=MAX_PARK).contains(&wait)); }
            }
        }
    }
}
