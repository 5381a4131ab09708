//! The command line.

use std::{
    fmt::Display, io::Write as _, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration,
};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use webhooks_domain::signing::SigningKey;
use webhooks_loadgen::{
    bench::{self, BenchOptions},
    faults::{self, FaultOptions},
    ledger::Ledger,
    peers::{BusPeer, HttpPeer, bare_bus, bare_http},
    publish::{self, Door, Plan, Subject, Target},
    receiver::{DEFAULT_KEEP, Receiver, ReceiverOptions},
    scenario::{self, ScenarioOptions},
    search::{self, SearchOptions},
    soak::{self, Neighbour, Scenario, SoakOptions},
};
use webhooks_runtime::Signals;

/// Load, a receiver, peers to compare with, and a crash test. Loopback only.
#[derive(Debug, Parser)]
#[command(name = "webhooks-loadgen", arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Stand in for customers' endpoints: POST anything; the path says how it behaves
    Receiver(ReceiverArgs),
    /// Publish events of the sample's shape
    Publish(PublishArgs),
    /// Post signed requests to a receiver, as fast as a bare client can
    BareHttp(BareHttpArgs),
    /// Move messages through two JetStream hops, as fast as the bus alone can
    BareBus(BareBusArgs),
    /// Print the benchmark table
    Bench(BenchArgs),
    /// Time every list and search over a long history (10,000,000 deliveries need 20 GB of disk)
    BenchSearch(BenchSearchArgs),
    /// Kill processes at random under load, then compare the outside ledgers with Postgres
    Faults(FaultArgs),
    /// One kind of fault, on purpose; `list` names them, `all` runs them one after another
    Scenario(ScenarioArgs),
    /// Load the whole system with very many endpoints or retries, or with bad neighbours
    Soak(SoakArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ReceiverArgs {
    /// Where to listen; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Note every request in this file before it is answered
    #[arg(long)]
    ledger: Option<PathBuf>,
    /// Keep this many requests for `GET /requests`
    #[arg(long, default_value_t = DEFAULT_KEEP)]
    keep: usize,
    /// A signing secret (whsec_…) to verify requests of any webhook with; may be given several times
    #[arg(long = "secret")]
    secrets: Vec<String>,
    /// What `/flaky` draws from
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

#[derive(Debug, Args)]
pub(crate) struct PublishArgs {
    /// http, grpc or nats
    #[arg(long, default_value = "http")]
    door: Door,
    /// http://host:port of ingest's HTTP or gRPC address, or nats://host:port
    #[arg(long)]
    url: String,
    /// The workspace's token, for http and grpc
    #[arg(long)]
    token: Option<String>,
    /// The workspace
    #[arg(long)]
    workspace: Uuid,
    /// A link; several are taken in turn [default: one new link]
    #[arg(long = "link")]
    links: Vec<Uuid>,
    /// Kind of the completed step; several are taken in turn
    #[arg(long = "kind", default_value = "KIND_EXIT")]
    kinds: Vec<String>,
    /// Events per second [default: as fast as it goes]
    #[arg(long)]
    rate: Option<f64>,
    /// How many events [default: until Ctrl-C]
    #[arg(long)]
    count: Option<u64>,
    /// Connections that publish at the same time
    #[arg(long, default_value_t = 4)]
    workers: usize,
    /// Events of one call
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Try again with the same id while an outcome is unknown
    #[arg(long)]
    retry: bool,
    /// Note every event and what became of it in this file
    #[arg(long)]
    ledger: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct BareHttpArgs {
    /// http://host:port of a receiver [default: one in this process]
    #[arg(long)]
    url: Option<String>,
    /// Connections
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// How long
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    duration: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct BareBusArgs {
    /// nats://host:port
    #[arg(long)]
    url: String,
    /// Deliveries of one event
    #[arg(long, default_value_t = 1)]
    fan_out: u64,
    /// Publish in atomic batches, for a server with `sync_interval: always`
    #[arg(long)]
    batching: bool,
    /// How long
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    duration: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Where the programs are [default: beside this one]
    #[arg(long)]
    bin_dir: Option<PathBuf>,
    /// Less of everything, one run each
    #[arg(long)]
    quick: bool,
    /// Only figures whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// A folder on the disk that is to be measured; the table stays in it
    #[arg(long, default_value = "bench-results")]
    folder: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct BenchSearchArgs {
    /// Where the programs are [default: beside this one]
    #[arg(long)]
    bin_dir: Option<PathBuf>,
    /// Deliveries in the history, over 30 days
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(10_000..))]
    deliveries: u64,
    /// Runs over all forms
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Requests of each form in a run
    #[arg(long, default_value_t = 200)]
    requests: usize,
    /// A folder on the disk that is to be measured; the table and the plans stay in it
    #[arg(long, default_value = "bench-results")]
    folder: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct FaultArgs {
    /// Where the programs are [default: beside this one]
    #[arg(long)]
    bin_dir: Option<PathBuf>,
    /// What is killed when; the same seed draws the same kills [default: a random one]
    #[arg(long)]
    seed: Option<u64>,
    /// How many kills
    #[arg(long, default_value_t = 100)]
    faults: u32,
    /// 20 kills in quick succession
    #[arg(long)]
    quick: bool,
    /// Where data, logs and ledgers go, and stay [default: a temporary folder, kept when a check fails]
    #[arg(long)]
    folder: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct SoakArgs {
    #[command(subcommand)]
    what: SoakCommand,
    /// Where the programs are [default: beside this one]
    #[arg(long, global = true)]
    bin_dir: Option<PathBuf>,
    /// A folder on the disk that is to be used
    #[arg(long, global = true, default_value = "bench-results")]
    folder: PathBuf,
}

#[derive(Debug, Subcommand)]
enum SoakCommand {
    /// One delivery each to so many endpoints, twice
    Endpoints {
        /// How many
        #[arg(long, default_value_t = 100_000)]
        count: u32,
    },
    /// So many outstanding retries, all due at the same moment
    Retries {
        /// How many
        #[arg(long, default_value_t = 1_000_000)]
        count: u64,
        /// To so many webhooks; an event makes a delivery to each
        #[arg(long, default_value_t = 100)]
        webhooks: u32,
        /// From the start of the load until all of them are due
        #[arg(long, default_value = "20m", value_parser = humantime::parse_duration)]
        due_after: Duration,
    },
    /// Endpoints that hang for 30 s, one delivery each, beside healthy ones
    Hanging {
        /// How many
        #[arg(long, default_value_t = 10_000)]
        count: u32,
        /// How long the healthy ones are measured
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// 20 endpoints that answer with floods of 1xx beside healthy ones
    Floods {
        /// How long the healthy ones are measured
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// A tenant with 5,000 deliveries to an endpoint that answers after 28 s beside healthy ones
    Tenant {
        /// How long the healthy ones are measured
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
}

impl SoakCommand {
    fn scenario(self) -> Scenario {
        let beside = |neighbour, seconds| Scenario::Beside { neighbour, seconds };
        match self {
            Self::Endpoints { count } => Scenario::Endpoints { count },
            Self::Retries {
                count,
                webhooks,
                due_after,
            } => Scenario::Retries {
                count,
                webhooks,
                due_after,
            },
            Self::Hanging { count, seconds } => {
                beside(Neighbour::Hanging { endpoints: count }, seconds)
            }
            Self::Floods { seconds } => beside(Neighbour::Floods, seconds),
            Self::Tenant { seconds } => beside(Neighbour::Tenant, seconds),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ScenarioArgs {
    /// A scenario, `all` or `list`
    name: String,
    /// Where the programs are [default: beside this one]
    #[arg(long)]
    bin_dir: Option<PathBuf>,
    /// How long a fault lasts that may last any time
    #[arg(long = "for", default_value = "30s", value_parser = humantime::parse_duration)]
    lasting: Duration,
    /// What random choices are drawn from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where data, logs and ledgers go, and stay [default: a temporary folder, kept on failure]
    #[arg(long)]
    folder: Option<PathBuf>,
}

pub(crate) async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Receiver(args) => receiver(args).await?,
        Command::Publish(args) => publish(args).await?,
        Command::BareHttp(args) => http_peer(args).await?,
        Command::BareBus(args) => {
            let peer = BusPeer {
                url: args.url,
                fan_out: args.fan_out,
                batching: args.batching,
                duration: args.duration,
            };
            say(format_args!(
                "{:.0} deliveries/s",
                bare_bus(&peer).await?.per_second()
            ));
        }
        Command::Bench(args) => {
            let options = BenchOptions {
                bin_dir: beside(args.bin_dir)?,
                quick: args.quick,
                only: args.only,
                folder: args.folder,
            };
            say(bench::run(&options, note).await?);
        }
        Command::BenchSearch(args) => {
            let options = SearchOptions {
                bin_dir: beside(args.bin_dir)?,
                folder: args.folder,
                deliveries: args.deliveries,
                runs: args.runs,
                requests: args.requests,
            };
            say(search::run(&options, note).await?);
        }
        Command::Faults(args) => return crash_test(args).await,
        Command::Scenario(args) => return scenarios(args).await,
        Command::Soak(args) => {
            let options = SoakOptions {
                bin_dir: beside(args.bin_dir)?,
                folder: args.folder,
                scenario: args.what.scenario(),
            };
            say(soak::run(&options, note).await?);
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn receiver(args: ReceiverArgs) -> anyhow::Result<()> {
    let mut signals = Signals::catch()?;
    let secrets = args
        .secrets
        .iter()
        .map(|secret| SigningKey::parse(secret))
        .collect::<Result<_, _>>()?;
    let options = ReceiverOptions {
        address: args.listen,
        keep: args.keep,
        ledger: args.ledger,
        secrets,
        seed: args.seed,
    };
    let receiver = Receiver::start(options).await?;
    say(format_args!("listening at {}", receiver.url("")));
    signals.next().await;
    receiver.stop().await
}

async fn publish(args: PublishArgs) -> anyhow::Result<()> {
    let mut signals = Signals::catch()?;
    let target = Target {
        door: args.door,
        url: args.url,
        token: args.token,
    };
    let links = if args.links.is_empty() {
        vec![Uuid::new_v4()]
    } else {
        args.links
    };
    let subject = Subject {
        workspace: args.workspace,
        links,
        kinds: args.kinds,
    };
    let plan = Plan {
        rate: args.rate,
        count: args.count,
        workers: args.workers,
        batch: args.batch,
        retry: args.retry,
        gate: None,
        traceparent: None,
    };
    let ledger = args
        .ledger
        .as_deref()
        .map_or_else(|| Ok(Ledger::none()), Ledger::open)?;
    let stop = CancellationToken::new();
    let publishing = publish::run(&target, &subject, &plan, &ledger, &stop);
    tokio::pin!(publishing);
    let tally = tokio::select! {
        tally = &mut publishing => tally?,
        _ = signals.next() => {
            stop.cancel();
            publishing.await?
        }
    };
    ledger.flush()?;
    say(format_args!(
        "{} ok, {} refused, {} unknown",
        tally.ok, tally.refused, tally.unknown
    ));
    Ok(())
}

async fn http_peer(args: BareHttpArgs) -> anyhow::Result<()> {
    let own = match args.url {
        Some(_) => None,
        None => Some(
            Receiver::start(ReceiverOptions {
                keep: 0,
                ..ReceiverOptions::default()
            })
            .await?,
        ),
    };
    let url = args
        .url
        .or_else(|| own.as_ref().map(|receiver| receiver.url("")))
        .context("no receiver")?;
    let peer = HttpPeer {
        url,
        path: "/ok".to_owned(),
        connections: args.connections,
        duration: args.duration,
    };
    say(format_args!(
        "{:.0} requests/s",
        bare_http(&peer).await?.per_second()
    ));
    Ok(())
}

async fn crash_test(args: FaultArgs) -> anyhow::Result<ExitCode> {
    let options = FaultOptions {
        bin_dir: beside(args.bin_dir)?,
        seed: args.seed.unwrap_or_else(rand::random),
        faults: if args.quick {
            faults::QUICK_FAULTS
        } else {
            args.faults
        },
        folder: args.folder,
    };
    let outcome = faults::run(&options, note).await?;
    say(&outcome);
    Ok(if outcome.holds() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn scenarios(args: ScenarioArgs) -> anyhow::Result<ExitCode> {
    if args.name == "list" {
        for one in scenario::ALL {
            say(format_args!(
                "{:<20} {:<16} {}",
                one.name, one.rows, one.what
            ));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let wanted = match args.name.as_str() {
        "all" => scenario::ALL.to_vec(),
        name => vec![scenario::find(name)?],
    };
    let bin_dir = beside(args.bin_dir)?;
    let mut failed = Vec::new();
    for one in &wanted {
        let options = ScenarioOptions {
            bin_dir: bin_dir.clone(),
            lasting: args.lasting,
            seed: args.seed,
            folder: args.folder.as_ref().map(|folder| folder.join(one.name)),
        };
        let began = std::time::Instant::now();
        let mut note = |line: String| {
            note(format_args!(
                "{:>6.1} s  {line}",
                began.elapsed().as_secs_f64()
            ))
        };
        match Box::pin(scenario::run(one, &options, &mut note)).await {
            Ok(outcome) => {
                say(&outcome);
                if !outcome.holds() {
                    failed.push(one.name);
                }
            }
            Err(error) => {
                say(format_args!("FAIL {} ({}): {error:#}", one.name, one.rows));
                failed.push(one.name);
            }
        }
    }
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    say(format_args!("failed: {}", failed.join(", ")));
    Ok(ExitCode::FAILURE)
}

fn beside(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    match given {
        Some(folder) => Ok(folder),
        None => {
            let own = std::env::current_exe().context("cannot tell where this program is")?;
            own.parent()
                .map(PathBuf::from)
                .context("this program lies nowhere")
        }
    }
}

/// What a command is asked for, on standard output. A reader that went away (`| head`) is no reason to
/// stop working.
fn say(line: impl Display) {
    let mut out = std::io::stdout().lock();
    drop(writeln!(out, "{line}").and_then(|()| out.flush()));
}

/// What happens meanwhile, on standard error, whose reader may have gone away too.
pub(crate) fn note(line: impl Display) {
    let mut out = std::io::stderr().lock();
    drop(writeln!(out, "{line}"));
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::Cli;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
