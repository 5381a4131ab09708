//! Pages of lists: how many rows, and where a list goes on ([`webhooks_domain::cursor`]).

pub use webhooks_domain::cursor::PageTokens;
pub(crate) use webhooks_domain::cursor::{BadPageToken, ListScope, Position};

use crate::error::{ManagementError, Violation};

/// Rows on a page when the caller does not say.
pub(crate) const DEFAULT_PAGE_SIZE: u32 = 100;

/// Most rows on a page; more is capped, not refused.
pub(crate) const MAX_PAGE_SIZE: u32 = 1_000;

impl From<BadPageToken> for ManagementError {
    fn from(_: BadPageToken) -> Self {
        Self::PageToken
    }
}

/// Reads a `pageSize` from a query: absent, empty and 0 are the default, too much is capped.
///
/// # Errors
/// Negative, or not a number.
pub(crate) fn page_size(text: Option<&str>) -> Result<u32, ManagementError> {
    match text {
        None | Some("") => Ok(DEFAULT_PAGE_SIZE),
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            // All digits: a failure can only mean that the number is huge.
            Ok(bounded(digits.parse().unwrap_or(u32::MAX)))
        }
        Some(_) => Err(negative()),
    }
}

/// The same for a number.
///
/// # Errors
/// Negative.
pub(crate) fn page_size_of(number: i32) -> Result<u32, ManagementError> {
    u32::try_from(number).map(bounded).map_err(|_| negative())
}

fn bounded(size: u32) -> u32 {
    match size {
        0 => DEFAULT_PAGE_SIZE,
        size => size.min(MAX_PAGE_SIZE),
    }
}

fn negative() -> ManagementError {
    ManagementError::Invalid(vec![Violation::new(
        "pageSize",
        "not_a_size",
        format!("is a number from 0 (the default of {DEFAULT_PAGE_SIZE}) to {MAX_PAGE_SIZE}"),
    )])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_capped_and_nonsense_refused() {
        let sizes = [
            (None, 100),
            (Some(""), 100),
            (Some("0"), 100),
            (Some("7"), 7),
        ];
        for (text, size) in sizes.into_iter().chain([
            (Some("1000"), 1_000),
            (Some("1001"), 1_000),
            (Some("99999999999999999999"), 1_000),
        ]) {
            assert_eq!(page_size(text).unwrap(), size, "{text:?}");
        }
        for bad in ["-1", "1.5", "ten", "1e3", "+5", " 5"] {
            assert!(page_size(Some(bad)).is_err(), "{bad}");
        }
        assert_eq!(page_size_of(0).unwrap(), 100);
        assert!(page_size_of(-1).is_err());
    }
}
