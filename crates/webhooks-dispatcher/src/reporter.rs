//! Attempt reports: in batches over gRPC, and onto the REPORTS stream while management is away.
//!
//! A report counts as recorded when management has committed it or the stream has acknowledged it;
//! only then is the delivery's message acknowledged. A lone report goes at once. The next call keeps
//! its distance from the one before it, and takes along what has come meanwhile: a call costs
//! management and PostgreSQL a transaction, whatever is in it, and nobody waits for the reports of most
//! attempts. What somebody waits for (the next delivery in an endpoint's order, whoever ends one
//! delivery after another) hurries.
//!
//! Only what management says about a report itself (its arguments are invalid) makes a dead letter of
//! it, and only when it is alone; whatever else comes back, also that a resource is exhausted (which
//! the HTTP/2 layer says of a connection, too), is a reason to spool. A batch whose handling panics is
//! handed on again, each report alone; one that panics alone each time is kept as a dead letter.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use futures::{
    FutureExt as _,
    future::{BoxFuture, join_all},
};
use prost::Message as _;
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::Instant,
};
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};
use uuid::Uuid;
use webhooks_bus::{Bus, Outgoing, PublishError, names, subjects};
use webhooks_proto::internal::v1::{
    DeadLetter, DeliveryReport, RecordedDelivery, RecordedRequest, ReportRequest,
    report_service_client::ReportServiceClient,
};
use webhooks_runtime::{Clock, Secret, tls::GrpcClientTls};

use crate::panics;

/// Reports of one call.
const MAX_BATCH: usize = 500;

/// Calls under way at a time.
const CALLS: usize = 4;

/// Least time between the beginnings of two calls, unless there are [`ENOUGH`] reports for the next one.
/// What a process that is killed has sent and not yet recorded is sent again: some 25 ms more of it.
const APART: Duration = Duration::from_millis(25);

/// Reports that make a call worth while at once.
const ENOUGH: usize = 100;

/// Reports that wait; beyond that attempts wait to be recorded.
const QUEUE: usize = 8_192;

/// How long a call may take before its reports are spooled.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long reports go straight to the spool after a call has failed.
const SPOOL_FOR: Duration = Duration::from_secs(1);

/// How long the question after recorded deliveries may take, each time it is asked, before we go on
/// without an answer. What is sent for want of one may have been sent before.
const LOOKUPS: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(2),
];

/// Pause before the question is asked again.
const LOOKUP_PAUSE: Duration = Duration::from_millis(100);

/// How long one try to spool a report may take.
const SPOOL_WITHIN: Duration = Duration::from_secs(10);

/// Pause before a report whose handling panicked is handed on again.
const PANIC_PAUSE: Duration = Duration::from_millis(500);

/// Largest answer or call.
const MAX_MESSAGE: usize = 8 * 1024 * 1024;

struct Waiting {
    report: Arc<DeliveryReport>,
    haste: Haste,
    done: oneshot::Sender<()>,
}

/// Whether somebody waits for a report to be durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Haste {
    /// Nobody does: it goes with others.
    None,
    /// Somebody does: it goes with the next call that there is a place for.
    Awaited,
}

/// Where reports go.
trait Destination: Send + Sync + 'static {
    /// Hands reports to management.
    fn call(&self, reports: Vec<DeliveryReport>) -> BoxFuture<'_, Result<(), Status>>;

    /// Keeps one on the spool.
    fn spool<'a>(&'a self, report: &'a DeliveryReport) -> BoxFuture<'a, Result<(), PublishError>>;

    /// Keeps one as a dead letter.
    fn bury<'a>(
        &'a self,
        report: &'a DeliveryReport,
        reason: &'static str,
    ) -> BoxFuture<'a, Result<(), PublishError>>;
}

/// Management, and the bus while it is away.
struct Outside {
    client: ReportServiceClient<Channel>,
    token: MetadataValue<Ascii>,
    bus: Bus,
    clock: Arc<dyn Clock>,
}

