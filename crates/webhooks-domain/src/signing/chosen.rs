//! How strong a secret is that a customer chose.
//!
//! Nobody can measure the randomness of one text. These rules refuse what is certainly none: what is
//! published as an example, what counts up or down, what repeats itself, and what reads as words. Each
//! has its number here, and none looks at the length alone: random bytes pass, and so does random text
//! (hexadecimal, base32, base64), which many people draw and encode once more.
//!
//! Of random keys of 24 bytes fewer than one in a million is refused, of random text of 24 characters
//! fewer than one in a thousand. What is *not* found: words of many languages, a sentence in verse, a
//! secret that somebody published since.

use std::collections::BTreeSet;

use super::SecretError;

/// Fewest bits that a secret must seem to hold.
pub const MIN_BITS: f64 = 64.0;

/// What an earlier piece of the secret costs when it comes again: where it stands, and its length.
const REPEAT_BITS: f64 = 8.0;

/// Shortest piece that counts as a repetition, in bytes.
const MIN_REPEAT: usize = 3;

/// Bytes in a row that a secret may share with a published one: whoever shortens, lengthens or mistypes
/// an example has still not drawn a secret.
const SHARED_WITH_PUBLISHED: usize = 16;

/// Widest numbers that are looked for as a counter, in bytes, and how many of them there have to be.
const MAX_WIDTH: usize = 8;
const FEWEST_NUMBERS: usize = 3;

/// Fewest pairs of letters by which words can be told from chance.
const MIN_PAIRS: u64 = 10;

/// By how many standard deviations the usual pairs have to exceed what chance gives.
const DEVIATIONS: u64 = 5;

/// Of all pairs of letters, so many in a hundred are usual ones.
const USUAL_PERCENT: u64 = 21;

/// Keys that stand as examples in the Standard Webhooks specification and in libraries for it.
const PUBLISHED: [&[u8; 24]; 2] = [
    // MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw
    b"\x31\xf2\x90\xf6\xbf\x06\x29\x8a\xab\x4f\x08\xd4\x3c\x3f\x08\x2c\xf6\x48\xa3\x62\xda\x2d\xa4\xb0",
    // C2FVsBQIhrscChlQIMV+b5sSYspob7oD
    b"\x0b\x61\x55\xb0\x14\x08\x86\xbb\x1c\x0a\x19\x50\x20\xc5\x7e\x6f\x9b\x12\x62\xca\x68\x6f\xba\x03",
];

/// The most frequent pairs of letters in English prose, four fifths of all that stand there.
const USUAL_PAIRS: &str = "ab ac ad al am an ar as at be bl ca ce ch co ct de di ea ec ed ee ef el em en er \
     es et ex fi fo ge ha he hi ho ic ie if ig il im in io is it ke la le li ll lo ly \
     ma me mp na nc nd ne ng no ns nt od of om on op or ot ou ow pa pe pl po pr ra re \
     ri rl ro rs rt se si so ss st su ta te th ti to tr ts ul un ur us ut ve wa we wh \
     wi yo";

/// What fingers and children run along: neighbours there are usual pairs too.
const ROWS: [&str; 4] = [
    "abcdefghijklmnopqrstuvwxyz",
    "qwertyuiop",
    "asdfghjkl",
    "zxcvbnm",
];

/// Words that stand in secrets which nobody drew.
const WORDS: [&str; 35] = [
    "admin",
    "change",
    "default",
    "demo",
    "development",
    "example",
    "hello",
    "hook",
    "hunter",
    "keep",
    "linkbreakers",
    "passphrase",
    "password",
    "passwort",
    "please",
    "private",
    "production",
    "quick",
    "replace",
    "secret",
    "service",
    "shared",
    "signature",
    "signing",
    "staging",
    "super",
    "test",
    "testing",
    "this",
    "token",
    "verify",
    "very",
    "webhook",
    "welcome",
    "your",
];

