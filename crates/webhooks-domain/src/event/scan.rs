//! A single-pass JSON scanner that yields spans, not values.
//!
//! It accepts exactly RFC 8259 text, with two documented narrowings: containers nest no deeper
//! than a limit, and a `\u` escape of a lone surrogate is refused (such text has no meaning in
//! UTF-8, and receivers disagree about it). The caller proves UTF-8 first by handing over a
//! `&str`. Numbers are checked for grammar and never converted, so `1e400`, `-0` and forty
//! digits survive as they are.
//!
//! The scanner keeps no stack of its own: the walks above it recurse, which is safe because
//! depth is limited by [`DEPTH_CEILING`] whatever a caller asks for.

mod error;

use std::borrow::Cow;

use super::json_text;
pub use error::{ScanError, ScanErrorKind};

/// Deepest nesting any scanner accepts, whatever limit it was made with: walks recurse once per
/// level, and a thread's stack must outlast them.
pub const DEPTH_CEILING: u32 = 128;

/// The kind of a value, known from its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Object,
    Array,
    String,
    Number,
    Boolean,
    Null,
}

impl Kind {
    /// The kind with its article, for messages.
    pub(crate) fn with_article(self) -> &'static str {
        match self {
            Self::Object => "an object",
            Self::Array => "an array",
            Self::String => "a string",
            Self::Number => "a number",
            Self::Boolean => "a boolean",
            Self::Null => "null",
        }
    }
}

/// The span of one string token, quotes included.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text {
    pub(crate) start: usize,
    pub(crate) end: usize,
    escaped: bool,
}

/// What a skipped subtree contained.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    /// Object members, over all levels.
    pub(crate) members: usize,
    /// Levels of containers: 0 for a scalar, 1 for `{}`.
    pub(crate) levels: u32,
}

/// A position in a text, and how deep it is.
#[derive(Debug)]
pub(crate) struct Scanner<'a> {
    text: &'a str,
    bytes: &'a [u8],
    position: usize,
    depth: u32,
    max_depth: u32,
}

impl<'a> Scanner<'a> {
    /// Starts at the beginning of `text`. `max_depth` counts containers, the outermost included.
    pub(crate) fn new(text: &'a str, max_depth: u32) -> Self {
        Self {
            text,
            bytes: text.as_bytes(),
            position: 0,
            depth: 0,
            max_depth: max_depth.min(DEPTH_CEILING),
        }
    }

    /// Bytes consumed so far.
    pub(crate) fn position(&self) -> usize {
        self.position
    }

    fn error(&self, kind: ScanErrorKind) -> ScanError {
        ScanError {
            offset: self.position,
            kind,
        }
    }

    /// `kind`, unless the text has simply ended here.
    fn unexpected(&self, kind: ScanErrorKind) -> ScanError {
        if self.position >= self.bytes.len() {
            self.error(ScanErrorKind::UnexpectedEnd)
        } else {
            self.error(kind)
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.position).copied()
    }

