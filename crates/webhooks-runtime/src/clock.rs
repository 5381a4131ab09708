//! The two clocks: the system's, and one that tests move by hand.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

pub use webhooks_domain::clock::Clock;

/// The clock of the machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_micros(&self) -> i64 {
        #[expect(clippy::disallowed_methods, reason = "this is the clock")]
        let now = SystemTime::now();
        let (sign, distance) = match now.duration_since(UNIX_EPOCH) {
            Ok(after) => (1, after),
            Err(error) => (-1, error.duration()),
        };
        sign * micros(distance)
    }
}

/// A clock that stands still until it is moved. Share it in an `Arc`.
#[derive(Debug)]
pub struct ManualClock {
    micros: AtomicI64,
}

impl ManualClock {
    /// A clock that shows this many microseconds since 1970.
    #[must_use]
    pub fn at_micros(micros: i64) -> Self {
        Self {
            micros: AtomicI64::new(micros),
        }
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.micros.fetch_add(micros(by), Ordering::SeqCst);
    }

    /// Sets the clock, backwards too.
    pub fn set_micros(&self, micros: i64) {
        self.micros.store(micros, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_micros(&self) -> i64 {
        self.micros.load(Ordering::SeqCst)
    }
}

/// Saturates after 292,000 years.
fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Clock, Duration, ManualClock, SystemClock};

    #[test]
    fn the_system_clock_shows_this_century() {
        let now = SystemClock.now_micros();
        assert!(
            (1_700_000_000_000_000..4_100_000_000_000_000).contains(&now),
            "{now}"
        );
    }

    #[test]
    fn the_manual_clock_moves_only_when_moved() {
        let clock = ManualClock::at_micros(5);
        assert_eq!(clock.now_micros(), 5);
        clock.advance(Duration::from_millis(2));
        assert_eq!(clock.now_micros(), 2_005);
        clock.set_micros(1);
        assert_eq!(clock.now_micros(), 1);
    }
}
