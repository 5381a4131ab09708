//! The address guard against its corpus, over whole prefixes, and with its switches.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use serde::Deserialize;
use webhooks_domain::endpoint::{
    AddressClass, AddressPolicy, Cidr, EndpointRefusal, EndpointUrl, classify, forbidden_ranges,
    vet_addresses,
};

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

#[derive(Deserialize)]
struct Case {
    id: String,
    class: String,
    url: String,
    verdict: String,
    stage: String,
    reason: String,
    #[serde(default)]
    dns: Vec<IpAddr>,
    #[serde(default)]
    dns_second: Vec<IpAddr>,
}

fn corpus() -> Corpus {
    serde_json::from_str(include_str!("data/ssrf_cases.json")).expect("test data")
}

#[test]
fn s_01_s_12_s_13_s_14_every_case_of_the_corpus_gets_its_verdict() {
    let corpus = corpus();
    let policy = AddressPolicy {
        own_hosts: corpus.policy.own_hosts,
        own_ips: corpus.policy.own_ips.into_iter().map(Into::into).collect(),
        ..AddressPolicy::default()
    };
    assert!(corpus.cases.len() > 60, "the corpus has shrunk");
    for case in &corpus.cases {
        let Case { id, reason, .. } = case;
        let parsed = EndpointUrl::parse(&case.url, &policy);
        match (case.verdict.as_str(), case.stage.as_str()) {
            ("block", "url") => assert!(parsed.is_err(), "{id} accepted: {reason}"),
            ("block", "resolve") => {
                assert!(parsed.is_ok(), "{id} refused too early: {reason}");
                assert!(
                    vet_addresses(&case.dns, &policy).is_err(),
                    "{id} resolved: {reason}"
                );
            }
            // A literal in a row written around the API: the dispatcher parses it again.
            ("block", "connect") if case.class == "bypass-api" => {
                assert_eq!(parsed, Err(EndpointRefusal::BlockedAddress), "{id}");
            }
            ("block", "connect") if case.class == "rebind" => {
                assert!(parsed.is_ok(), "{id}: {reason}");
                assert!(vet_addresses(&case.dns, &policy).is_ok(), "{id}: {reason}");
                assert!(vet_addresses(&case.dns_second, &policy).is_err(), "{id}");
            }
            // Refused by not following the redirect; the endpoint itself is fine.
            ("block", "connect") if case.class == "redirect" => {
                assert!(parsed.is_ok(), "{id}: {reason}");
            }
            ("allow", "connect") => {
                let url = parsed.unwrap_or_else(|why| panic!("{id} refused, {why}: {reason}"));
                assert_eq!(url.as_str(), case.url, "{id}");
                if !case.dns.is_empty() {
                    assert!(vet_addresses(&case.dns, &policy).is_ok(), "{id}: {reason}");
                }
            }
            (verdict, stage) => panic!("{id}: no rule for {verdict} at {stage}"),
        }
    }
}

