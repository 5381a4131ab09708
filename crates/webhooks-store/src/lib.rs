//! `webhooks-store`: the ledger of record, in PostgreSQL (15 or later). The only crate with SQL.
//!
//! Ids are [`uuid::Uuid`]s and times microseconds since the Unix epoch (UTC); `now` is always an
//! argument, so that one clock rules and tests can move it. One module per aggregate:
//!
//! - configuration: [`Store::create_workspace`], tokens, webhooks. A change writes its row, its
//!   outbox row and its audit entry in one transaction, so that the read model can always be
//!   brought level with the tables.
//! - history: what was delivered, how and when. Batches come twice, late and out of order; what is
//!   stored depends on what was reported, never on the order of arrival ([`Store::record_reports`]).
//!
//! # Locks
//! Transactions take row locks in one order, so that they cannot deadlock: workspace, idempotency
//! key, webhook, outbox for configuration; events, attempts, deliveries, counters for history, and
//! within one table in the order of the primary key.
//!
//! # What is not promised
//! A report for a day whose partition was already dropped makes a new row (in the default
//! partition) and counts again: retention must outlast every spool.

mod audit;
mod error;
mod history;
mod idempotency;
mod outbox;
mod partitions;
mod pg;
mod pool;
mod stats;
mod tokens;
mod webhooks;
mod workspaces;

pub use audit::Actor;
pub use error::StoreError;
pub use history::{
    AttemptRecord, AttemptRow, DeliveryCursor, DeliveryFacts, DeliveryPage, DeliveryRow,
    MAX_ATTEMPTS_SHOWN, MAX_PAGE, MAX_REPORTS, MAX_VERDICT_DELIVERIES, MAX_VERDICTS,
    RecordedDelivery, RenditionRecord, ReportRecord, ResponseHeader, Timings, VerdictDelivery,
    VerdictRecord,
};
pub use idempotency::{Begun, IDEMPOTENCY_KEPT, IDEMPOTENCY_LEASE, IdempotencyKey};
pub use outbox::{OutboxKind, OutboxRow};
pub use pg::{Day, storable};
pub use pool::{Store, StoreSettings};
pub use stats::{StatsCursor, StatsRow};
pub use tokens::{NewToken, TokenRow};
pub use webhooks::{
    NewWebhook, SealedSecret, StatusFilter, WebhookCursor, WebhookPage, WebhookPatch, WebhookRow,
};
pub use workspaces::{NewWorkspace, WorkspaceRow};
