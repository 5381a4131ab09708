use super::{super::tests::judged, *};

const FREE: RetryBounds = RetryBounds {
    max_attempts: 3,
    max_age: None,
};

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
            "retryPolicy.baseSeconds",
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
fn a_policy_that_is_there_already_is_beyond_no_plan() {
    let with_kept = |kept: RetryChoice, draft: RetryDraft| {
        judged(FREE, |judge| {
            judge.retry_kept = Some(kept);
            judge.retry(Some(draft))
        })
    };
    let ten = RetryNumbers {
        max_attempts: 10,
        base_ms: 30_000,
        factor_milli: 2_000,
        cap_ms: 3_600_000,
        jitter_milli: 200,
        max_age_ms: 0,
    };
    let numbers = |max_attempts| RetryDraft {
        max_attempts: Some(max_attempts),
        ..RetryDraft::default()
    };
    let spelled = RetryDraft {
        base_seconds: Some(30.0),
        factor: Some(2.0),
        cap_seconds: Some(3_600.0),
        jitter: Some(0.2),
        max_age_seconds: Some(0.0),
        ..numbers(10)
    };
    let kept = RetryChoice::Custom(ten);
    for same in [numbers(10), spelled.clone()] {
        assert_eq!(with_kept(kept, same), Ok(Some(kept)));
    }
    let resilient = RetryChoice::Resilient;
    let same = with_kept(resilient, preset("resilient"));
    assert_eq!(same, Ok(Some(resilient)));
    // Whatever is changed is judged, also what becomes less and is still too much.
    let over = vec![("retryPolicy.maxAttempts".to_owned(), "plan_limit")];
    let jittery = RetryDraft {
        jitter: Some(0.3),
        ..spelled
    };
    for other in [numbers(9), numbers(11), jittery, preset("resilient")] {
        assert_eq!(with_kept(kept, other), Err(over.clone()));
    }
    assert_eq!(with_kept(resilient, numbers(10)), Err(over));
    // What any policy may have is asked of this one, too.
    let broken = RetryDraft {
        factor: Some(0.0),
        ..numbers(10)
    };
    let said = with_kept(kept, broken).unwrap_err();
    assert!(said.contains(&("retryPolicy.factor".to_owned(), "out_of_bounds")));
}

#[test]
fn every_number_that_is_none_is_named() {
    let said = |draft: RetryDraft, bounds: RetryBounds| -> Vec<(String, &'static str)> {
        judged(bounds, |judge| judge.retry(Some(draft))).unwrap_err()
    };
    let out = |field: &str| (format!("retryPolicy.{field}"), "out_of_bounds");
    let all = RetryDraft {
        preset: None,
        max_attempts: Some(-1),
        base_seconds: Some(-1.0),
        factor: Some(0.0),
        cap_seconds: Some(1e300),
        jitter: Some(-0.1),
        max_age_seconds: Some(-5.0),
    };
    let numbers = [
        out("maxAttempts"),
        out("baseSeconds"),
        out("factor"),
        out("capSeconds"),
        out("jitter"),
        out("maxAgeSeconds"),
    ];
    assert_eq!(said(all.clone(), FREE), numbers);
    // A preset beside them, which is none: each of the three is a mistake of its own.
    let both = RetryDraft {
        preset: Some("patient".into()),
        ..all
    };
    let mut expected = vec![
        ("retryPolicy.preset".to_owned(), "unknown_preset"),
        ("retryPolicy".to_owned(), "ambiguous"),
    ];
    expected.extend(numbers);
    assert_eq!(said(both, FREE), expected);
    // What the plan does not allow is told beside what no plan does.
    let day = RetryBounds {
        max_attempts: 3,
        max_age: Some(Duration::from_secs(86_400)),
    };
    let patient = RetryDraft {
        max_attempts: Some(5),
        factor: Some(11.0),
        max_age_seconds: Some(100_000.0),
        ..RetryDraft::default()
    };
    let plan = |field: &str| (format!("retryPolicy.{field}"), "plan_limit");
    assert_eq!(
        said(patient, day),
        [out("factor"), plan("maxAttempts"), plan("maxAgeSeconds")]
    );
    let over = [plan("maxAttempts"), plan("maxAgeSeconds")];
    assert_eq!(said(preset("resilient"), day), over);
}