#[test]
fn each_rule_has_its_reason() {
    let policy = AddressPolicy {
        own_hosts: vec!["api.linkbreakers.com".into()],
        own_ips: vec!["198.41.0.4".parse().expect("test data")],
        ..AddressPolicy::default()
    };
    assert!(policy.knows_itself() && !AddressPolicy::default().knows_itself());
    let ranges = AddressPolicy {
        own_ips: vec!["198.41.0.0/24".parse().expect("test data")],
        ..AddressPolicy::default()
    };
    for (ip, ours) in [
        ("198.41.0.0", true),
        ("198.41.0.255", true),
        ("::ffff:198.41.0.9", true),
        ("198.40.255.255", false),
        ("198.41.1.0", false),
    ] {
        let verdict = ranges.vet_address(ip.parse().expect("test data"));
        assert_eq!(verdict == Err(EndpointRefusal::OwnAddress), ours, "{ip}");
    }
    let check = |text: &str, reason: &str| {
        let refusal = EndpointUrl::parse(text, &policy).expect_err(text);
        assert_eq!(refusal.reason(), reason, "{text}");
    };
    check(
        &format!("https://hooks.example.com/{}", "a".repeat(2048)),
        "too_long",
    );
    check("", "scheme_not_https");
    check("https:", "malformed");
    for text in [
        "https:hooks.example.com/",
        "https:/hooks.example.com/",
        "https:///hooks.example.com/",
        "https://?x",
        "https://hooks.example.com/\ta",
        "https://hooks.example.com/a\r\nb",
        "https://hooks.example.com/a b",
        "https://hooks.example.com/\u{a0}",
        "https://hooks.example.com/\u{2028}",
        "https://hooks.example.com/\u{85}",
        "https://hooks.example.com\\@evil.example/",
        "https://hooks.example.com:99999/",
        "https://hooks..example.com/",
        "https://hooks.example.com../",
        "https://2130706433../",
        "https://0x7f.1../",
        "https://127.0.0.1../",
        "https://479../",
        "https://-hooks.example.com/",
        "https://hooks.example.com%2f.evil.example/",
        "https://[fe80::1%25eth0]/",
        "https://[::1/",
    ] {
        check(text, "malformed");
    }
    check(
        &format!("https://{}.example.com/", "a".repeat(64)),
        "malformed",
    );
    check(
        &format!("https://{}example.com/", "a.".repeat(125)),
        "malformed",
    );
    check("http://hooks.example.com/", "scheme_not_https");
    check("javascript:alert(1)", "scheme_not_https");
    check("https://user:password@hooks.example.com/", "userinfo");
    check("https://@hooks.example.com/", "userinfo");
    check("https://hooks.example.com/#", "fragment");
    check("https://hooks.example.com#x", "fragment");
    check("https://hooks.example.com:6379/", "blocked_port");
    check("https://hooks.example.com:0/", "blocked_port");
    check("https://8.8.8.8:22/", "blocked_port");
    check("https://intranet/", "blocked_host_name");
    check("https://printer/", "single_label");
    check("https://printer./", "single_label");
    check("https://foo.home.arpa/", "blocked_host_name");
    check("https://foo.INTERNAL./", "blocked_host_name");
    for name in [
        "ingest.webhooks.svc",
        "ingest.webhooks.svc.cluster.local",
        "x.cluster.local",
        "x.internal",
        "x.local",
        "x.localhost",
    ] {
        check(&format!("https://{name}/"), "blocked_host_name");
        check(&format!("https://{name}./"), "blocked_host_name");
    }
    check("https://api.linkbreakers.com/", "own_host");
    check("https://x.api.linkbreakers.com/", "own_host");
    check("https://a.b.API.linkbreakers.com./", "own_host");
    for other in [
        "linkbreakers.com",
        "xapi.linkbreakers.com",
        "api.linkbreakers.com.example.org",
    ] {
        let url = EndpointUrl::parse(&format!("https://{other}/"), &policy);
        assert!(url.is_ok(), "{other}: {url:?}");
    }
    check("https://198.41.0.4/", "own_address");
    check("https://[::ffff:198.41.0.4]/", "own_address");
    check("https://①②⑦.⓪.⓪.①/", "blocked_address");
    check("https://%31%32%37.0.0.1/", "blocked_address");
    check("https://0177.1/", "blocked_address");
    check("https://[::ffff:a9fe:a9fe]/", "blocked_address");
}

#[test]
fn what_is_accepted_is_dialled_as_it_was_judged() {
    let policy = AddressPolicy::default();
    let parse = |text| EndpointUrl::parse(text, &policy).expect("test data");

    let dotted = parse("https://Hooks.Example.COM.:8443/In?token=1");
    assert_eq!(dotted.host(), "hooks.example.com");
    assert_eq!(dotted.port(), 8443);
    assert_eq!(
        dotted.url().as_str(),
        "https://hooks.example.com:8443/In?token=1"
    );
    assert_eq!(
        dotted.as_str(),
        "https://Hooks.Example.COM.:8443/In?token=1"
    );
    assert_eq!(dotted.without_query(), "https://Hooks.Example.COM.:8443/In");
    assert_eq!(dotted.literal_ip(), None);

    let literal = parse("https://0x8.0x8.0x8.0x8/");
    assert_eq!(literal.literal_ip(), Some(Ipv4Addr::new(8, 8, 8, 8).into()));
    assert_eq!(literal.port(), 443);
    assert_eq!(literal.clone().into_url().as_str(), "https://8.8.8.8/");

    assert_eq!(
        parse("https://bücher.example/").host(),
        "xn--bcher-kva.example"
    );
    assert_eq!(parse("https://my_app.example.com/@home").port(), 443);
    let longest = format!("https://hooks.example.com/{}", "a".repeat(2048 - 26));
    assert_eq!(parse(&longest).as_str().len(), 2048);
}

