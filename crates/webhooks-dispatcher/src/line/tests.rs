use super::{
    ordered::{OVERDUE_MICROS, PATIENCE_MICROS},
    *,
};
use proptest::prelude::*;
use std::{collections::BTreeSet, time::Duration};

const SECOND: i64 = 1_000_000;

fn rank(key: u64, seq: u64) -> Rank {
    Rank {
        link: Some(key),
        visitor: None,
        seq,
        accepted_micros: 0,
        delivery: Uuid::from_u64_pair(key, seq),
    }
}

fn line() -> Line<Rank> {
    let mut line = Line::new(Ordering::Link);
    assert!(line.must_learn());
    line.learn(Some((Vec::new(), true)));
    line.fanned_out(u64::MAX, 0);
    line
}

fn put(line: &mut Line<Rank>, rank: Rank, room: usize, now: i64) -> bool {
    match line.put(rank, rank, false, room, now) {
        Put::Taken => true,
        Put::NoRoom(_) => {
            line.park(rank, now + SECOND);
            false
        }
        Put::Blocked(_, behind) => {
            line.park(rank, now + i64::try_from(behind.wait.as_micros()).unwrap());
            false
        }
        Put::Twin(_) => panic!("{rank:?} twice"),
    }
}

#[test]
fn one_of_a_key_at_a_time_and_keys_beside_each_other() {
    let mut line = line();
    for (key, seq) in [(1, 10), (1, 11), (2, 12), (1, 13)] {
        assert!(put(&mut line, rank(key, seq), 100, 0));
    }
    assert_eq!(line.take(0), Some(rank(1, 10)));
    assert_eq!(line.take(0), Some(rank(2, 12)));
    assert_eq!(line.take(0), None);
    line.release(rank(1, 10), Release::Finished);
    assert_eq!(line.take(0), Some(rank(1, 11)));
    assert_eq!(line.take(0), None);
}

#[test]
fn a_failing_key_blocks_itself_alone_and_keeps_no_memory() {
    let mut line = line();
    for (key, seq) in [(1, 10), (1, 11), (2, 12)] {
        put(&mut line, rank(key, seq), 100, 0);
    }
    assert_eq!(line.take(0), Some(rank(1, 10)));
    line.release(rank(1, 10), Release::Later(30 * SECOND));
    assert_eq!(line.take(0), Some(rank(2, 12)));
    assert_eq!(line.take(0), None);
    let blocked = line.blocked(0);
    assert_eq!(blocked.len(), 1);
    let behind = |place| Behind {
        head: rank(1, 10).delivery,
        wait: Duration::from_secs(31),
        place,
    };
    assert_eq!((blocked[0].0, blocked[0].2), (rank(1, 11), behind(1)));
    // A later one is not even taken in.
    let later = rank(1, 14);
    match line.put(later, later, false, 100, 0) {
        Put::Blocked(_, found) => assert_eq!(found, behind(2)),
        other => panic!("{other:?}"),
    }
    // The retry comes and keeps its place.
    assert!(put(&mut line, rank(1, 10), 100, 30 * SECOND));
    assert_eq!(line.take(0), Some(rank(1, 10)));
    line.parked_as(rank(1, 11), 77);
    assert_eq!(line.wanted(100), Some(vec![]));
    line.release(rank(1, 10), Release::Finished);
    // Now the next of its key may leave RETRIES.
    assert_eq!(line.wanted(100), Some(vec![77]));
}

#[test]
fn nothing_starts_before_what_is_unfinished_was_read() {
    let mut line = Line::new(Ordering::Link);
    line.fanned_out(u64::MAX, 0);
    assert!(put(&mut line, rank(1, 20), 100, 0));
    assert!(!line.has_ready(0));
    assert!(line.must_learn() && !line.must_learn());
    let found = Found {
        rank: rank(1, 5),
        schedule: 9,
        due_micros: 60 * SECOND,
        parked: false,
    };
    line.learn(None);
    assert!(line.must_learn());
    line.learn(Some((vec![found], true)));
    // An earlier one of its key waits for its retry.
    assert_eq!(line.take(0), None);
    put(&mut line, rank(1, 5), 100, 0);
    assert_eq!(line.take(0), Some(rank(1, 5)));
    line.release(rank(1, 5), Release::Finished);
    assert_eq!(line.take(0), Some(rank(1, 20)));
}

#[test]
fn nothing_starts_before_the_events_before_are_fanned_out() {
    let mut line = Line::new(Ordering::Link);
    assert!(line.must_learn());
    line.learn(Some((Vec::new(), true)));
    assert!(!line.fanned_out(10, 0));
    put(&mut line, rank(1, 13), 100, 0);
    assert_eq!(line.take(0), None);
    assert!(line.fanned_out(11, 0), "it waits for event 12");
    // Which comes, and goes first.
    put(&mut line, rank(1, 12), 100, 0);
    assert_eq!(line.take(0), Some(rank(1, 12)));
    line.release(rank(1, 12), Release::Finished);
    assert_eq!(line.take(0), None);
    assert!(!line.fanned_out(12, 0));
    assert_eq!(line.take(0), Some(rank(1, 13)));
    // An event that is never fanned out stops nobody for ever.
    put(&mut line, rank(2, 99), 100, 0);
    assert_eq!(line.take(PATIENCE_MICROS - 1), None);
    assert_eq!(line.take(PATIENCE_MICROS), Some(rank(2, 99)));
}

