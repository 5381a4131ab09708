use super::*;
use proptest::prelude::*;
use uuid::Uuid;

const SECOND: i64 = 1_000_000;

fn rank(n: i32) -> Rank {
    Rank {
        link: None,
        visitor: None,
        seq: u64::try_from(n).unwrap_or(0),
        accepted_micros: 0,
        delivery: Uuid::from_u128(u128::try_from(n).unwrap_or(0)),
    }
}

fn allowed(cap: usize) -> Allowed {
    Allowed {
        cap,
        rate: None,
        ordering: Ordering::None,
    }
}

fn rated(count: u32, period: u32, burst: u32) -> Allowed {
    Allowed {
        rate: Some(RateLimit::new(count, period, burst).unwrap()),
        ..allowed(8)
    }
}

fn put(endpoint: &mut Endpoint<i32>, n: i32, share: usize, now: i64) -> Option<Duration> {
    match endpoint.admit(n, rank(n), false, share, now) {
        Admission::Taken => None,
        Admission::Park(_, parking) => Some(wait_of(parking)),
        Admission::Twin(_) => panic!("{n} twice"),
    }
}

fn wait_of(parking: Parking) -> Duration {
    match parking {
        Parking::Room(wait) => wait,
        Parking::Behind(behind) => behind.wait,
    }
}

fn answers(endpoint: &mut Endpoint<i32>, times: usize, latency: Duration) {
    for _ in 0..times {
        endpoint.ended(latency, 0);
    }
}

fn slow(limit: usize) -> Endpoint<i32> {
    let mut endpoint = Endpoint::new(allowed(8), limit, 0);
    answers(&mut endpoint, 100, Duration::from_secs(8));
    endpoint
}

#[test]
fn a_slow_endpoint_parks_what_does_not_fit_spaced_as_it_answers() {
    let mut endpoint = slow(256);
    for n in 0..20 {
        assert_eq!(put(&mut endpoint, n, 999, 0), None);
    }
    let waits: Vec<_> = (20..25)
        .map(|n| put(&mut endpoint, n, 999, 0).unwrap())
        .collect();
    assert!(waits.windows(2).all(|pair| pair[0] < pair[1]), "{waits:?}");
    assert!(
        waits[4] - waits[3] > Duration::from_millis(900),
        "{waits:?}"
    );
}

#[test]
fn a_fast_endpoints_burst_waits_in_memory() {
    let mut endpoint = Endpoint::new(allowed(8), 16, 0);
    answers(&mut endpoint, 100, Duration::from_millis(2));
    assert!((0..2_000).all(|n| put(&mut endpoint, n, 1, 0).is_none()));
}

#[test]
fn one_that_falls_silent_becomes_slow_and_spills_what_it_holds() {
    let mut endpoint = Endpoint::new(allowed(8), 16, 0);
    assert!((0..100).all(|n| put(&mut endpoint, n, 1_000, 0).is_none()));
    while endpoint.start(0).is_some() {}
    assert!(endpoint.spill(1_000, 10_000).is_empty());
    let spilt = endpoint.spill(1_000, 10 * SECOND);
    assert_eq!(endpoint.waiting(), 32);
    assert_eq!(spilt.len(), 100 - 8 - 32);
    // The oldest stay next in line, and come back in the order in which they came.
    assert_eq!(spilt[0].0, 40);
    assert!(
        spilt
            .windows(2)
            .all(|pair| wait_of(pair[0].1) <= wait_of(pair[1].1))
    );
    assert_eq!(endpoint.start(10 * SECOND), None);
}

#[test]
fn a_backlog_lies_still_and_goes_as_fast_as_the_endpoint_when_it_recovers() {
    let mut endpoint = slow(256);
    let parked: Vec<_> = (0..20_000)
        .filter_map(|n| put(&mut endpoint, n, 999, 0))
        .collect();
    assert_eq!(parked.len(), 20_000 - 20);
    // Nothing is written again for minutes.
    let soon = parked.iter().filter(|wait| **wait < MAX_PARK).count();
    assert!(soon < 400, "{soon}");
    assert!(endpoint.wake(999, 0).is_none(), "its line is full");
    // It answers at once now; whatever room there is gets filled.
    let (mut seen, mut woken) = (0, 0);
    for step in 0..200i64 {
        let now = step * 10_000;
        while endpoint.start(now).is_some() {
            seen += 1;
            endpoint.ended(Duration::from_millis(1), now);
        }
        if let Some(Wake::Oldest { count, .. }) = endpoint.wake(999, now) {
            assert!(count <= WAKE_AT_ONCE);
            for n in 0..i32::try_from(count).unwrap() {
                let back = 100_000 + woken + n;
                assert!(matches!(
                    endpoint.admit(back, rank(back), true, 999, now),
                    Admission::Taken
                ));
            }
            woken += i32::try_from(count).unwrap();
            endpoint.woken(Woken::More(u64::try_from(woken).unwrap()), now);
        }
    }
    assert!(seen > 15_000, "{seen} in 2 s");
}

