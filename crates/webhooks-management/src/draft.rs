//! What a caller wants a webhook to be: raw from either face, then judged whole.
//!
//! REST and gRPC both fill a [`Draft`]; [`Draft::judge_new`] and [`Draft::judge_changes`] apply the
//! same rules to it and report every problem at once. Absent means untouched (or the default at
//! creation); present and empty is a value of its own.

mod auth;
mod certificate;
mod extras;
mod headers;
mod options;
mod rate;
mod retry;

use std::collections::{BTreeMap, HashSet};

use uuid::Uuid;
use webhooks_domain::{
    endpoint::{AddressPolicy, EndpointUrl},
    event::Profile,
    signing::SigningKey,
    webhook::{
        DEFAULT_TRIGGERS, DeliveryOrder, HeldChoice, MAX_LINKS, TRIGGER_KINDS, WebhookSource,
    },
};
use webhooks_runtime::Secret;
use webhooks_store::{RateChoice, RetryChoice, WebhookOptions};

use crate::{
    error::{ManagementError, parse_id},
    extras::{Auth, Extras},
    names::wrong_name,
    violations::Violations,
    words::{ShownStatus, parse_source},
};

pub(crate) use retry::RetryBounds;
pub use {
    auth::AuthDraft, certificate::CertificateDraft, headers::HeaderDraft, rate::RateDraft,
    retry::RetryDraft,
};

/// A webhook as asked for, unchecked.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Draft {
    /// The name.
    pub name: Option<String>,
    /// The endpoint's URL.
    pub endpoint_url: Option<String>,
    /// The links it is bound to; `Some(vec![])` = the whole workspace.
    pub links: Option<Vec<String>>,
    /// They were given as the one `linkId`.
    pub as_link_id: bool,
    /// Step kinds; `Some(vec![])` = every kind.
    pub triggers: Option<Vec<String>>,
    /// Long status word.
    pub status: Option<String>,
    /// Long source word.
    pub source: Option<String>,
    /// Payload profile.
    pub profile: Option<String>,
    /// What people note about it.
    pub description: Option<String>,
    /// Names and values of the customer's own.
    pub labels: Option<Vec<(String, String)>>,
    /// Event actions, in either form; `Some(vec![])` = every action.
    pub event_actions: Option<Vec<String>>,
    /// When failed deliveries are tried again.
    pub retry: Option<RetryDraft>,
    /// How fast it may be called; `Some(None)` = as fast as it answers.
    pub rate: Option<Option<RateDraft>>,
    /// Requests open at the same time; `Some(None)` = the default.
    pub max_in_flight: Option<Option<i64>>,
    /// `NONE`, `LINK` or `VISITOR`.
    pub ordering: Option<String>,
    /// Headers of the customer's own, all of them.
    pub headers: Option<Vec<HeaderDraft>>,
    /// Credentials; `Some(None)` = none.
    pub auth: Option<Option<AuthDraft>>,
    /// The client certificate; `Some(None)` = none.
    pub certificate: Option<Option<CertificateDraft>>,
    /// The caller's own signing secret; at creation only.
    pub secret: Option<Secret>,
    /// Kinds of signature.
    pub signatures: Option<Vec<String>>,
    /// What becomes of held deliveries: `DELIVER`, `DISCARD` or `KEEP`; at a change only.
    pub held: Option<String>,
    /// What the face itself found wrong (types, unknown members).
    pub problems: Violations,
}

/// What is judged by beside the draft.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules<'a> {
    /// Which endpoints may be named.
    pub(crate) addresses: &'a AddressPolicy,
    /// How patient the workspace's webhooks may be.
    pub(crate) retry: RetryBounds,
    /// The time, microseconds.
    pub(crate) now: i64,
}

/// What is stored of a webhook that is to be changed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Before<'a> {
    /// Its endpoint's URL.
    pub(crate) endpoint_url: &'a str,
    /// When its failed deliveries are tried again.
    pub(crate) retry: RetryChoice,
    /// Its headers and credentials.
    pub(crate) extras: &'a Extras,
}

