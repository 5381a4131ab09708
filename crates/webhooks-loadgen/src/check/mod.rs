//! The invariants, as a pure function over parsed ledgers.
//!
//! Publishers say what they were promised, receivers say what came, Postgres says what the system
//! believes. After all faults are healed and everything is quiet, the three must agree:
//!
//! | | |
//! | --- | --- |
//! | I1 | no acknowledged event lost: every acknowledged event has a delivery to every webhook it matched |
//! | I2 | nothing unexpected: every request and every delivery belongs to a published event and a webhook that it matched, once |
//! | I3 | termination: no delivery is open |
//! | I4 | bounded attempts: at most the policy's number, no gaps, and no request on the wire that is neither logged nor cut off by a kill |
//! | I5 | stop means stop: no request starts later than 2 s after a pause, disabling or deletion was answered |
//! | I6 | counters, lastSentAt and lastDeliveredAt equal the log |
//! | I7 | honest success: what is DELIVERED was answered 2xx by the receiver |
//! | I8 | honest failure: what FAILED used all attempts or met a permanent refusal |
//! | I9 | same id, same bytes, and a valid signature, on every request |
//! | I10 | an endpoint that fails is disabled at the 10th failure in a row or at a 410, once an episode, with one audit entry and one mail to each person |
//! | I11 | isolation (where the faults are kills): no attempt to a healthy endpoint fails, whatever its neighbours do |
//! | I12 | boundedness: memory, descriptors and threads of every service stay below fixed caps |
//!
//! How long healthy endpoints wait before and during the faults is a figure beside I11 and no part of
//! it: a killed process cannot be as quick as a living one.
//!
//! An outcome that a publisher could not learn never counts against I1, but does count for I2: the
//! event may come or not, and if it comes, it is expected. A webhook that is disabled or deleted may
//! have what it was owed cancelled, and gets no deliveries meanwhile; a paused one gets all of it
//! later.

mod rules;
#[cfg(test)]
mod tests;

use std::fmt;

use uuid::Uuid;
use webhooks_domain::delivery::DeliveryState;

use crate::ledger::{Published, Received};

/// How long after a request's arrival a kill of a dispatcher may still explain why it is not logged:
/// it waited for its answer, or its report waited for management. In microseconds.
pub const CUT_OFF_MICROS: i64 = 30_000_000;

/// How long after the answer to a pause, disabling or deletion a request may still start, in
/// microseconds.
pub const HALT_GRACE_MICROS: i64 = 2_000_000;

/// How long a request that has started may take until its body is complete at the receiver, on a
/// small machine under load; in microseconds. The log, which knows starts, needs no such allowance.
pub const TRAVEL_MICROS: i64 = 1_000_000;

/// Examples of violations that a finding quotes.
pub const MAX_EXAMPLES: usize = 5;

/// A webhook, as it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// Its id.
    pub id: Uuid,
    /// Its workspace.
    pub workspace: Uuid,
    /// The path of its endpoint; no other webhook has it.
    pub path: String,
    /// Its links; empty = the whole workspace.
    pub links: Vec<Uuid>,
    /// The kinds of steps it takes; empty = all.
    pub kinds: Vec<String>,
    /// When its creation was answered, in microseconds since the epoch.
    pub created: i64,
    /// Its endpoint answers 200 always, so that what it is owed must be DELIVERED.
    pub healthy: bool,
}

impl Hook {
    /// Whether it must get an event that was published after it was made.
    #[must_use]
    pub fn wants(&self, event: &Published) -> bool {
        self.workspace == event.workspace
            && (self.links.is_empty() || self.links.contains(&event.link))
            && (self.kinds.is_empty() || self.kinds.contains(&event.kind))
    }
}

/// How a webhook was told to get nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HaltKind {
    /// Owed deliveries wait.
    Paused,
    /// Owed deliveries are cancelled, events make none.
    Disabled,
    /// The same, for ever.
    Deleted,
}

impl HaltKind {
    /// The word in ledgers and reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Paused => "paused",
            Self::Disabled => "disabled",
            Self::Deleted => "deleted",
        }
    }
}

