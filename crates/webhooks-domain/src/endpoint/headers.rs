//! Headers that a customer has added to his requests: an `Authorization`, an API key.
//!
//! They are checked when a webhook is saved and again where they are used, by the same rule. Two
//! things they can never do: say something that we say ([`PROTECTED`], so no request can be made to
//! look signed by us, or framed in another way), and carry a line break or anything else that a
//! parser might read as more than a value.
//!
//! Values are secrets: neither [`CustomHeaders`] nor [`HeaderRefusal`] ever prints one.

use std::{collections::HashSet, fmt};

/// Most custom headers of a webhook.
pub const MAX_HEADERS: usize = 20;

/// Longest name, in bytes.
pub const MAX_NAME_BYTES: usize = 128;

/// Longest value, in bytes.
pub const MAX_VALUE_BYTES: usize = 4_096;

/// Most bytes of all names and values together.
pub const MAX_TOTAL_BYTES: usize = 8 * 1_024;

/// Names that are ours, the protocol's, or open the metadata service of a cloud, lower case. They
/// cannot be set.
pub const PROTECTED: [&str; 36] = [
    "accept-encoding",
    "baggage",
    "cf-access-jwt-assertion",
    "cf-connecting-ip",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "date",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "max-forwards",
    "metadata",
    "metadata-flavor",
    "remote-user",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "trailers",
    "transfer-encoding",
    "true-client-ip",
    "upgrade",
    "user-agent",
    "via",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-goog-iap-jwt-assertion",
    "x-http-method-override",
    "x-original-url",
    "x-real-ip",
    "x-remote-user",
    "x-rewrite-url",
];

/// Beginnings of names that are ours, speak to a proxy or to a cloud's own services, or say who
/// calls, lower case. They cannot be set.
pub const PROTECTED_PREFIXES: [&str; 12] = [
    "webhook-",
    // Libraries of Standard Webhooks read these before ours.
    "svix-",
    "linkbreakers-",
    "x-linkbreakers-",
    "x-forwarded-",
    "x-envoy-",
    "proxy-",
    "x-amz-",
    "x-aws-",
    "x-goog-authenticated-user-",
    "x-google-",
    "x-ms-client-principal",
];

/// Whether `name` is one that a customer cannot set. Case does not matter, nor whether a hyphen is written
/// as an underscore: servers that hand headers on as variables (CGI, WSGI) make one name of both.
#[must_use]
pub fn is_protected(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('_', "-");
    PROTECTED.contains(&name.as_str())
        || PROTECTED_PREFIXES
            .iter()
            .any(|prefix| name.starts_with(prefix))
}

/// Why headers were refused. Shown to customers; never tells a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderRefusal {
    /// More than [`MAX_HEADERS`].
    #[error("at most 20 headers are allowed")]
    TooMany,
    /// Together more than [`MAX_TOTAL_BYTES`].
    #[error("the headers are longer than 8 KiB in all")]
    TooLarge,
    /// A name that is empty, too long or holds a character that names cannot have.
    #[error("header {index}: the name must be 1 to 128 letters, digits or any of !#$%&'*+-.^_`|~")]
    Name {
        /// Which one, from 0.
        index: usize,
    },
    /// One of [`PROTECTED`] or [`PROTECTED_PREFIXES`].
    #[error("header {name}: the name is reserved")]
    Protected {
        /// Which one, from 0.
        index: usize,
        /// Its name.
        name: String,
    },
    /// A name that is there twice; case does not matter.
    #[error("header {name}: the name is there twice")]
    Twice {
        /// Which one, from 0.
        index: usize,
        /// Its name.
        name: String,
    },
    /// A value that is empty, too long, begins or ends with a blank, or holds anything but
    /// printable ASCII, blanks and tabs.
    #[error(
        "header {name}: the value must be 1 to 4096 printable ASCII characters without blanks around it"
    )]
    Value {
        /// Which one, from 0.
        index: usize,
        /// Its name.
        name: String,
    },
}

impl HeaderRefusal {
    /// Which header is meant, from 0; `None` = all of them together.
    #[must_use]
    pub fn index(&self) -> Option<usize> {
        match self {
            Self::TooMany | Self::TooLarge => None,
            Self::Name { index }
            | Self::Protected { index, .. }
            | Self::Twice { index, .. }
            | Self::Value { index, .. } => Some(*index),
        }
    }

