//! Which webhooks an event fires, and why the others stay silent.
//!
//! [`verdict`] is the rule, whole and pure: one webhook, one event, one reason. [`WebhookIndex`]
//! only finds the webhooks for which asking is worth while: a webhook is filed under (workspace,
//! link or every link) and (kind or every kind), so an event looks into four drawers, whatever
//! the number of webhooks beside them. 100,000 webhooks in a workspace do not slow an event that
//! matches two.
//!
//! For one event the four drawers cannot hold the same webhook twice: a webhook that names links
//! is in no every-link drawer, one that names kinds in no every-kind drawer, and an event has one
//! link and one kind.
//!
//! Not guaranteed: that the index is current. Its keeper feeds it, and knows how far it got.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use uuid::Uuid;

use crate::{event::ParsedEvent, webhook::event_action_word};

/// A webhook fires for events accepted up to this long before its creation: two of our own
/// clocks may disagree by so much, and "created, then published" must hold for the customer.
pub const CREATION_GRACE_MICROS: i64 = 2_000_000;

/// A webhook fires for events whose own `timestamp` is up to this much older than it. Publishers'
/// clocks are not ours; what is older than this is history, which nobody gets unasked.
pub const TIMESTAMP_GRACE_MICROS: i64 = 5 * 60 * 1_000_000;

/// What a webhook's status makes of a matching event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Participation {
    /// A delivery that goes out.
    Deliver,
    /// A delivery that is held (paused, auto-disabled).
    Hold,
    /// No delivery (disabled).
    Ignore,
}

/// What matching needs to know of a webhook. The answers must not change while it is in an index;
/// a change is a new value, and an [`WebhookIndex::upsert`].
pub trait Subscription {
    /// Its id, the same over all its revisions.
    fn id(&self) -> Uuid;
    /// The workspace whose events it may see.
    fn workspace_id(&self) -> Uuid;
    /// The links it is bound to; empty means the whole workspace.
    fn link_ids(&self) -> &[Uuid];
    /// The step kinds it fires for; empty means every kind.
    fn triggers(&self) -> &[String];
    /// The event actions it fires for, in the short form (`CLIENT_REDIRECT`); empty means every
    /// action. They are asked one by one, not indexed: they only narrow what the kinds let through.
    fn event_actions(&self) -> &[String];
    /// When it was created, in microseconds since the epoch.
    fn created_at_micros(&self) -> i64;
    /// What its status says.
    fn participation(&self) -> Participation;
}

/// What matching needs to know of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventFacts<'a> {
    /// Its workspace.
    pub workspace_id: Uuid,
    /// Its link.
    pub link_id: Uuid,
    /// The completed step's kind, an open enum.
    pub step_kind: &'a str,
    /// What completed the step, an open enum, in the short or the long form; empty = not told.
    pub event_action: &'a str,
    /// When ingest accepted it, in microseconds since the epoch, by our clock.
    pub accepted_at_micros: i64,
    /// When it says it happened, in microseconds since the epoch, by the publisher's clock.
    pub timestamp_micros: i64,
}

impl<'a> EventFacts<'a> {
    /// The facts of an event that was accepted at `accepted_at_micros`.
    #[must_use]
    pub fn of(event: &'a ParsedEvent, accepted_at_micros: i64) -> Self {
        Self {
            workspace_id: event.workspace_id,
            link_id: event.link_id,
            step_kind: &event.step_kind,
            event_action: event.event_action.as_deref().unwrap_or_default(),
            accepted_at_micros,
            timestamp_micros: event.timestamp_micros,
        }
    }
}

/// Why a webhook did or did not fire. The order is the order of asking: the first that applies
/// is the reason given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VerdictReason {
    /// The event belongs to another workspace.
    OtherWorkspace,
    /// It is bound to other links.
    OtherLink,
    /// It fires for other step kinds.
    OtherKind,
    /// It fires for other event actions.
    OtherAction,
    /// Its status makes no deliveries.
    Disabled,
    /// The event had been accepted before it was created.
    AcceptedBeforeCreation,
    /// The event's own time lies too far before its creation.
    HappenedBeforeCreation,
    /// It fires, and the delivery is held.
    Held,
    /// It fires.
    Fires,
}

