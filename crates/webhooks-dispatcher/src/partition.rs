//! The owner of one partition: one task, nothing locked.
//!
//! It pulls from the partition's two consumers, keeps a small queue and a cap for each endpoint,
//! starts what may start, and concludes what has ended. Whatever does not fit (a full queue, a
//! retry that is due later) becomes a schedule on the RETRIES stream, so a slow endpoint holds
//! neither the consumer nor memory; what it cannot acknowledge soon it signals as in progress.
//!
//! Giving the partition away and losing it are told apart. *Give*: what is on the wire is named to
//! the next owner and finished here; what has not started the next owner gets at once, because it
//! makes the consumers anew. It lets alone what was named as long as the leaver lives. *Lost*:
//! another may own it already; nothing starts any more, what was on the wire is recorded and what has
//! to follow is the next owner's ([`Tenure`]). In both cases a finished message is removed by its
//! sequence, whoever's consumer holds it by now.

mod admission;
mod handover;
mod kin;
mod settled;
mod standing;
mod tick;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};
use tokio_util::time::DelayQueue;
use uuid::Uuid;
use webhooks_bus::{Acker, Handover, Pull, Pulled};

use crate::{
    attempt::Attempted,
    budget::Part,
    endpoint::{Endpoint, Parking},
    health::HealthBook,
    held::HeldBook,
    job::{Job, Lane, MessageKey, Owed},
    kin::{Elder, Ending},
    pace,
    panics::surviving,
    partition_io::{self as io, Settled, Settling},
    shared::Shared,
    tenure::Tenure,
};
use handover::{Leaver, leavers_of};
use kin::Kin;

/// Messages taken from a consumer at a time.
const BATCH: usize = 256;

/// How often what could not start is looked at again.
const TICK: Duration = Duration::from_millis(100);

/// Webhooks at a tick whose schedules are looked through because nobody wants them to go out.
const FLUSHED_PER_TICK: usize = 8;

/// What the owner of the partitions tells one of them.
#[derive(Debug)]
pub(crate) enum Order {
    /// Hand it over.
    Give,
    /// It is another's.
    Lost,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Owning,
    /// Given or lost; finishing what is on the wire.
    Ending,
}

struct Outstanding {
    acker: Acker,
    touched: Instant,
    /// Its bytes; `None` = they are not in memory.
    part: Option<Part>,
}

/// One partition.
pub(crate) struct Partition {
    shared: Arc<Shared>,
    partition: u16,
    epoch: u64,
    leavers: Vec<Leaver>,
    kin: Kin,
    ending: Ending,
    orders: mpsc::UnboundedReceiver<Order>,
    mode: Mode,
    tenure: Arc<Tenure>,
    endpoints: HashMap<Uuid, Endpoint<Job>>,
    outstanding: HashMap<MessageKey, Outstanding>,
    attempts: JoinSet<(Attempted, OnTheWire)>,
    settling: FuturesUnordered<Settling>,
    /// What is to be parked when there is room to write it, and how many are being parked.
    to_park: VecDeque<(Job, Parking)>,
    parking: usize,
    waiting: DelayQueue<Job>,
    /// Endpoints whose rate lets the next request go at that time.
    timers: DelayQueue<Uuid>,
    /// When the partition came (microseconds).
    owned_since: i64,
    /// Messages that are finished and to be removed from their streams, while the partition ends.
    to_remove: Vec<MessageKey>,
    removing: bool,
    /// Webhooks whose schedules are still to be looked through since the partition came.
    to_flush: VecDeque<Uuid>,
    /// Messages up to these sequences may have been sent by an owner that died.
    recheck_to: HashMap<Lane, u64>,
    /// Endpoints that have work but could not start it.
    stalled: HashSet<Uuid>,
    /// Some of them wait for earlier events to be fanned out.
    ask_fan_out: bool,
    spill_at: Instant,
    health: HealthBook,
    held: HeldBook,
    /// Its messages in hand were named to the next owner, who leaves them to us.
    named: bool,
}

