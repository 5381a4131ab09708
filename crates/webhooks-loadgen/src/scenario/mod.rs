//! Scenarios: one kind of fault each, on the real parts, under load, judged by the outside ledgers.
//!
//! The [crash test](crate::faults) kills at random. Here each run does one thing to one part on
//! purpose (takes it away, freezes it, fills it up, turns its clock) and says before what must hold
//! meanwhile; afterwards everything is healed, comes to rest, and the same [`check`](crate::check)
//! judges. The rows in brackets are those of docs/faults.md.

mod away;
mod clock;
mod cluster;
mod descriptors;
mod disk;
mod dns;
mod frozen;
mod full;
mod mount;
mod outcome;
mod poison;
mod postgres;
mod power;
mod rig;
mod rolling;
mod storm;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use futures::future::LocalBoxFuture;
use tokio::time::Instant;

pub use self::outcome::Outcome;

/// How long a fault lasts that may last any time.
pub const SHORT: Duration = Duration::from_secs(30);

/// What to do.
#[derive(Debug, Clone)]
pub struct ScenarioOptions {
    /// Where the programs are.
    pub bin_dir: PathBuf,
    /// How long a fault lasts, where the scenario leaves it open.
    pub lasting: Duration,
    /// What random choices are drawn from.
    pub seed: u64,
    /// Where data, logs and ledgers go and stay; `None` = a temporary folder that stays only when the
    /// scenario fails.
    pub folder: Option<PathBuf>,
}

/// What a scenario is given.
struct Scene<'a> {
    options: &'a ScenarioOptions,
    folder: &'a Path,
    note: &'a mut dyn FnMut(String),
}

/// How a scenario is run.
type Run = for<'a> fn(Scene<'a>) -> LocalBoxFuture<'a, anyhow::Result<Outcome>>;

/// A scenario.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// The rows it proves.
    pub rows: &'static str,
    /// What happens.
    pub what: &'static str,
    run: Run,
}

