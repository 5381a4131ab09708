//! What a webhook's requests carry beside the payload: headers of the customer's own, and how the
//! receiver knows us.
//!
//! Values are secrets. They live in memory only while a change is made ([`Extras`]), are stored
//! sealed, and are shown as masks ([`Shown`]), which are computed once, when there is a value.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use prost::Message as _;
use serde::{Deserialize, Serialize};
use webhooks_domain::event::format_micros;
use webhooks_egress::CertificateFacts;
use webhooks_proto::{
    internal::v1::{ClientCertificate as SealedCertificate, EndpointExtras, TokenClient},
    v1::Header,
};
use webhooks_runtime::Secret;

/// What stands for a value.
pub(crate) const MASK: &str = "••••";

/// From how many characters on a value's last ones are shown, and how many.
/// What people choose themselves is shorter as a rule, and four characters of that are too many.
const SHOWN_FROM_CHARS: usize = 24;
const SHOWN_CHARS: usize = 4;

/// The header of bearer and basic authentication.
const AUTHORIZATION: &str = "Authorization";

/// Headers and credentials in the clear.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Extras {
    /// The customer's headers.
    pub(crate) headers: Vec<(String, Secret)>,
    /// Credentials.
    pub(crate) auth: Option<Auth>,
    /// What is shown in the TLS handshake.
    pub(crate) client_certificate: Option<ClientCertificate>,
}

/// A client certificate with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClientCertificate {
    /// PEM.
    pub(crate) chain: String,
    /// PEM.
    pub(crate) key: Secret,
    /// What may be shown of it.
    pub(crate) shown: ShownCertificate,
}

/// How the receiver knows us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Auth {
    /// `Authorization: Bearer …`
    Bearer {
        /// The token.
        token: Secret,
    },
    /// `Authorization: Basic …`
    Basic {
        /// Without a colon.
        username: String,
        /// May be empty.
        password: Secret,
    },
    /// A key in a header or in the query.
    ApiKey {
        /// Which of both.
        place: Place,
        /// The header's or the parameter's name.
        name: String,
        /// The key.
        value: Secret,
    },
    /// A bearer token fetched by the client credentials grant of OAuth 2.
    OAuth2 {
        /// Where.
        token_url: String,
        /// The client.
        client_id: String,
        /// Its secret.
        client_secret: Secret,
        /// What is asked for; none = the server's own choice.
        scopes: Vec<String>,
        /// Empty = none.
        audience: String,
        /// Where id and secret go.
        client_auth: ClientAuth,
    },
}

/// Where an OAuth 2 client's id and secret go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum ClientAuth {
    /// Into the `Authorization` header.
    #[default]
    Basic,
    /// Into the body.
    Post,
}

/// Where an API key goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Place {
    /// In a header.
    Header,
    /// In the URL's query.
    Query,
}

/// Headers and credentials as everyone may see them; also the form of the API.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Shown {
    /// The customer's headers, values masked.
    pub(crate) headers: Vec<ShownHeader>,
    /// Credentials, masked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) auth: Option<ShownAuth>,
    /// The client certificate, without its key.
    #[serde(rename = "clientCertificate", skip_serializing_if = "Option::is_none")]
    pub(crate) client_certificate: Option<ShownCertificate>,
}

/// A client certificate, without its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ShownCertificate {
    /// Whom it is for.
    pub(crate) subject: String,
    /// SHA-256 in hexadecimal.
    pub(crate) fingerprint: String,
    /// From when on it is valid.
    pub(crate) not_before: String,
    /// Until when.
    pub(crate) not_after: String,
    /// The mask.
    pub(crate) private_key: String,
}

impl ShownCertificate {
    /// What these facts show.
    pub(crate) fn of(facts: &CertificateFacts) -> Self {
        Self {
            subject: facts.subject.clone(),
            fingerprint: facts.fingerprint.clone(),
            not_before: shown_time(facts.not_before),
            not_after: shown_time(facts.not_after),
            private_key: MASK.to_owned(),
        }
    }
}

/// A time in seconds as the API writes it.
pub(crate) fn shown_time(seconds: i64) -> String {
    format_micros(seconds.saturating_mul(1_000_000))
}

/// One header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShownHeader {
    /// Its name.
    pub(crate) name: String,
    /// The mask.
    pub(crate) value: String,
}

