//! The client: check, resolve, send, read.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, USER_AGENT,
};
use http::{Extensions, HeaderMap, HeaderValue, Method, Request, Response, Uri, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::{CaptureConnection, capture_connection};
use tokio::time::{Instant, timeout_at};
use webhooks_domain::endpoint::{AddressPolicy, EndpointRefusal, Outcome};
use webhooks_domain::oauth2::Refusal;

use crate::attempt::{AttemptResult, OutboundRequest, ResponseHeaders, Timings};
use crate::clients::{Clients, HttpClient};
use crate::config::{EgressConfig, EgressError, MAX_READ_HEADER_BYTES};
use crate::diagnose::failure_of;
use crate::dial::timed;
use crate::failure::Failure;
use crate::resolver::VettingResolver;
use crate::sockets::{Limit, Sockets};
use crate::tls::{TlsIdentity, Trust};
use crate::token::TokenSource;
use crate::wire::Tap;

/// The way out. Clones share connections and cache.
#[derive(Clone)]
pub struct Egress(Arc<Inner>);

struct Inner {
    clients: Clients,
    resolver: VettingResolver,
    sockets: Sockets,
    policy: Arc<AddressPolicy>,
    attempt_timeout: Duration,
    max_response_body: usize,
    max_read_body: usize,
    user_agent: HeaderValue,
}

impl Egress {
    /// Sets up resolver and client. Sends nothing. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Unreadable system DNS settings or extra certificates, no certificate authority to trust, or a
    /// user agent that is no header value.
    pub fn new(config: EgressConfig) -> Result<Self, EgressError> {
        if config.policy.is_opened() || config.extra_ca_pem.is_some() {
            tracing::warn!(
                allow_http = config.policy.allow_http,
                allow_cidrs = ?config.policy.allow_cidrs.iter().map(ToString::to_string).collect::<Vec<_>>(),
                allow_hosts = ?config.policy.allow_hosts,
                extra_ca = config.extra_ca_pem.is_some(),
                "egress.opened: endpoints that production refuses are allowed"
            );
        }
        if !config.policy.knows_itself() {
            tracing::warn!(
                "egress.own_unknown: neither WEBHOOKS_OWN_HOSTS nor WEBHOOKS_OWN_IPS is set, so a webhook may call this installation itself"
            );
        }
        let user_agent =
            HeaderValue::try_from(&config.user_agent).map_err(EgressError::UserAgent)?;
        let trust = Trust::load(&config)?;
        let policy = Arc::new(config.policy.clone());
        let sockets = Sockets::new(config.descriptors.map_or(Limit::System, Limit::Fixed));
        let resolver = VettingResolver::new(&config, Arc::clone(&policy), sockets.clone())?;
        Ok(Self(Arc::new(Inner {
            attempt_timeout: config.attempt_timeout,
            max_response_body: config.max_response_body,
            max_read_body: config.max_read_body,
            clients: Clients::new(
                config,
                trust,
                resolver.clone(),
                Arc::clone(&policy),
                sockets.clone(),
            ),
            sockets,
            resolver,
            policy,
            user_agent,
        })))
    }

    /// How many connections there may be at a time with the descriptors that this process has now:
    /// whoever makes more attempts than that has some of them wait.
    #[must_use]
    pub fn most_connections(&self) -> usize {
        self.0.sockets.allowed()
    }

    /// Makes one POST and tells what the endpoint did. Takes at most the attempt timeout.
    ///
    /// Dropping the future drops the connection; the endpoint may have seen the request.
    pub async fn send(&self, request: OutboundRequest) -> AttemptResult {
        self.send_as(request, None).await
    }

    /// [`send`](Self::send) with a TLS identity: the webhook's client certificate, and authorities it
    /// trusts beside the installation's.
    pub async fn send_as(
        &self,
        request: OutboundRequest,
        identity: Option<&Arc<TlsIdentity>>,
    ) -> AttemptResult {
        let credentials = Credentials {
            identity,
            ..Credentials::default()
        };
        self.send_with(request, credentials).await
    }

    /// [`send`](Self::send) with everything that one webhook may show beside its headers. A token is
    /// fetched within the attempt's deadline; without one nothing is sent to the endpoint. There is
    /// never more than one request to the endpoint.
    pub async fn send_with(
        &self,
        mut request: OutboundRequest,
        credentials: Credentials<'_>,
    ) -> AttemptResult {
        let start = Instant::now();
        let deadline = start + self.0.attempt_timeout;
        let mut in_use = None;
        if let Some(source) = credentials.token {
            // No token is fetched for an endpoint that may not be called.
            let refused = request.url.check(&self.0.policy).err();
            let token = match refused {
                Some(refusal) => Err(Failure::Refused(refusal)),
                None => {
                    source
                        .token(self, credentials.token_identity, deadline)
                        .await
                }
            };
            let header = token.and_then(|token| {
                let header = token.header().ok_or(Failure::Internal)?;
                in_use = Some((source, token));
                Ok(header)
            });
            match header {
                Ok(header) => request.headers.insert(AUTHORIZATION, header),
                Err(failure) => {
                    let mut result = AttemptResult::failed(failure);
                    result.timings.total = start.elapsed();
                    return result;
                }
            };
        }
        let kept = self.0.max_response_body;
        let mut result = self
            .0
            .attempt(request, credentials.identity, start, deadline, kept)
            .await;
        if let (Some((source, token)), Some(401)) = (in_use, result.status)
            && let Refusal::Stale { .. } = source.refused(&token, Instant::now())
        {
            result.fail_as(Failure::TokenStale);
        }
        result.timings.total = start.elapsed();
        result
    }

    /// One POST that ends at `deadline` and keeps at most `kept` bytes of the answer's body.
    pub(crate) async fn post_by(
        &self,
        request: OutboundRequest,
        identity: Option<&Arc<TlsIdentity>>,
        deadline: Instant,
        kept: usize,
    ) -> AttemptResult {
        let start = Instant::now();
        // On the heap: it is a whole attempt within an attempt.
        Box::pin(self.0.attempt(request, identity, start, deadline, kept)).await
    }
}

/// What a webhook shows beside its headers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Credentials<'a> {
    /// Its side of TLS with the endpoint.
    pub identity: Option<&'a Arc<TlsIdentity>>,
    /// Where its access token comes from; it becomes the `Authorization` header.
    pub token: Option<&'a TokenSource>,
    /// Its side of TLS with the token endpoint.
    pub token_identity: Option<&'a Arc<TlsIdentity>>,
}

