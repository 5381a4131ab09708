//! The text inside JSON string tokens: reading escapes and writing them.

/// The code unit that four hexadecimal digits name; `None` for anything else.
pub(crate) fn hex_unit(digits: &[u8]) -> Option<u16> {
    let digits: &[u8; 4] = digits.try_into().ok()?;
    digits.iter().try_fold(0_u16, |unit, &digit| {
        let value = char::from(digit).to_digit(16)?;
        Some((unit << 4) | value as u16)
    })
}

/// The characters that the inside of a string token stands for. The token has been scanned, so
/// its escapes are known to be whole; what cannot be read would become U+FFFD.
pub(crate) fn unescape(inner: &str) -> String {
    let mut out = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(at) = memchr::memchr(b'\\', rest.as_bytes()) {
        out.push_str(&rest[..at]);
        let escape = rest.as_bytes().get(at + 1).copied().unwrap_or(b'\\');
        rest = rest.get(at + 2..).unwrap_or_default();
        match escape {
            b'b' => out.push('\u{8}'),
            b'f' => out.push('\u{c}'),
            b'n' => out.push('\n'),
            b'r' => out.push('\r'),
            b't' => out.push('\t'),
            b'u' => out.push(take_unicode(&mut rest)),
            itself => out.push(char::from(itself)),
        }
    }
    out.push_str(rest);
    out
}

/// Takes the digits of a `\u` escape, and the low half after it when they name a high one.
fn take_unicode(rest: &mut &str) -> char {
    let mut unit = |skip: usize| {
        let unit = rest.as_bytes().get(skip..skip + 4).and_then(hex_unit)?;
        *rest = &rest[skip + 4..];
        Some(unit)
    };
    let units = match unit(0) {
        Some(high @ 0xD800..=0xDBFF) => [high, unit(2).unwrap_or_default()],
        Some(single) => [single, 0],
        None => return char::REPLACEMENT_CHARACTER,
    };
    char::decode_utf16(units)
        .next()
        .and_then(Result::ok)
        .unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// Appends `text` as a JSON string token. Only what RFC 8259 demands is escaped.
pub(crate) fn push_string(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    for &byte in text.as_bytes() {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0C => out.extend_from_slice(b"\\f"),
            0..0x20 => {
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 0xF)]);
            }
            plain => out.push(plain),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(text: &str) -> String {
        let mut out = Vec::new();
        push_string(&mut out, text);
        String::from_utf8(out).expect("escaping keeps UTF-8")
    }

    #[test]
    fn escapes_read_as_the_characters_they_name() {
        let table = [
            (r"plain", "plain"),
            (r#"\"\\\/"#, "\"\\/"),
            (r"\b\f\n\r\t", "\u{8}\u{c}\n\r\t"),
            (r"\u0041\u00e9\u0000", "A\u{e9}\0"),
            (r"\uD83D\uDE00!", "\u{1F600}!"),
            (r"a\u20ACb", "a\u{20AC}b"),
        ];
        for (raw, expected) in table {
            assert_eq!(unescape(raw), expected, "{raw}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(text in any::<String>()) {
            let token = written(&text);
            let read: String = serde_json::from_str(&token).expect("a JSON string");
            prop_assert_eq!(&read, &text);
            prop_assert_eq!(unescape(&token[1..token.len() - 1]), text);
        }

        #[test]
        fn escapes_read_as_serde_json_reads_them(units in prop::collection::vec(any::<char>(), 0..8)) {
            let mut raw = String::new();
            for character in &units {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    raw.push_str(&format!("\\u{unit:04X}"));
                }
            }
            let read: String = serde_json::from_str(&format!("\"{raw}\"")).expect("a JSON string");
            prop_assert_eq!(unescape(&raw), read);
        }
    }
}
