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
//! another may own it already; nothing starts any more, what was on the wire is recorded. In both
//! cases a finished message is removed by its sequence, whoever's consumer holds it by now.

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
use webhooks_domain::retry::Next;
use webhooks_proto::internal::v1::Status;

use crate::{
    attempt::{self, Attempted},
    endpoint::Endpoint,
    held,
    job::{Job, Lane, MessageKey},
    partition_io::{self as io, Settled},
    registry::Target,
    shared::Shared,
};

/// Messages taken from a consumer at a time.
const BATCH: usize = 256;

/// How often what is held unacknowledged is signalled as in progress (a third of `ack_wait`).
const PROGRESS_EVERY: Duration = Duration::from_secs(20);

/// How often endpoints are looked at that may have become slow.
const SPILL_EVERY: Duration = Duration::from_millis(500);

/// How often what could not start is looked at again.
const TICK: Duration = Duration::from_millis(100);

/// Deliveries remembered after their acknowledgement, which a crash of the server may forget.
const REMEMBERED: usize = 4_096;

/// What the owner of the partitions tells one of them.
#[derive(Debug)]
pub(crate) enum Order {
    /// Hand it over.
    Give,
    /// It is another's.
    Lost,
}

/// How often the next owner looks whether a leaver has finished what it named.
const LOOK_AFTER_LEAVER: Duration = Duration::from_secs(1);

/// How long a leaver is given: an attempt's deadline, its record, and some.
const LEAVER_PATIENCE: Duration = Duration::from_secs(45);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Owning,
    /// Given or lost; finishing what is on the wire.
    Ending,
}

/// What an owner that left is still finishing.
struct Leaver {
    name: String,
    named: HashSet<MessageKey>,
    /// Those of them that have come to us.
    deferred: HashMap<MessageKey, Job>,
    until: Instant,
    look_at: Instant,
}

struct Outstanding {
    acker: Acker,
    touched: Instant,
}

/// One partition.
pub(crate) struct Partition {
    shared: Arc<Shared>,
    partition: u16,
    epoch: u64,
    leaver: Option<Leaver>,
    orders: mpsc::UnboundedReceiver<Order>,
    mode: Mode,
    endpoints: HashMap<Uuid, Endpoint<Job>>,
    outstanding: HashMap<MessageKey, Outstanding>,
    attempts: JoinSet<(Attempted, OnTheWire)>,
    settling: FuturesUnordered<futures::future::BoxFuture<'static, Settled>>,
    waiting: DelayQueue<Job>,
    /// Finished deliveries with the attempt that finished, newest last.
    finished: VecDeque<(Uuid, u32)>,
    /// Messages up to these sequences may have been sent by an owner that died.
    recheck_to: HashMap<Lane, u64>,
    /// Endpoints that have work but could not start it.
    stalled: HashSet<Uuid>,
    spill_at: Instant,
    /// Its messages in hand were named to the next owner, who leaves them to us.
    named: bool,
}

