//! How many deliveries lie behind an event: the guard against circles.
//!
//! A receiver may publish what it was sent as an event of its own, and that event may be delivered to
//! the same receiver, without an end. Each request says in the header [`HEADER`] how many deliveries
//! lie behind it, itself among them. Whoever publishes it again hands the header on, and what comes back
//! with more than [`Hop::LAST`] is refused. It ends circles that nobody meant: nobody can be kept from
//! leaving the header out.

/// The header's name: in requests to endpoints, and at ingest in requests, gRPC metadata and NATS
/// messages.
pub const HEADER: &str = "x-linkbreakers-hop";

/// How many deliveries lie behind an event or a request. An event that its publisher made has 0, the
/// default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hop(u8);

/// A text that says no hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a hop is a decimal number from 0 to 255")]
pub struct NotAHop;

impl Hop {
    /// The highest with which an event is taken.
    pub const LAST: Self = Self(1);

    /// The hop with this number; above 255 it counts as 255.
    #[must_use]
    pub fn of(number: u32) -> Self {
        Self(u8::try_from(number).unwrap_or(u8::MAX))
    }

    /// Reads what a header says: decimal digits and nothing else.
    ///
    /// # Errors
    /// It is no number, or one above 255.
    pub fn parse(text: &str) -> Result<Self, NotAHop> {
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(NotAHop);
        }
        text.parse().map(Self).map_err(|_| NotAHop)
    }

    /// Its number.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Whether an event with it is taken.
    #[must_use]
    pub const fn may_enter(self) -> bool {
        self.0 <= Self::LAST.0
    }

    /// That of a request which delivers an event with this one. It ends at 255.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_event_goes_round_once_and_not_twice() {
        let own = Hop::default();
        let sent = own.next();
        assert_eq!((own.get(), sent.get()), (0, 1));
        assert!(own.may_enter() && sent.may_enter());
        let sent_again = sent.next();
        assert_eq!(sent_again.get(), 2);
        assert!(!sent_again.may_enter());
        let most = Hop::of(u32::MAX);
        assert_eq!((most.get(), most.next()), (255, most));
    }

    #[test]
    fn what_is_no_number_of_a_byte_is_no_hop() {
        for bad in [
            "", " ", "x", "+1", "-1", "1.0", "1 ", " 1", "1, 1", "0x1", "1e0", "256", "99999", "١",
        ] {
            assert_eq!(Hop::parse(bad), Err(NotAHop), "{bad:?}");
        }
        for (good, number) in [("0", 0), ("1", 1), ("01", 1), ("255", 255)] {
            assert_eq!(Hop::parse(good).map(Hop::get), Ok(number), "{good}");
        }
    }

    proptest! {
        #[test]
        fn a_hop_is_read_as_it_is_written(number in any::<u8>()) {
            let hop = Hop::of(u32::from(number));
            prop_assert_eq!(hop.get(), number);
            prop_assert_eq!(Hop::parse(&number.to_string()), Ok(hop));
        }

        #[test]
        fn whatever_is_read_is_a_number_and_whatever_else_is_refused(text in "[ +-]?[0-9x]{0,5}") {
            let number = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u8>().ok()).flatten();
            prop_assert_eq!(Hop::parse(&text).ok().map(Hop::get), number);
        }

        #[test]
        fn no_number_of_deliveries_makes_a_hop_that_enters_again(start in 0u32..6, deliveries in 0usize..300) {
            let start = Hop::of(start);
            let mut hop = start;
            for _ in 0..deliveries {
                prop_assert!(hop.next() >= hop);
                hop = hop.next();
            }
            let behind = usize::from(start.get()) + deliveries;
            prop_assert_eq!(hop.may_enter(), behind <= usize::from(Hop::LAST.get()));
        }
    }
}
