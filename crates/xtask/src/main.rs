//! `cargo xtask`: checks of the workspace that no compiler makes, and what is written from its
//! dependencies.
//!
//! * `cargo xtask check` (`cargo test` does the same): who may depend on whom, whether every licence
//!   and source is one of deny.toml's, whether every crate of ours keeps to the workspace's lints.
//! * `cargo xtask sbom [FILE]`: the list of everything that our programs are made of.

mod arrows;
mod licences;
mod metadata;
mod sbom;
mod sources;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        None | Some("check") => {
            let problems = problems()?;
            ensure!(problems.is_empty(), "{}", problems.join("\n"));
        }
        Some("sbom") => write(arguments.next().map(PathBuf::from).as_deref())?,
        Some(other) => bail!("{other:?} is no task: `check`, `sbom [FILE]`"),
    }
    Ok(())
}

/// Everything that is not as it must be.
fn problems() -> anyhow::Result<Vec<String>> {
    let root = metadata::root()?;
    let (ours, everything) = (metadata::of_ours()?, metadata::of_everything()?);
    let deny = read(&root.join("deny.toml"))?;
    let allowed = sources::list(&deny, "allow");
    ensure!(!allowed.is_empty(), "deny.toml allows no licence");
    let registries = sources::list(&deny, "allow-registry");
    let mut problems = arrows::broken_arrows(&ours)?;
    problems.extend(unlinted(&ours)?);
    problems.extend(licences::refused(&everything, &allowed)?);
    problems.extend(sources::refused(&everything, &registries, &locked()?)?);
    Ok(problems)
}

/// Crates of ours that do not take the workspace's lints, `forbid(unsafe_code)` among them.
fn unlinted(ours: &Value) -> anyhow::Result<Vec<String>> {
    let mut problems = Vec::new();
    for package in metadata::packages(ours)? {
        let manifest = read(Path::new(metadata::text(package, "manifest_path")?))?;
        if !takes_lints(&manifest) {
            let name = metadata::text(package, "name")?;
            problems.push(format!("{name} does not take the workspace's lints"));
        }
    }
    Ok(problems)
}

fn takes_lints(manifest: &str) -> bool {
    let mut lines = manifest.lines().map(str::trim);
    lines.any(|line| line == "[lints]") && lines.next() == Some("workspace = true")
}

fn locked() -> anyhow::Result<BTreeMap<(String, String), String>> {
    Ok(sources::locked(&read(
        &metadata::root()?.join("Cargo.lock"),
    )?))
}

fn write(file: Option<&Path>) -> anyhow::Result<()> {
    let list = sbom::sbom(&metadata::of_everything()?, &locked()?)?;
    let text = format!("{list:#}\n");
    match file {
        Some(file) => {
            std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
        }
        None => {
            print(&text);
            Ok(())
        }
    }
}

#[expect(
    clippy::print_stdout,
    reason = "what a task is asked for goes to standard output"
)]
fn print(text: &str) {
    print!("{text}");
}

fn read(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::{problems, takes_lints};

    #[test]
    fn arrows_lints_licences_and_sources_are_as_they_must_be() {
        assert_eq!(problems().unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_crate_without_the_workspaces_lints_is_seen() {
        assert!(takes_lints(
            "[package]\nname = \"x\"\n\n[lints]\nworkspace = true\n"
        ));
        assert!(!takes_lints("[package]\nname = \"x\"\n"));
        assert!(!takes_lints("[lints]\nworkspace = false\n"));
    }
}