/// A new webhook, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewDraft {
    /// The name.
    pub(crate) name: String,
    /// The endpoint's URL, as given.
    pub(crate) endpoint_url: String,
    /// The links; empty = the whole workspace.
    pub(crate) links: Vec<Uuid>,
    /// Step kinds; empty = every kind.
    pub(crate) triggers: Vec<String>,
    /// Who made it.
    pub(crate) source: WebhookSource,
    /// Payload profile.
    pub(crate) profile: Profile,
    /// The status to begin with.
    pub(crate) status: ShownStatus,
    /// What else was chosen.
    pub(crate) options: WebhookOptions,
    /// Headers and credentials.
    pub(crate) extras: Extras,
    /// The caller's own signing key.
    pub(crate) secret: Option<SigningKey>,
    /// Whether it signs with `v1a` too.
    pub(crate) asymmetric: bool,
}

/// Changes to a webhook, checked. `None` = untouched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// The name.
    pub(crate) name: Option<String>,
    /// The endpoint's URL.
    pub(crate) endpoint_url: Option<String>,
    /// The links.
    pub(crate) links: Option<Vec<Uuid>>,
    /// Step kinds.
    pub(crate) triggers: Option<Vec<String>>,
    /// The status a person wants.
    pub(crate) status: Option<ShownStatus>,
    /// Who made it.
    pub(crate) source: Option<WebhookSource>,
    /// Payload profile.
    pub(crate) profile: Option<Profile>,
    /// What people note about it.
    pub(crate) description: Option<String>,
    /// All its labels.
    pub(crate) labels: Option<BTreeMap<String, String>>,
    /// All its event actions.
    pub(crate) event_actions: Option<Vec<String>>,
    /// When failed deliveries are tried again.
    pub(crate) retry: Option<RetryChoice>,
    /// How fast it may be called.
    pub(crate) rate: Option<Option<RateChoice>>,
    /// Requests open at the same time.
    pub(crate) max_in_flight: Option<Option<u32>>,
    /// Which deliveries wait for each other.
    pub(crate) ordering: Option<DeliveryOrder>,
    /// Headers and credentials.
    pub(crate) extras: Option<Extras>,
    /// Whether it signs with `v1a` too.
    pub(crate) asymmetric: Option<bool>,
    /// What becomes of held deliveries.
    pub(crate) held: Option<HeldChoice>,
}

impl Draft {
    /// Checks a webhook that is to be created.
    ///
    /// # Errors
    /// Every rule that is broken.
    pub(crate) fn judge_new(self, rules: &Rules<'_>) -> Result<NewDraft, ManagementError> {
        let mut judge = Judge::new(self.problems, rules.addresses, rules.retry, rules.now);
        if self.name.is_none() {
            judge.missing("name");
        }
        if self.endpoint_url.is_none() {
            judge.missing("endpointUrl");
        }
        let new = NewDraft {
            name: judge.name(self.name).unwrap_or_default(),
            endpoint_url: judge.endpoint(self.endpoint_url).unwrap_or_default(),
            links: judge.links(self.links, self.as_link_id).unwrap_or_default(),
            triggers: judge
                .triggers(self.triggers)
                .unwrap_or_else(|| DEFAULT_TRIGGERS.map(str::to_owned).to_vec()),
            source: judge.source(self.source).unwrap_or_default(),
            profile: judge.profile(self.profile).unwrap_or_default(),
            status: judge.status(self.status).unwrap_or(ShownStatus::Active),
            options: WebhookOptions {
                description: judge.description(self.description).unwrap_or_default(),
                labels: judge.labels(self.labels).unwrap_or_default(),
                event_actions: judge.event_actions(self.event_actions).unwrap_or_default(),
                retry: judge.retry(self.retry).unwrap_or_default(),
                rate: judge.rate(self.rate).unwrap_or_default(),
                max_in_flight: judge.max_in_flight(self.max_in_flight).unwrap_or_default(),
                ordering: judge.ordering(self.ordering).unwrap_or_default(),
            },
            extras: judge
                .extras(
                    &Extras::default(),
                    false,
                    extras::Wish {
                        headers: self.headers,
                        auth: self.auth,
                        certificate: self.certificate,
                    },
                )
                .unwrap_or_default(),
            secret: judge.secret(self.secret),
            asymmetric: judge.asymmetric(self.signatures).unwrap_or_default(),
        };
        judge.whole(&new.endpoint_url, &new.extras);
        judge.verdict(new)
    }

