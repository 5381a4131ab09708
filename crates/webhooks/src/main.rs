//! `webhooks`: the whole system on one machine, and the operators' commands.
//!
//! `webhooks up` is what `make run` starts: every part as a process of its own, watched and started
//! again when it dies. `webhooks dev` runs the four services in this process, for a debugger. The
//! other commands are for operators; `webhooks help` lists them.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong arguments, 64 settings that cannot be used (all problems
//! are named at once), 130 interrupted twice.

mod cli;
mod console;
mod demo;
mod dev;
mod http;
mod operate;
mod secrets;
mod up;

use std::process::ExitCode;

use clap::Parser as _;
use webhooks_runtime::{EXIT_SETTINGS, SettingsError, install_tls_provider};

use crate::cli::{
    Cli, Command, DeadCommand, DeliveryCommand, NkeyCommand, TokenCommand, WorkspaceCommand,
};

fn main() -> ExitCode {
    let command = Cli::parse().command;
    // The services bring their own runtime, logs and signals.
    if matches!(command, Command::Dev) {
        return dev::run();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            console::complain(format_args!("cannot start threads: {error}"));
            return ExitCode::FAILURE;
        }
    };
    console::log_warnings();
    install_tls_provider();
    let result = runtime.block_on(Box::pin(run(command)));
    runtime.shutdown_background();
    match result {
        Ok(code) => code,
        Err(error) => {
            console::complain(format_args!("{error:#}"));
            let settings = error.downcast_ref::<SettingsError>().is_some();
            if settings {
                ExitCode::from(EXIT_SETTINGS)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Dev => return Ok(dev::run()),
        Command::Up(options) => return up::run(options).await,
        Command::Doctor(options) => return operate::doctor::run(&options).await,
        Command::Migrate(options) => operate::migrate::run(&options).await?,
        Command::Demo(options) => demo::run(&options).await?,
        Command::Config(options) => operate::config::run(&options)?,
        Command::Dead(DeadCommand::List(options)) => operate::dead::list(&options).await?,
        Command::Dead(DeadCommand::Show(options)) => operate::dead::show(&options).await?,
        Command::Dead(DeadCommand::Redrive(options)) => operate::redrive::run(&options).await?,
        Command::Workspace(WorkspaceCommand::Create(options)) => {
            operate::accounts::create_workspace(&options).await?
        }
        Command::Workspace(WorkspaceCommand::Show(options)) => {
            operate::workspaces::show(&options).await?
        }
        Command::Workspace(WorkspaceCommand::List) => operate::workspaces::list().await?,
        Command::Workspace(WorkspaceCommand::Update(options)) => {
            operate::workspaces::update(&options).await?
        }
        Command::Workspace(WorkspaceCommand::Delete(options)) => {
            operate::workspaces::delete(&options).await?
        }
        Command::Token(TokenCommand::List(options)) => {
            operate::accounts::list_tokens(&options).await?
        }
        Command::Token(TokenCommand::Create(options)) => {
            operate::accounts::create_token(&options).await?
        }
        Command::Token(TokenCommand::Revoke(options)) => {
            operate::accounts::revoke_token(&options).await?
        }
        Command::Delivery(DeliveryCommand::Show(options)) => {
            operate::deliveries::show(&options).await?
        }
        Command::Nkey(NkeyCommand::New(options)) => operate::nats::new_key(&options)?,
        Command::Nkey(NkeyCommand::Public(options)) => operate::nats::show_key(&options)?,
        Command::NatsConfig(options) => operate::nats::config(&options)?,
        Command::Secrets(options) => secrets::run(&options).await?,
        Command::Certificates(options) => operate::certificates::run(&options)?,
        Command::Probe(options) => operate::probe::run(&options).await?,
    }
    Ok(ExitCode::SUCCESS)
}
