//! The connection.

use std::{
    future::Future,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_nats::{Client, ConnectOptions, Event, ServerAddr, connection::State, jetstream};
use tokio::sync::watch;

use crate::{
    elsewhere::Choice,
    error::{BusError, unavailable},
    permissions,
    publish::Batcher,
    settings::BusSettings,
};

/// How long a request to JetStream may take.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the client's own task may take to say what it knows.
const ASKED_WITHIN: Duration = Duration::from_secs(1);

/// Messages the client queues while it writes or reconnects. Never to be reached ([`crate::flow`]):
/// room for all publishes at their limit, and three times as many acknowledgements and other requests.
/// It costs memory only as far as it is used.
pub(crate) const CLIENT_CAPACITY: usize = 65_536;

/// A connection to NATS. Cheap to clone.
#[derive(Clone)]
pub struct Bus {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    settings: BusSettings,
    client: Client,
    jetstream: jetstream::Context,
    pub(crate) batcher: Batcher,
    /// How often a connection was made.
    connections: watch::Sender<u64>,
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bus")
            .field("connected", &self.is_connected())
            .finish_non_exhaustive()
    }
}

/// Who we are, and over what we say it.
fn authenticate(
    mut options: ConnectOptions,
    settings: &BusSettings,
) -> Result<ConnectOptions, BusError> {
    let wrong = |error: String| BusError::Settings(error);
    if let Some(seed) = &settings.nkey_seed {
        let seed = seed.expose().trim();
        let public = permissions::public_key(seed).map_err(|error| wrong(error.to_string()))?;
        options = options
            .nkey(seed.to_owned())
            .custom_inbox_prefix(permissions::inbox_prefix(&public));
    } else if let Some(first) = settings.url.split(',').next() {
        // The client reads no name and password from an address by itself.
        let address: ServerAddr = first
            .trim()
            .parse()
            .map_err(|_| wrong("WEBHOOKS_NATS_URL is no address of NATS".to_owned()))?;
        if let (Some(user), Some(password)) = (address.username(), address.password()) {
            options = options.user_and_password(user.to_owned(), password.to_owned());
        }
    }
    // One address that asks for it asks for all: servers tell of others by bare addresses.
    let asked = settings.tls
        || settings
            .url
            .split(',')
            .any(|url| url.trim().starts_with("tls://"));
    if asked || settings.tls_ca.is_some() || settings.tls_identity.is_some() {
        options = options.require_tls(true);
    }
    // Files are read at each connection: a renewed certificate is taken up by the next one.
    if let Some(file) = &settings.tls_ca {
        options = options.add_root_certificates(file.clone());
    }
    if let Some((certificate, key)) = &settings.tls_identity {
        options = options.add_client_certificate(certificate.clone(), key.clone());
    }
    Ok(options)
}

/// Tells of what happened to a connection.
async fn tell(event: Event) {
    match event {
        // A subject that this user may not use: the table of permissions lacks it.
        Event::ServerError(error) => {
            metrics::counter!("webhooks_nats_refusals_total").increment(1);
            tracing::error!(nats.error = %error, "nats.refused");
        }
        event => tracing::info!(nats.event = %event, "nats.connection"),
    }
}

