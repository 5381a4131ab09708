//! What paused webhooks are owed, and its release.
//!
//! HELD keeps a subject for each webhook. The partition's owner knows which of its webhooks have
//! something there (it counts when one changes and every [`LOOK_EVERY`], and notes what it holds
//! itself), and works on each according to the status in force ([`work_for`], pure):
//!
//! * *active*: back to DELIVERIES, oldest first, no more at a time than the endpoint has room for, so
//!   a backlog neither fills the partition's window nor has to be parked, and follows the ramp of an
//!   endpoint that has just recovered;
//! * *paused by its breaker*: one delivery at a time, as a probe;
//! * *more than its workspace's plan allows* (`heldPerWebhook`), while it stays: the newest end,
//!   recorded as such ([`surplus`], pure). Counted every [`LOOK_EVERY`], so there may be more for as
//!   long as that; never more than the stream's own limit for a subject;
//! * *off or gone*: cancelled. What was held before a person's choice stays, goes or is discarded as
//!   that choice says;
//! * *older than the limit*, whatever the status: ended, recorded as such, and may be replayed. The
//!   stream's own limit is a day longer and never meets anything.
//!
//! Every step is the same twice: a delivery is first written where it goes (with an id that makes
//! that once) or recorded, and then removed from HELD.

mod step;
mod taken_back;

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::stream::FuturesUnordered;
use tokio::time::Instant;
use uuid::Uuid;
use webhooks_bus::ReadFrom;
use webhooks_domain::{
    ids,
    webhook::{StatusReason, WebhookStatus},
};
use webhooks_proto::internal::v1::HeldChoice;

use crate::{
    panics::surviving,
    partition_io::{Settled, Settling},
    shared::Shared,
};
use step::{count, expire, step};
use taken_back::TakenBack;

/// How often a partition counts what it holds: what another has written there is found then.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Longest time between looks for what is too old.
const EXPIRE_EVERY: Duration = Duration::from_secs(60);

/// Deliveries of one step of work.
pub(crate) const PER_STEP: usize = 128;

/// Webhooks worked on at a time.
const WORKERS: usize = 16;

/// How long a webhook is let alone where nothing was found.
const REST: Duration = Duration::from_millis(500);

/// How often all webhooks are gone through, when there are many.
const LOOK_THROUGH_EVERY: Duration = Duration::from_secs(1);

/// How many are gone through at every tick.
const FEW: usize = 256;

/// Reasons of a delivery that ended without having been sent.
pub(crate) mod reason {
    /// The webhook is off.
    pub(crate) const DISABLED: &str = "webhook_disabled";
    /// The webhook is gone.
    pub(crate) const DELETED: &str = "webhook_deleted";
    /// A person took it back.
    pub(crate) const CANCELLED: &str = "cancelled";
    /// A challenge to an endpoint that the webhook no longer points to.
    pub(crate) const ENDPOINT_CHANGED: &str = "endpoint_changed";
    /// A person discarded what was held.
    pub(crate) const DISCARDED: &str = "held_discarded";
    /// Its retry policy was changed while it was being retried, and leaves it no attempt.
    pub(crate) const NO_ATTEMPT_LEFT: &str = "no_attempt_left";
    /// Its handling failed in ways that nobody foresaw; it is kept as a dead letter.
    pub(crate) const DEAD_LETTER: &str = "dead_letter";
    /// It was held for too long.
    pub(crate) const EXPIRED: &str = "hold_expired";
    /// Its webhook held as many as it may.
    pub(crate) const OVERFLOW: &str = "hold_overflow";
}

/// What to do with what a webhook is owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// It stays.
    Stay,
    /// All of it ends.
    Cancel(&'static str),
    /// What was held before this time (microseconds) ends.
    Discard { before_micros: i64 },
    /// It goes out, from there on.
    Release(ReadFrom),
    /// The first from there on goes out as a probe, when one is due.
    Probe(ReadFrom),
    /// All of it but the oldest so many ends, the newest first.
    Trim { keep: u64 },
}

/// The status in force of a webhook, and what a person chose about what it holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View {
    pub(crate) status: (WebhookStatus, Option<StatusReason>),
    pub(crate) choice: HeldChoice,
    /// What was held before this time (microseconds) is what the choice is about; 0 = there was none.
    pub(crate) chosen_at: i64,
}

/// Decides. No view: the webhook is gone. `discarded_to` = what was held before this time has been
/// discarded already.
pub(crate) fn work_for(view: Option<View>, discarded_to: i64) -> Work {
    let Some(view) = view else {
        return Work::Cancel(reason::DELETED);
    };
    let from = match view.choice {
        HeldChoice::Keep if view.chosen_at > 0 => ReadFrom::Micros(view.chosen_at),
        HeldChoice::Keep | HeldChoice::Deliver | HeldChoice::Discard => ReadFrom::Seq(1),
    };
    let discards = view.choice == HeldChoice::Discard && discarded_to < view.chosen_at;
    match view.status {
        (WebhookStatus::Disabled, _) => Work::Cancel(reason::DISABLED),
        (WebhookStatus::Active, _) if discards => Work::Discard {
            before_micros: view.chosen_at,
        },
        (WebhookStatus::Active, _) => Work::Release(from),
        (WebhookStatus::Paused, Some(StatusReason::DeliveryFailures)) => Work::Probe(from),
        (WebhookStatus::Paused | WebhookStatus::AutoDisabled, _) => Work::Stay,
    }
}

