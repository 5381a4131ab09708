//! What the dispatcher is told by the environment.

use std::{ops::RangeInclusive, time::Duration};

use webhooks_bus::BusSettings;
use webhooks_domain::{health::HealthPolicy, retry::RetryPolicy, sealing::Keyring};
use webhooks_egress::EgressSettings;
use webhooks_runtime::{Env, Secret, Settings, drain_timeout, tls::GrpcClientTls};

/// Everything the dispatcher is told.
#[derive(Debug)]
pub struct Config {
    /// NATS.
    pub bus: BusSettings,
    /// The way out.
    pub egress: EgressSettings,
    /// The default retry policy.
    pub retry: RetryPolicy,
    /// Where reports go: management's gRPC address, `http://host:port`.
    pub management: String,
    /// What we show there, and what we ask of it.
    pub management_tls: GrpcClientTls,
    /// What we authenticate with there.
    pub internal_token: Secret,
    /// Opens webhooks' signing keys.
    pub keyring: Option<Keyring>,
    /// When endpoints are paused, probed and disabled.
    pub health: HealthPolicy,
    /// How long a delivery is held. Below the HELD stream's own limit.
    pub hold_max_age: Duration,
    /// Limits of this process.
    pub limits: Limits,
}

/// Limits of one dispatcher process.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Requests on the wire to one endpoint at a time, unless its webhook says otherwise.
    pub per_endpoint: usize,
    /// The most that a webhook may say.
    pub per_endpoint_max: usize,
    /// Requests on the wire in all.
    pub in_flight: usize,
    /// Deliveries that wait in memory for one slow endpoint; more are parked. A fast one may have more.
    pub endpoint_queue: usize,
    /// Deliveries that one partition holds in memory; at the limit it pulls no more.
    pub partition_window: usize,
    /// Bytes of deliveries that all partitions together hold in memory; at the limit they pull no more.
    pub max_bytes: usize,
    /// Oldest view of the configuration that may start a request.
    pub stale_after: Duration,
    /// A retry due sooner waits in memory, a later one on the RETRIES stream.
    pub wait_in_memory: Duration,
}

