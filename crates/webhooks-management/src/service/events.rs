//! Events, and why each webhook did or did not fire.
//!
//! What happened is told by the deliveries there are. For a webhook without one, the rule is asked
//! again, with the event's stored facts and the webhook as it was when the event was accepted: as the
//! row says if nothing was changed since, else as the audit log does. The answer says what it rests on,
//! and whether the webhook has been changed since the event.
//!
//! # What is not known
//! Fan-out judges by what it knows when it comes to the event, moments after the acceptance (longer
//! with a backlog), and the clocks of two processes may disagree. What was changed within that time
//! may have decided either way. It shows as `NOT_RECORDED` with `changed_since`, or as a delivery of a
//! webhook that had been switched off.

use std::collections::{BTreeMap, HashSet};

use uuid::Uuid;
use webhooks_domain::{
    delivery::DeliveryState,
    ids::Trigger,
    matching::{
        self, CREATION_GRACE_MICROS, EventFacts, Participation, Subscription, VerdictReason,
    },
    webhook::WebhookStatus,
};
use webhooks_store::{
    DeletedWebhook, DeliveryFilter, DeliveryRow, EventContent, EventCursor, EventRow, MAX_PAGE,
    Past, PastConfig, StatusFilter, WebhookRow,
};

use super::{Found, Management, Page};
use crate::{
    auth::Caller,
    error::ManagementError,
    page::{ListScope, Position},
    refusal::Refusal,
};

/// Most webhooks that one answer judges.
const MAX_JUDGED: usize = 10_000;

/// Most webhooks deleted since that one answer judges: what the store tells of them at a time.
const MAX_DELETED: usize = MAX_PAGE as usize;

/// Most deliveries of the event that one answer looks at, the newest.
const MAX_LOOKED_AT: usize = 100_000;

/// What a verdict rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JudgedBy {
    /// The deliveries there are.
    Recorded,
    /// The configuration as it was when the event was accepted.
    AtAcceptance,
    /// The present configuration: which one there was is not known.
    Current,
}

impl JudgedBy {
    /// The word in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Recorded => "RECORDED",
            Self::AtAcceptance => "AT_ACCEPTANCE",
            Self::Current => "CURRENT",
        }
    }
}

/// Why a webhook did or did not fire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventVerdict {
    /// Which webhook.
    pub webhook_id: Uuid,
    /// Its name; `None` = it was deleted.
    pub webhook_name: Option<String>,
    /// It has a delivery that the event made.
    pub fired: bool,
    /// A stable word.
    pub reason: &'static str,
    /// All deliveries of the event to it, replays and tests included, newest first (of the newest
    /// 100,000 of the event).
    pub delivery_ids: Vec<Uuid>,
    /// What this rests on.
    pub judged_by: JudgedBy,
    /// The revision it was judged by; `None` = it was not.
    pub revision: Option<i64>,
    /// The webhook's configuration was changed, or it was deleted, after the event was accepted.
    pub changed_since: bool,
}

/// An event and its verdicts, in the order of the webhooks' creation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JudgedEvent {
    /// The event.
    pub event: EventRow,
    /// One for each webhook of the workspace (at most 10,000). Then for those deleted since that have
    /// deliveries of it or would have: of the latter, among the first 1,000 that were deleted.
    pub verdicts: Vec<EventVerdict>,
    /// There are more webhooks, more that were deleted since, or more deliveries of the event than one answer
    /// looks at.
    pub truncated: bool,
}

impl Management {
    /// The workspace's event of this id, from as far back as history is kept.
    pub(super) async fn stored_event(
        &self,
        workspace: Uuid,
        id: &str,
    ) -> Result<EventContent, ManagementError> {
        let (store, days) = (&self.inner.store, self.inner.retention_days);
        let event = store.get_event(workspace, id, self.now(), days).await?;
        event.ok_or_else(|| Refusal::EventNotFound.into())
    }

