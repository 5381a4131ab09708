use rcgen::{CertificateParams, KeyPair, date_time_ymd};

use super::{super::certificate::MAX_CHAIN_BYTES, *};

/// The year 2026, in microseconds.
const NOW: i64 = 1_770_000_000_000_000;

fn secret(text: &str) -> Option<Secret> {
    Some(Secret::new(text))
}

fn header(name: &str, value: Option<&str>) -> HeaderDraft {
    HeaderDraft {
        name: name.into(),
        value: value.map(Secret::new),
    }
}

fn by(addresses: &AddressPolicy) -> By<'_> {
    By {
        addresses,
        now: NOW,
        moves: false,
    }
}

fn judged(
    stored: &Extras,
    headers: Option<Vec<HeaderDraft>>,
    auth: Option<Option<AuthDraft>>,
) -> Result<Option<Extras>, Vec<(String, &'static str)>> {
    let mut violations = Violations::default();
    let wish = Wish {
        headers,
        auth,
        certificate: None,
    };
    let extras = judge(&mut violations, stored, by(&AddressPolicy::default()), wish);
    if violations.is_empty() {
        Ok(extras)
    } else {
        Err(violations
            .told()
            .into_iter()
            .map(|one| (one.field, one.reason))
            .collect())
    }
}

#[test]
fn a_value_that_is_left_out_or_masked_stays() {
    let stored = Extras {
        headers: vec![("X-Team".into(), Secret::new("a long enough value"))],
        auth: Some(Auth::Bearer {
            token: Secret::new("t0ken"),
        }),
        client_certificate: None,
    };
    assert_eq!(judged(&stored, None, None), Ok(None));
    // The last one is a mask of an earlier release, which showed more.
    for value in [None, Some("••••"), Some("••••alue")] {
        let same = judged(&stored, Some(vec![header("x-team", value)]), None);
        let same = same.unwrap().unwrap();
        assert_eq!(same.headers[0].1.expose(), "a long enough value");
        assert_eq!(same.auth, stored.auth);
    }
    for token in [None, secret("••••")] {
        let same = judged(&stored, None, Some(Some(AuthDraft::Bearer { token })));
        assert_eq!(same.unwrap().unwrap(), stored);
    }
    for password in [None, secret("••••"), secret("••••0ken")] {
        let other = AuthDraft::Basic {
            username: "u".into(),
            password,
        };
        assert_eq!(
            judged(&stored, None, Some(Some(other))),
            Err(vec![("auth.password".into(), "missing")]),
            "a value of another kind is not taken over, nor a mask taken for a value"
        );
    }
    let cleared = judged(&stored, Some(vec![]), Some(None)).unwrap().unwrap();
    assert!(cleared.is_empty());
}

#[test]
fn every_bad_header_is_named() {
    let none = Extras::default();
    let bad = vec![
        header("Host", Some("x")),
        header("X-Ok", Some("x")),
        header("x-ok", Some("y")),
        header("a b", Some("x")),
        header("X-Split", Some("a\r\nb")),
        header("X-New", None),
        header("Webhook-Id", None),
    ];
    let expected = [
        ("headers[0].name", "header_name_reserved"),
        ("headers[2].name", "header_name_repeated"),
        ("headers[3].name", "header_name_invalid"),
        ("headers[4].value", "header_value_invalid"),
        ("headers[5].value", "missing"),
        ("headers[6].value", "missing"),
        ("headers[6].name", "header_name_reserved"),
    ];
    assert_eq!(
        judged(&none, Some(bad), None),
        Err(expected
            .map(|(field, reason)| (field.to_owned(), reason))
            .to_vec())
    );
    let many = (0..21).map(|n| header(&format!("x-{n}"), Some("v")));
    assert_eq!(
        judged(&none, Some(many.collect()), None),
        Err(vec![("headers".into(), "too_many_headers")])
    );
}

#[test]
fn credentials_are_judged_by_their_kind() {
    let none = Extras::default();
    let auth = |draft| judged(&none, None, Some(Some(draft)));
    let key = |place: &str, name: &str, value: &str| AuthDraft::ApiKey {
        place: place.into(),
        name: name.into(),
        value: secret(value),
    };
    auth(key("query", "api_key", "a&b=c d")).unwrap();
    auth(key("header", "X-Key", "a")).unwrap();
    for (draft, field) in [
        (key("cookie", "k", "v"), "auth.in"),
        (key("query", "k=", "v"), "auth.name"),
        (key("header", "Host", "v"), "auth.name"),
        (key("query", "k", "a\nb"), "auth.value"),
        (
            AuthDraft::Bearer {
                token: secret("a b"),
            },
            "auth.token",
        ),
        (AuthDraft::Bearer { token: None }, "auth.token"),
        (
            AuthDraft::Basic {
                username: "a:b".into(),
                password: secret("p"),
            },
            "auth.username",
        ),
    ] {
        let refused = auth(draft).unwrap_err();
        assert_eq!(refused[0].0, field);
    }
    let twice = judged(
        &none,
        Some(vec![header("authorization", Some("x"))]),
        Some(Some(AuthDraft::Bearer { token: secret("t") })),
    );
    assert_eq!(twice, Err(vec![("auth".into(), "header_name_repeated")]));
}

