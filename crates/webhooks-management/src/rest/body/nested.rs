//! Reading the members that are objects themselves. A problem is named by its path:
//! `retryPolicy.maxAttempts`, `headers[2].value`.

use std::collections::{HashMap, HashSet};

use webhooks_runtime::Secret;

use super::Reader;
use crate::{
    draft::{AuthDraft, CertificateDraft, HeaderDraft, RateDraft, RetryDraft},
    json::Json,
};

impl Reader {
    /// The members of an object. One that is there again is named, and what it says passed over.
    pub(super) fn members(&mut self, field: &str, value: Json) -> Option<Vec<(String, Json)>> {
        let Json::Object(members) = value else {
            self.wrong(field, "an object", &value);
            return None;
        };
        let mut seen = HashSet::new();
        let mut once = Vec::with_capacity(members.len());
        for (name, value) in members {
            if seen.insert(name.clone()) {
                once.push((name, value));
            } else {
                let path = format!("{field}.{name}");
                self.problem(&path, "duplicate_key", "is there twice");
            }
        }
        Some(once)
    }

    /// Names and values. A name whose value is no text is judged with an empty one.
    pub(super) fn labels(&mut self, field: &str, value: Json) -> Option<Vec<(String, String)>> {
        let mut labels = Vec::new();
        for (name, value) in self.members(field, value)? {
            let value = self.text(&format!("{field}.{name}"), value);
            labels.push((name, value.unwrap_or_default()));
        }
        Some(labels)
    }

    /// A policy; null = the standard one.
    pub(super) fn retry(&mut self, field: &str, value: Json) -> Option<RetryDraft> {
        let mut draft = RetryDraft::default();
        if value == Json::Null {
            return Some(draft);
        }
        for (name, value) in self.members(field, value)? {
            let path = format!("{field}.{name}");
            match name.as_str() {
                "preset" => draft.preset = self.text(&path, value),
                "maxAttempts" => draft.max_attempts = self.integer(&path, value),
                "baseSeconds" => draft.base_seconds = self.number(&path, value),
                "factor" => draft.factor = self.number(&path, value),
                "capSeconds" => draft.cap_seconds = self.number(&path, value),
                "jitter" => draft.jitter = self.number(&path, value),
                "maxAgeSeconds" => draft.max_age_seconds = self.number(&path, value),
                _ => self.unknown(&path),
            }
        }
        Some(draft)
    }

    /// A limit; null = none.
    pub(super) fn rate(&mut self, field: &str, value: Json) -> Option<Option<RateDraft>> {
        if value == Json::Null {
            return Some(None);
        }
        let mut draft = RateDraft::default();
        for (name, value) in self.members(field, value)? {
            let path = format!("{field}.{name}");
            match name.as_str() {
                "count" => draft.count = self.integer(&path, value),
                "periodSeconds" => draft.period_seconds = self.integer(&path, value),
                "burst" => draft.burst = self.integer(&path, value),
                _ => self.unknown(&path),
            }
        }
        Some(Some(draft))
    }

