//! What the machine can do at all: the limits that a benchmark figure stands beside, taken in the same run.

mod bus;
mod http;

use std::time::Duration;

pub use self::{
    bus::{BusPeer, bare_bus},
    http::{HttpPeer, bare_http},
};

/// What a peer reached.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reached {
    /// How many, requests or deliveries.
    pub count: u64,
    /// In how much time.
    pub elapsed: Duration,
}

impl Reached {
    /// How many a second.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        reason = "counts of a benchmark are far below 2^53"
    )]
    pub fn per_second(&self) -> f64 {
        self.count as f64 / self.elapsed.as_secs_f64().max(f64::EPSILON)
    }
}
