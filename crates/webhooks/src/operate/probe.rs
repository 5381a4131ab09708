//! `webhooks probe URL`: the health check of a container that has no other tools.

use anyhow::bail;
use webhooks_devstack::http_get;

use crate::{cli::ProbeOptions, console::say};

/// The command.
///
/// # Errors
/// Nobody answers, or not with 200; the answer is quoted.
pub(crate) async fn run(options: &ProbeOptions) -> anyhow::Result<()> {
    match http_get(&options.url).await? {
        (200, body) => say(body.trim()),
        (status, body) => bail!("{} answered {status}: {}", options.url, body.trim()),
    }
    Ok(())
}
