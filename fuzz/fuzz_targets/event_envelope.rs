//! A publisher's event: any bytes are read or refused with their problems, in bounded time, and what is
//! read is still JSON of the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use webhooks_domain::event::{EventLimits, parse_event};

fuzz_target!(|bytes: &[u8]| {
    match parse_event(bytes, &EventLimits::DEFAULT) {
        Ok(_) => assert!(std::str::from_utf8(bytes).is_ok()),
        Err(rejection) => assert!(!rejection.problems.is_empty()),
    }
});
