//! Partition ownership in bucket LEASES.
//!
//! One key for each member (`m.<name>`, living [`LeasesSettings::ttl`], renewed every
//! [`LeasesSettings::renew`]) and one for each partition (`p.<n>`, without an end, changed by
//! compare-and-set). A member whose key expires is dead: its partitions are free for others.
//!
//! # Why two members never start work for one partition at a time
//!
//! * A renewal that is acknowledged was stored after it was sent, so the member's key lives until
//!   *send time + ttl* at least. The member trusts its membership until *send time + ⅔ ttl*
//!   ([`Leases::may_send`]): 2 s of 3 s. By the time others may take its partitions it has been fenced
//!   for a second, whatever its clock and the server's show: only lengths of time are compared.
//! * When that time has passed, nothing may start. The next good renewal does not undo it: each
//!   partition that is still thought ours is written once more, by compare-and-set on the sequence that
//!   our lease was last seen at, and only when that is acknowledged may it start work again. Whoever had
//!   taken it meanwhile has changed the key, so the write is refused and the partition is
//!   [`Lost`](LeaseEvent::Lost). A write that began before a later lapse proves nothing and is made again.
//! * A partition is taken by compare-and-set too. Of two writers on one sequence one wins.
//!
//! * A member is dead only when its end has been *seen*. Who begins to look reads the members one after
//!   another while they go on renewing, so one that has not come up yet says nothing: the leader of the
//!   bucket is asked for its key before a partition of its is taken.
//!
//! So a lapse costs a pause, not the partitions: they are lost when somebody has really taken them, or
//! when no renewal has worked for twice the ttl, since then others have had time to.
//!
//! # Why a slow answer is no lapse
//!
//! Renewals have a connection of their own, so none stands behind thousands of publishes. They are sent
//! on time whether or not the earlier ones are answered, and a late answer counts from its own send
//! time: three of four may be slow or lost. What is awaited is bounded: an answer that comes after the
//! fence is of no use, so a renewal is given up by then.
//!
//! Who decides what to take and to give is [`webhooks_domain::ownership`]; this is its I/O. All
//! partitions of a decision are written at once, since one that waits for its 2 s must not hold up
//! the others.
//! Measured for this layout (64 partitions, 3 members): all owned 2.3 s after a SIGKILL (3.0 at
//! most), 0.04 s after a release.

mod view;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_nats::{
    HeaderMap,
    jetstream::kv::{Entry, Operation},
};
use bytes::Bytes;
use futures::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use prost::Message as _;
use tokio::{
    sync::{Notify, OnceCell, mpsc},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;
use webhooks_domain::ownership;
use webhooks_proto::internal::v1::{PartitionLease, PartitionLeaver};

use crate::{
    bus::Bus,
    elsewhere::Patience,
    error::{BusError, PublishError, unavailable},
    publish::Outgoing,
    roll::Roll,
    subjects::{headers, names},
};

use view::View;

/// How membership is kept.
#[derive(Debug, Clone)]
pub struct LeasesSettings {
    /// This member's name: unique for each start of a process, `[A-Za-z0-9-]`.
    pub member: String,
    /// Partitions in all.
    pub partitions: u16,
    /// How long a member lives without renewal.
    pub ttl: Duration,
    /// How often it renews: several times in ⅔ of `ttl`, so that some may be slow.
    pub renew: Duration,
}

impl LeasesSettings {
    /// How long after a renewal was sent membership is certain. A third of the time to live is left, in
    /// which nothing starts here and nobody else may.
    fn fence(&self) -> Duration {
        self.ttl * 2 / 3
    }

    /// How long after the last good renewal was sent every partition is given up: others may have
    /// taken them, and must find nothing of theirs pulled here.
    fn give_up_after(&self) -> Duration {
        self.ttl * 2
    }
}

/// In what condition a partition was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Handover {
    /// Nobody had anything in flight.
    Clean,
    /// Its owner died: what it had pulled must go out again.
    FromDead,
    /// Owners left and are still finishing something: the last one, and perhaps some before it.
    FromLeavers(Vec<InHand>),
}

/// What a member that left a partition is still finishing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InHand {
    /// The member; while it lives, it acknowledges these itself.
    pub member: String,
    /// Sequences on the DELIVERIES stream.
    pub deliveries: Vec<u64>,
    /// Sequences on the RETRIES stream.
    pub retries: Vec<u64>,
}

