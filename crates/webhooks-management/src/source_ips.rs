//! Where our requests come from: the addresses that a receiver's firewall may let in.
//!
//! Nobody but the operator knows them, so they are configuration. A change of addresses is announced
//! before it happens: the file says from when on which ranges are added and taken away, the published
//! document shows what is to come, and becomes what was announced when the time is there, in every
//! replica at the same moment and without a restart.
//!
//! `version` is computed from the content, so it cannot be forgotten when the content changes.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use webhooks_domain::{
    endpoint::Cidr,
    event::{format_micros, parse_rfc3339_micros},
};
use webhooks_runtime::Env;

/// Most ranges at any moment; a firewall's rule list is no place for more.
const MAX_RANGES: usize = 256;

/// Most announced changes.
const MAX_PLANNED: usize = 32;

/// Largest file, in bytes.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// How long a receiver may believe the document, in seconds; never beyond the next change.
const MAX_AGE_SECONDS: i64 = 3_600;

/// Widest ranges that may be named, as prefix lengths: what is wider lets the neighbours in.
const WIDEST_V4: u8 = 16;
const WIDEST_V6: u8 = 32;

/// Bytes of the digest that make a version.
const VERSION_BYTES: usize = 8;

const LIST: &str = "WEBHOOKS_SOURCE_IPS";
const FILE: &str = "WEBHOOKS_SOURCE_IPS_FILE";

/// The addresses, now and as announced. Empty = not fixed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceIps {
    ranges: Vec<Cidr>,
    planned: Vec<Change>,
}

/// A change that is announced.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Change {
    /// In microseconds.
    at: i64,
    add: Vec<Cidr>,
    remove: Vec<Cidr>,
}

/// The file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    ranges: Vec<String>,
    #[serde(default)]
    planned: Vec<WrittenChange>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenChange {
    at: String,
    #[serde(default)]
    add: Vec<String>,
    #[serde(default)]
    remove: Vec<String>,
}

/// What is published at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Published {
    /// The document.
    pub(crate) body: Vec<u8>,
    /// What it says.
    pub(crate) content: Content,
    /// Its version, the entity tag without quotes.
    pub(crate) version: String,
    /// How long it holds at least, in seconds.
    pub(crate) max_age: i64,
}

/// The document without its version, which is computed from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Content {
    /// Requests come from nowhere else.
    pub(crate) fixed: bool,
    /// Where they come from.
    pub(crate) ranges: Vec<String>,
    /// What is announced, the next one first.
    pub(crate) planned: Vec<ShownChange>,
}

/// An announced change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ShownChange {
    /// When, in microseconds.
    #[serde(skip)]
    pub(crate) at_micros: i64,
    at: String,
    /// Ranges that come.
    pub(crate) add: Vec<String>,
    /// Ranges that go.
    pub(crate) remove: Vec<String>,
}

#[derive(Serialize)]
struct Document<'a> {
    version: &'a str,
    #[serde(flatten)]
    content: &'a Content,
}

impl SourceIps {
    /// Asks the environment; what is wrong goes there too, each problem with its field.
    pub(crate) fn read(env: &mut Env) -> Self {
        let listed: Vec<String> = env.parsed_list(
            LIST,
            "",
            "addresses or CIDR ranges that our requests come from, comma separated, published at /.well-known/webhook-source-ips.json",
        );
        let file = env.optional(
            FILE,
            "JSON file with these ranges and announced changes, instead of the list (docs/fixed-egress.md)",
        );
        let (name, written) = match (listed.is_empty(), file) {
            (true, None) => return Self::default(),
            (false, Some(_)) => {
                env.problem(
                    FILE,
                    format!("is set, and {LIST} too: only one of them may be"),
                );
                return Self::default();
            }
            (false, None) => {
                let written = Written {
                    ranges: listed,
                    planned: Vec::new(),
                };
                (LIST, Ok(written))
            }
            (true, Some(path)) => (FILE, read_file(&path)),
        };
        let judged = written.map_err(|problem| vec![problem]).and_then(judge);
        judged.unwrap_or_else(|problems| {
            for problem in problems {
                env.problem(name, problem);
            }
            Self::default()
        })
    }