impl VerdictReason {
    /// Whether there is a delivery.
    #[must_use]
    pub const fn fires(self) -> bool {
        matches!(self, Self::Fires | Self::Held)
    }

    /// A word for people, logs and the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OtherWorkspace => "other_workspace",
            Self::OtherLink => "other_link",
            Self::OtherKind => "other_kind",
            Self::OtherAction => "other_action",
            Self::Disabled => "disabled",
            Self::AcceptedBeforeCreation => "accepted_before_creation",
            Self::HappenedBeforeCreation => "happened_before_creation",
            Self::Held => "held",
            Self::Fires => "fires",
        }
    }
}

/// The rule: does this webhook fire for this event, and why (not)?
#[must_use]
pub fn verdict<T: Subscription + ?Sized>(webhook: &T, event: &EventFacts<'_>) -> VerdictReason {
    let links = webhook.link_ids();
    let kinds = webhook.triggers();
    let actions = webhook.event_actions();
    let action = event_action_word(event.event_action);
    let created_at = webhook.created_at_micros();
    let accepted_by = event
        .accepted_at_micros
        .saturating_add(CREATION_GRACE_MICROS);
    let happened_by = event
        .timestamp_micros
        .saturating_add(TIMESTAMP_GRACE_MICROS);
    if webhook.workspace_id() != event.workspace_id {
        VerdictReason::OtherWorkspace
    } else if !links.is_empty() && !links.contains(&event.link_id) {
        VerdictReason::OtherLink
    } else if !kinds.is_empty() && !kinds.iter().any(|kind| kind == event.step_kind) {
        VerdictReason::OtherKind
    } else if !actions.is_empty() && !actions.iter().any(|word| word == action) {
        VerdictReason::OtherAction
    } else if webhook.participation() == Participation::Ignore {
        VerdictReason::Disabled
    } else if accepted_by < created_at {
        VerdictReason::AcceptedBeforeCreation
    } else if happened_by < created_at {
        VerdictReason::HappenedBeforeCreation
    } else if webhook.participation() == Participation::Hold {
        VerdictReason::Held
    } else {
        VerdictReason::Fires
    }
}

/// A webhook that fires for an event.
#[derive(Debug)]
pub struct Match<T> {
    /// The webhook, as it was in the index.
    pub webhook: Arc<T>,
    /// What becomes of the delivery: [`Participation::Deliver`] or [`Participation::Hold`].
    pub participation: Participation,
}

impl<T> Clone for Match<T> {
    fn clone(&self) -> Self {
        Self {
            webhook: Arc::clone(&self.webhook),
            participation: self.participation,
        }
    }
}

type ById<T> = BTreeMap<Uuid, Arc<T>>;

/// The webhooks of one (workspace, link or every link), by kind.
#[derive(Debug)]
struct Drawer<T> {
    every_kind: ById<T>,
    by_kind: HashMap<Box<str>, ById<T>>,
}

impl<T> Default for Drawer<T> {
    fn default() -> Self {
        Self {
            every_kind: BTreeMap::new(),
            by_kind: HashMap::new(),
        }
    }
}

/// All webhooks, in memory, found by what an event says. It grows with the webhooks it is given
/// and their links and kinds; how many there may be is a matter of plans, not of this index.
#[derive(Debug)]
pub struct WebhookIndex<T> {
    by_id: HashMap<Uuid, Arc<T>>,
    by_workspace: HashMap<Uuid, ById<T>>,
    /// Webhooks that can fire; a disabled one is in no drawer.
    drawers: HashMap<(Uuid, Option<Uuid>), Drawer<T>>,
}

impl<T> Default for WebhookIndex<T> {
    fn default() -> Self {
        Self {
            by_id: HashMap::new(),
            by_workspace: HashMap::new(),
            drawers: HashMap::new(),
        }
    }
}

impl<T: Subscription> WebhookIndex<T> {
    /// An empty index.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many webhooks it holds, whatever their status.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// The webhook with this id.
    #[must_use]
    pub fn get(&self, id: Uuid) -> Option<&Arc<T>> {
        self.by_id.get(&id)
    }

