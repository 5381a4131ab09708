use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const SAMPLE: &str = include_str!("../../../tests/data/step_completed.sample.json");

fn sample() -> Value {
    serde_json::from_str(SAMPLE).expect("the sample is JSON")
}

fn parse(text: &str) -> Result<ParsedEvent, EventRejection> {
    parse_event(text.as_bytes(), &EventLimits::DEFAULT)
}

/// The smallest event there is, with room for more members in each object.
fn minimal(root: &str, event: &str, step: &str) -> String {
    format!(
        r#"{{"event":{{"id":"visit","workspaceId":"a39dbbfb-be5e-41c8-b49a-7c9ada520fa4","linkId":"a3332d06-1c43-4a23-a34e-259fa393581c"{event}}},"workflowStep":{{"id":"step","kind":"KIND_EXIT"{step}}},"timestamp":"2025-10-10T16:12:28Z","type":"step.completed","lbid":"l"{root}}}"#
    )
}

/// `(field, reason)` of every problem.
fn problems(text: &str) -> Vec<(String, &'static str)> {
    let rejection = parse(text).expect_err("the event is refused");
    let problems = rejection.problems.into_iter();
    problems
        .map(|problem| {
            assert!(!problem.message.is_empty());
            (problem.field, problem.reason)
        })
        .collect()
}

fn check(text: &str, expected: &[(&str, &str)]) {
    let found = problems(text);
    let found: Vec<(&str, &str)> = found
        .iter()
        .map(|(field, reason)| (field.as_str(), *reason))
        .collect();
    assert_eq!(found, expected, "{text}");
}

#[test]
fn the_sample_is_an_event() {
    let event = parse(SAMPLE).expect("the sample is valid");
    assert_eq!(
        event,
        ParsedEvent {
            id: None,
            workspace_id: Uuid::from_u128(0xa39dbbfb_be5e_41c8_b49a_7c9ada520fa4),
            link_id: Uuid::from_u128(0xa3332d06_1c43_4a23_a34e_259fa393581c),
            source_event_id: "0a2d9a3c-3f5a-483e-93e1-10b5bd04ac5b".to_owned(),
            step_id: "3bb8a4a0-80eb-4a36-863e-03e3ed5c2a1b".to_owned(),
            step_kind: "KIND_EXIT".to_owned(),
            event_action: Some("CLIENT_REDIRECT".to_owned()),
            timestamp_micros: 1_760_112_748_161_007,
            timestamp_text: "2025-10-10T16:12:28.161007Z".to_owned(),
            lbid: "2VqKhjxtKwC7pBbg".to_owned(),
            event_type: EVENT_TYPE_STEP_COMPLETED,
        }
    );
}

#[test]
fn optional_members_may_be_absent_null_or_there() {
    let event = parse(&minimal("", "", "")).expect("valid");
    assert_eq!((event.id, event.event_action), (None, None));
    let event = parse(&minimal(
        r#","id":"evt~1","customAttributes":{"a":[1]}"#,
        "",
        r#","eventAction":"NEW""#,
    ))
    .expect("valid");
    assert_eq!(
        (event.id.as_deref(), event.event_action.as_deref()),
        (Some("evt~1"), Some("NEW"))
    );
    let event = parse(&minimal(
        r#","id":null,"customAttributes":null"#,
        "",
        r#","eventAction":7"#,
    ))
    .expect("valid");
    assert_eq!((event.id, event.event_action), (None, None));
}

#[test]
fn escaped_names_and_values_are_understood() {
    let text = minimal("", "", "")
        .replace(
            "\"lbid\":\"l\"",
            "\"\\u006cbid\":\"l\\u00e9\\ud83d\\ude00\"",
        )
        .replace("step.completed", "step\\u002ecompleted");
    let event = parse(&text).expect("valid");
    assert_eq!(event.lbid, "l\u{e9}\u{1F600}");
}