/// Credentials, masked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub(crate) enum ShownAuth {
    /// A bearer token.
    Bearer {
        /// The mask.
        token: String,
    },
    /// Name and password.
    Basic {
        /// The name.
        username: String,
        /// The mask.
        password: String,
    },
    /// An API key.
    ApiKey {
        /// Where it goes.
        #[serde(rename = "in")]
        place: Place,
        /// The header's or the parameter's name.
        name: String,
        /// The mask.
        value: String,
    },
    /// A client of an OAuth 2 server.
    #[serde(rename = "oauth2ClientCredentials", rename_all = "camelCase")]
    OAuth2 {
        /// Where tokens come from.
        token_url: String,
        /// The client.
        client_id: String,
        /// The mask.
        client_secret: String,
        /// What is asked for.
        scopes: Vec<String>,
        /// Empty = none.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        audience: String,
        /// Where id and secret go.
        client_auth: ClientAuth,
    },
}

/// Stored extras that are not what was stored.
#[derive(Debug, thiserror::Error)]
#[error("the stored headers cannot be read: {0}")]
pub(crate) struct Unreadable(&'static str);

/// A secret value as it may be shown.
pub(crate) fn mask(value: &str) -> String {
    let chars = value.chars().count();
    let shown = match chars >= SHOWN_FROM_CHARS {
        true => chars - SHOWN_CHARS,
        false => chars,
    };
    MASK.chars().chain(value.chars().skip(shown)).collect()
}

/// Whether `text` reads like the mask of some value.
pub(crate) fn is_mask(text: &str) -> bool {
    let end = text.strip_prefix(MASK);
    end.is_some_and(|end| end.chars().count() <= SHOWN_CHARS)
}

/// Whether `text` stands for `value`: its mask, of this release or of an earlier one, which showed
/// the end of shorter values, too.
pub(crate) fn is_mask_of(text: &str, value: &str) -> bool {
    is_mask(text)
        && text
            .strip_prefix(MASK)
            .is_some_and(|end| value.ends_with(end))
}

impl Auth {
    /// The pair that it appends to the URL's query, if it does.
    pub(crate) fn query(&self) -> Option<(&str, &str)> {
        match self {
            Self::ApiKey {
                place: Place::Query,
                name,
                value,
            } => Some((name, value.expose())),
            Self::ApiKey {
                place: Place::Header,
                ..
            }
            | Self::Bearer { .. }
            | Self::Basic { .. }
            | Self::OAuth2 { .. } => None,
        }
    }

    /// The header it needs, if it is one.
    pub(crate) fn header(&self) -> Option<(&str, String)> {
        match self {
            Self::Bearer { token } => Some((AUTHORIZATION, format!("Bearer {}", token.expose()))),
            Self::Basic { username, password } => {
                let pair = STANDARD.encode(format!("{username}:{}", password.expose()));
                Some((AUTHORIZATION, format!("Basic {pair}")))
            }
            Self::ApiKey {
                place: Place::Header,
                name,
                value,
            } => Some((name, value.expose().to_owned())),
            Self::ApiKey {
                place: Place::Query,
                ..
            }
            | Self::OAuth2 { .. } => None,
        }
    }

    fn shown(&self) -> ShownAuth {
        match self {
            Self::Bearer { token } => ShownAuth::Bearer {
                token: mask(token.expose()),
            },
            Self::Basic { username, .. } => ShownAuth::Basic {
                username: username.clone(),
                // Chosen by a person, and used elsewhere too: nothing of it is shown.
                password: MASK.to_owned(),
            },
            Self::ApiKey { place, name, value } => ShownAuth::ApiKey {
                place: *place,
                name: name.clone(),
                value: mask(value.expose()),
            },
            Self::OAuth2 {
                token_url,
                client_id,
                client_secret,
                scopes,
                audience,
                client_auth,
            } => ShownAuth::OAuth2 {
                token_url: token_url.clone(),
                client_id: client_id.clone(),
                client_secret: mask(client_secret.expose()),
                scopes: scopes.clone(),
                audience: audience.clone(),
                client_auth: *client_auth,
            },
        }
    }
}

impl Extras {
    /// Whether there is nothing to seal.
    pub(crate) fn is_empty(&self) -> bool {
        self.headers.is_empty() && self.auth.is_none() && self.client_certificate.is_none()
    }

    /// What may be shown of it.
    pub(crate) fn shown(&self) -> Shown {
        Shown {
            headers: self
                .headers
                .iter()
                .map(|(name, value)| ShownHeader {
                    name: name.clone(),
                    value: mask(value.expose()),
                })
                .collect(),
            auth: self.auth.as_ref().map(Auth::shown),
            client_certificate: self
                .client_certificate
                .as_ref()
                .map(|certificate| certificate.shown.clone()),
        }
    }

    /// As the dispatcher reads it.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let header = |name: &str, value: &str| Header {
            name: name.to_owned(),
            value: value.to_owned(),
        };
        let own = self.headers.iter();
        let mut headers: Vec<_> = own
            .map(|(name, value)| header(name, value.expose()))
            .collect();
        let auth = self.auth.as_ref();
        headers.extend(
            auth.and_then(Auth::header)
                .map(|(name, value)| header(name, &value)),
        );
        let query = auth.and_then(Auth::query);
        let query = query.map(|(name, value)| header(name, value));
        let query = query.into_iter().collect();
        let token = match auth {
            Some(Auth::OAuth2 {
                token_url,
                client_id,
                client_secret,
                scopes,
                audience,
                client_auth,
            }) => Some(TokenClient {
                url: token_url.clone(),
                client_id: client_id.clone(),
                client_secret: client_secret.expose().to_owned(),
                scopes: scopes.clone(),
                audience: audience.clone(),
                in_body: *client_auth == ClientAuth::Post,
            }),
            _ => None,
        };
        let certificate = self.client_certificate.as_ref();
        let client_certificate = certificate.map(|certificate| SealedCertificate {
            chain: certificate.chain.clone().into_bytes().into(),
            private_key: certificate.key.expose().as_bytes().to_vec().into(),
        });
        EndpointExtras {
            headers,
            query,
            token,
            client_certificate,
        }
        .encode_to_vec()
    }

    /// Reads what [`Self::encode`] wrote; `shown` tells which part is what.
    ///
    /// # Errors
    /// The two do not belong together.
    pub(crate) fn decode(bytes: &[u8], shown: &Shown) -> Result<Self, Unreadable> {
        let sealed = EndpointExtras::decode(bytes).map_err(|_| Unreadable("not our message"))?;
        let find = |headers: &[Header], name: &str| {
            headers
                .iter()
                .find(|header| header.name.eq_ignore_ascii_case(name))
                .map(|header| header.value.clone())
                .ok_or(Unreadable("a header is missing"))
        };
        let own = shown.headers.iter();
        let headers = own
            .map(|one| {
                let value = find(&sealed.headers, &one.name)?;
                Ok((one.name.clone(), Secret::new(value)))
            })
            .collect::<Result<_, _>>()?;
        let auth = match &shown.auth {
            None => None,
            Some(ShownAuth::Bearer { .. }) => {
                let value = find(&sealed.headers, AUTHORIZATION)?;
                let token = value.strip_prefix("Bearer ");
                let token = Secret::new(token.ok_or(Unreadable("no bearer token"))?);
                Some(Auth::Bearer { token })
            }
            Some(ShownAuth::Basic { username, .. }) => {
                let value = find(&sealed.headers, AUTHORIZATION)?;
                let pair = value
                    .strip_prefix("Basic ")
                    .and_then(|encoded| STANDARD.decode(encoded).ok())
                    .and_then(|bytes| String::from_utf8(bytes).ok());
                let (_, password) = pair
                    .as_deref()
                    .and_then(|pair| pair.split_once(':'))
                    .ok_or(Unreadable("no name and password"))?;
                Some(Auth::Basic {
                    username: username.clone(),
                    password: Secret::new(password),
                })
            }
            Some(ShownAuth::ApiKey { place, name, .. }) => {
                let among = match place {
                    Place::Header => &sealed.headers,
                    Place::Query => &sealed.query,
                };
                Some(Auth::ApiKey {
                    place: *place,
                    name: name.clone(),
                    value: Secret::new(find(among, name)?),
                })
            }
            Some(ShownAuth::OAuth2 { .. }) => {
                let client = sealed.token.ok_or(Unreadable("no token client"))?;
                Some(Auth::OAuth2 {
                    token_url: client.url,
                    client_id: client.client_id,
                    client_secret: Secret::new(client.client_secret),
                    scopes: client.scopes,
                    audience: client.audience,
                    client_auth: match client.in_body {
                        true => ClientAuth::Post,
                        false => ClientAuth::Basic,
                    },
                })
            }
        };
        let client_certificate = match &shown.client_certificate {
            None => None,
            Some(shown) => {
                let missing = Unreadable("no client certificate");
                let stored = sealed.client_certificate.ok_or(missing)?;
                let text = |bytes: &[u8]| {
                    let text = String::from_utf8(bytes.to_vec());
                    text.map_err(|_| Unreadable("the client certificate is no text"))
                };
                Some(ClientCertificate {
                    chain: text(&stored.chain)?,
                    key: Secret::new(text(&stored.private_key)?),
                    shown: shown.clone(),
                })
            }
        };
        Ok(Self {
            headers,
            auth,
            client_certificate,
        })
    }
}

