//! The rules by which accounts of one delivery become one row, whatever the order they arrive in.
//!
//! [`Standing`] is the part of a row that changes. Merging two is commutative, associative and
//! idempotent, so a row is a function of the *set* of reports about it:
//!
//! - the state is `webhooks_domain::delivery::merge`'s, where of two open accounts the later one
//!   stands: a hold after an attempt need not know how many attempts there were;
//! - the reason of the state, and whom the delivery waits for, go with the account that stands;
//! - the number of attempts is the highest told;
//! - the last status and error are those of the newest attempt by its start, except that a
//!   successful attempt outranks every other.

use webhooks_domain::{
    delivery::{DeliveryState, Progress, merge},
    endpoint::outcome::{FailureClass, Outcome},
};

use uuid::Uuid;

use super::{AttemptRecord, ReportRecord};
use crate::pg::{clamped, storable};

/// What can change of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standing {
    /// The account that stands.
    pub(super) progress: Progress,
    /// When the next attempt is due, as that account says.
    pub(super) next_attempt_at: Option<i64>,
    /// Attempts made, by whatever account.
    pub(super) attempts: u32,
    /// The attempt whose result is shown.
    pub(super) shown: Option<Shown>,
    /// Why that account says so, where no attempt tells.
    pub(super) reason: Option<String>,
    /// Whom it waits for, as that account says.
    pub(super) waits_for: Option<Uuid>,
}

/// The result of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shown {
    /// When it began.
    pub(super) started_at: i64,
    /// The answer's status.
    pub(super) status_code: Option<i32>,
    /// What went wrong; `None` for a success.
    pub(super) failure: Option<(FailureClass, String)>,
}

impl Standing {
    /// What a verdict says: owed since the event was accepted.
    pub(super) fn owed(held: bool, accepted_at: i64) -> Self {
        let state = if held {
            DeliveryState::Held
        } else {
            DeliveryState::Pending
        };
        Self {
            progress: Progress {
                state,
                attempts: 0,
                at_micros: accepted_at,
            },
            next_attempt_at: None,
            attempts: 0,
            shown: None,
            reason: None,
            waits_for: None,
        }
    }

    /// What one report says. It is taken to be later than the delivery's creation, so that every
    /// report outranks the verdict and the two can be told apart.
    pub(super) fn of(report: &ReportRecord) -> Self {
        let consumed = report.attempt.as_ref().map_or(0, consumed);
        let attempts = report
            .attempts_made
            .max(consumed)
            .min(i32::MAX.unsigned_abs());
        let at_micros = clamped(report.at.max(report.delivery.created_at.saturating_add(1)));
        let open = !report.state.is_terminal();
        let progress = Progress {
            state: report.state,
            // The count would outrank the time. It is kept beside, so nothing is forgotten.
            attempts: if open { 0 } else { attempts },
            at_micros,
        };
        Self {
            progress,
            next_attempt_at: report.next_attempt_at.filter(|_| open).map(clamped),
            attempts,
            shown: report.attempt.as_ref().map(Shown::of),
            reason: Some(&report.reason)
                .filter(|reason| !reason.is_empty())
                .map(|reason| storable(reason).into_owned()),
            waits_for: report.waits_for.filter(|_| open),
        }
    }

    /// The two accounts as one.
    pub(super) fn merged(self, other: Self) -> Self {
        let progress = merge(self.progress, other.progress);
        let (next_attempt_at, reason, waits_for) = if self.progress == other.progress {
            (
                self.next_attempt_at.max(other.next_attempt_at),
                self.reason.max(other.reason),
                self.waits_for.max(other.waits_for),
            )
        } else if progress == self.progress {
            (self.next_attempt_at, self.reason, self.waits_for)
        } else {
            (other.next_attempt_at, other.reason, other.waits_for)
        };
        Self {
            progress,
            next_attempt_at,
            attempts: self.attempts.max(other.attempts),
            shown: newer(self.shown, other.shown),
            reason,
            waits_for,
        }
    }

