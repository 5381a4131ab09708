//! Who may publish for which workspace: the tokens, mirrored from the read model, so that events
//! are taken while Postgres and management are away.
//!
//! A wrong token costs a look into memory and no query. An address that shows more of them in a minute
//! than it may is answered 429 instead of 401, as at management.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock},
};

use axum::http::HeaderMap;
use tokio::time::Instant;
use uuid::Uuid;
use webhooks_bus::{ConfigMirror, ConfigSink};
use webhooks_domain::{
    endpoint::Cidr,
    token::{Token, grants},
};
use webhooks_proto::internal::v1::{TokenConfig, WebhookConfig};
use webhooks_runtime::{
    Clock,
    callers::{CallerSettings, FORWARDED_FOR, client_address},
    rate::{Guesses, Payer},
};

use crate::refusal::{Refusal, RefusalKind};

/// The scope that publishing wants.
pub const PUBLISH_SCOPE: &str = "events:write";

/// What a credential opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permit {
    /// The workspace that may be published for.
    pub workspace: Uuid,
    /// Events per second that it may publish here; 0 = as the installation says.
    pub events_per_second: u32,
}

/// What a token allows.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Grant {
    workspace: Uuid,
    hash: Vec<u8>,
    scopes: Vec<String>,
    /// Microseconds since the epoch; 0 = never.
    expires_at: i64,
    /// 0 = as the installation says.
    events_per_second: u32,
}

/// The known tokens by their public id. As many as management wrote; each is some 200 bytes.
#[derive(Debug, Default)]
pub struct TokenDirectory {
    tokens: RwLock<HashMap<String, Arc<Grant>>>,
}

impl TokenDirectory {
    /// What a request with this `authorization` value may publish.
    ///
    /// # Errors
    /// [`RefusalKind::Unauthenticated`] without a known, unexpired token;
    /// [`RefusalKind::MissingScope`] when it lacks [`PUBLISH_SCOPE`].
    pub fn authorise(
        &self,
        authorization: Option<&str>,
        now_micros: i64,
    ) -> Result<Permit, Refusal> {
        let unknown = |message: &str| Refusal::new(RefusalKind::Unauthenticated, message);
        let header =
            authorization.ok_or_else(|| unknown("send `Authorization: Bearer <token>`"))?;
        let text = bearer(header)
            .ok_or_else(|| unknown("the Authorization header is not `Bearer <token>`"))?;
        // Form and checksum first: a mistyped token costs no look-up.
        let refused = || unknown("the token is not known, was revoked or has expired");
        let token = Token::parse(text).ok_or_else(refused)?;
        let grant = {
            let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
            tokens.get(token.id()).cloned()
        };
        let grant = grant
            .filter(|grant| token.matches(&grant.hash))
            .filter(|grant| grant.expires_at == 0 || now_micros < grant.expires_at)
            .ok_or_else(refused)?;
        if !grants(&grant.scopes, PUBLISH_SCOPE) {
            return Err(Refusal::new(
                RefusalKind::MissingScope,
                format!("the token lacks the scope `{PUBLISH_SCOPE}`"),
            ));
        }
        Ok(Permit {
            workspace: grant.workspace,
            events_per_second: grant.events_per_second,
        })
    }

    fn put(&self, id: &str, config: Option<TokenConfig>) {
        let grant = config.and_then(|config| {
            Some(Arc::new(Grant {
                workspace: Uuid::from_slice(&config.workspace_id).ok()?,
                hash: config.hash.to_vec(),
                scopes: config.scopes,
                expires_at: config.expires_at,
                events_per_second: config.events_per_second,
            }))
        });
        let mut tokens = self.tokens.write().unwrap_or_else(PoisonError::into_inner);
        match grant {
            Some(grant) => tokens.insert(id.to_owned(), grant),
            // Gone, or without a workspace: either way it opens nothing.
            None => tokens.remove(id),
        };
    }
}

/// The token of a `Bearer` header; the word's case does not matter (RFC 7235).
fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim_matches(' '))
        .filter(|token| !token.is_empty())
}

impl ConfigSink for TokenDirectory {
    fn webhook(&self, _: Uuid, _: Option<WebhookConfig>) {}

    fn token(&self, id: &str, config: Option<TokenConfig>) {
        self.put(id, config);
    }

    fn reset(&self) {
        self.tokens
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

/// From which addresses wrong tokens come, and how many.
pub(crate) struct Callers {
    guesses: Guesses,
    trusted_proxies: Vec<Cidr>,
}

impl Callers {
    pub(crate) fn new(settings: CallerSettings) -> Self {
        Self {
            guesses: Guesses::new(settings.failures_per_minute),
            trusted_proxies: settings.trusted_proxies,
        }
    }

    /// Counts a wrong token for the address it comes from; the refusal to answer it with.
    fn failed(
        &self,
        refusal: Refusal,
        peer: Option<IpAddr>,
        headers: &HeaderMap,
        now: Instant,
    ) -> Refusal {
        let lines = headers.get_all(FORWARDED_FOR).iter();
        let lines = lines.filter_map(|line| line.to_str().ok());
        let client = peer.map(|peer| client_address(peer, lines, &self.trusted_proxies));
        let payer = client.map_or(Payer::Rest, Payer::at);
        match self.guesses.failed(payer, "publisher", now) {
            Ok(()) => refusal,
            Err(too_many) => {
                Refusal::guessing(u32::try_from(too_many.whole_seconds()).unwrap_or(u32::MAX))
            }
        }
    }
}

/// Judges credentials at the doors. Clones share everything.
#[derive(Clone)]
pub(crate) struct Gate {
    pub(crate) tokens: Arc<TokenDirectory>,
    pub(crate) mirror: ConfigMirror,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) callers: Arc<Callers>,
}

impl Gate {
    /// As [`TokenDirectory::authorise`]; but a token cannot be called unknown by a process that
    /// has not heard of any yet, and who shows too many wrong ones is told to wait.
    ///
    /// A right token is served however many wrong ones came from its address, since several
    /// publishers may share one. No token at all is no guess.
    pub(crate) fn authorise(
        &self,
        authorization: Option<&str>,
        peer: Option<IpAddr>,
        headers: &HeaderMap,
    ) -> Result<Permit, Refusal> {
        let result = self
            .tokens
            .authorise(authorization, self.clock.now_micros());
        result.map_err(|refusal| match refusal.kind {
            RefusalKind::Unauthenticated if authorization.is_some() => {
                if self.mirror.loaded() {
                    self.callers.failed(refusal, peer, headers, Instant::now())
                } else {
                    Refusal::new(
                        RefusalKind::Unavailable,
                        "the tokens are still being loaded; come again",
                    )
                }
            }
            _ => refusal,
        })
    }
}

#[cfg(test)]
mod tests {
    use webhooks_domain::token::{MINT_BYTES, TokenEnvironment};

