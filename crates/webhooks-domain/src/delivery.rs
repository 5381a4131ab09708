//! A delivery's states, and which report wins when several tell of the same delivery.
//!
//! Reports may arrive twice, late and out of order (gRPC retries, the spool, an owner that was
//! thought dead). [`merge`] is the one rule that orders them: it is commutative and idempotent, so
//! the stored state does not depend on the order of arrival.

use std::{fmt, str::FromStr};

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeliveryState {
    /// Owed, not attempted yet.
    Pending,
    /// Attempted without success, another attempt is due.
    Retrying,
    /// Waits because its webhook is paused or was disabled automatically.
    Held,
    /// The endpoint answered 2xx.
    Delivered,
    /// Gave up.
    Failed,
    /// Its webhook was disabled or deleted before it was sent.
    Cancelled,
}

impl DeliveryState {
    /// Every state.
    pub const ALL: [Self; 6] = [
        Self::Pending,
        Self::Retrying,
        Self::Held,
        Self::Delivered,
        Self::Failed,
        Self::Cancelled,
    ];

    /// Nothing more will be sent.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Delivered | Self::Failed | Self::Cancelled)
    }

    /// The word in the API and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Retrying => "RETRYING",
            Self::Held => "HELD",
            Self::Delivered => "DELIVERED",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
        }
    }

    fn terminal_rank(self) -> u8 {
        match self {
            Self::Pending | Self::Retrying | Self::Held => 0,
            Self::Cancelled => 1,
            Self::Failed => 2,
            Self::Delivered => 3,
        }
    }
}

impl fmt::Display for DeliveryState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no delivery state.
#[derive(Debug, thiserror::Error)]
#[error("unknown delivery state {0:?}")]
pub struct UnknownState(pub String);

impl FromStr for DeliveryState {
    type Err = UnknownState;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == s)
            .ok_or_else(|| UnknownState(s.to_owned()))
    }
}

/// What is known of a delivery: its state, the attempts begun, and when that was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The state.
    pub state: DeliveryState,
    /// Number of the highest attempt made, 0 before the first.
    pub attempts: u32,
    /// Microseconds since the epoch.
    pub at_micros: i64,
}

/// Which of two accounts of one delivery stands: a terminal one outranks an open one, a success
/// outranks a failure (the customer has the event), and among open ones the later account wins.
#[must_use]
pub fn merge(a: Progress, b: Progress) -> Progress {
    if order(&b) > order(&a) { b } else { a }
}

fn order(p: &Progress) -> (u8, u32, i64, u8) {
    let open = match p.state {
        DeliveryState::Held => 1,
        DeliveryState::Retrying => 2,
        _ => 0,
    };
    // Among open accounts the later one tells the truth (held, then released, then retrying), but
    // an attempt is never forgotten for a clock that ran behind.
    (p.state.terminal_rank(), p.attempts, p.at_micros, open)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_progress() -> impl Strategy<Value = Progress> {
        (0usize..6, 0u32..4, 0i64..5).prop_map(|(s, attempts, at_micros)| Progress {
            state: DeliveryState::ALL[s],
            attempts,
            at_micros,
        })
    }

    proptest! {
        #[test]
        fn merging_ignores_order_and_repetition(a in any_progress(), b in any_progress(), c in any_progress()) {
            prop_assert_eq!(merge(a, b), merge(b, a));
            prop_assert_eq!(merge(merge(a, b), c), merge(a, merge(b, c)));
            prop_assert_eq!(merge(a, a), a);
        }

        #[test]
        fn a_terminal_state_is_left_only_for_a_stronger_one(a in any_progress(), b in any_progress()) {
            let merged = merge(a, b);
            if a.state.is_terminal() { prop_assert!(merged.state.is_terminal()); }
            if a.state == DeliveryState::Delivered { prop_assert_eq!(merged.state, DeliveryState::Delivered); }
        }
    }

    #[test]
    fn words_round_trip() {
        for state in DeliveryState::ALL {
            assert_eq!(state.as_str().parse::<DeliveryState>().unwrap(), state);
        }
        assert!("pending".parse::<DeliveryState>().is_err());
    }
}
