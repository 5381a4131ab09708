//! Reading a JSON object member by member: strict about types, and about what may not be there.

use std::collections::HashSet;

use webhooks_domain::event::parse_rfc3339_micros;

use crate::{
    error::{ManagementError, Violation},
    json::{self, Json},
    violations::Violations,
};

/// An object whose members are taken out one after another.
pub(super) struct ObjectReader {
    /// Before every field's name: empty, or `limits.`
    prefix: &'static str,
    members: Vec<(String, Json)>,
    problems: Violations,
}

impl ObjectReader {
    /// Reads a body.
    ///
    /// # Errors
    /// The body is no JSON object.
    pub(super) fn of(body: &[u8]) -> Result<Self, ManagementError> {
        let members = json::object(body);
        let members = members.map_err(|problem| ManagementError::Invalid(vec![problem]))?;
        Ok(Self::new("", members))
    }

    fn new(prefix: &'static str, members: Vec<(String, Json)>) -> Self {
        let mut reader = Self {
            prefix,
            members: Vec::new(),
            problems: Violations::default(),
        };
        let mut seen = HashSet::new();
        for (key, value) in members {
            if seen.insert(key.clone()) {
                reader.members.push((key, value));
            } else {
                reader.problem(&key, "duplicate_key", "is there twice");
            }
        }
        reader
    }

    fn take(&mut self, key: &str) -> Option<Json> {
        let at = self.members.iter().position(|(known, _)| known == key)?;
        // The others keep their order, in which they are told if nobody takes them.
        Some(self.members.remove(at).1)
    }

    /// A member that holds text.
    pub(super) fn text(&mut self, key: &str) -> Option<String> {
        match self.take(key)? {
            Json::Text(text) => Some(text),
            other => self.wrong(key, "has to be text", &other),
        }
    }

    /// A member that is true or false.
    pub(super) fn boolean(&mut self, key: &str) -> Option<bool> {
        match self.take(key)? {
            Json::Bool(value) => Some(value),
            other => self.wrong(key, "has to be true or false", &other),
        }
    }

