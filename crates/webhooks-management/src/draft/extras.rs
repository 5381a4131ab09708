//! Judging headers and credentials. Values that a change leaves out, or sends as the mask that was
//! shown, are the stored ones: who reads a webhook, changes it and writes it back keeps them.

use webhooks_domain::endpoint::headers::{self, CustomHeaders};
use webhooks_runtime::Secret;

use crate::{
    error::Violation,
    extras::{Auth, Extras, Place, mask},
};

/// Longest name of a query parameter, in bytes.
const MAX_PARAMETER_BYTES: usize = 128;

/// A header as asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderDraft {
    /// Its name.
    pub name: String,
    /// Its value; `None` = the stored one.
    pub value: Option<Secret>,
}

/// Credentials as asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthDraft {
    /// A bearer token; `None` = the stored one.
    Bearer {
        /// The token.
        token: Option<Secret>,
    },
    /// Name and password.
    Basic {
        /// The name.
        username: String,
        /// The password; `None` = the stored one.
        password: Option<Secret>,
    },
    /// An API key.
    ApiKey {
        /// `header` or `query`.
        place: String,
        /// The header's or the parameter's name.
        name: String,
        /// The key; `None` = the stored one.
        value: Option<Secret>,
    },
}

/// What headers and credentials shall be. `None` where nothing was asked for, or nothing sensible.
pub(super) fn judge(
    violations: &mut Vec<Violation>,
    stored: &Extras,
    own: Option<Vec<HeaderDraft>>,
    auth: Option<Option<AuthDraft>>,
) -> Option<Extras> {
    if own.is_none() && auth.is_none() {
        return None;
    }
    let before = violations.len();
    let auth = match auth {
        None => stored.auth.clone(),
        Some(None) => None,
        Some(Some(draft)) => judge_auth(violations, stored.auth.as_ref(), draft),
    };
    let headers = match own {
        None => stored.headers.clone(),
        Some(drafts) => judge_headers(violations, stored, drafts),
    };
    if violations.len() > before {
        return None;
    }
    let extras = Extras { headers, auth };
    // Together: how many, how large, none twice.
    let all = extras.headers.iter();
    let all = all.map(|(name, value)| (name.clone(), value.expose().to_owned()));
    let sent = extras.auth.as_ref().and_then(Auth::header);
    let sent = sent.map(|(name, value)| (name.to_owned(), value));
    if let Err(refusal) = CustomHeaders::check(all.chain(sent)) {
        let field = match refusal.index() {
            Some(index) if index < extras.headers.len() => format!("headers[{index}]"),
            Some(_) => "auth".to_owned(),
            None => "headers".to_owned(),
        };
        violations.push(Violation::new(field, refusal.reason(), refusal.to_string()));
        return None;
    }
    Some(extras)
}

fn judge_headers(
    violations: &mut Vec<Violation>,
    stored: &Extras,
    drafts: Vec<HeaderDraft>,
) -> Vec<(String, Secret)> {
    if drafts.len() > headers::MAX_HEADERS {
        let message = format!("holds at most {} headers", headers::MAX_HEADERS);
        violations.push(Violation::new("headers", "too_many_headers", message));
        return Vec::new();
    }
    let mut judged: Vec<(String, Secret)> = Vec::new();
    for (index, draft) in drafts.into_iter().enumerate() {
        let known = stored
            .headers
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(&draft.name))
            .map(|(_, value)| value);
        let field = format!("headers[{index}].value");
        // The name is judged all the same.
        let value = kept(violations, &field, draft.value, known);
        let text = value.as_ref().map_or("x", Secret::expose);
        if let Err(refusal) = CustomHeaders::check([(&draft.name, text)]) {
            let part = match refusal.reason() {
                "header_value_invalid" => "value",
                _ => "name",
            };
            let field = format!("headers[{index}].{part}");
            violations.push(Violation::new(field, refusal.reason(), refusal.to_string()));
        } else if judged
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case(&draft.name))
        {
            let message = format!("header {}: the name is there twice", draft.name);
            let field = format!("headers[{index}].name");
            violations.push(Violation::new(field, "header_name_repeated", message));
        } else if let Some(value) = value {
            judged.push((draft.name, value));
        }
    }
    judged
}

