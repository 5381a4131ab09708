//! Fan-out with a real nats-server: every match becomes one delivery, whatever is killed when.

#![expect(
    clippy::unwrap_used,
    reason = "in tests, helpers too, an unwrap is an assertion"
)]

mod again;
mod crashes;
mod matching;
mod support;
