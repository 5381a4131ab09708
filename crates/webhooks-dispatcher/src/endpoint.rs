//! One endpoint's share of its partition: the cap on requests in flight, its rate limit, the line
//! behind it, and the times at which what does not fit is parked. Pure: the partition's owner is the
//! only one who holds it, so it needs no lock and holds across replicas.
//!
//! **Parked, and back.** An endpoint keeps in memory what it works off in [`FAST_WAIT_MICROS`] or
//! [`SLOW_WAIT_MICROS`] at the pace at which it answers and may be called; the rest becomes a schedule
//! on RETRIES, each for the time at which its turn is thought to come. That thought may be wrong in both directions:
//!
//! * *too early* costs a write: the delivery is parked again. At most once per [`MAX_PARK`] and
//!   delivery, however slow the endpoint.
//! * *too late* costs nothing: whenever the line in memory runs low, the owner lets the oldest
//!   parked deliveries go before their time ([`Endpoint::wake`], [`crate::parked`]). So a backlog of
//!   20,000 is written once, lies still, and is worked off without a gap as soon as the endpoint
//!   answers again, at the speed at which it answers.
//!
//! **Rate.** The bucket of a new owner is as empty as if it had been emptied when the partition
//! came: what the owner before has let through needs no record, and no window ever has more than
//! the limit allows (see [`webhooks_domain::rate`]). What the rate holds back waits here or is
//! parked; no attempt is consumed.
//!
//! **Our own faults.** When an attempt fails through a fault of ours (no resolver, a secret that does not
//! open), nothing is learnt about the endpoint, and the next ones would fail as well: so the endpoint
//! rests, from [`GATE_MICROS`] doubling to [`MAX_GATE_MICROS`], then a single attempt tries. Ten
//! thousand deliveries of a webhook that we cannot serve cost one attempt for each rest, and go at
//! once when it is over: what such an attempt leaves behind lies with the parked ones.
//!
//! Requests of an owner that left and are still on the wire count
//! against the cap (`foreign`).

use std::time::Duration;

use webhooks_domain::rate::{RateLimit, RateState};

use crate::{
    blocked::Behind,
    line::{Line, Ordering, Put, Rank, Release},
};

/// Longest time a delivery is parked for want of room.
pub(crate) const MAX_PARK: Duration = Duration::from_secs(300);

/// Shortest.
pub(crate) const MIN_PARK: Duration = Duration::from_secs(1);

/// How long an answer is thought to take before one has been seen.
const FIRST_GUESS_MICROS: i64 = 20_000;

/// An endpoint whose deliveries leave at least this often (5 ms apart) is fast: its burst is worked
/// off in memory, and parking would only delay it.
const FAST_SPACING_MICROS: i64 = 5_000;

/// How long what waits in memory for a fast endpoint may wait, as it answers; the rest is parked.
const FAST_WAIT_MICROS: i64 = 2_000_000;

/// The same for one that is not fast. Parking and letting go cost about as much as three deliveries,
/// so it must not begin just because a busy machine answers in 200 ms; an endpoint that takes 10 s
/// still keeps no more than a score.
const SLOW_WAIT_MICROS: i64 = 20_000_000;

/// What was let go finds this many times the room, and only what is beyond as much is parked out of
/// memory: the room moves with every answer, and nothing may be parked and let go in turn for that.
const HYSTERESIS: usize = 2;

/// Fewest deliveries that may wait in memory, however slow the endpoint.
const MIN_QUEUE: usize = 8;

/// Most parked deliveries that are let go at a time; the next follow when half of them are gone.
const WAKE_AT_ONCE: usize = 256;

/// How many go at a time when their webhook is not active any more: once per tick of the partition,
/// so some 200/s. Nobody waits for them; others wait while they are written.
const FLUSH_AT_ONCE: usize = 20;

/// Shortest time between two such steps: a little less than a tick.
const FLUSH_EVERY_MICROS: i64 = 90_000;

/// Pause before parked deliveries are let go again when the bus did not answer.
const WAKE_PAUSE_MICROS: i64 = 500_000;

/// First rest after a fault of ours; each is at least half as long.
const GATE_MICROS: i64 = 1_000_000;

/// Longest rest. Not longer: our fault may be over, and nobody knows before one tries.
const MAX_GATE_MICROS: i64 = 30_000_000;

