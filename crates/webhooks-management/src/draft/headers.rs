//! Judging headers of the customer's own.

use webhooks_domain::endpoint::headers::{self, CustomHeaders};
use webhooks_runtime::Secret;

use super::extras::{By, kept};
use crate::{error::Violation, extras::Extras};

/// A header as asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderDraft {
    /// Its name.
    pub name: String,
    /// Its value; `None` = the stored one.
    pub value: Option<Secret>,
}

pub(super) fn judge_headers(
    violations: &mut Vec<Violation>,
    stored: &Extras,
    by: By<'_>,
    drafts: Vec<HeaderDraft>,
) -> Vec<(String, Secret)> {
    if drafts.len() > headers::MAX_HEADERS {
        let message = format!("holds at most {} headers", headers::MAX_HEADERS);
        violations.push(Violation::new("headers", "too_many_headers", message));
        return Vec::new();
    }
    let mut judged: Vec<(String, Secret)> = Vec::new();
    for (index, draft) in drafts.into_iter().enumerate() {
        let known = stored
            .headers
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(&draft.name))
            .map(|(_, value)| value);
        let field = format!("headers[{index}].value");
        // The name is judged all the same.
        let value = kept(violations, by, &field, draft.value, known);
        let text = value.as_ref().map_or("x", Secret::expose);
        if let Err(refusal) = CustomHeaders::check([(&draft.name, text)]) {
            let part = match refusal.reason() {
                "header_value_invalid" => "value",
                _ => "name",
            };
            let field = format!("headers[{index}].{part}");
            // It was asked for alone, so it calls itself the first.
            let text = refusal.to_string();
            let message = text.strip_prefix("header 0: ").unwrap_or(&text);
            violations.push(Violation::new(field, refusal.reason(), message));
        } else if judged
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case(&draft.name))
        {
            let message = format!("header {}: the name is there twice", draft.name);
            let field = format!("headers[{index}].name");
            violations.push(Violation::new(field, "header_name_repeated", message));
        } else if let Some(value) = value {
            judged.push((draft.name, value));
        }
    }
    judged
}
