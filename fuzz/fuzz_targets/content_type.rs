//! A `Content-Type`: what is taken for JSON is `application/json` up to the first semicolon.
#![no_main]

use libfuzzer_sys::fuzz_target;
use webhooks_domain::content_type::is_json;

fuzz_target!(|text: &str| {
    let essence = text.split(';').next().unwrap_or_default().trim();
    let lower = essence.to_ascii_lowercase();
    assert_eq!(is_json(Some(text)), lower == "application/json");
    // Whatever parameters follow, they change nothing.
    let longer = format!("{text};{text}");
    assert_eq!(is_json(Some(&longer)), is_json(Some(text)));
});