#[test]
fn the_switches_open_exactly_what_they_name() {
    let development = AddressPolicy {
        allow_http: true,
        allow_cidrs: vec!["127.0.0.1/8".parse().expect("test data")],
        allow_hosts: vec!["Localhost".into(), "receiver".into()],
        own_hosts: vec!["receiver.internal".into()],
        ..AddressPolicy::default()
    };
    assert!(development.is_opened() && !AddressPolicy::default().is_opened());
    for text in [
        "http://127.0.0.1:5432/",
        "https://127.0.0.1/",
        "http://[::ffff:127.0.0.1]:4222/",
        "http://localhost:8080/",
        "https://RECEIVER./hook",
        "http://hooks.example.com/",
    ] {
        let url =
            EndpointUrl::parse(text, &development).unwrap_or_else(|why| panic!("{text} {why}"));
        assert!(url.check(&AddressPolicy::default()).is_err(), "{text}");
    }
    for (text, refusal) in [
        ("http://10.0.0.1/", EndpointRefusal::BlockedAddress),
        ("http://127.0.0.1:0/", EndpointRefusal::BlockedPort),
        ("http://localhost:6379/", EndpointRefusal::BlockedPort),
        ("http://foo.localhost/", EndpointRefusal::BlockedHostName),
        ("http://printer/", EndpointRefusal::SingleLabel),
        ("http://receiver.internal/", EndpointRefusal::OwnHost),
        ("ftp://127.0.0.1/", EndpointRefusal::SchemeNotHttps),
        ("http:/127.0.0.1/", EndpointRefusal::Malformed),
    ] {
        assert_eq!(
            EndpointUrl::parse(text, &development),
            Err(refusal),
            "{text}"
        );
    }
    // A name the operator allows is still judged by its addresses.
    let private = [IpAddr::from([10, 0, 0, 1])];
    assert!(vet_addresses(&private, &development).is_err());
    assert!(vet_addresses(&[IpAddr::from([127, 9, 9, 9])], &development).is_ok());
}

#[test]
fn one_forbidden_answer_refuses_the_name_and_so_does_none() {
    let policy = AddressPolicy::default();
    let public = IpAddr::from([93, 184, 216, 34]);
    let private = IpAddr::from([192, 168, 0, 1]);
    assert_eq!(vet_addresses(&[public], &policy), Ok(()));
    assert_eq!(vet_addresses(&[], &policy), Err(EndpointRefusal::NoAddress));
    for answers in [[public, private], [private, public]] {
        assert_eq!(
            vet_addresses(&answers, &policy),
            Err(EndpointRefusal::BlockedAddress)
        );
    }
}

#[test]
fn ranges_are_read_and_written() {
    let check = |text: &str, written: &str| {
        let range: Cidr = text.parse().expect("test data");
        assert_eq!(range.to_string(), written);
        assert_eq!(written.parse(), Ok(range));
    };
    check("10.0.0.0/8", "10.0.0.0/8");
    check(" 10.1.2.3/8 ", "10.0.0.0/8");
    check("127.0.0.1", "127.0.0.1/32");
    check("::1", "::1/128");
    check("fd00:1::5/16", "fd00::/16");
    check("::ffff:10.1.2.3/104", "10.0.0.0/8");
    check("0.0.0.0/0", "0.0.0.0/0");
    check("::/0", "::/0");
    for text in [
        "",
        "10.0.0.0/33",
        "::/129",
        "10.0.0/8",
        "10.0.0.0/",
        "localhost/8",
        "10.0.0.0/-1",
    ] {
        assert!(text.parse::<Cidr>().is_err(), "{text}");
    }
    let everything: Cidr = "0.0.0.0/0".parse().expect("test data");
    assert!(everything.contains(IpAddr::from([10, 0, 0, 1])));
    assert!(!everything.contains("::1".parse().expect("test data")));
}

