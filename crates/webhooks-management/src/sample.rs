//! Sample events: the product's own, with fresh ids and times, for any step kind.
//!
//! They are made by replacing text, so what stands in the file is what is sent, in its order.

use uuid::Uuid;
use webhooks_domain::event::format_micros;

/// As publishers send it: without the webhook.
const SAMPLE: &str = include_str!("sample/step_completed.json");

/// What is fresh in every sample: the ids and times of the file.
const TIMESTAMP: &str = "2025-10-10T16:12:28.161007Z";
const EVENT: &str = "0a2d9a3c-3f5a-483e-93e1-10b5bd04ac5b";
const WORKSPACE: &str = "a39dbbfb-be5e-41c8-b49a-7c9ada520fa4";
const LINK: &str = "a3332d06-1c43-4a23-a34e-259fa393581c";
const STEP: &str = "3bb8a4a0-80eb-4a36-863e-03e3ed5c2a1b";

/// The step of the file.
const EXIT_KIND: &str = "\"kind\": \"KIND_EXIT\"";
const EXIT_ACTION: &str = "\"eventAction\": \"CLIENT_REDIRECT\"";
const EXIT_PAYLOAD: &str = "\"payload\": {
      \"conversion_tracking\": false,
      \"destination\": \"https://linkbreakers.com\"
    }";

/// Every kind there is a sample of, with its action and payload.
const KINDS: [(&str, &str, &str); 4] = [
    ("KIND_ENTRY", "LINK_VISIT", "{}"),
    (
        "KIND_EXIT",
        "CLIENT_REDIRECT",
        "{\"conversion_tracking\":false,\"destination\":\"https://linkbreakers.com\"}",
    ),
    (
        "KIND_INTERACTION",
        "FORM_SUBMIT",
        "{\"formTitle\":\"Contact\",\"fields\":[{\"key\":\"email\",\"label\":\"Email\",\"type\":\"EMAIL\",\"value\":\"ada@example.com\"}]}",
    ),
    (
        "KIND_CONDITION",
        "COUNTRY_CONDITION",
        "{\"countries\":[\"US\"],\"matched\":true}",
    ),
];

/// The kinds there is a sample of.
pub(crate) fn kinds() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|(kind, ..)| *kind)
}

/// What is fresh in a sample.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fresh {
    pub(crate) workspace: Uuid,
    pub(crate) link: Uuid,
    pub(crate) event: Uuid,
    pub(crate) step: Uuid,
    pub(crate) at_micros: i64,
}

/// A sample event with a step of this kind (the file's own for a kind there is no sample of).
pub(crate) fn event(kind: &str, fresh: Fresh) -> String {
    let (kind, action, payload) = KINDS
        .iter()
        .find(|(known, ..)| *known == kind)
        .unwrap_or(&KINDS[1]);
    SAMPLE
        .trim_end()
        .replace(TIMESTAMP, &format_micros(fresh.at_micros))
        .replace(EVENT, &fresh.event.to_string())
        .replace(WORKSPACE, &fresh.workspace.to_string())
        .replace(LINK, &fresh.link.to_string())
        .replace(STEP, &fresh.step.to_string())
        .replace(EXIT_PAYLOAD, &format!("\"payload\": {payload}"))
        .replace(EXIT_KIND, &format!("\"kind\": \"{kind}\""))
        .replace(EXIT_ACTION, &format!("\"eventAction\": \"{action}\""))
}

#[cfg(test)]
mod tests {
    use webhooks_domain::event::{EventLimits, parse_event};

    use super::*;

    #[test]
    fn every_sample_is_a_valid_event_of_its_own() {
        for (kind, action, payload) in KINDS {
            let fresh = Fresh {
                workspace: Uuid::from_u128(1),
                link: Uuid::from_u128(2),
                event: Uuid::from_u128(3),
                step: Uuid::from_u128(4),
                at_micros: 1_800_000_000_000_000,
            };
            let event = event(kind, fresh);
            let parsed = parse_event(event.as_bytes(), &EventLimits::DEFAULT).unwrap();
            assert_eq!(
                (parsed.workspace_id, parsed.link_id),
                (fresh.workspace, fresh.link)
            );
            assert_eq!(parsed.step_kind, kind);
            assert_eq!(parsed.event_action.as_deref(), Some(action));
            assert_eq!(parsed.timestamp_micros, fresh.at_micros);
            assert!(event.contains(payload), "{event}");
            for stale in [TIMESTAMP, EVENT, WORKSPACE, LINK, STEP] {
                assert!(!event.contains(stale), "{stale}");
            }
        }
    }
}
