//! Judging headers and credentials. Values that a change leaves out, or sends as the mask that was
//! shown, are the stored ones: who reads a webhook, changes it and writes it back keeps them, unless
//! he leads it to another host.

use webhooks_domain::{
    endpoint::{
        AddressPolicy, EndpointUrl,
        headers::{self, CustomHeaders},
    },
    oauth2::{MAX_SCOPES, MAX_TEXT_BYTES, is_scope},
};
use webhooks_egress::{TlsIdentityError, certificate_facts};
use webhooks_runtime::Secret;

use crate::{
    error::Violation,
    extras::{
        Auth, ClientAuth, ClientCertificate, Extras, Place, ShownCertificate, is_mask, is_mask_of,
        shown_time,
    },
};

/// Longest name of a query parameter, in bytes.
const MAX_PARAMETER_BYTES: usize = 128;

/// Longest certificate chain, in bytes of PEM.
const MAX_CHAIN_BYTES: usize = 16 * 1_024;

/// Longest private key, in bytes of PEM.
const MAX_KEY_BYTES: usize = 16 * 1_024;

/// A client certificate as asked for; what is `None` is the stored one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificateDraft {
    /// The chain, PEM.
    pub certificate: Option<String>,
    /// The key, PEM.
    pub private_key: Option<Secret>,
}

/// What headers and credentials are judged by.
#[derive(Debug, Clone, Copy)]
pub(super) struct By<'a> {
    /// Which token endpoints may be named.
    pub(super) addresses: &'a AddressPolicy,
    /// The time, microseconds: certificates expire.
    pub(super) now: i64,
    /// Whether the endpoint becomes another host's. Stored values were given for the one before:
    /// whoever may change a webhook, but was never told them, could otherwise have them sent to
    /// himself.
    pub(super) moves: bool,
}

/// Everything about headers and credentials that was asked for.
#[derive(Debug, Default)]
pub(super) struct Wish {
    /// All headers.
    pub(super) headers: Option<Vec<HeaderDraft>>,
    /// Credentials.
    pub(super) auth: Option<Option<AuthDraft>>,
    /// The client certificate.
    pub(super) certificate: Option<Option<CertificateDraft>>,
}

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