/// Every range that must never be dialled.
const FORBIDDEN: [&str; 40] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "168.63.129.16/32",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "255.255.255.255/32",
    "::/128",
    "::1/128",
    "::/8",
    "64:ff9b::/32",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "100:0:0:1::/64",
    "2001::/32",
    "2001::/23",
    "2001:2::/48",
    "2001:10::/28",
    "2001:20::/28",
    "2001:db8::/32",
    "2002::/16",
    "3fff::/20",
    "4000::/2",
    "5f00::/16",
    "8000::/2",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
];

/// The addresses on both sides of the forbidden IPv4 and IPv6 ranges.
const NEIGHBOURS: [&str; 35] = [
    "1.0.0.0",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "168.63.129.15",
    "168.63.129.17",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "191.255.255.255",
    "192.0.1.0",
    "192.0.3.0",
    "192.88.98.255",
    "192.88.100.0",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "198.51.99.255",
    "198.51.101.0",
    "203.0.112.255",
    "203.0.114.0",
    "223.255.255.255",
    "2000::",
    "2001:200::",
    "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff",
    "2001:db9::",
    "2003::",
    "3ffe:ffff::1",
    "3fff:1000::",
    "3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
];

#[test]
fn s_05_neighbours_of_forbidden_ranges_are_allowed() {
    for text in NEIGHBOURS {
        let ip: IpAddr = text.parse().expect("test data");
        assert_eq!(classify(ip), AddressClass::Global, "{text}");
        if let IpAddr::V4(ip) = ip {
            let mapped = IpAddr::V6(ip.to_ipv6_mapped());
            assert_eq!(classify(mapped), AddressClass::Global, "mapped {text}");
        }
    }
}

