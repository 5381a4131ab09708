//! How fast deliveries are put aside.
//!
//! Nobody waits for a delivery to be parked: it only has to leave memory before memory is short. Its
//! writes go through the same connection and the same server as everybody else's pulls, publishes and
//! acknowledgements, and a thousand of them at full speed were felt by every endpoint of the
//! dispatcher, whatever its partition. So a process parks [`PARKS_PER_SECOND`] while there is room, and
//! as many as it can once room is short.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use webhooks_domain::rate::{RateLimit, RateState};

/// Deliveries that one process parks in a second while memory is not short.
const PARKS_PER_SECOND: u32 = 250;

/// Of these at once: what a tick of 100 ms brings.
const PARKS_AT_ONCE: u32 = 25;

/// The pace of a process.
pub(crate) struct Pace {
    begun: Instant,
    /// `None` = the constants are out of bounds, which a test rules out.
    limit: Option<RateLimit>,
    bucket: Mutex<Option<RateState>>,
}

impl Default for Pace {
    fn default() -> Self {
        let limit = RateLimit::new(PARKS_PER_SECOND, 1, PARKS_AT_ONCE).ok();
        Self {
            begun: Instant::now(),
            limit,
            bucket: Mutex::new(limit.map(|limit| RateState::empty_at(limit, 0))),
        }
    }
}

impl Pace {
    /// Whether one more may be parked now, while there is room for it where it is.
    pub(crate) fn allows(&self) -> bool {
        let now = i64::try_from(self.begun.elapsed().as_micros()).unwrap_or(i64::MAX);
        self.allows_at(now)
    }

    fn allows_at(&self, now_micros: i64) -> bool {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        match (self.limit, bucket.as_mut()) {
            (Some(limit), Some(bucket)) => bucket.admit(limit, now_micros).is_ok(),
            _ => true,
        }
    }
}

/// Whether memory is short: three quarters of what may be held are in use.
pub(crate) fn is_short(used: usize, limit: usize) -> bool {
    used.saturating_mul(4) >= limit.saturating_mul(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_parks_so_many_in_a_second_and_no_more() {
        let pace = Pace::default();
        assert!(pace.limit.is_some());
        let allowed = (0..10_000_000)
            .step_by(500)
            .filter(|now| pace.allows_at(*now))
            .count();
        assert!((2_490..=2_525).contains(&allowed), "{allowed} in 10 s");
    }

    #[test]
    fn memory_is_short_from_three_quarters_on() {
        assert!(!is_short(74, 100));
        assert!(is_short(75, 100));
        assert!(is_short(0, 0));
        assert!(is_short(usize::MAX, usize::MAX));
    }
}
