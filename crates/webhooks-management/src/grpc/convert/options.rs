//! The options of a webhook, between gRPC's messages and drafts.

use std::collections::BTreeMap;

use webhooks_domain::{event::parse_rfc3339_micros, webhook::DeliveryOrder};
use webhooks_proto::v1::{self, endpoint_auth::Kind};
use webhooks_runtime::Secret;
use webhooks_store::{RateChoice, RetryChoice};

use crate::{
    draft::{AuthDraft, CertificateDraft, HeaderDraft, RateDraft, RetryDraft},
    extras::{ClientAuth, Place, Shown, ShownAuth, ShownCertificate},
    view::units,
};

use v1::endpoint_auth::{
    ApiKey, Basic, Bearer, OAuth2ClientCredentials, api_key,
    o_auth2_client_credentials::ClientAuth as WireAuth,
};

/// A retry policy: its preset or its numbers.
pub(super) fn retry(choice: RetryChoice) -> v1::RetryPolicy {
    let preset = |name: &str| v1::RetryPolicy {
        preset: name.to_owned(),
        ..v1::RetryPolicy::default()
    };
    match choice {
        RetryChoice::Standard => preset("standard"),
        RetryChoice::Resilient => preset("resilient"),
        RetryChoice::Custom(numbers) => v1::RetryPolicy {
            preset: String::new(),
            max_attempts: Some(numbers.max_attempts),
            base_seconds: Some(units(numbers.base_ms)),
            factor: Some(units(numbers.factor_milli.into())),
            cap_seconds: Some(units(numbers.cap_ms)),
            jitter: Some(units(numbers.jitter_milli.into())),
            max_age_seconds: Some(units(numbers.max_age_ms)),
        },
    }
}

pub(super) fn retry_draft(policy: &v1::RetryPolicy) -> RetryDraft {
    RetryDraft {
        preset: filled(&policy.preset),
        max_attempts: policy.max_attempts.map(i64::from),
        base_seconds: policy.base_seconds,
        factor: policy.factor,
        cap_seconds: policy.cap_seconds,
        jitter: policy.jitter,
        max_age_seconds: policy.max_age_seconds,
    }
}

pub(super) fn rate(rate: RateChoice) -> v1::RateLimit {
    v1::RateLimit {
        count: rate.count,
        period_seconds: rate.period_seconds,
        burst: rate.burst,
    }
}

/// A count of 0 = no limit.
pub(super) fn rate_draft(limit: &v1::RateLimit) -> Option<RateDraft> {
    (limit.count > 0).then(|| RateDraft {
        count: Some(limit.count.into()),
        period_seconds: Some(limit.period_seconds.into()),
        burst: (limit.burst > 0).then(|| limit.burst.into()),
    })
}

/// 0 = the default.
pub(super) fn in_flight(number: Option<u32>) -> Option<Option<i64>> {
    number.map(|number| (number > 0).then(|| number.into()))
}

pub(super) fn ordering(order: DeliveryOrder) -> v1::Ordering {
    match order {
        DeliveryOrder::None => v1::Ordering::None,
        DeliveryOrder::Link => v1::Ordering::Link,
        DeliveryOrder::Visitor => v1::Ordering::Visitor,
    }
}

/// A number that is no ordering becomes a word that is none, and is refused as such.
pub(super) fn written_ordering(number: Option<i32>) -> Option<String> {
    let number = number.filter(|number| *number != 0)?;
    Some(v1::Ordering::try_from(number).map_or_else(
        |_| number.to_string(),
        |known| short(known.as_str_name(), "ORDERING_"),
    ))
}

pub(super) fn written_held(number: i32) -> Option<String> {
    if number == 0 {
        return None;
    }
    Some(v1::HeldDeliveries::try_from(number).map_or_else(
        |_| number.to_string(),
        |known| short(known.as_str_name(), "HELD_DELIVERIES_"),
    ))
}

fn short(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_owned()
}

pub(super) fn labels(labels: BTreeMap<String, String>) -> Vec<(String, String)> {
    labels.into_iter().collect()
}

pub(super) fn headers(shown: &Shown) -> Vec<v1::Header> {
    let headers = shown.headers.iter();
    headers
        .map(|header| v1::Header {
            name: header.name.clone(),
            value: header.value.clone(),
        })
        .collect()
}

pub(super) fn header_drafts(headers: Vec<v1::Header>) -> Vec<HeaderDraft> {
    let headers = headers.into_iter();
    headers
        .map(|header| HeaderDraft {
            name: header.name,
            value: secret(header.value),
        })
        .collect()
}

