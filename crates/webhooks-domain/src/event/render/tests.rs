use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::{EventLimits, parse_accepted_event};
use super::*;

const SAMPLE: &str = include_str!("../../../tests/data/step_completed.sample.json");
const STRICT: &str = include_str!("../../../tests/data/sample.strict.json");
const THIN: &str = include_str!("../../../tests/data/sample.thin.json");

/// Pretty JSON without its whitespace; none of our documents has a line break in a string.
fn minified(pretty: &str) -> String {
    let joined: String = pretty.lines().map(str::trim).collect();
    joined.replace("\": ", "\":")
}

/// A minified body, and its `webhook` object.
fn without_webhook(body: &str) -> (String, String) {
    let start = body.find("\"webhook\":").expect("a webhook");
    let end = body.find("\"workflowStep\":").expect("a step");
    let webhook = &body[start + "\"webhook\":".len()..end - 1];
    ([&body[..start], &body[end..]].concat(), webhook.to_owned())
}

fn rendered(event: &str, profile: Profile) -> Rendition {
    parse_accepted_event(event.as_bytes(), &EventLimits::DEFAULT).expect("a valid event");
    render(event.as_bytes(), profile).expect("a valid event renders")
}

fn body(event: &str, profile: Profile, webhook: &str) -> String {
    String::from_utf8(rendered(event, profile).join(webhook.as_bytes())).expect("UTF-8")
}

/// The smallest event there is, with room for more members.
fn minimal(root: &str, event: &str, step: &str) -> String {
    format!(
        r#"{{"event":{{"id":"visit","workspaceId":"a39dbbfb-be5e-41c8-b49a-7c9ada520fa4","linkId":"a3332d06-1c43-4a23-a34e-259fa393581c"{event}}},"workflowStep":{{"id":"step","kind":"KIND_EXIT"{step}}},"timestamp":"2025-10-10T16:12:28Z","type":"step.completed","lbid":"l"{root}}}"#
    )
}

fn with_webhook(event: &str) -> String {
    event.replacen(",\"workflowStep\":", ",\"webhook\":{},\"workflowStep\":", 1)
}

/// `event` in `profile` is `expected` (both without webhook) and so many values were dropped.
fn check(event: &str, profile: Profile, expected: &str, dropped: u32) {
    let rendition = rendered(event, profile);
    let text = String::from_utf8(rendition.join(b"{}")).expect("UTF-8");
    assert_eq!(text, with_webhook(expected), "{event}");
    assert_eq!(rendition.dropped, dropped, "{:?}", rendition.dropped_paths);
}

#[test]
fn the_sample_is_a_fixed_point_of_standard() {
    let sample = minified(SAMPLE);
    let (published, webhook) = without_webhook(&sample);
    let rendition = rendered(&published, Profile::Standard);
    assert_eq!(rendition.join(webhook.as_bytes()), sample.as_bytes());
    assert_eq!((rendition.dropped, rendition.denied), (0, 0));
    // What the publisher says about a webhook is ignored.
    assert_eq!(body(&sample, Profile::Standard, &webhook), sample);
}

#[test]
fn whitespace_goes_except_inside_open_subtrees() {
    let sample = minified(SAMPLE);
    let (_, webhook) = without_webhook(&sample);
    let start = SAMPLE.find("\"payload\": ").expect("a payload") + "\"payload\": ".len();
    let end = start + SAMPLE[start..].find('}').expect("its end") + 1;
    let payload = &SAMPLE[start..end];
    let expected = sample.replace(&minified(payload), payload);
    assert_ne!(expected, sample);
    assert_eq!(body(SAMPLE, Profile::Standard, &webhook), expected);
}

#[test]
fn strict_and_thin_are_as_in_their_goldens() {
    let event = SAMPLE.replace("\"::1\"", "\"203.0.113.77\"");
    let (event, _) = without_webhook(&minified(&event));
    for (profile, golden) in [(Profile::Strict, STRICT), (Profile::Thin, THIN)] {
        let golden = minified(golden);
        let (_, webhook) = without_webhook(&golden);
        let rendition = rendered(&event, profile);
        assert_eq!(
            String::from_utf8(rendition.join(webhook.as_bytes())).expect("UTF-8"),
            golden
        );
        assert_eq!(rendition.dropped, 0, "a profile's wish is not a loss");
    }
}

