//! Ingest with a real nats-server: what it says yes to is on the stream, and what it refuses is
//! refused in words.

#![expect(
    clippy::unwrap_used,
    reason = "in tests, helpers too, an unwrap is an assertion"
)]

mod doors;
mod fields;
mod floods;
mod hops;
mod nonsense;
mod outages;
mod refusals;
mod support;