impl Partition {
    pub(crate) fn new(
        shared: Arc<Shared>,
        partition: u16,
        epoch: u64,
        handover: Handover,
        (elders, ending): (Vec<Elder>, Ending),
        orders: mpsc::UnboundedReceiver<Order>,
    ) -> Self {
        Self {
            health: HealthBook::new(shared.clone(), partition),
            held: HeldBook::new(shared.clone(), partition),
            tenure: Arc::new(Tenure::new(shared.leases.clone(), partition, epoch)),
            shared,
            partition,
            epoch,
            leavers: leavers_of(handover),
            kin: Kin::of(elders),
            ending,
            orders,
            mode: Mode::Owning,
            endpoints: HashMap::new(),
            outstanding: HashMap::new(),
            attempts: JoinSet::new(),
            settling: FuturesUnordered::new(),
            to_park: VecDeque::new(),
            parking: 0,
            waiting: DelayQueue::new(),
            timers: DelayQueue::new(),
            owned_since: i64::MAX,
            to_remove: Vec::new(),
            removing: false,
            to_flush: VecDeque::new(),
            recheck_to: HashMap::new(),
            stalled: HashSet::new(),
            ask_fan_out: false,
            spill_at: Instant::now(),
            named: false,
        }
    }

    /// Works until the partition is given or lost and nothing is in hand any more.
    pub(crate) async fn run(mut self) {
        let Some((fresh, due)) = self.open().await else {
            return;
        };
        let (mut fresh, mut due) = (Some(fresh), Some(due));
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let Some(mut changes) = self.shared.registry.changes(self.partition) else {
            return tracing::error!(partition = self.partition, "there is no such partition");
        };
        loop {
            if self.mode != Mode::Owning && self.attempts.is_empty() && self.settling.is_empty() {
                return;
            }
            if self.mode != Mode::Owning {
                // Dropped, so that nothing more is sent here.
                (fresh, due) = (None, None);
            }
            let may_pull = self.may_pull();
            tokio::select! {
                biased;
                Some(order) = self.orders.recv() => self.obey(order).await,
                Some(ended) = self.attempts.join_next() => match ended {
                    Ok((attempted, wire)) => self.conclude(attempted, wire),
                    Err(error) => tracing::error!(%error, partition = self.partition, "attempt.lost"),
                },
                Some(settled) = self.settling.next() => self.settled(settled).await,
                Some(expired) = self.waiting.next(), if !self.waiting.is_empty() => {
                    let job = expired.into_inner();
                    if job.recheck {
                        let (owed, shared) = (job.owed_by(), self.shared.clone());
                        let looked = io::still_owed(shared, self.partition, job);
                        self.settle(owed, looked);
                    } else {
                        self.admit(job);
                    }
                }
                Some(rang) = self.timers.next(), if !self.timers.is_empty() => {
                    let webhook = rang.into_inner();
                    if let Some(endpoint) = self.endpoints.get_mut(&webhook) {
                        endpoint.timer_rang();
                    }
                    self.pump(webhook);
                }
                _ = tick.tick() => {
                    self.tick().await;
                    if self.mode == Mode::Owning {
                        self.look_after_held();
                    }
                }
                (lane, batch) = next_of(&mut due, &mut fresh), if may_pull => self.arrived(lane, batch).await,
                changed = changes.recv(), if self.mode == Mode::Owning => {
                    let changed = changed.ok();
                    self.configuration_changed(changed);
                    self.webhook_changed(changed);
                }
            }
        }
    }

    /// Makes the consumers ready as the handover demands. `None` when the partition goes again
    /// before that.
    async fn open(&mut self) -> Option<(Pull, Pull)> {
        let opened = loop {
            tokio::select! {
                Some(order) = self.orders.recv() => {
                    self.obey(order).await;
                    return None;
                }
                opened = open(&self.shared, self.partition, self.kin.told()) => match opened {
                    Ok(opened) => break opened,
                    Err(error) => {
                        tracing::debug!(partition = self.partition, %error, "consumers not ready");
                        tokio::time::sleep(TICK).await;
                    }
                }
            }
        };
        self.owned_since = self.shared.clock.now_micros();
        self.health.take_over(self.shared.health.all());
        self.settling.extend(self.health.left_to_tell());
        self.to_flush = self.unwanted();
        self.recheck_to = HashMap::from([
            (Lane::Fresh, opened.recheck_fresh),
            (Lane::Due, opened.recheck_due),
        ]);
        Some((opened.fresh, opened.due))
    }

