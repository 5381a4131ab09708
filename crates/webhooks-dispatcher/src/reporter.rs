//! Attempt reports: in batches over gRPC, and onto the REPORTS stream while management is away.
//!
//! A report counts as recorded when management has committed it or the stream has acknowledged it;
//! only then is the delivery's message acknowledged. Batches form by themselves: what arrives
//! while a call is under way goes with the next one, so a lone report waits for nothing.

use std::{
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
use webhooks_bus::{Bus, Outgoing, subjects};
use webhooks_proto::internal::v1::{
    DeadLetter, DeliveryReport, RecordedDelivery, RecordedRequest, ReportRequest,
    report_service_client::ReportServiceClient,
};
use webhooks_runtime::{Clock, Secret, tls::GrpcClientTls};

/// Reports of one call.
const MAX_BATCH: usize = 500;

/// Calls under way at a time.
const CALLS: usize = 4;

/// Reports that wait; beyond that attempts wait to be recorded.
const QUEUE: usize = 8_192;

/// How long a call may take before its reports are spooled.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long reports go straight to the spool after a call has failed.
const SPOOL_FOR: Duration = Duration::from_secs(1);

/// How long the question after recorded deliveries may take before we go on without an answer.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(1);

/// Largest answer or call.
const MAX_MESSAGE: usize = 8 * 1024 * 1024;

struct Waiting {
    report: DeliveryReport,
    done: oneshot::Sender<()>,
}

/// Hands reports on. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Reporter {
    queue: mpsc::Sender<Waiting>,
    shared: Arc<Shared>,
}

struct Shared {
    client: ReportServiceClient<Channel>,
    token: MetadataValue<Ascii>,
    bus: Bus,
    clock: Arc<dyn Clock>,
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
        let shared = Arc::new(Shared {
            client,
            token,
            bus: bus.clone(),
            clock,
            spool_until: Mutex::default(),
        });
        let (queue, receiver) = mpsc::channel(QUEUE);
        Ok((
            Self {
                queue,
                shared: shared.clone(),
            },
            run(shared, receiver),
        ))
    }

    /// Returns when the report is durable. Waits through any outage.
    pub(crate) async fn record(&self, report: DeliveryReport) {
        let (done, recorded) = oneshot::channel();
        if self.queue.send(Waiting { report, done }).await.is_err() || recorded.await.is_err() {
            // Only at the very end of the process: the message stays unacknowledged then.
            std::future::pending::<()>().await;
        }
    }

    /// What is recorded of these deliveries; nothing when management does not say in time.
    pub(crate) async fn recorded(&self, deliveries: &[Uuid]) -> Vec<RecordedDelivery> {
        let ids = deliveries
            .iter()
            .map(|id| bytes::Bytes::copy_from_slice(id.as_bytes()))
            .collect();
        let mut request = self.shared.request(RecordedRequest { delivery_ids: ids });
        request.set_timeout(LOOKUP_TIMEOUT);
        let mut client = self.shared.client.clone();
        match tokio::time::timeout(LOOKUP_TIMEOUT, client.recorded(request)).await {
            Ok(Ok(answer)) => answer.into_inner().deliveries,
            Ok(Err(status)) => {
                tracing::debug!(code = ?status.code(), "recorded deliveries unknown");
                Vec::new()
            }
            Err(_) => Vec::new(),
        }
    }
}

async fn run(shared: Arc<Shared>, mut queue: mpsc::Receiver<Waiting>) {
    let places = Arc::new(Semaphore::new(CALLS));
    let mut batch = Vec::new();
    while let Ok(place) = places.clone().acquire_owned().await {
        if queue.recv_many(&mut batch, MAX_BATCH).await == 0 {
            break;
        }
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

impl Shared {
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request
            .metadata_mut()
            .insert("authorization", self.token.clone());
        request
    }

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
            let reports: Vec<_> = waiting.iter().map(|waiting| waiting.report.clone()).collect();
            let spooling = self.spools();
            let called = if spooling {
                Err(Status::unavailable("failed a moment ago"))
            } else {
                let request = self.request(ReportRequest { reports });
                self.client.clone().report(request).await.map(|_| ())
            };
            match called {
                Ok(()) => {
                    metrics::counter!("webhooks_reports_total", "way" => "grpc").increment(count as u64);
                }
                Err(status) => {
                    let refused = matches!(status.code(), Code::InvalidArgument | Code::OutOfRange | Code::ResourceExhausted);
                    if refused && count > 1 {
                        let rest = waiting.split_off(count / 2);
                        self.deliver(waiting).await;
                        return self.deliver(rest).await;
                    }
                    if !spooling && !refused {
                        tracing::warn!(code = ?status.code(), reason = status.message(), reports = count, "reports.spooled");
                        *self.spool_until() = Some(Instant::now() + SPOOL_FOR);
                    }
                    join_all(waiting.iter().map(|waiting| self.put_aside(&waiting.report, refused))).await;
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

    /// Spools one report, or buries it when management would never take it. Until it is durable.
    async fn put_aside(&self, report: &DeliveryReport, refused: bool) {
        let bytes: bytes::Bytes = report.encode_to_vec().into();
        let id = report_id(report);
        loop {
            let result = if refused {
                let letter = DeadLetter {
                    source: "dispatcher".to_owned(),
                    reason: "report_refused".to_owned(),
                    detail: id.clone(),
                    payload: bytes.clone(),
                    at: self.clock.now_micros(),
                    stream: id.clone(),
                    ..DeadLetter::default()
                };
                self.bus.bury(letter).await
            } else {
                let message = Outgoing::new(subjects::report(0), &id, bytes.clone());
                self.bus
                    .publish(message, Duration::from_secs(10))
                    .await
                    .map(|_| ())
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
