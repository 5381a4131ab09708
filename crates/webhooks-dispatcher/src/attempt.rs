//! One attempt: sign, send, decide. The result is data; recording it is the partition's business.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, header::CONTENT_TYPE};
use tokio::time::Instant;
use tracing::Instrument as _;
use uuid::Uuid;
use webhooks_domain::{
    endpoint::FailureClass,
    hop,
    retry::{Next, own_fault_delay, parse_retry_after},
    signing,
};
use webhooks_egress::{AttemptResult, Credentials, Failure, OutboundRequest};
use webhooks_runtime::telemetry::{
    DONE, TRACE_RANDOM_BYTES, current_traceparent, next_traceparent, set_parent,
};

use crate::{
    job::{Bound, Job},
    panics::TRIES,
    registry::Target,
    shared::Shared,
};

/// An attempt that has ended.
#[derive(Debug)]
pub(crate) struct Attempted {
    pub(crate) job: Job,
    pub(crate) execution: Uuid,
    pub(crate) started_micros: i64,
    pub(crate) result: AttemptResult,
    pub(crate) next: Option<Next>,
    /// It panicked: the failure is ours, and this delivery's alone.
    pub(crate) panicked: bool,
}

/// Makes one attempt; a panic in it is a failure of ours. A delivery that panics each time ends.
pub(crate) async fn guarded(shared: Arc<Shared>, job: Job, target: Arc<Target>) -> Attempted {
    let (copy, started_micros) = (job.clone(), shared.clock.now_micros());
    let panics = shared.clone();
    match AssertUnwindSafe(attempt(shared, job, target))
        .catch_unwind()
        .await
    {
        Ok(attempted) => attempted,
        Err(_) => {
            tracing::error!(delivery.id = %copy.delivery, attempt.number = copy.attempt, "attempt.panicked");
            metrics::counter!("webhooks_attempt_panics_total").increment(1);
            let next = if panics.panics.count(copy.delivery) < TRIES {
                only_once(&copy, again_after(&copy))
            } else {
                Next::GiveUp
            };
            let result = AttemptResult::failed(Failure::Internal);
            Attempted {
                job: copy,
                execution: new_execution(),
                started_micros,
                result,
                next: Some(next),
                panicked: true,
            }
        }
    }
}

/// Makes one attempt. Takes at most the attempt timeout.
async fn attempt(shared: Arc<Shared>, job: Job, target: Arc<Target>) -> Attempted {
    let execution = new_execution();
    let started_micros = shared.clock.now_micros();
    let span = tracing::info_span!(
        "POST",
        otel.kind = "client",
        webhook.delivery.id = %job.delivery,
        webhook.attempt = job.attempt,
        http.response.status_code = tracing::field::Empty,
        error.r#type = tracing::field::Empty,
    );
    set_parent(&span, &job.traceparent);
    let began = Instant::now();
    let mut result = send(&shared, &job, &target, started_micros)
        .instrument(span.clone())
        .await;
    // No answer, and we were not there to take it.
    let unanswered = result.class.is_some() && result.status.is_none();
    if unanswered && shared.stalls.stood_still(began, Instant::now()) {
        result.fail_as(Failure::StoodStill);
    }
    if let Some(status) = result.status {
        span.record("http.response.status_code", status);
    }
    if let Some(reason) = result.reason() {
        span.record("error.type", reason);
    }
    let retry_after = match result.status {
        Some(429 | 503) => result.response_headers.get("retry-after"),
        _ => None,
    };
    let retry_after =
        retry_after.and_then(|value| parse_retry_after(value, shared.clock.now_micros()));
    let age = job.age(shared.clock.now_micros());
    let next = result.class.map(|class| {
        let next = target
            .retry
            .next(job.attempt, class, retry_after, age, rand::random());
        match next {
            Next::Again { .. } => again_after(&job),
            next => next,
        }
    });
    let next = at_once(result.failure, next, target.retry.immediate);
    let next = next.map(|next| only_once(&job, next));
    tell(&job, execution, &result, next);
    Attempted {
        job,
        execution,
        started_micros,
        result,
        next,
        panicked: false,
    }
}

/// The same attempt once more, the later the more often it failed through a fault of ours.
fn again_after(job: &Job) -> Next {
    Next::Again {
        delay: own_fault_delay(job.own_faults, rand::random()),
    }
}

/// A token that had been in use and was refused is no reason to wait: the retry gets a new one.
fn at_once(failure: Option<Failure>, next: Option<Next>, immediate: Duration) -> Option<Next> {
    match (failure, next) {
        (Some(Failure::TokenStale), Some(Next::Retry { attempt, delay })) => Some(Next::Retry {
            attempt,
            delay: delay.min(immediate),
        }),
        _ => next,
    }
}

/// A challenge is sent once, however that ends: who asked for it asks again.
fn only_once(job: &Job, next: Next) -> Next {
    if job.endpoint.is_empty() {
        next
    } else {
        Next::GiveUp
    }
}