#[test]
fn what_the_rate_holds_back_waits_or_is_parked_and_a_new_owner_begins_empty() {
    let mut endpoint = Endpoint::new(rated(2, 1, 4), 256, 0);
    for n in 0..40 {
        assert_eq!(put(&mut endpoint, n, 999, 0), None);
    }
    // The next one would wait for more than twenty seconds.
    assert_eq!(
        put(&mut endpoint, 40, 999, 0),
        Some(Duration::from_secs(20))
    );
    assert_eq!(
        endpoint.startable(0),
        Startable::After(Duration::from_millis(500))
    );
    assert_eq!(endpoint.start(0), None);
    assert_eq!(endpoint.start(SECOND / 2), Some(0));
    assert_eq!(endpoint.start(SECOND / 2), None);
    // Nobody sends for long: the bucket is full, and gives its burst.
    let later = 60 * SECOND;
    endpoint.ended(Duration::from_millis(1), later);
    let burst = std::iter::from_fn(|| endpoint.start(later)).count();
    assert_eq!(burst, 4);
    assert!(!endpoint.is_idle(later));
}

#[test]
fn limits_change_live_and_a_new_rate_begins_empty() {
    let mut endpoint = Endpoint::new(allowed(1), 256, 0);
    for n in 0..6 {
        put(&mut endpoint, n, 999, 0);
    }
    assert!(endpoint.start(0).is_some() && endpoint.start(0).is_none());
    endpoint.allow(allowed(3), 0);
    assert!(endpoint.start(0).is_some() && endpoint.start(0).is_some());
    assert!(endpoint.start(0).is_none());
    endpoint.allow(rated(1, 1, 5), 0);
    assert_eq!(
        endpoint.startable(0),
        Startable::After(Duration::from_secs(1))
    );
    // The same again changes nothing.
    endpoint.allow(rated(1, 1, 5), SECOND);
    assert_eq!(endpoint.startable(SECOND), Startable::Now);
}

#[test]
fn requests_of_the_owner_before_count_against_the_cap() {
    let mut endpoint = Endpoint::new(allowed(2), 256, 0);
    endpoint.foreign_began();
    for n in 0..3 {
        put(&mut endpoint, n, 999, 0);
    }
    assert!(endpoint.start(0).is_some() && endpoint.start(0).is_none());
    endpoint.foreign_ended();
    assert!(endpoint.start(0).is_some() && endpoint.start(0).is_none());
}

#[test]
fn everything_scheduled_goes_when_its_webhook_is_off() {
    let mut endpoint = slow(256);
    for n in 0..40 {
        put(&mut endpoint, n, 999, 0);
    }
    assert!(endpoint.wake(999, 0).is_none());
    let step = |from| {
        Some(Wake::Scheduled {
            from,
            count: FLUSH_AT_ONCE,
            flush: Flush::All,
        })
    };
    endpoint.flush(Some(Flush::All));
    assert_eq!(endpoint.wake(999, 0), step(0));
    endpoint.woken(Woken::FlushMore(20), 0);
    assert!(endpoint.wake(999, 0).is_none(), "they go in small steps");
    assert_eq!(endpoint.wake(999, FLUSH_EVERY_MICROS), step(20));
    // Another one is scheduled while the stream says that there are no more.
    endpoint.flush(Some(Flush::All));
    endpoint.woken(Woken::Flushed(Flush::All), FLUSH_EVERY_MICROS);
    assert_eq!(endpoint.wake(999, SECOND), step(0));
    endpoint.woken(Woken::Flushed(Flush::All), SECOND);
    assert!(!endpoint.is_flushing());
    assert!(endpoint.wake(999, 2 * SECOND).is_none());
    assert!(endpoint.drain().len() == 20);
}

#[test]
fn what_a_person_discarded_goes_once() {
    let mut endpoint = slow(256);
    endpoint.flush(Some(Flush::Before(7)));
    assert!(endpoint.is_flushing() && !endpoint.is_idle(0));
    assert!(matches!(
        endpoint.wake(999, 0),
        Some(Wake::Scheduled {
            flush: Flush::Before(7),
            ..
        })
    ));
    endpoint.woken(Woken::Flushed(Flush::Before(7)), 0);
    endpoint.flush(Some(Flush::Before(7)));
    assert!(!endpoint.is_flushing(), "it has gone already");
    endpoint.flush(Some(Flush::Before(8)));
    assert!(endpoint.is_flushing(), "a later choice is another one");
    endpoint.flush(None);
    assert!(!endpoint.is_flushing());
}

#[test]
fn nothing_is_let_go_again_at_once_when_the_bus_did_not_answer() {
    let mut endpoint = Endpoint::<i32>::new(allowed(8), 256, 0);
    endpoint.look_for_parked();
    assert!(endpoint.wake(999, 0).is_some());
    endpoint.woken(Woken::Failed, 0);
    assert!(endpoint.wake(999, WAKE_PAUSE_MICROS - 1).is_none());
    assert!(endpoint.wake(999, WAKE_PAUSE_MICROS).is_some());
}

