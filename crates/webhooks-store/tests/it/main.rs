//! The store against a real PostgreSQL: one server for the process, a fresh database per test.

#![expect(
    clippy::unwrap_used,
    reason = "what a test's helper cannot do fails the test"
)]

mod configuration;
mod converge;
mod history;
mod idempotency;
mod operations;
mod options;
mod paging;
mod partitions;
mod reports;
mod reseal;
mod roles;
mod schema;
mod support;
mod tenants;
mod webhooks;
