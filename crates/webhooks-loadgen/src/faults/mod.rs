//! The crash test: real processes are killed at random under load, and afterwards the outside ledgers
//! are held against Postgres.
//!
//! Two dispatchers and one of everything else; a publisher at each of the three doors; webhooks that
//! are workspace-wide, bound to a link, deaf to what is published (they must get nothing), flaky and
//! dying; and writers that make, pause, disable and delete webhooks meanwhile.
//! SIGKILL falls on services, nats-server and PostgreSQL, with the time between kills, the victim and
//! the time until its restart drawn from a seed; kills overlap. Whatever ends by itself meanwhile is
//! started again, as an orchestrator would, and counted. After the last kill everything is healed;
//! when nothing is under way any more, [`check`](crate::check) judges.
//!
//! The retry policy is the standard one with shorter times, so that a run ends quickly. What is not
//! tried here: loss of power (SIGKILL keeps the page cache), clusters, partitions, clocks.

mod cast;
mod plan;
mod quiet;
pub(crate) mod record;
mod turns;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::quiet::quiet;
use self::{
    cast::{Cast, PEOPLE, Publishers},
    plan::Fault,
    turns::{Turns, Writers},
};
use crate::{
    check::{self, Evidence, HaltKind, Report, VitalsRow},
    ledger::{self, Ledger},
    now_micros,
    publish::{Door, Tally},
    receiver::{Receiver, ReceiverOptions},
    stack::{Part, Stack, StackOptions},
};

/// Kills of the short form.
pub const QUICK_FAULTS: u32 = 20;

/// How long the load goes on before the first kill and after the last restart.
const CALM: Duration = Duration::from_secs(2);

/// How long it may take until nothing is under way after the last restart.
const QUIET_LIMIT: Duration = Duration::from_secs(120);

/// How often a run looks after its processes.
const LOOK_PERIOD: Duration = Duration::from_millis(50);

/// Between a death that nobody ordered and the restart.
const RESTART_PAUSE: Duration = Duration::from_millis(250);

/// Attempts of a delivery: the standard policy's.
const MAX_ATTEMPTS: u32 = 3;

/// What to do.
#[derive(Debug, Clone)]
pub struct FaultOptions {
    /// Where the programs are.
    pub bin_dir: PathBuf,
    /// What the kills are drawn from.
    pub seed: u64,
    /// How many kills.
    pub faults: u32,
    /// Where data, logs and ledgers go and stay; `None` = a temporary folder that stays only when the
    /// check fails.
    pub folder: Option<PathBuf>,
}

/// What it came to.
#[derive(Debug)]
pub struct FaultOutcome {
    /// What the kills were drawn from.
    pub seed: u64,
    /// The check's verdict.
    pub report: Report,
    /// Kills by victim.
    pub kills: BTreeMap<Part, u32>,
    /// Deaths that nobody ordered.
    pub deaths: BTreeMap<Part, u32>,
    /// What publishers were told.
    pub tallies: Vec<(Door, Tally)>,
    /// Webhooks that were made meanwhile.
    pub made: usize,
    /// Halts that were asked for, by kind.
    pub halts: BTreeMap<HaltKind, u32>,
    /// From the last restart until nothing was under way.
    pub quiet_after: Option<Duration>,
    /// Messages in work queues that were acknowledged and stand there nevertheless.
    pub leftovers: u64,
    /// Where to look, if it was kept.
    pub folder: Option<PathBuf>,
}

impl FaultOutcome {
    /// Whether every invariant holds, each was looked at, every door took events, and the system came
    /// to rest.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.report.holds() && self.quiet_after.is_some() && self.hollow().is_empty()
    }

    /// Why the run shows less than it should: what it did not try.
    #[must_use]
    pub fn hollow(&self) -> Vec<String> {
        // Without `/proc` nobody can say what a process holds.
        let vacuous = self.report.vacuous().into_iter();
        let vacuous = vacuous.filter(|one| *one != "I12" || Path::new("/proc/self").exists());
        let mut hollow: Vec<String> = vacuous
            .map(|invariant| format!("nothing was there to check {invariant} with"))
            .collect();
        let silent = Door::ALL.into_iter().filter(|door| {
            let of_door = self.tallies.iter().filter(|(of, _)| of == door);
            of_door.map(|(_, tally)| tally.ok).sum::<u64>() == 0
        });
        hollow.extend(silent.map(|door| format!("no event was taken over {}", door.as_str())));
        hollow
    }
}