/// Hands reports on. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Reporter {
    outside: Arc<Outside>,
    queue: Queue<Outside>,
}

struct Queue<D> {
    sender: mpsc::Sender<Waiting>,
    shared: Arc<Shared<D>>,
}

impl<D> Clone for Queue<D> {
    fn clone(&self) -> Self {
        Self {
            sender: self.sender.clone(),
            shared: self.shared.clone(),
        }
    }
}

struct Shared<D> {
    destination: Arc<D>,
    /// By the clock that never jumps; `None` = no call has failed.
    spool_until: Mutex<Option<Instant>>,
}

impl Reporter {
    /// A reporter and the loop that works for it; the loop ends when every clone is gone.
    ///
    /// # Errors
    /// When the address or token cannot be used.
    pub(crate) fn new(
        bus: &Bus,
        url: &str,
        tls: &GrpcClientTls,
        token: &Secret,
        clock: Arc<dyn Clock>,
    ) -> anyhow::Result<(Self, impl Future<Output = ()> + Send + 'static)> {
        let mut endpoint = Endpoint::from_shared(url.to_owned())?;
        if url.starts_with("https://") {
            endpoint = endpoint
                .tls_config(tls.config())
                .context("cannot use WEBHOOKS_MANAGEMENT_GRPC_TLS_CERT")?;
        }
        let channel = endpoint
            .connect_timeout(Duration::from_secs(2))
            .timeout(CALL_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_while_idle(true)
            .connect_lazy();
        let client = ReportServiceClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let token = format!("Bearer {}", token.expose()).parse()?;
        let outside = Arc::new(Outside {
            client,
            token,
            bus: bus.clone(),
            clock,
        });
        let (queue, running) = Queue::new(outside.clone());
        Ok((Self { outside, queue }, running))
    }

    /// Returns when the report is durable. Waits through any outage.
    pub(crate) async fn record(&self, report: DeliveryReport) {
        self.record_in(Haste::Awaited, report).await;
    }

    /// The same, in haste or not.
    pub(crate) async fn record_in(&self, haste: Haste, report: DeliveryReport) {
        self.queue.record(haste, report).await;
    }

    /// What is recorded of these deliveries; nothing when management is not there, or does not say in
    /// some five seconds.
    pub(crate) async fn recorded(&self, deliveries: &[Uuid]) -> Vec<RecordedDelivery> {
        let ids: Vec<_> = deliveries
            .iter()
            .map(|id| bytes::Bytes::copy_from_slice(id.as_bytes()))
            .collect();
        let outside = self.outside.clone();
        ask_patiently(move |patience| {
            let message = RecordedRequest {
                delivery_ids: ids.clone(),
            };
            let mut request = outside.request(message);
            request.set_timeout(patience);
            let mut client = outside.client.clone();
            async move { client.recorded(request).await }
        })
        .await
        .map(|answer| answer.into_inner().deliveries)
        .unwrap_or_default()
    }
}

/// Asks until there is an answer: see [`LOOKUPS`]. Gives up at once where nobody is.
async fn ask_patiently<T, F>(ask: impl Fn(Duration) -> F) -> Option<T>
where
    F: Future<Output = Result<T, Status>>,
{
    for patience in LOOKUPS {
        match tokio::time::timeout(patience, ask(patience)).await {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(status)) if status.code() == Code::Unavailable => {
                tracing::debug!("recorded deliveries unknown: management is away");
                return None;
            }
            Ok(Err(status)) => {
                tracing::debug!(code = ?status.code(), "recorded deliveries not told yet");
                tokio::time::sleep(LOOKUP_PAUSE).await;
            }
            Err(_) => tracing::debug!(?patience, "recorded deliveries not told in time"),
        }
    }
    tracing::warn!("recorded deliveries unknown: what may have been sent is sent again");
    None
}

