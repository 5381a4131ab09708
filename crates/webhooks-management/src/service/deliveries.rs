//! Deliveries: finding them, replaying one, taking one back.

use uuid::Uuid;
use webhooks_domain::{
    challenge,
    delivery::DeliveryState,
    ids::{self, Trigger},
    token::grants,
    webhook::WebhookStatus,
};
use webhooks_store::{
    DeliveryCursor, DeliveryFacts, DeliveryRow, JobRow, Replay, ReportRecord, Wish,
};

use super::{
    Answer, DeliveryQuery, Management, Once, Page, Prepared, actor,
    once::{Claim, store_key},
    prepare::Signature,
    query::bound_to,
};
use crate::{auth::Caller, error::ManagementError, page::ListScope, refusal::Refusal, rest::WRITE};

/// A page that may tell less than all.
#[derive(Debug, Clone, PartialEq)]
pub struct Found<T> {
    /// The page.
    pub page: Page<T>,
    /// There may be more rows than the page's total.
    pub total_is_lower_bound: bool,
}

/// How a face puts answers about deliveries and jobs, so that they can be kept as they were given.
#[derive(Debug, Clone, Copy)]
pub struct HistoryFace {
    /// Encodes a delivery.
    pub delivery: fn(&DeliveryRow) -> Result<Vec<u8>, ManagementError>,
    /// Encodes a job.
    pub job: fn(&JobRow) -> Result<Vec<u8>, ManagementError>,
    /// Encodes a request that is not sent.
    pub prepared: fn(&Prepared) -> Result<Vec<u8>, ManagementError>,
    /// Encodes a refusal; `None` = refusals are not kept.
    pub refuse: Option<fn(&ManagementError) -> Vec<u8>>,
}

impl Management {
    /// The deliveries of the caller's workspace that match, newest first. With `webhook`, those of
    /// this webhook, which has to exist; a webhook in the query need not, for its history outlives
    /// it.
    ///
    /// # Errors
    /// There is no such webhook, the query breaks rules, or the page token is not for this list.
    pub async fn search_deliveries(
        &self,
        caller: &Caller,
        webhook: Option<Uuid>,
        query: DeliveryQuery,
        page_size: u32,
        page_token: &str,
    ) -> Result<Found<DeliveryRow>, ManagementError> {
        if let Some(webhook) = webhook {
            self.get_webhook(caller, webhook).await?;
        }
        let mut filter = query.judge()?;
        filter.webhook = webhook.or(filter.webhook);
        let bound = bound_to(&filter);
        let bound = bound.each_ref().map(String::as_str);
        let scope = ListScope {
            list: "deliveries",
            workspace: caller.workspace,
            filters: &bound,
        };
        let after = self.inner.pages.read(scope, page_token)?;
        let after = after.map(|at| DeliveryCursor {
            created_at: at.created_at,
            id: at.id,
        });
        let found = self
            .inner
            .store
            .search_deliveries(caller.workspace, &filter, page_size, after)
            .await?;
        Ok(Found {
            page: Page {
                next: found
                    .next
                    .map(|next| self.token_after(scope, next.created_at, next.id)),
                total: u64::try_from(found.total).unwrap_or(0),
                rows: found.rows,
            },
            total_is_lower_bound: found.total_is_lower_bound,
        })
    }

    /// The request of a delivery as it would be sent now: the frozen body, a fresh signature, which
    /// only callers see who may have the request sent again.
    ///
    /// # Errors
    /// There is no such delivery, it is a challenge, its webhook is gone, or its payload is.
    pub async fn delivery_request(
        &self,
        caller: &Caller,
        id: Uuid,
    ) -> Result<Prepared, ManagementError> {
        let (delivery, _) = self.get_delivery(caller, id).await?;
        no_challenge(&delivery)?;
        let webhook = self.get_webhook(caller, delivery.webhook_id).await?;
        let body = self.inner.store.delivery_body(caller.workspace, id).await?;
        let body = body.ok_or(Refusal::PayloadExpired)?;
        let message = message_id(&delivery_key(&delivery));
        let signature = match grants(&caller.scopes, WRITE) {
            true => Signature::Shown,
            false => Signature::Masked,
        };
        let attempt = (delivery.trigger, delivery.attempt_count.max(1));
        self.prepare(&webhook, &message, attempt, body.into(), signature)
    }