impl Bus {
    /// Starts to connect and returns at once: NATS may come later, and may go and come back.
    ///
    /// # Errors
    /// [`BusError::Settings`] for an address or credential that cannot be used.
    pub async fn connect(settings: BusSettings, client_name: &str) -> Result<Self, BusError> {
        let connections = watch::Sender::new(0);
        let made = connections.clone();
        let choice = Choice::default();
        let mut options = ConnectOptions::new()
            .name(client_name)
            .retry_on_initial_connect()
            .connection_timeout(Duration::from_secs(5))
            .request_timeout(Some(REQUEST_TIMEOUT))
            // The third one that falls due unanswered gives the connection up: 15 s of silence, during
            // which a server that was merely paused may come back.
            .ping_interval(Duration::from_secs(5))
            .client_capacity(CLIENT_CAPACITY)
            // Short: an outage of ours should end when the server is back.
            .reconnect_delay_callback(|attempts| {
                Duration::from_millis(match attempts {
                    0 | 1 => 10,
                    2..=20 => 100,
                    _ => 500,
                })
            })
            .reconnect_to_server_callback(move |known, _| {
                std::future::ready(choice.next(&known, rand::random()))
            })
            .event_callback(move |event| {
                if matches!(event, Event::Connected) {
                    made.send_modify(|count| *count += 1);
                }
                tell(event)
            });
        if let Some(credentials) = settings
            .credentials
            .as_deref()
            .filter(|text| !text.is_empty())
        {
            options = options
                .credentials(credentials)
                .map_err(|error| BusError::Settings(error.to_string()))?;
        }
        options = authenticate(options, &settings)?;
        let servers: Vec<&str> = settings.url.split(',').map(str::trim).collect();
        let client = async_nats::connect_with_options(servers, options)
            .await
            .map_err(|error| BusError::Settings(error.to_string()))?;
        let jetstream = jetstream::context::ContextBuilder::new()
            .timeout(REQUEST_TIMEOUT)
            .build(client.clone());
        let batcher = Batcher::new(client.clone(), settings.batching);
        Ok(Self {
            inner: Arc::new(Inner {
                settings,
                client,
                jetstream,
                batcher,
                connections,
            }),
        })
    }

    /// Counts the connections made: what a server kept in memory for the one before may be gone.
    pub(crate) fn connections(&self) -> watch::Receiver<u64> {
        self.inner.connections.subscribe()
    }

    /// Whether the connection stands at this moment.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.inner.client.connection_state() == State::Connected
    }

    /// Leaves the server for another one, because JetStream does not answer there. Nothing happens where no
    /// other one is known, and where the connection has gone meanwhile.
    pub(crate) async fn go_elsewhere(&self) {
        // The client answers by itself, but not while it connects.
        let known = tokio::time::timeout(ASKED_WITHIN, self.inner.client.server_pool()).await;
        let has_others = known.is_ok_and(|known| known.is_ok_and(|known| known.len() > 1));
        if !has_others || !self.is_connected() {
            return;
        }
        metrics::counter!("webhooks_nats_moves_total").increment(1);
        tracing::warn!("nats.left: JetStream does not answer there");
        if let Err(error) = self.inner.client.force_reconnect().await {
            tracing::error!(%error, "the NATS client has ended");
        }
    }

    /// How many bytes have come from servers since the start, of whatever kind.
    pub(crate) fn received_bytes(&self) -> u64 {
        let statistics = self.inner.client.statistics();
        statistics.in_bytes.load(Ordering::Relaxed)
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> &BusSettings {
        &self.inner.settings
    }

    /// The client.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.inner.client
    }

    /// The JetStream context.
    #[must_use]
    pub fn jetstream(&self) -> &jetstream::Context {
        &self.inner.jetstream
    }

    /// A bucket, which has to be there.
    pub(crate) async fn bucket(&self, name: &str) -> Result<jetstream::kv::Store, BusError> {
        let found = self.inner.jetstream.get_key_value(name).await;
        found.map_err(unavailable)
    }

    /// Waits until NATS is there with every stream as it must be. `note` is told what is missing,
    /// each time anew.
    ///
    /// # Errors
    /// Never gives up on an absent server or missing stream; ends early with
    /// [`BusError::Unavailable`] when `cancelled` resolves.
    pub async fn wait_ready(
        &self,
        cancelled: impl Future<Output = ()>,
        mut note: impl FnMut(String),
    ) -> Result<(), BusError> {
        tokio::pin!(cancelled);
        loop {
            let verdict = if self.is_connected() {
                self.verify_topology().await
            } else {
                Err(BusError::Unavailable("not connected".to_owned()))
            };
            match verdict {
                Ok(()) => return Ok(()),
                Err(error) => note(error.to_string()),
            }
            tokio::select! {
                () = &mut cancelled => return Err(BusError::Unavailable("stopped while waiting".to_owned())),
                () = tokio::time::sleep(Duration::from_millis(250)) => {}
            }
        }
    }

    /// Writes out what the client has buffered. Call it before the process ends: acknowledgements
    /// are buffered too.
    pub async fn flush(&self) {
        let flushed = tokio::time::timeout(REQUEST_TIMEOUT, self.inner.client.flush()).await;
        if !matches!(flushed, Ok(Ok(()))) {
            tracing::warn!("nats flush did not finish");
        }
    }
}
