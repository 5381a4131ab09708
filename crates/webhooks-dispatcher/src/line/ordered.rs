//! A queue for each key: see [`super`] for what is promised. Every unfinished delivery that is known
//! has an entry under its key, by event; the first entry decides what the key may do.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use uuid::Uuid;

use super::{Found, MAX_KNOWN, Ordering, Put, Rank, Release};
use crate::blocked::{Behind, NEAR};

/// What waits behind a delivery comes this much later than that one's next attempt.
const AFTER_HEAD: Duration = Duration::from_secs(1);

/// A delivery whose next attempt is due sooner lets those behind it wait in memory.
const SOON_MICROS: i64 = 2_000_000;

/// How long after its time a delivery that has not come back is waited for.
pub(super) const OVERDUE_MICROS: i64 = 120_000_000;

/// How long after its event's acceptance a delivery waits at most until the events before are
/// fanned out.
pub(super) const PATIENCE_MICROS: i64 = 60_000_000;

/// Where an entry stands: by event, then by delivery.
pub(super) type Place = (u64, Uuid);

#[derive(Debug)]
pub(crate) struct Ordered<T> {
    ordering: Ordering,
    keys: HashMap<u64, Key<T>>,
    /// Keys whose first delivery is here and may start, by that delivery's event.
    ready: BTreeSet<(u64, u64)>,
    /// Every delivery of the events up to this one has arrived.
    arrived_to: u64,
    /// Keys whose first delivery is parked.
    wanted: VecDeque<u64>,
    here: usize,
    pub(super) known: usize,
    learning: Learning,
    /// Some are parked that are not known.
    pub(super) overflowed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Learning {
    Needed,
    Underway,
    Done,
}

#[derive(Debug)]
struct Key<T> {
    entries: BTreeMap<Place, Entry<T>>,
    on_wire: bool,
    /// Under which event it is in `ready`.
    ready_at: Option<u64>,
    in_wanted: bool,
}

impl<T> Default for Key<T> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            on_wire: false,
            ready_at: None,
            in_wanted: false,
        }
    }
}

#[derive(Debug)]
enum Entry<T> {
    Here(T, Rank),
    Wire,
    /// It comes again by itself.
    Later(i64),
    /// It waits as this message of RETRIES (0 = not written yet), until this time.
    Parked(u64, i64),
}

