//! How long a dial took, TCP and TLS together, told to the attempt that waited for it.
//!
//! A layer around the connector measures; a task-local cell carries the figure over. An attempt that
//! gets a pooled connection while its own dial is still under way leaves that dial to a background
//! task, which has no cell: then nothing is noted, which is right.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;
use tower::{Layer, Service};

tokio::task_local! {
    static DIAL: Cell<Option<Duration>>;
}

/// Runs an attempt; the duration is that of the dial it made, if it made one.
pub(crate) async fn timed<F: Future>(attempt: F) -> (F::Output, Option<Duration>) {
    DIAL.scope(Cell::new(None), async {
        let output = attempt.await;
        (output, DIAL.with(Cell::get))
    })
    .await
}

#[derive(Clone)]
pub(crate) struct DialTimerLayer;

#[derive(Clone)]
pub(crate) struct DialTimer<S>(S);

impl<S> Layer<S> for DialTimerLayer {
    type Service = DialTimer<S>;

    fn layer(&self, inner: S) -> Self::Service {
        DialTimer(inner)
    }
}

impl<S, R> Service<R> for DialTimer<S>
where
    S: Service<R>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, target: R) -> Self::Future {
        let dial = self.0.call(target);
        Box::pin(async move {
            let start = Instant::now();
            let connection = dial.await?;
            // No cell: the attempt went ahead on another connection, and nobody wants the figure.
            DIAL.try_with(|cell| cell.set(Some(start.elapsed()))).ok();
            Ok(connection)
        })
    }
}
