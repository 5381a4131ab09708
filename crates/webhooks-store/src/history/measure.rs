//! Figures over a range of time, read from history itself: nothing is counted twice, and nothing is
//! written for them.
//!
//! A range is bounded by who asks. Within it at most the newest [`MAX_MEASURED`] deliveries are
//! looked at; when there are more, the answer says so. What the counters of days know (deliveries by
//! state, tests among them) then stands for the days that lie wholly in the range, exact at any size.

use sqlx::{PgConnection, Postgres, QueryBuilder, Row as _, postgres::PgRow};
use uuid::Uuid;
use webhooks_domain::endpoint::outcome::FailureClass;

use crate::{
    Store,
    error::StoreError,
    pg::{self, Day, Micros},
};

mod pulse;
mod usage;

pub use pulse::{MAX_PULSE, Pulse};
pub use usage::UsageDay;

/// Most deliveries that one question looks at.
pub const MAX_MEASURED: i64 = 50_000;

/// Deliveries whose attempts make the percentiles: the newest.
const SAMPLED: i64 = 10_000;

/// Deliveries of each interval, however many intervals there are.
const SAMPLED_OF_EACH: i64 = 20;

/// Most attempts of one delivery in the sample.
const ATTEMPTS_SAMPLED: i64 = 20;

/// Most groups of errors, the largest first.
const MAX_GROUPS: i64 = 50;

/// The length of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interval {
    /// A minute.
    Minute,
    /// An hour.
    Hour,
    /// A UTC day.
    Day,
}

impl Interval {
    /// Every interval.
    pub const ALL: [Self; 3] = [Self::Minute, Self::Hour, Self::Day];

    /// The word in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }

    /// Its length in microseconds.
    #[must_use]
    pub fn micros(self) -> i64 {
        match self {
            Self::Minute => 60_000_000,
            Self::Hour => 3_600_000_000,
            Self::Day => 86_400_000_000,
        }
    }
}

/// How many of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// All of them.
    pub deliveries: i64,
    /// Answered 2xx.
    pub delivered: i64,
    /// Given up.
    pub failed: i64,
    /// Never to be sent.
    pub cancelled: i64,
    /// Pending.
    pub pending: i64,
    /// Between two attempts.
    pub retrying: i64,
    /// Held.
    pub held: i64,
    /// Attempts made.
    pub attempts: i64,
}

/// The figures of one interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bucket {
    /// When it begins, in microseconds.
    pub start: i64,
    /// What was made in it.
    pub counts: Counts,
    /// How long the attempts of what was made in it took.
    pub latency: Latency,
}

/// How long attempts took, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Latency {
    /// Half of them took no longer.
    pub p50_us: Option<f64>,
    /// 95 of 100.
    pub p95_us: Option<f64>,
    /// 99 of 100.
    pub p99_us: Option<f64>,
    /// How many they are.
    pub sample: i64,
}

/// A delivery that stands for many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorExample {
    /// Which.
    pub delivery: Uuid,
    /// When it was made, in microseconds.
    pub at: i64,
}

/// Deliveries whose last attempts failed alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorGroup {
    /// What the failures mean.
    pub class: FailureClass,
    /// The answer's status; `None` = no answer.
    pub status: Option<u16>,
    /// Why.
    pub reason: String,
    /// How many.
    pub count: i64,
    /// The oldest.
    pub first: ErrorExample,
    /// The newest.
    pub last: ErrorExample,
}

/// The answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Measures {
    /// What was made in the range; open ones by their state now.
    pub totals: Counts,
    /// The same, interval by interval, oldest first; empty ones are left out.
    pub buckets: Vec<Bucket>,
    /// How long attempts took.
    pub latency: Latency,
    /// What failed, and is not delivered meanwhile.
    pub errors: Vec<ErrorGroup>,
    /// What is owed now, whenever it was made: pending, retrying, held.
    pub backlog: (i64, i64, i64),
    /// The range holds more deliveries than were looked at.
    pub partial: bool,
}

