//! Where dependencies come from: this folder, and the registries of deny.toml, pinned by hash.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::metadata::{packages, text};

/// Every package that comes from elsewhere, or that Cargo.lock does not pin.
pub(crate) fn refused(
    metadata: &Value,
    registries: &[String],
    lock: &BTreeMap<(String, String), String>,
) -> anyhow::Result<Vec<String>> {
    let root = text(metadata, "workspace_root")?;
    let mut problems = Vec::new();
    for package in packages(metadata)? {
        let (name, version) = (text(package, "name")?, text(package, "version")?);
        let Some(source) = package["source"].as_str() else {
            if !text(package, "manifest_path")?.starts_with(root) {
                problems.push(format!("{name} {version} lies outside of this folder"));
            }
            continue;
        };
        let registry = source.strip_prefix("registry+");
        if !registry.is_some_and(|registry| registries.iter().any(|allowed| allowed == registry)) {
            problems.push(format!("{name} {version} comes from {source}"));
        } else if !lock.contains_key(&(name.to_owned(), version.to_owned())) {
            problems.push(format!("Cargo.lock has no hash of {name} {version}"));
        }
    }
    Ok(problems)
}

/// The hashes of Cargo.lock, by name and version.
pub(crate) fn locked(text: &str) -> BTreeMap<(String, String), String> {
    let mut hashes = BTreeMap::new();
    for package in text.split("[[package]]").skip(1) {
        let field = |name: &str| {
            let mut lines = package.lines();
            let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "))?;
            Some(value.trim_matches('"').to_owned())
        };
        if let (Some(name), Some(version), Some(hash)) =
            (field("name"), field("version"), field("checksum"))
        {
            hashes.insert((name, version), hash);
        }
    }
    hashes
}

/// The entries of a list of strings in deny.toml: `name = [ … ]`, at the start of a line.
pub(crate) fn list(toml: &str, name: &str) -> Vec<String> {
    let start = toml.lines().position(|line| {
        line.strip_prefix(name)
            .is_some_and(|rest| rest.trim_start().starts_with("= ["))
    });
    let Some(start) = start else {
        return Vec::new();
    };
    let mut entries = Vec::new();
    for line in toml.lines().skip(start) {
        let line = line.split(" #").next().unwrap_or_default();
        // Every second piece stands between quotes.
        entries.extend(line.split('"').skip(1).step_by(2).map(str::to_owned));
        if line.trim_end().ends_with(']') {
            break;
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{list, locked, refused};

    #[test]
    fn foreign_and_unpinned_packages_are_named() {
        let package = |name: &str, source: Option<&str>, manifest: &str| json!({"name": name, "version": "1.0.0", "source": source, "manifest_path": manifest});
        let (here, good) = (
            "/checkout/crates/x/Cargo.toml",
            Some("registry+https://good"),
        );
        let metadata = json!({"workspace_root": "/checkout", "packages": [
            package("ours", None, here),
            package("beside", None, "/elsewhere/Cargo.toml"),
            package("good", good, "/cache/good"),
            package("unpinned", good, "/cache/unpinned"),
            package("forked", Some("git+https://good"), "/cache/forked"),
            package("other", Some("registry+https://other"), "/cache/other"),
        ]});
        let lock = locked(
            "version = 4\n\n[[package]]\nname = \"good\"\nversion = \"1.0.0\"\nsource = \"x\"\nchecksum = \"00ff\"\n\n[[package]]\nname = \"ours\"\nversion = \"1.0.0\"\n",
        );
        assert_eq!(
            refused(&metadata, &["https://good".to_owned()], &lock).unwrap(),
            [
                "beside 1.0.0 lies outside of this folder",
                "Cargo.lock has no hash of unpinned 1.0.0",
                "forked 1.0.0 comes from git+https://good",
                "other 1.0.0 comes from registry+https://other",
            ]
        );
    }

    #[test]
    fn lists_are_read_on_one_line_and_on_many() {
        let toml = "allowed = [\"no\"]\nallow = [\n    \"MIT\", # \"not this\"\n    \"Apache-2.0 WITH LLVM-exception\",\n]\nallow-registry = [\"https://x\"]\n";
        assert_eq!(
            list(toml, "allow"),
            ["MIT", "Apache-2.0 WITH LLVM-exception"]
        );
        assert_eq!(list(toml, "allow-registry"), ["https://x"]);
        assert!(list(toml, "nothing").is_empty());
    }
}
