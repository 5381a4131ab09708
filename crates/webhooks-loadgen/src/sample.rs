//! Events in the shape of the document's sample: the same bytes but for ids, step kind and time.
//!
//! The sample is cut at the places that change once, so making an event is copying a few strings:
//! a generator must not cost the machine it measures.

use bytes::Bytes;
use uuid::Uuid;
use webhooks_domain::event::format_micros;

const SAMPLE: &str = include_str!("../../webhooks-domain/tests/data/step_completed.sample.json");

/// Values of the sample that are replaced.
const VISIT: &str = "0a2d9a3c-3f5a-483e-93e1-10b5bd04ac5b";
const WORKSPACE: &str = "a39dbbfb-be5e-41c8-b49a-7c9ada520fa4";
const LINK: &str = "a3332d06-1c43-4a23-a34e-259fa393581c";
const KIND: &str = "KIND_EXIT";
const TIMESTAMP: &str = "2025-10-10T16:12:28.161007Z";

/// What one event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventSpec {
    /// The event's id; also the id of the visit (`event.id`), so that it is found in what a customer gets.
    pub id: Uuid,
    /// Its workspace.
    pub workspace: Uuid,
    /// Its link.
    pub link: Uuid,
    /// Kind of the completed step, for example `KIND_EXIT`.
    pub kind: String,
    /// When the step was completed, in microseconds since the epoch.
    pub timestamp_micros: i64,
}

/// The sample, cut at the values that change.
#[derive(Debug, Clone)]
pub struct EventTemplate {
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Id,
    Workspace,
    Link,
    Kind,
    Timestamp,
}

impl Default for EventTemplate {
    fn default() -> Self {
        Self::new()
    }
}

impl EventTemplate {
    /// The sample without its `webhook` object and with an `id`, as publishers send it.
    #[must_use]
    pub fn new() -> Self {
        let minified = without_webhook(&minify(SAMPLE));
        let text = format!("{{\"id\":\"{VISIT}\",{}", &minified[1..]);
        let mut pieces = vec![Piece::Text(text)];
        for (value, slot) in [
            (VISIT, Piece::Id),
            (WORKSPACE, Piece::Workspace),
            (LINK, Piece::Link),
            (KIND, Piece::Kind),
            (TIMESTAMP, Piece::Timestamp),
        ] {
            pieces = pieces
                .into_iter()
                .flat_map(|piece| cut(piece, value, &slot))
                .collect();
        }
        Self { pieces }
    }

    /// The event's bytes.
    #[must_use]
    pub fn render(&self, spec: &EventSpec) -> Bytes {
        let mut buffer = [0; uuid::fmt::Hyphenated::LENGTH];
        let mut out = Vec::with_capacity(4_096);
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
                Piece::Id => push_uuid(&mut out, spec.id, &mut buffer),
                Piece::Workspace => push_uuid(&mut out, spec.workspace, &mut buffer),
                Piece::Link => push_uuid(&mut out, spec.link, &mut buffer),
                Piece::Kind => out.extend_from_slice(spec.kind.as_bytes()),
                Piece::Timestamp => {
                    out.extend_from_slice(format_micros(spec.timestamp_micros).as_bytes())
                }
            }
        }
        out.into()
    }
}

/// What a delivered body is made of around its `webhook` object: the text before the object and
/// after it, when a webhook with the default profile gets this event.
#[must_use]
pub fn expected_body(event: &[u8]) -> Option<(String, String)> {
    let text = std::str::from_utf8(event).ok()?;
    // `{"id":"<36>",` is the publishers' member; what customers get begins with `event`.
    let text = format!("{{{}", text.get(r#"{"id":"","#.len() + 36..)?);
    let (head, tail) = text.split_once(r#","workflowStep":"#)?;
    Some((
        format!("{head},\"webhook\":"),
        format!(",\"workflowStep\":{tail}"),
    ))
}

fn push_uuid(out: &mut Vec<u8>, id: Uuid, buffer: &mut [u8; uuid::fmt::Hyphenated::LENGTH]) {
    out.extend_from_slice(id.hyphenated().encode_lower(buffer).as_bytes());
}

fn cut(piece: Piece, value: &str, slot: &Piece) -> Vec<Piece> {
    let Piece::Text(text) = piece else {
        return vec![piece];
    };
    let mut pieces = Vec::new();
    for (index, part) in text.split(value).enumerate() {
        if index > 0 {
            pieces.push(slot.clone());
        }
        if !part.is_empty() {
            pieces.push(Piece::Text(part.to_owned()));
        }
    }
    pieces
}

/// Drops white space outside of strings.
fn minify(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let (mut inside, mut escaped) = (false, false);
    for character in json.chars() {
        if inside {
            inside = escaped || character != '"';
            escaped = !escaped && character == '\\';
        } else if character == '"' {
            inside = true;
        } else if character.is_ascii_whitespace() {
            continue;
        }
        out.push(character);
    }
    out
}

/// Takes the `webhook` member out of the minified sample, whose object holds no braces in strings.
fn without_webhook(json: &str) -> String {
    let (head, rest) = json
        .split_once(r#""webhook":{"#)
        .expect("the sample has a webhook");
    let (_, tail) = rest
        .split_once("},")
        .expect("the sample's webhook is not its last member");
    format!("{head}{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use webhooks_domain::event::{EventLimits, Profile, parse_event, render};

    fn spec() -> EventSpec {
        EventSpec {
            id: Uuid::from_u128(1),
            workspace: Uuid::from_u128(2),
            link: Uuid::from_u128(3),
            kind: "KIND_ENTRY".to_owned(),
            timestamp_micros: 1_700_000_000_000_001,
        }
    }

    #[test]
    fn an_event_is_what_ingest_takes_and_says_what_was_asked() {
        let bytes = EventTemplate::new().render(&spec());
        let parsed = parse_event(&bytes, &EventLimits::default()).unwrap();
        assert_eq!(
            parsed.id.as_deref(),
            Some("00000000-0000-0000-0000-000000000001")
        );
        assert_eq!(parsed.workspace_id, Uuid::from_u128(2));
        assert_eq!(parsed.link_id, Uuid::from_u128(3));
        assert_eq!(parsed.step_kind, "KIND_ENTRY");
        assert_eq!(parsed.timestamp_micros, 1_700_000_000_000_001);
        assert!((2_500..3_500).contains(&bytes.len()), "{}", bytes.len());
    }

    #[test]
    fn the_expected_body_is_what_the_renderer_makes() {
        let bytes = EventTemplate::new().render(&spec());
        let (head, tail) = expected_body(&bytes).unwrap();
        let rendition = render(&bytes, Profile::Standard).unwrap();
        assert_eq!(std::str::from_utf8(&rendition.head).unwrap(), head);
        assert_eq!(std::str::from_utf8(&rendition.tail).unwrap(), tail);
    }
}