impl fmt::Display for FaultOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.report)?;
        for (door, tally) in &self.tallies {
            let Tally {
                ok,
                refused,
                unknown,
            } = tally;
            writeln!(
                f,
                "published over {}: {ok} ok, {refused} refused, {unknown} unknown",
                door.as_str()
            )?;
        }
        let list = |parts: &BTreeMap<Part, u32>| {
            parts
                .iter()
                .map(|(part, count)| format!("{part} {count}"))
                .collect::<Vec<_>>()
                .join(", ")
        };
        write!(f, "webhooks meanwhile: {} made", self.made)?;
        for (kind, count) in &self.halts {
            write!(f, ", {count} {}", kind.as_str())?;
        }
        writeln!(f, "\nkilled: {}", list(&self.kills))?;
        if !self.deaths.is_empty() {
            writeln!(
                f,
                "ended by themselves and started again: {}",
                list(&self.deaths)
            )?;
        }
        if self.leftovers > 0 {
            writeln!(
                f,
                "acknowledged messages that a killed nats-server brought back: {}",
                self.leftovers
            )?;
        }
        match self.quiet_after {
            Some(time) => writeln!(
                f,
                "quiet {:.1} s after the last restart",
                time.as_secs_f64()
            )?,
            None => writeln!(f, "not quiet within {QUIET_LIMIT:?}")?,
        }
        if let Some(folder) = &self.folder {
            writeln!(f, "logs and ledgers: {}", folder.display())?;
        }
        for reason in self.hollow() {
            writeln!(f, "HOLLOW: {reason}")?;
        }
        let verdict = if self.holds() {
            "all invariants hold"
        } else if self.report.holds() && self.quiet_after.is_some() {
            "NOT SHOWN"
        } else {
            "VIOLATED"
        };
        write!(f, "seed {}: {verdict}", self.seed)
    }
}

/// Runs it; `note` is told what happens.
///
/// # Errors
/// The stack cannot be started, or something stays broken that is no finding of the check.
pub async fn run(
    options: &FaultOptions,
    mut note: impl FnMut(String),
) -> anyhow::Result<FaultOutcome> {
    let folder = options.folder.clone().unwrap_or_else(|| {
        std::env::temp_dir().join(format!(
            "webhooks-faults-{}-{}",
            options.seed,
            std::process::id()
        ))
    });
    note(format!(
        "seed {}, {} kills, in {}",
        options.seed,
        options.faults,
        folder.display()
    ));
    let mut outcome = Box::pin(run_in(options, &folder, &mut note)).await?;
    if options.folder.is_none() && outcome.holds() {
        std::fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    } else {
        outcome.folder = Some(folder);
    }
    Ok(outcome)
}

