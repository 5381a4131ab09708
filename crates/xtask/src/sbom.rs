//! A list of everything that our programs are made of: CycloneDX 1.5, JSON.
//!
//! It says what is compiled in or runs at compile time, not what only tests use. It holds no time and
//! no random number, so the same Cargo.lock always gives the same list.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::{
    licences::spdx,
    metadata::{packages, text},
};

/// Crates of ours that are in no image.
const NOT_SHIPPED: [&str; 2] = ["xtask", "webhooks-e2e"];

/// The list.
pub(crate) fn sbom(
    metadata: &Value,
    lock: &BTreeMap<(String, String), String>,
) -> anyhow::Result<Value> {
    let by_id: BTreeMap<&str, &Value> = packages(metadata)?
        .iter()
        .map(|package| Ok((text(package, "id")?, package)))
        .collect::<anyhow::Result<_>>()?;
    let uses = uses(metadata)?;
    let name = |id: &&str| by_id.get(id).and_then(|package| package["name"].as_str());
    let members = metadata["workspace_members"].as_array();
    let shipped: BTreeSet<&str> = members
        .context("no members")?
        .iter()
        .filter_map(Value::as_str)
        .filter(|id| name(id).is_some_and(|name| !NOT_SHIPPED.contains(&name)))
        .collect();
    let reached = reached(&shipped, &uses);
    let mut components = BTreeMap::new();
    let mut dependencies = BTreeMap::new();
    for id in &reached {
        let package = by_id.get(id).context("a dependency without a package")?;
        let reference = purl(package)?;
        let mut on = BTreeSet::new();
        for used in uses.get(id).into_iter().flatten() {
            on.insert(purl(by_id.get(used).context("an unknown dependency")?)?);
        }
        components.insert(reference.clone(), component(package, &reference, lock)?);
        dependencies.insert(
            reference.clone(),
            json!({ "ref": reference, "dependsOn": on }),
        );
    }
    let own: BTreeSet<String> = shipped
        .iter()
        .filter_map(|id| by_id.get(id))
        .map(|package| purl(package))
        .collect::<anyhow::Result<_>>()?;
    let whole = "linkbreakers-webhooks";
    let list = std::iter::once(json!({ "ref": whole, "dependsOn": own }));
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": { "type": "application", "bom-ref": whole, "name": whole } },
        "components": components.into_values().collect::<Vec<_>>(),
        "dependencies": list.chain(dependencies.into_values()).collect::<Vec<_>>(),
    }))
}

/// Who uses whom, dependencies for tests aside.
fn uses(metadata: &Value) -> anyhow::Result<BTreeMap<&str, Vec<&str>>> {
    let nodes = metadata["resolve"]["nodes"].as_array();
    let mut uses = BTreeMap::new();
    for node in nodes.context("no graph of dependencies")? {
        let for_more_than_tests = |dependency: &&Value| {
            let kinds = dependency["dep_kinds"].as_array();
            kinds.is_none_or(|kinds| kinds.iter().any(|kind| kind["kind"] != "dev"))
        };
        let used = node["deps"].as_array().into_iter().flatten();
        let used = used
            .filter(for_more_than_tests)
            .filter_map(|dependency| dependency["pkg"].as_str());
        uses.insert(text(node, "id")?, used.collect());
    }
    Ok(uses)
}

fn reached<'a>(
    from: &BTreeSet<&'a str>,
    uses: &BTreeMap<&'a str, Vec<&'a str>>,
) -> BTreeSet<&'a str> {
    let mut reached = from.clone();
    let mut open: VecDeque<&str> = from.iter().copied().collect();
    while let Some(id) = open.pop_front() {
        for used in uses.get(id).into_iter().flatten() {
            if reached.insert(used) {
                open.push_back(used);
            }
        }
    }
    reached
}

fn purl(package: &Value) -> anyhow::Result<String> {
    let (name, version) = (text(package, "name")?, text(package, "version")?);
    // The one character of versions that means something else in a URL.
    Ok(format!("pkg:cargo/{name}@{}", version.replace('+', "%2B")))
}

fn component(
    package: &Value,
    reference: &str,
    lock: &BTreeMap<(String, String), String>,
) -> anyhow::Result<Value> {
    let (name, version) = (text(package, "name")?, text(package, "version")?);
    let mut component = json!({
        "type": "library",
        "bom-ref": reference,
        "name": name,
        "version": version,
        "purl": reference,
    });
    if let Some(licence) = package["license"].as_str() {
        component["licenses"] = json!([{ "expression": spdx(licence) }]);
    }
    if let Some(hash) = lock.get(&(name.to_owned(), version.to_owned())) {
        component["hashes"] = json!([{ "alg": "SHA-256", "content": hash }]);
    }
    if let Some(repository) = package["repository"].as_str() {
        component["externalReferences"] = json!([{ "type": "vcs", "url": repository }]);
    }
    Ok(component)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::sbom;

    fn world() -> Value {
        let package = |name: &str, license: Option<&str>| json!({"id": name, "name": name, "version": "1.0.0+b", "license": license, "repository": null});
        let on =
            |name: &str, kind: Option<&str>| json!({"pkg": name, "dep_kinds": [{"kind": kind}]});
        json!({
            "workspace_members": ["webhooks", "xtask"],
            "packages": [
                package("webhooks", None), package("xtask", None), package("used", Some("MIT/ISC")),
                package("deep", None), package("tested", None), package("tool", None),
            ],
            "resolve": {"nodes": [
                {"id": "webhooks", "deps": [on("used", None), on("tested", Some("dev"))]},
                {"id": "xtask", "deps": [on("tool", None)]},
                {"id": "used", "deps": [on("deep", Some("build"))]},
                {"id": "deep", "deps": []}, {"id": "tested", "deps": []}, {"id": "tool", "deps": []},
            ]},
        })
    }

    #[test]
    fn what_is_shipped_is_listed_with_licence_and_hash_and_what_only_tests_use_is_not() {
        let lock = BTreeMap::from([(("used".to_owned(), "1.0.0+b".to_owned()), "00ff".to_owned())]);
        let list = sbom(&world(), &lock).unwrap();
        let components = list["components"].as_array().unwrap();
        let names: Vec<_> = components
            .iter()
            .map(|one| one["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["deep", "used", "webhooks"]);
        assert_eq!(
            components[1],
            json!({
                "type": "library", "bom-ref": "pkg:cargo/used@1.0.0%2Bb", "purl": "pkg:cargo/used@1.0.0%2Bb",
                "name": "used", "version": "1.0.0+b", "licenses": [{"expression": "MIT OR ISC"}],
                "hashes": [{"alg": "SHA-256", "content": "00ff"}],
            })
        );
        let used =
            json!({"ref": "pkg:cargo/used@1.0.0%2Bb", "dependsOn": ["pkg:cargo/deep@1.0.0%2Bb"]});
        assert!(
            list["dependencies"].as_array().unwrap().contains(&used),
            "{list}"
        );
    }
}
