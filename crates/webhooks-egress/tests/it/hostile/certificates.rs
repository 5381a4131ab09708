//! TLS that hangs, or that nobody should trust.

use std::sync::Arc;
use std::time::Duration;

use rcgen::date_time_ymd;
use webhooks_domain::endpoint::{FailureClass, Outcome};
use webhooks_egress::{EgressConfig, TlsIdentity};

use super::authority::{Authority, Leaf, at_home, params, self_signed};
use super::kit::{Hostile, Step, answer, answering, closed_soon};
use super::{GRACE, unhurried};
use crate::{egress, post, request, within};

const HOST: &str = "hooks.example.com";

/// The budget of connect and handshake here.
const BUDGET: Duration = Duration::from_millis(500);

#[tokio::test]
async fn r_07_a_handshake_that_hangs_ends_with_the_connect_budget() {
    // The beginning of a handshake record of 16 KiB.
    let half = vec![22, 3, 3, 64, 0, 2, 0];
    for (what, steps) in [
        ("says nothing", vec![Step::Hold]),
        ("takes nothing", vec![Step::UntilReleased, Step::Hold]),
        (
            "begins to speak",
            vec![Step::Send(half.clone()), Step::Hold],
        ),
        (
            "drips",
            vec![
                Step::Send(half),
                Step::Drip(vec![0], Duration::from_millis(20)),
            ],
        ),
    ] {
        let receiver = Hostile::start(steps).await;
        let config = EgressConfig {
            connect_timeout: BUDGET,
            ..at_home(unhurried()).await
        };
        let result = post(&egress(config), &receiver.https_url(HOST)).await;
        assert_eq!(result.outcome, Outcome::Timeout, "{what}: {result:?}");
        assert_eq!(result.class, Some(FailureClass::Temporary), "{what}");
        assert_eq!(result.reason(), Some("connect_timeout"), "{what}");
        assert!(result.timings.total < BUDGET + GRACE, "{what}");
        assert!(result.timings.connect.is_some(), "TCP stood");
        assert_eq!(result.timings.tls, None, "TLS did not");
        receiver.release();
        closed_soon(&receiver).await;
    }
}

/// Meets a server with this certificate; it must not see a byte of HTTP.
async fn is_refused(what: &str, reason: &str, authority: &Authority, leaf: &Leaf, host: &str) {
    let config = authority.server(leaf);
    let receiver = Hostile::tls(config, answering(answer("200 OK", "", ""))).await;
    let egress = egress(authority.trusted(unhurried()).await);
    let result = post(&egress, &receiver.https_url(host)).await;
    assert_eq!(result.outcome, Outcome::TlsError, "{what}: {result:?}");
    assert_eq!(result.class, Some(FailureClass::Permanent), "{what}");
    assert_eq!(result.reason(), Some(reason), "{what}");
    closed_soon(&receiver).await;
    for log in receiver.logs() {
        assert_eq!(log.received, b"", "{what}");
    }
}

