//! The search over what a test run left (see [`crate::KEEP_VARIABLE`]): nothing secret anywhere, nothing of
//! a visitor in a log.
//!
//! Secrets are found in three ways. Those that test kits choose hold the word `canary-`. Those that
//! the product makes have a form (`lbk_…`, `whsec_…`, seeds of NATS, keys in PEM). And those that
//! callers were shown, or that a test made or opened (private keys, seeds), are known letter by letter
//! or byte by byte. Words and beginnings are searched as they are, in hex, and in base64 at each of its
//! three offsets; known ones as they are, as the bytes they stand for, and in hex; known bytes in
//! base64 too. Payloads hold the word `sentinel-`, or are the sample's own.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{self, Read as _},
    ops::Range,
    path::{Path, PathBuf},
};

use aho_corasick::AhoCorasick;
use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use regex::bytes::Regex;

use crate::keep::{BYTES, Kept};

/// In every secret that a test kit chooses.
const SECRET: &str = "canary-";

/// How what the product makes begins.
const MADE: [&str; 3] = ["lbk_live_", "lbk_test_", "whsec_"];

/// In payloads: they belong into streams and databases, never into logs. The last two are the
/// sample's.
const PAYLOAD: [&str; 3] = ["sentinel-", "Macintosh; Intel Mac OS X", "/zqVNfSC9M"];

/// Whole tokens and signing secrets, seeds, keys.
const FORMS: &str = r"lbk_(?:live|test)_[0-9A-Za-z]{50}|whsec_[0-9A-Za-z+/]{32,}|\bSU[A-Z2-7]{56}\b|-----BEGIN [A-Z ]{0,16}PRIVATE KEY";

/// Read at a time.
const CHUNK: usize = 8 * 1024 * 1024;

/// Read again with the next one: longer than anything that is searched (a private key in hex).
const OVERLAP: usize = 8 * 1024;

/// Most finds that are told.
const MAX_FINDS: usize = 200;

/// How much of its surroundings a find shows.
const AROUND: usize = 160;

/// What a search saw.
#[derive(Debug, Default)]
pub struct Searched {
    /// Files and bytes of each kind.
    pub seen: BTreeMap<Kept, (usize, u64)>,
    /// What was searched for.
    pub patterns: usize,
    /// Known secrets among it.
    pub known: usize,
    /// Finds: what, where, and its surroundings. At most 200.
    pub finds: Vec<String>,
    /// All of them.
    pub found: usize,
    /// Why the search would have missed something.
    pub blind: Vec<String>,
}

struct Patterns {
    words: AhoCorasick,
    meanings: Vec<Meaning>,
    forms: Regex,
}

#[derive(Debug, Clone)]
struct Meaning {
    what: String,
    logs_only: bool,
}

impl Patterns {
    fn new(known: &[String]) -> anyhow::Result<Self> {
        let mut words: Vec<Vec<u8>> = Vec::new();
        let mut meanings = Vec::new();
        let mut add = |word: Vec<u8>, what: &str, logs_only: bool| {
            words.push(word);
            meanings.push(Meaning {
                what: what.to_owned(),
                logs_only,
            });
        };
        let marks = [(SECRET, false)]
            .into_iter()
            .chain(MADE.map(|mark| (mark, false)))
            .chain(PAYLOAD.map(|mark| (mark, true)));
        for (mark, logs_only) in marks {
            if !MADE.contains(&mark) {
                add(mark.into(), mark, logs_only);
            }
            for form in hidden(mark.as_bytes()) {
                add(form, &format!("{mark} in another form"), logs_only);
            }
        }
        for secret in known {
            if let Some(bytes) = secret.strip_prefix(BYTES).and_then(unhex) {
                for form in hidden(&bytes) {
                    add(form, "known bytes in another form", false);
                }
                add(bytes, "known bytes", false);
                continue;
            }
            let key = MADE.iter().find_map(|mark| secret.strip_prefix(mark));
            let key = key.unwrap_or(secret);
            // The first twelve characters of a token are its public id.
            let key = if secret.starts_with("lbk_") {
                key.get(12..).unwrap_or(key)
            } else {
                key
            };
            add(key.into(), "a known secret", false);
            add(hex(key.as_bytes()).into(), "a known secret in hex", false);
            if secret.starts_with("whsec_")
                && let Ok(bytes) = STANDARD.decode(key)
            {
                add(hex(&bytes).into(), "a known key in hex", false);
                add(bytes, "the bytes of a known key", false);
            }
        }
        Ok(Self {
            words: AhoCorasick::new(&words).context("the patterns")?,
            meanings,
            forms: Regex::new(FORMS).context("the forms")?,
        })
    }

