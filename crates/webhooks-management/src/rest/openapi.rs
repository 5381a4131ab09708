//! `GET /openapi.json`: this API, described for machines (OpenAPI 3.1).
//!
//! What only a person can say (names, bodies, answers, examples) stands in the fragments beside this
//! file, one for each topic. What the route table knows is added from it: security with the scope,
//! path parameters, `Idempotency-Key`, the refusals that every route of its kind can give, and the
//! headers of every answer. Tests hold the two together: no route without a description, no
//! description without a route, and real answers fit their schemas.

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::routes::{OPERATOR, ROUTES, Route};

/// The fragments: `tags`, `paths` and `schemas` of one topic each; the first holds the frame.
const FRAGMENTS: [&str; 6] = [
    include_str!("openapi/frame.json"),
    include_str!("openapi/webhooks.json"),
    include_str!("openapi/history.json"),
    include_str!("openapi/access.json"),
    include_str!("openapi/operator.json"),
    include_str!("openapi/well_known.json"),
];

/// Headers of every answer.
const HEADERS: [&str; 9] = [
    "X-Request-Id",
    "RateLimit-Policy",
    "RateLimit",
    "RateLimit-Limit",
    "RateLimit-Remaining",
    "RateLimit-Reset",
    "X-RateLimit-Limit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
];

static TEXT: LazyLock<Vec<u8>> = LazyLock::new(|| document().to_string().into_bytes());

/// The document as it is served.
pub(super) fn text() -> &'static [u8] {
    &TEXT
}

/// The document.
fn document() -> Value {
    let mut whole = Map::new();
    let (mut tags, mut paths, mut schemas) = (Vec::new(), Map::new(), Map::new());
    for text in FRAGMENTS {
        let fragment = serde_json::from_str(text).expect("a test reads every fragment");
        for (key, value) in members(fragment) {
            match (key.as_str(), value) {
                ("tags", Value::Array(more)) => tags.extend(more),
                ("paths", Value::Object(more)) => merge_paths(&mut paths, more),
                ("schemas", Value::Object(more)) => schemas.extend(more),
                (_, value) => {
                    whole.insert(key, value);
                }
            }
        }
    }
    for route in ROUTES {
        let verb = route.verb.to_ascii_lowercase();
        let operation = paths
            .get_mut(route.path)
            .and_then(|path| path.get_mut(&verb));
        if let Some(operation) = operation.and_then(Value::as_object_mut) {
            complete(operation, route);
        }
    }
    whole.insert("tags".to_owned(), tags.into());
    whole.insert("paths".to_owned(), paths.into());
    if let Some(components) = whole.get_mut("components").and_then(Value::as_object_mut) {
        components.insert("schemas".to_owned(), schemas.into());
    }
    whole.into()
}

/// Two fragments may describe methods of one path.
fn merge_paths(paths: &mut Map<String, Value>, more: Map<String, Value>) {
    for (path, methods) in more {
        let there = paths.entry(path).or_insert_with(|| json!({}));
        if let Some(there) = there.as_object_mut() {
            there.extend(members(methods));
        }
    }
}

fn members(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

/// Adds what the route table knows.
fn complete(operation: &mut Map<String, Value>, route: &Route) {
    let security = match route.scope {
        None => json!([]),
        Some(OPERATOR) => json!([{ "operatorToken": [] }]),
        Some(scope) => json!([{ "workspaceToken": [scope] }]),
    };
    operation.insert("security".to_owned(), security);
    parameters(operation, route);
    let mut refusals = vec![("429", "TooManyRequests"), ("500", "InternalError")];
    if route.scope.is_some() {
        refusals.extend([
            ("400", "BadRequest"),
            ("401", "Unauthorized"),
            ("503", "Unavailable"),
        ]);
    }
    if route.scope.is_some_and(|scope| scope != OPERATOR) {
        refusals.push(("403", "Forbidden"));
    }
    if route.path.contains('{') {
        refusals.push(("404", "NotFound"));
    }
    if route.is_keyed() {
        refusals.extend([
            ("408", "RequestTimeout"),
            ("409", "Conflict"),
            ("413", "PayloadTooLarge"),
            ("415", "UnsupportedMediaType"),
            ("422", "KeyReused"),
        ]);
    }
    let responses = operation
        .entry("responses")
        .or_insert_with(|| json!({}))
        .as_object_mut();
    let Some(responses) = responses else { return };
    for (status, name) in refusals {
        responses
            .entry(status)
            .or_insert_with(|| json!({ "$ref": format!("#/components/responses/{name}") }));
    }
    for (status, response) in responses.iter_mut() {
        let Some(response) = response
            .as_object_mut()
            .filter(|one| !one.contains_key("$ref"))
        else {
            continue;
        };
        let headers = response.entry("headers").or_insert_with(|| json!({}));
        for name in HEADERS {
            headers[name] = json!({ "$ref": format!("#/components/headers/{name}") });
        }
        if route.is_keyed() && status == "200" {
            headers["Idempotent-Replayed"] =
                json!({ "$ref": "#/components/headers/Idempotent-Replayed" });
        }
    }
}

fn parameters(operation: &mut Map<String, Value>, route: &Route) {
    let parameters = operation
        .entry("parameters")
        .or_insert_with(|| json!([]))
        .as_array_mut();
    let Some(parameters) = parameters else { return };
    for part in route.path.split('/') {
        let name = part
            .strip_prefix('{')
            .and_then(|part| part.strip_suffix('}'));
        let Some(name) = name else { continue };
        if parameters.iter().any(|known| known["name"] == name) {
            continue;
        }
        parameters.push(json!({
            "name": name,
            "in": "path",
            "required": true,
            "description": "What this is about. Anything that names nothing in the workspace is answered with 404.",
            "schema": { "type": "string" },
        }));
    }
    if route.is_keyed() {
        parameters.push(json!({ "$ref": "#/components/parameters/IdempotencyKey" }));
    }
}

#[cfg(test)]
mod tests;