async fn run_in(
    options: &FaultOptions,
    folder: &Path,
    note: &mut dyn FnMut(String),
) -> anyhow::Result<FaultOutcome> {
    let stack = StackOptions {
        dispatchers: 2,
        ..StackOptions::new(&options.bin_dir, folder)
    }
    .setting("WEBHOOKS_RETRY_BASE", "1s")
    .setting("WEBHOOKS_RETRY_IMMEDIATE", "200ms")
    .setting("WEBHOOKS_RETRY_MAX_ATTEMPTS", &MAX_ATTEMPTS.to_string())
    .setting("WEBHOOKS_ATTEMPT_TIMEOUT", "5s")
    .setting("WEBHOOKS_PROBE_PAUSE", "200ms")
    .setting("WEBHOOKS_PROBE_PAUSE_CAP", "1s");
    let mut stack = Stack::start(stack).await?;
    let mut vitals = Vitals::start(&stack);
    let received = folder.join("received");
    let receiver = ReceiverOptions {
        ledger: Some(received.clone()),
        keep: 0,
        seed: options.seed,
        ..ReceiverOptions::default()
    };
    let receiver = Arc::new(Receiver::start(receiver).await?);
    let cast = Cast::make(&stack, &receiver).await?;
    let end_of_events = CancellationToken::new();
    let publishers = cast.publish(&stack, folder, &end_of_events)?;
    let ledger = Ledger::open(&folder.join("turns"))?;
    let scene = cast.scene(&receiver, ledger, options.seed);
    let end_of_turns = CancellationToken::new();
    let writers = Writers::start(&scene, || stack.api(&scene.workspace), &end_of_turns)?;
    drop(scene);
    note("publishing".to_owned());
    tokio::time::sleep(CALM).await;

    let mut kills = Kills::default();
    let first_fault = Some(now_micros());
    for fault in plan::plan(options.seed, options.faults) {
        kills.strike(&mut stack, fault, &mut vitals, note).await?;
    }
    kills.heal(&mut stack).await?;
    note("healed".to_owned());
    tokio::time::sleep(CALM).await;
    vitals.look(&stack);
    // Events go on until the last writer is done: a dead endpoint is only disabled by its failures.
    end_of_turns.cancel();
    let Turns { hooks, halts } = writers.finish().await?;
    end_of_events.cancel();
    let (tallies, published) = finish(publishers).await?;
    let healed = Instant::now();
    let (quiet_after, leftovers) = match quiet(&stack, QUIET_LIMIT, note).await {
        Ok(leftovers) => (Some(healed.elapsed()), leftovers),
        Err(error) => {
            note(format!("{error:#}"));
            (None, 0)
        }
    };
    let receiver = Arc::into_inner(receiver).context("a writer still holds the receiver")?;
    receiver.stop().await?;
    let made = hooks.len();
    let mut kinds = BTreeMap::new();
    for halt in &halts {
        *kinds.entry(halt.kind).or_default() += 1;
    }
    let evidence = Evidence {
        published,
        received: ledger::read(&received)?,
        hooks: cast.hooks.into_iter().chain(hooks).collect(),
        halts,
        deliveries: record::deliveries(&stack).await?,
        attempts: record::attempts(&stack).await?,
        counters: record::counters(&stack).await?,
        dispatcher_kills: kills.dispatchers,
        bus_kills: Some(kills.buses),
        max_attempts: MAX_ATTEMPTS,
        disablings: record::disablings(&stack, &PEOPLE).await?,
        vitals: vitals.finish(&stack),
        first_fault,
    };
    let report = check::check(&evidence);
    stack.stop_all().await?;
    Ok(FaultOutcome {
        seed: options.seed,
        report,
        kills: kills.ordered,
        deaths: kills.unordered,
        tallies,
        made,
        halts: kinds,
        quiet_after,
        leftovers,
        folder: None,
    })
}

async fn finish(
    publishers: Publishers,
) -> anyhow::Result<(Vec<(Door, Tally)>, Vec<ledger::Published>)> {
    let files = publishers.ledgers.clone();
    let tallies = publishers.finish().await?;
    let mut published = Vec::new();
    for file in files {
        published.extend(ledger::read(&file)?);
    }
    Ok((tallies, published))
}

/// What the services hold, looked at over and over.
struct Vitals(BTreeMap<Part, VitalsRow>);

impl Vitals {
    fn start(stack: &Stack) -> Self {
        let rows = stack.held().into_iter().map(|(part, held)| {
            let row = VitalsRow {
                service: part.to_string(),
                start: held,
                peak: held,
                quiet: held,
            };
            (part, row)
        });
        Self(rows.collect())
    }

    fn look(&mut self, stack: &Stack) {
        for (part, held) in stack.held() {
            if let Some(row) = self.0.get_mut(&part) {
                row.peak = row.peak.max(held);
                row.quiet = held;
            }
        }
    }

    /// When everything is quiet.
    fn finish(mut self, stack: &Stack) -> Vec<VitalsRow> {
        self.look(stack);
        self.0.into_values().collect()
    }
}

/// Who was killed, and who is to be started again when.
#[derive(Debug, Default)]
struct Kills {
    dead: BTreeMap<Part, Instant>,
    ordered: BTreeMap<Part, u32>,
    unordered: BTreeMap<Part, u32>,
    /// When dispatchers died, in microseconds since the epoch.
    dispatchers: Vec<i64>,
    /// When nats-server did.
    buses: Vec<i64>,
}

