//! The client: check, resolve, send, read.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method};
use reqwest::{Certificate, Client, ClientBuilder, Request, Response};
use tokio::time::{Instant, timeout_at};
use webhooks_domain::endpoint::{AddressPolicy, Outcome};

use crate::attempt::{AttemptResult, OutboundRequest, ResponseHeaders, Timings};
use crate::config::{EgressConfig, EgressError, MAX_READ_HEADER_BYTES, MAX_READ_HEADERS};
use crate::diagnose::failure_of;
use crate::dial_timer::{DialTimerLayer, timed};
use crate::failure::Failure;
use crate::resolver::VettingResolver;

/// The way out. Clones share connections and cache.
#[derive(Clone)]
pub struct Egress(Arc<Inner>);

struct Inner {
    client: Client,
    resolver: VettingResolver,
    policy: Arc<AddressPolicy>,
    attempt_timeout: Duration,
    max_response_body: usize,
    max_read_body: usize,
    /// False when there is no certificate authority to trust, which only a development policy
    /// survives. Then TLS cannot work, and that is nobody's fault but ours.
    tls: bool,
}

impl Egress {
    /// Sets up resolver and client. Sends nothing. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Unreadable system DNS settings or extra certificates, or no certificate authority to trust.
    pub fn new(config: EgressConfig) -> Result<Self, EgressError> {
        if config.policy.is_opened() || config.extra_ca_pem.is_some() {
            tracing::warn!(
                allow_http = config.policy.allow_http,
                allow_cidrs = ?config.policy.allow_cidrs,
                allow_hosts = ?config.policy.allow_hosts,
                extra_ca = config.extra_ca_pem.is_some(),
                "the address guard is opened; not for production"
            );
        }
        let extra = extra_authorities(&config)?;
        let policy = Arc::new(config.policy.clone());
        let resolver = VettingResolver::new(&config, Arc::clone(&policy))?;
        let build = || client_builder(&config, resolver.clone());
        let (client, tls) = match build().tls_certs_merge(extra).build() {
            Ok(client) => (client, true),
            // A machine without certificates may still develop over plain http.
            Err(error) if config.policy.allow_http => {
                tracing::error!(%error, "no trusted certificates: https endpoints cannot be called");
                let client = build().tls_certs_only([]).build();
                (client.map_err(EgressError::Client)?, false)
            }
            Err(error) => return Err(EgressError::Client(error)),
        };
        Ok(Self(Arc::new(Inner {
            client,
            resolver,
            policy,
            attempt_timeout: config.attempt_timeout,
            max_response_body: config.max_response_body,
            max_read_body: config.max_read_body,
            tls,
        })))
    }

    /// Makes one POST and tells what the endpoint did. Takes at most the attempt timeout.
    ///
    /// Dropping the future drops the connection; the endpoint may have seen the request.
    pub async fn send(&self, request: OutboundRequest) -> AttemptResult {
        let start = Instant::now();
        let mut result = self.0.attempt(request, start).await;
        result.timings.total = start.elapsed();
        result
    }
}

