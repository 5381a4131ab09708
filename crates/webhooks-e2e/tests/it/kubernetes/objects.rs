//! What was rendered, and how to ask it.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context as _, ensure};
use serde_json::Value;

/// The oldest Kubernetes that docs/kubernetes.md names, and the newest that there are schemas of.
const VERSIONS: [&str; 2] = ["1.32", "1.37"];

/// What is applied for itself, and what a place makes of it.
pub(super) const FOLDERS: [&str; 2] = ["base", "example"];

/// Names and values of labels or settings.
pub(super) type Pairs = BTreeMap<String, String>;

/// The objects of one folder.
pub(super) struct Objects(Vec<Value>);

/// A Deployment's or Job's pods.
pub(super) struct Pod<'a> {
    pub(super) name: &'a str,
    pub(super) labels: Pairs,
    pub(super) spec: &'a Value,
    /// The Deployment or Job.
    pub(super) owner: &'a Value,
}

impl Objects {
    /// Renders `deploy/kubernetes/<folder>`; an object that Kubernetes would refuse is an error.
    pub(super) fn of(folder: &str) -> anyhow::Result<Self> {
        let root = super::super::root();
        let packages = root.join(".tools/checks/kubernetes");
        ensure!(
            packages.join("bin/kubectl").is_file(),
            "kubectl is not fetched yet: run `make check-tools`"
        );
        let output = Command::new(root.join(".tools/venv/bin/python"))
            .arg(root.join("tests/kubernetes/render.py"))
            .arg(packages.join("bin/kubectl"))
            .arg(root.join("deploy/kubernetes").join(folder))
            .args(VERSIONS)
            .env("PYTHONPATH", &packages)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{folder}: {said}");
        Ok(Self(serde_json::from_slice(&output.stdout)?))
    }

    /// All of one kind.
    pub(super) fn all(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.0.iter().filter(move |object| object["kind"] == kind)
    }

    /// One by its name.
    pub(super) fn one(&self, kind: &str, name: &str) -> anyhow::Result<&Value> {
        let found = self.all(kind).find(|object| name_of(object) == name);
        found.with_context(|| format!("no {kind} {name}"))
    }

    /// Those of every Deployment and Job.
    pub(super) fn pods(&self) -> Vec<Pod<'_>> {
        let owners = self.all("Deployment").chain(self.all("Job"));
        owners
            .map(|owner| Pod {
                name: name_of(owner),
                labels: pairs(&owner["spec"]["template"]["metadata"]["labels"]),
                spec: &owner["spec"]["template"]["spec"],
                owner,
            })
            .collect()
    }

    /// One pod by the name of its Deployment or Job.
    pub(super) fn pod(&self, name: &str) -> anyhow::Result<Pod<'_>> {
        let found = self.pods().into_iter().find(|pod| pod.name == name);
        found.with_context(|| format!("no pod {name}"))
    }

    /// What a pod's container has in its environment.
    pub(super) fn settings(&self, pod: &Pod<'_>) -> anyhow::Result<Pairs> {
        let container = pod.container();
        let mut settings = Pairs::new();
        for from in list(&container["envFrom"]) {
            let map = from["configMapRef"]["name"]
                .as_str()
                .context("from elsewhere")?;
            settings.extend(pairs(&self.one("ConfigMap", map)?["data"]));
        }
        for variable in list(&container["env"]) {
            let name = variable["name"].as_str().context("no name")?;
            let value = variable["value"].as_str().context("no plain value")?;
            settings.insert(name.to_owned(), value.to_owned());
        }
        Ok(settings)
    }
}

impl Pod<'_> {
    /// The one container that each of our pods has.
    pub(super) fn container(&self) -> &Value {
        let containers = list(&self.spec["containers"]);
        assert_eq!(containers.len(), 1, "{}", self.name);
        &containers[0]
    }

    /// Ports of the container by their names.
    pub(super) fn ports(&self) -> BTreeMap<String, u64> {
        let ports = list(&self.container()["ports"]).iter();
        ports
            .map(|port| {
                let name = port["name"].as_str().expect("a name");
                (
                    name.to_owned(),
                    port["containerPort"].as_u64().expect("a port"),
                )
            })
            .collect()
    }

    /// The files of its secrets, and the Secrets that they come from.
    pub(super) fn secrets(&self) -> (BTreeSet<String>, BTreeSet<String>) {
        let (mut files, mut from) = (BTreeSet::new(), BTreeSet::new());
        for source in list(&self.spec["volumes"])
            .iter()
            .flat_map(|volume| list(&volume["projected"]["sources"]))
        {
            from.insert(name_in(&source["secret"]).to_owned());
            for item in list(&source["secret"]["items"]) {
                assert_eq!(item["key"], item["path"], "{}", self.name);
                files.insert(item["key"].as_str().expect("a key").to_owned());
            }
        }
        (files, from)
    }
}

/// The elements of an array; none, where there is nothing.
pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The strings of an object; none, where there is nothing.
pub(super) fn pairs(value: &Value) -> Pairs {
    let members = value.as_object().into_iter().flatten();
    members
        .map(|(name, value)| (name.clone(), value.as_str().expect("a string").to_owned()))
        .collect()
}

/// `metadata.name`.
pub(super) fn name_of(object: &Value) -> &str {
    name_in(&object["metadata"])
}

fn name_in(value: &Value) -> &str {
    value["name"].as_str().expect("a name")
}

/// Whether a label selector selects.
pub(super) fn selects(selector: &Value, labels: &Pairs) -> bool {
    let all = pairs(&selector["matchLabels"]);
    all.iter()
        .all(|(name, value)| labels.get(name) == Some(value))
        && list(&selector["matchExpressions"]).iter().all(|wanted| {
            assert_eq!(wanted["operator"], "In", "{wanted}");
            let held = labels.get(wanted["key"].as_str().expect("a key"));
            let values = list(&wanted["values"]).iter();
            held.is_some_and(|held| values.filter_map(Value::as_str).any(|value| value == held))
        })
}
