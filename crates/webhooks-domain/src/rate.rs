//! How often an endpoint may be called: a token bucket in the form of GCRA.
//!
//! One number is the whole state: the time at which the bucket will be full again. A request is
//! admitted when the bucket then lacks no more than `burst - 1` tokens, and moves that time one
//! interval ahead. So the law is: **in any window of length `t`, at most `burst + t / interval`
//! requests are admitted**, and it holds over any number of states that follow each other, as long as
//! each one begins empty ([`RateState::empty_at`]) when the one before has ended. That is what an
//! endpoint's new owner does.

use std::time::Duration;

use crate::retry::OutOfBounds;

/// Bounds of [`RateLimit::count`].
pub const COUNT: std::ops::RangeInclusive<u32> = 1..=10_000;

/// Bounds of [`RateLimit::period`], in seconds.
pub const PERIOD_SECONDS: std::ops::RangeInclusive<u32> = 1..=3_600;

/// Bounds of [`RateLimit::burst`].
pub const BURST: std::ops::RangeInclusive<u32> = 1..=10_000;

/// At most `count` requests per `period`, `burst` of them at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RateLimit {
    count: u32,
    period_seconds: u32,
    burst: u32,
}

impl RateLimit {
    /// Checks the bounds. `burst` 0 = the default: what [`RateLimit::default_burst`] says.
    ///
    /// # Errors
    /// The first field that is out of bounds.
    pub fn new(count: u32, period_seconds: u32, burst: u32) -> Result<Self, OutOfBounds> {
        if let Some(refusal) = Self::refusals(count, period_seconds, burst)
            .into_iter()
            .next()
        {
            return Err(refusal);
        }
        let burst = match burst {
            0 => Self::default_burst(count, period_seconds),
            some => some,
        };
        Ok(Self {
            count,
            period_seconds,
            burst,
        })
    }

    /// Every field that is out of bounds; none = [`RateLimit::new`] takes them. The default of the
    /// burst is within its bounds, as it is never above the count.
    #[must_use]
    pub fn refusals(count: u32, period_seconds: u32, burst: u32) -> Vec<OutOfBounds> {
        let fields = [
            ("count", count, COUNT),
            ("periodSeconds", period_seconds, PERIOD_SECONDS),
            ("burst", burst.max(1), BURST),
        ];
        let broken = fields
            .into_iter()
            .filter(|(_, value, bounds)| !bounds.contains(value));
        broken
            .map(|(field, _, bounds)| {
                let must = format!("must be {} to {}", bounds.start(), bounds.end());
                OutOfBounds::new(field, must)
            })
            .collect()
    }

    /// The burst of a limit that names none: what a second brings, at least one.
    #[must_use]
    pub fn default_burst(count: u32, period_seconds: u32) -> u32 {
        (count / period_seconds.max(1)).max(1)
    }

    /// Requests per period.
    #[must_use]
    pub fn count(self) -> u32 {
        self.count
    }

    /// The period in seconds.
    #[must_use]
    pub fn period_seconds(self) -> u32 {
        self.period_seconds
    }

    /// Requests at once.
    #[must_use]
    pub fn burst(self) -> u32 {
        self.burst
    }

    /// Time between two requests at the full rate, in microseconds, rounded up: never too often.
    #[must_use]
    pub fn interval_micros(self) -> i64 {
        let period = i64::from(self.period_seconds) * 1_000_000;
        let count = i64::from(self.count);
        (period + count - 1) / count
    }

    fn depth_micros(self) -> i64 {
        self.interval_micros() * i64::from(self.burst)
    }
}

/// How full an endpoint's bucket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateState {
    full_at_micros: i64,
}

impl RateState {
    /// A bucket that had no token at `micros`: the first request waits for one interval.
    #[must_use]
    pub fn empty_at(limit: RateLimit, micros: i64) -> Self {
        Self {
            full_at_micros: micros.saturating_add(limit.depth_micros()),
        }
    }

    /// Whether the bucket is full: a state that has no memory left.
    #[must_use]
    pub fn is_full(&self, now_micros: i64) -> bool {
        self.full_at_micros <= now_micros
    }

    /// How long until the next request may go; zero = it may now.
    #[must_use]
    pub fn wait(&self, limit: RateLimit, now_micros: i64) -> Duration {
        let allowed_at =
            self.bounded(limit, now_micros) - limit.depth_micros() + limit.interval_micros();
        Duration::from_micros(u64::try_from(allowed_at - now_micros).unwrap_or(0))
    }

    /// Takes a token, or says how long to wait for one.
    ///
    /// # Errors
    /// The time until there is one.
    pub fn admit(&mut self, limit: RateLimit, now_micros: i64) -> Result<(), Duration> {
        let wait = self.wait(limit, now_micros);
        if wait.is_zero() {
            let base = self.bounded(limit, now_micros).max(now_micros);
            self.full_at_micros = base.saturating_add(limit.interval_micros());
            Ok(())
        } else {
            Err(wait)
        }
    }

