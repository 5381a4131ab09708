//! What a pod may do, what it is told, and how it comes and goes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::objects::{FOLDERS, Objects, Pod, list, pairs, selects};

const SERVICES: [&str; 4] = ["ingest", "fanout", "dispatcher", "management"];

/// Pod Security `restricted`, and more: nothing to write to, no uid of the image's choice, no token.
#[test]
fn a_13_each_pod_is_as_confined_as_it_can_be() -> anyhow::Result<()> {
    for folder in FOLDERS {
        let objects = Objects::of(folder)?;
        let namespace = pairs(&objects.one("Namespace", "webhooks")?["metadata"]["labels"]);
        assert_eq!(
            namespace["pod-security.kubernetes.io/enforce"],
            "restricted"
        );
        let pods = objects.pods();
        let mut names: Vec<_> = pods.iter().map(|pod| pod.name).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            ["dispatcher", "fanout", "ingest", "management", "migrate"]
        );
        for kind in ["Pod", "StatefulSet", "DaemonSet", "CronJob", "ReplicaSet"] {
            assert_eq!(objects.all(kind).count(), 0, "{kind} is not looked at here");
        }
        for pod in &pods {
            confined(pod);
            own_secrets_only(pod);
        }
    }
    Ok(())
}

fn confined(pod: &Pod<'_>) {
    let (name, spec) = (pod.name, pod.spec);
    assert_eq!(spec["automountServiceAccountToken"], false, "{name}");
    assert_eq!(spec["enableServiceLinks"], false, "{name}");
    for absent in [
        "hostNetwork",
        "hostPID",
        "hostIPC",
        "hostUsers",
        "initContainers",
        "ephemeralContainers",
        "serviceAccountName",
    ] {
        assert!(spec[absent].is_null(), "{name}: {absent}");
    }
    assert_eq!(
        spec["securityContext"],
        json!({
            "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        }),
        "{name}"
    );
    let container = pod.container();
    assert_eq!(
        container["securityContext"],
        json!({
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
            "runAsNonRoot": true, "capabilities": {"drop": ["ALL"]},
        }),
        "{name}"
    );
    for kind in ["requests", "limits"] {
        let resources = pairs(&container["resources"][kind]);
        assert!(
            resources.contains_key("cpu") && resources.contains_key("memory"),
            "{name}: {kind}"
        );
    }
    let program = container["command"][0].as_str().expect("a command");
    let own = format!("webhooks-{name}");
    assert!(program == own || name == "migrate" && program == "webhooks");
}

/// Nothing of the node, and of secrets its own.
fn own_secrets_only(pod: &Pod<'_>) {
    let name = pod.name;
    for volume in list(&pod.spec["volumes"]) {
        let kinds: Vec<_> = volume.as_object().expect("a volume").keys().collect();
        if volume["name"] == "tmp" {
            assert_eq!(kinds, ["emptyDir", "name"], "{name}");
            assert!(volume["emptyDir"]["sizeLimit"].is_string(), "{name}");
        } else {
            assert_eq!(kinds, ["name", "projected"], "{name}");
            assert_eq!(volume["projected"]["defaultMode"], 0o440, "{name}");
        }
    }
    for mount in list(&pod.container()["volumeMounts"]) {
        let writable = mount["readOnly"] != true;
        assert_eq!(writable, mount["name"] == "tmp", "{name}: {mount}");
    }
    let expected = if name == "migrate" { "operator" } else { name };
    assert_eq!(pod.secrets().1, BTreeSet::from([expected.to_owned()]));
}

/// The base names an image that cannot be, and everything is named by its digest.
#[test]
fn a_15_images_are_named_by_digest_and_the_base_has_none() -> anyhow::Result<()> {
    let zeros = "0".repeat(64);
    for folder in FOLDERS {
        for pod in Objects::of(folder)?.pods() {
            let image = pod.container()["image"].as_str().context("no image")?;
            let (name, digest) = image.split_once("@sha256:").context("no digest")?;
            assert_eq!(digest, zeros, "{folder} would start somebody's image");
            let registry = if folder == "base" {
                "registry.invalid/"
            } else {
                "registry.example.com/"
            };
            assert!(name.starts_with(registry) && !name.contains(':'), "{name}");
        }
    }
    Ok(())
}

/// A name that no program reads is a mistake that nothing else would tell; a secret in a ConfigMap
/// is readable by many.
#[test]
fn a_18_every_setting_is_one_of_ours_and_secrets_come_from_files() -> anyhow::Result<()> {
    let documented = std::fs::read_to_string(super::super::root().join("docs/settings.md"))?;
    let known: BTreeMap<&str, bool> = documented
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, rest)| (name, rest.contains("the path of a file that holds it")))
        .collect();
    assert!(known.len() > 80, "{} settings were read", known.len());
    for folder in FOLDERS {
        let objects = Objects::of(folder)?;
        for pod in objects.pods() {
            let settings = objects.settings(&pod)?;
            let (files, _) = pod.secrets();
            assert_eq!(settings["WEBHOOKS_ENV"], "production", "{}", pod.name);
            for (name, value) in &settings {
                let of_file = name.strip_suffix("_FILE");
                let may_be_a_file = of_file.and_then(|name| known.get(name)) == Some(&true);
                let Some(secret) = known.get(name.as_str()).or(may_be_a_file.then_some(&false))
                else {
                    panic!("{}: no program reads {name}", pod.name);
                };
                let open = name == "WEBHOOKS_NATS_URL" && !value.contains('@');
                assert!(!secret || open, "{}: {name} is a secret", pod.name);
                if let Some(file) = value.strip_prefix("/secrets/") {
                    assert!(files.contains(file), "{}: no key {file}", pod.name);
                } else {
                    assert!(!value.starts_with('/'), "{}: {name} is {value}", pod.name);
                }
            }
        }
    }
    Ok(())
}

