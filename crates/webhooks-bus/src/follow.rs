//! Following a bucket through outages.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::error::BusError;

/// Calls `follow` again and again until `shutdown`, with a pause in between: a watch ends with the
/// connection, and with the bucket.
pub(crate) fn follow_until<F>(
    shutdown: CancellationToken,
    bucket: &'static str,
    pause: Duration,
    mut follow: impl FnMut() -> F + Send + 'static,
) where
    F: Future<Output = Result<(), BusError>> + Send + 'static,
{
    #[expect(
        clippy::disallowed_methods,
        reason = "ends with its token; failures repeat inside"
    )]
    tokio::spawn(async move {
        shutdown
            .run_until_cancelled(async {
                loop {
                    if let Err(error) = follow().await {
                        tracing::debug!(%error, bucket, "not followed at the moment");
                    }
                    tokio::time::sleep(pause).await;
                }
            })
            .await;
    });
}
