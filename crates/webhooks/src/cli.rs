//! The command line. What a flag does not say comes from `WEBHOOKS_*` variables.

use std::{path::PathBuf, str::FromStr, time::Duration};

use clap::{Args, Parser, Subcommand};
use uuid::Uuid;
use webhooks_bus::permissions::Role;
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
    /// Make, list, change and delete workspaces
    #[command(subcommand)]
    Workspace(WorkspaceCommand),
    /// Make, list and revoke access tokens
    #[command(subcommand)]
    Token(TokenCommand),
    /// Look at deliveries, with what customers do not see
    #[command(subcommand)]
    Delivery(DeliveryCommand),
    /// Make and look at nkeys, which users of NATS sign in with
    #[command(subcommand)]
    Nkey(NkeyCommand),
    /// Print nats-server's accounts: who may connect and what they may publish and hear
    NatsConfig(NatsConfigOptions),
    /// Make the keys that services share, unless they are there (one file each, mode 600)
    Secrets(SecretsOptions),
    /// Make a private authority and certificates of it, unless they are there
    Certificates(CertificatesOptions),
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
    /// Role of the database that the services run as: it is granted what they need and no more
    #[arg(long, conflicts_with = "bus_only")]
    pub(crate) app_role: Option<String>,
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
    /// Publish a dead letter's payload to where it belongs, then remove the letter; an event that would
    /// be refused again is kept
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
    /// nats-server's monitoring address (http://host:8222), for settings that clients cannot see; else
    /// that of WEBHOOKS_NATS_MONITOR_URL
    #[arg(long)]
    pub(crate) nats_monitor: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum WorkspaceCommand {
    /// Make a workspace; nothing happens when its id is taken
    Create(WorkspaceCreateOptions),
    /// Show a workspace
    Show(WorkspaceIdOptions),
    /// List all workspaces, oldest first
    List,
    /// Change a workspace's plan, limits, notification addresses, name or sandbox flag
    Update(WorkspaceUpdateOptions),
    /// Delete a workspace: its deliveries stop at once, its history stays until retention
    Delete(WorkspaceDeleteOptions),
}

#[derive(Debug, Args)]
pub(crate) struct WorkspaceIdOptions {
    /// The workspace
    pub(crate) id: Uuid,
}

#[derive(Debug, Args)]
pub(crate) struct WorkspaceDeleteOptions {
    /// The workspace
    pub(crate) id: Uuid,
    /// Its name, so that no other one is deleted by mistake
    #[arg(long)]
    pub(crate) name: String,
}

/// What a workspace may; what is not given stays, `none` takes a limit away.
#[derive(Debug, Default, Args)]
pub(crate) struct WorkspaceLimitOptions {
    /// Webhooks of any status, or none for what the plan says
    #[arg(long, value_name = "NUMBER|none")]
    pub(crate) max_webhooks: Option<Limit>,
    /// Most attempts that a retry policy may ask for, or none
    #[arg(long, value_name = "NUMBER|none")]
    pub(crate) retry_max_attempts: Option<Limit>,
    /// Longest time that a retry policy may ask for, in seconds, or none
    #[arg(long, value_name = "SECONDS|none")]
    pub(crate) retry_max_age_seconds: Option<Limit>,
    /// Events a second at each ingest process, or none for what the installation says
    #[arg(long, value_name = "NUMBER|none")]
    pub(crate) events_per_second: Option<Limit>,
    /// Deliveries held for one webhook, or none
    #[arg(long, value_name = "NUMBER|none")]
    pub(crate) held_per_webhook: Option<Limit>,
}

/// A number, or `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit(pub(crate) Option<i64>);

impl std::str::FromStr for Limit {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Self(None)),
            number => number.parse().map(|number| Self(Some(number))),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct WorkspaceUpdateOptions {
    /// The workspace
    pub(crate) id: Uuid,
    /// What people call it
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// FREE, LIGHT, PRO or ENTERPRISE; what exists beyond its limit stays
    #[arg(long)]
    pub(crate) plan: Option<Plan>,
    /// Whether its new tokens are test tokens
    #[arg(long, value_name = "true|false")]
    pub(crate) sandbox: Option<bool>,
    /// Who is told of its webhooks' trouble; all of them anew
    #[arg(long = "notify", value_name = "ADDRESS")]
    pub(crate) notify: Vec<String>,
    /// Tell nobody any more
    #[arg(long, conflicts_with = "notify")]
    pub(crate) notify_nobody: bool,
    /// Whether nothing is delivered to an endpoint that has not answered a challenge
    #[arg(long, value_name = "true|false")]
    pub(crate) endpoint_verification: Option<bool>,
    /// A host whose endpoints need not answer (`hooks.zapier.com`, `*.make.com`); all of them anew
    #[arg(long = "exempt-host", value_name = "HOST")]
    pub(crate) exempt_hosts: Vec<String>,
    /// Every endpoint has to answer
    #[arg(long, conflicts_with = "exempt_hosts")]
    pub(crate) exempt_no_host: bool,
    #[command(flatten)]
    pub(crate) limits: WorkspaceLimitOptions,
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
    /// Its tokens are test tokens
    #[arg(long)]
    pub(crate) sandbox: bool,
    /// Who is told of its webhooks' trouble (again for more, at most ten)
    #[arg(long = "notify", value_name = "ADDRESS")]
    pub(crate) notify: Vec<String>,
    #[command(flatten)]
    pub(crate) limits: WorkspaceLimitOptions,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token and print it: it is shown this once
    Create(TokenCreateOptions),
    /// List a workspace's tokens, revoked ones included
    List(TokenListOptions),
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
    /// Where its member is told of the trouble of webhooks it makes, if the workspace names nobody
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) member_email: Option<String>,
    /// A token for a sandbox (lbk_test_…) instead of production (lbk_live_…)
    #[arg(long)]
    pub(crate) test: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TokenListOptions {
    /// The workspace they open
    #[arg(long)]
    pub(crate) workspace: Uuid,
}