/// Judges a key that a customer chose.
///
/// # Errors
/// Says which rule it breaks.
pub(super) fn judge(key: &[u8]) -> Result<(), SecretError> {
    if is_published(key) {
        Err(SecretError::Published)
    } else if counts_somehow(key) {
        Err(SecretError::Counts)
    } else if bits(key).min(spread(key)) < MIN_BITS {
        Err(SecretError::Repeats)
    } else if reads_as_words(key) {
        Err(SecretError::Words)
    } else {
        Ok(())
    }
}

fn is_published(key: &[u8]) -> bool {
    PUBLISHED.iter().any(|known| {
        let mut shared = known.windows(SHARED_WITH_PUBLISHED);
        shared.any(|shared| {
            key.windows(SHARED_WITH_PUBLISHED)
                .any(|piece| piece == shared)
        })
    })
}

/// One step from each byte to the next, and not 0.
fn counts(key: &[u8]) -> bool {
    let mut steps = key.windows(2).map(|pair| pair[1].wrapping_sub(pair[0]));
    let first = steps.next();
    first.is_some_and(|first| first != 0) && steps.all(|step| Some(step) == first)
}

/// Whether it counts in bytes, in numbers of several bytes, or in the hexadecimal text of either.
fn counts_somehow(key: &[u8]) -> bool {
    let read = hex_text(key);
    [Some(key), read.as_deref()]
        .into_iter()
        .flatten()
        .any(|bytes| (1..=MAX_WIDTH).any(|width| counts_in(bytes, width)))
}

/// Numbers of `width` bytes: each of their bytes stays as it is or counts, and not all of them stay.
fn counts_in(key: &[u8], width: usize) -> bool {
    let column = |at: usize| -> Vec<u8> { key.iter().skip(at).step_by(width).copied().collect() };
    let columns: Vec<Vec<u8>> = (0..width).map(column).collect();
    let stays = |column: &Vec<u8>| column.windows(2).all(|pair| pair[0] == pair[1]);
    key.len() >= width * FEWEST_NUMBERS
        && columns.iter().all(|column| stays(column) || counts(column))
        && !columns.iter().all(stays)
}

