//! Sanitising and rendering an event: its bytes in, the delivered body around the webhook out.
//!
//! The body is rendered once per event and profile, not once per webhook: `head`, then the
//! webhook's snapshot, then `tail`. Kept values are spans of the publisher's text, token by token
//! (numbers, escapes and member order as they came); the whitespace between tokens goes, except
//! inside open subtrees, which pass byte for byte. The order at the top is the contract's,
//! whatever the publisher's was.
//!
//! What a profile leaves out is its wish and counts for nothing. What *no* profile knows, what
//! has the wrong type, and what has a denied name is dropped and counted, so that a field added
//! upstream is seen. Values are never reported, only paths.

mod values;

use super::path::Path;
use super::profile::Profile;
use super::scan::{DEPTH_CEILING, Kind, ScanError, Scanner};
use super::schema::{self, Member, Shape, Slot};
use super::sink::Sink;

/// The version of the rendering rules; it changes when the bytes for one and the same event do.
pub const RENDERER_VERSION: u32 = 1;

/// Most dropped paths that a [`Rendition`] names; all are counted.
pub const MAX_DROPPED_PATHS: usize = 8;

/// A rendered event with a hole where the `webhook` object goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendition {
    /// The body up to the value of `webhook`.
    pub head: Vec<u8>,
    /// The body after it.
    pub tail: Vec<u8>,
    /// How many values were dropped that nobody asked to leave out.
    pub dropped: u32,
    /// How many of them because of their name alone.
    pub denied: u32,
    /// Where the first [`MAX_DROPPED_PATHS`] of them stood.
    pub dropped_paths: Vec<DroppedPath>,
}

impl Rendition {
    /// The delivered body, with `snapshot` (see [`super::render_snapshot`]) in its place.
    #[must_use]
    pub fn join(&self, snapshot: &[u8]) -> Vec<u8> {
        [&self.head[..], snapshot, &self.tail].concat()
    }
}

/// A value that was dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DroppedPath {
    /// Dotted path, cut when very long. Names in it may be the publisher's: fit for a log, not
    /// for a metric's label.
    pub path: String,
    /// Why.
    pub reason: DropReason,
}

/// Why a value was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// The policy does not know the path.
    UnknownPath,
    /// The policy expects another JSON type there.
    WrongType,
    /// Its name must never leave.
    DeniedName,
}

impl DropReason {
    /// A word for logs and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnknownPath => "unknown_path",
            Self::WrongType => "wrong_type",
            Self::DeniedName => "denied_name",
        }
    }
}

/// Bytes that cannot be rendered. Never met by an event that [`super::parse_accepted_event`] takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// The bytes are not UTF-8.
    #[error("the event is not UTF-8")]
    NotUtf8,
    /// The text is not JSON.
    #[error("the event is not JSON")]
    NotJson(#[from] ScanError),
    /// A top-level member that every event has is absent, there twice or of another type.
    #[error("the event has no usable {0}")]
    NotAnEvent(&'static str),
}

/// Renders an event for `profile`.
///
/// # Errors
/// Only for bytes that [`super::parse_accepted_event`] would refuse.
pub fn render(bytes: &[u8], profile: Profile) -> Result<Rendition, RenderError> {
    let text = std::str::from_utf8(bytes).map_err(|_| RenderError::NotUtf8)?;
    let mut head = Sink::new(bytes, bytes.len());
    let mut tail = Sink::new(bytes, bytes.len() / 2);
    head.literal(b"{\"event\":");
    tail.literal(b",\"workflowStep\":");
    let mut renderer = Renderer {
        scanner: Scanner::new(text, DEPTH_CEILING),
        profile,
        dropped: 0,
        denied: 0,
        dropped_paths: Vec::new(),
    };
    let spans = renderer.document(&mut head, &mut tail)?;
    head.literal(b",\"webhook\":");
    for slot in REQUIRED {
        if spans[slot as usize].is_none() {
            return Err(RenderError::NotAnEvent(name_of(slot)));
        }
    }
    for slot in AFTER_STEP {
        if let Some((start, end)) = spans[slot as usize] {
            tail.literal(b",\"");
            tail.literal(name_of(slot).as_bytes());
            tail.literal(b"\":");
            tail.span(start, end);
        }
    }
    tail.literal(b"}");
    Ok(Rendition {
        head: head.into_bytes(),
        tail: tail.into_bytes(),
        dropped: renderer.dropped,
        denied: renderer.denied,
        dropped_paths: renderer.dropped_paths,
    })
}

/// What every event has.
const REQUIRED: [Slot; 5] = [
    Slot::Event,
    Slot::WorkflowStep,
    Slot::Timestamp,
    Slot::Type,
    Slot::Lbid,
];

/// The members after `workflowStep`, in the contract's order.
const AFTER_STEP: [Slot; 4] = [
    Slot::Timestamp,
    Slot::Type,
    Slot::Lbid,
    Slot::CustomAttributes,
];

/// The name of a member of the top level.
fn name_of(slot: Slot) -> &'static str {
    schema::ROOT
        .iter()
        .find(|member| member.slot == slot)
        .map_or("member", |member| member.name)
}

