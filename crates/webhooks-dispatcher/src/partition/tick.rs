//! What a partition does from time to time.

use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::{FLUSHED_PER_TICK, Mode, Partition};
use crate::partition_io::Settled;

/// How often what is held unacknowledged is signalled as in progress (a third of `ack_wait`).
const PROGRESS_EVERY: Duration = Duration::from_secs(20);

/// How often endpoints are looked at that may have become slow.
const SPILL_EVERY: Duration = Duration::from_millis(500);

/// Endpoints in memory beyond which idle ones are forgotten.
const KEPT_IN_MEMORY: usize = 1_024;

impl Partition {
    pub(super) async fn tick(&mut self) {
        self.ending.turned();
        for _ in 0..FLUSHED_PER_TICK {
            let Some(webhook) = self.to_flush.pop_front() else {
                break;
            };
            self.flush_unwanted(webhook);
        }
        self.park_next();
        for webhook in std::mem::take(&mut self.stalled) {
            self.pump(webhook);
        }
        if std::mem::take(&mut self.ask_fan_out) && self.mode == Mode::Owning {
            let shared = self.shared.clone();
            self.settling.push(Box::pin(async move {
                shared.fanned_out.ask(&shared.bus).await;
                Settled::Nothing
            }));
        }
        let now = Instant::now();
        if self.mode == Mode::Owning {
            for outstanding in self.outstanding.values_mut() {
                if now - outstanding.touched >= PROGRESS_EVERY {
                    outstanding.touched = now;
                    if let Err(error) = outstanding.acker.progress().await {
                        tracing::debug!(%error, "progress not signalled");
                    }
                }
            }
        }
        let now_micros = self.shared.clock.now_micros();
        if self.mode == Mode::Owning && now >= self.spill_at {
            self.spill_at = now + SPILL_EVERY;
            self.spill(now_micros);
            self.look_after_orders(now_micros);
        }
        if self.endpoints.len() > KEPT_IN_MEMORY {
            self.endpoints
                .retain(|_, endpoint| !endpoint.is_idle(now_micros));
        }
        self.look_after_leavers();
        self.look_after_elders().await;
    }

    /// Wakes what could not be woken before, and reads what ordered endpoints have yet to learn.
    fn look_after_orders(&mut self, now_micros: i64) {
        let all: Vec<Uuid> = self
            .endpoints
            .iter_mut()
            .filter(|(_, endpoint)| endpoint.may_have_parked())
            .map(|(webhook, _)| *webhook)
            .collect();
        for webhook in all {
            if let Some(endpoint) = self.endpoints.get_mut(&webhook) {
                endpoint.line().forget_overdue(now_micros);
            }
            self.pump(webhook);
        }
    }
}
