//! Judging what a webhook has beside its name, endpoint and scope.

use std::collections::BTreeMap;

use webhooks_domain::{
    signing::SigningKey,
    webhook::{
        DeliveryOrder, HeldChoice, MAX_EVENT_ACTIONS, MAX_IN_FLIGHT, event_action_word,
        is_event_action,
    },
};
use webhooks_runtime::Secret;

use super::Judge;
use crate::error::Violation;

/// Longest description, in characters.
const MAX_DESCRIPTION_CHARS: usize = 1_000;

/// Most labels of a webhook.
const MAX_LABELS: usize = 20;

/// Longest name of a label, in bytes.
const MAX_LABEL_NAME_BYTES: usize = 63;

/// Longest value of a label, in characters.
const MAX_LABEL_VALUE_CHARS: usize = 255;

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
        }
        for (name, value) in &labels {
            let field = || format!("labels.{}", name.chars().take(64).collect::<String>());
            if !is_label_name(name) {
                let message = format!(
                    "a label's name has 1 to {MAX_LABEL_NAME_BYTES} letters, digits or any of ._/-, and begins with a letter or digit"
                );
                let violation = Violation::new(field(), "label_name_invalid", message);
                self.violations.push(violation);
            }
            if value.chars().count() > MAX_LABEL_VALUE_CHARS || value.chars().any(char::is_control)
            {
                let message = format!(
                    "a label's value has at most {MAX_LABEL_VALUE_CHARS} characters and no control characters"
                );
                let violation = Violation::new(field(), "label_value_invalid", message);
                self.violations.push(violation);
            }
        }
        Some(labels.into_iter().collect())
    }

    pub(super) fn event_actions(&mut self, words: Option<Vec<String>>) -> Option<Vec<String>> {
        let mut actions: Vec<String> = Vec::new();
        for (index, word) in words?.iter().enumerate() {
            let action = event_action_word(word);
            if !is_event_action(action) {
                let message = "holds capitals, digits and underscores, at most 64 of them";
                self.refuse_entry("eventActions", index, "not_an_action", message);
            } else if actions.len() <= MAX_EVENT_ACTIONS
                && !actions.iter().any(|known| known == action)
            {
                // Beyond the limit they are looked at, and no longer kept.
                actions.push(action.to_owned());
            }
        }
        if actions.len() > MAX_EVENT_ACTIONS {
            let message = format!("holds at most {MAX_EVENT_ACTIONS} actions");
            self.refuse("eventActions", "too_many", message);
        }
        Some(actions)
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
        // An entry that the face could not read may have been meant as v1.
        let mut unread = false;
        for (index, word) in words.iter().enumerate() {
            if !matches!(word.as_str(), "v1" | "v1a") {
                unread |= self.violations.has(&format!("signatures[{index}]"));
                self.refuse_entry("signatures", index, "unknown_signature", "is v1 or v1a");
            }
        }
        if !unread && !words.iter().any(|word| word == "v1") {
            let message = "is [\"v1\"] or [\"v1\", \"v1a\"]";
            self.refuse("signatures", "unknown_signature", message);
        }
        Some(words.iter().any(|word| word == "v1a"))
    }
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
