//! Where a delivery in hand goes: to its endpoint's line and from there onto the wire, or elsewhere.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinSet;
use uuid::Uuid;
use webhooks_domain::webhook::WebhookStatus;

use super::{
    Mode, OnTheWire, Partition,
    standing::{self, Gate},
};
use crate::{
    attempt::{self, Attempted},
    endpoint::{Admission, Endpoint, Parking, Startable},
    fair::Place,
    held::reason,
    job::{Job, Lane},
    line::{Rank, Release},
    parked,
    partition_io::{self as io, Settled},
    registry::Target,
    shared::Shared,
};

/// Deliveries of a partition that are being parked at a time. The server takes the messages of a
/// connection one after another: a thousand that are spilt at once would keep everybody else's for
/// some 200 ms.
const PARKS_AT_ONCE: usize = 8;

impl Partition {
    /// Finds the place of a delivery in hand: on the wire, in its endpoint's queue, or elsewhere.
    pub(super) fn admit(&mut self, job: Job) {
        if self.mode != Mode::Owning {
            return self.hand_back(job);
        }
        if job.ended.is_some() {
            return self.note_arrived(job);
        }
        let Some(target) = self.shared.registry.get(job.webhook) else {
            // Perhaps our view lags behind fan-out's.
            return self.settling.push(io::look_again(self.shared.clone(), job));
        };
        if self.shared.cancelled.contains(job.delivery) {
            self.probe_is_no_more(&job);
            let (webhook, rank) = (job.webhook, job.rank());
            let cancelled = io::cancel(self.shared.clone(), job, reason::CANCELLED);
            return self.leave(webhook, rank, cancelled);
        }
        match self.gate(&job, &target) {
            Gate::Send => {}
            Gate::Hold => {
                let (webhook, rank) = (job.webhook, job.rank());
                self.held.noted(webhook);
                let held = io::hold(self.shared.clone(), self.partition, job);
                return self.leave(webhook, rank, held);
            }
            Gate::Cancel => {
                let (webhook, rank) = (job.webhook, job.rank());
                let cancelled = io::cancel(self.shared.clone(), job, reason::DISABLED);
                return self.leave(webhook, rank, cancelled);
            }
            Gate::LookAgain => {
                return self.settling.push(io::look_again(self.shared.clone(), job));
            }
        }
        // A webhook that is well again needs no probe.
        let probe = job.probe && !self.is_active(job.webhook);
        let job = Job { probe, ..job };
        let (webhook, rank) = (job.webhook, job.rank());
        let (share, now) = (self.share(), self.shared.clock.now_micros());
        let was_parked = job.key.0 == Lane::Due && job.park > 0;
        let endpoint = self.endpoint(webhook, &target);
        match endpoint.admit(job, rank, was_parked, share, now) {
            Admission::Taken => self.pump(webhook),
            Admission::Park(job, parking) => self.park(job, parking),
            Admission::Twin(job) => self.look_later(job),
        }
    }

    /// The endpoint of a webhook, with what it may do now.
    pub(super) fn endpoint(&mut self, webhook: Uuid, target: &Target) -> &mut Endpoint<Job> {
        let queue = self.shared.settings.limits.endpoint_queue;
        let allowed = self.allowed(webhook, target);
        let (now, since) = (self.shared.clock.now_micros(), self.owned_since);
        let endpoint = self
            .endpoints
            .entry(webhook)
            .or_insert_with(|| Endpoint::new(allowed, queue, since.min(now)));
        endpoint.allow(allowed, now);
        endpoint
    }

    /// A quarter of what is free at most: many slow ones together leave room for the others.
    pub(super) fn share(&self) -> usize {
        let window = self.shared.settings.limits.partition_window;
        window.saturating_sub(self.outstanding.len()) / 4
    }

    /// The delivery is in hand already: this message is looked at when that one has gone on.
    pub(super) fn look_later(&mut self, job: Job) {
        let job = Job {
            recheck: true,
            ..job
        };
        self.waiting.insert(job, Duration::from_secs(1));
    }

    /// A delivery that is no longer its endpoint's to send; those behind it may go on then.
    pub(super) fn leave(
        &mut self,
        webhook: Uuid,
        rank: Rank,
        leaving: futures::future::BoxFuture<'static, Settled>,
    ) {
        self.settling.push(Box::pin(async move {
            let then = Box::new(leaving.await);
            Settled::Left {
                webhook,
                rank,
                then,
            }
        }));
    }

    /// Takes over what a webhook may do now; what is parked may have to go another way.
    pub(super) fn webhook_changed(&mut self, webhook: Option<Uuid>) {
        let changed: Vec<Uuid> = match webhook {
            Some(webhook) => vec![webhook],
            None => self.endpoints.keys().copied().collect(),
        };
        for webhook in changed {
            let target = self.shared.registry.get(webhook);
            let now = self.shared.clock.now_micros();
            let allowed = target
                .as_deref()
                .map(|target| self.allowed(webhook, target));
            let wanted = self.is_wanted(webhook);
            if let Some(endpoint) = self.endpoints.get_mut(&webhook) {
                if let Some(allowed) = allowed {
                    endpoint.allow(allowed, now);
                }
                endpoint.flush(wanted);
                self.pump(webhook);
            }
        }
    }

