//! Which event this is: the id under which a repeat is recognised.
//!
//! A publisher's own id comes first, from the body or from beside it (`Nats-Msg-Id`,
//! `Idempotency-Key`). Without one the id is derived, so that a publisher who sends the same step
//! completion twice is still recognised: the visit alone would not do, since one visit completes
//! several steps, and one step several times. Ids are unique within a workspace only; scoping
//! them is the caller's part.

use uuid::Uuid;

use super::parse::ParsedEvent;
use super::problem::{EventRejection, reason};

/// Longest event id, in bytes.
pub const EVENT_ID_MAX_BYTES: usize = 255;

/// The namespace of derived ids (RFC 9562 UUIDv5). Never change it: ids already given would
/// change with it, and repeats would become new events.
pub const EVENT_ID_NAMESPACE: Uuid = Uuid::from_u128(0x7c1e_5a0b_94d2_4e63_a8f7_2b90_d3c6_51ee);

/// The id of an event. `explicit` is the id sent beside the body, when there is one; it stands
/// for the body's own id, and may not contradict it. Without either, the id is a UUIDv5 of
/// `event.id`, `workflowStep.id` and the text of `timestamp`.
///
/// # Errors
/// `explicit` is not 1 to 255 visible ASCII characters, or differs from the body's `id`.
pub fn event_identity(
    event: &ParsedEvent,
    explicit: Option<&str>,
) -> Result<String, EventRejection> {
    if let Some(explicit) = explicit {
        check_id(explicit)
            .map_err(|(reason, message)| EventRejection::one("id", reason, message))?;
        if event.id.as_deref().is_some_and(|id| id != explicit) {
            let message = "differs from the id sent beside the event";
            return Err(EventRejection::one("id", reason::ID_MISMATCH, message));
        }
        return Ok(explicit.to_owned());
    }
    if let Some(id) = &event.id {
        return Ok(id.clone());
    }
    // None of the parts can contain a control character, so a line break keeps them apart.
    let name = [
        event.source_event_id.as_str(),
        &event.step_id,
        &event.timestamp_text,
    ]
    .join("\n");
    Ok(Uuid::new_v5(&EVENT_ID_NAMESPACE, name.as_bytes()).to_string())
}

/// Whether an id sent by a publisher is one: 1 to 255 visible ASCII characters.
pub(crate) fn check_id(id: &str) -> Result<(), (&'static str, &'static str)> {
    if id.is_empty() {
        Err((reason::EMPTY, "must not be empty"))
    } else if id.len() > EVENT_ID_MAX_BYTES {
        Err((reason::TOO_LONG, "has at most 255 bytes"))
    } else if !id.bytes().all(|byte| byte.is_ascii_graphic()) {
        let message = "must be visible ASCII characters without spaces";
        Err((reason::INVALID_CHARACTERS, message))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: Option<&str>) -> ParsedEvent {
        ParsedEvent {
            id: id.map(str::to_owned),
            workspace_id: Uuid::nil(),
            link_id: Uuid::nil(),
            source_event_id: "visit".to_owned(),
            step_id: "step".to_owned(),
            step_kind: "KIND_EXIT".to_owned(),
            event_action: None,
            timestamp_micros: 0,
            timestamp_text: "1970-01-01T00:00:00Z".to_owned(),
            lbid: "lbid".to_owned(),
            event_type: "step.completed",
        }
    }

    #[test]
    fn an_id_sent_beside_the_event_stands_for_the_bodys_own() {
        assert_eq!(
            event_identity(&event(None), Some("a-1")),
            Ok("a-1".to_owned())
        );
        assert_eq!(
            event_identity(&event(Some("a-1")), Some("a-1")),
            Ok("a-1".to_owned())
        );
        assert_eq!(event_identity(&event(Some("b")), None), Ok("b".to_owned()));
        let rejection = event_identity(&event(Some("b")), Some("a")).expect_err("they differ");
        assert!(rejection.has(reason::ID_MISMATCH));
    }

    #[test]
    fn an_id_sent_beside_the_event_is_checked() {
        let long = "x".repeat(256);
        let table = [
            ("", reason::EMPTY),
            (long.as_str(), reason::TOO_LONG),
            ("a b", reason::INVALID_CHARACTERS),
            ("a\n", reason::INVALID_CHARACTERS),
            ("\u{e9}", reason::INVALID_CHARACTERS),
        ];
        for (id, reason) in table {
            let rejection = event_identity(&event(None), Some(id)).expect_err("refused");
            assert!(rejection.has(reason), "{id} {reason}");
        }
        assert!(event_identity(&event(None), Some(&long[..255])).is_ok());
    }

    #[test]
    fn a_derived_id_follows_visit_step_and_time_and_never_changes() {
        let derived = |change: fn(&mut ParsedEvent)| {
            let mut event = event(None);
            change(&mut event);
            event_identity(&event, None).expect("an id")
        };
        let id = derived(|_| ());
        assert_eq!(id, "857b05c6-9b8c-53ce-8f97-2403554904d1");
        assert_eq!(id, derived(|event| event.lbid.push('x')));
        assert_eq!(id, derived(|event| event.step_kind.push('x')));
        assert_ne!(id, derived(|event| event.source_event_id.push('x')));
        assert_ne!(id, derived(|event| event.step_id.push('x')));
        assert_ne!(
            id,
            derived(|event| event.timestamp_text = "1970-01-01T00:00:01Z".to_owned())
        );
        assert_ne!(
            derived(|event| event.source_event_id = "visitstep".to_owned()),
            derived(|event| event.step_id = "stepstep".to_owned()),
        );
    }
}