#[test]
fn a_new_rate_does_not_wait_for_the_timer_of_the_old_one() {
    let mut endpoint = Endpoint::new(rated(1, 3_600, 1), 256, 0);
    put(&mut endpoint, 1, 999, 0);
    let Startable::After(hour) = endpoint.startable(0) else {
        panic!("it begins empty");
    };
    assert!(hour > Duration::from_secs(3_000) && endpoint.set_timer());
    endpoint.allow(rated(10, 1, 1), 0);
    assert!(endpoint.set_timer(), "a timer of its own");
    assert!(!endpoint.set_timer());
}

#[test]
fn a_fault_of_ours_is_tried_by_one_at_a_time_ever_more_rarely_and_teaches_no_latency() {
    let mut endpoint = Endpoint::new(allowed(8), 256, 0);
    answers(&mut endpoint, 100, Duration::from_millis(2));
    let latency = endpoint.latency_micros;
    for n in 0..500 {
        put(&mut endpoint, n, 999, 0);
    }
    while endpoint.start(0).is_some() {}
    assert_eq!(endpoint.in_flight, 8);
    let (mut now, mut tries) = (0, 0);
    for _ in 0..8 {
        endpoint.own_fault(now, 1.0);
    }
    assert_eq!(endpoint.rests, 1, "they failed of the same");
    while now < 600 * SECOND {
        now += SECOND / 10;
        if endpoint.start(now).is_some() {
            tries += 1;
            assert!(endpoint.start(now).is_none(), "one at a time");
            now += 5 * SECOND;
            endpoint.own_fault(now, 1.0);
            assert!(endpoint.wake(999, now).is_none(), "it rests");
        }
    }
    assert!((15..25).contains(&tries), "{tries} in ten minutes");
    assert_eq!(endpoint.latency_micros, latency);
    // It is over: all go at once.
    now += 31 * SECOND;
    assert!(endpoint.start(now).is_some());
    endpoint.ended(Duration::from_millis(2), now);
    let at_once = std::iter::from_fn(|| endpoint.start(now)).count();
    assert_eq!(at_once, 8);
}

proptest! {
    #[test]
    fn never_more_in_flight_than_the_cap_and_nothing_is_lost(
        cap in 1usize..10, limit in 1usize..20, rate in prop::option::of((1u32..20, 1u32..4, 1u32..10)),
        steps in prop::collection::vec(0u8..5, 1..300),
    ) {
        let rate = rate.map(|(count, period, burst)| RateLimit::new(count, period, burst).unwrap());
        let mut endpoint = Endpoint::new(Allowed { rate, ..allowed(cap) }, limit, 0);
        let (mut given, mut started, mut ended, mut parked) = (0, 0u32, 0u32, 0usize);
        for (now, step) in (0i64..).step_by(700_000).zip(steps) {
            match step {
                0 | 1 => { parked += usize::from(put(&mut endpoint, given, 99, now).is_some()); given += 1; }
                2 => if endpoint.start(now).is_some() { started += 1; },
                3 => parked += endpoint.spill(99, now).len(),
                _ => if started > ended { ended += 1; endpoint.ended(Duration::from_millis(1), now); },
            }
            prop_assert!((started - ended) as usize <= cap);
        }
        let waiting = endpoint.drain().len();
        prop_assert_eq!(usize::try_from(given).unwrap(), parked + started as usize + waiting);
    }

    #[test]
    fn a_park_is_bounded(latency in 0u64..40_000, count in 1i32..400) {
        let mut endpoint = Endpoint::new(allowed(8), 1, 0);
        answers(&mut endpoint, 50, Duration::from_millis(latency));
        for n in 0..count {
            if let Some(wait) = put(&mut endpoint, n, 99, 0) { prop_assert!((MIN_PARK..=MAX_PARK).contains(&wait)); }
        }
    }

    #[test]
    fn no_window_has_more_starts_than_the_rate_allows(count in 1u32..20, burst in 1u32..10, steps in prop::collection::vec(0i64..400_000, 1..200)) {
        let what = rated(count, 1, burst);
        let limit = what.rate.unwrap();
        let mut endpoint = Endpoint::new(Allowed { cap: 1_000, ..what }, 1_000, 0);
        let (mut now, mut starts, mut n) = (0, Vec::new(), 0);
        for step in steps {
            now += step;
            while endpoint.waiting() < 8 { put(&mut endpoint, n, 999, now); n += 1; }
            while endpoint.start(now).is_some() { starts.push(now); endpoint.ended(Duration::ZERO, now); }
        }
        for (first, from) in starts.iter().enumerate() {
            for (last, to) in starts.iter().enumerate().skip(first) {
                let most = i64::from(burst) + (to - from) / limit.interval_micros();
                prop_assert!(i64::try_from(last - first + 1).unwrap() <= most);
            }
        }
    }
}
