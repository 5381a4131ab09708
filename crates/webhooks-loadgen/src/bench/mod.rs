//! The benchmark: every figure beside its limit on the same machine in the same run.
//!
//! The whole system runs as processes (release builds, found in a folder), with durable PostgreSQL and
//! nats-server; the generator and the receiver are in this process, and what they cost is theirs.
//! A throughput counts only what is complete: from the first publish until Postgres has recorded every
//! attempt. The publisher stays a bounded distance ahead of the receiver ([`LEAD`]), so the figure is
//! the steady state and not the emptying of a backlog. Several runs give their median.

mod isolation;
mod kill;
mod latency;
mod limits;
mod numbers;
mod rig;
mod strangers;
mod table;
mod throughput;

use std::path::PathBuf;

use anyhow::Context as _;
use webhooks_devstack::SyncInterval;

use self::{
    limits::Limits,
    rig::Rig,
    table::{Row, Table},
};

pub use self::throughput::LEAD;

/// What to do.
#[derive(Debug, Clone)]
pub struct BenchOptions {
    /// Where the programs are.
    pub bin_dir: PathBuf,
    /// Less of everything, one run each.
    pub quick: bool,
    /// Only figures whose name contains this.
    pub only: Option<String>,
    /// A folder on the disk that is to be measured; data in it is removed at the end, the table stays.
    pub folder: PathBuf,
}

/// How much of everything.
#[derive(Debug, Clone, Copy)]
struct Scale {
    /// Runs of each throughput.
    runs: usize,
    /// Deliveries of a throughput run.
    deliveries: u64,
    /// Seconds of a latency run.
    latency_seconds: u64,
    /// Seconds of a limit.
    limit_seconds: u64,
    /// The most webhooks of one workspace.
    most_webhooks: usize,
    /// Deliveries that are queued when a dispatcher is killed.
    queued: u64,
    /// Rounds of the runs beside a neighbour.
    isolation_rounds: usize,
    /// Seconds of a run beside a neighbour.
    isolation_seconds: u64,
    /// Deliveries that are queued while an endpoint is dead.
    backlog: u64,
    /// Questions about each id that is not the caller's.
    strangers: usize,
}

impl Scale {
    const FULL: Self = Self {
        runs: 3,
        deliveries: 60_000,
        latency_seconds: 30,
        limit_seconds: 5,
        most_webhooks: 100_000,
        queued: 3_000,
        isolation_rounds: 3,
        isolation_seconds: 60,
        backlog: 20_000,
        strangers: 5_000,
    };
    const QUICK: Self = Self {
        runs: 1,
        deliveries: 12_000,
        latency_seconds: 5,
        limit_seconds: 2,
        most_webhooks: 5_000,
        queued: 3_000,
        isolation_rounds: 1,
        isolation_seconds: 10,
        backlog: 2_000,
        strangers: 500,
    };
}

/// When nats-server writes to the disk, and what goes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sync {
    /// nats-server's own interval, single publishes.
    Default,
    /// Every write, adaptive batches.
    Always,
}

impl Sync {
    fn interval(self) -> SyncInterval {
        match self {
            Self::Default => SyncInterval::ServerDefault,
            Self::Always => SyncInterval::Always,
        }
    }

    fn batching(self) -> bool {
        self == Self::Always
    }

    fn label(self) -> &'static str {
        match self {
            Self::Default => "",
            Self::Always => ", `sync_interval: always`",
        }
    }
}

/// One benchmark: what was asked for, and the table so far.
struct Bench<'a> {
    options: &'a BenchOptions,
    scale: Scale,
    folder: tempfile::TempDir,
    table: Table,
    note: &'a mut (dyn FnMut(String) + Send),
}

/// Runs it and gives the table in Markdown; `note` is told what happens.
///
/// # Errors
/// Something cannot be started, or deliveries are missing or fail: a figure of a system that does not
/// work is none.
pub async fn run(
    options: &BenchOptions,
    mut note: impl FnMut(String) + Send,
) -> anyhow::Result<String> {
    std::fs::create_dir_all(&options.folder)
        .with_context(|| format!("cannot create {}", options.folder.display()))?;
    let mut bench = Bench {
        options,
        scale: if options.quick {
            Scale::QUICK
        } else {
            Scale::FULL
        },
        folder: tempfile::tempdir_in(&options.folder).context("cannot make a temporary folder")?,
        table: Table::default(),
        note: &mut note,
    };
    for sync in [Sync::Default, Sync::Always] {
        Box::pin(bench.with(sync)).await?;
    }
    let table = bench.table.to_string();
    let file = options.folder.join("table.md");
    std::fs::write(&file, &table).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(table)
}

impl Bench<'_> {
    fn note(&mut self, line: impl Into<String>) {
        (self.note)(line.into());
    }

    /// Whether a figure is asked for.
    fn wants(&self, figure: &str) -> bool {
        self.options
            .only
            .as_deref()
            .is_none_or(|only| figure.contains(only))
    }

    fn add(&mut self, row: Row) {
        (self.note)(format!("{}: {}", row.figure, row.ours));
        self.table.rows.push(row);
    }

    async fn with(&mut self, sync: Sync) -> anyhow::Result<()> {
        let throughputs = [1, 10].map(|fan_out| throughput::figure(fan_out, sync));
        let latency = latency::figure(sync);
        let alone = [
            throughput::CURVE,
            throughput::DISPATCHERS,
            kill::RESTARTED,
            kill::TAKEN_OVER,
            rig::MEMORY,
            strangers::FIGURE,
        ];
        let alone = alone.iter().any(|figure| self.wants(figure)) || isolation::is_wanted(self);
        let alone = sync == Sync::Default && alone;
        if !alone && !self.wants(&latency) && !throughputs.iter().any(|figure| self.wants(figure)) {
            return Ok(());
        }
        self.note(format!("limits{}", sync.label()));
        let folder = self.folder.path().join(format!("limits-{sync:?}"));
        let limits = Limits::measure(&folder, sync, &self.scale).await?;
        self.note(format!("starting the stack{}", sync.label()));
        let folder = self.folder.path().join(format!("stack-{sync:?}"));
        let mut rig = Rig::start(&self.options.bin_dir, &folder, sync).await?;
        let at_rest = rig.memory_at_rest().await;
        throughput::measure(self, &mut rig, &limits).await?;
        if self.wants(&latency) {
            let row = latency::measure(&mut rig, self.scale.latency_seconds).await?;
            self.add(row);
        }
        if sync == Sync::Default && self.wants(strangers::FIGURE) {
            let row = strangers::measure(&rig, self.scale.strangers).await?;
            self.add(row);
        }
        if sync == Sync::Default {
            throughput::curve(self, &mut rig).await?;
            kill::measure(self, &mut rig).await?;
            throughput::dispatchers(self, &mut rig).await?;
            if self.wants(rig::MEMORY) {
                let row = rig.memory(&at_rest);
                self.add(row);
            }
            // Last: the others count on a history without failures.
            isolation::measure(self, &mut rig).await?;
        }
        rig.stop().await
    }
}
