//! What a service is given to live with.

use std::{io, net::SocketAddr, sync::Arc};

use tokio_util::sync::CancellationToken;

use crate::{
    announce::Announcer,
    clock::{Clock, SystemClock},
    readiness::Readiness,
    tasks::Tasks,
};

/// The readiness condition that the runtime sets before a service runs and [`Context::started`] lifts.
pub(crate) const STARTUP: &str = "startup";

/// The surroundings of a service: no globals, so that several services fit into one process and a
/// test can make one by hand. Clones share everything.
#[derive(Debug, Clone)]
pub struct Context {
    /// Cancelled when the service is to drain and return.
    pub shutdown: CancellationToken,
    /// Named conditions behind `/readyz`.
    pub readiness: Readiness,
    /// Background tasks.
    pub tasks: Tasks,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where bound addresses are told.
    pub announcer: Announcer,
    scope: Option<Arc<str>>,
}

impl Context {
    /// Surroundings outside of [`crate::run`]: for tests and for embedding.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, announcer: Announcer) -> Self {
        let shutdown = CancellationToken::new();
        let readiness = Readiness::new();
        let tasks = Tasks::new(shutdown.clone(), readiness.clone());
        readiness.fail(STARTUP, "in progress");
        Self {
            shutdown,
            readiness,
            tasks,
            clock,
            announcer,
            scope: None,
        }
    }

    /// Surroundings for a test: the system's clock, nothing announced.
    #[must_use]
    pub fn for_tests() -> Self {
        Self::new(Arc::new(SystemClock), Announcer::default())
    }

    /// The surroundings of one service among several in a process: its conditions and addresses are
    /// prefixed with `name.`, all else is shared. The new scope is not ready until it has
    /// [`started`](Self::started).
    #[must_use]
    pub fn scoped(&self, name: &str) -> Self {
        let readiness = self.readiness.scoped(name);
        readiness.fail(STARTUP, "in progress");
        let tasks = self.tasks.with_readiness(readiness.clone());
        Self {
            readiness,
            tasks,
            scope: Some(Arc::from(name)),
            ..self.clone()
        }
    }

    /// States that everything is connected, checked and bound. Other conditions may still hold
    /// readiness back.
    pub fn started(&self) {
        tracing::info!("service.started");
        self.readiness.clear(STARTUP);
        self.readiness.ok("service");
    }

    /// States that a listener is bound: into the log, and into the file `WEBHOOKS_ADDR_FILE` names.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn announce(&self, name: &str, address: SocketAddr) -> io::Result<()> {
        match &self.scope {
            None => self.announcer.announce(name, address),
            Some(scope) => self.announcer.announce(&format!("{scope}.{name}"), address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Context;

    #[test]
    fn services_of_one_process_share_readiness_under_their_names() {
        let whole = Context::for_tests();
        let ingest = whole.scoped("ingest");
        assert_eq!(
            whole.readiness.state().missing(),
            ["ingest.startup: in progress", "startup: in progress"]
        );
        ingest.readiness.fail("nats", "disconnected");
        ingest.started();
        whole.started();
        assert_eq!(
            whole.readiness.state().missing(),
            ["ingest.nats: disconnected"]
        );
        ingest.readiness.ok("nats");
        assert!(whole.readiness.state().is_ready());
        ingest
            .announce("api", "127.0.0.1:1".parse().unwrap())
            .unwrap();
        assert!(whole.announcer.addresses().contains_key("ingest.api"));
    }
}
