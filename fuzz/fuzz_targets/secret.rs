//! A signing secret and a signature header: any text is refused or used, and nothing verifies by accident.
#![no_main]

use libfuzzer_sys::fuzz_target;
use webhooks_domain::signing::{SigningKey, sign, verify};

fuzz_target!(|input: (&str, &str, i64, &[u8])| {
    let (secret, header, timestamp, body) = input;
    let Ok(key) = SigningKey::parse(secret) else {
        return;
    };
    let signature = sign(std::slice::from_ref(&key), "msg_1", timestamp, body);
    assert!(verify(&key, "msg_1", timestamp, body, &signature));
    if verify(&key, "msg_1", timestamp, body, header) {
        // Only who knows the signature can write it.
        let known = signature.split(' ').all(|part| header.contains(part));
        assert!(known, "{header}");
    }
});
