//! What a task leaves to those of its process that had the partition before it.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use uuid::Uuid;

use super::{BATCH, Outstanding, Partition};
use crate::{
    job::{Job, MessageKey},
    kin::{Elder, Fate},
    partition_io as io,
};

/// How long one of them may be silent before what it had in hand goes on without it: it stands still,
/// or has ended. As long as it turns it keeps what it has, however long NATS takes to store it.
const ELDERS_PATIENCE: Duration = Duration::from_secs(60);

/// Those before us, and what of theirs has come to us.
pub(super) struct Kin {
    elders: Vec<Elder>,
    /// Whose it is, by message: its bytes stay in the stream.
    deferred: HashMap<MessageKey, Uuid>,
}

impl Kin {
    pub(super) fn of(elders: Vec<Elder>) -> Self {
        Self {
            elders,
            deferred: HashMap::new(),
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
                self.kin.deferred.insert(key, job.webhook);
                self.foreign_began(key, job.webhook);
                true
            }
        }
    }

    /// A message that another has in hand. Its request counts against the endpoint's cap until it has
    /// ended, its bytes not against our budget: they are dropped here.
    pub(super) fn foreign_began(&mut self, key: MessageKey, webhook: Uuid) {
        if let Some(outstanding) = self.outstanding.get_mut(&key) {
            outstanding.part = None;
        }
        if let Some(target) = self.shared.registry.get(webhook) {
            self.endpoint(webhook, &target).foreign_began();
        }
    }

    /// The other has ended with it.
    pub(super) fn foreign_ended(&mut self, webhook: Uuid) {
        if let Some(endpoint) = self.endpoints.get_mut(&webhook) {
            endpoint.foreign_ended();
        }
        self.stalled.insert(webhook);
    }

    /// Looks what elders have finished; what they let go goes on here.
    pub(super) async fn look_after_elders(&mut self) {
        if self.kin.elders.is_empty() {
            return;
        }
        // Not as soon as they have ended: what they have done may still be on its way to us.
        self.kin
            .elders
            .retain(|elder| !elder.is_silent(ELDERS_PATIENCE));
        let mut left = Vec::new();
        let all: Vec<MessageKey> = self.kin.deferred.keys().copied().collect();
        for key in all {
            let fate = self.kin.fate(key);
            if fate == Fate::Held {
                continue;
            }
            let Some(webhook) = self.kin.deferred.remove(&key) else {
                continue;
            };
            self.foreign_ended(webhook);
            match fate {
                Fate::Done => self.acknowledge(key).await,
                Fate::Free | Fate::Held => left.push(key),
            }
        }
        self.take_up(left);
    }

    /// Goes on with messages that another has let go: they are read anew.
    pub(super) fn take_up(&mut self, keys: Vec<MessageKey>) {
        for keys in keys.chunks(BATCH) {
            let (shared, partition) = (self.shared.clone(), self.partition);
            self.settling
                .push(io::take_up(shared, partition, keys.to_vec()));
        }
    }
}
