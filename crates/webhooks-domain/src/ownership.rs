//! Who owns which partition.
//!
//! Every dispatcher sees the same table (members that live, and an owner or none for each
//! partition) and decides for itself alone: what to take, what to give up. Taking is a
//! compare-and-set, so two that decide alike cannot both win; the rule only has to converge.

use std::collections::BTreeMap;

/// What a member sees.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// Members that live; `true` = takes part, `false` = is leaving and only finishes its work.
    pub members: BTreeMap<String, bool>,
    /// Owner of each partition; `None` = free.
    pub owners: Vec<Option<String>>,
}

/// What a member does now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Partitions to take: free, or owned by a member that is no more.
    pub take: Vec<u16>,
    /// Partitions to hand over, because others have too few or it is leaving.
    pub give: Vec<u16>,
}

/// How many partitions `me` should own: all of them shared out evenly, the remainder to the first
/// members by name; none for one that is leaving or unknown.
#[must_use]
pub fn fair_share(table: &Table, me: &str) -> usize {
    let active: Vec<&String> = table
        .members
        .iter()
        .filter(|(_, on)| **on)
        .map(|(name, _)| name)
        .collect();
    let Some(rank) = active.iter().position(|name| *name == me) else {
        return 0;
    };
    let (all, count) = (table.owners.len(), active.len());
    all / count + usize::from(rank < all % count)
}

/// Decides for `me`.
#[must_use]
pub fn plan(table: &Table, me: &str) -> Plan {
    let share = fair_share(table, me);
    let index = |i: usize| u16::try_from(i).unwrap_or(u16::MAX);
    let mine: Vec<u16> = (0..table.owners.len())
        .filter(|i| table.owners[*i].as_deref() == Some(me))
        .map(index)
        .collect();
    let mut plan = Plan::default();
    if mine.len() > share {
        plan.give = mine[share..].to_vec();
    } else {
        // Start at a place of one's own, so that members that join together do not all race for
        // the same partitions.
        let count = table.owners.len().max(1);
        let start = me.bytes().fold(0usize, |hash, byte| {
            hash.wrapping_mul(31).wrapping_add(usize::from(byte))
        }) % count;
        plan.take = (0..table.owners.len())
            .map(|offset| (start + offset) % count)
            .filter(|i| match &table.owners[*i] {
                None => true,
                Some(owner) => !table.members.contains_key(owner),
            })
            .take(share - mine.len())
            .map(index)
            .collect();
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One step of everybody: gives become free, takes go to the first who asks.
    fn step(table: &mut Table) -> bool {
        let plans: Vec<_> = table
            .members
            .keys()
            .map(|name| (name.clone(), plan(table, name)))
            .collect();
        let mut changed = false;
        for (name, plan) in plans {
            for give in plan.give {
                table.owners[usize::from(give)] = None;
                changed = true;
            }
            for take in plan.take {
                let slot = &mut table.owners[usize::from(take)];
                if slot
                    .as_ref()
                    .is_none_or(|owner| !table.members.contains_key(owner))
                {
                    *slot = Some(name.clone());
                    changed = true;
                }
            }
        }
        changed
    }

    proptest! {
        #[test]
        fn any_table_settles_with_every_partition_owned_and_shared_evenly(
            partitions in 1usize..70,
            names in prop::collection::btree_map("[a-e]{1,3}", any::<bool>(), 1..6),
            owners in prop::collection::vec(prop::option::of("[a-g]{1,3}"), 70),
        ) {
            let mut table = Table { members: names, owners: owners[..partitions].to_vec() };
            let active = table.members.values().filter(|on| **on).count();
            for _ in 0..100 { if !step(&mut table) { break; } }
            prop_assert!(!step(&mut table), "it does not settle: {table:?}");
            if active > 0 {
                for (name, on) in &table.members {
                    let owned = table.owners.iter().filter(|owner| owner.as_ref() == Some(name)).count();
                    prop_assert_eq!(owned, fair_share(&table, name));
                    if *on { prop_assert!(owned.abs_diff(partitions.div_euclid(active)) <= 1); } else { prop_assert_eq!(owned, 0); }
                }
                prop_assert!(table.owners.iter().all(Option::is_some));
            }
        }

        #[test]
        fn nobody_takes_from_a_living_member(names in prop::collection::btree_map("[a-c]", any::<bool>(), 1..4), owners in prop::collection::vec(prop::option::of("[a-d]"), 16)) {
            let table = Table { members: names, owners };
            for me in table.members.keys() {
                for take in plan(&table, me).take {
                    if let Some(owner) = &table.owners[usize::from(take)] {
                        prop_assert!(!table.members.contains_key(owner));
                    }
                }
            }
        }
    }
}