impl Inner {
    async fn attempt(
        &self,
        request: OutboundRequest,
        identity: Option<&Arc<TlsIdentity>>,
        start: Instant,
        deadline: Instant,
        kept: usize,
    ) -> AttemptResult {
        let OutboundRequest { url, headers, body } = request;
        if let Err(refusal) = url.check(&self.policy) {
            return AttemptResult::failed(Failure::Refused(refusal));
        }
        // The parsed URL, not its text: there is no second parser that could read it another way. The
        // few URLs that HTTP has no form for are the customer's to change.
        let Ok(uri) = Uri::try_from(url.url().as_str()) else {
            return AttemptResult::failed(Failure::Refused(EndpointRefusal::Malformed));
        };
        if !self.clients.can_verify(identity) && url.url().scheme() == "https" {
            return AttemptResult::failed(Failure::Internal);
        }
        let client = match self.clients.client(identity) {
            Ok(client) => client,
            Err(error) => {
                tracing::error!(%error, "a TLS identity that was accepted does not work");
                return AttemptResult::failed(Failure::Internal);
            }
        };

        let mut timings = Timings::default();
        if url.literal_ip().is_none() {
            // The dialler asks again and finds this answer in the cache. A pooled connection makes
            // no dial, but its name must have passed for this attempt too.
            let resolved = timeout_at(deadline, self.resolver.addresses(url.host())).await;
            timings.dns = Some(start.elapsed());
            if let Err(failure) = resolved.unwrap_or(Err(Failure::Timeout)) {
                let mut result = AttemptResult::failed(failure);
                result.timings = timings;
                return result;
            }
        }

        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        let defaults = [
            (ACCEPT, HeaderValue::from_static("*/*")),
            (USER_AGENT, self.user_agent.clone()),
        ];
        for (name, value) in defaults {
            request.headers_mut().entry(name).or_insert(value);
        }
        if self.clients.are_many_open() {
            let close = HeaderValue::from_static("close");
            request.headers_mut().insert(CONNECTION, close);
        }
        let exchange = Exchange {
            host: url.host(),
            line: Line(capture_connection(&mut request)),
            start,
            deadline,
            kept,
        };
        let mut result = self
            .exchange(&client, request, &exchange, &mut timings)
            .await;
        result.timings = timings;
        result
    }

