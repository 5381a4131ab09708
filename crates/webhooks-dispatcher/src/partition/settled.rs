//! What follows when an attempt has ended, and when something about a delivery has become durable.

use uuid::Uuid;
use webhooks_domain::{endpoint::FailureClass, retry::Next};

use super::{Mode, OnTheWire, Partition};
use crate::{
    attempt::Attempted,
    job::{MessageKey, Over, Owed},
    line::{Rank, Release},
    panics::{self, surviving},
    partition_io::{self as io, Settled},
    reporter::Haste,
};

impl Partition {
    /// An attempt has ended: free its place, then record, and schedule what comes next.
    pub(super) fn conclude(&mut self, attempted: Attempted, wire: OnTheWire) {
        let (webhook, rank) = (attempted.job.webhook, attempted.job.rank());
        let now = self.shared.clock.now_micros();
        if let Some(endpoint) = self.endpoints.get_mut(&webhook) {
            match attempted.result.class {
                // What one delivery does to us says nothing about the next one.
                Some(FailureClass::Ours) if attempted.panicked => endpoint.not_started(),
                Some(FailureClass::Ours) => endpoint.own_fault(now, rand::random()),
                _ => endpoint.ended(attempted.result.timings.total, now),
            }
        }
        let endpoint = self.endpoints.get_mut(&webhook);
        let haste = match endpoint.is_some_and(|endpoint| endpoint.line().is_ordered()) {
            true => Haste::Awaited,
            false => Haste::None,
        };
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
        let owed = attempted.job.owed_by();
        let recorded = io::record(
            self.shared.clone(),
            self.partition,
            self.tenure.clone(),
            attempted,
            in_memory,
            haste,
        );
        let settled = move |then| Settled::Recorded {
            webhook,
            rank,
            release,
            then: Box::new(then),
        };
        let work = async move {
            let then = match counted {
                Some(counted) => tokio::join!(recorded, counted).0,
                None => recorded.await,
            };
            drop(wire);
            settled(then)
        };
        self.settling.push(surviving(work, move || {
            settled(Settled::Panicked {
                owed: vec![owed],
                parking: false,
            })
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
                if let Release::Later(_) = release {
                    self.flush_unwanted(webhook);
                }
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
                if let Some((delivery, attempt)) = finished {
                    self.shared.finished.add(delivery, attempt);
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
            Settled::LetGo { key, parking } => {
                if parking {
                    self.parking = self.parking.saturating_sub(1);
                }
                self.let_go(key);
            }
            Settled::Admit(jobs) => {
                for job in jobs {
                    let release = match job.over {
                        None => {
                            self.admit(job);
                            continue;
                        }
                        Some(Over::Ended) => Some(Release::Finished),
                        Some(Over::ComesAgain(at)) => Some(Release::Later(at)),
                        Some(Over::Known) => None,
                    };
                    self.probe_is_no_more(&job);
                    if let Some(release) = release {
                        self.release(job.webhook, job.rank(), release);
                    }
                    self.acknowledge(job.key).await;
                }
            }
            Settled::TakenUp { found, gone } => {
                for key in gone {
                    self.acknowledge(key).await;
                }
                for job in &found {
                    if let Some(outstanding) = self.outstanding.get_mut(&job.key) {
                        outstanding.part = Some(self.shared.budget.take(job.body.len()));
                    }
                }
                self.recheck(found);
            }
            Settled::Repeats {
                key,
                webhook,
                rank,
                schedule,
                due,
            } => {
                if let Some(endpoint) = self.endpoints.get_mut(&webhook) {
                    // In its place in the order, if there is one.
                    endpoint.line().park(rank, due);
                    endpoint.parked_as(rank, schedule);
                }
                self.acknowledge(key).await;
            }
            Settled::Panicked { owed, parking } => self.panicked(owed, parking),
            Settled::Removed => {
                self.removing = false;
                self.remove_next();
            }
            Settled::Parked {
                key,
                webhook,
                rank,
                schedule,
            } => {
                self.parking = self.parking.saturating_sub(1);
                self.park_next();
                let flush = self.flush_of(webhook);
                if let Some(endpoint) = self.endpoints.get_mut(&webhook) {
                    endpoint.parked_as(rank, schedule);
                    endpoint.flush(flush);
                }
                self.acknowledge(key).await;
                self.wake(webhook);
            }
            Settled::Woken { webhook, woken } => {
                let now = self.shared.clock.now_micros();
                if let Some(endpoint) = self.endpoints.get_mut(&webhook) {
                    endpoint.woken(woken, now);
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
            Settled::Gone { leaver, keys, last } => self.leaver_finished(&leaver, keys, last),
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
            // The consumer is another by now, so the acknowledgement may have met nobody. Those who
            // come after us need not wait for that: what came of it is durable.
            self.ending.done(key);
            self.to_remove.push(key);
            self.remove_next();
        }
    }

    /// Removes what is finished, beside everything else: the stream may take seconds for it.
    fn remove_next(&mut self) {
        if self.removing || self.to_remove.is_empty() {
            return;
        }
        self.removing = true;
        let keys = std::mem::take(&mut self.to_remove);
        self.settling
            .push(io::remove(self.shared.clone(), self.partition, keys));
    }

    /// The handling of these deliveries panicked: they are taken up again, or given up.
    fn panicked(&mut self, owed: Vec<Owed>, parking: bool) {
        if parking {
            self.parking = self.parking.saturating_sub(1);
            self.park_next();
        }
        let mut again = Vec::new();
        for (key, delivery) in owed {
            if self.shared.panics.count(delivery) < panics::TRIES {
                again.push(key);
            } else {
                self.give_up(key, delivery);
            }
        }
        self.take_up(again);
    }

    /// Keeps a delivery as a dead letter that nobody can handle.
    pub(super) fn give_up(&mut self, key: MessageKey, delivery: Uuid) {
        let (shared, partition) = (self.shared.clone(), self.partition);
        self.settling.push(surviving(
            io::give_up(shared, partition, key, delivery),
            || {
                // Its message stays where it is, unacknowledged.
                Settled::Nothing
            },
        ));
    }
}
