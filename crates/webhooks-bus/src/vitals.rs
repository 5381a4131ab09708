//! Saying whether the bus is there and as it must be: the readiness that services have in common.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use webhooks_runtime::Readiness;

use crate::{bus::Bus, config::ConfigMirror};

/// How often the connection is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Keeps the readiness conditions `nats`, `topology` and `config` true to life.
#[derive(Debug, Clone)]
pub struct Vitals {
    bus: Bus,
    readiness: Readiness,
    config: Option<ConfigMirror>,
}

impl Vitals {
    /// Watches this bus for this service. Not ready until [`Vitals::watch`] has looked.
    #[must_use]
    pub fn new(bus: &Bus, readiness: &Readiness) -> Self {
        readiness.fail("nats", "not connected");
        readiness.fail("topology", "not verified yet");
        Self {
            bus: bus.clone(),
            readiness: readiness.clone(),
            config: None,
        }
    }

    /// Ready only when this mirror has loaded the read model.
    #[must_use]
    pub fn with_config(mut self, mirror: ConfigMirror) -> Self {
        self.readiness
            .fail("config", "the read model is not loaded yet");
        self.config = Some(mirror);
        self
    }

    /// Watches until `shutdown`. The streams are verified at each new connection: it may be to
    /// another server. `each` is called at every look, for conditions of the service's own.
    pub async fn watch(&self, shutdown: CancellationToken, each: impl Fn(&Readiness)) {
        let watching = async {
            let mut verified = false;
            loop {
                let connected = self.bus.is_connected();
                self.readiness.set(
                    "nats",
                    if connected {
                        Ok(())
                    } else {
                        Err("not connected".to_owned())
                    },
                );
                if !connected {
                    verified = false;
                } else if !verified {
                    let verdict = self.bus.verify_topology().await;
                    verified = verdict.is_ok();
                    self.readiness
                        .set("topology", verdict.map_err(|error| error.to_string()));
                }
                if self.config.as_ref().is_some_and(ConfigMirror::loaded) {
                    self.readiness.ok("config");
                }
                each(&self.readiness);
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        shutdown.run_until_cancelled(watching).await;
    }
}