    #[inline]
    fn skip_whitespace(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.position += 1;
        }
    }

    /// Moves to the next value and tells its kind; the value itself is still to be consumed.
    #[inline]
    pub(crate) fn kind(&mut self) -> Result<Kind, ScanError> {
        self.skip_whitespace();
        match self.peek() {
            Some(b'"') => Ok(Kind::String),
            Some(b'{') => Ok(Kind::Object),
            Some(b'[') => Ok(Kind::Array),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(b't' | b'f') => Ok(Kind::Boolean),
            Some(b'n') => Ok(Kind::Null),
            _ => Err(self.unexpected(ScanErrorKind::ExpectedValue)),
        }
    }

    /// Consumes the opening bracket of the container that [`Self::kind`] announced.
    pub(crate) fn enter(&mut self) -> Result<(), ScanError> {
        if self.depth >= self.max_depth {
            return Err(self.error(ScanErrorKind::TooDeep));
        }
        self.depth += 1;
        self.position += 1;
        Ok(())
    }

    /// After [`Self::enter`]: is there a first member? If not, the closing bracket is consumed.
    #[inline]
    pub(crate) fn first(&mut self, close: u8) -> Result<bool, ScanError> {
        self.skip_whitespace();
        if self.peek() == Some(close) {
            self.position += 1;
            self.depth -= 1;
            return Ok(false);
        }
        Ok(true)
    }

    /// After a member: is there another? Consumes the comma, or the closing bracket.
    #[inline]
    pub(crate) fn next(&mut self, close: u8) -> Result<bool, ScanError> {
        self.skip_whitespace();
        match self.peek() {
            Some(b',') => {
                self.position += 1;
                Ok(true)
            }
            Some(byte) if byte == close => {
                self.position += 1;
                self.depth -= 1;
                Ok(false)
            }
            _ => Err(self.unexpected(ScanErrorKind::ExpectedCommaOrEnd)),
        }
    }

    /// Consumes a member's name and the colon after it; the colon is the last byte consumed.
    #[inline]
    pub(crate) fn name(&mut self) -> Result<Text, ScanError> {
        self.skip_whitespace();
        if self.peek() != Some(b'"') {
            return Err(self.unexpected(ScanErrorKind::ExpectedName));
        }
        let name = self.string()?;
        self.skip_whitespace();
        if self.peek() != Some(b':') {
            return Err(self.unexpected(ScanErrorKind::ExpectedColon));
        }
        self.position += 1;
        Ok(name)
    }

    /// Consumes the string whose opening quote is the next byte.
    #[inline]
    pub(crate) fn string(&mut self) -> Result<Text, ScanError> {
        let start = self.position;
        let mut escaped = false;
        self.position += 1;
        loop {
            self.position = plain_run(self.bytes, self.position);
            match self.peek() {
                Some(b'"') => {
                    self.position += 1;
                    return Ok(Text {
                        start,
                        end: self.position,
                        escaped,
                    });
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                _ => return Err(self.unexpected(ScanErrorKind::ControlCharacter)),
            }
        }
    }

    fn escape(&mut self) -> Result<(), ScanError> {
        match self.bytes.get(self.position + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.position += 2;
                Ok(())
            }
            Some(b'u') => match self.code_unit()? {
                0xD800..=0xDBFF => {
                    let pair = self.bytes[self.position..].starts_with(b"\\u");
                    match pair.then(|| self.code_unit()).transpose()? {
                        Some(0xDC00..=0xDFFF) => Ok(()),
                        _ => Err(self.error(ScanErrorKind::LoneSurrogate)),
                    }
                }
                0xDC00..=0xDFFF => Err(self.error(ScanErrorKind::LoneSurrogate)),
                _ => Ok(()),
            },
            Some(_) => Err(self.error(ScanErrorKind::InvalidEscape)),
            None => Err(self.error(ScanErrorKind::UnexpectedEnd)),
        }
    }

    /// Consumes `\uXXXX`, whose first two bytes have been seen.
    fn code_unit(&mut self) -> Result<u16, ScanError> {
        let unit = self
            .bytes
            .get(self.position + 2..self.position + 6)
            .and_then(json_text::hex_unit)
            .ok_or_else(|| self.error(ScanErrorKind::InvalidEscape))?;
        self.position += 6;
        Ok(unit)
    }

    fn digits(&mut self) -> Result<(), ScanError> {
        let start = self.position;
        while let Some(b'0'..=b'9') = self.peek() {
            self.position += 1;
        }
        if self.position == start {
            return Err(self.unexpected(ScanErrorKind::InvalidNumber));
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), ScanError> {
        if self.peek() == Some(b'-') {
            self.position += 1;
        }
        if self.peek() == Some(b'0') {
            self.position += 1;
            if let Some(b'0'..=b'9') = self.peek() {
                return Err(self.error(ScanErrorKind::InvalidNumber));
            }
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.position += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.position += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.position += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn word(&mut self) -> Result<(), ScanError> {
        let rest = &self.bytes[self.position..];
        for word in [&b"true"[..], b"false", b"null"] {
            if rest.starts_with(word) {
                self.position += word.len();
                return Ok(());
            }
        }
        Err(self.error(ScanErrorKind::ExpectedValue))
    }

    /// Consumes a scalar of the `kind` that [`Self::kind`] announced.
    #[inline]
    pub(crate) fn scalar(&mut self, kind: Kind) -> Result<(), ScanError> {
        match kind {
            Kind::String => self.string().map(drop),
            Kind::Number => self.number(),
            Kind::Boolean | Kind::Null => self.word(),
            Kind::Object | Kind::Array => Err(self.error(ScanErrorKind::ExpectedValue)),
        }
    }

    /// Consumes one whole value, whatever it is.
    pub(crate) fn skip(&mut self) -> Result<Tally, ScanError> {
        let outside = self.depth;
        let mut tally = Tally::default();
        self.skip_into(&mut tally, outside)?;
        Ok(tally)
    }

    fn skip_into(&mut self, tally: &mut Tally, outside: u32) -> Result<(), ScanError> {
        let kind = self.kind()?;
        let close = match kind {
            Kind::Object => b'}',
            Kind::Array => b']',
            scalar => return self.scalar(scalar),
        };
        self.enter()?;
        tally.levels = tally.levels.max(self.depth - outside);
        let mut more = self.first(close)?;
        while more {
            if kind == Kind::Object {
                self.name()?;
                tally.members += 1;
            }
            self.skip_into(tally, outside)?;
            more = self.next(close)?;
        }
        Ok(())
    }

    /// Checks that nothing but whitespace is left.
    pub(crate) fn finish(&mut self) -> Result<(), ScanError> {
        self.skip_whitespace();
        if self.position < self.bytes.len() {
            return Err(self.error(ScanErrorKind::TrailingText));
        }
        Ok(())
    }

    /// The characters a string token stands for.
    #[inline]
    pub(crate) fn decoded(&self, token: Text) -> Cow<'a, str> {
        let inner = &self.text[token.start + 1..token.end - 1];
        if token.escaped {
            Cow::Owned(json_text::unescape(inner))
        } else {
            Cow::Borrowed(inner)
        }
    }
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// Position of the first byte at or after `at` that ends a run of plain string bytes: a quote, a
/// backslash or a control character; the length of `bytes` when there is none.
///
/// Eight bytes at a time, because strings are most of an event. A subtraction can only borrow
/// into the next byte from one that is a hit itself, so the lowest hit is always a true one.
#[inline]
fn plain_run(bytes: &[u8], mut at: usize) -> usize {
    while let Some(chunk) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let word = u64::from_le_bytes(*chunk);
        let quote = word ^ (ONES * 0x22);
        let backslash = word ^ (ONES * 0x5C);
        let hits = ((quote.wrapping_sub(ONES) & !quote)
            | (backslash.wrapping_sub(ONES) & !backslash)
            | (word.wrapping_sub(ONES * 0x20) & !word))
            & HIGHS;
        if hits != 0 {
            return at + (hits.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while let Some(&byte) = bytes.get(at) {
        if byte < 0x20 || byte == b'"' || byte == b'\\' {
            return at;
        }
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests;
