//! Why a URL or an address was refused.

use thiserror::Error;

/// Why an endpoint may not be used.
///
/// The texts are shown to customers, so they are fixed: none carries an address a name resolved to,
/// nor anything our resolver said. A refusal must not become a way to look into our network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum EndpointRefusal {
    /// Longer than [`MAX_URL_BYTES`](super::MAX_URL_BYTES).
    #[error("the URL is longer than 2048 bytes")]
    TooLong,
    /// Not a URL, or one that parsers would read in different ways.
    #[error("the URL is malformed")]
    Malformed,
    /// Any scheme but `https` (and `http`, where the operator allows it).
    #[error("the URL must start with https://")]
    SchemeNotHttps,
    /// `user:password@host`: credentials belong in the authentication settings.
    #[error("the URL must not contain a user name or password")]
    Userinfo,
    /// A `#fragment`, which would never be sent.
    #[error("the URL must not contain a fragment")]
    Fragment,
    /// Port 0, a port of another protocol, or one of our kind of infrastructure.
    #[error("the port is not allowed")]
    BlockedPort,
    /// A name without a dot: it could only mean something inside our own network.
    #[error("the host name must be fully qualified")]
    SingleLabel,
    /// A name under a suffix that is not public, such as `.internal` or `.localhost`.
    #[error("the host name is not a public name")]
    BlockedHostName,
    /// One of our own host names: a webhook must not call us.
    #[error("the host name belongs to this service")]
    OwnHost,
    /// An address that is not a public unicast address.
    #[error("the host's address is not allowed")]
    BlockedAddress,
    /// One of our own public addresses.
    #[error("the host's address belongs to this service")]
    OwnAddress,
    /// The name resolved to nothing.
    #[error("the host name has no address")]
    NoAddress,
}

impl EndpointRefusal {
    /// The stable machine-readable reason, lower snake case.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::Malformed => "malformed",
            Self::SchemeNotHttps => "scheme_not_https",
            Self::Userinfo => "userinfo",
            Self::Fragment => "fragment",
            Self::BlockedPort => "blocked_port",
            Self::SingleLabel => "single_label",
            Self::BlockedHostName => "blocked_host_name",
            Self::OwnHost => "own_host",
            Self::BlockedAddress => "blocked_address",
            Self::OwnAddress => "own_address",
            Self::NoAddress => "no_address",
        }
    }
}