/// The id of one run of an attempt.
fn new_execution() -> Uuid {
    uuid::Builder::from_random_bytes(rand::random()).into_uuid()
}

async fn send(shared: &Shared, job: &Job, target: &Target, now_micros: i64) -> AttemptResult {
    // Nothing that the customer chose goes with a challenge: whoever repeats what it is sent would
    // answer it. And what is bound to another endpoint was not to come here at all.
    let bound = job.bound(target);
    let url = match bound {
        Bound::Free => &target.url,
        Bound::Here => &target.plain_url,
        Bound::Elsewhere => {
            tracing::error!(delivery.id = %job.delivery, "a challenge came to another endpoint");
            return AttemptResult::failed(Failure::Internal);
        }
    };
    let url = match url {
        Ok(url) => url.clone(),
        Err(refusal) => return AttemptResult::failed(Failure::Refused(*refusal)),
    };
    if target.sealed_shut {
        return AttemptResult::failed(Failure::Internal);
    }
    match headers(job, target, now_micros) {
        Ok(headers) => {
            let request = OutboundRequest {
                url,
                headers,
                body: job.body.clone(),
            };
            let tls = target.tls();
            let credentials = match bound {
                Bound::Free => Credentials {
                    identity: tls.endpoint.as_ref(),
                    token: target.tokens.as_deref(),
                    token_identity: tls.tokens.as_ref(),
                },
                // Trusts the same authorities, and shows no certificate.
                Bound::Here | Bound::Elsewhere => Credentials {
                    identity: tls.tokens.as_ref(),
                    token: None,
                    token_identity: None,
                },
            };
            shared.egress.send_with(request, credentials).await
        }
        Err(error) => {
            tracing::error!(%error, delivery.id = %job.delivery, "a header of ours is not valid");
            AttemptResult::failed(Failure::Internal)
        }
    }
}

/// The headers of an attempt made at `now_micros`: the customer's own first, so that whatever they
/// are called, ours stand. A challenge has none of them.
fn headers(
    job: &Job,
    target: &Target,
    now_micros: i64,
) -> Result<HeaderMap, http::header::InvalidHeaderValue> {
    let seconds = now_micros.div_euclid(1_000_000);
    let signature = signing::sign_with(
        &target.keys_at(now_micros),
        &target.asymmetric_at(now_micros),
        &job.message_id,
        seconds,
        &job.body,
    );
    let traceparent = current_traceparent().unwrap_or_else(|| {
        next_traceparent(
            Some(&job.traceparent),
            rand::random::<[u8; TRACE_RANDOM_BYTES]>(),
        )
    });
    let mut headers = match job.endpoint.is_empty() {
        true => target.headers.clone(),
        false => HeaderMap::new(),
    };
    headers.reserve(8);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let mut put = |name: &'static str, value: HeaderValue| {
        headers.insert(HeaderName::from_static(name), value)
    };
    put("webhook-id", HeaderValue::try_from(&job.message_id)?);
    put("webhook-timestamp", HeaderValue::from(seconds));
    put("webhook-signature", HeaderValue::try_from(signature)?);
    put("webhook-attempt", HeaderValue::from(job.attempt));
    put(
        "webhook-trigger",
        HeaderValue::from_static(job.trigger.header_word()),
    );
    put(
        hop::HEADER,
        HeaderValue::from(u32::from(job.hop.next().get())),
    );
    put("traceparent", HeaderValue::try_from(traceparent)?);
    Ok(headers)
}

/// One wide line for the attempt; one that went well has a target of its own, [`DONE`].
fn tell(job: &Job, execution: Uuid, result: &AttemptResult, next: Option<Next>) {
    let outcome = result.outcome.as_str();
    metrics::counter!("webhooks_attempts_total", "outcome" => outcome).increment(1);
    metrics::histogram!("webhooks_attempt_seconds").record(result.timings.total.as_secs_f64());
    let next_ms = match next {
        Some(Next::Retry { delay, .. } | Next::Again { delay }) => delay,
        _ => Duration::ZERO,
    }
    .as_millis();
    macro_rules! line {
        ($($target:tt)*) => {
            tracing::event!(
                $($target)*
                tracing::Level::INFO,
                delivery.id = %job.delivery,
                webhook.id = %job.webhook,
                workspace.id = %job.workspace,
                event.id = job.reference.event_id,
                attempt.number = job.attempt,
                attempt.execution = %execution,
                outcome,
                class = result.class.map(FailureClass::as_str),
                status = result.status,
                reason = result.reason(),
                duration_ms = u64::try_from(result.timings.total.as_millis()).unwrap_or(u64::MAX),
                next_in_ms = u64::try_from(next_ms).unwrap_or(u64::MAX),
                "delivery.attempted"
            )
        };
    }
    if result.class.is_none() {
        line!(target: DONE,);
    } else {
        line!();
    }
}
