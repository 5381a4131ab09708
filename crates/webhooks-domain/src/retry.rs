//! When a failed delivery is tried again.
//!
//! The default is the product document's promise: three attempts, the second at once (0–1 s), the
//! third after 30 s ± 20 %. `Retry-After` may lengthen a delay, never shorten it, and is capped.

use std::time::Duration;

use crate::endpoint::outcome::FailureClass;

/// Longest wait a receiver may ask for with `Retry-After`.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(3_600);

/// Bounds of the immediate retry's jitter: 0 to this.
pub const IMMEDIATE_JITTER: Duration = Duration::from_secs(1);

/// How often and how long to try.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    /// Attempts in all, the first included.
    pub max_attempts: u32,
    /// Delay before the third attempt.
    pub base: Duration,
    /// Each later delay is this many times the one before.
    pub factor: f64,
    /// No delay is longer (jitter comes on top).
    pub cap: Duration,
    /// Share of the delay by which it varies either way, 0.0 to 1.0.
    pub jitter: f64,
    /// Upper bound of the random wait before the second attempt.
    pub immediate: Duration,
}

impl RetryPolicy {
    /// Three attempts: at once, again within a second, then after 30 s ± 20 %.
    pub const STANDARD: Self = Self {
        max_attempts: 3,
        base: Duration::from_secs(30),
        factor: 2.0,
        cap: Duration::from_secs(3_600),
        jitter: 0.2,
        immediate: IMMEDIATE_JITTER,
    };
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::STANDARD
    }
}

/// What to do after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Make attempt number `attempt` after `delay`.
    Retry {
        /// Number of the next attempt.
        attempt: u32,
        /// How long to wait.
        delay: Duration,
    },
    /// Do the same attempt again after `delay`: the failure was ours and counts for nothing.
    Again {
        /// How long to wait.
        delay: Duration,
    },
    /// No more attempts.
    GiveUp,
}

/// Pause before an attempt is repeated that failed through our own fault.
pub const OWN_FAULT_DELAY: Duration = Duration::from_secs(5);

impl RetryPolicy {
    /// Decides after attempt number `made` (from 1) failed with `class`. `draw` is a random number
    /// in `0.0..1.0`; `retry_after` is the receiver's wish, already parsed.
    #[must_use]
    pub fn next(
        &self,
        made: u32,
        class: FailureClass,
        retry_after: Option<Duration>,
        draw: f64,
    ) -> Next {
        match class {
            FailureClass::Permanent => Next::GiveUp,
            FailureClass::Ours => Next::Again {
                delay: OWN_FAULT_DELAY.mul_f64(0.5 + draw.clamp(0.0, 1.0)),
            },
            FailureClass::Temporary if made >= self.max_attempts => Next::GiveUp,
            FailureClass::Temporary => Next::Retry {
                attempt: made + 1,
                delay: self.delay(made, retry_after, draw),
            },
        }
    }

    fn delay(&self, made: u32, retry_after: Option<Duration>, draw: f64) -> Duration {
        let draw = draw.clamp(0.0, 1.0);
        let own = if made <= 1 {
            self.immediate.mul_f64(draw)
        } else {
            let exponent = i32::try_from(made - 2).unwrap_or(i32::MAX);
            let plain = self.base.as_secs_f64() * self.factor.powi(exponent);
            let capped = plain.min(self.cap.as_secs_f64());
            Duration::from_secs_f64(capped * (1.0 + self.jitter * (2.0 * draw - 1.0)))
        };
        own.max(retry_after.unwrap_or_default().min(MAX_RETRY_AFTER))
    }
}

