//! Access tokens: fetched through the same guarded client as everything else, kept while they are
//! good, asked for once at a time.
//!
//! A [`TokenSource`] belongs to one webhook as it is configured; another configuration is another
//! source. So a token never outlives what it was asked for with, and there are as many as there are
//! webhooks that want one.
//!
//! The call for a token is a part of the attempt that needs it, within its deadline; an attempt whose
//! token cannot be had has sent nothing to the endpoint, and says so. A failed call is remembered for a
//! second, so that a crowd of deliveries does not stand in line to fail one after another.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use tokio::time::{Instant, timeout_at};
use webhooks_domain::endpoint::{EndpointRefusal, EndpointUrl, Outcome};
use webhooks_domain::oauth2::{
    AccessToken, ClientCredentials, Refusal, judge_refusal, read_answer,
};

use crate::attempt::{AttemptResult, OutboundRequest};
use crate::cache::Slot;
use crate::client::Egress;
use crate::config::{MAX_TOKEN_ANSWER_BYTES, TOKEN_TIMEOUT};
use crate::failure::{Failure, TokenFailure};
use crate::tls::TlsIdentity;

/// How long a failed call is not repeated.
const FAILED_KEEP: Duration = Duration::from_secs(1);

/// Where one webhook's tokens come from.
pub struct TokenSource {
    url: Result<EndpointUrl, EndpointRefusal>,
    client: ClientCredentials,
    slot: Slot<Fetched>,
    renewed: Mutex<Option<Instant>>,
}

type Fetched = Result<Arc<AccessToken>, Failure>;

/// A token in use for one attempt.
pub(crate) struct InUse {
    token: Arc<AccessToken>,
    fresh: bool,
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenSource").finish_non_exhaustive()
    }
}

impl TokenSource {
    /// A source that has not been asked yet. A URL that was refused makes every call fail.
    #[must_use]
    pub fn new(url: Result<EndpointUrl, EndpointRefusal>, client: ClientCredentials) -> Self {
        Self {
            url,
            client,
            slot: Slot::default(),
            renewed: Mutex::default(),
        }
    }

    /// Whether it asks the same server for the same: then its token may stay in use.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.url == other.url && self.client == other.client
    }

    /// The token, fetched if need be.
    pub(crate) async fn token(
        &self,
        egress: &Egress,
        identity: Option<&Arc<TlsIdentity>>,
        deadline: Instant,
    ) -> Result<InUse, Failure> {
        if let Some(kept) = self.slot.fresh(Instant::now()) {
            return kept.map(|token| InUse {
                token,
                fresh: false,
            });
        }
        let mut fresh = false;
        let asking = self.slot.get_or_ask(|| {
            fresh = true;
            self.fetch(egress, identity, deadline)
        });
        let fetched = timeout_at(deadline, asking).await;
        match fetched {
            Ok(fetched) => fetched.map(|token| InUse { token, fresh }),
            Err(_) => Err(Failure::Token(TokenFailure::Unavailable)),
        }
    }

    async fn fetch(
        &self,
        egress: &Egress,
        identity: Option<&Arc<TlsIdentity>>,
        deadline: Instant,
    ) -> (Fetched, Duration) {
        let start = Instant::now();
        let deadline = deadline.min(start + TOKEN_TIMEOUT);
        match self.call(egress, identity, deadline).await {
            Ok(token) => {
                let left = token.usable_for.saturating_sub(start.elapsed());
                (Ok(Arc::new(token)), left)
            }
            Err(failure) => {
                tracing::debug!(reason = failure.reason(), "no access token");
                (Err(failure), FAILED_KEEP)
            }
        }
    }

    async fn call(
        &self,
        egress: &Egress,
        identity: Option<&Arc<TlsIdentity>>,
        deadline: Instant,
    ) -> Result<AccessToken, Failure> {
        let url = match &self.url {
            Ok(url) => url.clone(),
            Err(_) => return Err(Failure::Token(TokenFailure::Blocked)),
        };
        let ours = |_| Failure::Internal;
        let asked = self.client.request();
        let mut headers = HeaderMap::new();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-www-form-urlencoded"),
        );
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(authorization) = asked.authorization {
            let mut value = HeaderValue::try_from(authorization).map_err(ours)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let host = url.host().to_owned();
        let request = OutboundRequest {
            url,
            headers,
            body: Bytes::from(asked.body),
        };
        let answer = egress
            .post_by(request, identity, deadline, MAX_TOKEN_ANSWER_BYTES)
            .await;
        read(&answer, &host)
    }

    /// The endpoint said 401 to this token: what becomes of it, and of the attempt.
    pub(crate) fn refused(&self, used: &InUse, now: Instant) -> Refusal {
        let mut renewed = self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        let is_used = |kept: &Fetched| matches!(kept, Ok(token) if Arc::ptr_eq(token, &used.token));
        let replaced = !self.slot.holds(is_used);
        let since = renewed.map(|at| now.saturating_duration_since(at));
        let refusal = judge_refusal(used.fresh, replaced, since);
        if refusal == (Refusal::Stale { drop: true }) {
            *renewed = Some(now);
            self.slot.forget(is_used);
        }
        refusal
    }
}

impl InUse {
    /// The header that shows it.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        let mut value = HeaderValue::try_from(format!("Bearer {}", self.token.value)).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

/// What the token endpoint's answer comes to.
fn read(answer: &AttemptResult, host: &str) -> Result<AccessToken, Failure> {
    let no = |failure| Err(Failure::Token(failure));
    match (answer.outcome, answer.failure) {
        (Outcome::Success, _) if answer.status == Some(200) && !answer.response_body_truncated => {
            read_answer(&answer.response_body).or(no(TokenFailure::Invalid))
        }
        (Outcome::Success | Outcome::InvalidResponse, _) => no(TokenFailure::Invalid),
        (_, Some(failure @ (Failure::Internal | Failure::ResolverDown))) => Err(failure),
        (Outcome::Blocked, _) => no(TokenFailure::Blocked),
        (_, Some(failure)) => match (answer.outcome, failure.class(host)) {
            (Outcome::TlsError, webhooks_domain::endpoint::FailureClass::Permanent) => {
                no(TokenFailure::Untrusted)
            }
            (_, webhooks_domain::endpoint::FailureClass::Permanent) => no(TokenFailure::Refused),
            _ => no(TokenFailure::Unavailable),
        },
        (_, None) => Err(Failure::Internal),
    }
}
