//! Giving a partition away, losing it, and taking over from an owner that left.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use tokio::time::Instant;
use uuid::Uuid;
use webhooks_bus::{Handover, InHand};

use super::{Mode, Order, Partition};
use crate::{
    endpoint::Endpoint,
    job::{Job, Lane, MessageKey},
    partition_io as io,
};

/// How often the next owner looks whether a leaver has finished what it named.
const LOOK_AFTER_LEAVER: Duration = Duration::from_secs(1);

/// How long a leaver is given: an attempt's deadline, its record, and some.
pub(crate) const LEAVER_PATIENCE: Duration = Duration::from_secs(45);

/// What an owner that left is still finishing.
pub(super) struct Leaver {
    pub(super) name: String,
    named: HashSet<MessageKey>,
    /// Whose they are, of those of them that have come to us: their bytes stay in the stream.
    deferred: HashMap<MessageKey, Uuid>,
    until: Instant,
    look_at: Instant,
}

impl Partition {
    /// Sets aside what an owner that left is still finishing.
    pub(super) fn defer(&mut self, key: MessageKey, job: &Job) -> bool {
        let mut leavers = self.leavers.iter_mut();
        let Some(leaver) = leavers.find(|leaver| leaver.named.contains(&key)) else {
            return false;
        };
        leaver.deferred.insert(key, job.webhook);
        self.foreign_began(key, job.webhook);
        true
    }

    /// Looks whether leavers have finished; what one leaves behind when it dies goes on here.
    pub(super) fn look_after_leavers(&mut self) {
        let now = Instant::now();
        self.leavers.retain(|leaver| !leaver.named.is_empty());
        for leaver in &mut self.leavers {
            if now < leaver.look_at {
                continue;
            }
            leaver.look_at = now + LOOK_AFTER_LEAVER;
            // Asked before the look, so that what is there after the leaver's end is really left.
            let ended = now >= leaver.until || !self.shared.leases.is_alive(&leaver.name);
            let keys = leaver.named.iter().copied().collect();
            let (shared, name) = (self.shared.clone(), leaver.name.clone());
            let look = io::look_for(shared, self.partition, name, keys, ended);
            self.settling.push(look);
        }
    }

    /// What a leaver named is done with; when it has ended, the rest goes on here.
    pub(super) fn leaver_finished(&mut self, name: &str, gone: Vec<MessageKey>, last: bool) {
        let Some(at) = self.leavers.iter().position(|leaver| leaver.name == name) else {
            return;
        };
        let Some(leaver) = self.leavers.get_mut(at) else {
            return;
        };
        let mut ended = Vec::new();
        for key in gone {
            leaver.named.remove(&key);
            if let Some(webhook) = leaver.deferred.remove(&key) {
                self.outstanding.remove(&key);
                ended.push(webhook);
            }
        }
        let left = match last {
            true => std::mem::take(&mut leaver.deferred),
            false => HashMap::new(),
        };
        ended.extend(left.values());
        for webhook in ended {
            self.foreign_ended(webhook);
        }
        if last {
            self.leavers.remove(at);
            self.take_up(left.into_keys().collect());
        }
    }

    pub(super) async fn obey(&mut self, order: Order) {
        if self.mode != Mode::Owning {
            return;
        }
        self.mode = Mode::Ending;
        match order {
            Order::Give => self.tenure.give(),
            Order::Lost => self.tenure.lose(),
        }
        self.end_health();
        let mut unstarted: Vec<Job> = self
            .endpoints
            .values_mut()
            .flat_map(Endpoint::drain)
            .collect();
        self.timers.clear();
        unstarted.extend(self.to_park.drain(..).map(|(job, _)| job));
        while let Some(expired) = self.waiting.peek().map(|key| self.waiting.remove(&key)) {
            unstarted.push(expired.into_inner());
        }
        // What owners before us are still finishing is passed on under their names.
        let mut in_hand = Vec::new();
        for leaver in std::mem::take(&mut self.leavers) {
            for key in leaver.deferred.into_keys() {
                self.outstanding.remove(&key);
            }
            in_hand.push(in_hand_of(leaver.name, &leaver.named));
        }
        // What elders of ours are still finishing stays theirs, under our name.
        let mut ours = self.kin.leave(&mut self.outstanding);
        for job in unstarted {
            self.hand_back(job);
        }
        self.ending.begin(self.outstanding.keys().copied());
        if let Order::Give = order {
            // What waits for its record is done with in a moment; it is named all the same.
            ours.extend(self.outstanding.keys());
            tracing::info!(
                partition = self.partition,
                in_flight = ours.len(),
                leavers = in_hand.len(),
                "partition handed over"
            );
            let leases = self.shared.leases.clone();
            in_hand.push(in_hand_of(leases.member().to_owned(), &ours));
            match leases.release(self.partition, self.epoch, in_hand).await {
                Ok(true) => {}
                // Nobody was told of what we have in hand.
                Ok(false) => self.tenure.lose(),
                Err(error) => {
                    tracing::warn!(partition = self.partition, %error, "partition not released yet");
                }
            }
            self.named = true;
        }
    }

    /// Gives back a delivery that has not started. Its message comes to the next owner by itself;
    /// when an attempt was made since the message was written, the next attempt becomes a schedule. Not
    /// when the partition is lost: the next owner goes on from what is recorded of that attempt.
    pub(super) fn hand_back(&mut self, job: Job) {
        let schedules = !self.tenure.is_lost() && (job.made_progress() || self.named);
        if job.ended.is_none() && schedules {
            let (owed, shared, tenure) = (job.owed_by(), self.shared.clone(), self.tenure.clone());
            let parked = io::park(shared, self.partition, tenure, job, Duration::ZERO);
            self.settle(owed, parked);
        } else {
            self.let_go(job.key);
        }
    }

    /// Leaves a message to whoever has the partition.
    pub(super) fn let_go(&mut self, key: MessageKey) {
        self.outstanding.remove(&key);
        self.ending.let_go(key);
    }
}

pub(super) fn leavers_of(handover: Handover) -> Vec<Leaver> {
    let Handover::FromLeavers(leavers) = handover else {
        return Vec::new();
    };
    let named = |lane: Lane, seqs: Vec<u64>| seqs.into_iter().map(move |seq| (lane, seq));
    let now = Instant::now();
    let leavers = leavers.into_iter().map(|one| Leaver {
        name: one.member,
        named: named(Lane::Fresh, one.deliveries)
            .chain(named(Lane::Due, one.retries))
            .collect(),
        deferred: HashMap::new(),
        until: now + LEAVER_PATIENCE,
        look_at: now,
    });
    leavers.collect()
}

fn in_hand_of(member: String, keys: &HashSet<MessageKey>) -> InHand {
    let of = |lane| {
        let of_lane = keys.iter().filter(|key| key.0 == lane);
        of_lane.map(|key| key.1).collect()
    };
    InHand {
        member,
        deliveries: of(Lane::Fresh),
        retries: of(Lane::Due),
    }
}