fn oauth(token_url: &str, secret: Option<Secret>) -> AuthDraft {
    AuthDraft::OAuth2 {
        token_url: token_url.into(),
        client_id: "client".into(),
        client_secret: secret,
        scopes: vec!["a:b".into()],
        audience: String::new(),
        client_auth: String::new(),
    }
}

#[test]
fn a_clients_secret_stays_with_its_token_endpoint() {
    const HERE: &str = "https://id.example.com/token";
    let none = Extras::default();
    let made = judged(&none, None, Some(Some(oauth(HERE, secret("s3cret")))));
    let made = made.unwrap().unwrap();
    let kept = judged(&made, None, Some(Some(oauth(HERE, None)))).unwrap();
    assert_eq!(kept.unwrap(), made);
    let elsewhere = oauth("https://thief.example.com/token", None);
    let expected = vec![("auth.clientSecret".to_owned(), "missing")];
    assert_eq!(judged(&made, None, Some(Some(elsewhere))), Err(expected));
    for (url, reason) in [
        ("https://10.0.0.1/token", "blocked_address"),
        ("http://id.example.com/token", "scheme_not_https"),
        ("https://u:p@id.example.com/", "userinfo"),
    ] {
        let refused = judged(&none, None, Some(Some(oauth(url, secret("s")))));
        assert_eq!(refused, Err(vec![("auth.tokenUrl".to_owned(), reason)]));
    }
    let both = judged(
        &none,
        Some(vec![header("Authorization", Some("x"))]),
        Some(Some(oauth(HERE, secret("s")))),
    );
    assert_eq!(both, Err(vec![("auth".into(), "header_name_repeated")]));
}

fn certificate(from: i32, to: i32, key: &KeyPair) -> String {
    let mut params = CertificateParams::new(vec!["client.example".to_owned()]).unwrap();
    params.not_before = date_time_ymd(from, 1, 1);
    params.not_after = date_time_ymd(to, 1, 1);
    params.self_signed(key).unwrap().pem()
}

fn judged_certificate(
    stored: &Extras,
    certificate: Option<&str>,
    private_key: Option<&str>,
) -> Result<Extras, (String, &'static str)> {
    let mut violations = Violations::default();
    let wish = Wish {
        certificate: Some(Some(CertificateDraft {
            certificate: certificate.map(str::to_owned),
            private_key: private_key.map(Secret::new),
        })),
        ..Wish::default()
    };
    let extras = judge(&mut violations, stored, by(&AddressPolicy::default()), wish);
    match violations.told().pop() {
        None => Ok(extras.unwrap()),
        Some(violation) => Err((violation.field, violation.reason)),
    }
}

#[test]
fn a_client_certificate_is_judged_when_it_is_saved() {
    let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let good = certificate(2020, 2040, &key);
    let (own, wrong) = (key.serialize_pem(), other.serialize_pem());
    let none = Extras::default();
    let check = |chain: Option<&str>, key: Option<&str>, field: &str, reason| {
        let field = format!("clientCertificate.{field}");
        assert_eq!(judged_certificate(&none, chain, key), Err((field, reason)));
    };
    check(None, Some(&own), "certificate", "missing");
    check(Some(&good), None, "privateKey", "missing");
    check(Some("x"), Some(&own), "certificate", "not_a_certificate");
    check(Some(&good), Some("x"), "privateKey", "not_a_private_key");
    check(Some(&good), Some(&wrong), "privateKey", "key_mismatch");
    let old = certificate(2020, 2021, &key);
    check(Some(&old), Some(&own), "certificate", "certificate_expired");
    // Both are told; this one is the last of them.
    check(Some(&old), Some(&wrong), "privateKey", "key_mismatch");
    let early = certificate(2039, 2040, &key);
    check(
        Some(&early),
        Some(&own),
        "certificate",
        "certificate_not_yet_valid",
    );
    let long = "x".repeat(MAX_CHAIN_BYTES + 1);
    check(Some(&long), Some(&own), "certificate", "too_long");

    let made = judged_certificate(&none, Some(&good), Some(&own)).unwrap();
    let shown = made.shown().client_certificate.unwrap();
    assert_eq!(shown.not_after, "2040-01-01T00:00:00Z");
    assert_eq!(shown.fingerprint.len(), 64);
    let policy = AddressPolicy::default();
    let moves = By {
        moves: true,
        ..by(&policy)
    };
    let elsewhere = |private_key: Option<&str>| {
        let mut violations = Violations::default();
        let wish = Wish {
            certificate: Some(Some(CertificateDraft {
                certificate: Some(good.clone()),
                private_key: private_key.map(Secret::new),
            })),
            ..Wish::default()
        };
        judge(&mut violations, &made, moves, wish);
        violations.told().pop().map(|one| (one.field, one.reason))
    };
    for kept in [None, Some("••••")] {
        let expected = ("clientCertificate.privateKey".to_owned(), OTHER_HOST);
        assert_eq!(elsewhere(kept), Some(expected));
    }
    assert_eq!(elsewhere(Some(&own)), None);
    // What was read can be written back, and a certificate renewed under its key.
    let same = judged_certificate(&made, None, Some("••••"));
    assert_eq!(same, Ok(made.clone()));
    let renewed = certificate(2024, 2041, &key);
    let renewed = judged_certificate(&made, Some(&renewed), None).unwrap();
    assert_ne!(renewed.shown(), made.shown());
    assert!(!format!("{made:?}").contains("PRIVATE KEY"));
}