    /// The stable machine-readable reason, lower snake case.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::TooMany => "too_many_headers",
            Self::TooLarge => "headers_too_large",
            Self::Name { .. } => "header_name_invalid",
            Self::Protected { .. } => "header_name_reserved",
            Self::Twice { .. } => "header_name_repeated",
            Self::Value { .. } => "header_value_invalid",
        }
    }
}

/// Checked custom headers, in the order given. Names are lower case.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct CustomHeaders(Vec<(String, String)>);

impl fmt::Debug for CustomHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(name, _)| name))
            .finish()
    }
}

impl CustomHeaders {
    /// Checks names and values.
    ///
    /// # Errors
    /// The first rule that is broken, with the header it is about.
    pub fn check<N, V>(headers: impl IntoIterator<Item = (N, V)>) -> Result<Self, HeaderRefusal>
    where
        N: AsRef<str>,
        V: Into<String>,
    {
        let (mut checked, mut names, mut total) = (Vec::new(), HashSet::new(), 0);
        for (index, (name, value)) in headers.into_iter().enumerate() {
            if index >= MAX_HEADERS {
                return Err(HeaderRefusal::TooMany);
            }
            let (name, value) = (name.as_ref(), value.into());
            if !is_name(name) {
                return Err(HeaderRefusal::Name { index });
            }
            let name = name.to_ascii_lowercase();
            if is_protected(&name) {
                return Err(HeaderRefusal::Protected { index, name });
            }
            if !is_value(&value) {
                return Err(HeaderRefusal::Value { index, name });
            }
            total += name.len() + value.len();
            if total > MAX_TOTAL_BYTES {
                return Err(HeaderRefusal::TooLarge);
            }
            if !names.insert(name.clone()) {
                return Err(HeaderRefusal::Twice { index, name });
            }
            checked.push((name, value));
        }
        Ok(Self(checked))
    }

