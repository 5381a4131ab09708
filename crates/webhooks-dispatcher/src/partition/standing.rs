//! What the status in force does to a partition's deliveries: what goes, what is held, and when what
//! is held goes out again. The rules are elsewhere ([`crate::health`], [`crate::held`]).

use futures::{FutureExt as _, future::BoxFuture};
use tokio::sync::oneshot;
use uuid::Uuid;
use webhooks_bus::FIRE_MARGIN;
use webhooks_domain::{
    ids::Trigger,
    webhook::{StatusReason, WebhookStatus},
};
use webhooks_proto::internal::v1::HeldChoice;

use super::{Mode, Partition};
use crate::{
    attempt::Attempted,
    endpoint::Allowed,
    health::{self, Effect, HealthSettled},
    held::{HeldSettled, PER_STEP, View, Work, surplus, work_for},
    job::{Bound, Job, Lane},
    partition_io::Settled,
    registry::Target,
};

/// Deliveries that may be released to an endpoint that recovers, for each request it may have at a
/// time.
const RELEASED_PER_PLACE: usize = 8;

/// Where a delivery in hand goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gate {
    Send,
    Hold,
    Cancel,
    /// Not to the endpoint that is known here: perhaps our view lags behind.
    LookAgain,
}

/// Decides. A test goes out whatever deliveries have made of the webhook: a person wants to know.
/// To an endpoint that has not shown yet whose it is goes nothing but the challenge, not even a test;
/// and a challenge goes to no other endpoint than its own, whatever the status.
pub(super) fn gate(
    status: (WebhookStatus, Option<StatusReason>),
    probe: bool,
    trigger: Trigger,
    bound: Bound,
) -> Gate {
    match status {
        (WebhookStatus::Disabled, _) => Gate::Cancel,
        _ if bound == Bound::Elsewhere => Gate::LookAgain,
        (WebhookStatus::Active, _) => Gate::Send,
        (WebhookStatus::Paused, Some(StatusReason::Unverified)) => match bound {
            Bound::Here => Gate::Send,
            Bound::Free | Bound::Elsewhere => Gate::Hold,
        },
        (WebhookStatus::Paused, Some(StatusReason::DeliveryFailures)) if probe => Gate::Send,
        (WebhookStatus::Paused | WebhookStatus::AutoDisabled, _) if trigger == Trigger::Test => {
            Gate::Send
        }
        (WebhookStatus::Paused | WebhookStatus::AutoDisabled, _) => Gate::Hold,
    }
}

/// Whether a delivery waited on RETRIES at this time, so close to its own that it was left to come by
/// itself.
fn was_waiting(job: &Job, at_micros: i64) -> bool {
    let margin = i64::try_from(FIRE_MARGIN.as_micros()).unwrap_or(i64::MAX);
    job.key.0 == Lane::Due
        && job.trigger != Trigger::Test
        && job.reference.created_at < at_micros
        && job.due_micros <= at_micros.saturating_add(margin)
}

impl Partition {
    /// Where a delivery goes, by the status in force.
    pub(super) fn gate(&self, job: &Job, target: &Target) -> Gate {
        let status = self.health.status(job.webhook, target);
        gate(status, job.probe, job.trigger, job.bound(target))
    }

    /// Whether a person has discarded a delivery, with all that its webhook was owed: it was marked
    /// when its schedule was let go, or that had fired just then.
    pub(super) fn is_discarded(&self, job: &Job, target: &Target) -> bool {
        let status = self.health.status(job.webhook, target).0;
        let chosen = target.held_choice == HeldChoice::Discard && status == WebhookStatus::Active;
        job.discarded || (chosen && was_waiting(job, target.held_choice_at))
    }

    /// Whether deliveries of a webhook go out as they come.
    pub(super) fn is_active(&self, webhook: Uuid) -> bool {
        let target = self.shared.registry.get(webhook);
        target.is_some_and(|target| self.health.status(webhook, &target).0 == WebhookStatus::Active)
    }

    /// What a webhook may do at a time, with what it may do while it recovers.
    pub(super) fn allowed(&self, webhook: Uuid, target: &Target) -> Allowed {
        let mut allowed = target.allowed;
        if let Some(limit) = self.health.ramp_limit(webhook) {
            allowed.cap = allowed.cap.min(limit);
        }
        allowed
    }

