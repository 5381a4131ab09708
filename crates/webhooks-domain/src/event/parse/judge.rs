//! Judging the fields that the walk found, in the contract's order.

use std::borrow::Cow;

use uuid::Uuid;

use super::super::identity::check_id;
use super::super::problem::{EventRejection, reason};
use super::super::scan::Kind;
use super::super::schema::{NESTED_WORKSPACES, Slot};
use super::super::time::parse_rfc3339_micros;
use super::{EVENT_TYPE_STEP_COMPLETED, Found, ParsedEvent, Walk};

impl<'a> Walk<'a> {
    /// The event, or everything that is wrong with it.
    pub(super) fn judge(mut self) -> Result<ParsedEvent, EventRejection> {
        let event = self.container(Slot::Event, "event");
        let source_event_id = self.text_in(event, Slot::EventId, "event.id");
        let workspace_id = self.workspace_in(event);
        let link_id = self.uuid_in(event, Slot::LinkId, "event.linkId");
        let step = self.container(Slot::WorkflowStep, "workflowStep");
        let step_id = self.text_in(step, Slot::StepId, "workflowStep.id");
        let step_kind = self.text_in(step, Slot::StepKind, "workflowStep.kind");
        let timestamp = self.timestamp();
        let event_type = self.event_type();
        let lbid = self.text_in(true, Slot::Lbid, "lbid");
        let id = self.publisher_id();
        if let Found::Other(kind @ (Kind::Array | Kind::String | Kind::Number | Kind::Boolean)) =
            self.found[Slot::CustomAttributes as usize]
        {
            self.wrong_type("customAttributes", "an object", kind);
        }
        let event_action = self.event_action();

        let all = (|| {
            let (timestamp_micros, timestamp_text) = timestamp?;
            Some(ParsedEvent {
                id,
                workspace_id: workspace_id?,
                link_id: link_id?,
                source_event_id: source_event_id?,
                step_id: step_id?,
                step_kind: step_kind?,
                event_action,
                timestamp_micros,
                timestamp_text,
                lbid: lbid?,
                event_type: event_type?,
            })
        })();
        match all {
            Some(event) if self.problems.is_empty() => Ok(event),
            _ => Err(self.problems.into_rejection()),
        }
    }

    /// Whether the fields of this object are worth asking for: not when it is no object.
    fn container(&mut self, slot: Slot, field: &str) -> bool {
        match self.found[slot as usize] {
            Found::Absent | Found::Other(Kind::Object) => true,
            Found::String(_) => {
                self.wrong_type(field, "an object", Kind::String);
                false
            }
            Found::Other(kind) => {
                self.wrong_type(field, "an object", kind);
                false
            }
        }
    }

    /// A required string.
    fn string(&mut self, slot: Slot, field: &str) -> Option<Cow<'a, str>> {
        match self.found[slot as usize] {
            Found::String(token) => return Some(self.scanner.decoded(token)),
            Found::Absent => self.problems.push(field, reason::MISSING, "is required"),
            Found::Other(kind) => self.wrong_type(field, "a string", kind),
        }
        None
    }

    /// A required string that becomes a column, a header or a label: bounded, and without
    /// control characters.
    fn text_in(&mut self, container: bool, slot: Slot, field: &str) -> Option<String> {
        let text = container.then(|| self.string(slot, field)).flatten()?;
        if text.is_empty() {
            self.problems
                .push(field, reason::EMPTY, "must not be empty");
        } else if text.len() > self.limits.text_bytes {
            let message = format!("has at most {} bytes", self.limits.text_bytes);
            self.problems.push(field, reason::TOO_LONG, message);
        } else if text.chars().any(char::is_control) {
            let message = "must not contain control characters";
            self.problems
                .push(field, reason::INVALID_CHARACTERS, message);
        } else {
            return Some(text.into_owned());
        }
        None
    }

    fn uuid_in(&mut self, container: bool, slot: Slot, field: &str) -> Option<Uuid> {
        let text = container.then(|| self.string(slot, field)).flatten()?;
        let uuid = hyphenated_uuid(&text);
        if uuid.is_none() {
            let message = "must be a UUID such as 0a2d9a3c-3f5a-483e-93e1-10b5bd04ac5b";
            self.problems.push(field, reason::NOT_UUID, message);
        }
        uuid
    }

    /// `event.workspaceId`, and whether the event names that workspace wherever it names one.
    fn workspace_in(&mut self, container: bool) -> Option<Uuid> {
        let field = "event.workspaceId";
        let workspace = self.uuid_in(container, Slot::WorkspaceId, field);
        let owner = self.owner.or(workspace);
        if let Some(workspace) = workspace {
            self.check_owner(field, workspace, owner);
        }
        if self.judges_optional {
            for (slot, field) in NESTED_WORKSPACES {
                // An empty one says nothing: some publishers write what has no value so.
                if let Found::String(text) = self.found[slot as usize]
                    && text.end - text.start > r#""""#.len()
                    && let Some(nested) = self.uuid_in(true, slot, field)
                {
                    self.check_owner(field, nested, owner);
                }
            }
        }
        workspace
    }

    fn check_owner(&mut self, field: &str, named: Uuid, owner: Option<Uuid>) {
        if owner.is_some_and(|owner| owner != named) {
            let message = "is another workspace than the event is published for";
            self.problems.push(field, reason::TENANT_MISMATCH, message);
        }
    }

    fn timestamp(&mut self) -> Option<(i64, String)> {
        let text = self.string(Slot::Timestamp, "timestamp")?;
        let micros = parse_rfc3339_micros(&text);
        if micros.is_none() {
            let message = "must be an RFC 3339 time such as 2025-10-10T16:12:28.161007Z";
            self.problems
                .push("timestamp", reason::INVALID_TIMESTAMP, message);
        }
        Some((micros?, text.into_owned()))
    }

    fn event_type(&mut self) -> Option<&'static str> {
        if self.string(Slot::Type, "type")? == EVENT_TYPE_STEP_COMPLETED {
            return Some(EVENT_TYPE_STEP_COMPLETED);
        }
        let message = format!("must be {EVENT_TYPE_STEP_COMPLETED}");
        self.problems.push("type", reason::UNKNOWN_TYPE, message);
        None
    }

    fn publisher_id(&mut self) -> Option<String> {
        match self.found[Slot::Id as usize] {
            Found::Absent | Found::Other(Kind::Null) => None,
            Found::Other(kind) => {
                self.wrong_type("id", "a string", kind);
                None
            }
            Found::String(token) => {
                let id = self.scanner.decoded(token);
                match check_id(&id) {
                    Ok(()) => Some(id.into_owned()),
                    Err((reason, message)) => {
                        self.problems.push("id", reason, message);
                        None
                    }
                }
            }
        }
    }

    fn event_action(&self) -> Option<String> {
        let Found::String(token) = self.found[Slot::EventAction as usize] else {
            return None;
        };
        let action = self.scanner.decoded(token);
        let usable = !action.is_empty()
            && action.len() <= self.limits.text_bytes
            && !action.chars().any(char::is_control);
        usable.then(|| action.into_owned())
    }
}

/// A UUID in its 36-character form, in either case; not braced, not simple, not a URN.
fn hyphenated_uuid(text: &str) -> Option<Uuid> {
    (text.len() == 36)
        .then(|| Uuid::try_parse(text).ok())
        .flatten()
}
