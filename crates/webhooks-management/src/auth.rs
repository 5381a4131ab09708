//! Who is calling: bearer tokens, looked up once and remembered briefly.
//!
//! Form and checksum are judged before any look-up, so guessing costs no query. A found token is
//! remembered for [`REMEMBERED`]: one that is revoked elsewhere ends that much later at most, one
//! that is revoked through this process at once ([`Authenticator::forget`]). Unknown ids are not
//! remembered: their number is up to the attacker.
//!
//! # Guessing
//! An address that shows more wrong credentials in a minute than it may gets 429 instead of 401 for
//! every further wrong one; right ones go on working, since several clients may share an address.
//! An address that fails even more often is not looked up any more, except for remembered tokens.
//!
//! # Last use
//! Uses are noted in memory and written together once a minute, so that a busy token costs one
//! write a minute and not one a call. A crash loses a minute of it.

mod guesses;
mod operator;
mod used;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::HeaderMap;
use tokio::time::Instant;
use uuid::Uuid;
use webhooks_domain::{
    clock::Clock,
    endpoint::Cidr,
    token::{Token, grants},
};
use webhooks_runtime::{Secret, callers::CallerSettings};
use webhooks_store::{Actor, Origin, Store, TokenRow};

use crate::{error::ManagementError, origin::Visit};

use self::{guesses::Guesses, operator::OperatorKey, used::Used};

/// How long a looked-up token is believed.
pub(crate) const REMEMBERED: Duration = Duration::from_secs(5);

/// Most tokens remembered at once.
const MAX_REMEMBERED: usize = 10_000;

/// Longest `Authorization` value that is looked at, in bytes.
const MAX_HEADER_BYTES: usize = 512;

/// Who calls, and for whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// The token's public id.
    pub token_id: String,
    /// The workspace that the token opens.
    pub workspace: Uuid,
    /// The member behind the token.
    pub member: Uuid,
    /// Where that member reads mail; `None` = not known.
    pub member_email: Option<String>,
    /// What the token may do; empty = everything.
    pub scopes: Vec<String>,
    /// Where the call comes from.
    pub origin: Origin,
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

    /// The caller as the audit log names it.
    #[must_use]
    pub fn actor(&self) -> Actor {
        Actor::Token(self.token_id.clone()).from_origin(self.origin.clone())
    }
}

/// Who gets in.
#[derive(Debug, Clone)]
pub struct AccessSettings {
    /// Opens the operators' API; `None` = nobody is let in there.
    pub operator_token: Option<Secret>,
    /// Which address a call counts for, and how many wrong credentials it may show.
    pub callers: CallerSettings,
}

/// Finds callers by their tokens. Clones share everything.
#[derive(Clone)]
pub struct Authenticator {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    clock: Arc<dyn Clock>,
    known: Mutex<HashMap<String, Known>>,
    used: Used,
    guesses: Guesses,
    operator: OperatorKey,
    trusted_proxies: Vec<Cidr>,
}

struct Known {
    row: Arc<TokenRow>,
    until: Instant,
}

impl Authenticator {
    /// Looks tokens up in `store`.
    #[must_use]
    pub fn new(store: Store, clock: Arc<dyn Clock>, settings: AccessSettings) -> Self {
        Self {
            shared: Arc::new(Shared {
                store,
                clock,
                known: Mutex::default(),
                used: Used::default(),
                guesses: Guesses::new(settings.callers.failures_per_minute),
                operator: OperatorKey::new(settings.operator_token.as_ref()),
                trusted_proxies: settings.callers.trusted_proxies,
            }),
        }
    }

    /// Where a request with these headers comes from.
    pub(crate) fn visit(&self, peer: Option<SocketAddr>, headers: &HeaderMap) -> Visit {
        Visit::of(peer, headers, &self.shared.trusted_proxies)
    }

