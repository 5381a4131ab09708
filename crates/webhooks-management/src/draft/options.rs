//! Judging what a webhook has beside its name, endpoint and scope.

use std::{collections::BTreeMap, time::Duration};

use webhooks_domain::{
    rate::RateLimit,
    retry::RetryPolicy,
    signing::SigningKey,
    webhook::{
        DeliveryOrder, HeldChoice, MAX_EVENT_ACTIONS, MAX_IN_FLIGHT, Plan, event_action_word,
        is_event_action,
    },
};
use webhooks_runtime::Secret;
use webhooks_store::{RateChoice, RetryChoice, RetryNumbers, WorkspaceRow};

use super::Judge;

/// Longest description, in characters.
const MAX_DESCRIPTION_CHARS: usize = 1_000;

/// Most labels of a webhook.
const MAX_LABELS: usize = 20;

/// Longest name of a label, in bytes.
const MAX_LABEL_NAME_BYTES: usize = 63;

/// Longest value of a label, in characters.
const MAX_LABEL_VALUE_CHARS: usize = 255;

/// The periods a rate limit may have, in seconds.
const RATE_PERIODS: [u32; 2] = [1, 60];

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
    pub(super) fn description(&mut self, text: Option<String>) -> Option<String> {
        let text = text?;
        if text.chars().count() > MAX_DESCRIPTION_CHARS {
            let message = format!("has at most {MAX_DESCRIPTION_CHARS} characters");
            self.refuse("description", "too_long", message);
        } else if text
            .chars()
            .any(|one| one.is_control() && !matches!(one, '\n' | '\r' | '\t'))
        {
            let message = "has no control characters but line breaks and tabs";
            self.refuse("description", "control_character", message);
        }
        Some(text)
    }

    pub(super) fn labels(
        &mut self,
        labels: Option<Vec<(String, String)>>,
    ) -> Option<BTreeMap<String, String>> {
        let labels = labels?;
        if labels.len() > MAX_LABELS {
            let message = format!("holds at most {MAX_LABELS} labels");
            self.refuse("labels", "too_many", message);
            return None;
        }
        for (name, value) in &labels {
            let field = || format!("labels.{}", name.chars().take(64).collect::<String>());
            if !is_label_name(name) {
                let message = format!(
                    "a label's name has 1 to {MAX_LABEL_NAME_BYTES} letters, digits or any of ._/-, and begins with a letter or digit"
                );
                self.refuse(&field(), "label_name_invalid", message);
            }
            if value.chars().count() > MAX_LABEL_VALUE_CHARS || value.chars().any(char::is_control)
            {
                let message = format!(
                    "a label's value has at most {MAX_LABEL_VALUE_CHARS} characters and no control characters"
                );
                self.refuse(&field(), "label_value_invalid", message);
            }
        }
        Some(labels.into_iter().collect())
    }

    pub(super) fn event_actions(&mut self, words: Option<Vec<String>>) -> Option<Vec<String>> {
        let mut actions: Vec<String> = Vec::new();
        for word in words? {
            let action = event_action_word(&word);
            if !is_event_action(action) {
                let message = "holds capitals, digits and underscores, at most 64 of them";
                self.refuse("eventActions", "not_an_action", message);
                break;
            }
            if !actions.iter().any(|known| known == action) {
                actions.push(action.to_owned());
            }
            if actions.len() > MAX_EVENT_ACTIONS {
                let message = format!("holds at most {MAX_EVENT_ACTIONS} actions");
                self.refuse("eventActions", "too_many", message);
                break;
            }
        }
        Some(actions)
    }

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

    pub(super) fn max_in_flight(&mut self, wish: Option<Option<i64>>) -> Option<Option<u32>> {
        let Some(wish) = wish? else {
            return Some(None);
        };
        let number = u32::try_from(wish).ok();
        let number = number.filter(|number| (1..=MAX_IN_FLIGHT).contains(number));
        if number.is_none() {
            let message = format!("is 1 to {MAX_IN_FLIGHT}");
            self.refuse("maxInFlight", "out_of_bounds", message);
        }
        Some(number)
    }

    pub(super) fn ordering(&mut self, word: Option<String>) -> Option<DeliveryOrder> {
        let ordering = word?.parse().ok();
        if ordering.is_none() {
            let message = "is NONE, LINK or VISITOR";
            self.refuse("ordering", "unknown_ordering", message);
        }
        ordering
    }

    pub(super) fn held(&mut self, word: Option<String>) -> Option<HeldChoice> {
        let choice = word?.parse().ok();
        if choice.is_none() {
            let message = "is DELIVER, DISCARD or KEEP";
            self.refuse("heldDeliveries", "unknown_choice", message);
        }
        choice
    }

    pub(super) fn secret(&mut self, text: Option<Secret>) -> Option<SigningKey> {
        match SigningKey::parse_chosen(text?.expose()) {
            Ok(key) => Some(key),
            Err(refusal) => {
                self.refuse("secret", "weak_or_malformed", refusal.to_string());
                None
            }
        }
    }

    /// Whether there shall be a `v1a` signature beside `v1`.
    pub(super) fn asymmetric(&mut self, words: Option<Vec<String>>) -> Option<bool> {
        let words = words?;
        let known = words
            .iter()
            .all(|word| matches!(word.as_str(), "v1" | "v1a"));
        if !known || !words.iter().any(|word| word == "v1") {
            let message = "is [\"v1\"] or [\"v1\", \"v1a\"]";
            self.refuse("signatures", "unknown_signature", message);
        }
        Some(words.iter().any(|word| word == "v1a"))
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

fn is_label_name(name: &str) -> bool {
    (1..=MAX_LABEL_NAME_BYTES).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._/-".contains(&byte))
}

#[cfg(test)]
mod tests;
