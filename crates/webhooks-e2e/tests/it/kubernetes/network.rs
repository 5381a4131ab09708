//! Who may reach whom, by the policies alone.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Context as _;
use serde_json::{Value, json};
use webhooks_domain::endpoint::{
    AddressClass, AddressPolicy, Cidr, EndpointUrl, classify, forbidden_ranges,
};

use super::objects::{FOLDERS, Objects, list, name_of, pairs, selects};

/// A block of addresses without some.
struct Block {
    cidr: Cidr,
    except: Vec<Cidr>,
}

impl Block {
    fn read(block: &Value) -> anyhow::Result<Self> {
        let read = |text: &Value| -> anyhow::Result<Cidr> {
            let text = text.as_str().context("no text")?;
            let range: Cidr = text.parse()?;
            assert_eq!(range.to_string(), text, "bits beyond the prefix");
            Ok(range)
        };
        let cidr = read(&block["cidr"])?;
        let except = list(&block["except"]).iter().map(read);
        let except: Vec<Cidr> = except.collect::<Result<_, _>>()?;
        // Kubernetes refuses the others.
        for range in &except {
            let inside = cidr.contains(range.first()) && cidr.contains(range.last());
            assert!(inside && *range != cidr, "{range} in {cidr}");
        }
        Ok(Self { cidr, except })
    }

    fn allows(&self, ip: IpAddr) -> bool {
        self.cidr.contains(ip) && !self.except.iter().any(|range| range.contains(ip))
    }
}

/// Where dispatchers may call: the only rule of the policy.
fn way_out(objects: &Objects) -> anyhow::Result<(&Value, Vec<Block>)> {
    let policy = objects.one("NetworkPolicy", "endpoints")?;
    assert!(selects(
        &policy["spec"]["podSelector"],
        &objects.pod("dispatcher")?.labels
    ));
    let rules = list(&policy["spec"]["egress"]);
    assert_eq!(rules.len(), 1);
    let blocks = list(&rules[0]["to"]).iter().map(|to| {
        assert_eq!(to.as_object().map(serde_json::Map::len), Some(1), "{to}");
        Block::read(&to["ipBlock"])
    });
    Ok((&rules[0], blocks.collect::<Result<_, _>>()?))
}

/// Where the verdict can change: the ends of a range and the addresses beside them.
fn edges(range: &Cidr) -> Vec<IpAddr> {
    let (first, last) = (range.first(), range.last());
    let beside: [Option<IpAddr>; 2] = match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => [
            first
                .to_bits()
                .checked_sub(1)
                .map(|bits| Ipv4Addr::from_bits(bits).into()),
            last.to_bits()
                .checked_add(1)
                .map(|bits| Ipv4Addr::from_bits(bits).into()),
        ],
        (IpAddr::V6(first), IpAddr::V6(last)) => [
            first
                .to_bits()
                .checked_sub(1)
                .map(|bits| Ipv6Addr::from_bits(bits).into()),
            last.to_bits()
                .checked_add(1)
                .map(|bits| Ipv6Addr::from_bits(bits).into()),
        ],
        _ => unreachable!("a range is of one family"),
    };
    [first, last]
        .into_iter()
        .chain(beside.into_iter().flatten())
        .collect()
}

/// Between two edges, neither the table nor the policy changes its mind; so what agrees at every
/// edge of both agrees everywhere.
#[test]
fn a_14_dispatchers_may_call_what_the_table_of_addresses_allows_and_nothing_else()
-> anyhow::Result<()> {
    let objects = Objects::of("base")?;
    let (_, blocks) = way_out(&objects)?;
    let ranges = forbidden_ranges();
    assert!(ranges.len() >= 26, "the table has shrunk");
    let of_policy = blocks
        .iter()
        .flat_map(|block| block.except.iter().chain([&block.cidr]));
    let edges: BTreeSet<IpAddr> = ranges.iter().chain(of_policy).flat_map(edges).collect();
    assert!(edges.len() > 60, "{}", edges.len());
    for ip in edges {
        let allowed = blocks.iter().any(|block| block.allows(ip));
        let class = classify(ip);
        assert_eq!(allowed, class == AddressClass::Global, "{ip} is {class:?}");
    }
    Ok(())
}

