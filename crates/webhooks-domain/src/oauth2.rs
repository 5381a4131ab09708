//! The client credentials grant of OAuth 2 (RFC 6749, section 4.4), as far as it is pure: what is
//! asked of a token endpoint, what its answer means, how long a token is used, and what a 401 of the
//! endpoint says about it.

use std::{fmt, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use url::form_urlencoded;

/// Longest client id, client secret or audience, in bytes.
pub const MAX_TEXT_BYTES: usize = 2_048;

/// Most scopes.
pub const MAX_SCOPES: usize = 50;

/// Longest scope, in bytes.
pub const MAX_SCOPE_BYTES: usize = 256;

/// Longest access token, in bytes.
pub const MAX_TOKEN_BYTES: usize = 8 * 1_024;

/// How long a token is used whose answer names no lifetime.
pub const UNKNOWN_LIFETIME: Duration = Duration::from_secs(300);

/// A token is used at most so long, whatever its lifetime.
pub const MAX_USE: Duration = Duration::from_secs(24 * 3_600);

/// Bounds of what is taken off a token's lifetime: a tenth of it within these.
pub const MARGIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// A token that a 401 calls into question is replaced at most once in so long.
pub const RENEWAL_PAUSE: Duration = Duration::from_secs(10);

/// Where the client's id and secret go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ClientAuth {
    /// The `Authorization` header.
    #[default]
    Basic,
    /// The body.
    Post,
}

/// A client and what it asks for. Never printed whole.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientCredentials {
    /// The client's id.
    pub id: String,
    /// Its secret.
    pub secret: String,
    /// Scopes to ask for; none = the server's own choice.
    pub scopes: Vec<String>,
    /// The audience to ask for; empty = none.
    pub audience: String,
    /// Where id and secret go.
    pub auth: ClientAuth,
}

impl fmt::Debug for ClientCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCredentials")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// What is sent to the token endpoint. Never printed: it holds the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenRequest {
    /// The `Authorization` header, if there is one.
    pub authorization: Option<String>,
    /// The body, `application/x-www-form-urlencoded`.
    pub body: String,
}

impl ClientCredentials {
    /// The request for a token.
    #[must_use]
    pub fn request(&self) -> TokenRequest {
        let mut body = form_urlencoded::Serializer::new(String::new());
        body.append_pair("grant_type", "client_credentials");
        if !self.scopes.is_empty() {
            body.append_pair("scope", &self.scopes.join(" "));
        }
        if !self.audience.is_empty() {
            body.append_pair("audience", &self.audience);
        }
        let authorization = match self.auth {
            ClientAuth::Basic => {
                // RFC 6749, section 2.3.1: form-encoded first, then as RFC 7617 says.
                let encoded = |text: &str| {
                    form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>()
                };
                let pair = format!("{}:{}", encoded(&self.id), encoded(&self.secret));
                Some(format!("Basic {}", STANDARD.encode(pair)))
            }
            ClientAuth::Post => {
                body.append_pair("client_id", &self.id);
                body.append_pair("client_secret", &self.secret);
                None
            }
        };
        TokenRequest {
            authorization,
            body: body.finish(),
        }
    }
}

/// Whether a text can be a scope (RFC 6749, section 3.3).
#[must_use]
pub fn is_scope(text: &str) -> bool {
    (1..=MAX_SCOPE_BYTES).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\')
}

/// A token and how long to use it, counted from when it was asked for. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessToken {
    /// What follows `Bearer`.
    pub value: String,
    /// How long it is used.
    pub usable_for: Duration,
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessToken")
            .field("usable_for", &self.usable_for)
            .finish_non_exhaustive()
    }
}

/// An answer that holds no token we could use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer holds no usable bearer token")]
pub struct NoToken;

#[derive(Deserialize)]
struct Answer {
    access_token: String,
    token_type: Option<String>,
    expires_in: Option<Lifetime>,
}

/// Seconds; some servers write them as text, some as a fraction.
#[derive(Deserialize)]
#[serde(untagged)]
enum Lifetime {
    Number(f64),
    Text(String),
}

impl Lifetime {
    fn seconds(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => text.parse().ok(),
        }
    }
}

/// Reads a token endpoint's answer (RFC 6749, section 5.1). A missing `token_type` is taken for
/// `Bearer`, which is what servers mean that leave it out.
///
/// # Errors
/// Not JSON, no token, one that cannot stand in a header, or of another type.
pub fn read_answer(body: &[u8]) -> Result<AccessToken, NoToken> {
    let answer: Answer = serde_json::from_slice(body).map_err(|_| NoToken)?;
    let is_bearer = answer
        .token_type
        .is_none_or(|kind| kind.eq_ignore_ascii_case("bearer"));
    let value = answer.access_token;
    let fits = (1..=MAX_TOKEN_BYTES).contains(&value.len())
        && value.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_bearer || !fits {
        return Err(NoToken);
    }
    let lifetime = answer.expires_in.as_ref().and_then(Lifetime::seconds);
    Ok(AccessToken {
        value,
        usable_for: usable_for(lifetime),
    })
}

/// How long a token of this lifetime (seconds) is used: a margin less, so that no request carries
/// one that expires on its way.
fn usable_for(lifetime: Option<f64>) -> Duration {
    let lifetime = match lifetime {
        Some(seconds) if seconds.is_finite() => {
            Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(MAX_USE)
        }
        _ => UNKNOWN_LIFETIME,
    };
    let margin = (lifetime / 10).clamp(MARGIN.0, MARGIN.1);
    lifetime.saturating_sub(margin).min(MAX_USE)
}