/// A time in which a webhook was to get nothing. All times in microseconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Halt {
    /// The webhook.
    pub webhook: Uuid,
    /// How it was told.
    pub kind: HaltKind,
    /// When it was first asked for.
    pub called: i64,
    /// When the call was answered with success; `None` = it never was, so nothing was promised.
    pub answered: Option<i64>,
    /// When its end was first asked for: from here on requests may start again.
    pub lifted: Option<i64>,
    /// When its end was answered: from here on events make deliveries again.
    pub over: Option<i64>,
}

/// A delivery's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryRow {
    /// Its id.
    pub id: Uuid,
    /// Its webhook.
    pub webhook: Uuid,
    /// Its event.
    pub event: Uuid,
    /// Its state.
    pub state: DeliveryState,
    /// How many attempts it says were made.
    pub attempts: u32,
}

/// An attempt's row: one execution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptRow {
    /// Its delivery.
    pub delivery: Uuid,
    /// Its number, from 1.
    pub number: u32,
    /// When it began, in microseconds since the epoch.
    pub started: i64,
    /// TEMPORARY, PERMANENT or OURS; empty for a success.
    pub class: String,
}

/// What a webhook's counters say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CounterRow {
    /// The webhook.
    pub webhook: Uuid,
    /// Deliveries that ended well.
    pub success: u64,
    /// Deliveries that failed.
    pub failure: u64,
    /// When an attempt last began, in microseconds since the epoch.
    pub last_sent: Option<i64>,
    /// When an attempt that succeeded last began.
    pub last_delivered: Option<i64>,
}

/// An automatic disabling, as stream OPS tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DisablingRow {
    /// The webhook.
    pub webhook: Uuid,
    /// The run of failures that led to it.
    pub episode: String,
    /// Failures in a row.
    pub run: u32,
    /// The endpoint answered 410.
    pub gone: bool,
}

/// A mail that tells of an automatic disabling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DisablingMail {
    /// The run of failures that it tells of.
    pub episode: String,
    /// To whom.
    pub recipient: String,
}

/// What is known of automatic disablings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Disablings {
    /// Every one.
    pub told: Vec<DisablingRow>,
    /// The webhook of each entry in the audit log.
    pub audited: Vec<Uuid>,
    /// Every mail in the outbox.
    pub mails: Vec<DisablingMail>,
    /// Who is to get one.
    pub recipients: Vec<String>,
}

/// What a process holds at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Memory that is in RAM, in bytes.
    pub resident_bytes: u64,
    /// Open files and sockets.
    pub descriptors: u64,
    /// Threads.
    pub threads: u64,
}

impl Held {
    /// The larger of each.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            resident_bytes: self.resident_bytes.max(other.resident_bytes),
            descriptors: self.descriptors.max(other.descriptors),
            threads: self.threads.max(other.threads),
        }
    }

    /// Whether nothing is above these caps.
    #[must_use]
    pub fn is_within(self, caps: Self) -> bool {
        self.max(caps) == caps
    }
}

/// What no service may ever hold more of: memory as the design has it for a service under load, and
/// some times what the parts of a small machine need of the rest.
pub const HELD_CAPS: Held = Held {
    resident_bytes: 200 * 1024 * 1024,
    descriptors: 1_024,
    threads: 128,
};

/// What a service held over the whole run, in all its processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VitalsRow {
    /// The service.
    pub service: String,
    /// Before the load.
    pub start: Held,
    /// The most of each that was seen.
    pub peak: Held,
    /// When nothing was under way any more.
    pub quiet: Held,
}