impl Inner {
    async fn attempt(&self, request: OutboundRequest, start: Instant) -> AttemptResult {
        let deadline = start + self.attempt_timeout;
        let OutboundRequest { url, headers, body } = request;
        if let Err(refusal) = url.check(&self.policy) {
            return AttemptResult::failed(Failure::Refused(refusal));
        }
        if !self.tls && url.url().scheme() == "https" {
            return AttemptResult::failed(Failure::Internal);
        }

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

        let mut request = Request::new(Method::POST, url.into_url());
        *request.headers_mut() = headers;
        *request.body_mut() = Some(body.into());
        let (sent, dial) = timed(timeout_at(deadline, self.client.execute(request))).await;
        timings.connect = dial;
        let mut result = match sent {
            Err(_) => AttemptResult::failed(Failure::Timeout),
            Ok(Err(error)) => {
                let failure = failure_of(&error);
                // The URL may carry a token.
                let error = error.without_url();
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    reason = failure.reason(),
                    "attempt failed"
                );
                AttemptResult::failed(failure)
            }
            Ok(Ok(response)) => {
                timings.first_byte = Some(start.elapsed());
                self.read(response, deadline).await
            }
        };
        result.timings = timings;
        result
    }

    /// Reads an answer whose head is there. The head decides, the body is for the log.
    async fn read(&self, mut response: Response, deadline: Instant) -> AttemptResult {
        let status = response.status().as_u16();
        let remote_ip = response.remote_addr().map(|address| address.ip());
        if remote_ip.is_some_and(|ip| self.policy.vet_address(ip).is_err()) {
            // Cannot happen while resolver and literal check do their work. Should it ever, the
            // answer must not reach a customer.
            tracing::error!(?remote_ip, "an answer came from a forbidden address");
            return AttemptResult::failed(Failure::Internal);
        }
        let mut result = if header_bytes(response.headers()) > MAX_READ_HEADER_BYTES {
            AttemptResult::failed(Failure::HeadTooLarge)
        } else if Outcome::of_status(status) == Outcome::Success {
            AttemptResult::succeeded()
        } else {
            let host = response.url().host_str().unwrap_or_default();
            AttemptResult::failed_with_status(status, host)
        };
        result.status = Some(status);
        result.remote_ip = remote_ip;
        if result.failure == Some(Failure::HeadTooLarge) {
            return result;
        }
        result.response_headers = ResponseHeaders::new(std::mem::take(response.headers_mut()));
        let mut body = KeptBody::new(self.max_response_body);
        let whole = timeout_at(deadline, body.read(&mut response, self.max_read_body)).await;
        result.response_body_truncated = !matches!(whole, Ok(true)) || body.overflowed();
        result.response_body = body.finish();
        result
    }
}

/// The beginning of a body. One chunk, the usual case, is kept without copying.
struct KeptBody {
    first: Bytes,
    rest: BytesMut,
    read: usize,
    limit: usize,
}

impl KeptBody {
    fn new(limit: usize) -> Self {
        Self {
            first: Bytes::new(),
            rest: BytesMut::new(),
            read: 0,
            limit,
        }
    }

    /// Reads until the end (true), or until `max_read` bytes are passed or the connection breaks.
    async fn read(&mut self, response: &mut Response, max_read: usize) -> bool {
        while self.read <= max_read {
            match response.chunk().await {
                Ok(Some(chunk)) => self.keep(chunk),
                Ok(None) => return true,
                Err(error) => {
                    let error = error.without_url();
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

    fn keep(&mut self, mut chunk: Bytes) {
        let room = self.limit.saturating_sub(self.read);
        self.read += chunk.len();
        chunk.truncate(room);
        if self.first.is_empty() {
            self.first = chunk;
        } else {
            self.rest.extend_from_slice(&chunk);
        }
    }

    fn overflowed(&self) -> bool {
        self.read > self.limit
    }

    fn finish(self) -> Bytes {
        if self.rest.is_empty() {
            return self.first;
        }
        let mut whole = BytesMut::with_capacity(self.first.len() + self.rest.len());
        whole.extend_from_slice(&self.first);
        whole.extend_from_slice(&self.rest);
        whole.freeze()
    }
}

fn header_bytes(headers: &HeaderMap) -> usize {
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum()
}

fn extra_authorities(config: &EgressConfig) -> Result<Vec<Certificate>, EgressError> {
    let Some(pem) = &config.extra_ca_pem else {
        return Ok(Vec::new());
    };
    let extra = Certificate::from_pem_bundle(pem).map_err(EgressError::ExtraCa)?;
    if extra.is_empty() {
        return Err(EgressError::NoExtraCa);
    }
    Ok(extra)
}

/// The one place where an outbound client is configured. Deadlines other than the dial's are ours.
fn client_builder(config: &EgressConfig, resolver: VettingResolver) -> ClientBuilder {
    Client::builder()
        .dns_resolver(resolver)
        .connector_layer(DialTimerLayer)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .referer(false)
        .http1_only()
        .http1_max_headers(MAX_READ_HEADERS)
        .connect_timeout(config.connect_timeout)
        .pool_idle_timeout(config.pool_idle_timeout)
        .pool_max_idle_per_host(config.pool_max_idle_per_host)
        .user_agent(&config.user_agent)
}