    /// A member that holds a list of text. An entry that is none keeps its place, so that those after
    /// it are told by theirs.
    pub(super) fn texts(&mut self, key: &str) -> Option<Vec<String>> {
        let items = match self.take(key)? {
            Json::List(items) => items,
            other => return self.wrong(key, "has to be a list", &other),
        };
        let mut texts = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            let text = match item {
                Json::Text(text) => Some(text),
                other => self.wrong(&format!("{key}[{index}]"), "has to be text", &other),
            };
            texts.push(text.unwrap_or_default());
        }
        Some(texts)
    }

    /// A member that holds a whole number, or null for none.
    pub(super) fn integer(&mut self, key: &str) -> Option<i64> {
        match self.take(key)? {
            Json::Integer(number) => Some(number),
            Json::Null => None,
            other => self.wrong(key, "has to be a whole number", &other),
        }
    }

    /// A member that holds a time, in microseconds; `Some(None)` for null.
    pub(super) fn time(&mut self, key: &str) -> Option<Option<i64>> {
        match self.take(key)? {
            Json::Null => Some(None),
            Json::Text(text) => {
                let at = parse_rfc3339_micros(&text);
                if at.is_none() {
                    self.problem(key, "not_a_time", "is a time such as 2026-01-15T12:00:00Z");
                }
                at.map(Some)
            }
            other => self.wrong(key, "has to be text", &other),
        }
    }

    /// A member that holds an object, which `read` takes apart.
    pub(super) fn object<T>(
        &mut self,
        key: &str,
        prefix: &'static str,
        read: impl FnOnce(&mut Self) -> T,
    ) -> Option<T> {
        match self.take(key)? {
            Json::Object(members) => {
                let mut inner = Self::new(prefix, members);
                let value = read(&mut inner);
                self.problems.append(inner.finish(&[]));
                Some(value)
            }
            other => self.wrong(key, "has to be an object", &other),
        }
    }

    /// What was wrong, everything that was not taken included. Members of `read_only` are told so.
    pub(super) fn finish(mut self, read_only: &[&str]) -> Violations {
        for (key, _) in std::mem::take(&mut self.members) {
            if read_only.contains(&key.as_str()) {
                self.problem(&key, "read_only", "cannot be set");
            } else {
                self.problem(&key, "unknown_field", "is not known");
            }
        }
        self.problems
    }

    fn wrong<T>(&mut self, key: &str, expected: &str, found: &Json) -> Option<T> {
        let message = format!("{expected}, not {}", found.kind());
        self.problem(key, "wrong_type", message);
        None
    }

    fn problem(&mut self, key: &str, reason: &'static str, message: impl Into<String>) {
        // A key is the caller's text: enough of it to recognise, not enough to flood a log.
        let key: String = key.chars().take(64).collect();
        let field = format!("{}{key}", self.prefix);
        self.problems.unread(Violation::new(field, reason, message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_taken_by_type_and_the_rest_is_refused() {
        let body = br#"{"a":"x","b":true,"c":["y"],"d":3,"e":"2026-01-15T12:00:00Z","f":null,
            "g":{"h":1,"i":2},"j":1,"id":"z","a":"again"}"#;
        let mut reader = ObjectReader::of(body).unwrap();
        assert_eq!(reader.text("a").as_deref(), Some("x"));
        assert_eq!(reader.boolean("b"), Some(true));
        assert_eq!(reader.texts("c"), Some(vec!["y".to_owned()]));
        assert_eq!(reader.integer("d"), Some(3));
        assert_eq!(reader.time("e"), Some(Some(1_768_478_400_000_000)));
        assert_eq!(reader.time("f"), Some(None));
        assert_eq!(
            reader.object("g", "g.", |inner| inner.integer("h")),
            Some(Some(1))
        );
        assert_eq!(reader.text("j"), None);
        assert_eq!(reader.text("absent"), None);
        let problems = reader.finish(&["id"]).told();
        let problems: Vec<_> = problems
            .iter()
            .map(|v| (v.field.as_str(), v.reason))
            .collect();
        assert_eq!(
            problems,
            [
                ("a", "duplicate_key"),
                ("g.i", "unknown_field"),
                ("j", "wrong_type"),
                ("id", "read_only")
            ]
        );
    }

    #[test]
    fn all_that_is_not_known_is_counted_and_entries_keep_their_places() {
        let many: String = (0..200).map(|n| format!("\"k{n}\":1,")).collect();
        let body = format!("{{{many}\"list\":[\"a\",1,\"b\",null]}}");
        let mut reader = ObjectReader::of(body.as_bytes()).unwrap();
        // A member that comes after many others is read all the same.
        let list = reader.texts("list").unwrap();
        assert_eq!(list, ["a", "", "b", ""]);
        let problems = reader.finish(&[]);
        assert_eq!(problems.count(), 202);
        assert!(problems.has("list[1]") && problems.has("list[3]") && problems.has("k199"));
        let told = problems.told();
        let fields: Vec<_> = told.iter().take(3).map(|one| one.field.as_str()).collect();
        assert_eq!(fields, ["list[1]", "list[3]", "k0"]);
        assert_eq!(told[0].message, "has to be text, not a number");
    }

    #[test]
    fn a_time_is_a_time() {
        for (text, reason) in [
            ("\"yesterday\"", "not_a_time"),
            ("1", "wrong_type"),
            ("\"\"", "not_a_time"),
        ] {
            let mut reader = ObjectReader::of(format!("{{\"at\":{text}}}").as_bytes()).unwrap();
            assert_eq!(reader.time("at"), None);
            assert_eq!(reader.finish(&[]).told()[0].reason, reason);
        }
    }
}
