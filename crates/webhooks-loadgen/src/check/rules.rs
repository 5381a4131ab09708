//! One function for each invariant.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;
use webhooks_domain::{delivery::DeliveryState, ids::message_id};

use super::{
    AttemptRow, CUT_OFF_MICROS, DeliveryRow, Evidence, Finding, HALT_GRACE_MICROS, HELD_CAPS, Halt,
    HaltKind, Hook, Report, TRAVEL_MICROS, Waits,
};
use crate::ledger::{Outcome, Published, Received};

/// The failure in a row at which a webhook is disabled: the default of `WEBHOOKS_AUTO_DISABLE_FAILURES`.
const DISABLED_AT: u32 = 10;

/// The evidence with its indexes.
struct World<'a> {
    evidence: &'a Evidence,
    published: HashMap<Uuid, &'a Published>,
    hooks: HashMap<Uuid, &'a Hook>,
    paths: HashMap<&'a str, &'a Hook>,
    /// By event and webhook; more than one is a violation of its own.
    deliveries: HashMap<(Uuid, Uuid), Vec<&'a DeliveryRow>>,
    attempts: HashMap<Uuid, Vec<&'a AttemptRow>>,
    /// By event and webhook (told by the path).
    requests: HashMap<(Uuid, Uuid), Vec<&'a Received>>,
}

impl<'a> World<'a> {
    fn new(evidence: &'a Evidence) -> Self {
        let mut world = Self {
            evidence,
            published: evidence
                .published
                .iter()
                .map(|event| (event.event, event))
                .collect(),
            hooks: evidence.hooks.iter().map(|hook| (hook.id, hook)).collect(),
            paths: evidence
                .hooks
                .iter()
                .map(|hook| (hook.path.as_str(), hook))
                .collect(),
            deliveries: HashMap::new(),
            attempts: HashMap::new(),
            requests: HashMap::new(),
        };
        for delivery in &evidence.deliveries {
            world
                .deliveries
                .entry((delivery.event, delivery.webhook))
                .or_default()
                .push(delivery);
        }
        for attempt in &evidence.attempts {
            world
                .attempts
                .entry(attempt.delivery)
                .or_default()
                .push(attempt);
        }
        for request in &evidence.received {
            if let (Some(event), Some(hook)) =
                (request.event, world.paths.get(request.path.as_str()))
            {
                world
                    .requests
                    .entry((event, hook.id))
                    .or_default()
                    .push(request);
            }
        }
        world
    }

    fn attempts_of(&self, delivery: &DeliveryRow) -> &[&'a AttemptRow] {
        self.attempts.get(&delivery.id).map_or(&[], Vec::as_slice)
    }

    fn halts_of(&self, hook: &Hook) -> impl Iterator<Item = &'a Halt> {
        let (halts, webhook) = (&self.evidence.halts, hook.id);
        halts.iter().filter(move |halt| halt.webhook == webhook)
    }

    fn requests_of(&self, delivery: &DeliveryRow) -> &[&'a Received] {
        self.requests
            .get(&(delivery.event, delivery.webhook))
            .map_or(&[], Vec::as_slice)
    }
}

pub(super) fn judge(evidence: &Evidence) -> Report {
    let world = World::new(evidence);
    let (attempts, cut_off) = bounded_attempts(&world);
    let findings = vec![
        no_loss(&world),
        nothing_unexpected(&world),
        termination(&world),
        attempts,
        stop_means_stop(&world),
        counters(&world),
        honest_success(&world),
        honest_failure(&world),
        same_bytes(&world),
        disabled_once(&world),
        isolated(&world),
        bounded(&world),
    ];
    Report {
        findings,
        cut_off,
        waits: waits(&world),
        vitals: evidence.vitals.clone(),
    }
}