    /// Never emptier than empty: a clock that was set back, or a limit that has become larger, does
    /// not make a request wait for longer than one interval.
    fn bounded(&self, limit: RateLimit, now_micros: i64) -> i64 {
        self.full_at_micros
            .min(now_micros.saturating_add(limit.depth_micros()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limit(count: u32, period_seconds: u32, burst: u32) -> RateLimit {
        RateLimit::new(count, period_seconds, burst).unwrap()
    }

    #[test]
    fn a_full_bucket_gives_its_burst_and_then_one_per_interval() {
        let limit = limit(10, 1, 3);
        let mut state = RateState::empty_at(limit, -1_000_000);
        let burst = (0..5).filter(|_| state.admit(limit, 0).is_ok()).count();
        assert_eq!(burst, 3);
        let times: Vec<i64> = (0..350_000)
            .step_by(10_000)
            .filter(|now| state.admit(limit, *now).is_ok())
            .collect();
        assert_eq!(times, [100_000, 200_000, 300_000]);
    }

    #[test]
    fn an_empty_bucket_makes_the_first_wait_for_one_interval() {
        let limit = limit(2, 1, 10);
        let mut state = RateState::empty_at(limit, 0);
        assert_eq!(state.admit(limit, 0), Err(Duration::from_millis(500)));
        assert_eq!(state.admit(limit, 500_000), Ok(()));
        assert_eq!(state.admit(limit, 500_000), Err(Duration::from_millis(500)));
    }

    #[test]
    fn a_clock_set_back_by_a_day_costs_one_interval() {
        let limit = limit(1, 1, 5);
        let mut state = RateState::empty_at(limit, 86_400_000_000);
        assert_eq!(state.admit(limit, 0), Err(Duration::from_secs(1)));
        assert_eq!(state.wait(limit, 0), Duration::from_secs(1));
    }

    #[test]
    fn every_bound_that_is_broken_is_told() {
        let fields = |count, period, burst| -> Vec<&'static str> {
            let refusals = RateLimit::refusals(count, period, burst).into_iter();
            refusals.map(|one| one.field).collect()
        };
        assert_eq!(fields(0, 0, 10_001), ["count", "periodSeconds", "burst"]);
        assert_eq!(fields(10_001, 1, 0), ["count"]);
        for (count, period) in [(1, 3_600), (10_000, 1)] {
            assert_eq!(fields(count, period, 0), [""; 0]);
            RateLimit::new(count, period, 0).unwrap();
        }
    }

    #[test]
    fn bounds_are_told_with_their_field() {
        let field = |count, period, burst| RateLimit::new(count, period, burst).unwrap_err().field;
        assert_eq!(field(0, 1, 1), "count");
        assert_eq!(field(10_001, 1, 1), "count");
        assert_eq!(field(1, 0, 1), "periodSeconds");
        assert_eq!(field(1, 3_601, 1), "periodSeconds");
        assert_eq!(field(1, 1, 10_001), "burst");
        assert_eq!(limit(600, 60, 0).burst(), 10);
        assert_eq!(limit(1, 60, 0).burst(), 1);
    }

    proptest! {
        #[test]
        fn never_more_than_burst_and_rate_in_any_window(
            count in 1u32..50, period in 1u32..5, burst in 1u32..20,
            steps in prop::collection::vec(0i64..300_000, 1..300),
            moves in prop::collection::vec(0usize..300, 0..4),
        ) {
            let limit = limit(count, period, burst);
            let mut state = RateState::empty_at(limit, -10_000_000);
            let (mut now, mut admitted) = (0i64, Vec::new());
            for (n, step) in steps.into_iter().enumerate() {
                now += step;
                // The endpoint moves to another owner now and then.
                if moves.contains(&n) { state = RateState::empty_at(limit, now); }
                if state.admit(limit, now).is_ok() { admitted.push(now); }
            }
            for (first, from) in admitted.iter().enumerate() {
                for (last, to) in admitted.iter().enumerate().skip(first) {
                    let allowed = i64::from(burst) + (to - from) / limit.interval_micros();
                    prop_assert!(i64::try_from(last - first + 1).unwrap() <= allowed);
                }
            }
        }

        #[test]
        fn what_waits_as_long_as_told_is_admitted(count in 1u32..2_000, period in 1u32..100, burst in 1u32..50, taken in 0usize..60) {
            let limit = limit(count, period, burst);
            let mut state = RateState::empty_at(limit, -1_000_000_000_000);
            for _ in 0..taken { state.admit(limit, 0).ok(); }
            if let Err(wait) = state.admit(limit, 0) {
                prop_assert!(wait.as_micros() <= u128::try_from(limit.interval_micros()).unwrap());
                let later = i64::try_from(wait.as_micros()).unwrap();
                prop_assert!(state.admit(limit, later - 1).is_err());
                prop_assert!(state.admit(limit, later).is_ok());
            }
        }
    }
}
