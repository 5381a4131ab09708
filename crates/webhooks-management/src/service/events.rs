//! Events, and why each webhook did or did not fire.
//!
//! What happened is told by the deliveries there are. For a webhook without one, the rule is asked
//! again, with the event's stored facts and the webhook as it is *now*: that is the only version
//! there is. The answer says which of both it rests on, and whether the webhook has been changed
//! since the event.

use std::collections::BTreeMap;

use uuid::Uuid;
use webhooks_domain::{
    delivery::DeliveryState,
    ids::Trigger,
    matching::{self, EventFacts, Participation, Subscription, VerdictReason},
    webhook::WebhookStatus,
};
use webhooks_store::{
    DeliveryFilter, DeliveryRow, EventCursor, EventRow, MAX_PAGE, StatusFilter, WebhookRow,
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

/// What a verdict rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JudgedBy {
    /// The deliveries there are.
    Recorded,
    /// The present configuration.
    Current,
}

impl JudgedBy {
    /// The word in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Recorded => "RECORDED",
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
    /// All deliveries of the event to it, replays and tests included, newest first.
    pub delivery_ids: Vec<Uuid>,
    /// What this rests on.
    pub judged_by: JudgedBy,
    /// The revision it was judged by; `None` = it was not.
    pub revision: Option<i64>,
    /// The webhook was changed after the event was accepted, so the present configuration may not
    /// be what decided.
    pub changed_since: bool,
}

/// An event and its verdicts, in the order of the webhooks' creation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JudgedEvent {
    /// The event.
    pub event: EventRow,
    /// One for each webhook of the workspace (at most 10,000), and for deleted ones with deliveries.
    pub verdicts: Vec<EventVerdict>,
}

impl Management {
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
        let event = store.get_event(caller.workspace, id, self.now()).await?;
        let event = event.ok_or(Refusal::EventNotFound)?.event;
        let filter = DeliveryFilter {
            event_id: Some(event.id.clone()),
            ..DeliveryFilter::default()
        };
        let mut deliveries: BTreeMap<Uuid, Vec<DeliveryRow>> = BTreeMap::new();
        let mut after = None;
        loop {
            let page = store
                .search_deliveries(caller.workspace, &filter, MAX_PAGE, after)
                .await?;
            for row in page.rows {
                deliveries.entry(row.webhook_id).or_default().push(row);
            }
            after = page.next;
            if after.is_none() || deliveries.len() >= MAX_JUDGED {
                break;
            }
        }
        let mut verdicts = Vec::new();
        let mut after = None;
        loop {
            let page = store
                .list_webhooks(caller.workspace, StatusFilter::Any, MAX_PAGE, after)
                .await?;
            after = page.rows.last().map(WebhookRow::cursor);
            for webhook in &page.rows {
                let of_it = deliveries.remove(&webhook.id).unwrap_or_default();
                verdicts.push(judge(webhook, &event, &of_it));
            }
            if !page.more || verdicts.len() >= MAX_JUDGED {
                break;
            }
        }
        verdicts.extend(
            deliveries
                .into_iter()
                .map(|(webhook_id, of_it)| EventVerdict {
                    webhook_id,
                    webhook_name: None,
                    revision: None,
                    changed_since: true,
                    ..recorded(webhook_id, &of_it)
                        .unwrap_or_else(|| only_asked_for(webhook_id, &of_it))
                }),
        );
        Ok(JudgedEvent { event, verdicts })
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
        match self.webhook.status {
            _ if self.as_if_active => Participation::Deliver,
            WebhookStatus::Active => Participation::Deliver,
            WebhookStatus::Disabled => Participation::Ignore,
            WebhookStatus::Paused | WebhookStatus::AutoDisabled => Participation::Hold,
        }
    }
}

/// The rule's answer for a stored event.
pub(crate) fn verdict_on(webhook: &Judged<'_>, event: &EventRow) -> VerdictReason {
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

fn judge(webhook: &WebhookRow, event: &EventRow, deliveries: &[DeliveryRow]) -> EventVerdict {
    let changed_since = webhook.revision > 1 && webhook.updated_at > event.accepted_at;
    if let Some(verdict) = recorded(webhook.id, deliveries) {
        return EventVerdict {
            webhook_name: Some(webhook.name.clone()),
            changed_since,
            ..verdict
        };
    }
    let judged = Judged {
        webhook,
        as_if_active: false,
    };
    let reason = match verdict_on(&judged, event) {
        VerdictReason::OtherLink => "LINK_SCOPE",
        VerdictReason::OtherKind => "TRIGGER",
        VerdictReason::OtherAction => "EVENT_ACTION",
        VerdictReason::Disabled => "DISABLED",
        VerdictReason::AcceptedBeforeCreation => "CREATED_LATER",
        VerdictReason::HappenedBeforeCreation => "EVENT_TOO_OLD",
        // It would fire as it is now. It did not, or what it owes has not been recorded yet.
        VerdictReason::Fires | VerdictReason::Held => "NOT_RECORDED",
        VerdictReason::OtherWorkspace => "OTHER_WORKSPACE",
    };
    EventVerdict {
        webhook_name: Some(webhook.name.clone()),
        reason,
        revision: Some(webhook.revision),
        changed_since,
        ..only_asked_for(webhook.id, deliveries)
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
