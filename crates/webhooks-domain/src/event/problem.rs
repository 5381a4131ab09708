//! What is wrong with an event, told field by field.

use serde::Serialize;

/// Most problems one rejection lists; more would help nobody, and a hostile event could have
/// thousands.
pub const MAX_PROBLEMS: usize = 32;

/// The field name of a problem that concerns the document as a whole.
pub const ROOT_FIELD: &str = "$";

/// Machine words for [`FieldProblem::reason`]. They are part of the API: new ones may be added,
/// none changes its meaning.
pub mod reason {
    /// A required field is absent.
    pub const MISSING: &str = "missing";
    /// A field has a JSON type it cannot have.
    pub const WRONG_TYPE: &str = "wrong_type";
    /// Containers are nested too deeply.
    pub const TOO_DEEP: &str = "too_deep";
    /// The event, or a part of it, has too many bytes.
    pub const TOO_LARGE: &str = "too_large";
    /// Custom attributes have too many members.
    pub const TOO_MANY_KEYS: &str = "too_many_keys";
    /// An object has the same member twice.
    pub const DUPLICATE_KEY: &str = "duplicate_key";
    /// The bytes are not UTF-8.
    pub const NOT_UTF8: &str = "not_utf8";
    /// The text is not JSON (RFC 8259).
    pub const NOT_JSON: &str = "not_json";
    /// Not an RFC 3339 time with an offset.
    pub const INVALID_TIMESTAMP: &str = "invalid_timestamp";
    /// An event type nobody knows.
    pub const UNKNOWN_TYPE: &str = "unknown_type";
    /// Not a UUID in its hyphenated form.
    pub const NOT_UUID: &str = "not_uuid";
    /// An empty string.
    pub const EMPTY: &str = "empty";
    /// A string longer than its field takes.
    pub const TOO_LONG: &str = "too_long";
    /// A string with characters its field does not take.
    pub const INVALID_CHARACTERS: &str = "invalid_characters";
    /// A workspace that the event is not published for.
    pub const TENANT_MISMATCH: &str = "tenant_mismatch";
    /// The id in the body and the id beside it differ.
    pub const ID_MISMATCH: &str = "id_mismatch";
}

/// One problem of one field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldProblem {
    /// Dotted path of the field, [`ROOT_FIELD`] for the document.
    pub field: String,
    /// A machine word of [`reason`].
    pub reason: &'static str,
    /// The same for people. Never contains the field's value.
    pub message: String,
}

/// Why an event is not accepted: every problem that was found, at least one, at most
/// [`MAX_PROBLEMS`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("event refused: {}", summary(.problems))]
pub struct EventRejection {
    /// The problems: first what stood out while the text was read (duplicates, types of optional
    /// members), then the fields the system needs, in the contract's order.
    pub problems: Vec<FieldProblem>,
}

impl EventRejection {
    /// A rejection for one reason.
    #[must_use]
    pub fn one(field: &str, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            problems: vec![FieldProblem {
                field: field.to_owned(),
                reason,
                message: message.into(),
            }],
        }
    }

    /// Whether some field was refused for `reason`.
    #[must_use]
    pub fn has(&self, reason: &str) -> bool {
        self.problems.iter().any(|problem| problem.reason == reason)
    }
}

fn summary(problems: &[FieldProblem]) -> String {
    let parts: Vec<String> = problems
        .iter()
        .map(|problem| format!("{} {}", problem.field, problem.reason))
        .collect();
    parts.join(", ")
}

/// Collects problems up to [`MAX_PROBLEMS`]. Another workspace is told also when there is no room
/// left, in the place of the last one: it decides what kind of refusal this is.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<FieldProblem>);

impl Problems {
    pub(crate) fn push(&mut self, field: &str, reason: &'static str, message: impl Into<String>) {
        let foreign = |reason| reason == reason::TENANT_MISMATCH;
        if self.is_full() {
            if !foreign(reason) || self.0.iter().any(|problem| foreign(problem.reason)) {
                return;
            }
            self.0.pop();
        }
        self.0.push(FieldProblem {
            field: field.to_owned(),
            reason,
            message: message.into(),
        });
    }

    pub(crate) fn is_full(&self) -> bool {
        self.0.len() >= MAX_PROBLEMS
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn into_rejection(self) -> EventRejection {
        EventRejection { problems: self.0 }
    }
}
