//! An access token: what parses is what was minted, character for character.
#![no_main]

use libfuzzer_sys::fuzz_target;
use webhooks_domain::token::Token;

fuzz_target!(|text: &str| {
    if let Some(token) = Token::parse(text) {
        assert_eq!(token.reveal(), text);
        assert!(token.matches(&token.hash()));
        assert!(!format!("{token:?}").contains(text));
    }
});
