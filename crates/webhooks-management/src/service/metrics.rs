//! Metrics: which ranges may be asked for.

use uuid::Uuid;
use webhooks_store::{Interval, Measures};

use super::{Management, query::Judge};
use crate::{auth::Caller, error::ManagementError, violations::Violations};

/// Most buckets of one answer.
const MAX_BUCKETS: i64 = 1_500;

/// Buckets when no beginning is given.
const DEFAULT_BUCKETS: i64 = 24;

/// Which figures, unchecked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MetricsQuery {
    /// `minute`, `hour` or `day`; empty = `hour`.
    pub interval: String,
    /// Microseconds; `None` = 24 intervals before the end.
    pub from: Option<i64>,
    /// Microseconds; `None` = now.
    pub to: Option<i64>,
    /// What the face itself found wrong.
    pub problems: Violations,
}

/// The figures and what they are of.
#[derive(Debug, Clone, PartialEq)]
pub struct Metrics {
    /// The length of a bucket.
    pub interval: Interval,
    /// From this moment on, in microseconds: the beginning of an interval.
    pub from: i64,
    /// Before this moment, in microseconds.
    pub to: i64,
    /// The figures.
    pub measures: Measures,
}

impl MetricsQuery {
    fn judge(self, now: i64) -> Result<(Interval, i64, i64), ManagementError> {
        let mut judge = Judge(self.problems);
        let interval = match self.interval.as_str() {
            "" => Some(Interval::Hour),
            word => Interval::ALL
                .into_iter()
                .find(|interval| interval.as_str() == word),
        };
        let Some(interval) = interval else {
            let all = Interval::ALL.map(Interval::as_str).join(", ");
            judge.broken("interval", "unknown_value", format!("is one of {all}"));
            return judge.verdict((Interval::Hour, 0, 0));
        };
        let length = interval.micros();
        let to = self.to.unwrap_or(now).min(now.saturating_add(length));
        let from = self
            .from
            .unwrap_or_else(|| to.saturating_sub(length * (DEFAULT_BUCKETS - 1)));
        let from = from.div_euclid(length).saturating_mul(length);
        if from >= to {
            judge.broken("from", "not_before", "lies before to, and in the past");
        } else if to.saturating_sub(from).div_euclid(length) >= MAX_BUCKETS {
            let message = format!("lies at most {MAX_BUCKETS} intervals before to");
            judge.broken("from", "too_long", message);
        }
        judge.verdict((interval, from, to))
    }
}

impl Management {
    /// Figures of a webhook (which has to exist) or of the whole workspace.
    ///
    /// # Errors
    /// There is no such webhook, or the query breaks rules.
    pub async fn metrics(
        &self,
        caller: &Caller,
        webhook: Option<Uuid>,
        query: MetricsQuery,
    ) -> Result<Metrics, ManagementError> {
        if let Some(webhook) = webhook {
            self.get_webhook(caller, webhook).await?;
        }
        let now = self.now();
        let (interval, from, to) = query.judge(now)?;
        let measures = self
            .inner
            .store
            .measure(caller.workspace, webhook, interval, (from, to), now)
            .await?;
        Ok(Metrics {
            interval,
            from,
            to,
            measures,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000_000;

    #[test]
    fn a_range_begins_with_an_interval_and_ends_now() {
        let now = 100 * HOUR + 5;
        let judged = MetricsQuery::default().judge(now).unwrap();
        assert_eq!(judged, (Interval::Hour, 77 * HOUR, now));
        let day = MetricsQuery {
            interval: "day".into(),
            from: Some(30 * HOUR),
            ..MetricsQuery::default()
        };
        assert_eq!(day.judge(now).unwrap(), (Interval::Day, 24 * HOUR, now));
    }

    #[test]
    fn a_range_is_bounded() {
        let query = |from, to| MetricsQuery {
            interval: "minute".into(),
            from: Some(from),
            to: Some(to),
            ..MetricsQuery::default()
        };
        let now = 10_000 * HOUR;
        assert!(query(now - 24 * HOUR, now).judge(now).is_ok());
        assert!(query(now - 26 * HOUR, now).judge(now).is_err());
        assert!(query(now, now).judge(now).is_err());
        assert!(query(i64::MIN, i64::MAX).judge(now).is_err());
    }
}