impl Kills {
    /// Waits until the fault is due and looks after the processes meanwhile; then kills. When the
    /// victim is dead already, the next part that lives takes its place.
    async fn strike(
        &mut self,
        stack: &mut Stack,
        fault: Fault,
        vitals: &mut Vitals,
        note: &mut dyn FnMut(String),
    ) -> anyhow::Result<()> {
        let due = Instant::now() + fault.after;
        while Instant::now() < due {
            self.look_after(stack, note).await?;
            vitals.look(stack);
            tokio::time::sleep(LOOK_PERIOD).await;
        }
        let parts = stack.parts();
        let start = parts
            .iter()
            .position(|part| *part == fault.part)
            .unwrap_or(0);
        let living = parts
            .iter()
            .cycle()
            .skip(start)
            .take(parts.len())
            .find(|part| !self.dead.contains_key(part));
        let Some(part) = living.copied() else {
            return Ok(());
        };
        note(format!(
            "kill {part}, back after {:.1} s",
            fault.down.as_secs_f64()
        ));
        stack.kill(part).await?;
        self.note_death(part);
        *self.ordered.entry(part).or_default() += 1;
        self.dead.insert(part, Instant::now() + fault.down);
        Ok(())
    }

    /// Starts again whose time has come, and notices who died by itself.
    async fn look_after(
        &mut self,
        stack: &mut Stack,
        note: &mut dyn FnMut(String),
    ) -> anyhow::Result<()> {
        let now = Instant::now();
        let due: Vec<Part> = self
            .dead
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(part, _)| *part)
            .collect();
        for part in due {
            stack.revive(part).await?;
            self.dead.remove(&part);
        }
        for part in stack.dead() {
            if !self.dead.contains_key(&part) {
                note(format!("{part} ended by itself"));
                self.note_death(part);
                *self.unordered.entry(part).or_default() += 1;
                self.dead.insert(part, now + RESTART_PAUSE);
            }
        }
        Ok(())
    }

    fn note_death(&mut self, part: Part) {
        if part.is_dispatcher() {
            self.dispatchers.push(now_micros());
        }
        if part == Part::Nats {
            self.buses.push(now_micros());
        }
    }

    /// Starts everything that is dead and waits until all is ready.
    async fn heal(&mut self, stack: &mut Stack) -> anyhow::Result<()> {
        // The servers first: a service may give up when what it needs does not come.
        let mut dead: Vec<Part> = std::mem::take(&mut self.dead).into_keys().collect();
        dead.sort_by_key(|part| !matches!(part, Part::Nats | Part::Postgres));
        for part in dead {
            stack.revive(part).await?;
        }
        for part in stack.parts() {
            stack
                .wait_ready(part)
                .await
                .context("after the last kill")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{
        BTreeMap, Door, Duration, FaultOutcome, Report, Tally,
        check::{Evidence, check},
    };

    fn outcome(report: Report, ok: u64) -> FaultOutcome {
        let tally = Tally {
            ok,
            ..Tally::default()
        };
        FaultOutcome {
            seed: 1,
            report,
            kills: BTreeMap::new(),
            deaths: BTreeMap::new(),
            tallies: Door::ALL.map(|door| (door, tally)).to_vec(),
            made: 0,
            halts: BTreeMap::new(),
            quiet_after: Some(Duration::ZERO),
            leftovers: 0,
            folder: None,
        }
    }

    fn full() -> Report {
        let mut report = check(&Evidence::default());
        for finding in &mut report.findings {
            finding.checked = 1;
        }
        report
    }

    #[test]
    fn a_run_that_tried_nothing_shows_nothing() {
        assert!(outcome(full(), 1).holds());
        let empty = outcome(check(&Evidence::default()), 1);
        assert!(empty.report.holds() && !empty.holds(), "{empty}");
        assert!(empty.to_string().ends_with("NOT SHOWN"), "{empty}");
        for index in 0..full().findings.len() {
            let mut report = full();
            report.findings[index].checked = 0;
            assert!(!outcome(report, 1).holds(), "finding {index}");
        }
        let silent = outcome(full(), 0);
        assert_eq!(silent.hollow().len(), 3, "{silent}");
        assert!(!silent.holds());
        let mut one = outcome(full(), 1);
        one.tallies[1].1.ok = 0;
        assert_eq!(one.hollow(), ["no event was taken over grpc"]);
    }
}
