//! The command line. What a flag does not say comes from `WEBHOOKS_*` variables.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use uuid::Uuid;
use webhooks_domain::webhook::Plan;

/// Webhook delivery that never loses an event.
#[derive(Debug, Parser)]
#[command(name = "webhooks", arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start everything on this machine, show one delivery, and keep it running until Ctrl-C
    Up(UpOptions),
    /// Run the four services in this one process, for debugging
    Dev,
    /// Bring the database schema and the NATS streams to this version
    Migrate(MigrateOptions),
    /// Make a demo workspace and webhook, publish the sample event, show the delivery
    Demo(DemoOptions),
    /// Look at messages that could not be processed, fix them, send them on their way again
    #[command(subcommand)]
    Dead(DeadCommand),
    /// Print every setting
    Config(ConfigOptions),
    /// Say what is not as it must be: NATS, streams, database, clocks
    Doctor(DoctorOptions),
    /// Make workspaces
    #[command(subcommand)]
    Workspace(WorkspaceCommand),
    /// Make and revoke access tokens
    #[command(subcommand)]
    Token(TokenCommand),
    /// Make the keys that services share, unless they are there (one file each, mode 600)
    Secrets(SecretsOptions),
    /// Ask a health URL; fails unless it answers 200
    Probe(ProbeOptions),
}

#[derive(Debug, Args)]
pub(crate) struct UpOptions {
    /// Folder for data, logs, pid files, keys, and `env`
    #[arg(long, default_value = ".run")]
    pub(crate) folder: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct MigrateOptions {
    /// How long to wait for PostgreSQL and NATS
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    pub(crate) wait: Duration,
    /// Only the database
    #[arg(long, conflicts_with = "bus_only")]
    pub(crate) database_only: bool,
    /// Only NATS
    #[arg(long)]
    pub(crate) bus_only: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DemoOptions {
    /// Where the REST API is
    #[arg(long)]
    pub(crate) api: String,
    /// Where `webhooks-loadgen receiver` is, as we reach it
    #[arg(long)]
    pub(crate) receiver: String,
    /// Where the receiver is, as the dispatchers reach it [default: the same]
    #[arg(long)]
    pub(crate) endpoint: Option<String>,
    /// Folder that keeps the demo's tokens and signing secret
    #[arg(long, default_value = ".run/secrets")]
    pub(crate) secrets: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeadCommand {
    /// List dead letters, oldest first
    List(DeadListOptions),
    /// Show one dead letter whole, payload included
    Show(DeadShowOptions),
    /// Publish a dead letter's payload to where it belongs, then remove the letter
    Redrive(RedriveOptions),
}

#[derive(Debug, Args)]
pub(crate) struct DeadListOptions {
    /// Only letters of this service: ingest, fanout, dispatcher or management
    #[arg(long)]
    pub(crate) source: Option<String>,
    /// Begin at this number
    #[arg(long, default_value_t = 1)]
    pub(crate) from: u64,
    /// At most this many
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) limit: u32,
}

#[derive(Debug, Args)]
pub(crate) struct DeadShowOptions {
    /// The letter's number
    pub(crate) number: u64,
}

#[derive(Debug, Args)]
pub(crate) struct RedriveOptions {
    /// The letters' numbers
    #[arg(required_unless_present = "all")]
    pub(crate) numbers: Vec<u64>,
    /// Every letter (of `--source`, if given)
    #[arg(long, conflicts_with_all = ["numbers", "payload"])]
    pub(crate) all: bool,
    /// With --all: only letters of this service
    #[arg(long, requires = "all")]
    pub(crate) source: Option<String>,
    /// Send this file's bytes instead of the kept payload (one letter only)
    #[arg(long)]
    pub(crate) payload: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigOptions {
    /// The effective values of this environment, secrets masked (the default)
    #[arg(long)]
    pub(crate) print: bool,
    /// The reference, as in docs/settings.md
    #[arg(long, conflicts_with = "print")]
    pub(crate) markdown: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorOptions {
    /// nats-server's monitoring address (http://host:8222), for settings that clients cannot see
    #[arg(long)]
    pub(crate) nats_monitor: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum WorkspaceCommand {
    /// Make a workspace; nothing happens when its id is taken
    Create(WorkspaceCreateOptions),
}

#[derive(Debug, Args)]
pub(crate) struct WorkspaceCreateOptions {
    /// What people call it
    #[arg(long)]
    pub(crate) name: String,
    /// FREE, LIGHT, PRO or ENTERPRISE
    #[arg(long, default_value = "FREE")]
    pub(crate) plan: Plan,
    /// Its id [default: a new one]
    #[arg(long)]
    pub(crate) id: Option<Uuid>,
    /// The member that owns it [default: a new id]
    #[arg(long)]
    pub(crate) owner: Option<Uuid>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token and print it: it is shown this once
    Create(TokenCreateOptions),
    /// Revoke a token
    Revoke(TokenRevokeOptions),
}

#[derive(Debug, Args)]
pub(crate) struct TokenCreateOptions {
    /// The workspace it opens
    #[arg(long)]
    pub(crate) workspace: Uuid,
    /// What people call it
    #[arg(long, default_value = "operator")]
    pub(crate) name: String,
    /// What it may do, such as webhooks:read or events:write; none given means everything
    #[arg(long = "scope")]
    pub(crate) scopes: Vec<String>,
    /// For how long [default: for ever]
    #[arg(long, value_parser = humantime::parse_duration)]
    pub(crate) expires_in: Option<Duration>,
    /// A token for a sandbox (lbk_test_…) instead of production (lbk_live_…)
    #[arg(long)]
    pub(crate) test: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TokenRevokeOptions {
    /// The workspace it opens
    #[arg(long)]
    pub(crate) workspace: Uuid,
    /// The token's public id (the twelve characters after lbk_live_ or lbk_test_)
    pub(crate) id: String,
}

#[derive(Debug, Args)]
pub(crate) struct SecretsOptions {
    /// Where to
    pub(crate) folder: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ProbeOptions {
    /// Such as http://127.0.0.1:8081/readyz
    pub(crate) url: String,
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
