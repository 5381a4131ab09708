//! An event as it lies on the EVENTS stream: the publisher's bytes, and what ingest said of them.

use bytes::Bytes;
use uuid::Uuid;
use webhooks_bus::{Pulled, headers};
use webhooks_domain::{
    event::{EventLimits, ParsedEvent, parse_accepted_event},
    hop::Hop,
};

/// An accepted event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedEvent {
    /// Its sequence on EVENTS; of the first copy, if this is a second one.
    pub seq: u64,
    /// A second copy: the first was acknowledged, and something of it is missing.
    pub again: bool,
    /// Its id, unique within the workspace.
    pub id: String,
    /// Its workspace.
    pub workspace: Uuid,
    /// When ingest accepted it, microseconds since the epoch.
    pub accepted_at: i64,
    /// Its trace; empty = none.
    pub traceparent: String,
    /// How many deliveries lie behind it.
    pub hop: Hop,
    /// What the system routes by.
    pub parsed: ParsedEvent,
    /// The publisher's bytes.
    pub payload: Bytes,
}

/// A message that can never be an event. Ingest lets none through, so this is somebody else's
/// message, or a bug.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct Poison {
    /// A stable machine word.
    pub reason: &'static str,
    /// For operators.
    pub detail: String,
}

impl Poison {
    pub(crate) fn new(reason: &'static str, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
        }
    }
}

impl AcceptedEvent {
    /// Reads a message of EVENTS.
    ///
    /// # Errors
    /// Its headers are missing or contradict its body, or the body is no event.
    pub fn read(pulled: &Pulled) -> Result<Self, Poison> {
        Self::from_parts(pulled.stream_seq, &pulled.payload, |name| {
            pulled.header(name)
        })
    }

    fn from_parts<'h>(
        seq: u64,
        payload: &Bytes,
        header: impl Fn(&'static str) -> Option<&'h str>,
    ) -> Result<Self, Poison> {
        let needed = |name| header(name).ok_or_else(|| Poison::new("missing_header", name));
        let unreadable = |name: &'static str| Poison::new("bad_header", name);
        let id = needed(headers::EVENT_ID)?.to_owned();
        let workspace = Uuid::try_parse(needed(headers::WORKSPACE)?)
            .map_err(|_| unreadable(headers::WORKSPACE))?;
        let accepted_at = needed(headers::ACCEPTED_AT)?
            .parse()
            .map_err(|_| unreadable(headers::ACCEPTED_AT))?;
        let parsed = parse_accepted_event(payload, &EventLimits::DEFAULT)
            .map_err(|rejection| Poison::new("poison", rejection.to_string()))?;
        if parsed.workspace_id != workspace {
            return Err(Poison::new(
                "tenant_mismatch",
                "header and body name different workspaces",
            ));
        }
        let traceparent = header(headers::TRACEPARENT).unwrap_or_default().to_owned();
        let hop = header(headers::HOP)
            .map(|text| Hop::parse(text).map_err(|_| unreadable(headers::HOP)))
            .transpose()?
            .unwrap_or_default();
        let first = header(headers::AGAIN)
            .map(|text| text.parse().map_err(|_| unreadable(headers::AGAIN)))
            .transpose()?;
        Ok(Self {
            seq: first.unwrap_or(seq),
            again: first.is_some(),
            id,
            workspace,
            accepted_at,
            traceparent,
            hop,
            parsed,
            payload: payload.clone(),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const WORKSPACE: Uuid = Uuid::from_u128(0xa39d);
    pub(crate) const LINK: Uuid = Uuid::from_u128(0xa333);

    pub(crate) fn payload(workspace: Uuid) -> Bytes {
        let text = format!(
            r#"{{"event":{{"id":"visit","workspaceId":"{workspace}","linkId":"{LINK}","action":"ACTION_SCAN"}},"workflowStep":{{"id":"step","kind":"KIND_EXIT","payload":{{"n":1e5}}}},"timestamp":"2025-10-10T16:12:28.161007Z","type":"step.completed","lbid":"2VqK"}}"#
        );
        text.into_bytes().into()
    }

    fn read(
        changed: &'static str,
        value: Option<&'static str>,
        payload: &Bytes,
    ) -> Result<AcceptedEvent, Poison> {
        let workspace = WORKSPACE.to_string();
        AcceptedEvent::from_parts(7, payload, |name| match name {
            _ if name == changed => value,
            headers::EVENT_ID => Some("e1"),
            headers::WORKSPACE => Some(workspace.as_str()),
            headers::ACCEPTED_AT => Some("1760112750000000"),
            _ => None,
        })
    }

    pub(crate) fn event() -> AcceptedEvent {
        read("", None, &payload(WORKSPACE)).unwrap()
    }

    #[test]
    fn what_ingest_wrote_is_read() {
        let event = event();
        assert_eq!(
            (event.seq, &*event.id, event.workspace),
            (7, "e1", WORKSPACE)
        );
        assert_eq!(event.accepted_at, 1_760_112_750_000_000);
        assert_eq!(event.parsed.step_kind, "KIND_EXIT");
        assert_eq!(event.hop, Hop::default());
        let passed_on = read(headers::HOP, Some("1"), &payload(WORKSPACE)).unwrap();
        assert_eq!(passed_on.hop, Hop::of(1));
    }

    #[test]
    fn what_an_earlier_release_accepted_is_still_delivered() {
        let old = String::from_utf8(payload(WORKSPACE).to_vec()).unwrap();
        let foreign = format!(r#""link":{{"workspaceId":"{LINK}"}},"device":5,"action""#);
        let old = old.replace(r#""action""#, &foreign);
        assert_eq!(
            read("", None, &old.into_bytes().into())
                .unwrap()
                .parsed
                .workspace_id,
            WORKSPACE
        );
    }

    #[test]
    fn what_ingest_never_wrote_is_poison() {
        let good = payload(WORKSPACE);
        let reason =
            |changed, value, payload: &Bytes| read(changed, value, payload).unwrap_err().reason;
        assert_eq!(reason(headers::EVENT_ID, None, &good), "missing_header");
        assert_eq!(reason(headers::WORKSPACE, Some("x"), &good), "bad_header");
        assert_eq!(
            reason(headers::ACCEPTED_AT, Some("soon"), &good),
            "bad_header"
        );
        assert_eq!(reason(headers::HOP, Some("x"), &good), "bad_header");
        assert_eq!(reason("", None, &payload(LINK)), "tenant_mismatch");
        assert_eq!(reason("", None, &Bytes::from_static(b"{}")), "poison");
    }
}