    async fn exchange(
        &self,
        client: &HttpClient,
        request: Request<Full<Bytes>>,
        exchange: &Exchange<'_>,
        timings: &mut Timings,
    ) -> AttemptResult {
        let sending = client.request(request);
        tokio::pin!(sending);
        let (sent, dial) = timed(timeout_at(exchange.deadline, sending.as_mut())).await;
        (timings.connect, timings.tls) = (dial.connect, dial.tls);
        match sent {
            Err(_) => {
                // Before the request is dropped, so that the connection learns both at once.
                exchange.line.abandon();
                AttemptResult::failed(Failure::Timeout)
            }
            Ok(Err(error)) => {
                let failure = failure_of(&error);
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    reason = failure.reason(),
                    "attempt failed"
                );
                AttemptResult::failed(failure)
            }
            Ok(Ok(response)) => {
                timings.first_byte = Some(exchange.start.elapsed());
                self.read(response, exchange).await
            }
        }
    }

    /// Reads an answer whose head is there. The head decides, the body is for the log.
    async fn read(
        &self,
        mut response: Response<Incoming>,
        exchange: &Exchange<'_>,
    ) -> AttemptResult {
        let line = &exchange.line;
        let status = response.status().as_u16();
        let tap = response.extensions_mut().remove::<Tap>();
        if is_irregular(&response) || tap.as_ref().is_none_or(Tap::is_irregular) {
            line.do_not_reuse();
        }
        let mut result = if header_bytes(response.headers()) > MAX_READ_HEADER_BYTES {
            AttemptResult::failed(Failure::HeadTooLarge)
        } else if Outcome::of_status(status) == Outcome::Success {
            AttemptResult::succeeded()
        } else {
            AttemptResult::failed_with_status(status, exchange.host)
        };
        result.status = Some(status);
        result.remote_ip = tap.as_ref().map(|tap| tap.remote().ip());
        if result.failure == Some(Failure::HeadTooLarge) {
            line.abandon();
            return result;
        }
        if let Some(tap) = &tap {
            tap.body_begins();
        }
        result.response_headers = ResponseHeaders::new(std::mem::take(response.headers_mut()));
        let mut body = KeptBody::new(exchange.kept);
        let incoming = response.body_mut();
        let whole = matches!(
            timeout_at(exchange.deadline, body.read(incoming, self.max_read_body)).await,
            Ok(true)
        );
        match &tap {
            Some(tap) if whole => tap.head_begins(),
            _ => line.abandon(),
        }
        result.response_body_truncated = !whole || body.overflowed();
        result.response_body = body.finish();
        result
    }
}

/// What an attempt knows while it is under way.
struct Exchange<'a> {
    host: &'a str,
    line: Line,
    start: Instant,
    deadline: Instant,
    kept: usize,
}

/// The connection an attempt is on, once it is on one.
struct Line(CaptureConnection);

impl Line {
    /// No other attempt shall use it.
    fn do_not_reuse(&self) {
        if let Some(connected) = self.0.connection_metadata().as_ref() {
            connected.poison();
        }
    }

    /// It is of no use any more, to us or to others.
    fn abandon(&self) {
        let connected = self.0.connection_metadata();
        let Some(connected) = connected.as_ref() else {
            return;
        };
        connected.poison();
        let mut extras = Extensions::new();
        connected.get_extras(&mut extras);
        if let Some(tap) = extras.get::<Tap>() {
            tap.abandon();
        }
    }
}

/// Whether others might disagree with us about where an answer ends.
fn is_irregular<B>(response: &Response<B>) -> bool {
    let headers = response.headers();
    let has_two_lengths = headers.get_all(CONTENT_LENGTH).iter().count() > 1
        || headers
            .get(CONTENT_LENGTH)
            .is_some_and(|length| length.as_bytes().contains(&b','));
    let has_both = headers.contains_key(CONTENT_LENGTH) && headers.contains_key(TRANSFER_ENCODING);
    has_two_lengths || has_both || response.version() != Version::HTTP_11
}

/// The beginning of a body, copied out of the client's buffers, which are larger than what is kept.
struct KeptBody {
    kept: Vec<u8>,
    read: usize,
    limit: usize,
}

impl KeptBody {
    fn new(limit: usize) -> Self {
        Self {
            kept: Vec::new(),
            read: 0,
            limit,
        }
    }

    /// Reads until the end (true), or until `max_read` bytes are passed or the connection breaks.
    async fn read(&mut self, incoming: &mut Incoming, max_read: usize) -> bool {
        while self.read <= max_read {
            match incoming.frame().await {
                None => return true,
                // What is no data is trailers, which nobody reads.
                Some(Ok(frame)) => self.keep(&frame.into_data().unwrap_or_default()),
                Some(Err(error)) => {
                    tracing::debug!(
                        error = &error as &dyn std::error::Error,
                        "the body of the answer broke off"
                    );
                    return false;
                }
            }
        }
        false
    }

    fn keep(&mut self, chunk: &[u8]) {
        let room = self.limit.saturating_sub(self.read).min(chunk.len());
        self.kept.extend_from_slice(&chunk[..room]);
        self.read = self.read.saturating_add(chunk.len());
    }

    fn overflowed(&self) -> bool {
        self.read > self.limit
    }

    fn finish(mut self) -> Bytes {
        self.kept.shrink_to_fit();
        self.kept.into()
    }
}

fn header_bytes(headers: &HeaderMap) -> usize {
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum()
}
