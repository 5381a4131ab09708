//! Opening a connection: TCP to a vetted address, TLS for the URL's host, one budget for both.
//!
//! The dialler is handed a URL's host and resolves it through [`VettingResolver`] alone, so what was
//! judged is what is dialled; afterwards it asks the socket whom it really reached. TLS speaks
//! HTTP/1.1 only (ALPN offers nothing else), which is what makes the whole family of HTTP/2 tricks,
//! from refused streams to rapid resets, impossible to play on us.
//!
//! How long the parts took is told to the attempt that waited for them through a task-local cell. An
//! attempt that gets a pooled connection while its own dial is still under way leaves that dial to a
//! background task, which has no cell: then nothing is noted, which is right.

use std::cell::Cell;
use std::error::Error as StdError;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tower::Service;
use webhooks_domain::endpoint::AddressPolicy;

use crate::diagnose::no_route;
use crate::failure::Failure;
use crate::resolver::{DialFailure, VettingResolver};
use crate::sockets::{Socket, Sockets};
use crate::wire::{Metered, Tap, Wire};

/// How long the parts of a dial took; absent when a part did not happen.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DialTimes {
    pub(crate) connect: Option<Duration>,
    pub(crate) tls: Option<Duration>,
}

tokio::task_local! {
    static DIAL: Cell<DialTimes>;
}

/// Runs an attempt; the times are those of the dial it made, as far as it came.
pub(crate) async fn timed<F: Future>(attempt: F) -> (F::Output, DialTimes) {
    DIAL.scope(Cell::new(DialTimes::default()), async {
        let output = attempt.await;
        (output, DIAL.with(Cell::get))
    })
    .await
}

/// No cell: the attempt went ahead on another connection, and nobody wants the figure.
fn note(times: DialTimes) {
    DIAL.try_with(|cell| cell.set(times)).ok();
}

type BoxError = Box<dyn StdError + Send + Sync>;

/// The connector of one client; cheap to clone.
#[derive(Clone)]
pub(crate) struct Dialler {
    tcp: HttpConnector<VettingResolver>,
    resolver: VettingResolver,
    tls: Arc<ClientConfig>,
    policy: Arc<AddressPolicy>,
    budget: Duration,
    write_patience: Duration,
    sockets: Sockets,
}

impl Dialler {
    /// A dialler with `budget` for TCP and TLS together, whose connections give up when nothing of
    /// what they write is taken for `write_patience`.
    pub(crate) fn new(
        resolver: VettingResolver,
        tls: Arc<ClientConfig>,
        policy: Arc<AddressPolicy>,
        budget: Duration,
        write_patience: Duration,
        sockets: Sockets,
    ) -> Self {
        let mut tcp = HttpConnector::new_with_resolver(resolver.clone());
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        // Shared out among the addresses of a name, so that one black hole does not eat it all.
        tcp.set_connect_timeout(Some(budget));
        Self {
            tcp,
            resolver,
            tls,
            policy,
            budget,
            write_patience,
            sockets,
        }
    }

    /// A permit for the socket. Whoever gets none in time has met a limit of ours.
    async fn socket(&self) -> Result<Socket, BoxError> {
        let patience = self.budget.min(self.write_patience / 2);
        match timeout(patience, self.sockets.take()).await {
            Ok(socket) => Ok(socket),
            Err(_) => {
                tracing::warn!(
                    sockets = self.sockets.allowed(),
                    "no socket free for an attempt"
                );
                Err(DialFailure(Failure::Internal).into())
            }
        }
    }

    async fn dial(mut self, uri: Uri, socket: Socket) -> Result<TokioIo<Wire>, BoxError> {
        let start = Instant::now();
        let secure = uri.scheme() == Some(&http::uri::Scheme::HTTPS);
        let host = server_name(&uri)?;
        let stream = match self.tcp.call(uri).await {
            Ok(stream) => stream.into_inner(),
            Err(error) if no_route(&error) && self.resolver.network_is_down().await => {
                return Err(DialFailure(Failure::Internal).into());
            }
            Err(error) => return Err(error.into()),
        };
        let mut times = DialTimes {
            connect: Some(start.elapsed()),
            tls: None,
        };
        note(times);
        let remote = stream.peer_addr()?;
        if self.policy.vet_address(remote.ip()).is_err() {
            // Cannot happen while resolver and literal check do their work.
            tracing::error!(%remote, "a forbidden address was dialled");
            return Err(DialFailure(Failure::Internal).into());
        }
        let tap = Tap::new(remote);
        let stream = Metered::new(stream, tap.clone(), self.write_patience, socket);
        if !secure {
            return Ok(TokioIo::new(Wire::plain(stream, tap)));
        }
        let handshake = Instant::now();
        let stream = TlsConnector::from(self.tls).connect(host, stream).await?;
        tap.head_begins();
        times.tls = Some(handshake.elapsed());
        note(times);
        Ok(TokioIo::new(Wire::tls(stream, tap)))
    }
}

/// The name the certificate must be for: the URL's host, which has no trailing dot.
fn server_name(uri: &Uri) -> Result<ServerName<'static>, BoxError> {
    let host = uri.host().unwrap_or_default();
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    Ok(ServerName::try_from(host.to_owned())?)
}

impl Service<Uri> for Dialler {
    type Response = TokioIo<Wire>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let dialler = self.clone();
        Box::pin(async move {
            let socket = dialler.socket().await?;
            let budget = dialler.budget;
            timeout(budget, dialler.dial(uri, socket))
                .await
                .unwrap_or_else(|_| Err(DialFailure(Failure::ConnectTimeout).into()))
        })
    }
}
