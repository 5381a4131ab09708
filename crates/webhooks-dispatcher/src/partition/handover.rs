//! Giving a partition away, losing it, and taking over from an owner that left.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use tokio::time::Instant;
use uuid::Uuid;
use webhooks_bus::Handover;

use super::{Mode, Order, Partition};
use crate::{
    endpoint::Endpoint,
    job::{Job, Lane, MessageKey},
    partition_io as io,
};

/// How often the next owner looks whether a leaver has finished what it named.
const LOOK_AFTER_LEAVER: Duration = Duration::from_secs(1);

/// How long a leaver is given: an attempt's deadline, its record, and some.
const LEAVER_PATIENCE: Duration = Duration::from_secs(45);

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
        match &mut self.leaver {
            Some(leaver) if leaver.named.contains(&key) => {
                leaver.deferred.insert(key, job.webhook);
                self.foreign_began(key, job.webhook);
                true
            }
            _ => false,
        }
    }

    /// Looks whether the leaver has finished; what it leaves behind when it dies goes on here.
    pub(super) fn look_after_leaver(&mut self) {
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
    pub(super) fn leaver_finished(&mut self, gone: Vec<MessageKey>, last: bool) {
        let Some(leaver) = &mut self.leaver else {
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
            self.leaver = None;
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
        // What the owner before us is still finishing is passed on under our name.
        let mut passed_on = HashSet::new();
        if let Some(leaver) = self.leaver.take() {
            passed_on = leaver.named;
            for key in leaver.deferred.into_keys() {
                self.outstanding.remove(&key);
            }
        }
        // What elders of ours are still finishing stays theirs.
        passed_on.extend(self.kin.leave(&mut self.outstanding));
        for job in unstarted {
            self.hand_back(job);
        }
        self.ending.begin(self.outstanding.keys().copied());
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
    /// when an attempt was made since the message was written, the next attempt becomes a schedule. Not
    /// when the partition is lost: the next owner goes on from what is recorded of that attempt.
    pub(super) fn hand_back(&mut self, job: Job) {
        let schedules = !self.tenure.is_lost() && (job.made_progress() || self.named);
        if job.ended.is_none() && schedules {
            let (owed, shared) = (job.owed_by(), self.shared.clone());
            let parked = io::park(shared, self.partition, job, Duration::ZERO);
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

pub(super) fn leaver_of(handover: Handover) -> Option<Leaver> {
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