/// Which deliveries are measured.
#[derive(Debug, Clone, Copy)]
struct Range {
    workspace: Uuid,
    webhook: Option<Uuid>,
    from: i64,
    to: i64,
}

impl Range {
    fn push_whose(&self, sql: &mut QueryBuilder<Postgres>) {
        sql.push("workspace_id = ").push_bind(self.workspace);
        if let Some(webhook) = self.webhook {
            sql.push(" AND webhook_id = ").push_bind(webhook);
        }
    }

    /// Whether all of a day lies in the range, as far as the day has come by `now`.
    fn has_whole(&self, day: Day, now: i64) -> bool {
        let ends = day.start().saturating_add(Interval::Day.micros());
        self.from <= day.start() && (ends <= self.to || now <= self.to)
    }

    /// The newest deliveries of the range, tests left out, as `w`.
    fn window(&self, limit: i64) -> QueryBuilder<Postgres> {
        let mut sql = QueryBuilder::new(
            "WITH w AS MATERIALIZED (SELECT day, id, created_at, state, attempt_count,
  last_status_code, last_error_class, last_error_reason FROM deliveries WHERE ",
        );
        self.push_whose(&mut sql);
        sql.push(" AND day BETWEEN ")
            .push_bind(Day::of_micros(self.from))
            .push(" AND ")
            .push_bind(Day::of_micros(self.to))
            .push(" AND created_at >= ")
            .push_bind(Micros(self.from))
            .push(" AND created_at < ")
            .push_bind(Micros(self.to))
            .push(" AND trigger <> 'TEST' ORDER BY day DESC, created_at DESC, id DESC LIMIT ")
            .push_bind(limit)
            .push(") ");
        sql
    }
}

impl Store {
    /// Measures the deliveries made from `from` to before `to` (microseconds), as of `now`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn measure(
        &self,
        workspace: Uuid,
        webhook: Option<Uuid>,
        interval: Interval,
        (from, to): (i64, i64),
        now: i64,
    ) -> Result<Measures, StoreError> {
        let range = Range {
            workspace,
            webhook,
            from,
            to,
        };
        let mut tx = self.begin_reading().await?;
        let mut buckets = buckets(&mut tx, range, interval).await?;
        latencies(&mut tx, range, interval, &mut buckets).await?;
        let looked_at: i64 = buckets.iter().map(|bucket| bucket.counts.deliveries).sum();
        let partial = looked_at >= MAX_MEASURED;
        if partial && interval == Interval::Day {
            whole_days(&mut tx, range, now, &mut buckets).await?;
        }
        let mut totals = Counts::default();
        for bucket in &buckets {
            totals.add(bucket.counts);
        }
        let measures = Measures {
            totals,
            latency: latency_of(&mut tx, range, SAMPLED).await?,
            errors: errors(&mut tx, range).await?,
            backlog: backlog(&mut tx, range).await?,
            buckets,
            partial,
        };
        tx.commit().await?;
        Ok(measures)
    }
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.deliveries += other.deliveries;
        self.delivered += other.delivered;
        self.failed += other.failed;
        self.cancelled += other.cancelled;
        self.pending += other.pending;
        self.retrying += other.retrying;
        self.held += other.held;
        self.attempts += other.attempts;
    }

    fn of(row: &PgRow) -> Result<Self, StoreError> {
        Ok(Self {
            deliveries: row.try_get("deliveries")?,
            delivered: row.try_get("delivered")?,
            failed: row.try_get("failed")?,
            cancelled: row.try_get("cancelled")?,
            pending: row.try_get("pending")?,
            retrying: row.try_get("retrying")?,
            held: row.try_get("held")?,
            attempts: row.try_get("attempts")?,
        })
    }
}

