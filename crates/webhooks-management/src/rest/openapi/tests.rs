use std::collections::{BTreeSet, HashSet};

use super::*;

fn operations(document: &Value) -> Vec<(String, String, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    let mut all = Vec::new();
    for (path, methods) in paths {
        for (verb, operation) in methods.as_object().unwrap() {
            all.push((verb.to_uppercase(), path.clone(), operation));
        }
    }
    all
}

#[test]
fn every_route_is_described_and_every_description_has_a_route() {
    let document = document();
    let described: BTreeSet<_> = operations(&document)
        .into_iter()
        .map(|(verb, path, _)| format!("{verb} {path}"))
        .collect();
    let routes: BTreeSet<_> = ROUTES
        .iter()
        .map(|route| format!("{} {}", route.verb, route.path))
        .collect();
    let missing: Vec<_> = routes.difference(&described).collect();
    let beyond: Vec<_> = described.difference(&routes).collect();
    assert!(
        missing.is_empty() && beyond.is_empty(),
        "not described: {missing:?}, without a route: {beyond:?}"
    );
}

#[test]
fn every_operation_is_complete() {
    let document = document();
    let tags: HashSet<_> = document["tags"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tag| tag["name"].as_str().unwrap())
        .collect();
    let mut ids = HashSet::new();
    for (verb, path, operation) in operations(&document) {
        let place = format!("{verb} {path}");
        let id = operation["operationId"].as_str();
        let id = id.unwrap_or_else(|| panic!("{place} has no operationId"));
        assert!(ids.insert(id), "{id} is there twice");
        assert!(operation["summary"].is_string(), "{place} has no summary");
        let tag = operation["tags"][0].as_str().unwrap_or_default();
        assert!(tags.contains(tag), "{place} has no known tag");
        let success = &operation["responses"]["200"];
        assert!(success["description"].is_string(), "{place}");
        for (kind, content) in success["content"].as_object().unwrap() {
            assert!(
                content["schema"].is_object(),
                "{place} {kind} has no schema"
            );
            let shown = content.get("example").or_else(|| content.get("examples"));
            assert!(shown.is_some(), "{place} {kind} has no example");
        }
        let route = ROUTES
            .iter()
            .find(|route| route.verb == verb && route.path == path)
            .unwrap();
        if let Some(body) = operation.get("requestBody") {
            let content = &body["content"]["application/json"];
            assert!(
                content["schema"].is_object(),
                "{place}: no schema of the body"
            );
            assert!(
                content.get("example").is_some(),
                "{place}: no example of the body"
            );
            assert!(route.writes(), "{place} reads no body");
        } else {
            assert!(!route.writes(), "{place}: no body");
        }
    }
}

/// Every `$ref` in a document.
fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (key, value) in members {
                match value.as_str() {
                    Some(target) if key == "$ref" => found.push(target.to_owned()),
                    _ => references(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[test]
fn references_lead_somewhere_and_nothing_is_left_over() {
    let document = document();
    let mut found = Vec::new();
    references(&document, &mut found);
    for target in &found {
        let pointer = target.strip_prefix('#').unwrap();
        assert!(
            document.pointer(pointer).is_some(),
            "{target} leads nowhere"
        );
    }
    for group in ["schemas", "parameters", "responses", "headers"] {
        for name in document["components"][group].as_object().unwrap().keys() {
            let target = format!("#/components/{group}/{name}");
            assert!(found.contains(&target), "{target} is not used");
        }
    }
}

#[test]
fn a_scope_is_told_by_its_route() {
    let document = document();
    let operation = &document["paths"]["/v1/workspace-tokens"]["post"];
    assert_eq!(
        operation["security"],
        json!([{ "workspaceToken": ["tokens:write"] }])
    );
    assert_eq!(document["paths"]["/v1"]["get"]["security"], json!([]));
    let names: Vec<_> = crate::scopes::SCOPES
        .iter()
        .map(|scope| scope.name)
        .collect();
    assert_eq!(
        document["components"]["schemas"]["ScopeName"]["enum"],
        json!(names)
    );
}

#[test]
fn the_limits_are_the_programs() {
    use webhooks_domain::{endpoint, rate, retry, webhook};
    let document = document();
    let schemas = &document["components"]["schemas"];
    let wish = &schemas["WebhookCreate"]["properties"];
    let numbers = &schemas["RetryWish"]["oneOf"][2]["properties"];
    let seconds = |span: &std::time::Duration| json!(span.as_secs());
    let (base, cap) = (retry::BASE, retry::CAP);
    for (written, meant) in [
        (&wish["name"]["maxLength"], json!(webhook::MAX_NAME_CHARS)),
        (&wish["linkIds"]["maxItems"], json!(webhook::MAX_LINKS)),
        (
            &wish["eventActions"]["maxItems"],
            json!(webhook::MAX_EVENT_ACTIONS),
        ),
        (
            &wish["maxInFlight"]["maximum"],
            json!(webhook::MAX_IN_FLIGHT),
        ),
        (
            &wish["headers"]["maxItems"],
            json!(endpoint::headers::MAX_HEADERS),
        ),
        (
            &wish["endpointUrl"]["maxLength"],
            json!(endpoint::MAX_URL_BYTES),
        ),
        (
            &numbers["maxAttempts"]["maximum"],
            json!(retry::ATTEMPTS.end()),
        ),
        (&numbers["baseSeconds"]["minimum"], seconds(base.start())),
        (&numbers["baseSeconds"]["maximum"], seconds(base.end())),
        (&numbers["capSeconds"]["minimum"], seconds(cap.start())),
        (&numbers["capSeconds"]["maximum"], seconds(cap.end())),
        (
            &schemas["RateWish"]["properties"]["count"]["maximum"],
            json!(rate::COUNT.end()),
        ),
        (
            &schemas["RateWish"]["properties"]["burst"]["maximum"],
            json!(rate::BURST.end()),
        ),
        (
            &schemas["WorkspaceCreate"]["properties"]["notificationEmails"]["maxItems"],
            json!(crate::operator::MAX_EMAILS),
        ),
    ] {
        assert_eq!(written, &meant);
    }
    assert_eq!(
        numbers["jitter"]["maximum"].as_f64(),
        Some(*retry::JITTER.end())
    );
    assert_eq!(
        numbers["factor"]["maximum"].as_f64(),
        Some(*retry::FACTOR.end())
    );
}
