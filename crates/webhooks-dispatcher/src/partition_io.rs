//! What a partition does to the outside: each function makes something durable and says what is to
//! follow. They run beside the partition's task, which holds the state.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};
use uuid::Uuid;
use webhooks_bus::{
    Bus, BusError, Outgoing, PublishError, Pull, PullSettings, Pulled, Stored, headers, names,
    subjects, topology,
};
use webhooks_domain::{endpoint::FailureClass, event::format_micros, retry::Next};
use webhooks_proto::{internal::v1::RecordedDelivery, v1};

use crate::{
    attempt::Attempted,
    endpoint::Woken,
    health::HealthSettled,
    held::{HeldSettled, reason},
    job::{Job, Lane, MessageKey},
    line::{Found, Rank, Release},
    report::{self, Execution},
    shared::Shared,
};

/// How long one try at a durable publish may take; it is repeated for ever.
const PUBLISH_WITHIN: Duration = Duration::from_secs(10);

/// Pause between such tries.
const PUBLISH_PAUSE: Duration = Duration::from_millis(500);

/// When a delivery is tried again to be held that found HELD full.
const HOLD_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// How long the read model may take to show a webhook that fan-out has seen.
const LOOK_AGAIN_LIMIT: Duration = Duration::from_secs(5);

/// What is to follow.
pub(crate) enum Settled {
    /// The message is done with: acknowledge it.
    Done {
        key: MessageKey,
        /// The delivery and attempt that are over, if they are.
        finished: Option<(Uuid, u32)>,
    },
    /// Make the job's attempt after `delay`.
    Again { job: Box<Job>, delay: Duration },
    /// An attempt is recorded: what `then` says, and this has become of the delivery.
    Recorded {
        webhook: Uuid,
        rank: Rank,
        release: Release,
        then: Box<Settled>,
    },
    /// The delivery is parked as message `schedule` of RETRIES.
    Parked {
        key: MessageKey,
        webhook: Uuid,
        rank: Rank,
        schedule: u64,
    },
    /// It is no longer ours to send: what `then` says.
    Left {
        webhook: Uuid,
        rank: Rank,
        then: Box<Settled>,
    },
    /// Parked deliveries were let go.
    Woken { webhook: Uuid, woken: Woken },
    /// What is unfinished of an ordered webhook; `None` = it could not be read.
    Learned {
        webhook: Uuid,
        found: Option<(Vec<Found>, bool)>,
    },
    /// These messages are no more; `last` = all were looked for after their holder had ended.
    Gone { keys: Vec<MessageKey>, last: bool },
    /// Something about an endpoint's health is durable, or is not.
    Health(HealthSettled),
    /// Something was done with what is held.
    Held(HeldSettled),
    /// These may go on.
    Admit(Vec<Job>),
    /// Nothing.
    Nothing,
}

type Settling = BoxFuture<'static, Settled>;

