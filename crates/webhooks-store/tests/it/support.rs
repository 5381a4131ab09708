//! A server that all running tests share, and builders of records.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicU32, Ordering},
};

use bytes::Bytes;
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::sync::Mutex;
use uuid::Uuid;
use webhooks_devstack::Postgres;
use webhooks_domain::{
    delivery::DeliveryState,
    endpoint::outcome::{FailureClass, Outcome},
    ids::{self, Trigger},
    webhook::{Plan, WebhookSource, WebhookStatus},
};
use webhooks_store::{
    Actor, AttemptRecord, Day, DeliveryFacts, Extras, NewWebhook, NewWorkspace, RenditionRecord,
    ReportRecord, ResponseHeader, SealedSecret, Store, StoreSettings, Timings, VerdictDelivery,
    VerdictRecord, WebhookOptions,
};

/// 2026-01-15T12:00:00Z.
pub(crate) const NOON: i64 = 1_768_478_400_000_000;
pub(crate) const SECOND: i64 = 1_000_000;

struct Server {
    postgres: Postgres,
    databases: AtomicU32,
    _folder: tempfile::TempDir,
}

/// Shared by the tests that run at the same time; the last one to end takes it down.
static SERVER: Mutex<Weak<Server>> = Mutex::const_new(Weak::new());

async fn server() -> Arc<Server> {
    let mut shared = SERVER.lock().await;
    if let Some(server) = shared.upgrade() {
        return server;
    }
    let folder = tempfile::tempdir().unwrap();
    let builder = Postgres::builder(folder.path()).fast().max_connections(200);
    let postgres = builder.start().await.unwrap();
    let url = postgres.create_database("template_migrated").await.unwrap();
    let store = Store::connect(&StoreSettings::new(url)).unwrap();
    store.migrate().await.unwrap();
    store.close().await;
    let server = Arc::new(Server {
        postgres,
        databases: AtomicU32::new(0),
        _folder: folder,
    });
    *shared = Arc::downgrade(&server);
    server
}

/// A database of a test's own.
pub(crate) struct Database {
    pub(crate) store: Store,
    pub(crate) url: String,
    /// For looking at tables past the store.
    pub(crate) sql: PgPool,
    _server: Arc<Server>,
}

impl Database {
    /// With the schema.
    pub(crate) async fn fresh() -> Self {
        Self::make(Some("template_migrated")).await
    }

    /// Without anything.
    pub(crate) async fn empty() -> Self {
        Self::make(None).await
    }

    async fn make(template: Option<&str>) -> Self {
        let server = server().await;
        let name = format!("test_{}", server.databases.fetch_add(1, Ordering::Relaxed));
        let url = match template {
            Some(template) => server.postgres.create_database_from(&name, template).await,
            None => server.postgres.create_database(&name).await,
        };
        let url = url.unwrap();
        let store = Store::connect(&StoreSettings::new(&url)).unwrap();
        Self {
            store,
            sql: one_connection(&url).await,
            url,
            _server: server,
        }
    }

    pub(crate) async fn workspace(&self) -> Uuid {
        let id = Uuid::new_v4();
        let new = NewWorkspace {
            id,
            name: "demo".into(),
            plan: Plan::Enterprise,
            owner_member: Uuid::new_v4(),
            now: NOON,
        };
        self.store
            .create_workspace(&new, &Actor::Operator)
            .await
            .unwrap();
        id
    }

    /// One text per row.
    pub(crate) async fn texts(&self, select: &'static str) -> Vec<String> {
        sqlx::query_scalar(select)
            .fetch_all(&self.sql)
            .await
            .unwrap()
    }

    pub(crate) async fn count(&self, select: &'static str) -> i64 {
        sqlx::query_scalar(select)
            .fetch_one(&self.sql)
            .await
            .unwrap()
    }
}

async fn one_connection(url: &str) -> PgPool {
    PgPoolOptions::new()
        .max_connections(1)
        .connect(url)
        .await
        .unwrap()
}

pub(crate) fn actor() -> Actor {
    Actor::Token("Ab3dEf6hIj9l".into())
}