fn no_loss(world: &World<'_>) -> Finding {
    let mut finding = Finding::new("I1", "no acknowledged event lost");
    for event in world
        .evidence
        .published
        .iter()
        .filter(|event| event.outcome == Outcome::Ok)
    {
        for hook in world
            .evidence
            .hooks
            .iter()
            .filter(|hook| hook.created < event.started && hook.wants(event))
        {
            let delivery = world
                .deliveries
                .get(&(event.event, hook.id))
                .and_then(|rows| rows.first());
            let holds = match delivery.map(|row| row.state) {
                Some(DeliveryState::Delivered) => true,
                Some(DeliveryState::Failed) => !hook.healthy,
                Some(DeliveryState::Cancelled) | None => may_be_cancelled(world, event, hook),
                Some(_) => false,
            };
            finding.look(holds, || {
                let state = delivery.map_or("no delivery", |row| row.state.as_str());
                format!(
                    "event {} ({}, published at {}) for {}: {state}",
                    event.event, event.door, event.started, hook.path
                )
            });
        }
    }
    finding
}

/// Whether the webhook was disabled or deleted at the event's time or later: what it is owed then
/// is cancelled, or never made.
fn may_be_cancelled(world: &World<'_>, event: &Published, hook: &Hook) -> bool {
    world.halts_of(hook).any(|halt| {
        halt.kind != HaltKind::Paused && halt.over.is_none_or(|over| over >= event.started)
    })
}

fn nothing_unexpected(world: &World<'_>) -> Finding {
    let mut finding = Finding::new("I2", "nothing unexpected");
    for request in &world.evidence.received {
        let problem = unexpected_request(world, request);
        finding.look(problem.is_none(), || {
            format!(
                "a request to {} at {}: {}",
                request.path,
                request.at,
                problem.unwrap_or("")
            )
        });
    }
    for rows in world.deliveries.values() {
        let row = rows[0];
        let problem = match (
            world.published.get(&row.event),
            world.hooks.get(&row.webhook),
        ) {
            (None, _) => Some("of an event that nobody published"),
            (_, None) => Some("of a webhook that nobody made"),
            (Some(event), Some(hook)) if !hook.wants(event) => {
                Some("of an event that its webhook does not take")
            }
            _ if rows.len() > 1 => Some("that there is more than once"),
            _ => None,
        };
        finding.look(problem.is_none(), || {
            format!("delivery {} {}", row.id, problem.unwrap_or(""))
        });
    }
    finding
}

