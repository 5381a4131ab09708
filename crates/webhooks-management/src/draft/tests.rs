use webhooks_domain::webhook::MAX_NAME_CHARS;

use super::*;
use crate::{
    error::Violation,
    violations::{MAX_NAMED, MORE_PROBLEMS},
};

/// What a judge says to one draft.
pub(super) fn judged<T>(
    bounds: RetryBounds,
    ask: impl FnOnce(&mut Judge<'_>) -> Option<T>,
) -> Result<Option<T>, Vec<(String, &'static str)>> {
    let policy = AddressPolicy::default();
    let mut judge = Judge::new(Violations::default(), &policy, bounds, 0);
    let value = ask(&mut judge);
    if judge.violations.is_empty() {
        return Ok(value);
    }
    let said = |one: Violation| (one.field, one.reason);
    Err(judge.violations.told().into_iter().map(said).collect())
}

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
        retry: RetryChoice::default(),
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
        retry: RetryChoice::default(),
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
        retry: RetryChoice::default(),
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
        retry: RetryChoice::default(),
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
            "linkIds[0]",
            "triggers[0]",
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
    let error = named("\u{200b}\u{feff}".into()).unwrap_err();
    assert_eq!(problems(&error), [("name".to_owned(), "blank")]);
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
    assert_eq!(refusal(false), ("linkIds[1]".into(), "is no UUID".into()));
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

#[test]
fn every_entry_that_is_none_is_named_and_a_thousand_are_counted() {
    let id = |n: u128| Uuid::from_u128(n).to_string();
    let mixed = Draft {
        links: Some(vec!["x".into(), id(1), "".into(), id(1), "y".into()]),
        triggers: Some(vec![
            "KIND_EXIT".into(),
            "KIND_X".into(),
            "KIND_ENTRY".into(),
            "exit".into(),
        ]),
        event_actions: Some(vec!["a b".into(), "FORM_SUBMIT".into(), "".into()]),
        ..draft()
    };
    let error = mixed.judge_new(&strict()).unwrap_err();
    let named = |field: &str, reason| (field.to_owned(), reason);
    assert_eq!(
        problems(&error),
        [
            named("linkIds[0]", "not_an_id"),
            named("linkIds[2]", "not_an_id"),
            named("linkIds[4]", "not_an_id"),
            named("triggers[1]", "unknown_trigger"),
            named("triggers[3]", "unknown_trigger"),
            named("eventActions[0]", "not_an_action"),
            named("eventActions[2]", "not_an_action"),
        ]
    );
    // Too many, and some of them none; what was found after all that is counted too.
    let links = (0..2_000).map(|n| match n % 2 {
        0 => "x".to_owned(),
        _ => id(n),
    });
    let many = Draft {
        name: Some(" ".into()),
        links: Some(links.chain((2_000..3_000).map(id)).collect()),
        triggers: Some(vec!["KIND_X".into()]),
        ..draft()
    };
    let error = many.judge_new(&strict()).unwrap_err();
    let said = error.violations();
    assert_eq!(said.len(), MAX_NAMED + 1);
    assert_eq!((&*said[0].field, &*said[1].field), ("name", "linkIds[0]"));
    assert_eq!(&*said[2].field, "linkIds[2]", "in their order");
    let last = &said[MAX_NAMED];
    assert_eq!((&*last.field, last.reason), ("", MORE_PROBLEMS));
    // A name, 1,000 entries, their number, a trigger; less what is named.
    assert_eq!(
        last.message,
        format!("and {} more problems", 1_003 - MAX_NAMED)
    );
}

#[test]
fn every_object_is_judged_whole_beside_the_others() {
    let bad = Draft {
        retry: Some(RetryDraft {
            max_attempts: Some(0),
            base_seconds: Some(-1.0),
            jitter: Some(0.9),
            ..RetryDraft::default()
        }),
        rate: Some(Some(RateDraft {
            count: Some(0),
            period_seconds: Some(7),
            burst: Some(0),
        })),
        headers: Some(vec![
            HeaderDraft {
                name: "Host".into(),
                value: Some(Secret::new("a\nb")),
            },
            HeaderDraft {
                name: "X-A".into(),
                value: None,
            },
        ]),
        auth: Some(Some(AuthDraft::ApiKey {
            place: "cookie".into(),
            name: "key".into(),
            value: None,
        })),
        certificate: Some(Some(CertificateDraft {
            certificate: Some("x".into()),
            private_key: Some(Secret::new("y")),
        })),
        ..draft()
    };
    let expected = [
        ("retryPolicy.maxAttempts", "out_of_bounds"),
        ("retryPolicy.baseSeconds", "out_of_bounds"),
        ("retryPolicy.jitter", "out_of_bounds"),
        ("rateLimit.count", "out_of_bounds"),
        ("rateLimit.periodSeconds", "out_of_bounds"),
        ("rateLimit.burst", "out_of_bounds"),
        ("auth.in", "not_allowed"),
        ("auth.value", "missing"),
        ("clientCertificate.certificate", "not_a_certificate"),
        ("clientCertificate.privateKey", "not_a_private_key"),
        ("headers[0].name", "header_name_reserved"),
        ("headers[0].value", "header_value_invalid"),
        ("headers[1].value", "missing"),
    ]
    .map(|(field, reason)| (field.to_owned(), reason));
    let error = bad.clone().judge_new(&strict()).unwrap_err();
    assert_eq!(problems(&error), expected);
    // The order is the same each time, and the same for a change.
    assert_eq!(problems(&changes(bad).unwrap_err()), expected);
}

#[test]
fn what_the_face_could_not_read_is_not_judged_again() {
    let unread = |field: &str| Violation::new(field, "wrong_type", "has to be text, not null");
    let fields = [
        "name",
        "linkIds[1]",
        "signatures[0]",
        "auth.type",
        "headers[0]",
        "headers[1].name",
        "retryPolicy.baseSeconds",
        "rateLimit.count",
    ];
    let half = Draft {
        endpoint_url: Some("https://example.com/hook".into()),
        links: Some(vec![Uuid::nil().to_string(), String::new()]),
        signatures: Some(vec![String::new()]),
        headers: Some(vec![
            HeaderDraft {
                name: String::new(),
                value: None,
            },
            HeaderDraft {
                name: String::new(),
                value: Some(Secret::new("v")),
            },
            HeaderDraft {
                name: "Authorization".into(),
                value: Some(Secret::new("v")),
            },
        ]),
        retry: Some(RetryDraft {
            // Below the standard's base, which was not asked for.
            cap_seconds: Some(5.0),
            ..RetryDraft::default()
        }),
        rate: Some(Some(RateDraft {
            period_seconds: Some(1),
            ..RateDraft::default()
        })),
        problems: fields.map(unread).to_vec().into(),
        ..Draft::default()
    };
    let said = |error: ManagementError| -> Vec<String> {
        let all = problems(&error).into_iter();
        all.map(|(field, _)| field).collect()
    };
    let new = half.clone().judge_new(&strict()).unwrap_err();
    assert_eq!(said(new), fields);
    // Stored credentials are neither held against the headers nor missed for another host.
    let stored = Draft {
        auth: Some(Some(AuthDraft::Bearer {
            token: Some(Secret::new("t")),
        })),
        ..draft()
    };
    let stored = stored.judge_new(&strict()).unwrap();
    let before = Before {
        endpoint_url: "https://example.org/",
        retry: RetryChoice::default(),
        extras: &stored.extras,
    };
    let error = half.judge_changes(&strict(), before).unwrap_err();
    assert_eq!(said(error), fields);
}
