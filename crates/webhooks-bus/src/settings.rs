//! Settings of the bus, and how much each stream may hold.

use std::{fmt, path::PathBuf};

use webhooks_runtime::{
    Env, Secret, Settings,
    settings::Address,
    tls::{certificate_file, key_file},
};

use crate::permissions::public_key;

/// How to reach NATS and how its streams are laid out.
#[derive(Clone)]
pub struct BusSettings {
    /// Comma-separated server addresses, `nats://[user:password@]host:port`.
    pub url: String,
    /// Contents of a credentials file; empty = none.
    pub credentials: Option<String>,
    /// Seed of this user's nkey; the name and password of the URL are not used then.
    pub nkey_seed: Option<Secret>,
    /// Whether the connection must be encrypted (`tls://` addresses are, anyway).
    pub tls: bool,
    /// A PEM file with authorities that may have signed the servers' certificates, instead of the
    /// system's.
    pub tls_ca: Option<PathBuf>,
    /// PEM files with the certificate chain that is shown to the servers, and its key.
    pub tls_identity: Option<(PathBuf, PathBuf)>,
    /// Copies of each stream: 1 for one server, 3 for a cluster.
    pub replicas: usize,
    /// Partitions that dispatchers share; a multiple of 16 is best.
    pub partitions: u16,
    /// Most bytes of the EVENTS stream (reserved by the server).
    pub events_max_bytes: i64,
    /// Most bytes of the INTAKE stream.
    pub intake_max_bytes: i64,
    /// Most bytes of the VERDICTS stream.
    pub verdicts_max_bytes: i64,
    /// Most bytes of each DELIVERIES stream.
    pub deliveries_max_bytes: i64,
    /// Most bytes of the HELD stream.
    pub held_max_bytes: i64,
    /// Most bytes of the REPORTS stream.
    pub reports_max_bytes: i64,
    /// Bytes of each RETRIES stream from whose larger part on ingest takes no more events.
    pub retries_max_bytes: i64,
    /// Most bytes of the DEAD stream.
    pub dead_max_bytes: i64,
    /// Most bytes of the REFUSED stream.
    pub refused_max_bytes: i64,
    /// Most deliveries held for one webhook.
    pub held_per_webhook: i64,
    /// Publish in atomic batches when several messages wait: pays when the server syncs every write.
    pub batching: bool,
}

const MIB: i64 = 1024 * 1024;

impl Default for BusSettings {
    fn default() -> Self {
        Self {
            url: "nats://127.0.0.1:4222".to_owned(),
            credentials: None,
            nkey_seed: None,
            tls: false,
            tls_ca: None,
            tls_identity: None,
            replicas: 1,
            partitions: 16,
            events_max_bytes: 8_192 * MIB,
            intake_max_bytes: 1_024 * MIB,
            verdicts_max_bytes: 8_192 * MIB,
            deliveries_max_bytes: 4_096 * MIB,
            held_max_bytes: 4_096 * MIB,
            reports_max_bytes: 2_048 * MIB,
            retries_max_bytes: 16_384 * MIB,
            dead_max_bytes: 1_024 * MIB,
            refused_max_bytes: 512 * MIB,
            held_per_webhook: 100_000,
            batching: false,
        }
    }
}

