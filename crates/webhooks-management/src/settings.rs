//! Settings of the management service.

use std::{net::SocketAddr, time::Duration};

use webhooks_bus::BusSettings;
use webhooks_domain::{challenge::ChallengeKeys, endpoint::AddressPolicy, sealing::Keyring};
use webhooks_egress::PolicySettings;
use webhooks_runtime::{
    Env, Secret, Settings, callers::CallerSettings, rate::RateLimits, settings::Address,
    tls::GrpcServerTls,
};
use webhooks_store::StoreSettings;

use crate::{auth::AccessSettings, mail::MailSettings, page::PageTokens, source_ips::SourceIps};

/// Shortest internal token, in bytes: it is a shared secret and nobody types it.
const MIN_INTERNAL_TOKEN_BYTES: usize = 16;

/// Shortest operator token, in bytes: it opens every workspace.
const MIN_OPERATOR_TOKEN_BYTES: usize = 32;

/// What the service is told by the environment.
#[derive(Debug, Clone)]
pub struct Config {
    /// Whether what is for development is refused.
    pub production: bool,
    /// Where REST is served.
    pub api_address: SocketAddr,
    /// Where gRPC is served.
    pub grpc_address: SocketAddr,
    /// How to reach Postgres.
    pub store: StoreSettings,
    /// How to reach NATS.
    pub bus: BusSettings,
    /// Which endpoints may be named.
    pub addresses: AddressPolicy,
    /// The keys that secrets are sealed with, as text.
    pub encryption_keys: Secret,
    /// What dispatchers show to report.
    pub internal_token: Secret,
    /// How gRPC is encrypted and which services may report.
    pub grpc_tls: GrpcServerTls,
    /// Who gets in.
    pub access: AccessSettings,
    /// How many calls are allowed.
    pub rates: RateLimits,
    /// How people are told.
    pub mail: MailSettings,
    /// Webhooks on the Light plan.
    pub light_plan_webhooks: u32,
    /// How long history is kept, in days.
    pub retention_days: u32,
    /// Where requests come from, for receivers' firewalls.
    pub source_ips: SourceIps,
}

impl Settings for Config {
    fn read(env: &mut Env) -> Self {
        let rates = RateLimits::default();
        let config = Self {
            production: env.is_production(),
            api_address: env.socket_addr(
                "WEBHOOKS_API_ADDR",
                "127.0.0.1:0",
                "address of the REST API; port 0 takes a free one",
            ),
            grpc_address: env.socket_addr(
                "WEBHOOKS_GRPC_ADDR",
                "127.0.0.1:0",
                "address of management's gRPC; port 0 takes a free one",
            ),
            store: store_settings(env),
            bus: BusSettings::read(env),
            addresses: PolicySettings::read(env).0,
            encryption_keys: env.secret(
                "WEBHOOKS_ENCRYPTION_KEYS",
                "keys that signing secrets are sealed with, `id:base64[,id:base64…]`, 32 bytes each; the first seals, all open",
            ),
            internal_token: env.secret(
                "WEBHOOKS_INTERNAL_TOKEN",
                "what dispatchers show to report attempts; the same at both, at least 16 bytes",
            ),
            grpc_tls: GrpcServerTls::read(env),
            access: AccessSettings {
                operator_token: env.optional_secret(
                    "WEBHOOKS_OPERATOR_TOKEN",
                    "opens the operators' API, at least 32 bytes; without it nobody is let in there",
                ),
                callers: CallerSettings::read(env),
            },
            rates: RateLimits {
                per_token: env.ranged("WEBHOOKS_RATE_LIMIT", rates.per_token, 1..=10_000_000, "API calls a token may make in a window, at each process of management"),
                per_address: env.ranged(
                    "WEBHOOKS_RATE_LIMIT_ANONYMOUS",
                    rates.per_address,
                    1..=10_000_000,
                    "API calls without a valid token that an address may make in a window, at each process of management",
                ),
                window: env.duration_ranged(
                    "WEBHOOKS_RATE_WINDOW",
                    "60s",
                    Duration::from_secs(1)..=Duration::from_secs(3_600),
                    "length of the window of API rate limits",
                ),
            },
            mail: MailSettings::read(env),
            light_plan_webhooks: env.ranged("WEBHOOKS_PLAN_LIGHT_WEBHOOKS", 1, 0..=100_000, "webhooks on the Light plan"),
            retention_days: env.ranged("WEBHOOKS_HISTORY_RETENTION_DAYS", 30, 1..=3_650, "days that events, deliveries and attempts are kept"),
            source_ips: SourceIps::read(env),
        };
        if !config.encryption_keys.expose().is_empty()
            && let Err(error) = Keyring::parse(config.encryption_keys.expose())
        {
            env.problem("WEBHOOKS_ENCRYPTION_KEYS", error);
        }
        let operator = config.access.operator_token.as_ref().map(Secret::expose);
        if operator.is_some_and(|token| token.len() < MIN_OPERATOR_TOKEN_BYTES) {
            env.problem(
                "WEBHOOKS_OPERATOR_TOKEN",
                format!("has fewer than {MIN_OPERATOR_TOKEN_BYTES} bytes"),
            );
        }
        let token = config.internal_token.expose();
        if !token.is_empty() && token.len() < MIN_INTERNAL_TOKEN_BYTES {
            env.problem(
                "WEBHOOKS_INTERNAL_TOKEN",
                format!("has fewer than {MIN_INTERNAL_TOKEN_BYTES} bytes"),
            );
        }
        config
    }
}

impl Config {
    /// The keyring. Read at start already, so it is there.
    ///
    /// # Errors
    /// The setting was changed by hand to something unreadable.
    pub fn keyring(&self) -> Result<Keyring, webhooks_domain::sealing::SealError> {
        Keyring::parse(self.encryption_keys.expose())
    }

    /// Makes and reads page tokens.
    #[must_use]
    pub fn page_tokens(&self) -> PageTokens {
        PageTokens::from_keyring(self.encryption_keys.expose())
    }
}

impl Config {
    /// Makes challenges to endpoints and knows the right answers.
    #[must_use]
    pub fn challenge_keys(&self) -> ChallengeKeys {
        ChallengeKeys::from_keyring(self.encryption_keys.expose())
    }
}

/// How to reach Postgres.
pub fn store_settings(env: &mut Env) -> StoreSettings {
    let url = env.secret_address(
        "WEBHOOKS_DATABASE_URL",
        Address::Postgres,
        "PostgreSQL, `postgres://user:password@host/database`",
    );
    StoreSettings {
        max_connections: env.ranged(
            "WEBHOOKS_DATABASE_CONNECTIONS",
            20,
            2..=500,
            "connections to PostgreSQL",
        ),
        ..StoreSettings::new(url.expose())
    }
}