impl Settings for Config {
    fn read(env: &mut Env) -> Self {
        let standard = RetryPolicy::STANDARD;
        let bus = BusSettings::read(env);
        let egress = EgressSettings::read(env);
        let retry = RetryPolicy {
            max_attempts: env.ranged(
                "WEBHOOKS_RETRY_MAX_ATTEMPTS",
                standard.max_attempts,
                1..=100,
                "attempts of a delivery in all",
            ),
            base: env.duration_ranged(
                "WEBHOOKS_RETRY_BASE",
                "30s",
                DELAYS,
                "delay before the third attempt",
            ),
            factor: env.ranged(
                "WEBHOOKS_RETRY_FACTOR",
                standard.factor,
                1.0..=10.0,
                "each later delay is this many times the one before",
            ),
            cap: env.duration_ranged(
                "WEBHOOKS_RETRY_CAP",
                "1h",
                DELAYS,
                "longest delay between attempts",
            ),
            jitter: env.ranged(
                "WEBHOOKS_RETRY_JITTER",
                standard.jitter,
                0.0..=1.0,
                "share of a delay by which it varies either way",
            ),
            immediate: env.duration_ranged(
                "WEBHOOKS_RETRY_IMMEDIATE",
                "1s",
                Duration::ZERO..=Duration::from_secs(1),
                "upper bound of the random wait before the second attempt",
            ),
            max_age: None,
        };
        if retry.cap < retry.base {
            env.problem(
                "WEBHOOKS_RETRY_CAP",
                "must not be less than WEBHOOKS_RETRY_BASE, which it would cut",
            );
        }
        let finished_within = egress.attempt_timeout() + RECORDED_WITHIN;
        if drain_timeout(env) < finished_within {
            env.problem(
                "WEBHOOKS_DRAIN_TIMEOUT",
                format_args!(
                    "must be at least {} s, WEBHOOKS_ATTEMPT_TIMEOUT and 3 s to record what it came to: what is on the wire at the end would be sent twice",
                    finished_within.as_secs_f64()
                ),
            );
        }
        let management = env.url(
            "WEBHOOKS_MANAGEMENT_GRPC_URL",
            "http://127.0.0.1:9090",
            "management's gRPC address",
        );
        let management_tls = GrpcClientTls::read(env);
        let internal_token = env.secret(
            "WEBHOOKS_INTERNAL_TOKEN",
            "what services authenticate with among each other",
        );
        let keys = env.secret("WEBHOOKS_ENCRYPTION_KEYS", "keys that open signing secrets: id:base64 of 32 bytes, comma separated, the first seals");
        let keyring = match Keyring::parse(keys.expose()) {
            Ok(keyring) => Some(keyring),
            Err(_) if keys.expose().is_empty() => None,
            Err(error) => {
                env.problem("WEBHOOKS_ENCRYPTION_KEYS", error);
                None
            }
        };
        let limits = Limits {
            per_endpoint: env.ranged(
                "WEBHOOKS_ENDPOINT_IN_FLIGHT",
                8,
                1..=1_000,
                "requests on the wire to one endpoint at a time, unless its webhook says otherwise",
            ),
            per_endpoint_max: env.ranged(
                "WEBHOOKS_ENDPOINT_IN_FLIGHT_MAX",
                64,
                1..=1_000,
                "the most requests on the wire at a time that a webhook may ask for",
            ),
            in_flight: env.ranged(
                "WEBHOOKS_DISPATCHER_IN_FLIGHT",
                2_000,
                1..=20_000,
                "requests on the wire in all, one process",
            ),
            endpoint_queue: env.ranged(
                "WEBHOOKS_ENDPOINT_QUEUE",
                256,
                1..=10_000,
                "deliveries that wait in memory for one slow endpoint; more are parked on the bus",
            ),
            partition_window: env.ranged(
                "WEBHOOKS_PARTITION_WINDOW",
                2_048,
                64..=4_000,
                "deliveries that one partition holds in memory",
            ),
            max_bytes: env.ranged(
                "WEBHOOKS_DISPATCHER_MAX_BYTES",
                128 * 1024 * 1024,
                MAX_BYTES,
                "bytes of deliveries that one process holds in memory; at the limit it pulls no more",
            ),
            stale_after: env.duration_ranged(
                "WEBHOOKS_CONFIG_STALE_AFTER",
                "2s",
                STALE_BOUNDS,
                "oldest view of the configuration that may start a request",
            ),
            wait_in_memory: Duration::from_millis(1_500),
        };
        if limits.per_endpoint_max < limits.per_endpoint {
            env.problem(
                "WEBHOOKS_ENDPOINT_IN_FLIGHT_MAX",
                "must not be less than WEBHOOKS_ENDPOINT_IN_FLIGHT, which every webhook has unasked",
            );
        }
        Self {
            bus,
            egress,
            retry,
            management,
            management_tls,
            internal_token,
            keyring,
            health: read_health(env),
            hold_max_age: env.duration_ranged(
                "WEBHOOKS_HOLD_MAX_AGE",
                "7d",
                HOLD_BOUNDS,
                "how long a delivery is held for a paused or automatically disabled webhook; then it ends and may be replayed",
            ),
            limits,
        }
    }
}

/// Bounds of the bytes of deliveries in memory.
const MAX_BYTES: RangeInclusive<usize> = 8 * 1024 * 1024..=64 * 1024 * 1024 * 1024;

/// Bounds of the delays between attempts: no longer than things are held.
const DELAYS: RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(7 * 24 * 3_600);

/// How old a view of the configuration may be. A change is in force at every dispatcher within 2 s; and a
/// view is confirmed every half second, so below two of these nothing would ever start.
const STALE_BOUNDS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(2);

/// How long the record of an attempt may take after its end, at shutdown.
const RECORDED_WITHIN: Duration = Duration::from_secs(3);

/// How long deliveries may be held: the stream keeps them for eight days.
const HOLD_BOUNDS: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(7 * 24 * 3_600 + 12 * 3_600);

/// Bounds of the pauses between probes and of the steps of a ramp.
const PAUSES: RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(24 * 3_600);

