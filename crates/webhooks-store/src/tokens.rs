//! Access tokens. Only a token's hash is stored, so nothing here can be used to call.

mod change;
mod read;

use serde_json::{Value, json};
use sqlx::{Row as _, postgres::PgRow};
use uuid::Uuid;

use crate::{error::StoreError, pg};

/// Most tokens of a workspace that are not revoked.
pub const MAX_TOKENS: u32 = 1_000;

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TokenKeyType {
    /// For programs that keep a secret.
    #[default]
    Secret,
    /// For what strangers can read, such as a page's source.
    Publishable,
}

impl TokenKeyType {
    /// `SECRET` or `PUBLISHABLE`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Secret => "SECRET",
            Self::Publishable => "PUBLISHABLE",
        }
    }

    fn of(word: &str) -> Result<Self, StoreError> {
        [Self::Secret, Self::Publishable]
            .into_iter()
            .find(|kind| kind.as_str() == word)
            .ok_or_else(|| StoreError::corrupt("token key type", format!("unknown word {word:?}")))
    }
}

/// A token to be stored.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// Its public part.
    pub id: String,
    /// SHA-256 of the whole token.
    pub hash: [u8; 32],
    /// Whose it is.
    pub workspace_id: Uuid,
    /// What people call it.
    pub name: String,
    /// What it is for.
    pub key_type: TokenKeyType,
    /// What it may do; empty = everything.
    pub scopes: Vec<String>,
    /// The member who made it.
    pub created_by: Uuid,
    /// Where that member reads mail; `None` = not known.
    pub member_email: Option<String>,
    /// When it ends, in microseconds; `None` = never.
    pub expires_at: Option<i64>,
    /// Now, in microseconds.
    pub now: i64,
}

/// What to change of a token; `None` = leave as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenPatch {
    /// What people call it.
    pub name: Option<String>,
    /// What it may do, anew; empty = everything.
    pub scopes: Option<Vec<String>>,
    /// When it ends, in microseconds; `Some(None)` = never.
    pub expires_at: Option<Option<i64>>,
}

/// A stored token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    /// Its public part.
    pub id: String,
    /// SHA-256 of the whole token.
    pub hash: [u8; 32],
    /// Whose it is.
    pub workspace_id: Uuid,
    /// What people call it.
    pub name: String,
    /// What it is for.
    pub key_type: TokenKeyType,
    /// What it may do; empty = everything.
    pub scopes: Vec<String>,
    /// The member who made it.
    pub created_by: Uuid,
    /// Where that member reads mail; `None` = not known.
    pub member_email: Option<String>,
    /// Microseconds.
    pub created_at: i64,
    /// When it last changed, in microseconds.
    pub updated_at: i64,
    /// When it ends, in microseconds; `None` = never.
    pub expires_at: Option<i64>,
    /// When it was last used, in microseconds, to the minute; `None` = never.
    pub last_used_at: Option<i64>,
    /// When it was revoked, in microseconds; a revoked token stays as a row.
    pub revoked_at: Option<i64>,
    /// 1 when made, one more with each change.
    pub revision: i64,
    /// Events a second that its workspace may publish; `None` = as the installation says.
    pub events_per_second: Option<u32>,
}

impl TokenRow {
    fn of(row: &PgRow) -> Result<Self, StoreError> {
        let hash: &[u8] = row.try_get("hash")?;
        let created_at = pg::micros(row, "created_at")?;
        let rate: Option<i32> = row.try_get("events_per_second")?;
        Ok(Self {
            id: row.try_get("id")?,
            hash: hash
                .try_into()
                .map_err(|error| StoreError::corrupt("token hash", error))?,
            workspace_id: row.try_get("workspace_id")?,
            name: row.try_get("name")?,
            key_type: TokenKeyType::of(row.try_get("key_type")?)?,
            scopes: row.try_get("scopes")?,
            created_by: row.try_get("created_by")?,
            member_email: row.try_get("member_email")?,
            created_at,
            updated_at: pg::optional_micros(row, "updated_at")?.unwrap_or(created_at),
            expires_at: pg::optional_micros(row, "expires_at")?,
            last_used_at: pg::optional_micros(row, "last_used_at")?,
            revoked_at: pg::optional_micros(row, "revoked_at")?,
            revision: row.try_get("revision")?,
            events_per_second: rate.and_then(|rate| u32::try_from(rate).ok()),
        })
    }

    /// Where the page after this row begins.
    #[must_use]
    pub fn cursor(&self) -> TokenCursor {
        TokenCursor {
            created_at: self.created_at,
            id: self.id.clone(),
        }
    }

    fn audited(&self) -> Value {
        json!({
            "name": self.name,
            "keyType": self.key_type.as_str(),
            "scopes": self.scopes,
            "memberEmail": self.member_email.as_deref().map(email_for_record),
            "expiresAt": self.expires_at,
            "revokedAt": self.revoked_at,
        })
    }
}

/// An address for the audit log, which is kept for ever and read by more people than the address: whose host,
/// and with which letter it begins.
pub(crate) fn email_for_record(email: &str) -> String {
    let (local, host) = email.rsplit_once('@').unwrap_or_default();
    let first = local.chars().next().map(String::from).unwrap_or_default();
    format!("{first}…@{host}")
}

/// The last row of a page; the next page begins after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenCursor {
    /// When that token was made, in microseconds.
    pub created_at: i64,
    /// Its id.
    pub id: String,
}

/// A page of tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenPage {
    /// The rows.
    pub rows: Vec<TokenRow>,
    /// How many there are in all.
    pub total: i64,
    /// Whether another page follows.
    pub more: bool,
}
