//! Whether this process stood still.
//!
//! A machine that is paused, swaps, or gives its cores to others stops us in the middle of attempts. When
//! we go on, deadlines have passed and connections are closed, and none of that is the endpoint's doing. A
//! watch turns ten times a second; a turn that is a second late tells that we stood still until then.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep};

/// How often the watch turns.
const TURN: Duration = Duration::from_millis(100);

/// From so much between two turns on we stood still. Below it an endpoint's deadline of seconds is not
/// moved; a busy machine does not often come near it.
const STILL: Duration = Duration::from_millis(1_100);

/// What the watch has seen.
#[derive(Debug, Default)]
pub(crate) struct Stalls(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// The last turn; `None` = the watch has not begun.
    turned: Option<Instant>,
    /// When we last went on.
    went_on: Option<Instant>,
}

impl Stalls {
    /// Watches for ever.
    pub(crate) async fn watch(&self) {
        loop {
            self.turn(Instant::now());
            sleep(TURN).await;
        }
    }

    fn turn(&self, now: Instant) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = seen.turned
            && now - before >= STILL
        {
            seen.went_on = Some(now);
            metrics::counter!("webhooks_stalls_total").increment(1);
            let still_ms = u64::try_from((now - before).as_millis()).unwrap_or(u64::MAX);
            tracing::warn!(still_ms, "this process stood still");
        }
        seen.turned = Some(now);
    }

    /// Whether we stood still at some time from `since` to `now`.
    pub(crate) fn stood_still(&self, since: Instant, now: Instant) -> bool {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The watch may not have turned yet since we went on.
        let still = seen
            .turned
            .is_some_and(|turned| now.saturating_duration_since(turned) >= STILL);
        still || seen.went_on.is_some_and(|went_on| went_on >= since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_that_lay_in_a_stall_is_told_from_one_before_and_one_after() {
        let stalls = Stalls::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert!(!stalls.stood_still(at(0), at(60_000)), "nobody watches yet");
        for ms in [0, 100, 350, 1_300] {
            stalls.turn(at(ms));
            assert!(!stalls.stood_still(at(0), at(ms + 1_000)), "{ms}");
        }
        // We go on, and the watch has not turned yet.
        assert!(stalls.stood_still(at(1_200), at(9_000)));
        stalls.turn(at(9_000));
        assert!(stalls.stood_still(at(1_200), at(9_050)));
        stalls.turn(at(9_100));
        assert!(stalls.stood_still(at(8_999), at(9_150)));
        assert!(!stalls.stood_still(at(9_001), at(9_150)));
    }
}
