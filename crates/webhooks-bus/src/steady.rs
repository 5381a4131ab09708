//! A clock that does not jump, and that says whether it can be believed.
//!
//! A signature carries the time, and receivers refuse one that is five minutes off: with a clock that
//! is wrong, every customer's endpoint would answer 401 and be blamed for it. And a webhook takes the
//! events accepted after its creation: with an ingest or a management whose clocks are an hour apart,
//! events would match nothing. So a service looks at the wall clock through this one. At the start,
//! and whenever the wall clock has stepped against the clock that only runs forward, the server that
//! leads LEASES is asked what time it is. Three answers are possible after a step:
//!
//! 1. it agrees with the wall clock (the machine was suspended, or the clock set right): that is the
//!    time,
//! 2. it agrees with what the wall clock would show had it not stepped: that is the time, the step is
//!    an alarm, and work goes on,
//! 3. it agrees with neither: the service is not ready, and a dispatcher starts no attempt and leaves
//!    its partitions to others.
//!
//! Between two questions only our own two clocks are compared, so a step is noticed at the next
//! reading and not at the next question; and a server whose clock steps while ours runs evenly stops
//! nobody. What is *not* noticed: both clocks being wrong by the same amount at the start.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use webhooks_runtime::{Clock, Context, OnError, Readiness};

use crate::{bus::Bus, error::BusError};

/// How far the clock may be off: receivers allow five minutes, and a request takes time too.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(120);

/// How often the two clocks are compared when nobody reads them.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The stream whose leader is asked.
const ASKED: &str = "KV_LEASES";

/// A moment by both clocks, confirmed.
#[derive(Debug, Clone, Copy)]
struct Confirmed {
    at: Instant,
    micros: i64,
    /// The wall clock has stepped away, and what it would show otherwise is the time.
    stepped: bool,
}

impl Confirmed {
    /// What the wall clock shows if it has run evenly.
    fn expected(&self) -> i64 {
        self.micros.saturating_add(micros(self.at.elapsed()))
    }
}

/// The clock, and when it was last confirmed.
#[derive(Debug)]
pub struct SteadyClock {
    wall: Arc<dyn Clock>,
    confirmed: Mutex<Option<Confirmed>>,
}

impl Clock for SteadyClock {
    fn now_micros(&self) -> i64 {
        let wall = self.wall.now_micros();
        match *self.confirmed() {
            Some(since) if since.stepped || !is_near(wall, since.expected()) => since.expected(),
            _ => wall,
        }
    }
}

impl SteadyClock {
    /// One that nobody has confirmed yet.
    #[must_use]
    pub fn new(wall: Arc<dyn Clock>) -> Self {
        Self {
            wall,
            confirmed: Mutex::default(),
        }
    }

    /// Makes it a service's clock and watches over it for as long as the service runs. Whoever was
    /// given the context's clock before keeps the old one.
    pub fn install(ctx: &mut Context, bus: &Bus) -> Arc<Self> {
        let steady = Arc::new(Self::new(ctx.clock.clone()));
        ctx.clock = steady.clone();
        let (watched, bus) = (steady.clone(), bus.clone());
        let (readiness, shutdown) = (ctx.readiness.clone(), ctx.shutdown.clone());
        ctx.tasks.spawn("clock", OnError::Log, async move {
            let watch = watched.watch(&bus, &readiness, |_| std::future::ready(()));
            shutdown.run_until_cancelled(watch).await;
            Ok::<_, BusError>(())
        });
        steady
    }

    /// Whether the time is confirmed, and the wall clock has not stepped since unnoticed.
    #[must_use]
    pub fn holds(&self) -> bool {
        let confirmed = *self.confirmed();
        confirmed
            .is_some_and(|since| since.stepped || is_near(self.wall.now_micros(), since.expected()))
    }

