//! What management can do, independent of how it is asked: REST and gRPC translate, this decides.
//!
//! # A change is answered once the read model has it
//!
//! The order of a mutation is fixed:
//!
//! 1. ask NATS for a sign of life (a round trip to the leader of bucket CONFIG). If there is none:
//!    503, nothing has happened, nothing is half done;
//! 2. one transaction in Postgres: row, outbox row, audit entry;
//! 3. the outbox pump writes the row to the read model; the call waits for it, at most 5 s.
//!
//! No transaction is open while NATS is waited for. The price is a gap: NATS may die between 1 and 3.
//! Then the change *is* made, the pump delivers it as soon as NATS is back, and the call says so:
//! 503 `CHANGE_PENDING`. Undoing it instead would need a second transaction that can fail just so,
//! and would take back what a reader may already have seen. Repeated with the same idempotency key,
//! the call waits for the read model again and returns the finished answer; repeated without one, a
//! PATCH or DELETE meets its own result, and a POST makes a second webhook, as after any lost answer.
//!
//! # A call outlives its connection
//!
//! Mutations run on a tracked task: a client that hangs up half-way does not leave an idempotency
//! claim behind, and shutdown waits for what has begun.

mod allowances;
mod audit;
mod authorities;
mod challenge;
mod deliveries;
mod events;
mod health;
mod jobs;
mod metrics;
mod once;
mod owed;
mod prepare;
mod query;
mod secrets;
mod tail;
mod tokens;
mod trial;
mod usage;
mod webhooks;
mod workspaces;

use std::{future::Future, sync::Arc, time::Duration};

use tokio_util::task::TaskTracker;
use uuid::Uuid;
use webhooks_bus::{Bus, ConfigWriter};
use webhooks_domain::{
    challenge::ChallengeKeys, clock::Clock, endpoint::AddressPolicy, sealing::Keyring,
};
use webhooks_store::{
    Actor, AttemptRecord, DeliveryRow, PublicKey, Store, StoreError, WebhookCursor, WebhookRow,
};

use crate::{
    auth::Caller,
    error::ManagementError,
    outbox::Outbox,
    page::{ListScope, PageTokens, Position},
    words::ShownStatus,
};

pub use allowances::{Allowances, PlanLimits, plans};
pub use authorities::{AuthoritiesFace, MAX_AUTHORITIES, MAX_AUTHORITIES_BYTES, OwnAuthorities};
pub(crate) use challenge::Challenges;
pub use deliveries::{Found, HistoryFace};
pub use events::{EventVerdict, JudgedBy, JudgedEvent};
pub(crate) use events::{Judged, verdict_on};
pub use health::WebhookHealth;
pub use jobs::{DEFAULT_RATE, JobDraft, MAX_RATE};
pub use metrics::{Metrics, MetricsQuery};
pub use once::{Answer, Face, Mutated, NewKey, Once};
pub use owed::Owed;
pub use prepare::Prepared;
pub use query::DeliveryQuery;
pub use secrets::{LONGEST_OVERLAP, OVERLAP, RotationDraft, SecretSummary};
pub(crate) use secrets::{PUBLIC_KEY, SECRET};
pub use tail::{Tail, TailHub, Tailed};
pub(crate) use tokens::draft::key_type_word;
pub use tokens::{TokenDraft, TokenFace, TokenMutated};
pub use trial::{TEST_WINDOW, TESTS_PER_WINDOW};
pub(crate) use trial::{profile_of, rendition_in, snapshot};
pub use usage::{Usage, UsageQuery};
pub use webhooks::IfMatch;
pub use workspaces::{IssueFace, LimitsDraft, WorkspaceDraft, WorkspaceFace};

/// How long NATS may take to give a sign of life before a change is begun.
const SIGN_OF_LIFE_WITHIN: Duration = Duration::from_secs(2);

/// The stream behind bucket CONFIG.
const CONFIG_STREAM: &str = "KV_CONFIG";

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct Management {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    bus: Bus,
    outbox: Outbox,
    keyring: Keyring,
    pages: PageTokens,
    addresses: AddressPolicy,
    clock: Arc<dyn Clock>,
    light_plan_webhooks: u32,
    retention_days: u32,
    calls: TaskTracker,
    owed: Owed,
    tail: TailHub,
    challenges: Challenges,
}

/// What the service is made of.
pub struct Parts {
    /// Postgres.
    pub store: Store,
    /// NATS.
    pub bus: Bus,
    /// Seals signing secrets and kept answers.
    pub keyring: Keyring,
    /// Page tokens.
    pub pages: PageTokens,
    /// Challenges to endpoints.
    pub challenges: ChallengeKeys,
    /// Which endpoints may be named.
    pub addresses: AddressPolicy,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Webhooks on the Light plan.
    pub light_plan_webhooks: u32,
    /// How many days history is kept.
    pub retention_days: u32,
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// The token of the next page; `None` = complete.
    pub next: Option<String>,
    /// How many match in all.
    pub total: u64,
}

