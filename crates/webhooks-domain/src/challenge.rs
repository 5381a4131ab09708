//! Whether an endpoint belongs to who holds its webhook's secret: a challenge and its answer.
//!
//! A request of type [`EVENT_TYPE`] carries a nonce, and the endpoint answers
//! `HMAC-SHA256(secret, "linkbreakers.challenge.v1\0" || nonce)`. Who points a webhook at somebody
//! else's server knows the secret too, so what counts is that the *server* says it:
//!
//! * an echo of the request holds the nonce, never the answer ([`answer`]);
//! * the answer cannot be laid into the URL for the server to repeat: the nonce is a MAC over that
//!   very URL, with a key of the installation ([`ChallengeKeys`]), so it is unknown until the URL is
//!   settled, and another URL has another nonce;
//! * nothing else of the request is the customer's to choose (no headers, no credentials; whoever
//!   sends it sees to that);
//! * the nonce names the delivery too, so that each challenge has an answer of its own.
//!
//! A nonce is computed again when the answer comes, from the delivery's id and the URL of *then*:
//! nothing is stored, and an answer about an earlier URL means nothing.
//!
//! Pure: ids, keys and URLs are arguments.

use std::{borrow::Cow, fmt, fmt::Write as _};

use hmac::{Hmac, Mac as _};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use url::Url;
use uuid::Uuid;

use crate::signing::SigningKey;

/// The event type of a challenge's delivery, and the `type` in its body.
pub const EVENT_TYPE: &str = "endpoint.challenge";

/// What stands before the nonce in what the answer is a MAC of. No signature of a request begins so.
const ANSWER_LABEL: &[u8] = b"linkbreakers.challenge.v1\0";

/// Keeps these keys apart from others that are made of the encryption keys.
const KEY_LABEL: &[u8] = b"linkbreakers webhooks endpoint challenges v1\0";

/// Longest response that is looked at for an answer, in bytes.
pub const MAX_ANSWER_BYTES: usize = 4 * 1024;

/// Most hosts of a workspace whose endpoints need not answer.
pub const MAX_EXEMPT_HOSTS: usize = 32;

/// Longest host name, in bytes.
const MAX_HOST_BYTES: usize = 253;

/// SHA-256 of an endpoint's URL as it was configured.
pub type EndpointHash = [u8; 32];

/// What a URL is remembered and compared by.
#[must_use]
pub fn endpoint_hash(url: &str) -> EndpointHash {
    Sha256::digest(url.as_bytes()).into()
}

/// The keys that nonces are made with. Never printed.
#[derive(Clone)]
pub struct ChallengeKeys(Vec<[u8; 32]>);

impl fmt::Debug for ChallengeKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChallengeKeys(***)")
    }
}

impl ChallengeKeys {
    /// Derives them from the encryption keys' setting (`id:base64[,…]`): the first makes nonces, the
    /// answers to those of all are taken, so that a rotation voids no challenge that is on its way.
    #[must_use]
    pub fn from_keyring(text: &str) -> Self {
        let pairs = text.split(',').map(str::trim);
        let derive = |pair: &str| {
            let mut hash = Sha256::new();
            hash.update(KEY_LABEL);
            hash.update(pair.as_bytes());
            hash.finalize().into()
        };
        Self(pairs.filter(|pair| !pair.is_empty()).map(derive).collect())
    }

    /// The nonce of a challenge, 64 hexadecimal digits; `None` without any key.
    #[must_use]
    pub fn nonce(&self, delivery: Uuid, url: &str) -> Option<String> {
        self.nonces(delivery, url).next()
    }

    fn nonces<'a>(&'a self, delivery: Uuid, url: &'a str) -> impl Iterator<Item = String> + 'a {
        self.0.iter().map(move |key| {
            // The id has a fixed length, so no two pairs read alike.
            hex(&mac(key, &[delivery.as_bytes(), url.as_bytes()]))
        })
    }

    /// Whether `response` is the right answer, by one of the webhook's secrets, to the challenge that
    /// `delivery` brought to `url`.
    #[must_use]
    pub fn is_answered(
        &self,
        secrets: &[SigningKey],
        delivery: Uuid,
        url: &str,
        response: &[u8],
    ) -> bool {
        let Some(given) = given(response) else {
            return false;
        };
        let expected = self.nonces(delivery, url).flat_map(|nonce| {
            let of = move |secret: &SigningKey| answer(secret, &nonce);
            secrets.iter().map(of)
        });
        // All of them are compared, whichever fits.
        expected.fold(false, |fits, one| {
            bool::from(one.as_bytes().ct_eq(given.as_bytes())) | fits
        })
    }
}

/// What an endpoint with this secret answers to a challenge, 64 hexadecimal digits.
#[must_use]
pub fn answer(secret: &SigningKey, challenge: &str) -> String {
    hex(&mac(
        secret.as_bytes(),
        &[ANSWER_LABEL, challenge.as_bytes()],
    ))
}

