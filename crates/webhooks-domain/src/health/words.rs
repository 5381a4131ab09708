//! What the health of an endpoint is told in.

use std::{fmt, time::Duration};

use uuid::Uuid;

use crate::{
    endpoint::outcome::Outcome,
    webhook::{StatusReason, WebhookStatus},
};

/// When an endpoint is paused, probed and disabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthPolicy {
    /// Failures in a row that open the breaker; also when the warning is raised. At least 1.
    pub breaker_failures: u32,
    /// Failures in a row that disable the webhook. Not less than `breaker_failures`.
    pub auto_disable_failures: u32,
    /// Pause before the first probe; each failed probe doubles it.
    pub probe_pause: Duration,
    /// Longest pause between probes.
    pub probe_pause_cap: Duration,
    /// After the breaker has closed, requests at a time double at most this often.
    pub ramp_step: Duration,
}

impl HealthPolicy {
    /// 5 failures pause, 10 disable, probes after 30 s, 60 s, … 10 min, a ramp of a second a step.
    pub const STANDARD: Self = Self {
        breaker_failures: 5,
        auto_disable_failures: 10,
        probe_pause: Duration::from_secs(30),
        probe_pause_cap: Duration::from_secs(600),
        ramp_step: Duration::from_secs(1),
    };
}

impl Default for HealthPolicy {
    fn default() -> Self {
        Self::STANDARD
    }
}

/// What deliveries have made of a webhook's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HealthStatus {
    /// Delivering.
    Active,
    /// The breaker is open: deliveries are held, one probe at a time goes out.
    Paused,
    /// Off until a person decides, for this reason ([`StatusReason::ConsecutiveFailures`] or
    /// [`StatusReason::EndpointGone`]).
    AutoDisabled(StatusReason),
}

impl HealthStatus {
    /// Status and reason as customers read them.
    #[must_use]
    pub fn words(self) -> (WebhookStatus, Option<StatusReason>) {
        match self {
            Self::Active => (WebhookStatus::Active, None),
            Self::Paused => (WebhookStatus::Paused, Some(StatusReason::DeliveryFailures)),
            Self::AutoDisabled(reason) => (WebhookStatus::AutoDisabled, Some(reason)),
        }
    }
}

/// What an attempt, or the delivery with it, has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// 2xx.
    Delivered,
    /// The delivery ended without 2xx.
    Failed,
    /// The attempt failed, another one follows.
    Retried,
    /// The endpoint answered 410.
    Gone,
    /// Our own fault.
    Ours,
}

/// An attempt has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The webhook's `health_epoch` when the attempt started.
    pub epoch: u64,
    /// The delivery.
    pub delivery: Uuid,
    /// Number of the attempt.
    pub attempt: u32,
    /// It was a probe.
    pub probe: bool,
    /// What it came to.
    pub verdict: Verdict,
    /// When, microseconds since the epoch.
    pub at_micros: i64,
    /// What it met.
    pub outcome: Outcome,
    /// The answer's status.
    pub status_code: Option<u16>,
    /// Machine word of what went wrong; empty for a success.
    pub reason: String,
}

/// The failure counted last, for people to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastFailure {
    /// When.
    pub at_micros: i64,
    /// Its delivery.
    pub delivery: Uuid,
    /// Its attempt.
    pub attempt: u32,
    /// What it met.
    pub outcome: Outcome,
    /// The answer's status.
    pub status_code: Option<u16>,
    /// Machine word, at most [`super::MAX_REASON_BYTES`].
    pub reason: String,
}

/// What somebody wants to hear of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NoticeKind {
    /// A warning: so many deliveries failed in a row.
    Failing,
    /// The breaker has opened.
    Paused,
    /// A delivery has arrived, the breaker is closed.
    Resumed,
    /// The webhook was disabled.
    AutoDisabled,
}

impl NoticeKind {
    /// All kinds.
    pub const ALL: [Self; 4] = [
        Self::Failing,
        Self::Paused,
        Self::Resumed,
        Self::AutoDisabled,
    ];

    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failing => "failing",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
            Self::AutoDisabled => "auto_disabled",
        }
    }

    /// Reads the word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

impl fmt::Display for NoticeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Something to be told, once for each run and kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notice {
    /// What.
    pub kind: NoticeKind,
    /// The run of failures it belongs to.
    pub episode: i64,
    /// When, microseconds since the epoch.
    pub at_micros: i64,
    /// Failures in a row at that moment.
    pub run: u32,
    /// The status it led to.
    pub status: HealthStatus,
    /// The epoch it happened in.
    pub epoch: u64,
}

/// When the next probe may go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probing {
    /// Not before, microseconds since the epoch.
    pub next_at_micros: i64,
    /// The pause that ends then.
    pub pause: Duration,
}
