//! The endpoint's URL, parsed once.

use std::net::IpAddr;

use ::url::{Host, Url};
use sha2::{Digest as _, Sha256};

use super::policy::{AddressPolicy, is_blocked_port};
use super::refusal::EndpointRefusal;

/// The longest endpoint URL accepted, in bytes of its text.
pub const MAX_URL_BYTES: usize = 2048;

/// A URL that passed the rules when it was made.
///
/// The parsed form is what gets dialled, so there is never a second parser that could read the text
/// another way. Its host has no trailing dot, which keeps name checks, `Host` header and TLS name
/// the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointUrl {
    text: Box<str>,
    url: Url,
    literal: Option<IpAddr>,
}

impl EndpointUrl {
    /// Reads and judges a URL. Cheap enough to be repeated for every attempt.
    ///
    /// The raw text is checked first: the URL standard has parsers drop tabs and line breaks and
    /// turn `\` into `/`, so after parsing it is too late to see a trick.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn parse(text: &str, policy: &AddressPolicy) -> Result<Self, EndpointRefusal> {
        check_text(text, policy)?;
        let mut url = Url::parse(text).map_err(|_| EndpointRefusal::Malformed)?;
        let literal = match url.host() {
            Some(Host::Ipv4(ip)) => Some(IpAddr::V4(ip)),
            Some(Host::Ipv6(ip)) => Some(IpAddr::V6(ip)),
            Some(Host::Domain(name)) => {
                if let Some(bare) = name.strip_suffix('.') {
                    let bare = bare.to_owned();
                    url.set_host(Some(&bare))
                        .map_err(|_| EndpointRefusal::Malformed)?;
                    // `2130706433..` is a name with an empty label; without its last dot it would be
                    // 127.0.0.1, and no longer a name.
                    if !matches!(url.host(), Some(Host::Domain(_))) {
                        return Err(EndpointRefusal::Malformed);
                    }
                }
                None
            }
            None => return Err(EndpointRefusal::Malformed),
        };
        let endpoint = Self {
            text: text.into(),
            url,
            literal,
        };
        endpoint.check(policy)?;
        Ok(endpoint)
    }

    /// The URL with pairs appended to its query, such as an API key, judged as a whole: what is
    /// called is what has to obey the rules, so who saves a webhook asks the same as who calls it.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn with_query<N, V>(
        self,
        pairs: impl IntoIterator<Item = (N, V)>,
        policy: &AddressPolicy,
    ) -> Result<Self, EndpointRefusal>
    where
        N: AsRef<str>,
        V: AsRef<str>,
    {
        let mut pairs = pairs.into_iter().peekable();
        if pairs.peek().is_none() {
            return Ok(self);
        }
        let mut whole = self.url;
        whole.query_pairs_mut().extend_pairs(pairs);
        Self::parse(whole.as_str(), policy)
    }

    /// Whether both lead to the same scheme, host and port.
    #[must_use]
    pub fn same_origin(&self, other: &Self) -> bool {
        self.url.origin() == other.url.origin()
    }

    /// Judges an already parsed URL again, for a caller that does not know under which policy it
    /// was parsed.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check(&self, policy: &AddressPolicy) -> Result<(), EndpointRefusal> {
        if self.url.scheme() != "https" && !policy.allow_http {
            return Err(EndpointRefusal::SchemeNotHttps);
        }
        let any_port = match self.literal {
            Some(ip) => {
                policy.vet_address(ip)?;
                policy.opens(ip)
            }
            None => {
                policy.vet_name(self.host())?;
                false
            }
        };
        let port = self.port();
        if port == 0 || (!any_port && is_blocked_port(port)) {
            return Err(EndpointRefusal::BlockedPort);
        }
        Ok(())
    }

    /// The text as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The parsed URL, to be dialled as it is.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Gives up the parsed URL without copying it.
    #[must_use]
    pub fn into_url(self) -> Url {
        self.url
    }

    /// The host in lower case, without a trailing dot; an IPv6 literal keeps its brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    /// The port, the scheme's own if none is written.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.url.port_or_known_default().unwrap_or_default()
    }

    /// The address, if the host is one in any of its spellings and not a name.
    #[must_use]
    pub fn literal_ip(&self) -> Option<IpAddr> {
        self.literal
    }

    /// The text up to its query, for logs: queries often carry tokens. User info and fragment are
    /// not there to be removed, since [`parse`](Self::parse) refuses them.
    #[must_use]
    pub fn without_query(&self) -> &str {
        self.text.split('?').next().unwrap_or_default()
    }
}

/// How many bytes of a URL's digest are kept.
const DIGEST_BYTES: usize = 4;

/// A URL as it may be kept for ever: without its query, where people put tokens, and in its place the
/// beginning of the whole's SHA-256, so that a change of it shows. So short a digest confirms no guess.
#[must_use]
pub fn url_for_record(text: &str) -> String {
    let Some((before, _)) = text.split_once('?') else {
        return text.to_owned();
    };
    let digest = Sha256::digest(text.as_bytes());
    let mut record = format!("{before}?sha256:");
    for byte in digest.iter().take(DIGEST_BYTES) {
        record.push_str(&format!("{byte:02x}"));
    }
    record
}

/// What can only be seen before parsing.
fn check_text(text: &str, policy: &AddressPolicy) -> Result<(), EndpointRefusal> {
    if text.len() > MAX_URL_BYTES {
        return Err(EndpointRefusal::TooLong);
    }
    if !is_plain(text) {
        return Err(EndpointRefusal::Malformed);
    }
    let rest = match strip_scheme(text, "https:") {
        Some(rest) => rest,
        None if policy.allow_http => {
            strip_scheme(text, "http:").ok_or(EndpointRefusal::SchemeNotHttps)?
        }
        None => return Err(EndpointRefusal::SchemeNotHttps),
    };
    // `https:host`, `https:/host` and `https:///host` all parse as `https://host`.
    let rest = rest.strip_prefix("//").ok_or(EndpointRefusal::Malformed)?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.is_empty() {
        return Err(EndpointRefusal::Malformed);
    }
    if authority.contains('@') {
        return Err(EndpointRefusal::Userinfo);
    }
    if rest.contains('#') {
        return Err(EndpointRefusal::Fragment);
    }
    Ok(())
}

/// No control characters, white space or backslashes, in whatever alphabet.
fn is_plain(text: &str) -> bool {
    if text.is_ascii() {
        return text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    }
    text.chars()
        .all(|character| !character.is_control() && !character.is_whitespace() && character != '\\')
}

fn strip_scheme<'a>(text: &'a str, scheme: &str) -> Option<&'a str> {
    let head = text.get(..scheme.len())?;
    head.eq_ignore_ascii_case(scheme)
        .then(|| &text[scheme.len()..])
}