/// What happened to a partition.
#[derive(Debug, PartialEq, Eq)]
pub enum LeaseEvent {
    /// It is ours.
    Gained {
        /// The partition.
        partition: u16,
        /// Grows with each owner.
        epoch: u64,
        /// What the owner before left.
        handover: Handover,
    },
    /// Others have too few, or we leave: stop pulling, then call [`Leases::release`].
    Give {
        /// The partition.
        partition: u16,
    },
    /// It is no longer ours: start nothing more for it.
    Lost {
        /// The partition.
        partition: u16,
    },
}

struct Shared {
    /// The service's connection, for its settings.
    bus: Bus,
    /// Our own.
    own_bus: OnceCell<Bus>,
    settings: LeasesSettings,
    view: Mutex<View>,
    changed: Notify,
    events: mpsc::UnboundedSender<LeaseEvent>,
}

/// This process's membership and its partitions. Cheap to clone.
#[derive(Clone)]
pub struct Leases {
    shared: Arc<Shared>,
}

const STREAM: &str = "KV_LEASES";
const LEAVING: &[u8] = b"leaving";
const ACTIVE: &[u8] = b"active";

impl Leases {
    /// Joins, and keeps taking and giving until `shutdown` (which ends renewal too, so cancel it
    /// only after [`Leases::leave`]). The channel holds at most a few events for each partition.
    #[must_use]
    pub fn start(
        bus: &Bus,
        settings: LeasesSettings,
        shutdown: CancellationToken,
    ) -> (Self, mpsc::UnboundedReceiver<LeaseEvent>) {
        let (events, receiver) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            bus: bus.clone(),
            own_bus: OnceCell::new(),
            settings,
            view: Mutex::default(),
            changed: Notify::new(),
            events,
        });
        for part in 0..3 {
            let (shared, shutdown) = (shared.clone(), shutdown.clone());
            #[expect(
                clippy::disallowed_methods,
                reason = "ends with its token; failures repeat inside"
            )]
            tokio::spawn(async move {
                let work = async {
                    match part {
                        0 => Box::pin(shared.renew_for_ever()).await,
                        1 => Box::pin(shared.follow_for_ever()).await,
                        _ => Box::pin(shared.decide_for_ever()).await,
                    }
                };
                shutdown.run_until_cancelled(work).await;
            });
        }
        (Self { shared }, receiver)
    }

    /// Whether a request for `partition` may start now: it is ours and our membership is certain.
    #[must_use]
    pub fn may_send(&self, partition: u16) -> bool {
        let view = self.shared.view();
        view.owned.contains_key(&partition)
            && !view.unconfirmed.contains(&partition)
            && view.is_certain()
    }

    /// Whether `partition` is ours for certain, as it was gained with `epoch`.
    #[must_use]
    pub fn holds(&self, partition: u16, epoch: u64) -> bool {
        self.may_send(partition) && self.shared.view().owned.get(&partition) == Some(&epoch)
    }

    /// How often membership has lapsed so far; `None` while it is not certain. As long as the number
    /// stays, nobody can have seen our end.
    #[must_use]
    pub fn lapses(&self) -> Option<u64> {
        let view = self.shared.view();
        view.is_certain().then_some(view.lapses)
    }

    /// How many partitions are ours.
    #[must_use]
    pub fn owned(&self) -> usize {
        self.shared.view().owned.len()
    }

    /// How many partitions have no living owner, as far as we see.
    #[must_use]
    pub fn ownerless(&self) -> usize {
        let view = self.shared.view();
        let owned = |partition: &u16| {
            view.partitions
                .get(partition)
                .is_some_and(|(lease, _)| view.members.contains_key(&lease.owner))
        };
        (0..self.shared.settings.partitions)
            .filter(|partition| !owned(partition))
            .count()
    }

    /// Whether a member lives.
    #[must_use]
    pub fn is_alive(&self, member: &str) -> bool {
        let view = self.shared.view();
        !view.synced || view.members.contains_key(member)
    }

    /// This member's name.
    #[must_use]
    pub fn member(&self) -> &str {
        &self.shared.settings.member
    }

    /// Hands a partition over that was gained with `epoch`, with what is still in flight, here and at
    /// those who had it before. False, and nothing has happened, when it is no longer ours, or ours
    /// anew.
    ///
    /// # Errors
    /// When NATS does not take it now: it is tried again for as long as this member lives.
    pub async fn release(
        &self,
        partition: u16,
        epoch: u64,
        in_hand: Vec<InHand>,
    ) -> Result<bool, BusError> {
        let shared = &self.shared;
        let leavers = in_hand.into_iter().map(|one| PartitionLeaver {
            member: one.member,
            deliveries: one.deliveries,
            retries: one.retries,
        });
        let lease = PartitionLease {
            owner: String::new(),
            epoch,
            leavers: leavers.collect(),
        };
        let seq = {
            let mut view = shared.view();
            if view.owned.get(&partition) != Some(&epoch) {
                return Ok(false);
            }
            view.forget(partition);
            view.unreleased.insert(partition, lease.clone());
            view.partitions.get(&partition).map_or(0, |(_, seq)| *seq)
        };
        shared
            .write(partition, lease, seq)
            .await
            .map(|_| true)
            .map_err(unavailable)
    }

    /// Says that this member takes nothing more and gives everything ([`LeaseEvent::Give`]). It
    /// stays alive until [`Leases::gone`], so that it can finish what it has in flight.
    pub async fn leave(&self) {
        self.shared.view().leaving = true;
        self.shared.renew_once().await;
        self.shared.changed.notify_one();
    }

    /// Gives everything away as [`leave`](Self::leave) does, but only until it is called with
    /// `false`: for a member that must start nothing for a while, so that others may.
    pub async fn stand_aside(&self, aside: bool) {
        let before = std::mem::replace(&mut self.shared.view().aside, aside);
        if before != aside {
            self.shared.renew_once().await;
            self.shared.changed.notify_one();
        }
    }

    /// Removes this member, at the very end.
    pub async fn gone(&self) {
        let message = Outgoing {
            subject: self.shared.member_subject(),
            headers: end_of_member(),
            payload: Bytes::new(),
        };
        let bus = self.shared.bus().await;
        if let Err(error) = bus.publish_once(message, Duration::from_secs(1)).await {
            tracing::debug!(%error, "membership ends by its time to live");
        }
    }
}