#[tokio::test]
async fn r_08_a_bad_certificate_is_refused_with_its_reason_before_a_byte_of_http() {
    let authority = Authority::new();
    let mut expired = params(HOST);
    (expired.not_before, expired.not_after) =
        (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    let expired = authority.sign(&expired);
    is_refused("expired", "certificate_expired", &authority, &expired, HOST).await;

    let mut early = params(HOST);
    (early.not_before, early.not_after) = (date_time_ymd(2200, 1, 1), date_time_ymd(2201, 1, 1));
    let early = authority.sign(&early);
    let reason = "certificate_not_yet_valid";
    is_refused("not valid yet", reason, &authority, &early, HOST).await;

    let reason = "certificate_wrong_host";
    let good = authority.leaf(HOST);
    is_refused("wrong host", reason, &authority, &good, "other.example.com").await;
    is_refused(
        "wrong level",
        reason,
        &authority,
        &good,
        "a.hooks.example.com",
    )
    .await;
    is_refused("an address", reason, &authority, &good, "127.0.0.1").await;
    let wildcard = authority.leaf("*.example.com");
    is_refused("wildcard", reason, &authority, &wildcard, "a.b.example.com").await;

    let reason = "certificate_untrusted";
    is_refused("self-signed", reason, &authority, &self_signed(HOST), HOST).await;
    let stranger = Authority::new().leaf(HOST);
    is_refused("unknown authority", reason, &authority, &stranger, HOST).await;
    let mut alone = authority.leaf_below_an_intermediate(HOST);
    alone.chain.truncate(1);
    is_refused("no intermediate", reason, &authority, &alone, HOST).await;

    let mut for_clients = params(HOST);
    for_clients.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let for_clients = authority.sign(&for_clients);
    let reason = "certificate_invalid";
    is_refused(
        "a client's certificate",
        reason,
        &authority,
        &for_clients,
        HOST,
    )
    .await;
}

#[tokio::test]
async fn r_08_good_certificates_are_accepted() {
    let authority = Authority::new();
    for (what, leaf, host) in [
        ("plain", authority.leaf(HOST), HOST),
        ("wildcard", authority.leaf("*.example.com"), HOST),
        (
            "intermediate",
            authority.leaf_below_an_intermediate(HOST),
            HOST,
        ),
        ("address", authority.leaf("127.0.0.1"), "127.0.0.1"),
    ] {
        let config = authority.server(&leaf);
        let receiver = Hostile::tls(config, answering(answer("200 OK", "", "ok"))).await;
        let egress = egress(authority.trusted(unhurried()).await);
        let result = post(&egress, &receiver.https_url(host)).await;
        assert_eq!(result.outcome, Outcome::Success, "{what}: {result:?}");
        let timings = result.timings;
        assert!(timings.connect.is_some() && timings.tls.is_some(), "{what}");
    }
}

/// The answer of a server that speaks no newer version: a `ServerHello` with it.
fn server_hello(minor: u8) -> Vec<u8> {
    let mut hello = vec![3, minor];
    hello.extend([7; 32]);
    // No session id; TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA; no compression.
    hello.extend([0, 0xc0, 0x13, 0]);
    let mut handshake = vec![2, 0, 0, hello.len() as u8];
    handshake.extend(hello);
    let mut record = vec![22, 3, minor, 0, handshake.len() as u8];
    record.extend(handshake);
    record
}

#[tokio::test]
async fn r_08_old_versions_of_tls_are_final_and_other_protocols_a_failed_handshake() {
    let (old, failed) = (
        ("tls_version", FailureClass::Permanent),
        ("tls_handshake", FailureClass::Temporary),
    );
    for (what, bytes, (reason, class)) in [
        ("TLS 1.0", server_hello(1), old),
        ("TLS 1.1", server_hello(2), old),
        ("SSL 3", server_hello(0), old),
        ("protocol_version", vec![21, 3, 1, 0, 2, 2, 70], old),
        ("handshake_failure", vec![21, 3, 3, 0, 2, 2, 40], failed),
        (
            "plain HTTP",
            answer("400 Bad Request", "", "speak HTTP"),
            failed,
        ),
        ("SSH", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), failed),
        ("noise", vec![0xff; 64], failed),
    ] {
        let steps = vec![Step::Send(bytes), Step::Hold];
        let receiver = Hostile::start(steps).await;
        let result = post(
            &egress(at_home(unhurried()).await),
            &receiver.https_url(HOST),
        )
        .await;
        assert_eq!(result.outcome, Outcome::TlsError, "{what}: {result:?}");
        assert_eq!(result.class, Some(class), "{what}");
        assert_eq!(result.reason(), Some(reason), "{what}");
        assert_eq!(receiver.requests(), 0, "{what}");
        closed_soon(&receiver).await;
    }
}

#[test]
fn r_09_there_is_no_way_to_skip_the_check_of_certificates() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
    for file in std::fs::read_dir(folder).expect("a folder") {
        let path = file.expect("a file").path();
        let text = std::fs::read_to_string(&path).expect("a text");
        for word in [
            "dangerous()",
            "ServerCertVerifier",
            "accept_invalid",
            "insecure",
        ] {
            assert!(!text.contains(word), "{word} in {}", path.display());
        }
    }
}

#[tokio::test]
async fn a_client_certificate_is_shown_to_those_who_ask_and_only_for_its_own_webhook() {
    let authority = Authority::new();
    let server = authority.server_for_clients(&authority.leaf(HOST));
    let receiver = Hostile::tls(server, answering(answer("200 OK", "", "ok"))).await;
    let client = authority.leaf("client.example.com");
    let identity = Arc::new(
        TlsIdentity::new(
            b"",
            client.chain_pem().as_bytes(),
            client.key.serialize_pem().as_bytes(),
        )
        .expect("an identity"),
    );
    let egress = egress(authority.trusted(unhurried()).await);
    let url = receiver.https_url(HOST);
    for _ in 0..2 {
        let result = within(egress.send_as(request(&url), Some(&identity))).await;
        assert_eq!(result.outcome, Outcome::Success, "{result:?}");
        // The connection that is open now is the identity's, and nobody else rides on it.
        let result = post(&egress, &url).await;
        assert_eq!(result.outcome, Outcome::TlsError, "{result:?}");
        assert_eq!(result.reason(), Some("client_certificate_refused"));
        assert_eq!(result.class, Some(FailureClass::Permanent));
    }
    assert_eq!(receiver.requests(), 2);
}

#[tokio::test]
async fn an_authority_of_one_webhook_is_trusted_for_that_webhook_alone() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let server = theirs.server(&theirs.leaf(HOST));
    let receiver = Hostile::tls(server, answering(answer("200 OK", "", "ok"))).await;
    let egress = egress(ours.trusted(unhurried()).await);
    let url = receiver.https_url(HOST);
    let identity = TlsIdentity::new(theirs.pem().as_bytes(), b"", b"").expect("an identity");
    let identity = Arc::new(identity);
    for _ in 0..2 {
        let result = within(egress.send_as(request(&url), Some(&identity))).await;
        assert_eq!(result.outcome, Outcome::Success, "{result:?}");
        let result = post(&egress, &url).await;
        assert_eq!(result.reason(), Some("certificate_untrusted"));
    }
    assert_eq!(receiver.requests(), 2);
}
