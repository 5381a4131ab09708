//! What is wrong with a request, while it is being read and judged.
//!
//! A request is read by its face (types, unknown members) and then judged by the rules, and all that
//! both find is told in one answer. It is named in full up to a limit, by number beyond: who sends a
//! thousand entries that are none is helped by the first of them. The limits hold for both faces, so
//! that both say the same.

use std::collections::BTreeSet;

use crate::error::{ManagementError, Violation};

/// Most problems that an answer names.
pub(crate) const MAX_NAMED: usize = 50;

/// Most bytes of their fields, reasons and messages. gRPC tells them in a header, in base64, and many
/// clients take no more than 8 KiB of headers.
pub(crate) const MAX_NAMED_BYTES: usize = 4 * 1_024;

/// The reason of the last detail where there are more problems than are named.
pub(crate) const MORE_PROBLEMS: &str = "more_problems";

/// The reason for a member that is there again. It says nothing of the member that counts.
const DUPLICATE_KEY: &str = "duplicate_key";

/// Problems of one request, in the order in which they were found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Violations {
    named: Vec<Violation>,
    bytes: usize,
    /// How many there are beside the named ones.
    more: usize,
    /// Fields that the face found wrong, named or not; no more than a body has members and entries.
    unread: BTreeSet<String>,
}

impl Violations {
    /// A problem that a face found. Of its field nobody says anything else.
    pub(crate) fn unread(&mut self, violation: Violation) {
        if violation.reason != DUPLICATE_KEY {
            self.unread.insert(violation.field.clone());
        }
        self.push(violation);
    }

    /// A problem, whatever else is known of its field.
    pub(crate) fn push(&mut self, violation: Violation) {
        let bytes =
            self.bytes + violation.field.len() + violation.reason.len() + violation.message.len();
        let fits = self.named.len() < MAX_NAMED && bytes <= MAX_NAMED_BYTES;
        // The first ones are named, so none after one that is not.
        if self.named.is_empty() || (self.more == 0 && fits) {
            self.bytes = bytes;
            self.named.push(violation);
        } else {
            self.more += 1;
        }
    }

    /// A problem of a field of which none is known yet.
    pub(crate) fn refuse(&mut self, field: &str, reason: &'static str, message: impl Into<String>) {
        if !self.has(field) {
            self.push(Violation::new(field, reason, message));
        }
    }

    /// A problem of one entry of a list, unless the face could not read that entry at all.
    pub(crate) fn refuse_entry(
        &mut self,
        list: &str,
        index: usize,
        reason: &'static str,
        message: &str,
    ) {
        self.refuse(&format!("{list}[{index}]"), reason, message);
    }

    /// Whether something is known to be wrong with a field: found by the face, or named.
    pub(crate) fn has(&self, field: &str) -> bool {
        let said = |one: &Violation| one.field == field && one.reason != DUPLICATE_KEY;
        self.unread.contains(field) || self.named.iter().any(said)
    }

    /// Whether the face found a member wrong, or anything in it.
    pub(crate) fn has_within(&self, member: &str) -> bool {
        let inside = |rest: &str| rest.is_empty() || rest.starts_with(['.', '[']);
        let mut fields = self.unread.iter();
        fields.any(|field| field.strip_prefix(member).is_some_and(inside))
    }

    /// What an inner reading found, after what is here.
    pub(crate) fn append(&mut self, inner: Self) {
        self.unread.extend(inner.unread);
        for violation in inner.named {
            self.push(violation);
        }
        self.more += inner.more;
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.named.is_empty()
    }

    /// How many problems there are, named or not.
    #[must_use]
    pub fn count(&self) -> usize {
        self.named.len() + self.more
    }

    /// What an answer says: the named ones, and how many more there are.
    #[must_use]
    pub fn told(self) -> Vec<Violation> {
        let mut told = self.named;
        if self.more > 0 {
            let problems = if self.more == 1 {
                "problem"
            } else {
                "problems"
            };
            let message = format!("and {} more {problems}", self.more);
            told.push(Violation::new("", MORE_PROBLEMS, message));
        }
        told
    }

    /// The value, if nothing is wrong.
    ///
    /// # Errors
    /// Everything that is.
    pub(crate) fn verdict<T>(self, value: T) -> Result<T, ManagementError> {
        if self.is_empty() {
            Ok(value)
        } else {
            Err(ManagementError::Invalid(self.told()))
        }
    }
}

impl Extend<Violation> for Violations {
    /// As found by a face.
    fn extend<I: IntoIterator<Item = Violation>>(&mut self, found: I) {
        for violation in found {
            self.unread(violation);
        }
    }
}

impl From<Vec<Violation>> for Violations {
    /// As found by a face.
    fn from(found: Vec<Violation>) -> Self {
        let mut all = Self::default();
        all.extend(found);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: usize) -> Violation {
        Violation::new(format!("linkIds[{index}]"), "not_an_id", "is no UUID")
    }

    #[test]
    fn the_first_are_named_and_the_rest_is_counted() {
        for count in [0, 1, MAX_NAMED, MAX_NAMED + 1, 1_000] {
            let mut all = Violations::default();
            for index in 0..count {
                all.push(entry(index));
            }
            assert_eq!((all.count(), all.is_empty()), (count, count == 0));
            let mut told = all.told();
            if count > MAX_NAMED {
                let last = told.pop().unwrap();
                let more = count - MAX_NAMED;
                let problems = if more == 1 { "problem" } else { "problems" };
                assert_eq!((&*last.field, last.reason), ("", MORE_PROBLEMS));
                assert_eq!(last.message, format!("and {more} more {problems}"));
            }
            let named: Vec<_> = (0..count.min(MAX_NAMED)).map(entry).collect();
            assert_eq!(told, named);
        }
    }

    #[test]
    fn long_ones_are_fewer_and_the_first_is_always_named() {
        let long = |bytes| Violation::new("x", "too_long", "m".repeat(bytes));
        let mut all = Violations::default();
        for _ in 0..10 {
            all.push(long(1_000));
        }
        // A short one after it would fit, and would hide that one before it is not named.
        all.push(entry(0));
        let told = all.told();
        assert_eq!(told.len(), 5);
        assert_eq!(told[4].message, "and 7 more problems");
        let bytes: usize = told[..4].iter().map(|one| one.message.len()).sum();
        assert!(bytes <= MAX_NAMED_BYTES);
        let mut huge = Violations::default();
        huge.push(long(100_000));
        assert_eq!(huge.told().len(), 1);
    }

    #[test]
    fn of_a_field_that_was_not_read_nothing_else_is_said() {
        let mut all = Violations::default();
        for index in 0..100 {
            all.unread(entry(index));
        }
        // The last one is not named, and known all the same.
        for index in 0..101 {
            all.refuse_entry("linkIds", index, "not_an_id", "is no UUID");
        }
        assert_eq!(all.count(), 101);
        let mut twice = Violations::default();
        twice.unread(Violation::new("name", DUPLICATE_KEY, "is there twice"));
        twice.refuse("name", "blank", "must not be blank");
        twice.refuse("name", "too_long", "has at most 255 characters");
        assert_eq!(twice.count(), 2);
        let mut outer = Violations::default();
        outer.push(Violation::new("name", "blank", "must not be blank"));
        outer.append(all);
        assert!(outer.has("name") && outer.has("linkIds[99]") && !outer.has("linkIds[200]"));
        assert!(outer.has_within("linkIds") && !outer.has_within("link"));
        assert!(!outer.has_within("name"), "the face took it");
        assert_eq!(outer.count(), 102);
        assert_eq!(outer.told().pop().unwrap().message, "and 52 more problems");
    }
}
