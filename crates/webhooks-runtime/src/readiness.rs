//! Whether this process should get work: a set of named conditions, ready when all hold.
//!
//! Readiness is not health. A service without its broker is alive and must not be restarted for it;
//! it only must not be sent traffic. `/livez` therefore never looks in here.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::watch;

/// The named conditions of a process, shared by everyone who holds a clone.
#[derive(Debug, Clone)]
pub struct Readiness {
    state: Arc<watch::Sender<ReadinessState>>,
    scope: Arc<str>,
}

/// What holds at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadinessState {
    /// Condition → why it does not hold; `None` when it does.
    conditions: BTreeMap<String, Option<String>>,
}

impl ReadinessState {
    /// Whether every condition holds (and at least one was ever named).
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.conditions.is_empty() && self.conditions.values().all(Option::is_none)
    }

    /// `condition: reason` for each that does not hold, sorted.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        if self.conditions.is_empty() {
            return vec!["startup: nothing has reported yet".to_owned()];
        }
        let named = |(name, reason): (&String, &Option<String>)| {
            reason.as_ref().map(|why| format!("{name}: {why}"))
        };
        self.conditions.iter().filter_map(named).collect()
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl Readiness {
    /// No conditions yet, and therefore not ready.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: Arc::new(watch::Sender::new(ReadinessState::default())),
            scope: Arc::from(""),
        }
    }

    /// The same conditions, with every name set through this handle prefixed by `scope.`: several
    /// services share one process without stepping on each other's names.
    #[must_use]
    pub fn scoped(&self, scope: &str) -> Self {
        Self {
            state: Arc::clone(&self.state),
            scope: Arc::from(format!("{}{scope}.", self.scope)),
        }
    }

    /// States that a condition holds, or why it does not.
    pub fn set(&self, name: &str, condition: Result<(), String>) {
        let name = format!("{}{name}", self.scope);
        let reason = condition.err();
        self.state.send_if_modified(|state| {
            let before = state.conditions.insert(name, reason.clone());
            before != Some(reason)
        });
    }

    /// The condition holds.
    pub fn ok(&self, name: &str) {
        self.set(name, Ok(()));
    }

    /// The condition does not hold, for this reason.
    pub fn fail(&self, name: &str, reason: impl Into<String>) {
        self.set(name, Err(reason.into()));
    }

    /// The condition no longer matters.
    pub fn clear(&self, name: &str) {
        let name = format!("{}{name}", self.scope);
        self.state
            .send_if_modified(|state| state.conditions.remove(&name).is_some());
    }

    /// What holds now.
    #[must_use]
    pub fn state(&self) -> ReadinessState {
        self.state.borrow().clone()
    }

    /// Follows the changes (gRPC health does).
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<ReadinessState> {
        self.state.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::Readiness;

    #[test]
    fn nothing_said_is_not_ready() {
        let readiness = Readiness::new();
        assert!(!readiness.state().is_ready());
        assert_eq!(
            readiness.state().missing(),
            ["startup: nothing has reported yet"]
        );
    }

    #[test]
    fn it_names_what_is_missing_until_all_hold() {
        let readiness = Readiness::new();
        readiness.fail("nats", "disconnected");
        readiness.scoped("ingest").fail("startup", "in progress");
        readiness.ok("postgres");
        assert_eq!(
            readiness.state().missing(),
            ["ingest.startup: in progress", "nats: disconnected"]
        );
        readiness.ok("nats");
        readiness.scoped("ingest").clear("startup");
        assert!(readiness.state().is_ready());
        assert!(readiness.state().missing().is_empty());
    }

    #[tokio::test]
    async fn followers_see_changes_and_only_changes() {
        let readiness = Readiness::new();
        readiness.ok("nats");
        let mut follower = readiness.subscribe();
        readiness.ok("nats");
        assert!(!follower.has_changed().unwrap());
        readiness.fail("nats", "disconnected");
        follower.changed().await.unwrap();
        assert!(!follower.borrow().is_ready());
    }
}