/// What headers and credentials shall be. `None` where nothing was asked for, or nothing sensible.
pub(super) fn judge(
    violations: &mut Vec<Violation>,
    stored: &Extras,
    by: By<'_>,
    wish: Wish,
) -> Option<Extras> {
    let Wish {
        headers: own,
        auth,
        certificate,
    } = wish;
    let before = violations.len();
    if by.moves {
        let left = [
            ("auth", auth.is_none() && stored.auth.is_some()),
            (
                "clientCertificate",
                certificate.is_none() && stored.client_certificate.is_some(),
            ),
            ("headers", own.is_none() && !stored.headers.is_empty()),
        ];
        let left = left.into_iter().filter(|(_, left)| *left);
        violations.extend(left.map(|(field, _)| for_another_host(field)));
    }
    if own.is_none() && auth.is_none() && certificate.is_none() {
        return None;
    }
    let auth = match auth {
        None => stored.auth.clone(),
        Some(None) => None,
        Some(Some(draft)) => judge_auth(violations, stored.auth.as_ref(), by, draft),
    };
    let client_certificate = match certificate {
        None => stored.client_certificate.clone(),
        Some(None) => None,
        Some(Some(draft)) => {
            let stored = stored.client_certificate.as_ref();
            judge_certificate(violations, stored, by, draft)
        }
    };
    let headers = match own {
        None => stored.headers.clone(),
        Some(drafts) => judge_headers(violations, stored, by, drafts),
    };
    if violations.len() > before {
        return None;
    }
    let extras = Extras {
        headers,
        auth,
        client_certificate,
    };
    // Together: how many, how large, none twice. A fetched token becomes a header, too.
    let all = extras.headers.iter();
    let all = all.map(|(name, value)| (name.clone(), value.expose().to_owned()));
    let sent = extras.auth.as_ref().and_then(Auth::header);
    let sent = sent.map(|(name, value)| (name.to_owned(), value));
    let sent = match extras.auth {
        Some(Auth::OAuth2 { .. }) => Some(("Authorization".to_owned(), "Bearer x".to_owned())),
        _ => sent,
    };
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
    by: By<'_>,
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
        let value = kept(violations, by, &field, draft.value, known);
        let text = value.as_ref().map_or("x", Secret::expose);
        if let Err(refusal) = CustomHeaders::check([(&draft.name, text)]) {
            let part = match refusal.reason() {
                "header_value_invalid" => "value",
                _ => "name",
            };
            let field = format!("headers[{index}].{part}");
            // It was asked for alone, so it calls itself the first.
            let text = refusal.to_string();
            let message = text.strip_prefix("header 0: ").unwrap_or(&text);
            violations.push(Violation::new(field, refusal.reason(), message));
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

/// A client certificate and its key, which have to belong together and to be valid now.
fn judge_certificate(
    violations: &mut Vec<Violation>,
    stored: Option<&ClientCertificate>,
    by: By<'_>,
    draft: CertificateDraft,
) -> Option<ClientCertificate> {
    const CHAIN: &str = "clientCertificate.certificate";
    const KEY: &str = "clientCertificate.privateKey";
    let now = by.now.div_euclid(1_000_000);
    let mut no = |field: &str, reason: &'static str, message: String| {
        violations.push(Violation::new(field, reason, message));
        None
    };
    let given = draft.private_key;
    let masked =
        |given: &Secret| stored.is_some_and(|stored| stored.shown.private_key == given.expose());
    let key = match given {
        Some(given) if !masked(&given) => Some(given),
        _ if by.moves && stored.is_some() => {
            return no(KEY, OTHER_HOST, GIVE_AGAIN.to_owned());
        }
        _ => stored.map(|stored| stored.key.clone()),
    };
    let chain = draft
        .certificate
        .or_else(|| stored.map(|stored| stored.chain.clone()));
    let Some(chain) = chain else {
        return no(CHAIN, "missing", "has to be given".to_owned());
    };
    let Some(key) = key else {
        return no(KEY, "missing", "has to be given".to_owned());
    };
    if chain.len() > MAX_CHAIN_BYTES {
        return no(
            CHAIN,
            "too_long",
            format!("has at most {MAX_CHAIN_BYTES} bytes"),
        );
    }
    if key.expose().len() > MAX_KEY_BYTES {
        return no(
            KEY,
            "too_long",
            format!("has at most {MAX_KEY_BYTES} bytes"),
        );
    }
    let facts = certificate_facts(chain.as_bytes()).unwrap_or_default();
    let Some(leaf) = facts.first() else {
        let message = "is not one or more certificates in PEM".to_owned();
        return no(CHAIN, "not_a_certificate", message);
    };
    let parsed = webhooks_egress::ClientCertificate::new(chain.as_bytes(), key.expose().as_bytes());
    match parsed {
        Ok(_) => {}
        Err(TlsIdentityError::Mismatch) => {
            let message = "does not belong to the first certificate".to_owned();
            return no(KEY, "key_mismatch", message);
        }
        Err(TlsIdentityError::Key) => {
            let message = "is not an unencrypted private key in PEM that TLS can use".to_owned();
            return no(KEY, "not_a_private_key", message);
        }
        Err(_) => {
            let message = "is not one or more certificates in PEM".to_owned();
            return no(CHAIN, "not_a_certificate", message);
        }
    }
    if leaf.not_after <= now {
        let message = format!("has expired on {}", shown_time(leaf.not_after));
        return no(CHAIN, "certificate_expired", message);
    }
    if leaf.not_before > now {
        let message = format!("is not valid before {}", shown_time(leaf.not_before));
        return no(CHAIN, "certificate_not_yet_valid", message);
    }
    Some(ClientCertificate {
        shown: ShownCertificate::of(leaf),
        chain,
        key,
    })
}

/// The value that was given, or the one that is stored.
fn kept(
    violations: &mut Vec<Violation>,
    by: By<'_>,
    field: &str,
    given: Option<Secret>,
    known: Option<&Secret>,
) -> Option<Secret> {
    let stands_for_known =
        |given: &Secret| known.is_some_and(|known| is_mask_of(given.expose(), known.expose()));
    let value = match given {
        Some(given) if !is_mask(given.expose()) => Some(given),
        // Of a value that is not there, or no longer: it must not be taken for one.
        Some(given) if !stands_for_known(&given) => {
            let message = "is a mask of another value: the value itself has to be given";
            violations.push(Violation::new(field, "missing", message));
            return None;
        }
        _ if by.moves && known.is_some() => {
            violations.push(for_another_host(field));
            return None;
        }
        _ => known.cloned(),
    };
    if value.is_none() {
        violations.push(Violation::new(field, "missing", "has to be given"));
    }
    value
}

/// The reason and the words for a value that is stored for another host.
const OTHER_HOST: &str = "other_host";
const GIVE_AGAIN: &str = "has to be given again for another host";

fn for_another_host(field: &str) -> Violation {
    Violation::new(field, OTHER_HOST, GIVE_AGAIN)
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
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    /// The year 2026, in microseconds.
    const NOW: i64 = 1_770_000_000_000_000;

    fn secret(text: &str) -> Option<Secret> {
        Some(Secret::new(text))
    }

    fn header(name: &str, value: Option<&str>) -> HeaderDraft {
        HeaderDraft {
            name: name.into(),
            value: value.map(Secret::new),
        }
    }

    fn by(addresses: &AddressPolicy) -> By<'_> {
        By {
            addresses,
            now: NOW,
            moves: false,
        }
    }

    fn judged(
        stored: &Extras,
        headers: Option<Vec<HeaderDraft>>,
        auth: Option<Option<AuthDraft>>,
    ) -> Result<Option<Extras>, Vec<(String, &'static str)>> {
        let mut violations = Vec::new();
        let wish = Wish {
            headers,
            auth,
            certificate: None,
        };
        let extras = judge(&mut violations, stored, by(&AddressPolicy::default()), wish);
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
            client_certificate: None,
        };
        assert_eq!(judged(&stored, None, None), Ok(None));
        // The last one is a mask of an earlier release, which showed more.
        for value in [None, Some("••••"), Some("••••alue")] {
            let same = judged(&stored, Some(vec![header("x-team", value)]), None);
            let same = same.unwrap().unwrap();
            assert_eq!(same.headers[0].1.expose(), "a long enough value");
            assert_eq!(same.auth, stored.auth);
        }
        for token in [None, secret("••••")] {
            let same = judged(&stored, None, Some(Some(AuthDraft::Bearer { token })));
            assert_eq!(same.unwrap().unwrap(), stored);
        }
        for password in [None, secret("••••"), secret("••••0ken")] {
            let other = AuthDraft::Basic {
                username: "u".into(),
                password,
            };
            assert_eq!(
                judged(&stored, None, Some(Some(other))),
                Err(vec![("auth.password".into(), "missing")]),
                "a value of another kind is not taken over, nor a mask taken for a value"
            );
        }
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

    fn oauth(token_url: &str, secret: Option<Secret>) -> AuthDraft {
        AuthDraft::OAuth2 {
            token_url: token_url.into(),
            client_id: "client".into(),
            client_secret: secret,
            scopes: vec!["a:b".into()],
            audience: String::new(),
            client_auth: String::new(),
        }
    }

    #[test]
    fn a_clients_secret_stays_with_its_token_endpoint() {
        const HERE: &str = "https://id.example.com/token";
        let none = Extras::default();
        let made = judged(&none, None, Some(Some(oauth(HERE, secret("s3cret")))));
        let made = made.unwrap().unwrap();
        let kept = judged(&made, None, Some(Some(oauth(HERE, None)))).unwrap();
        assert_eq!(kept.unwrap(), made);
        let elsewhere = oauth("https://thief.example.com/token", None);
        let expected = vec![("auth.clientSecret".to_owned(), "missing")];
        assert_eq!(judged(&made, None, Some(Some(elsewhere))), Err(expected));
        for (url, reason) in [
            ("https://10.0.0.1/token", "blocked_address"),
            ("http://id.example.com/token", "scheme_not_https"),
            ("https://u:p@id.example.com/", "userinfo"),
        ] {
            let refused = judged(&none, None, Some(Some(oauth(url, secret("s")))));
            assert_eq!(refused, Err(vec![("auth.tokenUrl".to_owned(), reason)]));
        }
        let both = judged(
            &none,
            Some(vec![header("Authorization", Some("x"))]),
            Some(Some(oauth(HERE, secret("s")))),
        );
        assert_eq!(both, Err(vec![("auth".into(), "header_name_repeated")]));
    }

    fn certificate(from: i32, to: i32, key: &KeyPair) -> String {
        let mut params = CertificateParams::new(vec!["client.example".to_owned()]).unwrap();
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(to, 1, 1);
        params.self_signed(key).unwrap().pem()
    }

    fn judged_certificate(
        stored: &Extras,
        certificate: Option<&str>,
        private_key: Option<&str>,
    ) -> Result<Extras, (String, &'static str)> {
        let mut violations = Vec::new();
        let wish = Wish {
            certificate: Some(Some(CertificateDraft {
                certificate: certificate.map(str::to_owned),
                private_key: private_key.map(Secret::new),
            })),
            ..Wish::default()
        };
        let extras = judge(&mut violations, stored, by(&AddressPolicy::default()), wish);
        match violations.pop() {
            None => Ok(extras.unwrap()),
            Some(violation) => Err((violation.field, violation.reason)),
        }
    }

    #[test]
    fn a_client_certificate_is_judged_when_it_is_saved() {
        let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let good = certificate(2020, 2040, &key);
        let (own, wrong) = (key.serialize_pem(), other.serialize_pem());
        let none = Extras::default();
        let check = |chain: Option<&str>, key: Option<&str>, field: &str, reason| {
            let field = format!("clientCertificate.{field}");
            assert_eq!(judged_certificate(&none, chain, key), Err((field, reason)));
        };
        check(None, Some(&own), "certificate", "missing");
        check(Some(&good), None, "privateKey", "missing");
        check(Some("x"), Some(&own), "certificate", "not_a_certificate");
        check(Some(&good), Some("x"), "privateKey", "not_a_private_key");
        check(Some(&good), Some(&wrong), "privateKey", "key_mismatch");
        let old = certificate(2020, 2021, &key);
        check(Some(&old), Some(&own), "certificate", "certificate_expired");
        let early = certificate(2039, 2040, &key);
        check(
            Some(&early),
            Some(&own),
            "certificate",
            "certificate_not_yet_valid",
        );
        let long = "x".repeat(MAX_CHAIN_BYTES + 1);
        check(Some(&long), Some(&own), "certificate", "too_long");

        let made = judged_certificate(&none, Some(&good), Some(&own)).unwrap();
        let shown = made.shown().client_certificate.unwrap();
        assert_eq!(shown.not_after, "2040-01-01T00:00:00Z");
        assert_eq!(shown.fingerprint.len(), 64);
        let policy = AddressPolicy::default();
        let moves = By {
            moves: true,
            ..by(&policy)
        };
        let elsewhere = |private_key: Option<&str>| {
            let mut violations = Vec::new();
            let wish = Wish {
                certificate: Some(Some(CertificateDraft {
                    certificate: Some(good.clone()),
                    private_key: private_key.map(Secret::new),
                })),
                ..Wish::default()
            };
            judge(&mut violations, &made, moves, wish);
            violations.pop().map(|one| (one.field, one.reason))
        };
        for kept in [None, Some("••••")] {
            let expected = ("clientCertificate.privateKey".to_owned(), OTHER_HOST);
            assert_eq!(elsewhere(kept), Some(expected));
        }
        assert_eq!(elsewhere(Some(&own)), None);
        // What was read can be written back, and a certificate renewed under its key.
        let same = judged_certificate(&made, None, Some("••••"));
        assert_eq!(same, Ok(made.clone()));
        let renewed = certificate(2024, 2041, &key);
        let renewed = judged_certificate(&made, Some(&renewed), None).unwrap();
        assert_ne!(renewed.shown(), made.shown());
        assert!(!format!("{made:?}").contains("PRIVATE KEY"));
    }
}