    /// The caller behind an `Authorization` value.
    ///
    /// # Errors
    /// [`ManagementError::Unauthenticated`], too many wrong tokens, or the store is away.
    pub(crate) async fn caller(
        &self,
        header: Option<&str>,
        visit: &Visit,
    ) -> Result<Caller, ManagementError> {
        let Some(header) = header else {
            return Err(ManagementError::Unauthenticated);
        };
        let token = Some(header)
            .filter(|header| header.len() <= MAX_HEADER_BYTES)
            .and_then(bearer)
            .and_then(Token::parse);
        let Some(token) = token else {
            return Err(self.shared.guesses.failed(visit, "malformed"));
        };
        let row = self.row(token.id(), visit).await?;
        // A hash is compared with in any case, and before anything else is looked at, so that time
        // tells nothing.
        let matches = token.matches(row.as_ref().map_or(&[0; 32], |row| &row.hash));
        let now = self.shared.clock.now_micros();
        let Some(row) = row.filter(|_| matches) else {
            return Err(self.shared.guesses.failed(visit, "unknown"));
        };
        if row.revoked_at.is_some() || row.expires_at.is_some_and(|at| at <= now) {
            return Err(self.shared.guesses.failed(visit, "ended"));
        }
        self.shared.used.note(&row.id, now);
        Ok(Caller {
            token_id: row.id.clone(),
            workspace: row.workspace_id,
            member: row.created_by,
            member_email: row.member_email.clone(),
            scopes: row.scopes.clone(),
            origin: visit.origin.clone(),
        })
    }

    /// Lets the operator in.
    ///
    /// # Errors
    /// It is not the operator, or there were too many wrong tokens.
    pub(crate) fn operator(
        &self,
        header: Option<&str>,
        visit: &Visit,
    ) -> Result<Actor, ManagementError> {
        let Some(header) = header else {
            return Err(ManagementError::Unauthenticated);
        };
        let shown = Some(header)
            .filter(|header| header.len() <= MAX_HEADER_BYTES)
            .and_then(bearer);
        if shown.is_some_and(|shown| self.shared.operator.opens(shown)) {
            Ok(Actor::Operator.from_origin(visit.origin.clone()))
        } else {
            Err(self.shared.guesses.failed(visit, "operator"))
        }
    }

    /// Looks a token up anew the next time: after it was changed or revoked here.
    pub(crate) fn forget(&self, id: &str) {
        self.known().remove(id);
    }

    /// Looks every token of a workspace up anew the next time.
    pub(crate) fn forget_workspace(&self, workspace: Uuid) {
        self.known()
            .retain(|_, known| known.row.workspace_id != workspace);
    }

