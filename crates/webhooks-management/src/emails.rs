//! Mail addresses as operators write them: the plain form `name@host.example`, nothing quoted, nothing that
//! a mail program could take for an option or a route.

/// Longest address, in bytes (RFC 5321 minus the angle brackets).
const MAX_BYTES: usize = 254;

/// Longest part before the `@`, in bytes.
const MAX_LOCAL_BYTES: usize = 64;

/// Whether this is an address that mail can be sent to, by its form.
pub(crate) fn is_email(text: &str) -> bool {
    let Some((local, host)) = text.rsplit_once('@') else {
        return false;
    };
    let atom = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&'*+/=?^_`{|}~-".contains(&byte);
    let local_fits = (1..=MAX_LOCAL_BYTES).contains(&local.len())
        && !local.starts_with('-')
        && local
            .split('.')
            .all(|part| !part.is_empty() && part.bytes().all(atom));
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // An address of digits is no name.
    let last = host.rsplit('.').next().unwrap_or_default();
    let named = last.bytes().any(|byte| byte.is_ascii_alphabetic());
    text.len() <= MAX_BYTES
        && local_fits
        && named
        && host.contains('.')
        && host.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::is_email;

    #[test]
    fn plain_addresses_are_taken_and_tricks_are_not() {
        for good in [
            "a@b.example",
            "first.last+tag@mail.b-c.example",
            "o'neil@x.io",
        ] {
            assert!(is_email(good), "{good}");
        }
        let long = format!("{}@b.example", "a".repeat(65));
        for bad in [
            "",
            "a",
            "@b.example",
            "a@",
            "a@b",
            "a b@c.example",
            "a@b@c.example",
            ".a@b.example",
            "a..b@c.example",
            "a@-b.example",
            "a@b..example",
            "\"a\"@b.example",
            "a@b.example\r\nBcc: x@y.example",
            "a@[127.0.0.1]",
            "a@127.0.0.1",
            "-oQ/tmp@b.example",
            "a%0d%0a@b.example",
            "<a@b.example>",
            "\u{e4}@b.example",
            &long,
        ] {
            assert!(!is_email(bad), "{bad:?}");
        }
    }
}
