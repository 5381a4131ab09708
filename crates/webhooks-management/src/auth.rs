//! Who is calling: bearer tokens, looked up once and remembered briefly.
//!
//! Form and checksum are judged before any look-up, so guessing costs no query. A found token is
//! remembered for [`REMEMBERED`]: a revoked one ends that much later at most. Unknown ids are not
//! remembered (their number is up to the attacker), the limit per address bounds them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use uuid::Uuid;
use webhooks_domain::{
    clock::Clock,
    token::{Token, grants},
};
use webhooks_store::{Store, TokenRow};

use crate::error::ManagementError;

/// How long a looked-up token is believed.
pub(crate) const REMEMBERED: Duration = Duration::from_secs(5);

/// Most tokens remembered at once.
const MAX_REMEMBERED: usize = 10_000;

/// Longest `Authorization` value that is looked at, in bytes.
const MAX_HEADER_BYTES: usize = 512;

/// Who calls, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The token's public id.
    pub token_id: String,
    /// The workspace that the token opens.
    pub workspace: Uuid,
    /// The member behind the token.
    pub member: Uuid,
    /// What the token may do; empty = everything.
    pub scopes: Vec<String>,
}

impl Caller {
    /// Whether the caller may do what takes this scope.
    ///
    /// # Errors
    /// Names the missing scope.
    pub fn require(&self, scope: &'static str) -> Result<(), ManagementError> {
        if grants(&self.scopes, scope) {
            Ok(())
        } else {
            Err(ManagementError::MissingScope(scope))
        }
    }
}

/// Finds callers by their tokens.
#[derive(Clone)]
pub struct Authenticator {
    store: Store,
    clock: Arc<dyn Clock>,
    known: Arc<Mutex<HashMap<String, Known>>>,
}

struct Known {
    row: Arc<TokenRow>,
    until: Instant,
}

impl Authenticator {
    /// Looks tokens up in `store`.
    #[must_use]
    pub fn new(store: Store, clock: Arc<dyn Clock>) -> Self {
        Self {
            store,
            clock,
            known: Arc::default(),
        }
    }

    /// The caller behind an `Authorization` value.
    ///
    /// # Errors
    /// [`ManagementError::Unauthenticated`], or the store is away.
    pub async fn caller(&self, header: Option<&str>) -> Result<Caller, ManagementError> {
        let token = header
            .filter(|header| header.len() <= MAX_HEADER_BYTES)
            .and_then(bearer)
            .and_then(Token::parse)
            .ok_or(ManagementError::Unauthenticated)?;
        let row = self.row(token.id()).await?;
        let row = row.filter(|row| {
            let expired = row
                .expires_at
                .is_some_and(|at| at <= self.clock.now_micros());
            // Compared before anything else is looked at, so that time tells nothing.
            token.matches(&row.hash) & !expired & row.revoked_at.is_none()
        });
        let row = row.ok_or(ManagementError::Unauthenticated)?;
        Ok(Caller {
            token_id: row.id.clone(),
            workspace: row.workspace_id,
            member: row.created_by,
            scopes: row.scopes.clone(),
        })
    }

    async fn row(&self, id: &str) -> Result<Option<Arc<TokenRow>>, ManagementError> {
        let now = Instant::now();
        if let Some(row) = self.remembered(id, now) {
            return Ok(Some(row));
        }
        let Some(row) = self.store.token_by_id(id).await? else {
            return Ok(None);
        };
        let row = Arc::new(row);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_REMEMBERED {
            known.retain(|_, known| known.until > now);
        }
        if known.len() < MAX_REMEMBERED {
            let until = now + REMEMBERED;
            known.insert(
                id.to_owned(),
                Known {
                    row: Arc::clone(&row),
                    until,
                },
            );
        }
        Ok(Some(row))
    }

    fn remembered(&self, id: &str, now: Instant) -> Option<Arc<TokenRow>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.get(id).filter(|known| known.until > now)?;
        Some(Arc::clone(&known.row))
    }
}

/// The token of a `Bearer` credential; the scheme's case does not matter (RFC 9110).
pub(crate) fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bearer_credentials_are_read() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer("bearer  abc "), Some("abc"));
        for other in ["", "abc", "Basic abc", "Bearer"] {
            assert_eq!(bearer(other), None, "{other:?}");
        }
    }

    #[test]
    fn a_missing_scope_is_named() {
        let caller = Caller {
            token_id: "t".into(),
            workspace: Uuid::nil(),
            member: Uuid::nil(),
            scopes: vec!["webhooks:read".into()],
        };
        caller.require("webhooks:read").unwrap();
        let error = caller.require("webhooks:write").unwrap_err();
        assert_eq!(error.row().2, "MISSING_SCOPE");
        assert_eq!(error.details()[0]["scope"], "webhooks:write");
    }
}