    /// Writes down when tokens were last used, once a minute and once more when `stop` says so.
    pub(crate) async fn keep_last_uses(self, stop: tokio_util::sync::CancellationToken) {
        self.shared.used.keep(&self.shared.store, stop).await;
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<String, Known>> {
        let known = self.shared.known.lock();
        known.unwrap_or_else(PoisonError::into_inner)
    }

    async fn row(&self, id: &str, visit: &Visit) -> Result<Option<Arc<TokenRow>>, ManagementError> {
        let now = Instant::now();
        if let Some(row) = self.remembered(id, now) {
            return Ok(Some(row));
        }
        self.shared.guesses.may_look_up(visit)?;
        let Some(row) = self.shared.store.token_by_id(id).await? else {
            return Ok(None);
        };
        Ok(Some(self.remember(row, now)))
    }

    fn remember(&self, row: TokenRow, now: Instant) -> Arc<TokenRow> {
        let row = Arc::new(row);
        let mut known = self.known();
        if known.len() >= MAX_REMEMBERED {
            known.retain(|_, known| known.until > now);
        }
        if known.len() < MAX_REMEMBERED {
            let until = now + REMEMBERED;
            known.insert(
                row.id.clone(),
                Known {
                    row: Arc::clone(&row),
                    until,
                },
            );
        }
        row
    }

    fn remembered(&self, id: &str, now: Instant) -> Option<Arc<TokenRow>> {
        let known = self.known();
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

    fn authenticator(failures_per_minute: u32) -> Authenticator {
        // Nobody listens there: whatever needs a query fails.
        let mut settings = webhooks_store::StoreSettings::new("postgres://127.0.0.1:1/none");
        settings.acquire_timeout = Duration::from_millis(100);
        let store = Store::connect(&settings).unwrap();
        let access = AccessSettings {
            operator_token: Some(Secret::new("o".repeat(32))),
            callers: CallerSettings {
                trusted_proxies: Vec::new(),
                failures_per_minute,
            },
        };
        Authenticator::new(store, Arc::new(webhooks_runtime::SystemClock), access)
    }

    fn visit(authenticator: &Authenticator) -> Visit {
        authenticator.visit(Some(([127, 0, 0, 1], 1).into()), &HeaderMap::new())
    }

    #[tokio::test]
    async fn a_token_whose_checksum_is_wrong_costs_no_query() {
        let authenticator = authenticator(1_000_000);
        let visit = visit(&authenticator);
        let refusal = async |text: &str| {
            let header = format!("Bearer {text}");
            let caller = authenticator.caller(Some(&header), &visit).await;
            caller.unwrap_err().row().2
        };
        let token = Token::mint(webhooks_domain::token::TokenEnvironment::Live, &[7; 96]);
        let genuine = token.reveal();
        assert_eq!(
            refusal(genuine).await,
            "UNAVAILABLE",
            "this one is looked up"
        );
        for at in 0..genuine.len() {
            let mut flipped = genuine.as_bytes().to_vec();
            flipped[at] = if flipped[at] == b'x' { b'y' } else { b'x' };
            let flipped = String::from_utf8(flipped).unwrap();
            assert_eq!(refusal(&flipped).await, "UNAUTHENTICATED", "{at}");
        }
        assert_eq!(refusal(&"x".repeat(100_000)).await, "UNAUTHENTICATED");
    }

    /// A token that is revoked elsewhere is believed for five seconds here, and no longer.
    #[tokio::test]
    async fn a_remembered_token_is_looked_up_again_after_five_seconds() {
        let authenticator = authenticator(20);
        let token = Token::mint(webhooks_domain::token::TokenEnvironment::Live, &[7; 96]);
        let row = TokenRow {
            id: token.id().to_owned(),
            hash: token.hash(),
            workspace_id: Uuid::from_u128(1),
            name: "test".to_owned(),
            key_type: webhooks_store::TokenKeyType::default(),
            scopes: Vec::new(),
            created_by: Uuid::from_u128(2),
            member_email: None,
            created_at: 0,
            updated_at: 0,
            expires_at: None,
            last_used_at: None,
            revoked_at: None,
            revision: 1,
            events_per_second: None,
        };
        let found = Instant::now();
        authenticator.remember(row.clone(), found);
        let remembered = |after| {
            authenticator
                .remembered(token.id(), found + after)
                .is_some()
        };
        assert!(remembered(Duration::ZERO));
        assert!(remembered(Duration::from_millis(4_999)));
        assert!(!remembered(Duration::from_secs(5)));
        authenticator.remember(row, found);
        authenticator.forget(token.id());
        assert!(!remembered(Duration::ZERO), "revoked here: at once");
    }

    #[tokio::test]
    async fn guessing_is_slowed_down_and_then_costs_no_query() {
        let authenticator = authenticator(20);
        let here = visit(&authenticator);
        let refusal = async |text: &str, visit: &Visit| {
            let header = format!("Bearer {text}");
            let caller = authenticator.caller(Some(&header), visit).await;
            caller.unwrap_err().row().2
        };
        for _ in 0..20 {
            assert_eq!(refusal("guess", &here).await, "UNAUTHENTICATED");
        }
        assert_eq!(refusal("guess", &here).await, "RATE_LIMITED");
        let operator = authenticator.operator(Some("Bearer guess"), &here);
        assert_eq!(operator.unwrap_err().row().2, "RATE_LIMITED");
        let right = format!("Bearer {}", "o".repeat(32));
        authenticator.operator(Some(&right), &here).unwrap();
        let none = authenticator.caller(None, &here).await;
        assert_eq!(
            none.unwrap_err().row().2,
            "UNAUTHENTICATED",
            "no guess at all"
        );

        let token = Token::mint(webhooks_domain::token::TokenEnvironment::Live, &[7; 96]);
        assert_eq!(
            refusal(token.reveal(), &here).await,
            "UNAVAILABLE",
            "looked up"
        );
        for _ in 0..10_000 {
            refusal("guess", &here).await;
        }
        assert_eq!(
            refusal(token.reveal(), &here).await,
            "RATE_LIMITED",
            "not looked up"
        );
        let elsewhere = authenticator.visit(Some(([127, 0, 0, 2], 1).into()), &HeaderMap::new());
        assert_eq!(refusal("guess", &elsewhere).await, "UNAUTHENTICATED");
    }

    #[test]
    fn a_missing_scope_is_named() {
        let caller = Caller {
            token_id: "t".into(),
            scopes: vec!["webhooks:read".into()],
            ..Caller::default()
        };
        caller.require("webhooks:read").unwrap();
        let error = caller.require("webhooks:write").unwrap_err();
        assert_eq!(error.row().2, "MISSING_SCOPE");
        assert_eq!(error.details()[0]["scope"], "webhooks:write");
    }
}
