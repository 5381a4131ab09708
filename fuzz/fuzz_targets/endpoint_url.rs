//! A customer's endpoint: what is accepted is stable, has a public host, and stays refused or accepted
//! however often it is read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use webhooks_domain::endpoint::{AddressClass, AddressPolicy, EndpointUrl, classify};

fuzz_target!(|text: &str| {
    let policy = AddressPolicy::default();
    let Ok(url) = EndpointUrl::parse(text, &policy) else {
        return;
    };
    assert_eq!(url.check(&policy), Ok(()));
    assert_eq!(url.url().scheme(), "https");
    assert!(url.url().username().is_empty() && url.url().password().is_none());
    assert!(url.url().fragment().is_none());
    assert!(!url.host().is_empty() && !url.host().ends_with('.'));
    if let Some(ip) = url.literal_ip() {
        assert_eq!(classify(ip), AddressClass::Global);
    }
    // The form that is dialled is read as itself.
    let dialled = url.url().as_str();
    let again = EndpointUrl::parse(dialled, &policy);
    match again {
        Ok(again) => {
            assert_eq!(again.url(), url.url());
            assert_eq!(again.literal_ip(), url.literal_ip());
        }
        // Percent-encoding makes it longer.
        Err(refusal) => assert!(dialled.len() > 2048, "{dialled}: {refusal}"),
    }
});
