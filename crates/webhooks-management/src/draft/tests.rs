use super::*;

/// What a judge says to one draft.
pub(super) fn judged<T>(
    bounds: RetryBounds,
    ask: impl FnOnce(&mut Judge<'_>) -> Option<T>,
) -> Result<Option<T>, Vec<(String, &'static str)>> {
    let policy = AddressPolicy::default();
    let mut judge = Judge::new(Vec::new(), &policy, bounds, 0);
    let value = ask(&mut judge);
    if judge.violations.is_empty() {
        return Ok(value);
    }
    let said = |one: Violation| (one.field, one.reason);
    Err(judge.violations.into_iter().map(said).collect())
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