    async fn arrived(&mut self, lane: Lane, batch: Vec<Pulled>) {
        let mut rechecks = Vec::new();
        for pulled in batch {
            let key = (lane, pulled.stream_seq);
            let (acker, touched) = (pulled.acker(), Instant::now());
            if let Some(outstanding) = self.outstanding.get_mut(&key) {
                // Handed over again while we still have it; only its acknowledgement changes.
                (outstanding.acker, outstanding.touched) = (acker, touched);
                continue;
            }
            let outstanding = Outstanding {
                acker,
                touched,
                part: Some(self.shared.budget.take(pulled.payload.len())),
            };
            self.outstanding.insert(key, outstanding);
            match Job::decode(lane, &pulled) {
                Err(reason) => self.settling.push(io::bury(
                    self.shared.clone(),
                    io::stream_of(self.partition, lane),
                    key,
                    pulled,
                    reason,
                )),
                Ok(job) if self.defer(key, &job) => {}
                Ok(job) if self.defer_to_elder(key, &job).await => {}
                Ok(job) if job.ended.is_some() => self.admit(job),
                Ok(job) if self.shared.finished.contains(job.delivery, job.attempt) => {
                    self.acknowledge(key).await
                }
                Ok(job)
                    if job.recheck || key.1 <= self.recheck_to.get(&lane).copied().unwrap_or(0) =>
                {
                    rechecks.push(job)
                }
                Ok(job) => self.admit(job),
            }
        }
        self.recheck(rechecks);
    }

    /// Asks what is known of deliveries before they go on.
    fn recheck(&mut self, jobs: Vec<Job>) {
        if jobs.is_empty() {
            return;
        }
        let owed: Vec<Owed> = jobs.iter().map(Job::owed_by).collect();
        let asked = io::recheck(self.shared.clone(), self.partition, jobs);
        self.settling.push(surviving(asked, || Settled::Panicked {
            owed,
            parking: false,
        }));
    }

    /// Does something with a delivery in hand; should that panic, the delivery is taken up again.
    fn settle(&mut self, owed: Owed, work: Settling) {
        self.settling
            .push(surviving(work, move || Settled::Panicked {
                owed: vec![owed],
                parking: false,
            }));
    }

    /// Whether there will soon be no room to pull more.
    fn is_short(&self) -> bool {
        let window = self.shared.settings.limits.partition_window;
        pace::is_short(self.outstanding.len(), window) || self.shared.budget.is_short()
    }

    /// Whether more may be pulled. Not while membership is uncertain: the consumer may be the next
    /// owner's by now, and what it gave us would wait there for its time.
    fn may_pull(&self) -> bool {
        self.shared.leases.lapses().is_some() && self.has_room()
    }

    /// Whether there is room for more.
    fn has_room(&self) -> bool {
        self.outstanding.len() < self.shared.settings.limits.partition_window
            && self.shared.budget.has_room()
    }
}

/// Opens a partition when those who had it in this process know that it is no longer theirs.
async fn open(
    shared: &Shared,
    partition: u16,
    told: impl Future<Output = ()>,
) -> Result<io::Opened, webhooks_bus::BusError> {
    told.await;
    io::open(shared, partition).await
}

/// The next messages of either lane; neither starves the other.
async fn next_of(due: &mut Option<Pull>, fresh: &mut Option<Pull>) -> (Lane, Vec<Pulled>) {
    tokio::select! {
        batch = next_batch(due) => (Lane::Due, batch),
        batch = next_batch(fresh) => (Lane::Fresh, batch),
    }
}

/// The next messages; none ever, once the pull was dropped.
async fn next_batch(pull: &mut Option<Pull>) -> Vec<Pulled> {
    match pull {
        Some(pull) => pull.next_batch(BATCH).await,
        None => std::future::pending().await,
    }
}

/// Frees a delivery's mark, also when its attempt panics or never begins.
struct OnTheWire {
    shared: Arc<Shared>,
    delivery: Uuid,
    /// The webhook's `health_epoch` when it started.
    epoch: u64,
}

impl Drop for OnTheWire {
    fn drop(&mut self) {
        self.shared.leave_wire(self.delivery);
    }
}