    use super::*;

    fn token(seed: u8) -> Token {
        Token::mint(TokenEnvironment::Test, &[seed; MINT_BYTES])
    }

    fn config(token: &Token, scopes: &[&str], expires_at: i64) -> TokenConfig {
        TokenConfig {
            id: token.id().to_owned(),
            workspace_id: Uuid::from_u128(7).as_bytes().to_vec().into(),
            hash: token.hash().to_vec().into(),
            scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
            expires_at,
            events_per_second: 30,
            revision: 1,
        }
    }

    fn directory(config: TokenConfig) -> TokenDirectory {
        let directory = TokenDirectory::default();
        directory.token(&config.id.clone(), Some(config));
        directory
    }

    #[test]
    fn a_known_token_opens_its_workspace_and_nothing_else_does() {
        let known = token(1);
        let directory = directory(config(&known, &[], 0));
        let header = format!("Bearer {}", known.reveal());
        let permit = Permit {
            workspace: Uuid::from_u128(7),
            events_per_second: 30,
        };
        assert_eq!(directory.authorise(Some(&header), 0), Ok(permit));
        let lower = format!("bearer  {}", known.reveal());
        assert_eq!(directory.authorise(Some(&lower), 0), Ok(permit));
        let stranger = format!("Bearer {}", token(2).reveal());
        let basic = format!("Basic {}", known.reveal());
        for bad in [
            None,
            Some(""),
            Some("Bearer "),
            Some("Bearer x"),
            Some(&*stranger),
            Some(&*basic),
        ] {
            let refusal = directory.authorise(bad, 0).unwrap_err();
            assert_eq!(refusal.kind, RefusalKind::Unauthenticated, "{bad:?}");
        }
    }

    #[test]
    fn the_same_id_with_another_secret_is_a_stranger() {
        let known = token(1);
        let mut forged = config(&known, &[], 0);
        forged.hash = token(2).hash().to_vec().into();
        let header = format!("Bearer {}", known.reveal());
        assert!(directory(forged).authorise(Some(&header), 0).is_err());
    }

    #[test]
    fn wrong_tokens_count_for_the_address_behind_the_proxy() {
        let callers = Callers::new(CallerSettings {
            trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()],
            failures_per_minute: 2,
        });
        let start = Instant::now();
        let guess = |peer: Option<[u8; 4]>, forwarded: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(FORWARDED_FOR, forwarded.parse().unwrap());
            let refusal = Refusal::new(RefusalKind::Unauthenticated, "no");
            let refusal = callers.failed(refusal, peer.map(IpAddr::from), &headers, start);
            (refusal.kind, refusal.retry_after())
        };
        let plain = (RefusalKind::Unauthenticated, None);
        let too_many = (RefusalKind::Guessing, Some(60));
        let proxy = Some([10, 0, 0, 1]);
        assert_eq!(guess(proxy, "192.0.2.1"), plain);
        assert_eq!(guess(proxy, "192.0.2.1"), plain);
        assert_eq!(guess(proxy, "192.0.2.1"), too_many);
        assert_eq!(guess(proxy, "192.0.2.2"), plain);
        // Somebody who is no proxy may write there what he likes.
        let stranger = Some([192, 0, 2, 9]);
        assert_eq!(guess(stranger, "192.0.2.3"), plain);
        assert_eq!(guess(stranger, "192.0.2.4"), plain);
        assert_eq!(guess(stranger, "192.0.2.5"), too_many);
        assert_eq!(guess(None, "192.0.2.6"), plain);
    }

    #[test]
    fn scope_expiry_and_revocation_are_obeyed() {
        let known = token(1);
        let header = format!("Bearer {}", known.reveal());
        let scoped = directory(config(&known, &["webhooks:write"], 0));
        let refusal = scoped.authorise(Some(&header), 0).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::MissingScope);
        assert!(refusal.message.contains(PUBLISH_SCOPE));
        let expiring = directory(config(&known, &["events:write"], 10));
        assert!(expiring.authorise(Some(&header), 9).is_ok());
        assert!(expiring.authorise(Some(&header), 10).is_err());
        expiring.token(known.id(), None);
        assert!(expiring.authorise(Some(&header), 9).is_err());
        scoped.reset();
        assert!(scoped.authorise(Some(&header), 0).is_err());
    }
}
