//! Finds what fell through between the streams and the tables.
//!
//! It should find nothing: whatever moves from one place to the next is in the next before it leaves
//! the last. But a stream can be restored from an old copy, and programs have faults. So the two are
//! compared, and what is missing is made again under its old ids. It looks before it acts, and while
//! fan-out or history lags it stands still: what is on its way is not missing.

mod deliveries;
mod events;

use std::time::Duration;

use webhooks_bus::names;

use super::{Surroundings, pause};

/// How often.
const EVERY: Duration = Duration::from_secs(10);

/// How long history may take to record what was published when a look began.
const CATCH_UP: Duration = Duration::from_secs(10);

/// Pause between two questions how far history has come.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// Looks at start and then every ten seconds, until shutdown.
pub(super) async fn run(around: Surroundings) -> anyhow::Result<()> {
    loop {
        while events::look(&around).await? {}
        deliveries::look(&around).await?;
        if pause(&around, EVERY).await {
            return Ok(());
        }
    }
}

/// Whether every verdict that is on the stream now is recorded, or becomes so soon.
async fn history_has_come_so_far(around: &Surroundings) -> anyhow::Result<bool> {
    let newest = around.bus.last_seq(names::VERDICTS).await?;
    let recorded = async {
        loop {
            let history = around
                .bus
                .consumer_state(names::VERDICTS, names::VERDICTS_CONSUMER)
                .await?;
            let nothing_left = history.pending == 0 && history.unacknowledged == 0;
            if nothing_left || history.acknowledged_to >= newest {
                return anyhow::Ok(());
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    };
    match tokio::time::timeout(CATCH_UP, recorded).await {
        Ok(asked) => asked.map(|()| true),
        Err(_) => {
            tracing::debug!("history lags, nothing is repaired");
            Ok(false)
        }
    }
}
