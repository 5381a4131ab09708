//! What a customer configures, and the words for it.

use std::{fmt, str::FromStr};

/// The trigger list of a webhook created without one: the document's "EXIT" steps.
pub const DEFAULT_TRIGGERS: [&str; 1] = ["KIND_EXIT"];

/// The step kinds a webhook can ask for.
pub const TRIGGER_KINDS: [&str; 4] = [
    "KIND_ENTRY",
    "KIND_EXIT",
    "KIND_INTERACTION",
    "KIND_CONDITION",
];

/// Longest name, in characters.
pub const MAX_NAME_CHARS: usize = 255;

/// Most links one webhook can be bound to.
pub const MAX_LINKS: usize = 1_000;

/// Most event actions one webhook can ask for.
pub const MAX_EVENT_ACTIONS: usize = 64;

/// Longest event action, in bytes, without its prefix.
pub const MAX_EVENT_ACTION_BYTES: usize = 64;

/// The vendor's long spelling of an event action begins so.
const EVENT_ACTION_PREFIX: &str = "EVENT_ACTION_";

/// The short form of an event action, in which webhooks keep it and events are compared:
/// `EVENT_ACTION_CLIENT_REDIRECT` and `CLIENT_REDIRECT` are one word.
#[must_use]
pub fn event_action_word(word: &str) -> &str {
    word.strip_prefix(EVENT_ACTION_PREFIX).unwrap_or(word)
}

/// Whether a short word can be an event action: capitals, digits and underscores, beginning with a
/// capital. The list of actions is open, so an unknown word is no mistake that can be told.
#[must_use]
pub fn is_event_action(word: &str) -> bool {
    (1..=MAX_EVENT_ACTION_BYTES).contains(&word.len())
        && word.starts_with(|first: char| first.is_ascii_uppercase())
        && word
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
}

/// A webhook's status: what the customer sees, and what delivery obeys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WebhookStatus {
    /// Delivering.
    Active,
    /// Events are held and go out on resume.
    Paused,
    /// Off, by a person: events make no deliveries.
    Disabled,
    /// Off, after repeated failures: events are held until a person decides.
    AutoDisabled,
}

/// Why a webhook is not active.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StatusReason {
    /// A person did it.
    User,
    /// The circuit breaker paused it.
    DeliveryFailures,
    /// Ten deliveries failed in a row.
    ConsecutiveFailures,
    /// The endpoint answered 410.
    EndpointGone,
    /// Its endpoint has not shown yet that it belongs to who holds the secret. In the read model
    /// only: the table keeps what a person or deliveries made of the status.
    Unverified,
}

/// Who created a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum WebhookSource {
    /// The dashboard, or a program.
    #[default]
    Linkbreakers,
    /// Make.com.
    Make,
    /// Zapier.
    Zapier,
}

/// A word outside its enumeration.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown {what} {word:?}")]
pub struct UnknownWord {
    /// What it should have been.
    pub what: &'static str,
    /// The word.
    pub word: String,
}

macro_rules! words {
    ($name:ident, $what:literal, $($variant:ident => $word:literal),+ $(,)?) => {
        impl $name {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The short word, as in the payload and the database.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = UnknownWord;

            fn from_str(word: &str) -> Result<Self, UnknownWord> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(UnknownWord { what: $what, word: word.to_owned() }),
                }
            }
        }
    };
}

words!(WebhookStatus, "status", Active => "ACTIVE", Paused => "PAUSED", Disabled => "DISABLED", AutoDisabled => "AUTO_DISABLED");
words!(StatusReason, "status reason", User => "USER", DeliveryFailures => "DELIVERY_FAILURES", ConsecutiveFailures => "CONSECUTIVE_FAILURES", EndpointGone => "ENDPOINT_GONE", Unverified => "UNVERIFIED");
words!(WebhookSource, "source", Linkbreakers => "LINKBREAKERS", Make => "MAKE", Zapier => "ZAPIER");

/// Which deliveries of a webhook go one after another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DeliveryOrder {
    /// None wait for each other.
    #[default]
    None,
    /// Those of one link.
    Link,
    /// Those of one visitor.
    Visitor,
}

words!(DeliveryOrder, "ordering", None => "NONE", Link => "LINK", Visitor => "VISITOR");

/// What becomes of deliveries that were held while a webhook was not active.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum HeldChoice {
    /// They stay held until somebody chooses, or they expire.
    #[default]
    Keep,
    /// They go out.
    Deliver,
    /// They end without having been sent.
    Discard,
}

words!(HeldChoice, "choice for held deliveries", Keep => "KEEP", Deliver => "DELIVER", Discard => "DISCARD");

/// Requests a webhook may have open at the same time, when it says nothing else.
pub const DEFAULT_IN_FLIGHT: u32 = 8;

/// Most requests a webhook may have open at the same time.
pub const MAX_IN_FLIGHT: u32 = 64;

/// A workspace's plan. Sponsored and trial workspaces carry the plan they follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Plan {
    /// One webhook.
    Free,
    /// A configurable number, by default one.
    Light,
    /// Ten webhooks.
    Pro,
    /// No limit.
    Enterprise,
}

words!(Plan, "plan", Free => "FREE", Light => "LIGHT", Pro => "PRO", Enterprise => "ENTERPRISE");

impl Plan {
    /// How many webhooks of any status a workspace may have; `None` = no limit. The document names
    /// Free 1 and Pro 10; Light is `light`.
    #[must_use]
    pub fn webhook_limit(self, light: u32) -> Option<u32> {
        match self {
            Self::Free => Some(1),
            Self::Light => Some(light),
            Self::Pro => Some(10),
            Self::Enterprise => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip_and_strangers_are_named() {
        for status in WebhookStatus::ALL {
            assert_eq!(status.as_str().parse::<WebhookStatus>().unwrap(), *status);
        }
        assert_eq!(
            "GOLD".parse::<Plan>().unwrap_err().to_string(),
            "unknown plan \"GOLD\""
        );
    }

    #[test]
    fn an_event_action_has_one_word_and_a_charset() {
        assert_eq!(event_action_word("EVENT_ACTION_LINK_VISIT"), "LINK_VISIT");
        assert_eq!(event_action_word("LINK_VISIT"), "LINK_VISIT");
        for good in ["A", "CLIENT_REDIRECT", "V2_X", &"X".repeat(64)] {
            assert!(is_event_action(good), "{good}");
        }
        for bad in [
            "",
            "_A",
            "2A",
            "client_redirect",
            "A-B",
            "A B",
            "\u{c4}",
            &"X".repeat(65),
        ] {
            assert!(!is_event_action(bad), "{bad}");
        }
    }

    #[test]
    fn plan_limits_are_the_documents() {
        let limits: Vec<_> = Plan::ALL.iter().map(|plan| plan.webhook_limit(1)).collect();
        assert_eq!(limits, [Some(1), Some(1), Some(10), None]);
    }
}