/// What a webhook may do at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allowed {
    /// Requests in flight.
    pub(crate) cap: usize,
    /// Requests over time.
    pub(crate) rate: Option<RateLimit>,
    /// What goes one after another.
    pub(crate) ordering: Ordering,
}

impl Allowed {
    /// Of a webhook that is not known any more: it starts nothing.
    pub(crate) const NOTHING_KNOWN: Self = Self {
        cap: 1,
        rate: None,
        ordering: Ordering::None,
    };
}

/// Which of an endpoint's schedules, parked or retries, go now whatever their time and its room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flush {
    /// All: its webhook is not to be called, so they are held or end.
    All,
    /// Those written before this time (microseconds): a person discarded them.
    Before(i64),
}

/// What a delivery asks of its endpoint.
#[derive(Debug)]
pub(crate) enum Admission<T> {
    /// It waits in memory.
    Taken,
    /// It is to be parked.
    Park(T, Parking),
    /// The same delivery is here already: look again when that one has ended.
    Twin(T),
}

/// Why a delivery is parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parking {
    /// There is no room for so long.
    Room(Duration),
    /// It waits behind a failing one of its key.
    Behind(Behind),
}

/// Whether something may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Startable {
    /// Now.
    Now,
    /// When so much time has passed.
    After(Duration),
    /// When something else has happened.
    No,
}

/// Which parked deliveries may go before their time.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    /// So many, the oldest first, from this sequence of RETRIES on.
    Oldest { from: u64, count: usize },
    /// Those with these sequences.
    These(Vec<u64>),
    /// So many of all that is scheduled, parked or not, from this sequence on.
    Scheduled {
        from: u64,
        count: usize,
        flush: Flush,
    },
}

/// How that went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Woken {
    /// There may be more, from this sequence on.
    More(u64),
    /// There are no more of them.
    All,
    /// There may be more to flush, from this sequence on.
    FlushMore(u64),
    /// There is no more to flush.
    Flushed(Flush),
    /// The bus did not answer: try again.
    Failed,
}

/// The state of one endpoint.
#[derive(Debug)]
pub(crate) struct Endpoint<T> {
    allowed: Allowed,
    queue_limit: usize,
    in_flight: usize,
    /// Requests of the partition's last owner that are still on the wire.
    foreign: usize,
    line: Line<T>,
    bucket: Option<RateState>,
    latency_micros: i64,
    /// The latency is one that was seen.
    has_answered: bool,
    /// When a request last ended, or the first one began.
    progress_micros: i64,
    /// Parked by us and not seen again.
    parked: usize,
    /// There may be parked ones.
    maybe_parked: bool,
    /// Parked ones below this sequence have been let go or come by themselves.
    cursor: u64,
    /// Some are being let go.
    waking: bool,
    /// These are to go, whatever the room.
    flushing: Option<Flush>,
    /// Those below this sequence have gone.
    flush_cursor: u64,
    /// When the next of those go.
    flush_at: i64,
    /// There may be new ones since the last step began.
    flush_again: bool,
    /// What was scheduled before this time is discarded already (microseconds).
    discarded_to: i64,
    /// No parked ones are let go before this time.
    wake_at: i64,
    /// How often in a row it had to rest through a fault of ours, and until when it does.
    rests: u32,
    rest_until: i64,
    /// A timer for the rate is set.
    timer: bool,
}

impl<T> Endpoint<T> {
    /// An endpoint in a partition that came to its owner at `owned_since_micros`.
    pub(crate) fn new(allowed: Allowed, queue_limit: usize, owned_since_micros: i64) -> Self {
        Self {
            allowed,
            queue_limit,
            in_flight: 0,
            foreign: 0,
            line: Line::new(allowed.ordering),
            bucket: allowed
                .rate
                .map(|limit| RateState::empty_at(limit, owned_since_micros)),
            latency_micros: FIRST_GUESS_MICROS,
            has_answered: false,
            progress_micros: 0,
            parked: 0,
            maybe_parked: false,
            cursor: 0,
            waking: false,
            flushing: None,
            flush_cursor: 0,
            flush_at: 0,
            flush_again: false,
            discarded_to: 0,
            wake_at: 0,
            rests: 0,
            rest_until: 0,
            timer: false,
        }
    }