#[derive(Debug, Args)]
pub(crate) struct TokenRevokeOptions {
    /// The workspace it opens
    #[arg(long)]
    pub(crate) workspace: Uuid,
    /// The token's public id (the twelve characters after lbk_live_ or lbk_test_)
    pub(crate) id: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeliveryCommand {
    /// Show a delivery and its attempts, with the addresses that were connected to
    Show(DeliveryShowOptions),
}

#[derive(Debug, Args)]
pub(crate) struct DeliveryShowOptions {
    /// The delivery
    pub(crate) id: Uuid,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NkeyCommand {
    /// Write a new seed to a file (mode 600) and print its public key
    New(NkeyOptions),
    /// Print the public key of a seed
    Public(NkeyOptions),
}

#[derive(Debug, Args)]
pub(crate) struct NkeyOptions {
    /// The seed's file
    pub(crate) file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct NatsConfigOptions {
    /// Folder with seeds (<role>.nk) and publishers' passwords; what is missing is made
    #[arg(long)]
    pub(crate) folder: Option<PathBuf>,
    /// A role's public key, ROLE=U…: ingest, fanout, dispatcher, management, operator
    #[arg(long = "key")]
    pub(crate) keys: Vec<RoleKey>,
    /// A publisher of a workspace, WORKSPACE=U… (or WORKSPACE alone: a password in --folder)
    #[arg(long = "publisher")]
    pub(crate) publishers: Vec<PublisherKey>,
}

/// `ROLE=U…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RoleKey(pub(crate) Role, pub(crate) String);

impl FromStr for RoleKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (role, public) = text.split_once('=').ok_or("expected ROLE=U…")?;
        Ok(Self(role.parse()?, public.to_owned()))
    }
}

/// `WORKSPACE[=U…]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PublisherKey(pub(crate) Uuid, pub(crate) Option<String>);

impl FromStr for PublisherKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (workspace, public) = match text.split_once('=') {
            Some((workspace, public)) => (workspace, Some(public.to_owned())),
            None => (text, None),
        };
        let workspace = workspace.parse().map_err(|_| "expected WORKSPACE=U…")?;
        Ok(Self(workspace, public))
    }
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct SecretsOptions {
    /// Where to
    #[arg(required = true)]
    pub(crate) folder: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Option<SecretsCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SecretsCommand {
    /// Seal with the first of WEBHOOKS_ENCRYPTION_KEYS what the others have sealed
    Rewrap,
}

#[derive(Debug, Args)]
pub(crate) struct CertificatesOptions {
    /// Where to: ca.pem, ca.key, and <name>.pem and <name>.key for each name
    pub(crate) folder: PathBuf,
    /// Who gets one: NAME, or NAME=DNS[,DNS…] for other names in the certificate
    #[arg(required = true)]
    pub(crate) names: Vec<CertificateName>,
    /// How long they last, from now
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u16).range(1..=3650))]
    pub(crate) days: u16,
}

/// `NAME[=DNS[,DNS…]]`: the files' name, and the names in the certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CertificateName {
    pub(crate) file: String,
    pub(crate) names: Vec<String>,
}

impl FromStr for CertificateName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (file, names) = text.split_once('=').unwrap_or((text, text));
        let harmless = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if file.is_empty() || file == "ca" || !file.bytes().all(harmless) {
            return Err("a name is of letters, digits, - and _, and not ca".to_owned());
        }
        Ok(Self {
            file: file.to_owned(),
            names: names.split(',').map(str::to_owned).collect(),
        })
    }
}

#[derive(Debug, Args)]
pub(crate) struct ProbeOptions {
    /// Such as http://127.0.0.1:8081/readyz
    pub(crate) url: String,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::{Cli, Limit};

    #[test]
    fn a_limit_is_a_number_or_none() {
        assert_eq!("none".parse(), Ok(Limit(None)));
        assert_eq!("7".parse(), Ok(Limit(Some(7))));
        assert!("".parse::<Limit>().is_err());
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