#[test]
fn a_place_takes_addresses_away_from_dispatchers_and_adds_none() -> anyhow::Result<()> {
    let (base, example) = (Objects::of("base")?, Objects::of("example")?);
    let ((rule, base), (own_rule, example)) = (way_out(&base)?, way_out(&example)?);
    assert_eq!(rule["ports"], own_rule["ports"]);
    assert_eq!(base.len(), example.len());
    let mut added = 0;
    for (base, example) in base.iter().zip(&example) {
        assert_eq!(base.cidr, example.cidr);
        assert!(
            base.except
                .iter()
                .all(|range| example.except.contains(range))
        );
        added += example.except.len() - base.except.len();
    }
    assert_eq!(added, 1, "the example shows how");
    Ok(())
}

/// An endpoint that was accepted is not held up by the wall; mail goes nowhere.
#[test]
fn every_port_that_an_endpoint_may_have_is_open_to_dispatchers_and_those_of_mail_are_not()
-> anyhow::Result<()> {
    let objects = Objects::of("base")?;
    let (rule, _) = way_out(&objects)?;
    let ports = list(&rule["ports"]);
    let open: Vec<(u64, u64)> = ports
        .iter()
        .map(|port| {
            assert_eq!(port["protocol"], "TCP");
            let first = port["port"].as_u64().expect("a port");
            (first, port["endPort"].as_u64().expect("a last port"))
        })
        .collect();
    let is_open = |port: u16| {
        let port = u64::from(port);
        open.iter()
            .any(|(first, last)| (*first..=*last).contains(&port))
    };
    let policy = AddressPolicy::default();
    let mut accepted = 0;
    for port in 0..=u16::MAX {
        if EndpointUrl::parse(&format!("https://example.com:{port}/"), &policy).is_ok() {
            accepted += 1;
            assert!(is_open(port), "{port}");
        }
    }
    assert!(accepted > 65_000, "{accepted}");
    for port in [0, 25, 465, 587] {
        assert!(!is_open(port), "{port}");
    }
    Ok(())
}

/// Who, and the policies that let others in and it out, besides names and NATS.
type Ways = (
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
);

const WAYS: [Ways; 5] = [
    ("ingest", &["monitoring", "publishers"], &[]),
    ("fanout", &["monitoring"], &[]),
    (
        "dispatcher",
        &["monitoring"],
        &["endpoints", "reports-sent"],
    ),
    (
        "management",
        &["customers", "monitoring", "reports-taken"],
        &["mail", "postgres"],
    ),
    ("migrate", &[], &["postgres"]),
];

/// Every way in and out of each pod, by the names of the policies that open it.
#[test]
fn a_14_nobody_has_a_way_that_was_not_meant() -> anyhow::Result<()> {
    for folder in FOLDERS {
        let objects = Objects::of(folder)?;
        let nothing = objects.one("NetworkPolicy", "nothing")?;
        assert_eq!(
            nothing["spec"],
            json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})
        );
        for (name, ways_in, ways_out) in WAYS {
            let labels = objects.pod(name)?.labels;
            let opened = |direction: &str| -> BTreeSet<&str> {
                let policies = objects.all("NetworkPolicy");
                policies
                    .filter(|policy| selects(&policy["spec"]["podSelector"], &labels))
                    .filter(|policy| !list(&policy["spec"][direction]).is_empty())
                    .map(name_of)
                    .collect()
            };
            assert_eq!(
                opened("ingress"),
                ways_in.iter().copied().collect(),
                "{name}"
            );
            let mut expected: BTreeSet<&str> = ways_out.iter().copied().collect();
            expected.extend(["names", "nats"]);
            assert_eq!(opened("egress"), expected, "{name}");
        }
        for policy in objects.all("NetworkPolicy") {
            peers_are_named(policy)?;
        }
    }
    Ok(())
}

