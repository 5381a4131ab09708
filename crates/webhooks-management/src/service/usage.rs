//! Usage, for capacity planning: which days may be asked for.

use webhooks_store::{Day, UsageDay};

use super::{Management, query::Judge};
use crate::{auth::Caller, error::ManagementError, violations::Violations};

/// Most days of one answer.
const MAX_DAYS: i64 = 366;

/// Days when no beginning is given.
const DEFAULT_DAYS: i32 = 30;

const MICROS_A_DAY: i64 = 86_400_000_000;

/// Which days, unchecked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UsageQuery {
    /// The day of this moment is the first; `None` = 29 days before the last.
    pub from: Option<i64>,
    /// The last day is the one before this moment; `None` = now, and so today.
    pub to: Option<i64>,
    /// What the face itself found wrong.
    pub problems: Violations,
}

/// Days, and what they are of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// When the first day begins, in microseconds.
    pub from: i64,
    /// Before this moment, in microseconds.
    pub to: i64,
    /// Every day, oldest first.
    pub days: Vec<UsageDay>,
}

impl UsageQuery {
    fn judge(self, now: i64) -> Result<(Day, i64), ManagementError> {
        let mut judge = Judge(self.problems);
        let to = self.to.unwrap_or(now).min(now);
        let last = Day::of_micros(to.saturating_sub(1));
        let first = self
            .from
            .map_or_else(|| last.plus(1 - DEFAULT_DAYS), Day::of_micros);
        let days = (last.start() - first.start()) / MICROS_A_DAY + 1;
        if days < 1 {
            judge.broken("from", "not_before", "lies before to, and in the past");
        } else if days > MAX_DAYS {
            let message = format!("lies at most {MAX_DAYS} days before to");
            judge.broken("from", "too_long", message);
        }
        judge.verdict((first, to))
    }
}

impl Management {
    /// Events and deliveries of the caller's workspace, day by day.
    ///
    /// # Errors
    /// The query breaks rules.
    pub async fn usage(
        &self,
        caller: &Caller,
        query: UsageQuery,
    ) -> Result<Usage, ManagementError> {
        let (first, to) = query.judge(self.now())?;
        let last = Day::of_micros(to.saturating_sub(1));
        let days = self
            .inner
            .store
            .usage(caller.workspace, first, last)
            .await?;
        Ok(Usage {
            from: first.start(),
            to,
            days,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 100 * MICROS_A_DAY + 5;

    fn judged(from: Option<i64>, to: Option<i64>) -> Result<(i64, i64), ManagementError> {
        let query = UsageQuery {
            from,
            to,
            ..UsageQuery::default()
        };
        query.judge(NOW).map(|(first, to)| (first.start(), to))
    }

    #[test]
    fn a_month_ends_today_and_a_range_is_bounded() {
        assert_eq!(judged(None, None).unwrap(), (71 * MICROS_A_DAY, NOW));
        // Until midnight is until the day before it.
        let until = Some(90 * MICROS_A_DAY);
        assert_eq!(
            judged(Some(89 * MICROS_A_DAY + 7), until).unwrap(),
            (89 * MICROS_A_DAY, 90 * MICROS_A_DAY)
        );
        let field = |error: ManagementError| error.violations()[0].reason;
        assert_eq!(
            field(judged(Some(NOW + MICROS_A_DAY), None).unwrap_err()),
            "not_before"
        );
        assert_eq!(field(judged(until, until).unwrap_err()), "not_before");
        assert_eq!(field(judged(Some(i64::MIN), None).unwrap_err()), "too_long");
        judged(Some(NOW - 365 * MICROS_A_DAY), None).unwrap();
    }
}