    /// Counts an attempt that has ended. What is returned is to be waited for before its message is
    /// acknowledged.
    pub(super) fn count(
        &mut self,
        attempted: &Attempted,
        epoch: u64,
    ) -> Option<BoxFuture<'static, ()>> {
        let ended = health::ended_of(attempted, epoch, self.shared.clock.now_micros())?;
        let (webhook, workspace) = (attempted.job.webhook, attempted.job.workspace);
        if self.mode != Mode::Owning {
            let shared = self.shared.clone();
            let (partition, epoch) = (self.partition, self.epoch);
            let told = health::tell_next_owner(shared, partition, webhook, workspace, epoch, ended);
            return Some(told.boxed());
        }
        let effect = self.health.ended(webhook, workspace, ended);
        let durable = self.after(webhook, effect);
        if self.health.is_known(webhook)
            && let Some(target) = self.shared.registry.get(webhook)
        {
            // It may have more at a time now, or less.
            self.endpoint(webhook, &target);
        }
        durable.map(|durable| waiting_for(durable).boxed())
    }

    /// A note of how an attempt ended at an owner before.
    pub(super) fn note_arrived(&mut self, job: Job) {
        let mut durable = None;
        if let Some(note) = &job.ended {
            let ended = health::ended_in(&job, note);
            let effect = self.health.ended(job.webhook, job.workspace, ended);
            durable = self.after(job.webhook, effect);
        }
        let (owed, key) = (job.owed_by(), job.key);
        let counted = async move {
            if let Some(durable) = durable {
                waiting_for(durable).await;
            }
            Settled::Done {
                key,
                finished: None,
            }
        };
        self.settle(owed, counted.boxed());
    }

    /// Does what follows from an input; returns what it is to be waited for.
    fn after(&mut self, webhook: Uuid, effect: Effect) -> Option<oneshot::Receiver<()>> {
        self.settling.extend(effect.act);
        if effect.status_changed {
            self.status_changed(webhook);
        }
        effect.durable
    }

    /// Deliveries have made another status of a webhook's: what waits in memory is held, or what is
    /// held goes out.
    fn status_changed(&mut self, webhook: Uuid) {
        if self.mode != Mode::Owning {
            return;
        }
        self.held.webhook_changed(Some(webhook));
        if self.is_active(webhook) {
            if let Some(target) = self.shared.registry.get(webhook) {
                self.endpoint(webhook, &target);
            }
            self.stalled.insert(webhook);
            self.webhook_changed(Some(webhook));
            return;
        }
        let waiting = match self.endpoints.get_mut(&webhook) {
            Some(endpoint) => endpoint.line().beyond(0),
            None => Vec::new(),
        };
        for (job, _) in waiting {
            self.admit(job);
        }
        // And what is scheduled, unless it is well again soon.
        self.webhook_changed(Some(webhook));
    }

    /// A webhook's configuration has changed (`None` = some were missed).
    pub(super) fn configuration_changed(&mut self, webhook: Option<Uuid>) {
        self.held.webhook_changed(webhook);
        let changed = match webhook {
            Some(webhook) => vec![webhook],
            None => self.health.known(),
        };
        for webhook in changed {
            let target = self.shared.registry.get(webhook);
            let effect = self.health.configured(webhook, target.as_deref());
            self.after(webhook, effect);
        }
    }

    /// Something about an endpoint's health is durable, or is not.
    pub(super) fn health_settled(&mut self, settled: HealthSettled) {
        if self.mode != Mode::Owning {
            return;
        }
        let (changed, acts) = self.health.settled(settled);
        self.settling.extend(acts);
        if let Some(webhook) = changed {
            self.status_changed(webhook);
        }
    }

    /// Something was done with what is held.
    pub(super) fn held_settled(&mut self, settled: HeldSettled) {
        self.held.settled(&settled);
        let HeldSettled::Stepped {
            webhook,
            work,
            gone,
            done,
        } = settled
        else {
            return;
        };
        if matches!(work, Work::Probe(_)) && gone.is_none_or(|gone| gone == 0) {
            self.health.probe_ended(webhook);
        }
        if !done && gone.is_some_and(|gone| gone >= PER_STEP) {
            self.work_on_held(webhook);
        }
    }

    /// Looks after what is held.
    pub(super) fn look_after_held(&mut self) {
        self.held.tick(&mut self.settling);
        for webhook in self.held.due() {
            self.work_on_held(webhook);
        }
        self.health.tidy();
    }

    /// Begins the next step with what a webhook is owed, if there is one to make.
    fn work_on_held(&mut self, webhook: Uuid) {
        if self.mode != Mode::Owning || !self.held.is_free(webhook) {
            return;
        }
        let target = self.shared.registry.get(webhook);
        let view = target.as_deref().map(|target| View {
            status: self.health.status(webhook, target),
            choice: target.held_choice,
            chosen_at: target.held_choice_at,
        });
        let work = match work_for(view, self.held.discarded_to(webhook)) {
            stays @ (Work::Stay | Work::Probe(_)) => {
                let most = target.as_deref().and_then(|target| target.held_max);
                let probed = matches!(stays, Work::Probe(_));
                surplus(self.held.held(webhook), most, probed).unwrap_or(stays)
            }
            work => work,
        };
        let most = match (work, &target) {
            (Work::Stay, _) => 0,
            (Work::Probe(_), _) => {
                let now = self.shared.clock.now_micros();
                usize::from(self.health.probe_begins(webhook, now))
            }
            (Work::Release(_), Some(target)) => self.room_for(webhook, target),
            (Work::Release(_) | Work::Cancel(_) | Work::Discard { .. } | Work::Trim { .. }, _) => {
                PER_STEP
            }
        };
        if most > 0 {
            self.settling.extend(self.held.step(webhook, work, most));
        }
    }

    /// How many held deliveries an endpoint has room for.
    fn room_for(&mut self, webhook: Uuid, target: &Target) -> usize {
        let (share, now) = (self.share(), self.shared.clock.now_micros());
        let ramp = self.health.ramp_limit(webhook);
        let endpoint = self.endpoint(webhook, target);
        let room = endpoint.room(share, now).min(share.max(1));
        let room = ramp.map_or(room, |limit| {
            room.min(limit.saturating_mul(RELEASED_PER_PLACE))
        });
        room.saturating_sub(endpoint.waiting())
    }

    /// A delivery that may have been a probe goes no further.
    pub(super) fn probe_is_no_more(&mut self, job: &Job) {
        if job.probe {
            self.health.probe_ended(job.webhook);
        }
    }

    /// The partition goes: what is not in the records is told to its next owner.
    pub(super) fn end_health(&mut self) {
        for (webhook, workspace, ended, waits) in self.health.end() {
            let shared = self.shared.clone();
            let (partition, epoch) = (self.partition, self.epoch);
            let told = health::tell_next_owner(shared, partition, webhook, workspace, epoch, ended);
            self.settling.push(
                async move {
                    told.await;
                    if let Some(waits) = waits {
                        // Who waited may be gone with its attempt.
                        waits.send(()).ok();
                    }
                    Settled::Nothing
                }
                .boxed(),
            );
        }
    }
}

