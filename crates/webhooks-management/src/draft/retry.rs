//! Judging when failed deliveries are tried again.

use std::time::Duration;

use webhooks_domain::{
    retry::{BASE, RetryPolicy},
    webhook::Plan,
};
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

    /// Which bounds a policy breaks, by what is known of it.
    fn refusals(
        self,
        max_attempts: Option<u32>,
        age: Option<Duration>,
    ) -> Vec<(&'static str, String)> {
        let mut refusals = Vec::new();
        if max_attempts.is_some_and(|attempts| attempts > self.max_attempts) {
            let most = self.max_attempts;
            let message = format!("the workspace's plan allows at most {most} attempts");
            refusals.push(("retryPolicy.maxAttempts", message));
        }
        if let (Some(age), Some(longest)) = (age, self.max_age)
            && age > longest
        {
            let seconds = longest.as_secs();
            let message = format!("the workspace's plan allows at most {seconds} seconds");
            refusals.push(("retryPolicy.maxAgeSeconds", message));
        }
        refusals
    }
}

impl RetryDraft {
    /// Whether it has any of the numbers.
    fn has_numbers(&self) -> bool {
        let numbers = Self {
            preset: None,
            ..self.clone()
        };
        numbers != Self::default()
    }
}

/// The numbers' fields, as the API spells them.
const NUMBERS: [&str; 6] = [
    "retryPolicy.maxAttempts",
    "retryPolicy.baseSeconds",
    "retryPolicy.factor",
    "retryPolicy.capSeconds",
    "retryPolicy.jitter",
    "retryPolicy.maxAgeSeconds",
];

impl Judge<'_> {
    pub(super) fn retry(&mut self, draft: Option<RetryDraft>) -> Option<RetryChoice> {
        let draft = draft?;
        let Some(preset) = draft.preset.as_deref() else {
            return self.retry_numbers(&draft);
        };
        let choice = match preset {
            STANDARD => Some(RetryChoice::Standard),
            "resilient" => Some(RetryChoice::Resilient),
            _ => {
                let message = "is standard or resilient";
                self.refuse("retryPolicy.preset", "unknown_preset", message);
                None
            }
        };
        // Numbers that the face could not read are numbers, too.
        if draft.has_numbers() || NUMBERS.iter().any(|field| self.violations.has(field)) {
            let message = "is a preset or numbers, not both";
            self.refuse("retryPolicy", "ambiguous", message);
            self.retry_numbers(&draft);
            return None;
        }
        let policy = policy_of(choice?);
        if !self.keeps_retry(&policy) {
            self.retry_within_plan(Some(policy.max_attempts), Some(age_of(&policy)));
        }
        choice
    }

    fn retry_numbers(&mut self, draft: &RetryDraft) -> Option<RetryChoice> {
        let before = self.violations.count();
        let unread = NUMBERS.map(|field| self.violations.has(field));
        let standard = RetryPolicy::STANDARD;
        // What is negative, or out of every integer's range, is out of bounds too.
        let seconds = |given: Option<f64>, standard: Duration| {
            thousandths(given.unwrap_or(standard.as_secs_f64())).unwrap_or(u64::MAX)
        };
        let small = |given: Option<f64>, standard: f64| {
            let number = thousandths(given.unwrap_or(standard));
            number
                .and_then(|n| u32::try_from(n).ok())
                .unwrap_or(u32::MAX)
        };
        let attempts = draft.max_attempts.unwrap_or(standard.max_attempts.into());
        // A base that was not read is no reason to refuse a cap.
        let [_, base_unread, ..] = unread;
        let base = if base_unread {
            *BASE.start()
        } else {
            standard.base
        };
        let numbers = RetryNumbers {
            max_attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
            base_ms: seconds(draft.base_seconds, base),
            factor_milli: small(draft.factor, standard.factor),
            cap_ms: seconds(draft.cap_seconds, standard.cap),
            jitter_milli: small(draft.jitter, standard.jitter),
            max_age_ms: seconds(draft.max_age_seconds, Duration::ZERO),
        };
        let policy = policy_of(RetryChoice::Custom(numbers));
        let refusals = policy.refusals();
        let fine = |field: &str| refusals.iter().all(|refusal| refusal.field != field);
        for refusal in &refusals {
            let unit = match refusal.field {
                "base" | "cap" | "maxAge" => "Seconds",
                _ => "",
            };
            let field = format!("retryPolicy.{}{unit}", refusal.field);
            self.refuse(&field, "out_of_bounds", refusal.reason.as_str());
        }
        let whole = self.violations.count() == before && !unread.contains(&true);
        // The plan is asked about what any policy may have. An age that is given stands for itself; else
        // it follows from all the others.
        let attempts = Some(policy.max_attempts).filter(|_| fine("maxAttempts"));
        let age = if whole {
            Some(age_of(&policy))
        } else {
            policy.max_age.filter(|_| fine("maxAge"))
        };
        if !(whole && self.keeps_retry(&policy)) {
            self.retry_within_plan(attempts, age);
        }
        if self.violations.count() > before || !whole {
            return None;
        }
        // The same numbers are the same choice, however they were spelled.
        Some(match policy.preset_name() {
            Some(STANDARD) => RetryChoice::Standard,
            Some(_) => RetryChoice::Resilient,
            None => RetryChoice::Custom(numbers),
        })
    }

    /// Whether it is the policy that is there already, however it is spelled: what exists is never
    /// refused.
    fn keeps_retry(&self, policy: &RetryPolicy) -> bool {
        self.retry_kept.map(policy_of).as_ref() == Some(policy)
    }

    fn retry_within_plan(&mut self, max_attempts: Option<u32>, age: Option<Duration>) {
        for (field, message) in self.retry_bounds.refusals(max_attempts, age) {
            self.refuse(field, "plan_limit", message);
        }
    }
}

/// How long after an event a policy tries again at the most.
fn age_of(policy: &RetryPolicy) -> Duration {
    policy.max_age.unwrap_or_else(|| policy.span())
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
