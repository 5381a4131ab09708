//! The id of a request, by one rule at every door: the caller's, where it is a sane one, else a new one.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

/// The header with a request's id, in both directions.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id that is taken over from the caller, in characters.
const MAX_CHARS: usize = 128;

/// The id of a request with these headers: the caller's, if it is a sane one, or a new one.
#[must_use]
pub fn request_id(headers: &HeaderMap) -> String {
    let given = headers
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .filter(|id| is_request_id(id));
    given.map_or_else(|| Uuid::new_v4().to_string(), str::to_owned)
}

/// An id that [`request_id`] has given, as a header.
///
/// # Panics
/// It is another text, which no header can hold.
#[must_use]
pub fn request_id_header(id: &str) -> HeaderValue {
    HeaderValue::try_from(id).expect("ids are visible ASCII")
}

/// Few enough characters that an id fits into a line of a log, a URL and a quoted text as it is.
fn is_request_id(text: &str) -> bool {
    (1..=MAX_CHARS).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-:/+=".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sane_request_id_is_kept_and_another_replaced() {
        let id = |given: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, given.parse().unwrap());
            request_id(&headers)
        };
        let longest = "x".repeat(MAX_CHARS);
        for kept in ["abc-1", "A.b_c:/+=9", &longest] {
            assert_eq!(id(kept), kept);
            assert_eq!(request_id_header(&id(kept)), kept);
        }
        for bad in ["", "a b", "a\"b", "ü", &format!("{longest}x")] {
            let new = id(bad);
            assert_ne!(new, bad);
            new.parse::<Uuid>().unwrap();
        }
        let (one, other) = (HeaderMap::new(), HeaderMap::new());
        assert_ne!(request_id(&one), request_id(&other));
    }
}
