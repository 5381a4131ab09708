//! What was pulled waits here until the index surely has every webhook that was created before.
//!
//! A webhook whose creation was answered must catch the event that is published next. So the read
//! model's leader is asked how far it has come *after* an event was pulled, and the event goes on when
//! our view has come as far. One question is under way at a time, beside everything else: it
//! confirms all that had been pulled when it was asked, and what comes meanwhile waits for the next. A
//! lone event waits for one question; under load a question is shared by many.
//!
//! The questions go through the server's one queue of API requests, which others need too. So when
//! there is enough to do anyway, they keep a distance.

use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::Instant;

/// Least time between two questions while there is enough to do: 200 of them cost nats-server some 3 % of
/// a core a second. Nobody waits for it, as what is confirmed would have to wait for its turn.
const APART: Duration = Duration::from_millis(5);

/// Waits for a question each time, in the order of arrival.
pub(crate) struct Confirm<T> {
    ask: Box<dyn Fn() -> BoxFuture<'static, bool> + Send + Sync>,
    limit: usize,
    /// Pulled after the question under way was asked.
    fresh: Vec<T>,
    /// Pulled before it.
    asked: Vec<T>,
    question: Option<BoxFuture<'static, bool>>,
    last: Option<Instant>,
}

impl<T> Confirm<T> {
    /// `ask` gives a question: it ends with `true` when all that was written before it is known, with
    /// `false` when the service stops before. Beyond `limit` there is no room.
    pub(crate) fn new(
        limit: usize,
        ask: impl Fn() -> BoxFuture<'static, bool> + Send + Sync + 'static,
    ) -> Self {
        Self {
            ask: Box::new(ask),
            limit,
            fresh: Vec::new(),
            asked: Vec::new(),
            question: None,
            last: None,
        }
    }

    /// Whether more may be pulled. What was pulled is always taken.
    pub(crate) fn has_room(&self) -> bool {
        self.fresh.len() + self.asked.len() < self.limit
    }

    /// Takes what was pulled before now.
    pub(crate) fn push(&mut self, batch: Vec<T>) {
        self.fresh.extend(batch);
    }

    /// What is confirmed next; waits for ever when nothing is there. `None` = the service stops.
    /// Cancel-safe.
    pub(crate) async fn next(&mut self, busy: bool) -> Option<Vec<T>> {
        loop {
            if let Some(question) = &mut self.question {
                let known = question.await;
                self.question = None;
                return known.then(|| std::mem::take(&mut self.asked));
            }
            if self.fresh.is_empty() {
                std::future::pending::<()>().await;
            }
            if busy && let Some(last) = self.last {
                tokio::time::sleep_until(last + APART).await;
            }
            self.asked.append(&mut self.fresh);
            self.last = Some(Instant::now());
            self.question = Some((self.ask)());
        }
    }

    /// What waits.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &T> {
        self.asked.iter().chain(&self.fresh)
    }

    /// Takes everything that waits.
    pub(crate) fn drain(&mut self) -> Vec<T> {
        self.question = None;
        let mut all = std::mem::take(&mut self.asked);
        all.append(&mut self.fresh);
        all
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use futures::FutureExt as _;
    use tokio::sync::oneshot;

    use super::*;

    /// Questions that wait for an answer.
    type Questions = Arc<Mutex<Vec<oneshot::Sender<bool>>>>;

    /// A place whose questions are answered by hand.
    fn by_hand(limit: usize) -> (Confirm<u32>, Questions) {
        let asked = Questions::default();
        let questions = asked.clone();
        let ask = move || {
            let (answer, answered) = oneshot::channel();
            questions.lock().unwrap().push(answer);
            async move { answered.await.unwrap_or(false) }.boxed()
        };
        (Confirm::new(limit, ask), asked)
    }

    fn answer(questions: &Mutex<Vec<oneshot::Sender<bool>>>, known: bool) {
        let next = questions.lock().unwrap().remove(0);
        next.send(known).unwrap();
    }

    #[tokio::test]
    async fn a_question_confirms_only_what_was_there_when_it_was_asked() {
        let (mut confirm, questions) = by_hand(10);
        confirm.push(vec![1, 2]);
        assert_eq!(confirm.next(false).now_or_never(), None, "not answered yet");
        confirm.push(vec![3]);
        answer(&questions, true);
        assert_eq!(confirm.next(false).await, Some(vec![1, 2]));
        assert_eq!(confirm.next(false).now_or_never(), None);
        assert_eq!(questions.lock().unwrap().len(), 1, "a second question");
        answer(&questions, true);
        assert_eq!(confirm.next(false).await, Some(vec![3]));
        assert_eq!(confirm.next(false).now_or_never(), None);
        assert!(questions.lock().unwrap().is_empty(), "none without need");
    }

    #[tokio::test(start_paused = true)]
    async fn while_there_is_enough_to_do_questions_keep_their_distance() {
        let (mut confirm, questions) = by_hand(10);
        confirm.push(vec![1]);
        assert_eq!(confirm.next(true).now_or_never(), None);
        answer(&questions, true);
        assert_eq!(confirm.next(true).await, Some(vec![1]));
        confirm.push(vec![2]);
        assert_eq!(confirm.next(true).now_or_never(), None);
        assert!(questions.lock().unwrap().is_empty(), "asked too early");
        tokio::time::advance(APART).await;
        assert_eq!(confirm.next(true).now_or_never(), None);
        answer(&questions, true);
        assert_eq!(confirm.next(true).await, Some(vec![2]));
        confirm.push(vec![3]);
        assert_eq!(confirm.next(false).now_or_never(), None);
        assert_eq!(
            questions.lock().unwrap().len(),
            1,
            "at rest it asks at once"
        );
    }

    #[tokio::test]
    async fn nothing_is_forgotten_when_the_service_stops() {
        let (mut confirm, questions) = by_hand(3);
        confirm.push(vec![1]);
        assert_eq!(confirm.next(false).now_or_never(), None);
        confirm.push(vec![2, 3]);
        assert!(!confirm.has_room());
        answer(&questions, false);
        assert_eq!(confirm.next(false).await, None);
        assert_eq!(confirm.waiting().count(), 3);
        assert_eq!(confirm.drain(), vec![1, 2, 3]);
        assert!(confirm.has_room());
    }
}
