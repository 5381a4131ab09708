//! Judging how fast an endpoint may be called.

use webhooks_domain::{rate::RateLimit, retry::OutOfBounds};
use webhooks_store::RateChoice;

use super::Judge;

/// The periods a rate limit may have, in seconds.
const RATE_PERIODS: [u32; 2] = [1, 60];

/// A rate limit as asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RateDraft {
    /// Requests.
    pub count: Option<i64>,
    /// Seconds.
    pub period_seconds: Option<i64>,
    /// Requests at once; `None` = what a second brings.
    pub burst: Option<i64>,
}

impl Judge<'_> {
    pub(super) fn rate(&mut self, draft: Option<Option<RateDraft>>) -> Option<Option<RateChoice>> {
        let Some(draft) = draft? else {
            return Some(None);
        };
        // What no u32 holds is beyond every bound.
        let number = |given: i64| u32::try_from(given).unwrap_or(u32::MAX);
        let (count, period) = (draft.count.map(number), draft.period_seconds.map(number));
        let burst = draft.burst.map(number);
        // Each is held against its own bounds; what is not there keeps within them.
        let refusals = RateLimit::refusals(count.unwrap_or(1), 1, burst.unwrap_or(1));
        let before = self.violations.count();
        match count {
            None => self.missing("rateLimit.count"),
            Some(_) => self.rate_bound(&refusals, "count"),
        }
        match period {
            None => self.missing("rateLimit.periodSeconds"),
            Some(period) if RATE_PERIODS.contains(&period) => {}
            Some(_) => self.refuse("rateLimit.periodSeconds", "out_of_bounds", "is 1 or 60"),
        }
        match burst {
            Some(0) => self.refuse("rateLimit.burst", "out_of_bounds", "is at least 1"),
            _ => self.rate_bound(&refusals, "burst"),
        }
        if self.violations.count() > before {
            return None;
        }
        // Only what the face has refused already is left to be missing here, or out of bounds.
        let limit = RateLimit::new(count?, period?, burst.unwrap_or(0)).ok()?;
        Some(Some(RateChoice {
            count: limit.count(),
            period_seconds: limit.period_seconds(),
            burst: limit.burst(),
        }))
    }

    fn rate_bound(&mut self, refusals: &[OutOfBounds], member: &str) {
        if let Some(refusal) = refusals.iter().find(|one| one.field == member) {
            let field = format!("rateLimit.{member}");
            self.refuse(&field, "out_of_bounds", refusal.reason.as_str());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{RetryBounds, tests::judged},
        *,
    };

    const FREE: RetryBounds = RetryBounds::NONE;

    #[test]
    fn a_rate_limit_is_whole_and_a_second_or_a_minute_long() {
        let rate = |count, period_seconds, burst| {
            let draft = RateDraft {
                count,
                period_seconds,
                burst,
            };
            judged(FREE, |judge| judge.rate(Some(Some(draft))))
        };
        let minute = rate(Some(600), Some(60), None).unwrap().unwrap().unwrap();
        assert_eq!((minute.count, minute.burst), (600, 10));
        let second = rate(Some(5), Some(1), Some(20)).unwrap().unwrap().unwrap();
        assert_eq!((second.period_seconds, second.burst), (1, 20));
        assert_eq!(judged(FREE, |judge| judge.rate(Some(None))), Ok(Some(None)));
        let said = rate(None, None, None).unwrap_err();
        let fields: Vec<_> = said.into_iter().map(|(field, _)| field).collect();
        assert_eq!(fields, ["rateLimit.count", "rateLimit.periodSeconds"]);
        let said = rate(Some(0), Some(7), Some(10_001)).unwrap_err();
        let fields: Vec<_> = said.into_iter().map(|(field, _)| field).collect();
        assert_eq!(
            fields,
            [
                "rateLimit.count",
                "rateLimit.periodSeconds",
                "rateLimit.burst"
            ]
        );
        let said = rate(None, Some(7), Some(0)).unwrap_err();
        let expected = [
            ("rateLimit.count", "missing"),
            ("rateLimit.periodSeconds", "out_of_bounds"),
            ("rateLimit.burst", "out_of_bounds"),
        ];
        assert_eq!(
            said,
            expected.map(|(field, reason)| (field.to_owned(), reason))
        );
        for (count, period, burst, field) in [
            (0, 1, None, "rateLimit.count"),
            (i64::MAX, 1, None, "rateLimit.count"),
            (1, 30, None, "rateLimit.periodSeconds"),
            (1, 1, Some(0), "rateLimit.burst"),
            (1, 1, Some(-1), "rateLimit.burst"),
        ] {
            let said = rate(Some(count), Some(period), burst).unwrap_err();
            assert_eq!(said, [(field.to_owned(), "out_of_bounds")]);
        }
    }
}