pub(crate) fn new_webhook(workspace_id: Uuid) -> NewWebhook {
    NewWebhook {
        id: Uuid::new_v4(),
        workspace_id,
        name: "orders".into(),
        endpoint_url: "https://example.com/hook".into(),
        link_ids: Vec::new(),
        triggers: vec!["KIND_EXIT".into()],
        source: WebhookSource::Linkbreakers,
        profile: "standard".into(),
        created_by: Uuid::new_v4(),
        created_by_email: Some("member@a.example".into()),
        secret: SealedSecret {
            key_id: "k1".into(),
            version: 1,
            nonce: vec![1; 24],
            ciphertext: vec![2; 48],
            created_at: NOON,
            expires_at: None,
        },
        status: WebhookStatus::Active,
        status_reason: None,
        options: WebhookOptions::default(),
        extras: Extras::default(),
        asymmetric: None,
        now: NOON,
    }
}

pub(crate) fn facts(
    workspace: Uuid,
    webhook: Uuid,
    event_id: &str,
    created_at: i64,
) -> DeliveryFacts {
    DeliveryFacts {
        delivery_id: ids::delivery_id(workspace, event_id, webhook, created_at),
        webhook_id: webhook,
        workspace_id: workspace,
        event_id: event_id.into(),
        event_type: "step.completed".into(),
        link_id: Some(Uuid::from_u128(77)),
        lbid: "2VqKhjxtKwC7pBbg".into(),
        trigger: Trigger::Event,
        created_at,
        event_seq: 7,
    }
}

pub(crate) fn attempt(number: u32, started_at: i64, outcome: Outcome) -> AttemptRecord {
    let success = outcome == Outcome::Success;
    AttemptRecord {
        number,
        execution_id: Uuid::from_u128(u128::from(number)),
        started_at,
        outcome,
        class: (!success).then_some(FailureClass::Temporary),
        status_code: match outcome {
            Outcome::Success => Some(200),
            Outcome::HttpError => Some(503),
            _ => None,
        },
        timings: Timings {
            total_us: Some(12_000),
            ..Timings::default()
        },
        response_headers: vec![ResponseHeader {
            name: "server".into(),
            value: "test".into(),
        }],
        response_body: Bytes::from_static(b"ok"),
        response_body_truncated: false,
        error: if success {
            String::new()
        } else {
            "no luck".into()
        },
        remote_ip: "192.0.2.1".into(),
        dispatcher: "d-1".into(),
    }
}

/// A report, one second after its attempt began.
pub(crate) fn report(
    delivery: &DeliveryFacts,
    state: DeliveryState,
    attempt: AttemptRecord,
) -> ReportRecord {
    ReportRecord {
        delivery: delivery.clone(),
        state,
        attempts_made: 0,
        next_attempt_at: (state == DeliveryState::Retrying)
            .then_some(attempt.started_at + 30 * SECOND),
        at: attempt.started_at + SECOND,
        attempt: Some(attempt),
        reason: String::new(),
        waits_for: None,
        snapshot: None,
    }
}

pub(crate) fn verdict(delivery: &DeliveryFacts) -> VerdictRecord {
    VerdictRecord {
        workspace_id: delivery.workspace_id,
        event_id: delivery.event_id.clone(),
        event_seq: delivery.event_seq,
        link_id: delivery.link_id,
        lbid: delivery.lbid.clone(),
        event_type: delivery.event_type.clone(),
        step_kind: "KIND_EXIT".into(),
        event_action: "CLIENT_REDIRECT".into(),
        accepted_at: delivery.created_at,
        event_timestamp: delivery.created_at - SECOND,
        renderer_version: 1,
        renditions: vec![
            RenditionRecord {
                profile: "standard".into(),
                head: Bytes::from_static(b"{\"webhook\":"),
                tail: Bytes::from(format!(",\"x\":\"{}\"}}", "y".repeat(900))),
            },
            RenditionRecord {
                profile: "thin".into(),
                head: Bytes::from_static(b"["),
                tail: Bytes::from_static(b"]"),
            },
        ],
        deliveries: vec![VerdictDelivery {
            delivery_id: delivery.delivery_id,
            webhook_id: delivery.webhook_id,
            snapshot: Bytes::from_static(b"{\"id\":1}"),
            rendition: 0,
            held: false,
        }],
    }
}

pub(crate) fn day(micros: i64) -> Day {
    Day::of_micros(micros)
}

/// A generator that is the same on every run.
pub(crate) struct Draw(pub(crate) u64);

impl Draw {
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}