    /// Sends the bytes of a delivery again, as a new delivery with the same `webhook-id`.
    ///
    /// # Errors
    /// There is no such delivery, it is a challenge, its webhook is gone or disabled, or its payload is
    /// gone.
    pub async fn retry_delivery(
        &self,
        caller: Caller,
        id: Option<Uuid>,
        once: Option<Once>,
        face: HistoryFace,
    ) -> Result<Answer, ManagementError> {
        let this = self.clone();
        self.to_the_end(async move {
            let result = match this.claim(&caller, once.as_ref()).await? {
                Claim::Answered(answer) => return Ok(answer),
                Claim::Made(made, _) => this.delivery_answer(&caller, made, face).await,
                Claim::Do => this.replay(&caller, id, once.as_ref(), face).await,
            };
            this.conclude_with(&caller, once.as_ref(), face.refuse, result)
                .await
        })
        .await
    }

    /// Takes back a delivery that was not sent yet, wherever it waits. An attempt that is on the
    /// wire at this moment ends as it ends, and its success would outrank the cancellation.
    ///
    /// # Errors
    /// There is no such delivery, or it has ended otherwise.
    pub async fn cancel_delivery(
        &self,
        caller: Caller,
        id: Option<Uuid>,
        once: Option<Once>,
        face: HistoryFace,
    ) -> Result<Answer, ManagementError> {
        let this = self.clone();
        self.to_the_end(async move {
            let result = match this.claim(&caller, once.as_ref()).await? {
                Claim::Answered(answer) => return Ok(answer),
                // Cancelling twice is cancelling once.
                Claim::Do | Claim::Made(..) => this.cancel(&caller, id, face).await,
            };
            this.conclude_with(&caller, once.as_ref(), face.refuse, result)
                .await
        })
        .await
    }

    async fn cancel(
        &self,
        caller: &Caller,
        id: Option<Uuid>,
        face: HistoryFace,
    ) -> Result<Vec<u8>, ManagementError> {
        let id = id.ok_or(ManagementError::DeliveryNotFound)?;
        let (delivery, _) = self.get_delivery(caller, id).await?;
        if delivery.state == DeliveryState::Cancelled {
            return (face.delivery)(&delivery);
        }
        if delivery.state.is_terminal() {
            return Err(Refusal::DeliveryEnded.into());
        }
        // The mark first: were it last, a crash between the two would show as cancelled what goes out
        // all the same.
        self.inner
            .bus
            .mark_cancelled(id, delivery.webhook_id)
            .await?;
        let report = cancellation(&delivery, self.now());
        let cancelled = self
            .inner
            .store
            .cancel_delivery(&report, &actor(caller))
            .await?;
        if !cancelled {
            // It ended otherwise while this call was under way.
            return Err(Refusal::DeliveryEnded.into());
        }
        self.inner.tail.told(&[report]);
        tracing::info!(delivery.id = %id, workspace.id = %caller.workspace, "delivery.cancelled");
        let (delivery, _) = self.get_delivery(caller, id).await?;
        (face.delivery)(&delivery)
    }

    async fn replay(
        &self,
        caller: &Caller,
        id: Option<Uuid>,
        once: Option<&Once>,
        face: HistoryFace,
    ) -> Result<Vec<u8>, ManagementError> {
        let id = id.ok_or(ManagementError::DeliveryNotFound)?;
        let (delivery, _) = self.get_delivery(caller, id).await?;
        no_challenge(&delivery)?;
        let webhook = self.get_webhook(caller, delivery.webhook_id).await?;
        if webhook.status == WebhookStatus::Disabled {
            return Err(Refusal::WebhookDisabled.into());
        }
        let actor = actor(caller);
        let wish = Wish {
            actor: &actor,
            now: self.now(),
            claim: once.map(|once| store_key(caller, once)),
        };
        let key = Uuid::from_bytes(rand::random());
        let made = self
            .inner
            .store
            .replay_delivery(caller.workspace, id, key, wish)
            .await;
        match made.map_err(claim_lost)? {
            Replay::Made(row) => {
                tracing::info!(delivery.id = %row.id, delivery.origin = %id, workspace.id = %caller.workspace, "delivery.replayed");
                self.inner.owed.hurry();
                (face.delivery)(&row)
            }
            Replay::Unknown => Err(ManagementError::DeliveryNotFound),
            Replay::NotYet => Err(Refusal::NotYet.into()),
            Replay::Expired => Err(Refusal::PayloadExpired.into()),
        }
    }

