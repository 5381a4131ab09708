//! The health of an endpoint: circuit breaker and automatic disabling, as one state machine.
//!
//! ```text
//!            5 failures in a row                    10 in a row, or a 410
//!   ACTIVE ────────────────────────▶ PAUSED ───────────────────────────────▶ AUTO_DISABLED
//!     ▲  ◀──── a delivery arrives ─────┘  probes, one at a time,                  │
//!     └────────────────────────────────── pauses 30 s, 60 s, … 10 min ◀── a person ┘
//! ```
//!
//! What counts is a *delivery* that ends without 2xx, once; while the breaker is open, each failed
//! probe counts too. What was our own fault counts for nothing. A success ends the run wherever it
//! comes from; nothing but a person (whose act makes the webhook's `health_epoch` grow) brings a
//! webhook back that was disabled. Outcomes of an older epoch mean nothing.
//!
//! The machine also says what is to be told: a notice is part of the state until it is known to
//! have been told, so that whoever takes over tells it, and the notice's identity (run and kind)
//! makes two tellings one.
//!
//! Pure: whoever owns the endpoint feeds it, in the order in which deliveries end, and keeps the
//! state where the next owner finds it.

mod effective;
mod words;

use std::{collections::VecDeque, time::Duration};

use uuid::Uuid;

use crate::webhook::StatusReason;

pub use effective::{Configured, effective_status};
pub use words::{
    Ended, HealthPolicy, HealthStatus, LastFailure, Notice, NoticeKind, Probing, Verdict,
};

/// Failures remembered so that none is counted twice: more than an endpoint may have in flight.
pub const COUNTED_KEPT: usize = 128;

/// Notices that wait to be told; beyond it the oldest are forgotten.
pub const UNANNOUNCED_KEPT: usize = 16;

/// Longest reason of a failure that is kept, in bytes.
pub const MAX_REASON_BYTES: usize = 64;

/// A ramp ends when it allows more requests at a time than this.
const RAMP_END: u32 = 1_024;

/// How long after its breaker closed an endpoint still starts carefully at a new owner.
const RAMP_AGE_MICROS: i64 = 60_000_000;

/// How many requests at a time an endpoint gets that has just recovered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ramp {
    limit: u32,
    next_at_micros: i64,
}

/// The health of one endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The webhook's `health_epoch` that this state belongs to.
    pub epoch: u64,
    /// What deliveries have made of the status.
    pub status: HealthStatus,
    /// Since when, microseconds since the epoch.
    pub since_micros: i64,
    /// Failures in a row.
    pub run: u32,
    /// The run's identity: the moment it began, never the same twice. 0 = none yet.
    pub episode: i64,
    /// While paused: when to look again.
    pub probing: Option<Probing>,
    /// The failure counted last; kept when the run ends.
    pub last_failure: Option<LastFailure>,
    /// Failures counted lately (delivery and attempt), newest last.
    pub counted: VecDeque<(Uuid, u32)>,
    /// What is still to be told, oldest first.
    pub unannounced: Vec<Notice>,
    /// Changes of status so far.
    pub transitions: u64,
    ramp: Option<Ramp>,
}

/// What an input did to the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing that has to be kept.
    None,
    /// Something has to be kept; the status is the same.
    Kept,
    /// The status has changed.
    Status,
}

impl Health {
    /// Good health, since `now_micros`.
    #[must_use]
    pub fn new(epoch: u64, now_micros: i64) -> Self {
        Self {
            epoch,
            status: HealthStatus::Active,
            since_micros: now_micros,
            run: 0,
            episode: 0,
            probing: None,
            last_failure: None,
            counted: VecDeque::new(),
            unannounced: Vec::new(),
            transitions: 0,
            ramp: None,
        }
    }

    /// The state as it was kept, at an owner that takes it over: one that recovered within the last
    /// minute still starts carefully.
    #[must_use]
    pub fn taken_over(mut self, now_micros: i64) -> Self {
        let recovered = self.status == HealthStatus::Active
            && self.transitions > 0
            && now_micros.saturating_sub(self.since_micros) < RAMP_AGE_MICROS;
        self.ramp = recovered.then_some(Ramp {
            limit: 1,
            next_at_micros: now_micros,
        });
        self
    }

    /// A person has set the status: the run is over, whatever there was is void. An epoch that is
    /// not newer changes nothing.
    pub fn begin_epoch(&mut self, epoch: u64, now_micros: i64) -> Change {
        if epoch <= self.epoch {
            return Change::None;
        }
        self.epoch = epoch;
        self.run = 0;
        if self.status == HealthStatus::Active {
            return Change::Kept;
        }
        self.enter(HealthStatus::Active, now_micros);
        self.ramp = Some(Ramp {
            limit: 1,
            next_at_micros: now_micros,
        });
        Change::Status
    }

    /// An attempt has ended.
    pub fn ended(&mut self, ended: &Ended, policy: &HealthPolicy) -> Change {
        if ended.epoch < self.epoch {
            return Change::None;
        }
        let began = self.begin_epoch(ended.epoch, ended.at_micros);
        let change = match self.status {
            HealthStatus::AutoDisabled(_) => Change::None,
            HealthStatus::Active | HealthStatus::Paused => match ended.verdict {
                Verdict::Delivered => self.delivered(ended.at_micros, policy),
                Verdict::Retried if !ended.probe => Change::None,
                Verdict::Retried | Verdict::Failed | Verdict::Gone => self.failed(ended, policy),
                Verdict::Ours => self.look_again(ended),
            },
        };
        match (began, change) {
            (Change::Status, _) | (_, Change::Status) => Change::Status,
            (Change::None, other) | (other, _) => other,
        }
    }

