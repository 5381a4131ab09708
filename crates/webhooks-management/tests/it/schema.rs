//! Whether JSON fits a schema: as much of JSON Schema as the API's document uses. A keyword that is
//! not known here fails the test, so that none is believed to be checked that is not.

use serde_json::Value;
use webhooks_domain::event::parse_rfc3339_micros;

/// Keywords that say nothing about a value's form, or that are checked elsewhere (patterns and
/// mail addresses by the fuzzer).
const NOTES: [&str; 9] = [
    "description",
    "examples",
    "example",
    "title",
    "default",
    "pattern",
    "deprecated",
    "readOnly",
    "writeOnly",
];

/// What is wrong with a value, as `path: problem`; empty = nothing.
pub(crate) fn problems(document: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    check(document, schema, value, "$", &mut found);
    found
}

fn check(document: &Value, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    let Some(keywords) = schema.as_object() else {
        if schema == &Value::Bool(false) {
            found.push(format!("{at}: nothing is allowed here"));
        }
        return;
    };
    for (keyword, rule) in keywords {
        let fits = match keyword.as_str() {
            "$ref" => {
                let pointer = rule.as_str().unwrap().strip_prefix('#').unwrap();
                let target = document
                    .pointer(pointer)
                    .unwrap_or_else(|| panic!("{rule} leads nowhere"));
                check(document, target, value, at, found);
                true
            }
            "type" => match rule {
                Value::String(kind) => is_type(value, kind),
                Value::Array(kinds) => kinds
                    .iter()
                    .any(|kind| is_type(value, kind.as_str().unwrap())),
                _ => panic!("{at}: a type is text or a list"),
            },
            "enum" => rule.as_array().unwrap().contains(value),
            "const" => rule == value,
            "required" => {
                let missing: Vec<_> = rule
                    .as_array()
                    .unwrap()
                    .iter()
                    .filter(|key| value.is_object() && value.get(key.as_str().unwrap()).is_none())
                    .collect();
                missing
                    .iter()
                    .for_each(|key| found.push(format!("{at}: {key} is missing")));
                true
            }
            "properties" => {
                for (key, inner) in rule.as_object().unwrap() {
                    if let Some(member) = value.get(key) {
                        check(document, inner, member, &format!("{at}.{key}"), found);
                    }
                }
                true
            }
            "additionalProperties" => {
                let known = keywords.get("properties").and_then(Value::as_object);
                for (key, member) in value.as_object().into_iter().flatten() {
                    if known.is_none_or(|known| !known.contains_key(key)) {
                        check(document, rule, member, &format!("{at}.{key}"), found);
                    }
                }
                true
            }
            "propertyNames" => {
                for key in value.as_object().into_iter().flatten().map(|(key, _)| key) {
                    check(
                        document,
                        rule,
                        &Value::String(key.clone()),
                        &format!("{at}.{key}"),
                        found,
                    );
                }
                true
            }
            "items" => {
                for (n, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(document, rule, item, &format!("{at}[{n}]"), found);
                }
                true
            }
            "anyOf" => any(document, rule, value) >= 1,
            "oneOf" => any(document, rule, value) == 1,
            "allOf" => {
                let all = rule.as_array().unwrap().iter();
                all.for_each(|inner| check(document, inner, value, at, found));
                true
            }
            "minimum" => value.as_f64().is_none_or(|n| n >= rule.as_f64().unwrap()),
            "maximum" => value.as_f64().is_none_or(|n| n <= rule.as_f64().unwrap()),
            "minLength" => length(value).is_none_or(|n| n >= rule.as_u64().unwrap()),
            "maxLength" => length(value).is_none_or(|n| n <= rule.as_u64().unwrap()),
            "minItems" => value
                .as_array()
                .is_none_or(|all| all.len() as u64 >= rule.as_u64().unwrap()),
            "maxItems" => value
                .as_array()
                .is_none_or(|all| all.len() as u64 <= rule.as_u64().unwrap()),
            "uniqueItems" => value.as_array().is_none_or(|all| {
                all.iter()
                    .enumerate()
                    .all(|(n, item)| !all[..n].contains(item))
            }),
            "maxProperties" => value
                .as_object()
                .is_none_or(|all| all.len() as u64 <= rule.as_u64().unwrap()),
            "format" => match (rule.as_str().unwrap(), value.as_str()) {
                ("date-time", Some(text)) => {
                    parse_rfc3339_micros(text).is_some() && text.ends_with('Z')
                }
                ("uuid", Some(text)) => uuid::Uuid::try_parse(text).is_ok(),
                ("date", Some(text)) => {
                    text.len() == 10 && parse_rfc3339_micros(&format!("{text}T00:00:00Z")).is_some()
                }
                ("email" | "uri" | "ipv4" | "ipv6" | "byte" | "int64" | "double", _)
                | (_, None) => true,
                (other, _) => panic!("{at}: the format {other} is not known"),
            },
            note => {
                assert!(
                    NOTES.contains(&note),
                    "{at}: the keyword {note} is not known"
                );
                true
            }
        };
        if !fits {
            found.push(format!("{at}: {value} against {keyword} {rule}"));
        }
    }
}

fn any(document: &Value, rule: &Value, value: &Value) -> usize {
    let all = rule.as_array().unwrap().iter();
    all.filter(|inner| problems(document, inner, value).is_empty())
        .count()
}

fn is_type(value: &Value, kind: &str) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other} is no type"),
    }
}

fn length(value: &Value) -> Option<u64> {
    value.as_str().map(|text| text.chars().count() as u64)
}

#[test]
fn the_checker_finds_what_is_wrong() {
    use serde_json::json;
    let document = json!({ "defs": { "n": { "type": "integer", "minimum": 1 } } });
    let schema = json!({
        "type": "object",
        "required": ["a"],
        "additionalProperties": false,
        "properties": {
            "a": { "$ref": "#/defs/n" },
            "b": { "type": ["string", "null"], "enum": ["x", null] },
            "c": { "type": "array", "items": { "oneOf": [{ "type": "string" }, { "$ref": "#/defs/n" }] } },
            "d": { "type": "string", "format": "date-time" },
        },
    });
    let fine = json!({ "a": 1, "b": null, "c": ["x", 2], "d": "2026-01-15T12:00:00.5Z" });
    assert_eq!(problems(&document, &schema, &fine), Vec::<String>::new());
    for bad in [
        json!([]),
        json!({}),
        json!({ "a": 0 }),
        json!({ "a": 1.0 }),
        json!({ "a": "1" }),
        json!({ "a": 1, "z": 1 }),
        json!({ "a": 1, "b": "y" }),
        json!({ "a": 1, "c": [0] }),
        json!({ "a": 1, "d": "" }),
    ] {
        assert!(!problems(&document, &schema, &bad).is_empty(), "{bad}");
    }
}