    /// What is published at a moment (microseconds).
    pub(crate) fn published(&self, now: i64) -> Published {
        let mut ranges = self.ranges.clone();
        let mut planned = self.planned.as_slice();
        while let Some((first, rest)) = planned.split_first() {
            if first.at > now {
                break;
            }
            first.apply(&mut ranges);
            planned = rest;
        }
        let until_next = planned.first().map_or(MAX_AGE_SECONDS, |next| {
            next.at.saturating_sub(now).div_euclid(1_000_000)
        });
        let content = Content {
            fixed: !ranges.is_empty(),
            ranges: texts(&ranges),
            planned: planned.iter().map(Change::shown).collect(),
        };
        let text = |value: serde_json::Result<Vec<u8>>| {
            value.expect("text and lists of text always become JSON")
        };
        let version = version(&text(serde_json::to_vec(&content)));
        let body = text(serde_json::to_vec(&Document {
            version: &version,
            content: &content,
        }));
        Published {
            body,
            version,
            max_age: until_next.min(MAX_AGE_SECONDS),
            content,
        }
    }
}

impl Change {
    fn apply(&self, ranges: &mut Vec<Cidr>) {
        ranges.retain(|range| !self.remove.contains(range));
        ranges.extend(&self.add);
    }

    fn shown(&self) -> ShownChange {
        ShownChange {
            at_micros: self.at,
            at: format_micros(self.at),
            add: texts(&self.add),
            remove: texts(&self.remove),
        }
    }
}

fn texts(ranges: &[Cidr]) -> Vec<String> {
    ranges.iter().map(ToString::to_string).collect()
}

fn version(content: &[u8]) -> String {
    let digest = Sha256::digest(content);
    digest
        .iter()
        .take(VERSION_BYTES)
        .fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").expect("a string takes any text");
            text
        })
}

fn read_file(path: &str) -> Result<Written, String> {
    let wrong = |error: std::io::Error| format!("cannot read {path}: {error}");
    let length = std::fs::metadata(path).map_err(wrong)?.len();
    if length > MAX_FILE_BYTES {
        return Err(format!("{path} is larger than {MAX_FILE_BYTES} bytes"));
    }
    let text = std::fs::read(path).map_err(wrong)?;
    serde_json::from_slice(&text).map_err(|error| format!("{path}: {error}"))
}

/// The rules, each problem with the field that it is about.
fn judge(written: Written) -> Result<SourceIps, Vec<String>> {
    let mut problems = Vec::new();
    let ranges = judge_ranges("ranges", &written.ranges, &mut problems);
    if written.ranges.is_empty() {
        problems.push("ranges: is empty".to_owned());
    }
    if written.planned.len() > MAX_PLANNED {
        problems.push(format!("planned: has more than {MAX_PLANNED} changes"));
    }
    let mut standing = ranges.clone();
    let mut planned: Vec<Change> = Vec::new();
    for (index, change) in written.planned.iter().enumerate() {
        let field = format!("planned[{index}]");
        let Some(at) = parse_rfc3339_micros(&change.at) else {
            problems.push(format!(
                "{field}.at: is a time such as 2027-01-15T12:00:00Z"
            ));
            continue;
        };
        if planned.last().is_some_and(|before| before.at >= at) {
            problems.push(format!("{field}.at: is not after the change before it"));
        }
        let change = Change {
            at,
            add: judge_ranges(&format!("{field}.add"), &change.add, &mut problems),
            remove: judge_ranges(&format!("{field}.remove"), &change.remove, &mut problems),
        };
        for range in change.add.iter().filter(|range| standing.contains(range)) {
            problems.push(format!("{field}.add: {range} is there already"));
        }
        for range in change
            .remove
            .iter()
            .filter(|range| !standing.contains(range))
        {
            problems.push(format!("{field}.remove: {range} is not there then"));
        }
        if change.add.is_empty() && change.remove.is_empty() {
            problems.push(format!("{field}: changes nothing"));
        }
        change.apply(&mut standing);
        if standing.is_empty() || standing.len() > MAX_RANGES {
            problems.push(format!(
                "{field}: leaves {} ranges, not 1 to {MAX_RANGES}",
                standing.len()
            ));
        }
        planned.push(change);
    }
    match problems.is_empty() {
        true => Ok(SourceIps { ranges, planned }),
        false => Err(problems),
    }
}