async fn buckets(
    connection: &mut PgConnection,
    range: Range,
    interval: Interval,
) -> Result<Vec<Bucket>, StoreError> {
    let mut sql = range.window(MAX_MEASURED);
    sql.push("SELECT ").push(bin(interval)).push(
        " AS start, count(*) AS deliveries,
  count(*) FILTER (WHERE state = 'DELIVERED') AS delivered,
  count(*) FILTER (WHERE state = 'FAILED') AS failed,
  count(*) FILTER (WHERE state = 'CANCELLED') AS cancelled,
  count(*) FILTER (WHERE state = 'PENDING') AS pending,
  count(*) FILTER (WHERE state = 'RETRYING') AS retrying,
  count(*) FILTER (WHERE state = 'HELD') AS held,
  sum(attempt_count)::bigint AS attempts
FROM w GROUP BY 1 ORDER BY 1",
    );
    let rows = sql.build().fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            Ok(Bucket {
                start: pg::micros(row, "start")?,
                counts: Counts::of(row)?,
                latency: Latency::default(),
            })
        })
        .collect()
}

/// Puts what the counters know of whole days in the place of what was looked at. The counters know
/// tests too, and no attempts. Days that lie partly in the range stay as looked at: their counters are
/// of all of the day.
async fn whole_days(
    connection: &mut PgConnection,
    range: Range,
    now: i64,
    buckets: &mut Vec<Bucket>,
) -> Result<(), StoreError> {
    let mut sql = QueryBuilder::new(
        "SELECT day, sum(pending + retrying + held + delivered + failed + cancelled)::bigint
    AS deliveries, sum(delivered)::bigint AS delivered, sum(failed)::bigint AS failed,
  sum(cancelled)::bigint AS cancelled, sum(pending)::bigint AS pending,
  sum(retrying)::bigint AS retrying, sum(held)::bigint AS held, 0::bigint AS attempts
FROM delivery_counts WHERE ",
    );
    range.push_whose(&mut sql);
    sql.push(" AND day BETWEEN ")
        .push_bind(Day::of_micros(range.from))
        .push(" AND ")
        .push_bind(Day::of_micros(range.to.saturating_sub(1)))
        .push(" GROUP BY day ORDER BY day");
    let rows = sql.build().fetch_all(connection).await?;
    for row in &rows {
        let day: Day = row.try_get("day")?;
        if !range.has_whole(day, now) {
            continue;
        }
        let counts = Counts::of(row)?;
        let looked_at = buckets
            .iter_mut()
            .find(|bucket| Day::of_micros(bucket.start) == day);
        match looked_at {
            Some(bucket) => {
                bucket.counts = Counts {
                    attempts: bucket.counts.attempts,
                    ..counts
                };
            }
            None => buckets.push(Bucket {
                start: day.start(),
                counts,
                latency: Latency::default(),
            }),
        }
    }
    buckets.sort_unstable_by_key(|bucket| bucket.start);
    Ok(())
}

/// The interval of a delivery. `date_bin` from the epoch: days are UTC days.
fn bin(interval: Interval) -> &'static str {
    match interval {
        Interval::Minute => "date_bin('1 minute'::interval, created_at, 'epoch'::timestamptz)",
        Interval::Hour => "date_bin('1 hour'::interval, created_at, 'epoch'::timestamptz)",
        Interval::Day => "date_bin('1 day'::interval, created_at, 'epoch'::timestamptz)",
    }
}

