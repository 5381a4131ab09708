//! When a failed delivery is tried again.
//!
//! The default is the product document's promise: three attempts, the second at once (0–1 s), the
//! third after 30 s ± 20 %. `Retry-After` may lengthen a delay, never shorten it, and is capped.
//! A webhook may have a policy of its own, within the bounds named here ([`RetryPolicy::validate`]).

use std::{ops::RangeInclusive, time::Duration};

use crate::endpoint::outcome::FailureClass;

/// Longest wait a receiver may ask for with `Retry-After`.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(3_600);

/// Bounds of the immediate retry's jitter: 0 to this.
pub const IMMEDIATE_JITTER: Duration = Duration::from_secs(1);

/// Bounds of [`RetryPolicy::max_attempts`] of a webhook's own policy.
pub const ATTEMPTS: RangeInclusive<u32> = 1..=20;

/// Bounds of [`RetryPolicy::base`].
pub const BASE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3_600);

/// Bounds of [`RetryPolicy::factor`].
pub const FACTOR: RangeInclusive<f64> = 1.0..=10.0;

/// Bounds of [`RetryPolicy::cap`]; it is not below the base either.
pub const CAP: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3_600);

/// Bounds of [`RetryPolicy::jitter`].
pub const JITTER: RangeInclusive<f64> = 0.0..=0.5;

/// Bounds of [`RetryPolicy::max_age`], where there is one.
pub const MAX_AGE: RangeInclusive<Duration> =
    Duration::from_secs(60)..=Duration::from_secs(7 * 24 * 3_600);

/// A field of a policy or limit that is out of bounds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {reason}")]
pub struct OutOfBounds {
    /// The field's name, as in JSON.
    pub field: &'static str,
    /// What it must be. Shown to customers.
    pub reason: String,
}

impl OutOfBounds {
    pub(crate) fn new(field: &'static str, reason: impl Into<String>) -> Self {
        Self {
            field,
            reason: reason.into(),
        }
    }
}

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
    /// Upper bound of the random wait before the second attempt. The installation's, not the
    /// webhook's.
    pub immediate: Duration,
    /// No retry starts later than this after the event was accepted; `None` = no limit.
    pub max_age: Option<Duration>,
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
        max_age: None,
    };

    /// Ten attempts over about 72 h: at once, within a second, then after 2 min, 8 min, 32 min,
    /// 2 h, 8.5 h and three times 20 h, each ± 20 %; none more than 4 days after the event.
    pub const RESILIENT: Self = Self {
        max_attempts: 10,
        base: Duration::from_secs(120),
        factor: 4.0,
        cap: Duration::from_secs(20 * 3_600),
        jitter: 0.2,
        immediate: IMMEDIATE_JITTER,
        max_age: Some(Duration::from_secs(4 * 24 * 3_600)),
    };

    /// The preset of that name: `standard` or `resilient`.
    #[must_use]
    pub fn preset(name: &str) -> Option<Self> {
        match name {
            "standard" => Some(Self::STANDARD),
            "resilient" => Some(Self::RESILIENT),
            _ => None,
        }
    }

    /// The name of the preset that this policy is, if it is one.
    #[must_use]
    pub fn preset_name(&self) -> Option<&'static str> {
        ["standard", "resilient"]
            .into_iter()
            .find(|name| Self::preset(name).as_ref() == Some(self))
    }

    /// A policy from the numbers it is stored and sent as: times in milliseconds, factor and jitter
    /// in thousandths, `max_age_ms` 0 = no limit. The immediate retry is the standard's. Nothing is
    /// checked: see [`RetryPolicy::validate`].
    #[must_use]
    pub fn from_numbers(
        max_attempts: u32,
        base_ms: u64,
        factor_milli: u32,
        cap_ms: u64,
        jitter_milli: u32,
        max_age_ms: u64,
    ) -> Self {
        Self {
            max_attempts,
            base: Duration::from_millis(base_ms),
            factor: f64::from(factor_milli) / 1_000.0,
            cap: Duration::from_millis(cap_ms),
            jitter: f64::from(jitter_milli) / 1_000.0,
            immediate: IMMEDIATE_JITTER,
            max_age: (max_age_ms > 0).then(|| Duration::from_millis(max_age_ms)),
        }
    }

    /// Whether a webhook may have this policy.
    ///
    /// # Errors
    /// The first field that is out of bounds, and what it must be.
    pub fn validate(&self) -> Result<(), OutOfBounds> {
        self.refusals().into_iter().next().map_or(Ok(()), Err)
    }

    /// Every field for which a webhook may not have this policy, and what it must be. A cap is held
    /// against its base only where that one is within its own bounds.
    #[must_use]
    pub fn refusals(&self) -> Vec<OutOfBounds> {
        let base = BASE.contains(&self.base);
        let rules = [
            (
                "maxAttempts",
                ATTEMPTS.contains(&self.max_attempts),
                "must be 1 to 20",
            ),
            ("base", base, "must be 1 second to 1 hour"),
            (
                "factor",
                FACTOR.contains(&self.factor),
                "must be 1.0 to 10.0",
            ),
            (
                "cap",
                CAP.contains(&self.cap) && (!base || self.cap >= self.base),
                "must be 1 second to 24 hours, and not below the base",
            ),
            (
                "jitter",
                JITTER.contains(&self.jitter),
                "must be 0.0 to 0.5",
            ),
            (
                "maxAge",
                self.max_age.is_none_or(|age| MAX_AGE.contains(&age)),
                "must be 1 minute to 7 days",
            ),
        ];
        let broken = rules.into_iter().filter(|(_, holds, _)| !holds);
        broken
            .map(|(field, _, reason)| OutOfBounds::new(field, reason))
            .collect()
    }

    /// The sum of all delays without jitter: how long a receiver may be away. The random wait before
    /// the second attempt counts with its upper bound.
    #[must_use]
    pub fn span(&self) -> Duration {
        (1..self.max_attempts)
            .map(|made| match made {
                1 => self.immediate,
                _ => self.delay(made, None, 0.5),
            })
            .sum()
    }
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

