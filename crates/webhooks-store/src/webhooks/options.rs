//! What a webhook has beside its name, endpoint and scope, and how that crosses into columns.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use sqlx::{Row as _, postgres::PgRow};
use webhooks_domain::webhook::DeliveryOrder;

use crate::{error::StoreError, pg};

/// What customers can choose of a webhook's manners. Every default is what a webhook without
/// options does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WebhookOptions {
    /// What people note about it.
    pub description: String,
    /// Names and values of the customer's own.
    pub labels: BTreeMap<String, String>,
    /// The event actions it takes, in the short form; empty = every action.
    pub event_actions: Vec<String>,
    /// When failed deliveries are tried again.
    pub retry: RetryChoice,
    /// How fast it may be called; `None` = as fast as it answers.
    pub rate: Option<RateChoice>,
    /// Requests open at the same time; `None` = the default.
    pub max_in_flight: Option<u32>,
    /// Which deliveries wait for each other.
    pub ordering: DeliveryOrder,
}

/// When failed deliveries are tried again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RetryChoice {
    /// The preset `standard`.
    #[default]
    Standard,
    /// The preset `resilient`.
    Resilient,
    /// Numbers of the customer's own.
    Custom(RetryNumbers),
}

/// A retry policy in numbers, as the read model has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryNumbers {
    /// Attempts in all, the first included.
    pub max_attempts: u32,
    /// Milliseconds before the third attempt.
    pub base_ms: u64,
    /// Each later delay is this many thousandths of the one before.
    pub factor_milli: u32,
    /// No delay is longer, in milliseconds.
    pub cap_ms: u64,
    /// Thousandths of the delay, either way.
    pub jitter_milli: u32,
    /// No attempt starts later than so many milliseconds after the event; 0 = no limit.
    pub max_age_ms: u64,
}

/// At most `count` requests per `period_seconds`, `burst` of them at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateChoice {
    /// Requests.
    pub count: u32,
    /// Seconds.
    pub period_seconds: u32,
    /// Requests at once.
    pub burst: u32,
}

impl WebhookOptions {
    pub(super) fn of(row: &PgRow) -> Result<Self, StoreError> {
        let labels: Value = row.try_get("labels")?;
        Ok(Self {
            description: row.try_get("description")?,
            labels: serde_json::from_value(labels)
                .map_err(|error| StoreError::corrupt("labels", error))?,
            event_actions: row.try_get("event_actions")?,
            retry: RetryChoice::read(row.try_get("retry")?)?,
            rate: RateChoice::read(row)?,
            max_in_flight: optional(row, "max_in_flight")?,
            ordering: pg::word(row, "ordering")?,
        })
    }

    pub(super) fn audited(&self) -> Value {
        json!({
            "description": self.description,
            "labels": self.labels,
            "eventActions": self.event_actions,
            "retryPolicy": self.retry.column(),
            "rateLimit": self.rate.map(|rate| json!({
                "count": rate.count, "periodSeconds": rate.period_seconds, "burst": rate.burst,
            })),
            "maxInFlight": self.max_in_flight,
            "ordering": self.ordering.as_str(),
        })
    }
}

impl RetryChoice {
    /// Null = standard.
    pub(super) fn column(self) -> Option<Value> {
        match self {
            Self::Standard => None,
            Self::Resilient => Some(json!({ "preset": "resilient" })),
            Self::Custom(numbers) => Some(json!({
                "maxAttempts": numbers.max_attempts,
                "baseMs": numbers.base_ms,
                "factorMilli": numbers.factor_milli,
                "capMs": numbers.cap_ms,
                "jitterMilli": numbers.jitter_milli,
                "maxAgeMs": numbers.max_age_ms,
            })),
        }
    }

    fn read(column: Option<Value>) -> Result<Self, StoreError> {
        let Some(Value::Object(members)) = column else {
            return Ok(Self::Standard);
        };
        if members.contains_key("preset") {
            return Ok(Self::Resilient);
        }
        let small = |name| {
            number(&members, name)
                .and_then(|n| u32::try_from(n).map_err(|error| StoreError::corrupt("retry", error)))
        };
        Ok(Self::Custom(RetryNumbers {
            max_attempts: small("maxAttempts")?,
            base_ms: number(&members, "baseMs")?,
            factor_milli: small("factorMilli")?,
            cap_ms: number(&members, "capMs")?,
            jitter_milli: small("jitterMilli")?,
            max_age_ms: number(&members, "maxAgeMs")?,
        }))
    }
}

impl RateChoice {
    fn read(row: &PgRow) -> Result<Option<Self>, StoreError> {
        let (Some(count), Some(period_seconds), Some(burst)) = (
            optional(row, "rate_count")?,
            optional(row, "rate_period_seconds")?,
            optional(row, "rate_burst")?,
        ) else {
            return Ok(None);
        };
        Ok(Some(Self {
            count,
            period_seconds,
            burst,
        }))
    }
}

fn number(members: &Map<String, Value>, name: &'static str) -> Result<u64, StoreError> {
    members
        .get(name)
        .and_then(Value::as_u64)
        .ok_or_else(|| StoreError::corrupt("retry", format!("{name} is missing")))
}

fn optional(row: &PgRow, column: &'static str) -> Result<Option<u32>, StoreError> {
    row.try_get::<Option<i32>, _>(column)?
        .map(|number| u32::try_from(number).map_err(|error| StoreError::corrupt(column, error)))
        .transpose()
}