    /// Whether the stored headers and credentials have to be opened to judge it. They are for the
    /// endpoint they were given for, so another endpoint touches them, too.
    pub(crate) fn touches_extras(&self) -> bool {
        self.headers.is_some()
            || self.auth.is_some()
            || self.certificate.is_some()
            || self.endpoint_url.is_some()
    }

    /// Checks changes to a webhook. None at all are fine.
    ///
    /// # Errors
    /// Every rule that is broken.
    pub(crate) fn judge_changes(
        self,
        rules: &Rules<'_>,
        before: Before<'_>,
    ) -> Result<Changes, ManagementError> {
        let mut judge = Judge::new(self.problems, rules.addresses, rules.retry, rules.now);
        judge.retry_kept = Some(before.retry);
        let endpoint_url = judge.endpoint(self.endpoint_url);
        let moves = endpoint_url
            .as_deref()
            .is_some_and(|after| judge.leads_elsewhere(before.endpoint_url, after));
        let changes = Changes {
            name: judge.name(self.name),
            endpoint_url,
            links: judge.links(self.links, self.as_link_id),
            triggers: judge.triggers(self.triggers),
            status: judge.status(self.status),
            source: judge.source(self.source),
            profile: judge.profile(self.profile),
            description: judge.description(self.description),
            labels: judge.labels(self.labels),
            event_actions: judge.event_actions(self.event_actions),
            retry: judge.retry(self.retry),
            rate: judge.rate(self.rate),
            max_in_flight: judge.max_in_flight(self.max_in_flight),
            ordering: judge.ordering(self.ordering),
            extras: judge.extras(
                before.extras,
                moves,
                extras::Wish {
                    headers: self.headers,
                    auth: self.auth,
                    certificate: self.certificate,
                },
            ),
            asymmetric: judge.asymmetric(self.signatures),
            held: judge.held(self.held),
        };
        if changes.endpoint_url.is_some() || changes.extras.is_some() {
            judge.whole(
                changes
                    .endpoint_url
                    .as_deref()
                    .unwrap_or(before.endpoint_url),
                changes.extras.as_ref().unwrap_or(before.extras),
            );
        }
        judge.verdict(changes)
    }
}

/// Checks a signing secret that a caller chose for himself.
///
/// # Errors
/// Why it is none.
pub(crate) fn judge_secret(
    problems: Violations,
    secret: Option<Secret>,
) -> Result<Option<SigningKey>, ManagementError> {
    let policy = AddressPolicy::default();
    let mut judge = Judge::new(problems, &policy, RetryBounds::NONE, 0);
    let key = judge.secret(secret);
    judge.verdict(key)
}

struct Judge<'a> {
    policy: &'a AddressPolicy,
    retry_bounds: RetryBounds,
    /// The policy that is there already, which the plan has no say in.
    retry_kept: Option<RetryChoice>,
    now: i64,
    violations: Violations,
    endpoint_refused: bool,
}

impl<'a> Judge<'a> {
    fn new(
        violations: Violations,
        policy: &'a AddressPolicy,
        retry_bounds: RetryBounds,
        now: i64,
    ) -> Self {
        Self {
            policy,
            retry_bounds,
            retry_kept: None,
            now,
            violations,
            endpoint_refused: false,
        }
    }

    fn verdict<T>(self, value: T) -> Result<T, ManagementError> {
        if self.violations.is_empty() {
            return Ok(value);
        }
        Err(ManagementError::refused(
            self.violations.told(),
            self.endpoint_refused,
        ))
    }

    fn refuse(&mut self, field: &str, reason: &'static str, message: impl Into<String>) {
        self.violations.refuse(field, reason, message);
    }

    fn refuse_entry(&mut self, list: &str, index: usize, reason: &'static str, message: &str) {
        self.violations.refuse_entry(list, index, reason, message);
    }

    fn missing(&mut self, field: &str) {
        self.refuse(field, "missing", "has to be given");
    }

    fn extras(&mut self, stored: &Extras, moves: bool, wish: extras::Wish) -> Option<Extras> {
        let by = extras::By {
            addresses: self.policy,
            now: self.now,
            moves,
        };
        extras::judge(&mut self.violations, stored, by, wish)
    }

