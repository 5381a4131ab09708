//! Putting the doors together, and taking them apart in order.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{service::interceptor::InterceptedService, transport::Server};
use webhooks_bus::{Bus, BusError, ConfigMirror, SteadyClock, Vitals};
use webhooks_proto::{FILE_DESCRIPTOR_SET, v1::event_service_server::EventServiceServer};
use webhooks_runtime::{Context, connections::incoming, tls::GrpcServerTls};

use crate::{
    accept::Acceptor,
    auth::{Callers, Gate, TokenDirectory},
    budget::{Budgeted, budget_of},
    config::Config,
    connections::{at_most, bind, drain, serve_http},
    grpc::{Doorkeeper, GrpcDoor},
    http::HttpDoor,
    intake::Intake,
};

/// Longest time of one gRPC call, a whole stream of events included.
pub const GRPC_CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Calls that one gRPC connection may have open.
pub const GRPC_CALLS_PER_CONNECTION: u32 = 256;

/// `EventService` behind its door.
type EventDoor = InterceptedService<Budgeted<EventServiceServer<GrpcDoor>>, Doorkeeper>;

/// How long after an unacknowledged publish ingest says that it is not ready.
const FAILING_FOR: Duration = Duration::from_secs(15);

/// The full name of the service, for reflection and health.
const SERVICE: &str = "linkbreakers.webhooks.v1.EventService";

