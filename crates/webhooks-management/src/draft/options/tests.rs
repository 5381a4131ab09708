use super::{
    super::{RetryBounds, tests::judged},
    *,
};

/// No option here is bounded by a plan.
const FREE: RetryBounds = RetryBounds::NONE;

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
        assert_eq!(said, [("eventActions[0]".to_owned(), "not_an_action")]);
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
    for bad in [&[][..], &["v1a"]] {
        assert_eq!(field(signatures(bad).unwrap_err()), "signatures");
    }
    let fields = |words: &[&str]| -> Vec<String> {
        let said = signatures(words).unwrap_err().into_iter();
        said.map(|(field, _)| field).collect()
    };
    assert_eq!(
        fields(&["v1", "v2", "v1a", "V1"]),
        ["signatures[1]", "signatures[3]"]
    );
    assert_eq!(fields(&["v1a", "v2"]), ["signatures[1]", "signatures"]);
}
