//! What a caller wants a webhook to be: raw from either face, then judged whole.
//!
//! REST and gRPC both fill a [`Draft`]; [`Draft::judge_new`] and [`Draft::judge_changes`] apply the
//! same rules to it and report every problem at once. Absent means untouched (or the default at
//! creation); present and empty is a value of its own.

mod extras;
mod options;

use std::collections::BTreeMap;

use uuid::Uuid;
use webhooks_domain::{
    endpoint::{AddressPolicy, EndpointUrl},
    event::Profile,
    signing::SigningKey,
    webhook::{
        DEFAULT_TRIGGERS, DeliveryOrder, HeldChoice, MAX_LINKS, MAX_NAME_CHARS, TRIGGER_KINDS,
        WebhookSource,
    },
};
use webhooks_runtime::Secret;
use webhooks_store::{RateChoice, RetryChoice, WebhookOptions};

use crate::{
    error::{ManagementError, Violation, parse_id},
    extras::{Auth, Extras},
    words::{ShownStatus, parse_source},
};

pub(crate) use options::RetryBounds;
pub use {
    extras::{AuthDraft, CertificateDraft, HeaderDraft},
    options::{RateDraft, RetryDraft},
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
    pub problems: Vec<Violation>,
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
    problems: Vec<Violation>,
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
    now: i64,
    violations: Vec<Violation>,
    endpoint_refused: bool,
}

