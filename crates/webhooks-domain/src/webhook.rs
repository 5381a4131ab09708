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
words!(StatusReason, "status reason", User => "USER", DeliveryFailures => "DELIVERY_FAILURES", ConsecutiveFailures => "CONSECUTIVE_FAILURES", EndpointGone => "ENDPOINT_GONE");
words!(WebhookSource, "source", Linkbreakers => "LINKBREAKERS", Make => "MAKE", Zapier => "ZAPIER");

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
    fn plan_limits_are_the_documents() {
        let limits: Vec<_> = Plan::ALL.iter().map(|plan| plan.webhook_limit(1)).collect();
        assert_eq!(limits, [Some(1), Some(1), Some(10), None]);
    }
}