impl Partition {
    pub(crate) fn new(
        shared: Arc<Shared>,
        partition: u16,
        epoch: u64,
        handover: Handover,
        orders: mpsc::UnboundedReceiver<Order>,
    ) -> Self {
        Self {
            shared,
            partition,
            epoch,
            leaver: leaver_of(handover),
            orders,
            mode: Mode::Owning,
            endpoints: HashMap::new(),
            outstanding: HashMap::new(),
            attempts: JoinSet::new(),
            settling: FuturesUnordered::new(),
            waiting: DelayQueue::new(),
            finished: VecDeque::new(),
            recheck_to: HashMap::new(),
            stalled: HashSet::new(),
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
        let mut changes = self.shared.registry.changes();
        let mut sweep = held::Sweep::new(self.shared.clone(), self.partition);
        loop {
            if self.mode != Mode::Owning && self.attempts.is_empty() && self.settling.is_empty() {
                return;
            }
            if self.mode != Mode::Owning {
                // Dropped, so that nothing more is sent here.
                (fresh, due) = (None, None);
            }
            let room = self.outstanding.len() < self.shared.settings.limits.partition_window;
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
                        self.settling.push(io::still_owed(self.shared.clone(), self.partition, job));
                    } else {
                        self.admit(job);
                    }
                }
                _ = tick.tick() => {
                    self.tick().await;
                    if self.mode == Mode::Owning {
                        sweep.tick(&mut self.settling);
                    }
                }
                (lane, batch) = next_of(&mut due, &mut fresh), if room => self.arrived(lane, batch).await,
                changed = changes.recv(), if self.mode == Mode::Owning => sweep.webhook_changed(changed.ok()),
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
                opened = io::open_consumers(&self.shared.bus, self.partition) => match opened {
                    Ok(opened) => break opened,
                    Err(error) => {
                        tracing::debug!(partition = self.partition, %error, "consumers not ready");
                        tokio::time::sleep(TICK).await;
                    }
                }
            }
        };
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
            let acker = pulled.acker();
            let known = self.outstanding.insert(
                key,
                Outstanding {
                    acker,
                    touched: Instant::now(),
                },
            );
            if known.is_some() {
                // Handed over again while we still have it; only its acknowledgement changes.
                continue;
            }
            match Job::decode(lane, &pulled) {
                Err(reason) => self.settling.push(io::bury(
                    self.shared.clone(),
                    io::stream_of(self.partition, lane),
                    key,
                    pulled,
                    reason,
                )),
                Ok(job) if self.defer(key, &job) => {}
                Ok(job) if self.finished.contains(&(job.delivery, job.attempt)) => {
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
        if !rechecks.is_empty() {
            self.settling
                .push(io::recheck(self.shared.clone(), self.partition, rechecks));
        }
    }

    /// Sets aside what an owner that left is still finishing.
    fn defer(&mut self, key: MessageKey, job: &Job) -> bool {
        match &mut self.leaver {
            Some(leaver) if leaver.named.contains(&key) => {
                leaver.deferred.insert(key, job.clone());
                true
            }
            _ => false,
        }
    }

    /// Looks whether the leaver has finished; what it leaves behind when it dies goes on here.
    fn look_after_leaver(&mut self) {
        let now = Instant::now();
        let Some(leaver) = &mut self.leaver else {
            return;
        };
        if now < leaver.look_at {
            return;
        }
        leaver.look_at = now + LOOK_AFTER_LEAVER;
        if leaver.named.is_empty() {
            self.leaver = None;
        } else {
            // Asked before the look, so that what is there after the leaver's end is really left.
            let ended = now >= leaver.until || !self.shared.leases.is_alive(&leaver.name);
            let keys = leaver.named.iter().copied().collect();
            let look = io::look_for(self.shared.clone(), self.partition, keys, ended);
            self.settling.push(look);
        }
    }

    /// What a leaver named is done with; when it has ended, the rest goes on here.
    fn leaver_finished(&mut self, gone: Vec<MessageKey>, last: bool) {
        let Some(leaver) = &mut self.leaver else {
            return;
        };
        for key in gone {
            leaver.named.remove(&key);
            if leaver.deferred.remove(&key).is_some() {
                self.outstanding.remove(&key);
            }
        }
        if last {
            let left: Vec<Job> = std::mem::take(&mut leaver.deferred).into_values().collect();
            self.leaver = None;
            for jobs in left.chunks(BATCH) {
                self.settling.push(io::recheck(
                    self.shared.clone(),
                    self.partition,
                    jobs.to_vec(),
                ));
            }
        }
    }

    /// Finds the place of a delivery in hand: on the wire, in its endpoint's queue, or elsewhere.
    fn admit(&mut self, job: Job) {
        if self.mode != Mode::Owning {
            return self.hand_back(job);
        }
        let Some(target) = self.shared.registry.get(job.webhook) else {
            // Perhaps our view lags behind fan-out's.
            return self.settling.push(io::look_again(self.shared.clone(), job));
        };
        match target.status {
            Status::Active => {}
            // A status this version does not know is one in which nothing is sent.
            Status::Paused | Status::AutoDisabled | Status::Unspecified => {
                return self
                    .settling
                    .push(io::hold(self.shared.clone(), self.partition, job));
            }
            Status::Disabled => return self.settling.push(io::cancel(self.shared.clone(), job)),
        }
        let limits = self.shared.settings.limits;
        let webhook = job.webhook;
        let endpoint = self
            .endpoints
            .entry(webhook)
            .or_insert_with(|| Endpoint::new(limits.per_endpoint, limits.endpoint_queue));
        // A quarter of what is free at most: many slow ones together leave room for the others.
        let share = limits
            .partition_window
            .saturating_sub(self.outstanding.len())
            / 4;
        match endpoint.admit(job, share, self.shared.clock.now_micros()) {
            Ok(()) => self.pump(webhook),
            Err((job, wait)) => {
                metrics::counter!("webhooks_parked_total").increment(1);
                self.settling
                    .push(io::park(self.shared.clone(), self.partition, job, wait));
            }
        }
    }

    /// Starts what an endpoint may start.
    fn pump(&mut self, webhook: Uuid) {
        let Some(endpoint) = self.endpoints.get_mut(&webhook) else {
            return;
        };
        let now = self.shared.clock.now_micros();
        while endpoint.has_startable() {
            let place = if self.mode == Mode::Owning && self.shared.may_start(self.partition) {
                self.shared.places.clone().try_acquire_owned().ok()
            } else {
                None
            };
            // The place first: a job that was taken from the queue must go out.
            let Some(place) = place else {
                self.stalled.insert(webhook);
                return;
            };
            let Some(job) = endpoint.start(now) else {
                return;
            };
            let Some(target) = self
                .shared
                .registry
                .get(webhook)
                .filter(|target| target.status == Status::Active)
            else {
                // It changed since it was admitted.
                endpoint.ended(Duration::ZERO, now);
                self.settling.push(io::look_again(self.shared.clone(), job));
                continue;
            };
            if !self.shared.enter_wire(job.delivery) {
                // This process still has it on the wire, from before it lost the partition.
                endpoint.ended(Duration::ZERO, now);
                let job = Job {
                    recheck: true,
                    ..job
                };
                self.waiting.insert(job, Duration::from_secs(1));
                continue;
            }
            start(&mut self.attempts, self.shared.clone(), job, target, place);
        }
    }

    /// Parks what waits for endpoints that have become slow.
    fn spill(&mut self, now_micros: i64) {
        let limits = self.shared.settings.limits;
        let share = limits
            .partition_window
            .saturating_sub(self.outstanding.len())
            / 4;
        for endpoint in self
            .endpoints
            .values_mut()
            .filter(|endpoint| endpoint.waiting() > 0)
        {
            for (job, wait) in endpoint.spill(share, now_micros) {
                metrics::counter!("webhooks_parked_total").increment(1);
                self.settling
                    .push(io::park(self.shared.clone(), self.partition, job, wait));
            }
        }
    }

    /// An attempt has ended: free its place, then record, and schedule what comes next.
    fn conclude(&mut self, attempted: Attempted, wire: OnTheWire) {
        let webhook = attempted.job.webhook;
        let now = self.shared.clock.now_micros();
        if let Some(endpoint) = self.endpoints.get_mut(&webhook) {
            endpoint.ended(attempted.result.timings.total, now);
        }
        self.pump(webhook);
        let in_memory = match attempted.next {
            Some(Next::Retry { delay, .. }) => {
                self.mode == Mode::Owning && delay <= self.shared.settings.limits.wait_in_memory
            }
            _ => false,
        };
        let recorded = io::record(self.shared.clone(), self.partition, attempted, in_memory);
        self.settling.push(Box::pin(async move {
            let settled = recorded.await;
            drop(wire);
            settled
        }));
    }

    /// Something durable has happened to a delivery.
    async fn settled(&mut self, settled: Settled) {
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
                        self.acknowledge(job.key).await;
                    } else {
                        self.admit(job);
                    }
                }
            }
            Settled::Gone { keys, last } => self.leaver_finished(keys, last),
            Settled::Nothing => {}
        }
    }

    async fn acknowledge(&mut self, key: MessageKey) {
        let Some(outstanding) = self.outstanding.remove(&key) else {
            return;
        };
        if let Err(error) = outstanding.acker.ack().await {
            tracing::debug!(%error, "acknowledgement not sent; the message comes again");
        }
        if self.mode == Mode::Ending {
            // The consumer is another by now, so the acknowledgement may have met nobody.
            io::remove(&self.shared.bus, self.partition, key).await;
        }
    }

    async fn tick(&mut self) {
        for webhook in std::mem::take(&mut self.stalled) {
            self.pump(webhook);
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
        }
        if self.endpoints.len() > 1_024 {
            self.endpoints
                .retain(|_, endpoint| !endpoint.is_idle(now_micros));
        }
        self.look_after_leaver();
    }

    async fn obey(&mut self, order: Order) {
        if self.mode != Mode::Owning {
            return;
        }
        self.mode = Mode::Ending;
        let mut unstarted: Vec<Job> = self
            .endpoints
            .values_mut()
            .flat_map(Endpoint::drain)
            .collect();
        while let Some(expired) = self.waiting.peek().map(|key| self.waiting.remove(&key)) {
            unstarted.push(expired.into_inner());
        }
        // What the owner before us is still finishing is passed on under our name.
        let mut passed_on = HashSet::new();
        if let Some(leaver) = self.leaver.take() {
            passed_on = leaver.named;
            unstarted.extend(leaver.deferred.into_values());
        }
        for job in unstarted {
            self.hand_back(job);
        }
        if let Order::Give = order {
            // What waits for its record is done with in a moment; it is named all the same.
            passed_on.extend(self.outstanding.keys());
            let named = |lane| {
                passed_on
                    .iter()
                    .filter(|key| key.0 == lane)
                    .map(|key| key.1)
                    .collect::<Vec<_>>()
            };
            let (fresh, due) = (named(Lane::Fresh), named(Lane::Due));
            tracing::info!(
                partition = self.partition,
                in_flight = fresh.len() + due.len(),
                "partition handed over"
            );
            if let Err(error) = self
                .shared
                .leases
                .release(self.partition, self.epoch, fresh, due)
                .await
            {
                tracing::warn!(partition = self.partition, %error, "partition not released yet");
            }
            self.named = true;
        }
    }

    /// Gives back a delivery that has not started. Its message comes to the next owner by itself;
    /// when an attempt was made since the message was written, the next attempt becomes a schedule.
    fn hand_back(&mut self, job: Job) {
        if job.made_progress() || self.named {
            self.settling.push(io::park(
                self.shared.clone(),
                self.partition,
                job,
                Duration::ZERO,
            ));
        } else {
            self.outstanding.remove(&job.key);
        }
    }
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