impl<'a> Judge<'a> {
    fn new(
        violations: Vec<Violation>,
        policy: &'a AddressPolicy,
        retry_bounds: RetryBounds,
        now: i64,
    ) -> Self {
        Self {
            policy,
            retry_bounds,
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
            self.violations,
            self.endpoint_refused,
        ))
    }

    fn refuse(&mut self, field: &str, reason: &'static str, message: impl Into<String>) {
        self.violations.push(Violation::new(field, reason, message));
    }

    fn missing(&mut self, field: &str) {
        // A member of the wrong type has been named already.
        if self.violations.iter().all(|v| v.field != field) {
            self.refuse(field, "missing", "has to be given");
        }
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
        if name.trim().is_empty() {
            self.refuse("name", "blank", "must not be blank");
        } else if name.chars().count() > MAX_NAME_CHARS {
            self.refuse(
                "name",
                "too_long",
                format!("has at most {MAX_NAME_CHARS} characters"),
            );
        } else if name.chars().any(char::is_control) {
            self.refuse("name", "control_character", "has no control characters");
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
        let mut ids = Vec::new();
        let links = links?;
        for (index, link) in links.iter().enumerate() {
            match parse_id(link) {
                Some(id) if !ids.contains(&id) => ids.push(id),
                Some(_) => {}
                None => {
                    match as_link_id {
                        true => self.refuse("linkId", "not_an_id", "is neither empty nor a UUID"),
                        false => {
                            self.refuse(
                                "linkIds",
                                "not_an_id",
                                format!("entry {index}: is no UUID"),
                            );
                        }
                    }
                    break;
                }
            }
            if ids.len() > MAX_LINKS {
                self.refuse(
                    "linkIds",
                    "too_many",
                    format!("holds at most {MAX_LINKS} links"),
                );
                break;
            }
        }
        Some(ids)
    }

    fn triggers(&mut self, triggers: Option<Vec<String>>) -> Option<Vec<String>> {
        let mut kinds: Vec<String> = Vec::new();
        for kind in triggers? {
            if !TRIGGER_KINDS.contains(&kind.as_str()) {
                let expected = TRIGGER_KINDS.join(", ");
                self.refuse(
                    "triggers",
                    "unknown_trigger",
                    format!("holds only {expected}"),
                );
                break;
            }
            if !kinds.contains(&kind) {
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
mod tests {
    use super::*;

    fn draft() -> Draft {
        Draft {
            name: Some("CRM".into()),
            endpoint_url: Some("https://example.com/hook".into()),
            ..Draft::default()
        }
    }

    fn strict() -> Rules<'static> {
        static POLICY: std::sync::LazyLock<AddressPolicy> =
            std::sync::LazyLock::new(AddressPolicy::default);
        Rules {
            addresses: &POLICY,
            retry: RetryBounds::NONE,
            now: 0,
        }
    }

    fn changes(draft: Draft) -> Result<Changes, ManagementError> {
        let before = Before {
            endpoint_url: "https://example.com/hook",
            extras: &Extras::default(),
        };
        draft.judge_changes(&strict(), before)
    }

    fn keyed(place: &str, value: &str) -> AuthDraft {
        AuthDraft::ApiKey {
            place: place.into(),
            name: "key".into(),
            value: Some(Secret::new(value)),
        }
    }

    #[test]
    fn a_url_is_judged_with_the_key_that_is_appended_to_it() {
        let url = |bytes: usize| format!("https://example.com/{}", "x".repeat(bytes - 20));
        let with = |url: String, auth: AuthDraft| Draft {
            endpoint_url: Some(url),
            auth: Some(Some(auth)),
            ..draft()
        };
        let too_long = [("endpointUrl".to_owned(), "too_long")];
        // 2,048 bytes: `?key=` and the value.
        with(url(2_040), keyed("query", "abc"))
            .judge_new(&strict())
            .unwrap();
        let error = with(url(2_040), keyed("query", "abcd"))
            .judge_new(&strict())
            .unwrap_err();
        assert_eq!(problems(&error), too_long);
        assert_eq!(error.row().2, "INVALID_ENDPOINT_URL");
        // Escaped, the same value is longer.
        let error = with(url(2_040), keyed("query", "a&b"))
            .judge_new(&strict())
            .unwrap_err();
        assert_eq!(problems(&error), too_long);
        with(url(2_040), keyed("header", "abcd"))
            .judge_new(&strict())
            .unwrap();

        // Either half may come later than the other.
        let stored = with(url(100), keyed("query", &"k".repeat(100)));
        let stored = stored.judge_new(&strict()).unwrap();
        let before = Before {
            endpoint_url: &stored.endpoint_url,
            extras: &stored.extras,
        };
        let longer = Draft {
            endpoint_url: Some(url(2_000)),
            ..Draft::default()
        };
        let error = longer.judge_changes(&strict(), before).unwrap_err();
        assert_eq!(problems(&error), too_long);
        let long = url(2_040);
        let before = Before {
            endpoint_url: &long,
            extras: &Extras::default(),
        };
        let key = Draft {
            auth: Some(Some(keyed("query", "abcd"))),
            ..Draft::default()
        };
        let error = key.judge_changes(&strict(), before).unwrap_err();
        assert_eq!(problems(&error), too_long);
    }

    #[test]
    fn stored_credentials_are_not_led_to_another_host() {
        let stored = Draft {
            headers: Some(vec![HeaderDraft {
                name: "X-Team".into(),
                value: Some(Secret::new("blue")),
            }]),
            auth: Some(Some(keyed("header", "4711"))),
            ..draft()
        };
        let stored = stored.judge_new(&strict()).unwrap();
        let before = Before {
            endpoint_url: &stored.endpoint_url,
            extras: &stored.extras,
        };
        let to = |url: &str| Draft {
            endpoint_url: Some(url.into()),
            ..Draft::default()
        };
        for same in [
            "https://example.com/another/path?x=1",
            "https://EXAMPLE.com:443/hook",
            "https://example.com./hook",
        ] {
            to(same).judge_changes(&strict(), before).unwrap();
        }
        let fields = |draft: Draft| {
            let error = draft.judge_changes(&strict(), before).unwrap_err();
            assert_eq!(error.row().2, "INVALID_ARGUMENT");
            problems(&error)
        };
        let no = |field: &str| (field.to_owned(), "other_host");
        for other in [
            "https://example.net/hook",
            "https://www.example.com/hook",
            "https://example.com:8443/hook",
        ] {
            assert_eq!(fields(to(other)), [no("auth"), no("headers")], "{other}");
            let masks = Draft {
                headers: Some(vec![HeaderDraft {
                    name: "X-Team".into(),
                    value: Some(Secret::new("••••")),
                }]),
                auth: Some(Some(keyed("header", "••••"))),
                ..to(other)
            };
            assert_eq!(fields(masks), [no("auth.value"), no("headers[0].value")]);
            let again = Draft {
                headers: Some(vec![HeaderDraft {
                    name: "X-Team".into(),
                    value: Some(Secret::new("blue")),
                }]),
                auth: Some(Some(keyed("header", "4711"))),
                ..to(other)
            };
            again.judge_changes(&strict(), before).unwrap();
            let dropped = Draft {
                headers: Some(vec![]),
                auth: Some(None),
                ..to(other)
            };
            dropped.judge_changes(&strict(), before).unwrap();
        }
        // With nothing stored there is nothing to lead away.
        changes(to("https://example.net/hook")).unwrap();
    }

    fn problems(error: &ManagementError) -> Vec<(String, &'static str)> {
        error
            .violations()
            .iter()
            .map(|v| (v.field.clone(), v.reason))
            .collect()
    }

    #[test]
    fn a_new_webhook_listens_to_exit_steps_unless_told_otherwise() {
        let new = draft().judge_new(&strict()).unwrap();
        assert_eq!(new.triggers, ["KIND_EXIT"]);
        assert!(new.links.is_empty());
        let all = Draft {
            triggers: Some(vec![]),
            ..draft()
        };
        assert!(all.judge_new(&strict()).unwrap().triggers.is_empty());
        let twice = Draft {
            triggers: Some(vec!["KIND_ENTRY".into(), "KIND_ENTRY".into()]),
            ..draft()
        };
        assert_eq!(twice.judge_new(&strict()).unwrap().triggers, ["KIND_ENTRY"]);
    }

    #[test]
    fn every_problem_is_named_at_once() {
        let bad = Draft {
            name: Some(" ".into()),
            endpoint_url: Some("ftp://example.com".into()),
            links: Some(vec!["x".into()]),
            triggers: Some(vec!["KIND_UNSPECIFIED".into()]),
            source: Some("MAKE".into()),
            profile: Some("STRICT".into()),
            status: Some("PAUSED".into()),
            labels: Some(vec![("".into(), "x".into())]),
            max_in_flight: Some(Some(0)),
            headers: Some(vec![HeaderDraft {
                name: "Host".into(),
                value: Some(Secret::new("x")),
            }]),
            ..Draft::default()
        };
        let error = bad.judge_new(&strict()).unwrap_err();
        let fields: Vec<_> = problems(&error)
            .into_iter()
            .map(|(field, _)| field)
            .collect();
        assert_eq!(
            fields,
            [
                "name",
                "endpointUrl",
                "linkIds",
                "triggers",
                "source",
                "profile",
                "status",
                "labels.",
                "maxInFlight",
                "headers[0].name"
            ]
        );
        assert_eq!(error.row().2, "INVALID_ARGUMENT");
        let error = Draft::default().judge_new(&strict()).unwrap_err();
        assert_eq!(
            problems(&error),
            [
                ("name".to_owned(), "missing"),
                ("endpointUrl".to_owned(), "missing")
            ]
        );
    }

    #[test]
    fn an_endpoint_that_is_never_called_has_its_own_code_type() {
        for url in [
            "https://127.0.0.1/",
            "https://localhost/",
            "http://example.com/",
            "nonsense",
        ] {
            let bad = Draft {
                endpoint_url: Some(url.into()),
                ..draft()
            };
            let error = bad.judge_new(&strict()).unwrap_err();
            assert_eq!(error.row().2, "INVALID_ENDPOINT_URL", "{url}");
            assert_eq!(error.violations()[0].field, "endpointUrl");
        }
    }

    #[test]
    fn names_are_bounded_in_characters() {
        let named = |name: String| {
            Draft {
                name: Some(name),
                ..draft()
            }
            .judge_new(&strict())
        };
        named("😀".repeat(MAX_NAME_CHARS)).unwrap();
        let error = named("x".repeat(MAX_NAME_CHARS + 1)).unwrap_err();
        assert_eq!(problems(&error), [("name".to_owned(), "too_long")]);
        let error = named("a\0b".into()).unwrap_err();
        assert_eq!(problems(&error), [("name".to_owned(), "control_character")]);
    }

    #[test]
    fn absent_members_stay_untouched_and_empty_ones_clear() {
        let none = changes(Draft::default()).unwrap();
        assert_eq!(none, Changes::default());
        let cleared = Draft {
            links: Some(vec![]),
            triggers: Some(vec![]),
            status: Some("WEBHOOK_STATUS_PAUSED".into()),
            ..Draft::default()
        };
        let judged = changes(cleared).unwrap();
        assert_eq!(judged.links, Some(vec![]));
        assert_eq!(judged.triggers, Some(vec![]));
        assert_eq!(judged.status, Some(ShownStatus::Paused));
        let unknown = Draft {
            status: Some("WEBHOOK_STATUS_UNSPECIFIED".into()),
            ..Draft::default()
        };
        let error = changes(unknown).unwrap_err();
        assert_eq!(problems(&error), [("status".to_owned(), "unknown_status")]);
    }

    #[test]
    fn a_bad_link_is_told_where_it_was_given() {
        let refusal = |as_link_id| {
            let bad = Draft {
                links: Some(vec![Uuid::nil().to_string(), "x".into()]),
                as_link_id,
                ..draft()
            };
            let error = bad.judge_new(&strict()).unwrap_err();
            let violation = &error.violations()[0];
            (violation.field.clone(), violation.message.clone())
        };
        assert_eq!(
            refusal(false),
            ("linkIds".into(), "entry 1: is no UUID".into())
        );
        assert_eq!(refusal(true).0, "linkId");
    }

    #[test]
    fn links_collapse_and_are_bounded() {
        let id = Uuid::from_u128(5).to_string();
        let twice = Draft {
            links: Some(vec![id.clone(), id.to_uppercase()]),
            ..draft()
        };
        assert_eq!(
            twice.judge_new(&strict()).unwrap().links,
            [Uuid::from_u128(5)]
        );
        let many = (0..=MAX_LINKS as u128).map(|n| Uuid::from_u128(n).to_string());
        let many = Draft {
            links: Some(many.collect()),
            ..draft()
        };
        let error = many.judge_new(&strict()).unwrap_err();
        assert_eq!(problems(&error), [("linkIds".to_owned(), "too_many")]);
    }
}
