//! Deliveries that are looked at once more: their webhook was not known, or they may have been sent
//! before.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::FutureExt as _;
use uuid::Uuid;
use webhooks_domain::{
    endpoint::FailureClass,
    retry::{Next, RetryPolicy},
};
use webhooks_proto::{internal::v1::RecordedDelivery, v1};

use super::{
    Settled, Settling,
    aside::cancel,
    consumers::stream_of,
    schedule::{PUBLISH_PAUSE, schedule},
};
use crate::{
    held::reason,
    job::{Bound, Job, MessageKey, Over},
    report,
    shared::Shared,
};

/// How long the read model may take to show a webhook that fan-out has seen.
const LOOK_AGAIN_LIMIT: Duration = Duration::from_secs(5);

/// Looks at the newest configuration for a delivery whose webhook is unknown or has changed. A
/// challenge to an endpoint that its webhook no longer points to ends.
pub(crate) fn look_again(shared: Arc<Shared>, job: Job) -> Settling {
    async move {
        match tokio::time::timeout(LOOK_AGAIN_LIMIT, shared.mirror.catch_up()).await {
            Ok(Ok(())) => match shared.registry.get(job.webhook) {
                None => cancel(shared, job, reason::DELETED).await,
                Some(target) if job.bound(&target) == Bound::Elsewhere => {
                    cancel(shared, job, reason::ENDPOINT_CHANGED).await
                }
                Some(_) => Settled::Admit(vec![job]),
            },
            _ => Settled::Again {
                job: Box::new(job),
                delay: Duration::from_millis(500),
            },
        }
    }
    .boxed()
}

/// Asks what is recorded of deliveries that may have been sent before. Those that are over are done
/// with. One whose attempt is recorded goes on with the next, through RETRIES: the schedule's
/// message id is the same that the owner before would have used, so it exists once. The others go on
/// as if they were new. What this process has finished itself it does not ask about.
pub(crate) fn recheck(shared: Arc<Shared>, partition: u16, jobs: Vec<Job>) -> Settling {
    async move {
        let is_known =
            |job: &Job| job.ended.is_none() && shared.finished.contains(job.delivery, job.attempt);
        let asked = jobs.iter().filter(|job| !is_known(job));
        let ids: Vec<Uuid> = asked.map(|job| job.delivery).collect();
        let recorded = match ids.is_empty() {
            true => Vec::new(),
            false => shared.reporter.recorded(&ids).await,
        };
        let recorded: HashMap<&[u8], &RecordedDelivery> = recorded
            .iter()
            .map(|found| (found.delivery_id.as_ref(), found))
            .collect();
        let mut known = Vec::with_capacity(jobs.len());
        for job in jobs {
            if job.ended.is_some() {
                // It owes nothing, so nothing of it can be recorded.
                known.push(job);
                continue;
            }
            let over = if is_known(&job) {
                Some(Over::Known)
            } else {
                match recorded.get(job.delivery.as_bytes().as_slice()) {
                    Some(found) => follow(&shared, partition, &job, found).await,
                    None => None,
                }
            };
            known.push(Job {
                over,
                recheck: false,
                ..job
            });
        }
        Settled::Admit(known)
    }
    .boxed()
}

/// Does what follows from what is recorded of a delivery.
async fn follow(
    shared: &Shared,
    partition: u16,
    job: &Job,
    found: &RecordedDelivery,
) -> Option<Over> {
    if is_over(found) {
        return Some(Over::Ended);
    }
    let made = found.attempts >= job.attempt;
    match found.state() {
        // A probe that was held again before it was recorded.
        v1::DeliveryState::Held if made => Some(Over::Ended),
        v1::DeliveryState::Retrying if made => {
            let now = shared.clock.now_micros();
            let retry = shared.registry.retry_of(job.webhook);
            let accepted = job.reference.created_at;
            match after(found, &retry, accepted, now, rand::random()) {
                Some((attempt, due)) => {
                    schedule(shared, partition, job, attempt, job.park, due).await;
                    Some(Over::ComesAgain(due))
                }
                None => {
                    // The policy has become another one since: there is no further attempt.
                    let mut report = report::without_attempt(job, v1::DeliveryState::Failed, now);
                    report.reason = reason::NO_ATTEMPT_LEFT.to_owned();
                    shared.reporter.record(report).await;
                    Some(Over::Ended)
                }
            }
        }
        _ => None,
    }
}

