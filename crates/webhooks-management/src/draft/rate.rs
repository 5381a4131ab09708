//! Judging how fast an endpoint may be called.

use webhooks_domain::rate::RateLimit;
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
        for (field, given) in [
            ("rateLimit.count", draft.count),
            ("rateLimit.periodSeconds", draft.period_seconds),
        ] {
            if given.is_none() {
                self.missing(field);
            }
        }
        let (count, period) = (draft.count?, draft.period_seconds?);
        // What no u32 holds is beyond every bound.
        let number = |given: i64| u32::try_from(given).unwrap_or(u32::MAX);
        let period = number(period);
        if !RATE_PERIODS.contains(&period) {
            self.refuse("rateLimit.periodSeconds", "out_of_bounds", "is 1 or 60");
            return None;
        }
        if draft.burst == Some(0) {
            self.refuse("rateLimit.burst", "out_of_bounds", "is at least 1");
            return None;
        }
        match RateLimit::new(number(count), period, draft.burst.map_or(0, number)) {
            Ok(limit) => Some(Some(RateChoice {
                count: limit.count(),
                period_seconds: limit.period_seconds(),
                burst: limit.burst(),
            })),
            Err(refusal) => {
                let field = format!("rateLimit.{}", refusal.field);
                self.refuse(&field, "out_of_bounds", refusal.reason);
                None
            }
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
