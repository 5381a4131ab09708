//! Judging headers of the customer's own.

use std::collections::HashSet;

use webhooks_domain::endpoint::headers::{self, CustomHeaders, HeaderRefusal};
use webhooks_runtime::Secret;

use super::extras::{By, kept};
use crate::{extras::Extras, violations::Violations};

/// A header as asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderDraft {
    /// Its name.
    pub name: String,
    /// Its value; `None` = the stored one.
    pub value: Option<Secret>,
}

/// The headers, if there is nothing to say of any of them.
pub(super) fn judge_headers(
    violations: &mut Violations,
    stored: &Extras,
    by: By<'_>,
    drafts: Vec<HeaderDraft>,
) -> Option<Vec<(String, Secret)>> {
    let before = violations.count();
    if drafts.len() > headers::MAX_HEADERS {
        let message = format!("holds at most {} headers", headers::MAX_HEADERS);
        violations.refuse("headers", "too_many_headers", message);
    }
    let (mut judged, mut names) = (Vec::new(), HashSet::new());
    let mut whole = true;
    for (index, draft) in drafts.into_iter().enumerate() {
        let at = format!("headers[{index}]");
        let (name_at, value_at) = (format!("{at}.name"), format!("{at}.value"));
        if violations.has(&at) {
            // The face has found something else than a header there.
            whole = false;
            continue;
        }
        whole &= !violations.has(&name_at) && !violations.has(&value_at);
        let known = stored
            .headers
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(&draft.name))
            .map(|(_, value)| value);
        // The name is judged all the same.
        let value = kept(violations, by, &value_at, draft.value, known);
        let named = CustomHeaders::check([(&draft.name, "x")]);
        if let Err(refusal) = &named {
            violations.refuse(&name_at, refusal.reason(), alone(refusal));
        } else if !names.insert(draft.name.to_ascii_lowercase()) {
            let message = format!("header {}: the name is there twice", draft.name);
            violations.refuse(&name_at, "header_name_repeated", message);
        }
        if let Some(value) = value {
            // A name that is none is not repeated: its place tells which header is meant.
            let name =
                named.map_or_else(|_| index.to_string(), |_| draft.name.to_ascii_lowercase());
            if CustomHeaders::check([("x", value.expose())]).is_err() {
                let refusal = HeaderRefusal::Value { index, name };
                violations.refuse(&value_at, refusal.reason(), refusal.to_string());
            }
            judged.push((draft.name, value));
        }
    }
    (whole && violations.count() == before).then_some(judged)
}

/// The words of a refusal of a header that was asked for alone, and so calls itself the first.
fn alone(refusal: &HeaderRefusal) -> String {
    let text = refusal.to_string();
    match text.strip_prefix("header 0: ") {
        Some(rest) => rest.to_owned(),
        None => text,
    }
}