/// Records an ended attempt; then the delivery is over, waits in memory, or waits on RETRIES.
pub(crate) fn record(
    shared: Arc<Shared>,
    partition: u16,
    attempted: Attempted,
    in_memory: bool,
) -> Settling {
    async move {
        let Attempted {
            job,
            execution,
            started_micros,
            result,
            next,
        } = attempted;
        let now = shared.clock.now_micros();
        let due = |delay: Duration| now + i64::try_from(delay.as_micros()).unwrap_or(i64::MAX / 2);
        let (state, next_at) = match next {
            None => (v1::DeliveryState::Delivered, 0),
            Some(Next::GiveUp) => (v1::DeliveryState::Failed, 0),
            Some(Next::Retry { .. }) if job.probe => (v1::DeliveryState::Held, 0),
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
        let recorded = shared.reporter.record(report);
        match next {
            None | Some(Next::GiveUp) => {
                recorded.await;
                Settled::Done {
                    key: job.key,
                    finished: Some((job.delivery, job.attempt)),
                }
            }
            Some(Next::Retry { attempt, .. }) if job.probe => {
                let (key, made) = (job.key, (job.delivery, job.attempt));
                let next = Job { attempt, ..job };
                // First, so that what is recorded as held is there.
                while let Err(error) = write_held(&shared, partition, &next).await {
                    tracing::warn!(%error, delivery.id = %next.delivery, "delivery not held yet");
                    if let PublishError::Full(_) = error {
                        let due = now_in(&shared, HOLD_AGAIN_AFTER);
                        schedule(&shared, partition, &next, attempt, next.park + 1, due).await;
                        break;
                    }
                    tokio::time::sleep(PUBLISH_PAUSE).await;
                }
                recorded.await;
                Settled::Done {
                    key,
                    finished: Some(made),
                }
            }
            Some(Next::Retry { attempt, delay }) if in_memory => {
                recorded.await;
                let gone = shared.clock.now_micros() - now;
                let left =
                    delay.saturating_sub(Duration::from_micros(u64::try_from(gone).unwrap_or(0)));
                Settled::Again {
                    job: Box::new(Job { attempt, ..job }),
                    delay: left,
                }
            }
            Some(Next::Retry { attempt, delay }) => {
                let scheduled = schedule(&shared, partition, &job, attempt, job.park, due(delay));
                tokio::join!(recorded, scheduled);
                Settled::Done {
                    key: job.key,
                    finished: Some((job.delivery, job.attempt)),
                }
            }
            Some(Next::Again { delay }) => {
                debug_assert_eq!(result.class, Some(FailureClass::Ours));
                let scheduled = schedule(
                    &shared,
                    partition,
                    &job,
                    job.attempt,
                    job.park + 1,
                    due(delay),
                );
                tokio::join!(recorded, scheduled);
                Settled::Done {
                    key: job.key,
                    finished: None,
                }
            }
        }
    }
    .boxed()
}

/// Puts a delivery aside for `wait`, or until there is room before that, without consuming its
/// attempt.
pub(crate) fn park(shared: Arc<Shared>, partition: u16, job: Job, wait: Duration) -> Settling {
    async move {
        let due = now_in(&shared, wait);
        let park = job.park + 1;
        let subject = subjects::parked(partition, job.webhook, job.delivery, job.attempt, park);
        let stored = publish_at(&shared, partition, &job, subject, job.attempt, park, due).await;
        Settled::Parked {
            key: job.key,
            webhook: job.webhook,
            rank: job.rank(),
            schedule: stored.seq,
        }
    }
    .boxed()
}

fn now_in(shared: &Shared, wait: Duration) -> i64 {
    shared.clock.now_micros() + i64::try_from(wait.as_micros()).unwrap_or(i64::MAX / 2)
}

/// Publishes a schedule, for as long as it takes. Its subject is never used twice.
async fn schedule(
    shared: &Shared,
    partition: u16,
    job: &Job,
    attempt: u32,
    park: u32,
    due_micros: i64,
) {
    let subject = subjects::schedule(partition, job.webhook, job.delivery, attempt, park);
    publish_at(shared, partition, job, subject, attempt, park, due_micros).await;
}

async fn publish_at(
    shared: &Shared,
    partition: u16,
    job: &Job,
    subject: String,
    attempt: u32,
    park: u32,
    due_micros: i64,
) -> Stored {
    let id = format!("{}:{attempt}:{park}", job.delivery.simple());
    let message = Outgoing::new(subject, &id, job.encode(attempt, park, due_micros))
        .header(
            headers::SCHEDULE,
            &format!("@at {}", format_micros(due_micros)),
        )
        .header(
            headers::SCHEDULE_TARGET,
            &subjects::due(partition, job.webhook),
        )
        .header(headers::TRACEPARENT, &job.traceparent);
    publish_for_ever(&shared.bus, message).await
}

/// Writes a delivery to HELD.
async fn write_held(shared: &Shared, partition: u16, job: &Job) -> Result<Stored, PublishError> {
    let id = format!("{}:{}:{}", job.delivery.simple(), job.attempt, job.park);
    let bytes = job.encode(job.attempt, job.park + 1, 0);
    let message = Outgoing::new(subjects::held(partition, job.webhook), &id, bytes);
    shared.bus.publish(message, PUBLISH_WITHIN).await
}

/// Whether it is the webhook's own place that is full, and not the stream.
fn is_of_webhook(detail: &str) -> bool {
    detail.contains("per subject")
}

/// Moves a delivery to HELD. Where a webhook holds as many as it may, the delivery ends, which is
/// recorded; where the stream is full, it is parked and tried again.
pub(crate) fn hold(shared: Arc<Shared>, partition: u16, job: Job) -> Settling {
    async move {
        match write_held(&shared, partition, &job).await {
            Ok(_) => {
                let now = shared.clock.now_micros();
                shared
                    .reporter
                    .record(report::without_attempt(&job, v1::DeliveryState::Held, now))
                    .await;
                Settled::Done {
                    key: job.key,
                    finished: None,
                }
            }
            Err(PublishError::Full(detail)) if is_of_webhook(&detail) => {
                metrics::counter!("webhooks_held_ended_total", "reason" => reason::OVERFLOW)
                    .increment(1);
                cancel(shared, job, reason::OVERFLOW).await
            }
            Err(error @ PublishError::Full(_)) => {
                tracing::warn!(%error, delivery.id = %job.delivery, "delivery not held yet");
                let due = now_in(&shared, HOLD_AGAIN_AFTER);
                schedule(&shared, partition, &job, job.attempt, job.park + 1, due).await;
                Settled::Done {
                    key: job.key,
                    finished: None,
                }
            }
            // Perhaps it is held already: a repeat has the same id.
            Err(error) => {
                tracing::warn!(%error, delivery.id = %job.delivery, "delivery not held yet");
                Settled::Again {
                    job: Box::new(job),
                    delay: PUBLISH_PAUSE,
                }
            }
        }
    }
    .boxed()
}

/// Ends a delivery whose webhook is off or gone.
pub(crate) fn cancel(shared: Arc<Shared>, job: Job, reason: &'static str) -> Settling {
    async move {
        let now = shared.clock.now_micros();
        let mut report = report::without_attempt(&job, v1::DeliveryState::Cancelled, now);
        report.reason = reason.to_owned();
        shared.reporter.record(report).await;
        Settled::Done {
            key: job.key,
            finished: Some((job.delivery, job.attempt)),
        }
    }
    .boxed()
}

/// Looks at the newest configuration for a delivery whose webhook is unknown or has changed.
pub(crate) fn look_again(shared: Arc<Shared>, job: Job) -> Settling {
    async move {
        match tokio::time::timeout(LOOK_AGAIN_LIMIT, shared.mirror.catch_up()).await {
            Ok(Ok(())) if shared.registry.get(job.webhook).is_none() => {
                cancel(shared, job, reason::DELETED).await
            }
            Ok(Ok(())) => Settled::Admit(vec![job]),
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

/// Keeps a message that cannot be decoded.
pub(crate) fn bury(
    shared: Arc<Shared>,
    stream: String,
    key: MessageKey,
    pulled: Pulled,
    reason: String,
) -> Settling {
    async move {
        let now = shared.clock.now_micros();
        while let Err(error) = shared
            .bus
            .bury_pulled("dispatcher", &stream, &pulled, "undecodable", &reason, now)
            .await
        {
            tracing::warn!(%error, "dead letter not kept yet");
            tokio::time::sleep(PUBLISH_PAUSE).await;
        }
        Settled::Done {
            key,
            finished: None,
        }
    }
    .boxed()
}

/// Publishes until the stream has it. The message that owes the work stays unacknowledged
/// meanwhile, so a crash loses nothing.
pub(crate) async fn publish_for_ever(bus: &Bus, message: Outgoing) -> Stored {
    loop {
        match bus.publish(message.clone(), PUBLISH_WITHIN).await {
            Ok(stored) => return stored,
            Err(error) => {
                tracing::warn!(%error, subject = message.subject, "publish not durable yet");
                tokio::time::sleep(PUBLISH_PAUSE).await;
            }
        }
    }
}

/// A partition's two pulls, and up to where messages may have been sent before.
pub(crate) struct Opened {
    pub(crate) fresh: Pull,
    pub(crate) due: Pull,
    pub(crate) recheck_fresh: u64,
    pub(crate) recheck_due: u64,
}

/// Opens a partition: what the owner before wrote of its endpoints' health is known, its consumers
/// are ready.
pub(crate) async fn open(shared: &Shared, partition: u16) -> Result<Opened, BusError> {
    shared.health.catch_up().await?;
    open_consumers(&shared.bus, partition).await
}

/// Makes a partition's consumers anew: whatever an owner before had pulled (also what was still on
/// its way to it) comes again at once and not after `ack_wait`. What an owner that left is still
/// finishing is told apart by the sequences it has named.
async fn open_consumers(bus: &Bus, partition: u16) -> Result<Opened, BusError> {
    let fresh = anew(
        bus,
        &names::deliveries(partition),
        partition,
        subjects::deliveries_of(partition),
    )
    .await?;
    let due = anew(
        bus,
        &names::retries(partition),
        partition,
        subjects::due_of(partition),
    )
    .await?;
    let pull = |stream: String, filter: String| {
        let config = topology::partition_consumer(partition, filter);
        bus.pull_making(&stream, config, PullSettings::default())
    };
    Ok(Opened {
        recheck_fresh: fresh,
        recheck_due: due,
        fresh: pull(
            names::deliveries(partition),
            subjects::deliveries_of(partition),
        ),
        due: pull(names::retries(partition), subjects::due_of(partition)),
    })
}

/// Returns the stream's last sequence.
async fn anew(bus: &Bus, stream: &str, partition: u16, filter: String) -> Result<u64, BusError> {
    let last = bus.last_seq(stream).await?;
    let name = names::partition_consumer(partition);
    if let Err(error) = bus
        .jetstream()
        .delete_consumer_from_stream(&name, stream)
        .await
    {
        // Not there is as good; a server that is away shows in the next call.
        tracing::trace!(%error, stream, partition, "consumer not deleted");
    }
    bus.jetstream()
        .create_consumer_on_stream(topology::partition_consumer(partition, filter), stream)
        .await
        .map_err(|error| BusError::Unavailable(error.to_string()))?;
    Ok(last)
}

/// Which of these messages are no longer in their stream: their holder has finished them.
pub(crate) fn look_for(
    shared: Arc<Shared>,
    partition: u16,
    keys: Vec<MessageKey>,
    ended: bool,
) -> Settling {
    async move {
        let (mut gone, mut last) = (Vec::new(), ended);
        for key in keys {
            match shared.bus.get(&stream_of(partition, key.0), key.1).await {
                Ok(None) => gone.push(key),
                Ok(Some(_)) => {}
                Err(error) => {
                    tracing::debug!(%error, partition, "messages not looked for");
                    last = false;
                    break;
                }
            }
        }
        Settled::Gone { keys: gone, last }
    }
    .boxed()
}

/// The stream of a lane.
pub(crate) fn stream_of(partition: u16, lane: Lane) -> String {
    match lane {
        Lane::Fresh => names::deliveries(partition),
        Lane::Due => names::retries(partition),
    }
}

/// Removes a message by its sequence, whoever's consumer it belongs to.
pub(crate) async fn remove(bus: &Bus, partition: u16, (lane, seq): MessageKey) {
    let stream = stream_of(partition, lane);
    if let Err(error) = bus.remove(&stream, seq).await {
        tracing::debug!(%error, stream, seq, "message not removed; its next owner meets it again");
    }
}
