//! What a `Content-Type` says, as far as anything here depends on it.

/// Whether a `Content-Type` names JSON: `application/json` in any case, with or without parameters. An
/// absent one does not.
#[must_use]
pub fn is_json(content_type: Option<&str>) -> bool {
    let essence = content_type.and_then(|value| value.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_may_name_its_charset_and_nothing_else_is_json() {
        for good in [
            "application/json",
            "Application/JSON; charset=utf-8",
            " application/json ;x=y",
        ] {
            assert!(is_json(Some(good)), "{good}");
        }
        for bad in [
            None,
            Some(""),
            Some("text/json"),
            Some("application/jsonp"),
            Some("application/x-www-form-urlencoded"),
        ] {
            assert!(!is_json(bad), "{bad:?}");
        }
    }
}
