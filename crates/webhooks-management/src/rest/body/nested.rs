//! Reading the members that are objects themselves. A problem is named by its path:
//! `retryPolicy.maxAttempts`, `headers[2].value`.

use webhooks_runtime::Secret;

use super::Reader;
use crate::{
    draft::{AuthDraft, CertificateDraft, HeaderDraft, RateDraft, RetryDraft},
    json::Json,
};

impl Reader {
    /// The members of an object, none twice.
    pub(super) fn members(&mut self, field: &str, value: Json) -> Option<Vec<(String, Json)>> {
        let Json::Object(members) = value else {
            self.wrong(field, "an object", &value);
            return None;
        };
        for (at, (name, _)) in members.iter().enumerate() {
            if members[..at].iter().any(|(earlier, _)| earlier == name) {
                self.problem(
                    &format!("{field}.{name}"),
                    "duplicate_key",
                    "is there twice",
                );
                return None;
            }
        }
        Some(members)
    }

    /// Names and values.
    pub(super) fn labels(&mut self, field: &str, value: Json) -> Option<Vec<(String, String)>> {
        let mut labels = Vec::new();
        for (name, value) in self.members(field, value)? {
            let value = self.text(&format!("{field}.{name}"), value)?;
            labels.push((name, value));
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

    /// All headers.
    pub(super) fn headers(&mut self, field: &str, value: Json) -> Option<Vec<HeaderDraft>> {
        let Json::List(items) = value else {
            self.wrong(field, "a list", &value);
            return None;
        };
        let mut headers = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            let path = format!("{field}[{index}]");
            let (mut name, mut value) = (None, None);
            for (key, member) in self.members(&path, item)? {
                let path = format!("{path}.{key}");
                match key.as_str() {
                    "name" => name = self.text(&path, member),
                    "value" => value = self.text(&path, member).map(Secret::new),
                    _ => self.unknown(&path),
                }
            }
            let Some(name) = name else {
                self.missing(&format!("{path}.name"));
                return None;
            };
            headers.push(HeaderDraft { name, value });
        }
        Some(headers)
    }

    /// Credentials; null = none.
    pub(super) fn auth(&mut self, field: &str, value: Json) -> Option<Option<AuthDraft>> {
        if value == Json::Null {
            return Some(None);
        }
        let mut members = self.members(field, value)?;
        let kind = take(&mut members, "type");
        let kind = match kind {
            Some(kind) => self.text(&format!("{field}.type"), kind)?,
            None => {
                self.missing(&format!("{field}.type"));
                return None;
            }
        };
        let known: &[&str] = match kind.as_str() {
            "bearer" => &["token"],
            "basic" => &["username", "password"],
            "apiKey" => &["in", "name", "value"],
            "oauth2ClientCredentials" => &[
                "tokenUrl",
                "clientId",
                "clientSecret",
                "scopes",
                "audience",
                "clientAuth",
            ],
            _ => {
                let message = "is bearer, basic, apiKey or oauth2ClientCredentials";
                self.problem(&format!("{field}.type"), "unknown_type", message);
                return None;
            }
        };
        for (name, _) in &members {
            if !known.contains(&name.as_str()) {
                self.unknown(&format!("{field}.{name}"));
            }
        }
        let scopes = match take(&mut members, "scopes") {
            Some(scopes) => self.texts(&format!("{field}.scopes"), scopes)?,
            None => Vec::new(),
        };
        let mut text = |name: &str| {
            let value = take(&mut members, name)?;
            self.text(&format!("{field}.{name}"), value)
        };
        let auth = match kind.as_str() {
            "bearer" => AuthDraft::Bearer {
                token: text("token").map(Secret::new),
            },
            "basic" => AuthDraft::Basic {
                username: text("username").unwrap_or_default(),
                password: text("password").map(Secret::new),
            },
            "oauth2ClientCredentials" => AuthDraft::OAuth2 {
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
        if self.draft.problems.iter().all(|one| one.field != field) {
            self.problem(field, "missing", "has to be given");
        }
    }

    fn unknown(&mut self, field: &str) {
        self.problem(field, "unknown_field", "is not known");
    }
}

fn take(members: &mut Vec<(String, Json)>, name: &str) -> Option<Json> {
    let at = members.iter().position(|(known, _)| known == name)?;
    Some(members.swap_remove(at).1)
}

#[cfg(test)]
mod tests {
    use crate::rest::body::{Purpose, read_draft};

    use super::*;

    fn problems(body: &str) -> Vec<(String, &'static str)> {
        let draft = read_draft(body.as_bytes(), Purpose::Update).unwrap();
        let problems = draft.problems.into_iter();
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
        assert_eq!(draft.problems, []);
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
        assert_eq!(draft.problems, []);
        assert_eq!(draft.retry, Some(RetryDraft::default()));
        assert_eq!((draft.rate, draft.max_in_flight), (Some(None), Some(None)));
        assert_eq!(draft.auth, Some(None));
        let said = problems(r#"{"labels":null,"headers":null,"description":null}"#);
        assert!(said.iter().all(|(_, reason)| *reason == "wrong_type"));
        assert_eq!(said.len(), 3);
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
