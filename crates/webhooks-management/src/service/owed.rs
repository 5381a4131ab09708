//! From the tables to JetStream: deliveries that a person asked for.
//!
//! The wish was answered when delivery and outbox row were committed; this pump publishes the
//! message that owes the delivery, with the delivery's id as message id, and removes the row after
//! the acknowledgement. Several replicas may pump at once: the stream keeps one of equal messages.
//! What is published late, when that window may have passed, asks the dispatcher to look before it
//! sends.

use std::{sync::Arc, time::Duration};

use futures::{TryStreamExt as _, stream};
use prost::Message as _;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use webhooks_bus::{Bus, Outgoing, subjects};
use webhooks_domain::{challenge, clock::Clock, delivery::DeliveryState, ids};
use webhooks_proto::internal::v1::DeliveryJob;
use webhooks_runtime::{Backoff, error_chain};
use webhooks_store::{OwedRow, ReportRecord, Store};

use super::{
    TailHub,
    deliveries::{MessageKey, message_id},
};
use crate::model::delivery_ref;

/// Rows of one drain step.
const BATCH: u32 = 200;

/// Publishes at once.
const PARALLEL: usize = 64;

/// How often the pump looks without being asked: for rows of jobs and of other processes.
const POLL: Duration = Duration::from_millis(250);

/// How long one publish may take before the step is begun anew.
const WITHIN: Duration = Duration::from_secs(5);

/// From this age on a message may outlive the stream's window for equal ids (120 s) between two
/// publishes, so the dispatcher looks the delivery up first.
const RECHECK_AFTER: i64 = 60_000_000;

/// The reason of a replay or test whose payload was gone before it went out.
const PAYLOAD_EXPIRED: &str = "payload_expired";

/// The pump. Clones share it.
#[derive(Clone)]
pub struct Owed {
    store: Store,
    bus: Bus,
    clock: Arc<dyn Clock>,
    tail: TailHub,
    hurry: Arc<Notify>,
}

impl Owed {
    pub(super) fn new(store: Store, bus: Bus, clock: Arc<dyn Clock>, tail: TailHub) -> Self {
        Self {
            store,
            bus,
            clock,
            tail,
            hurry: Arc::default(),
        }
    }

    /// There is something new.
    pub(crate) fn hurry(&self) {
        self.hurry.notify_one();
    }

    /// Pumps until `stop`. Failures repeat with growing pauses.
    pub async fn run(&self, stop: CancellationToken) {
        let mut failures = 0_u32;
        while !stop.is_cancelled() {
            let pause = match self.drain().await {
                Ok(()) => {
                    failures = 0;
                    POLL
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    tracing::warn!(
                        failures,
                        error = error_chain(error.as_ref()),
                        "owed.waiting"
                    );
                    Backoff::CONNECT.delay(failures, rand::random())
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
                () = self.hurry.notified(), if failures == 0 => {}
            }
        }
    }

    /// Publishes every row there is.
    ///
    /// # Errors
    /// The store or the bus fails; what was published stays published.
    async fn drain(&self) -> anyhow::Result<()> {
        loop {
            let rows = self.store.next_owed(BATCH).await?;
            if rows.is_empty() {
                return Ok(());
            }
            let ids: Vec<i64> = rows.iter().map(|row| row.outbox_id).collect();
            stream::iter(rows.into_iter().map(anyhow::Ok))
                .map_ok(|row| self.publish(row))
                .try_buffer_unordered(PARALLEL)
                .try_for_each(|()| async { Ok(()) })
                .await?;
            self.store.done_owed(&ids).await?;
        }
    }

    async fn publish(&self, row: OwedRow) -> anyhow::Result<()> {
        if row.state.is_terminal() {
            // Taken back, or published by another replica and over by now.
            return Ok(());
        }
        let now = self.clock.now_micros();
        // What goes to one endpoint alone never goes without saying which.
        let is_challenge = row.delivery.event_type == challenge::EVENT_TYPE;
        let bound = row.body.map(|body| match is_challenge {
            true => challenge::bound_to(&body).map(|endpoint| (body, endpoint.to_vec())),
            false => Some((body, Vec::new())),
        });
        let Some((body, endpoint)) = bound.flatten() else {
            // Retention was faster. It is over, and history says so.
            let lost = [ReportRecord {
                delivery: row.delivery,
                state: DeliveryState::Cancelled,
                attempts_made: 0,
                next_attempt_at: None,
                at: now,
                attempt: None,
                reason: PAYLOAD_EXPIRED.to_owned(),
                waits_for: None,
                snapshot: None,
            }];
            self.store.record_reports(&lost).await?;
            self.tail.told(&lost);
            return Ok(());
        };
        let delivery = &row.delivery;
        // Without a hop: history keeps none, and what is made anew says what an ordinary event's does.
        let job = DeliveryJob {
            delivery: Some(delivery_ref(delivery)),
            // What was tried before it fell through counts.
            attempt: row.attempts.saturating_add(1),
            message_id: message_id(&MessageKey {
                workspace: delivery.workspace_id,
                webhook: delivery.webhook_id,
                event: &delivery.event_id,
                delivery: delivery.delivery_id,
                trigger: delivery.trigger,
            }),
            body,
            endpoint: endpoint.into(),
            recheck: now.saturating_sub(row.since) > RECHECK_AFTER,
            ..DeliveryJob::default()
        };
        let partition = ids::partition_of(delivery.webhook_id, self.bus.settings().partitions);
        let message = Outgoing::new(
            subjects::delivery(partition, delivery.webhook_id, delivery.delivery_id),
            &delivery.delivery_id.to_string(),
            job.encode_to_vec().into(),
        );
        self.bus.publish(message, WITHIN).await?;
        Ok(())
    }
}
