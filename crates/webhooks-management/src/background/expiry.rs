//! Signing keys whose overlap is over: out of the tables, and with that out of the read model.
//!
//! Dispatchers stop signing with a key at its very end, without being told; this only sees to it
//! that what has ended does not lie about.

use std::time::Duration;

use super::{Surroundings, pause};

/// How often.
const EVERY: Duration = Duration::from_secs(60);

/// Webhooks of one look; the rest is for the next one.
const BATCH: u32 = 500;

/// Looks at start and then every minute, until shutdown.
pub(super) async fn run(around: Surroundings) -> anyhow::Result<()> {
    loop {
        let now = around.clock.now_micros();
        let webhooks = around.store.drop_expired_secrets(now, BATCH).await?;
        if webhooks > 0 {
            tracing::info!(webhooks, "secrets.expired");
        }
        if pause(&around, EVERY).await {
            return Ok(());
        }
    }
}
