use super::*;

fn uuid(text: &str) -> Uuid {
    Uuid::parse_str(text).expect("a UUID")
}

fn micros(text: &str) -> i64 {
    super::super::parse_rfc3339_micros(text).expect("a time")
}

/// The sample's webhook.
fn snapshot(triggers: &[String]) -> WebhookSnapshot<'_> {
    let sent = Some(micros("2025-10-10T16:12:11.194332Z"));
    WebhookSnapshot {
        id: uuid("42806ec9-1085-404a-b353-75b156cb71b3"),
        name: "Test Webhook",
        endpoint_url: "https://webhook-test.com/74d9a9bae65ebaa1900ca1b1553617ef",
        status: "ACTIVE",
        workspace_id: uuid("a39dbbfb-be5e-41c8-b49a-7c9ada520fa4"),
        link_id: None,
        created_by: Some(uuid("a36358fe-2749-40a3-8068-e94177a8d069")),
        source: DEFAULT_SOURCE,
        triggers,
        created_at_micros: micros("2025-10-09T21:59:53.506032Z"),
        updated_at_micros: micros("2025-10-09T21:59:53.506032Z"),
        last_sent_at_micros: sent,
        last_delivered_at_micros: sent,
        success_count: 13,
        failure_count: 0,
    }
}

fn rendered(snapshot: &WebhookSnapshot<'_>, profile: Profile) -> String {
    let bytes = render_snapshot(snapshot, profile);
    let text = String::from_utf8(bytes).expect("UTF-8");
    serde_json::from_str::<serde_json::Value>(&text).expect("JSON");
    text
}

#[test]
fn the_samples_webhook_is_written_as_in_the_sample() {
    let sample = include_str!("../../../tests/data/step_completed.sample.json");
    let sample: std::collections::BTreeMap<&str, &serde_json::value::RawValue> =
        serde_json::from_str(sample).expect("the sample is JSON");
    let compact: String = sample["webhook"].get().lines().map(str::trim).collect();
    let compact = compact.replace("\": ", "\":");
    let exit = [DEFAULT_TRIGGER.to_owned()];
    assert_eq!(rendered(&snapshot(&exit), Profile::Standard), compact);
    assert_eq!(rendered(&snapshot(&[]), Profile::Standard), compact);
}

#[test]
fn strict_and_thin_keep_what_the_policy_says() {
    assert_eq!(
        rendered(&snapshot(&[]), Profile::Strict),
        concat!(
            r#"{"id":"42806ec9-1085-404a-b353-75b156cb71b3","name":"Test Webhook","status":"ACTIVE","#,
            r#""workspaceId":"a39dbbfb-be5e-41c8-b49a-7c9ada520fa4","#,
            r#""createdAt":"2025-10-09T21:59:53.506032Z","updatedAt":"2025-10-10T16:12:11.194332Z"}"#,
        )
    );
    assert_eq!(
        rendered(&snapshot(&[]), Profile::Thin),
        r#"{"id":"42806ec9-1085-404a-b353-75b156cb71b3"}"#
    );
}

#[test]
fn values_that_are_not_default_are_shown_in_their_place() {
    let triggers = ["KIND_EXIT".to_owned(), "KIND_INTERACTION".to_owned()];
    let full = WebhookSnapshot {
        name: "a \"name\"\n\u{1}\u{e9}",
        endpoint_url: "https://user:pass@example.com:8443/a/b@c?token=1#x",
        status: "AUTO_DISABLED",
        link_id: Some(uuid("a3332d06-1c43-4a23-a34e-259fa393581c")),
        created_by: None,
        source: "ZAPIER",
        created_at_micros: 0,
        updated_at_micros: 2_500_000,
        last_sent_at_micros: Some(1_000_000),
        last_delivered_at_micros: None,
        success_count: 0,
        failure_count: u64::MAX,
        ..snapshot(&triggers)
    };
    assert_eq!(
        rendered(&full, Profile::Standard),
        concat!(
            r#"{"id":"42806ec9-1085-404a-b353-75b156cb71b3","name":"a \"name\"\n\u0001"#,
            "\u{e9}",
            r#"","endpointUrl":"https://example.com:8443/a/b@c","status":"AUTO_DISABLED","#,
            r#""workspaceId":"a39dbbfb-be5e-41c8-b49a-7c9ada520fa4","#,
            r#""linkId":"a3332d06-1c43-4a23-a34e-259fa393581c","source":"ZAPIER","#,
            r#""triggers":["KIND_EXIT","KIND_INTERACTION"],"createdAt":"1970-01-01T00:00:00Z","#,
            r#""updatedAt":"1970-01-01T00:00:02.5Z","lastSentAt":"1970-01-01T00:00:01Z","#,
            r#""failureCount":18446744073709551615}"#,
        )
    );
}

#[test]
fn a_url_leaves_without_its_secrets() {
    let table = [
        ("https://a.example/b", "https://a.example/b"),
        ("https://a.example", "https://a.example"),
        ("https://a.example?k=v", "https://a.example"),
        ("https://a.example#f?k", "https://a.example"),
        ("https://u@a.example/", "https://a.example/"),
        ("https://u:p@q@a.example/x@y", "https://a.example/x@y"),
        ("https://a.example/?u=b@c", "https://a.example/"),
        (
            "https://[2001:db8::1]:8443/x",
            "https://[2001:db8::1]:8443/x",
        ),
    ];
    for (url, public) in table {
        assert_eq!(public_part(url), public);
    }
}
