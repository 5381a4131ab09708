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
mod health;
mod history;
mod idempotency;
mod outbox;
mod partitions;
mod pg;
mod pool;
mod reseal;
mod roles;
mod stats;
mod tokens;
mod webhooks;
mod workspaces;

pub use audit::{Actor, AuditCursor, AuditFilter, AuditPage, AuditRow, Origin};
pub use error::StoreError;
pub use health::{HealthNews, MAX_MAILS, MailRow, NewMail};
pub use history::{
    AttemptRecord, Bucket, Counts, DeliveryCursor, DeliveryFacts, DeliveryFilter, DeliveryPage,
    DeliveryRow, ErrorExample, ErrorGroup, EventContent, EventCursor, EventPage, EventRow,
    Interval, JobCursor, JobFilter, JobPage, JobRow, JobState, JobType, Latency,
    MAX_ATTEMPTS_SHOWN, MAX_COMPARED, MAX_COUNTED, MAX_EXAMINED, MAX_JOBS_OPEN, MAX_MEASURED,
    MAX_NAMED, MAX_PAGE, MAX_REPORTS, MAX_VERDICT_DELIVERIES, MAX_VERDICTS, Measures, Missing,
    NewJob, NewTest, OwedRow, RecordedDelivery, RenditionRecord, Replay, ReportRecord,
    ResponseHeader, TestSend, Timings, UsageDay, VerdictDelivery, VerdictRecord, Wish,
};
pub use history::{MAX_PULSE, Pulse};
pub use history::{MAX_WATCHED, WatchedDelivery};
pub use idempotency::{
    Begun, IDEMPOTENCY_KEPT, IDEMPOTENCY_LEASE, IdempotencyKey, KeptAnswer, MAX_PURGED,
};
pub use outbox::{OutboxKind, OutboxRow, OutboxStep};
pub use pg::{Day, storable};
pub use pool::{Store, StoreSettings};
pub use reseal::{MAX_RESEALED, Resealed, SealedRow};
pub use stats::{StatsCursor, StatsRow};
pub use tokens::{
    MAX_TOKENS, NewToken, TokenCursor, TokenKeyType, TokenPage, TokenPatch, TokenRow,
};
pub use webhooks::{
    AsymmetricSecret, DeletedWebhook, Extras, MAX_OLD_SECRETS, NewWebhook, Past, PastConfig,
    PublicKey, RateChoice, RetryChoice, RetryNumbers, Room, Rotation, SealedSecret, StatusFilter,
    Verified, WebhookCursor, WebhookOptions, WebhookPage, WebhookPatch, WebhookRow,
};
pub use workspaces::{
    AuthoritiesRow, AuthoritiesWish, DeletedWorkspace, NewWorkspace, WorkspaceCursor,
    WorkspaceLimits, WorkspacePage, WorkspacePatch, WorkspaceRow, WorkspaceSettings,
};
