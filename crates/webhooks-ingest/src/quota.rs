//! A workspace's quota of events: a token bucket each, in memory.
//!
//! The quota protects this process and the stream from one caller's flood; it is not billing. Each
//! ingest process counts for itself, so with several the sum is what a workspace gets.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use uuid::Uuid;

/// Buckets kept at most. When there are more, full ones are forgotten (they would start full).
pub const MAX_BUCKETS: usize = 65_536;

/// A bucket holds this many seconds of the rate, so a short burst passes.
const BURST_SECONDS: f64 = 2.0;

/// Token buckets by workspace.
#[derive(Debug)]
pub struct Quota {
    /// Events per second; 0 = no quota.
    per_second: f64,
    buckets: Mutex<HashMap<Uuid, Bucket>>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at_micros: i64,
    per_second: f64,
}

impl Bucket {
    fn refilled(self, now_micros: i64) -> Self {
        let per_second = self.per_second;
        // A clock that steps back gives nothing and takes nothing.
        let passed =
            u32::try_from((now_micros - self.at_micros).max(0) / 1_000).unwrap_or(u32::MAX);
        let tokens = self.tokens + f64::from(passed) / 1_000.0 * per_second;
        // Whole milliseconds are credited; what is left over counts next time.
        let at_micros = if now_micros < self.at_micros {
            now_micros
        } else {
            self.at_micros + i64::from(passed) * 1_000
        };
        Self {
            tokens: tokens.min(burst(per_second)),
            at_micros,
            per_second,
        }
    }
}

fn burst(per_second: f64) -> f64 {
    (per_second * BURST_SECONDS).max(1.0)
}

impl Quota {
    /// A quota of this many events a second for each workspace; 0 = none.
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        Self {
            per_second: f64::from(per_second),
            buckets: Mutex::default(),
        }
    }

    /// Takes one event from the workspace's bucket, which holds `own` events a second (0 = as many
    /// as everyone's); `false` when it is empty.
    #[must_use]
    pub fn take(&self, workspace: Uuid, own: u32, now_micros: i64) -> bool {
        let per_second = match own {
            0 => self.per_second,
            own => f64::from(own),
        };
        if per_second <= 0.0 {
            return true;
        }
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MAX_BUCKETS && !buckets.contains_key(&workspace) {
            buckets
                .retain(|_, bucket| bucket.refilled(now_micros).tokens < burst(bucket.per_second));
        }
        let fresh = Bucket {
            tokens: burst(per_second),
            at_micros: now_micros,
            per_second,
        };
        let bucket = buckets.entry(workspace).or_insert(fresh);
        // A rate that was changed meanwhile holds from now on.
        bucket.per_second = per_second;
        *bucket = bucket.refilled(now_micros);
        let granted = bucket.tokens >= 1.0;
        if granted {
            bucket.tokens -= 1.0;
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    #[test]
    fn a_flood_gets_the_burst_and_then_the_rate_and_others_are_untouched() {
        let quota = Quota::new(10);
        let (flood, calm) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let granted = |workspace, at| (0..100).filter(|_| quota.take(workspace, 0, at)).count();
        assert_eq!(granted(flood, 0), 20);
        assert_eq!(granted(flood, SECOND / 2), 5);
        assert!(quota.take(calm, 0, SECOND / 2));
        assert_eq!(granted(flood, 100 * SECOND), 20);
    }

    #[test]
    fn a_workspaces_own_rate_goes_before_everyones_and_may_change() {
        for everyones in [0, 1_000] {
            let quota = Quota::new(everyones);
            let workspace = Uuid::from_u128(1);
            let granted = |own, at| (0..100).filter(|_| quota.take(workspace, own, at)).count();
            assert_eq!(granted(5, 0), 10);
            assert_eq!(granted(5, SECOND), 5);
            assert_eq!(granted(20, 2 * SECOND), 20, "the new rate from now on");
            assert_eq!(granted(5, 100 * SECOND), 10);
        }
    }

    #[test]
    fn many_small_steps_credit_as_much_as_one_large_step() {
        let quota = Quota::new(100);
        let workspace = Uuid::from_u128(1);
        while quota.take(workspace, 0, 0) {}
        let granted = (1..=1_000)
            .filter(|step| quota.take(workspace, 0, step * 999))
            .count();
        assert!((98..=100).contains(&granted), "{granted}");
    }

    #[test]
    fn no_quota_refuses_nothing_and_a_clock_that_steps_back_breaks_nothing() {
        assert!((0..10_000).all(|_| Quota::new(0).take(Uuid::nil(), 0, 0)));
        let quota = Quota::new(1);
        assert!(quota.take(Uuid::nil(), 0, 100 * SECOND));
        assert!(quota.take(Uuid::nil(), 0, 0));
        assert!(!quota.take(Uuid::nil(), 0, 0));
        assert!(quota.take(Uuid::nil(), 0, SECOND));
    }
}