/// Everything that is known.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// The publishers' ledgers.
    pub published: Vec<Published>,
    /// The receivers' ledgers.
    pub received: Vec<Received>,
    /// Every webhook.
    pub hooks: Vec<Hook>,
    /// Every time in which a webhook was to get nothing.
    pub halts: Vec<Halt>,
    /// Every delivery.
    pub deliveries: Vec<DeliveryRow>,
    /// Every attempt.
    pub attempts: Vec<AttemptRow>,
    /// Every webhook's counters.
    pub counters: Vec<CounterRow>,
    /// When dispatchers were killed, in microseconds since the epoch.
    pub dispatcher_kills: Vec<i64>,
    /// When nats-server was killed: memberships lapse then too. `None` = not known, and whether an attempt
    /// was made twice for nothing is not judged.
    pub bus_kills: Option<Vec<i64>>,
    /// Attempts that the policy allows.
    pub max_attempts: u32,
    /// Webhooks that were disabled automatically.
    pub disablings: Disablings,
    /// Every service.
    pub vitals: Vec<VitalsRow>,
    /// When the first fault came, in microseconds since the epoch.
    pub first_fault: Option<i64>,
}

/// What one invariant came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// `I1` and so on.
    pub invariant: &'static str,
    /// What it says.
    pub what: &'static str,
    /// How many things were looked at.
    pub checked: u64,
    /// How many of them break it.
    pub violations: u64,
    /// The first few.
    pub examples: Vec<String>,
}

impl Finding {
    fn new(invariant: &'static str, what: &'static str) -> Self {
        Self {
            invariant,
            what,
            checked: 0,
            violations: 0,
            examples: Vec::new(),
        }
    }

    /// Notes one thing that was looked at.
    fn look(&mut self, holds: bool, example: impl FnOnce() -> String) {
        self.checked += 1;
        if !holds {
            self.violations += 1;
            if self.examples.len() < MAX_EXAMPLES {
                self.examples.push(example());
            }
        }
    }
}

/// What the check came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// One for each invariant.
    pub findings: Vec<Finding>,
    /// Requests beyond the logged executions, each explained by a kill: duplicates for the customer.
    pub cut_off: u64,
    /// How long healthy endpoints waited.
    pub waits: Waits,
    /// What the services held.
    pub vitals: Vec<VitalsRow>,
}

/// From the call of a publisher to the first request, over all healthy endpoints that had done nothing
/// but wait: the 99th percentile in microseconds, and of how many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waits {
    /// Of events that were published before the first fault.
    pub before: (i64, usize),
    /// Of those after it.
    pub during: (i64, usize),
}

impl Report {
    /// Whether every invariant holds.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.findings.iter().all(|finding| finding.violations == 0)
    }

    /// Invariants for which there was nothing to look at.
    #[must_use]
    pub fn vacuous(&self) -> Vec<&'static str> {
        let empty = self.findings.iter().filter(|finding| finding.checked == 0);
        empty.map(|finding| finding.invariant).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| invariant | checked | violations |\n| --- | ---: | ---: |"
        )?;
        for finding in &self.findings {
            writeln!(
                f,
                "| {} {} | {} | {} |",
                finding.invariant, finding.what, finding.checked, finding.violations
            )?;
        }
        writeln!(
            f,
            "\nrequests repeated because a dispatcher was killed: {}",
            self.cut_off
        )?;
        let Waits { before, during } = self.waits;
        if before.1 + during.1 > 0 {
            let ms = |(micros, _): (i64, usize)| micros / 1_000;
            writeln!(
                f,
                "healthy endpoints waited (p99) {} ms before the first fault ({} deliveries), {} ms from then on ({})",
                ms(before),
                before.1,
                ms(during),
                during.1
            )?;
        }
        for row in &self.vitals {
            let held = |held: Held| {
                format!(
                    "{} MiB, {} descriptors, {} threads",
                    held.resident_bytes.div_ceil(1024 * 1024),
                    held.descriptors,
                    held.threads
                )
            };
            writeln!(
                f,
                "{}: {} at the start; {} at most; {} when quiet",
                row.service,
                held(row.start),
                held(row.peak),
                held(row.quiet)
            )?;
        }
        for finding in self
            .findings
            .iter()
            .filter(|finding| finding.violations > 0)
        {
            for example in &finding.examples {
                writeln!(f, "{}: {example}", finding.invariant)?;
            }
        }
        Ok(())
    }
}

/// Holds the ledgers against each other.
#[must_use]
pub fn check(evidence: &Evidence) -> Report {
    rules::judge(evidence)
}