    /// Takes over what its webhook may do now. A new rate begins with an empty bucket.
    pub(crate) fn allow(&mut self, allowed: Allowed, now_micros: i64) {
        if allowed == self.allowed {
            return;
        }
        if allowed.rate != self.allowed.rate {
            self.bucket = allowed
                .rate
                .map(|limit| RateState::empty_at(limit, now_micros));
            // It was set for the old rate, and may ring much too late; should it ring as well, that
            // is one look too many.
            self.timer = false;
        }
        if allowed.ordering != self.allowed.ordering {
            self.line.reorder(allowed.ordering);
            self.look_for_parked();
        }
        self.allowed = allowed;
    }

    /// Time between two deliveries, as the endpoint answers at the moment and may be called: one
    /// that is full and has not answered for long is as slow as that.
    fn spacing(&self, now_micros: i64) -> i64 {
        let silent = if self.in_flight >= self.allowed.cap {
            now_micros - self.progress_micros
        } else {
            0
        };
        let cap = i64::try_from(self.allowed.cap).unwrap_or(1).max(1);
        let answers = match self.rests {
            0 => self.latency_micros.max(silent) / cap,
            rests => rest_after(rests),
        };
        let rate = self.allowed.rate.map_or(0, RateLimit::interval_micros);
        answers.max(rate)
    }

    /// How many deliveries may wait in memory. A fast endpoint gets what it works off in
    /// [`FAST_WAIT_MICROS`]; another one what it works off in [`SLOW_WAIT_MICROS`], but no more than
    /// its limit, and its `share` of what is free.
    pub(crate) fn room(&self, share: usize, now_micros: i64) -> usize {
        let spacing = self.spacing(now_micros).max(1);
        let within = |micros: i64| usize::try_from(micros / spacing).unwrap_or(0);
        if spacing < FAST_SPACING_MICROS {
            within(FAST_WAIT_MICROS).max(self.queue_limit)
        } else {
            let in_time = within(SLOW_WAIT_MICROS);
            in_time.min(self.queue_limit).min(share).max(MIN_QUEUE)
        }
    }

    /// Takes a delivery, or says for how long to park it: each parked one gets a time of its own,
    /// spaced as the endpoint answers. `was_parked` = it comes back from there.
    pub(crate) fn admit(
        &mut self,
        job: T,
        rank: Rank,
        was_parked: bool,
        share: usize,
        now_micros: i64,
    ) -> Admission<T> {
        if was_parked {
            self.parked = self.parked.saturating_sub(1);
            self.maybe_parked = true;
        }
        let mut room = self.room(share, now_micros);
        if was_parked {
            room = room.saturating_mul(HYSTERESIS);
        }
        match self.line.put(job, rank, was_parked, room, now_micros) {
            Put::Taken => Admission::Taken,
            Put::Twin(job) => Admission::Twin(job),
            Put::NoRoom(job) => {
                let wait = self.slot(now_micros);
                self.line.park(rank, until(now_micros, wait));
                Admission::Park(job, Parking::Room(wait))
            }
            Put::Blocked(job, behind) => {
                self.parked += 1;
                self.line.park(rank, until(now_micros, behind.wait));
                Admission::Park(job, Parking::Behind(behind))
            }
        }
    }

    /// What waits beyond the room that an endpoint has which has become slow, and what waits behind
    /// a delivery that is tried again much later.
    pub(crate) fn spill(&mut self, share: usize, now_micros: i64) -> Vec<(T, Parking)> {
        let mut spilt = Vec::new();
        for (job, rank, behind) in self.line.blocked(now_micros) {
            self.parked += 1;
            self.line.park(rank, until(now_micros, behind.wait));
            spilt.push((job, Parking::Behind(behind)));
        }
        let room = self.room(share, now_micros).saturating_mul(HYSTERESIS);
        for (job, rank) in self.line.beyond(room) {
            let wait = self.slot(now_micros);
            self.line.park(rank, until(now_micros, wait));
            spilt.push((job, Parking::Room(wait)));
        }
        spilt
    }

    /// When the turn of the next parked delivery is thought to come: after what waits in memory and
    /// what was parked before.
    fn slot(&mut self, now_micros: i64) -> Duration {
        let before = i64::try_from(self.line.waiting() + self.parked).unwrap_or(i64::MAX);
        self.parked += 1;
        self.maybe_parked = true;
        let wait = self.spacing(now_micros).saturating_mul(before);
        let wait = Duration::from_micros(u64::try_from(wait).unwrap_or(0));
        wait.clamp(MIN_PARK, MAX_PARK)
    }

