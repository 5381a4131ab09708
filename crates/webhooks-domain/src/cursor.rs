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

const POSITION_BYTES: usize = 24;
const MAC_BYTES: usize = 16;

/// Where a list goes on: after the row with this sort key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Microseconds since the epoch.
    pub created_at: i64,
    /// Decides between rows of the same time.
    pub id: Uuid,
}

/// What a token is bound to.
#[derive(Debug, Clone, Copy)]
pub struct ListScope<'a> {
    /// Which list.
    pub list: &'static str,
    /// Whose.
    pub workspace: Uuid,
    /// Its filters.
    pub filters: &'a [&'a str],
}

/// The token is broken or was made for another list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a page token of this list")]
pub struct BadPageToken;

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
    #[must_use]
    pub fn make(&self, scope: ListScope<'_>, position: Position) -> String {
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
    /// [`BadPageToken`].
    pub fn read(
        &self,
        scope: ListScope<'_>,
        token: &str,
    ) -> Result<Option<Position>, BadPageToken> {
        if token.is_empty() {
            return Ok(None);
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| BadPageToken)?;
        let (position, given) = bytes
            .split_at_checked(POSITION_BYTES)
            .filter(|(_, given)| given.len() == MAC_BYTES)
            .ok_or(BadPageToken)?;
        let genuine = self.keys.iter().any(|key| {
            mac(key, scope, position)
                .verify_truncated_left(given)
                .is_ok()
        });
        if genuine {
            decode(position).map(Some).ok_or(BadPageToken)
        } else {
            Err(BadPageToken)
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
}
