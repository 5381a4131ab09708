//! Drawing up a verdict: which webhooks an event matched, and what each delivery is made of.
//!
//! A verdict is computed once and then only read. Whatever fan-out does after a crash, it does
//! from the recorded one, so that a webhook that was renamed in between does not give one delivery
//! id two bodies.

use webhooks_domain::{
    event::{Profile, RENDERER_VERSION, RenderError, WebhookSnapshot, render, render_snapshot},
    ids,
    matching::{Match as Matched, Participation},
};
use webhooks_proto::internal::v1::{Match, Rendition, Verdict, WebhookStats};

use crate::{event::AcceptedEvent, index::Subscriber};

/// Most matches in one part of a verdict.
pub const PART_MAX_MATCHES: usize = 256;

/// A part is closed when its renditions and snapshots reach so many bytes. With the largest event
/// in two profiles (512 KiB) there is still room; the stream takes 1,000,000.
pub const PART_MAX_BYTES: usize = 768 * 1024;

/// Bytes of a match beside its snapshot: two ids, tags and lengths.
const MATCH_OVERHEAD: usize = 48;

/// What drawing up gave: the parts in order (at least one), and how much was left out of the event.
#[derive(Debug, Clone, PartialEq)]
pub struct DrawnUp {
    /// The parts, from part 0, which holds the renditions.
    pub parts: Vec<Verdict>,
    /// Values that the sanitiser dropped in the standard rendition because nobody knows them.
    pub dropped: u32,
}

/// Draws up the verdict on `event`. `stats` gives the counters of a webhook, if any are known.
///
/// # Errors
/// Only for bytes that are no event.
pub fn draw_up(
    event: &AcceptedEvent,
    matches: &[Matched<Subscriber>],
    stats: impl Fn(&Subscriber) -> Option<WebhookStats>,
) -> Result<DrawnUp, RenderError> {
    let profiles = profiles_of(matches);
    let mut dropped = 0;
    let mut renditions = Vec::with_capacity(profiles.len());
    for profile in &profiles {
        let rendered = render(&event.payload, *profile)?;
        dropped = dropped.max(rendered.dropped);
        renditions.push(Rendition {
            profile: profile.as_str().to_owned(),
            head: rendered.head.into(),
            tail: rendered.tail.into(),
        });
    }
    let mut bytes: usize = renditions
        .iter()
        .map(|one| one.head.len() + one.tail.len())
        .sum();
    let head = Verdict {
        renditions,
        ..header(event)
    };
    let mut parts = vec![head];
    for found in matches {
        let one = match_of(event, found, &profiles, stats(&found.webhook).as_ref());
        let size = one.snapshot.len() + MATCH_OVERHEAD;
        let last = parts
            .last_mut()
            .expect("the first part is there from the beginning");
        if last.matches.len() < PART_MAX_MATCHES && bytes + size <= PART_MAX_BYTES {
            bytes += size;
            last.matches.push(one);
        } else {
            bytes = size;
            parts.push(Verdict {
                matches: vec![one],
                ..header(event)
            });
        }
    }
    let count = u32::try_from(parts.len()).unwrap_or(u32::MAX);
    for (number, part) in (0..).zip(&mut parts) {
        part.part = number;
        part.parts = count;
    }
    Ok(DrawnUp { parts, dropped })
}

/// The profiles in use, `standard` first: people are shown that one even if nothing matched.
fn profiles_of(matches: &[Matched<Subscriber>]) -> Vec<Profile> {
    let mut profiles = vec![Profile::Standard];
    for profile in Profile::ALL {
        let used = matches.iter().any(|found| found.webhook.profile == profile);
        if used && !profiles.contains(&profile) {
            profiles.push(profile);
        }
    }
    profiles
}

/// What every part says of the event.
fn header(event: &AcceptedEvent) -> Verdict {
    Verdict {
        event_seq: event.seq,
        event_id: event.id.clone(),
        workspace_id: event.workspace.as_bytes().to_vec().into(),
        link_id: event.parsed.link_id.as_bytes().to_vec().into(),
        lbid: event.parsed.lbid.clone(),
        event_type: event.parsed.event_type.to_owned(),
        step_kind: event.parsed.step_kind.clone(),
        event_action: event.parsed.event_action.clone().unwrap_or_default(),
        accepted_at: event.accepted_at,
        event_timestamp: event.parsed.timestamp_micros,
        renderer_version: RENDERER_VERSION,
        traceparent: event.traceparent.clone(),
        ..Verdict::default()
    }
}

fn match_of(
    event: &AcceptedEvent,
    found: &Matched<Subscriber>,
    profiles: &[Profile],
    stats: Option<&WebhookStats>,
) -> Match {
    let webhook = &found.webhook;
    let delivery = ids::delivery_id(event.workspace, &event.id, webhook.id, event.accepted_at);
    let rendition = profiles
        .iter()
        .position(|profile| *profile == webhook.profile)
        .unwrap_or(0);
    Match {
        webhook_id: webhook.id.as_bytes().to_vec().into(),
        delivery_id: delivery.as_bytes().to_vec().into(),
        snapshot: render_snapshot(&snapshot(event, webhook, stats), webhook.profile).into(),
        rendition: u32::try_from(rendition).unwrap_or(0),
        held: found.participation == Participation::Hold,
    }
}

fn snapshot<'w>(
    event: &AcceptedEvent,
    webhook: &'w Subscriber,
    stats: Option<&WebhookStats>,
) -> WebhookSnapshot<'w> {
    let known = |at: i64| (at != 0).then_some(at);
    let count = |count: i64| u64::try_from(count).unwrap_or(0);
    WebhookSnapshot {
        id: webhook.id,
        name: &webhook.name,
        endpoint_url: &webhook.endpoint_url,
        status: webhook.status_word(),
        workspace_id: webhook.workspace_id,
        link_id: (!webhook.link_ids.is_empty()).then_some(event.parsed.link_id),
        created_by: webhook.created_by,
        source: &webhook.source,
        triggers: &webhook.triggers,
        created_at_micros: webhook.created_at,
        updated_at_micros: webhook.updated_at,
        last_sent_at_micros: stats.and_then(|stats| known(stats.last_sent_at)),
        last_delivered_at_micros: stats.and_then(|stats| known(stats.last_delivered_at)),
        success_count: stats.map_or(0, |stats| count(stats.success_count)),
        failure_count: stats.map_or(0, |stats| count(stats.failure_count)),
    }
}

#[cfg(test)]
mod tests;
