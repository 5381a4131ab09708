//! How many connections each of the two addresses takes.

use std::time::Duration;

use webhooks_runtime::connections::Limits;

/// Most connections at once at each of the two addresses; more wait in the listener's queue.
const MAX_CONNECTIONS: usize = 4_096;

/// How long a connection may take until it is clear what it speaks.
const SPEAKS_WITHIN: Duration = Duration::from_secs(30);

/// What each of the two listeners allows.
pub(crate) const LIMITS: Limits = Limits {
    connections: MAX_CONNECTIONS,
    speaks_within: Some(SPEAKS_WITHIN),
};