/// Start and end of a value in the event's bytes.
type Span = (usize, usize);

struct Renderer<'a> {
    scanner: Scanner<'a>,
    profile: Profile,
    dropped: u32,
    denied: u32,
    dropped_paths: Vec<DroppedPath>,
}

impl Renderer<'_> {
    /// Walks the top level and renders `event` and `workflowStep` as they come. The spans of the
    /// members that were usable.
    fn document(
        &mut self,
        head: &mut Sink<'_>,
        tail: &mut Sink<'_>,
    ) -> Result<[Option<Span>; Slot::COUNT], RenderError> {
        let mut spans = [None; Slot::COUNT];
        if self.scanner.kind()? != Kind::Object {
            return Err(RenderError::NotAnEvent("members"));
        }
        self.scanner.enter()?;
        let mut hint = 0;
        let mut more = self.scanner.first(b'}')?;
        while more {
            let token = self.scanner.name()?;
            let name = self.scanner.decoded(token);
            let path = Path::ROOT.member(&name);
            if let Some(index) = schema::find(&schema::ROOT, &name, hint) {
                hint = index + 1;
                let member = &schema::ROOT[index];
                if spans[member.slot as usize].is_some() {
                    return Err(RenderError::NotAnEvent(member.name));
                }
                spans[member.slot as usize] = self.top(member, &path, head, tail)?;
            } else {
                self.drop_next(&path, DropReason::UnknownPath)?;
            }
            more = self.scanner.next(b'}')?;
        }
        self.scanner.finish()?;
        Ok(spans)
    }

    /// One known member of the top level: its span, when it is of use.
    fn top(
        &mut self,
        member: &'static Member,
        path: &Path<'_>,
        head: &mut Sink<'_>,
        tail: &mut Sink<'_>,
    ) -> Result<Option<Span>, ScanError> {
        let kind = self.scanner.kind()?;
        let start = self.scanner.position();
        let usable = match (member.slot, member.shape, kind) {
            (Slot::Event, Shape::Object(members), Kind::Object) => {
                self.object(members, path, head)?;
                true
            }
            (Slot::WorkflowStep, Shape::Object(members), Kind::Object) => {
                self.object(members, path, tail)?;
                true
            }
            (Slot::Timestamp | Slot::Type | Slot::Lbid, _, Kind::String)
            | (Slot::CustomAttributes, _, Kind::Object | Kind::Null) => {
                self.scanner.skip()?;
                member.kept.contains(self.profile)
            }
            _ => {
                self.scanner.skip()?;
                false
            }
        };
        Ok(usable.then(|| (start, self.scanner.position())))
    }

    /// Drops the next value, and counts it.
    fn drop_next(&mut self, path: &Path<'_>, reason: DropReason) -> Result<(), ScanError> {
        self.scanner.skip()?;
        self.count_dropped(path, reason);
        Ok(())
    }

    fn count_dropped(&mut self, path: &Path<'_>, reason: DropReason) {
        self.dropped = self.dropped.saturating_add(1);
        if reason == DropReason::DeniedName {
            self.denied = self.denied.saturating_add(1);
        }
        if self.dropped_paths.len() < MAX_DROPPED_PATHS {
            self.dropped_paths.push(DroppedPath {
                path: path.dotted(),
                reason,
            });
        }
    }
}

#[cfg(test)]
mod tests;
