//! Names: what they may resolve to, and whose fault it is when they do not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use webhooks_domain::endpoint::{FailureClass, Outcome};
use webhooks_egress::{AttemptResult, Egress, EgressConfig};

use crate::dns_server::{DnsServer, Reply};
use crate::receiver::{Receiver, Script, answer, ok};
use crate::{PATIENCE, config, egress, post};

fn with_dns(server: &DnsServer) -> EgressConfig {
    EgressConfig {
        dns_servers: vec![server.address],
        ..config()
    }
}

async fn post_to(egress: &Egress, name: &str, receiver: &Receiver) -> AttemptResult {
    post(
        egress,
        &format!("http://{name}:{}/hook", receiver.address.port()),
    )
    .await
}

fn assert_blocked(result: &AttemptResult, what: &str) {
    assert_eq!(result.outcome, Outcome::Blocked, "{what}");
    assert_eq!(result.class, Some(FailureClass::Permanent), "{what}");
    assert_eq!(result.reason(), Some("blocked_address"), "{what}");
    let error = result.error().expect("an error");
    assert!(
        !error.contains(|character: char| character.is_ascii_digit()),
        "{error}"
    );
}

#[tokio::test]
async fn a_name_with_allowed_addresses_is_called_and_looked_up_once() {
    let dns = DnsServer::start(|_| Reply::addresses(&["127.0.0.1"])).await;
    let receiver = Receiver::start(Script::Answer(ok())).await;
    let egress = egress(with_dns(&dns));
    let attempts = (0..20).map(|_| post_to(&egress, "hooks.example.com", &receiver));
    for result in futures::future::join_all(attempts).await {
        assert_eq!(result.outcome, Outcome::Success);
        assert!(result.timings.dns.is_some());
    }
    assert_eq!(receiver.counts().requests, 20);
    // One for A, one for AAAA; on a busy machine each may be asked again.
    assert!(dns.queries() <= 4, "{} queries", dns.queries());
    let request = &receiver.requests()[0];
    assert!(
        request.contains("\r\nhost: hooks.example.com:"),
        "{request}"
    );
}

#[tokio::test]
async fn s_06_s_07_a_forbidden_answer_is_blocked_without_a_packet() {
    let dns = DnsServer::start(|name| match name {
        "a.attacker.example" => Reply::addresses(&["127.0.0.2"]),
        "mapped.attacker.example" => Reply::addresses(&["::ffff:127.0.0.2"]),
        "compatible.attacker.example" => Reply::addresses(&["::127.0.0.2"]),
        "mixed.attacker.example" => Reply::addresses(&["127.0.0.1", "127.0.0.2"]),
        "mixed6.attacker.example" => Reply::addresses(&["127.0.0.1", "::1"]),
        "many.attacker.example" => Reply::Addresses(
            (0..40)
                .map(|n| {
                    if n == 39 {
                        [127, 0, 0, 2]
                    } else {
                        [127, 0, 0, 1]
                    }
                    .into()
                })
                .collect(),
        ),
        _ => Reply::NoSuchName,
    })
    .await;
    let allowed = Receiver::start(Script::Answer(ok())).await;
    let victim = allowed.neighbour([127, 0, 0, 2]).await;
    let egress = egress(with_dns(&dns));
    for name in ["a", "mapped", "compatible", "mixed", "mixed6", "many"] {
        let result = post_to(&egress, &format!("{name}.attacker.example"), &victim).await;
        assert_blocked(&result, name);
    }
    assert_eq!(victim.counts().connections, 0);
    assert_eq!(
        allowed.counts().connections,
        0,
        "mixed answers refuse the name"
    );
}

#[tokio::test]
async fn s_08_alternating_answers_never_reach_the_forbidden_address() {
    let turn = AtomicUsize::new(0);
    let dns = DnsServer::start(move |_| {
        if turn.fetch_add(1, Ordering::Relaxed).is_multiple_of(3) {
            Reply::addresses(&["127.0.0.1"])
        } else {
            Reply::addresses(&["127.0.0.2"])
        }
    })
    .await;
    let allowed = Receiver::start(Script::Answer(ok())).await;
    let victim = allowed.neighbour([127, 0, 0, 2]).await;
    let egress = egress(with_dns(&dns));
    let mut seen = [0, 0];
    for n in 0..200 {
        let result = post_to(&egress, &format!("{n}.rebind.example"), &victim).await;
        match result.outcome {
            Outcome::Success => seen[0] += 1,
            Outcome::Blocked => seen[1] += 1,
            other => panic!("{other}: {:?}", result.reason()),
        }
    }
    assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
    assert_eq!(victim.counts().connections, 0);
}