    /// One event of the caller's workspace, with a verdict for each webhook.
    ///
    /// # Errors
    /// There is no event of this id.
    pub async fn get_event(
        &self,
        caller: &Caller,
        id: &str,
    ) -> Result<JudgedEvent, ManagementError> {
        let store = &self.inner.store;
        let event = self.stored_event(caller.workspace, id).await?.event;
        let filter = DeliveryFilter {
            event_id: Some(event.id.clone()),
            ..DeliveryFilter::default()
        };
        let mut deliveries: BTreeMap<Uuid, Vec<DeliveryRow>> = BTreeMap::new();
        let (mut after, mut looked_at) = (None, 0);
        loop {
            let page = store
                .search_deliveries(caller.workspace, &filter, MAX_PAGE, after)
                .await?;
            looked_at += page.rows.len();
            for row in page.rows {
                deliveries.entry(row.webhook_id).or_default().push(row);
            }
            after = page.next;
            if after.is_none() || looked_at >= MAX_LOOKED_AT {
                break;
            }
        }
        let mut truncated = after.is_some();
        let mut verdicts = Vec::new();
        let mut after = None;
        let more_webhooks = loop {
            let page = store
                .list_webhooks(caller.workspace, StatusFilter::Any, MAX_PAGE, after)
                .await?;
            after = page.rows.last().map(WebhookRow::cursor);
            let silent = page.rows.iter().map(|webhook| webhook.id);
            let silent: Vec<_> = silent.filter(|id| !fired(&deliveries, *id)).collect();
            // Asked after the rows were read: a change between the two is seen here.
            let past = store.webhooks_at(caller.workspace, &silent, event.accepted_at);
            let past = past.await?;
            for webhook in &page.rows {
                let of_it = deliveries.remove(&webhook.id).unwrap_or_default();
                verdicts.push(judge(webhook, past.get(&webhook.id), &event, &of_it));
            }
            if !page.more || verdicts.len() >= MAX_JUDGED {
                break page.more;
            }
        };
        let listed: HashSet<_> = verdicts
            .iter()
            .map(|one: &EventVerdict| one.webhook_id)
            .collect();
        let (deleted, more_deleted) = self.judge_deleted(&event, &listed, &mut deliveries).await?;
        verdicts.extend(deleted);
        if !more_webhooks {
            // Nothing is known of these but their deliveries.
            let unknown = deliveries
                .iter()
                .filter_map(|(id, of_it)| unknown(*id, of_it));
            verdicts.extend(unknown);
        }
        truncated |= more_webhooks || more_deleted;
        Ok(JudgedEvent {
            event,
            verdicts,
            truncated,
        })
    }

    /// The verdicts on webhooks that are not `listed`, since they were deleted: on those that have one
    /// of the `deliveries`, which is taken out, and on those that would have had one. And whether more
    /// were deleted than are looked at.
    async fn judge_deleted(
        &self,
        event: &EventRow,
        listed: &HashSet<Uuid>,
        deliveries: &mut BTreeMap<Uuid, Vec<DeliveryRow>>,
    ) -> Result<(Vec<EventVerdict>, bool), ManagementError> {
        let (store, workspace) = (&self.inner.store, event.workspace_id);
        let made_by = event.accepted_at.saturating_add(CREATION_GRACE_MICROS);
        let mut gone = store
            .webhooks_deleted_after(workspace, event.accepted_at, made_by)
            .await?;
        let more = gone.len() >= MAX_DELETED;
        gone.retain(|webhook| !listed.contains(&webhook.id));
        let ids: Vec<_> = gone.iter().map(|webhook| webhook.id).collect();
        let past = store
            .webhooks_at(workspace, &ids, event.accepted_at)
            .await?;
        let verdicts = gone
            .iter()
            .filter_map(|webhook| {
                let of_it = deliveries.remove(&webhook.id).unwrap_or_default();
                judge_gone(*webhook, past.get(&webhook.id), event, &of_it)
            })
            .collect();
        Ok((verdicts, more))
    }

    /// The events of the caller's workspace that were accepted in a range of time (microseconds),
    /// newest first. Tests are not among them.
    ///
    /// # Errors
    /// The page token is not for this list.
    pub async fn list_events(
        &self,
        caller: &Caller,
        (from, before): (Option<i64>, Option<i64>),
        page_size: u32,
        page_token: &str,
    ) -> Result<Found<EventRow>, ManagementError> {
        let text = |at: Option<i64>| at.map_or_else(String::new, |at| at.to_string());
        let bound = [text(from), text(before)];
        let bound = bound.each_ref().map(String::as_str);
        let scope = ListScope {
            list: "events",
            workspace: caller.workspace,
            filters: &bound,
        };
        let after = self.inner.pages.read(scope, page_token)?;
        // The place on the stream decides between events of the same time; a token holds 16 bytes.
        let after = after.map(|at| EventCursor {
            accepted_at: at.created_at,
            event_seq: u64::try_from(at.id.as_u128()).unwrap_or(u64::MAX),
        });
        let range = (from.unwrap_or(0), before.unwrap_or(i64::MAX));
        let found = self
            .inner
            .store
            .list_events(caller.workspace, range, page_size, after)
            .await?;
        let last = found.rows.last().filter(|_| found.more);
        let next = last.map(|row| {
            let position = Position {
                created_at: row.accepted_at,
                id: Uuid::from_u128(u128::from(row.event_seq)),
            };
            self.inner.pages.make(scope, position)
        });
        Ok(Found {
            page: Page {
                next,
                total: u64::try_from(found.total).unwrap_or(0),
                rows: found.rows,
            },
            total_is_lower_bound: found.total_is_lower_bound,
        })
    }
}

