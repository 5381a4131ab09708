//! What follows when an attempt has ended, and when something about a delivery has become durable.

use uuid::Uuid;
use webhooks_domain::retry::Next;

use super::{Mode, OnTheWire, Partition, REMEMBERED};
use crate::{
    attempt::Attempted,
    job::MessageKey,
    line::{Rank, Release},
    partition_io::{self as io, Settled},
};

impl Partition {
    /// An attempt has ended: free its place, then record, and schedule what comes next.
    pub(super) fn conclude(&mut self, attempted: Attempted, wire: OnTheWire) {
        let (webhook, rank) = (attempted.job.webhook, attempted.job.rank());
        let now = self.shared.clock.now_micros();
        if let Some(endpoint) = self.endpoints.get_mut(&webhook) {
            endpoint.ended(attempted.result.timings.total, now);
        }
        let counted = self.count(&attempted, wire.epoch);
        self.pump(webhook);
        let in_memory = match attempted.next {
            Some(Next::Retry { delay, .. }) => {
                self.mode == Mode::Owning && delay <= self.shared.settings.limits.wait_in_memory
            }
            _ => false,
        };
        let release = match attempted.next {
            None | Some(Next::GiveUp) => Release::Finished,
            // It is held again.
            Some(Next::Retry { .. }) if attempted.job.probe => Release::Finished,
            Some(Next::Retry { delay, .. } | Next::Again { delay }) => {
                let delay = i64::try_from(delay.as_micros()).unwrap_or(i64::MAX / 2);
                Release::Later(now.saturating_add(delay))
            }
        };
        let recorded = io::record(self.shared.clone(), self.partition, attempted, in_memory);
        self.settling.push(Box::pin(async move {
            let then = match counted {
                Some(counted) => tokio::join!(recorded, counted).0,
                None => recorded.await,
            };
            let then = Box::new(then);
            drop(wire);
            Settled::Recorded {
                webhook,
                rank,
                release,
                then,
            }
        }));
    }

    /// Something durable has happened to a delivery.
    pub(super) async fn settled(&mut self, settled: Settled) {
        // What comes after the delivery in its order goes on only now: the outcome is durable.
        let settled = match settled {
            Settled::Recorded {
                webhook,
                rank,
                release,
                then,
            } => {
                self.release(webhook, rank, release);
                *then
            }
            Settled::Left {
                webhook,
                rank,
                then,
            } => {
                if let Settled::Done { .. } = *then {
                    self.release(webhook, rank, Release::Finished);
                }
                *then
            }
            other => other,
        };
        match settled {
            Settled::Done { key, finished } => {
                if let Some(finished) = finished {
                    if self.finished.len() >= REMEMBERED {
                        self.finished.pop_front();
                    }
                    self.finished.push_back(finished);
                }
                self.acknowledge(key).await;
            }
            Settled::Again { job, delay } => {
                if self.mode == Mode::Owning {
                    self.waiting.insert(*job, delay);
                } else {
                    self.hand_back(*job);
                }
            }
            Settled::Admit(jobs) => {
                for job in jobs {
                    if job.over {
                        self.probe_is_no_more(&job);
                        let release = job.comes_again.map_or(Release::Finished, Release::Later);
                        self.release(job.webhook, job.rank(), release);
                        self.acknowledge(job.key).await;
                    } else {
                        self.admit(job);
                    }
                }
            }
            Settled::Parked {
                key,
                webhook,
                rank,
                schedule,
            } => {
                self.parking = self.parking.saturating_sub(1);
                self.park_next();
                let wanted = self.is_wanted(webhook);
                if let Some(endpoint) = self.endpoints.get_mut(&webhook) {
                    endpoint.parked_as(rank, schedule);
                    endpoint.flush(wanted);
                }
                self.acknowledge(key).await;
                self.wake(webhook);
            }
            Settled::Woken { webhook, woken } => {
                if let Some(endpoint) = self.endpoints.get_mut(&webhook) {
                    endpoint.woken(woken);
                    if endpoint.is_flushing() {
                        // The next tick lets the next ones go.
                        self.stalled.insert(webhook);
                    }
                }
                self.wake(webhook);
            }
            Settled::Learned { webhook, found } => {
                if let Some(endpoint) = self.endpoints.get_mut(&webhook) {
                    endpoint.line().learn(found);
                    self.stalled.insert(webhook);
                }
            }
            Settled::Gone { keys, last } => self.leaver_finished(keys, last),
            Settled::Health(settled) => self.health_settled(settled),
            Settled::Held(settled) => self.held_settled(settled),
            Settled::Recorded { .. } | Settled::Left { .. } | Settled::Nothing => {}
        }
    }

    /// What has become of a delivery; those behind it in its order may go on.
    fn release(&mut self, webhook: Uuid, rank: Rank, release: Release) {
        if let Some(endpoint) = self.endpoints.get_mut(&webhook)
            && endpoint.line().is_ordered()
        {
            endpoint.release(rank, release);
            self.pump(webhook);
        }
    }

    pub(super) async fn acknowledge(&mut self, key: MessageKey) {
        let Some(outstanding) = self.outstanding.remove(&key) else {
            return;
        };
        if let Err(error) = outstanding.acker.ack().await {
            tracing::debug!(%error, "acknowledgement not sent; the message comes again");
        }
        if self.mode == Mode::Ending {
            // The consumer is another by now, so the acknowledgement may have met nobody.
            io::remove(&self.shared.bus, self.partition, key).await;
            self.ending.done(key);
        }
    }
}