    /// Puts a webhook in, in place of its former revision; that revision is returned.
    pub fn upsert(&mut self, webhook: Arc<T>) -> Option<Arc<T>> {
        let id = webhook.id();
        let former = self.remove(id);
        self.by_workspace
            .entry(webhook.workspace_id())
            .or_default()
            .insert(id, Arc::clone(&webhook));
        if webhook.participation() != Participation::Ignore {
            for key in drawer_keys(&*webhook) {
                let drawer = self.drawers.entry(key).or_default();
                if webhook.triggers().is_empty() {
                    drawer.every_kind.insert(id, Arc::clone(&webhook));
                }
                for kind in webhook.triggers() {
                    let of_kind = drawer.by_kind.entry(kind.as_str().into()).or_default();
                    of_kind.insert(id, Arc::clone(&webhook));
                }
            }
        }
        self.by_id.insert(id, webhook);
        former
    }

    /// Takes a webhook out; it is returned when it was there.
    pub fn remove(&mut self, id: Uuid) -> Option<Arc<T>> {
        let webhook = self.by_id.remove(&id)?;
        let workspace = webhook.workspace_id();
        if let Some(webhooks) = self.by_workspace.get_mut(&workspace) {
            webhooks.remove(&id);
            if webhooks.is_empty() {
                self.by_workspace.remove(&workspace);
            }
        }
        for key in drawer_keys(&*webhook) {
            let Some(drawer) = self.drawers.get_mut(&key) else {
                continue;
            };
            drawer.every_kind.remove(&id);
            for kind in webhook.triggers() {
                if let Some(of_kind) = drawer.by_kind.get_mut(kind.as_str()) {
                    of_kind.remove(&id);
                    if of_kind.is_empty() {
                        drawer.by_kind.remove(kind.as_str());
                    }
                }
            }
            if drawer.every_kind.is_empty() && drawer.by_kind.is_empty() {
                self.drawers.remove(&key);
            }
        }
        Some(webhook)
    }

    /// The webhooks that fire for an event, in the order of their ids.
    #[must_use]
    pub fn matches(&self, event: &EventFacts<'_>) -> Vec<Match<T>> {
        let mut matches: Vec<(Uuid, Match<T>)> = Vec::new();
        for link in [Some(event.link_id), None] {
            let Some(drawer) = self.drawers.get(&(event.workspace_id, link)) else {
                continue;
            };
            let of_kind = drawer.by_kind.get(event.step_kind);
            for (id, webhook) in of_kind.into_iter().chain([&drawer.every_kind]).flatten() {
                let participation = match verdict(&**webhook, event) {
                    VerdictReason::Fires => Participation::Deliver,
                    VerdictReason::Held => Participation::Hold,
                    _ => continue,
                };
                let webhook = Arc::clone(webhook);
                matches.push((
                    *id,
                    Match {
                        webhook,
                        participation,
                    },
                ));
            }
        }
        matches.sort_unstable_by_key(|(id, _)| *id);
        matches.into_iter().map(|(_, found)| found).collect()
    }

    /// The verdict on every webhook of `workspace`, in the order of their ids. It costs as much
    /// as there are webhooks: for a person who asks, not for every event.
    #[must_use]
    pub fn explain(&self, event: &EventFacts<'_>, workspace: Uuid) -> Vec<(Arc<T>, VerdictReason)> {
        self.workspace(workspace)
            .map(|webhook| (Arc::clone(webhook), verdict(&**webhook, event)))
            .collect()
    }

    /// The webhooks of a workspace, in the order of their ids.
    pub fn workspace(&self, workspace: Uuid) -> impl Iterator<Item = &Arc<T>> {
        let webhooks = self.by_workspace.get(&workspace);
        webhooks.into_iter().flat_map(BTreeMap::values)
    }
}

/// The drawers a webhook belongs into: one for each link, or the one for every link.
fn drawer_keys<T: Subscription>(webhook: &T) -> impl Iterator<Item = (Uuid, Option<Uuid>)> {
    let workspace = webhook.workspace_id();
    let links = webhook.link_ids();
    let every = links.is_empty().then_some((workspace, None));
    every
        .into_iter()
        .chain(links.iter().map(move |link| (workspace, Some(*link))))
}

#[cfg(test)]
mod tests;