/// A webhook as the rule wants it.
pub(crate) struct Judged<'a> {
    pub(crate) webhook: &'a WebhookRow,
    /// Overrides what the status says.
    pub(crate) as_if_active: bool,
}

impl Subscription for Judged<'_> {
    fn id(&self) -> Uuid {
        self.webhook.id
    }

    fn workspace_id(&self) -> Uuid {
        self.webhook.workspace_id
    }

    fn link_ids(&self) -> &[Uuid] {
        &self.webhook.link_ids
    }

    fn triggers(&self) -> &[String] {
        &self.webhook.triggers
    }

    fn event_actions(&self) -> &[String] {
        &self.webhook.options.event_actions
    }

    fn created_at_micros(&self) -> i64 {
        // Who asks for old events means old events.
        if self.as_if_active {
            i64::MIN
        } else {
            self.webhook.created_at
        }
    }

    fn participation(&self) -> Participation {
        if self.as_if_active {
            Participation::Deliver
        } else {
            participation(self.webhook.status)
        }
    }
}

/// A webhook as it was, as the rule wants it.
struct Then<'a> {
    id: Uuid,
    workspace_id: Uuid,
    created_at: i64,
    config: &'a PastConfig,
}

impl Subscription for Then<'_> {
    fn id(&self) -> Uuid {
        self.id
    }

    fn workspace_id(&self) -> Uuid {
        self.workspace_id
    }

    fn link_ids(&self) -> &[Uuid] {
        &self.config.link_ids
    }

    fn triggers(&self) -> &[String] {
        &self.config.triggers
    }

    fn event_actions(&self) -> &[String] {
        &self.config.event_actions
    }

    fn created_at_micros(&self) -> i64 {
        self.created_at
    }

    fn participation(&self) -> Participation {
        participation(self.config.status)
    }
}

fn participation(status: WebhookStatus) -> Participation {
    match status {
        WebhookStatus::Active => Participation::Deliver,
        WebhookStatus::Disabled => Participation::Ignore,
        WebhookStatus::Paused | WebhookStatus::AutoDisabled => Participation::Hold,
    }
}

/// The rule's answer for a stored event.
pub(crate) fn verdict_on(webhook: &impl Subscription, event: &EventRow) -> VerdictReason {
    let facts = EventFacts {
        workspace_id: event.workspace_id,
        link_id: event.link_id.unwrap_or_default(),
        step_kind: &event.step_kind,
        event_action: &event.event_action,
        accepted_at_micros: event.accepted_at,
        timestamp_micros: event.timestamp,
    };
    matching::verdict(webhook, &facts)
}

/// Whether the event itself made a delivery to this webhook.
fn fired(deliveries: &BTreeMap<Uuid, Vec<DeliveryRow>>, webhook: Uuid) -> bool {
    let of_it = deliveries.get(&webhook);
    of_it.is_some_and(|of_it| of_it.iter().any(|row| row.trigger == Trigger::Event))
}

