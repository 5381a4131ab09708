//! Reading an event at the edge: everything is checked here, so nothing inside checks again.
//!
//! One walk over the text checks the JSON, the depth and duplicate members, and notes where the
//! fields are that the system needs; the fields are then judged in the contract's order, so that
//! a publisher learns of every problem at once. Text that is not JSON, or nested too deeply, is
//! the exception: what follows the break has no meaning, so it is the only problem reported.
//!
//! Duplicate members are refused everywhere but in the open subtrees, because two parsers may
//! read two different events; names are compared as the characters they stand for.
//!
//! A known member of another JSON type is refused too, also one that may be absent: rendering
//! would drop it, and a customer would miss what its publisher believes was sent. `null` counts as
//! absent. What the policy does not know passes here and is dropped there. Every workspace that
//! would be delivered must be the one the event is published for.
//!
//! An event that lies on the stream already was accepted by the rules of its day, and a yes is not
//! taken back: [`parse_accepted_event`] leaves these last two rules out.

mod judge;

use std::borrow::Cow;

use uuid::Uuid;

use super::path::Path;
use super::problem::{EventRejection, Problems, ROOT_FIELD, reason};
use super::scan::{Kind, ScanError, ScanErrorKind, Scanner, Tally, Text};
use super::schema::{self, Member, Shape, Slot, Types};

/// The one event type there is.
pub const EVENT_TYPE_STEP_COMPLETED: &str = "step.completed";

/// Limits of one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventLimits {
    /// Bytes of the whole event.
    pub max_bytes: usize,
    /// Nested containers, the document itself included; at most [`super::DEPTH_CEILING`].
    pub max_depth: u32,
    /// Bytes of `customAttributes`, as sent.
    pub custom_attributes_bytes: usize,
    /// Members in `customAttributes`, over all its levels.
    pub custom_attributes_keys: usize,
    /// Nested containers in `customAttributes`, itself included.
    pub custom_attributes_depth: u32,
    /// Bytes of an id, a kind or an lbid.
    pub text_bytes: usize,
}

impl EventLimits {
    /// The contract's limits: 256 KiB, depth 64; custom attributes 64 KiB, 512 members, depth 16;
    /// 255 bytes for ids.
    pub const DEFAULT: Self = Self {
        max_bytes: 256 * 1024,
        max_depth: 64,
        custom_attributes_bytes: 64 * 1024,
        custom_attributes_keys: 512,
        custom_attributes_depth: 16,
        text_bytes: 255,
    };
}

impl Default for EventLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What the system needs to know of a valid event; all else stays in its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedEvent {
    /// The publisher's own event id, when the body has one: 1 to 255 visible ASCII characters.
    pub id: Option<String>,
    /// `event.workspaceId`.
    pub workspace_id: Uuid,
    /// `event.linkId`.
    pub link_id: Uuid,
    /// `event.id`: the visit. Several steps share it.
    pub source_event_id: String,
    /// `workflowStep.id`.
    pub step_id: String,
    /// `workflowStep.kind`, an open enum.
    pub step_kind: String,
    /// `workflowStep.eventAction`, an open enum; `None` when absent, empty or no short text.
    pub event_action: Option<String>,
    /// `timestamp` in microseconds since the epoch.
    pub timestamp_micros: i64,
    /// `timestamp` as it was written.
    pub timestamp_text: String,
    /// `lbid`.
    pub lbid: String,
    /// `type`: always [`EVENT_TYPE_STEP_COMPLETED`] so far.
    pub event_type: &'static str,
}

/// Checks an event and extracts what the system routes by. Whose event it is says the event
/// alone; where it names its workspace again it must be the same one.
///
/// # Errors
/// Every problem found, at most [`super::MAX_PROBLEMS`].
pub fn parse_event(bytes: &[u8], limits: &EventLimits) -> Result<ParsedEvent, EventRejection> {
    read(bytes, limits, true, None)
}

/// The same for an event that is published for `workspace`: every workspace it names must be
/// that one, `event.workspaceId` first of all.
///
/// # Errors
/// Every problem found, at most [`super::MAX_PROBLEMS`].
pub fn parse_event_of(
    bytes: &[u8],
    limits: &EventLimits,
    workspace: Uuid,
) -> Result<ParsedEvent, EventRejection> {
    read(bytes, limits, true, Some(workspace))
}

