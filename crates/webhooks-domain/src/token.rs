//! Access tokens: `lbk_<environment>_<id><secret><checksum>`.
//!
//! The id (12 characters) finds the row, the secret (32 base62 characters, 190 random bits) is
//! compared by SHA-256 in constant time, and the checksum (6 base62 characters of a CRC-32) lets a
//! mistyped token be refused without a look-up. Scanners find tokens by
//! `lbk_(live|test)_[0-9A-Za-z]{50}`.

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const ID_CHARS: usize = 12;
const SECRET_CHARS: usize = 32;
const SUM_CHARS: usize = 6;

/// Random bytes that [`Token::mint`] needs: enough that drawing base62 characters by rejection
/// does not run out (chance below 2^-60).
pub const MINT_BYTES: usize = 96;

/// A parsed token. `Debug` shows its id only.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    text: String,
    id: String,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Token({})", self.id)
    }
}

/// Which environment a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenEnvironment {
    /// Production workspaces.
    Live,
    /// Sandboxes.
    Test,
}

impl TokenEnvironment {
    fn prefix(self) -> &'static str {
        match self {
            Self::Live => "lbk_live_",
            Self::Test => "lbk_test_",
        }
    }
}

impl Token {
    /// Makes a token from random bytes that the caller drew.
    #[must_use]
    pub fn mint(environment: TokenEnvironment, random: &[u8; MINT_BYTES]) -> Self {
        let mut characters = random
            .iter()
            .filter(|byte| **byte < 248) // 4 × 62: no character is likelier than another
            .map(|byte| char::from(ALPHABET[usize::from(byte % 62)]));
        let mut text = environment.prefix().to_owned();
        for position in 0..ID_CHARS + SECRET_CHARS {
            // After the (practically impossible) end of the draw: a fixed character keeps the form.
            text.push(
                characters
                    .next()
                    .unwrap_or(char::from(ALPHABET[position % 62])),
            );
        }
        let sum = checksum(&text);
        text.push_str(&sum);
        Self::parse(&text).expect("a token just made is well formed")
    }

    /// Checks form and checksum, without any look-up.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let rest = [TokenEnvironment::Live, TokenEnvironment::Test]
            .into_iter()
            .find_map(|environment| text.strip_prefix(environment.prefix()))?;
        if rest.len() != ID_CHARS + SECRET_CHARS + SUM_CHARS
            || !rest.bytes().all(|byte| byte.is_ascii_alphanumeric())
        {
            return None;
        }
        let (body, sum) = text.split_at(text.len() - SUM_CHARS);
        (checksum(body) == sum).then(|| Self {
            text: text.to_owned(),
            id: rest[..ID_CHARS].to_owned(),
        })
    }

    /// The public part that finds the row.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The whole token. Shown once.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// What is stored: SHA-256 of the whole token (no slow hash: 190 random bits need none).
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.text.as_bytes()).into()
    }

    /// Compares with a stored hash in constant time.
    #[must_use]
    pub fn matches(&self, stored: &[u8]) -> bool {
        self.hash().ct_eq(stored).into()
    }
}

fn checksum(text: &str) -> String {
    let mut rest = crc32fast::hash(text.as_bytes());
    let mut sum = [b'0'; SUM_CHARS];
    for slot in sum.iter_mut().rev() {
        *slot = ALPHABET[usize::try_from(rest % 62).expect("below 62")];
        rest /= 62;
    }
    sum.iter().copied().map(char::from).collect()
}

/// Whether scopes that a token holds (empty = all) include `needed`, such as `webhooks:read`. A
/// write scope grants the same resource's read.
#[must_use]
pub fn grants(held: &[String], needed: &str) -> bool {
    held.is_empty()
        || held.iter().any(|scope| {
            scope == needed
                || needed
                    .strip_suffix(":read")
                    .is_some_and(|resource| scope.strip_suffix(":write") == Some(resource))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_minted_token_parses_and_any_changed_character_does_not(random in prop::collection::vec(any::<u8>(), MINT_BYTES), at in 9usize..59, to in 0usize..62) {
            let random: [u8; MINT_BYTES] = random.try_into().unwrap();
            let token = Token::mint(TokenEnvironment::Test, &random);
            prop_assert_eq!(Token::parse(token.reveal()).unwrap(), token.clone());
            prop_assert!(token.matches(&token.hash()));
            let mut other = token.reveal().as_bytes().to_vec();
            if other[at] != ALPHABET[to] {
                other[at] = ALPHABET[to];
                prop_assert!(Token::parse(std::str::from_utf8(&other).unwrap()).is_none());
            }
        }

        #[test]
        fn any_text_is_survived(text in ".{0,80}") {
            prop_assert!(Token::parse(&text).is_none());
        }
    }

    /// `lbk_(live|test)_[0-9A-Za-z]{50}`, which scanners look for, a million times.
    #[test]
    fn every_token_has_the_form_that_scanners_look_for_and_no_two_are_alike() {
        const THREADS: u64 = 4;
        const EACH: usize = 250_000;
        // Gives the ids. The checksum is looked at by `mint` itself, which ends with `parse`.
        let mint = |thread: u64| -> Vec<[u8; ID_CHARS]> {
            // SplitMix64, each thread from a place of its own: nothing of a token depends on how
            // good the noise is.
            let mut state = thread << 60;
            let mut random = [0_u8; MINT_BYTES];
            let ids = (0..EACH).map(|_| {
                for block in random.chunks_exact_mut(8) {
                    state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                    block.copy_from_slice(&(mixed ^ (mixed >> 31)).to_be_bytes());
                }
                let token = Token::mint(TokenEnvironment::Live, &random);
                let rest = token.reveal().strip_prefix("lbk_live_").unwrap();
                assert_eq!(rest.len(), 50);
                assert!(rest.bytes().all(|byte| byte.is_ascii_alphanumeric()));
                <[u8; ID_CHARS]>::try_from(token.id().as_bytes()).unwrap()
            });
            ids.collect()
        };
        let mut ids: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| scope.spawn(move || mint(thread)))
                .collect();
            let made = threads.into_iter().map(|thread| thread.join().unwrap());
            made.flatten().collect()
        });
        assert_eq!(ids.len(), 1_000_000);
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 1_000_000, "an id came twice");
        let bits = f64::from(u8::try_from(SECRET_CHARS).unwrap()) * 62_f64.log2();
        assert!(bits >= 190.0, "{bits}");
    }

    #[test]
    fn only_its_own_hash_is_a_tokens() {
        let token = Token::mint(TokenEnvironment::Live, &[7; MINT_BYTES]);
        let mut hash = token.hash();
        assert!(token.matches(&hash));
        for at in 0..hash.len() {
            hash[at] ^= 1;
            assert!(!token.matches(&hash), "{at}");
            hash[at] ^= 1;
        }
        let other = Token::mint(TokenEnvironment::Live, &[8; MINT_BYTES]);
        for wrong in [&other.hash()[..], &hash[..31], &[]] {
            assert!(!token.matches(wrong));
        }
    }

    #[test]
    fn scopes_grant_what_they_name_and_write_grants_read() {
        let held = |scopes: &[&str]| scopes.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        assert!(grants(&[], "webhooks:write"));
        assert!(grants(&held(&["webhooks:write"]), "webhooks:read"));
        assert!(!grants(&held(&["webhooks:read"]), "webhooks:write"));
        assert!(!grants(&held(&["events:write"]), "webhooks:read"));
    }
}