    /// Every find in a piece: where it is and what it is.
    fn find<'a>(
        &'a self,
        bytes: &'a [u8],
        logs: bool,
    ) -> impl Iterator<Item = (Range<usize>, &'a str)> {
        let words = self.words.find_iter(bytes).filter_map(move |found| {
            let meaning = &self.meanings[found.pattern().as_usize()];
            (logs || !meaning.logs_only).then_some((found.range(), meaning.what.as_str()))
        });
        let forms = self.forms.find_iter(bytes);
        words.chain(forms.map(|found| (found.range(), "a secret by its form")))
    }
}

/// A word in hex, and what of it always stands in base64, at each offset.
fn hidden(word: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = vec![hex(word).into_bytes(), hex(word).to_uppercase().into()];
    for offset in 0..3_usize {
        let mut bytes = vec![0; offset];
        bytes.extend_from_slice(word);
        let text = STANDARD.encode(&bytes);
        // Characters that hold bits of what stands before or behind the word are left out.
        let from = (offset * 8).div_ceil(6);
        let to = (bytes.len() * 8) / 6;
        let form = &text[from..to];
        let in_urls = form.replace('+', "-").replace('/', "_");
        if in_urls != form {
            forms.push(in_urls.into());
        }
        forms.push(form.into());
    }
    forms
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = digits.map(byte).collect();
    bytes.filter(|bytes| !bytes.is_empty())
}

/// Searches everything that was kept in a folder.
///
/// # Errors
/// A file cannot be read.
pub fn search(folder: &Path) -> anyhow::Result<Searched> {
    let known = known(&folder.join(Kept::Known.as_str()))?;
    let patterns = Patterns::new(&known)?;
    let mut searched = Searched {
        patterns: patterns.meanings.len(),
        known: known.len(),
        ..Searched::default()
    };
    let mut proofs = BTreeMap::from([
        (Kept::Logs, "\"level\":\"TRACE\""),
        (Kept::Streams, PAYLOAD[1]),
        (Kept::Dumps, "COPY public.webhooks"),
    ]);
    for kept in [Kept::Logs, Kept::Streams, Kept::Dumps] {
        let mut files = Vec::new();
        list(&folder.join(kept.as_str()), &mut files)?;
        for file in files {
            look(&file, kept, &patterns, &mut proofs, &mut searched)
                .with_context(|| file.display().to_string())?;
        }
    }
    for (kept, proof) in proofs {
        let text = format!(
            "{} hold no {proof}: they are not what they should be",
            kept.as_str()
        );
        searched.blind.push(text);
    }
    if searched.known == 0 {
        searched.blind.push("no secret is known".to_owned());
    }
    Ok(searched)
}

fn known(folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut files = Vec::new();
    list(folder, &mut files)?;
    let mut all = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file)?;
        all.extend(text.lines().map(str::to_owned));
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

fn list(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            list(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(())
}

fn look(
    path: &Path,
    kept: Kept,
    patterns: &Patterns,
    proofs: &mut BTreeMap<Kept, &'static str>,
    searched: &mut Searched,
) -> anyhow::Result<()> {
    let mut file = File::open(path)?;
    let mut bytes: Vec<u8> = Vec::with_capacity(CHUNK + OVERLAP);
    let mut again = 0;
    let seen = searched.seen.entry(kept).or_default();
    seen.0 += 1;
    loop {
        let new = (&mut file).take(CHUNK as u64).read_to_end(&mut bytes)?;
        if new == 0 {
            return Ok(());
        }
        seen.1 += new as u64;
        let proof = proofs.get(&kept).map(|proof| proof.as_bytes());
        if proof.is_some_and(|proof| memchr::memmem::find(&bytes, proof).is_some()) {
            proofs.remove(&kept);
        }
        for (at, what) in patterns.find(&bytes, kept == Kept::Logs) {
            // What lies wholly in what is read again was told already.
            if at.end <= again {
                continue;
            }
            searched.found += 1;
            if searched.finds.len() < MAX_FINDS {
                let from = at.start.saturating_sub(AROUND);
                let to = bytes.len().min(at.end + AROUND);
                let around = String::from_utf8_lossy(&bytes[from..to]).into_owned();
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                searched.finds.push(format!("{what} in {name}: {around:?}"));
            }
        }
        again = bytes.len().min(OVERLAP);
        bytes.drain(..bytes.len() - again);
    }
}

impl Searched {
    /// Whether nothing was found, and would have been.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.found == 0 && self.blind.is_empty()
    }
}