#[test]
fn one_that_never_comes_back_does_not_block_for_ever() {
    let mut line = line();
    put(&mut line, rank(1, 1), 100, 0);
    put(&mut line, rank(1, 2), 100, 0);
    assert_eq!(line.take(0), Some(rank(1, 1)));
    line.release(rank(1, 1), Release::Later(SECOND));
    line.forget_overdue(SECOND);
    assert_eq!(line.take(0), None);
    line.forget_overdue(2 * SECOND + OVERDUE_MICROS);
    assert_eq!(line.take(0), Some(rank(1, 2)));
}

#[test]
fn what_has_no_key_waits_for_nobody() {
    let mut line = line();
    for seq in 0..5 {
        let alone = Rank {
            link: None,
            ..rank(1, seq)
        };
        put(&mut line, alone, 100, 0);
    }
    assert_eq!(std::iter::from_fn(|| line.take(0)).count(), 5);
}

#[test]
fn what_is_known_is_bounded_and_read_in_again() {
    let mut line = line();
    let limit = u64::try_from(MAX_KNOWN).unwrap();
    for seq in 0..limit + 5 {
        put(&mut line, rank(seq, seq), 10, 0);
    }
    let Line::Ordered(ordered) = &line else {
        panic!("it is ordered")
    };
    assert_eq!(ordered.known, MAX_KNOWN);
    assert!(ordered.overflowed && !line.must_learn());
    for seq in 0..limit / 2 {
        line.release(rank(seq, seq), Release::Finished);
        if let Some(taken) = line.take(0) {
            line.release(taken, Release::Finished);
        }
    }
    assert!(line.must_learn());
    assert!(!line.has_ready(0));
}

#[test]
fn the_order_can_be_switched_on_and_off() {
    let mut line = Line::new(Ordering::None);
    for seq in [3, 1, 2] {
        put(&mut line, rank(1, seq), 100, 0);
    }
    line.reorder(Ordering::Link);
    line.fanned_out(u64::MAX, 0);
    assert!(line.must_learn());
    line.learn(Some((Vec::new(), true)));
    assert_eq!(line.take(0), Some(rank(1, 1)));
    assert_eq!(line.take(0), None);
    line.reorder(Ordering::None);
    assert_eq!(line.take(0), Some(rank(1, 2)));
    assert_eq!(line.take(0), Some(rank(1, 3)));
    assert!(line.is_empty());
}

proptest! {
    /// Whatever happens to them, no delivery starts while an earlier one of its key that was seen is
    /// unfinished, nothing is in two places, and in the end all have gone.
    #[test]
    fn order_holds_through_retries_parking_and_spilling(
        room in 2usize..20,
        steps in prop::collection::vec((0u8..6, 0usize..50, 1u64..4), 1..400),
    ) {
        let mut line = line();
        let (mut now, mut next_seq) = (0i64, 1u64);
        let mut unfinished: BTreeSet<(u64, u64)> = BTreeSet::new();
        let (mut wire, mut away): (Vec<Rank>, Vec<Rank>) = (Vec::new(), Vec::new());
        let mut calm = 0;
        let mut script = steps.into_iter();
        loop {
            now += SECOND;
            // After the script everything is let finish.
            let (what, which, key) = script.next().unwrap_or_else(|| { calm += 1; ([4, 1, 2][calm % 3], 0, 1) });
            match what {
                0 => {
                    let new = rank(key, next_seq);
                    next_seq += 1;
                    unfinished.insert((key, new.seq));
                    if !put(&mut line, new, room, now) { away.push(new); }
                }
                1 => if let Some(rank) = line.take(0) {
                    let id = (rank.link.unwrap(), rank.seq);
                    prop_assert!(!wire.iter().any(|other| other.link == rank.link), "two of a key");
                    prop_assert_eq!(unfinished.range((id.0, 0)..).next(), Some(&id), "an earlier one is unfinished");
                    wire.push(rank);
                },
                2 => if !wire.is_empty() {
                    let rank = wire.swap_remove(which % wire.len());
                    unfinished.remove(&(rank.link.unwrap(), rank.seq));
                    line.release(rank, Release::Finished);
                },
                3 => if !wire.is_empty() {
                    let rank = wire.swap_remove(which % wire.len());
                    line.release(rank, Release::Later(now + 30 * SECOND));
                    away.push(rank);
                },
                4 => if !away.is_empty() {
                    let rank = away.remove(which % away.len());
                    if !put(&mut line, rank, room, now) { away.push(rank); }
                },
                _ => {
                    for (job, rank, _) in line.blocked(now) { line.park(rank, now); away.push(job); }
                    for (job, rank) in line.beyond(room / 2) { line.park(rank, now); away.push(job); }
                }
            }
            prop_assert!(line.waiting() <= room);
            if calm > 0 && unfinished.is_empty() { break; }
            prop_assert!(calm < 20_000, "stuck: {:?} wire {:?} away {:?} {:?}", unfinished, wire, away, line);
        }
        prop_assert!(line.is_empty());
    }
}
