//! A page token: what is read is what was made, for the list it was made for, character for character.
#![no_main]

use libfuzzer_sys::fuzz_target;
use uuid::Uuid;
use webhooks_domain::cursor::{ListScope, PageTokens, Position};

fuzz_target!(|input: (&str, i64, u128, &str, u128)| {
    let (text, created_at, id, filter, workspace) = input;
    let tokens = PageTokens::from_keyring("k1:fuzz,k0:older");
    let filters = [filter];
    let scope = ListScope {
        list: "deliveries",
        workspace: Uuid::from_u128(workspace),
        filters: &filters,
    };
    // A stranger's text: nothing, or the one spelling of what we would have made ourselves.
    if let Ok(Some(position)) = tokens.read(scope, text) {
        assert_eq!(tokens.make(scope, position), text);
    }
    // Ours: the same place, and no place in any other list.
    let position = Position {
        created_at,
        id: Uuid::from_u128(id),
    };
    let token = tokens.make(scope, position);
    assert_eq!(tokens.read(scope, &token), Ok(Some(position)));
    let elsewhere = ListScope {
        list: "webhooks",
        ..scope
    };
    assert!(tokens.read(elsewhere, &token).is_err());
    let unfiltered = ListScope {
        filters: &[],
        ..scope
    };
    assert!(tokens.read(unfiltered, &token).is_err());
    // Ours with the stranger's text for its end.
    let longer = format!("{token}{text}");
    assert!(text.is_empty() || tokens.read(scope, &longer).is_err());
});
