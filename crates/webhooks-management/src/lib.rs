//! `webhooks-management`: the control plane. Customers configure webhooks here and read what became
//! of their deliveries; dispatchers report here; the data plane learns its configuration from here.
//!
//! ```text
//!  REST  gRPC                 dispatchers ── gRPC Report ──┐      REPORTS, VERDICTS (JetStream)
//!    └──┬──┘                                               ▼                 │
//!   [service]: rules, idempotency ──► Postgres ◄── [background]: history ◄───┘
//!                                        │ outbox
//!                                        ▼
//!                          bucket CONFIG (read model of the data plane)
//! ```
//!
//! Two faces, one service: [`service::Management`] decides, REST and gRPC translate. The data plane
//! never asks this service anything: it reads the buckets CONFIG and STATS, so deliveries go on
//! while this service or Postgres is away. How a change gets there, and when it is answered, stands
//! in [`service`].
//!
//! # Without Postgres or NATS
//! The process stays up and says in readiness what is missing. Without Postgres the API answers 503
//! and consumers wait with their messages unacknowledged; without NATS reading works and changes are
//! refused before anything happened.
//!
//! # What is not guaranteed
//! Rate limits count per process. A revoked token works for up to 5 s. Counters and history follow
//! deliveries by moments, not in the same transaction.

mod auth;
mod background;
mod connections;
mod draft;
mod emails;
mod error;
mod extras;
mod grpc;
mod json;
mod mail;
mod model;
mod names;
pub mod operator;
mod origin;
mod outbox;
mod page;
mod rate;
mod refusal;
pub mod reseal;
mod rest;
mod sample;
mod scopes;
mod secrets;
pub mod service;
mod settings;
mod source_ips;
mod view;
mod violations;
mod words;

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use webhooks_bus::{Bus, ConfigWriter, SteadyClock};
use webhooks_domain::sealing::Keyring;
use webhooks_runtime::{Backoff, Context, OnError, Secret, rate::RateLimiter, tls::GrpcServerTls};
use webhooks_store::Store;

pub use crate::{
    auth::{AccessSettings, Authenticator, Caller},
    draft::{AuthDraft, CertificateDraft, Draft, HeaderDraft, RateDraft, RetryDraft},
    error::{ManagementError, Violation},
    outbox::Outbox,
    page::PageTokens,
    refusal::Refusal,
    settings::{Config, store_settings},
    source_ips::SourceIps,
    violations::Violations,
    words::ShownStatus,
};

use crate::{
    background::{ReportBatcher, Surroundings},
    grpc::Grpc,
    mail::Mailer,
    rest::Rest,
    service::{Management, Parts},
};

/// The service, built and bound, not serving yet.
pub struct Service {
    ctx: Context,
    around: Surroundings,
    management: Management,
    authenticator: Authenticator,
    limiter: Arc<RateLimiter>,
    internal_token: Secret,
    grpc_tls: GrpcServerTls,
    keyring: Keyring,
    retention_days: u32,
    source_ips: Arc<SourceIps>,
    api: TcpListener,
    grpc: TcpListener,
}