/// How many of `held` deliveries are too many where `most` may be held (`None` = as many as HELD
/// takes). What a probe is to be made of stays: an endpoint that is paused by its breaker would
/// never be tried again without it.
pub(crate) fn surplus(held: u64, most: Option<u32>, probed: bool) -> Option<Work> {
    let keep = u64::from(most?).max(u64::from(probed));
    (held > keep).then_some(Work::Trim { keep })
}

/// A webhook with something held.
#[derive(Debug)]
struct Queue {
    /// How many there were at the last count, and those that went there since.
    held: u64,
    working: bool,
    rest_until: Instant,
    discarded_to: i64,
}

impl Queue {
    fn new(now: Instant) -> Self {
        Self {
            held: 0,
            working: false,
            rest_until: now,
            discarded_to: 0,
        }
    }
}

/// What a partition holds.
pub(crate) struct HeldBook {
    shared: Arc<Shared>,
    partition: u16,
    queues: HashMap<Uuid, Queue>,
    working: usize,
    look_at: Instant,
    looking: bool,
    expire_at: Instant,
    expiring: bool,
    through_at: Instant,
    taken_back: TakenBack,
}

/// Something was done with what is held.
#[derive(Debug)]
pub(crate) enum HeldSettled {
    /// These webhooks have so much held; `None` = it could not be found out.
    Counted(Option<HashMap<Uuid, u64>>),
    /// A step of work was done.
    Stepped {
        webhook: Uuid,
        work: Work,
        /// How many deliveries went; `None` = it failed.
        gone: Option<usize>,
        /// Nothing is left to do for now.
        done: bool,
    },
    /// What was too old is gone; there may be more.
    Expired { more: bool },
    /// What was taken back was looked for: see [`TakenBack::looked`].
    TakenBack(Option<Option<u64>>),
}

impl HeldBook {
    pub(crate) fn new(shared: Arc<Shared>, partition: u16) -> Self {
        let now = Instant::now();
        Self {
            taken_back: TakenBack::new(&shared, now),
            shared,
            partition,
            queues: HashMap::new(),
            working: 0,
            look_at: now,
            looking: false,
            expire_at: now,
            expiring: false,
            through_at: now,
        }
    }

    /// A webhook has changed (`None` = some were missed): count soon, if it is one of ours.
    pub(crate) fn webhook_changed(&mut self, webhook: Option<Uuid>) {
        let partitions = self.shared.bus.settings().partitions;
        let now = Instant::now();
        if webhook.is_none_or(|id| ids::partition_of(id, partitions) == self.partition) {
            self.look_at = now;
            self.through_at = now;
        }
        if let Some(queue) = webhook.and_then(|id| self.queues.get_mut(&id)) {
            queue.rest_until = now;
        }
    }

    /// Something of this webhook is being written to HELD.
    pub(crate) fn noted(&mut self, webhook: Uuid) {
        let now = Instant::now();
        self.queues
            .entry(webhook)
            .or_insert_with(|| Queue::new(now))
            .held += 1;
    }

    /// Counts and expires, when it is time.
    pub(crate) fn tick(&mut self, settling: &mut FuturesUnordered<Settling>) {
        let now = Instant::now();
        if !self.looking && now >= self.look_at {
            self.looking = true;
            self.look_at = now + LOOK_EVERY;
            settling.push(count(self.shared.clone(), self.partition));
        }
        if !self.expiring && now >= self.expire_at {
            self.expiring = true;
            self.expire_at = now + EXPIRE_EVERY.min(self.shared.settings.hold_max_age / 4);
            settling.push(expire(self.shared.clone(), self.partition));
        }
        let partitions = self.shared.bus.settings().partitions;
        let ours = |webhook| ids::partition_of(webhook, partitions) == self.partition;
        settling.extend(
            self.taken_back
                .next(&self.shared, self.partition, ours, now),
        );
    }

    /// How many a webhook has, or somewhat more: who acts on it counts anew.
    pub(crate) fn held(&self, webhook: Uuid) -> u64 {
        self.queues.get(&webhook).map_or(0, |queue| queue.held)
    }

    /// The webhooks to look at now.
    pub(crate) fn due(&mut self) -> Vec<Uuid> {
        let now = Instant::now();
        if self.working >= WORKERS || (self.queues.len() > FEW && now < self.through_at) {
            return Vec::new();
        }
        self.through_at = now + LOOK_THROUGH_EVERY;
        let ready = |queue: &Queue| !queue.working && now >= queue.rest_until;
        self.queues
            .iter()
            .filter(|(_, queue)| ready(queue))
            .map(|(webhook, _)| *webhook)
            .collect()
    }