fn unexpected_request(world: &World<'_>, request: &Received) -> Option<&'static str> {
    let Some(hook) = world.paths.get(request.path.as_str()) else {
        return Some("no webhook has this path");
    };
    let Some(event) = request.event.and_then(|event| world.published.get(&event)) else {
        return Some("of an event that nobody published");
    };
    if request.webhook.is_some_and(|webhook| webhook != hook.id) {
        return Some("its body names another webhook");
    }
    if event.outcome == Outcome::Refused {
        return Some("of an event that was refused");
    }
    if !hook.wants(event) {
        return Some("of an event that the webhook does not take");
    }
    let id = message_id(hook.workspace, &event.event.to_string(), hook.id);
    (request.message_id != id).then_some("its webhook-id is not the one of this event and webhook")
}

fn termination(world: &World<'_>) -> Finding {
    let mut finding = Finding::new("I3", "every delivery has ended");
    for row in &world.evidence.deliveries {
        finding.look(row.state.is_terminal(), || {
            format!("delivery {} is {}", row.id, row.state)
        });
    }
    finding
}

/// Also counts the requests that only a kill explains.
fn bounded_attempts(world: &World<'_>) -> (Finding, u64) {
    let mut finding = Finding::new(
        "I4",
        "attempts bounded, none on the wire unlogged and none made twice but for kills",
    );
    let mut cut_off = 0;
    for row in &world.evidence.deliveries {
        let (logged, seen) = (world.attempts_of(row), world.requests_of(row));
        let numbers: HashSet<u32> = logged.iter().map(|attempt| attempt.number).collect();
        let highest = numbers.iter().copied().max().unwrap_or(0);
        let gapless = u32::try_from(numbers.len()) == Ok(highest);
        let excess = seen.len().saturating_sub(logged.len());
        let kills = kills_around(
            &world.evidence.dispatcher_kills,
            seen.iter().map(|one| one.at),
        );
        let twice = made_twice(logged);
        let shaken = world.evidence.bus_kills.as_ref().map(|bus_kills| {
            let started = || logged.iter().map(|attempt| attempt.started);
            kills_around(&world.evidence.dispatcher_kills, started())
                + kills_around(bus_kills, started())
        });
        let explained = shaken.is_none_or(|shaken| twice <= shaken);
        cut_off += u64::try_from(excess.min(kills)).unwrap_or(u64::MAX);
        let bounded = highest <= world.evidence.max_attempts && gapless && excess <= kills;
        finding.look(bounded && explained, || {
            let mut numbers: Vec<_> = numbers.into_iter().collect();
            numbers.sort_unstable();
            format!(
                "delivery {}: attempts {numbers:?} in {} executions ({twice} made again), {} requests on the wire, {kills} kills of dispatchers around them, {shaken:?} of those and nats-server",
                row.id,
                logged.len(),
                seen.len()
            )
        });
    }
    (finding, cut_off)
}

/// How often an attempt of a number was made that had been made: those that met a fault of ours are to be.
fn made_twice(logged: &[&AttemptRow]) -> usize {
    let theirs = logged.iter().filter(|attempt| attempt.class != "OURS");
    let numbers: HashSet<u32> = theirs.clone().map(|attempt| attempt.number).collect();
    theirs.count() - numbers.len()
}

/// Kills that may have cut off one of these requests, or have had it made again.
fn kills_around(kills: &[i64], times: impl Iterator<Item = i64> + Clone) -> usize {
    let (Some(first), Some(last)) = (times.clone().min(), times.max()) else {
        return 0;
    };
    // What the victim had written already may be read after its death.
    let around = first.saturating_sub(TRAVEL_MICROS)..=last.saturating_add(CUT_OFF_MICROS);
    kills.iter().filter(|at| around.contains(at)).count()
}

/// Both sides are asked: the log knows when a request started, the receiver knows of requests that
/// nobody logged.
fn stop_means_stop(world: &World<'_>) -> Finding {
    let mut finding = Finding::new(
        "I5",
        "no request starts later than 2 s after a pause, disabling or deletion was answered",
    );
    let mut requests: HashMap<&str, Vec<i64>> = HashMap::new();
    for request in &world.evidence.received {
        requests.entry(&request.path).or_default().push(request.at);
    }
    let mut starts: HashMap<Uuid, Vec<i64>> = HashMap::new();
    for row in &world.evidence.deliveries {
        let started = world.attempts_of(row).iter().map(|attempt| attempt.started);
        starts.entry(row.webhook).or_default().extend(started);
    }
    for halt in &world.evidence.halts {
        let Some(answered) = halt.answered else {
            continue;
        };
        let (from, until) = (
            answered + HALT_GRACE_MICROS,
            halt.lifted.unwrap_or(i64::MAX),
        );
        if until <= from {
            continue;
        }
        let path = world
            .hooks
            .get(&halt.webhook)
            .map(|hook| hook.path.as_str());
        let seen = path.and_then(|path| requests.get(path));
        let seen = first_between(seen, from.saturating_add(TRAVEL_MICROS), until);
        let logged = first_between(starts.get(&halt.webhook), from, until);
        finding.look(path.is_some() && seen.or(logged).is_none(), || {
            format!(
                "webhook {} was {} at {answered}: request at the receiver {seen:?}, attempt in the log {logged:?}",
                path.unwrap_or("nobody knows"),
                halt.kind.as_str()
            )
        });
    }
    finding
}

/// The first time after `from` and before `until`.
fn first_between(times: Option<&Vec<i64>>, from: i64, until: i64) -> Option<i64> {
    let times = times.into_iter().flatten().copied();
    times.filter(|at| (from + 1..until).contains(at)).min()
}

/// What the log makes of a webhook, or what its row says.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Totals {
    success: u64,
    failure: u64,
    last_sent: Option<i64>,
    last_delivered: Option<i64>,
}