/// Extracts what the system routes by from an event that was accepted before, perhaps by a release
/// that asked less: types of optional members and the workspaces in them are not judged.
///
/// # Errors
/// Every problem found, at most [`super::MAX_PROBLEMS`].
pub fn parse_accepted_event(
    bytes: &[u8],
    limits: &EventLimits,
) -> Result<ParsedEvent, EventRejection> {
    read(bytes, limits, false, None)
}

fn read(
    bytes: &[u8],
    limits: &EventLimits,
    judges_optional: bool,
    owner: Option<Uuid>,
) -> Result<ParsedEvent, EventRejection> {
    if bytes.len() > limits.max_bytes {
        let message = format!("an event has at most {} bytes", limits.max_bytes);
        return Err(EventRejection::one(ROOT_FIELD, reason::TOO_LARGE, message));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let message = format!("not UTF-8 at byte {}", error.valid_up_to());
        EventRejection::one(ROOT_FIELD, reason::NOT_UTF8, message)
    })?;
    if text.starts_with('\u{feff}') {
        let message = "starts with a byte order mark";
        return Err(EventRejection::one(ROOT_FIELD, reason::NOT_JSON, message));
    }
    let mut walk = Walk {
        scanner: Scanner::new(text, limits.max_depth),
        limits,
        judges_optional,
        owner,
        found: [Found::Absent; Slot::COUNT],
        problems: Problems::default(),
    };
    let is_object = walk.document().map_err(|error| match error.kind {
        ScanErrorKind::TooDeep => {
            let message = format!("nested deeper than {} levels", limits.max_depth);
            EventRejection::one(ROOT_FIELD, reason::TOO_DEEP, message)
        }
        _ => EventRejection::one(ROOT_FIELD, reason::NOT_JSON, error.to_string()),
    })?;
    if is_object {
        walk.judge()
    } else {
        Err(walk.problems.into_rejection())
    }
}

/// What the walk found at a slot.
#[derive(Debug, Clone, Copy)]
enum Found {
    Absent,
    String(Text),
    Other(Kind),
}

struct Walk<'a> {
    scanner: Scanner<'a>,
    limits: &'a EventLimits,
    /// Whether optional members are judged too; never inside what a publisher says of a webhook.
    judges_optional: bool,
    /// The workspace that the event is published for, where the caller knows it.
    owner: Option<Uuid>,
    found: [Found; Slot::COUNT],
    problems: Problems,
}

impl<'a> Walk<'a> {
    /// Walks the whole text. Whether it is an object at all.
    fn document(&mut self) -> Result<bool, ScanError> {
        let kind = self.scanner.kind()?;
        if kind == Kind::Object {
            self.object(&schema::ROOT, &Path::ROOT)?;
        } else {
            self.wrong_type(ROOT_FIELD, "an object", kind);
            self.scanner.skip()?;
        }
        self.scanner.finish()?;
        Ok(kind == Kind::Object)
    }

    fn object(&mut self, members: &'static [Member], path: &Path<'_>) -> Result<(), ScanError> {
        self.scanner.enter()?;
        let mut seen = 0_u64;
        let mut unknown = Vec::new();
        let mut hint = 0;
        let mut more = self.scanner.first(b'}')?;
        while more {
            let token = self.scanner.name()?;
            let name = self.scanner.decoded(token);
            if let Some(index) = schema::find(members, &name, hint) {
                let member = &members[index];
                let here = path.member(member.name);
                if seen & (1 << index) != 0 {
                    self.duplicate(&here);
                }
                seen |= 1 << index;
                hint = index + 1;
                self.known(member, &here)?;
            } else {
                self.any(&path.member(&name))?;
                unknown.push(name);
            }
            more = self.scanner.next(b'}')?;
        }
        if unknown.len() > 1 {
            self.unknown_duplicates(unknown, path);
        }
        Ok(())
    }