pub(super) fn auth(shown: &ShownAuth) -> v1::EndpointAuth {
    let kind = match shown.clone() {
        ShownAuth::Bearer { token } => Kind::Bearer(Bearer { token }),
        ShownAuth::Basic { username, password } => Kind::Basic(Basic { username, password }),
        ShownAuth::ApiKey { place, name, value } => Kind::ApiKey(ApiKey {
            place: match place {
                Place::Header => api_key::Place::Header,
                Place::Query => api_key::Place::Query,
            }
            .into(),
            name,
            value,
        }),
        ShownAuth::OAuth2 {
            token_url,
            client_id,
            client_secret,
            scopes,
            audience,
            client_auth,
        } => Kind::Oauth2ClientCredentials(OAuth2ClientCredentials {
            token_url,
            client_id,
            client_secret,
            scopes,
            audience,
            client_auth: match client_auth {
                ClientAuth::Basic => WireAuth::Basic,
                ClientAuth::Post => WireAuth::Post,
            }
            .into(),
        }),
    };
    v1::EndpointAuth { kind: Some(kind) }
}

/// None of the kinds = no authentication.
pub(super) fn auth_draft(auth: v1::EndpointAuth) -> Option<AuthDraft> {
    Some(match auth.kind? {
        Kind::Bearer(Bearer { token }) => AuthDraft::Bearer {
            token: secret(token),
        },
        Kind::Basic(Basic { username, password }) => AuthDraft::Basic {
            username,
            password: secret(password),
        },
        Kind::ApiKey(key) => AuthDraft::ApiKey {
            place: match key.place() {
                api_key::Place::Header => "header",
                api_key::Place::Query => "query",
                api_key::Place::Unspecified => "",
            }
            .to_owned(),
            name: key.name,
            value: secret(key.value),
        },
        Kind::Oauth2ClientCredentials(client) => AuthDraft::OAuth2 {
            client_auth: match client.client_auth() {
                WireAuth::Unspecified | WireAuth::Basic => "basic",
                WireAuth::Post => "post",
            }
            .to_owned(),
            token_url: client.token_url,
            client_id: client.client_id,
            client_secret: secret(client.client_secret),
            scopes: client.scopes,
            audience: client.audience,
        },
    })
}

pub(super) fn certificate(shown: &ShownCertificate) -> v1::ClientCertificate {
    let time = |text: &str| parse_rfc3339_micros(text).map(super::timestamp);
    v1::ClientCertificate {
        certificate: String::new(),
        private_key: shown.private_key.clone(),
        subject: shown.subject.clone(),
        fingerprint: shown.fingerprint.clone(),
        not_before: time(&shown.not_before),
        not_after: time(&shown.not_after),
    }
}

/// An empty message = no certificate.
pub(super) fn certificate_draft(wish: v1::ClientCertificate) -> Option<CertificateDraft> {
    (wish != v1::ClientCertificate::default()).then(|| CertificateDraft {
        certificate: filled(&wish.certificate),
        private_key: secret(wish.private_key),
    })
}

/// Empty = the stored one.
fn secret(value: String) -> Option<Secret> {
    filled(&value).map(Secret::new)
}

fn filled(text: &str) -> Option<String> {
    Some(text.to_owned()).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use webhooks_domain::webhook::HeldChoice;

    use super::*;

    #[test]
    fn our_words_are_the_protocols_words() {
        for order in DeliveryOrder::ALL {
            let number = Some(i32::from(ordering(*order)));
            assert_eq!(written_ordering(number).as_deref(), Some(order.as_str()));
        }
        assert_eq!(written_ordering(Some(0)), None);
        assert_eq!(written_ordering(Some(9)).as_deref(), Some("9"));
        let held = [1, 2, 3].map(|number| written_held(number).unwrap());
        for choice in HeldChoice::ALL {
            assert!(held.iter().any(|word| word == choice.as_str()));
        }
        assert_eq!(written_held(0), None);
    }

    #[test]
    fn nothing_in_a_message_clears_and_empty_values_stay() {
        assert_eq!(rate_draft(&v1::RateLimit::default()), None);
        assert_eq!(in_flight(Some(0)), Some(None));
        assert_eq!(auth_draft(v1::EndpointAuth::default()), None);
        let bearer = Kind::Bearer(Bearer::default());
        let bearer = v1::EndpointAuth { kind: Some(bearer) };
        assert_eq!(auth_draft(bearer), Some(AuthDraft::Bearer { token: None }));
    }
}
