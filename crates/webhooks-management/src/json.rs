//! JSON as the API reads it: strictly, and with its duplicates.
//!
//! `serde_json::Value` keeps the last of two equal keys, which lets a request mean one thing to a
//! proxy and another to us. This tree keeps both, so that the second can be refused by name. Depth
//! is bounded before anything is built.

use std::fmt;

use serde::{
    Deserialize,
    de::{Deserializer, MapAccess, SeqAccess, Visitor},
};

use crate::error::Violation;

/// Most objects and lists within each other. `serde_json` has a limit of its own, which is higher and
/// is told in words that change.
const MAX_DEPTH: usize = 64;

/// Reads a body that has to be an object: its members in order.
///
/// # Errors
/// It is not readable, too deep, or something else than an object.
pub(crate) fn object(body: &[u8]) -> Result<Vec<(String, Json)>, Violation> {
    if depth(body) > MAX_DEPTH {
        let message = format!("has at most {MAX_DEPTH} objects and lists within each other");
        return Err(Violation::new("", "too_deep", message));
    }
    match serde_json::from_slice(body) {
        Ok(Json::Object(members)) => Ok(members),
        Ok(_) => Err(Violation::new(
            "",
            "not_an_object",
            "has to be a JSON object",
        )),
        Err(error) => {
            let message = format!("is not readable as JSON: {error}");
            Err(Violation::new("", "malformed_json", message))
        }
    }
}

/// How deep a text goes if it is JSON. One look at each byte, and no more than that.
fn depth(body: &[u8]) -> usize {
    let (mut open, mut deepest) = (0_usize, 0);
    let mut bytes = body.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' | b'[' => {
                open += 1;
                deepest = deepest.max(open);
            }
            b'}' | b']' => open = open.saturating_sub(1),
            // A string, up to its end: an escaped quote is none.
            b'"' => {
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'\\' => {
                            bytes.next();
                        }
                        b'"' => break,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    deepest
}

/// A JSON value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Json {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number without fraction and exponent.
    Integer(i64),
    /// Any other number.
    Number(f64),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Json>),
    /// An object, members in order, duplicates kept.
    Object(Vec<(String, Json)>),
}

impl Json {
    /// What kind of value it is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Integer(_) | Self::Number(_) => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Object(_) => "an object",
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Build)
    }
}

struct Build;

impl<'de> Visitor<'de> for Build {
    type Value = Json;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Json, E> {
        Ok(Json::Integer(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Json, E> {
        // What is beyond is beyond every limit of ours too.
        Ok(Json::Integer(i64::try_from(number).unwrap_or(i64::MAX)))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Json, E> {
        Ok(Json::Number(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Json, E> {
        Ok(Json::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Json, A::Error> {
        let mut object = Vec::new();
        while let Some(member) = members.next_entry()? {
            object.push(member);
        }
        Ok(Json::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixty_four_levels_are_deep_enough() {
        let nested = |levels: usize| {
            let open = r#"{"a":"#.repeat(levels);
            let close = "}".repeat(levels);
            object(format!("{open}1{close}").as_bytes())
        };
        assert!(nested(64).is_ok());
        for deep in [65, 129, 10_000] {
            assert_eq!(nested(deep).unwrap_err().reason, "too_deep", "{deep}");
        }
        // What is in a string is no structure.
        let text = format!(r#"{{"a":"\"{}"}}"#, "[".repeat(100));
        assert!(object(text.as_bytes()).is_ok());
        for (body, reason) in [
            ("[]", "not_an_object"),
            ("{", "malformed_json"),
            ("", "malformed_json"),
        ] {
            assert_eq!(object(body.as_bytes()).unwrap_err().reason, reason);
        }
    }

    #[test]
    fn duplicates_stay_and_nonsense_does_not() {
        let read = |text: &str| serde_json::from_str::<Json>(text);
        let Ok(Json::Object(members)) = read(r#"{"a":1,"b":[true,null,{}],"a":"x"}"#) else {
            panic!("an object was read as something else")
        };
        assert_eq!(members.len(), 3);
        assert_eq!(members[0], ("a".to_owned(), Json::Integer(1)));
        assert_eq!(members[2], ("a".to_owned(), Json::Text("x".to_owned())));
        let deep = "[".repeat(1_000_000);
        for broken in ["", "{", "{}x", "\u{feff}{}", r#"{"a":"\ud800"}"#, &deep] {
            assert!(read(broken).is_err());
        }
        assert!(serde_json::from_slice::<Json>(b"\"\xff\"").is_err());
    }
}
