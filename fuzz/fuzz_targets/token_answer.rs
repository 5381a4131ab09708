//! A token endpoint's answer: a token that can stand in a header and is used for a bounded time, or none.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use webhooks_domain::oauth2::read_answer;

fuzz_target!(|body: &[u8]| {
    if let Ok(token) = read_answer(body) {
        assert!(!token.value.is_empty());
        assert!(token.value.bytes().all(|byte| byte.is_ascii_graphic()));
        assert!(token.usable_for <= Duration::from_secs(24 * 60 * 60));
    }
});
