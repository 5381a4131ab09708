//! The corpus of forbidden and allowed endpoints, at the place where it counts: the attempt.
//!
//! Rows are taken as if they had been written around the API, every rule of which they break; a
//! listener on all addresses of this machine counts what reaches it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::HeaderMap;
use serde::Deserialize;
use webhooks_domain::endpoint::{AddressPolicy, EndpointUrl, FailureClass, Outcome, vet_addresses};
use webhooks_egress::{EgressConfig, OutboundRequest};

use crate::dns_server::{DnsServer, Reply};
use crate::receiver::{Receiver, Script, ok};
use crate::{cidr, egress, within};

#[derive(Deserialize)]
struct Corpus {
    policy: CorpusPolicy,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct CorpusPolicy {
    own_hosts: Vec<String>,
    own_ips: Vec<IpAddr>,
}

#[derive(Clone, Deserialize)]
struct Case {
    id: String,
    class: String,
    url: String,
    verdict: String,
    stage: String,
    #[serde(default)]
    dns: Vec<IpAddr>,
    #[serde(default)]
    dns_second: Vec<IpAddr>,
}

fn corpus() -> (Vec<Case>, AddressPolicy) {
    let text = include_str!("../../../webhooks-domain/tests/data/ssrf_cases.json");
    let corpus: Corpus = serde_json::from_str(text).expect("test data");
    let policy = AddressPolicy {
        own_hosts: corpus.policy.own_hosts,
        own_ips: corpus.policy.own_ips.into_iter().map(Into::into).collect(),
        ..AddressPolicy::default()
    };
    (corpus.cases, policy)
}

/// What the corpus says about a URL, judged when it is saved.
fn passes_at_save(case: &Case, policy: &AddressPolicy) -> bool {
    let refused = EndpointUrl::parse(&case.url, policy).is_err();
    let refused_at_save = case.stage == "url" || case.class == "bypass-api";
    refused == (case.verdict == "block" && refused_at_save)
}

/// The URL with the listener's port, where it has none, under a policy that refuses next to nothing.
fn written_around_the_api(url: &str, port: u16) -> Option<EndpointUrl> {
    let mut parsed: url::Url = url.parse().ok()?;
    let host = parsed.host_str()?.trim_end_matches('.').to_owned();
    let anything = AddressPolicy {
        allow_http: true,
        allow_cidrs: vec![cidr("0.0.0.0/0"), cidr("::/0")],
        allow_hosts: vec![host],
        ..AddressPolicy::default()
    };
    let as_it_is = EndpointUrl::parse(url, &anything).ok()?;
    if parsed.port().is_some() {
        return Some(as_it_is);
    }
    parsed.set_port(Some(port)).ok()?;
    EndpointUrl::parse(parsed.as_str(), &anything).ok()
}

#[derive(Default)]
struct Tally {
    cases: usize,
    save: usize,
    send: usize,
    unsendable: usize,
}

#[tokio::test]
async fn s_01_s_02_s_06_every_case_of_the_corpus_is_refused_at_save_and_at_the_attempt() {
    let (cases, policy) = corpus();
    let answers = cases.clone();
    let dns = DnsServer::start(move |name| {
        let is_about = |case: &&Case| case.url.contains(&format!("//{name}/"));
        match answers.iter().find(is_about) {
            // What a name turns into between two attempts is what it is at the second.
            Some(case) if !case.dns_second.is_empty() => Reply::Addresses(case.dns_second.clone()),
            Some(case) => Reply::Addresses(case.dns.clone()),
            None => Reply::NoSuchName,
        }
    })
    .await;
    let victim = Receiver::everywhere(Script::Answer(ok())).await;
    let egress = egress(EgressConfig {
        policy: policy.clone(),
        dns_servers: vec![dns.address],
        ..EgressConfig::default()
    });
    let mut table: BTreeMap<&str, Tally> = BTreeMap::new();
    for case in &cases {
        let (id, tally) = (&case.id, table.entry(&case.class).or_default());
        tally.cases += 1;
        assert!(passes_at_save(case, &policy), "{id} at save");
        tally.save += 1;
        if case.verdict == "allow" || case.class == "redirect" {
            // Nobody's real endpoint is called by a test; that it would be is a matter of the verdict.
            let url = EndpointUrl::parse(&case.url, &policy).expect(id);
            assert_eq!(url.check(&policy), Ok(()), "{id}");
            assert!(case.dns.is_empty() || vet_addresses(&case.dns, &policy).is_ok());
            tally.send += 1;
            continue;
        }
        let Some(url) = written_around_the_api(&case.url, victim.address.port()) else {
            tally.unsendable += 1;
            continue;
        };
        let literal = url.literal_ip();
        let request = OutboundRequest {
            url,
            headers: HeaderMap::new(),
            body: Bytes::from_static(b"{}"),
        };
        let result = within(egress.send(request)).await;
        assert_eq!(result.outcome, Outcome::Blocked, "{id}: {result:?}");
        assert_eq!(result.class, Some(FailureClass::Permanent), "{id}");
        assert_eq!(result.timings.connect, None, "{id} was dialled");
        assert_eq!(result.remote_ip, None, "{id}");
        let error = result.error().expect("an error");
        for address in case.dns.iter().chain(&case.dns_second).chain(&literal) {
            assert!(!error.contains(&address.to_string()), "{id}: {error}");
        }
        tally.send += 1;
    }
    println!("class            cases  at save  at send  no URL at all");
    for (class, tally) in &table {
        assert_eq!(tally.send + tally.unsendable, tally.cases, "{class}");
        println!(
            "{class:16} {:5} {:8} {:8} {:14}",
            tally.cases, tally.save, tally.send, tally.unsendable
        );
    }
    let reached = victim.counts().connections;
    println!("connections to the listener on all addresses: {reached}");
    assert_eq!(reached, 0);
}

#[tokio::test]
async fn the_listener_on_all_addresses_would_have_noticed() {
    let victim = Receiver::everywhere(Script::Answer(ok())).await;
    let mut config = crate::config();
    config.policy.allow_cidrs = vec![cidr("127.0.0.0/8"), cidr("0.0.0.0/8")];
    let egress = egress(config);
    for host in ["127.0.0.1", "127.255.255.254", "0.0.0.0"] {
        let url = format!("http://{host}:{}/hook", victim.address.port());
        let result = crate::post(&egress, &url).await;
        assert_eq!(result.outcome, Outcome::Success, "{host}: {result:?}");
    }
    assert_eq!(victim.counts().connections, 3);
}

/// Sources of the services that could make a request or open a socket outwards.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            found.push(path);
        }
    }
}

