//! Settings of fan-out.

use webhooks_bus::BusSettings;
use webhooks_runtime::{Env, Settings};

/// Publishes of one event that may be unacknowledged at a time.
pub const EVENT_SHARE: usize = 256;

/// Everything fan-out is told by the environment.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where NATS is.
    pub bus: BusSettings,
    /// Events being handled at the same time.
    pub concurrency: usize,
    /// Publishes of all events that may be unacknowledged at a time.
    pub publish_window: usize,
}

impl Settings for Config {
    fn read(env: &mut Env) -> Self {
        Self {
            bus: BusSettings::read(env),
            concurrency: env.ranged(
                "WEBHOOKS_FANOUT_CONCURRENCY",
                256,
                1..=4_096,
                "events that fan-out handles at the same time",
            ),
            publish_window: env.ranged(
                "WEBHOOKS_FANOUT_PUBLISH_WINDOW",
                1_024,
                1..=65_536,
                "unacknowledged publishes of fan-out at the same time; one event uses at most 256 of them",
            ),
        }
    }
}