fn leaver_of(handover: Handover) -> Option<Leaver> {
    let Handover::FromLeaver {
        leaver,
        deliveries,
        retries,
    } = handover
    else {
        return None;
    };
    let named = |lane: Lane, seqs: Vec<u64>| seqs.into_iter().map(move |seq| (lane, seq));
    let now = Instant::now();
    Some(Leaver {
        name: leaver,
        named: named(Lane::Fresh, deliveries)
            .chain(named(Lane::Due, retries))
            .collect(),
        deferred: HashMap::new(),
        until: now + LEAVER_PATIENCE,
        look_at: now,
    })
}

fn start(
    attempts: &mut JoinSet<(Attempted, OnTheWire)>,
    shared: Arc<Shared>,
    job: Job,
    target: Arc<Target>,
    place: tokio::sync::OwnedSemaphorePermit,
) {
    attempts.spawn(async move {
        let wire = OnTheWire {
            shared: shared.clone(),
            delivery: job.delivery,
        };
        let attempted = attempt::guarded(shared, job, target).await;
        // The place is free at once; the mark stays until the attempt is recorded.
        drop(place);
        (attempted, wire)
    });
}

/// Frees a delivery's mark, also when its attempt panics.
struct OnTheWire {
    shared: Arc<Shared>,
    delivery: Uuid,
}

impl Drop for OnTheWire {
    fn drop(&mut self) {
        self.shared.leave_wire(self.delivery);
    }
}
