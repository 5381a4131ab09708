//! Going to another server of a cluster, when the one that we are connected to has nobody to ask.
//!
//! A server that is cut off from the others of its cluster keeps its clients and answers their PINGs, so
//! the client library stays where it is, for as long as the cut lasts. But nothing becomes durable there:
//! it is alone, and no stream has a leader any more, as soon as those that it led have noticed (10 to 20 s;
//! it goes on to tell what is in a stream). Whoever finds for a while that nothing is answered, or that
//! nobody leads, goes to one of the others.
//!
//! Where NATS has one server there is nowhere to go, and nothing happens.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_nats::{ReconnectToServer, Server, ServerAddr};
use tokio::time::Instant;

/// JetStream may be without an answer for so long, from the first question that had none, before another
/// server is tried. Longer than it takes to elect a leader (4 to 8 s, measured).
const PATIENCE: Duration = Duration::from_secs(8);

/// How often that is doubled where moving did not help: when no server answers, the fault is another.
const DOUBLINGS: u32 = 5;

/// Decides when to go. Pure: time is told.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    /// When the first question was not answered, or we moved.
    since: Option<Instant>,
    /// How often we have moved since something was answered.
    moves: u32,
}

impl Patience {
    /// JetStream has answered.
    pub(crate) fn answered(&mut self) {
        *self = Self::default();
    }

    /// There is no connection, so nobody could answer.
    pub(crate) fn disconnected(&mut self) {
        self.since = None;
    }

    /// A question was not answered, and it is `now`: whether to go elsewhere.
    pub(crate) fn is_over(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let doubled = 1 << self.moves.saturating_sub(1).min(DOUBLINGS);
        if now.saturating_duration_since(since) < PATIENCE * doubled {
            return false;
        }
        self.since = Some(now);
        self.moves += 1;
        true
    }
}

/// Which server to connect to next: the one that was chosen longest ago. So whichever is left, or does not
/// answer, or has no address, comes last, and none is tried twice before all others were.
#[derive(Debug, Default)]
pub(crate) struct Choice {
    chosen: Mutex<Chosen>,
}

#[derive(Debug, Default)]
struct Chosen {
    count: u64,
    /// When each was chosen last: by how many choices.
    last: HashMap<ServerAddr, u64>,
}

impl Choice {
    /// Chooses among the servers that are known, with `random` between 0 and 1; `None` where there is no
    /// choice. The client waits before it connects as long as it always does.
    pub(crate) fn next(&self, known: &[Server], random: f64) -> Option<ReconnectToServer> {
        // A server tells of its cluster by bare addresses, its own among them: where more than one was
        // configured, those are enough, and no two of them are the same.
        let configured = || known.iter().filter(|server| !server.is_discovered);
        let candidates: Vec<&Server> = match configured().count() {
            0 | 1 => known.iter().collect(),
            _ => configured().collect(),
        };
        let mut chosen = self.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        let last: Vec<u64> = candidates
            .iter()
            .map(|server| chosen.last.get(&server.addr).copied().unwrap_or(0))
            .collect();
        let addr = candidates[longest_ago(&last, random)?].addr.clone();
        chosen.count += 1;
        let count = chosen.count;
        chosen.last.insert(addr.clone(), count);
        chosen
            .last
            .retain(|addr, _| known.iter().any(|server| server.addr == *addr));
        (known.len() > 1).then_some(ReconnectToServer { addr, delay: None })
    }
}

/// One of those with the least number; `None` of none.
fn longest_ago(last: &[u64], random: f64) -> Option<usize> {
    let least = last.iter().min()?;
    let equals: Vec<usize> = (0..last.len())
        .filter(|index| last[*index] == *least)
        .collect();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index, bounded below"
    )]
    let place = (random * equals.len() as f64) as usize;
    equals.get(place.min(equals.len() - 1)).copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patience_ends_after_a_while_without_an_answer_and_grows_where_moving_did_not_help() {
        let (mut patience, start) = (Patience::default(), Instant::now());
        let mut moved = Vec::new();
        for second in 0..200_u64 {
            if patience.is_over(start + Duration::from_secs(second)) {
                moved.push(second);
            }
        }
        assert_eq!(moved, [8, 16, 32, 64, 128]);
        patience.answered();
        assert!(!patience.is_over(start + Duration::from_secs(200)));
        assert!(patience.is_over(start + Duration::from_secs(208)));
    }

    #[test]
    fn an_answer_or_no_connection_begins_it_anew() {
        for begins_anew in [Patience::answered, Patience::disconnected] {
            let (mut patience, start) = (Patience::default(), Instant::now());
            assert!(!patience.is_over(start));
            assert!(!patience.is_over(start + Duration::from_secs(7)));
            begins_anew(&mut patience);
            assert!(!patience.is_over(start + Duration::from_secs(9)));
            assert!(!patience.is_over(start + Duration::from_secs(16)));
            assert!(patience.is_over(start + Duration::from_secs(17)));
        }
    }

    proptest! {
        #[test]
        fn each_is_chosen_once_before_any_is_chosen_again(
            count in 1_usize..6,
            randoms in prop::collection::vec(0.0..=1.0, 60),
        ) {
            let mut last = vec![0; count];
            let mut chosen = Vec::new();
            for (number, random) in (1..).zip(randoms) {
                let one = longest_ago(&last, random).expect("there is a choice");
                last[one] = number;
                chosen.push(one);
            }
            for round in chosen.chunks_exact(count) {
                let mut round = round.to_vec();
                round.sort_unstable();
                prop_assert_eq!(round, (0..count).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn of_none_there_is_no_choice_and_each_of_equals_may_be_chosen() {
        assert_eq!(longest_ago(&[], 0.5), None);
        for (random, expected) in [(0.0, 1), (0.5, 3), (1.0, 3)] {
            assert_eq!(longest_ago(&[7, 2, 9, 2], random), Some(expected));
        }
    }
}
