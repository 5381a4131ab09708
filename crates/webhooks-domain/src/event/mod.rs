//! Events: what publishers may send, and what of it customers receive.
//!
//! Payload bytes are never turned into a tree and back: a tree reorders keys and rewrites numbers,
//! and customers sign for bytes. So this module owns one small RFC 8259 scanner `scan` that
//! walks the text once and hands out spans of it. Two walks stand on it:
//!
//! * [`parse_event_of`] (at ingest) checks everything and extracts the few fields the system routes
//!   by; it reports every problem of an event at once, each with its field;
//! * [`render()`] (at fan-out) copies the spans a [`Profile`] allows, in the order the contract
//!   fixes, and leaves a hole where the `webhook` object goes; [`render_snapshot`] fills it.
//!
//! What is allowed is one static table (`schema`), a transcript of the sanitising policy: an
//! allow-list by exact path that fails closed, so a field that somebody adds upstream is dropped
//! and counted until a person has looked at it. Names that must never leave (`deny`) are a
//! second net under the subtrees whose content is the publisher's own.
//!
//! Not guaranteed here: that an id is new, that a workspace exists, that a publisher may speak
//! for it. Those need state, and live with the services.

mod deny;
mod identity;
mod json_text;
mod parse;
mod path;
mod problem;
mod profile;
mod render;
mod scan;
mod schema;
mod sink;
mod snapshot;
pub mod time;

pub use identity::{EVENT_ID_MAX_BYTES, EVENT_ID_NAMESPACE, event_identity};
pub use parse::{
    EVENT_TYPE_STEP_COMPLETED, EventLimits, ParsedEvent, parse_accepted_event, parse_event,
    parse_event_of,
};
pub use problem::{EventRejection, FieldProblem, MAX_PROBLEMS, ROOT_FIELD, reason};
pub use profile::{Profile, UnknownProfile};
pub use render::{
    DropReason, DroppedPath, MAX_DROPPED_PATHS, RENDERER_VERSION, RenderError, Rendition, render,
};
pub use scan::{DEPTH_CEILING, ScanError, ScanErrorKind};
pub use snapshot::{DEFAULT_SOURCE, DEFAULT_TRIGGER, WebhookSnapshot, render_snapshot};
pub use time::{format_micros, parse_rfc3339_micros};