fn judge_auth(
    violations: &mut Vec<Violation>,
    stored: Option<&Auth>,
    draft: AuthDraft,
) -> Option<Auth> {
    let auth = match draft {
        AuthDraft::Bearer { token } => {
            let known = match stored {
                Some(Auth::Bearer { token }) => Some(token),
                _ => None,
            };
            let token = kept(violations, "auth.token", token, known)?;
            if !token.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
                return refuse(
                    violations,
                    "auth.token",
                    "has visible ASCII characters only",
                );
            }
            Auth::Bearer { token }
        }
        AuthDraft::Basic { username, password } => {
            let known = match stored {
                Some(Auth::Basic { password, .. }) => Some(password),
                _ => None,
            };
            if username.contains(':') || username.chars().any(char::is_control) {
                let message = "has neither a colon nor control characters";
                return refuse(violations, "auth.username", message);
            }
            let password = kept(violations, "auth.password", password, known)?;
            if password.expose().chars().any(char::is_control) {
                return refuse(violations, "auth.password", "has no control characters");
            }
            Auth::Basic { username, password }
        }
        AuthDraft::ApiKey { place, name, value } => {
            let place = match place.as_str() {
                "header" => Place::Header,
                "query" => Place::Query,
                _ => return refuse(violations, "auth.in", "is header or query"),
            };
            let known = match stored {
                Some(Auth::ApiKey { value, .. }) => Some(value),
                _ => None,
            };
            if place == Place::Query && !is_parameter(&name) {
                let message = "has 1 to 128 letters, digits or any of -._~";
                return refuse(violations, "auth.name", message);
            }
            let value = kept(violations, "auth.value", value, known)?;
            Auth::ApiKey { place, name, value }
        }
    };
    // A query parameter's value obeys the same limits as a header's.
    let checked = match (&auth, auth.header()) {
        (_, Some((name, value))) => CustomHeaders::check([(name.to_owned(), value)]),
        (Auth::ApiKey { value, .. }, None) => CustomHeaders::check([("x-key", value.expose())]),
        (Auth::Bearer { .. } | Auth::Basic { .. }, None) => Ok(CustomHeaders::default()),
    };
    let Err(refusal) = checked else {
        return Some(auth);
    };
    let field = match (&auth, refusal.reason()) {
        (Auth::ApiKey { .. }, "header_value_invalid") => "auth.value",
        (Auth::ApiKey { .. }, _) => "auth.name",
        (Auth::Bearer { .. }, _) => "auth.token",
        (Auth::Basic { .. }, _) => "auth.password",
    };
    violations.push(Violation::new(field, refusal.reason(), refusal.to_string()));
    None
}

/// The value that was given, or the one that is stored.
fn kept(
    violations: &mut Vec<Violation>,
    field: &str,
    given: Option<Secret>,
    known: Option<&Secret>,
) -> Option<Secret> {
    let masked = |given: &Secret| known.is_some_and(|known| mask(known.expose()) == given.expose());
    let value = match given {
        Some(given) if !masked(&given) => Some(given),
        _ => known.cloned(),
    };
    if value.is_none() {
        violations.push(Violation::new(field, "missing", "has to be given"));
    }
    value
}

fn refuse<T>(violations: &mut Vec<Violation>, field: &str, message: &str) -> Option<T> {
    violations.push(Violation::new(field, "not_allowed", message));
    None
}

