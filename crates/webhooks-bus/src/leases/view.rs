//! What a member sees of the others and of the partitions.

use std::collections::{BTreeMap, HashMap, HashSet};

use tokio::time::Instant;
use webhooks_domain::ownership::Table;
use webhooks_proto::internal::v1::PartitionLease;

#[derive(Default)]
pub(super) struct View {
    pub(super) members: BTreeMap<String, bool>,
    /// Owners that are no more, for certain: we saw their end, or have asked. Only names that own a
    /// partition are kept.
    pub(super) ended: HashSet<String>,
    pub(super) partitions: HashMap<u16, (PartitionLease, u64)>,
    pub(super) synced: bool,
    /// When the last renewal was sent that was acknowledged.
    pub(super) renewed_at: Option<Instant>,
    pub(super) fence_until: Option<Instant>,
    /// How often a good renewal has come after the fence: what was certain before is not any more.
    pub(super) lapses: u64,
    /// Ours, with their epochs.
    pub(super) owned: HashMap<u16, u64>,
    /// Some of them, since a lapse: nothing starts there until they are known to be ours.
    pub(super) unconfirmed: HashSet<u16>,
    pub(super) giving: HashSet<u16>,
    /// What a release said that may not be written yet.
    pub(super) unreleased: HashMap<u16, PartitionLease>,
    pub(super) leaving: bool,
    /// Takes no part for a while.
    pub(super) aside: bool,
}

impl View {
    pub(super) fn is_certain(&self) -> bool {
        self.fence_until.is_some_and(|until| Instant::now() < until)
    }

    /// A member that came back has not ended, and who owns nothing is of no matter.
    pub(super) fn keep_ended_owners(&mut self) {
        if self.ended.is_empty() {
            return;
        }
        let owners: HashSet<&String> = self
            .partitions
            .values()
            .map(|(lease, _)| &lease.owner)
            .collect();
        let members = &self.members;
        self.ended
            .retain(|name| owners.contains(name) && !members.contains_key(name));
    }

    /// Owners that have not been seen, alive or ended.
    pub(super) fn unknown_owners(&self) -> HashSet<String> {
        let owners = self.partitions.values().map(|(lease, _)| &lease.owner);
        owners
            .filter(|owner| {
                !owner.is_empty()
                    && !self.members.contains_key(*owner)
                    && !self.ended.contains(*owner)
            })
            .cloned()
            .collect()
    }

    pub(super) fn forget(&mut self, partition: u16) -> bool {
        self.giving.remove(&partition);
        self.unconfirmed.remove(&partition);
        self.owned.remove(&partition).is_some()
    }

    /// What `me` decides by. Nothing is taken from an owner that has not been seen, and whether it takes
    /// part shows when it is.
    pub(super) fn table(&self, me: &str, partitions: u16) -> Table {
        let owners = (0..partitions)
            .map(|partition| {
                if self.owned.contains_key(&partition) {
                    return Some(me.to_owned());
                }
                let owner = &self.partitions.get(&partition)?.0.owner;
                // Written as ours, but given up: free to be taken anew.
                (!owner.is_empty() && owner != me).then(|| owner.clone())
            })
            .collect();
        let unknown = self.unknown_owners().into_iter().map(|name| (name, false));
        let members = self.members.clone().into_iter().chain(unknown).collect();
        Table { members, owners }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use webhooks_domain::ownership;

    fn view(members: &[&str], owners: &[&str]) -> View {
        let lease = |owner: &&str| PartitionLease {
            owner: (*owner).to_owned(),
            epoch: 1,
            ..PartitionLease::default()
        };
        View {
            members: members
                .iter()
                .map(|name| ((*name).to_owned(), true))
                .collect(),
            partitions: (0..)
                .zip(owners.iter().map(|owner| (lease(owner), 1)))
                .collect(),
            ..View::default()
        }
    }

    fn taken(view: &View) -> Vec<u16> {
        let count = u16::try_from(view.partitions.len()).unwrap();
        let mut taken = ownership::plan(&view.table("me", count), "me").take;
        taken.sort_unstable();
        taken
    }

    #[test]
    fn nothing_is_taken_from_an_owner_that_has_not_come_up_yet() {
        let mut view = view(&["me"], &["a", "a", ""]);
        assert_eq!(view.unknown_owners(), HashSet::from(["a".to_owned()]));
        assert_eq!(taken(&view), [2], "only what is nobody's");
        // Asked for, and not there.
        view.ended.insert("a".to_owned());
        assert!(view.unknown_owners().is_empty());
        assert_eq!(taken(&view), [0, 1, 2]);
    }

    #[test]
    fn who_came_back_has_not_ended_and_who_owns_nothing_is_forgotten() {
        let mut view = view(&["me", "a"], &["a", "b"]);
        view.ended = ["a", "b", "c"].map(str::to_owned).into();
        view.keep_ended_owners();
        assert_eq!(view.ended, HashSet::from(["b".to_owned()]));
        assert_eq!(taken(&view), [1]);
    }
}