#[test]
fn the_keys_of_each_secret_are_told_and_no_others() -> anyhow::Result<()> {
    let page = std::fs::read_to_string(super::super::root().join("docs/kubernetes.md"))?;
    for pod in Objects::of("example")?.pods() {
        let (files, secrets) = pod.secrets();
        let secret = secrets.first().context("no secret")?;
        let row = format!("| `{secret}` | ");
        let told = page.lines().find_map(|line| line.strip_prefix(&row));
        let told = told.with_context(|| format!("no row of {secret}"))?;
        let told: BTreeSet<_> = told
            .split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect();
        assert_eq!(told, files, "{secret}");
    }
    Ok(())
}

/// A drain has the time that it may take, one pod at a time leaves, and pods lie apart.
#[test]
fn a_pod_is_asked_drained_and_replaced_as_its_program_wants_it() -> anyhow::Result<()> {
    let objects = Objects::of("base")?;
    for name in SERVICES {
        let pod = objects.pod(name)?;
        let container = pod.container();
        for (probe, path) in [("livenessProbe", "/livez"), ("readinessProbe", "/readyz")] {
            let expected = json!({"path": path, "port": "admin"});
            assert_eq!(container[probe]["httpGet"], expected, "{name}");
        }
        let grace = pod.spec["terminationGracePeriodSeconds"].as_u64();
        let pause = container["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64();
        let drain = objects.settings(&pod)?["WEBHOOKS_DRAIN_TIMEOUT"].clone();
        let drain: u64 = drain.strip_suffix('s').context("seconds")?.parse()?;
        let left = Duration::from_secs(grace.context("no grace period")?)
            .checked_sub(Duration::from_secs(drain + pause.context("no pause")?));
        assert!(left >= Some(Duration::from_secs(5)), "{name}: {left:?}");

        let spec = &pod.owner["spec"];
        assert!(spec["replicas"].as_u64() >= Some(2), "{name}");
        assert_eq!(spec["strategy"]["rollingUpdate"]["maxUnavailable"], 0);
        let spread = list(&pod.spec["topologySpreadConstraints"]);
        let over: BTreeSet<_> = spread
            .iter()
            .filter(|wanted| selects(&wanted["labelSelector"], &pod.labels))
            .filter_map(|wanted| wanted["topologyKey"].as_str())
            .collect();
        let expected = ["kubernetes.io/hostname", "topology.kubernetes.io/zone"];
        assert_eq!(over, BTreeSet::from(expected), "{name}");
        let budgets: Vec<&Value> = objects
            .all("PodDisruptionBudget")
            .filter(|budget| selects(&budget["spec"]["selector"], &pod.labels))
            .collect();
        assert_eq!(budgets.len(), 1, "{name}");
        assert_eq!(budgets[0]["spec"]["maxUnavailable"], 1, "{name}");
    }
    Ok(())
}

/// More dispatchers than partitions idle; the number has one master.
#[test]
fn dispatchers_are_scaled_within_their_partitions() -> anyhow::Result<()> {
    let documented = std::fs::read_to_string(super::super::root().join("docs/settings.md"))?;
    let (_, partitions) = documented
        .split_once("| `WEBHOOKS_PARTITIONS` | `")
        .context("no row")?;
    let (partitions, _) = partitions.split_once('`').context("no default")?;
    let objects = Objects::of("example")?;
    let spec = &objects.one("HorizontalPodAutoscaler", "dispatcher")?["spec"];
    assert_eq!(spec["scaleTargetRef"]["name"], "dispatcher");
    assert_eq!(spec["maxReplicas"].as_u64(), Some(partitions.parse()?));
    assert!(spec["minReplicas"].as_u64() >= Some(2));
    let scaled = objects.pod("dispatcher")?;
    assert!(scaled.owner["spec"]["replicas"].is_null());
    let settings = objects.settings(&scaled)?;
    assert!(!settings.contains_key("WEBHOOKS_PARTITIONS"));
    Ok(())
}
