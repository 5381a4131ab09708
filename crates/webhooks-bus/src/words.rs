//! What an attempt met, what that means and what made a delivery: the domain's words and those of
//! messages and of the API.
//!
//! A reader may meet a word of a later version, which decodes as none. What that stands for differs
//! from reader to reader, so here it is `None`.

use webhooks_domain::{
    endpoint::{FailureClass, Outcome},
    ids::Trigger,
};
use webhooks_proto::v1;

/// An outcome on the wire.
#[must_use]
pub fn wire_outcome(outcome: Outcome) -> v1::Outcome {
    match outcome {
        Outcome::Success => v1::Outcome::Success,
        Outcome::HttpError => v1::Outcome::HttpError,
        Outcome::Timeout => v1::Outcome::Timeout,
        Outcome::Unreachable => v1::Outcome::Unreachable,
        Outcome::TlsError => v1::Outcome::TlsError,
        Outcome::InvalidResponse => v1::Outcome::InvalidResponse,
        Outcome::Blocked => v1::Outcome::Blocked,
        Outcome::Internal => v1::Outcome::Internal,
        Outcome::TokenError => v1::Outcome::TokenError,
    }
}

/// An outcome of the wire; `None` when it is none.
#[must_use]
pub fn outcome_of(outcome: v1::Outcome) -> Option<Outcome> {
    Some(match outcome {
        v1::Outcome::Success => Outcome::Success,
        v1::Outcome::HttpError => Outcome::HttpError,
        v1::Outcome::Timeout => Outcome::Timeout,
        v1::Outcome::Unreachable => Outcome::Unreachable,
        v1::Outcome::TlsError => Outcome::TlsError,
        v1::Outcome::InvalidResponse => Outcome::InvalidResponse,
        v1::Outcome::Blocked => Outcome::Blocked,
        v1::Outcome::Internal => Outcome::Internal,
        v1::Outcome::TokenError => Outcome::TokenError,
        v1::Outcome::Unspecified => return None,
    })
}

/// The class of a failure on the wire, which has a word for a success as well.
#[must_use]
pub fn wire_class(class: Option<FailureClass>) -> v1::FailureClass {
    match class {
        None => v1::FailureClass::Unspecified,
        Some(FailureClass::Temporary) => v1::FailureClass::Temporary,
        Some(FailureClass::Permanent) => v1::FailureClass::Permanent,
        Some(FailureClass::Ours) => v1::FailureClass::Ours,
    }
}

/// The class of a failure of the wire; `None` when it is none.
#[must_use]
pub fn class_of(class: v1::FailureClass) -> Option<FailureClass> {
    match class {
        v1::FailureClass::Temporary => Some(FailureClass::Temporary),
        v1::FailureClass::Permanent => Some(FailureClass::Permanent),
        v1::FailureClass::Ours => Some(FailureClass::Ours),
        v1::FailureClass::Unspecified => None,
    }
}

/// What made a delivery, on the wire.
#[must_use]
pub fn wire_trigger(trigger: Trigger) -> v1::Trigger {
    match trigger {
        Trigger::Event => v1::Trigger::Event,
        Trigger::Replay => v1::Trigger::Replay,
        Trigger::Test => v1::Trigger::Test,
    }
}

/// What made a delivery of the wire; `None` when it is none.
#[must_use]
pub fn trigger_of(trigger: v1::Trigger) -> Option<Trigger> {
    match trigger {
        v1::Trigger::Event => Some(Trigger::Event),
        v1::Trigger::Replay => Some(Trigger::Replay),
        v1::Trigger::Test => Some(Trigger::Test),
        v1::Trigger::Unspecified => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words are the same but for the prefix, and each comes back as it was.
    #[test]
    fn our_words_are_the_protocols_words() {
        for known in Outcome::ALL {
            let wire = wire_outcome(known);
            assert_eq!(wire.as_str_name(), format!("OUTCOME_{}", known.as_str()));
            assert_eq!(outcome_of(wire), Some(known));
        }
        for known in FailureClass::ALL {
            let wire = wire_class(Some(known));
            let word = format!("FAILURE_CLASS_{}", known.as_str());
            assert_eq!(wire.as_str_name(), word);
            assert_eq!(class_of(wire), Some(known));
        }
        assert_eq!(class_of(wire_class(None)), None);
        for known in [Trigger::Event, Trigger::Replay, Trigger::Test] {
            let wire = wire_trigger(known);
            assert_eq!(wire.as_str_name(), format!("TRIGGER_{}", known.api_word()));
            assert_eq!(trigger_of(wire), Some(known));
        }
    }
}
