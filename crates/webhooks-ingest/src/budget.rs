//! The memory that everything being handled may take together, whichever door it came through.
//!
//! HTTP takes its share as a body arrives. gRPC assembles messages before a handler sees them, so there
//! the share is taken underneath, frame by frame, and is given back when the call is answered; a stream of
//! events gives back each event's part as soon as that is judged, so a long stream needs no more than
//! its window.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Status, body::Body, server::NamedService};
use tower::Service;

use crate::{grpc::in_our_words, refusal::RefusalKind};

/// Bodies are counted in blocks of this size.
pub(crate) const BLOCK_BYTES: usize = 64 * 1024;

/// The memory of all bodies being handled at once, unless set otherwise: 128 MiB.
pub const BODY_MEMORY: usize = 128 * 1024 * 1024;

/// A budget of so many bytes.
pub(crate) fn budget_of(bytes: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(bytes.div_ceil(BLOCK_BYTES)))
}

/// What one call holds of the budget.
#[derive(Debug, Clone)]
pub(crate) struct CallShare {
    budget: Arc<Semaphore>,
    held: Arc<Mutex<Held>>,
}

#[derive(Debug, Default)]
struct Held {
    bytes: usize,
    blocks: Option<OwnedSemaphorePermit>,
}

impl CallShare {
    fn new(budget: &Arc<Semaphore>) -> Self {
        Self {
            budget: budget.clone(),
            held: Arc::default(),
        }
    }

    /// Takes so many bytes more; false when there is no room for them now.
    fn take(&self, bytes: usize) -> bool {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let now = held.bytes.saturating_add(bytes);
        let have = held
            .blocks
            .as_ref()
            .map_or(0, OwnedSemaphorePermit::num_permits);
        let more = now.div_ceil(BLOCK_BYTES).saturating_sub(have);
        if more > 0 {
            let more = u32::try_from(more).unwrap_or(u32::MAX);
            let Ok(permit) = self.budget.clone().try_acquire_many_owned(more) else {
                return false;
            };
            match &mut held.blocks {
                Some(blocks) => blocks.merge(permit),
                none => *none = Some(permit),
            }
        }
        held.bytes = now;
        true
    }

    /// Gives so many bytes back.
    pub(crate) fn give_back(&self, bytes: usize) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.bytes = held.bytes.saturating_sub(bytes);
        let needed = held.bytes.div_ceil(BLOCK_BYTES);
        if let Some(blocks) = &mut held.blocks {
            let surplus = blocks.num_permits().saturating_sub(needed);
            drop(blocks.split(surplus));
        }
    }
}

/// A gRPC service whose requests are counted.
#[derive(Debug, Clone)]
pub(crate) struct Budgeted<S> {
    inner: S,
    budget: Arc<Semaphore>,
}

impl<S> Budgeted<S> {
    pub(crate) fn new(inner: S, budget: Arc<Semaphore>) -> Self {
        Self { inner, budget }
    }
}

impl<S: NamedService> NamedService for Budgeted<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<axum::http::Request<Body>> for Budgeted<S>
where
    S: Service<axum::http::Request<Body>, Response = axum::http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: axum::http::Request<Body>) -> Self::Future {
        let share = CallShare::new(&self.budget);
        let mut request = request.map(|body| {
            Body::new(Counted {
                body,
                share: share.clone(),
            })
        });
        request.extensions_mut().insert(share.clone());
        let answering = self.inner.call(request);
        async move {
            let answer = answering.await;
            // Not before: what was read is in the handler's hands until now.
            drop(share);
            answer.map(in_our_words)
        }
        .boxed()
    }
}

/// A body whose frames are counted as they come.
struct Counted {
    body: Body,
    share: CallShare,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && !self.share.take(frame.data_ref().map_or(0, Bytes::len))
        {
            let refused = Status::new(
                RefusalKind::Overloaded.grpc(),
                "too many large requests at this moment",
            );
            return Poll::Ready(Some(Err(refused)));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_grows_and_shrinks_in_blocks_and_ends_with_its_call() {
        let budget = budget_of(4 * BLOCK_BYTES);
        let share = CallShare::new(&budget);
        assert!(share.take(1));
        assert_eq!(budget.available_permits(), 3);
        assert!(share.take(BLOCK_BYTES - 1), "the same block");
        assert_eq!(budget.available_permits(), 3);
        assert!(share.take(2 * BLOCK_BYTES + 1));
        assert_eq!(budget.available_permits(), 0);
        let other = CallShare::new(&budget);
        assert!(!other.take(1));
        share.give_back(2 * BLOCK_BYTES);
        assert_eq!(budget.available_permits(), 2);
        assert!(other.take(1));
        share.give_back(usize::MAX);
        assert_eq!(budget.available_permits(), 3);
        assert!(share.take(BLOCK_BYTES));
        drop((share, other));
        assert_eq!(budget.available_permits(), 4);
    }
}