    /// Starts what an endpoint may start.
    pub(super) fn pump(&mut self, webhook: Uuid) {
        let Some(endpoint) = self.endpoints.get_mut(&webhook) else {
            return;
        };
        if self.mode == Mode::Owning && self.leaver.is_none() && endpoint.line().must_learn() {
            let (shared, partition) = (self.shared.clone(), self.partition);
            self.settling
                .push(parked::learn(shared, partition, webhook));
        }
        let now = self.shared.clock.now_micros();
        let arrived_to = self.shared.fanned_out.up_to();
        if endpoint.line().fanned_out(arrived_to, now) {
            self.ask_fan_out = true;
            self.stalled.insert(webhook);
        }
        loop {
            match endpoint.startable(now) {
                Startable::Now => {}
                Startable::No => break,
                Startable::After(wait) => {
                    if endpoint.set_timer() {
                        self.timers.insert(webhook, wait);
                    }
                    break;
                }
            }
            let target = self.shared.registry.get(webhook);
            let place = match &target {
                Some(target)
                    if self.mode == Mode::Owning && self.shared.may_start(self.partition) =>
                {
                    self.shared.places.take(target.workspace)
                }
                Some(_) => None,
                // It goes elsewhere, and needs no place.
                None => self.shared.places.take(Uuid::nil()),
            };
            // The place first: a job that was taken from the queue must go out.
            let Some(place) = place else {
                self.stalled.insert(webhook);
                return;
            };
            let Some(job) = endpoint.start(now) else {
                break;
            };
            let goes = |target: &Arc<Target>| {
                let status = self.health.status(webhook, target);
                standing::gate(status, job.probe, job.trigger, job.bound(target)) == Gate::Send
                    && !self.shared.cancelled.contains(job.delivery)
            };
            let Some(target) = target.filter(goes) else {
                // It changed since it was admitted.
                endpoint.not_started();
                endpoint.release(job.rank(), Release::Later(now));
                self.settling.push(io::look_again(self.shared.clone(), job));
                continue;
            };
            if !self.shared.enter_wire(job.delivery) {
                // This process still has it on the wire, from before it lost the partition.
                endpoint.not_started();
                endpoint.release(job.rank(), Release::Later(now));
                let job = Job {
                    recheck: true,
                    ..job
                };
                self.waiting.insert(job, Duration::from_secs(1));
                continue;
            }
            start(&mut self.attempts, self.shared.clone(), job, target, place);
        }
        self.wake(webhook);
    }

    /// Whether somebody wants the deliveries of a webhook to go out. A pause by the breaker may be
    /// short: what is parked stays where it is meanwhile.
    pub(super) fn is_wanted(&self, webhook: Uuid) -> bool {
        self.shared
            .registry
            .get(webhook)
            .is_some_and(|target| target.configured.status == WebhookStatus::Active)
    }

    /// Lets parked deliveries of an endpoint go that has room for them.
    pub(super) fn wake(&mut self, webhook: Uuid) {
        let limits = self.shared.settings.limits;
        if self.mode != Mode::Owning || self.outstanding.len() >= limits.partition_window {
            return;
        }
        let (share, now) = (self.share(), self.shared.clock.now_micros());
        let active = self.is_active(webhook);
        if let Some(endpoint) = self.endpoints.get_mut(&webhook)
            && (active || endpoint.is_flushing())
            && let Some(wake) = endpoint.wake(share, now)
        {
            let (shared, partition) = (self.shared.clone(), self.partition);
            self.settling
                .push(parked::wake(shared, partition, webhook, wake));
        }
    }

    /// Parks what waits for endpoints that have become slow.
    pub(super) fn spill(&mut self, now_micros: i64) {
        let share = self.share();
        let spilt: Vec<_> = self
            .endpoints
            .values_mut()
            .filter(|endpoint| endpoint.waiting() > 0)
            .flat_map(|endpoint| endpoint.spill(share, now_micros))
            .collect();
        for (job, parking) in spilt {
            self.park(job, parking);
        }
    }

    fn park(&mut self, job: Job, parking: Parking) {
        metrics::counter!("webhooks_parked_total").increment(1);
        self.to_park.push_back((job, parking));
        self.park_next();
    }

    /// Writes what is to be parked, a few at a time.
    pub(super) fn park_next(&mut self) {
        while self.parking < PARKS_AT_ONCE
            && let Some((job, parking)) = self.to_park.pop_front()
        {
            self.parking += 1;
            let (shared, partition) = (self.shared.clone(), self.partition);
            self.settling.push(match parking {
                Parking::Room(wait) => io::park(shared, partition, job, wait),
                Parking::Behind(behind) => io::block(shared, partition, job, behind),
            });
        }
    }
}

fn start(
    attempts: &mut JoinSet<(Attempted, OnTheWire)>,
    shared: Arc<Shared>,
    job: Job,
    target: Arc<Target>,
    place: Place,
) {
    attempts.spawn(async move {
        let wire = OnTheWire {
            shared: shared.clone(),
            delivery: job.delivery,
            epoch: target.configured.epoch,
        };
        let attempted = attempt::guarded(shared, job, target).await;
        // The place is free at once; the mark stays until the attempt is recorded.
        drop(place);
        (attempted, wire)
    });
}
