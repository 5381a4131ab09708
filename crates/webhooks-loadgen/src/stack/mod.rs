//! The whole system as child processes: nats-server, PostgreSQL, and each service as a process of its
//! own, as `webhooks up` runs it, but with every part in the caller's hand, to be killed and started
//! again at will and on the same ports.
//!
//! Nothing is compiled here: the programs are found in a folder. Workspaces and tokens are made by
//! the operators' command line, webhooks through the REST API, so the system is used only as its
//! users use it. Everything below one stack dies with it.

mod access;
mod api;
mod cluster;
mod part;
mod service;
mod usage;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Mutex,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use uuid::Uuid;
use webhooks_bus::{Identities, permissions::Role};
use webhooks_devstack::{
    Course, NatsServer, Postgres, PostgresBuilder, Routes, Signal, SyncInterval, free_port,
};

use self::{access::bus_settings, service::Service};
pub use self::{
    api::{Api, MadeWebhook, NewWebhook},
    part::Part,
    usage::{Usage, processor_time},
};
use crate::check::Held;

/// How long a part may take to be ready after a start.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// The database's name.
const DATABASE: &str = "webhooks";

/// The role that the services are to it.
const APP_ROLE: &str = "webhooks_app";

/// Signing secrets of a stack are sealed with this. It guards nothing; it begins with the word that no
/// log, stream or database may hold (`canary-`).
const ENCRYPTION_KEYS: &str = "loadgen:Y2FuYXJ5LXNlYWxpbmcta2V5LW9mLTMyLWJ5dGVzLSE=";

/// What services of a stack show to each other.
const INTERNAL_TOKEN: &str = "canary-internal-token-of-a-stack";

/// What a stack is to be like.
#[derive(Debug, Clone)]
pub struct StackOptions {
    /// Where the programs are.
    pub bin_dir: PathBuf,
    /// Where data and logs go.
    pub folder: PathBuf,
    /// How many dispatchers share the work.
    pub dispatchers: u16,
    /// When nats-server writes to the disk.
    pub sync: SyncInterval,
    /// Nodes of NATS; with more than one, every stream is on three of them.
    pub nats_nodes: u16,
    /// Settings for every service, `WEBHOOKS_…`.
    pub settings: Vec<(String, String)>,
    /// Variables of one part's process alone.
    pub own_settings: Vec<(Part, String, String)>,
    /// PostgreSQL's own cache in MiB; none leaves it as the test kit has it.
    pub shared_buffers_mb: Option<u32>,
}

impl StackOptions {
    /// One dispatcher, nats-server's own sync interval, no settings.
    #[must_use]
    pub fn new(bin_dir: impl Into<PathBuf>, folder: impl Into<PathBuf>) -> Self {
        Self {
            bin_dir: bin_dir.into(),
            folder: folder.into(),
            dispatchers: 1,
            sync: SyncInterval::ServerDefault,
            nats_nodes: 1,
            settings: Vec::new(),
            own_settings: Vec::new(),
            shared_buffers_mb: None,
        }
    }

    /// PostgreSQL's own cache, in MiB.
    #[must_use]
    pub fn shared_buffers_mb(self, mebibytes: u32) -> Self {
        Self {
            shared_buffers_mb: Some(mebibytes),
            ..self
        }
    }

    fn postgres(&self) -> PostgresBuilder {
        let builder = Postgres::builder(self.folder.join("postgres"));
        match self.shared_buffers_mb {
            Some(mebibytes) => builder.shared_buffers_mb(mebibytes),
            None => builder,
        }
    }

    /// NATS as a cluster of three, with every stream on all of them.
    #[must_use]
    pub fn cluster(self) -> Self {
        let settings = self.setting("WEBHOOKS_NATS_REPLICAS", "3");
        Self {
            nats_nodes: 3,
            ..settings
        }
    }

    /// A variable of one part's process alone.
    #[must_use]
    pub fn own_setting(mut self, part: Part, name: &str, value: &str) -> Self {
        self.own_settings
            .push((part, name.to_owned(), value.to_owned()));
        self
    }

