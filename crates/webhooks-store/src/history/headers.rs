//! Response headers as one text, a line each, as on the wire: cheap to write and readable in psql.

use std::borrow::Cow;

use super::ResponseHeader;

/// The separator between name and value.
const COLON: &str = ": ";

/// The headers as text. NUL, CR and LF, which neither the column nor the form can hold, become the
/// symbols `␀`, `␍` and `␊`.
pub(super) fn write(headers: &[ResponseHeader]) -> String {
    let length = headers
        .iter()
        .map(|h| h.name.len() + h.value.len() + COLON.len() + 1)
        .sum();
    let mut text = String::with_capacity(length);
    for header in headers {
        text.push_str(&visible(&header.name));
        text.push_str(COLON);
        text.push_str(&visible(&header.value));
        text.push('\n');
    }
    text
}

/// The headers that [`write`] was given.
pub(super) fn read(text: &str) -> Vec<ResponseHeader> {
    text.lines()
        .map(|line| {
            let (name, value) = line.split_once(COLON).unwrap_or((line, ""));
            ResponseHeader {
                name: name.to_owned(),
                value: value.to_owned(),
            }
        })
        .collect()
}

fn visible(text: &str) -> Cow<'_, str> {
    if text.contains(['\0', '\r', '\n']) {
        text.replace('\0', "\u{2400}")
            .replace('\r', "\u{240D}")
            .replace('\n', "\u{240A}")
            .into()
    } else {
        text.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(name: &str, value: &str) -> ResponseHeader {
        ResponseHeader {
            name: name.to_owned(),
            value: value.to_owned(),
        }
    }

    #[test]
    fn control_characters_are_made_visible() {
        let text = write(&[header("a", "1\0\r\n2"), header("b", "")]);
        assert_eq!(text, "a: 1␀␍␊2\nb: \n");
        assert_eq!(read(&text), [header("a", "1␀␍␊2"), header("b", "")]);
    }

    proptest! {
        #[test]
        fn headers_read_back(headers in prop::collection::vec(("[a-z-]{1,12}", "[^\0\r\n]{0,20}"), 0..5)) {
            let headers: Vec<_> = headers.iter().map(|(name, value)| header(name, value)).collect();
            prop_assert_eq!(read(&write(&headers)), headers);
        }
    }
}