/// Until the record shows it. When nobody writes it any more, the next owner is told instead.
async fn waiting_for(durable: oneshot::Receiver<()>) {
    durable.await.ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_about_to_come_by_itself_when_a_person_discarded_it_is_discarded_too() {
        use webhooks_proto::internal::v1::{DeliveryJob, DeliveryRef};
        const SECOND: i64 = 1_000_000;
        let chosen = 100 * SECOND;
        for (lane, created, due, expected) in [
            (Lane::Due, 90, 95, true),
            (Lane::Due, 90, 102, true),
            // It was let go before its time, or was scheduled after the choice.
            (Lane::Due, 90, 103, false),
            // Of an event after the choice.
            (Lane::Due, 101, 102, false),
            // Owed since fan-out: it had not waited.
            (Lane::Fresh, 90, 0, false),
        ] {
            let job = crate::job::tests::job(
                lane,
                DeliveryJob {
                    delivery: Some(DeliveryRef {
                        created_at: created * SECOND,
                        ..DeliveryRef::default()
                    }),
                    due_at: due * SECOND,
                    ..DeliveryJob::default()
                },
            );
            assert_eq!(
                was_waiting(&job, chosen),
                expected,
                "{lane:?} {created} {due}"
            );
        }
    }

    #[test]
    fn only_a_probe_and_a_test_go_to_a_paused_endpoint() {
        use StatusReason as R;
        use WebhookStatus as S;
        let breaker = (S::Paused, Some(R::DeliveryFailures));
        let off = (S::AutoDisabled, Some(R::EndpointGone));
        let user = (S::Paused, Some(R::User));
        for (status, probe, trigger, expected) in [
            ((S::Active, None), false, Trigger::Event, Gate::Send),
            (breaker, false, Trigger::Event, Gate::Hold),
            (breaker, false, Trigger::Replay, Gate::Hold),
            (breaker, true, Trigger::Event, Gate::Send),
            (breaker, false, Trigger::Test, Gate::Send),
            (user, true, Trigger::Event, Gate::Hold),
            (off, true, Trigger::Event, Gate::Hold),
            (off, false, Trigger::Test, Gate::Send),
            (
                (S::Disabled, Some(R::User)),
                false,
                Trigger::Test,
                Gate::Cancel,
            ),
        ] {
            assert_eq!(
                gate(status, probe, trigger, Bound::Free),
                expected,
                "{status:?} {trigger:?}"
            );
        }
    }

    #[test]
    fn nothing_but_its_challenge_goes_to_an_unverified_endpoint_and_that_nowhere_else() {
        use StatusReason as R;
        use WebhookStatus as S;
        let unverified = (S::Paused, Some(R::Unverified));
        for trigger in [Trigger::Event, Trigger::Replay, Trigger::Test] {
            for probe in [false, true] {
                let gate = |bound| gate(unverified, probe, trigger, bound);
                assert_eq!(gate(Bound::Free), Gate::Hold, "{trigger:?} {probe}");
                assert_eq!(gate(Bound::Here), Gate::Send, "{trigger:?} {probe}");
                assert_eq!(gate(Bound::Elsewhere), Gate::LookAgain);
            }
        }
        for status in S::ALL {
            for reason in R::ALL.iter().copied().map(Some).chain([None]) {
                let elsewhere = gate((*status, reason), false, Trigger::Test, Bound::Elsewhere);
                assert_ne!(elsewhere, Gate::Send, "{status:?} {reason:?}");
            }
        }
        let off = (S::Disabled, Some(R::User));
        assert_eq!(gate(off, false, Trigger::Test, Bound::Here), Gate::Cancel);
    }
}
