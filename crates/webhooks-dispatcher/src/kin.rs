//! Tasks of the same partition in the same process.
//!
//! A dispatcher may lose a partition and get it back before the task that had it is done: requests
//! are still on the wire, and what waits for NATS is still to be written. The next task makes the
//! consumers anew, so all of that comes to it once more. It leaves it to its elder, whom it can ask
//! without the network; so nothing is in memory twice however often a partition comes and goes, and
//! nothing is sent twice for it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use crate::job::MessageKey;

/// What an elder does with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It has it in hand.
    Held,
    /// It is done with it: its stream no longer has it, or soon will not.
    Done,
    /// It knows nothing of it.
    Free,
}

/// By message: whether it is done.
type Hand = Arc<Mutex<HashMap<MessageKey, bool>>>;

/// When a task last went round its loop.
type Turned = Arc<Mutex<Instant>>;

/// What a task tells those that come after it.
#[derive(Debug)]
pub(crate) struct Ending {
    hand: Hand,
    turned: Turned,
    stage: watch::Sender<bool>,
}

/// What a later task asks.
#[derive(Debug, Clone)]
pub(crate) struct Elder {
    hand: Hand,
    turned: Turned,
    stage: watch::Receiver<bool>,
}

impl Ending {
    /// For a task that begins.
    pub(crate) fn new() -> (Self, Elder) {
        let hand = Hand::default();
        let turned = Arc::new(Mutex::new(Instant::now()));
        let (stage, seen) = watch::channel(false);
        let elder = Elder {
            hand: hand.clone(),
            turned: turned.clone(),
            stage: seen,
        };
        let ending = Self {
            hand,
            turned,
            stage,
        };
        (ending, elder)
    }

    /// Its task is at work.
    pub(crate) fn turned(&self) {
        *lock(&self.turned) = Instant::now();
    }

    /// The partition is no longer ours; these messages are still in hand.
    pub(crate) fn begin(&self, keys: impl IntoIterator<Item = MessageKey>) {
        lock(&self.hand).extend(keys.into_iter().map(|key| (key, false)));
        self.stage.send_replace(true);
    }

    /// Done with one of them: what came of it is durable.
    pub(crate) fn done(&self, key: MessageKey) {
        if let Some(done) = lock(&self.hand).get_mut(&key) {
            *done = true;
        }
    }

    /// One of them goes to whoever has the partition.
    pub(crate) fn let_go(&self, key: MessageKey) {
        lock(&self.hand).remove(&key);
    }
}

impl Drop for Ending {
    /// Whatever a task that ends (or panics) has not done is free.
    fn drop(&mut self) {
        lock(&self.hand).retain(|_, done| *done);
    }
}

impl Elder {
    /// Waits until it knows that the partition is no longer its own.
    pub(crate) async fn told(&mut self) {
        // Closed: it has ended.
        self.stage.wait_for(|ending| *ending).await.ok();
    }

    /// Whether its task has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.stage.has_changed().is_err()
    }

    /// Whether nothing was heard of its task for so long: it has ended, or stands still.
    pub(crate) fn is_silent(&self, patience: Duration) -> bool {
        lock(&self.turned).elapsed() >= patience
    }

    /// What it does with a message.
    pub(crate) fn fate(&self, key: MessageKey) -> Fate {
        match lock(&self.hand).get(&key) {
            Some(false) => Fate::Held,
            Some(true) => Fate::Done,
            None => Fate::Free,
        }
    }

    /// What it has in hand.
    pub(crate) fn held(&self) -> Vec<MessageKey> {
        let hand = lock(&self.hand);
        let held = hand.iter().filter(|(_, done)| !**done);
        held.map(|(key, _)| *key).collect()
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Ending, Fate};
    use crate::job::Lane;

    #[tokio::test(start_paused = true)]
    async fn an_elder_is_silent_only_when_its_task_no_longer_turns() {
        let patience = Duration::from_secs(60);
        let (ending, elder) = Ending::new();
        for _ in 0..10 {
            tokio::time::advance(Duration::from_secs(30)).await;
            assert!(!elder.is_silent(patience), "it is slow, but at work");
            ending.turned();
        }
        tokio::time::advance(patience).await;
        assert!(elder.is_silent(patience));
    }

    #[tokio::test]
    async fn an_elder_tells_of_what_it_has_and_has_done_until_it_ends() {
        let (ending, mut elder) = Ending::new();
        let key = |seq| (Lane::Fresh, seq);
        assert_eq!(elder.fate(key(1)), Fate::Free);
        ending.begin([key(1), key(2), key(3)]);
        elder.told().await;
        ending.done(key(1));
        ending.let_go(key(2));
        ending.done(key(9));
        let fates: Vec<_> = [1, 2, 3, 9].map(|seq| elder.fate(key(seq))).into();
        assert_eq!(fates, [Fate::Done, Fate::Free, Fate::Held, Fate::Free]);
        assert_eq!(elder.held(), [key(3)]);
        assert!(!elder.has_ended());
        drop(ending);
        assert!(elder.has_ended());
        assert_eq!(elder.fate(key(3)), Fate::Free);
        assert_eq!(elder.fate(key(1)), Fate::Done);
        elder.told().await;
    }
}
