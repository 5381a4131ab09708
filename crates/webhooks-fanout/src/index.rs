//! The webhooks in memory, fed by the read model.
//!
//! Whether a delivery is held is decided here by the *configured* status alone. What deliveries have
//! made of an endpoint (its breaker is open, it was disabled automatically) is for the dispatcher
//! that owns it to know, this very moment; fan-out would know it a little later, and what it wrote
//! to HELD just after a recovery would wait for the next look there. So such deliveries go to
//! DELIVERIES like any other, and their owner moves them to HELD.

use std::sync::{Arc, PoisonError, RwLock};

use uuid::Uuid;
use webhooks_bus::ConfigSink;
use webhooks_domain::{
    event::Profile,
    matching::{EventFacts, Match, Participation, Subscription, WebhookIndex},
};
use webhooks_proto::internal::v1::{Status, WebhookConfig};

/// A webhook as fan-out needs it. Secrets are not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscriber {
    /// Its id.
    pub id: Uuid,
    /// Its workspace.
    pub workspace_id: Uuid,
    /// Its name.
    pub name: String,
    /// Where it sends to.
    pub endpoint_url: String,
    /// Its status.
    pub status: Status,
    /// The links it is bound to; empty = the whole workspace.
    pub link_ids: Vec<Uuid>,
    /// The step kinds it fires for; empty = every kind.
    pub triggers: Vec<String>,
    /// The event actions it fires for, in the short form; empty = every action.
    pub event_actions: Vec<String>,
    /// What made it, in the short form.
    pub source: String,
    /// The member who made it.
    pub created_by: Option<Uuid>,
    /// Microseconds since the epoch.
    pub created_at: i64,
    /// Microseconds since the epoch.
    pub updated_at: i64,
    /// What its payloads show.
    pub profile: Profile,
}

/// A webhook of the read model that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0} is not an id of 16 bytes")]
pub struct BadId(&'static str);

impl TryFrom<WebhookConfig> for Subscriber {
    type Error = BadId;

    fn try_from(config: WebhookConfig) -> Result<Self, BadId> {
        let id = |bytes: &[u8], what| Uuid::from_slice(bytes).map_err(|_| BadId(what));
        let links = config.link_ids.iter().map(|link| id(link, "a link"));
        Ok(Self {
            id: id(&config.id, "the webhook")?,
            workspace_id: id(&config.workspace_id, "the workspace")?,
            status: config.status(),
            link_ids: links.collect::<Result<_, _>>()?,
            created_by: Uuid::from_slice(&config.created_by).ok(),
            // A profile of a later version is unknown here: then the one that shows less.
            profile: match config.profile.as_str() {
                "" => Profile::default(),
                word => word.parse().unwrap_or(Profile::Strict),
            },
            name: config.name,
            endpoint_url: config.endpoint_url,
            triggers: config.triggers,
            event_actions: config.event_actions,
            source: config.source,
            created_at: config.created_at,
            updated_at: config.updated_at,
        })
    }
}

impl Subscriber {
    /// The status in the payload. The vendor's words know no automatic disabling.
    #[must_use]
    pub fn status_word(&self) -> &'static str {
        match self.status {
            Status::Active => "ACTIVE",
            Status::Paused => "PAUSED",
            Status::Disabled | Status::AutoDisabled | Status::Unspecified => "DISABLED",
        }
    }
}

impl Subscription for Subscriber {
    fn id(&self) -> Uuid {
        self.id
    }

    fn workspace_id(&self) -> Uuid {
        self.workspace_id
    }

    fn link_ids(&self) -> &[Uuid] {
        &self.link_ids
    }

    fn triggers(&self) -> &[String] {
        &self.triggers
    }

    fn event_actions(&self) -> &[String] {
        &self.event_actions
    }

    fn created_at_micros(&self) -> i64 {
        self.created_at
    }

    fn participation(&self) -> Participation {
        match self.status {
            Status::Active => Participation::Deliver,
            Status::Disabled => Participation::Ignore,
            // A status of a later version: nothing is lost while it is held.
            Status::Paused | Status::AutoDisabled | Status::Unspecified => Participation::Hold,
        }
    }
}

/// The index, shared between the mirror that feeds it and the tasks that ask it.
#[derive(Debug, Default)]
pub struct SharedIndex(RwLock<WebhookIndex<Subscriber>>);

impl SharedIndex {
    /// The webhooks that fire for an event, in the order of their ids.
    #[must_use]
    pub fn matches(&self, event: &EventFacts<'_>) -> Vec<Match<Subscriber>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .matches(event)
    }

