//! Names that people give to things of theirs.

use webhooks_domain::webhook::MAX_NAME_CHARS;

/// What is wrong with a name: a machine word, and what to do about it.
pub(crate) fn wrong_name(name: &str) -> Option<(&'static str, String)> {
    if is_blank(name) {
        Some(("blank", "must not be blank".to_owned()))
    } else if name.chars().count() > MAX_NAME_CHARS {
        let message = format!("has at most {MAX_NAME_CHARS} characters");
        Some(("too_long", message))
    } else if name.chars().any(char::is_control) {
        Some(("control_character", "has no control characters".to_owned()))
    } else {
        None
    }
}

/// Whether nothing of a name can be seen: it has blanks, control characters and such signs only as join,
/// part or turn what stands beside them.
fn is_blank(name: &str) -> bool {
    let formats = |c: char| {
        matches!(
            c,
            '\u{ad}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{202a}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
        )
    };
    name.chars()
        .all(|c| c.is_whitespace() || c.is_control() || formats(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_shows_something() {
        for blank in [
            "",
            "  ",
            "\t\n",
            "\0",
            "\u{a0}\u{3000}",
            "\u{200b}",
            "\u{200f}\u{202a}\u{202e}",
            "\u{2060}\u{2064}\u{2069}",
            "\u{feff} \u{ad} \u{180e}",
        ] {
            let reason = wrong_name(blank).map(|(reason, _)| reason);
            assert_eq!(reason, Some("blank"), "{blank:?}");
        }
        for seen in ["x", "\u{200b}x", "\u{202e}gnp", "😀", "Заказы", "न\u{200d}"] {
            assert_eq!(wrong_name(seen), None, "{seen:?}");
        }
    }
}