fn counters(world: &World<'_>) -> Finding {
    let mut finding = Finding::new(
        "I6",
        "counters, lastSentAt and lastDeliveredAt equal the log",
    );
    let mut by_hook: HashMap<Uuid, Totals> = HashMap::new();
    for row in &world.evidence.deliveries {
        let attempts = world.attempts_of(row);
        let of_hook = by_hook.entry(row.webhook).or_default();
        of_hook.success += u64::from(row.state == DeliveryState::Delivered);
        of_hook.failure += u64::from(row.state == DeliveryState::Failed);
        for attempt in attempts {
            of_hook.last_sent = of_hook.last_sent.max(Some(attempt.started));
            if attempt.class.is_empty() {
                of_hook.last_delivered = of_hook.last_delivered.max(Some(attempt.started));
            }
        }
        let highest = attempts
            .iter()
            .map(|attempt| attempt.number)
            .max()
            .unwrap_or(0);
        finding.look(row.attempts == highest, || {
            format!(
                "delivery {} says {} attempts, the log says {highest}",
                row.id, row.attempts
            )
        });
    }
    for hook in &world.evidence.hooks {
        let log = by_hook.get(&hook.id).copied().unwrap_or_default();
        let row = world
            .evidence
            .counters
            .iter()
            .find(|row| row.webhook == hook.id);
        let shown = row.map_or_else(Totals::default, |row| Totals {
            success: row.success,
            failure: row.failure,
            last_sent: row.last_sent,
            last_delivered: row.last_delivered,
        });
        finding.look(shown == log, || {
            format!(
                "webhook {}: its row says {shown:?}, the log says {log:?}",
                hook.path
            )
        });
    }
    finding
}

fn honest_success(world: &World<'_>) -> Finding {
    let mut finding = Finding::new("I7", "what is delivered was answered 2xx");
    for row in world
        .evidence
        .deliveries
        .iter()
        .filter(|row| row.state == DeliveryState::Delivered)
    {
        let answered = world
            .requests_of(row)
            .iter()
            .any(|request| (200..300).contains(&request.status));
        finding.look(answered, || {
            format!(
                "delivery {} of event {} was never answered 2xx",
                row.id, row.event
            )
        });
    }
    finding
}

fn honest_failure(world: &World<'_>) -> Finding {
    let mut finding = Finding::new(
        "I8",
        "what failed used every attempt or met a permanent refusal",
    );
    for row in world
        .evidence
        .deliveries
        .iter()
        .filter(|row| row.state == DeliveryState::Failed)
    {
        let attempts = world.attempts_of(row);
        let exhausted = attempts
            .iter()
            .any(|attempt| attempt.number >= world.evidence.max_attempts);
        let permanent = attempts.iter().any(|attempt| attempt.class == "PERMANENT");
        finding.look(exhausted || permanent, || {
            format!(
                "delivery {} failed after {} attempts",
                row.id,
                attempts.len()
            )
        });
    }
    finding
}

fn same_bytes(world: &World<'_>) -> Finding {
    let mut finding = Finding::new("I9", "same id, same bytes, valid signature");
    let mut bodies: HashMap<&str, u64> = HashMap::new();
    for request in &world.evidence.received {
        let first = *bodies
            .entry(&request.message_id)
            .or_insert(request.body_hash);
        // A webhook whose creation was not answered yet has a secret that the receiver cannot know.
        let too_early = request.verified.is_none()
            && world
                .paths
                .get(request.path.as_str())
                .is_some_and(|hook| request.at <= hook.created);
        finding.look(
            first == request.body_hash && (request.verified == Some(true) || too_early),
            || {
                let bytes = if first == request.body_hash {
                    ""
                } else {
                    "other bytes than before, "
                };
                format!(
                    "{} at {}: {bytes}signature {:?}",
                    request.message_id, request.path, request.verified
                )
            },
        );
    }
    finding
}

