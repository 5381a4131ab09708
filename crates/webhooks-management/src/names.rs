//! Names that people give to things of theirs.

use webhooks_domain::webhook::MAX_NAME_CHARS;

/// What is wrong with a name: a machine word, and what to do about it.
pub(crate) fn wrong_name(name: &str) -> Option<(&'static str, String)> {
    if name.trim().is_empty() {
        Some(("blank", "must not be blank".to_owned()))
    } else if name.chars().count() > MAX_NAME_CHARS {
        let message = format!("has at most {MAX_NAME_CHARS} characters");
        Some(("too_long", message))
    } else if name.chars().any(char::is_control) {
        Some(("control_character", "has no control characters".to_owned()))
    } else {
        None
    }
}
