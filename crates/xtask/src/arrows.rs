//! Who may depend on whom.
//!
//! The arrows are what keeps the domain pure, SQL in one place, and a service from reaching into
//! another; a dependency that breaks one should be a decision and not an accident. Dependencies for
//! tests are free.

use std::collections::BTreeSet;

use anyhow::Context as _;
use serde_json::Value;

/// A crate of ours and what it may use of the others, without the common prefix `webhooks-`.
const ARROWS: [(&str, &[&str]); 14] = [
    // Pure: time and randomness arrive as arguments.
    ("domain", &[]),
    ("proto", &[]),
    // For programs of others: it brings nothing of ours but the generated code.
    ("client", &["proto"]),
    ("runtime", &["domain"]),
    // The only crate with SQL.
    ("store", &["domain"]),
    // The only crate that names streams, subjects and consumers.
    ("bus", &["domain", "proto", "runtime"]),
    // The only way out.
    ("egress", &["domain", "runtime"]),
    // The services: never each other. Only management sees the store, only it and the dispatcher
    // see the way out.
    ("ingest", &["domain", "proto", "bus", "runtime"]),
    ("fanout", &["domain", "proto", "bus", "runtime"]),
    (
        "dispatcher",
        &["domain", "proto", "bus", "runtime", "egress"],
    ),
    (
        "management",
        &["domain", "proto", "bus", "runtime", "egress", "store"],
    ),
    // The tools. They look from outside.
    ("devstack", &[]),
    (
        "loadgen",
        &["domain", "proto", "bus", "runtime", "devstack"],
    ),
    ("e2e", &[]),
];

/// The all-in-one program may use everything.
const FREE: [&str; 2] = ["webhooks", "xtask"];

const PREFIX: &str = "webhooks-";

/// Every dependency that no arrow allows, and every crate without an entry.
pub(crate) fn broken_arrows(metadata: &Value) -> anyhow::Result<Vec<String>> {
    let packages = metadata["packages"].as_array().context("no packages")?;
    let mut problems = Vec::new();
    for package in packages {
        let name = package["name"]
            .as_str()
            .context("a package without a name")?;
        if FREE.contains(&name) {
            continue;
        }
        let Some((_, allowed)) = ARROWS
            .iter()
            .find(|(short, _)| name.strip_prefix(PREFIX) == Some(short))
        else {
            problems.push(format!("{name} is not in the table of arrows"));
            continue;
        };
        let dependencies = package["dependencies"].as_array().into_iter().flatten();
        let used: BTreeSet<&str> = dependencies
            .filter(|dependency| dependency["kind"] != "dev")
            .filter_map(|dependency| dependency["name"].as_str())
            .filter(|name| name.starts_with(PREFIX) || FREE.contains(name))
            .collect();
        let broken = used.into_iter().filter(|used| {
            !used
                .strip_prefix(PREFIX)
                .is_some_and(|used| allowed.contains(&used))
        });
        problems.extend(broken.map(|used| format!("{name} must not depend on {used}")));
    }
    Ok(problems)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::broken_arrows;
    use crate::metadata::of_ours;

    #[test]
    fn every_crate_keeps_to_its_arrows() {
        assert_eq!(
            broken_arrows(&of_ours().unwrap()).unwrap(),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_broken_arrow_is_named() {
        let package = |name: &str, dependency: &str, kind: Option<&str>| json!({"name": name, "dependencies": [{"name": dependency, "kind": kind}]});
        let metadata = json!({"packages": [
            package("webhooks-ingest", "webhooks-store", None),
            package("webhooks-fanout", "webhooks-ingest", Some("dev")),
            package("webhooks-domain", "webhooks", Some("build")),
            package("webhooks-domain", "serde", None),
            package("webhooks-new", "serde", None),
        ]});
        assert_eq!(
            broken_arrows(&metadata).unwrap(),
            [
                "webhooks-ingest must not depend on webhooks-store",
                "webhooks-domain must not depend on webhooks",
                "webhooks-new is not in the table of arrows",
            ]
        );
    }
}