    /// How many webhooks it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl ConfigSink for SharedIndex {
    fn webhook(&self, id: Uuid, config: Option<WebhookConfig>) {
        let subscriber = match config.map(Subscriber::try_from).transpose() {
            Ok(subscriber) => subscriber.filter(|subscriber| subscriber.id == id),
            Err(error) => {
                tracing::error!(webhook.id = %id, %error, "a webhook of the read model cannot be used");
                None
            }
        };
        let mut index = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match subscriber {
            Some(subscriber) => index.upsert(Arc::new(subscriber)),
            None => index.remove(id),
        };
    }

    fn reset(&self) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = WebhookIndex::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKSPACE: Uuid = Uuid::from_u128(1);
    const LINK: Uuid = Uuid::from_u128(2);

    fn config(id: u128, status: Status) -> WebhookConfig {
        WebhookConfig {
            id: Uuid::from_u128(id).as_bytes().to_vec().into(),
            workspace_id: WORKSPACE.as_bytes().to_vec().into(),
            status: status.into(),
            profile: "standard".to_owned(),
            ..WebhookConfig::default()
        }
    }

    fn event() -> EventFacts<'static> {
        EventFacts {
            workspace_id: WORKSPACE,
            link_id: LINK,
            step_kind: "KIND_EXIT",
            event_action: "CLIENT_REDIRECT",
            accepted_at_micros: 0,
            timestamp_micros: 0,
        }
    }

    fn feed(index: &SharedIndex, config: WebhookConfig) {
        let id = Uuid::from_slice(&config.id).unwrap();
        index.webhook(id, Some(config));
    }

    #[test]
    fn the_status_decides_between_delivering_holding_and_nothing() {
        let index = SharedIndex::default();
        for (id, status) in [
            (1, Status::Active),
            (2, Status::Paused),
            (3, Status::Disabled),
            (4, Status::AutoDisabled),
            (5, Status::Unspecified),
        ] {
            feed(&index, config(id, status));
        }
        let matched: Vec<_> = index
            .matches(&event())
            .iter()
            .map(|found| (found.webhook.id.as_u128(), found.participation))
            .collect();
        let hold = Participation::Hold;
        assert_eq!(
            matched,
            [(1, Participation::Deliver), (2, hold), (4, hold), (5, hold)]
        );
    }

    #[test]
    fn changes_and_removals_are_followed() {
        let index = SharedIndex::default();
        feed(&index, config(1, Status::Active));
        feed(
            &index,
            WebhookConfig {
                link_ids: vec![Uuid::from_u128(9).as_bytes().to_vec().into()],
                ..config(1, Status::Active)
            },
        );
        assert!(index.matches(&event()).is_empty());
        feed(
            &index,
            WebhookConfig {
                link_ids: vec![LINK.as_bytes().to_vec().into()],
                ..config(1, Status::Active)
            },
        );
        assert_eq!(index.matches(&event()).len(), 1);
        index.webhook(Uuid::from_u128(1), None);
        assert!(index.is_empty());
        feed(&index, config(1, Status::Active));
        index.reset();
        assert!(index.is_empty());
    }

    #[test]
    fn an_event_action_that_is_not_listed_makes_nothing() {
        let index = SharedIndex::default();
        for (id, actions) in [
            (1, &[][..]),
            (2, &["CLIENT_REDIRECT"][..]),
            (3, &["FORM_SUBMIT"][..]),
        ] {
            let listening = WebhookConfig {
                event_actions: actions.iter().map(|&word| word.to_owned()).collect(),
                ..config(id, Status::Active)
            };
            feed(&index, listening);
        }
        let matched = |event_action| -> Vec<u128> {
            let event = EventFacts {
                event_action,
                ..event()
            };
            let found = index.matches(&event);
            found.iter().map(|one| one.webhook.id.as_u128()).collect()
        };
        assert_eq!(matched("CLIENT_REDIRECT"), [1, 2]);
        assert_eq!(matched("EVENT_ACTION_FORM_SUBMIT"), [1, 3]);
        assert_eq!(matched(""), [1]);
    }

    #[test]
    fn what_cannot_be_used_is_not_used() {
        let index = SharedIndex::default();
        feed(&index, config(1, Status::Active));
        let broken = WebhookConfig {
            link_ids: vec![vec![1, 2].into()],
            ..config(1, Status::Active)
        };
        assert_eq!(Subscriber::try_from(broken.clone()), Err(BadId("a link")));
        index.webhook(Uuid::from_u128(1), Some(broken));
        assert!(index.is_empty());
    }

    #[test]
    fn an_unknown_profile_shows_less_and_none_is_the_standard() {
        let profile = |word: &str| {
            let config = WebhookConfig {
                profile: word.to_owned(),
                ..config(1, Status::Active)
            };
            Subscriber::try_from(config).unwrap().profile
        };
        assert_eq!(profile(""), Profile::Standard);
        assert_eq!(profile("thin"), Profile::Thin);
        assert_eq!(profile("of the future"), Profile::Strict);
    }
}