fn read_health(env: &mut Env) -> HealthPolicy {
    let standard = HealthPolicy::STANDARD;
    let policy = HealthPolicy {
        breaker_failures: env.ranged(
            "WEBHOOKS_BREAKER_FAILURES",
            standard.breaker_failures,
            1..=100,
            "deliveries that fail in a row before an endpoint is paused and its owner warned",
        ),
        auto_disable_failures: env.ranged(
            "WEBHOOKS_AUTO_DISABLE_FAILURES",
            standard.auto_disable_failures,
            1..=1_000,
            "deliveries (and probes) that fail in a row before a webhook is disabled automatically",
        ),
        probe_pause: env.duration_ranged(
            "WEBHOOKS_PROBE_PAUSE",
            "30s",
            PAUSES,
            "pause before a paused endpoint is probed; each failed probe doubles it",
        ),
        probe_pause_cap: env.duration_ranged(
            "WEBHOOKS_PROBE_PAUSE_CAP",
            "10m",
            PAUSES,
            "longest pause between probes",
        ),
        ramp_step: env.duration_ranged(
            "WEBHOOKS_RAMP_STEP",
            "1s",
            PAUSES,
            "after an endpoint has recovered, its requests at a time double at most this often",
        ),
    };
    if policy.auto_disable_failures < policy.breaker_failures {
        env.problem(
            "WEBHOOKS_AUTO_DISABLE_FAILURES",
            "must not be less than WEBHOOKS_BREAKER_FAILURES",
        );
    }
    if policy.probe_pause_cap < policy.probe_pause {
        env.problem(
            "WEBHOOKS_PROBE_PAUSE_CAP",
            "must not be less than WEBHOOKS_PROBE_PAUSE",
        );
    }
    policy
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(changed: &[(&str, &str)]) -> String {
        let needed = [
            ("WEBHOOKS_INTERNAL_TOKEN", "a-token-for-tests"),
            (
                "WEBHOOKS_ENCRYPTION_KEYS",
                "k1:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
            ),
        ];
        let mut env = Env::from_vars(needed.into_iter().chain(changed.iter().copied()));
        drop(Config::read(&mut env));
        env.finish()
            .map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[test]
    fn what_would_never_send_or_break_a_promise_is_refused_with_its_reason() {
        for (changed, reason) in [
            (
                &[("WEBHOOKS_CONFIG_STALE_AFTER", "0s")] as &[(&str, &str)],
                "WEBHOOKS_CONFIG_STALE_AFTER",
            ),
            (
                &[("WEBHOOKS_CONFIG_STALE_AFTER", "1h")],
                "WEBHOOKS_CONFIG_STALE_AFTER",
            ),
            (
                &[("WEBHOOKS_RETRY_CAP", "29s")],
                "must not be less than WEBHOOKS_RETRY_BASE",
            ),
            (&[("WEBHOOKS_RETRY_BASE", "0s")], "WEBHOOKS_RETRY_BASE"),
            (
                &[("WEBHOOKS_RETRY_IMMEDIATE", "2s")],
                "WEBHOOKS_RETRY_IMMEDIATE",
            ),
            (
                &[("WEBHOOKS_ENDPOINT_IN_FLIGHT", "65")],
                "must not be less than WEBHOOKS_ENDPOINT_IN_FLIGHT,",
            ),
            (
                &[("WEBHOOKS_DRAIN_TIMEOUT", "32s")],
                "must be at least 33 s",
            ),
            (
                &[("WEBHOOKS_MANAGEMENT_GRPC_URL", "::")],
                "WEBHOOKS_MANAGEMENT_GRPC_URL: does not begin with",
            ),
        ] {
            let told = problems(changed);
            assert!(told.contains(reason), "{changed:?}: {told}");
        }
    }

    #[test]
    fn what_fits_together_is_taken() {
        for changed in [
            &[] as &[(&str, &str)],
            &[
                ("WEBHOOKS_ATTEMPT_TIMEOUT", "5s"),
                ("WEBHOOKS_DRAIN_TIMEOUT", "8s"),
            ],
            &[
                ("WEBHOOKS_RETRY_BASE", "50ms"),
                ("WEBHOOKS_RETRY_CAP", "50ms"),
            ],
            &[
                ("WEBHOOKS_ENDPOINT_IN_FLIGHT", "65"),
                ("WEBHOOKS_ENDPOINT_IN_FLIGHT_MAX", "65"),
            ],
            &[("WEBHOOKS_CONFIG_STALE_AFTER", "1s")],
        ] {
            assert_eq!(problems(changed), "", "{changed:?}");
        }
    }
}