    /// One more setting.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A workspace on the Enterprise plan, with full access to it.
#[derive(Debug, Clone)]
pub struct Workspace {
    /// Its id.
    pub id: Uuid,
    /// A token with every scope.
    pub token: String,
}

/// A running system. Dropping it kills every process.
#[derive(Debug)]
pub struct Stack {
    options: StackOptions,
    /// nats-server; of a cluster, the first node.
    pub nats: NatsServer,
    /// The other nodes of a cluster.
    peers: Vec<NatsServer>,
    routes: Routes,
    /// PostgreSQL.
    pub postgres: Postgres,
    services: BTreeMap<Part, Service>,
    addresses: Addresses,
    /// As the services see the database: what they may not do there, they cannot.
    app_database_url: String,
    identities: Identities,
    /// Workspaces whose publishers nats-server knows and that are not made yet.
    free_workspaces: Mutex<Vec<Uuid>>,
}

/// Workspaces a stack may have: nats-server learns their publishers when it starts.
const WORKSPACES: usize = 64;

/// Addresses that last as long as the stack.
#[derive(Debug, Clone)]
struct Addresses {
    api: u16,
    grpc: u16,
    ingest: u16,
    ingest_grpc: u16,
}

impl Stack {
    /// Starts everything and waits until all parts are ready.
    ///
    /// # Errors
    /// A program is missing or does not become ready; the message ends with its log.
    pub async fn start(options: StackOptions) -> anyhow::Result<Self> {
        let (identities, users, workspaces) = Self::begin(&options)?;
        let postgres = options.postgres();
        let (nats, postgres) =
            tokio::try_join!(cluster::start(&options, &users), postgres.start())?;
        let mut stack = Self::with(options, nats, postgres, identities, workspaces)?;
        stack.migrate().await?;
        for part in stack.start_services()? {
            stack.wait_ready(part).await?;
        }
        Ok(stack)
    }

    /// Makes everything ready to be started and starts nothing: [`start_services`](Self::start_services),
    /// [`revive`](Self::revive) of the two servers and [`migrate`](Self::migrate) may follow in any
    /// order. One node of NATS.
    ///
    /// # Errors
    /// A program is missing, or the folder cannot be written.
    pub async fn prepare(options: StackOptions) -> anyhow::Result<Self> {
        let (identities, users, workspaces) = Self::begin(&options)?;
        let nats = cluster::prepare(&options, &users).await?;
        let postgres = options.postgres();
        let postgres = postgres.prepare().await?;
        Self::with(options, nats, postgres, identities, workspaces)
    }

    /// Looks for the programs and makes the users of NATS: the identities, the server's part of its
    /// configuration, and workspaces whose publishers are among the users.
    fn begin(options: &StackOptions) -> anyhow::Result<(Identities, String, Vec<Uuid>)> {
        ensure!(
            options.bin_dir.join("webhooks").is_file(),
            "{} holds no programs: run `make build` (or `make build PROFILE=release`) first",
            options.bin_dir.display()
        );
        std::fs::create_dir_all(&options.folder)
            .with_context(|| format!("cannot create {}", options.folder.display()))?;
        // Every process is a user of its own, as in production.
        let identities = Identities::open(options.folder.join("identities"))?;
        let workspaces: Vec<Uuid> = (0..WORKSPACES).map(|_| Uuid::new_v4()).collect();
        let shards = bus_settings(options)?.shards();
        let users = identities.server_config(&workspaces, shards)?;
        Ok((identities, users, workspaces))
    }

