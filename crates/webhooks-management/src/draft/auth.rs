//! Judging credentials: how the endpoint knows us.

use webhooks_domain::{
    endpoint::{EndpointUrl, headers::CustomHeaders},
    oauth2::{MAX_SCOPES, MAX_TEXT_BYTES, is_scope},
};
use webhooks_runtime::Secret;

use super::extras::{By, kept};
use crate::{
    extras::{Auth, ClientAuth, Place},
    violations::Violations,
};

/// Longest name of a query parameter, in bytes.
const MAX_PARAMETER_BYTES: usize = 128;

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
    /// A client of an OAuth 2 server.
    OAuth2 {
        /// Where tokens come from.
        token_url: String,
        /// The client.
        client_id: String,
        /// Its secret; `None` = the stored one.
        client_secret: Option<Secret>,
        /// What to ask for.
        scopes: Vec<String>,
        /// Empty = none.
        audience: String,
        /// `basic`, `post`, or empty for basic.
        client_auth: String,
    },
}

/// The credentials, if there is nothing to say of any member of theirs.
pub(super) fn judge_auth(
    violations: &mut Violations,
    stored: Option<&Auth>,
    by: By<'_>,
    draft: AuthDraft,
) -> Option<Auth> {
    let before = violations.count();
    let auth = match draft {
        AuthDraft::Bearer { token } => {
            let known = match stored {
                Some(Auth::Bearer { token }) => Some(token),
                _ => None,
            };
            let token = kept(violations, by, "auth.token", token, known);
            bearer(violations, token?)
        }
        AuthDraft::Basic { username, password } => {
            let known = match stored {
                Some(Auth::Basic { password, .. }) => Some(password),
                _ => None,
            };
            basic(violations, by, known, username, password)?
        }
        AuthDraft::ApiKey { place, name, value } => {
            let known = match stored {
                Some(Auth::ApiKey { value, .. }) => Some(value),
                _ => None,
            };
            api_key(violations, by, known, (place, name, value))?
        }
        AuthDraft::OAuth2 {
            token_url,
            client_id,
            client_secret,
            scopes,
            audience,
            client_auth,
        } => {
            let known = match stored {
                // A secret is for the server that it was given for, and goes to no other one.
                Some(Auth::OAuth2 {
                    client_secret,
                    token_url: known,
                    ..
                }) if *known == token_url || violations.has("auth.tokenUrl") => Some(client_secret),
                _ => None,
            };
            let client_auth = match client_auth.as_str() {
                "" | "basic" => Some(ClientAuth::Basic),
                "post" => Some(ClientAuth::Post),
                _ => None,
            };
            if client_auth.is_none() {
                refuse(violations, "auth.clientAuth", "is basic or post");
            }
            if let Err(refusal) = EndpointUrl::parse(&token_url, by.addresses) {
                violations.refuse("auth.tokenUrl", refusal.reason(), refusal.to_string());
            }
            let message = "has 1 to 2048 bytes and no control characters";
            if client_id.is_empty() || !is_short(&client_id) {
                refuse(violations, "auth.clientId", message);
            }
            if !is_short(&audience) {
                let message = "has at most 2048 bytes and no control characters";
                refuse(violations, "auth.audience", message);
            }
            judge_scopes(violations, &scopes);
            let client_secret = kept(violations, by, "auth.clientSecret", client_secret, known);
            if client_secret
                .as_ref()
                .is_some_and(|secret| secret.expose().is_empty() || !is_short(secret.expose()))
            {
                refuse(violations, "auth.clientSecret", message);
            }
            Auth::OAuth2 {
                token_url,
                client_id,
                client_secret: client_secret?,
                scopes,
                audience,
                client_auth: client_auth?,
            }
        }
    };
    (violations.count() == before).then_some(auth)
}

fn bearer(violations: &mut Violations, token: Secret) -> Auth {
    let sent = format!("Bearer {}", token.expose());
    if !token.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
        let message = "has visible ASCII characters only";
        refuse(violations, "auth.token", message);
    } else if let Err(refusal) = CustomHeaders::check([("authorization", sent)]) {
        violations.refuse("auth.token", refusal.reason(), refusal.to_string());
    }
    Auth::Bearer { token }
}

fn basic(
    violations: &mut Violations,
    by: By<'_>,
    known: Option<&Secret>,
    username: String,
    password: Option<Secret>,
) -> Option<Auth> {
    let before = violations.count();
    if username.contains(':') || username.chars().any(char::is_control) {
        let message = "has neither a colon nor control characters";
        refuse(violations, "auth.username", message);
    }
    let password = kept(violations, by, "auth.password", password, known)?;
    if password.expose().chars().any(char::is_control) {
        refuse(violations, "auth.password", "has no control characters");
    }
    let auth = Auth::Basic { username, password };
    // Both in base64 are one value: how long it is can be told of a pair that is one.
    if violations.count() == before
        && let Some((name, value)) = auth.header()
        && let Err(refusal) = CustomHeaders::check([(name, value)])
    {
        violations.refuse("auth.password", refusal.reason(), refusal.to_string());
    }
    Some(auth)
}

fn api_key(
    violations: &mut Violations,
    by: By<'_>,
    known: Option<&Secret>,
    (place, name, value): (String, String, Option<Secret>),
) -> Option<Auth> {
    let place = match place.as_str() {
        "header" => Some(Place::Header),
        "query" => Some(Place::Query),
        _ => None,
    };
    let mut header = "x-key";
    match place {
        None => refuse(violations, "auth.in", "is header or query"),
        Some(Place::Query) if !is_parameter(&name) => {
            let message = "has 1 to 128 letters, digits or any of -._~";
            refuse(violations, "auth.name", message);
        }
        Some(Place::Header) => match CustomHeaders::check([(name.as_str(), "x")]) {
            Ok(_) => header = name.as_str(),
            Err(refusal) => {
                violations.refuse("auth.name", refusal.reason(), refusal.to_string());
            }
        },
        Some(Place::Query) => {}
    }
    let value = kept(violations, by, "auth.value", value, known)?;
    // A query parameter's value obeys the same limits as a header's.
    if let Err(refusal) = CustomHeaders::check([(header, value.expose())]) {
        violations.refuse("auth.value", refusal.reason(), refusal.to_string());
    }
    Some(Auth::ApiKey {
        place: place?,
        name,
        value,
    })
}

fn judge_scopes(violations: &mut Violations, scopes: &[String]) {
    if scopes.len() > MAX_SCOPES {
        let message = "are at most 50 of 1 to 256 visible ASCII characters other than \" and \\";
        refuse(violations, "auth.scopes", message);
    }
    let message = "has 1 to 256 visible ASCII characters other than \" and \\";
    for (index, scope) in scopes.iter().enumerate() {
        if !is_scope(scope) {
            violations.refuse_entry("auth.scopes", index, NOT_ALLOWED, message);
        }
    }
}

/// The reason of whatever a credential may not hold.
const NOT_ALLOWED: &str = "not_allowed";

fn refuse(violations: &mut Violations, field: &str, message: &str) {
    violations.refuse(field, NOT_ALLOWED, message);
}

fn is_short(text: &str) -> bool {
    text.len() <= MAX_TEXT_BYTES && !text.chars().any(char::is_control)
}

fn is_parameter(name: &str) -> bool {
    (1..=MAX_PARAMETER_BYTES).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
}
