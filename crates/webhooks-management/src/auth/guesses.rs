//! Wrong credentials, counted by address.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    error::ManagementError,
    origin::Visit,
    rate::{RateLimiter, RateLimits},
};

/// The window in which wrong credentials are counted.
const WINDOW: Duration = Duration::from_secs(60);

/// An address that has failed so many times more often than it may is not looked up any more.
const LOOK_UPS: u32 = 10;

/// The counts.
pub(super) struct Guesses {
    failures: RateLimiter,
    look_ups: RateLimiter,
}

impl Guesses {
    /// So many wrong credentials are answered plainly, for each address and minute.
    pub(super) fn new(per_minute: u32) -> Self {
        let limiter = |per_address| {
            RateLimiter::new(RateLimits {
                per_token: per_address,
                per_address,
                window: WINDOW,
            })
        };
        Self {
            failures: limiter(per_minute),
            look_ups: limiter(per_minute.saturating_mul(LOOK_UPS)),
        }
    }

    /// Counts a failure; the refusal to answer it with.
    pub(super) fn failed(&self, visit: &Visit, why: &'static str) -> ManagementError {
        metrics::counter!("webhooks_auth_failures_total", "reason" => why).increment(1);
        let now = Instant::now();
        let payer = visit.payer();
        self.look_ups.spend(payer.clone(), now);
        match self.failures.spend(payer, now).admit() {
            Ok(()) => ManagementError::Unauthenticated,
            Err(too_many) => {
                metrics::counter!("webhooks_auth_throttled_total").increment(1);
                too_many
            }
        }
    }

    /// Whether a token of this visitor may still cost a query.
    ///
    /// # Errors
    /// There were far too many wrong ones.
    pub(super) fn may_look_up(&self, visit: &Visit) -> Result<(), ManagementError> {
        match self.look_ups.spent(&visit.payer(), Instant::now()) {
            None => Ok(()),
            Some(wait) => Err(ManagementError::RateLimited(wait)),
        }
    }
}
