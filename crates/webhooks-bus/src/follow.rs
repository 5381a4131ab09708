//! Following a bucket through outages.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::{bus::Bus, error::BusError};

/// Calls `follow` again and again until `shutdown`, with a pause in between: a watch ends with the
/// bucket. With a new connection it begins anew: the server may have begun anew and forgotten the watch,
/// which the client misses only after 10 s and more.
pub(crate) fn follow_until<F>(
    bus: &Bus,
    shutdown: CancellationToken,
    bucket: &'static str,
    pause: Duration,
    mut follow: impl FnMut() -> F + Send + 'static,
) where
    F: Future<Output = Result<(), BusError>> + Send + 'static,
{
    let mut connections = bus.connections();
    #[expect(
        clippy::disallowed_methods,
        reason = "ends with its token; failures repeat inside"
    )]
    tokio::spawn(async move {
        shutdown
            .run_until_cancelled(async {
                loop {
                    let ended = tokio::select! {
                        ended = follow() => ended,
                        _ = connections.changed() => Ok(()),
                    };
                    if let Err(error) = ended {
                        tracing::debug!(%error, bucket, "not followed at the moment");
                    }
                    tokio::time::sleep(pause).await;
                }
            })
            .await;
    });
}
