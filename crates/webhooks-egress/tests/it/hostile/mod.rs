//! Receivers that hang, flood, lie and break off. Each test is named after its row in
//! `docs/hostile-receivers.md`.
//!
//! Deadlines are a second or two here instead of thirty; what must hold is the same: an attempt ends by
//! its deadline and a second, it puts one request on the wire at most, and its socket is closed.

pub(crate) mod authority;
mod bodies;
mod certificates;
mod connections;
mod framing;
mod heads;
pub(crate) mod kit;
mod protocols;
mod statuses;
mod weak;

use std::time::Duration;

use webhooks_domain::endpoint::{FailureClass, Outcome};
use webhooks_egress::{AttemptResult, EgressConfig};

use self::kit::{Hostile, Step, closed_soon};
use crate::{config, egress, post};

/// The deadline of attempts that end at it.
const DEADLINE: Duration = Duration::from_secs(1);

/// The deadline of attempts that have no need of one: on a busy machine a second is soon over.
const FAR: Duration = Duration::from_secs(15);

/// How much later than its deadline an attempt may end here. That it is a second where it counts is
/// shown by five hundred at once (`tests/soak.rs`); these share the machine with everything else.
const GRACE: Duration = Duration::from_secs(4);

fn short() -> EgressConfig {
    EgressConfig {
        attempt_timeout: DEADLINE,
        ..config()
    }
}

fn unhurried() -> EgressConfig {
    EgressConfig {
        attempt_timeout: FAR,
        ..config()
    }
}

/// One attempt at a receiver, by this deadline. Checks what holds for every receiver there is.
async fn attempt_within(receiver: &Hostile, deadline: Duration) -> AttemptResult {
    let config = EgressConfig {
        attempt_timeout: deadline,
        ..config()
    };
    let result = post(&egress(config), &receiver.http_url()).await;
    assert!(
        result.timings.total < deadline + GRACE,
        "{:?}",
        result.timings
    );
    assert!(receiver.requests() <= 1, "{} requests", receiver.requests());
    assert!(receiver.connections() <= 1, "more than one connection");
    assert!(result.response_body.len() <= 16 * 1024);
    let kept = result.response_headers.to_vec();
    let bytes: usize = kept
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    assert!(kept.len() <= 64 && bytes <= 32 * 1024);
    result
}

/// Plays the steps to one attempt that has no need of a deadline.
async fn meet(steps: Vec<Step>) -> (AttemptResult, Hostile) {
    let receiver = Hostile::start(steps).await;
    let result = attempt_within(&receiver, FAR).await;
    assert!(result.timings.total < FAR, "{:?}", result.timings);
    (result, receiver)
}

/// Plays the steps to one attempt that ends at its deadline.
async fn meet_until_the_deadline(steps: Vec<Step>) -> (AttemptResult, Hostile) {
    let receiver = Hostile::start(steps).await;
    let result = attempt_within(&receiver, DEADLINE).await;
    assert!(result.timings.total >= DEADLINE, "{:?}", result.timings);
    (result, receiver)
}

/// An attempt that ends at its deadline without an answer, its socket closed.
async fn times_out(what: &str, steps: Vec<Step>) {
    let (result, receiver) = meet_until_the_deadline(steps).await;
    assert_eq!(result.outcome, Outcome::Timeout, "{what}: {result:?}");
    assert_eq!(result.class, Some(FailureClass::Temporary), "{what}");
    assert_eq!(result.reason(), Some("timeout"), "{what}");
    assert_eq!(result.status, None, "{what}");
    closed_soon(&receiver).await;
}

/// An attempt that meets something that is not HTTP, or too much of it; long before the deadline.
async fn is_invalid(what: &str, reason: &str, steps: Vec<Step>) {
    let (result, receiver) = meet(steps).await;
    assert_eq!(
        result.outcome,
        Outcome::InvalidResponse,
        "{what}: {result:?}"
    );
    assert_eq!(result.class, Some(FailureClass::Temporary), "{what}");
    assert_eq!(result.reason(), Some(reason), "{what}");
    closed_soon(&receiver).await;
}
