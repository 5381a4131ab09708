//! Reports into history, by two ways: gRPC calls, and the spool that dispatchers fill while
//! management is away.
//!
//! Calls that arrive while a batch is being committed are put together into the next one (a group
//! commit): at rest a call costs one transaction and waits for nothing, under load many calls share
//! one. Records that the store refuses for good fail only the call that brought them.

use std::sync::Arc;

use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use webhooks_bus::names;
use webhooks_proto::internal::v1::DeliveryReport;
use webhooks_runtime::error_chain;
use webhooks_store::{MAX_REPORTS, ReportRecord, Store, StoreError};

use super::{
    Surroundings,
    consume::{BATCH, Source, Taken},
};
use crate::{
    model::report_record,
    service::{Challenges, TailHub},
};

const SPOOL: Source = Source {
    stream: names::REPORTS,
    consumer: names::REPORTS_CONSUMER,
};

/// Calls that wait for their commit; more wait at the door.
const WAITING_CALLS: usize = 256;

/// Drains the spool until shutdown.
pub(super) async fn drain_spool(around: Surroundings) -> anyhow::Result<()> {
    let mut pull = SPOOL.open(&around);
    loop {
        let next = around
            .shutdown
            .run_until_cancelled(pull.next_batch(BATCH))
            .await;
        let Some(messages) = next else { return Ok(()) };
        let mut batch = Vec::with_capacity(messages.len());
        for message in messages {
            let record = DeliveryReport::decode(message.payload.clone())
                .map_err(|error| error.to_string())
                .and_then(|report| report_record(report).map_err(|error| error.to_string()));
            match record {
                Ok(value) => batch.push(Taken { value, message }),
                Err(detail) => SPOOL.bury(&around, &message, "undecodable", &detail).await,
            }
        }
        let (store, tail, challenges) = (&around.store, &around.tail, &around.challenges);
        if !SPOOL
            .commit(&around, batch, |records| async move {
                keep(store, challenges, &records).await?;
                tail.told(&records);
                Ok(())
            })
            .await
        {
            return Ok(());
        }
    }
}

/// Stores reports, and what answers to challenges among them mean. Whoever brought them repeats them
/// unless all of it is done, so that no answer is lost; done twice, it is done once.
async fn keep(
    store: &Store,
    challenges: &Challenges,
    records: &[ReportRecord],
) -> Result<(), StoreError> {
    store.record_reports(records).await?;
    challenges.heard(records).await
}

/// Why reports were not stored.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum ReportError {
    /// Try again, or spool them.
    #[error("the store is not available")]
    Unavailable,
    /// The store refuses them, whenever they come.
    #[error("the store refuses the reports: {0}")]
    Refused(String),
}

struct Call {
    records: Vec<ReportRecord>,
    answer: oneshot::Sender<Result<(), ReportError>>,
}

/// Puts concurrent calls together. Clones share one queue.
#[derive(Clone)]
pub(crate) struct ReportBatcher {
    calls: mpsc::Sender<Call>,
}

impl ReportBatcher {
    /// The batcher, and the loop that has to be run for it.
    pub(crate) fn new(
        store: Store,
        tail: TailHub,
        challenges: Challenges,
        stop: CancellationToken,
    ) -> (
        Self,
        impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        let (calls, queue) = mpsc::channel(WAITING_CALLS);
        (Self { calls }, work(store, tail, challenges, queue, stop))
    }

    /// Stores reports (at most [`MAX_REPORTS`]); answers after the commit.
    pub(crate) async fn store(&self, records: Vec<ReportRecord>) -> Result<(), ReportError> {
        if records.is_empty() {
            return Ok(());
        }
        let (answer, answered) = oneshot::channel();
        let sent = self.calls.send(Call { records, answer }).await;
        sent.map_err(|_| ReportError::Unavailable)?;
        answered.await.unwrap_or(Err(ReportError::Unavailable))
    }
}

async fn work(
    store: Store,
    tail: TailHub,
    challenges: Challenges,
    mut queue: mpsc::Receiver<Call>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut left_over: Option<Call> = None;
    loop {
        let first = match left_over.take() {
            Some(call) => call,
            None => match stop.run_until_cancelled(queue.recv()).await {
                Some(Some(call)) => call,
                _ => return Ok(()),
            },
        };
        let mut count = first.records.len();
        let mut calls = vec![first];
        while count < MAX_REPORTS {
            let Ok(call) = queue.try_recv() else { break };
            if count + call.records.len() > MAX_REPORTS {
                left_over = Some(call);
                break;
            }
            count += call.records.len();
            calls.push(call);
        }
        commit(&store, &tail, &challenges, calls).await;
    }
}

async fn commit(store: &Store, tail: &TailHub, challenges: &Challenges, calls: Vec<Call>) {
    let records: Vec<ReportRecord> = calls
        .iter()
        .flat_map(|call| call.records.iter().cloned())
        .collect();
    metrics::histogram!("webhooks_report_batch")
        .record(f64::from(u32::try_from(records.len()).unwrap_or(u32::MAX)));
    let together = keep(store, challenges, &records).await;
    if together.is_ok() {
        tail.told(&records);
    }
    let alone = calls.len() > 1 && together.as_ref().is_err_and(|error| !error.is_retryable());
    let shared = Arc::new(outcome(together));
    for call in calls {
        let result = if alone {
            // Somebody's record is refused; find out whose, and let the others through.
            let stored = keep(store, challenges, &call.records).await;
            if stored.is_ok() {
                tail.told(&call.records);
            }
            outcome(stored)
        } else {
            (*shared).clone()
        };
        // The caller may have hung up; what was stored stays stored.
        drop(call.answer.send(result));
    }
}

fn outcome(result: Result<(), StoreError>) -> Result<(), ReportError> {
    match result {
        Ok(()) => Ok(()),
        Err(error) if error.is_retryable() => {
            tracing::warn!(error = error_chain(&error), "reports.waiting");
            Err(ReportError::Unavailable)
        }
        Err(error) => {
            tracing::error!(error = error_chain(&error), "reports.refused");
            Err(ReportError::Refused(error.to_string()))
        }
    }
}
