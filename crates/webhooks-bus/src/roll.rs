//! Members by what the server says: who renewed when, by the server's own clock.
//!
//! The expiry of a key is only a hint. After a restart of the server, keys were found that had
//! outlived their time and expired no more; and the end of a member that falls into a long outage
//! of ours is never told. So a member counts only while its last renewal is young against the
//! newest entry seen, which our own renewals keep moving.

use std::{collections::BTreeMap, time::Duration};

/// The members.
#[derive(Default)]
pub(crate) struct Roll {
    seen: BTreeMap<String, Seen>,
    newest_micros: i64,
}

struct Seen {
    active: bool,
    created_micros: i64,
    seq: u64,
}

impl Roll {
    /// A member has renewed (`Some(active)`) or ended (`None`).
    pub(crate) fn note(
        &mut self,
        member: &str,
        renewed: Option<bool>,
        created_micros: i64,
        seq: u64,
    ) {
        match renewed {
            Some(active) => {
                let seen = Seen {
                    active,
                    created_micros,
                    seq,
                };
                self.seen.insert(member.to_owned(), seen);
            }
            None => {
                self.seen.remove(member);
            }
        }
    }

    /// Strikes out who has not renewed for twice its time to live, as of an entry written at
    /// `now_micros`; returns them with the sequences of their keys.
    pub(crate) fn strike(&mut self, now_micros: i64, ttl: Duration) -> Vec<(String, u64)> {
        self.newest_micros = self.newest_micros.max(now_micros);
        let limit = self.newest_micros - 2 * i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX / 4);
        let dead = |seen: &Seen| seen.created_micros < limit;
        let ghosts = self.seen.iter().filter(|(_, seen)| dead(seen));
        let ghosts: Vec<_> = ghosts
            .map(|(member, seen)| (member.clone(), seen.seq))
            .collect();
        self.seen.retain(|_, seen| !dead(seen));
        ghosts
    }

    /// Who is there; `true` = takes part.
    pub(crate) fn present(&self) -> BTreeMap<String, bool> {
        self.seen
            .iter()
            .map(|(member, seen)| (member.clone(), seen.active))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_not_renewed_by_the_servers_clock_is_struck_out() {
        let ttl = Duration::from_secs(3);
        let mut roll = Roll::default();
        roll.note("ghost", Some(true), 0, 7);
        assert!(roll.strike(0, ttl).is_empty());
        roll.note("me", Some(true), 5_000_000, 8);
        assert!(roll.strike(5_000_000, ttl).is_empty());
        roll.note("leaver", Some(false), 6_500_000, 9);
        assert_eq!(roll.strike(6_500_000, ttl), [("ghost".to_owned(), 7)]);
        // An older entry does not turn the clock back.
        assert!(roll.strike(0, ttl).is_empty());
        let present = roll.present();
        assert_eq!(
            present.into_iter().collect::<Vec<_>>(),
            [("leaver".to_owned(), false), ("me".to_owned(), true)]
        );
        roll.note("me", None, 6_600_000, 10);
        assert_eq!(roll.present().len(), 1);
    }
}