impl Service {
    /// Connects (in the background), binds, and announces the addresses as `api` and `grpc`.
    ///
    /// # Errors
    /// A setting cannot be used or an address is taken. That Postgres or NATS is away is no error.
    pub async fn build(config: Config, ctx: &Context) -> anyhow::Result<Self> {
        if config.addresses.is_opened() {
            tracing::warn!(
                "endpoints that are not public are allowed here: for development and private installations only"
            );
        }
        if !config.addresses.knows_itself() {
            tracing::warn!(
                "neither WEBHOOKS_OWN_HOSTS nor WEBHOOKS_OWN_IPS is set, so a webhook may be made that calls this installation itself"
            );
        }
        let store = Store::connect(&config.store).context("cannot use WEBHOOKS_DATABASE_URL")?;
        let bus = Bus::connect(config.bus.clone(), "webhooks-management")
            .await
            .context("cannot use WEBHOOKS_NATS_URL")?;
        let mut steady = ctx.clone();
        SteadyClock::install(&mut steady, &bus);
        let ctx = &steady;
        let keyring = config
            .keyring()
            .context("cannot use WEBHOOKS_ENCRYPTION_KEYS")?;
        let management = Management::new(Parts {
            store: store.clone(),
            bus: bus.clone(),
            keyring: keyring.clone(),
            pages: config.page_tokens(),
            challenges: config.challenge_keys(),
            addresses: config.addresses.clone(),
            clock: Arc::clone(&ctx.clock),
            light_plan_webhooks: config.light_plan_webhooks,
            retention_days: config.retention_days,
        });
        let api = bind(ctx, "api", config.api_address).await?;
        let grpc = bind(ctx, "grpc", config.grpc_address).await?;
        Ok(Self {
            around: Surroundings {
                tail: management.tail_hub().clone(),
                challenges: management.challenges().clone(),
                writer: ConfigWriter::new(&bus),
                store: store.clone(),
                bus,
                clock: Arc::clone(&ctx.clock),
                readiness: ctx.readiness.clone(),
                shutdown: ctx.shutdown.clone(),
                production: config.production,
                mailer: Mailer::new(&config.mail).context("cannot send mails")?,
                dashboard: config.mail.dashboard_url.clone(),
            },
            authenticator: Authenticator::new(store, Arc::clone(&ctx.clock), config.access),
            limiter: Arc::new(RateLimiter::new(config.rates)),
            internal_token: config.internal_token,
            grpc_tls: config.grpc_tls,
            keyring,
            retention_days: config.retention_days,
            source_ips: Arc::new(config.source_ips),
            management,
            api,
            grpc,
            ctx: ctx.clone(),
        })
    }

    /// Serves until shutdown, then finishes what has begun.
    ///
    /// The faces serve from the first moment (and answer 503 for what is not there yet). Readiness
    /// and the consumers wait for the schema and the streams.
    ///
    /// # Errors
    /// The schema or the streams are not what this program needs, or a listener fails.
    pub async fn run(self) -> anyhow::Result<()> {
        let ctx = self.ctx.clone();
        // The pump and the report batcher outlive the faces, whose last calls wait for them.
        let faces_closed = CancellationToken::new();
        let outbox = self.management.outbox().clone();
        let stop = faces_closed.clone();
        ctx.tasks.spawn("outbox", OnError::StopService, async move {
            outbox.run(stop).await;
            anyhow::Ok(())
        });
        let (owed, stop) = (self.management.owed().clone(), faces_closed.clone());
        ctx.tasks.spawn("owed", OnError::StopService, async move {
            owed.run(stop).await;
            anyhow::Ok(())
        });
        // Ends with the faces, for an open tail would hold them for as long as their drain lasts.
        let (tail, stop) = (self.management.tail_hub().clone(), ctx.shutdown.clone());
        ctx.tasks.spawn("tail", OnError::StopService, async move {
            tail.run(stop).await;
            anyhow::Ok(())
        });
        let (batcher, batching) = ReportBatcher::new(
            self.around.store.clone(),
            self.around.tail.clone(),
            self.around.challenges.clone(),
            faces_closed.clone(),
        );
        ctx.tasks.spawn("reports", OnError::StopService, batching);
        let last_uses = self
            .authenticator
            .clone()
            .keep_last_uses(faces_closed.clone());
        ctx.tasks
            .spawn("token_uses", OnError::StopService, async move {
                last_uses.await;
                anyhow::Ok(())
            });
        let resealing = reseal::run(
            self.around.store.clone(),
            self.keyring,
            ctx.readiness.clone(),
            ctx.shutdown.clone(),
        );
        ctx.tasks.spawn("reseal", OnError::Log, async move {
            resealing.await;
            anyhow::Ok(())
        });
        let source_ips = Arc::clone(&self.source_ips);
        let rest = Rest {
            management: self.management.clone(),
            authenticator: self.authenticator.clone(),
            limiter: Arc::clone(&self.limiter),
            clock: Arc::clone(&ctx.clock),
            source_ips: self.source_ips,
        };
        let grpc = Grpc {
            management: self.management.clone(),
            store: self.around.store.clone(),
            authenticator: self.authenticator,
            limiter: self.limiter,
            batcher,
            internal_token: self.internal_token,
            peers: self.grpc_tls.peers(),
            clock: Arc::clone(&ctx.clock),
            source_ips,
        };
        let api = rest::serve(self.api, rest::router(rest), ctx.shutdown.clone());
        let grpc = grpc::serve(
            self.grpc,
            grpc,
            &self.grpc_tls,
            ctx.readiness.clone(),
            ctx.shutdown.clone(),
        );
        let background = begin(&ctx, &self.around, self.retention_days);
        let (api, grpc, background) = (Box::pin(api), Box::pin(grpc), Box::pin(background));
        let ((), served, begun) =
            tokio::join!(api, stopping(&ctx, grpc), stopping(&ctx, background));
        self.management.finish_calls().await;
        faces_closed.cancel();
        self.around.bus.flush().await;
        served.and(begun)
    }
}