/// What a 401 of the endpoint says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The token was no longer good: it is dropped, and the next attempt gets a new one.
    Stale {
        /// Whether it is still the one in use, and has to be dropped.
        drop: bool,
    },
    /// The endpoint does not want us, however new the token is.
    Final,
}

/// Judges a 401. `fresh`: the token was fetched for this very attempt. `replaced`: another one is in
/// use meanwhile. `since_renewal`: how long ago a 401 last dropped one.
///
/// A new token after a refused new token would be the same again; and an endpoint that says 401 to
/// some of its requests must not make us ask for a token with each of them.
#[must_use]
pub fn judge_refusal(fresh: bool, replaced: bool, since_renewal: Option<Duration>) -> Refusal {
    if fresh {
        return Refusal::Final;
    }
    if replaced {
        return Refusal::Stale { drop: false };
    }
    match since_renewal {
        Some(since) if since < RENEWAL_PAUSE => Refusal::Final,
        _ => Refusal::Stale { drop: true },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn client(auth: ClientAuth) -> ClientCredentials {
        ClientCredentials {
            id: "s6BhdRkqt3".into(),
            secret: "gX1fBat3bV&+ :".into(),
            scopes: vec!["a:write".into(), "b".into()],
            audience: "https://api.example/".into(),
            auth,
        }
    }

    #[test]
    fn credentials_go_where_they_should() {
        let basic = client(ClientAuth::Basic).request();
        let pair = basic.authorization.unwrap();
        let pair = STANDARD
            .decode(pair.strip_prefix("Basic ").unwrap())
            .unwrap();
        assert_eq!(pair, b"s6BhdRkqt3:gX1fBat3bV%26%2B+%3A");
        assert_eq!(
            basic.body,
            "grant_type=client_credentials&scope=a%3Awrite+b&audience=https%3A%2F%2Fapi.example%2F"
        );
        let post = client(ClientAuth::Post).request();
        assert_eq!(post.authorization, None);
        assert!(
            post.body
                .ends_with("&client_id=s6BhdRkqt3&client_secret=gX1fBat3bV%26%2B+%3A")
        );
        assert!(!format!("{:?}", client(ClientAuth::Post)).contains("gX1f"));
    }

    #[test]
    fn answers_are_read_as_they_come() {
        let seconds =
            |text: &str| read_answer(text.as_bytes()).map(|token| token.usable_for.as_secs());
        assert_eq!(
            seconds(r#"{"access_token":"t","token_type":"bearer","expires_in":3600}"#),
            Ok(3_540)
        );
        assert_eq!(
            seconds(r#"{"access_token":"t","token_type":"Bearer","expires_in":"100"}"#),
            Ok(90)
        );
        assert_eq!(seconds(r#"{"access_token":"t","scope":"x"}"#), Ok(270));
        assert_eq!(seconds(r#"{"access_token":"t","expires_in":0}"#), Ok(0));
        assert_eq!(seconds(r#"{"access_token":"t","expires_in":-5}"#), Ok(0));
        assert_eq!(
            seconds(r#"{"access_token":"t","expires_in":1e300}"#),
            Ok(86_340)
        );
        for bad in [
            "",
            "<html>",
            "[]",
            r#"{"error":"invalid_client"}"#,
            r#"{"access_token":""}"#,
            r#"{"access_token":"a b"}"#,
            r#"{"access_token":"a\r\nx: y"}"#,
            r#"{"access_token":7}"#,
            r#"{"access_token":"t","token_type":"mac"}"#,
        ] {
            assert_eq!(seconds(bad), Err(NoToken), "{bad}");
        }
        let long = format!(
            r#"{{"access_token":"{}"}}"#,
            "t".repeat(MAX_TOKEN_BYTES + 1)
        );
        assert_eq!(seconds(&long), Err(NoToken));
        let shown = format!("{:?}", read_answer(br#"{"access_token":"canary"}"#));
        assert!(!shown.contains("canary"), "{shown}");
    }

    #[test]
    fn a_401_is_forgiven_once_for_a_token_that_had_been_used() {
        let check = |fresh, replaced, since: Option<u64>, expected| {
            let since = since.map(Duration::from_secs);
            assert_eq!(judge_refusal(fresh, replaced, since), expected);
        };
        check(true, false, None, Refusal::Final);
        check(true, true, None, Refusal::Final);
        check(false, false, None, Refusal::Stale { drop: true });
        check(false, false, Some(9), Refusal::Final);
        check(false, false, Some(10), Refusal::Stale { drop: true });
        check(false, true, Some(0), Refusal::Stale { drop: false });
    }

    proptest! {
        #[test]
        fn any_answer_is_read_or_refused(body: Vec<u8>) {
            if let Ok(token) = read_answer(&body) {
                prop_assert!(token.usable_for <= MAX_USE);
            }
        }

        #[test]
        fn a_token_is_never_used_to_its_end(seconds in 0.0_f64..1e9) {
            let used = usable_for(Some(seconds));
            prop_assert!(used <= MAX_USE);
            prop_assert!(used.as_secs_f64() <= (seconds - 1.0).max(0.0) + 1e-6);
        }

        #[test]
        fn a_request_reads_back(id: String, secret: String, audience: String) {
            let mut client = client(ClientAuth::Post);
            (client.id, client.secret, client.audience) = (id.clone(), secret.clone(), audience.clone());
            let request = client.request();
            let pairs: std::collections::HashMap<_, _> =
                form_urlencoded::parse(request.body.as_bytes()).into_owned().collect();
            prop_assert_eq!(&pairs["client_id"], &id);
            prop_assert_eq!(&pairs["client_secret"], &secret);
            prop_assert_eq!(pairs.get("audience").map_or("", String::as_str), &audience);
        }
    }
}
