//! Judging headers and credentials. Values that a change leaves out, or sends as the mask that was
//! shown, are the stored ones: who reads a webhook, changes it and writes it back keeps them, unless
//! he leads it to another host.

use webhooks_domain::endpoint::{AddressPolicy, CustomHeaders, HeaderRefusal};
use webhooks_runtime::Secret;

use super::{
    AuthDraft, CertificateDraft, HeaderDraft, auth::judge_auth, certificate::judge_certificate,
    headers::judge_headers,
};
use crate::{
    extras::{Auth, Extras, is_mask, is_mask_of},
    violations::Violations,
};

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

/// What headers and credentials shall be. `None` where nothing was asked for, or nothing sensible.
pub(super) fn judge(
    violations: &mut Violations,
    stored: &Extras,
    by: By<'_>,
    wish: Wish,
) -> Option<Extras> {
    let Wish {
        headers: own,
        auth,
        certificate,
    } = wish;
    let before = violations.count();
    // What the face could not read was asked for all the same, and nobody knows what it is to be.
    let unread = ["auth", "clientCertificate", "headers"].map(|one| violations.has_within(one));
    if by.moves {
        let left = [
            ("auth", auth.is_none() && stored.auth.is_some()),
            (
                "clientCertificate",
                certificate.is_none() && stored.client_certificate.is_some(),
            ),
            ("headers", own.is_none() && !stored.headers.is_empty()),
        ];
        for ((field, left), unread) in left.into_iter().zip(unread) {
            if left && !unread {
                violations.refuse(field, OTHER_HOST, GIVE_AGAIN);
            }
        }
    }
    if own.is_none() && auth.is_none() && certificate.is_none() {
        return None;
    }
    let [auth_unread, ..] = unread;
    let auth = match auth {
        None if auth_unread => None,
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
        None => Some(stored.headers.clone()),
        Some(drafts) => judge_headers(violations, stored, by, drafts),
    };
    // Headers that are none for themselves are not held against each other, nor against credentials.
    let headers = headers?;
    together(violations, &headers, auth.as_ref());
    (violations.count() == before).then_some(Extras {
        headers,
        auth,
        client_certificate,
    })
}

/// Headers and credentials together: how many, how large, none twice. A fetched token becomes a header,
/// too.
fn together(violations: &mut Violations, headers: &[(String, Secret)], auth: Option<&Auth>) {
    let sent = match auth {
        Some(Auth::OAuth2 { .. }) => Some(("Authorization".to_owned(), "Bearer x".to_owned())),
        other => other
            .and_then(Auth::header)
            .map(|(name, value)| (name.to_owned(), value)),
    };
    let twice = |(sent, _): &(String, String)| {
        let mut names = headers.iter();
        names.any(|(name, _)| name.eq_ignore_ascii_case(sent))
    };
    let (twice, sent) = match sent {
        Some(sent) if twice(&sent) => (Some(sent.0), None),
        sent => (None, sent),
    };
    if let Some(name) = twice {
        let refusal = HeaderRefusal::Twice {
            index: headers.len(),
            name: name.to_ascii_lowercase(),
        };
        violations.refuse("auth", refusal.reason(), refusal.to_string());
    }
    let all = headers.iter();
    let all = all.map(|(name, value)| (name.clone(), value.expose().to_owned()));
    if let Err(refusal) = CustomHeaders::check(all.chain(sent)) {
        let field = match refusal.index() {
            Some(index) if index < headers.len() => format!("headers[{index}]"),
            Some(_) => "auth".to_owned(),
            None => "headers".to_owned(),
        };
        violations.refuse(&field, refusal.reason(), refusal.to_string());
    }
}

/// The value that was given, or the one that is stored.
pub(super) fn kept(
    violations: &mut Violations,
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
            violations.refuse(field, "missing", message);
            return None;
        }
        _ if by.moves && known.is_some() => {
            violations.refuse(field, OTHER_HOST, GIVE_AGAIN);
            return None;
        }
        _ => known.cloned(),
    };
    if value.is_none() {
        violations.refuse(field, "missing", "has to be given");
    }
    value
}

/// The reason and the words for a value that is stored for another host.
pub(super) const OTHER_HOST: &str = "other_host";
pub(super) const GIVE_AGAIN: &str = "has to be given again for another host";

#[cfg(test)]
mod tests;
