//! What a stack is made of.

use std::fmt;

use webhooks_bus::permissions::Role;

/// A process of a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Takes events.
    Ingest,
    /// Makes deliveries.
    Fanout,
    /// Sends them; numbered from 1.
    Dispatcher(u16),
    /// The API and the history.
    Management,
    /// nats-server; of a cluster, the first node.
    Nats,
    /// A further node of a cluster; numbered from 2.
    NatsPeer(u16),
    /// PostgreSQL.
    Postgres,
}

impl Part {
    /// The service's program.
    pub(super) fn program(self) -> &'static str {
        match self {
            Self::Ingest => "webhooks-ingest",
            Self::Fanout => "webhooks-fanout",
            Self::Dispatcher(_) => "webhooks-dispatcher",
            Self::Management => "webhooks-management",
            Self::Nats | Self::NatsPeer(_) => "nats-server",
            Self::Postgres => "postgres",
        }
    }

    /// Who the service is to NATS.
    pub(super) fn role(self) -> Option<Role> {
        match self {
            Self::Ingest => Some(Role::Ingest),
            Self::Fanout => Some(Role::Fanout),
            Self::Dispatcher(_) => Some(Role::Dispatcher),
            Self::Management => Some(Role::Management),
            Self::Nats | Self::NatsPeer(_) | Self::Postgres => None,
        }
    }

    /// Whether it sends requests.
    #[must_use]
    pub fn is_dispatcher(self) -> bool {
        matches!(self, Self::Dispatcher(_))
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ingest => f.write_str("ingest"),
            Self::Fanout => f.write_str("fanout"),
            Self::Dispatcher(number) => write!(f, "dispatcher-{number}"),
            Self::Management => f.write_str("management"),
            Self::Nats => f.write_str("nats"),
            Self::NatsPeer(number) => write!(f, "nats-{number}"),
            Self::Postgres => f.write_str("postgres"),
        }
    }
}