#[test]
fn every_member_of_credentials_is_judged() {
    let none = Extras::default();
    let fields = |draft: AuthDraft| -> Vec<String> {
        let said = judged(&none, None, Some(Some(draft))).unwrap_err();
        said.into_iter().map(|(field, _)| field).collect()
    };
    let basic = AuthDraft::Basic {
        username: "a:b".into(),
        password: None,
    };
    assert_eq!(fields(basic), ["auth.username", "auth.password"]);
    for (place, name, value) in [
        ("query", "k=", secret("a\nb")),
        ("header", "Host", None),
        ("header", "a b", secret(" ")),
    ] {
        let key = AuthDraft::ApiKey {
            place: place.into(),
            name: name.into(),
            value,
        };
        assert_eq!(fields(key), ["auth.name", "auth.value"], "{name}");
    }
    let client = AuthDraft::OAuth2 {
        token_url: "http://id.example.com/".into(),
        client_id: String::new(),
        client_secret: None,
        scopes: vec!["a:b".into(), "b c".into(), String::new(), "d\\".into()],
        audience: "\n".into(),
        client_auth: "digest".into(),
    };
    assert_eq!(
        fields(client),
        [
            "auth.clientAuth",
            "auth.tokenUrl",
            "auth.clientId",
            "auth.audience",
            "auth.scopes[1]",
            "auth.scopes[2]",
            "auth.scopes[3]",
            "auth.clientSecret"
        ]
    );
}

#[test]
fn headers_are_held_against_each_other_whatever_the_credentials_are() {
    let none = Extras::default();
    let (long, third) = ("v".repeat(4_000), "v".repeat(300));
    let large = || {
        vec![
            header("X-A", Some(&long)),
            header("X-B", Some(&long)),
            header("Authorization", Some("x")),
            header("X-C", Some(&third)),
        ]
    };
    let bearer = AuthDraft::Bearer { token: secret("t") };
    let named = |field: &str, reason| (field.to_owned(), reason);
    assert_eq!(
        judged(&none, Some(large()), Some(Some(bearer))),
        Err(vec![
            named("auth", "header_name_repeated"),
            named("headers", "headers_too_large")
        ])
    );
    let bad = AuthDraft::ApiKey {
        place: "cookie".into(),
        name: "k".into(),
        value: secret("v"),
    };
    assert_eq!(
        judged(&none, Some(large()), Some(Some(bad))),
        Err(vec![
            named("auth.in", "not_allowed"),
            named("headers", "headers_too_large")
        ])
    );
}

#[test]
fn a_chain_and_a_key_that_are_none_are_both_told() {
    let mut violations = Violations::default();
    let wish = Wish {
        certificate: Some(Some(CertificateDraft::default())),
        ..Wish::default()
    };
    let policy = AddressPolicy::default();
    judge(&mut violations, &Extras::default(), by(&policy), wish);
    let wish = Wish {
        certificate: Some(Some(CertificateDraft {
            certificate: Some("x".repeat(MAX_CHAIN_BYTES + 1)),
            private_key: secret("y"),
        })),
        ..Wish::default()
    };
    let mut others = Violations::default();
    judge(&mut others, &Extras::default(), by(&policy), wish);
    let said = |violations: Violations| -> Vec<(String, &'static str)> {
        let told = violations.told().into_iter();
        told.map(|one| (one.field, one.reason)).collect()
    };
    let named = |certificate, private_key| {
        [
            ("clientCertificate.certificate".to_owned(), certificate),
            ("clientCertificate.privateKey".to_owned(), private_key),
        ]
    };
    assert_eq!(said(violations), named("missing", "missing"));
    assert_eq!(said(others), named("too_long", "not_a_private_key"));
}
