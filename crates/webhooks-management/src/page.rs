//! Page tokens: where a list goes on, sealed against tampering.
//!
//! A token holds the sort key of the last row (keyset, not offset: an insertion before it moves
//! nothing) and a MAC over it, the workspace, the list and its filters. So a token from another
//! workspace, another list or another filter is refused instead of giving a quietly wrong page.
//! The page size is not in it and may change between pages.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::error::{ManagementError, Violation};

/// Rows on a page when the caller does not say.
pub(crate) const DEFAULT_PAGE_SIZE: u32 = 100;

/// Most rows on a page; more is capped, not refused.
pub(crate) const MAX_PAGE_SIZE: u32 = 1_000;

const POSITION_BYTES: usize = 24;
const MAC_BYTES: usize = 16;

/// Where a list goes on: after the row with this sort key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    /// Microseconds since the epoch.
    pub(crate) created_at: i64,
    /// Decides between rows of the same time.
    pub(crate) id: Uuid,
}

/// What a token is bound to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ListScope<'a> {
    /// Which list.
    pub(crate) list: &'static str,
    /// Whose.
    pub(crate) workspace: Uuid,
    /// Its filters.
    pub(crate) filters: &'a [&'a str],
}

/// Makes and reads page tokens.
#[derive(Clone)]
pub struct PageTokens {
    keys: Vec<[u8; 32]>,
}

impl PageTokens {
    /// Derives the MAC keys from the encryption keys' setting (`id:base64[,…]`): the first makes
    /// tokens, all of them read, so that a rotation breaks nobody's paging.
    #[must_use]
    pub fn from_keyring(text: &str) -> Self {
        let derive = |pair: &str| {
            let mut hash = Sha256::new();
            hash.update(b"linkbreakers webhooks page tokens v1\0");
            hash.update(pair.trim().as_bytes());
            hash.finalize().into()
        };
        Self {
            keys: text.split(',').map(derive).collect(),
        }
    }

    /// The token that leads past `position`.
    pub(crate) fn make(&self, scope: ListScope<'_>, position: Position) -> String {
        let bytes = encode(position);
        let key = self.keys.first().copied().unwrap_or_default();
        let mac = mac(&key, scope, &bytes).finalize().into_bytes();
        let mut token = bytes.to_vec();
        token.extend_from_slice(&mac[..MAC_BYTES]);
        URL_SAFE_NO_PAD.encode(token)
    }

    /// Reads a token; an empty one means the first page.
    ///
    /// # Errors
    /// The token is broken or was made for another list.
    pub(crate) fn read(
        &self,
        scope: ListScope<'_>,
        token: &str,
    ) -> Result<Option<Position>, ManagementError> {
        if token.is_empty() {
            return Ok(None);
        }
        let bytes = URL_SAFE_NO_PAD
            .decode(token)
            .map_err(|_| ManagementError::PageToken)?;
        let (position, given) = bytes
            .split_at_checked(POSITION_BYTES)
            .filter(|(_, given)| given.len() == MAC_BYTES)
            .ok_or(ManagementError::PageToken)?;
        let genuine = self.keys.iter().any(|key| {
            mac(key, scope, position)
                .verify_truncated_left(given)
                .is_ok()
        });
        if genuine {
            decode(position).map(Some).ok_or(ManagementError::PageToken)
        } else {
            Err(ManagementError::PageToken)
        }
    }
}

fn encode(position: Position) -> [u8; POSITION_BYTES] {
    let mut bytes = [0; POSITION_BYTES];
    bytes[..8].copy_from_slice(&position.created_at.to_be_bytes());
    bytes[8..].copy_from_slice(position.id.as_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<Position> {
    let (time, id) = bytes.split_at_checked(8)?;
    Some(Position {
        created_at: i64::from_be_bytes(time.try_into().ok()?),
        id: Uuid::from_slice(id).ok()?,
    })
}

fn mac(key: &[u8; 32], scope: ListScope<'_>, position: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    // Every part behind its length, so that no two scopes read alike.
    let mut part = |bytes: &[u8]| {
        mac.update(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
        mac.update(bytes);
    };
    part(scope.list.as_bytes());
    part(scope.workspace.as_bytes());
    for filter in scope.filters {
        part(filter.as_bytes());
    }
    part(position);
    mac
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

    const HERE: ListScope<'static> = ListScope {
        list: "webhooks",
        workspace: Uuid::from_u128(1),
        filters: &["WEBHOOK_STATUS_ACTIVE"],
    };
    const POSITION: Position = Position {
        created_at: 1_700_000_000_000_001,
        id: Uuid::from_u128(9),
    };

    #[test]
    fn a_token_leads_back_to_its_place_and_nowhere_else() {
        let tokens = PageTokens::from_keyring("a:AAAA");
        let token = tokens.make(HERE, POSITION);
        assert_eq!(tokens.read(HERE, &token).unwrap(), Some(POSITION));
        assert_eq!(tokens.read(HERE, "").unwrap(), None);
        let filters = ["WEBHOOK_STATUS_PAUSED"];
        for elsewhere in [
            ListScope {
                list: "deliveries",
                ..HERE
            },
            ListScope {
                workspace: Uuid::from_u128(2),
                ..HERE
            },
            ListScope {
                filters: &[],
                ..HERE
            },
            ListScope {
                filters: &filters,
                ..HERE
            },
        ] {
            assert!(tokens.read(elsewhere, &token).is_err());
        }
    }

    #[test]
    fn any_changed_character_is_noticed() {
        let tokens = PageTokens::from_keyring("a:AAAA");
        let token = tokens.make(HERE, POSITION);
        for at in 0..token.len() {
            let mut other = token.clone().into_bytes();
            other[at] = if other[at] == b'A' { b'B' } else { b'A' };
            let other = String::from_utf8(other).unwrap();
            assert!(tokens.read(HERE, &other).is_err(), "{at}");
        }
        for broken in ["x", "%%%", "AAAA", &"A".repeat(5_000)] {
            assert!(tokens.read(HERE, broken).is_err());
        }
    }

    #[test]
    fn a_rotated_key_still_reads() {
        let old = PageTokens::from_keyring("old:AAAA");
        let new = PageTokens::from_keyring("new:BBBB,old:AAAA");
        let token = old.make(HERE, POSITION);
        assert_eq!(new.read(HERE, &token).unwrap(), Some(POSITION));
        assert_ne!(new.make(HERE, POSITION), token);
        assert!(old.read(HERE, &new.make(HERE, POSITION)).is_err());
    }

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
