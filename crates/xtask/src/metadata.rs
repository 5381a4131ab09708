//! What cargo says of this workspace.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, bail};
use serde_json::Value;

/// The folder of the workspace.
pub(crate) fn root() -> anyhow::Result<PathBuf> {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let root = own.ancestors().nth(2);
    Ok(root.context("xtask lies two folders deep")?.to_owned())
}

/// Our own crates, without what they depend on.
pub(crate) fn of_ours() -> anyhow::Result<Value> {
    metadata(&["--no-deps"])
}

/// Everything that a build on this machine's kind of machine uses, and how it hangs together.
pub(crate) fn of_everything() -> anyhow::Result<Value> {
    let host = host()?;
    metadata(&["--filter-platform", &host])
}

fn metadata(more: &[&str]) -> anyhow::Result<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--locked", "--format-version", "1"])
        .args(more)
        .current_dir(root()?)
        .output()
        .context("cannot run cargo metadata")?;
    if !output.status.success() {
        bail!(
            "cargo metadata failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    serde_json::from_slice(&output.stdout).context("cargo metadata did not answer JSON")
}

/// The name of this kind of machine, `x86_64-unknown-linux-gnu`.
fn host() -> anyhow::Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .arg("-vV")
        .output()
        .context("cannot run rustc")?;
    let text = String::from_utf8(output.stdout)?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not name its host")?.to_owned())
}

/// A member of a package that is text.
pub(crate) fn text<'a>(package: &'a Value, name: &str) -> anyhow::Result<&'a str> {
    let value = package[name].as_str();
    value.with_context(|| format!("a package without {name}: {}", package["id"]))
}

/// The packages.
pub(crate) fn packages(metadata: &Value) -> anyhow::Result<&Vec<Value>> {
    metadata["packages"].as_array().context("no packages")
}
