use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::super::deny::is_denied;
use super::super::parse::EventLimits;
use super::*;

fn policy() -> Value {
    serde_json::from_str(include_str!("../../../tests/data/sanitization_policy.json"))
        .expect("the policy is JSON")
}

/// Every path of the table with its member, objects left out.
fn paths(members: &'static [Member], prefix: &str, into: &mut BTreeMap<String, Member>) {
    for member in members {
        let path = format!("{prefix}{}", member.name);
        match member.shape {
            Shape::Object(children) => paths(children, &format!("{path}."), into),
            Shape::List(_) => assert!(into.insert(format!("{path}[]"), *member).is_none()),
            _ => assert!(into.insert(path, *member).is_none()),
        }
    }
}

fn table() -> BTreeMap<String, Member> {
    let mut all = BTreeMap::new();
    paths(&ROOT, "", &mut all);
    all
}

fn text_of<'v>(entry: &'v Value, key: &str) -> &'v str {
    entry[key].as_str().expect("a string")
}

#[test]
fn the_table_says_what_the_policy_says() {
    let policy = policy();
    let mut table = table();
    let thin: BTreeSet<&str> = text_of(&policy["profiles"], "thin")
        .trim_start_matches("ids only: ")
        .split(", ")
        .collect();
    assert_eq!(thin.len(), 10);
    let mut compared = 0;
    for field in policy["fields"].as_array().expect("fields") {
        let path = text_of(field, "path");
        if path.starts_with("workflowStep.payload.") {
            continue;
        }
        let member = table
            .remove(path)
            .unwrap_or_else(|| panic!("{path} is not in the table"));
        let types = match text_of(field, "type") {
            "string" => Types::STRING,
            "integer" => Types::INTEGER,
            "number" => Types::NUMBER,
            "boolean" => Types::BOOLEAN,
            "string|object" => Types::STRING.or(Types::OBJECT),
            other => panic!("{path} has the unknown type {other}"),
        };
        match member.shape {
            Shape::Scalar(ours) | Shape::List(ours) => {
                assert_eq!(ours, types, "{path}");
                let transform = path == "webhook.endpointUrl";
                let standard = if transform {
                    "strip_query_userinfo_fragment"
                } else {
                    "keep"
                };
                assert_eq!(text_of(field, "standard"), standard, "{path}");
                let strict = if member.kept.contains(Profile::Strict) {
                    "keep"
                } else {
                    "drop"
                };
                assert_eq!(text_of(field, "strict"), strict, "{path}");
            }
            Shape::Address => {
                assert_eq!(types, Types::STRING);
                assert_eq!(text_of(field, "standard"), "keep");
                assert_eq!(text_of(field, "strict"), "truncate_ip(/24,/48)");
            }
            _ => panic!("{path} is a subtree in the table and a field in the policy"),
        }
        assert!(member.kept.contains(Profile::Standard), "{path}");
        assert_eq!(
            member.kept.contains(Profile::Thin),
            thin.contains(path),
            "{path}"
        );
        compared += 1;
    }
    assert!(compared > 100, "only {compared} fields compared");

    for subtree in policy["open_subtrees"].as_array().expect("open subtrees") {
        let path = text_of(subtree, "path");
        let member = table
            .remove(path)
            .unwrap_or_else(|| panic!("{path} is not in the table"));
        let payload = path == "workflowStep.payload";
        assert_eq!(matches!(member.shape, Shape::Payload), payload, "{path}");
        assert!(payload || matches!(member.shape, Shape::Open(_)), "{path}");
        assert_eq!(member.kept, FULL, "{path}");
    }
    assert_eq!(
        policy["deny_names_apply_in"],
        serde_json::json!(["workflowStep.payload"])
    );

    let own: Vec<&str> = table.keys().map(String::as_str).collect();
    assert_eq!(own, ["id"], "only the publisher's id is ours alone");
}

#[test]
fn every_workspace_that_leaves_is_compared_with_the_events_own() {
    let mut all = table();
    // What a publisher says of a webhook never leaves.
    all.retain(|path, _| !path.starts_with("webhook."));
    all.retain(|path, _| path.ends_with("workspaceId") || path == "event.workspace.id");
    let own = all.remove("event.workspaceId").expect("the event's own");
    assert_eq!(own.slot, Slot::WorkspaceId);
    let found: BTreeMap<&str, Slot> = all
        .iter()
        .map(|(path, member)| (path.as_str(), member.slot))
        .collect();
    let compared = NESTED_WORKSPACES.map(|(slot, path)| (path, slot));
    assert_eq!(found, BTreeMap::from(compared));
}

#[test]
fn every_members_types_have_a_name() {
    for (path, member) in table() {
        assert_ne!(member.shape.types().expected(), OTHER_TYPES, "{path}");
        if let Shape::List(elements) = member.shape {
            assert_ne!(elements.expected(), OTHER_TYPES, "{path}");
        }
    }
}

#[test]
fn the_limits_are_the_policys() {
    let limits = &policy()["open_subtrees"][0]["limits"];
    let ours = EventLimits::DEFAULT;
    assert_eq!(limits["bytes"], ours.custom_attributes_bytes);
    assert_eq!(limits["keys"], ours.custom_attributes_keys);
    assert_eq!(limits["depth"], ours.custom_attributes_depth);
}

#[test]
fn no_allowed_name_is_denied() {
    for path in table().keys() {
        for name in path.trim_end_matches("[]").split('.') {
            assert!(!is_denied(name), "{path} would be caught by the second net");
        }
    }
}

#[test]
fn the_policys_patterns_are_the_ones_that_were_written_out() {
    // A change of the list must reach `deny.rs` by hand; this is where it is noticed.
    let patterns: Vec<String> = policy()["deny_names_everywhere_but_open_subtrees"]
        .as_array()
        .expect("patterns")
        .iter()
        .map(|pattern| pattern.as_str().expect("a string").to_owned())
        .collect();
    assert_eq!(
        patterns,
        [
            "/^qr_?code_?(key|secret|token|salt)s?$/i",
            "/(^|_)(api|private|secret|signing|encryption|access)_?key$/i",
            "/(secret|password|passwd|credential|authorization|cookie|session)/i",
            "/^(token|jwt|hash|salt|nonce|otp|pin)$/i",
            "/(score|scoring)_?(algorithm|model|weights?|formula|version|features?|explain.*|trace|raw)$/i",
            "/^(algorithm|weights|features|coefficients|model_?(id|version))$/i",
            "/^(internal|_|debug|shard|partition|row_?version|tenant_?db|stripe|billing|customer_?ref)/i",
        ]
    );
}

#[test]
fn every_object_fits_the_duplicate_check() {
    fn check(members: &[Member]) {
        assert!(members.len() <= 64);
        for (index, member) in members.iter().enumerate() {
            assert_eq!(find(members, member.name, 0), Some(index));
            assert_eq!(find(members, member.name, index), Some(index));
            if let Shape::Object(children) = member.shape {
                check(children);
            }
        }
        assert_eq!(find(members, "no such member", 0), None);
    }
    check(&ROOT);
}