/// The body of a challenge, in the three parts in which bodies are stored: what is around the
/// endpoint, and the endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// Up to the endpoint.
    pub head: String,
    /// The endpoint's URL as a JSON string.
    pub endpoint: String,
    /// After it.
    pub tail: &'static str,
}

impl Body {
    /// The body that brings `nonce` to `url`.
    #[must_use]
    pub fn new(nonce: &str, url: &str) -> Self {
        Self {
            head: format!(r#"{{"type":"{EVENT_TYPE}","challenge":"{nonce}","endpoint":"#),
            endpoint: serde_json::to_string(url).expect("a string is JSON"),
            tail: "}",
        }
    }
}

/// The only endpoint that a challenge's body may go to; `None` when it is no such body.
#[must_use]
pub fn bound_to(body: &[u8]) -> Option<EndpointHash> {
    #[derive(Deserialize)]
    struct Read<'a> {
        #[serde(borrow)]
        r#type: Cow<'a, str>,
        #[serde(borrow)]
        endpoint: Cow<'a, str>,
    }
    let read: Read<'_> = serde_json::from_slice(body).ok()?;
    (read.r#type == EVENT_TYPE).then(|| endpoint_hash(&read.endpoint))
}

/// What a response gives as its answer: `{"challenge": "…"}`, whatever else is in it. A member that is
/// there twice is none.
fn given(response: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Read<'a> {
        #[serde(borrow)]
        challenge: Cow<'a, str>,
    }
    if response.len() > MAX_ANSWER_BYTES {
        return None;
    }
    let read: Read<'_> = serde_json::from_slice(response).ok()?;
    Some(read.challenge.to_ascii_lowercase())
}

/// Whether a text names a host (`hooks.zapier.com`) or all below one (`*.make.com`), in lower case and
/// with a dot in the name, so that no pattern takes a whole top-level domain.
#[must_use]
pub fn is_host_pattern(text: &str) -> bool {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    name.len() <= MAX_HOST_BYTES && name.contains('.') && name.split('.').all(label)
}

/// Whether an endpoint's host is on a list of such patterns. What is no URL is on none.
#[must_use]
pub fn is_exempt(url: &str, hosts: &[String]) -> bool {
    let parsed = Url::parse(url).ok();
    let Some(host) = parsed.as_ref().and_then(Url::host_str) else {
        return false;
    };
    hosts
        .iter()
        .any(|pattern| match pattern.strip_prefix("*.") {
            None => pattern == host,
            Some(parent) => host
                .strip_suffix(parent)
                .is_some_and(|below| below.len() > 1 && below.ends_with('.')),
        })
}

fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const URL: &str = "https://example.com/hook?a=1";
    const DELIVERY: Uuid = Uuid::from_u128(7);

    fn keys() -> ChallengeKeys {
        ChallengeKeys::from_keyring("a:AAAA")
    }

    fn secret(byte: u8) -> SigningKey {
        SigningKey::from_random([byte; 32])
    }

    fn response(answer: &str) -> Vec<u8> {
        format!(r#"{{"ok": true, "challenge": "{answer}"}}"#).into_bytes()
    }

    fn fits(response: &[u8]) -> bool {
        keys().is_answered(&[secret(1), secret(2)], DELIVERY, URL, response)
    }

    #[test]
    fn either_secret_answers_and_nobody_elses() {
        let nonce = keys().nonce(DELIVERY, URL).unwrap();
        for own in [1, 2] {
            let right = answer(&secret(own), &nonce);
            assert!(fits(&response(&right)));
            assert!(fits(&response(&right.to_uppercase())));
        }
        assert!(!fits(&response(&answer(&secret(3), &nonce))));
        assert!(
            !keys().is_answered(&[], DELIVERY, URL, &response("")),
            "without a secret nothing is right"
        );
    }

    /// Computed with Python's `hmac`, so that what the documentation says and what is done agree.
    #[test]
    fn an_answer_is_the_documented_one() {
        assert_eq!(
            answer(&secret(1), "00ff"),
            "9c9bda08e208256635146e95fb465a86a34ed15dd9c9457130371e096c199035"
        );
    }

    #[test]
    fn an_echo_in_any_form_is_no_answer() {
        let nonce = keys().nonce(DELIVERY, URL).unwrap();
        let body = Body::new(&nonce, URL);
        let whole = [&body.head, &body.endpoint, body.tail].concat();
        for echo in [whole.as_str(), &nonce, &format!("\"{nonce}\"")] {
            assert!(!fits(echo.as_bytes()), "{echo}");
        }
        assert!(!fits(&response(&nonce)));
    }

    #[test]
    fn only_a_whole_object_with_one_answer_is_read() {
        let right = answer(&secret(1), &keys().nonce(DELIVERY, URL).unwrap());
        let one = format!(r#""challenge":"{right}""#);
        assert!(fits(format!(" {{{one}}}\n").as_bytes()));
        for wrong in [
            String::new(),
            right.clone(),
            format!("[{{{one}}}]"),
            format!("{{{one}}}x"),
            format!("{{{one},{one}}}"),
            format!(r#"{{"a":{{{one}}}}}"#),
            format!("{{{one},\"a\":\"{}\"}}", "x".repeat(MAX_ANSWER_BYTES)),
        ] {
            assert!(!fits(wrong.as_bytes()), "{wrong}");
        }
    }

    #[test]
    fn an_answer_survives_a_change_of_the_installations_key() {
        let old = ChallengeKeys::from_keyring("a:AAAA");
        let right = answer(&secret(1), &old.nonce(DELIVERY, URL).unwrap());
        let both = ChallengeKeys::from_keyring("b:BBBB, a:AAAA");
        assert!(both.is_answered(&[secret(1)], DELIVERY, URL, &response(&right)));
        let gone = ChallengeKeys::from_keyring("b:BBBB");
        assert!(!gone.is_answered(&[secret(1)], DELIVERY, URL, &response(&right)));
        assert_eq!(ChallengeKeys::from_keyring("").nonce(DELIVERY, URL), None);
        assert_eq!(format!("{both:?}"), "ChallengeKeys(***)");
    }

    #[test]
    fn a_body_says_where_it_may_go() {
        let odd = "https://example.com/\u{e4}?q=\"\\\u{7}";
        let body = Body::new("00", odd);
        let whole = [&body.head, &body.endpoint, body.tail].concat();
        assert_eq!(bound_to(whole.as_bytes()), Some(endpoint_hash(odd)));
        for other in [
            "",
            "{}",
            r#"{"type":"step.completed","endpoint":"https://example.com/"}"#,
            r#"{"type":"endpoint.challenge"}"#,
        ] {
            assert_eq!(bound_to(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn exempt_hosts_are_named_whole_or_by_what_is_above_them() {
        for good in [
            "hooks.zapier.com",
            "*.make.com",
            "xn--a.b2",
            "*.eu1.make.com",
        ] {
            assert!(is_host_pattern(good), "{good}");
        }
        let long = format!("{}.com", "a".repeat(64));
        for bad in [
            "",
            "*",
            "*.",
            "*.com",
            "com",
            "Make.com",
            "a..b",
            ".a.b",
            "a.b.",
            "-a.b",
            "a-.b",
            "a b.c",
            "https://a.b",
            "a.b:1",
            "*.*.b.c",
            "\u{e4}.b",
            &long,
        ] {
            assert!(!is_host_pattern(bad), "{bad}");
        }
        let hosts = ["hooks.zapier.com".to_owned(), "*.make.com".to_owned()];
        for (url, exempt) in [
            ("https://hooks.zapier.com/hooks/catch/1/a/", true),
            ("https://HOOKS.Zapier.com:443/x", true),
            ("https://hook.eu1.make.com/abc", true),
            ("https://make.com/abc", false),
            ("https://notmake.com/abc", false),
            ("https://.make.com/abc", false),
            ("https://zapier.com/", false),
            ("https://a.hooks.zapier.com/", false),
            ("https://hooks.zapier.com.evil.example/", false),
            ("https://evil.example/hooks.zapier.com", false),
            ("https://hooks.zapier.com@evil.example/", false),
            ("hooks.zapier.com", false),
        ] {
            assert_eq!(is_exempt(url, &hosts), exempt, "{url}");
        }
        assert!(!is_exempt("https://hooks.zapier.com/", &[]));
    }

    proptest! {
        #[test]
        fn an_answer_is_for_its_delivery_url_and_secret_alone(
            delivery: u128, other_delivery: u128, url in "https://[a-z]{1,8}\\.example/[ -~]{0,20}",
            other_url in "https://[a-z]{1,8}\\.example/[ -~]{0,20}", byte: u8, other_byte: u8,
        ) {
            let (delivery, other_delivery) = (Uuid::from_u128(delivery), Uuid::from_u128(other_delivery));
            let nonce = keys().nonce(delivery, &url).unwrap();
            let right = response(&answer(&secret(byte), &nonce));
            prop_assert!(keys().is_answered(&[secret(byte)], delivery, &url, &right));
            prop_assert_eq!(keys().is_answered(&[secret(byte)], other_delivery, &url, &right), delivery == other_delivery);
            prop_assert_eq!(keys().is_answered(&[secret(byte)], delivery, &other_url, &right), url == other_url);
            prop_assert_eq!(keys().is_answered(&[secret(other_byte)], delivery, &url, &right), byte == other_byte);
        }

        #[test]
        fn whatever_a_url_holds_does_not_answer_for_it(text in "[ -~]{0,80}", response in prop::collection::vec(any::<u8>(), 0..200)) {
            let url = format!("https://example.com/?{text}");
            let repeated = [text.as_bytes(), url.as_bytes()];
            for said in repeated.into_iter().chain([response.as_slice()]) {
                prop_assert!(!keys().is_answered(&[secret(1)], DELIVERY, &url, said));
            }
        }

        #[test]
        fn any_url_comes_back_from_its_body(url in "\\PC{0,60}") {
            let body = Body::new("00", &url);
            let whole = [&body.head, &body.endpoint, body.tail].concat();
            prop_assert_eq!(bound_to(whole.as_bytes()), Some(endpoint_hash(&url)));
        }
    }
}
