//! What can go wrong on the bus, kept apart by what a caller does next.

/// A bus operation failed.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The client could not be built: an address or credential is wrong.
    #[error("bad NATS settings: {0}")]
    Settings(String),
    /// NATS did not answer, or answered that it cannot now. Try again.
    #[error("NATS unavailable: {0}")]
    Unavailable(String),
    /// The server is too old or its streams are not as they must be.
    #[error("NATS is not set up as required: {0}")]
    Drift(String),
    /// A compare-and-set met another revision.
    #[error("somebody else wrote first: {0}")]
    Conflict(String),
    /// A message could not be decoded.
    #[error("undecodable message: {0}")]
    Decode(String),
}

/// A publish did not become durable.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The stream is at its limit and refused the message: it was not stored.
    #[error("stream full: {0}")]
    Full(String),
    /// The message is larger than the stream or server takes: it was not stored.
    #[error("message too large: {0}")]
    TooLarge(String),
    /// No acknowledgement in time: whether it was stored is unknown. Repeat with the same id.
    #[error("not acknowledged: {0}")]
    Unavailable(String),
    /// The compare-and-set headers met another sequence: it was not stored.
    #[error("wrong last sequence: {0}")]
    WrongLast(String),
}

pub(crate) fn unavailable(error: impl std::fmt::Display) -> BusError {
    BusError::Unavailable(error.to_string())
}