    /// Keeps an eye on the clock and asks for the time when need be; says in readiness `clock`, and to
    /// `aside`, whether nobody agrees with it. Never ends.
    pub async fn watch<F>(&self, bus: &Bus, readiness: &Readiness, aside: impl Fn(bool) -> F)
    where
        F: Future<Output = ()>,
    {
        loop {
            if self.is_to_be_asked()
                && let Ok(server) = bus.server_micros(ASKED).await
            {
                let before = self.holds();
                match self.hear(server) {
                    Ok(true) => tracing::info!("clock.confirmed"),
                    Ok(false) if before => {}
                    Ok(false) => tracing::error!("clock.stepped: it is not followed"),
                    Err(reason) => {
                        tracing::error!(reason, "clock.wrong");
                        readiness.fail("clock", reason);
                        aside(true).await;
                    }
                }
                let right = !self.is_to_be_asked();
                metrics::gauge!("webhooks_clock_right").set(if right { 1.0 } else { 0.0 });
                if self.holds() {
                    readiness.ok("clock");
                    aside(false).await;
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn is_to_be_asked(&self) -> bool {
        !self.holds() || (*self.confirmed()).is_some_and(|since| since.stepped)
    }

    /// Judges our clock by the server's time. True: it is right; false: it has stepped away and is
    /// not followed.
    fn hear(&self, server: i64) -> Result<bool, String> {
        let wall = self.wall.now_micros();
        let off = wall.saturating_sub(server) / 1_000_000;
        metrics::gauge!("webhooks_clock_offset_seconds")
            .set(f64::from(i32::try_from(off).unwrap_or(i32::MAX)));
        let mut confirmed = self.confirmed();
        if is_near(wall, server) {
            *confirmed = Some(Confirmed {
                at: Instant::now(),
                micros: wall,
                stepped: false,
            });
            return Ok(true);
        }
        match confirmed.as_mut() {
            Some(since) if is_near(since.expected(), server) => {
                since.stepped = true;
                Ok(false)
            }
            _ => {
                *confirmed = None;
                Err(format!("the clock is {off} s off the time at NATS"))
            }
        }
    }

    fn confirmed(&self) -> MutexGuard<'_, Option<Confirmed>> {
        self.confirmed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_near(one: i64, other: i64) -> bool {
    one.abs_diff(other) <= micros(CLOCK_TOLERANCE).unsigned_abs()
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use webhooks_runtime::ManualClock;

    const START: i64 = 1_800_000_000_000_000;
    const HOUR: i64 = 3_600_000_000;

    fn steady() -> (Arc<ManualClock>, SteadyClock) {
        let clock = Arc::new(ManualClock::at_micros(START));
        let steady = SteadyClock::new(clock.clone());
        (clock, steady)
    }

    #[test]
    fn f_15_nothing_is_believed_before_somebody_agrees() {
        let (clock, steady) = steady();
        assert!(!steady.holds());
        assert!(steady.hear(START + HOUR).is_err());
        assert!(!steady.holds());
        assert_eq!(steady.hear(START + 1_000_000), Ok(true));
        assert!(steady.holds());
        clock.set_micros(START + micros(CLOCK_TOLERANCE) - 1_000_000);
        assert!(steady.holds(), "within what receivers allow");
    }

    #[test]
    fn f_15_a_step_is_noticed_at_once_and_the_time_stays_right() {
        for step in [HOUR, -HOUR] {
            let (clock, steady) = steady();
            assert_eq!(steady.hear(START), Ok(true));
            clock.set_micros(START + step);
            assert!(!steady.holds(), "nobody has judged it yet");
            assert!(is_near(steady.now_micros(), START));
            assert_eq!(steady.hear(START), Ok(false), "the step is not followed");
            assert!(steady.holds());
            assert!(is_near(steady.now_micros(), START));
            clock.set_micros(START);
            assert_eq!(steady.hear(START), Ok(true), "it was set right again");
            assert_eq!(steady.now_micros(), START);
        }
    }

    #[test]
    fn f_15_after_a_suspension_the_wall_clock_is_right() {
        let (clock, steady) = steady();
        assert_eq!(steady.hear(START), Ok(true));
        clock.set_micros(START + HOUR);
        assert_eq!(steady.hear(START + HOUR), Ok(true));
        assert_eq!(steady.now_micros(), START + HOUR);
    }

    #[test]
    fn f_15_when_nobody_agrees_nothing_is_believed() {
        let (clock, steady) = steady();
        assert_eq!(steady.hear(START), Ok(true));
        clock.set_micros(START + HOUR);
        assert!(steady.hear(START - HOUR).is_err());
        assert!(!steady.holds());
    }
}
