//! The vendor's own client finds our API unchanged.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::process::Command;
use webhooks_loadgen::stack::{Stack, StackOptions};

/// How long its whole program may take.
const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_vendors_python_client_lives_through_a_webhooks_life_unchanged() -> anyhow::Result<()> {
    let packages = super::root().join(".tools/checks/python");
    ensure!(
        packages.join("linkbreakers").is_dir(),
        "the vendor's client is not fetched yet: run `make check-tools`"
    );
    let folder = tempfile::tempdir()?;
    let stack = Stack::start(StackOptions::new(super::bin_dir(), folder.path())).await?;
    let workspace = stack.workspace("Vendor").await?;
    let mut script = Command::new(super::root().join(".tools/venv/bin/python"));
    script
        .arg(super::root().join("tests/vendor_client/life_of_a_webhook.py"))
        .env("PYTHONPATH", &packages)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("WEBHOOKS_API_URL", stack.api_url())
        .env("WEBHOOKS_TOKEN", &workspace.token)
        .env("WEBHOOKS_TEST_ENDPOINT", "http://127.0.0.1:9/hook")
        .kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, script.output()).await;
    let output = output.context("it does not end")??;
    let (told, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{told}\n{errors}");
    assert!(
        told.trim_end()
            .ends_with("the vendor's client 1.183.3 is content"),
        "{told}\n{errors}"
    );
    stack.stop_all().await
}
