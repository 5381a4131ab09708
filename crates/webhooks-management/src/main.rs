//! The management service as a process.

fn main() -> std::process::ExitCode {
    webhooks_runtime::run("management", |config: webhooks_management::Config, ctx| {
        webhooks_management::serve(config, ctx)
    })
}