impl fmt::Display for Searched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kept, (files, bytes)) in &self.seen {
            writeln!(f, "{:<8} {files} files, {bytes} bytes", kept.as_str())?;
        }
        writeln!(
            f,
            "searched for {} patterns, {} secrets known by their letters among them",
            self.patterns, self.known
        )?;
        for find in self.finds.iter().chain(&self.blind) {
            writeln!(f, "  {find}")?;
        }
        write!(f, "{} finds", self.found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns() -> Patterns {
        Patterns::new(&["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned()]).unwrap()
    }

    fn finds(text: &[u8], logs: bool) -> usize {
        patterns().find(text, logs).count()
    }

    #[test]
    fn a_word_is_found_as_it_is_in_hex_and_in_base64_wherever_it_begins() {
        for offset in 0..7 {
            let text = [&b"abcdefg"[..offset], b"canary-secret, and more"].concat();
            assert_eq!(finds(&text, false), 1, "as it is");
            assert_eq!(
                finds(STANDARD.encode(&text).as_bytes(), false),
                1,
                "{offset}"
            );
            assert_eq!(finds(hex(&text).as_bytes(), false), 1, "{offset}");
            assert_eq!(finds(hex(&text).to_uppercase().as_bytes(), false), 1);
        }
        assert_eq!(finds(b"a canary, Canary- and canaries", true), 0);
    }

    #[test]
    fn what_the_product_makes_is_found_by_its_form_and_what_is_known_without_it() {
        for text in [
            format!("token=lbk_test_{}.", "a1".repeat(25)),
            "key whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA= there".to_owned(),
            format!("\"SU{}\"", "A".repeat(56)),
            "-----BEGIN EC PRIVATE KEY-----".to_owned(),
            "x MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned(),
            STANDARD.encode("Bearer lbk_live_0123"),
        ] {
            assert_eq!(finds(text.as_bytes(), false), 1, "{text}");
        }
        let bytes = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        assert_eq!(finds(&bytes, false), 1);
        assert_eq!(
            finds(b"lbk_test_Ab3dEf6hIj9l whsec_\xe2\x80\xa2abcd", true),
            0
        );
    }

    #[test]
    fn bytes_that_are_known_are_found_raw_in_hex_and_in_base64() {
        let seed: Vec<u8> = (0..32_u8)
            .map(|byte| byte.wrapping_mul(37) ^ 0xa5)
            .collect();
        let known = format!("hex:{}", hex(&seed));
        let line = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg".to_owned();
        let patterns = Patterns::new(&[known, line.clone()]).unwrap();
        let finds = |text: &[u8]| patterns.find(text, false).count();
        assert_eq!(
            finds(&[&b"in front "[..], &seed[..], b" behind"].concat()),
            1
        );
        assert_eq!(finds(hex(&seed).as_bytes()), 1);
        assert_eq!(finds(hex(&seed).to_uppercase().as_bytes()), 1);
        for offset in 0..3 {
            let text = [&b"abc"[..offset], &seed[..]].concat();
            assert_eq!(finds(STANDARD.encode(text).as_bytes()), 1, "{offset}");
        }
        assert_eq!(finds(line.as_bytes()), 1);
        assert_eq!(finds(&seed[1..]), 0);
    }

    #[test]
    fn payloads_are_refused_in_logs_only() {
        assert_eq!(finds(b"Macintosh; Intel Mac OS X", true), 1);
        assert_eq!(finds(b"Macintosh; Intel Mac OS X", false), 0);
    }

    #[test]
    fn a_folder_is_searched_whole_and_a_blind_search_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &[u8]| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let blind = search(folder.path()).unwrap();
        assert_eq!((blind.found, blind.blind.len()), (0, 4), "{blind}");
        write("logs/a.log", b"{\"level\":\"TRACE\"}");
        write("streams/s/1.blk", b"Macintosh; Intel Mac OS X");
        write("dumps/d.sql", b"COPY public.webhooks (");
        write("known/1.txt", b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n");
        let clean = search(folder.path()).unwrap();
        assert!(clean.is_clean(), "{clean}");
        // Across the border of two pieces, once.
        let mut text = vec![b'.'; CHUNK - 3];
        text.extend_from_slice(b"canary-here");
        write("logs/b.log", &text);
        let found = search(folder.path()).unwrap();
        assert_eq!(found.found, 1, "{found}");
    }
}