    /// Class and reason of the failure that is shown, as stored.
    pub(super) fn failure(&self) -> Option<(&'static str, &str)> {
        let (class, reason) = self.shown.as_ref()?.failure.as_ref()?;
        Some((class.as_str(), reason))
    }

    /// When it ended.
    pub(super) fn completed_at(&self) -> Option<i64> {
        self.progress
            .state
            .is_terminal()
            .then_some(self.progress.at_micros)
    }
}

/// How many attempts this one makes: our own fault consumes none.
fn consumed(attempt: &AttemptRecord) -> u32 {
    let number = attempt.number.max(1);
    if attempt.class == Some(FailureClass::Ours) {
        number - 1
    } else {
        number
    }
}

impl Shown {
    fn of(attempt: &AttemptRecord) -> Self {
        let failure = (attempt.outcome != Outcome::Success).then(|| {
            let class = attempt.class.unwrap_or(FailureClass::Temporary);
            let reason = if attempt.error.is_empty() {
                attempt.outcome.as_str()
            } else {
                &attempt.error
            };
            (class, storable(reason).into_owned())
        });
        Self {
            started_at: clamped(attempt.started_at),
            status_code: attempt.status_code.map(i32::from),
            failure,
        }
    }

    /// The rest only makes the choice between attempts of the same microsecond a fixed one.
    fn order(&self) -> (bool, i64, Option<i32>, Option<(&str, &str)>) {
        let failure = self
            .failure
            .as_ref()
            .map(|(class, reason)| (class.as_str(), reason.as_str()));
        (
            self.failure.is_none(),
            self.started_at,
            self.status_code,
            failure,
        )
    }
}

fn newer(a: Option<Shown>, b: Option<Shown>) -> Option<Shown> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if b.order() > a.order() { b } else { a }),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_shown() -> impl Strategy<Value = Shown> {
        let failure =
            prop::option::of((0usize..3, "[ab]").prop_map(|(c, r)| (FailureClass::ALL[c], r)));
        (0i64..3, prop::option::of(200i32..202), failure).prop_map(
            |(started_at, status_code, failure)| Shown {
                started_at,
                status_code,
                failure,
            },
        )
    }

    fn any_standing() -> impl Strategy<Value = Standing> {
        let next = prop::option::of(0i64..3);
        (
            0usize..6,
            0u32..3,
            0i64..3,
            next,
            0u32..4,
            prop::option::of(any_shown()),
            prop::option::of("[ab]"),
            prop::option::of((1u128..3).prop_map(Uuid::from_u128)),
        )
            .prop_map(
                |(state, told, at_micros, next, attempts, shown, reason, waits_for)| {
                    let state = DeliveryState::ALL[state];
                    Standing {
                        progress: Progress {
                            state,
                            attempts: told,
                            at_micros,
                        },
                        next_attempt_at: next.filter(|_| !state.is_terminal()),
                        attempts: attempts.max(told),
                        shown,
                        reason,
                        waits_for: waits_for.filter(|_| !state.is_terminal()),
                    }
                },
            )
    }

    proptest! {
        #[test]
        fn merging_ignores_order_grouping_and_repetition(a in any_standing(), b in any_standing(), c in any_standing()) {
            let ab = a.clone().merged(b.clone());
            prop_assert_eq!(&ab, &b.clone().merged(a.clone()));
            prop_assert_eq!(ab.clone().merged(c.clone()), a.clone().merged(b.merged(c)));
            prop_assert_eq!(a.clone().merged(a.clone()), a);
        }

        #[test]
        fn only_an_open_delivery_has_a_next_attempt(a in any_standing(), b in any_standing()) {
            let merged = a.merged(b);
            prop_assert!(merged.next_attempt_at.is_none() || merged.completed_at().is_none());
            prop_assert!(merged.waits_for.is_none() || merged.completed_at().is_none());
        }
    }
}
