//! Wrong credentials, counted by address.

use tokio::time::Instant;
use webhooks_runtime::rate::{self, GUESSING_WINDOW, RateLimiter, RateLimits};

use crate::{error::ManagementError, origin::Visit};

/// An address that has failed so many times more often than it may is not looked up any more.
const LOOK_UPS: u32 = 10;

/// The counts.
pub(super) struct Guesses {
    failures: rate::Guesses,
    look_ups: RateLimiter,
}

impl Guesses {
    /// So many wrong credentials are answered plainly, for each address and minute.
    pub(super) fn new(per_minute: u32) -> Self {
        let look_ups = per_minute.saturating_mul(LOOK_UPS);
        Self {
            failures: rate::Guesses::new(per_minute),
            look_ups: RateLimiter::new(RateLimits {
                per_token: look_ups,
                per_address: look_ups,
                window: GUESSING_WINDOW,
            }),
        }
    }

    /// Counts a failure; the refusal to answer it with.
    pub(super) fn failed(&self, visit: &Visit, why: &'static str) -> ManagementError {
        let now = Instant::now();
        let payer = visit.payer();
        self.look_ups.spend(payer.clone(), now);
        match self.failures.failed(payer, why, now) {
            Ok(()) => ManagementError::Unauthenticated,
            Err(too_many) => too_many.into(),
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