    /// All headers. What is none keeps its place, so that those after it are told by theirs.
    pub(super) fn headers(&mut self, field: &str, value: Json) -> Option<Vec<HeaderDraft>> {
        let Json::List(items) = value else {
            self.wrong(field, "a list", &value);
            return None;
        };
        let mut headers = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            let path = format!("{field}[{index}]");
            let (mut name, mut value) = (None, None);
            if let Some(members) = self.members(&path, item) {
                for (key, member) in members {
                    let path = format!("{path}.{key}");
                    match key.as_str() {
                        "name" => name = self.text(&path, member),
                        "value" => value = self.text(&path, member).map(Secret::new),
                        _ => self.unknown(&path),
                    }
                }
                if name.is_none() {
                    self.missing(&format!("{path}.name"));
                }
            }
            headers.push(HeaderDraft {
                name: name.unwrap_or_default(),
                value,
            });
        }
        Some(headers)
    }

    /// Credentials; null = none.
    pub(super) fn auth(&mut self, field: &str, value: Json) -> Option<Option<AuthDraft>> {
        if value == Json::Null {
            return Some(None);
        }
        let mut members = self.members(field, value)?;
        let at = format!("{field}.type");
        let kind = match take(&mut members, "type") {
            Some(kind) => self.text(&at, kind),
            None => {
                self.missing(&at);
                None
            }
        };
        let known = kind.as_deref().and_then(members_of);
        if kind.is_some() && known.is_none() {
            let message = "is bearer, basic, apiKey or oauth2ClientCredentials";
            self.problem(&at, "unknown_type", message);
        }
        // Of credentials of no kind, members are read that some kind has.
        let expected = |name: &str| match known {
            Some(known) => known.contains(&name),
            None => KINDS.iter().any(|(_, members)| members.contains(&name)),
        };
        let (mut texts, mut scopes) = (HashMap::new(), Vec::new());
        for (name, value) in members {
            let path = format!("{field}.{name}");
            if !expected(&name) {
                self.unknown(&path);
            } else if name == "scopes" {
                scopes = self.texts(&path, value).unwrap_or_default();
            } else if let Some(text) = self.text(&path, value) {
                texts.insert(name, text);
            }
        }
        known?;
        let mut text = |name: &str| texts.remove(name);
        let auth = match kind.as_deref() {
            Some("bearer") => AuthDraft::Bearer {
                token: text("token").map(Secret::new),
            },
            Some("basic") => AuthDraft::Basic {
                username: text("username").unwrap_or_default(),
                password: text("password").map(Secret::new),
            },
            Some("oauth2ClientCredentials") => AuthDraft::OAuth2 {
                token_url: text("tokenUrl").unwrap_or_default(),
                client_id: text("clientId").unwrap_or_default(),
                client_secret: text("clientSecret").map(Secret::new),
                scopes,
                audience: text("audience").unwrap_or_default(),
                client_auth: text("clientAuth").unwrap_or_default(),
            },
            _ => AuthDraft::ApiKey {
                place: text("in").unwrap_or_default(),
                name: text("name").unwrap_or_default(),
                value: text("value").map(Secret::new),
            },
        };
        Some(Some(auth))
    }

    /// A client certificate; null = none. What only we say of it is passed over, so that an object
    /// that was read can be written back.
    pub(super) fn certificate(
        &mut self,
        field: &str,
        value: Json,
    ) -> Option<Option<CertificateDraft>> {
        if value == Json::Null {
            return Some(None);
        }
        let mut draft = CertificateDraft::default();
        for (name, value) in self.members(field, value)? {
            let path = format!("{field}.{name}");
            match name.as_str() {
                "certificate" => draft.certificate = self.text(&path, value),
                "privateKey" => draft.private_key = self.text(&path, value).map(Secret::new),
                "subject" | "fingerprint" | "notBefore" | "notAfter" => {}
                _ => self.unknown(&path),
            }
        }
        Some(Some(draft))
    }

    pub(super) fn integer(&mut self, field: &str, value: Json) -> Option<i64> {
        match value {
            Json::Integer(number) => Some(number),
            other => {
                self.wrong(field, "a whole number", &other);
                None
            }
        }
    }

    fn number(&mut self, field: &str, value: Json) -> Option<f64> {
        match value {
            Json::Number(number) => Some(number),
            // Beyond 2^53 it is rounded, and refused as far too large.
            Json::Integer(number) => Some(number as f64),
            other => {
                self.wrong(field, "a number", &other);
                None
            }
        }
    }

    fn missing(&mut self, field: &str) {
        if !self.draft.problems.has(field) {
            self.problem(field, "missing", "has to be given");
        }
    }

    fn unknown(&mut self, field: &str) {
        self.problem(field, "unknown_field", "is not known");
    }
}

/// Every kind of credentials, with its members beside `type`.
const KINDS: [(&str, &[&str]); 4] = [
    ("bearer", &["token"]),
    ("basic", &["username", "password"]),
    ("apiKey", &["in", "name", "value"]),
    (
        "oauth2ClientCredentials",
        &[
            "tokenUrl",
            "clientId",
            "clientSecret",
            "scopes",
            "audience",
            "clientAuth",
        ],
    ),
];

fn members_of(kind: &str) -> Option<&'static [&'static str]> {
    let found = KINDS.iter().find(|(known, _)| *known == kind);
    found.map(|(_, members)| *members)
}

fn take(members: &mut Vec<(String, Json)>, name: &str) -> Option<Json> {
    let at = members.iter().position(|(known, _)| known == name)?;
    Some(members.remove(at).1)
}

#[cfg(test)]
mod tests {
    use crate::rest::body::{Purpose, read_draft};

    use super::*;

    fn problems(body: &str) -> Vec<(String, &'static str)> {
        let draft = read_draft(body.as_bytes(), Purpose::Update).unwrap();
        let problems = draft.problems.told().into_iter();
        problems.map(|one| (one.field, one.reason)).collect()
    }