impl Shared {
    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn member_subject(&self) -> String {
        format!("$KV.{}.m.{}", names::LEASES, self.settings.member)
    }

    fn tell(&self, event: LeaseEvent) {
        if self.events.send(event).is_err() {
            tracing::debug!("nobody listens to lease events any more");
        }
    }

    /// The connection that leases have to themselves.
    async fn bus(&self) -> &Bus {
        self.own_bus
            .get_or_init(async || {
                let settings = self.bus.settings().clone();
                match Bus::connect(settings, "webhooks-leases").await {
                    Ok(bus) => bus,
                    // Not to be expected: the same settings have served for the other one.
                    Err(error) => {
                        tracing::error!(%error, "leases have no connection of their own");
                        self.bus.clone()
                    }
                }
            })
            .await
    }

    async fn renew_for_ever(&self) {
        let mut under_way = FuturesUnordered::new();
        let mut patience = Patience::default();
        let mut next = tokio::time::interval(self.settings.renew);
        // Late ones are not made up for: each counts from its own send time.
        next.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = next.tick() => {
                    self.give_up_what_is_long_uncertain();
                    under_way.push(self.renew_once());
                }
                Some(answered) = under_way.next(), if !under_way.is_empty() => {
                    let bus = self.bus().await;
                    if answered {
                        patience.answered();
                    } else if !bus.is_connected() {
                        patience.disconnected();
                    } else if patience.is_over(Instant::now()) {
                        bus.go_elsewhere().await;
                    }
                }
            }
        }
    }

    /// Whether it was answered in time, be it by a refusal.
    async fn renew_once(&self) -> bool {
        let sent = Instant::now();
        let leaving = {
            let view = self.view();
            view.leaving || view.aside
        };
        let mut headers = HeaderMap::new();
        headers.insert(
            headers::TTL,
            format!("{}s", self.settings.ttl.as_secs().max(1)).as_str(),
        );
        let payload = Bytes::from_static(if leaving { LEAVING } else { ACTIVE });
        let message = Outgoing {
            subject: self.member_subject(),
            headers,
            payload,
        };
        let bus = self.bus().await;
        match bus.publish_once(message, self.settings.fence()).await {
            Ok(_) => {
                self.renewed(sent);
                self.changed.notify_one();
                true
            }
            Err(error) => {
                tracing::debug!(%error, "membership not renewed");
                !matches!(error, PublishError::Unavailable(_))
            }
        }
    }

    /// A renewal that was sent then has been acknowledged.
    fn renewed(&self, sent: Instant) {
        let mut view = self.view();
        if !view.is_certain() {
            // Others may have taken ours meanwhile.
            view.lapses += 1;
            let owned: Vec<u16> = view.owned.keys().copied().collect();
            if !owned.is_empty() && view.unconfirmed.is_empty() {
                tracing::warn!(
                    partitions = owned.len(),
                    "membership lapsed, asking whether partitions are still ours"
                );
                metrics::counter!("webhooks_lease_lapses_total").increment(1);
            }
            view.unconfirmed.extend(owned);
        }
        let until = sent + self.settings.fence();
        if view.fence_until.is_none_or(|known| known < until) {
            view.fence_until = Some(until);
            view.renewed_at = Some(sent);
        }
    }

    fn give_up_what_is_long_uncertain(&self) {
        let mut view = self.view();
        let since = view.renewed_at.map(|at| at.elapsed());
        if since.is_none_or(|since| since < self.settings.give_up_after()) {
            return;
        }
        let owned: Vec<u16> = view.owned.keys().copied().collect();
        if owned.is_empty() {
            return;
        }
        tracing::warn!(
            partitions = owned.len(),
            "membership is not renewed, giving up partitions"
        );
        for partition in owned {
            self.lose(&mut view, partition);
        }
    }

    fn lose(&self, view: &mut View, partition: u16) {
        if view.forget(partition) {
            self.tell(LeaseEvent::Lost { partition });
        }
    }

    async fn follow_for_ever(&self) {
        let mut connections = self.bus().await.connections();
        loop {
            // With a new connection anew: the server may have forgotten the watch, which the client misses
            // only after 10 s and more, and deaths would not be seen until then.
            let ended = tokio::select! {
                ended = self.follow() => ended,
                _ = connections.changed() => Ok(()),
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "following leases anew");
            }
            self.view().synced = false;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn follow(&self) -> Result<(), BusError> {
        let bucket = self.bus().await.bucket(names::LEASES).await?;
        let target = self.bus().await.last_seq(STREAM).await?;
        {
            let mut view = self.view();
            view.members.clear();
            view.ended.clear();
            view.partitions.clear();
            view.synced = target == 0;
        }
        let mut watch = bucket.watch_with_history(">").await.map_err(unavailable)?;
        let mut roll = Roll::default();
        while let Some(entry) = watch.next().await {
            let ghosts = self.apply(entry.map_err(unavailable)?, target, &mut roll);
            self.changed.notify_one();
            for (member, seq) in ghosts {
                self.bury_ghost(&member, seq).await;
            }
        }
        Ok(())
    }

    /// Takes one entry over; returns members that died long ago, with their keys' sequences.
    fn apply(&self, entry: Entry, target: u64, roll: &mut Roll) -> Vec<(String, u64)> {
        let mut view = self.view();
        let put = entry.operation == Operation::Put;
        let created = crate::micros(entry.created);
        if let Some(member) = entry.key.strip_prefix("m.") {
            let active = entry.value.as_ref() != LEAVING;
            roll.note(member, put.then_some(active), created, entry.revision);
        } else if let Some(partition) = entry.key.strip_prefix("p.").and_then(|p| p.parse().ok())
            && put
        {
            match PartitionLease::decode(entry.value) {
                Ok(lease) => self.note_partition(&mut view, partition, lease, entry.revision),
                Err(error) => tracing::error!(partition, %error, "unreadable lease"),
            }
        }
        let ghosts = roll.strike(created, self.settings.ttl);
        let before = std::mem::replace(&mut view.members, roll.present());
        for member in before.into_keys() {
            if !view.members.contains_key(&member) {
                view.ended.insert(member);
            }
        }
        view.keep_ended_owners();
        // An expired message may have been the last one, so the end of the old entries counts too.
        view.synced |= entry.revision >= target || entry.seen_current;
        ghosts
    }

    /// Removes the key of a member that died long ago.
    async fn bury_ghost(&self, member: &str, seq: u64) {
        let mut headers = end_of_member();
        headers.insert(
            headers::EXPECTED_LAST_SUBJECT_SEQUENCE,
            seq.to_string().as_str(),
        );
        let subject = format!("$KV.{}.m.{member}", names::LEASES);
        let message = Outgoing {
            subject,
            headers,
            payload: Bytes::new(),
        };
        let bus = self.bus().await;
        match bus.publish_once(message, Duration::from_secs(1)).await {
            Ok(_) => tracing::info!(member, "the key of a dead member was left and is removed"),
            Err(error) => tracing::debug!(member, %error, "a dead member's key is not removed yet"),
        }
    }

    fn note_partition(&self, view: &mut View, partition: u16, lease: PartitionLease, seq: u64) {
        if view
            .partitions
            .get(&partition)
            .is_some_and(|(_, known)| *known > seq)
        {
            return;
        }
        if lease.owner != self.settings.member
            && view
                .owned
                .get(&partition)
                .is_some_and(|epoch| *epoch < lease.epoch)
        {
            self.lose(view, partition);
        }
        view.partitions.insert(partition, (lease, seq));
    }

    async fn decide_for_ever(&self) {
        loop {
            join_all(self.to_confirm().into_iter().map(|one| self.confirm(one))).await;
            join_all(self.to_ask_for().into_iter().map(|one| self.ask_for(one))).await;
            let plan = self.plan();
            for partition in plan.give {
                if self.view().giving.insert(partition) {
                    self.tell(LeaseEvent::Give { partition });
                }
            }
            join_all(plan.take.into_iter().map(|one| self.take(one))).await;
            let releases = self.given_up().into_iter();
            join_all(releases.map(async |(partition, lease, seq)| {
                if let Err(error) = self.write(partition, lease, seq).await {
                    tracing::debug!(partition, %error, "partition not released yet");
                }
            }))
            .await;
            // Woken by changes; the period heals what a lost wake-up would leave.
            let woken = tokio::time::timeout(self.settings.renew, self.changed.notified()).await;
            tracing::trace!(by_change = woken.is_ok(), "deciding on leases");
        }
    }

    fn plan(&self) -> ownership::Plan {
        let view = self.view();
        if !view.synced || !view.is_certain() || !view.members.contains_key(&self.settings.member) {
            return ownership::Plan::default();
        }
        let me = &self.settings.member;
        ownership::plan(&view.table(me, self.settings.partitions), me)
    }

    /// Owners whose fate has to be asked for before anything of theirs may be taken.
    fn to_ask_for(&self) -> HashSet<String> {
        let view = self.view();
        if !view.synced || !view.is_certain() {
            return HashSet::new();
        }
        let mut unknown = view.unknown_owners();
        unknown.remove(&self.settings.member);
        unknown
    }

    /// Asks the bucket's leader whether a member lives. If it does, the watch will bring it.
    async fn ask_for(&self, owner: String) {
        let subject = format!("$KV.{}.m.{owner}", names::LEASES);
        match self.bus().await.get_last(STREAM, &subject).await {
            Ok(Some(found)) if !found.is_end_of_key() => {
                tracing::debug!(member = owner, "an owner lives that is not seen yet");
            }
            Ok(_) => {
                let mut view = self.view();
                view.ended.insert(owner);
                view.keep_ended_owners();
            }
            Err(error) => tracing::debug!(member = owner, %error, "an owner's fate is unknown"),
        }
    }

    /// Partitions that are written as ours and are not: unless that is put right, nobody would
    /// ever take them.
    fn given_up(&self) -> Vec<(u16, PartitionLease, u64)> {
        let view = self.view();
        if !view.synced || !view.is_certain() {
            return Vec::new();
        }
        let me = &self.settings.member;
        let written = view.partitions.iter().filter(|(partition, (lease, _))| {
            lease.owner == *me && !view.owned.contains_key(partition)
        });
        written
            .map(|(partition, (lease, seq))| {
                let said = view
                    .unreleased
                    .get(partition)
                    .filter(|said| said.epoch == lease.epoch);
                let free = said.cloned().unwrap_or_else(|| PartitionLease {
                    epoch: lease.epoch,
                    ..PartitionLease::default()
                });
                (*partition, free, *seq)
            })
            .collect()
    }

    /// What is thought ours and has to be asked for.
    fn to_confirm(&self) -> Vec<u16> {
        let view = self.view();
        if !view.synced || !view.is_certain() {
            return Vec::new();
        }
        view.unconfirmed.iter().copied().collect()
    }

    /// Finds out whether a partition is still ours, after a lapse, by writing our lease once more.
    async fn confirm(&self, partition: u16) {
        let (lapses, lease, seq) = {
            let mut view = self.view();
            if !view.synced {
                return;
            }
            let ours = view.partitions.get(&partition).filter(|(lease, _)| {
                lease.owner == self.settings.member
                    && view.owned.get(&partition) == Some(&lease.epoch)
            });
            match ours {
                Some((lease, seq)) => (view.lapses, lease.clone(), *seq),
                None => return self.lose(&mut view, partition),
            }
        };
        let written = self.write(partition, lease.clone(), seq).await;
        let mut view = self.view();
        match written {
            Ok(revision) => {
                let known = view.partitions.get(&partition);
                if known.is_some_and(|(_, known)| *known > revision) {
                    // Changed again by the time the answer came; the next look decides.
                    return;
                }
                if view.lapses == lapses && view.owned.get(&partition) == Some(&lease.epoch) {
                    view.unconfirmed.remove(&partition);
                }
                view.partitions.insert(partition, (lease, revision));
            }
            Err(PublishError::WrongLast(_)) => {
                tracing::warn!(partition, "another member has taken a partition of ours");
                self.lose(&mut view, partition);
            }
            Err(error) => tracing::debug!(partition, %error, "partition not confirmed yet"),
        }
    }

    async fn take(&self, partition: u16) {
        let (lapses, before, seq) = {
            let view = self.view();
            match view.partitions.get(&partition) {
                Some((lease, seq)) => (view.lapses, Some(lease.clone()), *seq),
                None => (view.lapses, None, 0),
            }
        };
        let epoch = before.as_ref().map_or(0, |lease| lease.epoch) + 1;
        let lease = PartitionLease {
            owner: self.settings.member.clone(),
            epoch,
            ..PartitionLease::default()
        };
        match self.write(partition, lease.clone(), seq).await {
            Ok(revision) => {
                let handover = handover_of(before);
                tracing::info!(partition, epoch, handover = ?handover, "partition taken");
                let mut view = self.view();
                if view
                    .partitions
                    .get(&partition)
                    .is_some_and(|(_, known)| *known > revision)
                {
                    // Somebody else's by the time the answer came.
                    return;
                }
                view.unreleased.remove(&partition);
                view.partitions.insert(partition, (lease, revision));
                view.owned.insert(partition, epoch);
                if view.lapses != lapses {
                    view.unconfirmed.insert(partition);
                }
                self.tell(LeaseEvent::Gained {
                    partition,
                    epoch,
                    handover,
                });
            }
            Err(PublishError::WrongLast(_)) => {
                tracing::debug!(partition, "another member was first")
            }
            Err(error) => tracing::debug!(partition, %error, "partition not taken"),
        }
    }

    async fn write(
        &self,
        partition: u16,
        lease: PartitionLease,
        expected: u64,
    ) -> Result<u64, PublishError> {
        let mut headers = HeaderMap::new();
        headers.insert(
            headers::EXPECTED_LAST_SUBJECT_SEQUENCE,
            expected.to_string().as_str(),
        );
        let message = Outgoing {
            subject: format!("$KV.{}.p.{partition}", names::LEASES),
            headers,
            payload: lease.encode_to_vec().into(),
        };
        let bus = self.bus().await;
        bus.publish_once(message, Duration::from_secs(2))
            .await
            .map(|stored| stored.seq)
    }
}

fn handover_of(before: Option<PartitionLease>) -> Handover {
    match before {
        None => Handover::Clean,
        Some(lease) if !lease.owner.is_empty() => Handover::FromDead,
        Some(lease) => {
            let leavers = lease.leavers.into_iter();
            let at_work =
                leavers.filter(|one| !(one.deliveries.is_empty() && one.retries.is_empty()));
            let in_hand: Vec<InHand> = at_work
                .map(|one| InHand {
                    member: one.member,
                    deliveries: one.deliveries,
                    retries: one.retries,
                })
                .collect();
            match in_hand.is_empty() {
                true => Handover::Clean,
                false => Handover::FromLeavers(in_hand),
            }
        }
    }
}

/// What ends a member's key; the mark itself goes after a minute.
fn end_of_member() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("KV-Operation", "DEL");
    headers.insert(headers::TTL, "60s");
    headers
}
