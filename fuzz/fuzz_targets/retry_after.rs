//! A receiver's `Retry-After`: whatever it says, the wait is an hour at most.
#![no_main]

use libfuzzer_sys::fuzz_target;
use webhooks_domain::retry::{MAX_RETRY_AFTER, parse_retry_after};

fuzz_target!(|input: (i64, &str)| {
    let (now_micros, text) = input;
    if let Some(wait) = parse_retry_after(text, now_micros) {
        assert!(wait <= MAX_RETRY_AFTER);
    }
});
