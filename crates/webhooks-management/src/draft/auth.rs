//! Judging credentials: how the endpoint knows us.

use webhooks_domain::{
    endpoint::{EndpointUrl, headers::CustomHeaders},
    oauth2::{MAX_SCOPES, MAX_TEXT_BYTES, is_scope},
};
use webhooks_runtime::Secret;

use super::extras::{By, kept};
use crate::{
    error::Violation,
    extras::{Auth, ClientAuth, Place},
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

pub(super) fn judge_auth(
    violations: &mut Vec<Violation>,
    stored: Option<&Auth>,
    by: By<'_>,
    draft: AuthDraft,
) -> Option<Auth> {
    let auth = match draft {
        AuthDraft::Bearer { token } => {
            let known = match stored {
                Some(Auth::Bearer { token }) => Some(token),
                _ => None,
            };
            let token = kept(violations, by, "auth.token", token, known)?;
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
            let password = kept(violations, by, "auth.password", password, known)?;
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
            let value = kept(violations, by, "auth.value", value, known)?;
            Auth::ApiKey { place, name, value }
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
                }) if *known == token_url => Some(client_secret),
                _ => None,
            };
            let client_auth = match client_auth.as_str() {
                "" | "basic" => ClientAuth::Basic,
                "post" => ClientAuth::Post,
                _ => return refuse(violations, "auth.clientAuth", "is basic or post"),
            };
            if let Err(refusal) = EndpointUrl::parse(&token_url, by.addresses) {
                let refused =
                    Violation::new("auth.tokenUrl", refusal.reason(), refusal.to_string());
                violations.push(refused);
                return None;
            }
            let short =
                |text: &str| text.len() <= MAX_TEXT_BYTES && !text.chars().any(char::is_control);
            if client_id.is_empty() || !short(&client_id) {
                let message = "has 1 to 2048 bytes and no control characters";
                return refuse(violations, "auth.clientId", message);
            }
            if !short(&audience) {
                let message = "has at most 2048 bytes and no control characters";
                return refuse(violations, "auth.audience", message);
            }
            if scopes.len() > MAX_SCOPES || !scopes.iter().all(|scope| is_scope(scope)) {
                let message =
                    "are at most 50 of 1 to 256 visible ASCII characters other than \" and \\";
                return refuse(violations, "auth.scopes", message);
            }
            let client_secret = kept(violations, by, "auth.clientSecret", client_secret, known)?;
            if client_secret.expose().is_empty() || !short(client_secret.expose()) {
                let message = "has 1 to 2048 bytes and no control characters";
                return refuse(violations, "auth.clientSecret", message);
            }
            return Some(Auth::OAuth2 {
                token_url,
                client_id,
                client_secret,
                scopes,
                audience,
                client_auth,
            });
        }
    };
    // A query parameter's value obeys the same limits as a header's.
    let checked = match (&auth, auth.header()) {
        (_, Some((name, value))) => CustomHeaders::check([(name.to_owned(), value)]),
        (Auth::ApiKey { value, .. }, None) => CustomHeaders::check([("x-key", value.expose())]),
        (Auth::Bearer { .. } | Auth::Basic { .. } | Auth::OAuth2 { .. }, None) => {
            Ok(CustomHeaders::default())
        }
    };
    let Err(refusal) = checked else {
        return Some(auth);
    };
    let field = match (&auth, refusal.reason()) {
        (Auth::ApiKey { .. }, "header_value_invalid") => "auth.value",
        (Auth::ApiKey { .. }, _) => "auth.name",
        (Auth::Bearer { .. }, _) => "auth.token",
        (Auth::Basic { .. }, _) => "auth.password",
        (Auth::OAuth2 { .. }, _) => "auth",
    };
    violations.push(Violation::new(field, refusal.reason(), refusal.to_string()));
    None
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
