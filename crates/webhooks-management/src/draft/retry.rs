//! Judging when failed deliveries are tried again.

use std::time::Duration;

use webhooks_domain::{retry::RetryPolicy, webhook::Plan};
use webhooks_store::{RetryChoice, RetryNumbers, WorkspaceRow};

use super::Judge;

/// The preset that a webhook has when nothing else was chosen.
const STANDARD: &str = "standard";

/// A retry policy as asked for. Without a preset, numbers that are absent are the standard's.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RetryDraft {
    /// `standard` or `resilient`; excludes the numbers.
    pub preset: Option<String>,
    /// Attempts in all.
    pub max_attempts: Option<i64>,
    /// Seconds before the third attempt.
    pub base_seconds: Option<f64>,
    /// Growth of the delays.
    pub factor: Option<f64>,
    /// Longest delay, in seconds.
    pub cap_seconds: Option<f64>,
    /// Share of a delay, either way.
    pub jitter: Option<f64>,
    /// No attempt later than this after the event; 0 = no limit.
    pub max_age_seconds: Option<f64>,
}

/// How patient a workspace's webhooks may be: what the plan says, unless an operator said more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RetryBounds {
    max_attempts: u32,
    max_age: Option<Duration>,
}

impl RetryBounds {
    /// Whatever a policy may have at all.
    pub(crate) const NONE: Self = Self {
        max_attempts: u32::MAX,
        max_age: None,
    };

    /// The plans: Free and Light have the standard's three attempts, Pro ten, Enterprise whatever
    /// a policy may have at all.
    fn of_plan(plan: Plan) -> Self {
        let max_attempts = match plan {
            Plan::Free | Plan::Light => RetryPolicy::STANDARD.max_attempts,
            Plan::Pro => RetryPolicy::RESILIENT.max_attempts,
            Plan::Enterprise => return Self::NONE,
        };
        Self {
            max_attempts,
            ..Self::NONE
        }
    }

    /// What holds for this workspace.
    pub(crate) fn of(workspace: &WorkspaceRow) -> Self {
        let plan = Self::of_plan(workspace.plan);
        let limits = workspace.settings.limits;
        Self {
            max_attempts: limits.retry_max_attempts.unwrap_or(plan.max_attempts),
            max_age: limits.retry_max_age_seconds.map(Duration::from_secs),
        }
    }

    fn refusal(self, policy: &RetryPolicy) -> Option<(&'static str, String)> {
        if policy.max_attempts > self.max_attempts {
            let most = self.max_attempts;
            return Some((
                "retryPolicy.maxAttempts",
                format!("the workspace's plan allows at most {most} attempts"),
            ));
        }
        let longest = self.max_age?;
        (policy.max_age.unwrap_or_else(|| policy.span()) > longest).then(|| {
            let seconds = longest.as_secs();
            (
                "retryPolicy.maxAgeSeconds",
                format!("the workspace's plan allows at most {seconds} seconds"),
            )
        })
    }
}

impl Judge<'_> {
    pub(super) fn retry(&mut self, draft: Option<RetryDraft>) -> Option<RetryChoice> {
        let draft = draft?;
        let numbers = RetryDraft {
            preset: None,
            ..draft.clone()
        };
        let choice = match draft.preset.as_deref() {
            None => self.retry_numbers(&draft)?,
            Some(_) if numbers != RetryDraft::default() => {
                let message = "is a preset or numbers, not both";
                self.refuse("retryPolicy", "ambiguous", message);
                return None;
            }
            Some(STANDARD) => RetryChoice::Standard,
            Some("resilient") => RetryChoice::Resilient,
            Some(_) => {
                let message = "is standard or resilient";
                self.refuse("retryPolicy.preset", "unknown_preset", message);
                return None;
            }
        };
        if let Some((field, message)) = self.retry_bounds.refusal(&policy_of(choice)) {
            self.refuse(field, "plan_limit", message);
        }
        Some(choice)
    }

    fn retry_numbers(&mut self, draft: &RetryDraft) -> Option<RetryChoice> {
        let standard = RetryPolicy::STANDARD;
        let seconds = |given: Option<f64>, standard: Duration| {
            thousandths(given.unwrap_or(standard.as_secs_f64()))
        };
        let small = |given: Option<f64>, standard: f64| {
            thousandths(given.unwrap_or(standard)).and_then(|n| u32::try_from(n).ok())
        };
        // Out of every integer's range is out of bounds too.
        let attempts = draft.max_attempts.unwrap_or(standard.max_attempts.into());
        let max_attempts = u32::try_from(attempts).unwrap_or(u32::MAX);
        let parts = (
            seconds(draft.base_seconds, standard.base),
            small(draft.factor, standard.factor),
            seconds(draft.cap_seconds, standard.cap),
            small(draft.jitter, standard.jitter),
            seconds(draft.max_age_seconds, Duration::ZERO),
        );
        let (Some(base_ms), Some(factor_milli), Some(cap_ms), Some(jitter_milli), Some(max_age_ms)) =
            parts
        else {
            let message = "holds numbers that are not negative";
            self.refuse("retryPolicy", "out_of_bounds", message);
            return None;
        };
        let numbers = RetryNumbers {
            max_attempts,
            base_ms,
            factor_milli,
            cap_ms,
            jitter_milli,
            max_age_ms,
        };
        let policy = policy_of(RetryChoice::Custom(numbers));
        if let Err(refusal) = policy.validate() {
            let unit = match refusal.field {
                "base" | "cap" | "maxAge" => "Seconds",
                _ => "",
            };
            let field = format!("retryPolicy.{}{unit}", refusal.field);
            self.refuse(&field, "out_of_bounds", refusal.reason);
            return None;
        }
        // The same numbers are the same choice, however they were spelled.
        Some(match policy.preset_name() {
            Some(STANDARD) => RetryChoice::Standard,
            Some(_) => RetryChoice::Resilient,
            None => RetryChoice::Custom(numbers),
        })
    }
}

/// The policy of a choice.
fn policy_of(choice: RetryChoice) -> RetryPolicy {
    match choice {
        RetryChoice::Standard => RetryPolicy::STANDARD,
        RetryChoice::Resilient => RetryPolicy::RESILIENT,
        RetryChoice::Custom(n) => RetryPolicy::from_numbers(
            n.max_attempts,
            n.base_ms,
            n.factor_milli,
            n.cap_ms,
            n.jitter_milli,
            n.max_age_ms,
        ),
    }
}

/// A number as whole thousandths, to the nearest one.
fn thousandths(number: f64) -> Option<u64> {
    // Far above every bound, and exact in an f64.
    const MOST: f64 = 1e12;
    let text = format!("{:.0}", (number * 1_000.0).min(MOST));
    text.parse().ok()
}

#[cfg(test)]
mod tests;