    fn delivered(&mut self, at_micros: i64, policy: &HealthPolicy) -> Change {
        if self.status == HealthStatus::Paused {
            let run = std::mem::take(&mut self.run);
            self.enter(HealthStatus::Active, at_micros);
            self.ramp = Some(Ramp {
                limit: 1,
                next_at_micros: at_micros.saturating_add(micros(policy.ramp_step)),
            });
            self.tell(NoticeKind::Resumed, run, at_micros);
            return Change::Status;
        }
        self.ramp = self.ramp.and_then(|ramp| match ramp {
            early if at_micros < early.next_at_micros => Some(early),
            done if done.limit >= RAMP_END => None,
            ramp => Some(Ramp {
                limit: ramp.limit * 2,
                next_at_micros: at_micros.saturating_add(micros(policy.ramp_step)),
            }),
        });
        if self.run == 0 {
            return Change::None;
        }
        self.run = 0;
        Change::Kept
    }

    fn failed(&mut self, ended: &Ended, policy: &HealthPolicy) -> Change {
        let key = (ended.delivery, ended.attempt);
        if self.counted.contains(&key) {
            return self.look_again(ended);
        }
        self.counted.push_back(key);
        while self.counted.len() > COUNTED_KEPT {
            self.counted.pop_front();
        }
        if self.run == 0 {
            self.episode = ended.at_micros.max(self.episode.saturating_add(1));
        }
        self.run = self.run.saturating_add(1);
        self.last_failure = Some(LastFailure {
            at_micros: ended.at_micros,
            delivery: ended.delivery,
            attempt: ended.attempt,
            outcome: ended.outcome,
            status_code: ended.status_code,
            reason: short(&ended.reason).to_owned(),
        });
        let (run, at) = (self.run, ended.at_micros);
        let opens = self.status == HealthStatus::Active && run >= policy.breaker_failures;
        let gone = ended.verdict == Verdict::Gone;
        if gone || run >= policy.auto_disable_failures {
            let reason = if gone {
                StatusReason::EndpointGone
            } else {
                StatusReason::ConsecutiveFailures
            };
            self.enter(HealthStatus::AutoDisabled(reason), at);
            self.tell(NoticeKind::AutoDisabled, run, at);
            return Change::Status;
        }
        if opens {
            self.enter(HealthStatus::Paused, at);
            let pause = policy.probe_pause.min(policy.probe_pause_cap);
            self.probing = Some(probing(at, pause));
            self.tell(NoticeKind::Failing, run, at);
            self.tell(NoticeKind::Paused, run, at);
            return Change::Status;
        }
        if ended.probe
            && let Some(before) = self.probing
        {
            let pause = before.pause.saturating_mul(2).min(policy.probe_pause_cap);
            self.probing = Some(probing(at, pause));
        }
        Change::Kept
    }

    /// A probe told nothing new: another one after the same pause.
    fn look_again(&mut self, ended: &Ended) -> Change {
        match self.probing {
            Some(before) if ended.probe => {
                self.probing = Some(probing(ended.at_micros, before.pause));
                Change::Kept
            }
            _ => Change::None,
        }
    }

    /// Whether a probe may go out now. That only one does is for the caller to see to.
    #[must_use]
    pub fn probe_due(&self, now_micros: i64) -> bool {
        self.probing
            .is_some_and(|probing| probing.next_at_micros <= now_micros)
    }

    /// Most requests at a time, while an endpoint that has recovered is loaded step by step.
    #[must_use]
    pub fn ramp_limit(&self) -> Option<u32> {
        self.ramp.map(|ramp| ramp.limit)
    }

    /// The notice has been told, durably.
    pub fn announced(&mut self, notice: &Notice) -> Change {
        let before = self.unannounced.len();
        self.unannounced
            .retain(|one| (one.episode, one.kind) != (notice.episode, notice.kind));
        if self.unannounced.len() < before {
            Change::Kept
        } else {
            Change::None
        }
    }

    fn enter(&mut self, status: HealthStatus, at_micros: i64) {
        self.status = status;
        self.since_micros = at_micros;
        self.transitions = self.transitions.saturating_add(1);
        self.probing = None;
        self.ramp = None;
    }

    fn tell(&mut self, kind: NoticeKind, run: u32, at_micros: i64) {
        if self.unannounced.len() >= UNANNOUNCED_KEPT {
            self.unannounced.remove(0);
        }
        self.unannounced.push(Notice {
            kind,
            episode: self.episode,
            at_micros,
            run,
            status: self.status,
            epoch: self.epoch,
        });
    }
}

fn probing(at_micros: i64, pause: Duration) -> Probing {
    Probing {
        next_at_micros: at_micros.saturating_add(micros(pause)),
        pause,
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// At most [`MAX_REASON_BYTES`] of it, whole characters.
fn short(reason: &str) -> &str {
    let mut end = reason.len().min(MAX_REASON_BYTES);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}

#[cfg(test)]
mod tests;
