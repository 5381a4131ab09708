//! What a task leaves to those of its process that had the partition before it.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use tokio::time::Instant;

use super::{BATCH, Outstanding, Partition};
use crate::{
    job::{Job, MessageKey},
    kin::{Elder, Fate},
    partition_io as io,
};

/// How long they are given: an attempt's deadline, its record, and some. It only matters when one of
/// them stands still.
const ELDERS_PATIENCE: Duration = Duration::from_secs(60);

/// Those before us, and what of theirs has come to us.
pub(super) struct Kin {
    elders: Vec<Elder>,
    deferred: HashMap<MessageKey, Job>,
    until: Instant,
}

impl Kin {
    pub(super) fn of(elders: Vec<Elder>) -> Self {
        Self {
            elders,
            deferred: HashMap::new(),
            until: Instant::now() + ELDERS_PATIENCE,
        }
    }

    /// Waits until they know that the partition is no longer theirs.
    pub(super) fn told(&self) -> impl Future<Output = ()> + use<> {
        let mut elders = self.elders.clone();
        async move {
            for elder in &mut elders {
                elder.told().await;
            }
        }
    }

    /// Done as soon as one of them is done; held as long as one of them has it.
    fn fate(&self, key: MessageKey) -> Fate {
        let fates = self.elders.iter().map(|elder| elder.fate(key));
        fates.fold(Fate::Free, |all, one| match (all, one) {
            (Fate::Done, _) | (_, Fate::Done) => Fate::Done,
            (Fate::Held, _) | (_, Fate::Held) => Fate::Held,
            (Fate::Free, Fate::Free) => Fate::Free,
        })
    }

    /// The partition goes: lets go of what is theirs, and tells what they still have.
    pub(super) fn leave(
        &mut self,
        outstanding: &mut HashMap<MessageKey, Outstanding>,
    ) -> HashSet<MessageKey> {
        for key in std::mem::take(&mut self.deferred).into_keys() {
            outstanding.remove(&key);
        }
        self.elders.iter().flat_map(Elder::held).collect()
    }
}

impl Partition {
    /// Sets aside what an elder has in hand; lets go of what it has done.
    pub(super) async fn defer_to_elder(&mut self, key: MessageKey, job: &Job) -> bool {
        match self.kin.fate(key) {
            Fate::Free => false,
            Fate::Done => {
                self.acknowledge(key).await;
                true
            }
            Fate::Held => {
                self.kin.deferred.insert(key, job.clone());
                // Its request counts against the endpoint's cap until it has ended.
                if let Some(target) = self.shared.registry.get(job.webhook) {
                    self.endpoint(job.webhook, &target).foreign_began();
                }
                true
            }
        }
    }

    /// Looks what elders have finished; what they let go goes on here.
    pub(super) async fn look_after_elders(&mut self) {
        if self.kin.elders.is_empty() {
            return;
        }
        let late = Instant::now() >= self.kin.until;
        let mut left = Vec::new();
        let all: Vec<MessageKey> = self.kin.deferred.keys().copied().collect();
        for key in all {
            let fate = self.kin.fate(key);
            if fate == Fate::Held && !late {
                continue;
            }
            let Some(job) = self.kin.deferred.remove(&key) else {
                continue;
            };
            if let Some(endpoint) = self.endpoints.get_mut(&job.webhook) {
                endpoint.foreign_ended();
            }
            self.stalled.insert(job.webhook);
            match fate {
                Fate::Done => self.acknowledge(key).await,
                Fate::Free | Fate::Held => left.push(job),
            }
        }
        for jobs in left.chunks(BATCH) {
            let (shared, partition) = (self.shared.clone(), self.partition);
            self.settling
                .push(io::recheck(shared, partition, jobs.to_vec()));
        }
        // Not as soon as they have ended: what they have done may still be on its way to us.
        if late {
            self.kin.elders.clear();
        }
    }
}
