//! Saying whether the bus is there and as it must be: the readiness that services have in common.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use webhooks_runtime::Readiness;

use crate::{bus::Bus, config::ConfigMirror, elsewhere::Patience};

/// How often the connection is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How often a server is asked something, so that one that answers has something to say.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// After so long without a byte from the server it counts as one that does not answer. More than the
/// client's PINGs are apart (5 s), so that one whose JetStream alone stands still is not called silent:
/// whatever it sends counts, and it answers those.
const SILENT_AFTER: Duration = Duration::from_secs(6);

/// The most that one look adds to a silence: what is beyond is a pause of our own.
const LONGEST_LOOK: Duration = Duration::from_secs(1);

/// Tells a server that answers from one that only keeps the connection: stopped, or behind a line that
/// swallows everything. The client itself gives up such a connection after some 15 s.
#[derive(Debug, Clone)]
pub struct Pulse {
    bus: Bus,
    silent: Arc<AtomicBool>,
}

impl Pulse {
    /// Believes that the server answers until [`Pulse::keep`] has found otherwise.
    #[must_use]
    pub fn new(bus: &Bus) -> Self {
        Self {
            bus: bus.clone(),
            silent: Arc::default(),
        }
    }

    /// Asks and listens. Never ends.
    pub async fn keep(&self) {
        tokio::join!(self.listen_for_ever(), self.ask_for_ever());
    }

    /// Whether NATS is there.
    ///
    /// # Errors
    /// Why not, for readiness.
    pub fn check(&self) -> Result<(), String> {
        if !self.bus.is_connected() {
            return Err("not connected".to_owned());
        }
        if self.silent.load(Ordering::Relaxed) {
            return Err(format!(
                "connected, but it has said nothing for {} s",
                SILENT_AFTER.as_secs()
            ));
        }
        Ok(())
    }

    async fn listen_for_ever(&self) {
        let mut silence = Silence::default();
        loop {
            if self.bus.is_connected() {
                silence.look(self.bus.received_bytes(), Instant::now());
            } else {
                silence = Silence::default();
            }
            self.silent
                .store(silence.length >= SILENT_AFTER, Ordering::Relaxed);
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// One question at a time. What it is answered does not matter; where it is never answered by a server
    /// that is there, another one is asked. One that is silent is left to the client.
    async fn ask_for_ever(&self) {
        let mut patience = Patience::default();
        loop {
            if self.bus.is_connected() {
                let question = self.bus.is_answered();
                match tokio::time::timeout(SILENT_AFTER, question).await {
                    Ok(true) => patience.answered(),
                    _ if self.silent.load(Ordering::Relaxed) => {}
                    _ if patience.is_over(Instant::now()) => self.bus.go_elsewhere().await,
                    _ => {}
                }
            } else {
                patience.disconnected();
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }
}

/// How long nothing has come from the server, as far as we were awake to hear it.
#[derive(Debug, Default)]
struct Silence {
    /// What had come when we looked, and when that was.
    last: Option<(u64, Instant)>,
    length: Duration,
}

impl Silence {
    /// `bytes` have come until now.
    fn look(&mut self, bytes: u64, now: Instant) {
        match self.last.replace((bytes, now)) {
            Some((before, at)) if before == bytes => {
                let since = now.saturating_duration_since(at);
                self.length += since.min(LONGEST_LOOK);
            }
            _ => self.length = Duration::ZERO,
        }
    }
}

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
        let pulse = Pulse::new(&self.bus);
        let watching = async {
            tokio::join!(pulse.keep(), self.look_for_ever(&pulse, &each));
        };
        shutdown.run_until_cancelled(watching).await;
    }

    async fn look_for_ever(&self, pulse: &Pulse, each: &impl Fn(&Readiness)) {
        let mut verified = false;
        let mut connections = self.bus.connections();
        loop {
            // Another connection may be to another server, however soon it was made.
            if connections.has_changed().is_ok_and(|changed| changed) {
                connections.mark_unchanged();
                verified = false;
            }
            let nats = pulse.check();
            let answers = nats.is_ok();
            self.readiness.set("nats", nats);
            if !self.bus.is_connected() {
                verified = false;
            } else if !verified && answers {
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_grows_from_look_to_look_and_any_byte_ends_it() {
        let (mut silence, start) = (Silence::default(), Instant::now());
        silence.look(7, start);
        assert_eq!(silence.length, Duration::ZERO);
        for look in 1..=24 {
            silence.look(7, start + LOOK_EVERY * look);
        }
        assert_eq!(silence.length, SILENT_AFTER);
        silence.look(8, start + LOOK_EVERY * 25);
        assert_eq!(silence.length, Duration::ZERO);
        silence.look(8, start + LOOK_EVERY * 26);
        assert_eq!(silence.length, LOOK_EVERY);
    }

    #[test]
    fn a_pause_of_our_own_is_no_silence_of_the_server() {
        let (mut silence, start) = (Silence::default(), Instant::now());
        silence.look(7, start);
        silence.look(7, start + Duration::from_secs(60));
        assert_eq!(silence.length, LONGEST_LOOK);
    }
}
