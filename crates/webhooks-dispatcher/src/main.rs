//! The dispatcher's process.

fn main() -> std::process::ExitCode {
    webhooks_runtime::run("dispatcher", webhooks_dispatcher::run)
}