impl Management {
    /// Puts the service together. Its outbox pump has to be run by the caller.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let outbox = Outbox::new(parts.store.clone(), ConfigWriter::new(&parts.bus));
        let tail = TailHub::new(parts.bus.clone());
        let owed = Owed::new(
            parts.store.clone(),
            parts.bus.clone(),
            Arc::clone(&parts.clock),
            tail.clone(),
        );
        let challenges = Challenges::new(
            parts.store.clone(),
            parts.keyring.clone(),
            parts.challenges,
            Arc::clone(&parts.clock),
        );
        Self {
            inner: Arc::new(Inner {
                owed,
                challenges,
                tail,
                outbox,
                store: parts.store,
                bus: parts.bus,
                keyring: parts.keyring,
                pages: parts.pages,
                addresses: parts.addresses,
                clock: parts.clock,
                light_plan_webhooks: parts.light_plan_webhooks,
                retention_days: parts.retention_days,
                calls: TaskTracker::new(),
            }),
        }
    }

    /// The pump that brings changes to the read model.
    #[must_use]
    pub fn outbox(&self) -> &Outbox {
        &self.inner.outbox
    }

    /// The pump that brings replays and tests to JetStream; to be run by the caller.
    #[must_use]
    pub fn owed(&self) -> &Owed {
        &self.inner.owed
    }

    /// Tells those who look on what happens; to be run by the caller.
    #[must_use]
    pub fn tail_hub(&self) -> &TailHub {
        &self.inner.tail
    }

    /// Hears the answers to challenges.
    pub(crate) fn challenges(&self) -> &Challenges {
        &self.inner.challenges
    }

    /// Waits until every mutation that has begun is over.
    pub async fn finish_calls(&self) {
        self.inner.calls.close();
        self.inner.calls.wait().await;
    }

    /// One webhook of the caller's workspace.
    ///
    /// # Errors
    /// There is none of this id.
    pub async fn get_webhook(
        &self,
        caller: &Caller,
        id: Uuid,
    ) -> Result<WebhookRow, ManagementError> {
        let row = self.inner.store.get_webhook(caller.workspace, id).await?;
        row.ok_or(ManagementError::WebhookNotFound)
    }

    /// The public halves of what a webhook signs `v1a` with now, newest first, for anybody.
    ///
    /// # Errors
    /// There is no such webhook, or it has no such key, which is answered the same.
    pub async fn public_keys(&self, id: Uuid) -> Result<Vec<PublicKey>, ManagementError> {
        let mut keys = self.inner.store.public_keys(id).await?;
        let now = self.now();
        keys.retain(|key| key.signs_at(now));
        match keys.is_empty() {
            true => Err(ManagementError::WebhookNotFound),
            false => Ok(keys),
        }
    }

    /// The webhooks of the caller's workspace, oldest first.
    ///
    /// # Errors
    /// The page token is not for this list.
    pub async fn list_webhooks(
        &self,
        caller: &Caller,
        status: Option<ShownStatus>,
        page_size: u32,
        page_token: &str,
    ) -> Result<Page<WebhookRow>, ManagementError> {
        let filters = [status.map_or("", ShownStatus::as_str)];
        let scope = ListScope {
            list: "webhooks",
            workspace: caller.workspace,
            filters: &filters,
        };
        let after = self.inner.pages.read(scope, page_token)?;
        let after = after.map(|at| WebhookCursor {
            created_at: at.created_at,
            id: at.id,
        });
        let filter = webhooks::store_filter(status);
        let page = self
            .inner
            .store
            .list_webhooks(caller.workspace, filter, page_size, after)
            .await?;
        let last = page.rows.last().filter(|_| page.more);
        Ok(Page {
            next: last.map(|row| self.token_after(scope, row.created_at, row.id)),
            total: u64::try_from(page.total).unwrap_or(0),
            rows: page.rows,
        })
    }

    /// One delivery of the caller's workspace with its attempts.
    ///
    /// # Errors
    /// There is none of this id.
    pub async fn get_delivery(
        &self,
        caller: &Caller,
        id: Uuid,
    ) -> Result<(DeliveryRow, Vec<AttemptRecord>), ManagementError> {
        let found = self.inner.store.get_delivery(caller.workspace, id).await?;
        found.ok_or(ManagementError::DeliveryNotFound)
    }

    fn token_after(&self, scope: ListScope<'_>, created_at: i64, id: Uuid) -> String {
        self.inner.pages.make(scope, Position { created_at, id })
    }

    /// A sign of life from the leader of the read model.
    async fn read_model_is_there(&self) -> Result<(), ManagementError> {
        if !self.inner.bus.is_connected() {
            return Err(ManagementError::Unavailable(None));
        }
        let asked = self.inner.bus.last_seq(CONFIG_STREAM);
        match tokio::time::timeout(SIGN_OF_LIFE_WITHIN, asked).await {
            Ok(answer) => answer.map(|_| ()).map_err(Into::into),
            Err(_) => Err(ManagementError::Unavailable(None)),
        }
    }

    /// Runs a mutation to its end even when nobody waits for it any more.
    async fn to_the_end<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T, ManagementError>> + Send + 'static,
    ) -> Result<T, ManagementError> {
        match self.inner.calls.spawn(call).await {
            Ok(result) => result,
            Err(panic) => Err(ManagementError::internal(panic)),
        }
    }

    fn now(&self) -> i64 {
        self.inner.clock.now_micros()
    }
}

impl From<StoreError> for ManagementError {
    fn from(error: StoreError) -> Self {
        match error {
            error if error.is_retryable() => Self::Unavailable(Some(error.into())),
            error => Self::Internal(error.into()),
        }
    }
}

fn actor(caller: &Caller) -> Actor {
    caller.actor()
}