    fn name(&mut self, name: Option<String>) -> Option<String> {
        let name = name?;
        if let Some((reason, message)) = wrong_name(&name) {
            self.refuse("name", reason, message);
        }
        Some(name)
    }

    fn endpoint(&mut self, text: Option<String>) -> Option<String> {
        let text = text?;
        if let Err(refusal) = EndpointUrl::parse(&text, self.policy) {
            self.endpoint_refused = true;
            self.refuse("endpointUrl", refusal.reason(), refusal.to_string());
        }
        Some(text)
    }

    /// Whether a request to `after` goes to another scheme, host or port than one to `before`. A
    /// stored URL that the rules would refuse by now is another one than any.
    fn leads_elsewhere(&self, before: &str, after: &str) -> bool {
        let parse = |text| EndpointUrl::parse(text, self.policy);
        match (parse(before), parse(after)) {
            (Ok(before), Ok(after)) => !before.same_origin(&after),
            (Ok(_) | Err(_), Ok(_) | Err(_)) => before != after,
        }
    }

    /// The URL that is called: with the API key, if it stands in the query. A problem of the URL
    /// alone is named already.
    fn whole(&mut self, endpoint_url: &str, extras: &Extras) {
        let Some(pair) = extras.auth.as_ref().and_then(Auth::query) else {
            return;
        };
        let Ok(url) = EndpointUrl::parse(endpoint_url, self.policy) else {
            return;
        };
        if let Err(refusal) = url.with_query([pair], self.policy) {
            self.endpoint_refused = true;
            let message = format!("with the API key in its query: {refusal}");
            self.refuse("endpointUrl", refusal.reason(), message);
        }
    }

    fn links(&mut self, links: Option<Vec<String>>, as_link_id: bool) -> Option<Vec<Uuid>> {
        let (mut ids, mut known) = (Vec::new(), HashSet::new());
        for (index, link) in links?.iter().enumerate() {
            match parse_id(link) {
                Some(id) => {
                    // Beyond the limit they are looked at, and no longer kept.
                    if known.len() <= MAX_LINKS && known.insert(id) {
                        ids.push(id);
                    }
                }
                None if as_link_id => {
                    self.refuse("linkId", "not_an_id", "is neither empty nor a UUID");
                }
                None => self.refuse_entry("linkIds", index, "not_an_id", "is no UUID"),
            }
        }
        if ids.len() > MAX_LINKS {
            let message = format!("holds at most {MAX_LINKS} links");
            self.refuse("linkIds", "too_many", message);
        }
        Some(ids)
    }

    fn triggers(&mut self, triggers: Option<Vec<String>>) -> Option<Vec<String>> {
        let mut kinds: Vec<String> = Vec::new();
        let message = format!("is one of {}", TRIGGER_KINDS.join(", "));
        for (index, kind) in triggers?.into_iter().enumerate() {
            if !TRIGGER_KINDS.contains(&kind.as_str()) {
                self.refuse_entry("triggers", index, "unknown_trigger", &message);
            } else if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        Some(kinds)
    }

    fn status(&mut self, word: Option<String>) -> Option<ShownStatus> {
        let status = ShownStatus::parse(&word?);
        if status.is_none() {
            let expected = ShownStatus::ALL.map(ShownStatus::as_str).join(", ");
            self.refuse("status", "unknown_status", format!("is one of {expected}"));
        }
        status
    }

    fn source(&mut self, word: Option<String>) -> Option<WebhookSource> {
        let source = parse_source(&word?);
        if source.is_none() {
            let expected = WebhookSource::ALL
                .iter()
                .map(|source| crate::words::source_word(*source))
                .collect::<Vec<_>>()
                .join(", ");
            self.refuse("source", "unknown_source", format!("is one of {expected}"));
        }
        source
    }

    fn profile(&mut self, word: Option<String>) -> Option<Profile> {
        let profile = word?.parse().ok();
        if profile.is_none() {
            let expected = Profile::ALL.map(Profile::as_str).join(", ");
            self.refuse(
                "profile",
                "unknown_profile",
                format!("is one of {expected}"),
            );
        }
        profile
    }
}

#[cfg(test)]
mod tests;
