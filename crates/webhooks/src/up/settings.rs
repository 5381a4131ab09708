//! What the caller of `webhooks up` may decide. Everything else are the services' own settings,
//! which are passed through.

use std::time::Duration;

use webhooks_devstack::SyncInterval;
use webhooks_runtime::{Env, SettingsError, settings::Address};

use crate::console::say;

/// Addresses of this machine only.
const LOOPBACK: &str = "127.0.0.0/8,::1/128";

/// Variables that open the address policy.
const ALLOW_HTTP: &str = "WEBHOOKS_EGRESS_ALLOW_HTTP";
const ALLOW_CIDRS: &str = "WEBHOOKS_EGRESS_ALLOW_CIDRS";
const ALLOW_HOSTS: &str = "WEBHOOKS_EGRESS_ALLOW_HOSTS";

/// What was decided.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// How many dispatchers share the work.
    pub(crate) dispatchers: u16,
    /// NATS that somebody else runs.
    pub(crate) nats_url: Option<String>,
    /// PostgreSQL that somebody else runs.
    pub(crate) database_url: Option<String>,
    /// When our own nats-server writes to the disk.
    pub(crate) sync: SyncInterval,
    /// The address policy's variables, where the caller has not set them.
    pub(crate) allowances: Vec<(&'static str, &'static str)>,
}

impl Settings {
    /// Reads them.
    ///
    /// # Errors
    /// All problems at once.
    pub(crate) fn read(mut env: Env) -> Result<Self, SettingsError> {
        let allow_private = env.bool(
            "ALLOW_PRIVATE_ENDPOINTS",
            true,
            "allow endpoints on loopback over plain http",
        );
        let openings = [
            (ALLOW_HTTP, "true"),
            (ALLOW_CIDRS, LOOPBACK),
            (ALLOW_HOSTS, "localhost"),
        ];
        // What the caller says itself is passed through and wins.
        let unsaid = |env: &mut Env, name| env.optional(name, "").is_none();
        let allowances = openings
            .into_iter()
            .filter(|(name, _)| unsaid(&mut env, name) && allow_private)
            .collect();
        let settings = Self {
            dispatchers: env.ranged("DISPATCHERS", 1, 1..=64, "dispatcher processes"),
            nats_url: env
                .optional_secret_address(
                    "NATS_URL",
                    Address::Nats,
                    "NATS to use instead of an own one",
                )
                .map(|url| url.expose().to_owned()),
            database_url: env
                .optional_secret_address(
                    "DATABASE_URL",
                    Address::Postgres,
                    "PostgreSQL to use instead of an own one",
                )
                .map(|url| url.expose().to_owned()),
            sync: sync_interval(&mut env),
            allowances,
        };
        env.finish()?;
        Ok(settings)
    }

    /// Says loudly what is open.
    pub(crate) fn warn_if_open(&self) {
        if !self.allowances.is_empty() {
            say(
                "WARNING: endpoints on loopback over plain http are allowed, for this demo (ALLOW_PRIVATE_ENDPOINTS=0 turns that off)",
            );
        }
    }
}

fn sync_interval(env: &mut Env) -> SyncInterval {
    let name = "NATS_SYNC_INTERVAL";
    match env
        .optional(
            name,
            "when our own nats-server syncs to disk: `always` or a duration",
        )
        .as_deref()
    {
        None => SyncInterval::ServerDefault,
        Some("always") => SyncInterval::Always,
        Some(text) => match humantime::parse_duration(text) {
            Ok(period) if period >= Duration::from_millis(1) => SyncInterval::Every(period),
            _ => {
                env.problem(
                    name,
                    format!("{text:?} is neither `always` nor a duration of at least 1ms"),
                );
                SyncInterval::ServerDefault
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::{ALLOW_CIDRS, ALLOW_HTTP, Env, Settings, SyncInterval};

    fn allowed(variables: &[(&str, &str)]) -> Vec<&'static str> {
        let settings = Settings::read(Env::from_vars(variables.iter().copied())).unwrap();
        settings
            .allowances
            .into_iter()
            .map(|(name, _)| name)
            .collect()
    }

    #[test]
    fn loopback_is_allowed_unless_the_caller_says_otherwise() {
        assert_eq!(allowed(&[]).len(), 3);
        assert!(allowed(&[("ALLOW_PRIVATE_ENDPOINTS", "0")]).is_empty());
        assert!(
            !allowed(&[(ALLOW_CIDRS, "10.0.0.0/8")]).contains(&ALLOW_CIDRS),
            "the caller's list is passed through"
        );
        assert!(allowed(&[(ALLOW_CIDRS, "10.0.0.0/8")]).contains(&ALLOW_HTTP));
    }

    #[test]
    fn all_problems_come_at_once() {
        let env = Env::from_vars([
            ("DISPATCHERS", "0"),
            ("NATS_SYNC_INTERVAL", "often"),
            ("ALLOW_PRIVATE_ENDPOINTS", "maybe"),
            ("NATS_URL", "http://127.0.0.1"),
            ("DATABASE_URL", "mysql://u:p@127.0.0.1"),
        ]);
        assert_eq!(Settings::read(env).unwrap_err().problems.len(), 5);
        let env = Env::from_vars([("NATS_SYNC_INTERVAL", "always")]);
        assert_eq!(Settings::read(env).unwrap().sync, SyncInterval::Always);
    }
}