    /// Whether something may start.
    pub(crate) fn startable(&self, now_micros: i64) -> Startable {
        if self.in_flight + self.foreign >= self.allowed.cap || !self.line.has_ready(now_micros) {
            return Startable::No;
        }
        if self.rests > 0 && self.in_flight > 0 {
            // One tries; the others see what becomes of it.
            return Startable::No;
        }
        if self.rests_at(now_micros) {
            let rest = self.rest_until.saturating_sub(now_micros);
            return Startable::After(Duration::from_micros(u64::try_from(rest).unwrap_or(0)));
        }
        let wait = match (self.allowed.rate, &self.bucket) {
            (Some(limit), Some(bucket)) => bucket.wait(limit, now_micros),
            _ => Duration::ZERO,
        };
        if wait.is_zero() {
            Startable::Now
        } else {
            Startable::After(wait)
        }
    }

    /// The next delivery that may go out now.
    pub(crate) fn start(&mut self, now_micros: i64) -> Option<T> {
        if self.startable(now_micros) != Startable::Now {
            return None;
        }
        let job = self.line.take(now_micros)?;
        if let (Some(limit), Some(bucket)) = (self.allowed.rate, &mut self.bucket)
            && bucket.admit(limit, now_micros).is_err()
        {
            tracing::error!("a request started without a token of its endpoint's rate");
        }
        if self.in_flight == 0 {
            self.progress_micros = now_micros;
        }
        self.in_flight += 1;
        Some(job)
    }

    /// A request has ended after `latency`: its place is free.
    pub(crate) fn ended(&mut self, latency: Duration, now_micros: i64) {
        self.not_started();
        (self.rests, self.rest_until) = (0, 0);
        self.progress_micros = now_micros;
        let seen = i64::try_from(latency.as_micros()).unwrap_or(i64::MAX / 16);
        if self.has_answered {
            self.latency_micros += (seen - self.latency_micros) / 8;
        } else {
            // Better than any guess. Of the first answers of a slow one, each would else seem to make
            // room for more than fits.
            (self.latency_micros, self.has_answered) = (seen, true);
        }
    }

    /// A request was not made, or not for good, through a fault of ours. `draw` is a random number in
    /// `0.0..1.0`.
    pub(crate) fn own_fault(&mut self, now_micros: i64, draw: f64) {
        self.not_started();
        if self.rests_at(now_micros) {
            // It began before the rest did.
            return;
        }
        self.rests = self.rests.saturating_add(1);
        let longest = Duration::from_micros(u64::try_from(rest_after(self.rests)).unwrap_or(0));
        let rest = longest.mul_f64(0.5 + draw.clamp(0.0, 1.0) / 2.0);
        self.rest_until = until(now_micros, rest);
    }

    fn rests_at(&self, now_micros: i64) -> bool {
        self.rests > 0 && now_micros < self.rest_until
    }

