//! What is killed when: drawn from a seed, so that a run can be told and begun again.

use std::time::Duration;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};

use crate::stack::Part;

/// Shortest and longest time between two kills.
pub(super) const BETWEEN: std::ops::Range<Duration> =
    Duration::from_millis(300)..Duration::from_millis(2_700);

/// Longest time that something stays dead.
pub(super) const DOWN_MAX: Duration = Duration::from_millis(3_000);

/// Whom the draw falls on. Dispatchers twice as often: they hold the most in memory.
const TARGETS: [Part; 9] = [
    Part::Ingest,
    Part::Fanout,
    Part::Dispatcher(1),
    Part::Dispatcher(1),
    Part::Dispatcher(2),
    Part::Dispatcher(2),
    Part::Management,
    Part::Nats,
    Part::Postgres,
];

/// One kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault {
    /// How long after the one before.
    pub(super) after: Duration,
    /// Who.
    pub(super) part: Part,
    /// How long it stays dead; one in four is started again at once.
    pub(super) down: Duration,
}

/// The kills of a run.
pub(super) fn plan(seed: u64, count: u32) -> Vec<Fault> {
    let mut dice = StdRng::seed_from_u64(seed);
    let mut draw = |_| Fault {
        after: dice.random_range(BETWEEN),
        part: *TARGETS.choose(&mut dice).expect("there are targets"),
        down: if dice.random_ratio(1, 4) {
            Duration::ZERO
        } else {
            dice.random_range(Duration::ZERO..DOWN_MAX)
        },
    };
    (0..count).map(&mut draw).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_seed_always_draws_the_same_and_another_something_else() {
        assert_eq!(plan(7, 50), plan(7, 50));
        assert_ne!(plan(7, 50), plan(8, 50));
        assert_eq!(plan(7, 50)[..20], plan(7, 20));
    }

    #[test]
    fn everybody_is_hit_sooner_or_later() {
        let hit: HashSet<Part> = plan(1, 200).iter().map(|fault| fault.part).collect();
        assert_eq!(hit.len(), 7);
    }
}
