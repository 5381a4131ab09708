//! Tests and previews: a sample event, or a past real one, as a webhook would get it.
//!
//! A test goes through the same pipeline as everything else, flagged TEST: it counts for no total
//! and for nobody's health. A preview sends nothing.

use std::{collections::HashSet, time::Duration};

use bytes::Bytes;
use uuid::Uuid;
use webhooks_domain::{
    challenge,
    event::{
        EventLimits, Profile, RENDERER_VERSION, WebhookSnapshot, parse_event, render,
        render_snapshot,
    },
    ids::{self, Trigger},
    webhook::WebhookStatus,
};
use webhooks_store::{
    Day, DeliveryFacts, DeliveryRow, NewTest, RenditionRecord, TestSend, VerdictRecord, WebhookRow,
    Wish,
};

use super::{
    Answer, HistoryFace, Management, Once, Prepared, actor,
    deliveries::{MessageKey, claim_lost, message_id},
    once::{Claim, store_key},
    prepare::Signature,
};
use crate::{
    auth::Caller,
    error::ManagementError,
    refusal::Refusal,
    sample::{self, Fresh},
    violations::Violations,
};

/// Tests that a workspace may send within [`TEST_WINDOW`].
pub const TESTS_PER_WINDOW: u32 = 10;

/// See [`TESTS_PER_WINDOW`].
pub const TEST_WINDOW: Duration = Duration::from_secs(60);

/// What a test delivery is made of.
pub(super) struct Trial {
    pub(super) facts: DeliveryFacts,
    /// The event, when it was made for this.
    pub(super) event: Option<VerdictRecord>,
    pub(super) event_day: Day,
    pub(super) rendition: RenditionRecord,
    pub(super) snapshot: Vec<u8>,
}

impl Management {
    /// Sends a test to a webhook that is not disabled: a sample, or the event `event_id`. It goes
    /// out at once even when the webhook is paused or was disabled automatically.
    ///
    /// # Errors
    /// There is no such webhook or event, the webhook is disabled, the event's payload is gone, or
    /// the workspace has sent [`TESTS_PER_WINDOW`] tests within [`TEST_WINDOW`].
    pub async fn test_webhook(
        &self,
        caller: Caller,
        id: Option<Uuid>,
        event_id: Option<String>,
        once: Option<Once>,
        face: HistoryFace,
    ) -> Result<Answer, ManagementError> {
        let this = self.clone();
        self.to_the_end(async move {
            let result = match this.claim(&caller, once.as_ref()).await? {
                Claim::Answered(answer) => return Ok(answer),
                Claim::Made(made, _) => this.delivery_answer(&caller, made, face).await,
                Claim::Do => {
                    this.send_test(&caller, id, event_id, once.as_ref(), face)
                        .await
                }
            };
            this.conclude_with(&caller, once.as_ref(), face.refuse, result)
                .await
        })
        .await
    }

    /// The request that a test would send now, the same for a repeated call with the same key. `id` is
    /// `None` when the path held no id; `event_id` is what the face could read, or why it could not.
    ///
    /// # Errors
    /// As [`Self::preview_webhook`], or the key is in use.
    pub async fn preview_once(
        &self,
        caller: Caller,
        id: Option<Uuid>,
        event_id: Result<Option<String>, ManagementError>,
        once: Option<Once>,
        face: HistoryFace,
    ) -> Result<Answer, ManagementError> {
        let this = self.clone();
        self.to_the_end(async move {
            let result = match this.claim(&caller, once.as_ref()).await? {
                Claim::Answered(answer) => return Ok(answer),
                Claim::Do | Claim::Made(..) => {
                    let prepared = async {
                        let id = id.ok_or(ManagementError::WebhookNotFound)?;
                        let prepared = this.preview_webhook(&caller, id, event_id?).await?;
                        (face.prepared)(&prepared)
                    };
                    prepared.await
                }
            };
            this.conclude_with(&caller, once.as_ref(), face.refuse, result)
                .await
        })
        .await
    }