fn judge_ranges(field: &str, texts: &[String], problems: &mut Vec<String>) -> Vec<Cidr> {
    if texts.len() > MAX_RANGES {
        problems.push(format!("{field}: has more than {MAX_RANGES} ranges"));
        return Vec::new();
    }
    let mut ranges: Vec<Cidr> = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        match judge_range(text) {
            Ok(range) if ranges.contains(&range) => {
                problems.push(format!("{field}[{index}]: {range} is there twice"));
            }
            Ok(range) => ranges.push(range),
            Err(problem) => problems.push(format!("{field}[{index}]: {problem}")),
        }
    }
    ranges
}

/// A range in the spelling that is published, or a bare address.
fn judge_range(text: &str) -> Result<Cidr, String> {
    let range: Cidr = text.parse().map_err(|error| format!("{error}"))?;
    let canonical = range.to_string();
    let (network, prefix) = canonical.split_once('/').unwrap_or((&canonical, ""));
    // What was meant by bits beyond the prefix is anybody's guess, and receivers compare texts.
    if text != canonical && text != network {
        return Err(format!("`{text}` is to be written {canonical}"));
    }
    let widest = match network.contains(':') {
        true => WIDEST_V6,
        false => WIDEST_V4,
    };
    if prefix.parse().is_ok_and(|prefix: u8| prefix < widest) {
        return Err(format!("{canonical} is wider than /{widest}"));
    }
    Ok(range)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn judged(text: &str) -> Result<SourceIps, Vec<String>> {
        judge(serde_json::from_str(text).unwrap())
    }

    fn at(text: &str) -> i64 {
        parse_rfc3339_micros(text).unwrap()
    }

    fn shown(ips: &SourceIps, now: &str) -> Value {
        serde_json::from_slice(&ips.published(at(now)).body).unwrap()
    }

    const MOVE: &str = r#"{
        "ranges": ["203.0.113.16/28", "2001:db8:5::/48"],
        "planned": [
            { "at": "2027-02-01T00:00:00Z", "add": ["198.51.100.7"] },
            { "at": "2027-03-01T00:00:00Z", "remove": ["203.0.113.16/28"] }
        ]
    }"#;

    #[test]
    fn a_change_is_announced_and_then_so() {
        let ips = judged(MOVE).unwrap();
        let before = shown(&ips, "2027-01-31T23:59:59Z");
        assert_eq!(before["fixed"], true);
        assert_eq!(
            before["ranges"],
            json!(["203.0.113.16/28", "2001:db8:5::/48"])
        );
        assert_eq!(
            before["planned"],
            json!([
                { "at": "2027-02-01T00:00:00Z", "add": ["198.51.100.7/32"], "remove": [] },
                { "at": "2027-03-01T00:00:00Z", "add": [], "remove": ["203.0.113.16/28"] },
            ])
        );
        let during = shown(&ips, "2027-02-01T00:00:00Z");
        assert_eq!(
            during["ranges"],
            json!(["203.0.113.16/28", "2001:db8:5::/48", "198.51.100.7/32"])
        );
        assert_eq!(during["planned"].as_array().unwrap().len(), 1);
        let after = shown(&ips, "2030-01-01T00:00:00Z");
        assert_eq!(
            after["ranges"],
            json!(["2001:db8:5::/48", "198.51.100.7/32"])
        );
        assert_eq!(after["planned"], json!([]));
        let versions = [&before["version"], &during["version"], &after["version"]];
        assert!(
            versions
                .iter()
                .all(|version| version.as_str().unwrap().len() == 16)
        );
        assert!(versions[0] != versions[1] && versions[1] != versions[2]);
    }

    #[test]
    fn nobody_believes_it_beyond_the_next_change() {
        let ips = judged(MOVE).unwrap();
        let age = |now| ips.published(at(now)).max_age;
        assert_eq!(age("2027-01-01T00:00:00Z"), 3_600);
        assert_eq!(age("2027-01-31T23:59:00Z"), 60);
        assert_eq!(age("2027-01-31T23:59:59.5Z"), 0);
        assert_eq!(age("2028-01-01T00:00:00Z"), 3_600);
    }

    #[test]
    fn the_same_content_has_the_same_version() {
        let (first, second) = (judged(MOVE).unwrap(), judged(MOVE).unwrap());
        let version = |ips: &SourceIps, now| ips.published(at(now)).version;
        assert_eq!(
            version(&first, "2027-01-01T00:00:00Z"),
            version(&second, "2027-01-05T00:00:00Z")
        );
    }

    #[test]
    fn every_problem_is_named_with_its_field() {
        let wrong = r#"{
            "ranges": ["203.0.113.16/28", "203.0.113.17/28", "x", "10.0.0.0/8", "203.0.113.16/28", "::/0"],
            "planned": [
                { "at": "tomorrow", "add": ["198.51.100.7"] },
                { "at": "2027-02-01T00:00:00Z" },
                { "at": "2027-01-01T00:00:00Z", "add": ["203.0.113.16/28"], "remove": ["198.51.100.9"] }
            ]
        }"#;
        let problems = judged(wrong).unwrap_err();
        assert_eq!(
            problems,
            [
                "ranges[1]: `203.0.113.17/28` is to be written 203.0.113.16/28",
                "ranges[2]: `x` is not an IP address",
                "ranges[3]: 10.0.0.0/8 is wider than /16",
                "ranges[4]: 203.0.113.16/28 is there twice",
                "ranges[5]: ::/0 is wider than /32",
                "planned[0].at: is a time such as 2027-01-15T12:00:00Z",
                "planned[1]: changes nothing",
                "planned[2].at: is not after the change before it",
                "planned[2].add: 203.0.113.16/28 is there already",
                "planned[2].remove: 198.51.100.9/32 is not there then",
            ]
        );
        let nothing_left = r#"{"ranges": ["203.0.113.7"], "planned": [{"at": "2027-02-01T00:00:00Z", "remove": ["203.0.113.7"]}]}"#;
        assert_eq!(
            judged(nothing_left).unwrap_err(),
            ["planned[0]: leaves 0 ranges, not 1 to 256"]
        );
    }

    #[test]
    fn a_setting_is_read_and_its_problems_are_told_at_start() {
        let read = |variables: &[(&str, &str)]| {
            let mut env = Env::from_vars(variables.to_vec());
            let ips = SourceIps::read(&mut env);
            (ips, env.finish().map_err(|error| error.problems))
        };
        assert_eq!(read(&[]), (SourceIps::default(), Ok(())));
        assert_eq!(
            shown(&SourceIps::default(), "2027-01-01T00:00:00Z")["fixed"],
            false
        );
        let (ips, problems) = read(&[(LIST, "203.0.113.7, 2001:db8::/48")]);
        problems.unwrap();
        assert_eq!(texts(&ips.ranges), ["203.0.113.7/32", "2001:db8::/48"]);
        let (_, problems) = read(&[(LIST, "203.0.113.7,localhost")]);
        assert_eq!(
            problems.unwrap_err(),
            ["WEBHOOKS_SOURCE_IPS: ranges[1]: `localhost` is not an IP address"]
        );
        let (_, problems) = read(&[(LIST, "203.0.113.7"), (FILE, "/nowhere")]);
        assert_eq!(problems.unwrap_err().len(), 1);
        let (_, problems) = read(&[(FILE, "/nowhere/ips.json")]);
        assert!(
            problems.unwrap_err()[0]
                .starts_with("WEBHOOKS_SOURCE_IPS_FILE: cannot read /nowhere/ips.json: ")
        );
        let file = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../docs/source-ips.example.json"
        );
        let (ips, problems) = read(&[(FILE, file)]);
        problems.unwrap();
        assert!(!ips.planned.is_empty());
        // A key that is misspelt would be an announcement that nobody gets.
        let misspelt = serde_json::from_str::<Written>(r#"{"ranges": [], "plan": []}"#);
        assert!(
            misspelt
                .unwrap_err()
                .to_string()
                .contains("unknown field `plan`")
        );
    }
}
