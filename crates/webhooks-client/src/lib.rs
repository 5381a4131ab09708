//! `webhooks-client`: `linkbreakers.webhooks.v1` for programs in Rust.
//!
//! ```no_run
//! use futures::StreamExt as _;
//! use webhooks_client::{Client, Options, v1};
//!
//! # async fn example() -> Result<(), webhooks_client::Error> {
//! let client = Client::new(Options::new("https://webhooks.example.com:8443", "lbk_live_…"))?;
//! let made = client
//!     .create_webhook(v1::CreateWebhookRequest {
//!         name: "CRM".to_owned(),
//!         endpoint_url: "https://crm.example.com/hook".to_owned(),
//!         ..Default::default()
//!     })
//!     .await?;
//! println!("the signing secret, shown this once: {}", made.secret);
//! let mut all = std::pin::pin!(client.webhooks(v1::ListWebhooksRequest::default()));
//! while let Some(webhook) = all.next().await {
//!     println!("{}", webhook?.name);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What it adds to the generated code
//! - The token, and TLS with the system's authorities, one's own, or a certificate of the client's.
//! - A deadline for every call, told to the server too, tries and pauses included.
//! - Calls are repeated while the server is `UNAVAILABLE`, where that is safe: those that look, those
//!   of which a second one changes nothing, and those that make something and carry an idempotency
//!   key, a random one where the caller gave none. (That key ends with the call: a program that is to
//!   repeat across its own restarts chooses and keeps the key itself.)
//! - Lists as streams, page by page.
//!
//! # What it does not do
//! Rate limits (`RESOURCE_EXHAUSTED`) are told, with the time to wait, and not waited for. A tail that
//! breaks ends with the error: what happens until the next one is open is in history.

mod calls;
mod error;
mod lists;
mod options;
mod retry;

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tonic::{
    Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    transport::Channel,
};

pub use webhooks_proto::v1;

pub use self::{
    error::{Error, Refusal, Violation},
    options::{DEADLINE, MAX_TRIES, Options, Tls},
};

/// Largest answer, in bytes: a page of a thousand webhooks is far smaller.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// A client of one address with one token. Cheap to clone; clones share the connection.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
    shared: Arc<Shared>,
}

struct Shared {
    authorization: MetadataValue<Ascii>,
    deadline: Duration,
    tries: u32,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    /// A client that connects with its first call, and again whenever it has to. Call it inside a
    /// tokio runtime.
    ///
    /// # Errors
    /// The address, the token or a certificate cannot be used.
    pub fn new(options: Options) -> Result<Self, Error> {
        let mut authorization: MetadataValue<Ascii> = format!("Bearer {}", options.token)
            .parse()
            .map_err(|_| Error::Token)?;
        authorization.set_sensitive(true);
        Ok(Self {
            shared: Arc::new(Shared {
                authorization,
                deadline: options.deadline,
                tries: options.tries.clamp(1, MAX_TRIES),
            }),
            channel: options.endpoint()?.connect_lazy(),
        })
    }

    fn request<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        let authorization = self.shared.authorization.clone();
        request
            .metadata_mut()
            .insert("authorization", authorization);
        request
    }

    /// Sends until it is answered, refused, or the deadline is over.
    async fn repeat<M, A, F>(
        &self,
        message: M,
        mut send: impl FnMut(Request<M>) -> F,
    ) -> Result<A, Error>
    where
        M: Clone,
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let end = Instant::now() + self.shared.deadline;
        let mut tries = 0;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let mut request = self.request(message.clone());
            request.set_timeout(left);
            tries += 1;
            let refusal = match tokio::time::timeout_at(end, send(request)).await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                // Whoever notices first that the time is over, it is over.
                Ok(Err(status)) if Instant::now() < end => Refusal::of(status, tries),
                _ => return Err(Refusal::too_late(tries).into()),
            };
            let left = end.saturating_duration_since(Instant::now());
            match retry::pause(&refusal, self.shared.tries, left, rand::random()) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(refusal.into()),
            }
        }
    }
}