/// `past`: what it was when the event was accepted; `None` = what it is.
fn judge(
    webhook: &WebhookRow,
    past: Option<&Past>,
    event: &EventRow,
    deliveries: &[DeliveryRow],
) -> EventVerdict {
    let changed_since = webhook.revision > 1 && webhook.updated_at > event.accepted_at;
    if let Some(verdict) = recorded(webhook.id, deliveries) {
        return EventVerdict {
            webhook_name: Some(webhook.name.clone()),
            changed_since,
            ..verdict
        };
    }
    let now = Judged {
        webhook,
        as_if_active: false,
    };
    let (reason, revision, judged_by) = match past {
        Some(Past::Config(config)) => {
            let then = Then {
                id: webhook.id,
                workspace_id: webhook.workspace_id,
                created_at: webhook.created_at,
                config,
            };
            let reason = verdict_on(&then, event);
            (reason, config.revision, JudgedBy::AtAcceptance)
        }
        None => {
            let reason = verdict_on(&now, event);
            (reason, webhook.revision, JudgedBy::AtAcceptance)
        }
        Some(Past::Unreadable) => {
            let reason = verdict_on(&now, event);
            (reason, webhook.revision, JudgedBy::Current)
        }
    };
    EventVerdict {
        webhook_name: Some(webhook.name.clone()),
        // It would have fired. It did not, or what it owes has not been recorded yet.
        reason: silence(reason).unwrap_or("NOT_RECORDED"),
        judged_by,
        revision: Some(revision),
        changed_since,
        ..only_asked_for(webhook.id, deliveries)
    }
}

/// The verdict on a deleted webhook; `None` = it has no delivery, and would have none, as far as is known.
fn judge_gone(
    webhook: DeletedWebhook,
    past: Option<&Past>,
    event: &EventRow,
    deliveries: &[DeliveryRow],
) -> Option<EventVerdict> {
    let config = match past {
        Some(Past::Config(config)) if recorded(webhook.id, deliveries).is_none() => config,
        _ => return unknown(webhook.id, deliveries),
    };
    let then = Then {
        id: webhook.id,
        workspace_id: event.workspace_id,
        created_at: webhook.created_at,
        config,
    };
    let silence = silence(verdict_on(&then, event));
    if silence.is_some() && deliveries.is_empty() {
        return None;
    }
    Some(EventVerdict {
        // It would have fired, and was deleted before that came to anything.
        reason: silence.unwrap_or("WEBHOOK_DELETED"),
        judged_by: JudgedBy::AtAcceptance,
        revision: Some(config.revision),
        changed_since: true,
        ..only_asked_for(webhook.id, deliveries)
    })
}

/// The verdict on a deleted webhook of whose configuration nothing is known: what deliveries tell.
fn unknown(webhook_id: Uuid, deliveries: &[DeliveryRow]) -> Option<EventVerdict> {
    if deliveries.is_empty() {
        return None;
    }
    let told = recorded(webhook_id, deliveries);
    Some(EventVerdict {
        changed_since: true,
        ..told.unwrap_or_else(|| only_asked_for(webhook_id, deliveries))
    })
}

/// The word for why there is no delivery; `None` = there is one to be.
fn silence(reason: VerdictReason) -> Option<&'static str> {
    match reason {
        VerdictReason::OtherLink => Some("LINK_SCOPE"),
        VerdictReason::OtherKind => Some("TRIGGER"),
        VerdictReason::OtherAction => Some("EVENT_ACTION"),
        VerdictReason::Disabled => Some("DISABLED"),
        VerdictReason::AcceptedBeforeCreation => Some("CREATED_LATER"),
        VerdictReason::HappenedBeforeCreation => Some("EVENT_TOO_OLD"),
        VerdictReason::OtherWorkspace => Some("OTHER_WORKSPACE"),
        VerdictReason::Fires | VerdictReason::Held => None,
    }
}

/// What the event's own delivery tells.
fn recorded(webhook_id: Uuid, deliveries: &[DeliveryRow]) -> Option<EventVerdict> {
    let own = deliveries
        .iter()
        .find(|row| row.trigger == Trigger::Event)?;
    let reason = match own.state {
        DeliveryState::Held => "HELD",
        _ => "MATCHED",
    };
    Some(EventVerdict {
        webhook_id,
        webhook_name: None,
        fired: true,
        reason,
        delivery_ids: deliveries.iter().map(|row| row.id).collect(),
        judged_by: JudgedBy::Recorded,
        revision: None,
        changed_since: false,
    })
}

/// No delivery but those that a person asked for, if any.
fn only_asked_for(webhook_id: Uuid, deliveries: &[DeliveryRow]) -> EventVerdict {
    EventVerdict {
        webhook_id,
        webhook_name: None,
        fired: false,
        reason: "WEBHOOK_DELETED",
        delivery_ids: deliveries.iter().map(|row| row.id).collect(),
        judged_by: JudgedBy::Current,
        revision: None,
        changed_since: false,
    }
}
