//! The demo's words.

use anyhow::{Context as _, bail};
use serde_json::Value;
use webhooks_domain::signing::{SigningKey, verify};

/// The request, as the receiver got it.
pub(crate) fn request(request: &Value) -> String {
    let mut text = format!(
        "\n── the request that arrived at the receiver ─────────────────────────────\nPOST {}\n",
        request["path"].as_str().unwrap_or_default()
    );
    for (name, value) in request["headers"].as_object().into_iter().flatten() {
        text.push_str(&format!("{name}: {}\n", value.as_str().unwrap_or_default()));
    }
    let body = request["body"].as_str().unwrap_or_default();
    text.push_str(&format!(
        "\n{}\n({} bytes on the wire, without the indentation)",
        indented(body),
        body.len()
    ));
    text
}

/// Verifies the signature as a customer does: from the headers, the raw body and the secret.
///
/// # Errors
/// It does not hold.
pub(crate) fn signature(request: &Value, key: &SigningKey) -> anyhow::Result<String> {
    let header = |name: &str| {
        request["headers"][name]
            .as_str()
            .with_context(|| format!("the request has no {name}"))
    };
    let timestamp = header("webhook-timestamp")?
        .parse()
        .context("webhook-timestamp is no number")?;
    let body = request["body"]
        .as_str()
        .context("the request has no body")?;
    if !verify(
        key,
        header("webhook-id")?,
        timestamp,
        body.as_bytes(),
        header("webhook-signature")?,
    ) {
        bail!("the signature of the demo's request does not hold");
    }
    Ok(
        "\nsignature verified (Standard Webhooks v1, HMAC-SHA256 over id.timestamp.body)"
            .to_owned(),
    )
}

/// The delivery's row in the log, and its attempts.
pub(crate) fn log(row: &Value, whole: &Value) -> String {
    let mut text = format!(
        "\n── its row in the log (GET /v1/webhooks/{}/deliveries) ──\n{}\n\n── with its attempts (GET /v1/deliveries/{}) ──\n",
        row["webhookId"].as_str().unwrap_or_default(),
        indented(&row.to_string()),
        row["id"].as_str().unwrap_or_default(),
    );
    text.push_str(&indented(&whole["attempts"].to_string()));
    text.push('\n');
    text
}

/// What earlier runs have left.
pub(crate) fn others(webhooks: u64) -> String {
    let many = if webhooks == 1 { "" } else { "s" };
    format!(
        "the demo workspace has {webhooks} other webhook{many} of earlier runs: each gets every event that it matches"
    )
}

/// The API would not take the receiver's address.
pub(crate) fn refused_at_creation(endpoint: &str, reason: &str) -> String {
    format!(
        "the demo delivery was refused: endpoints on private addresses are not allowed (ALLOW_PRIVATE_ENDPOINTS=0).\n\
         The API would not take {endpoint} as an endpoint: {reason}"
    )
}

/// The dispatcher would not call the receiver, or could not.
pub(crate) fn refused_at_delivery(endpoint: &str, delivery: &Value) -> String {
    format!(
        "the demo delivery to {endpoint} was refused or failed; the log says:\n{}",
        indented(&delivery.to_string())
    )
}

/// JSON on many lines. It works on the text, so order, numbers and spelling stay as they came.
pub(crate) fn indented(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    let mut characters = json.chars().peekable();
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth));
    };
    while let Some(character) = characters.next() {
        if in_string {
            out.push(character);
            (in_string, escaped) = (escaped || character != '"', !escaped && character == '\\');
            continue;
        }
        match character {
            '{' | '[' if matches!(characters.peek(), Some('}' | ']')) => {
                out.push(character);
                out.extend(characters.next());
            }
            '{' | '[' => {
                out.push(character);
                depth += 1;
                line(&mut out, depth);
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(character);
            }
            ',' => {
                out.push(character);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            '"' => {
                in_string = true;
                out.push(character);
            }
            blank if blank.is_whitespace() => {}
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use webhooks_domain::signing::{SigningKey, sign};

    use super::{indented, signature};

    #[test]
    fn indenting_changes_blanks_only() {
        let json = r#"{"b":1.50,"a":"x, {\"y\": [\\","e":{},"l":[1,2]}"#;
        let expected = "{\n  \"b\": 1.50,\n  \"a\": \"x, {\\\"y\\\": [\\\\\",\n  \"e\": {},\n  \"l\": [\n    1,\n    2\n  ]\n}";
        assert_eq!(indented(json), expected);
    }

    #[test]
    fn a_signature_that_does_not_hold_is_an_error() {
        let key = SigningKey::from_random([3; 32]);
        let request = |body: &str| {
            json!({"body": body, "headers": {
                "webhook-id": "msg_1",
                "webhook-timestamp": "7",
                "webhook-signature": sign(std::slice::from_ref(&key), "msg_1", 7, b"{}"),
            }})
        };
        signature(&request("{}"), &key).unwrap();
        assert!(signature(&request("{ }"), &key).is_err());
        assert!(signature(&json!({"body": "{}", "headers": {}}), &key).is_err());
    }
}