/// The bytes of a hexadecimal text; `None` = it is none.
fn hex_text(key: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: &u8| {
        char::from(*byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let digits: Option<Vec<u8>> = key.iter().map(digit).collect();
    let (pairs, []) = digits.as_ref()?.as_chunks::<2>() else {
        return None;
    };
    Some(pairs.iter().map(|[high, low]| high << 4 | low).collect())
}

/// How many bits a key seems to hold by how often each of its bytes stands there.
fn spread(key: &[u8]) -> f64 {
    let number = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    let all = number(key.len());
    let different: BTreeSet<u8> = key.iter().copied().collect();
    different
        .into_iter()
        .map(|byte| {
            let count = number(key.iter().filter(|other| **other == byte).count());
            count * (all / count).log2()
        })
        .sum()
}

/// How many bits a key seems to hold: each byte costs as much as one of the key's different bytes
/// takes to name, a byte that goes on counting nothing, a piece that was there before
/// [`REPEAT_BITS`].
fn bits(key: &[u8]) -> f64 {
    let different: BTreeSet<u8> = key.iter().copied().collect();
    let each = f64::from(u32::try_from(different.len()).unwrap_or(u32::MAX)).log2();
    let mut bits = 0.0;
    let mut at = 0;
    while at < key.len() {
        let repeated = (0..at)
            .map(|from| {
                let again = key[from..].iter().zip(&key[at..]);
                again.take_while(|(old, new)| old == new).count()
            })
            .max()
            .unwrap_or(0);
        if repeated >= MIN_REPEAT {
            bits += REPEAT_BITS;
            at += repeated;
        } else {
            bits += if goes_on_counting(key, at) { 0.0 } else { each };
            at += 1;
        }
    }
    bits
}

/// Whether the byte there is one step further than the three before it are apart.
fn goes_on_counting(key: &[u8], at: usize) -> bool {
    at >= 3 && counts(&key[at - 3..=at])
}

/// Whether letters stand beside each other as they do in words: more often in usual pairs than chance
/// gives, by [`DEVIATIONS`].
fn reads_as_words(key: &[u8]) -> bool {
    let lower = key.to_ascii_lowercase();
    if lower
        .iter()
        .all(|byte| byte.is_ascii_hexdigit() || *byte == b'-')
    {
        // Six letters make usual pairs of almost every pair.
        return false;
    }
    let in_word: BTreeSet<usize> = WORDS
        .iter()
        .flat_map(|word| {
            let starts = lower.windows(word.len()).enumerate();
            starts
                .filter(move |(_, piece)| *piece == word.as_bytes())
                .flat_map(|(start, piece)| start..start + piece.len() - 1)
        })
        .collect();
    let (mut pairs, mut usual) = (0_u64, 0_u64);
    for (at, pair) in key.windows(2).enumerate() {
        // A capital after a small letter begins something new.
        let joined = pair.iter().all(u8::is_ascii_alphabetic)
            && (pair[1].is_ascii_lowercase() || pair[0].is_ascii_uppercase());
        if joined {
            pairs += 1;
            usual += u64::from(in_word.contains(&at) || is_usual(&lower[at..at + 2]));
        }
    }
    // 100 usual - 21 pairs > 5 deviations, of which one is the root of pairs * 21 * 79.
    let excess = (100 * usual).saturating_sub(USUAL_PERCENT * pairs);
    pairs >= MIN_PAIRS
        && excess * excess > DEVIATIONS * DEVIATIONS * pairs * USUAL_PERCENT * (100 - USUAL_PERCENT)
}

fn is_usual(pair: &[u8]) -> bool {
    let listed = USUAL_PAIRS.split(' ').any(|usual| usual.as_bytes() == pair);
    let mut rows = ROWS.iter();
    listed || rows.any(|row| row.as_bytes().windows(2).any(|beside| beside == pair))
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use proptest::prelude::*;
    use sha2::{Digest as _, Sha256};

    use super::*;

    #[test]
    fn what_nobody_drew_is_refused_and_told_why() {
        let check = |key: &[u8], rule: SecretError| {
            assert_eq!(judge(key), Err(rule), "{}", String::from_utf8_lossy(key));
        };
        let bytes = |values: &mut dyn Iterator<Item = u8>| values.collect::<Vec<u8>>();
        check(&bytes(&mut (0..32_u8)), SecretError::Counts);
        check(&bytes(&mut (0..32_u8).rev()), SecretError::Counts);
        check(&bytes(&mut (0..64_u8).map(|n| n * 3)), SecretError::Counts);
        let wide = |numbers: std::ops::Range<u32>| numbers.flat_map(u32::to_be_bytes);
        check(&bytes(&mut wide(0..8)), SecretError::Counts);
        let little = (1_000..1_008_u32).flat_map(u32::to_le_bytes);
        check(&bytes(&mut little.into_iter()), SecretError::Counts);
        let narrow = (1..=16_u16).flat_map(u16::to_be_bytes);
        check(&bytes(&mut narrow.into_iter()), SecretError::Counts);
        check(b"000102030405060708090a0b0c0d0e0f", SecretError::Counts);
        check(b"00112233445566778899aabbccddeeff", SecretError::Counts);
        let mostly_nothing = [[0_u8; 24].as_slice(), b"drawn by"].concat();
        check(&mostly_nothing, SecretError::Repeats);
        check(&bytes(&mut (0..16_u8).chain(0..16)), SecretError::Repeats);
        check(&[0; 32], SecretError::Repeats);
        check(&[b"ab".as_slice(); 16].concat(), SecretError::Repeats);
        check(b"passwordpasswordpassword", SecretError::Repeats);
        check(b"0123456789abcdef0123456789abcdef", SecretError::Repeats);
        check(b"aaaaaaaaaaaabbbbbbbbbbbbcccccccc", SecretError::Repeats);
        for text in [
            "correcthorsebatterystaple",
            "thisisaverysecretkeyforwebhooks",
            "My-Super-Secret-Webhook-Key-2024",
            "webhook_signing_secret_2026",
            "qwertyuiopasdfghjklzxcvbnm12345",
            "letmein-please-open-the-door",
            "motdepassetressecretpourwebhook",
            "EinSehrGeheimesPasswortFuerAlle",
            "ThisIsMySecretKey_DoNotShareIt1",
        ] {
            check(text.as_bytes(), SecretError::Words);
        }
    }

    #[test]
    fn a_published_secret_is_refused_shortened_lengthened_and_mistyped() {
        for published in [
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLjSw",
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwAAAAAAAAAAA=",
            "C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
        ] {
            let key = STANDARD.decode(published).unwrap();
            assert_eq!(judge(&key), Err(SecretError::Published), "{published}");
        }
    }

    #[test]
    fn the_usual_pairs_are_as_many_as_the_rule_counts_with() {
        let letters = b'a'..=b'z';
        let all = letters
            .clone()
            .flat_map(|one| letters.clone().map(move |two| [one, two]));
        let usual = all.filter(|pair| is_usual(pair)).count();
        assert_eq!((usual * 100 + 338) / 676, 21, "{usual}");
    }

    /// Draws that are the same in each run: a bound on chance is no place for chance.
    fn draws(alphabet: &[u8], length: usize, count: usize) -> Vec<Vec<u8>> {
        let blocks = (0_u64..).map(|block| Sha256::digest(block.to_be_bytes()));
        let bytes = blocks.flat_map(<[u8; 32]>::from).map(usize::from);
        // Each letter has the same share: what would favour the first ones is left out.
        let fair = 256 / alphabet.len() * alphabet.len();
        let mut letters = bytes
            .filter(|byte| *byte < fair)
            .map(|byte| alphabet[byte % alphabet.len()]);
        (0..count)
            .map(|_| letters.by_ref().take(length).collect())
            .collect()
    }

    #[test]
    fn random_bytes_and_random_text_pass() {
        let base64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let bytes: Vec<u8> = (0..=255).collect();
        for (alphabet, most) in [
            (bytes.as_slice(), 0),
            (b"0123456789abcdef".as_slice(), 3),
            (b"0123456789ABCDEF".as_slice(), 3),
            (b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".as_slice(), 3),
            (base64.as_slice(), 3),
        ] {
            for length in [24, 32, 44, 64] {
                let drawn = draws(alphabet, length, 3_000);
                let refused = drawn.iter().filter(|key| judge(key).is_err()).count();
                assert!(
                    refused <= most,
                    "{refused} of 3000: {} letters, {length}",
                    alphabet.len()
                );
            }
        }
    }

    proptest! {
        #[test]
        fn a_repetition_never_passes_nor_does_a_published_piece(key in prop::collection::vec(any::<u8>(), 0..=64), piece in prop::collection::vec(any::<u8>(), 1..=8)) {
            prop_assert!((0.0..=384.0).contains(&bits(&key)), "64 bytes of 6 bits");
            prop_assert!((0.0..=384.0).contains(&spread(&key)), "64 bytes of 6 bits");
            prop_assert!(key.len() > 10 || !reads_as_words(&key), "ten pairs at least");
            let published = [key.as_slice(), PUBLISHED[0].as_slice()].concat();
            prop_assert_eq!(judge(&published), Err(SecretError::Published));
            let again: Vec<u8> = piece.iter().copied().cycle().take(64).collect();
            prop_assert!(judge(&again).is_err());
        }
    }
}
