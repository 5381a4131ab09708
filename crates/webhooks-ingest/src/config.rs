//! Settings of ingest.

use std::{net::SocketAddr, time::Duration};

use webhooks_bus::BusSettings;
use webhooks_domain::event::EventLimits;
use webhooks_runtime::{Env, Settings, callers::CallerSettings, tls::GrpcServerTls};

use crate::{accept::AcceptSettings, budget::BODY_MEMORY};

/// Everything ingest is told by the environment.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where NATS is.
    pub bus: BusSettings,
    /// Where `POST /v1/events` is served.
    pub http_address: SocketAddr,
    /// Where `EventService` is served.
    pub grpc_address: SocketAddr,
    /// How it is encrypted.
    pub grpc_tls: GrpcServerTls,
    /// Which address a call counts for, and how many wrong tokens it may show.
    pub callers: CallerSettings,
    /// Most connections at each of the two.
    pub max_connections: usize,
    /// Messages of the INTAKE stream being stored at the same time.
    pub intake_concurrency: usize,
    /// Bytes of all bodies and messages being handled at the same time.
    pub body_memory: usize,
    /// Limits of accepting.
    pub accept: AcceptSettings,
}

impl Settings for Config {
    fn read(env: &mut Env) -> Self {
        let any_port = "127.0.0.1:0";
        Self {
            bus: BusSettings::read(env),
            http_address: env.socket_addr(
                "WEBHOOKS_INGEST_HTTP_ADDR",
                any_port,
                "address of `POST /v1/events`; port 0 takes a free one",
            ),
            grpc_address: env.socket_addr(
                "WEBHOOKS_INGEST_GRPC_ADDR",
                any_port,
                "address of the gRPC EventService; port 0 takes a free one",
            ),
            grpc_tls: GrpcServerTls::read(env),
            callers: CallerSettings::read(env),
            max_connections: env.ranged(
                "WEBHOOKS_INGEST_MAX_CONNECTIONS",
                4_096,
                1..=1_000_000,
                "most connections at each of ingest's two addresses; more wait to be accepted",
            ),
            intake_concurrency: env.ranged(
                "WEBHOOKS_INGEST_INTAKE_CONCURRENCY",
                1_024,
                1..=4_096,
                "events from NATS publishers that are being stored at the same time",
            ),
            body_memory: env.ranged(
                "WEBHOOKS_INGEST_BODY_MEMORY",
                BODY_MEMORY,
                8 * 1024 * 1024..=64 * 1024 * 1024 * 1024,
                "bytes of all HTTP bodies and gRPC messages being handled at the same time; more are refused",
            ),
            accept: AcceptSettings {
                publish_timeout: env.duration_ranged(
                    "WEBHOOKS_INGEST_PUBLISH_TIMEOUT",
                    "5s",
                    Duration::from_millis(100)..=Duration::from_secs(20),
                    "longest wait for JetStream's acknowledgement of an event; then the publisher is told to come again",
                ),
                max_in_flight: env.ranged(
                    "WEBHOOKS_INGEST_MAX_IN_FLIGHT",
                    4_096,
                    1..=65_536,
                    "events that wait for JetStream's acknowledgement at the same time; more are refused",
                ),
                quota_per_second: env.ranged(
                    "WEBHOOKS_INGEST_QUOTA_PER_SECOND",
                    0,
                    0..=1_000_000,
                    "events per second that one workspace may publish over HTTP and gRPC at one ingest process; 0 = no quota",
                ),
                limits: EventLimits::DEFAULT,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_environment_is_enough_and_bounds_are_checked() {
        let mut env = Env::from_vars::<&str, &str>([]);
        let config = Config::read(&mut env);
        env.finish().unwrap();
        assert_eq!(config.accept.publish_timeout, Duration::from_secs(5));
        assert_eq!(config.accept.max_in_flight, 4_096);

        let mut env = Env::from_vars([
            ("WEBHOOKS_INGEST_PUBLISH_TIMEOUT", "1h"),
            ("WEBHOOKS_INGEST_MAX_IN_FLIGHT", "0"),
            ("WEBHOOKS_INGEST_HTTP_ADDR", "here"),
        ]);
        Config::read(&mut env);
        assert_eq!(env.finish().unwrap_err().problems.len(), 3);
    }
}
