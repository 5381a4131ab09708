use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::MAX_PROBLEMS;
use super::super::profile::Profile;
use super::super::render::{DropReason, DroppedPath, render};
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
        r#","eventAction":null"#,
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
fn unknown_words_unknown_members_and_what_is_said_of_a_webhook_are_no_problem() {
    let text = minimal(
        r#","new":[{"a":1},2],"webhook":{"id":7,"workspaceId":"00000000-0000-0000-0000-000000000001","triggers":[7]}"#,
        r#","action":"ACTION_NEW","device":{"new":[]},"x":null"#,
        r#","payload":{"destination":7},"kind2":1"#,
    );
    assert!(parse(&text).is_ok());
    assert!(parse(&text.replace("KIND_EXIT", "KIND_NEW")).is_ok());
    assert!(parse(&minimal(r#","webhook":[7]"#, "", "")).is_ok());
}

/// The paths of all members that may be absent, with the types they may have.
fn optional_members() -> Vec<(String, Types)> {
    fn walk(members: &'static [Member], prefix: &str, into: &mut Vec<(String, Types)>) {
        for member in members {
            let path = format!("{prefix}{}", member.name);
            if member.slot.is_typed_in_place() {
                into.push((path.clone(), member.shape.types()));
            }
            if let (Shape::Object(children), false) = (member.shape, path == "webhook") {
                walk(children, &format!("{path}."), into);
            }
        }
    }
    let mut all = Vec::new();
    walk(&schema::ROOT, "", &mut all);
    all
}

/// The smallest event with `value` at `path`.
fn with(path: &str, value: &Value) -> String {
    let mut event: Value = serde_json::from_str(&minimal("", "", "")).expect("JSON");
    let mut at = &mut event;
    for name in path.split('.') {
        at = &mut at[name];
    }
    *at = value.clone();
    event.to_string()
}

#[test]
fn a_known_member_of_another_type_is_refused_with_its_path_and_null_counts_as_absent() {
    let values = [
        (Kind::Object, json!({})),
        (Kind::Array, json!([])),
        (Kind::Number, json!(5)),
        (Kind::Boolean, json!(true)),
        (Kind::Null, Value::Null),
    ];
    let members = optional_members();
    assert!(members.len() > 90, "only {} members", members.len());
    for (path, types) in members {
        for (kind, value) in &values {
            let text = with(&path, value);
            if types.admits(*kind) {
                assert!(parse(&text).is_ok(), "{text}");
            } else {
                check(&text, &[(path.as_str(), reason::WRONG_TYPE)]);
            }
        }
        if !types.admits(Kind::String) {
            let text = with(&path, &json!("5"));
            check(&text, &[(path.as_str(), reason::WRONG_TYPE)]);
        }
    }
}

#[test]
fn every_mistyped_member_is_told_and_of_a_list_its_elements_once() {
    use reason::{MISSING, WRONG_TYPE};
    let text = minimal(
        "",
        r#","device":5,"createdAt":[],"link":{"eventCount":"1","tags":[7,"a",8,{"a":1},null,[]]}"#,
        r#","payload":"text","eventAction":7,"linkId":false"#,
    );
    let expected = [
        ("event.device", WRONG_TYPE),
        ("event.createdAt", WRONG_TYPE),
        ("event.link.eventCount", WRONG_TYPE),
        ("event.link.tags[]", WRONG_TYPE),
        ("workflowStep.payload", WRONG_TYPE),
        ("workflowStep.eventAction", WRONG_TYPE),
        ("workflowStep.linkId", WRONG_TYPE),
    ];
    check(&text, &expected);
    let rejection = parse(&text).expect_err("refused");
    let messages: Vec<&str> = rejection.problems[..4]
        .iter()
        .map(|problem| problem.message.as_str())
        .collect();
    assert_eq!(
        messages,
        [
            "must be an object, found a number",
            "must be a string, found an array",
            "must be a number, found a string",
            "must be a string or an object, found a number",
        ]
    );
    let mut both = expected.to_vec();
    both.push(("lbid", MISSING));
    check(&text.replace(r#","lbid":"l""#, ""), &both);
}

#[test]
fn another_workspace_is_told_also_when_no_room_is_left_for_it() {
    let own = Uuid::try_parse("a39dbbfb-be5e-41c8-b49a-7c9ada520fa4").expect("a UUID");
    let foreign = json!("00000000-0000-0000-0000-00000000000a");
    let twice: String = (0..2 * MAX_PROBLEMS)
        .map(|n| format!(r#""x{n}":1,"x{n}":2,"#))
        .collect();
    let text = with("event.workspaceId", &foreign).replacen('{', &format!("{{{twice}"), 1);
    let rejection = parse_event_of(text.as_bytes(), &EventLimits::DEFAULT, own);
    let rejection = rejection.expect_err("refused");
    assert_eq!(rejection.problems.len(), MAX_PROBLEMS);
    assert!(rejection.has(reason::DUPLICATE_KEY));
    assert!(rejection.has(reason::TENANT_MISMATCH), "{rejection}");
}

#[test]
fn a_workspace_named_anywhere_is_the_events_own() {
    use reason::{NOT_UUID, TENANT_MISMATCH};
    let own = "a39dbbfb-be5e-41c8-b49a-7c9ada520fa4";
    let foreign = "00000000-0000-0000-0000-00000000000a";
    for (_, path) in schema::NESTED_WORKSPACES {
        for same in [own.to_owned(), own.to_uppercase()] {
            assert!(parse(&with(path, &json!(same))).is_ok(), "{path}");
        }
        check(&with(path, &json!(foreign)), &[(path, TENANT_MISMATCH)]);
        assert!(parse(&with(path, &json!(""))).is_ok(), "{path}");
        for none in ["x", "a39dbbfbbe5e41c8b49a7c9ada520fa4"] {
            check(&with(path, &json!(none)), &[(path, NOT_UUID)]);
        }
    }
    // The sample names it in each of these places, and once more.
    assert_eq!(SAMPLE.matches(own).count(), 6, "with the webhook's");
    let others = SAMPLE.replace(own, foreign);
    assert!(parse(&others).is_ok(), "a workspace of its own");
    let limits = EventLimits::DEFAULT;
    let owner = Uuid::try_parse(own).expect("a UUID");
    assert!(parse_event_of(SAMPLE.as_bytes(), &limits, owner).is_ok());
    let rejection = parse_event_of(others.as_bytes(), &limits, owner).expect_err("refused");
    let fields: Vec<(&str, &str)> = rejection
        .problems
        .iter()
        .map(|problem| (problem.field.as_str(), problem.reason))
        .collect();
    assert_eq!(
        fields,
        [
            ("event.workspaceId", TENANT_MISMATCH),
            ("event.device.workspaceId", TENANT_MISMATCH),
            ("event.leadScore.workspaceId", TENANT_MISMATCH),
            ("event.link.workspaceId", TENANT_MISMATCH),
            ("event.workspace.id", TENANT_MISMATCH),
        ]
    );
    // Only the one that is foreign is named, whichever it is.
    let text = with("event.workspaceId", &json!(foreign));
    let text = text.replace(
        r#""linkId""#,
        &format!(r#""link":{{"workspaceId":"{own}"}},"linkId""#),
    );
    let rejection = parse_event_of(text.as_bytes(), &limits, owner).expect_err("refused");
    let fields: Vec<&str> = rejection
        .problems
        .iter()
        .map(|problem| &*problem.field)
        .collect();
    assert_eq!(fields, ["event.workspaceId"]);
}

#[test]
fn what_was_accepted_before_these_rules_is_still_an_event() {
    let text = minimal(
        "",
        r#","device":5,"link":{"workspaceId":"00000000-0000-0000-0000-00000000000a","tags":[7]}"#,
        r#","payload":"text","eventAction":7"#,
    );
    assert!(parse(&text).is_err());
    let limits = EventLimits::DEFAULT;
    let event = parse_accepted_event(text.as_bytes(), &limits).expect("accepted once");
    assert_eq!(event.event_action, None);
    let sample = parse_accepted_event(SAMPLE.as_bytes(), &limits);
    assert_eq!(sample, parse(SAMPLE));
    let broken = text.replace(r#""lbid":"l""#, r#""lbid":7"#);
    assert!(parse_accepted_event(broken.as_bytes(), &limits).is_err());
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
            minimal("", r#","link":{"tags":["x",{"a":1,"a":1}]}"#, ""),
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
    let payload = |levels| minimal("", "", &format!(",\"payload\":{{\"a\":{}}}", nest(levels)));
    assert!(parse(&payload(61)).is_ok());
    check(&payload(62), &[("$", TOO_DEEP)]);
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

/// Whether `value` has the types that the sample has, as far as the sample knows its members and
/// the policy is not open below them.
fn fits(value: &Value, sample: &Value, path: &str) -> bool {
    match (value, sample) {
        _ if path == "/webhook" => true,
        (Value::Null, _) => true,
        (Value::Object(_), Value::Object(_)) if path == "/workflowStep/payload" => true,
        (Value::Object(members), Value::Object(known)) => members.iter().all(|(name, value)| {
            known
                .get(name)
                .is_none_or(|known| fits(value, known, &format!("{path}/{name}")))
        }),
        (Value::String(text), Value::String(_)) if is_workspace(path) => {
            text.is_empty() || text == "a39dbbfb-be5e-41c8-b49a-7c9ada520fa4"
        }
        _ => std::mem::discriminant(value) == std::mem::discriminant(sample),
    }
}

fn is_workspace(path: &str) -> bool {
    path.ends_with("/workspaceId") || path == "/event/workspace/id"
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
            && event.pointer("/timestamp").and_then(Value::as_str).is_some_and(|text| text.len() > 10)
            && fits(&event, &sample(), "");
        let text = event.to_string();
        prop_assert_eq!(parse(&text).is_ok(), well_formed);
        if well_formed {
            let rendition = render(text.as_bytes(), Profile::Standard).expect("an event renders");
            let mistyped = |dropped: &DroppedPath| dropped.reason == DropReason::WrongType;
            prop_assert!(!rendition.dropped_paths.iter().any(mistyped), "what is accepted arrives");
        }
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
