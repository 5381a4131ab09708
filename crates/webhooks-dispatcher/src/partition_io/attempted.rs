//! An attempt that has ended is recorded, and what comes next is made durable.

use std::{sync::Arc, time::Duration};

use futures::FutureExt as _;
use webhooks_bus::PublishError;
use webhooks_domain::{endpoint::FailureClass, retry::Next};
use webhooks_proto::v1;

use super::{
    Settled, Settling,
    aside::{HOLD_AGAIN_AFTER, bury_stored, write_held},
    schedule::{PUBLISH_PAUSE, now_in, park_until, schedule},
};
use crate::{
    attempt::Attempted,
    finished::ENDED,
    job::Job,
    report::{self, Execution},
    reporter::Haste,
    shared::Shared,
    tenure::Tenure,
};

/// Records an ended attempt; then the delivery is over, waits in memory, or waits on RETRIES. Whose
/// partition it no longer is leaves what follows to the next owner.
pub(crate) fn record(
    shared: Arc<Shared>,
    partition: u16,
    tenure: Arc<Tenure>,
    attempted: Attempted,
    in_memory: bool,
    haste: Haste,
) -> Settling {
    async move {
        let Attempted {
            job,
            execution,
            started_micros,
            result,
            next,
            panicked,
        } = attempted;
        // The report of an attempt takes away that it was blocked.
        let job = Job {
            waits_for: None,
            ..job
        };
        // First, so that what is recorded as held is there: whoever takes over believes the record.
        let held_again = match next {
            Some(Next::Retry { attempt, .. }) if job.probe => {
                let next = Job {
                    attempt,
                    own_faults: 0,
                    ..job.clone()
                };
                let held = hold_again(&shared, partition, &next);
                tenure.hold(held).await.is_some()
            }
            _ => false,
        };
        let now = shared.clock.now_micros();
        let due = |delay: Duration| now + i64::try_from(delay.as_micros()).unwrap_or(i64::MAX / 2);
        let (state, next_at) = match next {
            None => (v1::DeliveryState::Delivered, 0),
            Some(Next::GiveUp) => (v1::DeliveryState::Failed, 0),
            Some(Next::Retry { .. }) if held_again => (v1::DeliveryState::Held, 0),
            Some(Next::Retry { delay, .. } | Next::Again { delay }) => {
                (v1::DeliveryState::Retrying, due(delay))
            }
        };
        let execution = Execution {
            id: execution,
            started_micros,
            dispatcher: &shared.name,
        };
        let report = report::of_attempt(&job, &execution, &result, state, next_at, now);
        let recorded = shared.reporter.record_in(haste, report);
        match next {
            Some(Next::GiveUp) if panicked => {
                bury_stored(&shared, partition, job.key).await;
                recorded.await;
                shared.panics.forget(job.delivery);
                Settled::Done {
                    key: job.key,
                    // Whoever sends the letter on its way again means it.
                    finished: None,
                }
            }
            None | Some(Next::GiveUp) => {
                recorded.await;
                Settled::Done {
                    key: job.key,
                    finished: Some((job.delivery, ENDED)),
                }
            }
            Some(Next::Retry { .. }) if held_again => {
                recorded.await;
                Settled::Done {
                    key: job.key,
                    finished: Some((job.delivery, job.attempt)),
                }
            }
            Some(Next::Retry { attempt, delay }) if in_memory => {
                recorded.await;
                let gone = shared.clock.now_micros() - now;
                let left =
                    delay.saturating_sub(Duration::from_micros(u64::try_from(gone).unwrap_or(0)));
                Settled::Again {
                    job: Box::new(Job {
                        attempt,
                        own_faults: 0,
                        ..job
                    }),
                    delay: left,
                }
            }
            Some(Next::Retry { attempt, delay }) => {
                // The next owner would schedule it under the same message id: it exists once.
                let scheduled = schedule(&shared, partition, &job, attempt, job.park, due(delay));
                match tokio::join!(recorded, tenure.hold(scheduled)).1 {
                    Some(()) => Settled::Done {
                        key: job.key,
                        finished: Some((job.delivery, job.attempt)),
                    },
                    None => Settled::let_go(job.key),
                }
            }
            Some(Next::Again { delay }) => {
                debug_assert_eq!(result.class, Some(FailureClass::Ours));
                let again = Job {
                    own_faults: job.own_faults.saturating_add(1),
                    ..job
                };
                // As one that is parked: when our fault is over, it need not wait for its time.
                let due = due(delay);
                let scheduled = park_until(&shared, partition, &again, due);
                match tokio::join!(recorded, tenure.hold(scheduled)).1 {
                    Some(stored) => Settled::Repeats {
                        key: again.key,
                        webhook: again.webhook,
                        rank: again.rank(),
                        schedule: stored.seq,
                        due,
                    },
                    None => Settled::let_go(again.key),
                }
            }
        }
    }
    .boxed()
}

/// Holds a probe that has failed, or has it come again where HELD is full.
async fn hold_again(shared: &Shared, partition: u16, next: &Job) {
    while let Err(error) = write_held(shared, partition, next).await {
        tracing::warn!(%error, delivery.id = %next.delivery, "delivery not held yet");
        if let PublishError::Full(_) = error {
            let due = now_in(shared, HOLD_AGAIN_AFTER);
            return schedule(shared, partition, next, next.attempt, next.park + 1, due).await;
        }
        tokio::time::sleep(PUBLISH_PAUSE).await;
    }
}