impl Shown {
    /// Reads the stored form. What cannot be read is shown as nothing, and told to the operator.
    pub(crate) fn read(stored: &serde_json::Value) -> Self {
        Self::deserialize(stored).unwrap_or_else(|error| {
            tracing::error!(%error, "the masks of a webhook's headers cannot be read");
            Self::default()
        })
    }

    /// The stored form.
    pub(crate) fn to_stored(&self) -> Result<serde_json::Value, serde_json::Error> {
        serde_json::to_value(self)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_mask_shows_the_end_of_what_is_long() {
        assert_eq!(mask(""), "••••");
        assert_eq!(mask("12345678901234567890123"), "••••");
        assert_eq!(mask("123456789012345678901234"), "••••1234");
        assert_eq!(mask("ääääääääääääääääääääüöß!"), "••••üöß!");
        let password = Auth::Basic {
            username: "ann".into(),
            password: Secret::new("correct horse battery staple"),
        };
        let expected = ShownAuth::Basic {
            username: "ann".into(),
            password: "••••".into(),
        };
        assert_eq!(password.shown(), expected);
    }

    #[test]
    fn a_mask_stands_for_its_value_only() {
        for text in ["••••", "••••9012", "••••2"] {
            assert!(is_mask_of(text, "123456789012"), "{text}");
        }
        for text in ["", "•••", "9012", "••••9013", "••••89012", "••••••••"]
        {
            assert!(!is_mask_of(text, "123456789012"), "{text}");
        }
    }

    #[test]
    fn what_is_sealed_reads_back_and_what_is_shown_holds_no_secret() {
        let secret = |text: &str| Secret::new(text);
        let headers = vec![("X-Team".to_owned(), secret("blue-and-very-long"))];
        for auth in [
            None,
            Some(Auth::Bearer {
                token: secret("tok-0123456789"),
            }),
            Some(Auth::Basic {
                username: "ann".into(),
                password: secret("a:b"),
            }),
            Some(Auth::ApiKey {
                place: Place::Header,
                name: "X-Key".into(),
                value: secret("k1"),
            }),
            Some(Auth::ApiKey {
                place: Place::Query,
                name: "key".into(),
                value: secret("k&=1"),
            }),
            Some(Auth::OAuth2 {
                token_url: "https://id.example/token".into(),
                client_id: "client".into(),
                client_secret: secret("s3cret-of-the-client"),
                scopes: vec!["a".into(), "b".into()],
                audience: "aud".into(),
                client_auth: ClientAuth::Post,
            }),
        ] {
            let extras = Extras {
                headers: headers.clone(),
                auth,
                client_certificate: Some(ClientCertificate {
                    chain: "chain".into(),
                    key: secret("canary-key"),
                    shown: ShownCertificate::of(&CertificateFacts {
                        subject: "CN=x".into(),
                        fingerprint: "00".into(),
                        not_before: 0,
                        not_after: 1,
                        is_authority: false,
                    }),
                }),
            };
            let shown = extras.shown();
            let stored = shown.to_stored().unwrap();
            assert_eq!(Shown::read(&stored), shown);
            assert_eq!(Extras::decode(&extras.encode(), &shown).unwrap(), extras);
            let text = stored.to_string();
            for canary in [
                "blue", "tok-01", "a:b", "\"k1\"", "k&=1", "s3cret", "canary",
            ] {
                assert!(!text.contains(canary), "{text}");
            }
            assert!(!format!("{extras:?}").contains("blue"));
        }
        assert_eq!(Shown::read(&json!({})), Shown::default());
        assert!(Extras::default().is_empty());
    }

    #[test]
    fn the_form_of_the_api_is_the_documented_one() {
        let auth = Auth::ApiKey {
            place: Place::Query,
            name: "key".into(),
            value: Secret::new("0123456789abcdef"),
        };
        assert_eq!(
            serde_json::to_value(auth.shown()).unwrap(),
            json!({ "type": "apiKey", "in": "query", "name": "key", "value": "••••" })
        );
        let (name, value) = Auth::Basic {
            username: "Aladdin".into(),
            password: Secret::new("open sesame"),
        }
        .header()
        .map(|(name, value)| (name.to_owned(), value))
        .unwrap();
        // RFC 7617, section 2: the example.
        assert_eq!(
            (name.as_str(), value.as_str()),
            ("Authorization", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")
        );
    }
}