    /// The request that a test would send now.
    ///
    /// # Errors
    /// There is no such webhook or event, or the event's payload is gone.
    pub async fn preview_webhook(
        &self,
        caller: &Caller,
        id: Uuid,
        event_id: Option<String>,
    ) -> Result<Prepared, ManagementError> {
        let webhook = self.get_webhook(caller, id).await?;
        let trial = self.trial(&webhook, event_id).await?;
        let body = [
            &trial.rendition.head[..],
            &trial.snapshot,
            &trial.rendition.tail,
        ]
        .concat();
        let message = message_id(&MessageKey {
            workspace: webhook.workspace_id,
            webhook: webhook.id,
            event: &trial.facts.event_id,
            delivery: trial.facts.delivery_id,
            trigger: Trigger::Test,
        });
        // Whoever may ask for a preview may also have it sent.
        let attempt = (Trigger::Test, 1);
        self.prepare(&webhook, &message, attempt, body.into(), Signature::Shown)
    }

    /// Payloads as a webhook of the caller's workspace would get them, one for each kind, however often
    /// it is named.
    ///
    /// # Errors
    /// A kind is none.
    pub fn samples(
        &self,
        caller: &Caller,
        triggers: &[String],
    ) -> Result<Vec<Bytes>, ManagementError> {
        let wanted: Vec<&str> = match triggers {
            [] => vec!["KIND_EXIT"],
            some => some.iter().map(String::as_str).collect(),
        };
        let known: Vec<_> = sample::kinds().collect();
        let mut violations = Violations::default();
        let message = format!("is one of {}", known.join(", "));
        for (index, kind) in wanted.iter().enumerate() {
            if !known.contains(kind) {
                violations.refuse_entry("triggers", index, "unknown_value", &message);
            }
        }
        violations.verdict(())?;
        let now = self.now();
        let mut seen = HashSet::new();
        wanted
            .into_iter()
            .filter(|kind| seen.insert(*kind))
            .map(|kind| {
                let link = Uuid::from_bytes(rand::random());
                let event = sample::event(kind, fresh(caller.workspace, link, now));
                let rendition = rendered(event.as_bytes(), Profile::Standard)?;
                let kinds = [kind.to_owned()];
                let snapshot = WebhookSnapshot {
                    id: Uuid::from_bytes(rand::random()),
                    name: "Sample webhook",
                    endpoint_url: "https://example.com/hook",
                    status: "ACTIVE",
                    workspace_id: caller.workspace,
                    link_id: None,
                    created_by: Some(caller.member),
                    source: "LINKBREAKERS",
                    triggers: &kinds,
                    created_at_micros: now,
                    updated_at_micros: now,
                    last_sent_at_micros: None,
                    last_delivered_at_micros: None,
                    success_count: 0,
                    failure_count: 0,
                };
                let snapshot = render_snapshot(&snapshot, Profile::Standard);
                Ok([&rendition.head[..], &snapshot, &rendition.tail]
                    .concat()
                    .into())
            })
            .collect()
    }

    async fn send_test(
        &self,
        caller: &Caller,
        id: Option<Uuid>,
        event_id: Option<String>,
        once: Option<&Once>,
        face: HistoryFace,
    ) -> Result<Vec<u8>, ManagementError> {
        let id = id.ok_or(ManagementError::WebhookNotFound)?;
        let webhook = self.get_webhook(caller, id).await?;
        if webhook.status == WebhookStatus::Disabled {
            // Its owner said that nothing is to be sent.
            return Err(Refusal::WebhookDisabled.into());
        }
        let trial = self.trial(&webhook, event_id).await?;
        let row = self.send_trial(caller, trial, "webhook.test", once).await?;
        tracing::info!(delivery.id = %row.id, webhook.id = %id, workspace.id = %caller.workspace, "webhook.tested");
        (face.delivery)(&row)
    }

