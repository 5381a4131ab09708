//! Which deliveries: words from either face, judged whole.

use webhooks_domain::{delivery::DeliveryState, endpoint::outcome::FailureClass, ids::Trigger};
use webhooks_store::DeliveryFilter;

use crate::{
    error::{ManagementError, parse_id},
    violations::Violations,
};

/// Longest event id or journey key that is searched for, in bytes: longer ones do not exist.
const MAX_KEY_BYTES: usize = 1_024;

/// Filters as they were asked for. Empty = not asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeliveryQuery {
    /// A webhook's id.
    pub webhook_id: String,
    /// Words of states.
    pub states: Vec<String>,
    /// Word of a class.
    pub class: String,
    /// A status, `503`, or a hundred of them, `5xx`.
    pub status_code: String,
    /// An event's id.
    pub event_id: String,
    /// A link's id.
    pub link_id: String,
    /// A journey's key.
    pub lbid: String,
    /// Word of a trigger.
    pub trigger: String,
    /// Those that wait behind a failing one of their key, or the others.
    pub blocked: Option<bool>,
    /// From this moment on, in microseconds.
    pub created_after: Option<i64>,
    /// Before this moment, in microseconds.
    pub created_before: Option<i64>,
    /// What the face itself found wrong.
    pub problems: Violations,
}

impl DeliveryQuery {
    /// The filter, if every word is one.
    pub(super) fn judge(self) -> Result<DeliveryFilter, ManagementError> {
        let mut judge = Judge(self.problems);
        let filter = DeliveryFilter {
            webhook: judge.id("webhookId", &self.webhook_id),
            states: judge.states("state", &self.states),
            class: judge.class("class", &self.class),
            status: judge.status("statusCode", &self.status_code),
            event_id: judge.key("eventId", self.event_id),
            link_id: judge.id("linkId", &self.link_id),
            lbid: judge.key("lbid", self.lbid),
            trigger: judge.trigger(&self.trigger),
            blocked: self.blocked,
            created_from: self.created_after,
            created_before: self.created_before,
        };
        judge.verdict(filter)
    }
}

/// What a page token of these deliveries is bound to.
pub(super) fn bound_to(filter: &DeliveryFilter) -> [String; 11] {
    let text = |id: Option<uuid::Uuid>| id.map_or_else(String::new, |id| id.to_string());
    let time = |at: Option<i64>| at.map_or_else(String::new, |at| at.to_string());
    let states: Vec<_> = DeliveryState::ALL
        .iter()
        .filter(|state| filter.states.contains(state))
        .map(|state| state.as_str())
        .collect();
    [
        text(filter.webhook),
        states.join(","),
        filter.class.map_or("", FailureClass::as_str).to_owned(),
        filter
            .status
            .map_or_else(String::new, |(from, to)| format!("{from}-{to}")),
        filter.event_id.clone().unwrap_or_default(),
        text(filter.link_id),
        filter.lbid.clone().unwrap_or_default(),
        filter.trigger.map_or("", Trigger::api_word).to_owned(),
        filter
            .blocked
            .map_or_else(String::new, |blocked| blocked.to_string()),
        time(filter.created_from),
        time(filter.created_before),
    ]
}

/// Collects what is wrong.
#[derive(Debug, Default)]
pub(super) struct Judge(pub(super) Violations);

impl Judge {
    /// The face may have found the same field wrong already.
    pub(super) fn broken(&mut self, field: &str, reason: &'static str, message: impl Into<String>) {
        self.0.refuse(field, reason, message);
    }

    pub(super) fn verdict<T>(self, value: T) -> Result<T, ManagementError> {
        self.0.verdict(value)
    }

    fn unknown(&mut self, field: &str, expected: &[&str]) {
        self.broken(
            field,
            "unknown_value",
            format!("is one of {}", expected.join(", ")),
        );
    }

    pub(super) fn id(&mut self, field: &str, text: &str) -> Option<uuid::Uuid> {
        if text.is_empty() {
            return None;
        }
        let id = parse_id(text);
        if id.is_none() {
            self.broken(field, "not_an_id", "is a UUID");
        }
        id
    }

    fn key(&mut self, field: &str, text: String) -> Option<String> {
        if text.len() > MAX_KEY_BYTES {
            self.broken(
                field,
                "too_long",
                format!("has at most {MAX_KEY_BYTES} bytes"),
            );
            return None;
        }
        Some(text).filter(|text| !text.is_empty())
    }