impl Settings for BusSettings {
    fn read(env: &mut Env) -> Self {
        let d = Self::default();
        let nkey_seed = env.optional_secret(
            "WEBHOOKS_NATS_NKEY_SEED",
            "seed (SU…) of this process's nkey, see `webhooks nkey`; empty = none",
        );
        if let Some(Err(error)) = nkey_seed.as_ref().map(|seed| public_key(seed.expose())) {
            env.problem("WEBHOOKS_NATS_NKEY_SEED", error);
        }
        Self {
            // Masked where settings are shown: a password may stand in it.
            url: env
                .secret_address_or("WEBHOOKS_NATS_URL", Address::Nats, &d.url, "NATS servers, comma separated, `nats://[user:password@]host:port` (`tls://…` for encrypted connections)")
                .expose()
                .to_owned(),
            nkey_seed,
            tls: env.bool("WEBHOOKS_NATS_TLS", d.tls, "refuse to talk to NATS unencrypted"),
            tls_ca: certificate_file(env, "WEBHOOKS_NATS_TLS_CA", "PEM file with authorities that may have signed NATS's certificates, instead of the system's"),
            tls_identity: identity(env),
            credentials: env
                .optional_secret("WEBHOOKS_NATS_CREDENTIALS", "Contents of a NATS credentials file; empty = none")
                .map(|secret| secret.expose().to_owned()),
            replicas: env.ranged("WEBHOOKS_NATS_REPLICAS", d.replicas, 1..=5, "Copies of each stream (3 in production)"),
            partitions: env.ranged("WEBHOOKS_PARTITIONS", d.partitions, 1..=256, "Partitions the dispatchers share; the same at every service"),
            events_max_bytes: size(env, "WEBHOOKS_EVENTS_MAX_BYTES", d.events_max_bytes, "Most bytes of the EVENTS stream"),
            intake_max_bytes: size(env, "WEBHOOKS_INTAKE_MAX_BYTES", d.intake_max_bytes, "Most bytes of the INTAKE stream"),
            verdicts_max_bytes: size(env, "WEBHOOKS_VERDICTS_MAX_BYTES", d.verdicts_max_bytes, "Most bytes of the VERDICTS stream"),
            deliveries_max_bytes: size(env, "WEBHOOKS_DELIVERIES_MAX_BYTES", d.deliveries_max_bytes, "Most bytes of each DELIVERIES stream"),
            held_max_bytes: size(env, "WEBHOOKS_HELD_MAX_BYTES", d.held_max_bytes, "Most bytes of the HELD stream"),
            reports_max_bytes: size(env, "WEBHOOKS_REPORTS_MAX_BYTES", d.reports_max_bytes, "Most bytes of the REPORTS stream"),
            retries_max_bytes: size(env, "WEBHOOKS_RETRIES_MAX_BYTES", d.retries_max_bytes, "Bytes that each RETRIES stream is meant for: it takes more, but from 70 % on there is an alarm, and from 85 % on ingest answers 503"),
            dead_max_bytes: size(env, "WEBHOOKS_DEAD_MAX_BYTES", d.dead_max_bytes, "Most bytes of the DEAD stream: what services could not process"),
            refused_max_bytes: size(env, "WEBHOOKS_REFUSED_MAX_BYTES", d.refused_max_bytes, "Most bytes of the REFUSED stream: what NATS publishers sent and what is no event; the oldest make room"),
            held_per_webhook: env.ranged("WEBHOOKS_HELD_PER_WEBHOOK", d.held_per_webhook, 1..=10_000_000, "Most deliveries held for one webhook"),
            batching: env.bool("WEBHOOKS_NATS_BATCHING", d.batching, "Publish in atomic batches when several messages wait; for servers with sync_interval: always and one replica"),
        }
    }
}

impl fmt::Debug for BusSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the URL, which may hold a password, nor credentials.
        f.debug_struct("BusSettings")
            .field("replicas", &self.replicas)
            .field("partitions", &self.partitions)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

impl BusSettings {
    /// How many DELIVERIES (and RETRIES) streams there are.
    #[must_use]
    pub fn shards(&self) -> u16 {
        self.partitions
            .div_ceil(crate::names::PARTITIONS_PER_STREAM)
    }
}

/// The certificate that is shown to servers that ask for one.
fn identity(env: &mut Env) -> Option<(PathBuf, PathBuf)> {
    let (certificate, key) = ("WEBHOOKS_NATS_TLS_CERT", "WEBHOOKS_NATS_TLS_KEY");
    let chain = certificate_file(
        env,
        certificate,
        "PEM file with the certificate chain that is shown to NATS; empty = none",
    );
    let secret = key_file(env, key, "PEM file with the key of WEBHOOKS_NATS_TLS_CERT");
    if chain.is_some() != secret.is_some() {
        env.problem(certificate, format_args!("must be set together with {key}"));
    }
    chain.zip(secret)
}

fn size(env: &mut Env, name: &'static str, default: i64, doc: &'static str) -> i64 {
    env.ranged(name, default, MIB..=i64::MAX, doc)
}