/// Three accounts of the same thing: what other systems are told, the audit log, and the mails.
fn disabled_once(world: &World<'_>) -> Finding {
    let mut finding = Finding::new(
        "I10",
        "disabled at the 10th failure in a row or a 410, once, with one audit entry and one mail each",
    );
    let all = &world.evidence.disablings;
    let mut recipients: Vec<&str> = all.recipients.iter().map(String::as_str).collect();
    recipients.sort_unstable();
    for row in &all.told {
        let told = all
            .told
            .iter()
            .filter(|other| other.episode == row.episode)
            .count();
        let mails = all.mails.iter().filter(|mail| mail.episode == row.episode);
        let mut mailed: Vec<&str> = mails.map(|mail| mail.recipient.as_str()).collect();
        mailed.sort_unstable();
        let sick = world
            .hooks
            .get(&row.webhook)
            .is_some_and(|hook| !hook.healthy);
        let holds =
            told == 1 && (row.gone || row.run == DISABLED_AT) && mailed == recipients && sick;
        finding.look(holds, || {
            format!(
                "webhook {} was disabled after {} failures (410: {}), told {told} times, mailed to {mailed:?}, \
                 known to be sick: {sick}",
                row.webhook, row.run, row.gone
            )
        });
    }
    let webhooks: HashSet<Uuid> = all.told.iter().map(|row| row.webhook).collect();
    let webhooks: HashSet<Uuid> = webhooks.into_iter().chain(all.audited.clone()).collect();
    for webhook in webhooks {
        let told = all.told.iter().filter(|row| row.webhook == webhook).count();
        let audited = all.audited.iter().filter(|one| **one == webhook).count();
        finding.look(told == audited, || {
            format!("webhook {webhook} was disabled {told} times, the audit log says {audited}")
        });
    }
    for mail in &all.mails {
        let known = all.told.iter().any(|row| row.episode == mail.episode);
        finding.look(known, || {
            format!("{} was told of a disabling that was none", mail.recipient)
        });
    }
    finding
}

/// Only where the faults are kills: a process that is frozen, or has no descriptors left, takes an
/// endpoint's time for its own.
fn isolated(world: &World<'_>) -> Finding {
    let mut finding = Finding::new("I11", "no attempt to a healthy endpoint failed");
    if world.evidence.first_fault.is_none() {
        return finding;
    }
    for row in &world.evidence.deliveries {
        let healthy = world
            .hooks
            .get(&row.webhook)
            .is_some_and(|hook| hook.healthy);
        for attempt in world.attempts_of(row).iter().filter(|_| healthy) {
            // What was our own fault consumed no attempt of the customer's.
            let holds = matches!(attempt.class.as_str(), "" | "OURS");
            finding.look(holds, || {
                format!(
                    "attempt {} of delivery {}: {}",
                    attempt.number, row.id, attempt.class
                )
            });
        }
    }
    finding
}

/// The waits of healthy webhooks that were never halted: these had no reason of their own to wait.
fn waits(world: &World<'_>) -> Waits {
    let Some(fault) = world.evidence.first_fault else {
        return Waits::default();
    };
    let (mut before, mut during) = (Vec::new(), Vec::new());
    for row in &world.evidence.deliveries {
        let (Some(hook), Some(event)) = (
            world.hooks.get(&row.webhook),
            world.published.get(&row.event),
        ) else {
            continue;
        };
        if !hook.healthy || world.halts_of(hook).next().is_some() {
            continue;
        }
        if let Some(first) = world
            .requests_of(row)
            .iter()
            .map(|request| request.at)
            .min()
        {
            let of_its_time = if event.started < fault {
                &mut before
            } else {
                &mut during
            };
            of_its_time.push(first - event.started);
        }
    }
    let p99 = |mut waits: Vec<i64>| {
        waits.sort_unstable();
        let index = (waits.len() * 99).div_ceil(100).saturating_sub(1);
        (waits.get(index).copied().unwrap_or(0), waits.len())
    };
    Waits {
        before: p99(before),
        during: p99(during),
    }
}

fn bounded(world: &World<'_>) -> Finding {
    let mut finding = Finding::new(
        "I12",
        "memory, descriptors and threads of every service below fixed caps",
    );
    for row in &world.evidence.vitals {
        finding.look(row.peak.is_within(HELD_CAPS), || {
            format!("{} held {:?}", row.service, row.peak)
        });
    }
    finding
}