impl std::fmt::Debug for Scenario {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// All of them.
pub const ALL: [Scenario; 17] = [
    Scenario {
        name: "away",
        rows: "F-04 F-11",
        what: "management and PostgreSQL are away (--for): deliveries go on, reports are spooled and drained",
        run: |scene| Box::pin(away::both(scene)),
    },
    Scenario {
        name: "postgres-away",
        rows: "F-11",
        what: "PostgreSQL alone is away (--for)",
        run: |scene| Box::pin(away::postgres(scene)),
    },
    Scenario {
        name: "postgres-slow",
        rows: "F-12 F-13 F-14",
        what: "PostgreSQL is locked for 20 s, then takes no writes for 20 s, then hands over to a new start",
        run: |scene| Box::pin(postgres::slow(scene)),
    },
    Scenario {
        name: "postgres-disk-full",
        rows: "F-14",
        what: "the disk of PostgreSQL fills up (needs a mount)",
        run: |scene| Box::pin(postgres::disk_full(scene)),
    },
    Scenario {
        name: "cluster",
        rows: "F-06 F-07",
        what: "three nodes of NATS: each restarted, each killed, the leader frozen for 20 s",
        run: |scene| Box::pin(cluster::run(scene)),
    },
    Scenario {
        name: "parted",
        rows: "F-07",
        what: "three nodes of NATS: the network parts three times for 60 s, the leader on the smaller side",
        run: |scene| Box::pin(cluster::run_parted(scene)),
    },
    Scenario {
        name: "stream-full",
        rows: "F-09",
        what: "EVENTS at its limit, raised by the operator; DELIVERIES at its limit, drained by itself",
        run: |scene| Box::pin(full::run(scene)),
    },
    Scenario {
        name: "disk-full",
        rows: "F-10",
        what: "the disk of NATS fills up (needs a mount)",
        run: |scene| Box::pin(disk::run(scene)),
    },
    Scenario {
        name: "dns-dead",
        rows: "F-24",
        what: "our resolver swallows every question (--for): nothing is consumed, nobody is blamed",
        run: |scene| Box::pin(dns::run(scene)),
    },
    Scenario {
        name: "frozen",
        rows: "F-03 F-31",
        what: "each part is stopped (SIGSTOP) for 20 s, longer than its lease, and goes on as if nothing were",
        run: |scene| Box::pin(frozen::run(scene)),
    },
    Scenario {
        name: "clock",
        rows: "F-15",
        what: "the clock of a dispatcher, of fan-out, of ingest and of management jumps by an hour, both ways (needs libfaketime)",
        run: |scene| Box::pin(clock::run(scene)),
    },
    Scenario {
        name: "storm",
        rows: "F-17 F-28",
        what: "NATS restarts five times while thousands of messages are in hand at slow endpoints",
        run: |scene| Box::pin(storm::run(scene)),
    },
    Scenario {
        name: "poison",
        rows: "F-16",
        what: "garbage on every stream: kept with its reason, re-driven once it is fixed",
        run: |scene| Box::pin(poison::run(scene)),
    },
    Scenario {
        name: "rolling",
        rows: "F-05 F-25",
        what: "everything is restarted politely, one after another, three rounds",
        run: |scene| Box::pin(rolling::run(scene)),
    },
    Scenario {
        name: "power-cycle",
        rows: "F-34",
        what: "everything is killed at once and started in another order, eight times",
        run: |scene| Box::pin(power::run(scene)),
    },
    Scenario {
        name: "descriptors",
        rows: "F-29",
        what: "ingest and the dispatchers may open few files while many connections are wanted (needs prlimit)",
        run: |scene| Box::pin(descriptors::run(scene)),
    },
    Scenario {
        name: "storm-dispatchers",
        rows: "F-03 F-17",
        what: "both dispatchers are killed every 2 s, ten times, while requests are on the wire",
        run: |scene| Box::pin(storm::dispatchers(scene)),
    },
];

/// Finds a scenario.
///
/// # Errors
/// There is none of this name.
pub fn find(name: &str) -> anyhow::Result<Scenario> {
    let found = ALL.iter().find(|scenario| scenario.name == name);
    found.copied().with_context(|| {
        let names: Vec<_> = ALL.iter().map(|scenario| scenario.name).collect();
        format!("{name:?} is none of {}", names.join(", "))
    })
}

/// Runs one; `note` is told what happens.
///
/// # Errors
/// The stack cannot be started, or something stays broken that is no finding of the check.
pub async fn run(
    scenario: &Scenario,
    options: &ScenarioOptions,
    note: &mut dyn FnMut(String),
) -> anyhow::Result<Outcome> {
    let folder = options.folder.clone().unwrap_or_else(|| {
        std::env::temp_dir().join(format!("webhooks-{}-{}", scenario.name, std::process::id()))
    });
    if folder.exists() && options.folder.is_none() {
        bail!("{} is there already", folder.display());
    }
    note(format!(
        "{}: {}, in {}",
        scenario.name,
        scenario.what,
        folder.display()
    ));
    let began = Instant::now();
    let scene = Scene {
        options,
        folder: &folder,
        note,
    };
    let mut outcome = (scenario.run)(scene).await?;
    outcome.name = scenario.name;
    outcome.rows = scenario.rows;
    outcome.took = began.elapsed();
    if options.folder.is_none() && outcome.holds() {
        if folder.exists() {
            std::fs::remove_dir_all(&folder)
                .with_context(|| format!("cannot remove {}", folder.display()))?;
        }
    } else {
        outcome.folder = Some(folder);
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_has_a_name_of_its_own_and_rows() {
        let mut names: Vec<_> = ALL.iter().map(|scenario| scenario.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        for scenario in ALL {
            assert!(scenario.rows.split(' ').all(|row| row.starts_with("F-")));
            assert_eq!(find(scenario.name).unwrap().name, scenario.name);
        }
        find("nothing").unwrap_err();
    }
}