/// Takes as long as an answer is believed at least, five seconds.
#[tokio::test]
async fn s_09_a_name_that_turns_private_is_refused_although_its_connection_is_still_open() {
    let private = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&private);
    let dns = DnsServer::start(move |_| match switch.load(Ordering::Relaxed) {
        false => Reply::addresses(&["127.0.0.1"]),
        true => Reply::addresses(&["127.0.0.2"]),
    })
    .await;
    let allowed = Receiver::start(Script::Answer(ok())).await;
    let victim = allowed.neighbour([127, 0, 0, 2]).await;
    let egress = egress(with_dns(&dns));
    let first = post_to(&egress, "rebind.example", &allowed).await;
    assert_eq!(first.outcome, Outcome::Success);

    private.store(true, Ordering::Relaxed);
    let started = Instant::now();
    let refused = loop {
        let result = post_to(&egress, "rebind.example", &allowed).await;
        if result.outcome != Outcome::Success {
            break result;
        }
        assert!(started.elapsed() < PATIENCE, "still delivered");
        tokio::task::yield_now().await;
    };
    assert_blocked(&refused, "after the switch");
    assert_eq!(victim.counts().connections, 0);
}

#[tokio::test]
async fn r_27_a_name_that_does_not_exist_is_unreachable() {
    let dns = DnsServer::start(|name| match name {
        "empty.example" => Reply::Addresses(Vec::new()),
        _ => Reply::NoSuchName,
    })
    .await;
    let receiver = Receiver::start(Script::Answer(ok())).await;
    let egress = egress(with_dns(&dns));
    for name in ["gone.example", "empty.example"] {
        let result = post_to(&egress, name, &receiver).await;
        assert_eq!(result.outcome, Outcome::Unreachable, "{name}");
        assert_eq!(result.class, Some(FailureClass::Temporary), "{name}");
        assert_eq!(result.reason(), Some("name_not_found"), "{name}");
    }
    assert_eq!(receiver.counts().connections, 0);
}

#[tokio::test]
async fn r_27_a_name_that_fails_is_ours_only_while_the_control_name_fails_too() {
    let down = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&down);
    let dns = DnsServer::start(move |name| match name {
        _ if switch.load(Ordering::Relaxed) => Reply::ServerFailure,
        "control.example" => Reply::addresses(&["192.0.2.1"]),
        "gone.example" => Reply::NoSuchName,
        _ => Reply::ServerFailure,
    })
    .await;
    let receiver = Receiver::start(Script::Answer(ok())).await;
    let with_control = || {
        egress(EgressConfig {
            control_name: Some("control.example".into()),
            ..with_dns(&dns)
        })
    };
    let up = with_control();
    for (name, reason) in [
        ("broken.example", "name_lookup_failed"),
        ("gone.example", "name_not_found"),
    ] {
        let result = post_to(&up, name, &receiver).await;
        assert_eq!(result.outcome, Outcome::Unreachable, "{name}");
        assert_eq!(result.class, Some(FailureClass::Temporary), "{name}");
        assert_eq!(result.reason(), Some(reason), "{name}");
    }

    down.store(true, Ordering::Relaxed);
    let result = post_to(&with_control(), "broken.example", &receiver).await;
    assert_eq!(result.outcome, Outcome::Internal);
    assert_eq!(result.class, Some(FailureClass::Ours));
    assert_eq!(result.reason(), Some("resolver_down"));
    let without_control = post_to(&egress(with_dns(&dns)), "broken.example", &receiver).await;
    assert_eq!(without_control.outcome, Outcome::Unreachable);
}

#[tokio::test]
async fn f_24_a_resolver_that_comes_back_before_the_control_name_is_asked_is_not_the_names_fault() {
    let back = Arc::new(AtomicBool::new(false));
    let switch = Arc::clone(&back);
    let dns = DnsServer::start(move |name| match name {
        // Whoever asks this finds the resolver well again.
        "control.example" => {
            switch.store(true, Ordering::Relaxed);
            Reply::addresses(&["192.0.2.1"])
        }
        "broken.example" => Reply::ServerFailure,
        _ if switch.load(Ordering::Relaxed) => Reply::addresses(&["127.0.0.1"]),
        _ => Reply::ServerFailure,
    })
    .await;
    let receiver = Receiver::start(Script::Answer(ok())).await;
    let egress = egress(EgressConfig {
        control_name: Some("control.example".into()),
        ..with_dns(&dns)
    });
    let attempts = (0..20).map(|_| post_to(&egress, "hooks.example", &receiver));
    for result in futures::future::join_all(attempts).await {
        assert_eq!(result.outcome, Outcome::Success, "{result:?}");
    }
    let asked = dns.queries();
    let attempts = (0..20).map(|_| post_to(&egress, "broken.example", &receiver));
    for result in futures::future::join_all(attempts).await {
        assert_eq!(result.reason(), Some("name_lookup_failed"), "{result:?}");
        assert_eq!(result.class, Some(FailureClass::Temporary));
    }
    // Twice the name, once the control name, however many wait; each for A and AAAA, and tried again.
    // Each attempt for itself would be at least eighty.
    let asked = dns.queries() - asked;
    assert!(asked <= 30, "{asked} queries");
}

