//! Challenges to endpoints: asking, and hearing the answer.
//!
//! A challenge is a test delivery that may go to one URL alone. What the endpoint answered comes back
//! with the report of the delivery. It is judged by the URL that the webhook has *then*, and counts only
//! if the webhook still has it when that is written down: an answer about an earlier URL says nothing.

use std::sync::Arc;

use uuid::Uuid;
use webhooks_domain::{
    challenge::{self, Body, ChallengeKeys},
    clock::Clock,
    delivery::DeliveryState,
    event::RENDERER_VERSION,
    ids::Trigger,
    sealing::{Keyring, Purpose},
    signing::SigningKey,
    webhook::WebhookStatus,
};
use webhooks_runtime::error_chain;
use webhooks_store::{
    Actor, Day, DeliveryFacts, RenditionRecord, ReportRecord, Store, StoreError, VerdictRecord,
    Verified, WebhookRow,
};

use super::{
    Answer, HistoryFace, Management, Once,
    once::Claim,
    secrets::binding,
    trial::{Trial, profile_of, test_id},
};
use crate::{auth::Caller, error::ManagementError, refusal::Refusal, secrets};

impl Management {
    /// Asks a webhook's endpoint to show that it belongs to who holds the secret. It goes out at once
    /// and once, also while the webhook is paused, and is one of the workspace's tests.
    ///
    /// # Errors
    /// There is no such webhook, it is disabled, or the workspace has sent
    /// [`super::TESTS_PER_WINDOW`] tests within [`super::TEST_WINDOW`].
    pub async fn challenge_webhook(
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
                Claim::Do => this.send_challenge(&caller, id, once.as_ref(), face).await,
            };
            this.conclude_with(&caller, once.as_ref(), face.refuse, result)
                .await
        })
        .await
    }

    async fn send_challenge(
        &self,
        caller: &Caller,
        id: Option<Uuid>,
        once: Option<&Once>,
        face: HistoryFace,
    ) -> Result<Vec<u8>, ManagementError> {
        let id = id.ok_or(ManagementError::WebhookNotFound)?;
        let webhook = self.get_webhook(caller, id).await?;
        if webhook.status == WebhookStatus::Disabled {
            return Err(Refusal::WebhookDisabled.into());
        }
        let trial = challenge_of(&webhook, &self.inner.challenges.keys, self.now())?;
        let action = "webhook.challenge";
        let row = self.send_trial(caller, trial, action, once).await?;
        tracing::info!(delivery.id = %row.id, webhook.id = %id, workspace.id = %caller.workspace, "webhook.challenged");
        (face.delivery)(&row)
    }
}

/// The delivery of a challenge. Its body is nothing that the customer chose but the URL it goes to.
fn challenge_of(
    webhook: &WebhookRow,
    keys: &ChallengeKeys,
    now: i64,
) -> Result<Trial, ManagementError> {
    let event_id = format!("challenge-{}", Uuid::from_bytes(rand::random()));
    let delivery = test_id(webhook, &event_id, now);
    let nonce = keys.nonce(delivery, &webhook.endpoint_url);
    let nonce = nonce.ok_or_else(|| ManagementError::internal(anyhow::anyhow!("no keys")))?;
    let body = Body::new(&nonce, &webhook.endpoint_url);
    let rendition = RenditionRecord {
        profile: profile_of(webhook).as_str().to_owned(),
        head: body.head.into(),
        tail: body.tail.into(),
    };
    let event = VerdictRecord {
        workspace_id: webhook.workspace_id,
        event_id: event_id.clone(),
        // As a test's: no place on EVENTS.
        event_seq: 0,
        link_id: None,
        lbid: String::new(),
        event_type: challenge::EVENT_TYPE.to_owned(),
        step_kind: String::new(),
        event_action: String::new(),
        accepted_at: now,
        event_timestamp: now,
        renderer_version: RENDERER_VERSION,
        renditions: vec![rendition.clone()],
        deliveries: Vec::new(),
    };
    Ok(Trial {
        facts: DeliveryFacts {
            delivery_id: delivery,
            webhook_id: webhook.id,
            workspace_id: webhook.workspace_id,
            event_id,
            event_type: challenge::EVENT_TYPE.to_owned(),
            link_id: None,
            lbid: String::new(),
            trigger: Trigger::Test,
            created_at: now,
            event_seq: 0,
        },
        event: Some(event),
        event_day: Day::of_micros(now),
        rendition,
        snapshot: body.endpoint.into_bytes(),
    })
}

/// Hears what endpoints answer to challenges. Clones share everything.
#[derive(Clone)]
pub(crate) struct Challenges {
    store: Store,
    keyring: Keyring,
    keys: ChallengeKeys,
    clock: Arc<dyn Clock>,
}

impl Challenges {
    pub(super) fn new(
        store: Store,
        keyring: Keyring,
        keys: ChallengeKeys,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            store,
            keyring,
            keys,
            clock,
        }
    }

    /// Takes note of the right answers among these reports, which may come again.
    ///
    /// # Errors
    /// The store fails: the reports have to be brought again.
    pub(crate) async fn heard(&self, records: &[ReportRecord]) -> Result<(), StoreError> {
        for record in records {
            let facts = &record.delivery;
            let of_challenge = facts.trigger == Trigger::Test
                && facts.event_type == challenge::EVENT_TYPE
                && record.state == DeliveryState::Delivered;
            if let Some(attempt) = record.attempt.as_ref().filter(|_| of_challenge) {
                self.judge(facts, &attempt.response_body).await?;
            }
        }
        Ok(())
    }

    async fn judge(&self, facts: &DeliveryFacts, response: &[u8]) -> Result<(), StoreError> {
        let (workspace, webhook) = (facts.workspace_id, facts.webhook_id);
        let Some(row) = self.store.get_webhook(workspace, webhook).await? else {
            return Ok(());
        };
        let now = self.clock.now_micros();
        let secrets = self.secrets(&row, now);
        let url = &row.endpoint_url;
        let verified = match self
            .keys
            .is_answered(&secrets, facts.delivery_id, url, response)
        {
            false => None,
            true => {
                let verify =
                    self.store
                        .verify_endpoint(workspace, webhook, url, &Actor::System, now);
                Some(verify.await?)
            }
        };
        let outcome = match verified {
            None => "wrong_answer",
            Some(Verified::Now) => "verified",
            Some(Verified::Before) => "verified_before",
            Some(Verified::Stale) => "endpoint_changed",
        };
        metrics::counter!("webhooks_challenges_total", "outcome" => outcome).increment(1);
        tracing::info!(
            webhook.id = %webhook,
            workspace.id = %workspace,
            delivery.id = %facts.delivery_id,
            outcome,
            "endpoint.challenged"
        );
        Ok(())
    }

    /// The secrets that sign now. One that does not open answers nothing; the others may.
    fn secrets(&self, row: &WebhookRow, now: i64) -> Vec<SigningKey> {
        let current = row.secrets.iter().filter(|secret| secret.signs_at(now));
        current
            .filter_map(|secret| {
                let binding = binding(row, secret.version);
                let opened = secrets::open(&self.keyring, Purpose::SigningKey, binding, secret);
                let key = opened
                    .map_err(|error| error_chain(&error))
                    .and_then(|bytes| {
                        SigningKey::from_bytes(bytes).map_err(|error| error_chain(&error))
                    });
                key.inspect_err(|error| {
                    tracing::error!(error, webhook.id = %row.id, "a secret does not open");
                })
                .ok()
            })
            .collect()
    }
}
