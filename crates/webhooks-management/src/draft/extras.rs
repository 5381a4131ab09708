//! Judging headers and credentials. Values that a change leaves out, or sends as the mask that was
//! shown, are the stored ones: who reads a webhook, changes it and writes it back keeps them, unless
//! he leads it to another host.

use webhooks_domain::endpoint::{AddressPolicy, headers::CustomHeaders};
use webhooks_runtime::Secret;

use super::{
    AuthDraft, CertificateDraft, HeaderDraft, auth::judge_auth, certificate::judge_certificate,
    headers::judge_headers,
};
use crate::{
    error::Violation,
    extras::{Auth, Extras, is_mask, is_mask_of},
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

/// The value that was given, or the one that is stored.
pub(super) fn kept(
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
pub(super) const OTHER_HOST: &str = "other_host";
pub(super) const GIVE_AGAIN: &str = "has to be given again for another host";

fn for_another_host(field: &str) -> Violation {
    Violation::new(field, OTHER_HOST, GIVE_AGAIN)
}

#[cfg(test)]
mod tests;
