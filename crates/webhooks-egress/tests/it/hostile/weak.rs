//! Certificates that are too weak: signed with SHA-1, by a key of 1024 bits, or for one.
//!
//! No server of today plays these, so the verifier is asked directly: the one that a client gets which is
//! set up with authorities to trust, as ours is. The certificates in `tests/data/weak` were made with
//! OpenSSL for a hundred years; each weak one differs from the good one in its weakness alone.

use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::SignatureScheme;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

macro_rules! data {
    ($name:literal) => {
        &include_bytes!(concat!("../../data/weak/", $name))[..]
    };
}

fn certificate(pem: &[u8]) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem).expect("a certificate")
}

#[test]
fn r_08_certificates_that_are_signed_too_weakly_are_refused() {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for authority in [data!("strong-authority.pem"), data!("short-authority.pem")] {
        roots.add(certificate(authority)).expect("an authority");
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .expect("a verifier");
    // 2033, whatever this machine's clock says.
    let when = UnixTime::since_unix_epoch(Duration::from_secs(2_000_000_000));
    let name = ServerName::try_from("hooks.example.com").expect("a name");
    for (what, pem, accepted) in [
        ("good", data!("good-leaf.pem"), true),
        ("signed with SHA-1", data!("sha1-leaf.pem"), false),
        (
            "signed with 1024 bits",
            data!("short-issuer-leaf.pem"),
            false,
        ),
    ] {
        let leaf = certificate(pem);
        let verdict = verifier.verify_server_cert(&leaf, &[], &name, &[], when);
        assert_eq!(verdict.is_ok(), accepted, "{what}: {verdict:?}");
    }
}

#[test]
fn r_08_a_key_of_1024_bits_signs_no_handshake() {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let known = provider.signature_verification_algorithms.mapping;
    let algorithms = known
        .iter()
        .find(|(scheme, _)| *scheme == SignatureScheme::RSA_PKCS1_SHA256)
        .map(|(_, algorithms)| *algorithms)
        .expect("a scheme");
    let verifies = |key: &[u8], signature: &[u8]| {
        algorithms.iter().any(|known| {
            known
                .verify_signature(key, b"a handshake", signature)
                .is_ok()
        })
    };
    let good = verifies(data!("good-leaf.public.der"), data!("good-leaf.signature"));
    assert!(good, "2048 bits");
    let short = verifies(
        data!("short-leaf.public.der"),
        data!("short-leaf.signature"),
    );
    assert!(!short, "1024 bits");
}