    /// The answer to a call whose first run was cut off after its commit.
    pub(super) async fn delivery_answer(
        &self,
        caller: &Caller,
        id: Uuid,
        face: HistoryFace,
    ) -> Result<Vec<u8>, ManagementError> {
        let (row, _) = self.get_delivery(caller, id).await?;
        (face.delivery)(&row)
    }
}

/// A challenge's nonce is for its endpoint alone, and its answer counts once.
fn no_challenge(delivery: &DeliveryRow) -> Result<(), ManagementError> {
    match delivery.event_type == challenge::EVENT_TYPE {
        true => Err(Refusal::Challenge.into()),
        false => Ok(()),
    }
}

/// The claim outlived its lease and someone else took it: that call gives the answer.
pub(super) fn claim_lost(error: webhooks_store::StoreError) -> ManagementError {
    match error {
        webhooks_store::StoreError::Conflict(_) => ManagementError::IdempotencyInProgress,
        other => other.into(),
    }
}

/// What a `webhook-id` is made of.
pub(super) struct MessageKey<'a> {
    pub(super) workspace: Uuid,
    pub(super) webhook: Uuid,
    pub(super) event: &'a str,
    pub(super) delivery: Uuid,
    pub(super) trigger: Trigger,
}

/// The value of `webhook-id`: the same for an event and all its replays, so that a receiver can
/// drop what it has. A test has one of its own: it must neither be dropped as known, nor make a
/// receiver drop the real event.
pub(super) fn message_id(key: &MessageKey<'_>) -> String {
    match key.trigger {
        Trigger::Test => {
            let event = format!("test:{}", key.delivery);
            ids::message_id(key.workspace, &event, key.webhook)
        }
        _ => ids::message_id(key.workspace, key.event, key.webhook),
    }
}

fn delivery_key(row: &DeliveryRow) -> MessageKey<'_> {
    MessageKey {
        workspace: row.workspace_id,
        webhook: row.webhook_id,
        event: &row.event_id,
        delivery: row.id,
        trigger: row.trigger,
    }
}

/// The reason of a delivery that a person took back; the dispatchers' word for it too.
const CANCELLED: &str = "cancelled";

/// What a report of a cancellation says.
fn cancellation(row: &DeliveryRow, now: i64) -> ReportRecord {
    ReportRecord {
        delivery: DeliveryFacts {
            delivery_id: row.id,
            webhook_id: row.webhook_id,
            workspace_id: row.workspace_id,
            event_id: row.event_id.clone(),
            event_type: row.event_type.clone(),
            link_id: row.link_id,
            lbid: row.lbid.clone(),
            trigger: row.trigger,
            created_at: row.created_at,
            event_seq: row.event_seq,
        },
        state: DeliveryState::Cancelled,
        attempts_made: 0,
        next_attempt_at: None,
        at: now,
        attempt: None,
        reason: CANCELLED.to_owned(),
        waits_for: None,
        snapshot: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replays_share_the_message_id_and_tests_do_not() {
        let id = |trigger, delivery| {
            message_id(&MessageKey {
                workspace: Uuid::from_u128(1),
                webhook: Uuid::from_u128(2),
                event: "e",
                delivery: Uuid::from_u128(delivery),
                trigger,
            })
        };
        assert_eq!(id(Trigger::Event, 3), id(Trigger::Replay, 4));
        assert_ne!(id(Trigger::Test, 3), id(Trigger::Event, 3));
        assert_ne!(id(Trigger::Test, 3), id(Trigger::Test, 4));
    }
}