#[test]
fn every_problem_is_reported_with_its_field() {
    use reason::*;
    check(
        "{}",
        &[
            ("event.id", MISSING),
            ("event.workspaceId", MISSING),
            ("event.linkId", MISSING),
            ("workflowStep.id", MISSING),
            ("workflowStep.kind", MISSING),
            ("timestamp", MISSING),
            ("type", MISSING),
            ("lbid", MISSING),
        ],
    );
    check(
        r#"{"event":[],"workflowStep":"x","timestamp":1,"type":null,"lbid":"","id":"a b","customAttributes":[]}"#,
        &[
            ("event", WRONG_TYPE),
            ("workflowStep", WRONG_TYPE),
            ("timestamp", WRONG_TYPE),
            ("type", WRONG_TYPE),
            ("lbid", EMPTY),
            ("id", INVALID_CHARACTERS),
            ("customAttributes", WRONG_TYPE),
        ],
    );
    let long = "x".repeat(256);
    check(
        &json!({
            "event": {"id": long, "workspaceId": "a39dbbfbbe5e41c8b49a7c9ada520fa4", "linkId": {"a": 1}},
            "workflowStep": {"id": "a\nb", "kind": true},
            "timestamp": "yesterday", "type": "step.started", "lbid": "\0", "id": "", "customAttributes": "x",
        })
        .to_string(),
        &[
            ("event.id", TOO_LONG), ("event.workspaceId", NOT_UUID), ("event.linkId", WRONG_TYPE),
            ("workflowStep.id", INVALID_CHARACTERS), ("workflowStep.kind", WRONG_TYPE),
            ("timestamp", INVALID_TIMESTAMP), ("type", UNKNOWN_TYPE), ("lbid", INVALID_CHARACTERS),
            ("id", EMPTY), ("customAttributes", WRONG_TYPE),
        ],
    );
    check(
        &minimal(&format!(r#","id":"{long}""#), "", ""),
        &[("id", TOO_LONG)],
    );
    check(&minimal(r#","id":7"#, "", ""), &[("id", WRONG_TYPE)]);
    check("[]", &[("$", WRONG_TYPE)]);
    check("\"x\"", &[("$", WRONG_TYPE)]);
    check("null", &[("$", WRONG_TYPE)]);
}

#[test]
fn unknown_words_and_unexpected_types_elsewhere_are_no_problem() {
    let text = minimal(
        r#","new":[{"a":1},2],"webhook":{"id":7}"#,
        r#","action":"ACTION_NEW","device":[],"link":{"eventCount":"1","tags":7},"x":null"#,
        r#","payload":"text","kind2":1"#,
    );
    assert!(parse(&text).is_ok());
    assert!(parse(&text.replace("KIND_EXIT", "KIND_NEW")).is_ok());
}

#[test]
fn what_is_not_json_is_told_with_its_place() {
    use reason::*;
    for text in [
        "",
        "  ",
        "{",
        "{\"event\":}",
        "{} x",
        "{'a':1}",
        "{\"a\":01}",
        "{\"a\":NaN}",
        "nul",
        "{\"lbid\":\"\\ud800\"}",
        "{\"customAttributes\":{\"a\":\"\\udc00\"}}",
        "\u{feff}{}",
        "{\"a\":\"\u{1}\"}",
        "{\"a\":1,}",
    ] {
        check(text, &[("$", NOT_JSON)]);
    }
    let rejection = parse("{\"a\":01}").expect_err("refused");
    assert_eq!(rejection.problems[0].message, "invalid number at byte 6");
    assert_eq!(rejection.to_string(), "event refused: $ not_json");
}

#[test]
fn bytes_that_are_not_utf8_are_refused() {
    let broken: [&[u8]; 8] = [
        b"\xff",
        b"\xc0\x80",
        b"\xe0\x80\x80",
        b"\xed\xa0\x80",
        b"\xed\xa0\xbd\xed\xb8\x80",
        b"\xf4\x90\x80\x80",
        b"\xc3",
        b"\xf0\x9f\x98",
    ];
    for bytes in broken {
        for wrapped in [bytes.to_vec(), [b"{\"a\":\"", bytes, b"\"}"].concat()] {
            let rejection = parse_event(&wrapped, &EventLimits::DEFAULT).expect_err("refused");
            assert!(rejection.has(reason::NOT_UTF8), "{wrapped:?}");
        }
    }
}

#[test]
fn a_nul_character_in_free_text_is_no_problem() {
    let text = minimal(
        r#","customAttributes":{"a\u0000":"\u0000"}"#,
        r#","destination":"\u0000""#,
        "",
    );
    assert!(parse(&text).is_ok());
}

#[test]
fn duplicates_are_refused_wherever_the_schema_speaks() {
    use reason::DUPLICATE_KEY;
    let table = [
        (minimal(r#","type":"step.completed""#, "", ""), "type"),
        (minimal(r#","\u0074ype":"step.started""#, "", ""), "type"),
        (
            minimal(r#","customAttributes":{},"customAttributes":{}"#, "", ""),
            "customAttributes",
        ),
        (minimal("", r#","id":"other""#, ""), "event.id"),
        (
            minimal("", r#","device":{"id":"a","city":"b","id":"a"}"#, ""),
            "event.device.id",
        ),
        (
            minimal("", r#","device":{},"device":{}"#, ""),
            "event.device",
        ),
        (minimal("", r#","x":1,"y":2,"x":3"#, ""), "event.x"),
        (
            minimal("", r#","x":{"a":{"b":1,"\u0062":2}}"#, ""),
            "event.x.a.b",
        ),
        (
            minimal("", r#","link":{"tags":[1,{"a":1,"a":1}]}"#, ""),
            "event.link.tags[].a",
        ),
        (
            minimal(r#","webhook":{"id":"a","id":"b"}"#, "", ""),
            "webhook.id",
        ),
        (
            minimal("", "", r#","canvasPosition":{"x":1,"x":2}"#),
            "workflowStep.canvasPosition.x",
        ),
        (
            minimal("", "", r#","payload":{},"payload":{}"#),
            "workflowStep.payload",
        ),
    ];
    for (text, field) in table {
        check(&text, &[(field, DUPLICATE_KEY)]);
    }
    // Both orders of a member that is there twice with different values.
    for order in [
        r#""type":"x","type":"step.completed""#,
        r#""type":"step.completed","type":"x""#,
    ] {
        let text = minimal("", "", "").replace(r#""type":"step.completed""#, order);
        assert!(problems(&text).contains(&("type".to_owned(), DUPLICATE_KEY)));
    }
}

#[test]
fn duplicates_inside_open_subtrees_pass() {
    let twice = r#"{"a":1,"a":{"b":1,"b":2}}"#;
    let text = minimal(
        &format!(r#","customAttributes":{twice}"#),
        &format!(
            r#","formResponses":{twice},"visitor":{{"attributes":[{twice}]}},"link":{{"metadata":{twice}}}"#
        ),
        &format!(r#","payload":{twice}"#),
    );
    assert!(parse(&text).is_ok());
}

#[test]
fn no_more_than_thirty_two_problems_are_listed() {
    let many: String = (0..100)
        .map(|index| format!(",\"k{index}\":1,\"k{index}\":2"))
        .collect();
    assert_eq!(
        problems(&minimal(&many, "", "")).len(),
        super::super::MAX_PROBLEMS
    );
}

#[test]
fn depth_is_limited_over_all_and_in_custom_attributes() {
    use reason::TOO_DEEP;
    let nest = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    // The document and `event` are two levels.
    assert!(parse(&minimal("", &format!(",\"x\":{}", nest(62)), "")).is_ok());
    check(
        &minimal("", &format!(",\"x\":{}", nest(63)), ""),
        &[("$", TOO_DEEP)],
    );
    assert!(parse(&minimal("", "", &format!(",\"payload\":{}", nest(62)))).is_ok());
    check(
        &minimal("", "", &format!(",\"payload\":{}", nest(63))),
        &[("$", TOO_DEEP)],
    );
    for levels in [129, 10_000, 130_000] {
        check(&nest(levels), &[("$", TOO_DEEP)]);
        check(&"[".repeat(levels), &[("$", TOO_DEEP)]);
        check(
            &"{\"a\":".repeat(levels / 3),
            &[(
                "$",
                if levels / 3 > 64 {
                    TOO_DEEP
                } else {
                    reason::NOT_JSON
                },
            )],
        );
    }
    let custom = |levels| {
        minimal(
            &format!(",\"customAttributes\":{{\"a\":{}}}", nest(levels)),
            "",
            "",
        )
    };
    assert!(parse(&custom(15)).is_ok());
    check(&custom(16), &[("customAttributes", TOO_DEEP)]);
}

#[test]
fn sizes_are_limited_over_all_and_in_custom_attributes() {
    use reason::*;
    let custom = |members: usize, pad: usize| {
        let members: Vec<String> = (0..members)
            .map(|index| format!("\"k{index}\":{{}}"))
            .collect();
        minimal(
            &format!(
                ",\"customAttributes\":{{{}{}}}",
                members.join(","),
                " ".repeat(pad)
            ),
            "",
            "",
        )
    };
    assert!(parse(&custom(512, 0)).is_ok());
    check(&custom(513, 0), &[("customAttributes", TOO_MANY_KEYS)]);
    assert!(parse(&custom(0, 65_534)).is_ok());
    check(&custom(0, 65_535), &[("customAttributes", TOO_LARGE)]);
    let at_limit = |bytes: usize| {
        let event = minimal("", "", "");
        let pad = " ".repeat(bytes - event.len());
        event + &pad
    };
    assert!(parse(&at_limit(262_144)).is_ok());
    check(&at_limit(262_145), &[("$", TOO_LARGE)]);
}

/// Something else than what is there.
fn odd_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        Just(json!(true)),
        Just(json!(-1.5e300)),
        Just(json!("")),
        Just(json!("x")),
        Just(json!([])),
        Just(json!([{"a": 1}])),
        Just(json!({})),
        Just(json!({"id": {"id": 1}})),
    ]
}

/// JSON pointers of every value in the sample.
fn pointers() -> Vec<String> {
    fn walk(value: &Value, at: &str, into: &mut Vec<String>) {
        into.push(at.to_owned());
        if let Value::Object(members) = value {
            for (name, child) in members {
                walk(child, &format!("{at}/{name}"), into);
            }
        }
    }
    let mut all = Vec::new();
    walk(&sample(), "", &mut all);
    all
}

proptest! {
    #[test]
    fn any_bytes_get_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Err(rejection) = parse_event(&bytes, &EventLimits::DEFAULT) {
            prop_assert!((1..=super::super::MAX_PROBLEMS).contains(&rejection.problems.len()));
        }
    }

    #[test]
    fn a_sample_with_odd_values_is_refused_with_their_fields_or_accepted(
        changes in prop::collection::vec((prop::sample::select(pointers()), odd_value()), 1..4)
    ) {
        let mut event = sample();
        for (pointer, value) in changes {
            if let Some(place) = event.pointer_mut(&pointer) {
                *place = value;
            }
        }
        let strings = ["/event/id", "/workflowStep/id", "/workflowStep/kind", "/lbid"];
        let well_formed = strings.iter().all(|at| event.pointer(at).and_then(Value::as_str).is_some_and(|text| !text.is_empty()))
            && ["/event/workspaceId", "/event/linkId"].iter().all(|at| {
                event.pointer(at).and_then(Value::as_str).is_some_and(|text| text.len() == 36)
            })
            && event.pointer("/type") == Some(&json!("step.completed"))
            && event.pointer("/timestamp").and_then(Value::as_str).is_some_and(|text| text.len() > 10);
        prop_assert_eq!(parse(&event.to_string()).is_ok(), well_formed);
    }

    #[test]
    fn a_damaged_sample_never_panics(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in 0_usize..4) {
        let mut bytes = SAMPLE.as_bytes().to_vec();
        let at = at.index(bytes.len());
        bytes.splice(at..(at + cut).min(bytes.len()), [byte]);
        let json = serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).is_ok();
        let parsed = parse_event(&bytes, &EventLimits::DEFAULT);
        prop_assert!(json || parsed.is_err());
    }
}