#[test]
fn the_order_at_the_top_is_the_contracts() {
    let event = r#"{"customAttributes":{"a":1},"lbid":"l","type":"step.completed","id":"x","workflowStep":{"kind":"KIND_EXIT","id":"step"},"timestamp":"2025-10-10T16:12:28Z","event":{"linkId":"a3332d06-1c43-4a23-a34e-259fa393581c","id":"visit","workspaceId":"a39dbbfb-be5e-41c8-b49a-7c9ada520fa4"}}"#;
    let expected = r#"{"event":{"linkId":"a3332d06-1c43-4a23-a34e-259fa393581c","id":"visit","workspaceId":"a39dbbfb-be5e-41c8-b49a-7c9ada520fa4"},"webhook":{},"workflowStep":{"kind":"KIND_EXIT","id":"step"},"timestamp":"2025-10-10T16:12:28Z","type":"step.completed","lbid":"l","customAttributes":{"a":1}}"#;
    assert_eq!(body(event, Profile::Standard, "{}"), expected);
}

#[test]
fn open_subtrees_pass_byte_for_byte() {
    let open =
        r#"{ "qrcodeKey" : 123456789012345678901 ,"password":"\u0041\/", "a":1,"a":[ 1.0 ,{}] }"#;
    let event = minimal(
        &format!(r#","customAttributes":{open}"#),
        &format!(
            r#","formResponses":[{open}],"visitor":{{"attributes":{open}}},"link":{{"metadata":{open}}}"#
        ),
        "",
    );
    check(&event, Profile::Standard, &event, 0);
    check(&event, Profile::Strict, &event, 0);
    check(&event, Profile::Thin, &minimal("", "", ""), 0);
    let spaced = event.replace("\"customAttributes\":", " \"customAttributes\" :\n ");
    check(&spaced, Profile::Standard, &event, 0);
}

#[test]
fn numbers_are_delivered_as_they_came() {
    let numbers = [
        "9007199254740993",
        "18446744073709551616",
        "1e400",
        "-1E+400",
        "-0",
        "-0.0",
        "1.0",
        "1e5",
        "0.1234567890123456789012345678901234567890",
        "1234567890123456789012345678901234567890",
        "1.50",
        "1E-7",
        "4.9e-324",
    ];
    for number in numbers {
        let event = minimal(
            &format!(r#","customAttributes":{{"n":{number}}}"#),
            &format!(r#","leadScore":{{"leadScore":{number}}},"link":{{"eventCount":{number}}}"#),
            &format!(
                r#","payload":{{"n":[{number}]}},"canvasPosition":{{"x":{number},"y":{number}}}"#
            ),
        );
        check(&event, Profile::Standard, &event, 0);
    }
}

#[test]
fn strings_and_names_are_delivered_as_they_came() {
    let event = minimal(
        "",
        r#","\u0061ction":"\u0041\u0000\/\ud83d\ude00","destination":"é" "#.trim_end(),
        "",
    );
    check(&event, Profile::Standard, &event, 0);
}

#[test]
fn unknown_paths_and_wrong_types_are_dropped_and_counted() {
    let clean = minimal(
        "",
        r#","device":{"city":"x","ipAddress":null},"link":{"tags":["a",{"id":1},null]}"#,
        "",
    );
    let cases = [
        (clean.clone(), 0),
        (clean.replace("\"lbid\"", "\"new\":{\"a\":[]},\"lbid\""), 1),
        (clean.replace("\"city\"", "\"a\":1,\"b\":[2],\"city\""), 2),
        (
            clean.replace(",\"ipAddress\":null", ",\"ipAddress\":null,\"z\":1"),
            1,
        ),
        (
            clean.replace(
                ",\"ipAddress\":null",
                " , \"deviceType\" : 7 , \"ipAddress\" : null , \"id\" : [ ] ",
            ),
            2,
        ),
        (clean.replace("[\"a\",", "[7,\"a\",[\"b\"],"), 2),
        (clean.replace("null]", "null,true]"), 1),
        (
            clean.replace("\"kind\"", "\"payload\":\"text\",\"kind\""),
            1,
        ),
        (
            clean.replace(
                "\"device\"",
                "\"journey\":[],\"visitor\":7,\"leadScore\":\"x\",\"device\"",
            ),
            3,
        ),
        (
            clean.replace("\"link\"", "\"formResponses\":\"x\",\"link\""),
            1,
        ),
    ];
    for (event, dropped) in cases {
        check(&event, Profile::Standard, &clean, dropped);
    }
}

#[test]
fn what_was_dropped_is_named_up_to_a_limit() {
    let extra: String = (0..20)
        .map(|index| format!(",\"x{index}\":{index}"))
        .collect();
    let event = minimal(
        r#","secret":1"#,
        r#","action":7"#,
        &format!(r#"{extra},"payload":{{"token":"t"}}"#),
    );
    let rendition = rendered(&event, Profile::Standard);
    assert_eq!((rendition.dropped, rendition.denied), (23, 1));
    assert_eq!(rendition.dropped_paths.len(), MAX_DROPPED_PATHS);
    assert_eq!(
        rendition.dropped_paths[..2],
        [
            DroppedPath {
                path: "event.action".to_owned(),
                reason: DropReason::WrongType
            },
            DroppedPath {
                path: "workflowStep.x0".to_owned(),
                reason: DropReason::UnknownPath
            },
        ]
    );
    let reasons = [
        DropReason::UnknownPath,
        DropReason::WrongType,
        DropReason::DeniedName,
    ];
    assert_eq!(
        reasons.map(DropReason::as_str),
        ["unknown_path", "wrong_type", "denied_name"]
    );
}

#[test]
fn thirty_new_fields_at_each_level_change_nothing() {
    fn add(value: &mut Value) {
        if let Value::Object(members) = value {
            members.values_mut().for_each(add);
            for index in 0..30 {
                members.insert(format!("extra{index}"), json!({"deep": [index, "canary"]}));
            }
        }
    }
    let mut event: Value = serde_json::from_str(SAMPLE).expect("JSON");
    let payload = event["workflowStep"]["payload"].clone();
    add(&mut event);
    event["workflowStep"]["payload"] = payload;
    let rendition = rendered(&event.to_string(), Profile::Standard);
    let delivered: Value = serde_json::from_slice(&rendition.join(b"null")).expect("JSON");
    let mut expected: Value = serde_json::from_str(SAMPLE).expect("JSON");
    expected["webhook"] = Value::Null;
    assert_eq!(delivered, expected);
    // Root, event, device, leadScore, link, workspace, workflowStep, canvasPosition.
    assert_eq!(rendition.dropped, 8 * 30);
}

/// Names that must not reach anybody, wherever they stand outside the visitor's own data.
const POISON: [&str; 17] = [
    "qrcodeKey",
    "qr_code_secret",
    "apiKey",
    "private_key",
    "signingKey",
    "accessToken",
    "secret",
    "password",
    "credentials",
    "sessionId",
    "token",
    "jwt",
    "scoreAlgorithm",
    "weights",
    "internalRef",
    "stripeCustomerId",
    "qrcodeSignedUrl",
];

#[test]
fn poison_never_leaves() {
    fn add(value: &mut Value) {
        if let Value::Object(members) = value {
            members.values_mut().for_each(add);
            for name in POISON {
                members.insert(name.to_owned(), json!("canary"));
                members.insert(name.to_ascii_uppercase(), json!({"a": ["canary"]}));
            }
        }
    }
    let mut event: Value = serde_json::from_str(SAMPLE).expect("JSON");
    event["workflowStep"]["payload"]["form"] = json!({"fields": [{"title": "t"}]});
    event["event"]["link"]["tags"] = json!([{"name": "n"}]);
    let clean = event.to_string();
    add(&mut event);
    let tag = &mut event["event"]["link"]["tags"][0];
    add(tag);
    add(&mut event["workflowStep"]["payload"]["form"]["fields"][0]);
    let expected =
        |profile| -> Value { serde_json::from_str(&body(&clean, profile, "null")).expect("JSON") };
    for profile in Profile::ALL {
        let text = body(&event.to_string(), profile, "null");
        assert!(!text.contains("canary"), "{text}");
        assert_eq!(
            serde_json::from_str::<Value>(&text).expect("JSON"),
            expected(profile)
        );
    }
}

#[test]
fn denied_members_are_cut_out_of_a_payload_and_nothing_else_is_touched() {
    let table = [
        (r#"{"password":"x"}"#, "{}", 1),
        (r#"{ "password" : "x" }"#, "{ }", 1),
        (r#"{"a":1,"password":"x"}"#, r#"{"a":1}"#, 1),
        (r#"{"password":"x","a":1}"#, r#"{"a":1}"#, 1),
        (
            r#"{ "a" : 1.0 , "password" : {"a":[1]} , "b" : [ ] }"#,
            r#"{ "a" : 1.0  , "b" : [ ] }"#,
            1,
        ),
        (
            r#"{"pin":1,"otp":2,"a":3,"jwt":4,"b":5,"salt":6}"#,
            r#"{"a":3,"b":5}"#,
            4,
        ),
        (r#"{"pin":1,"otp":2}"#, "{}", 2),
        (r#"{"\u0070assword":"x","a":1}"#, r#"{"a":1}"#, 1),
        (
            r#"{"a":{"b":[1,{"PassWord":"x","c":{}},{"token":1}],"secret":1},"d":1}"#,
            r#"{"a":{"b":[1,{"c":{}},{}]},"d":1}"#,
            3,
        ),
        (
            r#"{"title":"password","a":"token"}"#,
            r#"{"title":"password","a":"token"}"#,
            0,
        ),
        (r#"{"a":1,"a":2,"pin":3,"pin":4}"#, r#"{"a":1,"a":2}"#, 2),
        ("{ }", "{ }", 0),
    ];
    for (payload, expected, denied) in table {
        let event = |payload: &str| minimal("", "", &format!(",\"payload\":{payload}"));
        let rendition = rendered(&event(payload), Profile::Strict);
        let text = String::from_utf8(rendition.join(b"{}")).expect("UTF-8");
        assert_eq!(text, with_webhook(&event(expected)));
        assert_eq!(
            (rendition.denied, rendition.dropped),
            (denied, denied),
            "{payload}"
        );
    }
}

#[test]
fn addresses_are_truncated_in_strict_only() {
    let event =
        |address: &str| minimal("", &format!(",\"device\":{{\"ipAddress\":{address}}}"), "");
    let full = event("\"203.0.113.77\"");
    check(&full, Profile::Standard, &full, 0);
    check(&full, Profile::Strict, &event("\"203.0.113.0\""), 0);
    check(
        &event("\"2001:db8:1:2::3\""),
        Profile::Strict,
        &event("\"2001:db8:1::\""),
        0,
    );
    check(&event("null"), Profile::Strict, &event("null"), 0);
    let nothing = minimal("", ",\"device\":{}", "");
    check(&event("\"not an address\""), Profile::Strict, &nothing, 1);
    check(&event("[1]"), Profile::Strict, &nothing, 1);
}

#[test]
fn bytes_that_are_no_event_are_an_error() {
    assert_eq!(render(b"\xff", Profile::Thin), Err(RenderError::NotUtf8));
    assert!(matches!(
        render(b"{", Profile::Thin),
        Err(RenderError::NotJson(_))
    ));
    assert_eq!(
        render(b"[]", Profile::Thin),
        Err(RenderError::NotAnEvent("members"))
    );
    assert_eq!(
        render(b"{}", Profile::Thin),
        Err(RenderError::NotAnEvent("event"))
    );
    let event = minimal("", "", "");
    for (from, to, name) in [
        ("\"lbid\":\"l\"", "\"lbid\":7", "lbid"),
        ("\"type\"", "\"kind\"", "type"),
        (
            "\"workflowStep\":{\"id\"",
            "\"workflowStep\":1,\"x\":{\"id\"",
            "workflowStep",
        ),
        ("\"lbid\":\"l\"", "\"lbid\":\"l\",\"lbid\":\"l\"", "lbid"),
    ] {
        let broken = event.replace(from, to);
        assert_eq!(
            render(broken.as_bytes(), Profile::Standard),
            Err(RenderError::NotAnEvent(name))
        );
    }
}

/// JSON pointers and texts of every leaf.
fn leaves(value: &Value) -> Vec<(String, Value)> {
    match value {
        Value::Object(members) => members
            .iter()
            .flat_map(|(name, child)| {
                leaves(child)
                    .into_iter()
                    .map(move |(path, leaf)| (format!("/{name}{path}"), leaf))
            })
            .collect(),
        leaf => vec![(String::new(), leaf.clone())],
    }
}

fn odd_event() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        Just(json!(null)),
        Just(json!("x")),
        Just(json!(7)),
        Just(json!(true)),
        Just(json!([])),
        Just(json!([{"token": 1}, "a"])),
        Just(json!({})),
        Just(json!({"id": "x", "password": [], "new": {"pin": 1}})),
    ];
    let place = prop::sample::select(vec![
        "",
        "/event",
        "/event/device",
        "/event/link",
        "/event/leadScore",
        "/workflowStep",
        "/workflowStep/payload",
    ]);
    let name = prop::sample::select(vec![
        "id2",
        "password",
        "device",
        "visitor",
        "ipAddress",
        "tags",
        "metadata",
        "payload",
        "a b",
        "kind ",
        "customAttributes",
        "formResponses",
        "canvasPosition",
        "journey",
        "webhook",
        "x",
    ]);
    prop::collection::vec((place, name, value), 0..6).prop_map(|changes| {
        let mut event: Value = serde_json::from_str(SAMPLE).expect("JSON");
        for (place, name, value) in changes {
            if let Some(Value::Object(members)) = event.pointer_mut(place) {
                members.insert(name.to_owned(), value);
            }
        }
        event.to_string()
    })
}

proptest! {
    #[test]
    fn rendering_twice_changes_nothing(event in odd_event(), profile in prop::sample::select(Profile::ALL.to_vec())) {
        prop_assume!(parse_accepted_event(event.as_bytes(), &EventLimits::DEFAULT).is_ok());
        let once = body(&event, profile, r#"{"id":"w"}"#);
        let again = rendered(&once, profile);
        prop_assert_eq!(again.dropped, 0);
        prop_assert_eq!(again.join(br#"{"id":"w"}"#), once.as_bytes());
    }

    #[test]
    fn nothing_appears_that_was_not_sent(event in odd_event(), profile in prop::sample::select(Profile::ALL.to_vec())) {
        prop_assume!(parse_accepted_event(event.as_bytes(), &EventLimits::DEFAULT).is_ok());
        let sent: Value = serde_json::from_str(&event).expect("JSON");
        let delivered: Value = serde_json::from_str(&body(&event, profile, "null")).expect("JSON");
        for (path, leaf) in leaves(&delivered) {
            let changed = ["/webhook", "/event/device/ipAddress"].contains(&path.as_str())
                || path.starts_with("/workflowStep/payload")
                || path.starts_with("/event/link/tags");
            prop_assert!(changed || sent.pointer(&path) == Some(&leaf), "{}", path);
        }
        let thin: Vec<String> = leaves(&serde_json::from_str(THIN).expect("JSON")).into_iter().map(|(path, _)| path).collect();
        if profile == Profile::Thin {
            for (path, _) in leaves(&delivered) {
                prop_assert!(path == "/webhook" || thin.contains(&path), "{}", path);
            }
        }
    }

    #[test]
    fn bytes_of_any_kind_get_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        for profile in Profile::ALL {
            prop_assert!(render(&bytes, profile).is_err());
        }
    }
}
