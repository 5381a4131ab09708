//! A publisher's event: any bytes are read or refused with their problems, in bounded time, and of what is
//! read nothing is dropped for its type when it is rendered.
#![no_main]

use libfuzzer_sys::fuzz_target;
use webhooks_domain::event::{
    DropReason, EventLimits, Profile, parse_accepted_event, parse_event, render,
};

fuzz_target!(|bytes: &[u8]| {
    match parse_event(bytes, &EventLimits::DEFAULT) {
        Ok(event) => {
            assert!(std::str::from_utf8(bytes).is_ok());
            let accepted = parse_accepted_event(bytes, &EventLimits::DEFAULT);
            assert_eq!(accepted.as_ref(), Ok(&event));
            let rendition = render(bytes, Profile::Standard).expect("an event renders");
            let mut dropped = rendition.dropped_paths.iter();
            assert!(dropped.all(|path| path.reason != DropReason::WrongType));
        }
        Err(rejection) => assert!(!rejection.problems.is_empty()),
    }
});