/// Longest pause before an attempt is repeated for the first time that failed through our own fault;
/// each further failure in a row doubles it.
pub const OWN_FAULT_DELAY: Duration = Duration::from_secs(5);

/// Longest such pause.
pub const MAX_OWN_FAULT_DELAY: Duration = Duration::from_secs(300);

/// The pause before an attempt is repeated that has failed through our own fault `before` times in a
/// row before this one: half of it at least, all of it at most, by `draw` (`0.0..1.0`).
#[must_use]
pub fn own_fault_delay(before: u32, draw: f64) -> Duration {
    // More doublings than this are beyond the cap.
    let doubled = OWN_FAULT_DELAY.saturating_mul(1 << before.min(16));
    doubled
        .min(MAX_OWN_FAULT_DELAY)
        .mul_f64(0.5 + draw.clamp(0.0, 1.0) / 2.0)
}

impl RetryPolicy {
    /// Decides after attempt number `made` (from 1) failed with `class`. `draw` is a random number
    /// in `0.0..1.0`; `retry_after` is the receiver's wish, already parsed; `age` is how long ago the
    /// event was accepted: a retry that would start beyond [`RetryPolicy::max_age`] is not made. An
    /// attempt that failed through our own fault is repeated at any age; whoever knows that it was
    /// not for the first time waits as [`own_fault_delay`] says.
    #[must_use]
    pub fn next(
        &self,
        made: u32,
        class: FailureClass,
        retry_after: Option<Duration>,
        age: Duration,
        draw: f64,
    ) -> Next {
        match class {
            FailureClass::Permanent => Next::GiveUp,
            FailureClass::Ours => Next::Again {
                delay: own_fault_delay(0, draw),
            },
            FailureClass::Temporary if made >= self.max_attempts => Next::GiveUp,
            FailureClass::Temporary => {
                let delay = self.delay(made, retry_after, draw);
                if self
                    .max_age
                    .is_some_and(|limit| age.saturating_add(delay) > limit)
                {
                    return Next::GiveUp;
                }
                Next::Retry {
                    attempt: made + 1,
                    delay,
                }
            }
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
        let at =
            |made, draw| policy.next(made, FailureClass::Temporary, None, Duration::ZERO, draw);
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
            policy.next(1, FailureClass::Permanent, None, Duration::ZERO, 0.5),
            Next::GiveUp
        );
    }

    #[test]
    fn our_own_faults_are_repeated_ever_more_slowly_up_to_five_minutes() {
        let seconds = |before, draw| own_fault_delay(before, draw).as_secs_f64();
        for (before, longest) in [
            (0, 5.0),
            (1, 10.0),
            (5, 160.0),
            (6, 300.0),
            (u32::MAX, 300.0),
        ] {
            assert!((seconds(before, 1.0) - longest).abs() < 1e-6, "{before}");
            assert!(
                (seconds(before, 0.0) - longest / 2.0).abs() < 1e-6,
                "{before}"
            );
        }
    }