impl<D: Destination> Queue<D> {
    fn new(destination: Arc<D>) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let shared = Arc::new(Shared {
            destination,
            spool_until: Mutex::default(),
        });
        let (sender, receiver) = mpsc::channel(QUEUE);
        let queue = Self {
            sender,
            shared: shared.clone(),
        };
        (queue, run(shared, receiver))
    }

    async fn record(&self, haste: Haste, report: DeliveryReport) {
        let report = Arc::new(report);
        let (done, recorded) = oneshot::channel();
        let waiting = Waiting {
            report: report.clone(),
            haste,
            done,
        };
        if self.sender.send(waiting).await.is_err() {
            // Only at the very end of the process: the message stays unacknowledged then.
            return std::future::pending().await;
        }
        if recorded.await.is_ok() {
            return;
        }
        // Whoever had it panicked, over this report or another of its batch.
        for _ in 0..panics::TRIES {
            metrics::counter!("webhooks_report_panics_total").increment(1);
            tracing::error!(report = report_id(&report), "report.panicked");
            let (done, _) = oneshot::channel();
            let alone = vec![Waiting {
                report: report.clone(),
                haste,
                done,
            }];
            let delivered = AssertUnwindSafe(self.shared.deliver(alone)).catch_unwind();
            if delivered.await.is_ok() {
                return;
            }
            tokio::time::sleep(PANIC_PAUSE).await;
        }
        self.shared
            .put_aside(&report, Some("report_panicked"))
            .await;
    }
}

async fn run<D: Destination>(shared: Arc<Shared<D>>, mut queue: mpsc::Receiver<Waiting>) {
    let places = Arc::new(Semaphore::new(CALLS));
    let mut batch = Vec::new();
    let mut next_call = Instant::now();
    while let Ok(place) = places.clone().acquire_owned().await {
        gather(&mut queue, &mut batch, next_call).await;
        if batch.is_empty() {
            break;
        }
        next_call = Instant::now() + APART;
        let (shared, waiting) = (shared.clone(), std::mem::take(&mut batch));
        #[expect(
            clippy::disallowed_methods,
            reason = "bounded by its place; the loop below waits for all of them"
        )]
        tokio::spawn(async move {
            shared.deliver(waiting).await;
            drop(place);
        });
    }
    // All places back: everything has been handed on.
    let all = places.acquire_many(u32::try_from(CALLS).unwrap_or(1)).await;
    tracing::debug!(complete = all.is_ok(), "reporter.ended");
}

/// Waits for reports, and from the first on until `next_call` for more of them. None = no more come.
async fn gather(queue: &mut mpsc::Receiver<Waiting>, batch: &mut Vec<Waiting>, next_call: Instant) {
    let mut came = queue.recv_many(batch, MAX_BATCH).await;
    while came > 0 && batch.len() < ENOUGH {
        let new = batch.iter().rev().take(came);
        if new.map(|one| one.haste).any(|haste| haste != Haste::None) {
            return;
        }
        let room = MAX_BATCH - batch.len();
        let more = queue.recv_many(batch, room);
        came = tokio::time::timeout_at(next_call, more).await.unwrap_or(0);
    }
}

impl Outside {
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request
            .metadata_mut()
            .insert("authorization", self.token.clone());
        request
    }
}

impl Destination for Outside {
    fn call(&self, reports: Vec<DeliveryReport>) -> BoxFuture<'_, Result<(), Status>> {
        let request = self.request(ReportRequest { reports });
        let mut client = self.client.clone();
        async move { client.report(request).await.map(drop) }.boxed()
    }

    fn spool<'a>(&'a self, report: &'a DeliveryReport) -> BoxFuture<'a, Result<(), PublishError>> {
        let bytes = report.encode_to_vec().into();
        let message = Outgoing::new(subjects::report(0), &report_id(report), bytes);
        async move { self.bus.publish(message, SPOOL_WITHIN).await.map(drop) }.boxed()
    }

    fn bury<'a>(
        &'a self,
        report: &'a DeliveryReport,
        reason: &'static str,
    ) -> BoxFuture<'a, Result<(), PublishError>> {
        let letter = letter_of(report, reason, self.clock.now_micros());
        self.bus.bury(letter).boxed()
    }
}

