//! The `WEBHOOKS_EGRESS_*` settings, read alike wherever an endpoint's address is judged: where a
//! webhook is saved and where it is called.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use webhooks_domain::endpoint::AddressPolicy;
use webhooks_runtime::{Env, Settings};

use crate::config::EgressConfig;

/// The address policy of this installation. Closed by default; every opening is logged at start.
#[derive(Debug, Clone, Default)]
pub struct PolicySettings(pub AddressPolicy);

impl Settings for PolicySettings {
    fn read(env: &mut Env) -> Self {
        // Read by the rules of production mode only.
        env.bool(
            "WEBHOOKS_EGRESS_ALLOW_CIDRS_ACKNOWLEDGED",
            false,
            "in production mode: WEBHOOKS_EGRESS_ALLOW_CIDRS is meant",
        );
        Self(AddressPolicy {
            allow_http: env.bool("WEBHOOKS_EGRESS_ALLOW_HTTP", false, "accept endpoints over plain http; for development and private installations"),
            allow_cidrs: env.parsed_list("WEBHOOKS_EGRESS_ALLOW_CIDRS", "", "private address ranges that endpoints may lie in, comma separated; for development and private installations"),
            allow_hosts: env.list("WEBHOOKS_EGRESS_ALLOW_HOSTS", "", "host names that skip the name rules, never the address rule"),
            own_hosts: env.list("WEBHOOKS_OWN_HOSTS", "", "our own public host names, with every name below them: never an endpoint"),
            own_ips: env.parsed_list("WEBHOOKS_OWN_IPS", "", "our own public addresses and ranges: never an endpoint"),
        })
    }
}

impl PolicySettings {
    /// Says loudly what an operator has opened.
    pub fn warn_if_opened(&self) {
        if self.0.is_opened() {
            tracing::warn!(
                allow_http = self.0.allow_http,
                allow_cidrs = ?self.0.allow_cidrs.iter().map(ToString::to_string).collect::<Vec<_>>(),
                allow_hosts = ?self.0.allow_hosts,
                "egress.opened: endpoints that production refuses are allowed"
            );
        }
    }
}

/// Everything the outbound client is told by the environment.
#[derive(Debug, Clone)]
pub struct EgressSettings {
    policy: PolicySettings,
    extra_ca: Option<PathBuf>,
    dns_servers: Vec<SocketAddr>,
    control_name: Option<String>,
    attempt_timeout: Duration,
    connect_timeout: Duration,
    dns_timeout: Duration,
}

impl EgressSettings {
    /// The deadline of one attempt.
    #[must_use]
    pub fn attempt_timeout(&self) -> Duration {
        self.attempt_timeout
    }
}

impl Settings for EgressSettings {
    fn read(env: &mut Env) -> Self {
        let d = EgressConfig::default();
        let bounds = Duration::from_millis(10)..=Duration::from_secs(30);
        Self {
            policy: PolicySettings::read(env),
            extra_ca: env
                .optional(
                    "WEBHOOKS_EGRESS_EXTRA_CA",
                    "PEM file with certificate authorities to trust beside the public ones",
                )
                .map(PathBuf::from),
            dns_servers: env.parsed_list(
                "WEBHOOKS_EGRESS_DNS_SERVERS",
                "",
                "DNS servers for endpoint names, ip:port, comma separated; empty = the system's",
            ),
            control_name: env.optional(
                "WEBHOOKS_EGRESS_CONTROL_NAME",
                "a name that always resolves: while it does not, resolution failures are ours",
            ),
            attempt_timeout: env.duration_ranged(
                "WEBHOOKS_ATTEMPT_TIMEOUT",
                &human(d.attempt_timeout),
                bounds.clone(),
                "deadline of one attempt: DNS, connect, TLS, headers and body",
            ),
            connect_timeout: env.duration_ranged(
                "WEBHOOKS_CONNECT_TIMEOUT",
                &human(d.connect_timeout),
                bounds.clone(),
                "longest connect with TLS",
            ),
            dns_timeout: env.duration_ranged(
                "WEBHOOKS_DNS_TIMEOUT",
                &human(d.dns_timeout),
                bounds,
                "longest name resolution",
            ),
        }
    }
}

fn human(duration: Duration) -> String {
    format!("{}s", duration.as_secs())
}

impl EgressSettings {
    /// The client's configuration.
    ///
    /// # Errors
    /// When the file with extra authorities cannot be read.
    pub fn load(self) -> std::io::Result<EgressConfig> {
        // What is opened is said once, by the client that is made of this.
        let extra_ca_pem = self.extra_ca.as_ref().map(std::fs::read).transpose()?;
        Ok(EgressConfig {
            policy: self.policy.0,
            extra_ca_pem,
            dns_servers: self.dns_servers,
            control_name: self.control_name,
            attempt_timeout: self.attempt_timeout,
            connect_timeout: self.connect_timeout,
            dns_timeout: self.dns_timeout,
            ..EgressConfig::default()
        })
    }
}
