//! Real servers: they come up, survive SIGKILL with their data on the same port, and leave nothing behind.

#![expect(
    clippy::unwrap_used,
    reason = "in tests, helpers too, an unwrap is an assertion"
)]

mod leftovers;
mod nats;
mod postgres;
mod supervisor;

use std::time::Duration;

/// Generous: the machine may be busy.
const LIMIT: Duration = Duration::from_secs(30);

/// Waits until none of these processes runs.
async fn gone(pids: &[u32]) {
    webhooks_devstack::wait_until("the processes to be gone", LIMIT, async || {
        let left: Vec<u32> = pids
            .iter()
            .copied()
            .filter(|pid| webhooks_devstack::is_running(*pid))
            .collect();
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await
    .unwrap();
}
