//! Where a caller stands with his rate limit, as every answer tells it.

use http::{HeaderMap, HeaderName, HeaderValue};
use webhooks_runtime::rate::{Standing, whole_seconds};

/// Writes the headers that every answer carries. `now_seconds` is the Unix time.
pub(crate) fn write_standing(standing: Standing, headers: &mut HeaderMap, now_seconds: i64) {
    let reset = whole_seconds(standing.reset);
    let reset_at = now_seconds.saturating_add(i64::try_from(reset).unwrap_or(i64::MAX));
    let Standing {
        limit, remaining, ..
    } = standing;
    let window = standing.window.as_secs();
    let lines: [(&'static str, String); 8] = [
        (
            "ratelimit-policy",
            format!("\"default\";q={limit};w={window}"),
        ),
        ("ratelimit", format!("\"default\";r={remaining};t={reset}")),
        ("ratelimit-limit", limit.to_string()),
        ("ratelimit-remaining", remaining.to_string()),
        ("ratelimit-reset", reset.to_string()),
        ("x-ratelimit-limit", limit.to_string()),
        ("x-ratelimit-remaining", remaining.to_string()),
        ("x-ratelimit-reset", reset_at.to_string()),
    ];
    for (name, value) in lines {
        let value = HeaderValue::try_from(value).expect("digits and quotes are header text");
        headers.insert(HeaderName::from_static(name), value);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_headers_are_the_contracts() {
        let mut headers = HeaderMap::new();
        let standing = Standing {
            limit: 600,
            remaining: 599,
            reset: Duration::from_millis(59_001),
            window: Duration::from_secs(60),
            over: false,
        };
        write_standing(standing, &mut headers, 1_700_000_000);
        for (name, value) in [
            ("RateLimit-Policy", "\"default\";q=600;w=60"),
            ("RateLimit", "\"default\";r=599;t=60"),
            ("RateLimit-Limit", "600"),
            ("RateLimit-Remaining", "599"),
            ("RateLimit-Reset", "60"),
            ("X-RateLimit-Limit", "600"),
            ("X-RateLimit-Remaining", "599"),
            ("X-RateLimit-Reset", "1700000060"),
        ] {
            assert_eq!(headers[name], value);
        }
    }
}