fn is_parameter(name: &str) -> bool {
    (1..=MAX_PARAMETER_BYTES).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Option<Secret> {
        Some(Secret::new(text))
    }

    fn header(name: &str, value: Option<&str>) -> HeaderDraft {
        HeaderDraft {
            name: name.into(),
            value: value.map(Secret::new),
        }
    }

    fn judged(
        stored: &Extras,
        headers: Option<Vec<HeaderDraft>>,
        auth: Option<Option<AuthDraft>>,
    ) -> Result<Option<Extras>, Vec<(String, &'static str)>> {
        let mut violations = Vec::new();
        let extras = judge(&mut violations, stored, headers, auth);
        if violations.is_empty() {
            Ok(extras)
        } else {
            Err(violations
                .into_iter()
                .map(|one| (one.field, one.reason))
                .collect())
        }
    }

    #[test]
    fn a_value_that_is_left_out_or_masked_stays() {
        let stored = Extras {
            headers: vec![("X-Team".into(), Secret::new("a long enough value"))],
            auth: Some(Auth::Bearer {
                token: Secret::new("t0ken"),
            }),
        };
        assert_eq!(judged(&stored, None, None), Ok(None));
        for value in [None, Some("••••alue")] {
            let same = judged(&stored, Some(vec![header("x-team", value)]), None);
            let same = same.unwrap().unwrap();
            assert_eq!(same.headers[0].1.expose(), "a long enough value");
            assert_eq!(same.auth, stored.auth);
        }
        for token in [None, secret("••••")] {
            let same = judged(&stored, None, Some(Some(AuthDraft::Bearer { token })));
            assert_eq!(same.unwrap().unwrap(), stored);
        }
        let other = AuthDraft::Basic {
            username: "u".into(),
            password: None,
        };
        assert_eq!(
            judged(&stored, None, Some(Some(other))),
            Err(vec![("auth.password".into(), "missing")]),
            "a value of another kind is not taken over"
        );
        let cleared = judged(&stored, Some(vec![]), Some(None)).unwrap().unwrap();
        assert!(cleared.is_empty());
    }

    #[test]
    fn every_bad_header_is_named() {
        let none = Extras::default();
        let bad = vec![
            header("Host", Some("x")),
            header("X-Ok", Some("x")),
            header("x-ok", Some("y")),
            header("a b", Some("x")),
            header("X-Split", Some("a\r\nb")),
            header("X-New", None),
            header("Webhook-Id", None),
        ];
        let expected = [
            ("headers[0].name", "header_name_reserved"),
            ("headers[2].name", "header_name_repeated"),
            ("headers[3].name", "header_name_invalid"),
            ("headers[4].value", "header_value_invalid"),
            ("headers[5].value", "missing"),
            ("headers[6].value", "missing"),
            ("headers[6].name", "header_name_reserved"),
        ];
        assert_eq!(
            judged(&none, Some(bad), None),
            Err(expected
                .map(|(field, reason)| (field.to_owned(), reason))
                .to_vec())
        );
        let many = (0..21).map(|n| header(&format!("x-{n}"), Some("v")));
        assert_eq!(
            judged(&none, Some(many.collect()), None),
            Err(vec![("headers".into(), "too_many_headers")])
        );
    }

    #[test]
    fn credentials_are_judged_by_their_kind() {
        let none = Extras::default();
        let auth = |draft| judged(&none, None, Some(Some(draft)));
        let key = |place: &str, name: &str, value: &str| AuthDraft::ApiKey {
            place: place.into(),
            name: name.into(),
            value: secret(value),
        };
        auth(key("query", "api_key", "a&b=c d")).unwrap();
        auth(key("header", "X-Key", "a")).unwrap();
        for (draft, field) in [
            (key("cookie", "k", "v"), "auth.in"),
            (key("query", "k=", "v"), "auth.name"),
            (key("header", "Host", "v"), "auth.name"),
            (key("query", "k", "a\nb"), "auth.value"),
            (
                AuthDraft::Bearer {
                    token: secret("a b"),
                },
                "auth.token",
            ),
            (AuthDraft::Bearer { token: None }, "auth.token"),
            (
                AuthDraft::Basic {
                    username: "a:b".into(),
                    password: secret("p"),
                },
                "auth.username",
            ),
        ] {
            let refused = auth(draft).unwrap_err();
            assert_eq!(refused[0].0, field);
        }
        let twice = judged(
            &none,
            Some(vec![header("authorization", Some("x"))]),
            Some(Some(AuthDraft::Bearer { token: secret("t") })),
        );
        assert_eq!(twice, Err(vec![("auth".into(), "header_name_repeated")]));
    }
}
