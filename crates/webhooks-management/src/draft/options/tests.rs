use webhooks_domain::endpoint::AddressPolicy;

use super::*;
use crate::error::Violation;

const FREE: RetryBounds = RetryBounds {
    max_attempts: 3,
    max_age: None,
};

/// What a judge says to one draft.
fn judged<T>(
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

fn retry(draft: RetryDraft, bounds: RetryBounds) -> Result<RetryChoice, (String, &'static str)> {
    match judged(bounds, |judge| judge.retry(Some(draft))) {
        Ok(choice) => Ok(choice.unwrap()),
        Err(mut said) => Err(said.remove(0)),
    }
}

fn preset(name: &str) -> RetryDraft {
    RetryDraft {
        preset: Some(name.to_owned()),
        ..RetryDraft::default()
    }
}

#[test]
fn a_retry_policy_is_a_preset_or_numbers_within_bounds() {
    let all = RetryBounds::of_plan(Plan::Enterprise);
    assert_eq!(retry(preset("standard"), all), Ok(RetryChoice::Standard));
    assert_eq!(retry(preset("resilient"), all), Ok(RetryChoice::Resilient));
    assert_eq!(
        retry(RetryDraft::default(), all),
        Ok(RetryChoice::Standard),
        "numbers that are absent are the standard's"
    );
    let own = RetryDraft {
        max_attempts: Some(5),
        base_seconds: Some(1.5),
        factor: Some(3.0),
        jitter: Some(0.1),
        ..RetryDraft::default()
    };
    let expected = RetryNumbers {
        max_attempts: 5,
        base_ms: 1_500,
        factor_milli: 3_000,
        cap_ms: 3_600_000,
        jitter_milli: 100,
        max_age_ms: 0,
    };
    assert_eq!(retry(own.clone(), all), Ok(RetryChoice::Custom(expected)));
    let field = |draft: RetryDraft| retry(draft, all).unwrap_err();
    let unknown = field(preset("patient"));
    assert_eq!(unknown, ("retryPolicy.preset".into(), "unknown_preset"));
    let both = RetryDraft {
        preset: Some("standard".into()),
        ..own
    };
    assert_eq!(field(both), ("retryPolicy".into(), "ambiguous"));
    let number = |set: fn(&mut RetryDraft, f64), value: f64| {
        let mut draft = RetryDraft::default();
        set(&mut draft, value);
        field(draft)
    };
    for (set, value, name) in [
        (
            (|draft, value| draft.base_seconds = Some(value)) as fn(&mut RetryDraft, f64),
            1e300,
            "retryPolicy.baseSeconds",
        ),
        (
            |draft, value| draft.factor = Some(value),
            0.5,
            "retryPolicy.factor",
        ),
        (
            |draft, value| draft.cap_seconds = Some(value),
            f64::NAN,
            "retryPolicy.capSeconds",
        ),
        (
            |draft, value| draft.jitter = Some(value),
            0.6,
            "retryPolicy.jitter",
        ),
        (
            |draft, value| draft.max_age_seconds = Some(value),
            5.0,
            "retryPolicy.maxAgeSeconds",
        ),
        (
            |draft, value| draft.base_seconds = Some(value),
            -1.0,
            "retryPolicy",
        ),
    ] {
        assert_eq!(number(set, value), (name.to_owned(), "out_of_bounds"));
    }
    for attempts in [0, -1, 21, i64::MAX] {
        let draft = RetryDraft {
            max_attempts: Some(attempts),
            ..RetryDraft::default()
        };
        let expected = ("retryPolicy.maxAttempts".to_owned(), "out_of_bounds");
        assert_eq!(field(draft), expected, "{attempts}");
    }
}

#[test]
fn a_plan_bounds_the_attempts() {
    let attempts = |n| RetryDraft {
        max_attempts: Some(n),
        ..RetryDraft::default()
    };
    let over = ("retryPolicy.maxAttempts".to_owned(), "plan_limit");
    for (plan, most) in [(Plan::Free, 3), (Plan::Light, 3), (Plan::Pro, 10)] {
        let bounds = RetryBounds::of_plan(plan);
        retry(attempts(most), bounds).unwrap();
        assert_eq!(retry(attempts(most + 1), bounds), Err(over.clone()));
    }
    assert_eq!(retry(preset("resilient"), FREE), Err(over));
    retry(preset("resilient"), RetryBounds::of_plan(Plan::Pro)).unwrap();
    retry(attempts(20), RetryBounds::of_plan(Plan::Enterprise)).unwrap();
    let day = RetryBounds {
        max_attempts: 20,
        max_age: Some(Duration::from_secs(86_400)),
    };
    retry(preset("standard"), day).unwrap();
    let long = ("retryPolicy.maxAgeSeconds".to_owned(), "plan_limit");
    assert_eq!(retry(preset("resilient"), day), Err(long));
}

#[test]
fn labels_and_descriptions_are_bounded() {
    let labels = |labels: Vec<(&str, &str)>| {
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let labels = labels.into_iter().map(owned).collect();
        judged(FREE, |judge| judge.labels(Some(labels)))
    };
    labels(vec![("team", "blue ü"), ("app.kubernetes.io/name", "")]).unwrap();
    let long = "n".repeat(64);
    let said = labels(vec![("", "x"), ("-a", "x"), (&long, "x"), ("ok", "a\nb")]);
    let expected = [
        ("labels.".to_owned(), "label_name_invalid"),
        ("labels.-a".to_owned(), "label_name_invalid"),
        (format!("labels.{long}"), "label_name_invalid"),
        ("labels.ok".to_owned(), "label_value_invalid"),
    ];
    assert_eq!(said.unwrap_err(), expected);
    let names: Vec<_> = (0..21).map(|n| format!("n{n}")).collect();
    let many = names.iter().map(|name| (name.as_str(), "x")).collect();
    assert_eq!(
        labels(many).unwrap_err(),
        [("labels".to_owned(), "too_many")]
    );
    let description = |text: String| judged(FREE, |judge| judge.description(Some(text)));
    description("line\nline\t😀".repeat(90)).unwrap();
    let said = description("x".repeat(1_001)).unwrap_err();
    assert_eq!(said, [("description".to_owned(), "too_long")]);
    let said = description("a\0".into()).unwrap_err();
    assert_eq!(said, [("description".to_owned(), "control_character")]);
}

#[test]
fn event_actions_are_kept_in_their_short_form() {
    let actions = |words: &[&str]| {
        let words = words.iter().map(|&word| word.to_owned()).collect();
        judged(FREE, |judge| judge.event_actions(Some(words)))
    };
    let kept = actions(&["EVENT_ACTION_FORM_SUBMIT", "FORM_SUBMIT", "OF_THE_FUTURE"]);
    assert_eq!(kept.unwrap().unwrap(), ["FORM_SUBMIT", "OF_THE_FUTURE"]);
    for bad in ["", "EVENT_ACTION_", "form_submit", "A B"] {
        let said = actions(&[bad]).unwrap_err();
        assert_eq!(said, [("eventActions".to_owned(), "not_an_action")]);
    }
}

#[test]
fn a_rate_limit_is_whole_and_a_second_or_a_minute_long() {
    let rate = |count, period_seconds, burst| {
        let draft = RateDraft {
            count,
            period_seconds,
            burst,
        };
        judged(FREE, |judge| judge.rate(Some(Some(draft))))
    };
    let minute = rate(Some(600), Some(60), None).unwrap().unwrap().unwrap();
    assert_eq!((minute.count, minute.burst), (600, 10));
    let second = rate(Some(5), Some(1), Some(20)).unwrap().unwrap().unwrap();
    assert_eq!((second.period_seconds, second.burst), (1, 20));
    assert_eq!(judged(FREE, |judge| judge.rate(Some(None))), Ok(Some(None)));
    let said = rate(None, None, None).unwrap_err();
    let fields: Vec<_> = said.into_iter().map(|(field, _)| field).collect();
    assert_eq!(fields, ["rateLimit.count", "rateLimit.periodSeconds"]);
    for (count, period, burst, field) in [
        (0, 1, None, "rateLimit.count"),
        (i64::MAX, 1, None, "rateLimit.count"),
        (1, 30, None, "rateLimit.periodSeconds"),
        (1, 1, Some(0), "rateLimit.burst"),
        (1, 1, Some(-1), "rateLimit.burst"),
    ] {
        let said = rate(Some(count), Some(period), burst).unwrap_err();
        assert_eq!(said, [(field.to_owned(), "out_of_bounds")]);
    }
}

#[test]
fn words_and_numbers_outside_their_range_are_named() {
    let field = |said: Vec<(String, &'static str)>| said[0].0.clone();
    for wish in [0, -1, 65, i64::MIN] {
        let said = judged(FREE, |judge| judge.max_in_flight(Some(Some(wish)))).unwrap_err();
        assert_eq!(field(said), "maxInFlight");
    }
    let cleared = judged(FREE, |judge| judge.max_in_flight(Some(None)));
    assert_eq!(cleared, Ok(Some(None)));
    let said = judged(FREE, |judge| judge.ordering(Some("link".into()))).unwrap_err();
    assert_eq!(field(said), "ordering");
    let said = judged(FREE, |judge| judge.held(Some("SEND".into()))).unwrap_err();
    assert_eq!(field(said), "heldDeliveries");
    for weak in [
        "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_Y29ycmVjdGhvcnNlYmF0dGVyeXN0YXBsZQ==",
    ] {
        let weak = Secret::new(weak);
        let said = judged(FREE, |judge| judge.secret(Some(weak))).unwrap_err();
        assert_eq!(field(said), "secret");
    }
    let signatures = |words: &[&str]| {
        let words = words.iter().map(|&word| word.to_owned()).collect();
        judged(FREE, |judge| judge.asymmetric(Some(words)))
    };
    assert_eq!(signatures(&["v1"]), Ok(Some(false)));
    assert_eq!(signatures(&["v1", "v1a"]), Ok(Some(true)));
    for bad in [&[][..], &["v1a"], &["v1", "v2"]] {
        assert_eq!(field(signatures(bad).unwrap_err()), "signatures");
    }
}