    fn with(
        options: StackOptions,
        (nats, peers, routes): (NatsServer, Vec<NatsServer>, Routes),
        postgres: Postgres,
        identities: Identities,
        free_workspaces: Vec<Uuid>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            options,
            app_database_url: postgres.role_url(APP_ROLE, DATABASE),
            nats,
            peers,
            routes,
            postgres,
            services: BTreeMap::new(),
            addresses: Addresses {
                api: free_port()?,
                grpc: free_port()?,
                ingest: free_port()?,
                ingest_grpc: free_port()?,
            },
            identities,
            free_workspaces: Mutex::new(free_workspaces),
        })
    }

    /// Makes the database, the services' role, the schema and the streams, where they are missing.
    ///
    /// # Errors
    /// A server is down, or `webhooks migrate` fails.
    pub async fn migrate(&self) -> anyhow::Result<()> {
        self.postgres.ensure_database(DATABASE).await?;
        self.postgres.ensure_role(APP_ROLE, DATABASE).await?;
        let migrated = self.operate(&["migrate", "--app-role", APP_ROLE]);
        migrated.await.context("`webhooks migrate` failed")?;
        Ok(())
    }

    /// Starts every service and waits for none; gives which.
    ///
    /// # Errors
    /// A program is missing, or there is no free port.
    pub fn start_services(&mut self) -> anyhow::Result<Vec<Part>> {
        let dispatchers = (1..=self.options.dispatchers).map(Part::Dispatcher);
        let parts: Vec<Part> = [Part::Management, Part::Ingest, Part::Fanout]
            .into_iter()
            .chain(dispatchers)
            .collect();
        for part in &parts {
            self.add(*part)?;
        }
        Ok(parts)
    }

    /// Starts a service that is not there yet: one more dispatcher.
    ///
    /// # Errors
    /// Its program is missing, or there is no free port for it.
    pub fn add(&mut self, part: Part) -> anyhow::Result<()> {
        let loopback = |port: u16| format!("127.0.0.1:{port}");
        let admin = free_port()?;
        let mut settings: Vec<(String, String)> = vec![
            ("WEBHOOKS_ADMIN_ADDR".to_owned(), loopback(admin)),
            ("WEBHOOKS_NATS_URL".to_owned(), self.nats_url()),
            self.seed_setting(
                part.role()
                    .with_context(|| format!("{part} is no service"))?,
            )?,
            (
                "WEBHOOKS_ENCRYPTION_KEYS".to_owned(),
                ENCRYPTION_KEYS.to_owned(),
            ),
            (
                "WEBHOOKS_INTERNAL_TOKEN".to_owned(),
                INTERNAL_TOKEN.to_owned(),
            ),
            ("WEBHOOKS_EGRESS_ALLOW_HTTP".to_owned(), "true".to_owned()),
            (
                "WEBHOOKS_EGRESS_ALLOW_CIDRS".to_owned(),
                "127.0.0.0/8".to_owned(),
            ),
            ("WEBHOOKS_RATE_LIMIT".to_owned(), "10000000".to_owned()),
        ];
        let mut own = |name: &str, value: String| settings.push((name.to_owned(), value));
        match part {
            Part::Management => {
                own("WEBHOOKS_DATABASE_URL", self.app_database_url.clone());
                own("WEBHOOKS_API_ADDR", loopback(self.addresses.api));
                own("WEBHOOKS_GRPC_ADDR", loopback(self.addresses.grpc));
            }
            Part::Ingest => {
                own("WEBHOOKS_INGEST_HTTP_ADDR", loopback(self.addresses.ingest));
                own(
                    "WEBHOOKS_INGEST_GRPC_ADDR",
                    loopback(self.addresses.ingest_grpc),
                );
            }
            Part::Dispatcher(_) => own(
                "WEBHOOKS_MANAGEMENT_GRPC_URL",
                format!("http://127.0.0.1:{}", self.addresses.grpc),
            ),
            Part::Fanout => {}
            Part::Nats | Part::NatsPeer(_) | Part::Postgres => bail!("{part} is no service"),
        }
        settings.extend(self.options.settings.iter().cloned());
        let of_part = self.options.own_settings.iter();
        settings.extend(
            of_part
                .filter(|(whose, _, _)| *whose == part)
                .map(|(_, name, value)| (name.clone(), value.clone())),
        );
        let log = self.options.folder.join(format!("{part}.log"));
        let program = self.options.bin_dir.join(part.program());
        self.services
            .insert(part, Service::start(part, program, log, settings, admin)?);
        Ok(())
    }

    /// Waits until a part is ready.
    ///
    /// # Errors
    /// It is not within a minute; the message ends with its log.
    pub async fn wait_ready(&self, part: Part) -> anyhow::Result<()> {
        match part {
            Part::Nats => self.nats.wait_healthy(READY_LIMIT).await,
            Part::NatsPeer(number) => self.peer(number)?.wait_healthy(READY_LIMIT).await,
            Part::Postgres => self.postgres.wait_accepting(READY_LIMIT).await,
            service => self.service(service)?.wait_ready(READY_LIMIT).await,
        }
    }

    /// SIGKILL; it stays dead until [`revive`](Self::revive).
    ///
    /// # Errors
    /// There is no such part, or the system refuses.
    pub async fn kill(&mut self, part: Part) -> anyhow::Result<()> {
        match part {
            Part::Nats => self.nats.kill().await,
            Part::NatsPeer(number) => self.peer_mut(number)?.kill().await,
            Part::Postgres => self.postgres.kill().await,
            service => self.service_mut(service)?.kill().await,
        }
    }

    /// SIGTERM, and waits for the drain.
    ///
    /// # Errors
    /// There is no such part, or the system refuses.
    pub async fn stop(&mut self, part: Part) -> anyhow::Result<()> {
        match part {
            Part::Nats => self.nats.stop().await,
            Part::NatsPeer(number) => self.peer_mut(number)?.stop().await,
            Part::Postgres => self.postgres.stop().await,
            service => self.service_mut(service)?.stop().await,
        }
    }

    /// Starts a dead part again, with its ports and data. A service is not waited for.
    ///
    /// # Errors
    /// There is no such part, it runs, or it does not start.
    pub async fn revive(&mut self, part: Part) -> anyhow::Result<()> {
        match part {
            Part::Nats => self.nats.start().await,
            Part::NatsPeer(number) => self.peer_mut(number)?.start().await,
            Part::Postgres => self.postgres.start().await,
            service => self.service_mut(service)?.revive(),
        }
    }

    /// Sends a signal to a part (to PostgreSQL: to all of its processes); [`Signal::STOP`] freezes it
    /// and [`Signal::CONT`] lets it go on.
    ///
    /// # Errors
    /// There is no such part, it does not run, or the system refuses.
    pub fn signal(&self, part: Part, signal: Signal) -> anyhow::Result<()> {
        let told = match part {
            Part::Nats => self.nats.signal(signal)?,
            Part::NatsPeer(number) => self.peer(number)?.signal(signal)?,
            Part::Postgres => self.postgres.signal(signal)?,
            service => self.service(service)?.signal(signal)?,
        };
        ensure!(told, "{part} does not run");
        Ok(())
    }

    /// The process id of a part while it runs.
    #[must_use]
    pub fn pid(&self, part: Part) -> Option<u32> {
        match self.services.get(&part) {
            Some(service) => service.pid(),
            None => self.servers().find(|(server, _)| *server == part)?.1,
        }
    }

    /// Changes a setting for operators' commands and for services that are added from now on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.options
            .settings
            .push((name.to_owned(), value.to_owned()));
    }

    /// Where NATS is: every node, comma separated.
    #[must_use]
    pub fn nats_url(&self) -> String {
        let nodes = std::iter::once(&self.nats).chain(&self.peers);
        nodes.map(NatsServer::url).collect::<Vec<_>>().join(",")
    }

    /// What becomes of everything that is sent between a node of NATS and the other nodes; its clients
    /// keep it. Nothing where there is one node.
    pub fn set_line(&self, node: Part, course: Course) {
        match node {
            Part::Nats => self.routes.set(0, course),
            Part::NatsPeer(number) => self.routes.set(usize::from(number) - 1, course),
            _ => {}
        }
    }

    /// Where a service's admin port is.
    ///
    /// # Errors
    /// There is no such service.
    pub fn admin_url(&self, part: Part) -> anyhow::Result<&str> {
        Ok(self.service(part)?.admin_url())
    }

    /// Stops everything politely, whoever takes work first.
    ///
    /// # Errors
    /// The system refuses.
    pub async fn stop_all(mut self) -> anyhow::Result<()> {
        self.note_signing_keys().await?;
        let order = |part: &Part| match part {
            Part::Ingest => 0,
            Part::Fanout => 1,
            Part::Dispatcher(_) => 2,
            _ => 3,
        };
        let mut parts: Vec<Part> = self.services.keys().copied().collect();
        parts.sort_by_key(order);
        let servers = self.servers().map(|(part, _)| part);
        let servers: Vec<Part> = servers.collect();
        for part in parts.into_iter().chain(servers) {
            self.stop(part).await?;
        }
        Ok(())
    }

    /// Processor time and memory of every process of the stack at this moment.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let services = self
            .services
            .iter()
            .map(|(part, service)| (*part, service.pid()));
        Usage::of(
            services
                .chain(self.servers())
                .filter_map(|(part, pid)| Some((part, pid?))),
        )
    }

    /// What each service that runs holds at this moment.
    #[must_use]
    pub fn held(&self) -> Vec<(Part, Held)> {
        let services = self.services.iter();
        services
            .filter_map(|(part, service)| Some((*part, usage::held(service.pid()?)?)))
            .collect()
    }

    /// What a service tells a collector of metrics.
    ///
    /// # Errors
    /// There is no such service, or it does not answer.
    pub async fn metrics(&self, part: Part) -> anyhow::Result<String> {
        self.service(part)?.metrics().await
    }

    /// The services that were started, and the two servers.
    #[must_use]
    pub fn parts(&self) -> Vec<Part> {
        self.services
            .keys()
            .copied()
            .chain(self.servers().map(|(part, _)| part))
            .collect()
    }

    /// Parts that do not run at this moment.
    #[must_use]
    pub fn dead(&self) -> Vec<Part> {
        let services = self
            .services
            .iter()
            .map(|(part, service)| (*part, service.pid()));
        services
            .chain(self.servers())
            .filter(|(_, pid)| pid.is_none())
            .map(|(part, _)| part)
            .collect()
    }

    /// Where data and logs are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.options.folder
    }

    /// The variable that makes a process this user of NATS.
    fn seed_setting(&self, role: Role) -> anyhow::Result<(String, String)> {
        let file = self.identities.seed_file(role)?;
        Ok((
            "WEBHOOKS_NATS_NKEY_SEED_FILE".to_owned(),
            file.display().to_string(),
        ))
    }

    /// The servers with their process ids while they run.
    fn servers(&self) -> impl Iterator<Item = (Part, Option<u32>)> + '_ {
        let peers = (2..).zip(&self.peers);
        std::iter::once((Part::Nats, self.nats.pid()))
            .chain(peers.map(|(number, node)| (Part::NatsPeer(number), node.pid())))
            .chain([(Part::Postgres, self.postgres.pid())])
    }

    fn peer(&self, number: u16) -> anyhow::Result<&NatsServer> {
        let index = usize::from(number).checked_sub(2);
        index
            .and_then(|index| self.peers.get(index))
            .with_context(|| format!("there is no node {number} of NATS"))
    }

    fn peer_mut(&mut self, number: u16) -> anyhow::Result<&mut NatsServer> {
        let index = usize::from(number).checked_sub(2);
        index
            .and_then(|index| self.peers.get_mut(index))
            .with_context(|| format!("there is no node {number} of NATS"))
    }

    fn service(&self, part: Part) -> anyhow::Result<&Service> {
        self.services
            .get(&part)
            .with_context(|| format!("there is no {part}"))
    }

    fn service_mut(&mut self, part: Part) -> anyhow::Result<&mut Service> {
        self.services
            .get_mut(&part)
            .with_context(|| format!("there is no {part}"))
    }
}
