//! Sockets: how many there may be, and a permit for each before it is opened.
//!
//! A process has only so many descriptors, and who runs out of them fails at everything, also at what
//! has nothing to do with endpoints. So connections and lookups take at most what the system allows
//! ([`Limit`]) less a [`RESERVE`] for everything else, and whoever finds none free waits before the dial and
//! not in it. Half of them may be kept for later requests; beyond that a connection is closed after
//! its answer, so that there are always some for those who come.
//!
//! The limit is looked at anew every [`LOOK_EVERY`], since it may be changed while the process runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

/// Descriptors that are left to everything else: files, listeners, the bus, other services, the runtime.
const RESERVE: usize = 48;

/// Fewest sockets, whatever the limit: with none at all nothing would ever be delivered.
const FEWEST: usize = 4;

/// How long a limit is believed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Longest wait for a socket to be closed before the limit is looked at again.
const WAIT: Duration = Duration::from_millis(250);

/// How many descriptors this process may have.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Limit {
    /// As the system says: the soft limit.
    System,
    /// So many.
    Fixed(usize),
}

impl Limit {
    fn descriptors(self) -> usize {
        match self {
            // No limit is one that is never reached.
            Self::System => getrlimit(Resource::Nofile)
                .current
                .map_or(usize::MAX, |soft| {
                    usize::try_from(soft).unwrap_or(usize::MAX)
                }),
            Self::Fixed(descriptors) => descriptors,
        }
    }
}

/// The sockets of this process, of all clients and lookups. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Sockets(Arc<State>);

#[derive(Debug)]
struct State {
    limit: Limit,
    looked: Mutex<(usize, Instant)>,
    open: AtomicUsize,
    freed: Notify,
}

/// One of them, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Socket(Sockets);

impl Sockets {
    pub(crate) fn new(limit: Limit) -> Self {
        let looked = Mutex::new((allowed(limit), Instant::now()));
        Self(Arc::new(State {
            limit,
            looked,
            open: AtomicUsize::new(0),
            freed: Notify::new(),
        }))
    }

    /// How many there may be.
    pub(crate) fn allowed(&self) -> usize {
        let mut looked = self.0.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if now - looked.1 >= LOOK_EVERY {
            *looked = (allowed(self.0.limit), now);
        }
        looked.0
    }

    /// Whether there are so many that none should be kept for later.
    pub(crate) fn are_many(&self, most_kept: usize) -> bool {
        self.0.open.load(Ordering::Relaxed) >= most_kept.min(self.allowed() / 2)
    }

    /// The permit for one, when one is free.
    pub(crate) async fn take(&self) -> Socket {
        loop {
            let allowed = self.allowed();
            let one_more = |open| (open < allowed).then_some(open + 1);
            let open = &self.0.open;
            if open
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
                .is_ok()
            {
                return Socket(self.clone());
            }
            // Freed, or the limit may have been raised: both mean to look again.
            timeout(WAIT, self.0.freed.notified()).await.ok();
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.0.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.0.freed.notify_one();
    }
}

fn allowed(limit: Limit) -> usize {
    limit.descriptors().saturating_sub(RESERVE).max(FEWEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whoever_finds_none_free_waits_until_one_is_closed() {
        let sockets = Sockets::new(Limit::Fixed(RESERVE + 10));
        assert_eq!(sockets.allowed(), 10);
        let mut held = Vec::new();
        for n in 0..10 {
            assert_eq!(sockets.are_many(100), n >= 5, "{n}");
            assert_eq!(sockets.are_many(3), n >= 3, "{n}");
            held.push(sockets.take().await);
        }
        let mut waiting = std::pin::pin!(sockets.take());
        let early = timeout(Duration::from_secs(60), waiting.as_mut()).await;
        assert!(early.is_err(), "there is none");
        held.pop();
        let began = Instant::now();
        waiting.await;
        assert!(began.elapsed() <= WAIT);
    }

    #[tokio::test]
    async fn a_few_are_left_whatever_the_limit() {
        let sockets = Sockets::new(Limit::Fixed(3));
        assert_eq!(sockets.allowed(), FEWEST);
        // The real one is read.
        assert!(Sockets::new(Limit::System).allowed() >= FEWEST);
    }
}