    #[test]
    fn every_option_is_read() {
        let body = r#"{"description":"d","labels":{"a":"b"},"eventActions":["X"],
            "retryPolicy":{"maxAttempts":5,"baseSeconds":1.5,"factor":3},
            "rateLimit":{"count":10,"periodSeconds":60},"maxInFlight":4,"ordering":"LINK",
            "headers":[{"name":"X-A","value":"v"},{"name":"X-B"}],
            "auth":{"type":"basic","username":"u","password":"p"},
            "signatures":["v1"],"heldDeliveries":"KEEP"}"#;
        let draft = read_draft(body.as_bytes(), Purpose::Update).unwrap();
        assert!(draft.problems.is_empty(), "{:?}", draft.problems);
        assert_eq!(draft.labels, Some(vec![("a".into(), "b".into())]));
        let retry = draft.retry.unwrap();
        assert_eq!((retry.max_attempts, retry.factor), (Some(5), Some(3.0)));
        assert_eq!(draft.rate.unwrap().unwrap().count, Some(10));
        assert_eq!(draft.max_in_flight, Some(Some(4)));
        let headers = draft.headers.unwrap();
        assert_eq!(headers[0].value, Some(Secret::new("v")));
        assert_eq!(headers[1].value, None);
        let auth = AuthDraft::Basic {
            username: "u".into(),
            password: Some(Secret::new("p")),
        };
        assert_eq!(draft.auth, Some(Some(auth)));
    }

    #[test]
    fn null_clears_what_can_be_cleared() {
        let body = br#"{"retryPolicy":null,"rateLimit":null,"maxInFlight":null,"auth":null}"#;
        let draft = read_draft(body, Purpose::Update).unwrap();
        assert!(draft.problems.is_empty(), "{:?}", draft.problems);
        assert_eq!(draft.retry, Some(RetryDraft::default()));
        assert_eq!((draft.rate, draft.max_in_flight), (Some(None), Some(None)));
        assert_eq!(draft.auth, Some(None));
        let said = problems(r#"{"labels":null,"headers":null,"description":null}"#);
        assert!(said.iter().all(|(_, reason)| *reason == "wrong_type"));
        assert_eq!(said.len(), 3);
    }

    #[test]
    fn every_problem_inside_is_named_and_places_are_kept() {
        let said = |body: &str, expected: &[(&str, &str)]| {
            let found = problems(body);
            let found: Vec<_> = found.iter().map(|(at, why)| (at.as_str(), *why)).collect();
            assert_eq!(found, expected, "{body}");
        };
        said(
            r#"{"labels":{"a":1,"b":"x","b":"y","c":null}}"#,
            &[
                ("labels.b", "duplicate_key"),
                ("labels.a", "wrong_type"),
                ("labels.c", "wrong_type"),
            ],
        );
        said(
            r#"{"retryPolicy":{"x":1,"factor":"2","jitter":null,"y":2},"rateLimit":{"burst":"1","z":1}}"#,
            &[
                ("retryPolicy.x", "unknown_field"),
                ("retryPolicy.factor", "wrong_type"),
                ("retryPolicy.jitter", "wrong_type"),
                ("retryPolicy.y", "unknown_field"),
                ("rateLimit.burst", "wrong_type"),
                ("rateLimit.z", "unknown_field"),
            ],
        );
        said(
            r#"{"headers":["x",{"value":1,"y":2},{"name":"X-A"},{"name":3}]}"#,
            &[
                ("headers[0]", "wrong_type"),
                ("headers[1].value", "wrong_type"),
                ("headers[1].y", "unknown_field"),
                ("headers[1].name", "missing"),
                ("headers[3].name", "wrong_type"),
            ],
        );
        said(
            r#"{"auth":{"type":"magic","token":1,"z":1,"scopes":["a",2]}}"#,
            &[
                ("auth.type", "unknown_type"),
                ("auth.token", "wrong_type"),
                ("auth.z", "unknown_field"),
                ("auth.scopes[1]", "wrong_type"),
            ],
        );
        said(
            r#"{"auth":{"type":"bearer","token":1,"password":2}}"#,
            &[
                ("auth.token", "wrong_type"),
                ("auth.password", "unknown_field"),
            ],
        );
        said(
            r#"{"clientCertificate":{"certificate":1,"privateKey":2,"x":3}}"#,
            &[
                ("clientCertificate.certificate", "wrong_type"),
                ("clientCertificate.privateKey", "wrong_type"),
                ("clientCertificate.x", "unknown_field"),
            ],
        );
        let places = br#"{"headers":[1,{"name":"X-A","value":"v"}],"linkIds":[true,"x"]}"#;
        let draft = read_draft(places, Purpose::Update).unwrap();
        assert_eq!(draft.headers.unwrap()[1].name, "X-A");
        assert_eq!(draft.links.unwrap()[1], "x");
    }

    #[test]
    fn a_problem_inside_is_named_by_its_path() {
        let check = |body: &str, field: &str, reason: &str| {
            assert_eq!(problems(body), [(field.to_owned(), reason)], "{body}");
        };
        check(r#"{"labels":{"a":1}}"#, "labels.a", "wrong_type");
        check(r#"{"labels":{"a":"","a":""}}"#, "labels.a", "duplicate_key");
        let retry = r#"{"retryPolicy":{"maxAttempts":3.5}}"#;
        check(retry, "retryPolicy.maxAttempts", "wrong_type");
        check(
            r#"{"retryPolicy":{"x":1}}"#,
            "retryPolicy.x",
            "unknown_field",
        );
        check(
            r#"{"rateLimit":{"count":"5"}}"#,
            "rateLimit.count",
            "wrong_type",
        );
        check(r#"{"maxInFlight":"5"}"#, "maxInFlight", "wrong_type");
        check(
            r#"{"headers":[{"value":"x"}]}"#,
            "headers[0].name",
            "missing",
        );
        check(r#"{"headers":["x"]}"#, "headers[0]", "wrong_type");
        check(r#"{"auth":{"token":"x"}}"#, "auth.type", "missing");
        check(r#"{"auth":{"type":"magic"}}"#, "auth.type", "unknown_type");
        let mixed = r#"{"auth":{"type":"bearer","password":"x"}}"#;
        check(mixed, "auth.password", "unknown_field");
        let lists = r#"{"signatures":"v1"}"#;
        check(lists, "signatures", "wrong_type");
    }
}