    pub(super) fn states(&mut self, field: &str, words: &[String]) -> Vec<DeliveryState> {
        let mut states = Vec::new();
        let all = DeliveryState::ALL.map(DeliveryState::as_str).join(", ");
        let message = format!("is one of {all}");
        for (index, word) in words.iter().enumerate() {
            match word.parse::<DeliveryState>() {
                _ if word.is_empty() => {}
                Ok(state) if states.contains(&state) => {}
                Ok(state) => states.push(state),
                Err(_) => {
                    let violations = &mut self.0;
                    violations.refuse_entry(field, index, "unknown_value", &message);
                }
            }
        }
        states
    }

    pub(super) fn class(&mut self, field: &str, word: &str) -> Option<FailureClass> {
        if word.is_empty() {
            return None;
        }
        let class = FailureClass::ALL
            .into_iter()
            .find(|class| class.as_str() == word);
        if class.is_none() {
            self.unknown(field, &FailureClass::ALL.map(FailureClass::as_str));
        }
        class
    }

    /// `503` or `5xx`.
    pub(super) fn status(&mut self, field: &str, word: &str) -> Option<(u16, u16)> {
        if word.is_empty() {
            return None;
        }
        let hundred = word
            .strip_suffix("xx")
            .or_else(|| word.strip_suffix("XX"))
            .and_then(|digit| digit.parse::<u16>().ok())
            .filter(|digit| (1..=5).contains(digit))
            .map(|digit| (digit * 100, digit * 100 + 99));
        let one = word
            .parse::<u16>()
            .ok()
            .filter(|status| (100..=599).contains(status) && word.len() == 3)
            .map(|status| (status, status));
        let status = hundred.or(one);
        if status.is_none() {
            self.broken(
                field,
                "not_a_status",
                "is an HTTP status such as 503, or a hundred of them such as 5xx",
            );
        }
        status
    }

    fn trigger(&mut self, word: &str) -> Option<Trigger> {
        const ALL: [Trigger; 3] = [Trigger::Event, Trigger::Replay, Trigger::Test];
        if word.is_empty() {
            return None;
        }
        let trigger = ALL.into_iter().find(|trigger| trigger.api_word() == word);
        if trigger.is_none() {
            self.unknown("trigger", &ALL.map(Trigger::api_word));
        }
        trigger
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_one_or_a_hundred() {
        let status = |word: &str| {
            let mut judge = Judge::default();
            let status = judge.status("statusCode", word);
            (status, judge.0.count())
        };
        assert_eq!(status("503"), (Some((503, 503)), 0));
        assert_eq!(status("5xx"), (Some((500, 599)), 0));
        assert_eq!(status("2XX"), (Some((200, 299)), 0));
        assert_eq!(status(""), (None, 0));
        for wrong in ["0503", "99", "600", "6xx", "xx", "5x", "+503", "-1"] {
            assert_eq!(status(wrong), (None, 1), "{wrong}");
        }
    }

    #[test]
    fn all_that_is_wrong_is_told() {
        let query = DeliveryQuery {
            webhook_id: "x".into(),
            states: vec!["FAILED".into(), "GONE".into(), "".into(), "LOST".into()],
            class: "BAD".into(),
            link_id: "y".into(),
            trigger: "CRON".into(),
            ..DeliveryQuery::default()
        };
        let error = query.judge().unwrap_err();
        let fields: Vec<_> = error
            .violations()
            .iter()
            .map(|v| v.field.as_str())
            .collect();
        let expected = [
            "webhookId",
            "state[1]",
            "state[3]",
            "class",
            "linkId",
            "trigger",
        ];
        assert_eq!(fields, expected);
        assert_eq!(
            DeliveryQuery::default().judge().unwrap(),
            DeliveryFilter::default()
        );
    }

    #[test]
    fn a_token_is_bound_to_what_is_asked_for_and_not_to_its_order() {
        let of = |states: &[&str]| {
            let query = DeliveryQuery {
                states: states.iter().map(|&state| state.to_owned()).collect(),
                ..DeliveryQuery::default()
            };
            bound_to(&query.judge().unwrap())
        };
        assert_eq!(of(&["FAILED", "HELD"]), of(&["HELD", "FAILED", "HELD"]));
        assert_ne!(of(&["FAILED"]), of(&[]));
    }
}