/// A rule without peers or ports, or with an empty selector of namespaces, would let in everybody.
fn peers_are_named(policy: &Value) -> anyhow::Result<()> {
    let name = name_of(policy);
    let outside = ["endpoints", "postgres", "mail"].contains(&name);
    for (direction, side) in [("ingress", "from"), ("egress", "to")] {
        for rule in list(&policy["spec"][direction]) {
            assert!(!list(&rule["ports"]).is_empty(), "{name}: every port");
            assert!(!list(&rule[side]).is_empty(), "{name}: everybody");
            for peer in list(&rule[side]) {
                if peer["ipBlock"].is_object() {
                    assert!(outside, "{name} reaches out of the cluster");
                    let range = Block::read(&peer["ipBlock"])?.cidr;
                    assert!(name == "endpoints" || range.first() == range.last());
                    continue;
                }
                let chosen = [&peer["namespaceSelector"], &peer["podSelector"]];
                let labels = chosen.map(|selector| pairs(&selector["matchLabels"]));
                assert!(labels.iter().any(|labels| !labels.is_empty()), "{name}");
                for (selector, labels) in chosen.iter().zip(&labels) {
                    assert!(selector.is_null() || !labels.is_empty(), "{name}: {peer}");
                }
            }
        }
    }
    Ok(())
}

/// The numbers stand in settings, containers, Services and policies: the same everywhere.
#[test]
fn a_19_ports_are_those_of_the_settings_and_operations_have_their_own() -> anyhow::Result<()> {
    let objects = Objects::of("example")?;
    for (name, settings) in [
        (
            "ingest",
            &[
                ("http", "WEBHOOKS_INGEST_HTTP_ADDR"),
                ("grpc", "WEBHOOKS_INGEST_GRPC_ADDR"),
            ][..],
        ),
        ("fanout", &[]),
        ("dispatcher", &[]),
        (
            "management",
            &[
                ("http", "WEBHOOKS_API_ADDR"),
                ("grpc", "WEBHOOKS_GRPC_ADDR"),
            ],
        ),
    ] {
        let pod = objects.pod(name)?;
        let told = objects.settings(&pod)?;
        let mut ports = pod.ports();
        let mut let_in: BTreeSet<u64> = BTreeSet::new();
        for policy in objects.all("NetworkPolicy") {
            if selects(&policy["spec"]["podSelector"], &pod.labels) {
                let rules = list(&policy["spec"]["ingress"]).iter();
                let ports = rules.flat_map(|rule| list(&rule["ports"]));
                let ports: Vec<u64> = ports.filter_map(|port| port["port"].as_u64()).collect();
                assert_eq!(
                    ports.contains(&9000),
                    name_of(policy) == "monitoring" && !ports.is_empty()
                );
                let_in.extend(ports);
            }
        }
        assert_eq!(let_in, ports.values().copied().collect(), "{name}");
        let own = objects
            .all("Service")
            .find(|service| name_of(service) == name);
        let own = own.map_or(&[][..], |service| list(&service["spec"]["ports"]));
        assert_eq!(own.len(), settings.len(), "{name}");
        for (port, setting) in settings.iter().chain([&("admin", "WEBHOOKS_ADMIN_ADDR")]) {
            let number = ports.remove(*port).context("no such port")?;
            assert_eq!(told[*setting], format!("0.0.0.0:{number}"), "{name}");
            let offered = own.iter().find(|offered| offered["name"] == *port);
            let expected = json!({"name": port, "port": number, "targetPort": port});
            assert_eq!(offered, (*port != "admin").then_some(&expected), "{name}");
        }
        assert!(ports.is_empty(), "{name}: {ports:?}");
        let opened = told
            .iter()
            .filter(|(_, value)| value.starts_with("0.0.0.0:"));
        assert_eq!(opened.count(), settings.len() + 1, "{name}");
        let admin = &objects.one("Service", "admin")?["spec"];
        assert!(pod.labels.contains_key("app.kubernetes.io/component"));
        assert!(selects(
            &json!({"matchLabels": admin["selector"]}),
            &pod.labels
        ));
    }
    let admin = &objects.one("Service", "admin")?["spec"];
    assert_eq!(admin["clusterIP"], "None");
    let only = json!([{"name": "admin", "port": 9000, "targetPort": "admin"}]);
    assert_eq!(admin["ports"], only);
    for service in objects.all("Service") {
        // None is a door of its own to the outside.
        assert!(service["spec"]["type"].is_null(), "{service}");
        assert!(service["spec"]["externalIPs"].is_null(), "{service}");
    }
    let dispatcher = objects.settings(&objects.pod("dispatcher")?)?;
    assert_eq!(
        dispatcher["WEBHOOKS_MANAGEMENT_GRPC_URL"],
        "https://management:9090"
    );
    Ok(())
}