    /// Sorting needs no hashing, so no publisher can choose names that collide.
    fn unknown_duplicates(&mut self, mut names: Vec<Cow<'a, str>>, path: &Path<'_>) {
        names.sort_unstable();
        for pair in names.windows(2) {
            if pair[0] == pair[1] {
                self.duplicate(&path.member(&pair[0]));
                if self.problems.is_full() {
                    return;
                }
            }
        }
    }

    fn duplicate(&mut self, path: &Path<'_>) {
        if !self.problems.is_full() {
            let message = "is there more than once";
            self.problems
                .push(&path.dotted(), reason::DUPLICATE_KEY, message);
        }
    }

    fn known(&mut self, member: &Member, path: &Path<'_>) -> Result<(), ScanError> {
        let kind = self.scanner.kind()?;
        if member.slot.is_typed_in_place() {
            self.check_type(path, member.shape.types(), kind);
        }
        let mut found = Found::Other(kind);
        match (member.shape, kind) {
            (Shape::Object(members), Kind::Object) => {
                let outside = self.judges_optional;
                self.judges_optional &= member.slot != Slot::Webhook;
                self.object(members, path)?;
                self.judges_optional = outside;
            }
            (Shape::List(types), Kind::Array) => self.array(path, Some(types))?,
            (Shape::Open(_) | Shape::Payload, _) => {
                let start = self.scanner.position();
                let tally = self.scanner.skip()?;
                if member.slot == Slot::CustomAttributes {
                    self.custom_attributes(self.scanner.position() - start, tally);
                }
            }
            (_, Kind::String) => found = Found::String(self.scanner.string()?),
            _ => self.any(path)?,
        }
        // Of a member that is there twice the first is judged; the second is a problem already.
        let place = &mut self.found[member.slot as usize];
        if let Found::Absent = place {
            *place = found;
        }
        Ok(())
    }

    /// Whether an optional value is of a type that it may have; says so when it is not.
    fn check_type(&mut self, path: &Path<'_>, types: Types, kind: Kind) -> bool {
        let fits = !self.judges_optional || types.admits(kind);
        if !fits && !self.problems.is_full() {
            self.wrong_type(&path.dotted(), types.expected(), kind);
        }
        fits
    }

    /// A value whose content nobody knows: duplicates are still refused.
    fn any(&mut self, path: &Path<'_>) -> Result<(), ScanError> {
        match self.scanner.kind()? {
            Kind::Object => self.object(&[], path),
            Kind::Array => self.array(path, None),
            scalar => self.scanner.scalar(scalar),
        }
    }

    /// An array, whose elements are of these types where they are known. One wrong element stands
    /// for all: they have one path.
    fn array(&mut self, path: &Path<'_>, types: Option<Types>) -> Result<(), ScanError> {
        self.scanner.enter()?;
        let element = path.member("[]");
        let mut unjudged = types;
        let mut more = self.scanner.first(b']')?;
        while more {
            if let Some(types) = unjudged {
                let kind = self.scanner.kind()?;
                if !self.check_type(&element, types, kind) {
                    unjudged = None;
                }
            }
            self.any(&element)?;
            more = self.scanner.next(b']')?;
        }
        Ok(())
    }

    fn custom_attributes(&mut self, bytes: usize, tally: Tally) {
        let limits = self.limits;
        let field = "customAttributes";
        if bytes > limits.custom_attributes_bytes {
            let message = format!("has at most {} bytes", limits.custom_attributes_bytes);
            self.problems.push(field, reason::TOO_LARGE, message);
        }
        if tally.members > limits.custom_attributes_keys {
            let message = format!("has at most {} members", limits.custom_attributes_keys);
            self.problems.push(field, reason::TOO_MANY_KEYS, message);
        }
        if tally.levels > limits.custom_attributes_depth {
            let depth = limits.custom_attributes_depth;
            let message = format!("is nested at most {depth} levels deep");
            self.problems.push(field, reason::TOO_DEEP, message);
        }
    }

    fn wrong_type(&mut self, field: &str, expected: &str, found: Kind) {
        let message = format!("must be {expected}, found {}", found.with_article());
        self.problems.push(field, reason::WRONG_TYPE, message);
    }
}

#[cfg(test)]
mod tests;