#[tokio::test]
async fn r_27_a_silent_resolver_costs_no_more_than_its_budget() {
    let dns = DnsServer::start(|_| Reply::Silence).await;
    let receiver = Receiver::start(Script::Answer(ok())).await;
    let budget = Duration::from_millis(500);
    let egress = egress(EgressConfig {
        dns_timeout: budget,
        ..with_dns(&dns)
    });
    let attempts = (0..50).map(|_| post_to(&egress, "silent.example", &receiver));
    for result in futures::future::join_all(attempts).await {
        assert_eq!(result.outcome, Outcome::Unreachable);
        assert_eq!(result.reason(), Some("name_lookup_failed"));
        assert!(result.timings.total < budget * 20, "{:?}", result.timings);
    }
    assert!(dns.queries() <= 8, "{} queries", dns.queries());
    assert_eq!(receiver.counts().connections, 0);
}

#[tokio::test]
async fn s_16_the_name_rules_hold_for_every_attempt() {
    let dns = DnsServer::start(|_| Reply::addresses(&["127.0.0.1"])).await;
    let receiver = Receiver::start(Script::Answer(ok())).await;
    let mut config = with_dns(&dns);
    config.policy.own_hosts = vec!["api.linkbreakers.com".into()];
    let egress = egress(config);
    let result = post_to(&egress, "api.linkbreakers.com", &receiver).await;
    assert_eq!(result.outcome, Outcome::Blocked);
    assert_eq!(result.reason(), Some("own_host"));
    assert_eq!(dns.queries(), 0);
}

#[tokio::test]
async fn a_400_from_make_is_temporary() {
    let dns = DnsServer::start(|_| Reply::addresses(&["127.0.0.1"])).await;
    let receiver = Receiver::start(Script::Answer(answer("400 Queue full", ""))).await;
    let egress = egress(with_dns(&dns));
    for (name, class) in [
        ("hook.eu1.make.com", FailureClass::Temporary),
        ("hooks.example.com", FailureClass::Permanent),
    ] {
        let result = post_to(&egress, name, &receiver).await;
        assert_eq!(result.status, Some(400));
        assert_eq!(result.class, Some(class), "{name}");
    }
}

#[tokio::test]
async fn s_16_our_own_addresses_are_refused_whatever_else_is_allowed() {
    let dns = DnsServer::start(|_| Reply::addresses(&["127.0.0.1"])).await;
    let receiver = Receiver::start(Script::Answer(ok())).await;
    let mut config = with_dns(&dns);
    config.policy.own_ips = vec![std::net::IpAddr::from([127, 0, 0, 1]).into()];
    let egress = egress(config);
    for host in ["hooks.example.com", "127.0.0.1", "[::ffff:127.0.0.1]"] {
        let result = post_to(&egress, host, &receiver).await;
        assert_eq!(result.outcome, Outcome::Blocked, "{host}");
        assert_eq!(result.class, Some(FailureClass::Permanent), "{host}");
        assert_eq!(result.reason(), Some("own_address"), "{host}");
    }
    assert_eq!(receiver.counts().connections, 0);
}

#[tokio::test]
async fn r_27_five_hundred_addresses_are_all_judged_and_few_are_tried() {
    let many = |last: [u8; 4]| {
        let allowed = std::iter::repeat_n([127, 0, 0, 1], 499);
        Reply::Addresses(allowed.chain([last]).map(Into::into).collect())
    };
    let dns = DnsServer::start(move |name| match name {
        "many.example" => many([127, 0, 0, 1]),
        _ => many([127, 0, 0, 2]),
    })
    .await;
    let receiver = Receiver::start(Script::Answer(ok())).await;
    let victim = receiver.neighbour([127, 0, 0, 2]).await;
    let egress = egress(with_dns(&dns));
    let result = post_to(&egress, "many.example", &receiver).await;
    assert_eq!(result.outcome, Outcome::Success, "{result:?}");
    assert_blocked(
        &post_to(&egress, "attacker.example", &receiver).await,
        "the last of 500",
    );
    assert_eq!(receiver.counts().connections, 1);
    assert_eq!(victim.counts().connections, 0);
}

#[tokio::test]
async fn r_27_a_chain_of_twenty_names_ends_within_the_budget_and_is_judged_at_its_end() {
    let dns = DnsServer::start(|name| match name {
        "chain.example" => Reply::chain(20, &["127.0.0.1"]),
        "bad-chain.example" => Reply::chain(20, &["127.0.0.2"]),
        "loop.example" => Reply::chain(20, &[]),
        _ => Reply::NoSuchName,
    })
    .await;
    let receiver = Receiver::start(Script::Answer(ok())).await;
    let victim = receiver.neighbour([127, 0, 0, 2]).await;
    let budget = Duration::from_secs(2);
    let egress = egress(EgressConfig {
        dns_timeout: budget,
        ..with_dns(&dns)
    });
    let started = Instant::now();
    let result = post_to(&egress, "chain.example", &receiver).await;
    assert_eq!(result.outcome, Outcome::Success, "{result:?}");
    assert_blocked(
        &post_to(&egress, "bad-chain.example", &receiver).await,
        "a chain that ends where it must not",
    );
    let result = post_to(&egress, "loop.example", &receiver).await;
    assert_eq!(result.outcome, Outcome::Unreachable, "{result:?}");
    assert_eq!(result.class, Some(FailureClass::Temporary));
    assert!(started.elapsed() < budget * 4, "{:?}", started.elapsed());
    assert_eq!(victim.counts().connections, 0);
}