    /// Makes the delivery, if the workspace may send another test; `action` is its name in the audit
    /// log.
    pub(super) async fn send_trial(
        &self,
        caller: &Caller,
        trial: Trial,
        action: &'static str,
        once: Option<&Once>,
    ) -> Result<Box<DeliveryRow>, ManagementError> {
        let window = i64::try_from(TEST_WINDOW.as_micros()).unwrap_or(i64::MAX);
        let now = trial.facts.created_at;
        let test = NewTest {
            delivery: trial.facts,
            event: trial.event,
            event_day: trial.event_day,
            rendition: trial.rendition,
            snapshot: trial.snapshot,
            action,
            limit: TESTS_PER_WINDOW,
            window,
        };
        let actor = actor(caller);
        let wish = Wish {
            actor: &actor,
            now,
            claim: once.map(|once| store_key(caller, once)),
        };
        let sent = self.inner.store.send_test(&test, wish).await;
        match sent.map_err(claim_lost)? {
            TestSend::Made(row) => {
                self.inner.owed.hurry();
                Ok(row)
            }
            TestSend::TooMany(until) => {
                let wait = u64::try_from(until.saturating_sub(now)).unwrap_or(0);
                Err(ManagementError::RateLimited(Duration::from_micros(wait)))
            }
            TestSend::Expired => Err(Refusal::PayloadExpired.into()),
        }
    }

    async fn trial(
        &self,
        webhook: &WebhookRow,
        event_id: Option<String>,
    ) -> Result<Trial, ManagementError> {
        match event_id.filter(|id| !id.is_empty()) {
            Some(event_id) => self.trial_of_event(webhook, &event_id).await,
            None => self.trial_of_sample(webhook),
        }
    }

    async fn trial_of_event(
        &self,
        webhook: &WebhookRow,
        event_id: &str,
    ) -> Result<Trial, ManagementError> {
        let (workspace, now) = (webhook.workspace_id, self.now());
        let content = self.stored_event(workspace, event_id).await?;
        let profile = profile_of(webhook);
        let rendition =
            rendition_in(profile, &content.renditions)?.ok_or(Refusal::PayloadExpired)?;
        let event = content.event;
        if event.event_type == challenge::EVENT_TYPE {
            // It was made for one challenge, and is no event that anybody could get.
            return Err(Refusal::EventNotFound.into());
        }
        Ok(Trial {
            snapshot: snapshot(webhook, event.link_id, profile),
            facts: DeliveryFacts {
                delivery_id: test_id(webhook, &event.id, now),
                webhook_id: webhook.id,
                workspace_id: workspace,
                event_id: event.id,
                event_type: event.event_type,
                link_id: event.link_id,
                lbid: event.lbid,
                trigger: Trigger::Test,
                created_at: now,
                event_seq: event.event_seq,
            },
            event: None,
            event_day: content.day,
            rendition,
        })
    }

    fn trial_of_sample(&self, webhook: &WebhookRow) -> Result<Trial, ManagementError> {
        let (workspace, now) = (webhook.workspace_id, self.now());
        let drawn = Uuid::from_bytes(rand::random());
        let link = webhook.link_ids.first().copied().unwrap_or(drawn);
        let kind = match webhook.triggers.as_slice() {
            [first, ..] if !webhook.triggers.iter().any(|kind| kind == "KIND_EXIT") => first,
            _ => "KIND_EXIT",
        };
        let bytes = sample::event(kind, fresh(workspace, link, now));
        let parsed = parse_event(bytes.as_bytes(), &EventLimits::DEFAULT)
            .map_err(|rejection| ManagementError::internal(anyhow::anyhow!("{rejection}")))?;
        let profile = profile_of(webhook);
        let rendition = rendered(bytes.as_bytes(), profile)?;
        let event_id = format!("test-{}", Uuid::from_bytes(rand::random()));
        let event = VerdictRecord {
            workspace_id: workspace,
            event_id: event_id.clone(),
            // No place on EVENTS: that is what tells it from real ones.
            event_seq: 0,
            link_id: Some(link),
            lbid: parsed.lbid.clone(),
            event_type: parsed.event_type.to_string(),
            step_kind: parsed.step_kind.clone(),
            event_action: parsed.event_action.clone().unwrap_or_default(),
            accepted_at: now,
            event_timestamp: now,
            renderer_version: RENDERER_VERSION,
            renditions: vec![rendition.clone()],
            deliveries: Vec::new(),
        };
        Ok(Trial {
            snapshot: snapshot(webhook, Some(link), profile),
            facts: DeliveryFacts {
                delivery_id: test_id(webhook, &event_id, now),
                webhook_id: webhook.id,
                workspace_id: workspace,
                event_id,
                event_type: event.event_type.clone(),
                link_id: Some(link),
                lbid: parsed.lbid,
                trigger: Trigger::Test,
                created_at: now,
                event_seq: 0,
            },
            event: Some(event),
            event_day: Day::of_micros(now),
            rendition,
        })
    }
}

