//! The outside words: the vendor's long enum names, and which of our states hides behind which.
//!
//! The vendor's client knows three statuses; a fourth word would make it drop the whole answer. So
//! AUTO_DISABLED is shown as DISABLED, and `statusLabel` and `statusReason` (keys that the client
//! skips) tell the difference.

use webhooks_domain::webhook::{StatusReason, WebhookSource, WebhookStatus};

/// A status as customers see and set it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShownStatus {
    /// Delivering.
    Active,
    /// Off, by a person or automatically.
    Disabled,
    /// Events are held.
    Paused,
}

impl ShownStatus {
    /// The three words.
    pub const ALL: [Self; 3] = [Self::Active, Self::Disabled, Self::Paused];

    /// How a stored status is shown.
    #[must_use]
    pub fn of(status: WebhookStatus) -> Self {
        match status {
            WebhookStatus::Active => Self::Active,
            WebhookStatus::Paused => Self::Paused,
            WebhookStatus::Disabled | WebhookStatus::AutoDisabled => Self::Disabled,
        }
    }

    /// The stored statuses that are shown so; a filter finds them all.
    #[must_use]
    pub fn stored(self) -> &'static [WebhookStatus] {
        match self {
            Self::Active => &[WebhookStatus::Active],
            Self::Paused => &[WebhookStatus::Paused],
            Self::Disabled => &[WebhookStatus::Disabled, WebhookStatus::AutoDisabled],
        }
    }

    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "WEBHOOK_STATUS_ACTIVE",
            Self::Disabled => "WEBHOOK_STATUS_DISABLED",
            Self::Paused => "WEBHOOK_STATUS_PAUSED",
        }
    }

    /// Reads the word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }
}

/// The word that stands for "every status" in a filter.
pub(crate) const STATUS_UNSPECIFIED: &str = "WEBHOOK_STATUS_UNSPECIFIED";

/// What a person's wish makes of a stored status: `None` when it is what is already shown. Writing
/// back the status that was read changes nothing, so a client that echoes whole objects neither
/// re-enables nor re-labels anything.
pub(crate) fn wished(
    stored: WebhookStatus,
    wish: ShownStatus,
) -> Option<(WebhookStatus, Option<StatusReason>)> {
    if ShownStatus::of(stored) == wish {
        return None;
    }
    Some(by_person(wish))
}

/// What a person's wish is stored as.
pub(crate) fn by_person(wish: ShownStatus) -> (WebhookStatus, Option<StatusReason>) {
    match wish {
        ShownStatus::Active => (WebhookStatus::Active, None),
        ShownStatus::Disabled => (WebhookStatus::Disabled, Some(StatusReason::User)),
        ShownStatus::Paused => (WebhookStatus::Paused, Some(StatusReason::User)),
    }
}

/// The long word of a source.
pub(crate) fn source_word(source: WebhookSource) -> &'static str {
    match source {
        WebhookSource::Linkbreakers => "WEBHOOK_SOURCE_LINKBREAKERS",
        WebhookSource::Make => "WEBHOOK_SOURCE_MAKE",
        WebhookSource::Zapier => "WEBHOOK_SOURCE_ZAPIER",
    }
}

/// Reads the long word of a source; UNSPECIFIED reads as LINKBREAKERS.
pub(crate) fn parse_source(word: &str) -> Option<WebhookSource> {
    if word == "WEBHOOK_SOURCE_UNSPECIFIED" {
        return Some(WebhookSource::Linkbreakers);
    }
    WebhookSource::ALL
        .iter()
        .copied()
        .find(|source| source_word(*source) == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_back_what_is_shown_changes_nothing() {
        for stored in WebhookStatus::ALL {
            assert_eq!(wished(*stored, ShownStatus::of(*stored)), None);
        }
    }

    #[test]
    fn a_wish_is_a_persons_reason() {
        use WebhookStatus::{Active, AutoDisabled, Disabled, Paused};
        let by_user = Some(StatusReason::User);
        for (stored, wish, expected) in [
            (AutoDisabled, ShownStatus::Active, (Active, None)),
            (Disabled, ShownStatus::Active, (Active, None)),
            (Paused, ShownStatus::Active, (Active, None)),
            (Active, ShownStatus::Paused, (Paused, by_user)),
            (AutoDisabled, ShownStatus::Paused, (Paused, by_user)),
            (Active, ShownStatus::Disabled, (Disabled, by_user)),
            (Paused, ShownStatus::Disabled, (Disabled, by_user)),
        ] {
            assert_eq!(wished(stored, wish), Some(expected), "{stored} → {wish:?}");
        }
    }

    #[test]
    fn every_stored_status_is_found_under_its_word() {
        for stored in WebhookStatus::ALL {
            assert!(ShownStatus::of(*stored).stored().contains(stored));
        }
        for shown in ShownStatus::ALL {
            assert_eq!(ShownStatus::parse(shown.as_str()), Some(shown));
        }
        assert_eq!(ShownStatus::parse("ACTIVE"), None);
        for source in WebhookSource::ALL {
            assert_eq!(parse_source(source_word(*source)), Some(*source));
        }
        assert_eq!(parse_source("MAKE"), None);
    }
}
