//! The `webhook` object of a delivered body: the webhook's state as fan-out saw it.
//!
//! Written from typed values, never copied from a publisher. Keys and their order are the
//! sample's; zero, empty and default values are left out, as there.

use uuid::Uuid;

use super::json_text::push_string;
use super::profile::Profile;
use super::schema;
use super::time::push_micros;

/// The source that is not shown: made in the dashboard, or by hand.
pub const DEFAULT_SOURCE: &str = "LINKBREAKERS";
/// A webhook whose only trigger is this one does not show its triggers.
pub const DEFAULT_TRIGGER: &str = "KIND_EXIT";

/// What a delivered body tells about its webhook. Times are microseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WebhookSnapshot<'a> {
    /// The webhook.
    pub id: Uuid,
    /// Its name.
    pub name: &'a str,
    /// Where it sends to; query, fragment and user info never leave.
    pub endpoint_url: &'a str,
    /// The status in its short form, e.g. `ACTIVE`.
    pub status: &'a str,
    /// Its workspace.
    pub workspace_id: Uuid,
    /// For a webhook bound to links: the event's link, which is one of them.
    pub link_id: Option<Uuid>,
    /// The member who made it, when known.
    pub created_by: Option<Uuid>,
    /// What made it, in the short form; [`DEFAULT_SOURCE`] is left out.
    pub source: &'a str,
    /// The kinds it fires for; empty (every kind) and [`DEFAULT_TRIGGER`] alone are left out.
    pub triggers: &'a [String],
    /// When it was made.
    pub created_at_micros: i64,
    /// When its configuration last changed.
    pub updated_at_micros: i64,
    /// When its last attempt was made, as of a few seconds ago.
    pub last_sent_at_micros: Option<i64>,
    /// When an attempt last succeeded, as of a few seconds ago.
    pub last_delivered_at_micros: Option<i64>,
    /// Deliveries that succeeded, as of a few seconds ago.
    pub success_count: u64,
    /// Deliveries that gave up, as of a few seconds ago.
    pub failure_count: u64,
}

/// The `webhook` object, minified, with what `profile` keeps. `updatedAt` is the later of the
/// last change and the last attempt: bookkeeping moves it, as in the sample.
#[must_use]
pub fn render_snapshot(snapshot: &WebhookSnapshot<'_>, profile: Profile) -> Vec<u8> {
    let mut object = Object::new(profile);
    object.uuid("id", Some(snapshot.id));
    object.text("name", snapshot.name);
    if object.key("endpointUrl") {
        push_string(&mut object.out, &public_part(snapshot.endpoint_url));
    }
    object.text("status", snapshot.status);
    object.uuid("workspaceId", Some(snapshot.workspace_id));
    object.uuid("linkId", snapshot.link_id);
    object.uuid("createdBy", snapshot.created_by);
    if snapshot.source != DEFAULT_SOURCE {
        object.text("source", snapshot.source);
    }
    let is_default = matches!(snapshot.triggers, [only] if only == DEFAULT_TRIGGER);
    if !is_default {
        object.texts("triggers", snapshot.triggers);
    }
    let updated_at = snapshot
        .last_sent_at_micros
        .max(Some(snapshot.updated_at_micros));
    object.time("createdAt", Some(snapshot.created_at_micros));
    object.time("updatedAt", updated_at);
    object.time("lastSentAt", snapshot.last_sent_at_micros);
    object.time("lastDeliveredAt", snapshot.last_delivered_at_micros);
    object.count("successCount", snapshot.success_count);
    object.count("failureCount", snapshot.failure_count);
    object.finish()
}

/// An object under construction: each method writes a member, unless the profile or an empty
/// value leaves it out.
struct Object {
    out: Vec<u8>,
    profile: Profile,
}

impl Object {
    fn new(profile: Profile) -> Self {
        let mut out = Vec::with_capacity(640);
        out.push(b'{');
        Self { out, profile }
    }

    /// Starts the member `name`; `false` when the profile does not keep it.
    fn key(&mut self, name: &str) -> bool {
        let kept = schema::webhook_keeps(name, self.profile);
        if kept {
            if self.out.len() > 1 {
                self.out.push(b',');
            }
            self.out.push(b'"');
            self.out.extend_from_slice(name.as_bytes());
            self.out.extend_from_slice(b"\":");
        }
        kept
    }

    fn text(&mut self, name: &str, value: &str) {
        if !value.is_empty() && self.key(name) {
            push_string(&mut self.out, value);
        }
    }

    fn texts(&mut self, name: &str, values: &[String]) {
        let Some((first, rest)) = values.split_first() else {
            return;
        };
        if self.key(name) {
            self.out.push(b'[');
            push_string(&mut self.out, first);
            for value in rest {
                self.out.push(b',');
                push_string(&mut self.out, value);
            }
            self.out.push(b']');
        }
    }

    fn uuid(&mut self, name: &str, value: Option<Uuid>) {
        if let Some(value) = value
            && self.key(name)
        {
            let mut buffer = Uuid::encode_buffer();
            let text = value.hyphenated().encode_lower(&mut buffer);
            push_string(&mut self.out, text);
        }
    }

    fn time(&mut self, name: &str, micros: Option<i64>) {
        if let Some(micros) = micros
            && self.key(name)
        {
            self.out.push(b'"');
            push_micros(&mut self.out, micros);
            self.out.push(b'"');
        }
    }

    fn count(&mut self, name: &str, value: u64) {
        if value != 0 && self.key(name) {
            self.out.extend_from_slice(value.to_string().as_bytes());
        }
    }

    fn finish(mut self) -> Vec<u8> {
        self.out.push(b'}');
        self.out
    }
}

/// A URL without what may be secret in it: user info, query and fragment. The rest is as stored.
fn public_part(url: &str) -> String {
    let end = url.find(['?', '#']).unwrap_or(url.len());
    let url = &url[..end];
    let authority = url.find("://").map_or(0, |at| at + 3);
    let authority_end = url[authority..]
        .find(['/', '\\'])
        .map_or(url.len(), |at| authority + at);
    match url[authority..authority_end].rfind('@') {
        Some(at) => [&url[..authority], &url[authority + at + 1..]].concat(),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests;