/// The latencies of each bucket: of its newest deliveries, so many of each that all buckets together
/// cost about what the one sample of the whole range does.
async fn latencies(
    connection: &mut PgConnection,
    range: Range,
    interval: Interval,
    buckets: &mut [Bucket],
) -> Result<(), StoreError> {
    let count = i64::try_from(buckets.len()).unwrap_or(i64::MAX).max(1);
    let of_each = (SAMPLED / count).max(SAMPLED_OF_EACH);
    let mut sql = range.window(MAX_MEASURED);
    sql.push(
        "SELECT start, percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY a.total_us)
  AS parts, count(*) AS sample
FROM (SELECT day, id, start, row_number() OVER (PARTITION BY start ORDER BY created_at DESC, id DESC)
    AS place FROM (SELECT day, id, created_at, ",
    )
    .push(bin(interval))
    .push(
        " AS start FROM w) binned) v
CROSS JOIN LATERAL (SELECT total_us FROM attempts x
  WHERE x.day = v.day AND x.delivery_id = v.id AND x.total_us IS NOT NULL LIMIT ",
    )
    .push_bind(ATTEMPTS_SAMPLED)
    .push(") a WHERE v.place <= ")
    .push_bind(of_each)
    .push(" GROUP BY start");
    for row in sql.build().fetch_all(connection).await? {
        let start = pg::micros(&row, "start")?;
        if let Some(bucket) = buckets.iter_mut().find(|bucket| bucket.start == start) {
            bucket.latency = Latency::of(&row)?;
        }
    }
    Ok(())
}

impl Latency {
    fn of(row: &PgRow) -> Result<Self, StoreError> {
        let parts: Option<Vec<Option<f64>>> = row.try_get("parts")?;
        let part = |at: usize| {
            parts
                .as_ref()
                .and_then(|parts| parts.get(at).copied().flatten())
        };
        Ok(Self {
            p50_us: part(0),
            p95_us: part(1),
            p99_us: part(2),
            sample: row.try_get("sample")?,
        })
    }
}

/// The attempts are looked up delivery by delivery: a join might read whole days of attempts.
async fn latency_of(
    connection: &mut PgConnection,
    range: Range,
    deliveries: i64,
) -> Result<Latency, StoreError> {
    let mut sql = range.window(deliveries);
    sql.push(
        "SELECT percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY a.total_us) AS parts,
  count(*) AS sample
FROM w CROSS JOIN LATERAL (SELECT total_us FROM attempts x
  WHERE x.day = w.day AND x.delivery_id = w.id AND x.total_us IS NOT NULL LIMIT ",
    )
    .push_bind(ATTEMPTS_SAMPLED)
    .push(") a");
    let row = sql.build().fetch_one(connection).await?;
    Latency::of(&row)
}

async fn errors(
    connection: &mut PgConnection,
    range: Range,
) -> Result<Vec<ErrorGroup>, StoreError> {
    let mut sql = range.window(MAX_MEASURED);
    sql.push(
        "SELECT last_error_class, last_status_code, last_error_reason, count(*) AS count,
  min(created_at) AS first_at, max(created_at) AS last_at,
  (array_agg(id ORDER BY created_at, id))[1] AS first_id,
  (array_agg(id ORDER BY created_at DESC, id DESC))[1] AS last_id
FROM w WHERE last_error_class IS NOT NULL AND state <> 'DELIVERED'
GROUP BY 1, 2, 3 ORDER BY count(*) DESC, 1, 2, 3 LIMIT ",
    )
    .push_bind(MAX_GROUPS);
    let rows = sql.build().fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            let status: Option<i32> = row.try_get("last_status_code")?;
            let example = |id: &str, at: &str| {
                Ok::<_, StoreError>(ErrorExample {
                    delivery: row.try_get(id)?,
                    at: pg::micros(row, at)?,
                })
            };
            Ok(ErrorGroup {
                class: pg::word(row, "last_error_class")?,
                status: status.and_then(|status| u16::try_from(status).ok()),
                reason: row.try_get("last_error_reason")?,
                count: row.try_get("count")?,
                first: example("first_id", "first_at")?,
                last: example("last_id", "last_at")?,
            })
        })
        .collect()
}

async fn backlog(
    connection: &mut PgConnection,
    range: Range,
) -> Result<(i64, i64, i64), StoreError> {
    let mut sql = QueryBuilder::new(
        "SELECT coalesce(sum(pending), 0)::bigint, coalesce(sum(retrying), 0)::bigint,
  coalesce(sum(held), 0)::bigint FROM delivery_counts WHERE ",
    );
    range.push_whose(&mut sql);
    let row = sql.build().fetch_one(connection).await?;
    Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))
}