/// Why ingest cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// NATS cannot be used as it is set.
    #[error("the bus cannot be used")]
    Bus(#[from] BusError),
    /// A port is taken.
    #[error("cannot bind {address} for {name}")]
    Bind {
        /// Which door.
        name: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file of addresses cannot be written.
    #[error("cannot announce an address")]
    Announce(#[source] io::Error),
    /// Reflection cannot be set up.
    #[error("gRPC reflection cannot be set up")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The gRPC server failed.
    #[error("the gRPC server failed")]
    Grpc(#[from] tonic::transport::Error),
}

/// Ingest, bound and about to serve.
pub struct Ingest {
    config: Config,
    bus: Bus,
    http: (TcpListener, SocketAddr),
    grpc: (TcpListener, SocketAddr),
}

impl Ingest {
    /// Binds the ports and starts to connect; does not wait for NATS, so that callers get a clear
    /// 503 while it is away.
    ///
    /// # Errors
    /// A port is taken, an address cannot be announced, or the NATS settings cannot be used.
    pub async fn build(config: Config, ctx: &Context) -> Result<Self, IngestError> {
        let bus = Bus::connect(config.bus.clone(), "webhooks-ingest").await?;
        let http = open(ctx, "http", config.http_address).await?;
        let grpc = open(ctx, "grpc", config.grpc_address).await?;
        Ok(Self {
            config,
            bus,
            http,
            grpc,
        })
    }

    /// Where HTTP is served.
    #[must_use]
    pub fn http_address(&self) -> SocketAddr {
        self.http.1
    }

    /// Where gRPC is served.
    #[must_use]
    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc.1
    }

    /// Serves until the context's shutdown, then finishes what is in hand: first the doors close,
    /// then the tokens are no longer followed, then what NATS has not been sent yet is sent.
    ///
    /// # Errors
    /// When the gRPC server cannot go on.
    pub async fn run(self, mut ctx: Context) -> Result<(), IngestError> {
        let Self {
            config,
            bus,
            http,
            grpc,
        } = self;
        SteadyClock::install(&mut ctx, &bus);
        let drained = CancellationToken::new();
        let tokens = Arc::new(TokenDirectory::default());
        let mirror = ConfigMirror::start(&bus, tokens.clone(), drained.clone());
        let acceptor = Acceptor::new(bus.clone(), ctx.clock.clone(), config.accept.clone());
        let budget = budget_of(config.body_memory);
        let gate = Gate {
            tokens,
            mirror: mirror.clone(),
            clock: ctx.clock.clone(),
            callers: Arc::new(Callers::new(config.callers)),
        };
        let router = HttpDoor::new(gate.clone(), acceptor.clone(), budget.clone()).router();
        let intake = Intake {
            bus: bus.clone(),
            acceptor: acceptor.clone(),
            clock: ctx.clock.clone(),
            concurrency: config.intake_concurrency,
        };
        let most = config.max_connections;
        let tls = config.grpc_tls;
        let drain = drain(config.accept.publish_timeout);
        let doors = async {
            let grpc_door = async {
                let door = GrpcDoor::new(acceptor.clone());
                let events = Budgeted::new(door.server(), budget);
                let events = InterceptedService::new(events, Doorkeeper(gate));
                let ended = Box::pin(serve_grpc(grpc.0, most, &tls, events, drain, &ctx)).await;
                // One door does not stay open without the other.
                ctx.shutdown.cancel();
                ended
            };
            let (grpc_ended, (), ()) = tokio::join!(
                grpc_door,
                Box::pin(serve_http(
                    http.0,
                    most,
                    router,
                    drain,
                    ctx.shutdown.clone()
                )),
                Box::pin(intake.run(ctx.shutdown.clone())),
            );
            drained.cancel();
            grpc_ended
        };
        ctx.started();
        let vitals = Vitals::new(&bus, &ctx.readiness).with_config(mirror);
        let watching = vitals.watch(drained.clone(), |readiness| {
            if acceptor.is_failing(FAILING_FOR) {
                readiness.fail("events", "publishes are not acknowledged");
            } else {
                readiness.ok("events");
            }
            match acceptor.held_back() {
                Some(reason) => readiness.fail("retries", reason),
                None => readiness.ok("retries"),
            }
        });
        let filling = webhooks_bus::watch_fill(&bus, drained.clone(), |full| {
            acceptor.hold_back(full);
        });
        let (result, (), ()) = tokio::join!(Box::pin(doors), Box::pin(watching), Box::pin(filling));
        bus.flush().await;
        result
    }
}

async fn open(
    ctx: &Context,
    name: &'static str,
    address: SocketAddr,
) -> Result<(TcpListener, SocketAddr), IngestError> {
    let bound = bind(address).await.map_err(|source| IngestError::Bind {
        name,
        address,
        source,
    })?;
    ctx.announce(name, bound.1).map_err(IngestError::Announce)?;
    Ok(bound)
}

async fn serve_grpc(
    listener: TcpListener,
    most: usize,
    tls: &GrpcServerTls,
    events: EventDoor,
    drain: Duration,
    ctx: &Context,
) -> Result<(), IngestError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name(SERVICE)
            .with_service_name("grpc.health.v1.Health")
    };
    let server = tls
        .apply(Server::builder())?
        .timeout(GRPC_CALL_TIMEOUT)
        .max_concurrent_streams(GRPC_CALLS_PER_CONNECTION)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .add_service(events)
        .serve_with_incoming_shutdown(
            incoming(listener, at_most(most)),
            ctx.shutdown.clone().cancelled_owned(),
        );
    let mut readiness = ctx.readiness.subscribe();
    let reporting = async {
        loop {
            let ready = readiness.borrow_and_update().is_ready();
            let status = if ready {
                tonic_health::ServingStatus::Serving
            } else {
                tonic_health::ServingStatus::NotServing
            };
            for name in ["", SERVICE] {
                health.set_service_status(name, status).await;
            }
            if readiness.changed().await.is_err() {
                return std::future::pending::<()>().await;
            }
        }
    };
    // A health watch never ends by itself, and would hold the drain for ever.
    let deadline = async {
        ctx.shutdown.cancelled().await;
        tokio::time::sleep(drain).await;
    };
    tokio::select! {
        ended = Box::pin(server) => ended?,
        () = reporting => {}
        () = deadline => tracing::info!("grpc.open_calls_cut"),
    }
    Ok(())
}