    /// What of it was discarded, for [`work_for`].
    pub(crate) fn discarded_to(&self, webhook: Uuid) -> i64 {
        self.queues
            .get(&webhook)
            .map_or(0, |queue| queue.discarded_to)
    }

    /// Whether something is known to be held, and nobody works on it.
    pub(crate) fn is_free(&self, webhook: Uuid) -> bool {
        self.working < WORKERS
            && self
                .queues
                .get(&webhook)
                .is_some_and(|queue| !queue.working && Instant::now() >= queue.rest_until)
    }

    /// Does a step of `work` with at most `most` deliveries.
    pub(crate) fn step(&mut self, webhook: Uuid, work: Work, most: usize) -> Option<Settling> {
        let queue = self.queues.get_mut(&webhook)?;
        queue.working = true;
        self.working += 1;
        let (shared, partition) = (self.shared.clone(), self.partition);
        let stepped = move |gone, done| {
            Settled::Held(HeldSettled::Stepped {
                webhook,
                work,
                gone,
                done,
            })
        };
        Some(surviving(
            async move {
                let (gone, done) = match step(&shared, partition, webhook, work, most).await {
                    Ok((gone, done)) => (Some(gone), done),
                    Err(error) => {
                        tracing::debug!(%error, partition, webhook.id = %webhook, "held deliveries not gone yet");
                        (None, true)
                    }
                };
                stepped(gone, done)
            },
            move || stepped(None, true),
        ))
    }

    /// Takes note of what was done.
    pub(crate) fn settled(&mut self, settled: &HeldSettled) {
        let now = Instant::now();
        match settled {
            HeldSettled::Counted(found) => {
                self.looking = false;
                if let Some(found) = found {
                    for (webhook, held) in found {
                        let queue = self
                            .queues
                            .entry(*webhook)
                            .or_insert_with(|| Queue::new(now));
                        queue.held = *held;
                    }
                    self.queues
                        .retain(|webhook, queue| queue.working || found.contains_key(webhook));
                }
            }
            HeldSettled::Stepped {
                webhook,
                work,
                gone,
                done,
            } => {
                self.working = self.working.saturating_sub(1);
                if let Some(queue) = self.queues.get_mut(webhook) {
                    queue.working = false;
                    match (work, gone, done) {
                        (Work::Discard { before_micros }, Some(_), true) => {
                            queue.discarded_to = *before_micros;
                        }
                        (_, _, true) => queue.rest_until = now + REST,
                        _ => {}
                    }
                }
            }
            HeldSettled::Expired { more } => {
                self.expiring = false;
                if *more {
                    self.expire_at = now;
                }
            }
            HeldSettled::TakenBack(swept) => self.taken_back.looked(*swept, now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_plans_limit_the_newest_go_but_never_the_last_one_to_probe_with() {
        let trim = |keep| Some(Work::Trim { keep });
        for (held, most, probed, expected) in [
            (5, None, false, None),
            (5, Some(5), false, None),
            (6, Some(5), false, trim(5)),
            (1_000_000, Some(5), true, trim(5)),
            (3, Some(0), false, trim(0)),
            (3, Some(0), true, trim(1)),
            (1, Some(0), true, None),
            (0, Some(0), false, None),
        ] {
            assert_eq!(surplus(held, most, probed), expected, "{held} {most:?}");
        }
    }

    #[test]
    fn the_status_in_force_and_a_persons_choice_say_what_is_done() {
        use HeldChoice::{Deliver, Discard, Keep};
        use StatusReason as R;
        use WebhookStatus as S;
        let breaker = (S::Paused, Some(R::DeliveryFailures));
        let (first, later) = (ReadFrom::Seq(1), ReadFrom::Micros(7));
        for (status, choice, chosen_at, discarded_to, expected) in [
            ((S::Active, None), Keep, 0, 0, Work::Release(first)),
            ((S::Active, None), Keep, 7, 0, Work::Release(later)),
            ((S::Active, None), Deliver, 7, 0, Work::Release(first)),
            (
                (S::Active, None),
                Discard,
                7,
                0,
                Work::Discard { before_micros: 7 },
            ),
            ((S::Active, None), Discard, 7, 7, Work::Release(first)),
            (breaker, Keep, 7, 0, Work::Probe(later)),
            (breaker, Deliver, 7, 0, Work::Probe(first)),
            ((S::Paused, Some(R::User)), Deliver, 7, 0, Work::Stay),
            (
                (S::AutoDisabled, Some(R::EndpointGone)),
                Discard,
                7,
                0,
                Work::Stay,
            ),
            (
                (S::Disabled, Some(R::User)),
                Keep,
                7,
                0,
                Work::Cancel(reason::DISABLED),
            ),
        ] {
            let view = View {
                status,
                choice,
                chosen_at,
            };
            assert_eq!(work_for(Some(view), discarded_to), expected, "{view:?}");
        }
        assert_eq!(work_for(None, 0), Work::Cancel(reason::DELETED));
    }
}
