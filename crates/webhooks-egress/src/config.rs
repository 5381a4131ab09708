//! Settings and limits.

use std::net::SocketAddr;
use std::time::Duration;

use thiserror::Error;
use webhooks_domain::endpoint::AddressPolicy;

/// The most response headers kept for the log.
pub(crate) const MAX_KEPT_HEADERS: usize = 64;
/// The most bytes of response headers kept for the log, names and values together.
pub(crate) const MAX_KEPT_HEADER_BYTES: usize = 32 * 1024;
/// The most response headers read; more is an invalid response.
pub(crate) const MAX_READ_HEADERS: usize = 100;
/// The most bytes of an answer's head accepted, status line, names, values and line ends; more is an
/// invalid response. The client's buffers grow no larger than this.
pub(crate) const MAX_READ_HEADER_BYTES: usize = 32 * 1024;
/// The most bytes taken from the wire for a TLS handshake, and again for an answer's head with all
/// informational answers before it and what of the body came along: twice the head itself.
pub(crate) const MAX_HEAD_WIRE_BYTES: usize = 64 * 1024;
/// The most bytes taken from the wire for a body, whatever they are made of: eight times what is read.
pub(crate) const MAX_BODY_WIRE_BYTES: usize = 512 * 1024;
/// Connections open at once beyond which an attempt's own is closed after its answer and not kept for
/// the next one: with more endpoints than that, idle connections would be most of the memory.
pub(crate) const MAX_KEPT_CONNECTIONS: usize = 2_048;
/// Clients kept for TLS identities; the least recently used one makes room.
pub(crate) const MAX_IDENTITY_CLIENTS: usize = 256;
/// The longest PEM text of a TLS identity, in bytes.
pub(crate) const MAX_IDENTITY_PEM_BYTES: usize = 64 * 1024;
/// The longest answer of a token endpoint, in bytes.
pub(crate) const MAX_TOKEN_ANSWER_BYTES: usize = 16 * 1024;
/// The longest call for a token; what is left of the attempt's deadline may be less.
pub(crate) const TOKEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Names kept in the resolver's cache.
pub(crate) const MAX_CACHED_NAMES: usize = 10_000;
/// DNS lookups under way at once; more wait, within their budget.
pub(crate) const MAX_CONCURRENT_LOOKUPS: usize = 256;
/// Addresses of one name that are tried. All of them are judged.
pub(crate) const MAX_DIALLED_ADDRESSES: usize = 16;
/// Bounds of how long a name's addresses are believed, whatever its TTL.
pub(crate) const MIN_TTL: Duration = Duration::from_secs(5);
/// See [`MIN_TTL`].
pub(crate) const MAX_TTL: Duration = Duration::from_secs(300);
/// How long "no such name" is believed.
pub(crate) const NOT_FOUND_TTL: Duration = Duration::from_secs(5);
/// How long a failed lookup is not repeated, so that a dead resolver is not hammered.
pub(crate) const FAILED_TTL: Duration = Duration::from_secs(1);

/// Settings of the way out. `default()` is production.
#[derive(Clone, Debug)]
pub struct EgressConfig {
    /// What may be dialled.
    pub policy: AddressPolicy,
    /// Certificate authorities to trust beside the system's, PEM.
    pub extra_ca_pem: Option<Vec<u8>>,
    /// DNS servers; empty means those of the system.
    pub dns_servers: Vec<SocketAddr>,
    /// A name that resolves whenever our resolvers work. While it fails too, a customer's name that
    /// does not resolve is our problem ([`Failure::ResolverDown`](crate::Failure::ResolverDown)) and
    /// costs no attempt. Without it every such name is the customer's problem.
    pub control_name: Option<String>,
    /// The deadline of an attempt: DNS, connect, TLS, head and body together.
    pub attempt_timeout: Duration,
    /// The budget of connect and TLS handshake.
    pub connect_timeout: Duration,
    /// The budget of a name lookup; a control lookup after it, and another one of the name after that,
    /// have the same again.
    pub dns_timeout: Duration,
    /// Response body bytes kept for the log.
    pub max_response_body: usize,
    /// Response body bytes read before the connection is dropped. A body up to here is read to its
    /// end, which lets the connection be used again.
    pub max_read_body: usize,
    /// How long an idle connection is kept.
    pub pool_idle_timeout: Duration,
    /// Idle connections kept per host and port.
    pub pool_max_idle_per_host: usize,
    /// Connections open at once, of all hosts and clients, beyond which none is kept after its
    /// answer; never more than half of those that the process's descriptors allow.
    pub max_kept_connections: usize,
    /// Descriptors that this process may have; `None` = as many as the system says, looked at again
    /// and again. Connections and lookups together take no more than that less 48.
    pub descriptors: Option<usize>,
    /// The `User-Agent`, unless the request brings one.
    pub user_agent: String,
}

impl Default for EgressConfig {
    fn default() -> Self {
        Self {
            policy: AddressPolicy::default(),
            extra_ca_pem: None,
            dns_servers: Vec::new(),
            control_name: None,
            attempt_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            dns_timeout: Duration::from_secs(5),
            max_response_body: 16 * 1024,
            max_read_body: 64 * 1024,
            pool_idle_timeout: Duration::from_secs(60),
            pool_max_idle_per_host: 256,
            max_kept_connections: MAX_KEPT_CONNECTIONS,
            descriptors: None,
            user_agent: concat!("Linkbreakers-Webhooks/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// Why there is no way out.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EgressError {
    /// The system's DNS settings could not be read.
    #[error("cannot set up the DNS resolver")]
    Resolver(#[source] hickory_resolver::net::NetError),
    /// The extra certificate authorities are no PEM certificates.
    #[error("cannot read the extra certificate authorities")]
    ExtraCa(#[source] rustls::pki_types::pem::Error),
    /// One of the extra certificate authorities is not a usable certificate.
    #[error("an extra certificate authority is not valid")]
    ExtraCaRefused(#[source] rustls::Error),
    /// The extra certificate authorities hold no certificate.
    #[error("no certificate in the extra certificate authorities")]
    NoExtraCa,
    /// The user agent is no header value.
    #[error("the user agent is not a valid header value")]
    UserAgent(#[source] http::header::InvalidHeaderValue),
    /// There is no certificate authority to trust, so that no endpoint could be verified.
    #[error("no trusted certificate authorities on this system")]
    NoAuthorities,
}
