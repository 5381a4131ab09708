//! Which deliveries are told to be blocked.
//!
//! A delivery of an ordered webhook that waits behind a failing one of its key is parked until after
//! that one's next attempt. It is then told as blocked, with whom it waits for, and the message that
//! parks it says what was told. So a delivery that comes back again and again, whoever owns the
//! partition by then, is told once, and again only when the failing one is another and it is itself
//! among the next [`NEAR`] of its key: a key of 20,000 whose deliveries all fail costs some
//! 20,000 reports in all, and `NEAR` for each that fails.
//!
//! What is told is taken away by the next report of the delivery, that of its attempt. Between the
//! end of the failing one and its own turn a delivery further behind still names the one it was
//! told of.

use std::time::Duration;

use uuid::Uuid;

/// How many behind a failing delivery are told of it although they were told of another one before.
pub(crate) const NEAR: usize = 32;

/// Where a delivery stands that waits for a failing one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Behind {
    /// The failing one.
    pub(crate) head: Uuid,
    /// How long to park what is behind it.
    pub(crate) wait: Duration,
    /// How many of the key go before it, the failing one among them.
    pub(crate) place: usize,
}

/// Whom to tell of, if it is worth a report. `told` = of whom was told before.
pub(crate) fn news(told: Option<Uuid>, behind: Behind) -> Option<Uuid> {
    match told {
        None => Some(behind.head),
        Some(before) if before != behind.head && behind.place <= NEAR => Some(behind.head),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_once_and_the_next_ones_whenever_another_fails() {
        let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let behind = |place| Behind {
            head: one,
            wait: Duration::ZERO,
            place,
        };
        for (told, place, expected) in [
            (None, 1, Some(one)),
            (None, 20_000, Some(one)),
            (Some(one), 1, None),
            (Some(other), 1, Some(one)),
            (Some(other), NEAR, Some(one)),
            (Some(other), NEAR + 1, None),
        ] {
            assert_eq!(news(told, behind(place)), expected, "{told:?} {place}");
        }
    }
}
