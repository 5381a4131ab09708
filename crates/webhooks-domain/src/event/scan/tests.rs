use proptest::prelude::*;
use serde_json::value::RawValue;

use super::*;

fn check(text: &str, max_depth: u32) -> Result<Tally, ScanErrorKind> {
    let mut scanner = Scanner::new(text, max_depth);
    let tally = scanner.skip().map_err(|error| error.kind)?;
    scanner.finish().map_err(|error| error.kind)?;
    Ok(tally)
}

#[test]
fn the_grammar_is_rfc_8259() {
    use ScanErrorKind::*;
    let good = [
        "0",
        "-0",
        "-0.0",
        "1.5e+10",
        "1E400",
        "123456789012345678901234567890",
        "true",
        "false",
        "null",
        "\"\"",
        "[]",
        "{}",
        " [ 1 , 2 ] ",
        "\t{\r\n\"a\" : {} }\n",
        "\"\\u0000\"",
        "\"\\uD83D\\uDE00\"",
        "\"\u{7f}\u{1F600}\"",
        "[[],[[]]]",
        "{\"a\":1,\"a\":2}",
    ];
    for text in good {
        assert!(check(text, 64).is_ok(), "{text}");
    }
    let bad = [
        ("", UnexpectedEnd),
        (" ", UnexpectedEnd),
        ("01", InvalidNumber),
        ("-", UnexpectedEnd),
        ("-a", InvalidNumber),
        ("1.", UnexpectedEnd),
        ("1.e1", InvalidNumber),
        ("1e", UnexpectedEnd),
        ("1e+]", InvalidNumber),
        (".5", ExpectedValue),
        ("+1", ExpectedValue),
        ("NaN", ExpectedValue),
        ("Infinity", ExpectedValue),
        ("nul", ExpectedValue),
        ("True", ExpectedValue),
        ("nulll", TrailingText),
        ("'a'", ExpectedValue),
        ("\"a", UnexpectedEnd),
        ("\"a\u{1}\"", ControlCharacter),
        ("\"a\nb\"", ControlCharacter),
        ("\"\\x\"", InvalidEscape),
        ("\"\\u12\"", InvalidEscape),
        ("\"\\u+123\"", InvalidEscape),
        ("\"\\ud800\"", LoneSurrogate),
        ("\"\\ud800\\n\"", LoneSurrogate),
        ("\"\\ud800\\ud800\"", LoneSurrogate),
        ("\"\\udc00\"", LoneSurrogate),
        ("[1,]", ExpectedValue),
        ("[,1]", ExpectedValue),
        ("[1 2]", ExpectedCommaOrEnd),
        ("[1", UnexpectedEnd),
        ("[1}", ExpectedCommaOrEnd),
        ("{\"a\":1,}", ExpectedName),
        ("{a:1}", ExpectedName),
        ("{1:1}", ExpectedName),
        ("{\"a\" 1}", ExpectedColon),
        ("{\"a\":}", ExpectedValue),
        ("{\"a\"", UnexpectedEnd),
        ("{} {}", TrailingText),
        ("1 // no", TrailingText),
        ("/* no */ 1", ExpectedValue),
        ("\u{a0}1", ExpectedValue),
        ("\u{feff}1", ExpectedValue),
    ];
    for (text, kind) in bad {
        assert_eq!(check(text, 64).err(), Some(kind), "{text}");
    }
}

#[test]
fn depth_is_limited_and_counted() {
    for (levels, limit, fits) in [
        (64, 64, true),
        (65, 64, false),
        (128, 1_000, true),
        (129, 1_000, false),
        (100_000, 64, false),
    ] {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let text = format!("{}1{}", open.repeat(levels), close.repeat(levels));
            match check(&text, limit) {
                Ok(tally) => assert!(fits && tally.levels as usize == levels, "{levels}"),
                Err(kind) => assert!(!fits && kind == ScanErrorKind::TooDeep, "{levels} {kind}"),
            }
        }
    }
}

