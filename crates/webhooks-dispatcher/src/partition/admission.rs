//! Where a delivery in hand goes: to its endpoint's line and from there onto the wire, or elsewhere.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
    time::Duration,
};

use tokio::task::JoinSet;
use uuid::Uuid;
use webhooks_domain::{
    ids,
    webhook::{StatusReason, WebhookStatus},
};
use webhooks_proto::internal::v1::HeldChoice;

use super::{
    Mode, OnTheWire, Partition,
    standing::{self, Gate},
};
use crate::{
    attempt::{self, Attempted},
    endpoint::{Admission, Allowed, Endpoint, Flush, Parking, Startable},
    fair::Place,
    held::reason,
    job::{Job, Lane, Owed},
    line::{Rank, Release},
    panics::surviving,
    parked,
    partition_io::{self as io, Settled, Settling},
    registry::Target,
};

/// Deliveries of a partition that are being parked at a time. The server takes the messages of a
/// connection one after another: a thousand that are spilt at once would keep everybody else's for
/// some 200 ms.
const PARKS_AT_ONCE: usize = 8;

impl Partition {
    /// Finds the place of a delivery in hand: on the wire, in its endpoint's queue, or elsewhere.
    ///
    /// # Panics
    /// When finding it does. What is in memory may be in pieces then, so the partition must begin anew;
    /// the delivery is counted, and given up when it has done so too often.
    pub(super) fn admit(&mut self, job: Job) {
        let (key, delivery) = job.owed_by();
        if self.mode == Mode::Owning && self.shared.panics.is_poison(delivery) {
            return self.give_up(key, delivery);
        }
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.place(job))) {
            self.shared.panics.count(delivery);
            resume_unwind(panic);
        }
    }

    fn place(&mut self, job: Job) {
        if self.mode != Mode::Owning {
            return self.hand_back(job);
        }
        if job.ended.is_some() {
            return self.note_arrived(job);
        }
        let Some(target) = self.shared.registry.get(job.webhook) else {
            // Perhaps our view lags behind fan-out's.
            return self.look_again(job);
        };
        if self.shared.cancelled.contains(job.delivery) {
            self.probe_is_no_more(&job);
            return self.cancel(job, reason::CANCELLED);
        }
        if self.is_discarded(&job, &target) {
            return self.cancel(job, reason::DISCARDED);
        }
        match self.gate(&job, &target) {
            Gate::Send => {}
            Gate::Hold => {
                self.held.noted(job.webhook);
                let place = (job.owed_by(), job.webhook, job.rank());
                let (shared, tenure) = (self.shared.clone(), self.tenure.clone());
                let held = io::hold(shared, self.partition, tenure, job);
                return self.leave(place, held);
            }
            Gate::LookAgain => return self.look_again(job),
            Gate::Cancel => return self.cancel(job, reason::DISABLED),
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
        let allowed = self.allowed(webhook, target);
        self.endpoint_with(webhook, allowed)
    }

    fn endpoint_with(&mut self, webhook: Uuid, allowed: Allowed) -> &mut Endpoint<Job> {
        let queue = self.shared.settings.limits.endpoint_queue;
        let (now, since) = (self.shared.clock.now_micros(), self.owned_since);
        let endpoint = self
            .endpoints
            .entry(webhook)
            .or_insert_with(|| Endpoint::new(allowed, queue, since.min(now)));
        endpoint.allow(allowed, now);
        endpoint
    }

    /// A quarter of what is free at most: many slow ones together leave room for the others. Free are
    /// the places of the partition's window, and the bytes of the process.
    pub(super) fn share(&self) -> usize {
        let window = self.shared.settings.limits.partition_window;
        let places = window.saturating_sub(self.outstanding.len());
        places.min(self.shared.budget.room()) / 4
    }

    /// Looks at the newest configuration before the delivery goes on.
    fn look_again(&mut self, job: Job) {
        let (owed, shared) = (job.owed_by(), self.shared.clone());
        self.settle(owed, io::look_again(shared, job));
    }

    /// Ends a delivery without having sent it.
    fn cancel(&mut self, job: Job, reason: &'static str) {
        let place = (job.owed_by(), job.webhook, job.rank());
        let cancelled = io::cancel(self.shared.clone(), job, reason);
        self.leave(place, cancelled);
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
    pub(super) fn leave(&mut self, (owed, webhook, rank): (Owed, Uuid, Rank), leaving: Settling) {
        let left = async move {
            let then = Box::new(leaving.await);
            Settled::Left {
                webhook,
                rank,
                then,
            }
        };
        self.settle(owed, Box::pin(left));
    }

    /// Takes over what a webhook may do now; what is parked may have to go another way.
    pub(super) fn webhook_changed(&mut self, webhook: Option<Uuid>) {
        let changed: Vec<Uuid> = match webhook {
            Some(webhook) => vec![webhook],
            None => self.endpoints.keys().copied().collect(),
        };
        if webhook.is_none() {
            self.to_flush = self.unwanted();
        }
        for webhook in changed {
            let target = self.shared.registry.get(webhook);
            let now = self.shared.clock.now_micros();
            let allowed = target
                .as_deref()
                .map(|target| self.allowed(webhook, target));
            self.flush_unwanted(webhook);
            let flush = self.flush_of(webhook);
            if let Some(endpoint) = self.endpoints.get_mut(&webhook) {
                if let Some(allowed) = allowed {
                    endpoint.allow(allowed, now);
                }
                endpoint.flush(flush);
                self.pump(webhook);
            }
        }
    }

    /// When what is scheduled of a webhook must not wait for its time, because it is not to go out then:
    /// lets it go now, to be held or to end. Its endpoint may not be in memory: it was forgotten, or the
    /// partition has just come.
    pub(super) fn flush_unwanted(&mut self, webhook: Uuid) {
        let partitions = self.shared.bus.settings().partitions;
        if self.mode != Mode::Owning || ids::partition_of(webhook, partitions) != self.partition {
            return;
        }
        let flush = self.flush_of(webhook);
        if flush.is_none() {
            return;
        }
        let target = self.shared.registry.get(webhook);
        let endpoint = match &target {
            Some(target) => self.endpoint(webhook, target),
            None => self.endpoint_with(webhook, Allowed::NOTHING_KNOWN),
        };
        endpoint.flush(flush);
        self.stalled.insert(webhook);
    }

    /// The partition's webhooks of which something scheduled may not be wanted.
    pub(super) fn unwanted(&self) -> VecDeque<Uuid> {
        let partitions = self.shared.bus.settings().partitions;
        let ours = |id: &Uuid| ids::partition_of(*id, partitions) == self.partition;
        let mut ids = self.shared.registry.ids();
        ids.retain(|id| ours(id) && self.flush_of(*id).is_some());
        ids.into()
    }

    /// Starts what an endpoint may start.
    pub(super) fn pump(&mut self, webhook: Uuid) {
        let Some(endpoint) = self.endpoints.get_mut(&webhook) else {
            return;
        };
        if self.mode == Mode::Owning && self.leavers.is_empty() && endpoint.line().must_learn() {
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
                let (owed, shared) = (job.owed_by(), self.shared.clone());
                let looked = io::look_again(shared, job);
                self.settling
                    .push(surviving(looked, move || Settled::Panicked {
                        owed: vec![owed],
                        parking: false,
                    }));
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
            // Before the attempt's task: one that never begins must not leave the mark behind.
            let wire = OnTheWire {
                shared: self.shared.clone(),
                delivery: job.delivery,
                epoch: target.configured.epoch,
            };
            start(&mut self.attempts, wire, job, target, place);
        }
        self.wake(webhook);
    }

    /// What of a webhook's schedules must not wait for its time. A pause by the breaker may be short:
    /// what is scheduled stays where it is meanwhile.
    pub(super) fn flush_of(&self, webhook: Uuid) -> Option<Flush> {
        let Some(target) = self.shared.registry.get(webhook) else {
            return Some(Flush::All);
        };
        let discards = target.held_choice == HeldChoice::Discard && target.held_choice_at > 0;
        match self.health.status(webhook, &target) {
            (WebhookStatus::Active, _) if discards => Some(Flush::Before(target.held_choice_at)),
            (WebhookStatus::Active, _)
            | (WebhookStatus::Paused, Some(StatusReason::DeliveryFailures)) => None,
            (WebhookStatus::Paused | WebhookStatus::Disabled | WebhookStatus::AutoDisabled, _) => {
                Some(Flush::All)
            }
        }
    }

    /// Lets parked deliveries of an endpoint go that has room for them.
    pub(super) fn wake(&mut self, webhook: Uuid) {
        if self.mode != Mode::Owning || !self.has_room() {
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

    /// Writes what is to be parked, a few at a time, and in no hurry while there is room.
    pub(super) fn park_next(&mut self) {
        while self.parking < PARKS_AT_ONCE
            && !self.to_park.is_empty()
            && (self.is_short() || self.shared.pace.allows())
            && let Some((job, parking)) = self.to_park.pop_front()
        {
            self.parking += 1;
            let (shared, partition) = (self.shared.clone(), self.partition);
            let (owed, tenure) = (job.owed_by(), self.tenure.clone());
            let parked = match parking {
                Parking::Room(wait) => io::park(shared, partition, tenure, job, wait),
                Parking::Behind(behind) => io::block(shared, partition, tenure, job, behind),
            };
            self.settling
                .push(surviving(parked, move || Settled::Panicked {
                    owed: vec![owed],
                    parking: true,
                }));
        }
    }
}

fn start(
    attempts: &mut JoinSet<(Attempted, OnTheWire)>,
    wire: OnTheWire,
    job: Job,
    target: Arc<Target>,
    place: Place,
) {
    attempts.spawn(async move {
        let attempted = attempt::guarded(wire.shared.clone(), job, target).await;
        // The place is free at once; the mark stays until the attempt is recorded.
        drop(place);
        (attempted, wire)
    });
}
