//! `webhooks-loadgen`: the receiver, publishers, peers, the crash test and the benchmark as commands.

mod cli;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let command = cli::Cli::parse().command;
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            cli::note(format_args!(
                "webhooks-loadgen: cannot start threads: {error}"
            ));
            return ExitCode::FAILURE;
        }
    };
    webhooks_runtime::install_tls_provider();
    let result = runtime.block_on(Box::pin(cli::run(command)));
    runtime.shutdown_background();
    result.unwrap_or_else(|error| {
        cli::note(format_args!("webhooks-loadgen: {error:#}"));
        ExitCode::FAILURE
    })
}