/// The next attempt of a delivery that is recorded as being retried, and when it is due: as it was
/// recorded (a `Retry-After` is in that), or by the policy where that is not known. `None` = the policy
/// as it is now gives up.
fn after(
    found: &RecordedDelivery,
    retry: &RetryPolicy,
    accepted_micros: i64,
    now_micros: i64,
    draw: f64,
) -> Option<(u32, i64)> {
    let span = |from: i64, to: i64| {
        Duration::from_micros(u64::try_from(to.saturating_sub(from)).unwrap_or(0))
    };
    let age = span(accepted_micros, now_micros);
    let temporary = FailureClass::Temporary;
    if found.next_attempt_at == 0 {
        return match retry.next(found.attempts, temporary, None, age, draw) {
            Next::Retry { attempt, delay } => {
                let delay = i64::try_from(delay.as_micros()).unwrap_or(i64::MAX / 2);
                Some((attempt, now_micros.saturating_add(delay)))
            }
            Next::Again { .. } | Next::GiveUp => None,
        };
    }
    let due = found.next_attempt_at;
    let too_late = |limit| span(accepted_micros, due) > limit;
    let gives_up = found.attempts >= retry.max_attempts || retry.max_age.is_some_and(too_late);
    (!gives_up).then_some((found.attempts + 1, due))
}

/// Reads messages that another had in hand, which has let them go.
pub(crate) fn take_up(shared: Arc<Shared>, partition: u16, keys: Vec<MessageKey>) -> Settling {
    async move {
        let (mut found, mut gone) = (Vec::new(), Vec::new());
        for key in keys {
            let stream = stream_of(partition, key.0);
            let stored = loop {
                match shared.bus.get(&stream, key.1).await {
                    Ok(stored) => break stored,
                    Err(error) => {
                        tracing::debug!(%error, partition, "message not taken up yet");
                        tokio::time::sleep(PUBLISH_PAUSE).await;
                    }
                }
            };
            match stored.map(|stored| Job::decode_stored(key.0, &stored)) {
                Some(Ok(job)) => found.push(job),
                // It was read once, so it can be read.
                Some(Err(reason)) => tracing::error!(reason, partition, "a message has changed"),
                None => gone.push(key),
            }
        }
        Settled::TakenUp { found, gone }
    }
    .boxed()
}

/// Goes on with a delivery that this process had on the wire, unless it is finished by now.
pub(crate) fn still_owed(shared: Arc<Shared>, partition: u16, job: Job) -> Settling {
    async move {
        match shared
            .bus
            .get(&stream_of(partition, job.key.0), job.key.1)
            .await
        {
            Ok(None) => Settled::Done {
                key: job.key,
                finished: None,
            },
            Ok(Some(_)) => recheck(shared, partition, vec![job]).await,
            Err(_) => Settled::Again {
                job: Box::new(job),
                delay: Duration::from_secs(1),
            },
        }
    }
    .boxed()
}

fn is_over(found: &RecordedDelivery) -> bool {
    matches!(
        found.state(),
        v1::DeliveryState::Delivered | v1::DeliveryState::Failed | v1::DeliveryState::Cancelled
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn recorded(attempts: u32, next_attempt_at: i64) -> RecordedDelivery {
        RecordedDelivery {
            attempts,
            next_attempt_at,
            ..RecordedDelivery::default()
        }
    }

    #[test]
    fn a_recorded_retry_comes_when_it_was_recorded_to_whatever_the_policy_would_draw() {
        let standard = RetryPolicy::STANDARD;
        let (accepted, now) = (0, 5 * SECOND);
        // Its endpoint had asked for ten minutes.
        let due = 600 * SECOND;
        let after = |found, retry: &RetryPolicy| after(&found, retry, accepted, now, 0.5);
        assert_eq!(after(recorded(1, due), &standard), Some((2, due)));
        // Overdue is overdue.
        assert_eq!(after(recorded(2, SECOND), &standard), Some((3, SECOND)));
        // Not known: as the policy says.
        let unknown = after(recorded(2, 0), &standard);
        assert_eq!(unknown, Some((3, now + 30 * SECOND)));
    }

    #[test]
    fn a_recorded_retry_that_the_policy_no_longer_makes_ends_the_delivery() {
        let one = RetryPolicy {
            max_attempts: 1,
            ..RetryPolicy::STANDARD
        };
        let young = RetryPolicy {
            max_age: Some(Duration::from_secs(60)),
            ..RetryPolicy::STANDARD
        };
        for next in [0, 61 * SECOND] {
            assert_eq!(after(&recorded(1, next), &one, 0, SECOND, 0.5), None);
            let late = after(&recorded(2, next), &young, 0, 59 * SECOND, 0.5);
            assert_eq!(late, None, "{next}");
        }
        let in_time = after(&recorded(2, 60 * SECOND), &young, 0, 59 * SECOND, 0.5);
        assert_eq!(in_time, Some((3, 60 * SECOND)));
    }
}