fn fresh(workspace: Uuid, link: Uuid, at_micros: i64) -> Fresh {
    Fresh {
        workspace,
        link,
        event: Uuid::from_bytes(rand::random()),
        step: Uuid::from_bytes(rand::random()),
        at_micros,
    }
}

pub(super) fn test_id(webhook: &WebhookRow, event_id: &str, now: i64) -> Uuid {
    let key = Uuid::from_bytes(rand::random());
    ids::replay_delivery_id(webhook.workspace_id, event_id, webhook.id, key, now)
}

/// The profile of a webhook; one of a later version shows less, not more.
pub(crate) fn profile_of(webhook: &WebhookRow) -> Profile {
    webhook.profile.parse().unwrap_or(Profile::Strict)
}

/// The event in this profile: as it is stored, or rendered from the standard one, which holds all
/// that any profile shows. `None` = it is past its retention.
pub(crate) fn rendition_in(
    profile: Profile,
    renditions: &[RenditionRecord],
) -> Result<Option<RenditionRecord>, ManagementError> {
    let of = |wanted: Profile| {
        renditions
            .iter()
            .find(|rendition| rendition.profile == wanted.as_str())
    };
    if let Some(stored) = of(profile) {
        return Ok(Some(stored.clone()));
    }
    of(Profile::Standard)
        .map(|standard| {
            let event = [&standard.head[..], b"{}", &standard.tail].concat();
            rendered(&event, profile)
        })
        .transpose()
}

fn rendered(event: &[u8], profile: Profile) -> Result<RenditionRecord, ManagementError> {
    let rendition = render(event, profile).map_err(ManagementError::internal)?;
    Ok(RenditionRecord {
        profile: profile.as_str().to_owned(),
        head: rendition.head.into(),
        tail: rendition.tail.into(),
    })
}

/// The `webhook` object of a body, as the webhook is now.
pub(crate) fn snapshot(webhook: &WebhookRow, link: Option<Uuid>, profile: Profile) -> Vec<u8> {
    let count = |count: i64| u64::try_from(count).unwrap_or(0);
    let snapshot = WebhookSnapshot {
        id: webhook.id,
        name: &webhook.name,
        endpoint_url: &webhook.endpoint_url,
        // The vendor's words know no automatic disabling.
        status: match webhook.status {
            WebhookStatus::Active => "ACTIVE",
            WebhookStatus::Paused => "PAUSED",
            WebhookStatus::Disabled | WebhookStatus::AutoDisabled => "DISABLED",
        },
        workspace_id: webhook.workspace_id,
        link_id: link.filter(|_| !webhook.link_ids.is_empty()),
        created_by: Some(webhook.created_by),
        source: webhook.source.as_str(),
        triggers: &webhook.triggers,
        created_at_micros: webhook.created_at,
        updated_at_micros: webhook.updated_at,
        last_sent_at_micros: webhook.last_sent_at,
        last_delivered_at_micros: webhook.last_delivered_at,
        success_count: count(webhook.success_count),
        failure_count: count(webhook.failure_count),
    };
    render_snapshot(&snapshot, profile)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_that_was_not_stored_comes_out_as_if_it_had_been() {
        let at = 1_800_000_000_000_000;
        let event = sample::event(
            "KIND_EXIT",
            fresh(Uuid::from_u128(1), Uuid::from_u128(2), at),
        );
        let standard = rendered(event.as_bytes(), Profile::Standard).unwrap();
        for profile in Profile::ALL {
            let direct = rendered(event.as_bytes(), profile).unwrap();
            let derived = rendition_in(profile, std::slice::from_ref(&standard)).unwrap();
            assert_eq!(derived, Some(direct), "{profile:?}");
        }
        assert_eq!(rendition_in(Profile::Standard, &[]).unwrap(), None);
    }
}