    #[test]
    fn retry_after_replaces_the_immediate_retry_and_is_capped_at_an_hour() {
        let policy = RetryPolicy::STANDARD;
        let after = |s| {
            policy.next(
                1,
                FailureClass::Temporary,
                Some(Duration::from_secs(s)),
                Duration::ZERO,
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

    #[test]
    fn resilient_is_ten_attempts_over_about_72_hours() {
        let policy = RetryPolicy::RESILIENT;
        assert_eq!(policy.max_attempts, 10);
        let hours = policy.span().as_secs_f64() / 3_600.0;
        assert!((71.0..=73.0).contains(&hours), "{hours}");
        // Even with all jitter against it, the last attempt is within the age.
        let latest = policy.span().mul_f64(1.0 + policy.jitter);
        assert!(latest < policy.max_age.unwrap());
    }

    #[test]
    fn presets_are_within_bounds_and_have_their_names() {
        for name in ["standard", "resilient"] {
            let policy = RetryPolicy::preset(name).unwrap();
            assert_eq!(policy.validate(), Ok(()));
            assert_eq!(policy.preset_name(), Some(name));
        }
        assert_eq!(RetryPolicy::preset("STANDARD"), None);
        let numbers = RetryPolicy::from_numbers(10, 120_000, 4_000, 72_000_000, 200, 345_600_000);
        assert_eq!(numbers.preset_name(), Some("resilient"));
    }

    #[test]
    fn every_field_out_of_bounds_is_named_and_no_cap_for_its_base() {
        let fields = |policy: RetryPolicy| -> Vec<&'static str> {
            let refusals = policy.refusals().into_iter();
            refusals.map(|one| one.field).collect()
        };
        type Break = fn(&mut RetryPolicy);
        let break_one: [(&str, Break); 6] = [
            ("maxAttempts", |policy| policy.max_attempts = 0),
            ("base", |policy| policy.base = Duration::from_secs(7_200)),
            ("factor", |policy| policy.factor = 0.5),
            ("cap", |policy| policy.cap = Duration::ZERO),
            ("jitter", |policy| policy.jitter = 0.6),
            ("maxAge", |policy| {
                policy.max_age = Some(Duration::from_secs(1))
            }),
        ];
        // Whatever of them is broken, exactly that is named.
        for broken in 0..64 {
            let mut policy = RetryPolicy::STANDARD;
            let mut expected = Vec::new();
            for (bit, (field, break_it)) in break_one.iter().enumerate() {
                if broken & (1 << bit) != 0 {
                    break_it(&mut policy);
                    expected.push(*field);
                }
            }
            assert_eq!(fields(policy), expected);
            assert_eq!(policy.validate().is_ok(), expected.is_empty());
        }
        let of = |base, cap| RetryPolicy {
            base: Duration::from_secs(base),
            cap: Duration::from_secs(cap),
            ..RetryPolicy::STANDARD
        };
        assert_eq!(fields(of(120, 60)), ["cap"]);
        assert_eq!(fields(of(7_200, 60)), ["base"]);
    }

    #[test]
    fn a_field_out_of_bounds_is_named() {
        let standard = RetryPolicy::STANDARD;
        let seconds = Duration::from_secs;
        let check = |policy: RetryPolicy, field: &str| {
            assert_eq!(policy.validate().unwrap_err().field, field, "{policy:?}");
        };
        for max_attempts in [0, 21] {
            let policy = RetryPolicy {
                max_attempts,
                ..standard
            };
            check(policy, "maxAttempts");
        }
        for base in [Duration::from_millis(999), seconds(3_601)] {
            check(RetryPolicy { base, ..standard }, "base");
        }
        for factor in [0.999, 10.001, f64::NAN, f64::INFINITY] {
            check(RetryPolicy { factor, ..standard }, "factor");
        }
        for cap in [seconds(29), seconds(86_401)] {
            check(RetryPolicy { cap, ..standard }, "cap");
        }
        for jitter in [-0.1, 0.501, f64::NAN] {
            check(RetryPolicy { jitter, ..standard }, "jitter");
        }
        for age in [seconds(59), seconds(604_801)] {
            let max_age = Some(age);
            check(
                RetryPolicy {
                    max_age,
                    ..standard
                },
                "maxAge",
            );
        }
    }

    proptest! {
        #[test]
        fn no_retry_starts_beyond_the_age(made in 1u32..12, age in 0u64..10_000, limit in 60u64..10_000, wish in 0u64..5_000, draw in 0.0f64..1.0) {
            let (age, limit) = (Duration::from_secs(age), Duration::from_secs(limit));
            let policy = RetryPolicy { max_attempts: 20, max_age: Some(limit), ..RetryPolicy::STANDARD };
            let wish = Some(Duration::from_secs(wish));
            let ageless = RetryPolicy { max_age: None, ..policy };
            let Next::Retry { delay, attempt } = ageless.next(made, FailureClass::Temporary, wish, age, draw) else {
                return Err(TestCaseError::fail("there are attempts left"));
            };
            let expected = if age + delay > limit { Next::GiveUp } else { Next::Retry { attempt, delay } };
            prop_assert_eq!(policy.next(made, FailureClass::Temporary, wish, age, draw), expected);
        }

        #[test]
        fn a_policy_within_bounds_ends_and_keeps_its_cap(
            max_attempts in 1u32..=20, base in 1u64..=3_600, factor in 1_000u32..=10_000,
            extra in 0u64..=80_000, jitter in 0u32..=500, draw in 0.0f64..1.0,
        ) {
            let cap = (base + extra).min(86_400) * 1_000;
            let policy = RetryPolicy::from_numbers(max_attempts, base * 1_000, factor, cap, jitter, 0);
            prop_assert_eq!(policy.validate(), Ok(()));
            let mut made = 1;
            while let Next::Retry { attempt, delay } = policy.next(made, FailureClass::Temporary, None, Duration::ZERO, draw) {
                prop_assert_eq!(attempt, made + 1);
                prop_assert!(delay <= policy.cap.mul_f64(1.0 + policy.jitter) + Duration::from_micros(1));
                made = attempt;
            }
            prop_assert_eq!(made, max_attempts);
        }

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