#[test]
fn members_are_counted_over_all_levels() {
    let tally = check(r#"{"a":1,"b":[{"c":{"d":[]}},{}],"a":2}"#, 64).expect("valid");
    assert_eq!((tally.members, tally.levels), (5, 5));
    assert_eq!(check("7", 64).expect("valid").levels, 0);
}

#[test]
fn a_plain_run_ends_at_the_first_special_byte() {
    for length in 0..40 {
        for special in [b'"', b'\\', 0, 0x1F] {
            for (position, filler) in (0..length).flat_map(|at| {
                [b' ', b'!', b'#', b'[', b']', 0x7F, 0x80, 0xFF].map(|byte| (at, byte))
            }) {
                let mut bytes = vec![filler; length];
                assert_eq!(plain_run(&bytes, 0), length);
                bytes[position] = special;
                assert_eq!(
                    plain_run(&bytes, 0),
                    position,
                    "{length} {special} {filler}"
                );
            }
        }
    }
}

/// What serde_json says: its raw value knows the grammar alone, its tree also knows surrogates
/// but refuses numbers that fit no `f64`.
fn reference(text: &str) -> Option<bool> {
    if serde_json::from_str::<&RawValue>(text).is_err() {
        return Some(false);
    }
    match serde_json::from_str::<serde_json::Value>(text) {
        Ok(_) => Some(true),
        Err(error) if error.to_string().contains("number out of range") => {
            (!text.contains("\\u")).then_some(true)
        }
        Err(_) => Some(false),
    }
}

fn fragment() -> impl Strategy<Value = String> {
    let fixed = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\"a\"",
        "\"\\u00e9\"",
        "\"\\ud83d\\ude00\"",
        "\"\\ud800\"",
        "\"\\udc00x\"",
        "0",
        "-",
        "1",
        "12.5",
        "1e9",
        "-0",
        "1E-7",
        ".",
        "e",
        "true",
        "false",
        "null",
        " ",
        "\n",
        "\t",
        "\\",
        "\u{e9}",
        "\u{1}",
        "\"k\":",
        "{\"k\":",
        "[1,",
    ]);
    fixed.prop_map(str::to_owned)
}

fn document() -> impl Strategy<Value = String> {
    let space = || prop::sample::select(vec!["", "", " ", "\n\t", "\r\n  "]);
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|value| value.to_string()),
        any::<i64>().prop_map(|value| value.to_string()),
        any::<f64>()
            .prop_filter("finite", |value| value.is_finite())
            .prop_map(|value| format!("{value:e}")),
        any::<String>().prop_map(|value| serde_json::to_string(&value).expect("a string")),
    ];
    leaf.prop_recursive(5, 40, 5, move |inner| {
        let item = (space(), inner, space()).prop_map(|(a, value, b)| format!("{a}{value}{b}"));
        let name = any::<String>().prop_map(|name| serde_json::to_string(&name).expect("a string"));
        let member = (space(), name, item.clone())
            .prop_map(|(a, name, value)| format!("{a}{name}{a}:{value}"));
        prop_oneof![
            (space(), prop::collection::vec(item, 1..5))
                .prop_map(|(_, items)| format!("[{}]", items.join(","))),
            (space(), prop::collection::vec(member, 1..5))
                .prop_map(|(_, members)| format!("{{{}}}", members.join(","))),
            space().prop_map(|a| format!("[{a}]")),
            space().prop_map(|a| format!("{{{a}}}")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn valid_documents_are_accepted(text in document()) {
        prop_assert!(check(&text, DEPTH_CEILING).is_ok());
    }

    #[test]
    fn damaged_documents_fare_as_with_serde_json(
        text in document(),
        cut in any::<prop::sample::Index>(),
        length in 0_usize..3,
        insert in fragment(),
    ) {
        let mut characters: Vec<char> = text.chars().collect();
        let at = cut.index(characters.len());
        let end = (at + length).min(characters.len());
        characters.splice(at..end, insert.chars());
        let damaged: String = characters.into_iter().collect();
        if let Some(accepted) = reference(&damaged) {
            prop_assert_eq!(check(&damaged, DEPTH_CEILING).is_ok(), accepted, "{}", damaged);
        }
    }

    #[test]
    fn token_soup_fares_as_with_serde_json(parts in prop::collection::vec(fragment(), 1..8)) {
        let soup = parts.concat();
        if let Some(accepted) = reference(&soup) {
            prop_assert_eq!(check(&soup, DEPTH_CEILING).is_ok(), accepted, "{}", soup);
        }
    }

    #[test]
    fn strings_decode_as_with_serde_json(parts in prop::collection::vec(fragment(), 0..6)) {
        let text = format!("\"{}\"", parts.concat().replace('"', ""));
        let mut scanner = Scanner::new(&text, 1);
        let ours = scanner.string().and_then(|token| {
            scanner.finish()?;
            Ok(scanner.decoded(token).into_owned())
        });
        prop_assert_eq!(ours.ok(), serde_json::from_str::<String>(&text).ok(), "{}", text);
    }
}