    /// The names with their values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn is_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

fn is_value(value: &str) -> bool {
    (1..=MAX_VALUE_BYTES).contains(&value.len())
        && value
            .bytes()
            .all(|byte| byte == b'\t' || (b' '..=b'~').contains(&byte))
        && !value.starts_with([' ', '\t'])
        && !value.ends_with([' ', '\t'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reason(name: &str, value: &str) -> Option<&'static str> {
        CustomHeaders::check([(name, value)])
            .err()
            .map(|refusal| refusal.reason())
    }

    #[test]
    fn ours_and_the_protocols_names_cannot_be_set_in_any_case() {
        for name in PROTECTED {
            for spelt in [name.to_owned(), name.to_uppercase()] {
                assert_eq!(reason(&spelt, "x"), Some("header_name_reserved"), "{spelt}");
            }
        }
        for name in [
            "webhook-id",
            "Webhook-Signature",
            "webhook-anything",
            "X-Forwarded-For",
        ] {
            assert_eq!(reason(name, "x"), Some("header_name_reserved"), "{name}");
        }
        assert!(PROTECTED.is_sorted());
    }

    #[test]
    fn every_name_that_says_something_we_say_is_refused_and_so_are_its_look_alikes() {
        let rows = [
            "Host",
            "Content-Length",
            "Transfer-Encoding",
            "Connection",
            "TE",
            "Upgrade",
            "Content-Type",
            "User-Agent",
            "webhook-id",
            "webhook-timestamp",
            "webhook-signature",
            "webhook-anything",
            "x-linkbreakers-event",
            "x-linkbreakers-hop",
            "Proxy-Authorization",
            "Proxy-Authenticate",
            "Proxy-Connection",
            "Proxy-Anything",
            "x-forwarded-for",
            "x-forwarded-host",
            "X-Amz-Date",
            "X-Amz-Security-Token",
            "x-aws-ec2-metadata-token",
            "x-aws-ec2-metadata-token-ttl-seconds",
            "Metadata-Flavor",
            "Metadata",
            "webhook_signature",
            "X_Forwarded_For",
            "Content_Length",
            "svix-signature",
            "X-Google-Metadata-Request",
            "X-Goog-Authenticated-User-Email",
            "X-MS-Client-Principal-Id",
            "CF-Connecting-IP",
            "X-Original-URL",
        ];
        for name in rows {
            let mixed: String = name
                .chars()
                .enumerate()
                .map(|(at, letter)| match at % 2 {
                    0 => letter.to_ascii_uppercase(),
                    _ => letter.to_ascii_lowercase(),
                })
                .collect();
            for spelt in [
                name.to_owned(),
                name.to_lowercase(),
                name.to_uppercase(),
                mixed,
            ] {
                assert_eq!(reason(&spelt, "x"), Some("header_name_reserved"), "{spelt}");
            }
            // Letters that look the same, full-width forms, hyphens of other kinds, and characters
            // that nobody sees: a name has none of them.
            let hyphen = |other: &str| name.replace('-', other);
            let swapped = |from: char, to: &str| name.to_lowercase().replace(from, to);
            let look_alikes = [
                swapped('o', "\u{43e}"),
                swapped('e', "\u{435}"),
                swapped('a', "\u{430}"),
                swapped('t', "\u{ff54}"),
                swapped('k', "\u{212a}"),
                swapped('i', "\u{131}"),
                swapped('s', "\u{17f}"),
                hyphen("\u{2010}"),
                hyphen("\u{2212}"),
                hyphen("\u{ff0d}"),
                format!("{name}\u{200b}"),
                format!("\u{feff}{name}"),
                format!("{name} "),
                format!(" {name}"),
                format!("{name}:"),
                format!("{name}\0"),
                format!("{name}\t"),
            ];
            for spelt in look_alikes {
                let same = spelt.eq_ignore_ascii_case(name);
                let expected = match same {
                    true => "header_name_reserved",
                    false => "header_name_invalid",
                };
                assert_eq!(reason(&spelt, "x"), Some(expected), "{spelt:?}");
            }
        }
        for free in [
            "x-amzn",
            // Keys of clouds that customers call.
            "x-goog-api-key",
            "cf-access-client-secret",
            "x-functions-key",
            "metadata-x",
            "x-metadata",
            "proxy",
            "x-host",
            "hosts",
        ] {
            assert_eq!(reason(free, "x"), None, "{free}");
        }
    }

    #[test]
    fn a_name_or_value_out_of_bounds_is_refused() {
        let check = |name: &str, value: &str, expected: Option<&str>| {
            assert_eq!(reason(name, value), expected, "{name:?}: {value:?}");
        };
        check("Authorization", "Bearer abc", None);
        check("X-Api-Key", "a\tb c", None);
        check("", "x", Some("header_name_invalid"));
        check("a b", "x", Some("header_name_invalid"));
        check("a:", "x", Some("header_name_invalid"));
        check("ä", "x", Some("header_name_invalid"));
        check(&"a".repeat(129), "x", Some("header_name_invalid"));
        check("x", "", Some("header_value_invalid"));
        check("x", "a\r\nwebhook-id: 1", Some("header_value_invalid"));
        check("x", "a\0", Some("header_value_invalid"));
        check("x", "ü", Some("header_value_invalid"));
        check("x", " a", Some("header_value_invalid"));
        check("x", "a ", Some("header_value_invalid"));
        check("x", &"a".repeat(4_097), Some("header_value_invalid"));
    }

    #[test]
    fn number_total_and_repetition_are_bounded() {
        let many: Vec<_> = (0..21).map(|n| (format!("x-{n}"), "v")).collect();
        assert_eq!(
            CustomHeaders::check(many.clone()),
            Err(HeaderRefusal::TooMany)
        );
        assert_eq!(
            CustomHeaders::check(many[..20].to_vec())
                .map(|headers| headers.len())
                .unwrap(),
            20
        );
        let long = "v".repeat(4_000);
        let large = [("a", long.clone()), ("b", long.clone()), ("c", long)];
        assert_eq!(CustomHeaders::check(large), Err(HeaderRefusal::TooLarge));
        let twice = CustomHeaders::check([("X-A", "1"), ("x-a", "2")]).unwrap_err();
        assert_eq!(twice.reason(), "header_name_repeated");
        assert_eq!(twice.index(), Some(1));
    }

    #[test]
    fn a_value_is_never_printed() {
        let headers = CustomHeaders::check([("authorization", "hunter2")]).unwrap();
        assert_eq!(format!("{headers:?}"), r#"["authorization"]"#);
        let refusal = CustomHeaders::check([("x", "hunter2\n")]).unwrap_err();
        assert!(!format!("{refusal:?} {refusal}").contains("hunter2"));
    }

    proptest! {
        #[test]
        fn what_is_taken_has_no_line_break_and_no_name_of_ours(name in ".{0,12}", value in ".{0,12}") {
            if let Ok(headers) = CustomHeaders::check([(name.as_str(), value.as_str())]) {
                for (name, value) in headers.iter() {
                    prop_assert!(!is_protected(name));
                    prop_assert!(!value.contains(['\r', '\n', '\0']));
                }
            }
        }
    }
}