/// Runs a part; its failure asks all others to stop.
async fn stopping(
    ctx: &Context,
    part: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let result = part.await;
    if result.is_err() {
        ctx.shutdown.cancel();
    }
    result
}

/// Waits for schema and streams, then starts what works in the background.
async fn begin(ctx: &Context, around: &Surroundings, retention_days: u32) -> anyhow::Result<()> {
    let stop = &ctx.shutdown;
    ctx.readiness.fail("postgres", "not reached yet");
    let schema = schema_checked(around, ctx);
    let Some(checked) = stop.run_until_cancelled(schema).await else {
        return Ok(());
    };
    checked?;
    ctx.readiness.fail("nats", "not reached yet");
    let readiness = ctx.readiness.clone();
    let ready = around
        .bus
        .wait_ready(stop.cancelled(), move |reason| {
            readiness.fail("nats", reason)
        })
        .await;
    if stop.is_cancelled() {
        return Ok(());
    }
    ready.context("NATS is not what this program needs")?;
    background::start(ctx, around, retention_days);
    ctx.started();
    Ok(())
}

/// What the database's role may do that it must not; in production only, and only with the schema that
/// this program was built with.
async fn role_checked(
    around: &Surroundings,
) -> Result<Vec<&'static str>, webhooks_store::StoreError> {
    around.store.check_schema().await?;
    match around.production {
        true => around.store.role_may_too_much().await,
        false => Ok(Vec::new()),
    }
}

/// Waits until Postgres answers and has this program's schema. Migrations come from `webhooks
/// migrate`, which may run a little later than this process: so a wrong schema is waited for too,
/// visibly.
async fn schema_checked(around: &Surroundings, ctx: &Context) -> anyhow::Result<()> {
    let mut failures = 0_u32;
    loop {
        match role_checked(around).await {
            Ok(too_much) if too_much.is_empty() => return Ok(()),
            Ok(too_much) => anyhow::bail!(
                "the role in WEBHOOKS_DATABASE_URL {}: production needs one that `webhooks migrate --app-role` made",
                too_much.join(", ")
            ),
            Err(error) => {
                failures = failures.saturating_add(1);
                let reason = webhooks_runtime::error_chain(&error);
                tracing::warn!(failures, error = reason, "postgres.waiting");
                ctx.readiness.fail("postgres", reason);
                tokio::time::sleep(Backoff::CONNECT.delay(failures, rand::random())).await;
            }
        }
    }
}

async fn bind(ctx: &Context, name: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot bind {name} at {address}"))?;
    ctx.announce(name, listener.local_addr()?)?;
    Ok(listener)
}

/// Builds and runs the service: what `main` and the all-in-one program call.
///
/// # Errors
/// As [`Service::build`] and [`Service::run`].
pub async fn serve(config: Config, ctx: Context) -> anyhow::Result<()> {
    Service::build(config, &ctx).await?.run().await
}