/// Reads a `Retry-After` value: seconds, or an IMF-fixdate, seen at `now_micros`. Anything else,
/// and a date that has passed, is no wish at all.
#[must_use]
pub fn parse_retry_after(value: &str, now_micros: i64) -> Option<Duration> {
    let value = value.trim();
    if value.is_empty() {
        return None;
    }
    if value.bytes().all(|b| b.is_ascii_digit()) {
        // More digits than a u64 holds still mean "very long"; the cap makes it an hour.
        let seconds = value.parse::<u64>().unwrap_or(u64::MAX);
        return Some(Duration::from_secs(seconds).min(MAX_RETRY_AFTER));
    }
    let format = time::macros::format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let at = time::PrimitiveDateTime::parse(value, format)
        .ok()?
        .assume_utc();
    let wait = at
        .unix_timestamp()
        .saturating_sub(now_micros.div_euclid(1_000_000));
    let wait = u64::try_from(wait).ok()?;
    Some(Duration::from_secs(wait).min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_standard_policy_is_the_documents_promise() {
        let policy = RetryPolicy::STANDARD;
        let at = |made, draw| policy.next(made, FailureClass::Temporary, None, draw);
        assert_eq!(
            at(1, 0.0),
            Next::Retry {
                attempt: 2,
                delay: Duration::ZERO
            }
        );
        assert_eq!(
            at(1, 1.0),
            Next::Retry {
                attempt: 2,
                delay: Duration::from_secs(1)
            }
        );
        assert_eq!(
            at(2, 0.0),
            Next::Retry {
                attempt: 3,
                delay: Duration::from_secs(24)
            }
        );
        assert_eq!(
            at(2, 1.0),
            Next::Retry {
                attempt: 3,
                delay: Duration::from_secs(36)
            }
        );
        assert_eq!(at(3, 0.5), Next::GiveUp);
        assert_eq!(
            policy.next(1, FailureClass::Permanent, None, 0.5),
            Next::GiveUp
        );
    }

    #[test]
    fn retry_after_replaces_the_immediate_retry_and_is_capped_at_an_hour() {
        let policy = RetryPolicy::STANDARD;
        let after = |s| {
            policy.next(
                1,
                FailureClass::Temporary,
                Some(Duration::from_secs(s)),
                0.5,
            )
        };
        assert_eq!(
            after(17),
            Next::Retry {
                attempt: 2,
                delay: Duration::from_secs(17)
            }
        );
        assert_eq!(
            after(999_999),
            Next::Retry {
                attempt: 2,
                delay: MAX_RETRY_AFTER
            }
        );
    }

    #[test]
    fn retry_after_is_read_as_seconds_or_a_date_and_nothing_else() {
        let now = 1_445_412_470_000_000; // Wed, 21 Oct 2015 07:27:50 GMT
        let check = |value: &str, expected: Option<u64>| {
            assert_eq!(
                parse_retry_after(value, now),
                expected.map(Duration::from_secs),
                "{value:?}"
            );
        };
        check("0", Some(0));
        check(" 120 ", Some(120));
        check("99999999999999999999", Some(3_600));
        check("Wed, 21 Oct 2015 07:28:00 GMT", Some(10));

        check("Thu, 21 Oct 9999 07:28:00 GMT", Some(3_600));
        check("Thu, 01 Jan 1970 00:00:00 GMT", None);
        for junk in [
            "", "-5", "1.5", "inf", "-inf", "NaN", "1e300", "soon", "1, 2",
        ] {
            check(junk, None);
        }
    }

    proptest! {
        #[test]
        fn retry_after_only_ever_delays(made in 1u32..12, wish in 0u64..10_000, draw in 0.0f64..1.0) {
            let policy = RetryPolicy { max_attempts: 20, ..RetryPolicy::STANDARD };
            let plain = policy.delay(made, None, draw);
            let asked = policy.delay(made, Some(Duration::from_secs(wish)), draw);
            prop_assert!(asked >= plain);
            prop_assert!(asked <= plain.max(MAX_RETRY_AFTER));
        }

        #[test]
        fn delays_stay_within_cap_and_jitter(made in 1u32..1_000, draw in 0.0f64..1.0) {
            let policy = RetryPolicy { max_attempts: u32::MAX, ..RetryPolicy::STANDARD };
            prop_assert!(policy.delay(made, None, draw) <= policy.cap.mul_f64(1.0 + policy.jitter));
        }

        #[test]
        fn base_delays_never_shrink(made in 2u32..40) {
            let policy = RetryPolicy { max_attempts: u32::MAX, ..RetryPolicy::STANDARD };
            prop_assert!(policy.delay(made + 1, None, 0.5) >= policy.delay(made, None, 0.5));
        }

        #[test]
        fn any_header_text_is_survived(value in ".{0,60}") {
            if let Some(wait) = parse_retry_after(&value, 0) { prop_assert!(wait <= MAX_RETRY_AFTER); }
        }
    }
}
