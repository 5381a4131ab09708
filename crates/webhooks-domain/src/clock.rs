//! Time as a dependency. The rules of this crate take the time as an argument; whoever needs to ask
//! for it holds a `Clock`. No clock lives here: the system's is in `webhooks-runtime`, beside the
//! one that tests move by hand.

use std::{fmt, sync::Arc};

/// Tells the time. Cheap to ask (nanoseconds), shared between tasks.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Microseconds since 1970-01-01T00:00:00Z. Wall-clock time: it may stand still or step back
    /// when the machine's clock is set, so differences must be clamped at zero.
    fn now_micros(&self) -> i64;
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now_micros(&self) -> i64 {
        (**self).now_micros()
    }
}
