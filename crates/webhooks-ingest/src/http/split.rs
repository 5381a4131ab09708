//! Splitting an array of events without touching the bytes of its elements.

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer as _,
    de::{SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::is_event_id;
use crate::refusal::{Refusal, RefusalKind};

/// Most events in one call.
pub const MANY_MAX_EVENTS: usize = 1_000;

/// The elements of a JSON array, each with the bytes it came with.
pub(crate) fn split(array: &Bytes) -> Result<Vec<Bytes>, Refusal> {
    let mut over = false;
    let mut reader = serde_json::Deserializer::from_slice(array);
    let elements = reader
        .deserialize_seq(Elements { over: &mut over })
        .and_then(|elements| reader.end().map(|()| elements));
    match elements {
        // The text of a raw value is a part of the input, so this only counts a reference.
        Ok(elements) => Ok(elements
            .into_iter()
            .map(|text| array.slice_ref(text.as_bytes()))
            .collect()),
        Err(_) if over => Err(Refusal::of_field(
            RefusalKind::TooLarge,
            "$",
            "too_many_events",
            format!("one call takes at most {MANY_MAX_EVENTS} events"),
        )),
        Err(error) => Err(Refusal::of_field(
            RefusalKind::Invalid,
            "$",
            "not_json",
            format!(
                "the body is no JSON array (line {}, column {})",
                error.line(),
                error.column()
            ),
        )),
    }
}

/// The id that an event gives itself, when the event was refused before anyone looked for it. `None`
/// when there is none, or none that could be an id.
pub(crate) fn own_id(event: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Head<'a> {
        #[serde(borrow)]
        id: Cow<'a, str>,
    }
    let head: Head<'_> = serde_json::from_slice(event).ok()?;
    is_event_id(&head.id).then(|| head.id.into_owned())
}

struct Elements<'o> {
    over: &'o mut bool,
}

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = Vec<&'de str>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = sequence.next_element::<&'de RawValue>()? {
            if elements.len() == MANY_MAX_EVENTS {
                *self.over = true;
                return Err(serde::de::Error::custom("too many elements"));
            }
            elements.push(element.get());
        }
        Ok(elements)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> Result<Vec<String>, RefusalKind> {
        let array = Bytes::copy_from_slice(text.as_bytes());
        match split(&array) {
            Ok(parts) => Ok(parts
                .iter()
                .map(|part| String::from_utf8_lossy(part).into_owned())
                .collect()),
            Err(refusal) => Err(refusal.kind),
        }
    }

    #[test]
    fn elements_keep_their_bytes() {
        let odd = r#"{"b":1.0,"a":1e5 , "a":2,"n":18446744073709551616}"#;
        assert_eq!(
            parts(&format!("[ {odd} ,\n\"x\" ,[]]\n")).unwrap(),
            [odd, "\"x\"", "[]"]
        );
        assert_eq!(parts("[]").unwrap(), Vec::<String>::new());
    }

    #[test]
    fn what_is_no_array_is_refused_whole() {
        for bad in [
            "[",
            "[{]",
            "[1,]",
            "[1] 2",
            "[\"\\ud8\"]",
            "",
            "{}",
            "[1 2]",
        ] {
            assert_eq!(parts(bad), Err(RefusalKind::Invalid), "{bad}");
        }
        let not_utf8 = Bytes::from_static(b"[\"\xff\"]");
        assert_eq!(split(&not_utf8).unwrap_err().kind, RefusalKind::Invalid);
    }

    #[test]
    fn a_thousand_events_pass_and_one_more_does_not() {
        let array = |count: usize| format!("[{}]", vec!["1"; count].join(","));
        assert_eq!(parts(&array(1_000)).unwrap().len(), 1_000);
        assert_eq!(parts(&array(1_001)), Err(RefusalKind::TooLarge));
    }

    #[test]
    fn an_events_own_id_is_read_where_there_is_one() {
        let check = |event: &str, id: Option<&str>| {
            assert_eq!(own_id(event.as_bytes()).as_deref(), id, "{event}");
        };
        check(
            r#"{"event":{"id":"other"},"id":"e-1","x":[1,{}]}"#,
            Some("e-1"),
        );
        check(r#"{"id":"e\u002d1"}"#, Some("e-1"));
        for nothing in [
            r#"{"event":{"id":"other"}}"#,
            r#"{"id":"e-1""#,
            r#"{"id":"e-1","id":"e-2"}"#,
            r#"{"id":7}"#,
            r#"{"id":""}"#,
            r#"{"id":"two words"}"#,
            "7",
            "[]",
        ] {
            check(nothing, None);
        }
        let deep = format!(
            r#"{{"x":{}{},"id":"e"}}"#,
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        check(&deep, Some("e"));
    }

    #[test]
    fn a_deeply_nested_element_stays_the_elements_own_problem() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(parts(&format!("[{deep},1]")).unwrap().len(), 2);
    }
}