/// A report as a dead letter, which can be sent on its way again by way of the spool.
fn letter_of(report: &DeliveryReport, reason: &str, now_micros: i64) -> DeadLetter {
    let id = report_id(report);
    DeadLetter {
        source: "dispatcher".to_owned(),
        reason: reason.to_owned(),
        detail: id.clone(),
        payload: report.encode_to_vec().into(),
        at: now_micros,
        // It never was on the stream; its id keeps the letters of two reports apart.
        stream: format!("{} {id}", names::REPORTS),
        subject: subjects::report(0),
        ..DeadLetter::default()
    }
}

impl<D: Destination> Shared<D> {
    fn spool_until(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.spool_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a call has failed a moment ago.
    fn spools(&self) -> bool {
        self.spool_until()
            .is_some_and(|until| Instant::now() < until)
    }

    /// Hands a batch on; resolves its reports when they are durable. A batch that is refused is
    /// halved until the one bad report is alone: the others must not share its fate.
    fn deliver(&self, mut waiting: Vec<Waiting>) -> BoxFuture<'_, ()> {
        async move {
            let count = waiting.len();
            let reports = waiting.iter().map(|waiting| DeliveryReport::clone(&waiting.report));
            let spooling = self.spools();
            let called = if spooling {
                Err(Status::unavailable("failed a moment ago"))
            } else {
                self.destination.call(reports.collect()).await
            };
            match called {
                Ok(()) => {
                    metrics::counter!("webhooks_reports_total", "way" => "grpc").increment(count as u64);
                }
                Err(status) => {
                    let refused = matches!(status.code(), Code::InvalidArgument | Code::OutOfRange);
                    if refused && count > 1 {
                        let rest = waiting.split_off(count / 2);
                        self.deliver(waiting).await;
                        return self.deliver(rest).await;
                    }
                    if !spooling && !refused {
                        tracing::warn!(code = ?status.code(), reason = status.message(), reports = count, "reports.spooled");
                        *self.spool_until() = Some(Instant::now() + SPOOL_FOR);
                    }
                    let bury = refused.then_some("report_refused");
                    join_all(waiting.iter().map(|waiting| self.put_aside(&waiting.report, bury))).await;
                    metrics::counter!("webhooks_reports_total", "way" => "spool").increment(count as u64);
                }
            }
            for waiting in waiting {
                // A caller that is gone has ended with its process's drain.
                waiting.done.send(()).ok();
            }
        }
        .boxed()
    }

    /// Spools one report, or buries it with a reason when management would never take it. Until it is
    /// durable.
    async fn put_aside(&self, report: &DeliveryReport, bury: Option<&'static str>) {
        loop {
            let result = match bury {
                Some(reason) => self.destination.bury(report, reason).await,
                None => self.destination.spool(report).await,
            };
            match result {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(%error, "report not durable yet");
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
        }
    }
}

/// Identifies a report on the spool: delivery, execution, state.
fn report_id(report: &DeliveryReport) -> String {
    let hex = |bytes: &[u8]| {
        Uuid::from_slice(bytes)
            .unwrap_or_default()
            .simple()
            .to_string()
    };
    let delivery = report
        .delivery
        .as_ref()
        .map(|d| hex(&d.delivery_id))
        .unwrap_or_default();
    let execution = report
        .attempt
        .as_ref()
        .map(|a| hex(&a.execution_id))
        .unwrap_or_default();
    format!("{delivery}:{execution}:{}:{}", report.state, report.at)
}

#[cfg(test)]
mod tests;