    /// What was to start has not: its place is free, and nothing was learnt of the endpoint.
    pub(crate) fn not_started(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// What has become of a delivery that was taken from the line. Its followers may go on.
    pub(crate) fn release(&mut self, rank: Rank, release: Release) {
        self.line.release(rank, release);
    }

    /// A delivery was parked as this message of RETRIES.
    pub(crate) fn parked_as(&mut self, rank: Rank, schedule: u64) {
        self.line.parked_as(rank, schedule);
        // Perhaps it was written after we looked.
        self.maybe_parked = true;
        if self.cursor > schedule {
            self.cursor = schedule;
        }
    }

    /// The parked deliveries that may go now, if it is time to let some go. Nothing more until
    /// [`Endpoint::woken`].
    pub(crate) fn wake(&mut self, share: usize, now_micros: i64) -> Option<Wake> {
        if self.waking || now_micros < self.wake_at {
            return None;
        }
        if let Some(flush) = self.flushing {
            if now_micros < self.flush_at {
                return None;
            }
            (self.waking, self.flush_again) = (true, false);
            self.flush_at = now_micros.saturating_add(FLUSH_EVERY_MICROS);
            return Some(Wake::Scheduled {
                from: self.flush_cursor,
                count: FLUSH_AT_ONCE,
                flush,
            });
        }
        if self.rests_at(now_micros) || self.rests > 0 && self.in_flight > 0 {
            return None;
        }
        let room = self.room(share, now_micros).min(WAKE_AT_ONCE);
        let waiting = self.line.waiting();
        if waiting > room / 2 {
            return None;
        }
        let count = room - waiting;
        let wake = match self.line.wanted(room) {
            Some(these) if these.is_empty() => return None,
            Some(these) => Wake::These(these),
            None if !self.maybe_parked => return None,
            None => Wake::Oldest {
                from: self.cursor,
                count,
            },
        };
        self.waking = true;
        Some(wake)
    }

    /// Those that [`Endpoint::wake`] named have gone, as far as they could.
    pub(crate) fn woken(&mut self, woken: Woken, now_micros: i64) {
        self.waking = false;
        match woken {
            Woken::More(next) => self.cursor = self.cursor.max(next),
            Woken::All => self.maybe_parked = false,
            Woken::FlushMore(next) if !self.flush_again => {
                self.flush_cursor = self.flush_cursor.max(next);
            }
            Woken::Flushed(flush) if self.flushing == Some(flush) && !self.flush_again => {
                self.flushing = None;
                match flush {
                    Flush::All => self.maybe_parked = false,
                    Flush::Before(at) => self.discarded_to = self.discarded_to.max(at),
                }
            }
            // What is to be flushed has changed meanwhile: from the beginning.
            Woken::FlushMore(_) | Woken::Flushed(_) => self.flush_cursor = 0,
            Woken::Failed => {
                self.wake_at = now_micros.saturating_add(WAKE_PAUSE_MICROS);
                self.line.want_again();
            }
        }
    }

    /// There may be parked deliveries that can go.
    pub(crate) fn look_for_parked(&mut self) {
        self.maybe_parked = true;
        self.cursor = 0;
    }

    /// What of its schedules is to go now: see [`Flush`]; `None` = they go when they may.
    pub(crate) fn flush(&mut self, flush: Option<Flush>) {
        let flush = flush.filter(|flush| match flush {
            Flush::All => true,
            Flush::Before(at) => *at > self.discarded_to,
        });
        if flush == Some(Flush::All) {
            self.look_for_parked();
        }
        if self.flushing != flush {
            (self.flushing, self.flush_cursor) = (flush, 0);
        }
        self.flush_again = true;
    }

    /// Whether schedules may go although the webhook is not active. They go by the clock.
    pub(crate) fn is_flushing(&self) -> bool {
        self.flushing.is_some()
    }

    /// Whether it has parked deliveries, or an order to look after.
    pub(crate) fn may_have_parked(&self) -> bool {
        self.maybe_parked || self.line.is_ordered()
    }

    /// A request of the partition's last owner is still on the wire.
    pub(crate) fn foreign_began(&mut self) {
        self.foreign += 1;
    }

    /// It has ended.
    pub(crate) fn foreign_ended(&mut self) {
        self.foreign = self.foreign.saturating_sub(1);
    }

    /// Sets the timer for the rate; false when it is set already.
    pub(crate) fn set_timer(&mut self) -> bool {
        !std::mem::replace(&mut self.timer, true)
    }

    /// The timer has rung.
    pub(crate) fn timer_rang(&mut self) {
        self.timer = false;
    }

    /// The line, for what only ordering needs.
    pub(crate) fn line(&mut self) -> &mut Line<T> {
        &mut self.line
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.line.waiting()
    }

    /// Nothing in hand, and nothing to remember: it can be forgotten.
    pub(crate) fn is_idle(&self, now_micros: i64) -> bool {
        let full = self.bucket.is_none_or(|bucket| bucket.is_full(now_micros));
        full && self.in_flight == 0
            && self.foreign == 0
            && self.line.is_empty()
            && (self.line.is_ordered() || !self.maybe_parked)
            && self.flushing.is_none()
            && !self.rests_at(now_micros)
            && !self.waking
            && !self.timer
    }

    /// Takes everything that has not started.
    pub(crate) fn drain(&mut self) -> Vec<T> {
        self.line.drain()
    }
}

/// The longest that the `rests`th rest in a row may take.
fn rest_after(rests: u32) -> i64 {
    // More doublings than this are beyond the cap.
    let doubled = GATE_MICROS << rests.saturating_sub(1).min(16);
    doubled.min(MAX_GATE_MICROS)
}

fn until(now_micros: i64, wait: Duration) -> i64 {
    now_micros.saturating_add(i64::try_from(wait.as_micros()).unwrap_or(i64::MAX / 2))
}

#[cfg(test)]
mod tests;
