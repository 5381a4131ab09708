//! JSON as the API reads it: strictly, and with its duplicates.
//!
//! `serde_json::Value` keeps the last of two equal keys, which lets a request mean one thing to a
//! proxy and another to us. This tree keeps both, so that the second can be refused by name. Depth
//! is bounded by `serde_json` itself (128 levels).

use std::fmt;

use serde::{
    Deserialize,
    de::{Deserializer, MapAccess, SeqAccess, Visitor},
};

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
    use super::Json;

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
