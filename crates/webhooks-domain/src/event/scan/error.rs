//! What can be wrong with a text, and where.

/// Why a text is not the JSON it should be, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{kind} at byte {offset}")]
pub struct ScanError {
    /// Position in bytes from the start of the text.
    pub offset: usize,
    /// What was wrong there.
    pub kind: ScanErrorKind,
}

/// What was wrong with a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScanErrorKind {
    /// The text stops inside a value.
    #[error("unexpected end of text")]
    UnexpectedEnd,
    /// Something that starts no value.
    #[error("expected a value")]
    ExpectedValue,
    /// Something other than a string where a member name belongs.
    #[error("expected a member name in double quotes")]
    ExpectedName,
    /// No colon after a member name.
    #[error("expected a colon")]
    ExpectedColon,
    /// Neither a comma nor the end of the container.
    #[error("expected a comma or the end of the container")]
    ExpectedCommaOrEnd,
    /// A number that RFC 8259 does not know (`01`, `1.`, `+1`, `.5`).
    #[error("invalid number")]
    InvalidNumber,
    /// A backslash followed by something that is no escape.
    #[error("invalid escape")]
    InvalidEscape,
    /// Half of a surrogate pair.
    #[error("escape of a lone surrogate")]
    LoneSurrogate,
    /// A control character that should have been escaped.
    #[error("unescaped control character in a string")]
    ControlCharacter,
    /// Containers nested deeper than the limit.
    #[error("nested too deeply")]
    TooDeep,
    /// Text after the end of the document.
    #[error("text after the end of the document")]
    TrailingText,
}