#[test]
fn the_ranges_for_a_second_wall_are_those_that_are_refused() {
    let ranges = forbidden_ranges();
    let listed = |ip: IpAddr| ranges.iter().any(|range| range.contains(ip));
    for range in &ranges {
        for ip in [range.first(), range.last()] {
            assert!(range.contains(ip), "{ip} is not in {range}");
            assert_ne!(classify(ip), AddressClass::Global, "{ip} of {range}");
        }
    }
    for text in FORBIDDEN {
        let range: Cidr = text.parse().expect("test data");
        assert!(listed(range.first()) && listed(range.last()), "{text}");
    }
    for text in NEIGHBOURS {
        assert!(!listed(text.parse().expect("test data")), "{text}");
    }
    let ends = |text: &str| {
        let range: Cidr = text.parse().expect("test data");
        (range.first().to_string(), range.last().to_string())
    };
    assert_eq!(ends("0.0.0.0/0").1, "255.255.255.255");
    assert_eq!(ends("10.0.0.0/8").1, "10.255.255.255");
    assert_eq!(ends("::1").1, "::1");
    assert_eq!(ends("::/0").1, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
    assert_eq!(ends("2001:db8::/32").0, "2001:db8::");
}

#[test]
fn classes_are_named_for_operators() {
    for (text, class) in [
        ("::ffff:127.0.0.1", AddressClass::Loopback),
        ("169.254.169.254", AddressClass::LinkLocal),
        ("100.100.100.200", AddressClass::SharedNat),
        ("fd00:ec2::254", AddressClass::Private),
        ("fec0::1", AddressClass::SiteLocal),
        ("64:ff9b::808:808", AddressClass::EmbeddedIpv4),
        ("2002:808:808::", AddressClass::EmbeddedIpv4),
        ("2001:0:1::", AddressClass::EmbeddedIpv4),
        ("2001:2::1", AddressClass::Benchmarking),
        ("2001:10::1", AddressClass::IetfProtocol),
        ("255.255.255.255", AddressClass::Broadcast),
        ("168.63.129.16", AddressClass::CloudService),
        ("4000::", AddressClass::Reserved),
        ("2600:1::5efe:a00:1", AddressClass::EmbeddedIpv4),
        ("2600:1::200:5efe:808:808", AddressClass::EmbeddedIpv4),
        ("2600:1::100:5efe:808:808", AddressClass::Global),
        ("2600:1::200:5eff:808:808", AddressClass::Global),
        ("2001:db8::5efe:808:808", AddressClass::Documentation),
    ] {
        assert_eq!(classify(text.parse().expect("test data")), class, "{text}");
    }
}

/// The address of the range whose lower bits are `noise`.
fn inside(range: &str, noise: u128) -> IpAddr {
    let (network, prefix) = range.split_once('/').expect("test data");
    let prefix: u32 = prefix.parse().expect("test data");
    match network.parse().expect("test data") {
        IpAddr::V4(network) => {
            let mask = u32::MAX.checked_shr(prefix).unwrap_or(0);
            Ipv4Addr::from_bits(network.to_bits() | (noise as u32 & mask)).into()
        }
        IpAddr::V6(network) => {
            let mask = u128::MAX.checked_shr(prefix).unwrap_or(0);
            Ipv6Addr::from_bits(network.to_bits() | (noise & mask)).into()
        }
    }
}

/// Every way we know to write an IPv4 address into an IPv6 address, the mapped one left out.
fn carriers(v4: Ipv4Addr) -> [Ipv6Addr; 11] {
    let low = u128::from(v4.to_bits());
    let [a, b] = [(low >> 16) as u16, low as u16];
    [
        Ipv6Addr::from_bits(low),
        Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, a, b),
        Ipv6Addr::new(0, 0, 0, 0, 0, 0x5efe, a, b),
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0x200, 0x5efe, a, b),
        Ipv6Addr::new(0x2600, 1, 2, 3, 0, 0x5efe, a, b),
        Ipv6Addr::new(0x2a00, 1, 2, 3, 0x200, 0x5efe, a, b),
        Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, a, b),
        Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, a, b),
        Ipv6Addr::new(0x2002, a, b, 0, 0, 0, 0, 1),
        Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, !a, !b),
        Ipv6Addr::new(0x2001, 0, a, b, 0, 0, 0, 0),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn s_04_every_address_of_a_forbidden_range_is_refused(
        row in 0..FORBIDDEN.len(), noise: u128
    ) {
        let ip = inside(FORBIDDEN[row], noise);
        // The only public addresses in there are IPv4 ones in the mapped spelling.
        let is_mapped = ip.is_ipv6() && ip.to_canonical().is_ipv4();
        prop_assume!(!is_mapped);
        prop_assert_ne!(classify(ip), AddressClass::Global);
        let policy = AddressPolicy::default();
        prop_assert_eq!(vet_addresses(&[ip], &policy), Err(EndpointRefusal::BlockedAddress));
        let text = match ip {
            IpAddr::V4(ip) => format!("https://{ip}/"),
            IpAddr::V6(ip) => format!("https://[{ip}]/"),
        };
        prop_assert_eq!(EndpointUrl::parse(&text, &policy), Err(EndpointRefusal::BlockedAddress));
    }

    #[test]
    fn s_04_an_ipv4_address_inside_ipv6_is_refused_or_judged_as_itself(bits: u32) {
        let v4 = Ipv4Addr::from_bits(bits);
        prop_assert_eq!(classify(v4.to_ipv6_mapped().into()), classify(v4.into()));
        for carrier in carriers(v4) {
            prop_assert_ne!(classify(carrier.into()), AddressClass::Global, "{}", carrier);
        }
    }

    #[test]
    fn s_03_spellings_of_one_ipv4_address_get_one_verdict(bits: u32) {
        let policy = AddressPolicy::default();
        let v4 = Ipv4Addr::from_bits(bits);
        let [a, b, c, d] = v4.octets();
        let expected = EndpointUrl::parse(&format!("https://{v4}/"), &policy).map(|url| url.literal_ip());
        for text in [
            format!("https://{bits}/"),
            format!("https://{bits:#x}/"),
            format!("https://{a:#x}.{b:#x}.{c:#x}.{d:#x}/"),
            format!("https://0{a:o}.0{b:o}.0{c:o}.0{d:o}/"),
            format!("https://{a}.{}/", bits & 0x00ff_ffff),
            format!("https://{a}.{b}.{}/", bits & 0xffff),
            format!("https://{a}.{b}.{c}.{d}./"),
        ] {
            let verdict = EndpointUrl::parse(&text, &policy).map(|url| url.literal_ip());
            prop_assert_eq!(verdict, expected, "{}", text);
        }
    }

    /// The four prefixes under which IPv4 hides, each as a literal and as an answer.
    #[test]
    fn s_04_nothing_under_the_prefixes_that_carry_ipv4_is_dialled(noise: u128) {
        let policy = AddressPolicy::default();
        for prefix in ["::/8", "64:ff9b::/32", "2001::/32", "2002::/16"] {
            let ip = inside(prefix, noise);
            let literal = EndpointUrl::parse(&format!("https://[{ip}]/"), &policy);
            prop_assert_eq!(literal, Err(EndpointRefusal::BlockedAddress), "{}", ip);
            let public = IpAddr::from([93, 184, 216, 34]);
            let answers = [public, ip];
            prop_assert_eq!(vet_addresses(&answers, &policy), Err(EndpointRefusal::BlockedAddress));
        }
    }

    /// All of IPv6 outside 2000::/3 but IPv4 in its mapped spelling.
    #[test]
    fn s_04_all_of_ipv6_that_is_not_global_unicast_is_refused(bits: u128) {
        let ip = Ipv6Addr::from_bits(bits);
        let global = bits >> 125 == 1;
        prop_assume!(!global && ip.to_ipv4_mapped().is_none());
        let verdict = vet_addresses(&[ip.into()], &AddressPolicy::default());
        prop_assert_eq!(verdict, Err(EndpointRefusal::BlockedAddress));
    }

    /// What is accepted is read again as itself, in the form that is dialled.
    #[test]
    fn s_13_the_form_that_is_dialled_is_read_as_itself(
        host in "[a-zA-Z0-9.%_-]{1,24}|[0-9.xXa-f]{1,16}\\.{0,2}|[\\PC]{1,6}",
        port in prop::option::of(0_u16..),
        tail in "[/?][ -~]{0,20}|[/?]\\PC{0,10}|",
    ) {
        let policy = AddressPolicy::default();
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let text = format!("https://{host}{port}{tail}");
        if let Ok(url) = EndpointUrl::parse(&text, &policy) {
            let dialled = url.url().as_str();
            let again = EndpointUrl::parse(dialled, &policy);
            prop_assert_eq!(again.as_ref().map(EndpointUrl::url), Ok(url.url()), "{}", text);
            prop_assert_eq!(again.map(|again| again.literal_ip()), Ok(url.literal_ip()));
            prop_assert!(url.host().parse::<IpAddr>().is_err() || url.literal_ip().is_some());
        }
    }

    #[test]
    fn any_text_is_judged_without_a_panic(text in "\\PC{0,80}", tail in "[a-z0-9.:/@#?%\\[\\]\\\\-]{0,40}") {
        let policy = AddressPolicy::default();
        for text in [text.clone(), format!("https://{text}{tail}")] {
            if let Ok(url) = EndpointUrl::parse(&text, &policy) {
                prop_assert_eq!(url.check(&policy), Ok(()));
                prop_assert!(!url.host().is_empty());
            }
        }
    }
}

#[test]
fn a_url_is_recorded_without_its_query_and_a_change_of_it_shows() {
    use webhooks_domain::endpoint::url_for_record;
    let plain = "https://example.com/hook";
    assert_eq!(url_for_record(plain), plain);
    let one = url_for_record("https://example.com/hook?token=canary");
    let other = url_for_record("https://example.com/hook?token=kanary");
    assert_ne!(one, other);
    for record in [one, other] {
        let digest = record.strip_prefix("https://example.com/hook?sha256:");
        assert_eq!(digest.map(str::len), Some(8), "{record}");
    }
}
