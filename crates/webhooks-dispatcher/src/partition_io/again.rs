//! Deliveries that are looked at once more: their webhook was not known, or they may have been sent
//! before.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::FutureExt as _;
use uuid::Uuid;
use webhooks_domain::{endpoint::FailureClass, retry::Next};
use webhooks_proto::{internal::v1::RecordedDelivery, v1};

use super::{Settled, Settling, aside::cancel, consumers::stream_of, schedule::schedule};
use crate::{
    held::reason,
    job::{Bound, Job},
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
/// as if they were new.
pub(crate) fn recheck(shared: Arc<Shared>, partition: u16, jobs: Vec<Job>) -> Settling {
    async move {
        let ids: Vec<Uuid> = jobs.iter().map(|job| job.delivery).collect();
        let recorded = shared.reporter.recorded(&ids).await;
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
            let job = Job {
                recheck: false,
                ..job
            };
            let mut comes_again = None;
            let over = match recorded.get(job.delivery.as_bytes().as_slice()) {
                None => false,
                Some(found) if is_over(found) => true,
                // A probe that was held again before it was recorded.
                Some(found)
                    if found.state() == v1::DeliveryState::Held
                        && found.attempts >= job.attempt =>
                {
                    true
                }
                Some(found)
                    if found.state() == v1::DeliveryState::Retrying
                        && found.attempts >= job.attempt =>
                {
                    let retry = shared.registry.retry_of(job.webhook);
                    if let Next::Retry { attempt, delay } = retry.next(
                        found.attempts,
                        FailureClass::Temporary,
                        None,
                        job.age(shared.clock.now_micros()),
                        rand::random(),
                    ) {
                        let due = shared.clock.now_micros()
                            + i64::try_from(delay.as_micros()).unwrap_or(0);
                        schedule(&shared, partition, &job, attempt, job.park, due).await;
                        comes_again = Some(due);
                        true
                    } else {
                        false
                    }
                }
                Some(_) => false,
            };
            known.push(Job {
                over,
                comes_again,
                ..job
            });
        }
        Settled::Admit(known)
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