/// Crates whose connections lead to our own parts and machines only: tools for development and tests.
const TOOLS: [&str; 5] = ["devstack", "loadgen", "e2e", "testkit", "xtask"];

/// How an outbound client could be made, in the words of the libraries at hand. Connections to our own
/// parts (NATS, Postgres, gRPC) are made by their libraries, from addresses in the settings.
const OUTBOUND: [&str; 8] = [
    "reqwest::",
    "hyper::client",
    "client::legacy",
    "client::conn",
    "TcpStream::connect",
    "TcpSocket::",
    "TlsConnector",
    "lookup_host",
];

/// Who may nevertheless.
const EXCEPTIONS: [(&str, &str); 1] = [
    // The operators' program asks our own services, at addresses from the settings.
    ("webhooks/src/http.rs", "reqwest::"),
];

#[test]
fn s_17_only_this_crate_makes_an_outbound_client() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("crates");
    let mut looked_at = 0;
    let mut problems = Vec::new();
    for folder in std::fs::read_dir(crates).expect("a folder") {
        let folder = folder.expect("an entry").path();
        let name = folder.file_name().and_then(|name| name.to_str());
        let name = name.unwrap_or_default().trim_start_matches("webhooks-");
        let source = folder.join("src");
        if name == "egress" || TOOLS.contains(&name) || !source.is_dir() {
            continue;
        }
        let mut files = Vec::new();
        sources(&source, &mut files);
        for file in files {
            if file.ends_with("tests.rs") {
                continue;
            }
            looked_at += 1;
            let text = std::fs::read_to_string(&file).expect("a text");
            let excepted = |word: &str| {
                EXCEPTIONS
                    .iter()
                    .any(|(end, of)| *of == word && file.ends_with(end))
            };
            let code = text
                .lines()
                .take_while(|line| !line.starts_with("#[cfg(test)]"))
                .filter(|line| !line.trim_start().starts_with("//"));
            for line in code {
                for word in OUTBOUND {
                    if line.contains(word) && !excepted(word) {
                        problems.push(format!("{word} in {}", file.display()));
                    }
                }
            }
        }
    }
    assert!(looked_at > 50, "{looked_at} files");
    assert_eq!(problems, Vec::<String>::new());
}