impl<T> Ordered<T> {
    pub(super) fn new(ordering: Ordering) -> Self {
        Self {
            ordering,
            keys: HashMap::new(),
            ready: BTreeSet::new(),
            arrived_to: 0,
            wanted: VecDeque::new(),
            here: 0,
            known: 0,
            learning: Learning::Needed,
            overflowed: false,
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.here
    }

    pub(super) fn is_empty(&self) -> bool {
        self.known == 0 && self.learning != Learning::Underway
    }

    pub(super) fn has_ready(&self, now_micros: i64) -> bool {
        self.learning == Learning::Done && self.next_ready(now_micros).is_some()
    }

    pub(super) fn fanned_out(&mut self, up_to: u64, now_micros: i64) -> bool {
        self.arrived_to = self.arrived_to.max(up_to);
        !self.ready.is_empty() && self.next_ready(now_micros).is_none()
    }

    /// The key whose turn it is: that of the oldest event, when nothing older can come.
    fn next_ready(&self, now_micros: i64) -> Option<u64> {
        let (seq, id) = *self.ready.first()?;
        let arrived = seq <= self.arrived_to.saturating_add(1);
        let first = self.keys.get(&id)?.entries.first_key_value();
        let patient = match first {
            Some((_, Entry::Here(_, rank))) => now_micros - rank.accepted_micros < PATIENCE_MICROS,
            _ => true,
        };
        (arrived || !patient).then_some(id)
    }

    pub(super) fn insert_here(&mut self, job: T, rank: Rank) {
        self.insert(rank, Entry::Here(job, rank));
    }

    pub(super) fn parked_as(&mut self, rank: Rank, schedule: u64) {
        if let Some(Entry::Parked(seq, _)) = self.entry(rank) {
            *seq = schedule;
        }
    }

    pub(super) fn refresh_all(&mut self) {
        let ids: Vec<u64> = self.keys.keys().copied().collect();
        for id in ids {
            self.refresh(id);
        }
    }

    pub(super) fn must_learn(&mut self) -> bool {
        let again = self.overflowed && self.known <= MAX_KNOWN / 2;
        let needed =
            self.learning == Learning::Needed || (self.learning == Learning::Done && again);
        if needed {
            self.learning = Learning::Underway;
        }
        needed
    }

    pub(super) fn learn(&mut self, found: Option<(Vec<Found>, bool)>) {
        let Some((found, whole)) = found else {
            self.learning = Learning::Needed;
            return;
        };
        for found in found {
            if self.entry(found.rank).is_none() {
                let entry = if found.parked {
                    Entry::Parked(found.schedule, found.due_micros)
                } else {
                    Entry::Later(found.due_micros)
                };
                self.insert(found.rank, entry);
            }
        }
        self.overflowed = !whole;
        self.learning = Learning::Done;
    }

    pub(super) fn take_all(&mut self) -> Vec<(T, Rank)> {
        let mut all: Vec<_> = std::mem::take(&mut self.keys)
            .into_values()
            .flat_map(|key| key.entries.into_values())
            .filter_map(|entry| match entry {
                Entry::Here(job, rank) => Some((job, rank)),
                _ => None,
            })
            .collect();
        all.sort_by_key(|(_, rank)| rank.place());
        self.ready.clear();
        self.wanted.clear();
        (self.here, self.known) = (0, 0);
        all
    }

    fn entry(&mut self, rank: Rank) -> Option<&mut Entry<T>> {
        self.keys
            .get_mut(&rank.key(self.ordering))?
            .entries
            .get_mut(&rank.place())
    }

    pub(super) fn put(
        &mut self,
        job: T,
        rank: Rank,
        was_parked: bool,
        room: usize,
        now_micros: i64,
    ) -> Put<T> {
        let known = match self.entry(rank) {
            Some(Entry::Here(..) | Entry::Wire) => return Put::Twin(job),
            Some(_) => true,
            None => false,
        };
        if !known && (self.known >= MAX_KNOWN || (self.overflowed && !was_parked)) {
            // Behind what is parked unseen already.
            self.overflowed = true;
            return Put::NoRoom(job);
        }
        let key = self.keys.entry(rank.key(self.ordering)).or_default();
        let before = key
            .entries
            .first_key_value()
            .filter(|(place, _)| **place < rank.place());
        let fits = match before {
            // Behind others there is half of the room, so that those in front always find some.
            Some((_, Entry::Here(..) | Entry::Wire)) => self.here < room / 2,
            Some((_, Entry::Later(at))) if *at - now_micros < SOON_MICROS => self.here < room / 2,
            Some(((_, head), Entry::Later(at))) => {
                let place = key.entries.range(..rank.place()).take(NEAR + 1).count();
                return Put::Blocked(job, behind(*head, *at, now_micros, place));
            }
            Some((_, Entry::Parked(..))) => false,
            None => self.here < room,
        };
        if fits {
            self.insert(rank, Entry::Here(job, rank));
            Put::Taken
        } else {
            Put::NoRoom(job)
        }
    }

    fn insert(&mut self, rank: Rank, entry: Entry<T>) {
        let id = rank.key(self.ordering);
        let here = matches!(entry, Entry::Here(..));
        let key = self.keys.entry(id).or_default();
        match key.entries.insert(rank.place(), entry) {
            None => self.known += 1,
            Some(Entry::Here(..)) => self.here -= 1,
            Some(_) => {}
        }
        self.here += usize::from(here);
        self.refresh(id);
    }

    /// Looks what may be done with the first of a key.
    fn refresh(&mut self, id: u64) {
        let Some(key) = self.keys.get_mut(&id) else {
            return;
        };
        let first = key.entries.first_key_value();
        let ready_at = match first {
            Some(((seq, _), Entry::Here(..))) if !key.on_wire => Some(*seq),
            _ => None,
        };
        let parked = matches!(first, Some((_, Entry::Parked(..)))) && !key.on_wire;
        if key.ready_at != ready_at {
            if let Some(seq) = std::mem::replace(&mut key.ready_at, ready_at) {
                self.ready.remove(&(seq, id));
            }
            if let Some(seq) = ready_at {
                self.ready.insert((seq, id));
            }
        }
        if parked && !key.in_wanted {
            key.in_wanted = true;
            self.wanted.push_back(id);
        }
        if key.entries.is_empty() {
            self.keys.remove(&id);
        }
    }

    pub(super) fn take(&mut self, now_micros: i64) -> Option<T> {
        let id = self.next_ready(now_micros)?;
        let key = self.keys.get_mut(&id)?;
        let entry = key.entries.first_entry()?.into_mut();
        let taken = std::mem::replace(entry, Entry::Wire);
        if let Entry::Here(job, _) = taken {
            key.on_wire = true;
            self.here -= 1;
            self.refresh(id);
            return Some(job);
        }
        *entry = taken;
        self.refresh(id);
        None
    }

    pub(super) fn release(&mut self, rank: Rank, release: Release) {
        let id = rank.key(self.ordering);
        let Some(key) = self.keys.get_mut(&id) else {
            return;
        };
        let Some(entry) = key.entries.get_mut(&rank.place()) else {
            return;
        };
        match entry {
            Entry::Wire => key.on_wire = false,
            Entry::Here(..) => return,
            Entry::Later(_) | Entry::Parked(..) => {}
        }
        match release {
            Release::Later(at) => *entry = Entry::Later(at),
            Release::Finished => {
                key.entries.remove(&rank.place());
                self.known -= 1;
            }
        }
        self.refresh(id);
    }

    pub(super) fn park(&mut self, rank: Rank, until_micros: i64) {
        if self.entry(rank).is_some() || self.known < MAX_KNOWN && !self.overflowed {
            self.insert(rank, Entry::Parked(0, until_micros));
        }
    }

    pub(super) fn beyond(&mut self, room: usize) -> Vec<(T, Rank)> {
        let surplus = self.here.saturating_sub(room);
        if surplus == 0 {
            return Vec::new();
        }
        let mut places: Vec<(Place, u64)> = Vec::with_capacity(self.here);
        for (id, key) in &self.keys {
            let here = key.entries.iter().filter_map(|(place, entry)| {
                matches!(entry, Entry::Here(..)).then_some((*place, *id))
            });
            places.extend(here);
        }
        places.sort_unstable();
        places
            .split_off(places.len().saturating_sub(surplus))
            .into_iter()
            .filter_map(|(place, id)| self.lift(id, place))
            .collect()
    }

    /// Takes one that is here out of the line; it is parked next.
    fn lift(&mut self, id: u64, place: Place) -> Option<(T, Rank)> {
        let entry = self.keys.get_mut(&id)?.entries.get_mut(&place)?;
        match std::mem::replace(entry, Entry::Parked(0, i64::MAX)) {
            Entry::Here(job, rank) => {
                self.here -= 1;
                self.refresh(id);
                Some((job, rank))
            }
            other => {
                *entry = other;
                None
            }
        }
    }

    pub(super) fn blocked(&mut self, now_micros: i64) -> Vec<(T, Rank, Behind)> {
        let mut behind_later = Vec::new();
        for (id, key) in &self.keys {
            if let Some(((_, head), Entry::Later(at))) = key.entries.first_key_value()
                && *at - now_micros >= SOON_MICROS
            {
                let here = key
                    .entries
                    .iter()
                    .enumerate()
                    .filter_map(|(n, (place, entry))| {
                        let here = matches!(entry, Entry::Here(..));
                        here.then(|| (*id, *place, behind(*head, *at, now_micros, n)))
                    });
                behind_later.extend(here);
            }
        }
        behind_later
            .into_iter()
            .filter_map(|(id, place, behind)| {
                let (job, rank) = self.lift(id, place)?;
                Some((job, rank, behind))
            })
            .collect()
    }

    pub(super) fn take_wanted(&mut self, room: usize) -> Vec<u64> {
        let count = room.saturating_sub(self.here);
        let mut schedules = Vec::new();
        if self.learning != Learning::Done {
            return schedules;
        }
        let mut unwritten = Vec::new();
        while schedules.len() < count {
            let Some(id) = self.wanted.pop_front() else {
                break;
            };
            let Some(key) = self.keys.get_mut(&id) else {
                continue;
            };
            key.in_wanted = false;
            let mut parked = key.entries.values().map_while(|entry| match entry {
                Entry::Parked(schedule, _) => Some(*schedule),
                _ => None,
            });
            match parked.next() {
                Some(0) => unwritten.push(id),
                Some(first) => {
                    schedules.push(first);
                    // Those behind it come with it as far as they find room, so that a long key
                    // runs without pauses.
                    let more = (room / 2).saturating_sub(self.here + schedules.len());
                    schedules.extend(parked.take(more).filter(|seq| *seq > 0));
                }
                None => {}
            }
        }
        for id in unwritten {
            self.refresh(id);
        }
        schedules
    }

    pub(super) fn forget_overdue(&mut self, now_micros: i64) {
        let overdue: Vec<(u64, Place)> = self
            .keys
            .iter()
            .filter_map(|(id, key)| {
                let (place, entry) = key.entries.first_key_value()?;
                let (Entry::Later(at) | Entry::Parked(_, at)) = entry else {
                    return None;
                };
                (at.saturating_add(OVERDUE_MICROS) < now_micros).then_some((*id, *place))
            })
            .collect();
        for (id, place) in overdue {
            if let Some(key) = self.keys.get_mut(&id)
                && key.entries.remove(&place).is_some()
            {
                self.known -= 1;
                tracing::warn!(delivery.id = %place.1, "a delivery did not come back in time; those behind it go on");
            }
            self.refresh(id);
        }
    }
}

fn behind(head: Uuid, at_micros: i64, now_micros: i64, place: usize) -> Behind {
    let until = Duration::from_micros(u64::try_from(at_micros - now_micros).unwrap_or(0));
    Behind {
        head,
        wait: until + AFTER_HEAD,
        place,
    }
}
